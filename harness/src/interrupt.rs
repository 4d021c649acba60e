//! Whether the user asked us to stop.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::progress::say;
use crate::stop::{INTERRUPTED, Stop};
use crate::terminal;

/// Waits for a signal that may not be listened for.
async fn hang_up(hup: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match hup {
        Some(hup) => hup.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether whoever started us wants a signal to be ignored (`SigIgn`, proc(5)).
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as i32 - 1) & 1 == 1
}

/// Whether Ctrl-C is somebody else's.
static LENT: AtomicBool = AtomicBool::new(false);

/// As long as this lives, Ctrl-C is not meant for us.
#[derive(Debug)]
pub struct Lent(());

impl Drop for Lent {
    fn drop(&mut self) {
        LENT.store(false, Ordering::Release);
    }
}

/// A flag that rises once and stays.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<bool>);

/// That of this process.
static LISTENING: OnceLock<Interrupt> = OnceLock::new();

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP, the last unless it is ignored, as
    /// under nohup(1). The first asks; a second one ends the process at once, and
    /// the keepers end its children. Whoever asks again gets the same.
    ///
    /// # Errors
    /// When a signal cannot be listened for.
    pub fn listen() -> anyhow::Result<Self> {
        if let Some(listening) = LISTENING.get() {
            return Ok(listening.clone());
        }
        let (tell, told) = watch::channel(false);
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let ignored = is_ignored(Signal::SIGHUP);
        let mut hup = (!ignored).then(|| signal(SignalKind::hangup())).transpose()?;
        // Taken and not heeded: a file that may not grow is then an error of
        // whoever writes it, and not our end.
        let _limit = signal(SignalKind::from_raw(Signal::SIGXFSZ as i32))?;
        tokio::spawn(async move {
            let mut asked = false;
            loop {
                tokio::select! {
                    _ = int.recv() => if LENT.load(Ordering::Acquire) { continue },
                    _ = term.recv() => {}
                    Some(()) = hang_up(&mut hup) => {}
                }
                terminal::restore();
                if asked {
                    std::process::exit(i32::from(INTERRUPTED));
                }
                asked = true;
                // Nobody listening means that everything has ended already.
                let _ = tell.send(true);
                // A terminal that takes nothing must not keep us from the next one.
                tokio::task::spawn_blocking(|| say("stopping; once more to stop at once"));
            }
        });
        Ok(LISTENING.get_or_init(|| Interrupt(told)).clone())
    }

    /// Leaves the keyboard to a child at our terminal: the SIGINT that Ctrl-C sends to
    /// all that is in the foreground is not heeded, until what this returns is dropped.
    pub fn lend_keyboard(&self) -> Lent {
        LENT.store(true, Ordering::Release);
        Lent(())
    }

    /// One that never rises, for tests.
    pub fn never() -> Self {
        let (tell, told) = watch::channel(false);
        // The sender lives as long as the process: a dropped one reads as risen.
        std::mem::forget(tell);
        Interrupt(told)
    }

    /// Returns when the user asked.
    pub async fn wait(&self) {
        let mut told = self.0.clone();
        if told.wait_for(|asked| *asked).await.is_err() {
            // The listener is gone with the runtime: nobody can ask any more.
            std::future::pending::<()>().await;
        }
    }

    /// Stops here if the user asked.
    ///
    /// # Errors
    /// [`Stop::Interrupted`] if so.
    pub fn check(&self) -> Result<(), Stop> {
        if *self.0.borrow() { Err(Stop::Interrupted) } else { Ok(()) }
    }
}
