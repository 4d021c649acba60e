//! The kernel itself: `vmlinux` from a configured tree.
//!
//! A kernel is kept under a key of everything that decides its bytes: the
//! tree, the resolved configuration, the toolchain and our make variables. The
//! same key is never built twice. What must be built is built in a
//! [lane](lane::Lane), whose objects live on, so that a small change costs
//! what `make` needs for it and nothing else.

mod debugger;
mod diagnose;
mod kernel;
mod lane;
mod loaded;
mod make;
mod visit;

pub use debugger::Debugger;
pub use diagnose::{Diagnosis, Whose, diagnose};
pub use kernel::{Kernel, kernel};
pub(crate) use kernel::{about, fault};
pub(crate) use lane::Lane;
