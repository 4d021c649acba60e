//! What the machine must have, what it lacks, and how it gets it.
//!
//! [`survey`] is the whole picture, for `doctor`; [`missing`] is what a run
//! cannot do without; [`install`] mends that with apt, after a dry run has
//! shown that nothing else of the machine changes.

mod apt;
mod needs;
mod survey;

pub use apt::install;
pub use needs::{GDB, Missing, Need, VENV, missing, missing_for_check, needs};
pub use survey::{Finding, State, survey};
