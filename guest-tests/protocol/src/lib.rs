//! What the harness and the guest say to each other.
//!
//! [`frame`] is the framing of the virtio-serial port and of the channel
//! between the agent and a test process; [`wire`] are the messages; [`trace`] is
//! how notifier events travel;
//! [`catalogue`] is the one list of tests that both sides know. This crate
//! knows nothing of QEMU, of files or of clocks.

pub mod catalogue;
pub mod frame;
pub mod trace;
pub mod wire;

pub use catalogue::{Device, TestDef, TestId};
pub use trace::{Marker, Span, Step};
pub use wire::{
    Abi, Failure, GuestMessage, HostMessage, Job, Mount, Outcome, Prepare, Setting, TestMessage,
    VERSION,
};
