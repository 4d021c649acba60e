//! What we write as others read it: JUnit by junitparser, KTAP by the kernel's own
//! kunit.py, KCIDB by the package that publishes its schema, and the recipes by the
//! schemas of those whose CI they are for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::baseline::Baseline;
use crate::commands::run_kernel_tests::{Permissions, carry_out, prepare};
use crate::compare::{Side, compare};
use crate::context::{Context, Session};
use crate::git::{Git, TreeId};
use crate::judge::outcome_of;
use crate::packages::{self, Missing};
use crate::plan::Wishes;
use crate::proc::Cmd;
use crate::report::{self, Copies, Kcidb};
use crate::results::{KernelEvent, Results, Verdict};
use crate::stop::{self, Stop};
use crate::store::digest;

/// What the step is called.
pub(super) const NAME: &str = "junitparser, kunit.py and kcidb-io read the results";

/// Where our part of it is, in the checkout.
const DIR: &str = "ci/consumers";

/// The parser of KTAP, in a kernel's tree.
const KUNIT: &str = "tools/testing/kunit";

/// The recipes of CI systems that publish a schema, and what it is called.
const RECIPES: [(&str, &str); 2] = [
    ("vendor.github-workflows", "ci/recipes/github-actions.yml"),
    ("vendor.gitlab-ci", "ci/recipes/gitlab-ci.yml"),
];

/// A kernel with a bug, and the tests that show it.
const BUG: &str = "ci/series/negative/clear-event.patch";
const SHOWN_BY: &str = "hmm.migrate_fault";

/// How many cases of each kind somebody has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    good: usize,
    bad: usize,
    excused: usize,
}

/// What was counted in each file.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counted {
    junit: Counts,
    ktap: Counts,
    kcidb: Counts,
}

/// Has a good run, a bad one, and one whose guest says what it can to be taken for
/// another read by those programs, and says what is wrong with what they found.
/// `clean` is the directory of the good one.
///
/// # Errors
/// When the programs cannot be had, or the user stops us.
pub(super) async fn run(
    session: &Session,
    ctx: &Context,
    clean: &Path,
    permissions: Permissions,
    checkout: &Path,
) -> Result<Option<String>, Stop> {
    let good = report::read(clean)?;
    let python = match python(ctx, permissions.yes, checkout).await? {
        Ok(python) => python,
        Err(wrong) => return Ok(Some(wrong)),
    };
    for (schema, recipe) in RECIPES {
        let lint = Cmd::new(python.with_file_name("check-jsonschema"))
            .args(["--builtin-schema", schema])
            .arg(checkout.join(recipe));
        let ended = lint.run(&ctx.interrupt, |_| ()).await?;
        if !ended.success() {
            return Ok(Some(format!("{recipe}: {}", ended.tail.join("\n"))));
        }
    }
    let work = tempfile::tempdir().context("make a temporary directory")?;
    kunit(ctx, &good, work.path())?;
    let wishes = Wishes {
        series: vec![checkout.join(BUG)],
        tests: vec![SHOWN_BY.into()],
        ..Wishes::default()
    };
    let (bad, dir) =
        carry_out(session, &prepare(wishes, None, checkout)?, permissions, checkout).await?;
    session.interrupt.check()?;
    let hostile = hostile(&bad, checkout)?;
    let held = held(&good);
    for (name, results, dir) in [
        ("good", &good, clean),
        ("bad", &bad, &*dir),
        ("hostile", &hostile, &*dir),
        ("held", &held, clean),
    ] {
        if (name == "good") != (results.exit_code == 0) {
            return Ok(Some(format!("the {name} run: exit code {}", results.exit_code)));
        }
        let copies = Copies {
            junit: Some(work.path().join("junit.xml")),
            ktap: Some(work.path().join("results.ktap")),
            kcidb: Some(Kcidb { path: work.path().join("kcidb.json"), origin: "check".into() }),
            ..Copies::default()
        };
        report::write_copies(results, dir, &copies)?;
        let ended = Cmd::new(&python)
            .arg(checkout.join(DIR).join("read.py"))
            .args([work.path().join(KUNIT), work.path().join("junit.xml")])
            .args([work.path().join("results.ktap"), work.path().join("kcidb.json")])
            .run(&ctx.interrupt, |_| ())
            .await?;
        let said = ended.tail.join("\n");
        let counted = serde_json::from_str::<Counted>(said.trim());
        match counted.ok().filter(|_| ended.success()) {
            Some(counted) if counted == expected(results) => {}
            Some(counted) => {
                let expected = expected(results);
                return Ok(Some(format!("the {name} run: {counted:?}, and not {expected:?}")));
            }
            None => return Ok(Some(format!("the {name} run: {said}"))),
        }
    }
    Ok(None)
}

/// What is in the files of a run that was judged. A known issue is no failure but to
/// KCIDB, which is told what was seen; and KTAP's `ok` with XFAIL is good.
fn expected(results: &Results) -> Counted {
    let of = |verdict: Verdict| results.tests.iter().filter(|t| t.verdict == verdict).count();
    let complaints = usize::from(!results.kernel_events.is_empty());
    // Those of the run that is held against a baseline are in it.
    let known = if results.baseline.is_some() { complaints } else { 0 };
    let loose_ends = usize::from(!results.loose_ends.is_empty());
    let (passed, skipped) = (of(Verdict::Passed), of(Verdict::Skipped));
    let all = results.tests.len();
    let as_expected = results.tests.iter().filter(|test| test.as_expected).count();
    let bad = all - as_expected + complaints - known + loose_ends;
    let good = results.tests.iter().filter(|t| t.as_expected && t.verdict == Verdict::Passed);
    let good = good.count();
    let bad_to_kcidb = all - passed - skipped + complaints + loose_ends;
    Counted {
        junit: Counts { good, bad, excused: as_expected - good + known },
        ktap: Counts { good: as_expected + known, bad, excused: 0 },
        kcidb: Counts { good: passed, bad: bad_to_kcidb, excused: skipped },
    }
}

/// The results of a run that is as its baseline, a complaint outside of all tests
/// included, but for a guest that reset itself at the end.
fn held(good: &Results) -> Results {
    let mut results = good.clone();
    let (id, class, title) = ("warn".into(), "warn".into(), "WARNING at mm/x.c:1 in f".into());
    results.kernel_events = vec![KernelEvent { id, class, title, line: 1, trace: Vec::new() }];
    let baseline = Baseline::of(&results);
    results.loose_ends = vec!["the VM is over: guest-reset".into()];
    results.reason = results.loose_ends.first().cloned();
    results.baseline =
        Some(compare(&Side::baseline(&baseline), &Side::run(&results, BTreeMap::new())));
    results.exit_code = stop::NOT_AS_EXPECTED;
    results.outcome = outcome_of(results.exit_code);
    results
}

/// The results of a run in which the guest says what is in `hostile.json`.
fn hostile(bad: &Results, checkout: &Path) -> Result<Results, Stop> {
    let file = Path::new(DIR).join("hostile.json");
    let text =
        fs::read_to_string(checkout.join(&file)).with_context(|| file.display().to_string())?;
    let texts: Vec<String> =
        serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let mut results = bad.clone();
    let one = bad.tests.first().context("the bad run has tests")?;
    results.tests.clear();
    for (n, text) in texts.iter().enumerate() {
        let mut test = one.clone();
        test.id = format!("hmm.hostile_{n}.private");
        (test.verdict, test.as_expected) = (Verdict::Crashed, n % 3 == 0);
        test.known_issue = test.as_expected.then(|| "a".into());
        test.reason.clone_from(text);
        let (id, class) = ("warn".to_owned(), "warn".to_owned());
        let (title, trace) = (text.clone(), vec![text.clone()]);
        test.kernel_events = vec![KernelEvent { id, class, title, line: 1, trace }];
        results.kernel_events.extend(test.kernel_events.clone());
        results.tests.push(test);
    }
    results.exit_code = stop::NOT_AS_EXPECTED;
    results.outcome = outcome_of(results.exit_code);
    Ok(results)
}

/// A Python that has the packages, made anew when others are demanded.
async fn python(
    ctx: &Context,
    yes: bool,
    checkout: &Path,
) -> Result<Result<PathBuf, String>, Stop> {
    let requirements = checkout.join(DIR).join("requirements.txt");
    let text = fs::read(&requirements).with_context(|| requirements.display().to_string())?;
    let venv = checkout.join("target/consumers").join(&digest([text.as_slice()])[..20]);
    let (python, whole) = (venv.join("bin/python3"), venv.join("whole"));
    if whole.exists() {
        return Ok(Ok(python));
    }
    if packages::VENV.found().is_none() {
        packages::install(ctx, yes, &[Missing { need: packages::VENV }]).await?;
    }
    let make = Cmd::new("python3").args(["-m", "venv", "--clear"]).arg(&venv);
    let mut install = Cmd::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(&requirements);
    // Where the registry is, if not in its usual place.
    for (name, value) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PIP_") {
            install = install.env(name, value);
        }
    }
    for cmd in [make, install] {
        let ended = cmd.run(&ctx.interrupt, |_| ()).await?;
        if !ended.success() {
            return Ok(Err(format!("`{}`: {}", cmd.pasteable(), ended.tail.join("\n"))));
        }
    }
    fs::write(&whole, "").context("cannot write to target")?;
    Ok(Ok(python))
}

/// Puts the parser of the kernel that was tested into a directory.
fn kunit(ctx: &Context, results: &Results, dir: &Path) -> anyhow::Result<()> {
    let tree = TreeId(results.kernel.tree.clone());
    let said = Git::of(&ctx.store)?.ask(&["archive", &tree.0, KUNIT])?;
    ensure!(said.success, "{KUNIT} of {tree}: {}", said.complaints.join("; "));
    tar::Archive::new(said.out.as_slice()).unpack(dir).context(KUNIT)
}
