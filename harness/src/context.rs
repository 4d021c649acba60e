//! What every stage may use: the store, the event log, the user's wish to stop.

use crate::events::Log;
use crate::interrupt::Interrupt;
use crate::store::Store;

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
