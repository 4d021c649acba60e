//! The kernel's own test driver for get_user_pages, mm/gup_test.c, through
//! debugfs. Its numbers are those of mm/gup_test.h, which have not changed
//! since 5.11; the tests that use it are for 6.0 and later.

#![expect(unsafe_code, reason = "calls ioctl")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use hmm_protocol::Step;
use nix::errno::Errno;
use nix::libc;
use nix::sys::utsname::uname;

use crate::check::{OrFail, Result, Stop, check_eq, failed};
use crate::pages::Pages;
use crate::pattern::PAGE_SIZE;
use crate::report::step;

/// Where debugfs has it; the agent mounts debugfs.
const PATH: &str = "/sys/kernel/debug/gup_test";

/// `FOLL_WRITE`: the page is to be written.
const WRITE: u32 = 1;

/// How a page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// get_user_pages().
    Get,
    /// get_user_pages_fast().
    GetFast,
    /// pin_user_pages_fast() for long.
    PinFastLongterm,
    /// pin_user_pages() for long.
    PinLongterm,
}

impl How {
    /// The operation, in the words of steps and traces.
    fn op(self) -> &'static str {
        match self {
            How::Get => "gup",
            How::GetFast => "gup-fast",
            How::PinFastLongterm => "pin-fast-longterm",
            How::PinLongterm => "pin-longterm",
        }
    }

    /// The nr of the ioctl: GUP_BASIC_TEST, GUP_FAST_BENCHMARK,
    /// PIN_FAST_BENCHMARK, PIN_LONGTERM_BENCHMARK.
    fn nr(self) -> u8 {
        match self {
            How::Get => 4,
            How::GetFast => 1,
            How::PinFastLongterm => 2,
            How::PinLongterm => 3,
        }
    }
}

/// `struct gup_test`.
#[repr(C)]
#[derive(Debug, Default)]
struct Command {
    get_delta_usec: u64,
    put_delta_usec: u64,
    addr: u64,
    size: u64,
    nr_pages_per_call: u32,
    gup_flags: u32,
    test_flags: u32,
    which_pages: [u32; 8],
}

/// The open driver.
#[derive(Debug)]
pub(crate) struct GupTest {
    file: File,
    longterm: u32,
}

impl GupTest {
    /// Opens it; a kernel without it cannot run a test that needs it.
    #[track_caller]
    pub(crate) fn open() -> Result<GupTest> {
        let file = match OpenOptions::new().read(true).write(true).open(PATH) {
            Ok(file) => file,
            Err(error) => return Err(Stop::Skipped(format!("no {PATH} (GUP_TEST): {error}"))),
        };
        let release = uname().or_fail("ask for the kernel's release")?;
        let release = release.release().to_string_lossy();
        match foll_longterm(&release) {
            Some(longterm) => Ok(GupTest { file, longterm }),
            None => Err(failed(format_args!("{release:?} is not the release of a kernel"))),
        }
    }

    /// Gets one page for writing, and gives it back.
    #[track_caller]
    pub(crate) fn take(&self, page: Pages, how: How) -> Result {
        step(Step::new(how.op()).of(page.span()));
        let longterm = if how == How::PinFastLongterm { self.longterm } else { 0 };
        let mut command = Command {
            addr: page.address() as u64,
            size: PAGE_SIZE as u64,
            nr_pages_per_call: 1,
            gup_flags: WRITE | longterm,
            ..Command::default()
        };
        let request = nix::request_code_readwrite!(b'g', how.nr(), size_of::<Command>());
        // SAFETY: the driver reads and writes one `struct gup_test`.
        let status = unsafe {
            libc::ioctl(self.file.as_raw_fd(), request, std::ptr::from_mut(&mut command))
        };
        Errno::result(status).or_fail(format_args!("call gup_test for {page} ({how:?})"))?;
        // The driver succeeds even if it got no page; but then it says that
        // it went no distance (__gup_test_ioctl()).
        check_eq(command.size, PAGE_SIZE as u64, format_args!("bytes that {how:?} of {page} got"))
    }
}

/// `FOLL_LONGTERM`, which moved when the flags became an enumeration of
/// include/linux/mm_types.h in 6.3.
fn foll_longterm(release: &str) -> Option<u32> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let version = (number()?, number()?);
    Some(if version < (6, 3) { 0x10000 } else { 0x100 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_the_size_of_the_header() {
        assert_eq!(size_of::<Command>(), 80);
    }

    #[test]
    fn the_flag_goes_by_the_release() {
        assert_eq!(foll_longterm("6.1.192"), Some(0x10000));
        assert_eq!(foll_longterm("6.12.117"), Some(0x100));
        assert_eq!(foll_longterm("7.2.0-rc1+"), Some(0x100));
        assert_eq!(foll_longterm("6.3-rc1"), Some(0x100));
        assert_eq!(foll_longterm("next"), None);
    }
}
