//! Which patch changed something: what is asked, and which kernel to judge next.
//! Pure.

mod question;
mod search;

pub use question::{Answer, Question, Seen};
pub use search::{Change, Next, next};
