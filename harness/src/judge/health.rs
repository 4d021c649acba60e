//! The kernel's own word on its health: its taint and its counters.

use hmm_protocol::wire::Health;

/// The bits of `/proc/sys/kernel/tainted`, in order: the letter that a report
/// shows, and what happened (Documentation/admin-guide/tainted-kernels.rst;
/// `taint_flags` in kernel/panic.c).
const TAINTS: [(char, &str); 20] = [
    ('P', "a proprietary module was loaded"),
    ('F', "a module was loaded by force"),
    ('S', "the processor is out of specification"),
    ('R', "a module was unloaded by force"),
    ('M', "the processor reported a machine check"),
    ('B', "a page was bad"),
    ('U', "a program asked for it"),
    ('D', "the kernel oopsed"),
    ('A', "an ACPI table was overridden"),
    ('W', "a warning was issued"),
    ('C', "a staging driver was loaded"),
    ('I', "the firmware needed a workaround"),
    ('O', "a module from outside the tree was loaded"),
    ('E', "an unsigned module was loaded"),
    ('L', "a CPU was locked up"),
    ('K', "the kernel was patched alive"),
    ('X', "a distribution's own taint was set"),
    ('T', "the layout of structures is random"),
    ('N', "a test in the kernel ran"),
    ('J', "a firmware interface was used to change the machine"),
];

/// What changed, in words.
pub(super) fn describe(health: &Health) -> String {
    let mut changes = Vec::new();
    let set = taints(health.taint_after & !health.taint_before);
    if !set.is_empty() {
        changes.push(format!("the kernel's taint changed: {}", set.join(", ")));
    }
    let gone = taints(health.taint_before & !health.taint_after);
    if !gone.is_empty() {
        changes.push(format!("the kernel lost its taint: {}", gone.join(", ")));
    }
    for (count, what) in [(health.warnings, "warning"), (health.oopses, "oops")] {
        match count {
            0 => {}
            1 => changes.push(format!("the kernel counted one {what}")),
            _ => changes.push(format!("the kernel counted {count} {what}{}", plural(what))),
        }
    }
    changes.join("; ")
}

/// The taints that are set, in words.
pub(super) fn taints(bits: u64) -> Vec<String> {
    let bits = (0..u64::BITS).filter(|bit| bits >> bit & 1 == 1);
    bits.map(|bit| match TAINTS.get(bit as usize) {
        Some((letter, meaning)) => format!("{letter} ({meaning})"),
        None => format!("bit {bit}"),
    })
    .collect()
}

fn plural(what: &str) -> &'static str {
    if what.ends_with('s') { "es" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_by_name() {
        let check = |before, after, warnings, oopses, expect: &str| {
            let (taint_before, taint_after) = (before, after);
            let health = Health { taint_before, taint_after, warnings, oopses };
            assert!(!health.is_unchanged());
            assert_eq!(describe(&health), expect);
        };
        check(0, 1 << 9, 0, 0, "the kernel's taint changed: W (a warning was issued)");
        check(
            1 << 9,
            1 << 9 | 1 << 5 | 1 << 40,
            0,
            0,
            "the kernel's taint changed: B (a page was bad), bit 40",
        );
        check(1 << 9, 1 << 9, 2, 1, "the kernel counted 2 warnings; the kernel counted one oops");
        check(1 << 14, 0, 0, 0, "the kernel lost its taint: L (a CPU was locked up)");
        assert!(Health::of_taint(512).is_unchanged());
    }
}
