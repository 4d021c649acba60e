//! The driver under test, lib/test_hmm.c: one open `/dev/hmm_dmirror*` and its
//! ioctls, typed.
//!
//! Request numbers, values and the layout of `struct hmm_dmirror_cmd` come
//! from the job, where the harness put what the compiler of the tree under
//! test said; nothing of them is known here. What an answer should have been
//! is the tests' business.

#![expect(unsafe_code, reason = "calls ioctl")]

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hmm_protocol::{Abi, Device, Step};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;

use crate::check::{OrFail, Result, Stop, check_eq, failed};
use crate::mirror::Mirror;
use crate::pages::Pages;
use crate::reply::{Done, Reply, Snapshot};
use crate::report::step;

/// A little less than what the driver's own limit amounts to
/// (`HMM_RANGE_DEFAULT_TIMEOUT` in lib/test_hmm.c, 1000 ms): an EBUSY that comes
/// earlier has another reason.
const PATIENCE: Duration = Duration::from_millis(990);

/// The ioctls with this limit (`dmirror_range_fault()` and
/// `dmirror_range_snapshot()`); an EBUSY of the others always has another reason.
const LIMITED: [&str; 3] = ["READ", "WRITE", "SNAPSHOT"];

/// An open device. It mirrors the address space of the process that opened it.
#[derive(Debug)]
pub(crate) struct Dmirror {
    node: u32,
    fd: OwnedFd,
    abi: Rc<Abi>,
}

impl Dmirror {
    /// Opens `/dev/hmm_dmirror<node>`, of the kind `kind`.
    #[track_caller]
    pub(crate) fn open(node: u32, kind: Device, abi: Rc<Abi>) -> Result<Dmirror> {
        let path = format!("/dev/hmm_dmirror{node}");
        step(Step::new("open").by(format_args!("dmirror{node}")));
        match open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Dmirror { node, fd, abi }),
            // hmm_dmirror_init() makes these nodes only where both of its
            // parameters name memory.
            Err(Errno::ENOENT | Errno::ENXIO | Errno::ENODEV) if kind == Device::Coherent => {
                Err(Stop::Skipped(format!(
                    "no {path}: the driver was not given device-coherent memory \
                     (test_hmm.spm_addr_dev0 and spm_addr_dev1)"
                )))
            }
            Err(error) => Err(failed(format_args!("cannot open {path}: {error}"))),
        }
    }

    /// Closes it. On kernels with "lib: test_hmm: evict device pages on file
    /// close" this moves every page of the device back to the system.
    #[track_caller]
    pub(crate) fn close(self) -> Result {
        step(Step::new("close").by(&self));
        let name = self.to_string();
        nix::unistd::close(self.fd).or_fail(format_args!("close {name}"))
    }

    /// The device reads `pages` into the mirror, faulting in what it lacks.
    #[track_caller]
    pub(crate) fn read(&self, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        self.returning("READ", pages, mirror)
    }

    /// The same, with something to do right before the driver is called.
    #[track_caller]
    pub(crate) fn read_after(
        &self,
        pages: Pages,
        mirror: &Mirror,
        right_before: impl FnOnce(),
    ) -> Result<Reply> {
        step(Step::new(op("READ")).by(self).of(pages.span()));
        mirror.forget();
        right_before();
        self.call("READ", pages, mirror)
    }

    /// The device writes `pages` from the mirror, likewise.
    #[track_caller]
    pub(crate) fn write(&self, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        self.stepping("WRITE", pages, mirror)
    }

    /// `pages` migrate to the device; the mirror gets what is there then.
    #[track_caller]
    pub(crate) fn to_device(&self, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        // Its name before 6.0, when there was no way back.
        let name = ["MIGRATE_TO_DEV", "MIGRATE"]
            .into_iter()
            .find(|name| self.abi.ioctls.contains_key(*name))
            .unwrap_or("MIGRATE_TO_DEV");
        self.returning(name, pages, mirror)
    }

    /// Whether the driver can be told to migrate back: not before 6.0.
    pub(crate) fn has_to_system(&self) -> bool {
        self.abi.ioctls.contains_key("MIGRATE_TO_SYS")
    }

    /// `pages` migrate back from the device.
    #[track_caller]
    pub(crate) fn to_system(&self, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        self.stepping("MIGRATE_TO_SYS", pages, mirror)
    }

    /// What the device would see of `pages`, without faulting anything in.
    #[track_caller]
    pub(crate) fn snapshot(&self, pages: Pages, mirror: &Mirror) -> Result<Snapshot> {
        self.returning("SNAPSHOT", pages, mirror)?.complete()?;
        Ok(Snapshot::new(pages, mirror.bytes(pages.count()), Rc::clone(&self.abi)))
    }

    /// The device takes `pages` for itself; the mirror gets their data.
    #[track_caller]
    pub(crate) fn exclusive(&self, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        self.returning("EXCLUSIVE", pages, mirror)
    }

    /// Whether the device has none of `pages` for itself: EPERM if it has.
    #[track_caller]
    pub(crate) fn check_exclusive(&self, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        self.stepping("CHECK_EXCLUSIVE", pages, mirror)
    }

    /// Whether the device has each page of `pages` for itself, page by page.
    #[track_caller]
    pub(crate) fn check_each_exclusive(
        &self,
        pages: Pages,
        mirror: &Mirror,
        expected: bool,
    ) -> Result {
        step(Step::new(op("CHECK_EXCLUSIVE")).by(self).of(pages.span()).note("one by one"));
        for page in pages.each() {
            let exclusive = match self.call("CHECK_EXCLUSIVE", page, mirror)?.result {
                Ok(_) => false,
                Err(Errno::EPERM) => true,
                Err(error) => return Err(failed(format_args!("CHECK_EXCLUSIVE {page}: {error}"))),
            };
            check_eq(exclusive, expected, "whether the device has the page for itself")
                .map_err(|stop| stop.on_page(page.first()))?;
        }
        Ok(())
    }

    /// The driver gives up all memory of the device, whose pages go back.
    #[track_caller]
    pub(crate) fn release(&self, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        self.stepping("RELEASE", pages, mirror)
    }

    /// An ioctl that fills the mirror, which is emptied before.
    #[track_caller]
    fn returning(&self, name: &'static str, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        mirror.forget();
        self.stepping(name, pages, mirror)
    }

    #[track_caller]
    fn stepping(&self, name: &'static str, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        step(Step::new(op(name)).by(self).of(pages.span()));
        self.call(name, pages, mirror)
    }

    /// Calls the driver until it has come to an end. It gives up with EBUSY when
    /// invalidations have kept it from the end for [`PATIENCE`], as they do where
    /// the guest hardly gets any time; what it has faulted in by then stays, so
    /// that it comes further the next time. For ever is the test's deadline.
    #[track_caller]
    fn call(&self, name: &'static str, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        loop {
            let begin = Instant::now();
            let reply = self.call_once(name, pages, mirror)?;
            let gave_up = LIMITED.contains(&name)
                && matches!(reply.result, Err(Errno::EBUSY))
                && begin.elapsed() >= PATIENCE;
            if !gave_up {
                return Ok(reply);
            }
            step(Step::new(op(name)).by(self).of(pages.span()).note("again"));
        }
    }

    /// No EINTR is expected, for no signal is ever sent to a test but the one
    /// that ends it.
    #[track_caller]
    fn call_once(&self, name: &'static str, pages: Pages, mirror: &Mirror) -> Result<Reply> {
        let Some(request) = self.abi.ioctls.get(name).copied() else {
            let message = format!("the driver of the tree under test has no HMM_DMIRROR_{name}");
            return Err(failed(message));
        };
        let mut command = Command::new(&self.abi)?;
        command.set("addr", pages.address())?;
        // SNAPSHOT gives a byte for each page, and no other ioctl more than
        // the pages' data.
        let bytes = if name == "SNAPSHOT" { pages.count() } else { pages.bytes() };
        command.set("ptr", mirror.aim_at(pages, bytes))?;
        command.set("npages", pages.count())?;
        let argument = command.bytes.as_mut_ptr();
        // SAFETY: the driver reads and writes cmd_size bytes at `argument`,
        // which is as long; and at `ptr` no more than the mirror holds.
        let status = unsafe { libc::ioctl(self.fd.as_raw_fd(), request as libc::Ioctl, argument) };
        let result = match Errno::result(status) {
            Ok(_) => Ok(Done { cpages: command.get("cpages")?, faults: command.get("faults")? }),
            Err(error) => Err(error),
        };
        Ok(Reply::new(name, pages, result))
    }
}

/// The operation that an ioctl is, in the words of steps and traces.
fn op(ioctl: &str) -> &'static str {
    match ioctl {
        "READ" => "read",
        "WRITE" => "write",
        "MIGRATE" | "MIGRATE_TO_DEV" => "to-device",
        "MIGRATE_TO_SYS" => "to-system",
        "SNAPSHOT" => "snapshot",
        "EXCLUSIVE" => "exclusive",
        "CHECK_EXCLUSIVE" => "check-exclusive",
        "RELEASE" => "release",
        other => unreachable!("no test calls {other}"),
    }
}

impl AsFd for Dmirror {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Display for Dmirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dmirror{}", self.node)
    }
}

/// A `struct hmm_dmirror_cmd` of the tree under test.
struct Command<'a> {
    bytes: Vec<u8>,
    abi: &'a Abi,
}

impl Command<'_> {
    #[track_caller]
    fn new(abi: &Abi) -> Result<Command<'_>> {
        let size = usize::try_from(abi.cmd_size).or_fail("use the size of the driver's command")?;
        Ok(Command { bytes: vec![0; size], abi })
    }

    #[track_caller]
    fn set(&mut self, field: &str, value: usize) -> Result {
        self.field(field)?.copy_from_slice(&(value as u64).to_ne_bytes());
        Ok(())
    }

    #[track_caller]
    fn get(&mut self, field: &str) -> Result<u64> {
        let bytes = self.field(field)?;
        Ok(u64::from_ne_bytes(bytes.try_into().expect("a field is eight bytes")))
    }

    #[track_caller]
    fn field(&mut self, field: &str) -> Result<&mut [u8]> {
        let Some(offset) = self.abi.cmd_offsets.get(field).copied() else {
            let message = format!("struct hmm_dmirror_cmd of the tree under test has no {field}");
            return Err(failed(message));
        };
        let size = self.bytes.len();
        let start = usize::try_from(offset).ok();
        match start.and_then(|start| self.bytes.get_mut(start..start.checked_add(8)?)) {
            Some(bytes) => Ok(bytes),
            None => Err(failed(format!(
                "{field} at offset {offset} is outside a command of {size} bytes"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abi() -> Abi {
        Abi {
            cmd_size: 24,
            cmd_offsets: [("addr".to_owned(), 16), ("faults".to_owned(), 20)].into(),
            ..Abi::default()
        }
    }

    #[test]
    fn a_command_has_the_layout_of_the_job() {
        let abi = abi();
        let mut command = Command::new(&abi).expect("24 bytes");
        command.set("addr", 0x1234).expect("within");
        assert_eq!(command.bytes[16..24], 0x1234_u64.to_ne_bytes());
        assert_eq!(command.get("addr").expect("within"), 0x1234);
    }

    #[test]
    fn a_field_that_is_absent_or_outside_is_a_failure() {
        let abi = abi();
        let mut command = Command::new(&abi).expect("24 bytes");
        assert!(command.set("npages", 1).is_err());
        assert!(command.set("faults", 1).is_err());
    }
}
