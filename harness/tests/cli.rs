//! The command line run wrongly on purpose, and what it prints when it is asked
//! what it can do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// An empty home with the harness in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the user's side of the door")]
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hmm-harness"));
        command
            .args(words)
            .current_dir(self.path())
            .env("HOME", self.path())
            .env("COLUMNS", "100")
            .env("HMM_HARNESS_CACHE", self.path().join("cache"))
            .env("HMM_HARNESS_RUNS", self.path().join("runs"))
            .env_remove("CARGO")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Ended {
        self.command(words).output().unwrap().into()
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Ended {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} in:\n{}", self.err);
        }
        self
    }

    #[track_caller]
    fn with(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.err);
        self
    }
}

#[test]
fn a_store_can_be_listed_pruned_and_verified() {
    let home = Home::new();
    let kernel = home.path().join("cache/kernels/0123456789abcdef");
    fs::create_dir_all(&kernel).unwrap();
    fs::write(kernel.join("vmlinux"), vec![1; 1 << 20]).unwrap();
    let listed = home.run(&["cache", "list"]);
    listed.with(0);
    for word in ["kernel   0123456789ab", "MiB", "of at most 20.0 GiB"] {
        assert!(listed.out.contains(word), "{word:?} in:\n{}", listed.out);
    }
    let verified = home.run(&["cache", "verify"]);
    assert_eq!(verified.code, Some(129));
    assert!(verified.out.contains("it does not say which kernel it is"), "{}", verified.out);
    let bounded =
        home.command(&["cache", "prune"]).env("HMM_HARNESS_CACHE_SIZE", "500KiB").output();
    let bounded = Ended::from(bounded.unwrap());
    bounded.with(0);
    assert!(bounded.out.starts_with("removed 1 entry of 1.0 MiB, "), "{}", bounded.out);
    assert!(!kernel.exists());
    home.run(&["cache", "verify"]).with(0);
    home.run(&["cache", "prune", "--to", "much"]).with(128).says(&["much", "--to"]);
    let nonsense = home.command(&["doctor"]).env("HMM_HARNESS_CACHE_SIZE", "much").output();
    Ended::from(nonsense.unwrap()).with(128).says(&["HMM_HARNESS_CACHE_SIZE", "20GiB"]);
}

#[test]
fn what_makes_no_sense_is_128_and_says_what_would() {
    let home = Home::new();
    home.run(&["run-kernel-tests", "--kernal", "x"]).with(128).says(&["--kernal", "--kernel"]);
    home.run(&["run-kernel-test"]).with(128).says(&["run-kernel-tests"]);
    home.run(&[]).with(128).says(&["Usage"]);
    home.run(&["run-kernel-tests", "--until", "lunch"]).with(128).says(&["source, series"]);
    home.run(&["run-kernel-tests", "--test", "hmm.migrat"])
        .with(128)
        .says(&["hmm.migrat", "hmm.migrate_fault"]);
    home.run(&["run-kernel-tests", "--filter", "x*"]).with(128).says(&[
        "--filter",
        "x*",
        "hmm.anon_read",
    ]);
    home.run(&["run-kernel-tests", "--filter", ""]).with(128).says(&["--filter"]);
    home.run(&["run-kernel-tests", "--kernel", "svn:x"]).with(128).says(&["svn:", "git:PATH"]);
    home.run(&["run-kernel-tests", "--kernel", "dir:nowhere"]).with(128).says(&["nowhere"]);
    home.run(&["run-kernel-tests", "--kernel", "dir:."]).with(128).says(&["Makefile"]);
    home.run(&["run-kernel-tests", "--kernel", "git:."]).with(128).says(&["git"]);
    home.run(&["run-kernel-tests", "--series", "none.patch"]).with(128).says(&["none.patch"]);
    home.run(&["run-kernel-tests", "--plan", "none.yaml"]).with(128).says(&["none.yaml"]);
    home.run(&["run-kernel-tests", "--profile", "fast"]).with(128).says(&["fast", "default"]);
    home.run(&["judge", "yesterday"]).with(128).says(&["yesterday"]);
    assert!(!home.path().join("runs").exists(), "a run was begun");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the shell must take what is made for it")]
fn shells_take_their_completions_and_hidden_options_are_in_none() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(&["completions", shell]);
        script.with(0);
        for word in ["run-kernel-tests", "no-snapshot", "completions"] {
            assert!(script.out.contains(word), "{word} in that for {shell}");
        }
        assert!(!script.out.contains("torture-agent-after"), "{shell}");
        if shell == "bash" {
            fs::write(home.path().join("completions"), script.out).unwrap();
            let mut bash = Command::new("bash");
            bash.args(["-n", "completions"]).current_dir(home.path());
            assert!(bash.status().unwrap().success());
        }
    }
    home.run(&["completions", "csh"]).with(128).says(&["csh", "bash"]);
}

#[test]
fn a_command_that_cannot_be_run_is_a_usage_error() {
    let home = Home::new();
    home.run(&["shell", "true"]).with(128).says(&["unexpected argument 'true'", "-- <CMD>"]);
    home.run(&["shell", "--kernel", "svn:x", "--", "true"]).with(128).says(&["svn:", "git:PATH"]);
    let long = "x".repeat(100_000);
    home.run(&["shell", "--", &long, &long, &long]).with(128).says(&["CMD", "standard input"]);
}

#[test]
fn all_that_is_wrong_with_a_plan_is_told_at_once() {
    let home = Home::new();
    fs::write(home.path().join("p.yaml"), "kernel: dir:nowhere\nserie: a\n\ntest: hmm.nothing\n")
        .unwrap();
    home.run(&[
        "run-kernel-tests",
        "--plan",
        "p.yaml",
        "--profile",
        "fast",
        "--json",
        "no/where.json",
    ])
    .with(128)
    .says(&[
        "p.yaml:2:1: unknown key `serie`",
        "hmm.nothing",
        "nowhere",
        "fast",
        "no is not a directory",
    ]);
}

#[test]
fn a_directory_of_somebody_else_is_not_taken() {
    let home = Home::new();
    fs::create_dir(home.path().join("thesis")).unwrap();
    fs::write(home.path().join("thesis/chapter1"), "words").unwrap();
    home.run(&["run-kernel-tests", "--out", "thesis"]).with(128).says(&["--out", "thesis"]);
    assert_eq!(fs::read_to_string(home.path().join("thesis/chapter1")).unwrap(), "words");
}

#[test]
fn a_patch_that_is_not_there_is_not_passed_over() {
    let home = Home::new();
    let dir = home.path().join("series");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("0001.patch"), "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n").unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.join("0002.patch")).unwrap();
    home.run(&["run-kernel-tests", "--dry-run", "--series", "series"])
        .with(128)
        .says(&["series", "No such file"]);
}

#[test]
fn a_dry_run_prints_a_plan_that_can_be_given_back() {
    let home = Home::new();
    let first =
        home.run(&["run-kernel-tests", "--dry-run", "--test", "hmm.migrate", "--seed", "3"]);
    first.with(0);
    fs::write(home.path().join("again.yaml"), &first.out).unwrap();
    let second = home.run(&["run-kernel-tests", "--dry-run", "--plan", "again.yaml"]);
    second.with(0);
    assert_eq!(first.out, second.out);
    assert!(first.out.contains("hmm.migrate.coherent"));
    assert!(!home.path().join("runs").exists());
}

#[test]
fn list_names_every_test() {
    let home = Home::new();
    let listed = home.run(&["list"]);
    listed.with(0);
    assert_eq!(listed.out.lines().count(), 1 + 60);
    assert_eq!(home.run(&["list", "--filter", "hmm2.*"]).out.lines().count(), 1 + 6);
}

#[test]
fn a_machine_without_programs_is_129_with_the_command_that_mends_it() {
    let home = Home::new();
    let ended: Ended =
        home.command(&["run-kernel-tests"]).env("PATH", home.path()).output().unwrap().into();
    assert_eq!(ended.code, Some(129), "{}", ended.err);
    assert!(
        ended.out.contains("qemu-system-x86") || ended.err.contains("qemu-system-x86"),
        "{ended:?}"
    );
    assert!(ended.out.contains("hint: "), "{}", ended.out);
    // Every code but 128 leaves results.
    let results = fs::read_to_string(home.path().join("runs/latest/results.json")).unwrap();
    assert!(results.contains("\"outcome\": \"fault\""), "{results}");
    let page = fs::read_to_string(home.path().join("runs/latest/report.html")).unwrap();
    assert!(page.contains("What went wrong") && page.contains("qemu-system-x86"), "{page}");
    let doctor: Ended = home.command(&["doctor"]).env("PATH", home.path()).output().unwrap().into();
    assert_eq!(doctor.code, Some(129));
    assert!(doctor.out.contains("MISSING"), "{}", doctor.out);
}

#[test]
fn judging_again_says_the_same() {
    let home = Home::new();
    let first: Ended =
        home.command(&["run-kernel-tests"]).env("PATH", home.path()).output().unwrap().into();
    let results = || fs::read_to_string(home.path().join("runs/latest/results.json")).unwrap();
    let before = results();
    let again = home.run(&["judge"]);
    assert_eq!((again.code, &again.out), (first.code, &first.out));
    assert_eq!(results(), before);
}

/// A home with two runs in it; in the second the kernel forgot a callback.
fn home_with_runs() -> Home {
    let home = Home::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/run");
    for run in ["runs/first", "runs/second"] {
        for folder in ["", "trace"] {
            let (from, to) = (golden.join(folder), home.path().join(run).join(folder));
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(&from).unwrap().map(Result::unwrap) {
                if entry.path().is_file() {
                    fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
            }
        }
    }
    let canonical = home.path().join("runs/second/trace/hmm.migrate.private.canonical");
    let text = fs::read_to_string(&canonical).unwrap();
    fs::write(&canonical, text.replacen("    callback dmirror0\n", "", 1)).unwrap();
    home
}

#[test]
fn a_saved_run_is_shown() {
    let home = home_with_runs();
    let shown = |words: &[&str], parts: &[&str]| {
        let ended = home.run(&[&["show", "first"], words].concat());
        ended.with(0);
        for part in parts {
            assert!(ended.out.contains(part), "{part} in\n{}", ended.out);
        }
        assert!(!ended.out.contains('\u{1b}'), "{}", ended.out);
    };
    shown(
        &[],
        &[
            "passed    hmm.migrate.private      0.1 s  47 events\n",
            "failed    hmm.migrate.coherent     0.1 s  45 events, 2 lost, 1 broken rule\n",
            "not run   hmm.exclusive.private    0.0 s  no trace\n",
            "console.log:120: WARNING",
            "1 passed, 1 failed, 0 skipped\n",
        ],
    );
    shown(
        &["--test", "hmm.migrate"],
        &[
            "hmm.migrate.private: passed\n",
            "hmm.migrate.coherent: failed, which is not as expected\n",
            "checks   data ok, trace BAD, console BAD, taint ok\n",
            "! rule callbacks, step 4 to-device dmirror0 buffer[0..4):\n",
            "dmirror_fault (lib/test_hmm.c:42)\n",
            "trace/hmm.migrate.private.canonical\n",
        ],
    );
    shown(
        &["--test", "hmm.migrate.coherent", "--trace"],
        &[
            "    0.003 s  to-device dmirror0 buffer[0..4)\n               ! rule callbacks: MIGRATE",
            "\n               ! MIGRATE buffer[0..4) owner dmirror0\n                 collect\n",
            "\n7 steps, 45 rows, of which 4 about other memory are left out",
        ],
    );
}

#[test]
fn the_page_of_a_saved_run_is_written_again() {
    let home = home_with_runs();
    let page = home.path().join("runs/first/report.html");
    let ended = home.run(&["report", "first"]);
    assert_eq!(ended.with(0).out, format!("{}\n", page.canonicalize().unwrap().display()));
    let text = fs::read_to_string(&page).unwrap();
    for part in [
        "<a href=\"#hmm.migrate.coherent\">",
        "rule <b>callbacks</b>, step 4 to-device dmirror0 buffer[0..4)",
        "dmirror_fault (lib/test_hmm.c:42)",
        "hmm-harness run-kernel-tests --plan",
        "45 events captured, 2 lost",
        "since 6.19",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    fs::remove_file(&page).unwrap();
    fs::create_dir(&page).unwrap();
    home.run(&["report", "first"]).with(129).says(&["cannot write", "report.html"]);
    home.run(&["report", "third"]).with(128).says(&["there is no run \"third\""]);
    fs::remove_file(home.path().join("runs/second/results.json")).unwrap();
    home.run(&["report", "second"]).with(128).says(&["results.json", "hint: hmm-harness judge"]);
    fs::write(home.path().join("runs/second/bisect.html"), "").unwrap();
    home.run(&["report", "second"]).with(128).says(&["is a bisect", "bisect.html"]);
}

#[test]
fn a_baseline_is_what_a_run_has_shown() {
    let home = home_with_runs();
    let results = home.path().join("runs/first/results.json");
    let text = fs::read_to_string(&results).unwrap();
    home.run(&["baseline", "update", "b.yaml", "first"]).with(128).says(&["had no turn"]);
    // As it would be had all of its tests had one.
    let write = |text: &str| fs::write(&results, text).unwrap();
    let ran = text.replace("\"verdict\": \"not_run\"", "\"verdict\": \"skipped\"");
    for turns in
        ["\"flaky\": true", "\"flaky\": false, \"other_turns\": [{\"verdict\": \"failed\"}]"]
    {
        write(&ran.replacen("\"flaky\": false", turns, 1));
        home.run(&["baseline", "update", "b.yaml", "first"]).with(128).says(&["were alike"]);
    }
    write(&ran.replace("\"exit_code\": 1", "\"exit_code\": 125"));
    home.run(&["baseline", "update", "b.yaml", "first"]).with(128).says(&["no verdicts"]);
    write(&ran);
    let made = home.run(&["baseline", "update", "b.yaml", "first"]);
    made.with(0);
    assert!(made.out.starts_with("--- /dev/null\n+++ b.yaml\n"), "{}", made.out);
    let baseline = home.path().join("b.yaml");
    let known = fs::read_to_string(&baseline).unwrap();
    home.run(&["baseline", "update", "b.yaml", "first"]).with(0).says(&["is as the run is"]);
    home.run(&["compare", "b.yaml", "first"]).with(0);

    fs::write(&baseline, known.replacen("verdict: failed", "verdict: passed", 1)).unwrap();
    let worse = home.run(&["compare", "b.yaml", "first", "--format", "mail"]);
    worse.with(1);
    assert!(worse.out.contains("passed -> failed"), "{}", worse.out);
    let told = home.run(&["baseline", "update", "b.yaml", "first"]);
    told.with(0);
    assert!(told.out.contains("-    verdict: passed\n+    verdict: failed\n"), "{}", told.out);
    assert_eq!(fs::read_to_string(&baseline).unwrap(), known);
}

#[test]
fn a_baseline_that_is_none_is_128_and_says_why() {
    let home = Home::new();
    let path = |name: &str| home.path().join(name);
    let run = |more: &[&str]| {
        let words = ["run-kernel-tests", "--dry-run", "--baseline"];
        let ended = home.run(&words.iter().chain(more).copied().collect::<Vec<_>>());
        ended.with(128);
        ended
    };
    run(&["b.yaml"]).says(&["b.yaml", "No such file", "hint: hmm-harness baseline update"]);
    run(&["/dev/zero"]).says(&["/dev/zero"]);
    fs::write(path("b.yaml"), "schema: hmm-harness/baseline/1\ntests: []\n").unwrap();
    run(&["b.yaml"]).says(&["b.yaml", "tests"]);
    fs::write(path("b.yaml"), "schema: hmm-harness/baseline/1\ntests: {}\n").unwrap();
    run(&["b.yaml", "--until", "build"]).says(&["--baseline", "hint: leave --until out"]);
    fs::write(path("p.yaml"), "allow: ['CLEAR -> MIGRATE']\n").unwrap();
    run(&["b.yaml", "--plan", "p.yaml"]).says(&["p.yaml:1:1", "to-device"]);
    fs::write(path("p.yaml"), "expect: {exit_code: 1}\n").unwrap();
    run(&["b.yaml", "--plan", "p.yaml"]).says(&["expect"]);
    fs::write(path("p.yaml"), "allow: [to-device]\n").unwrap();
    home.run(&["run-kernel-tests", "--dry-run", "--plan", "p.yaml"])
        .with(128)
        .says(&["allow", "baseline: FILE"]);
}

#[test]
fn what_cannot_be_shown_is_128_and_says_why() {
    let home = home_with_runs();
    home.run(&["show"]).with(128).says(&["there is no run \"latest\""]);
    home.run(&["show", "first", "--trace"]).with(128).says(&["--test"]);
    home.run(&["show", "first", "--test", "hmm.migrat"]).with(128).says(&["hmm.migrate.private"]);
    home.run(&["show", "first", "--test", "hmm.benchmark_thp_migration.private"])
        .with(128)
        .says(&["does not apply", "since 6.19"]);
    home.run(&["show", "first", "--test", "hmm.exclusive.private", "--trace"])
        .with(128)
        .says(&["has no trace", "never ran"]);
    home.run(&["show", "first", "--test", "hmm.migrate.private@3", "--trace"])
        .with(128)
        .says(&["hmm.migrate.private@3.jsonl", "had 1 turn"]);
    home.run(&["show", "--diff", "first", "third", "--test", "hmm.migrate"])
        .with(128)
        .says(&["RUN2", "third"]);
    home.run(&["show", "--diff", "first", "second", "--test", "hmm.migrate.coherent"])
        .with(128)
        .says(&["--diff", "not whole", "--trace"]);
    home.run(&["show", "first", "--perfetto", "no/where"]).with(128).says(&["--perfetto"]);
    home.run(&["show", "first", "--perfetto", "runs/first/results.json"])
        .with(128)
        .says(&["where the run keeps its own"]);
    home.run(&["run-kernel-tests", "--perfetto", "no/where"]).with(128).says(&["--perfetto"]);
    fs::remove_file(home.path().join("runs/first/results.json")).unwrap();
    home.run(&["show", "first"]).with(128).says(&["results.json", "hint: hmm-harness judge"]);
}

#[test]
fn two_traces_are_compared_operation_by_operation() {
    let home = home_with_runs();
    let diff = |a, b| home.run(&["show", "--diff", a, b, "--test", "hmm.migrate.private"]);
    let same = diff("first", "first");
    same.with(0);
    assert!(same.out.contains("equal: all 7 steps\n"), "{}", same.out);
    let other = diff("first", "second");
    other.with(1);
    for part in [
        "= 3 equal steps: open dmirror0 to map buffer[0..4) private\n",
        "      callback dmirror0                       <\n",
        "= 3 equal steps: cpu-read buffer[0..4) to exit\n",
        "1 of 7 steps differ: to-device\n",
    ] {
        assert!(other.out.contains(part), "{part} in\n{}", other.out);
    }
}

#[test]
fn traces_are_written_for_a_viewer() {
    let home = home_with_runs();
    home.run(&["show", "first", "--perfetto", "all.json"]).with(0).says(&["2 traces in"]);
    home.run(&["show", "first", "--test", "hmm.migrate.private", "--perfetto", "one.json"])
        .with(0)
        .says(&["1 trace in"]);
    let processes = |name: &str| {
        let text = fs::read_to_string(home.path().join(name)).unwrap();
        let file: serde_json::Value = serde_json::from_str(&text).unwrap();
        let events = file["traceEvents"].as_array().unwrap();
        events.iter().filter(|event| event["name"] == "process_name").count()
    };
    assert_eq!((processes("all.json"), processes("one.json")), (2, 1));
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let home = home_with_runs();
    for words in
        [&["show", "first"][..], &["show", "first", "--test", "hmm.migrate.private", "--trace"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended: Ended = home.command(words).stdout(writer).output().unwrap().into();
        ended.with(0);
        assert_eq!(ended.err, "");
    }
}

#[test]
fn help_is_what_is_recorded() {
    let home = Home::new();
    let mut text = home.run(&["--help"]).out;
    for command in [
        "run-kernel-tests",
        "bisect",
        "shell",
        "list",
        "judge",
        "show",
        "report",
        "compare",
        "baseline update",
        "debug",
        "doctor",
        "check",
        "torture",
        "completions",
    ] {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        text.push_str(&format!("\n---- {command}\n{}", home.run(&words).out));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&golden).unwrap(), "run with UPDATE_GOLDEN=1 and review");
}
