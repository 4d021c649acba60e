//! Commands in the guest of the kernel without a series, by `shell`.

use std::path::Path;

use anyhow::Context as _;

use crate::context::Context;
use crate::proc::Cmd;
use crate::report;
use crate::stop::Stop;

/// What the step is called.
pub(super) const NAME: &str = "shell, seven commands";

/// Says what is wrong, if anything is. `$0` is the program, `$1` what `uname -r`
/// must say.
const SCRIPT: &str = r#"
is() { [ "$2" = "$3" ] || { echo "$1 is $2, and not $3"; exit 1; }; }
"$0" shell -- sh -c 'exit 7'
is 'the exit code' $? 7
"$0" shell -- sh -c 'kill -9 $$'
is 'the exit code of a killed command' $? 137
is 'the release' "$("$0" shell -- uname -r)" "$1"
is 'what cat says' "$(echo hi | "$0" shell -- cat)" hi
is 'standard error' "$("$0" shell -- sh -c 'echo out; echo err >&2' 2>&1 >/dev/null)" err
is 'the code of one that reads nothing' "$(timeout 100 "$0" shell -- cat </dev/null; echo $?)" 0
head -c 1048576 /dev/urandom >bytes
is 'the sum of a MiB' "$("$0" shell -- cat <bytes | sha256sum)" "$(sha256sum <bytes)"
"#;

/// Runs them, and says what is wrong, if anything is. `clean` is the directory of
/// the run of that kernel.
///
/// # Errors
/// When they cannot be run.
pub(super) async fn run(
    ctx: &Context,
    program: &Path,
    clean: &Path,
) -> Result<Option<String>, Stop> {
    let home = tempfile::tempdir().context("make a temporary directory")?;
    let results = report::read(clean)?;
    let ended = Cmd::new("sh")
        .args(["-c", SCRIPT])
        .arg(program)
        .arg(&results.kernel.release)
        .env("HMM_HARNESS_CACHE", ctx.store.path(""))
        .dir(home.path())
        .run(&ctx.interrupt, |_| ())
        .await?;
    Ok((!ended.success()).then(|| ended.tail.join("\n")))
}
