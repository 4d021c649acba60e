//! The kernel's own counters of its faults, and the markers in its log.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use hmm_protocol::wire::Health;

/// The counters at one moment.
pub(crate) struct Counters {
    taint: u64,
    warnings: u64,
    oopses: u64,
}

impl Counters {
    /// Reads them. A counter that the kernel does not have reads as 0.
    pub(crate) fn now() -> Self {
        Counters {
            taint: taint(),
            warnings: read("/sys/kernel/warn_count"),
            oopses: read("/sys/kernel/oops_count"),
        }
    }

    /// What happened between `self` and `later`.
    pub(crate) fn until(&self, later: &Counters) -> Health {
        Health {
            taint_before: self.taint,
            taint_after: later.taint,
            warnings: later.warnings.saturating_sub(self.warnings),
            oopses: later.oopses.saturating_sub(self.oopses),
        }
    }
}

/// The kernel's taint mask (Documentation/admin-guide/tainted-kernels.rst).
pub(crate) fn taint() -> u64 {
    read("/proc/sys/kernel/tainted")
}

/// Arms `WARN_ON_ONCE` and its like again, so that each test is told of its own
/// (`clear_once` in kernel/panic.c). A kernel without debugfs stays silent
/// after the first.
pub(crate) fn rearm_once() {
    if let Ok(mut file) = OpenOptions::new().write(true).open("/sys/kernel/debug/clear_warn_once") {
        // It accepts any number; a failure leaves what was before.
        let _ = file.write_all(b"1");
    }
}

/// Has the kernel print what each processor does and which tasks cannot be
/// interrupted (Documentation/admin-guide/sysrq.rst): a task that spins in the
/// kernel shows its stack nowhere else.
pub(crate) fn show_where_it_hangs() {
    for command in [b"l", b"w"] {
        // A kernel without it tells less.
        let _ = fs::write("/proc/sysrq-trigger", command);
    }
}

/// Writes a line into the kernel's log, by which the harness finds the part of
/// the console that belongs to a test.
pub(crate) fn mark(text: &str) -> Result<(), String> {
    OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|e| format!("/dev/kmsg: {e}"))
}

fn read(path: &str) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
