//! Which compiler and linker this machine has: part of every key.

use tokio::sync::OnceCell;

use crate::context::Context;
use crate::flow::Stage;
use crate::proc::Cmd;
use crate::stop::{Fault, Stop};

/// The programs that decide what an object looks like. make's own defaults
/// for `CC` and `LD` are these.
const PROGRAMS: [&str; 2] = ["gcc", "ld"];

/// The identity of compiler and linker: the first line of each one's
/// `--version`. Asked once for each run of the harness.
///
/// # Errors
/// [`Stop::Machine`] when one of them is missing or does not work.
pub async fn toolchain(ctx: &Context) -> Result<String, Stop> {
    static KNOWN: OnceCell<String> = OnceCell::const_new();
    KNOWN.get_or_try_init(|| ask(ctx)).await.cloned()
}

async fn ask(ctx: &Context) -> Result<String, Stop> {
    let mut versions = Vec::new();
    for program in PROGRAMS {
        let mut first = None;
        let broken = |why: String| {
            Stop::Machine(
                Fault::new(format!("{program} does not work: {why}"))
                    .at(Stage::Config)
                    .hint("hmm-harness doctor"),
            )
        };
        let ended = Cmd::new(program)
            .arg("--version")
            .run(&ctx.interrupt, |line| {
                first.get_or_insert_with(|| line.to_owned());
            })
            .await
            .map_err(|stop| match stop {
                Stop::Machine(fault) => broken(fault.what),
                other => other,
            })?;
        match first {
            Some(line) if ended.success() => versions.push(line),
            _ => return Err(broken(format!("`{program} --version` exits with {}", ended.code))),
        }
    }
    Ok(versions.join("; "))
}
