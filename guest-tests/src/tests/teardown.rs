//! Memory that goes away while a device reads it.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hmm_protocol::Step;
use nix::errno::Errno;

use crate::access::TIMES;
use crate::buffer::{BUFFER_PAGES, Buffer};
use crate::check::{OrFail, Result, check, differs};
use crate::dmirror::Dmirror;
use crate::mirror::Mirror;
use crate::pages::Pages;
use crate::reply::Reply;
use crate::report::{introduce, step};
use crate::rig::Rig;

/// When the second half of the buffer is unmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// After the device has read.
    After,
    /// Before the device reads.
    Before,
    /// So long after the device began to read.
    Meanwhile(Duration),
}

/// The second half of a buffer is unmapped after, before and while the device
/// reads all of it.
///
/// How a race ends is left to chance, and no verdict hangs on it. What must
/// hold whoever wins: a READ that succeeds has seen every page, and in one go;
/// one that fails says EFAULT and hands out nothing; and once the unmapping is
/// done the half that is left is readable, and no page of the other half is.
pub(crate) fn anon_teardown(rig: &Rig) -> Result {
    let device = rig.device();
    let mirror = Mirror::new(BUFFER_PAGES)?;
    // How long a READ takes differs widely between machines, so the first,
    // which nobody disturbs, is timed.
    let undisturbed = read_and_unmap(rig, device, &mirror, When::After)?;
    read_and_unmap(rig, device, &mirror, When::Before)?;
    for _ in 2..TIMES {
        let delay = fraction(undisturbed, rig.random());
        read_and_unmap(rig, device, &mirror, When::Meanwhile(delay))?;
    }
    Ok(())
}

/// One round, from mapping the buffer to unmapping what is left of it. Returns
/// how long the READ took.
fn read_and_unmap(rig: &Rig, device: &Dmirror, mirror: &Mirror, when: When) -> Result<Duration> {
    let buffer = Buffer::private(BUFFER_PAGES)?;
    let data = rig.pattern();
    buffer.all().fill(data);
    let doomed = buffer.second_half();
    let mut begin = Instant::now();
    let (reply, took) = match when {
        When::After => {
            let reply = device.read_after(buffer.all(), mirror, || begin = Instant::now())?;
            let took = begin.elapsed();
            doomed.unmap()?;
            (reply, took)
        }
        When::Before => {
            doomed.unmap()?;
            (device.read(buffer.all(), mirror)?, begin.elapsed())
        }
        When::Meanwhile(delay) => {
            (read_while_unmapping(device, &buffer, mirror, delay)?, begin.elapsed())
        }
    };

    let succeeded = reply.result.is_ok();
    if succeeded {
        check(when != When::Before, "READ of a buffer of which half is unmapped must fail")?;
        // One fault and no more: what munmap() took from the device's page
        // table in between cannot be faulted in again, because the VMA is gone
        // before unmap_vmas() announces it.
        reply.complete_with_faults(1)?;
        mirror.check(buffer.all(), data, "what the device read before half was unmapped")?;
    } else {
        check(when != When::After, "READ of a whole buffer must succeed")?;
        reply.refused(Errno::EFAULT)?;
        mirror.check_untouched()?;
    }

    buffer.first_half().check(data, "the CPU's view of the half that is left")?;
    let again = device.read(buffer.first_half(), mirror)?.complete()?;
    mirror.check(buffer.first_half(), data, "what the device reads of the half that is left")?;
    // After a READ that succeeded, all pages of this half are in the device's
    // page table; after one that failed, some may not have got there.
    let faults_allowed = if succeeded { 0 } else { 1 };
    if again.faults > faults_allowed {
        let message = "device faults of READ of the half that was not unmapped";
        return Err(differs(again.faults, format_args!("at most {faults_allowed}"), message));
    }
    check_gone(device, doomed, mirror)?;
    buffer.unmap()?;
    Ok(took)
}

/// Reads all of `buffer` while another thread waits for `delay`, and then
/// unmaps the second half.
#[track_caller]
fn read_while_unmapping(
    device: &Dmirror,
    buffer: &Buffer,
    mirror: &Mirror,
    delay: Duration,
) -> Result<Reply> {
    let doomed = buffer.second_half();
    step(Step::new("unmap-meanwhile").of(doomed.span()));
    let ready = AtomicBool::new(false);
    let go = AtomicBool::new(false);
    let (reply, unmapped) = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            introduce("thread");
            ready.store(true, Ordering::Release);
            while !go.load(Ordering::Acquire) {
                spin_loop();
            }
            let begin = Instant::now();
            while begin.elapsed() < delay {
                spin_loop();
            }
            doomed.unmap_quietly()
        });
        while !ready.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let reply = device.read_after(buffer.all(), mirror, || go.store(true, Ordering::Release));
        // A READ that was not even tried must not leave the thread spinning.
        go.store(true, Ordering::Release);
        (reply, thread.join().expect("a panic ends the process before it unwinds"))
    });
    unmapped.or_fail(format_args!("unmap {doomed}"))?;
    reply
}

/// No page of `pages` may be readable: not even one whose entry in the
/// device's page table was overlooked, which is why a sample of pages is read
/// one by one, for an entry that is missing at the start would hide the others.
#[track_caller]
fn check_gone(device: &Dmirror, pages: Pages, mirror: &Mirror) -> Result {
    device.read(pages, mirror)?.refused(Errno::EFAULT)?;
    for page in pages.each().step_by(pages.count() / 8).chain(pages.each().last()) {
        device.read(page, mirror)?.refused(Errno::EFAULT)?;
    }
    mirror.check_untouched()
}

/// Some part of the first tenth of `time`. The device faults its pages in at
/// the beginning of a READ; most of its time goes into copying, where it can
/// no longer be disturbed (`dmirror_do_read()` holds the lock that
/// `dmirror_interval_invalidate()` wants).
fn fraction(time: Duration, random: u64) -> Duration {
    let most = time.as_nanos() as u64 / 10;
    Duration::from_nanos(random % most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_always_within_the_first_tenth() {
        let time = Duration::from_micros(100);
        for random in [0, 1, u64::MAX, 9_999, 10_000] {
            assert!(fraction(time, random) < Duration::from_micros(10));
        }
        assert_eq!(fraction(Duration::ZERO, 5), Duration::ZERO);
    }
}
