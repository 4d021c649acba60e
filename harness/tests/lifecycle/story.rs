//! What is between a story and its end: the stages from the run to the judge,
//! on a machine that is played.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hmm_harness::boot::{self, Recipe};
use hmm_harness::build::Kernel;
use hmm_harness::config::Configured;
use hmm_harness::context::Context;
use hmm_harness::events::{Event, Log, Record, VmEnd};
use hmm_harness::flow::Stage;
use hmm_harness::git::{Git, TreeId};
use hmm_harness::image::{Image, Rootfs};
use hmm_harness::interrupt::Interrupt;
use hmm_harness::judge;
use hmm_harness::layout::{Known, Layout};
use hmm_harness::machine::{Accelerator, Qemu};
use hmm_harness::plan::{self, Isolate, Plan, Switch, Wishes};
use hmm_harness::results::{Results, TestResult, Verdict};
use hmm_harness::run::{self, Options};
use hmm_harness::series::PatchedTree;
use hmm_harness::store::Store;
use hmm_harness::{collect, proc};
use hmm_protocol::trace::Capture;
use hmm_protocol::wire::{Abi, Attach, GuestMessage, Prepare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::qemu::{Act, At, Turn};
use super::traces;

pub(crate) const A: &str = "hmm.migrate.private";
pub(crate) const B: &str = "hmm.migrate_fault.private";
pub(crate) const C: &str = "hmm.migrate_release.private";

/// The planned tests, in the order in which they run.
pub(crate) const TESTS: [&str; 3] = [A, B, C];

/// What the machine will do.
#[derive(Default)]
pub(crate) struct Story {
    turns: Vec<Turn>,
    prelude: String,
    time_scale: Option<f64>,
    timeout: Option<u64>,
    snapshot: bool,
    jobs: Option<u32>,
    repeat: Option<u32>,
    retry: Option<u32>,
    isolate: Isolate,
    interrupted_in: Option<&'static str>,
    store: Option<PathBuf>,
    stopped_in: Option<&'static str>,
    traced: bool,
    demanded: bool,
}

impl Story {
    /// A machine without anything to tell.
    pub(crate) fn new() -> Self {
        Story::default()
    }

    /// On its first start it does this.
    pub(crate) fn first(self, at: At, acts: impl IntoIterator<Item = Act>) -> Self {
        self.turn(0, at, acts)
    }

    /// On each start it does this.
    pub(crate) fn always(self, at: At, acts: impl IntoIterator<Item = Act>) -> Self {
        self.at(None, at, acts)
    }

    /// On one of its starts, counted from 0, it does this.
    pub(crate) fn turn(self, start: u32, at: At, acts: impl IntoIterator<Item = Act>) -> Self {
        self.at(Some(start), at, acts)
    }

    fn at(mut self, start: Option<u32>, at: At, acts: impl IntoIterator<Item = Act>) -> Self {
        self.turns.push(Turn { start, at, acts: acts.into_iter().collect() });
        self
    }

    /// In the first machine this test begins and then does this.
    pub(crate) fn in_test(self, id: &str, acts: impl IntoIterator<Item = Act>) -> Self {
        let begins = super::qemu::begins(id);
        self.first(At::Run(id.into()), begins.into_iter().chain(acts))
    }

    /// Shell commands that QEMU begins with; `$start` counts its starts from 0.
    pub(crate) fn prelude(mut self, commands: &str) -> Self {
        self.prelude = commands.into();
        self
    }

    /// Its guest can trace, and where nothing else was said before, nothing
    /// happens that a trace would tell.
    pub(crate) fn traced(mut self) -> Self {
        self.traced = true;
        for id in TESTS {
            self = self.always(At::Run(id.into()), traces::traced(id, Capture::default(), []));
        }
        self.always(At::Attach, [Act::Say(traces::attached())])
    }

    /// Without traces there is to be no judgement.
    pub(crate) fn traces_demanded(mut self) -> Self {
        self.demanded = true;
        self
    }

    /// All deadlines are shorter by this factor. Only for stories that wait for
    /// one: elsewhere they are those of the product, so that a busy machine
    /// changes no outcome.
    pub(crate) fn hurried(mut self, time_scale: f64) -> Self {
        self.time_scale = Some(time_scale);
        self
    }

    /// How long a test may take, in seconds, before the factor.
    pub(crate) fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Some(seconds);
        self
    }

    /// Guests may be saved and restored.
    pub(crate) fn with_snapshots(mut self) -> Self {
        self.snapshot = true;
        self
    }

    /// So many machines at the same time.
    pub(crate) fn jobs(mut self, jobs: u32) -> Self {
        self.jobs = Some(jobs);
        self
    }

    /// Each test has so many turns.
    pub(crate) fn repeat(mut self, repeat: u32) -> Self {
        self.repeat = Some(repeat);
        self
    }

    /// A test that did not pass has so many more turns.
    pub(crate) fn retry(mut self, retry: u32) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Each test has a machine of its own.
    pub(crate) fn isolated(mut self) -> Self {
        self.isolate = Isolate::Vm;
        self
    }

    /// The user interrupts when this test has started.
    pub(crate) fn interrupted_in(mut self, id: &'static str) -> Self {
        self.interrupted_in = Some(id);
        self
    }

    /// The harness itself stands still for three seconds when this test has
    /// started, and the machine goes on.
    pub(crate) fn stopped_in(mut self, id: &'static str) -> Self {
        self.stopped_in = Some(id);
        self
    }

    /// It keeps what it saves in this store, and not in one of its own.
    pub(crate) fn store(mut self, store: &Path) -> Self {
        self.store = Some(store.to_owned());
        self
    }

    /// Puts what the machine needs into a directory.
    pub(crate) fn stage(&self, dir: &Path, shell: bool) {
        proc::keeper_is(Path::new(env!("CARGO_BIN_EXE_hmm-harness")));
        symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lifecycle/qemu.sh"), dir.join("qemu"))
            .unwrap();
        let player = std::env::current_exe().unwrap();
        let player = proc::quote(&player.to_string_lossy());
        let word = |is: bool| if is { "yes" } else { "" };
        let (traced, shell) = (word(self.traced), word(shell));
        let prelude =
            format!("player={player}\ntraced={traced}\nshell={shell}\n{}\n", self.prelude);
        fs::write(dir.join("prelude.sh"), prelude).unwrap();
        fs::write(dir.join("story.json"), serde_json::to_vec(&self.turns).unwrap()).unwrap();
    }

    /// Tells it, and judges what is left of it.
    pub(crate) async fn told(self) -> Told {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        self.stage(dir, false);
        let interrupt = match self.interrupted_in {
            Some(_) => Interrupt::listen().unwrap(),
            None => Interrupt::never(),
        };
        let log = Log::new(move |event| {
            if self.interrupted_in.is_some_and(|id| tells_the_start_of(event, id)) {
                kill(Pid::this(), Signal::SIGTERM).unwrap();
            }
            if self.stopped_in.is_some_and(|id| tells_the_start_of(event, id)) {
                std::thread::sleep(Duration::from_secs(3));
            }
        });
        let store = Store::at(&self.store.unwrap_or_else(|| dir.join("store"))).unwrap();
        let ctx = Context::new(store, log, interrupt).unwrap();
        let wishes = Wishes {
            tests: TESTS.map(str::to_owned).to_vec(),
            repeat: self.repeat,
            ..Wishes::default()
        };
        let plan = plan::resolve(wishes, &["default"]).unwrap();
        let options = Options {
            timeout: Duration::from_secs(self.timeout.unwrap_or(60)),
            time_scale: self.time_scale.unwrap_or(1.0),
            seed: plan.seed,
            isolate: self.isolate,
            jobs: self.jobs.unwrap_or(1),
            repeat: plan.repeat,
            retry: self.retry.unwrap_or(0),
            snapshot: self.snapshot,
            trace: self.demanded.then_some(Switch::On),
            agent_dies: None,
            hold: None,
        };

        let began = Instant::now();
        carry_out(&ctx, &recipe(&ctx, dir), &plan, options, dir).await;
        let took = began.elapsed();
        // Whatever happened, and before anybody waits for anything.
        let left = processes_of(dir);
        assert!(left.is_empty(), "processes are left: {left:?}");

        let evidence = collect::evidence(dir).unwrap();
        let results = judge::judge(&evidence);
        Told { results, records: evidence.records, took, home }
    }
}

/// The part of `run-kernel-tests` that needs no kernel: what its last stage
/// does, and what is written down around it.
async fn carry_out(ctx: &Context, recipe: &Recipe, plan: &Plan, options: Options, dir: &Path) {
    ctx.log.record_in(dir).unwrap();
    fs::write(dir.join("plan.yaml"), serde_yaml::to_string(plan).unwrap()).unwrap();
    ctx.log.emit(Event::Layout(Known::Is(Layout::default())));
    ctx.log.emit(Event::Planned {
        tests: plan.tests.clone(),
        repeat: plan.repeat,
        not_applicable: Vec::new(),
    });
    let ran = run::tests(ctx, recipe, &plan.test_ids(), options, dir).await;
    ctx.log.emit(match ran.and_then(|()| ctx.log.check()) {
        Ok(()) => {
            let text = String::new();
            Event::StageFinished { stage: Stage::Run, ms: 1, reused: false, text }
        }
        Err(stop) => Event::Stopped { stop },
    });
}

/// A recipe of a kernel that nobody will boot.
pub(crate) fn recipe(ctx: &Context, dir: &Path) -> Recipe {
    let source = PatchedTree {
        tree: TreeId("0".repeat(40)),
        git: Git::of(&ctx.store).unwrap(),
        described: "a kernel that nobody boots".into(),
        version: (6, 12, 0),
        patches: Vec::new(),
        reused: false,
    };
    let configured = Configured {
        source,
        config: String::new(),
        config_sha256: String::new(),
        toolchain: String::new(),
        profile: "default".into(),
        requests_sha256: String::new(),
        reused: false,
    };
    let kernel = Kernel {
        configured,
        dir: dir.join("kernel"),
        release: "6.12.0-fake".into(),
        abi: Abi::default(),
        layout: Known::Is(Layout::default()),
        reused: false,
    };
    let image = Image {
        initrd: dir.join("initramfs.cpio"),
        initrd_key: "an initramfs".into(),
        exports: Vec::new(),
        prepare: Prepare::default(),
        attach: Attach::default(),
        rootfs: Rootfs::Initramfs,
    };
    let qemu = Qemu {
        path: dir.join("qemu"),
        version: "played".into(),
        build: String::new(),
        host: String::new(),
    };
    boot::recipe(&kernel, image, qemu, Accelerator::Tcg, None).unwrap()
}

fn tells_the_start_of(event: &Event, test: &str) -> bool {
    matches!(event, Event::Frame { sealed, .. }
        if matches!(&sealed.message, GuestMessage::Started { id, .. } if id == test))
}

/// The command lines of all processes that stem from the story in `dir`: it is
/// named in the arguments of keeper and shell and in the environment of what
/// they start.
pub(crate) fn processes_of(dir: &Path) -> Vec<String> {
    let name = dir.to_string_lossy();
    let names_it = |bytes: &[u8]| bytes.windows(name.len()).any(|w| w == name.as_bytes());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // Processes come and go, and a dead one has nothing to read.
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let words = read("cmdline");
        if names_it(&words) || names_it(&read("environ")) {
            found.push(String::from_utf8_lossy(&words).replace('\0', " "));
        }
    }
    found
}

/// What came of a story.
pub(crate) struct Told {
    pub(crate) results: Results,
    pub(crate) records: Vec<Record>,
    /// How long the run took.
    pub(crate) took: Duration,
    home: tempfile::TempDir,
}

impl Told {
    #[track_caller]
    pub(crate) fn exits(self, code: u8) -> Self {
        assert_eq!(self.results.exit_code, code, "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn verdicts(self, verdicts: [Verdict; 3]) -> Self {
        let found: Vec<Verdict> = self.results.tests.iter().map(|t| t.verdict).collect();
        assert_eq!(found, verdicts, "{self}");
        self
    }

    /// How many machines were started; each was also seen to its end.
    #[track_caller]
    pub(crate) fn machines(self, count: usize) -> Self {
        let started = |r: &&Record| matches!(r.event, Event::VmStarted { .. });
        assert_eq!(self.records.iter().filter(started).count(), count, "{self}");
        assert_eq!(self.ends().len(), count, "{self}");
        self
    }

    /// What the run's reason says, if it has one.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        let reason = self.results.reason.clone().unwrap_or_default();
        assert!(reason.contains(words), "no {words:?} in {self}");
        self
    }

    /// The run needs no reason.
    #[track_caller]
    pub(crate) fn says_nothing(self) -> Self {
        assert_eq!(self.results.reason, None, "{self}");
        self
    }

    /// What a test's reason says.
    #[track_caller]
    pub(crate) fn because(self, id: &str, words: &str) -> Self {
        assert!(self.test(id).reason.contains(words), "no {words:?} in {self}");
        self
    }

    /// What the person at the terminal was told on the way.
    #[track_caller]
    pub(crate) fn notes(self, words: &[&str]) -> Self {
        let notes = self.notes_made();
        assert_eq!(notes.len(), words.len(), "{self}");
        let all = notes.iter().zip(words).all(|(note, words)| note.contains(words));
        assert!(all, "no {words:?} in {notes:?}");
        self
    }

    /// How often a test had its turn.
    #[track_caller]
    pub(crate) fn attempts(self, id: &str, count: u32) -> Self {
        assert_eq!(self.test(id).attempts, count, "{self}");
        self
    }

    pub(crate) fn test(&self, id: &str) -> &TestResult {
        self.results.tests.iter().find(|t| t.id == id).unwrap()
    }

    /// Why each machine was over.
    pub(crate) fn ends(&self) -> Vec<&VmEnd> {
        self.records
            .iter()
            .filter_map(|r| match &r.event {
                Event::VmEnded { end, .. } => Some(end),
                _ => None,
            })
            .collect()
    }

    /// The text of a file of the run, if there is one.
    pub(crate) fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.home.path().join(name)).ok()
    }

    /// The size of a file of the run, in bytes.
    pub(crate) fn size_of(&self, file: &str) -> u64 {
        fs::metadata(self.home.path().join(file)).unwrap().len()
    }

    /// The names of what it has saved, and of what it has begun to save.
    pub(crate) fn saved(&self) -> Vec<String> {
        entries(&self.home.path().join("store/snapshots"))
    }

    /// Which machines were restored, in the order of their starts.
    pub(crate) fn restored(&self) -> Vec<bool> {
        self.records
            .iter()
            .filter_map(|r| match r.event {
                Event::VmStarted { restored, .. } => Some(restored),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn notes_made(&self) -> Vec<&str> {
        self.records
            .iter()
            .filter_map(|r| match &r.event {
                Event::Note { text } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}

/// The names of what a directory holds.
pub(crate) fn entries(dir: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    fs::read_dir(dir).unwrap().flatten().map(name).collect()
}

/// All that helps to see why a story came out otherwise.
impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Results { exit_code, reason, tests, kernel_events, .. } = &self.results;
        writeln!(f, "a run that exits with {exit_code}, took {:?}: {reason:?}", self.took)?;
        for test in tests {
            let TestResult { id, verdict, attempts, reason, .. } = test;
            writeln!(f, "  {id} {verdict}, {attempts} turns: {reason}")?;
        }
        for event in kernel_events {
            writeln!(f, "  outside of any test: {}", event.title)?;
        }
        for end in self.ends() {
            writeln!(f, "  a machine is over: {}", end.words())?;
        }
        for note in self.notes_made() {
            writeln!(f, "  note: {note}")?;
        }
        let console = fs::read(self.home.path().join("console.log")).unwrap_or_default();
        let tail = &console[console.len().saturating_sub(2000)..];
        write!(f, "  the console's end: {}", String::from_utf8_lossy(tail))
    }
}
