//! Rules of this repository that a program can check.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use hmm_harness::config::{Fragments, Profile};
use hmm_harness::plan::{read, resolve};
use hmm_harness::{embedded, stop};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} in {folder}");
    found
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for file in files("harness", "rs").into_iter().chain(files("guest-tests", "rs")) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} does not begin with //!", file.display());
    }
}

#[test]
fn pure_modules_touch_nothing() {
    let doors = [
        "std::fs",
        "std::env",
        "std::process",
        "std::time::Instant",
        "SystemTime",
        "tokio::",
        "crate::proc",
        "crate::git",
        "xshell",
    ];
    let modules = ["plan", "judge", "console", "bisect", "compare", "trace"];
    let mut pure: Vec<_> =
        modules.iter().flat_map(|module| files(&format!("harness/src/{module}"), "rs")).collect();
    pure.push(root().join("harness/src/baseline.rs"));
    for file in pure {
        let text = fs::read_to_string(&file).unwrap();
        let product = text.split("#[cfg(test)]\nmod ").next().unwrap();
        for door in doors {
            let allowed = file.ends_with("judge/tests.rs");
            assert!(allowed || !product.contains(door), "{} uses {door}", file.display());
        }
    }
}

#[test]
fn profiles_and_fragments_are_well_formed() {
    let fragments = Fragments::of(embedded::files());
    assert!(fragments.profiles().contains(&"default"));
    for name in fragments.profiles() {
        Profile::load(&fragments, name).unwrap_or_else(|stop| panic!("{stop}"));
    }
}

#[test]
fn plans_are_well_formed_and_their_patches_exist() {
    let fragments = Fragments::of(embedded::files());
    let mut plans = files("ci/plans", "yaml");
    plans.extend(files("ci/mutants", "yaml"));
    for file in plans {
        let text = fs::read_to_string(&file).unwrap();
        let mut problems = Vec::new();
        let wishes = read(&file, &text, &root(), &mut problems);
        let plan = resolve(wishes, &fragments.profiles());
        problems.extend(plan.as_ref().err().into_iter().flatten().cloned());
        assert!(problems.is_empty(), "{problems:#?}");
        let plan = plan.unwrap();
        for patch in &plan.series {
            assert!(patch.exists(), "{}: {}", file.display(), patch.display());
        }
        for id in plan.expect.iter().flat_map(|e| e.verdicts.keys()) {
            assert!(plan.tests.contains(id), "{}: {id} is not planned", file.display());
        }
    }
}

#[test]
fn every_patch_says_its_licence_and_is_used() {
    let plans: String =
        files("ci", "yaml").iter().map(|f| fs::read_to_string(f).unwrap()).collect();
    for patch in files("ci", "patch") {
        let text = fs::read_to_string(&patch).unwrap();
        assert!(text.contains("SPDX-License-Identifier: GPL-2.0"), "{}", patch.display());
        let name = patch.file_name().unwrap().to_string_lossy().into_owned();
        let folder = patch.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let used = plans.contains(&name) || plans.contains(&format!("/{folder}\n"));
        assert!(used, "no plan uses {}", patch.display());
    }
}

#[test]
fn the_readme_tells_the_exit_codes() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let told: Vec<u8> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(
        told,
        [
            stop::AS_EXPECTED,
            stop::NOT_AS_EXPECTED,
            stop::NOT_JUDGEABLE,
            stop::USAGE,
            stop::FAULT,
            stop::INTERRUPTED
        ]
    );
}

#[test]
fn the_architecture_names_every_module_and_no_other() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let library = fs::read_to_string(root().join("harness/src/lib.rs")).unwrap();
    let modules: Vec<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert!(modules.len() > 20);
    for module in &modules {
        assert!(text.contains(&format!("`{module}`")), "ARCHITECTURE.md does not name {module}");
    }
    let table = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    for named in table {
        assert!(modules.contains(&named), "ARCHITECTURE.md names {named}, which is no module");
    }
}
