//! The kernel's configuration: what the profile requests, resolved by the
//! tree's own kconfig, and checked.
//!
//! Fragments are requests, not `.config` files: each line says what somebody
//! needs and why. [`resolve`] asks the tree for the smallest configuration
//! that has all of them, and a kernel whose configuration does not *contain*
//! every request is not built. What nobody requested stays as `tinyconfig` and
//! `allnoconfig` have it.
//!
//! The result is kept under a key of what kconfig reads, so a change in a
//! `.c` file costs nothing here and a change in a `Kconfig` is noticed.

mod fragment;
mod kconfig;
mod profile;
mod resolve;
mod toolchain;

pub use fragment::{Place, Request, Value, merge, parse_fragment};
pub use kconfig::{Miss, Resolved, declaration, is_read_by_kconfig, misses};
pub use profile::{Fragments, Profile};
pub(crate) use resolve::ARCH;
pub use resolve::{Configured, resolve};
pub use toolchain::toolchain;
