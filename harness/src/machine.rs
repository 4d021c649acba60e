//! What this machine can do for us: its QEMU, and whether KVM works in it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;

use crate::context::Context;
use crate::keeper::CANNOT_START;
use crate::packages::{self, Missing, State};
use crate::proc::{Cmd, Ended, gone};
use crate::stop::{Fault, Stop};
use crate::store::digest;

/// The program.
const QEMU: &str = "qemu-system-x86_64";

/// How long the firmware may take to speak under KVM. It speaks within
/// milliseconds where KVM works.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// How long QEMU may take to say its version.
const VERSION_DEADLINE: Duration = Duration::from_secs(20);

/// The exit codes that stand for SIGKILL and SIGTERM, which a program does not
/// send to itself.
const KILLED: i32 = 128 + 9;
const TERMINATED: i32 = 128 + 15;

/// The QEMU that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// Its path, or the name to be looked up.
    pub path: PathBuf,
    /// The version it tells of itself.
    pub version: String,
    /// The same with what its packager adds.
    pub build: String,
    /// What it runs on, processor and kernel: a guest's state depends on both,
    /// and so does the rate of its clock.
    pub host: String,
}

/// What the caller wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}

/// What the guest runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl Accelerator {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }

    /// QEMU's `-accel` argument.
    ///
    /// One thread emulates all processors. With a thread for each, QEMU 7.2 can
    /// lose what a processor stores into a device while another changes the memory
    /// map: seen on a guest that binds virtio-serial anew while it moves another
    /// device's registers. A boot changes that map too, while it looks for PCI
    /// devices.
    pub fn argument(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=single",
        }
    }

    /// QEMU's `-cpu` argument.
    pub fn cpu(self) -> &'static str {
        match self {
            Accelerator::Kvm => "host,la57=off",
            Accelerator::Tcg => "max,la57=off",
        }
    }

    /// By how much deadlines are longer than on hardware.
    pub fn time_scale(self) -> f64 {
        match self {
            Accelerator::Kvm => 1.0,
            Accelerator::Tcg => 3.0,
        }
    }
}

/// Makes sure that the machine has what every run needs: installs packages, as
/// far as that is allowed, and looks at the rest.
///
/// # Errors
/// [`Stop::Machine`] with everything that is still lacking.
pub async fn ready(ctx: &Context, yes: bool) -> Result<(), Stop> {
    let missing = packages::missing();
    if !missing.is_empty() {
        packages::install(ctx, yes, &missing).await?;
    }
    let lacks: Vec<String> = packages::survey(&ctx.store)
        .into_iter()
        .filter_map(|finding| match finding.state {
            State::Bad { why, mend } => Some(format!("{}: {why}; {mend}", finding.what)),
            State::Good(_) => None,
        })
        .collect();
    if lacks.is_empty() {
        return Ok(());
    }
    Err(Stop::Machine(Fault::new("this machine lacks what a run needs").details(lacks)))
}

/// Makes sure that there is a gdb, as [`ready`] does for what every run needs.
///
/// # Errors
/// [`Stop::Machine`] when there is none and it may not or cannot be installed.
pub async fn debugger(ctx: &Context, yes: bool) -> Result<(), Stop> {
    if packages::GDB.found().is_some() {
        return Ok(());
    }
    packages::install(ctx, yes, &[Missing { need: packages::GDB }]).await
}

/// Asks QEMU for its version.
///
/// # Errors
/// [`Stop::Machine`] when there is none.
pub async fn qemu(ctx: &Context) -> Result<Qemu, Stop> {
    let no_use =
        |what: String, details: Vec<String>| {
            Stop::Machine(Fault::new(what).details(details).hint(
                "hmm-harness doctor says what else is missing, and the command for all of it",
            ))
        };
    let (mut version, mut build) = (None, String::new());
    let cmd = Cmd::new(QEMU).arg("--version");
    let asked = cmd.run(&ctx.interrupt, |line| {
        if let Some(told) = line.strip_prefix("QEMU emulator version ") {
            version = told.split(' ').next().map(str::to_owned);
            build = told.to_owned();
        }
    });
    let Ok(ended) = tokio::time::timeout(VERSION_DEADLINE, asked).await else {
        return Err(no_use(format!("{QEMU} --version does not end"), Vec::new()));
    };
    match (ended, version) {
        (Err(Stop::Interrupted), _) => Err(Stop::Interrupted),
        (Err(error), _) => Err(no_use(format!("{QEMU} cannot be asked: {error}"), Vec::new())),
        (Ok(ended), Some(version)) if ended.success() => {
            Ok(Qemu { path: QEMU.into(), version, build, host: host() })
        }
        (Ok(Ended { code, tail }), _) if i32::from(CANNOT_START) != code => {
            let what = format!("{QEMU} --version ended with {code} and told none");
            Err(no_use(what, tail))
        }
        (Ok(Ended { tail, .. }), _) => {
            Err(no_use(format!("{QEMU} cannot be started on this machine"), tail))
        }
    }
}

/// Model and features of the processor, a line each, and the kernel's version.
fn host() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/version").unwrap_or_default();
    let names = ["model name", "microcode", "flags"];
    let of_interest = |line: &&str| names.iter().any(|name| line.starts_with(name));
    let lines = cpus.lines().filter(of_interest).take(names.len());
    lines.chain([kernel.trim()]).collect::<Vec<_>>().join("\n")
}

/// How many VMs may run at the same time when nobody says: as many as there are
/// processors, since a test keeps one of them busy, and as fit into the memory
/// that is free now.
pub fn jobs(memory_mib: u32) -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    jobs_of(processors, &fs::read_to_string("/proc/meminfo").unwrap_or_default(), memory_mib)
}

/// The same of a machine with so many processors and this `/proc/meminfo`.
fn jobs_of(processors: usize, meminfo: &str, memory_mib: u32) -> u32 {
    let available_kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let fit = available_kib / 1024 / u64::from(memory_mib);
    u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, u32::try_from(processors).unwrap_or(1).max(1))
}

/// Decides what the guest runs on.
///
/// # Errors
/// [`Stop::Machine`] when KVM is demanded and does not work.
pub async fn accelerator(ctx: &Context, qemu: &Qemu, wish: Accel) -> Result<Accelerator, Stop> {
    if wish == Accel::Tcg {
        return Ok(Accelerator::Tcg);
    }
    match kvm_fault(ctx, qemu, false).await? {
        None => Ok(Accelerator::Kvm),
        Some(_) if wish == Accel::Auto => Ok(Accelerator::Tcg),
        Some(why) => Err(Stop::Machine(
            Fault::new(format!("KVM does not work here: {why}"))
                .hint("hmm-harness doctor tries again; --accel tcg is slower and works anywhere"),
        )),
    }
}

/// What is wrong with KVM here, or nothing. `/dev/kvm` may open, and even make a
/// virtual machine, and yet the guest never runs: only the firmware's own words
/// on its debug port prove that one does. The answer is remembered for this
/// boot of the host, unless it is to be found out `anew`.
///
/// # Errors
/// When QEMU cannot be started, or the user stops us.
pub async fn kvm_fault(ctx: &Context, qemu: &Qemu, anew: bool) -> Result<Option<String>, Stop> {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Ok(Some(format!("/dev/kvm: {error}")));
    }
    let boot = fs::read("/proc/sys/kernel/random/boot_id").context("/proc is not mounted")?;
    let key = digest([boot.as_slice(), qemu.version.as_bytes(), qemu.host.as_bytes()]);
    let remembered = format!("kvm/{}", &key[..20]);
    if let Some(answer) = ctx.store.read(&remembered)?.filter(|_| !anew) {
        return Ok(Some(answer).filter(|a| !a.is_empty()));
    }
    Ok(match firmware(ctx, qemu).await? {
        Firmware::Speaks => {
            ctx.store.write(&remembered, "")?;
            None
        }
        Firmware::Silent(why) => {
            ctx.store.write(&remembered, &why)?;
            Some(why)
        }
        Firmware::Killed => Some("somebody killed the QEMU that should find out".into()),
    })
}

/// What became of a machine without a kernel.
enum Firmware {
    /// Its firmware ran.
    Speaks,
    /// Nothing ran in it: why, as far as that was told.
    Silent(String),
    /// It was killed from outside, which says nothing of it.
    Killed,
}

/// Starts a machine like ours without a kernel and listens to its firmware.
async fn firmware(ctx: &Context, qemu: &Qemu) -> Result<Firmware, Stop> {
    let accelerator = Accelerator::Kvm;
    let mut child = Cmd::new(&qemu.path)
        .args(["-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-accel", accelerator.argument(), "-cpu", accelerator.cpu(), "-smp", "2"])
        .args(["-chardev", "stdio,id=debug", "-device", "isa-debugcon,iobase=0x402,chardev=debug"])
        .spawn(Vec::new())?;
    let keeper_end = child.stdin.take();
    let mut words = child.stdout.take().expect("piped by spawn");
    let mut errors = child.stderr.take().expect("piped by spawn");
    let mut first = [0u8; 64];
    let mut said = vec![0u8; 512];
    let word = tokio::select! {
        read = words.read(&mut first) => Some(matches!(read, Ok(1..))),
        () = tokio::time::sleep(PROBE_DEADLINE) => None,
        () = ctx.interrupt.wait() => return Err(Stop::Interrupted),
    };
    drop(keeper_end);
    let ended = gone(&mut child).await.context("waiting for the probe of KVM")?;
    if word == Some(true) {
        return Ok(Firmware::Speaks);
    }
    let n = errors.read(&mut said).await.unwrap_or(0);
    let said = String::from_utf8_lossy(&said[..n]).trim().replace('\n', "; ");
    let said = if said.is_empty() { said } else { format!(" ({said})") };
    Ok(match (word, ended.code()) {
        (None, _) => {
            let seconds = PROBE_DEADLINE.as_secs();
            Firmware::Silent(format!("no word of the firmware within {seconds} s{said}"))
        }
        // Without a code it was its keeper that somebody killed.
        (Some(_), None | Some(KILLED | TERMINATED)) => Firmware::Killed,
        (Some(_), _) => Firmware::Silent(format!("QEMU ended at once, with {ended}{said}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_jobs_as_processors_and_memory_allow() {
        let free = |mib: u64| format!("MemTotal: 1 kB\nMemAvailable:   {} kB\n", mib * 1024);
        assert_eq!(jobs_of(4, &free(100_000), 2048), 4);
        assert_eq!(jobs_of(4, &free(3 * 2048), 2048), 3);
        assert_eq!(jobs_of(4, &free(2048 - 1), 2048), 1, "one is always tried");
        assert_eq!(jobs_of(4, "", 2048), 1);
        assert_eq!(jobs_of(0, &free(100_000), 2048), 1);
    }
}
