//! Which kernel functions are probed, and what is read there: from a layout to
//! the orders for the agent.
//!
//! Arguments are those of the functions in 5.8 to 7.2; what is read behind a
//! pointer lies where the compiler of the tree under test says.

use hmm_protocol::trace::{INSTANCE, Probe, TraceSetup};

use crate::layout::Layout;

/// The kernel's buffer, for each processor, in KiB: many times what a test sends
/// between two looks of the agent.
const BUFFER_KIB: u32 = 8 * 1024;

/// Without which there is no trace; all others are missed by one rule or reader.
pub const ESSENTIAL: [&str; 4] = ["invalidate_start", "invalidate_end", "callback", "insert"];

/// The orders for a kernel with this layout.
pub fn setup(layout: &Layout) -> TraceSetup {
    let at = |member: &str, of: &str, bytes: &str| {
        layout.range.get(member).map(|offset| format!(" {member}=+{offset}({of}):{bytes}"))
    };
    // What every version has, and the owner where there is one.
    let range = |of: &str| {
        [("mm", "x64"), ("start", "x64"), ("end", "x64"), ("flags", "u32"), ("event", "u32")]
            .iter()
            .chain(&[("owner", "x64")])
            .filter_map(|(member, bytes)| at(member, of, bytes))
            .collect::<String>()
    };
    let device = layout.device_of_mirror;
    let (mirror, in_mirror) = layout.device_of_snapshot;
    let mut migrate = String::new();
    for (member, offset) in &layout.migrate {
        migrate.push_str(&format!(" {member}=+{offset}($arg1):x64"));
    }
    let entry = |name: &str, function: &str, arguments: String| Probe {
        name: name.to_owned(),
        definition: format!("p:{INSTANCE}/{name} {function}{arguments}"),
    };
    let return_of = |name: &str, function: &str, arguments: &str| Probe {
        name: name.to_owned(),
        definition: format!("r:{INSTANCE}/{name} {function}{arguments}"),
    };
    let call = |of_device: String| {
        format!(" sub=$arg1:x64 range=$arg2:x64 seq=$arg3:x64{of_device}{}", range("$arg2"))
    };
    // A subscription of any kind: a mirror's has its device, a snapshot's has its
    // mirror. What is read there of the other kind leads nowhere, and is not followed:
    // before 5.14 a fault that a probe takes counts as a probe that could not run
    // (`kprobe_fault_handler()` in arch/x86/kernel/kprobes/core.c).
    let inserted = format!(
        " sub=$arg1:x64 mm=$arg2:x64 start=$arg3:x64 length=$arg4:x64 \
         device={device:+}($arg1):x64 mirror={mirror:+}($arg1):x64"
    );
    let probes = vec![
        // __mmu_notifier_invalidate_range_start(range)
        entry(
            "invalidate_start",
            "__mmu_notifier_invalidate_range_start",
            format!(" range=$arg1:x64{}", range("$arg1")),
        ),
        // __mmu_notifier_invalidate_range_end(range), before 6.6 with a second
        // argument.
        entry(
            "invalidate_end",
            "__mmu_notifier_invalidate_range_end",
            format!(" range=$arg1:x64{}", range("$arg1")),
        ),
        // dmirror_interval_invalidate(interval, range, cur_seq)
        entry(
            "callback",
            "dmirror_interval_invalidate",
            call(format!(" device={device:+}($arg1):x64")),
        ),
        return_of("callback_return", "dmirror_interval_invalidate", " ret=$retval:u8"),
        // dmirror_snapshot_invalidate(interval, range, cur_seq)
        entry(
            "snapshot_callback",
            "dmirror_snapshot_invalidate",
            call(format!(" device={in_mirror:+}({mirror:+}($arg1)):x64")),
        ),
        return_of("snapshot_callback_return", "dmirror_snapshot_invalidate", " ret=$retval:u8"),
        // mmu_interval_notifier_insert(subscription, mm, start, length, ops)
        entry("insert", "mmu_interval_notifier_insert", inserted.clone()),
        return_of("insert_return", "mmu_interval_notifier_insert", " ret=$retval:s32"),
        entry("insert_locked", "mmu_interval_notifier_insert_locked", inserted),
        return_of(
            "insert_locked_return",
            "mmu_interval_notifier_insert_locked",
            " ret=$retval:s32",
        ),
        // mmu_interval_notifier_remove(subscription)
        entry("remove", "mmu_interval_notifier_remove", " sub=$arg1:x64".into()),
        return_of("remove_return", "mmu_interval_notifier_remove", ""),
        // __mmu_notifier_release(mm)
        entry("release", "__mmu_notifier_release", " mm=$arg1:x64".into()),
        // migrate_vma_setup(args); the caller is who it returns to.
        entry("migrate_setup", "migrate_vma_setup", format!("{migrate} caller=$stack0:x64")),
        // migrate_vma_collect_pmd(pmdp, start, end, walk)
        entry("collect", "migrate_vma_collect_pmd", " start=$arg2:x64 end=$arg3:x64".into()),
        // migrate_vma_collect_hole(start, end, depth, walk)
        entry("collect_hole", "migrate_vma_collect_hole", " start=$arg1:x64 end=$arg2:x64".into()),
        // dmirror_devmem_fault(vmf)
        entry(
            "migrate_fault",
            "dmirror_devmem_fault",
            format!(" start=+{}($arg1):x64", layout.fault_address),
        ),
    ];
    TraceSetup { buffer_kib: BUFFER_KIB, probes }
}
