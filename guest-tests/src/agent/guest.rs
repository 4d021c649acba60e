//! The guest's file systems, settings and devices.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hmm_protocol::wire::{Attach, Mount, Prepare, Setting};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::personality::{self, Persona};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::{chdir, chroot};

/// Where the root that tests see is put together, in the initramfs.
const ROOT: &str = "/newroot";

/// Where the test binary is executed, in that root; on tmpfs.
pub(crate) const TESTS: &str = "/run/hmm-tests";

/// What the agent itself needs before it can hear anything: its port's device
/// node and name. Addresses are not randomised from here on, for every process
/// of the guest, so that traces are the same from run to run.
pub(crate) fn bootstrap() -> Result<(), String> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let needed = Mount { at: at.into(), kind: kind.into(), ..Mount::default() };
        mount_one(Path::new("/"), &needed).map_err(|(what, why)| format!("{what}: {why}"))?;
    }
    personality::get()
        .and_then(|now| personality::set(now | Persona::ADDR_NO_RANDOMIZE))
        .map_err(|e| format!("personality: {e}"))?;
    Ok(())
}

/// `uname -r`.
pub(crate) fn release() -> String {
    nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Mounts, links and settings; then enters the root. Needs nothing of the host,
/// so that the guest's state can be saved afterwards.
pub(crate) fn prepare(prepare: &Prepare) -> Result<(), (String, String)> {
    let root = Path::new(ROOT);
    let mut mounts = prepare.mounts.iter();
    if let Some(first) = mounts.next() {
        mount_one(root, first)?;
    }
    for (link, target) in &prepare.links {
        let place = below(root, link);
        std::os::unix::fs::symlink(target, &place)
            .map_err(|e| (format!("link {link}"), e.to_string()))?;
    }
    for one in mounts {
        mount_one(root, one)?;
    }
    chroot(root).and_then(|()| chdir("/")).map_err(|e| ("enter the root".into(), e.to_string()))?;
    make_device_nodes().map_err(|why| ("make the device nodes".into(), why))?;
    write_settings(&prepare.settings)
}

/// Mounts what comes from the host and puts the test binary in its place.
pub(crate) fn attach(attach: &Attach) -> Result<(), (String, String)> {
    for one in &attach.mounts {
        mount_one(Path::new("/"), one)?;
    }
    fs::copy(&attach.tests, TESTS)
        .and_then(|_| fs::set_permissions(TESTS, fs::Permissions::from_mode(0o755)))
        .map_err(|e| (format!("copy {} to {TESTS}", attach.tests), e.to_string()))?;
    write_settings(&attach.settings)
}

fn write_settings(settings: &[Setting]) -> Result<(), (String, String)> {
    for setting in settings {
        if setting.optional && !Path::new(&setting.path).exists() {
            continue;
        }
        OpenOptions::new()
            .write(true)
            .open(&setting.path)
            .and_then(|mut file| file.write_all(setting.value.as_bytes()))
            .map_err(|e| (format!("set {}", setting.path), e.to_string()))?;
    }
    Ok(())
}

/// What the files of settings read as now; those that are not there are left
/// out.
pub(crate) fn read_back<'a>(
    settings: impl IntoIterator<Item = &'a Setting>,
) -> BTreeMap<String, String> {
    settings
        .into_iter()
        .filter_map(|setting| {
            let now = fs::read_to_string(&setting.path).ok()?;
            Some((setting.path.clone(), now.trim().to_owned()))
        })
        .collect()
}

/// `/proc/sys/kernel/random/boot_id`.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// How long ago the kernel booted, in microseconds.
pub(crate) fn uptime_us() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(|now| Duration::from(now).as_micros())
        .ok()
        .and_then(|us| u64::try_from(us).ok())
        .unwrap_or_default()
}

/// Takes over the host's time of day. Tests measure no wall clock, so a kernel
/// that refuses is as good.
pub(crate) fn set_time(unix_ms: u64) {
    let now = TimeSpec::from(Duration::from_millis(unix_ms));
    let _ = clock_settime(ClockId::CLOCK_REALTIME, now);
}

/// The names of the driver's nodes, in order.
pub(crate) fn devices() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("hmm_dmirror"))
        .collect();
    names.sort();
    names
}

/// Kernels before 6.1 register the driver without a device, so devtmpfs has no
/// nodes: make them from /proc/devices (`hmm_dmirror_init()` in
/// lib/test_hmm.c: two minors before 6.0, four since).
fn make_device_nodes() -> Result<(), String> {
    if !devices().is_empty() {
        return Ok(());
    }
    let table = fs::read_to_string("/proc/devices").map_err(|e| format!("/proc/devices: {e}"))?;
    let major = table.lines().find_map(|line| {
        let (major, name) = line.trim().split_once(' ')?;
        (name.trim() == "HMM_DMIRROR").then(|| major.parse::<u64>().ok())?
    });
    let Some(major) = major else { return Ok(()) };
    for minor in 0..2 {
        let path = format!("/dev/hmm_dmirror{minor}");
        mknod(
            path.as_str(),
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o600),
            makedev(major, minor),
        )
        .map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(())
}

/// Mounts one file system below `root`.
fn mount_one(root: &Path, one: &Mount) -> Result<(), (String, String)> {
    let place = below(root, &one.at);
    let failed = |why: String| (format!("mount {} at {}", one.kind, one.at), why);
    match fs::create_dir_all(&place) {
        Ok(()) => {}
        // Where the kernel lacks it, its place in sysfs cannot be made either.
        Err(_) if one.optional => return Ok(()),
        Err(e) => return Err(failed(e.to_string())),
    }
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_RDONLY, one.read_only && one.kind != "bind");
    flags.set(MsFlags::MS_BIND, one.kind == "bind");
    let source = if one.source.is_empty() { "none" } else { &one.source };
    match mount(Some(source), &place, Some(one.kind.as_str()), flags, Some(one.options.as_str())) {
        // devtmpfs may be mounted by the kernel itself (DEVTMPFS_MOUNT).
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(Errno::ENODEV) if one.optional => Ok(()),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// An absolute path of the guest, below `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Ends the guest.
pub(crate) fn power_off() {
    nix::unistd::sync();
    // Its success is never seen, and its failure leaves the guest waiting for
    // the harness to end it.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}
