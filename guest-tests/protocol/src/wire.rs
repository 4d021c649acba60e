//! The messages, in the order in which a session uses them.
//!
//! The harness speaks first: [`HostMessage::Start`] carries the nonce of this
//! start of the VM, and every answer of the agent repeats it, so that bytes
//! left over from another start, or written to the port by anybody else, are
//! recognised. Then `Prepare`, `Attach`, one `Run` for each test, and `Finish`.
//! A guest whose state is saved is saved after `Prepare`; each of its copies
//! begins with a `Start` of its own and goes on with `Attach`. A test process
//! speaks to the agent alone, in [`TestMessage`]s.
//!
//! Instead of tests there can be one `Shell`: a command whose bytes go through
//! ports of their own, [`SHELL_PORT`] and [`SHELL_ERRORS_PORT`], without frames.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalogue::Device;
use crate::trace::{Capture, TraceReady, TraceSetup};

/// The version of these messages. Both sides must have the same: the agent
/// says its own in [`GuestMessage::Hello`].
pub const VERSION: u32 = 5;

/// How often an agent that watches a test says so, in milliseconds.
pub const ALIVE_EVERY_MS: u64 = 1000;

/// The name of the port through which a command's standard input comes and its
/// standard output goes.
pub const SHELL_PORT: &str = "hmm.shell";

/// The name of the port through which its standard error goes.
pub const SHELL_ERRORS_PORT: &str = "hmm.shell.errors";

/// What travels from the agent to the harness: a message under its nonce and
/// number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The nonce of the [`HostMessage::Start`] that the agent answers to.
    pub nonce: String,
    /// Counts from 0 without gaps, for each start: a doubled or lost frame
    /// shows.
    pub seq: u64,
    /// The message.
    pub message: GuestMessage,
}

/// What the harness says to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum HostMessage {
    /// The first word of every start.
    Start {
        /// Random, new for each start of a VM.
        nonce: String,
        /// The host's time of day, in milliseconds since 1970, which the guest
        /// takes over: that of a restored one stood still.
        unix_ms: u64,
    },
    /// Put the guest in order, as far as it needs nothing of the host. Answered
    /// by [`GuestMessage::Prepared`].
    Prepare(Prepare),
    /// Mount what comes from the host. Answered by [`GuestMessage::Attached`].
    Attach(Attach),
    /// Die: PID 1 exits in the midst of whatever it does then, and its kernel
    /// panics. Said only by whoever tests the harness. Not answered.
    Die {
        /// How long from now, in milliseconds.
        after_ms: u64,
    },
    /// Run one test. Answered by `Started`, any number of `Step`s, `Finished`.
    Run(Job),
    /// Run one command. Answered by [`GuestMessage::ShellEnded`]; the next three
    /// are said only in between.
    Shell(Shell),
    /// The command's standard input ends.
    InputEnds {
        /// How many bytes of it were sent, from its beginning.
        length: u64,
    },
    /// Nobody reads an output of the command any more: its next write there is to
    /// fail.
    Unread {
        /// Which one.
        output: Output,
    },
    /// The user's terminal has another size now.
    Resize(Window),
    /// The test that is [held](Job::hold) may go on. Said when the machine stands
    /// still already, so that it does once the machine does. Not answered.
    GoOn,
    /// No test will follow. Answered by [`GuestMessage::Done`], after which
    /// the agent powers the guest off.
    Finish,
}

/// What the agent says to the harness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The answer to `Start`.
    Hello {
        /// The agent's [`VERSION`].
        protocol: u32,
        /// `uname -r` of the running kernel.
        release: String,
        /// `/proc/sys/kernel/random/boot_id`: another for each boot, the same
        /// in every copy of a saved guest.
        boot_id: String,
        /// How long ago it booted, by its own clock, in microseconds.
        uptime_us: u64,
    },
    /// The guest's own part is in order: every mount and setting is in effect.
    Prepared {
        /// `/proc/sys/kernel/tainted`.
        taint: u64,
        /// As in `Hello`.
        uptime_us: u64,
        /// Why nothing can be traced, where that was asked for.
        untraceable: Option<String>,
    },
    /// The host's part is there too, and tests can run.
    Attached {
        /// Path of each setting and what it reads as now.
        settings: BTreeMap<String, String>,
        /// The names of `/dev/hmm_dmirror*` that can be opened.
        devices: Vec<String>,
        /// Names of the tests that the guest's test binary knows.
        tests: Vec<String>,
        /// What can be traced, if that was asked for.
        trace: Option<TraceReady>,
    },
    /// A test process exists.
    Started {
        /// The test's id, as in [`Job::id`].
        id: String,
        /// Its process id in the guest, for the attribution of kernel reports.
        pid: i32,
    },
    /// A test came to a new step.
    Step {
        /// The test's id.
        id: String,
        /// What it does now, in a few words.
        text: String,
    },
    /// The agent still watches a test: said every [`ALIVE_EVERY_MS`]
    /// milliseconds, so that a guest that cannot run any more is told from a
    /// test that takes long.
    Alive {
        /// The test's id.
        id: String,
    },
    /// A test process is gone, or cannot be made to go.
    Finished {
        /// The test's id.
        id: String,
        /// How it ended.
        outcome: Outcome,
        /// From the start of the process to its end, in microseconds.
        duration_us: u64,
        /// What the kernel's own counters say happened during the test.
        health: Health,
        /// What they say of the capture of its trace, if there was one.
        capture: Option<Capture>,
    },
    /// The command of a `Shell` has ended.
    ShellEnded {
        /// How.
        end: ShellEnd,
        /// How many bytes of standard output were sent, from its beginning.
        output: u64,
        /// The same for standard error.
        errors: u64,
    },
    /// The agent could not do what it was asked to; nothing follows.
    Refused {
        /// What it was to do.
        what: String,
        /// Why it could not.
        why: String,
    },
    /// The last word. A session without it is incomplete.
    Done {
        /// How many tests finished since `Start`.
        finished: u32,
    },
}

/// The kernel's own counters, before and after a test.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `/proc/sys/kernel/tainted` before the test.
    pub taint_before: u64,
    /// `/proc/sys/kernel/tainted` after the test.
    pub taint_after: u64,
    /// How many warnings `/sys/kernel/warn_count` (since 6.2) rose by.
    pub warnings: u64,
    /// How many oopses `/sys/kernel/oops_count` (since 6.2) rose by.
    pub oopses: u64,
}

impl Health {
    /// That of a kernel in which nothing happened.
    pub fn of_taint(taint: u64) -> Self {
        Health { taint_before: taint, taint_after: taint, ..Health::default() }
    }

    /// Whether nothing happened in it.
    pub fn is_unchanged(&self) -> bool {
        *self == Health::of_taint(self.taint_before)
    }
}

/// How a test ended, as seen from inside the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Outcome {
    /// The process said so and exited with 0.
    Passed,
    /// An assertion did not hold.
    Failed(Failure),
    /// The test cannot run here.
    Skipped {
        /// Why, for the report.
        reason: String,
    },
    /// The process went without a verdict: a signal, an unexpected exit code.
    Died {
        /// In words: `killed by SIGSEGV`, `exited with 3 and no verdict`.
        how: String,
    },
    /// The deadline passed.
    TimedOut {
        /// Whether the process could be killed. If not, it hangs in the kernel
        /// and the guest is of no further use.
        killed: bool,
        /// Where the main thread was in the kernel, from `/proc/PID/stack`.
        stack: String,
    },
}

/// An assertion that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Source file of the assertion, as `file!()` gives it.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// What was expected, in words.
    pub message: String,
    /// The value that was seen, if the assertion compares two.
    pub seen: Option<String>,
    /// The value that was expected, likewise.
    pub expected: Option<String>,
    /// The page of the buffer that it is about, counted from 0.
    pub page: Option<u64>,
}

/// How the guest is put in order, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// File systems to mount, in this order. The first is the root that the
    /// agent enters at the end; targets are paths below that root.
    pub mounts: Vec<Mount>,
    /// Symbolic links in the root: path, target. Made after the first mount.
    pub links: Vec<(String, String)>,
    /// Files written after the mounts: path, value. Read back afterwards.
    pub settings: Vec<Setting>,
    /// What is traced; nothing if nothing is. A kernel that cannot trace is in
    /// order all the same, and says so when all is attached.
    pub trace: Option<TraceSetup>,
}

/// What the guest gets of the host, after its own part is in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// File systems to mount, in this order.
    pub mounts: Vec<Mount>,
    /// Files written after the mounts, beside those of [`Prepare`].
    pub settings: Vec<Setting>,
    /// Where the test binary is, as a path once all is mounted. It is copied to
    /// tmpfs and executed there.
    pub tests: String,
}

/// One file system to mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Path below the guest's root, made if it is missing.
    pub at: String,
    /// File system type, as `mount -t` takes it.
    pub kind: String,
    /// Source: a 9p tag; a path of the initramfs for the kind `bind`; any word
    /// for file systems without one.
    #[serde(default)]
    pub source: String,
    /// Options of the file system, as `mount -o` takes them.
    #[serde(default)]
    pub options: String,
    /// Whether it is mounted read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Whether a kernel without this file system is all right.
    #[serde(default)]
    pub optional: bool,
}

/// One value to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Path below the guest's root, such as `/proc/sys/vm/nr_hugepages`.
    pub path: String,
    /// What is written to it.
    pub value: String,
    /// Whether a kernel without this file is all right.
    #[serde(default)]
    pub optional: bool,
}

/// One test to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The test's id: `hmm.migrate_fault.private`.
    pub id: String,
    /// Its name: `hmm.migrate_fault`.
    pub name: String,
    /// The kind of device, where the test has one.
    pub device: Option<Device>,
    /// Feeds whatever the test leaves to chance.
    pub seed: u64,
    /// How long it may take, in milliseconds, already scaled.
    pub timeout_ms: u64,
    /// Whether its notifier events are captured.
    pub trace: bool,
    /// The step that it announces and does not do before [`HostMessage::GoOn`],
    /// counted from 1; nothing where it is not held.
    pub hold: Option<u32>,
    /// The numbers of the kernel under test.
    pub abi: Abi,
}

/// One command to run, for a person or a script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shell {
    /// The command and its arguments; if there are none, the guest's shell.
    pub argv: Vec<String>,
    /// All of its environment.
    pub env: Vec<(String, String)>,
    /// Its working directory; `/` if the guest has no such directory.
    pub cwd: String,
    /// Whether it has a terminal, and of which size. Without one its standard
    /// input, output and error are apart.
    pub terminal: Option<Window>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// How many lines it has.
    pub rows: u16,
    /// How many characters a line has.
    pub columns: u16,
}

/// What a command writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Standard output, and all that is written to a terminal.
    Output,
    /// Standard error.
    Errors,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ShellEnd {
    /// By itself.
    Exited {
        /// With this code.
        code: u8,
    },
    /// By a signal.
    Killed {
        /// By this one.
        signal: u8,
    },
    /// It could not be started.
    NotStarted {
        /// Whether the guest has no such program.
        absent: bool,
        /// Why.
        why: String,
    },
}

/// What the tests must know of the driver's interface, read from the headers
/// of the tree under test by its own compiler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abi {
    /// `HMM_DMIRROR_READ` and so on, without the prefix: the whole ioctl
    /// request number (lib/test_hmm_uapi.h).
    pub ioctls: BTreeMap<String, u64>,
    /// `HMM_DMIRROR_PROT_WRITE` and so on, without the prefix.
    pub prots: BTreeMap<String, u8>,
    /// `sizeof(struct hmm_dmirror_cmd)`, in bytes.
    pub cmd_size: u64,
    /// Offset of each member of `struct hmm_dmirror_cmd`, in bytes.
    pub cmd_offsets: BTreeMap<String, u64>,
}

/// What a test process says to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum TestMessage {
    /// It came to a new step.
    Step {
        /// What it does now, in a few words.
        text: String,
    },
    /// Its verdict; the last message.
    Verdict(Outcome),
}
