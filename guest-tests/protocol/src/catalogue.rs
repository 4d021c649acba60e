//! The one list of tests: their names, the devices they run on, the kernels
//! they apply to. The guest binds each name to a function, and a test there
//! checks that the two agree.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of device memory that a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// Device-private memory: pages that the CPU cannot touch.
    Private,
    /// Device-coherent memory: pages that the CPU can.
    Coherent,
}

impl Device {
    /// The word that stands in a test's id.
    pub fn as_str(self) -> &'static str {
        match self {
            Device::Private => "private",
            Device::Coherent => "coherent",
        }
    }

    /// The number of the first of this kind's two `/dev/hmm_dmirror*` nodes
    /// (`hmm_dmirror_init()` in lib/test_hmm.c).
    pub fn first_node(self) -> u32 {
        match self {
            Device::Private => 0,
            Device::Coherent => 2,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A test as it is defined, before a device is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestDef {
    /// Upstream's name where upstream has the test.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// The first kernel whose driver can run it.
    pub since: (u32, u32),
    /// The driver's ioctls that it uses, without their prefix.
    pub ioctls: &'static [&'static str],
    /// How many devices it opens.
    pub devices: u32,
    /// What else it needs of kernel and guest, for `list`.
    pub needs: &'static [&'static str],
}

/// The identity of a test on a device: `hmm.migrate_fault.private`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TestId {
    /// The name in the catalogue.
    pub name: &'static str,
    /// The kind of device.
    pub device: Option<Device>,
}

impl fmt::Display for TestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Some(device) => f.pad(&format!("{}.{device}", self.name)),
            None => f.pad(self.name),
        }
    }
}

impl TestId {
    /// The first kernel that can run it on this kind of device: coherent memory
    /// came to the driver in 6.0 (`DEV_COHERENT_LOCAL` in lib/test_hmm_uapi.h).
    pub fn since(&self) -> (u32, u32) {
        match self.device {
            Some(Device::Coherent) => self.def().since.max((6, 0)),
            _ => self.def().since,
        }
    }

    /// The definition behind the id.
    pub fn def(&self) -> &'static TestDef {
        TESTS.iter().find(|t| t.name == self.name).expect("ids are made from the catalogue")
    }
}

/// The need of a test whose threads race with each other.
pub const THREADS: &str = "threads";

/// Those that take longest, the longest first; the others are all much alike.
pub const LONGEST: [&str; 4] =
    ["hmm.migrate_multiple", "hmm.anon_teardown", "hmm.anon_read_multiple", "hmm.anon_write_child"];

/// Every test on every device it runs on, in the order in which they run:
/// device by device, each in the catalogue's order.
pub fn all() -> Vec<TestId> {
    [Device::Private, Device::Coherent]
        .into_iter()
        .flat_map(|device| TESTS.iter().map(move |t| TestId { name: t.name, device: Some(device) }))
        .collect()
}

const fn test(
    name: &'static str,
    since: (u32, u32),
    devices: u32,
    ioctls: &'static [&'static str],
    needs: &'static [&'static str],
    about: &'static str,
) -> TestDef {
    TestDef { name, about, since, ioctls, devices, needs }
}

const TO_DEV: &str = "MIGRATE_TO_DEV";
const TO_SYS: &str = "MIGRATE_TO_SYS";

/// The tests of the kernel's own tools/testing/selftests/mm/hmm-tests.c as of
/// 6.12, under their names there; and after them our own.
pub const TESTS: &[TestDef] = &[
    test("hmm.open_close", (5, 8), 1, &[], &[], "the device opens and closes"),
    test(
        "hmm.anon_read",
        (5, 8),
        1,
        &["READ", "SNAPSHOT"],
        &[],
        "the device reads anonymous memory, holes and the zero page",
    ),
    test(
        "hmm.anon_read_prot",
        (5, 8),
        1,
        &["READ"],
        &[],
        "the device cannot read what the process may not",
    ),
    test(
        "hmm.anon_write",
        (5, 8),
        1,
        &["READ", "WRITE", "SNAPSHOT"],
        &[],
        "the device writes memory that was never touched",
    ),
    test(
        "hmm.anon_write_prot",
        (5, 8),
        1,
        &["READ", "WRITE"],
        &[],
        "the device cannot write read-only memory until it is writable",
    ),
    test(
        "hmm.anon_write_child",
        (5, 8),
        1,
        &["READ", "WRITE"],
        &[],
        "the device of a forked child writes the child's copy only",
    ),
    test(
        "hmm.anon_write_child_shared",
        (5, 8),
        1,
        &["READ", "WRITE"],
        &["shmem"],
        "the device of a forked child writes memory shared with the parent",
    ),
    test(
        "hmm.anon_write_huge",
        (5, 8),
        1,
        &["READ", "WRITE", "SNAPSHOT"],
        &["THP"],
        "the device writes a transparent huge page",
    ),
    test(
        "hmm.anon_write_hugetlbfs",
        (5, 8),
        1,
        &["READ", "WRITE"],
        &["hugetlb page"],
        "the device writes a hugetlb page",
    ),
    test(
        "hmm.file_read",
        (5, 8),
        1,
        &["READ"],
        &["O_TMPFILE"],
        "the device reads a shared file mapping",
    ),
    test(
        "hmm.file_write",
        (5, 8),
        1,
        &["WRITE"],
        &["O_TMPFILE"],
        "the device writes a shared file mapping, and the file has it",
    ),
    test(
        "hmm.migrate",
        (5, 8),
        1,
        &[TO_DEV, "SNAPSHOT", "READ", "WRITE"],
        &[],
        "anonymous memory migrates to the device with its data",
    ),
    test(
        "hmm.migrate_file_private",
        (5, 11),
        1,
        &[TO_DEV, "SNAPSHOT"],
        &["O_TMPFILE"],
        "the private copies of file pages migrate",
    ),
    test(
        "hmm.migrate_fault",
        (5, 8),
        1,
        &[TO_DEV, TO_SYS, "SNAPSHOT", "READ"],
        &[],
        "CPU faults bring pages back; the rest stays the device's own when all migrate again",
    ),
    test(
        "hmm.migrate_release",
        (6, 1),
        1,
        &[TO_DEV, "RELEASE", "SNAPSHOT", "READ", "WRITE"],
        &[],
        "releasing the device's memory brings every page back",
    ),
    test(
        "hmm.migrate_shared",
        (5, 11),
        1,
        &[TO_DEV, "SNAPSHOT"],
        &["shmem"],
        "shared memory does not migrate",
    ),
    test(
        "hmm.migrate_multiple",
        (5, 8),
        1,
        &[TO_DEV, TO_SYS, "SNAPSHOT", "WRITE"],
        &[],
        "migrating back and forth again and again",
    ),
    test(
        "hmm.anon_read_multiple",
        (5, 8),
        1,
        &["READ"],
        &[],
        "reading fresh memory again and again",
    ),
    test(
        "hmm.anon_teardown",
        (5, 8),
        1,
        &["READ"],
        &[THREADS],
        "memory is unmapped while the device reads it",
    ),
    test(
        "hmm.mixedmap",
        (5, 17),
        1,
        &["SNAPSHOT", "READ"],
        &[],
        "a VM_MIXEDMAP mapping has device page table entries",
    ),
    test(
        "hmm.compound",
        (5, 9),
        1,
        &["SNAPSHOT", "READ"],
        &["hugetlb page"],
        "a hugetlb page is mapped as one, and follows mprotect",
    ),
    test(
        "hmm.exclusive",
        (5, 14),
        1,
        &["EXCLUSIVE", "CHECK_EXCLUSIVE", "SNAPSHOT", "READ"],
        &[],
        "a CPU access takes exclusive access away from the device",
    ),
    test(
        "hmm.exclusive_mprotect",
        (5, 14),
        1,
        &["EXCLUSIVE", "CHECK_EXCLUSIVE", "SNAPSHOT", "WRITE"],
        &[],
        "exclusive access does not outlive mprotect",
    ),
    test(
        "hmm.exclusive_cow",
        (5, 14),
        1,
        &["EXCLUSIVE", "CHECK_EXCLUSIVE", "READ"],
        &[],
        "exclusive pages are copied on write after a fork",
    ),
    test(
        "hmm.hmm_gup_test",
        (6, 0),
        1,
        &[TO_DEV, "SNAPSHOT", "READ"],
        &["debugfs", "GUP_TEST"],
        "get_user_pages and pins on migrated pages",
    ),
    test(
        "hmm.hmm_cow_in_device",
        (6, 0),
        1,
        &[TO_DEV, "SNAPSHOT", "READ"],
        &[],
        "a write after a fork copies a page that lives on the device",
    ),
    test(
        "hmm2.migrate_mixed",
        (5, 8),
        2,
        &[TO_DEV, "SNAPSHOT"],
        &[],
        "holes, protections and another device's pages in one range",
    ),
    test(
        "hmm2.snapshot",
        (5, 8),
        2,
        &[TO_DEV, "SNAPSHOT", "WRITE"],
        &[],
        "a snapshot tells every kind of page apart",
    ),
    test(
        "hmm2.double_map",
        (5, 8),
        2,
        &[TO_DEV, "SNAPSHOT", "READ"],
        &[],
        "two devices map the same pages, and one takes them",
    ),
    test(
        "notifier.mremap",
        (5, 8),
        1,
        &["READ"],
        &[],
        "the device follows memory that moves to another address",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_catalogue_of_6_12_is_whole() {
        let ids: BTreeSet<String> = all().iter().map(TestId::to_string).collect();
        assert_eq!(ids.iter().filter(|id| id.starts_with("hmm")).count(), 58);
        assert_eq!(ids.len(), 60);
        assert_eq!(TESTS.iter().filter(|t| t.name.starts_with("hmm2.")).count(), 3);
    }
}
