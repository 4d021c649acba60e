//! Huge pages: transparent ones and those of hugetlbfs.

use std::fs::read_to_string;

use nix::errno::Errno;

use crate::buffer::{Access, Backing, Buffer, Place};
use crate::check::{OrFail, Result, Stop, check_eq, differs, failed};
use crate::mirror::Mirror;
use crate::pages::Pages;
use crate::pattern::PAGE_SIZE;
use crate::rig::Rig;

/// The size of a transparent huge page, and the least that a hugetlb test
/// works on.
const HUGE_SIZE: usize = 2 << 20;

/// The device writes a transparent huge page that was never touched.
pub(crate) fn anon_write_huge(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = Buffer::private(HUGE_SIZE / PAGE_SIZE)?;
    let mirror = Mirror::new(HUGE_SIZE / PAGE_SIZE)?;
    let data = rig.pattern();
    require_transparent_huge_pages()?;
    buffer.all().want_huge_pages().or_fail("ask for a huge page")?;

    mirror.fill(buffer.all(), data);
    device.write(buffer.all(), &mirror)?.complete_with_faults(1)?;
    check_eq(huge_bytes(buffer.all())?, HUGE_SIZE, "AnonHugePages of the buffer, in bytes")?;
    buffer.all().check(data, "the CPU's view of what the device wrote")?;

    // Before 5.9 the driver did not say how a page is mapped.
    if rig.has_prot("PMD") {
        let huge = rig.prot("WRITE")? | rig.prot("PMD")?;
        device.snapshot(buffer.all(), &mirror)?.check_all_and_level(huge)?;
    }
    device.read(buffer.all(), &mirror)?.complete_with_faults(0)?;
    mirror.check(buffer.all(), data, "what the device read of what it wrote")
}

/// The device writes a hugetlb page that was never touched.
pub(crate) fn anon_write_hugetlbfs(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = hugetlb_buffer()?;
    let mirror = Mirror::new(buffer.all().count())?;
    let data = rig.pattern();

    mirror.fill(buffer.all(), data);
    device.write(buffer.all(), &mirror)?.complete_with_faults(1)?;
    buffer.all().check(data, "the CPU's view of what the device wrote")?;

    device.read(buffer.all(), &mirror)?.complete_with_faults(0)?;
    mirror.check(buffer.all(), data, "what the device read of what it wrote")
}

/// A hugetlb page is mapped as one, and follows mprotect.
pub(crate) fn compound(rig: &Rig) -> Result {
    let device = rig.device();
    let buffer = hugetlb_buffer()?;
    let mirror = Mirror::new(buffer.all().count())?;
    let data = rig.pattern();
    buffer.all().fill(data);

    let seen = device.snapshot(buffer.all(), &mirror)?;
    // One level for the whole page: PUD where the default size is 1 GiB.
    let pud = rig.prot("PUD")?;
    let level = if seen.page(0) & pud == pud { pud } else { rig.prot("PMD")? };
    seen.check_all_and_level(rig.prot("WRITE")? | level)?;

    buffer.all().protect(Access::Read)?;
    let read_only = rig.prot("READ")? | level;
    device.snapshot(buffer.all(), &mirror)?.check_all_and_level(read_only)?;

    device.read(buffer.all(), &mirror)?.complete_with_faults(1)?;
    mirror.check(buffer.all(), data, "what the device read of the huge page")?;
    buffer.all().check(data, "the CPU's view of the huge page")
}

/// A kernel without transparent huge pages, or where they are off, cannot run
/// such a test.
fn require_transparent_huge_pages() -> Result {
    const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    match read_to_string(ENABLED) {
        Ok(setting) if setting.contains("[never]") => {
            Err(Stop::Skipped(format!("transparent huge pages are off ({ENABLED})")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Stop::Skipped(format!("no transparent huge pages: {ENABLED}: {error}"))),
    }
}

/// How much of the mapping that starts with `pages` is in huge pages.
#[track_caller]
fn huge_bytes(pages: Pages) -> Result<usize> {
    let smaps = read_to_string("/proc/self/smaps").or_fail("read /proc/self/smaps")?;
    let start = format!("{:x}-", pages.address());
    let huge = smaps
        .lines()
        .skip_while(|line| !line.starts_with(&start))
        .find_map(|line| line.strip_prefix("AnonHugePages:"))
        .and_then(kibibytes);
    match huge {
        Some(bytes) => Ok(bytes),
        None => Err(failed(format_args!("no AnonHugePages of {pages} in /proc/self/smaps"))),
    }
}

/// A mapping of hugetlb pages of the default size. That the guest has none is
/// a reason to skip; that it has some and gives none is a failure.
#[track_caller]
fn hugetlb_buffer() -> Result<Buffer> {
    let meminfo = read_to_string("/proc/meminfo").or_fail("read /proc/meminfo")?;
    let field = |name: &str| meminfo.lines().find_map(|line| line.strip_prefix(name));
    let Some(size) = field("Hugepagesize:").and_then(kibibytes) else {
        return Err(Stop::Skipped("no hugetlb pages: /proc/meminfo has no Hugepagesize".into()));
    };
    let free = field("HugePages_Free:").map_or("", str::trim);
    let pages = HUGE_SIZE.next_multiple_of(size) / PAGE_SIZE;
    match Buffer::try_map(Place::Huge, pages, Access::Write, Backing::Hugetlb) {
        Ok(buffer) => Ok(buffer),
        Err(Errno::ENOMEM) if free == "0" => Err(Stop::Skipped(format!(
            "no free hugetlb page of {size} bytes (/proc/sys/vm/nr_hugepages)"
        ))),
        Err(error) => Err(differs(
            format_args!("{error:?}"),
            "a mapping",
            format_args!("map {size} bytes of hugetlb pages, of which {free} are free"),
        )),
    }
}

fn kibibytes(field: &str) -> Option<usize> {
    field.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_proc_are_understood() {
        assert_eq!(kibibytes("      2048 kB"), Some(2 << 20));
        assert_eq!(kibibytes("2048"), None);
        assert_eq!(kibibytes(" -1 kB"), None);
    }
}
