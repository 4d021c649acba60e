//! Installs what is missing, by apt.
//!
//! Nothing is installed unasked, and nothing is removed but other parts of
//! the distribution's own QEMU, which are of one version or not at all.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::Context as _;

use super::needs::{Missing, program};
use crate::context::Context;
use crate::proc::{Cmd, Ended};
use crate::progress;
use crate::stop::{Fault, Stop};

/// Where apt keeps its lists of packages.
const LISTS: &str = "/var/lib/apt/lists";

/// Installs the packages of `lacking`: at once with `yes`, else after asking
/// on the terminal.
///
/// # Errors
/// [`Stop::Machine`] when there is nobody to ask, the answer is no, apt would
/// remove something, it fails, or root cannot be had; its hint is the command.
pub async fn install(ctx: &Context, yes: bool, lacking: &[Missing]) -> Result<(), Stop> {
    let packages: BTreeSet<&str> = lacking.iter().map(|m| m.need.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = lacking.iter().map(|m| m.need.name).collect();
    let lacks = format!("this machine lacks {}", names.join(", "));
    let words = packages.iter().copied().collect::<Vec<_>>().join(" ");
    if program("apt-get").is_none() {
        return Err(Stop::Machine(
            Fault::new(format!("{lacks}, and has no apt-get"))
                .hint(format!("install what Debian has in: {words}")),
        ));
    }
    let root = nix::unistd::geteuid().is_root();
    let install = {
        let apt = "env DEBIAN_FRONTEND=noninteractive apt-get";
        let sudo = if root { "" } else { "sudo -n " };
        format!("{sudo}{apt} install --yes --no-install-recommends {words}")
    };
    let update = format!("{}apt-get update", if root { "" } else { "sudo -n " });

    let mut stale = !has_lists(Path::new(LISTS));
    if !stale {
        match dry_run(ctx, &packages).await? {
            Plan::Unknown => stale = true,
            Plan::Removes(removed) => return Err(refuse(&lacks, &removed, &install)),
            Plan::Clean => {}
        }
    }
    let whole = if stale { format!("{update} && {install}") } else { install.clone() };
    if !yes && !ask(ctx, &lacks, &whole).await? {
        return Err(Stop::Machine(Fault::new(lacks).hint(whole)));
    }
    if stale {
        run(ctx, &update).await?;
        match dry_run(ctx, &packages).await? {
            Plan::Clean => {}
            Plan::Removes(removed) => return Err(refuse(&lacks, &removed, &install)),
            Plan::Unknown => {
                return Err(Stop::Machine(
                    Fault::new(format!("{lacks}, and apt does not know one of {words}"))
                        .hint("add Debian's main archive to apt's sources"),
                ));
            }
        }
    }
    run(ctx, &install).await?;
    match lacking.iter().find(|lacked| lacked.need.found().is_none()) {
        None => Ok(()),
        Some(still) => Err(Stop::Machine(
            Fault::new(format!("{} is still missing after {install}", still.need.name))
                .hint("hmm-harness doctor"),
        )),
    }
}

/// What apt would do.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Install and upgrade, and remove nothing that matters.
    Clean,
    /// Remove these.
    Removes(Vec<String>),
    /// It does not know one of the packages.
    Unknown,
}

async fn dry_run(ctx: &Context, packages: &BTreeSet<&str>) -> Result<Plan, Stop> {
    let mut lines = Vec::new();
    let command = Cmd::new("apt-get").args(["--simulate", "install", "--no-install-recommends"]);
    let ended =
        command.args(packages).run(&ctx.interrupt, |line| lines.push(line.to_owned())).await?;
    if !ended.success() && !unknown(&lines) {
        return Err(failed("apt-get --simulate install", ended));
    }
    let mut others = Vec::new();
    for name in removed(&lines) {
        if !is_part_of_qemu(ctx, &name).await? {
            others.push(name);
        }
    }
    Ok(match (unknown(&lines), others.is_empty()) {
        (true, _) => Plan::Unknown,
        (false, true) => Plan::Clean,
        (false, false) => Plan::Removes(others),
    })
}

/// Whether apt says that it does not know a package, or cannot have it: also
/// what stale lists lead to.
fn unknown(lines: &[String]) -> bool {
    let says = ["Unable to locate package", "has no installation candidate"];
    lines.iter().any(|line| says.iter().any(|s| line.contains(s)))
}

/// The packages that a dry run would remove: `Remv qemu-utils [1:7.2]`.
fn removed(lines: &[String]) -> Vec<String> {
    let name = |line: &String| {
        let name = line.strip_prefix("Remv ")?.split_whitespace().next()?;
        Some(name.split(':').next().unwrap_or(name).to_owned())
    };
    lines.iter().filter_map(name).collect()
}

/// Whether a package comes from the same source package as QEMU: such parts
/// need each other in one version.
async fn is_part_of_qemu(ctx: &Context, name: &str) -> Result<bool, Stop> {
    if !name.starts_with("qemu-") {
        return Ok(false);
    }
    let mut source = String::new();
    let command = Cmd::new("dpkg-query").args(["--show", "--showformat=${source:Package}\n", name]);
    let ended = command.run(&ctx.interrupt, |line| line.clone_into(&mut source)).await?;
    Ok(ended.success() && source == "qemu")
}

fn refuse(lacks: &str, removed: &[String], install: &str) -> Stop {
    let removed = removed.join(", ");
    Stop::Machine(
        Fault::new(format!("{lacks}, and apt would remove {removed} for it"))
            .hint(format!("if that is all right: {}", install.replace("--yes ", ""))),
    )
}

/// Whether apt has any list of packages.
fn has_lists(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// Asks on the terminal. Nobody there is a no.
async fn ask(ctx: &Context, lacks: &str, command: &str) -> Result<bool, Stop> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(false);
    }
    // A question is no event: it is answered here and now.
    let _quiet = progress::pause();
    eprint!("{lacks}\n    {command}\nrun this? [y/N] ");
    std::io::stderr().flush().context("the terminal")?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        line = answer => line.context("the terminal")?.context("the terminal")?,
        () = ctx.interrupt.wait() => return Err(Stop::Interrupted),
    };
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Runs one of our own commands, which are words without quotes.
async fn run(ctx: &Context, command: &str) -> Result<(), Stop> {
    ctx.log.note(format!("running: {command}"));
    let mut words = command.split(' ');
    let program = words.next().expect("a command has a first word");
    let ended =
        Cmd::new(program).args(words).run(&ctx.interrupt, |line| ctx.log.line(line)).await?;
    if ended.success() { Ok(()) } else { Err(failed(command, ended)) }
}

fn failed(command: &str, ended: Ended) -> Stop {
    Stop::Machine(
        Fault::new(format!("`{command}` exits with {}", ended.code))
            .details(ended.tail.into_iter().rev().take(8).rev())
            .hint(format!("run it as root: {}", command.replace("sudo -n ", ""))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_a_dry_run_removes() {
        let said = lines(
            "Reading package lists...\nRemv qemu-utils [1:7.2+dfsg-7]\nRemv libfoo:i386 [1]\n\
             Inst qemu-system-x86 (1:7.2 Debian:12 [amd64])\nConf qemu-system-x86 (1:7.2)\n",
        );
        assert_eq!(removed(&said), ["qemu-utils", "libfoo"]);
        assert!(!unknown(&said));
    }

    #[test]
    fn what_stale_lists_say() {
        assert!(unknown(&lines("E: Unable to locate package bison\n")));
        assert!(unknown(&lines("E: Package 'bc' has no installation candidate\n")));
    }
}
