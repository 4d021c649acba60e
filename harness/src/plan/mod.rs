//! What is to be done: options and a plan file become one resolved [`Plan`].
//!
//! Options win over the file. Every mistake is told, all of them at once, with
//! where it stands. This module reads no file: the plan's text is given to it.

mod file;
mod select;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hmm_protocol::{Device, TestId, catalogue};
use serde::{Deserialize, Serialize};

use crate::compare::Allowed;
use crate::flow::Stage;
use crate::image::Rootfs;
use crate::machine::Accel;
use crate::results::Verdict;
use crate::series;
use crate::stop::Problem;

pub use file::read;
pub use select::matches_glob;

/// The source that is tested when none is named.
pub const DEFAULT_KERNEL: &str = "debian:linux-source-6.12";

/// The profile that is used when none is named.
const DEFAULT_PROFILE: &str = "default";

/// How long a test may take when nothing is said, before scaling.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that a test may take: the kernel's own limits are counted in
/// seconds, in 32 bits.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The most machines, turns or retries that make sense.
const MOST: u32 = 10_000;

/// What was asked for, by options or by a file: nothing is decided yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    /// `--kernel`.
    pub kernel: Option<String>,
    /// `--series`.
    pub series: Vec<PathBuf>,
    /// `--first`.
    pub first: Option<usize>,
    /// `--profile`.
    pub profile: Option<String>,
    /// `--rootfs`.
    pub rootfs: Option<Rootfs>,
    /// `--filter`.
    pub filter: Vec<String>,
    /// `--test`, and a plan's `tests`.
    pub tests: Vec<String>,
    /// `--device`.
    pub device: Option<Device>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--seed`.
    pub seed: Option<u64>,
    /// `--isolate`.
    pub isolate: Option<Isolate>,
    /// `--jobs`.
    pub jobs: Option<u32>,
    /// `--repeat`.
    pub repeat: Option<u32>,
    /// `--retry`.
    pub retry: Option<u32>,
    /// `--accel`.
    pub accel: Option<Accel>,
    /// `--no-snapshot`.
    pub no_snapshot: Option<bool>,
    /// `--trace`.
    pub trace: Option<Switch>,
    /// `--until`.
    pub until: Option<Stage>,
    /// `--baseline`.
    pub baseline: Option<PathBuf>,
    /// A plan's `allow`.
    pub allow: Option<Vec<Allowed>>,
    /// `--out`.
    pub out: Option<PathBuf>,
    /// `--json`.
    pub json: Option<PathBuf>,
    /// `--junit`.
    pub junit: Option<PathBuf>,
    /// `--ktap`.
    pub ktap: Option<PathBuf>,
    /// `--kcidb`.
    pub kcidb: Option<PathBuf>,
    /// `--kcidb-origin`.
    pub kcidb_origin: Option<String>,
    /// `--perfetto`.
    pub perfetto: Option<PathBuf>,
    /// A plan's `expect`.
    pub expect: Option<Expect>,
}

/// What tests share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Isolate {
    /// A kernel, until it complains; each has a process of its own.
    #[default]
    Process,
    /// Nothing: each has a VM of its own.
    Vm,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// It is, or there is no judgement.
    On,
    /// It is not.
    Off,
}

/// A plan that can be carried out. Written to the run directory as `plan.yaml`,
/// which is itself a plan file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The source, as it was given.
    pub kernel: String,
    /// The patches, in order, as absolute paths.
    pub series: Vec<PathBuf>,
    /// How many patches of the last series are taken; all, if nobody says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first: Option<usize>,
    /// The profile of the configuration.
    pub profile: String,
    /// The guest's root file system.
    pub rootfs: Rootfs,
    /// What the guest may run on.
    pub accel: Accel,
    /// What tests share.
    pub isolate: Isolate,
    /// How many VMs run tests at the same time; as many as the machine bears, if
    /// nobody says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub jobs: Option<u32>,
    /// How often each test has its turn.
    pub repeat: u32,
    /// How often a test that did not pass has another.
    pub retry: u32,
    /// Whether every VM boots, and none starts from a saved guest.
    pub no_snapshot: bool,
    /// Whether notifier events are captured: where nobody says, if the kernel can.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace: Option<Switch>,
    /// How long a test may take, before scaling.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Feeds what tests leave to chance.
    pub seed: u64,
    /// The last stage to be done.
    pub until: Stage,
    /// The ids of the tests; in this order they are reported.
    pub tests: Vec<String>,
    /// The baseline that the run is held against, as an absolute path.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub baseline: Option<PathBuf>,
    /// In which operations it may differ from it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub allow: Vec<Allowed>,
    /// How it must end, where the plan says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expect: Option<Expect>,
}

/// How a plan must end for its run to be as expected. Without it: every test
/// passed, and nothing else to complain about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The exit code that the run would have without this expectation.
    pub exit_code: u8,
    /// Verdicts by id; every test that is not named must have passed, where the
    /// kernel can be judged at all.
    #[serde(default)]
    pub verdicts: BTreeMap<String, Verdict>,
    /// Words that must stand in the reasons: of the run, or of a test.
    #[serde(default)]
    pub says: Vec<String>,
}

/// Makes a plan of wishes.
///
/// # Errors
/// Every problem they have.
pub fn resolve(wishes: Wishes, profiles: &[&str]) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let profile = wishes.profile.unwrap_or_else(|| DEFAULT_PROFILE.into());
    if !profiles.contains(&profile.as_str()) {
        problems.push(
            Problem::new("--profile", format!("there is no profile {profile:?}"))
                .hint(format!("the profiles are: {}", profiles.join(", "))),
        );
    }
    let tests = select::select(&wishes.tests, &wishes.filter, wishes.device, &mut problems);
    let until = wishes.until.unwrap_or(Stage::Run);
    if !Stage::STOPS.contains(&until) {
        let words: Vec<&str> = Stage::STOPS.iter().map(|s| s.as_str()).collect();
        problems.push(
            Problem::new("--until", format!("a run cannot stop after {until}"))
                .hint(format!("it can after: {}", words.join(", "))),
        );
    }
    for (option, value) in [("--jobs", wishes.jobs), ("--repeat", wishes.repeat)] {
        if value == Some(0) {
            problems.push(Problem::new(option, "it must be at least 1"));
        }
    }
    for (option, value) in
        [("--jobs", wishes.jobs), ("--repeat", wishes.repeat), ("--retry", wishes.retry)]
    {
        if value.is_some_and(|value| value > MOST) {
            problems.push(Problem::new(option, format!("it must be at most {MOST}")));
        }
    }
    if wishes.first.is_some() && wishes.series.is_empty() {
        problems.push(Problem::new("--first", "there is no series of which to take the first"));
    }
    if wishes.timeout.is_some_and(|timeout| timeout.is_zero()) {
        problems.push(Problem::new("--timeout", "no test ends in no time").hint("10s"));
    }
    if wishes.timeout.is_some_and(|timeout| timeout > LONGEST_TIMEOUT) {
        problems.push(Problem::new("--timeout", "it must be at most a day").hint("10m"));
    }
    if wishes.baseline.is_some() && wishes.expect.is_some() {
        let what = "the plan says by `expect` how the run must end, and a baseline says it too";
        problems.push(Problem::new("--baseline", what).hint("leave one of them out"));
    }
    if wishes.baseline.is_some() && until < Stage::Run {
        let what = format!("a run that stops after {until} shows nothing that it could be held to");
        problems.push(Problem::new("--baseline", what).hint("leave --until out"));
    }
    if wishes.baseline.is_none() && wishes.allow.is_some() {
        let what = "there is no baseline from which anything is allowed to differ";
        problems.push(Problem::new("allow", what).hint("say `baseline: FILE` in the plan too"));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Plan {
        kernel: wishes.kernel.unwrap_or_else(|| DEFAULT_KERNEL.into()),
        series: wishes.series,
        first: wishes.first,
        profile,
        rootfs: wishes.rootfs.unwrap_or_default(),
        accel: wishes.accel.unwrap_or_default(),
        isolate: wishes.isolate.unwrap_or_default(),
        jobs: wishes.jobs,
        repeat: wishes.repeat.unwrap_or(1),
        retry: wishes.retry.unwrap_or(0),
        no_snapshot: wishes.no_snapshot.unwrap_or(false),
        trace: wishes.trace,
        timeout: wishes.timeout.unwrap_or(DEFAULT_TIMEOUT),
        seed: wishes.seed.unwrap_or(1),
        until,
        tests: tests.iter().map(TestId::to_string).collect(),
        baseline: wishes.baseline,
        allow: wishes.allow.unwrap_or_default(),
        expect: wishes.expect,
    })
}

/// What `--series` names, wherever it is asked for: a path, or
/// `git:[PATH@]A..B` with the repository around `base` where it names none.
fn series_at(named: &Path, base: &Path) -> PathBuf {
    let Some(range) = named.to_str().and_then(|text| text.strip_prefix("git:")) else {
        return base.join(named);
    };
    let (path, range) = series::divide(range);
    format!("git:{}@{range}", base.join(path).display()).into()
}

impl Wishes {
    /// These wishes, and where they are silent, the other ones.
    #[must_use]
    pub fn over(self, other: Wishes, cwd: &Path) -> Wishes {
        let list =
            |mine: Vec<String>, theirs: Vec<String>| if mine.is_empty() { theirs } else { mine };
        let absolute =
            |paths: Vec<PathBuf>| paths.iter().map(|path| series_at(path, cwd)).collect();
        // A test that is asked for on the command line is not filtered by what
        // the file has chosen.
        let chosen_here = !self.tests.is_empty() || !self.filter.is_empty();
        let (other_tests, other_filter) =
            if chosen_here { Default::default() } else { (other.tests, other.filter) };
        Wishes {
            kernel: self.kernel.or(other.kernel),
            // What the plan takes of its last series says nothing of another one.
            first: self.first.or(other.first.filter(|_| self.series.is_empty())),
            series: if self.series.is_empty() { other.series } else { absolute(self.series) },
            profile: self.profile.or(other.profile),
            rootfs: self.rootfs.or(other.rootfs),
            filter: list(self.filter, other_filter),
            tests: list(self.tests, other_tests),
            device: self.device.or(other.device),
            timeout: self.timeout.or(other.timeout),
            seed: self.seed.or(other.seed),
            accel: self.accel.or(other.accel),
            isolate: self.isolate.or(other.isolate),
            jobs: self.jobs.or(other.jobs),
            repeat: self.repeat.or(other.repeat),
            retry: self.retry.or(other.retry),
            no_snapshot: self.no_snapshot.or(other.no_snapshot),
            trace: self.trace.or(other.trace),
            until: self.until.or(other.until),
            baseline: self.baseline.map(|p| cwd.join(p)).or(other.baseline),
            allow: self.allow.or(other.allow),
            out: self.out.map(|p| cwd.join(p)).or(other.out),
            json: self.json.map(|p| cwd.join(p)).or(other.json),
            junit: self.junit.map(|p| cwd.join(p)).or(other.junit),
            ktap: self.ktap.map(|p| cwd.join(p)).or(other.ktap),
            kcidb: self.kcidb.map(|p| cwd.join(p)).or(other.kcidb),
            kcidb_origin: self.kcidb_origin.or(other.kcidb_origin),
            perfetto: self.perfetto.map(|p| cwd.join(p)).or(other.perfetto),
            expect: self.expect.or(other.expect),
        }
    }
}

impl Plan {
    /// The planned tests.
    pub fn test_ids(&self) -> Vec<TestId> {
        let mut ids = catalogue::all();
        ids.retain(|id| self.tests.contains(&id.to_string()));
        ids
    }
}

/// A `Duration` as people write it: `10s`, `1m 30s`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*d))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        humantime::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of options and the plan plans/p.yaml in /home/me.
    fn resolve_with(options: Wishes, text: &str) -> Result<Plan, Vec<String>> {
        let mut problems = Vec::new();
        let cwd = Path::new("/home/me");
        let file = read(Path::new("plans/p.yaml"), text, cwd, &mut problems);
        let plan = resolve(options.over(file, cwd), &["default"]);
        problems.extend(plan.as_ref().err().into_iter().flatten().cloned());
        let words = |p: &Problem| format!("{}: {}", p.at, p.what);
        if problems.is_empty() {
            Ok(plan.expect("no problem"))
        } else {
            Err(problems.iter().map(words).collect())
        }
    }

    fn resolve_text(text: &str) -> Result<Plan, Vec<String>> {
        resolve_with(Wishes::default(), text)
    }

    #[test]
    fn paths_of_a_plan_are_relative_to_it() {
        let plan = resolve_text("kernel: git:../linux\nseries: a.patch\n").expect("well formed");
        assert_eq!(plan.kernel, "git:/home/me/plans/../linux");
        assert_eq!(plan.series, [Path::new("/home/me/plans/a.patch")]);
    }

    #[test]
    fn nothing_asked_for_is_everything() {
        let plan = resolve(Wishes::default(), &["default"]).expect("defaults");
        assert_eq!(plan.tests.len(), 60);
        assert_eq!(plan.kernel, DEFAULT_KERNEL);
    }

    #[test]
    fn a_resolved_plan_is_a_plan_file() {
        let plan = resolve_text("test: hmm.migrate\ntrace: on\ntimeout: 1m 5s\nseries: [a.patch]\nexpect: {exit_code: 1, verdicts: {hmm.migrate.private: failed}}\n").expect("well formed");
        assert_eq!(plan.series, [Path::new("/home/me/plans/a.patch")]);
        let text = serde_yaml::to_string(&plan).expect("plain data");
        assert_eq!(resolve_text(&text), Ok(plan));
    }

    #[test]
    fn all_problems_come_at_once_with_their_places() {
        let problems = resolve_text("kernal: x\ntests: [hmm.migrate, hmm.nothing]\ndevice: purple\n\nprofile: none\ntimeout: soon\n").expect_err("five mistakes");
        let check = |start: &str| {
            assert!(problems.iter().any(|p| p.starts_with(start)), "{start} in {problems:#?}")
        };
        check("plans/p.yaml:1:1: unknown key `kernal`");
        check("plans/p.yaml:3:1: `device`");
        check("plans/p.yaml:6:1: `timeout`");
        check("--profile: there is no profile \"none\"");
        check("--test: there is no test \"hmm.nothing\"");
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }

    #[test]
    fn broken_yaml_is_one_problem_with_line_and_column() {
        let problems = resolve_text("kernel: [\n").expect_err("not YAML");
        assert!(problems[0].starts_with("plans/p.yaml:2:1: "), "{problems:?}");
    }

    #[test]
    fn options_win() {
        let options = Wishes {
            tests: vec!["hmm.migrate.private".into()],
            seed: Some(7),
            ..Wishes::default()
        };
        let plan = resolve_with(options, "test: hmm.exclusive\nseed: 3\n").expect("well formed");
        assert_eq!(plan.tests, ["hmm.migrate.private"]);
        assert_eq!(plan.seed, 7);
    }
}
