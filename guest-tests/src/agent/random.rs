//! The kernel's random state.
#![expect(unsafe_code, reason = "calls ioctl")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

mod number {
    // RNDRESEEDCRNG (include/uapi/linux/random.h), since 4.17.
    nix::ioctl_none!(reseed, b'R', 0x07);
}

/// Mixes `words` into the kernel's random state and has its generator begin
/// anew from there. Every copy of a saved guest starts from the same state; so
/// it depends on the words alone, but for what interrupts add.
pub(crate) fn stir(words: &str) -> Result<(), String> {
    let what = |e: String| format!("/dev/urandom: {e}");
    let mut file =
        OpenOptions::new().write(true).open("/dev/urandom").map_err(|e| what(e.to_string()))?;
    file.write_all(words.as_bytes()).map_err(|e| what(e.to_string()))?;
    // SAFETY: the request takes no argument, and the descriptor is open.
    match unsafe { number::reseed(file.as_raw_fd()) } {
        // A generator that has no seed yet will take one with these words.
        Ok(_) | Err(nix::errno::Errno::ENODATA) => Ok(()),
        Err(e) => Err(what(e.to_string())),
    }
}
