//! The command line, as typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use hmm_protocol::Device;

use crate::bisect::Question;
use crate::compare::Format;
use crate::flow::Stage;
use crate::image::Rootfs;
use crate::machine::Accel;
use crate::plan::{Isolate, Switch, Wishes};

/// Builds a kernel with a patch series, boots it in QEMU and runs the HMM
/// selftests against it.
#[derive(Debug, Parser)]
#[command(name = "hmm-harness", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    everything as expected
  1    judged, and not as expected
  125  this kernel cannot be judged: it does not patch, configure, build or boot
  128  usage or plan error
  129  the machine's fault or ours
  130  interrupted";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build, boot, test and judge a kernel
    RunKernelTests(Box<RunArgs>),
    /// Find the patch of a series, or the commit of a branch, that changes something
    Bisect(Box<BisectArgs>),
    /// Run a command, or a shell, in the booted kernel, on the host's files
    Shell(Box<ShellArgs>),
    /// List the tests, what each needs, and on which kernels it applies
    List(ListArgs),
    /// Judge the saved evidence of a run again, without a kernel
    Judge(JudgeArgs),
    /// Show a saved run: its tests, one of them, its trace, or what differs from another
    Show(ShowArgs),
    /// Write the page of a saved run again, and print where it is
    Report(ReportArgs),
    /// Say what is worse in a run than in another, and what is better
    Compare(CompareArgs),
    /// Keep what runs are held against by --baseline
    Baseline(BaselineArgs),
    /// Hold a test of a saved run before the step that failed, with gdb on its kernel
    Debug(DebugArgs),
    /// Say what this machine lacks, and the command that mends it
    Doctor(DoctorArgs),
    /// Measure what a run costs, with the budgets beside it
    Bench(BenchArgs),
    /// Show what the store holds, bound it, or look whether it is what was written
    Cache(CacheArgs),
    /// Everything that a change to this project must pass
    Check(CheckArgs),
    /// Injure runs at random moments, and see that nothing is fooled or broken
    Torture(TortureArgs),
    /// Print what a shell needs to complete commands and options
    Completions(CompletionsArgs),
}

/// Options of `run-kernel-tests`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Read options from a plan; options given here win over it
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,

    /// The kernel's source: debian:PKG[=VERSION][/SUITE], git:PATH[@REV], dir:PATH
    /// [default: debian:linux-source-6.12]
    #[arg(long, value_name = "SOURCE")]
    pub kernel: Option<String>,

    /// Patches to apply: a .patch, a plain diff, an mbox with a thread of a
    /// list, a maildir, a directory of patches, or git:[PATH@]A..B; repeatable,
    /// applied in order
    #[arg(long, value_name = "PATH")]
    pub series: Vec<PathBuf>,

    /// Take only the first N patches of the last series
    #[arg(long, value_name = "N")]
    pub first: Option<usize>,

    /// Judge the kernel without the last series and with each patch of it more,
    /// one after the other, and show what each patch changes
    #[arg(long, conflicts_with_all = ["first", "kcidb", "perfetto", "until"])]
    pub each: bool,

    /// The profile of the kernel's configuration [default: default]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,

    /// The guest's root: the host's files, or everything sealed in
    /// [default: virtme]
    #[arg(long)]
    pub rootfs: Option<Rootfs>,

    /// Globs over test ids and names, comma-separated; !GLOB excludes
    #[arg(long, value_name = "GLOBS")]
    pub filter: Vec<String>,

    /// A test by name or id; repeatable
    #[arg(long, value_name = "ID")]
    pub test: Vec<String>,

    /// Only tests on this kind of device memory: private, coherent
    #[arg(long, value_name = "KIND", value_parser = device)]
    pub device: Option<Device>,

    /// How long a test may take, before scaling for emulation [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// Feeds what tests leave to chance [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// What tests share: a kernel until it complains (each has a process of its
    /// own), or nothing (each has a VM of its own) [default: process]
    #[arg(long)]
    pub isolate: Option<Isolate>,

    /// How many VMs run tests at the same time [default: as many as there are
    /// processors, if there is memory for them]
    #[arg(long, value_name = "N")]
    pub jobs: Option<u32>,

    /// How often each test has its turn [default: 1]
    #[arg(long, value_name = "N")]
    pub repeat: Option<u32>,

    /// How often a test that did not pass is tried again, in a fresh VM; the
    /// first verdict stands, and another one makes it flaky [default: 0]
    #[arg(long, value_name = "N")]
    pub retry: Option<u32>,

    /// Boot every VM, and start none from a saved guest
    #[arg(long)]
    pub no_snapshot: bool,

    /// Whether notifier events are captured and judged [default: on, where the
    /// kernel can]
    #[arg(long)]
    pub trace: Option<Switch>,

    /// What the guest may run on [default: auto]
    #[arg(long)]
    pub accel: Option<Accel>,

    /// Stop after this stage: source, series, config, build, image, boot, run
    /// [default: run]
    #[arg(long, value_name = "STAGE", value_parser = stage)]
    pub until: Option<Stage>,

    /// Expect what this baseline says; exit code 1 if something is worse
    #[arg(long, value_name = "PATH")]
    pub baseline: Option<PathBuf>,

    /// Make this the run directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Also write results.json here
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,

    /// Also write the results here as JUnit XML
    #[arg(long, value_name = "PATH")]
    pub junit: Option<PathBuf>,

    /// Also write the results here as KTAP
    #[arg(long, value_name = "PATH")]
    pub ktap: Option<PathBuf>,

    /// Also write a submission to KCIDB here, for the CI system --kcidb-origin
    #[arg(long, value_name = "PATH")]
    pub kcidb: Option<PathBuf>,

    /// The name of the CI system that submits to KCIDB
    #[arg(long, value_name = "NAME")]
    pub kcidb_origin: Option<String>,

    /// Also write the notifier traces here, as Chrome trace events for
    /// https://ui.perfetto.dev
    #[arg(long, value_name = "PATH")]
    pub perfetto: Option<PathBuf>,

    /// Ask again which version a package without one stands for
    #[arg(long)]
    pub refresh: bool,

    /// Print the resolved plan and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,

    /// For `torture`: the guest's agent dies this long after the first order
    #[arg(long, value_name = "MS", hide = true)]
    pub torture_agent_after: Option<u64>,
}

/// Options of `bisect`.
#[derive(Debug, Args)]
#[command(group(
    clap::ArgGroup::new("question").required(true).args(["test", "event", "trace", "crash"])
))]
pub struct BisectArgs {
    /// Ask for the verdict on a test, by name or id; repeatable
    #[arg(long, value_name = "ID")]
    pub test: Vec<String>,

    /// Ask from which patch on an operation sends event B where it sent A:
    /// 'to-device: CLEAR -> MIGRATE'
    #[arg(long, value_name = "OP: A -> B", value_parser = Question::event)]
    pub event: Option<Question>,

    /// Ask for the canonical trace of a test, by its id
    #[arg(long, value_name = "ID")]
    pub trace: Option<String>,

    /// Ask for a complaint of the kernel with these words in its title
    #[arg(long, value_name = "WORDS")]
    pub crash: Option<String>,

    /// The kernel's source, as for run-kernel-tests; git:PATH@GOOD..BAD bisects the
    /// commits of a branch
    #[arg(long, value_name = "SOURCE")]
    pub kernel: Option<String>,

    /// Patches, as for run-kernel-tests; those of the last series are bisected
    #[arg(long, value_name = "PATH")]
    pub series: Vec<PathBuf>,

    /// Begin with the kernel that has so many of the patches [default: 0]
    #[arg(long, value_name = "N")]
    pub from: Option<usize>,

    /// End with the kernel that has so many of the patches [default: all]
    #[arg(long, value_name = "M")]
    pub to: Option<usize>,

    /// Which tests run for --event and --crash, as for run-kernel-tests
    #[arg(long, value_name = "GLOBS", conflicts_with_all = ["test", "trace"])]
    pub filter: Vec<String>,

    /// The profile of the kernel's configuration [default: default]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,

    /// How long a test may take, before scaling for emulation [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// Make this the run directory; a bisect that was interrupted goes on from it
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Also write bisect.json here
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,

    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,
}

/// Options of `shell`.
#[derive(Debug, Args)]
#[command(after_help = SHELL_CODES)]
pub struct ShellArgs {
    /// Read options from a plan; options given here win over it
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,

    /// The kernel's source, as for run-kernel-tests
    #[arg(long, value_name = "SOURCE")]
    pub kernel: Option<String>,

    /// Patches, as for run-kernel-tests
    #[arg(long, value_name = "PATH")]
    pub series: Vec<PathBuf>,

    /// Take only the first N patches of the last series
    #[arg(long, value_name = "N")]
    pub first: Option<usize>,

    /// The profile of the kernel's configuration [default: default]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,

    /// What the guest may run on [default: auto]
    #[arg(long)]
    pub accel: Option<Accel>,

    /// Boot the guest, and do not start from a saved one
    #[arg(long)]
    pub no_snapshot: bool,

    /// Ask again which version a package without one stands for
    #[arg(long)]
    pub refresh: bool,

    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,

    /// The command and its arguments; without one, an interactive shell
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

const SHELL_CODES: &str = "\
The exit code is that of CMD, 128 plus the signal that ended it, 126 if it cannot be
started, or 127 if there is none. Where there is no such code, standard error says why:
  1    the guest is gone: it panicked, or was powered off
  125  this kernel does not patch, configure, build or boot
  128  usage or plan error
  129  the machine's fault or ours
  130  interrupted";

/// Options of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Globs over test ids and names, comma-separated; !GLOB excludes
    #[arg(long, value_name = "GLOBS")]
    pub filter: Vec<String>,
}

/// Options of `judge`.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// A run directory, its name, or `latest`
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,

    /// Also write results.json here
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,

    /// Also write the results here as JUnit XML
    #[arg(long, value_name = "PATH")]
    pub junit: Option<PathBuf>,

    /// Also write the results here as KTAP
    #[arg(long, value_name = "PATH")]
    pub ktap: Option<PathBuf>,

    /// Also write a submission to KCIDB here, for the CI system --kcidb-origin
    #[arg(long, value_name = "PATH")]
    pub kcidb: Option<PathBuf>,

    /// The name of the CI system that submits to KCIDB
    #[arg(long, value_name = "NAME")]
    pub kcidb_origin: Option<String>,
}

/// Options of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A run directory, its name, or `latest`
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,

    /// Only this test, with all that is known of it: an id, or a name for every
    /// device; ID@N is its Nth turn after the first
    #[arg(long, value_name = "ID")]
    pub test: Option<String>,

    /// The test's notifier trace, operation by operation, folded where it repeats
    #[arg(long, requires = "test")]
    pub trace: bool,

    /// The test's canonical traces in two runs side by side; exit code 1 if they
    /// differ
    #[arg(
        long,
        num_args = 2,
        value_names = ["RUN1", "RUN2"],
        requires = "test",
        conflicts_with_all = ["run", "trace", "perfetto"],
    )]
    pub diff: Vec<String>,

    /// Write the traces here, as Chrome trace events for https://ui.perfetto.dev
    #[arg(long, value_name = "PATH", conflicts_with = "trace")]
    pub perfetto: Option<PathBuf>,

    /// Every caller of `migrate_vma_setup()` in the tree that was tested: whether
    /// it sets the owner, and whether a test executed it
    #[arg(long, conflicts_with_all = ["test", "trace", "diff", "perfetto"])]
    pub callers: bool,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A run directory, its name, or `latest`
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// A run directory, its name, or a baseline
    pub a: String,

    /// Another run, or `latest`: exit code 1 if it is worse
    #[arg(default_value = "latest")]
    pub b: String,

    /// As what it is told
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

/// Options of `baseline`.
#[derive(Debug, Args)]
pub struct BaselineArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BaselineCommand,
}

/// What `baseline` does.
#[derive(Debug, Subcommand)]
pub enum BaselineCommand {
    /// Expect from now on what a run has shown, and show what changes in the file
    Update(BaselineUpdateArgs),
}

/// Options of `baseline update`.
#[derive(Debug, Args)]
pub struct BaselineUpdateArgs {
    /// The baseline, made if it is not there; what it says of tests that were not run
    /// stays
    pub file: PathBuf,

    /// A run directory, its name, or `latest`
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,
}

/// Options of `debug`.
#[derive(Debug, Args)]
#[command(after_help = "A session is no judgement: exit code 0, however it went in gdb.")]
pub struct DebugArgs {
    /// A run directory, its name, or `latest`
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,

    /// The test, by name or id; one of which no step failed is held before the one that
    /// is not as in the baseline, else before its first
    #[arg(long, value_name = "ID")]
    pub test: String,

    /// Start no gdb: print its command, and wait for the end of the machine. So it
    /// is where there is no terminal, unless gdb gets options
    #[arg(long, conflicts_with = "gdb")]
    pub no_gdb: bool,

    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,

    /// Options for gdb, such as: -batch -ex 'break migrate_vma_setup' -ex c -ex bt
    #[arg(last = true, value_name = "GDB")]
    pub gdb: Vec<OsString>,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,
}

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// How often each thing is measured; what takes long half as often
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,

    /// Also build the kernel from nothing
    #[arg(long)]
    pub cold: bool,

    /// Write the figures here
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,

    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,
}

/// Options of `cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// What `cache` does.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what is there: when it was used, how large it is, what it is
    List,
    /// Remove what was not used for the longest time
    Prune(PruneArgs),
    /// See whether kernels, saved guests and objects are what was written
    Verify,
}

/// Options of `cache prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// How much may stay, such as 5GiB; 0 removes all
    /// [default: HMM_HARNESS_CACHE_SIZE, or 20GiB]
    #[arg(long, value_name = "SIZE")]
    pub to: Option<ByteSize>,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Also run every mutant, and the plans that take kernels of their own
    #[arg(long)]
    pub full: bool,

    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,
}

/// Options of `torture`.
#[derive(Debug, Args)]
pub struct TortureArgs {
    /// The seed of the first round; each round after it has the next number
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// How many rounds
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub count: u64,

    /// Also write the report here
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,

    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    pub shell: clap_complete::Shell,
}

impl ShellArgs {
    /// The options as wishes, to be resolved with a plan. What a plan says of tests
    /// is left alone, and the guest's root is the host's: a sealed one has nothing
    /// to run.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            kernel: self.kernel.clone(),
            series: self.series.clone(),
            first: self.first,
            profile: self.profile.clone(),
            rootfs: Some(Rootfs::Virtme),
            accel: self.accel,
            no_snapshot: self.no_snapshot.then_some(true),
            until: Some(Stage::Boot),
            ..Wishes::default()
        }
    }
}

impl RunArgs {
    /// The options as wishes, to be resolved with a plan.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            kernel: self.kernel.clone(),
            series: self.series.clone(),
            first: self.first,
            profile: self.profile.clone(),
            rootfs: self.rootfs,
            filter: self.filter.clone(),
            tests: self.test.clone(),
            device: self.device,
            timeout: self.timeout,
            seed: self.seed,
            isolate: self.isolate,
            jobs: self.jobs,
            repeat: self.repeat,
            retry: self.retry,
            no_snapshot: self.no_snapshot.then_some(true),
            trace: self.trace,
            accel: self.accel,
            until: self.until,
            baseline: self.baseline.clone(),
            allow: None,
            out: self.out.clone(),
            json: self.json.clone(),
            junit: self.junit.clone(),
            ktap: self.ktap.clone(),
            kcidb: self.kcidb.clone(),
            kcidb_origin: self.kcidb_origin.clone(),
            perfetto: self.perfetto.clone(),
            expect: None,
        }
    }
}

fn device(word: &str) -> Result<Device, String> {
    [Device::Private, Device::Coherent]
        .into_iter()
        .find(|d| d.as_str() == word)
        .ok_or_else(|| "the kinds are: private, coherent".into())
}

fn stage(word: &str) -> Result<Stage, String> {
    Stage::STOPS.into_iter().find(|s| s.as_str() == word).ok_or_else(|| {
        let words: Vec<&str> = Stage::STOPS.iter().map(|s| s.as_str()).collect();
        format!("a run can stop after: {}", words.join(", "))
    })
}
