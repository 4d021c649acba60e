//! Rules of this repository that a program can check.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hmm_harness::config::{Fragments, Profile};
use hmm_harness::plan::{read, resolve};
use hmm_harness::{embedded, stop};
use regex::Regex;

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
    let modules = ["plan", "judge", "console", "bisect", "compare", "results", "trace"];
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

/// What each module of the library uses of the others, its tests left out.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let library = fs::read_to_string(root().join("harness/src/lib.rs")).unwrap();
    let name = |line: &str| {
        let module = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        module.strip_suffix(';').map(str::to_owned)
    };
    let modules: BTreeSet<String> = library.lines().filter_map(name).collect();
    let path = Regex::new(r"crate::(\w+)").unwrap();
    let several = Regex::new(r"crate::\{([^;]*)\};").unwrap();
    let nested = Regex::new(r"::(\{[^}]*\}|\w+)").unwrap();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files("harness/src", "rs") {
        let inside = file.strip_prefix(root().join("harness/src")).unwrap();
        let module = inside.iter().next().unwrap().to_string_lossy();
        let module = module.trim_end_matches(".rs").to_owned();
        let of_tests = ["tests.rs", "story.rs"].iter().any(|name| file.ends_with(name));
        if of_tests || !modules.contains(&module) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let product = product.split("#[cfg(test)]\npub(crate) mod tests").next().unwrap();
        let code: Vec<&str> =
            product.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        let of = uses.entry(module.clone()).or_default();
        of.extend(path.captures_iter(&code).map(|found| found[1].to_owned()));
        for found in several.captures_iter(&code) {
            let names = nested.replace_all(&found[1], "");
            of.extend(names.split(',').map(|name| name.trim().to_owned()));
        }
        of.retain(|used| modules.contains(used) && *used != module);
    }
    assert_eq!(uses.len(), modules.len());
    uses
}

#[test]
fn no_module_uses_one_that_uses_it() {
    let mut left = uses();
    assert!(left["judge"].contains("compare") && left["compare"].contains("results"));
    loop {
        let done: Vec<String> =
            left.iter().filter(|(_, of)| of.is_empty()).map(|(name, _)| name.clone()).collect();
        if done.is_empty() {
            break;
        }
        for name in &done {
            left.remove(name);
            left.values_mut().for_each(|of| of.retain(|used| used != name));
        }
    }
    assert!(left.is_empty(), "these use each other, or what does: {left:#?}");
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
