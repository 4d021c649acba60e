//! Verdicts from evidence.
pub mod results;
pub use results::*;
