//! `debug` on a kernel that crashes, with a script for gdb instead of a person.

use std::path::Path;

use crate::context::Context;
use crate::proc::Cmd;
use crate::rundir;
use crate::stop::Stop;

/// What the step is called.
pub(super) const NAME: &str = "debug, a kernel that crashes";

/// The plan whose run is debugged, and the test that crashes there.
pub(super) const PLAN: &str = "oops-in-ioctl";
const TEST: &str = "hmm.migrate_release.private";

/// Where the script stops: every command to the driver comes there.
const STOPS: &str = "dmirror_fops_unlocked_ioctl";

/// Debugs the run in `dir` and says what is wrong, if anything is: the test must be
/// held, do its step when the machine goes on, and leave its memory when it crashes.
///
/// # Errors
/// When the user stops us.
pub(super) async fn run(ctx: &Context, program: &Path, dir: &Path) -> Result<Option<String>, Stop> {
    let stop = format!("break {STOPS}");
    let script = [stop.as_str(), "continue", "backtrace", "delete", "continue", "backtrace"];
    let mut debug = Cmd::new(program)
        .arg("debug")
        .arg(dir)
        .args(["--test", TEST, "--", "-nx", "-batch"])
        .env("HMM_HARNESS_CACHE", ctx.store.path(""));
    for command in script {
        debug = debug.args(["-ex", command]);
    }
    let mut said = String::new();
    let ended = debug
        .run(&ctx.interrupt, |line| {
            said.push_str(line);
            said.push('\n');
        })
        .await?;
    let core = dir.join(rundir::DEBUG).join(rundir::VMCORE);
    let seen = [
        (format!("{TEST} is held before step"), "it is not held"),
        (format!("Breakpoint 1, {STOPS}"), "it does not come to the breakpoint"),
        ("__x64_sys_ioctl".to_owned(), "it is not known who called"),
        ("the guest has panicked".to_owned(), "it does not crash"),
        (core.display().to_string(), "nothing is said of its memory"),
    ];
    // gdb names a breakpoint with its address where there are no lines.
    let is_there = |words: &str| match words.split_once(", ") {
        Some((first, last)) => said.contains(first) && said.contains(last),
        None => said.contains(words),
    };
    let missing = seen.iter().find(|(words, _)| !is_there(words)).map(|(_, wrong)| *wrong);
    if let Some(wrong) = missing {
        return Ok(Some(format!("{wrong}:\n{said}")));
    }
    if ended.code != 0 {
        return Ok(Some(format!("it exits with {}:\n{said}", ended.code)));
    }
    read(ctx, &said, &core).await
}

/// What is wrong with the memory, read by the command that was told.
async fn read(ctx: &Context, told: &str, core: &Path) -> Result<Option<String>, Stop> {
    let core = core.display().to_string();
    let command = told.lines().find_map(|line| line.split_once("in its memory: "));
    let Some((_, command)) = command.filter(|(_, command)| command.contains(&core)) else {
        return Ok(Some(format!("no command reads {core}")));
    };
    let script = "-nx -batch -ex 'info threads' -ex 'thread apply all backtrace'";
    let mut said = String::new();
    Cmd::new("sh")
        .args(["-c", &format!("{command} {script}")])
        .run(&ctx.interrupt, |line| {
            said.push_str(line);
            said.push('\n');
        })
        .await?;
    let shows = said.contains("panic") && said.contains("oops_end");
    Ok((!shows).then(|| format!("its memory does not show where it crashed:\n{said}")))
}
