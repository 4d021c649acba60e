//! `completions`: what a shell needs to complete our commands and options.

use clap::{Command, CommandFactory as _};

use crate::cli::{Cli, CompletionsArgs};
use crate::progress::stream;
use crate::stop::Stop;

/// Runs the command.
///
/// # Errors
/// When it cannot be printed.
pub fn run(args: &CompletionsArgs) -> Result<u8, Stop> {
    let mut script = Vec::new();
    let mut command = shown(&Cli::command());
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    stream(|out| Ok(out.write_all(&script)?))?;
    Ok(0)
}

/// What of a command is shown: `clap_complete` offers hidden options, too.
fn shown(command: &Command) -> Command {
    let about = command.get_about().cloned().unwrap_or_default();
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned();
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    let shown = Command::new(command.get_name().to_owned())
        .about(about)
        .disable_help_subcommand(true)
        .args(args)
        .subcommands(commands.map(self::shown));
    match command.get_version() {
        Some(version) => shown.version(version.to_owned()),
        None => shown,
    }
}
