//! Whether the user asked us to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::progress::say;
use crate::stop::{INTERRUPTED, Stop};

/// A flag that rises once and stays.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP. The first asks; a second one
    /// ends the process at once, and the keepers end its children.
    ///
    /// # Errors
    /// When a signal cannot be listened for.
    pub fn listen() -> anyhow::Result<Self> {
        let (tell, told) = watch::channel(false);
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            let mut asked = false;
            loop {
                tokio::select! {
                    _ = int.recv() => {}
                    _ = term.recv() => {}
                    _ = hup.recv() => {}
                }
                if asked {
                    std::process::exit(i32::from(INTERRUPTED));
                }
                asked = true;
                // Nobody listening means that everything has ended already.
                let _ = tell.send(true);
                say("stopping; once more to stop at once");
            }
        });
        Ok(Interrupt(told))
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
