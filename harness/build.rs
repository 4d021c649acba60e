//! Builds what runs in the guest, statically, and embeds it with the kernel
//! configurations, the images and the plans, so that every binary of the
//! harness carries all it needs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The files and folders of the workspace that are embedded under their paths.
const EMBEDDED: [&str; 4] = [
    "kernel-configs",
    "images",
    "ci/known-issues.yaml",
    // The bug that `torture` plants.
    "ci/series/negative/clear-event.patch",
];

/// The binaries of the guest package.
const GUEST_BINARIES: [&str; 2] = ["hmm-agent", "hmm-tests"];

/// An explicit target keeps `crt-static` away from build scripts and procedural
/// macros, which cannot be static.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = here.parent().expect("the package lies in the workspace").to_owned();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));

    let mut files = String::from("&[\n");
    for embedded in EMBEDDED {
        println!("cargo::rerun-if-changed={}", workspace.join(embedded).display());
        for file in files_of(&workspace.join(embedded)) {
            let name = file.strip_prefix(&workspace).expect("it was found below").display();
            writeln!(files, "    ({:?}, include_bytes!({file:?})),", name.to_string())
                .expect("writing to a string");
        }
    }
    files.push(']');
    fs::write(out.join("files.rs"), files).expect("OUT_DIR is writable");

    for watched in ["guest-tests", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(watched).display());
    }
    let target_dir = out.join("guest");
    build_guest(&workspace, &target_dir);
    for binary in GUEST_BINARIES {
        let built = target_dir.join(TARGET).join("guest").join(binary);
        fs::copy(&built, out.join(binary)).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
    }
}

#[expect(clippy::disallowed_methods, reason = "a build script has no door to go through")]
fn build_guest(workspace: &Path, target_dir: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    cargo
        .current_dir(workspace)
        .args(["build", "--quiet", "--package", "guest-tests", "--profile", "guest"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    // The outer build's flags and wrappers are for the host's binaries.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_CFG_") || name == "CARGO_MAKEFLAGS" {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().expect("cargo runs, since it runs this");
    assert!(status.success(), "the guest's binaries do not build: {status}");
}

/// A file, or every file below a folder, sorted.
fn files_of(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut found: Vec<PathBuf> = entries
        .flat_map(|entry| files_of(&entry.expect("the folder can be read").path()))
        .collect();
    found.sort();
    found
}
