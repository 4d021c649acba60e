//! What every test starts from: its job, its open devices, and a source of
//! patterns that nothing in memory has held before.

use std::cell::RefCell;
use std::rc::Rc;

use hmm_protocol::{Abi, Device, Job, TestDef};
use nix::sys::utsname;

use crate::buffer::{Access, Backing, Buffer, Place};
use crate::check::{OrFail as _, Result, failed};
use crate::dmirror::Dmirror;
use crate::mirror::Mirror;
use crate::pattern::{Numbers, Pattern};

/// The devices that a test runs on, and its numbers.
#[derive(Debug)]
pub(crate) struct Rig {
    kind: Device,
    abi: Rc<Abi>,
    devices: Vec<Dmirror>,
    numbers: RefCell<Numbers>,
}

impl Rig {
    /// Opens the devices that `test` needs, of the kind that `job` says.
    pub(crate) fn open(test: &TestDef, job: &Job) -> Result<Rig> {
        let Some(kind) = job.device else {
            return Err(failed(format_args!("{} needs to be told a kind of device", test.name)));
        };
        let abi = Rc::new(job.abi.clone());
        let devices = (0..test.devices)
            .map(|index| Dmirror::open(kind.first_node() + index, kind, Rc::clone(&abi)))
            .collect::<Result<Vec<_>>>()?;
        // The process id is in it so that a test that runs again in the same
        // kernel does not take its former self's pages for its own.
        let salt = format!("{} {}", job.id, std::process::id());
        let numbers = RefCell::new(Numbers::from(job.seed, salt.as_bytes()));
        Ok(Rig { kind, abi, devices, numbers })
    }

    /// Closes all devices.
    pub(crate) fn close(self) -> Result {
        self.devices.into_iter().try_for_each(Dmirror::close)
    }

    /// The kind of device memory.
    pub(crate) fn kind(&self) -> Device {
        self.kind
    }

    /// The device of a test that has one.
    pub(crate) fn device(&self) -> &Dmirror {
        &self.devices[0]
    }

    /// The devices of a test that has two.
    pub(crate) fn devices(&self) -> (&Dmirror, &Dmirror) {
        (&self.devices[0], &self.devices[1])
    }

    /// The same device again, through a file of its own.
    #[track_caller]
    pub(crate) fn open_again(&self) -> Result<Dmirror> {
        Dmirror::open(self.kind.first_node(), self.kind, Rc::clone(&self.abi))
    }

    /// A pattern that has not been used.
    pub(crate) fn pattern(&self) -> Pattern {
        Pattern::from(self.random())
    }

    /// A number that the job's seed leads to.
    pub(crate) fn random(&self) -> u64 {
        self.numbers.borrow_mut().next()
    }

    /// The value of `HMM_DMIRROR_PROT_<name>`.
    #[track_caller]
    pub(crate) fn prot(&self, name: &str) -> Result<u8> {
        match self.abi.prots.get(name) {
            Some(value) => Ok(*value),
            None => Err(failed(format_args!(
                "the driver of the tree under test has no HMM_DMIRROR_PROT_{name}"
            ))),
        }
    }

    /// Whether the kernel that runs is of this version or a later one.
    #[track_caller]
    pub(crate) fn kernel_since(&self, major: u32, minor: u32) -> Result<bool> {
        let kernel = utsname::uname().or_fail("ask which kernel this is")?;
        let release = kernel.release().to_string_lossy();
        match version_of(&release) {
            Some(version) => Ok(version >= (major, minor)),
            None => Err(failed(format_args!("{release:?} is no kernel's release"))),
        }
    }

    /// Whether the driver has `HMM_DMIRROR_PROT_<name>`.
    pub(crate) fn has_prot(&self, name: &str) -> bool {
        self.abi.prots.contains_key(name)
    }

    /// What SNAPSHOT says of a page on the device that is asked.
    #[track_caller]
    pub(crate) fn local(&self) -> Result<u8> {
        self.prot(match self.kind {
            Device::Private => "DEV_PRIVATE_LOCAL",
            Device::Coherent => "DEV_COHERENT_LOCAL",
        })
    }

    /// What SNAPSHOT says of a page on another device, which the CPU may
    /// `access`. hmm_vma_handle_pte() gives a device private pages of its own
    /// only; coherent ones are ordinary memory to everybody.
    #[track_caller]
    pub(crate) fn remote(&self, access: u8) -> Result<u8> {
        match self.kind {
            Device::Private => self.prot("NONE"),
            Device::Coherent => Ok(self.prot("DEV_COHERENT_REMOTE")? | access),
        }
    }

    /// What SNAPSHOT says, with `access`, of a page that was on the asked
    /// device when the CPU touched it: only a private page has to come home
    /// for that.
    #[track_caller]
    pub(crate) fn touched(&self, access: u8) -> Result<u8> {
        match self.kind {
            Device::Private => Ok(access),
            Device::Coherent => Ok(self.local()? | access),
        }
    }

    /// Sees to it that the pages which `device` takes next are not clean: a
    /// page that should be zero is so only if somebody zeroes it. (The free
    /// list in `dmirror_devmem_alloc_page()` and that of the page allocator
    /// give out first what was freed last.)
    #[track_caller]
    pub(crate) fn dirty_free_pages(&self, device: &Dmirror) -> Result {
        const PAGES: usize = 16;
        let scratch = Buffer::map(Place::Scratch, PAGES, Access::Write, Backing::Private)?;
        let mirror = Mirror::new(PAGES)?;
        scratch.all().fill(self.pattern());
        device.to_device(scratch.all(), &mirror)?.complete()?;
        scratch.unmap()?;
        mirror.unmap()
    }
}

/// Major and minor of a release: of `6.12.117` and of `5.8-rc7`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_versions() {
        assert_eq!(version_of("6.12.117"), Some((6, 12)));
        assert_eq!(version_of("5.8-rc7"), Some((5, 8)));
        assert_eq!(version_of("next"), None);
    }
}
