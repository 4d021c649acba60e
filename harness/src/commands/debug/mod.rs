//! `debug`: a test of a saved run in the same kernel again, held before the step that
//! failed, with gdb on the machine.
//!
//! What comes of it is no judgement. It is kept in the run's directory, beside the
//! evidence: the console, and if the kernel crashes what it had in its memory.

mod gdb;
mod step;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use hmm_protocol::{TestId, catalogue};
use tokio::time::{Instant, timeout_at};

use self::gdb::Subject;
use self::step::Before;
use super::run_kernel_tests::{Bootable, Permissions, bootable, prepare};
use crate::cli::DebugArgs;
use crate::collect::Evidence;
use crate::context::Session;
use crate::events::VmEnd;
use crate::flow::Stage;
use crate::keeper::CANNOT_START;
use crate::plan::{Isolate, Wishes};
use crate::progress::{self, Talk, print, say};
use crate::results::{KernelInfo, Results, TestResult};
use crate::run::{Held, Options, Seen};
use crate::stop::{AS_EXPECTED, Fault, Problem, Stop};
use crate::terminal::Kept;
use crate::vm::Consoles;
use crate::words::line;
use crate::{boot, collect, judge, machine, proc, run, rundir};

/// How long is waited, when gdb has ended, for what the machine still has to say.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// Runs the command.
///
/// # Errors
/// What is wrong with the request, or why the kernel does not come to the step.
pub async fn run(session: &Session, args: &DebugArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let dir = rundir::find(&args.run, &cwd).map_err(Stop::usage)?;
    let problem =
        |what: String, hint: String| Err(Stop::usage(Problem::new("RUN", what).hint(hint)));
    if rundir::is_live(&dir) {
        return problem(format!("{} is still going", dir.display()), "wait for its end".into());
    }
    let each = dir.join(rundir::EACH);
    if each.is_dir() {
        let hint = format!("name one of those in {}", each.display());
        return problem(format!("{} is several runs", dir.display()), hint);
    }
    let evidence = collect::evidence(&dir)?;
    let results = judge::judge(&evidence);
    let (test, result, before) = chosen(&evidence, &results, &args.test)?;
    let prepared = prepare(Wishes::default(), Some(&dir.join("plan.yaml")), &cwd)?;

    // What happens to the machine is told below, in the words of a session.
    let log = progress::log(Talk::Little, Talk::Little);
    let session = &Session { log, interrupt: session.interrupt.clone() };
    let (own, _held) = rundir::create(Some(&dir.join(rundir::DEBUG)), &cwd)?;
    session.log.record_in(&own)?;
    let ctx = &session.context()?;
    let with_gdb = !args.gdb.is_empty() || (!args.no_gdb && std::io::stdin().is_terminal());
    if with_gdb {
        machine::debugger(ctx, args.yes).await?;
    }
    let permissions = Permissions { yes: args.yes, ..Permissions::default() };
    let same = |now: &KernelInfo| is_that_of(&results.kernel, now);
    let Bootable { kernel, image, qemu, accelerator } =
        bootable(ctx, &prepared, permissions, &own, same)
            .await?
            .expect("a run that has tests went on to them");
    let other = (accelerator.as_str() != results.machine.accelerator).then(|| {
        let then = line(&results.machine.accelerator);
        format!("note     the run was with {then}, and this is with {}", accelerator.as_str())
    });
    let recipe = boot::recipe(&kernel, image, qemu, accelerator, prepared.plan().trace)?;
    let hold = Some(before.step);
    let options = Options { isolate: Isolate::Vm, hold, ..prepared.options(accelerator) };
    // Whoever may connect to it owns the machine: nobody else gets to this directory.
    let private = tempfile::tempdir().context("make a temporary directory")?;
    let socket = private.path().join("gdb");
    let consoles = Consoles::create(&own)?;
    let held = run::hold(ctx, &recipe, &test, &options, &consoles, &socket).await?;
    let unwinder = own.join(rundir::UNWINDER);
    std::fs::write(&unwinder, gdb::UNWINDER)
        .with_context(|| format!("cannot write {}", unwinder.display()))?;
    let mut debugged = Debugged {
        held,
        kernel: Subject { image: kernel.vmlinux(), has: kernel.debugger(), unwinder },
        core: own.join(rundir::VMCORE),
        dumped: false,
        gone: None,
    };
    // From here on the screen is gdb's.
    progress::close(true);
    if let Some(other) = other {
        say(other);
    }
    say(stands(result, &before));
    if !debugged.kernel.has.debug_info {
        say("note     this kernel has no debug info: gdb knows its functions, and neither lines \
             nor types; run-kernel-tests --profile debug makes one that has it");
    }
    let gdb = gdb::live(&debugged.kernel, &socket, &args.gdb);
    let ended =
        if with_gdb { debugged.by(&gdb, session).await } else { debugged.by_others(&gdb).await };
    let Debugged { held, gone, .. } = debugged;
    // Whoever has it does not need it any more.
    held.end(gone.unwrap_or(VmEnd::Interrupted)).await;
    ended?;
    ctx.log.check()?;
    Ok(AS_EXPECTED)
}

/// The test that is asked for, what came of it, and where it is to be held.
fn chosen<'r>(
    evidence: &Evidence,
    results: &'r Results,
    word: &str,
) -> Result<(TestId, &'r TestResult, Before), Stop> {
    let problem = |what: String, hint: String| Stop::usage(Problem::new("--test", what).hint(hint));
    let named = |test: &&TestResult| test.id == word || test.name == word;
    let of_it: Vec<&TestResult> = results.tests.iter().filter(named).collect();
    let result = match of_it.as_slice() {
        [result] => *result,
        [] => {
            let hint = "`show` lists the tests of the run".to_owned();
            return Err(problem(format!("the run has no test {word}"), hint));
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|test| test.id.as_str()).collect();
            return Err(problem(format!("{word} is several tests"), ids.join(", ")));
        }
    };
    let test = catalogue::all().into_iter().find(|test| test.to_string() == result.id);
    let before = step::before(&evidence.records, result, results.baseline.as_ref());
    test.zip(before).map(|(test, before)| (test, result, before)).ok_or_else(|| {
        let hint = "run it: run-kernel-tests --test ID".to_owned();
        problem(format!("{} had no turn in this run", result.id), hint)
    })
}

/// Whether what is known of the kernel is so of the one that the run was about.
///
/// # Errors
/// What is not.
fn is_that_of(then: &KernelInfo, now: &KernelInfo) -> Result<(), Stop> {
    let hint = "run the test again, and debug that run";
    let other = |what: &str| Err(Stop::usage(Problem::new("RUN", what).hint(hint)));
    // The tree is that with the series in it as soon as there is a configuration.
    if now.config_sha256.is_empty() {
        return Ok(());
    }
    if now.tree != then.tree {
        return other("the source of this run has another content now");
    }
    if now.config_sha256 != then.config_sha256 {
        return other("its profile or the compiler makes another configuration now");
    }
    if !now.loaded_sha256.is_empty() && now.loaded_sha256 != then.loaded_sha256 {
        let what = "the same source and configuration make another kernel now";
        return Err(Stop::Kernel(Fault::new(what).at(Stage::Build).hint(hint)));
    }
    Ok(())
}

/// Where the machine stands, in words.
fn stands(result: &TestResult, before: &Before) -> String {
    let Before { step, text, why } = before;
    let text = text.as_ref().map(|text| format!(" ({})", line(text))).unwrap_or_default();
    format!("debug    {} is held before step {step}{text}, {why}", result.id)
}

/// A machine that a debugger has.
struct Debugged<'a> {
    held: Held<'a>,
    kernel: Subject,
    core: PathBuf,
    dumped: bool,
    gone: Option<VmEnd>,
}

impl Debugged<'_> {
    /// Lets gdb have the machine until it ends.
    async fn by(&mut self, gdb: &proc::Cmd, session: &Session) -> Result<(), Stop> {
        // What is typed there is gdb's, and so is Ctrl-C.
        let at_terminal = std::io::stdin().is_terminal();
        let _lent = at_terminal.then(|| session.interrupt.lend_keyboard());
        // One that is killed leaves it as it had made it.
        let _kept = at_terminal.then(Kept::begin).transpose()?;
        let mut child = gdb.spawn_at_terminal()?;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.context("waiting for gdb")?,
                seen = self.held.next(), if self.gone.is_none() => self.take(seen).await,
                () = session.interrupt.wait() => {
                    proc::end_gently(&mut child).await.context("waiting for gdb")?;
                    return Err(Stop::Interrupted);
                }
            }
        };
        if status.code() == Some(i32::from(CANNOT_START)) {
            return Err(Stop::Machine(Fault::new("gdb cannot be started: it says why above")));
        }
        // A script may have ended before we heard how its last command did.
        let until = Instant::now() + LAST_LOOK;
        while self.gone.is_none()
            && let Ok(seen) = timeout_at(until, self.held.next()).await
        {
            match seen {
                Seen::Interrupted => return Err(Stop::Interrupted),
                // It goes on without gdb until it is ended, which is nobody's news.
                Seen::Step(..) | Seen::Over(_) => {}
                seen => self.take(seen).await,
            }
        }
        Ok(())
    }

    /// Waits until whoever wants to has done with the machine.
    async fn by_others(&mut self, gdb: &proc::Cmd) -> Result<(), Stop> {
        print(&format!("{}\n", gdb.pasteable()))?;
        say("debug    the machine waits for that command; Ctrl-C ends it");
        while self.gone.is_none() {
            let seen = self.held.next().await;
            match seen {
                // That is how it is ended.
                Seen::Interrupted => break,
                seen => self.take(seen).await,
            }
        }
        Ok(())
    }

    /// Tells what happened, and keeps the memory of a guest that has crashed.
    async fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Step(number, text) => {
                say(format_args!("debug    step {number}: {}", line(&text)))
            }
            Seen::Over(how) => say(format_args!("debug    {}", line(&how))),
            Seen::Complaint(title) => {
                say(format_args!("debug    the kernel says: {}", line(&title)))
            }
            Seen::Stands(why) => {
                say(format_args!("debug    {why}"));
                if !std::mem::replace(&mut self.dumped, true) {
                    self.dump().await;
                }
            }
            Seen::Gone(end) => {
                // That is how gdb ends what it has.
                if !matches!(end, VmEnd::QemuGone { code: 0, .. }) {
                    say(format_args!("debug    the machine is gone: {}", end.words()));
                }
                self.gone = Some(end);
            }
            // Whoever waits for it sees to it.
            Seen::Interrupted => {}
        }
    }

    async fn dump(&mut self) {
        match self.held.dump(&self.core).await {
            Ok(()) => {
                let read = gdb::dumped(&self.kernel, &self.core).pasteable();
                say(format_args!("debug    what it had in its memory: {read}"));
            }
            Err(why) => say(format_args!("note     {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_of_the_run_is_debugged() {
        let then = KernelInfo {
            tree: "t".into(),
            config_sha256: "c".into(),
            loaded_sha256: "l".into(),
            ..KernelInfo::default()
        };
        let code = |change: &dyn Fn(&mut KernelInfo)| {
            let mut now = then.clone();
            change(&mut now);
            is_that_of(&then, &now).map_err(|stop| stop.exit_code()).err()
        };
        assert_eq!(code(&|_| ()), None);
        assert_eq!(code(&|now| now.loaded_sha256.clear()), None);
        assert_eq!(code(&|now| now.tree = "other".into()), Some(128));
        assert_eq!(code(&|now| now.config_sha256 = "other".into()), Some(128));
        assert_eq!(code(&|now| now.loaded_sha256 = "other".into()), Some(125));
        // Before the series is in it, the tree is another one.
        let early = KernelInfo { tree: "source".into(), ..KernelInfo::default() };
        assert_eq!(is_that_of(&then, &early), Ok(()));
    }
}
