//! The schema `hmm-harness/results/1` as types. `harness/schema/results-1.json`
//! says the same for other programs, and a test holds the two together.

mod comparison;
mod sent;
mod standing;

use std::collections::BTreeMap;

use hmm_protocol::Device;
use serde::{Deserialize, Serialize};

pub use comparison::{About, Change, Comparison, Given};
pub(crate) use sent::Difference;
pub use sent::{Sent, otherwise};
pub use standing::Standing;
pub(crate) use standing::WHOLE;

/// The schema's name, the first field of every `results.json`.
pub const SCHEMA: &str = "hmm-harness/results/1";

/// `results.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: String,
    /// The answer in a word.
    pub outcome: RunOutcome,
    /// The exit code that goes with it.
    pub exit_code: u8,
    /// Why there is no judgement, or nothing.
    pub reason: Option<String>,
    /// The version of the harness that ran the tests and judged them.
    #[serde(default)]
    pub harness: String,
    /// The stage that could not be done, if one could not.
    #[serde(default)]
    pub stopped_at: Option<String>,
    /// What was under test.
    pub kernel: KernelInfo,
    /// What it ran on.
    pub machine: MachineInfo,
    /// Where the time went.
    pub timing: Timing,
    /// How many of each.
    pub summary: Summary,
    /// One entry for each planned test, in plan order.
    pub tests: Vec<TestResult>,
    /// Tests that do not apply to this kernel; they count nowhere.
    pub not_applicable: Vec<NotApplicable>,
    /// Complaints of the kernel that belong to no test. Red all the same.
    pub kernel_events: Vec<KernelEvent>,
    /// What else went wrong outside of all tests, such as a guest that reset itself. Red
    /// whatever is expected of the tests.
    #[serde(default)]
    pub loose_ends: Vec<String>,
    /// How it compares with the baseline that it is held against, if there is one.
    #[serde(default)]
    pub baseline: Option<Comparison>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// Exit code 0.
    AsExpected,
    /// Exit code 1.
    NotAsExpected,
    /// Exit code 125.
    NotJudgeable,
    /// Exit code 129.
    Fault,
    /// Exit code 130.
    Interrupted,
}

/// The kernel under test. Empty strings where the run did not come so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KernelInfo {
    /// `uname -r`.
    pub release: String,
    /// The source as it was asked for, versions resolved.
    pub source: String,
    /// The commit that the source is, in full, without the series; nothing for what
    /// is no commit.
    #[serde(default)]
    pub source_commit: Option<String>,
    /// The tree of the source, without the series.
    #[serde(default)]
    pub source_tree: String,
    /// The tree that was built, with the series in it.
    pub tree: String,
    /// SHA-256 of the resolved configuration.
    pub config_sha256: String,
    /// A digest of what is loaded of its image, the build id left out, and of what is
    /// read from its tree: where it is equal, so are the kernels.
    #[serde(default)]
    pub loaded_sha256: String,
    /// The name of the profile.
    pub profile: String,
    /// The patches, in order.
    pub series: Vec<AppliedPatch>,
    /// The level of the notifier contract, where one is applied.
    pub contract: Option<String>,
}

/// A patch as it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AppliedPatch {
    /// Its subject, or its file name.
    pub subject: String,
    /// The commit that it became, in the store.
    pub commit: String,
    /// SHA-256 of the diff that was given to `git apply`.
    #[serde(default)]
    pub diff_sha256: String,
}

/// The machine that the kernel ran on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MachineInfo {
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// As `qemu-system-x86_64 --version` says it.
    pub qemu_version: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// `virtme` or `initramfs`.
    pub rootfs: String,
    /// Whether the run started from a snapshot.
    pub restored: bool,
    /// What the guest's settings read as after they were written.
    pub settings: BTreeMap<String, String>,
}

/// Durations in milliseconds; 0 for what was in the store already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Timing {
    /// When the run began, by the clock of the machine, as RFC 3339 writes it.
    #[serde(default)]
    pub began: Option<String>,
    /// Fetching and importing the source.
    pub source_ms: u64,
    /// Building the kernel.
    pub build_ms: u64,
    /// From the start of QEMU to the agent's hello, for the first VM.
    pub boot_ms: u64,
    /// From the start of the command to the start of the first test.
    pub ready_ms: u64,
    /// From the start of the first test to the end of the last.
    pub tests_ms: u64,
    /// The whole command.
    pub total_ms: u64,
}

/// Counts over the planned tests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Summary {
    /// All of them.
    pub total: u32,
    /// By verdict.
    pub passed: u32,
    /// By verdict.
    pub failed: u32,
    /// By verdict.
    pub skipped: u32,
    /// By verdict.
    pub crashed: u32,
    /// By verdict.
    pub timed_out: u32,
    /// By verdict.
    pub not_run: u32,
    /// How many not-passed ones a known issue covers.
    pub known: u32,
    /// How many gave different verdicts when they were repeated.
    pub flaky: u32,
}

/// What is said of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All four checks are good.
    Passed,
    /// It ran to its end, and a check is bad.
    Failed,
    /// The guest said why it cannot run.
    Skipped,
    /// It started and did not finish, or the kernel broke under it.
    Crashed,
    /// It started and did not finish in time.
    TimedOut,
    /// It never started.
    NotRun,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Skipped => "skipped",
            Verdict::Crashed => "crashed",
            Verdict::TimedOut => "timed_out",
            Verdict::NotRun => "not_run",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One test's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TestResult {
    /// `name.device`, or `name`.
    pub id: String,
    /// The name in the catalogue.
    pub name: String,
    /// The kind of device.
    #[cfg_attr(test, schemars(with = "Option<tests::DeviceWord>"))]
    pub device: Option<Device>,
    /// What is said of it.
    pub verdict: Verdict,
    /// Whether that was to be expected.
    pub as_expected: bool,
    /// The known issue that covers it.
    pub known_issue: Option<String>,
    /// Whether repeating it gave another verdict.
    pub flaky: bool,
    /// How those of its turns stand that do not stand like this, each once.
    #[serde(default)]
    pub other_turns: Vec<Standing>,
    /// Why it is not `passed`, or not as expected; empty if it is both.
    pub reason: String,
    /// The assertion that failed, in words that are the same wherever it fails alike:
    /// without its place and what was seen.
    #[serde(default)]
    pub assertion: Option<String>,
    /// Of one that did not end in time: whether the guest was lost with it, because its
    /// process could not be killed, or the guest fell silent.
    #[serde(default)]
    pub guest_lost: bool,
    /// From the start of its process to its end.
    pub duration_ms: u64,
    /// How often it ran.
    pub attempts: u32,
    /// What fed its random choices.
    pub seed: u64,
    /// The four checks whose conjunction is the verdict.
    pub checks: Checks,
    /// What the kernel said during the test.
    pub kernel_events: Vec<KernelEvent>,
    /// What is known of its notifier trace.
    pub trace: TraceInfo,
}

/// A check's result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Made, and good.
    Ok,
    /// Made, and not good.
    Bad,
    /// Not made.
    #[default]
    None,
}

/// The four checks, told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Checks {
    /// The test's own assertions.
    pub data: Check,
    /// The notifier trace.
    pub trace: Check,
    /// The kernel's console.
    pub console: Check,
    /// The kernel's taint and warning counters.
    pub taint: Check,
}

/// A complaint of the kernel on its console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KernelEvent {
    /// Which signature matched.
    pub id: String,
    /// Its class: `oops`, `warn`, `lockdep`.
    pub class: String,
    /// The line that matched, without its stamps.
    pub title: String,
    /// Its line in `console.log`, counted from 1.
    pub line: u64,
    /// Its call trace, innermost first, with file and line where they could be
    /// found.
    pub trace: Vec<String>,
}

/// What is known of a test's notifier trace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TraceInfo {
    /// Events captured.
    pub captured: u64,
    /// Events lost.
    pub lost: u64,
    /// Whether the trace is known to be whole.
    pub complete: bool,
    /// Why it is not, where there is something of it.
    #[serde(default)]
    pub incomplete: Option<String>,
    /// SHA-256 of its canonical form, where there is one.
    pub canonical_sha256: Option<String>,
    /// What the kernel sends in each operation, all its steps together, where there
    /// is a canonical form: `16 MIGRATE, 16 collect; 1c7b03f2`, at the end the
    /// beginning of a digest of that operation.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, String>"))]
    pub operations: BTreeMap<String, Sent>,
    /// The rules that it breaks.
    pub violations: Vec<Violation>,
}

/// A broken rule of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Violation {
    /// The rule's name.
    pub rule: String,
    /// The step in which it was broken.
    pub step: String,
    /// What was seen.
    pub text: String,
}

/// A test that does not apply to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotApplicable {
    /// Its id.
    pub id: String,
    /// What the kernel lacks.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`Device`] as the schema shows it: the protocol knows no schemas.
    #[derive(schemars::JsonSchema)]
    #[schemars(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its schema is used")]
    pub(super) enum DeviceWord {
        /// Device-private memory.
        Private,
        /// Device-coherent memory.
        Coherent,
    }

    fn published() -> serde_json::Value {
        serde_json::from_str(include_str!("../../schema/results-1.json")).expect("it is JSON")
    }

    #[test]
    fn the_published_schema_is_that_of_the_types() {
        let mut schema = schemars::schema_for!(Results).to_value();
        schema["title"] = SCHEMA.into();
        schema["properties"]["schema"]["const"] = SCHEMA.into();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text = serde_json::to_string_pretty(&schema).expect("plain data") + "\n";
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/schema/results-1.json"), text)
                .expect("the checkout is writable");
            return;
        }
        assert_eq!(schema, published(), "run the test with UPDATE_GOLDEN=1 and review the diff");
    }

    #[test]
    fn results_are_valid_and_the_schema_is_strict_enough_to_say_so() {
        let results = Results {
            schema: SCHEMA.into(),
            outcome: RunOutcome::NotAsExpected,
            exit_code: 1,
            reason: None,
            stopped_at: None,
            kernel: KernelInfo::default(),
            machine: MachineInfo::default(),
            timing: Timing::default(),
            summary: Summary::default(),
            tests: vec![crate::judge::tests::result("hmm.migrate.private", Verdict::Failed)],
            not_applicable: Vec::new(),
            kernel_events: Vec::new(),
            loose_ends: Vec::new(),
            harness: String::new(),
            baseline: None,
        };
        let validator = jsonschema::validator_for(&published()).expect("a schema");
        let mut value = serde_json::to_value(&results).expect("plain data");
        assert!(validator.is_valid(&value));
        for (pointer, wrong) in [
            ("/outcome", serde_json::json!("green")),
            ("/tests/0/verdict", serde_json::json!("ok")),
            ("/tests/0/device", serde_json::json!("purple")),
            ("/schema", serde_json::json!("hmm-harness/results/2")),
        ] {
            let right = std::mem::replace(value.pointer_mut(pointer).expect(pointer), wrong);
            assert!(!validator.is_valid(&value), "{pointer}");
            *value.pointer_mut(pointer).expect(pointer) = right;
        }
    }
}
