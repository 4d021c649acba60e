//! The orchestrator.

pub mod context;
pub mod events;
pub mod flow;
pub mod git;
pub mod interrupt;
pub mod judge;
pub mod keeper;
pub mod proc;
pub mod stop;
pub mod store;
