//! What every stage may use: the store, the event log, the user's wish to stop.

use anyhow::Result;

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
        let Session { log, interrupt } = self.clone();
        Ok(Context { store: Store::of_user()?, log, interrupt })
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
}
