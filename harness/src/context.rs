//! What every stage may use: the store, the event log, the user's wish to stop.

use std::fs::File;
use std::sync::Arc;

use anyhow::Result;
use nix::fcntl::Flock;

use crate::events::Log;
use crate::interrupt::Interrupt;
use crate::store::Store;

/// A command between its start and the moment it needs a store.
#[derive(Debug, Clone)]
pub struct Session {
    /// Where events go.
    pub log: Log,
    /// Whether to stop.
    pub interrupt: Interrupt,
}

impl Session {
    /// The same with the user's store.
    ///
    /// # Errors
    /// When the store cannot be made.
    pub fn context(&self) -> Result<Context> {
        Context::new(Store::of_user()?, self.log.clone(), self.interrupt.clone())
    }
}

/// The few doors to the world that stages share.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where things are kept between runs.
    pub store: Store,
    /// Where events go.
    pub log: Log,
    /// Whether to stop.
    pub interrupt: Interrupt,
    /// Kept for what dropping it does: nothing is removed from the store as long.
    _shared: Arc<Flock<File>>,
}

impl Context {
    /// Uses a store until the last copy of the context is dropped.
    ///
    /// # Errors
    /// When the store cannot be locked.
    pub fn new(store: Store, log: Log, interrupt: Interrupt) -> Result<Self> {
        let shared = store.share(|| log.note("waiting until the store has been cleaned up"))?;
        Ok(Context { store, log, interrupt, _shared: Arc::new(shared) })
    }
}
