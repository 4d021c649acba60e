//! Assertions. What does not hold is a value, [`Stop`], that names the line of
//! the test it came from, what was seen and what was expected.
//!
//! Every function here is `#[track_caller]`, and so are the helpers of the
//! other modules that check something on behalf of a test: the location that
//! is reported is the test's.

use std::fmt::{Debug, Display};
use std::panic::Location;

use hmm_protocol::{Failure, Outcome};

use crate::report;

/// Why a test does not go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something that must hold does not.
    Failed(Box<Failure>),
    /// The guest lacks what the test is about.
    Skipped(String),
}

impl Stop {
    /// The same, about one page of a buffer.
    pub(crate) fn on_page(self, page: usize) -> Stop {
        match self {
            Stop::Failed(mut failure) => {
                failure.page = Some(page as u64);
                Stop::Failed(failure)
            }
            skipped @ Stop::Skipped(_) => skipped,
        }
    }

    /// The verdict that this amounts to.
    pub(crate) fn into_outcome(self) -> Outcome {
        match self {
            Stop::Failed(failure) => Outcome::Failed(*failure),
            Stop::Skipped(reason) => Outcome::Skipped { reason },
        }
    }
}

/// What a test, and every part of one, returns.
pub(crate) type Result<T = ()> = std::result::Result<T, Stop>;

/// A failure in words, for what is not a comparison of two values.
#[track_caller]
pub(crate) fn failed(message: impl Display) -> Stop {
    stop(message.to_string(), None, None)
}

/// A failure with what was seen and what was expected.
#[track_caller]
pub(crate) fn differs(seen: impl Display, expected: impl Display, message: impl Display) -> Stop {
    stop(message.to_string(), Some(seen.to_string()), Some(expected.to_string()))
}

/// The two must be equal; `what` says what `seen` is.
#[track_caller]
pub(crate) fn check_eq<T: PartialEq + Debug>(seen: T, expected: T, what: impl Display) -> Result {
    if seen == expected {
        return Ok(());
    }
    Err(differs(format_args!("{seen:?}"), format_args!("{expected:?}"), what))
}

/// The condition must hold; `what` says which one it is.
#[track_caller]
pub(crate) fn check(holds: bool, what: impl Display) -> Result {
    if holds { Ok(()) } else { Err(failed(what)) }
}

/// Turns the error of a system call that must succeed into a failure.
pub(crate) trait OrFail<T> {
    /// The value, or a failure that says what could not be done and why.
    #[track_caller]
    fn or_fail(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> OrFail<T> for std::result::Result<T, E> {
    #[track_caller]
    fn or_fail(self, what: impl Display) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(failed(format_args!("cannot {what}: {error}"))),
        }
    }
}

#[track_caller]
fn stop(message: String, seen: Option<String>, expected: Option<String>) -> Stop {
    let at = Location::caller();
    report::give_up();
    Stop::Failed(Box::new(Failure {
        file: at.file().to_owned(),
        line: at.line(),
        message,
        seen,
        expected,
        page: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(result: Result) -> Failure {
        match result {
            Err(Stop::Failed(failure)) => *failure,
            other => panic!("not a failure: {other:?}"),
        }
    }

    #[test]
    fn a_failure_names_the_line_that_checked() {
        let line = line!() + 1;
        let seen = failure(check_eq(3, 4, "cpages of READ"));
        assert_eq!((seen.file.as_str(), seen.line), (file!(), line));
        assert_eq!(seen.seen.as_deref(), Some("3"));
        assert_eq!(seen.expected.as_deref(), Some("4"));
    }

    #[test]
    fn an_error_of_a_call_is_in_the_message() {
        let seen = failure(Err::<(), _>(nix::Error::ENOENT).or_fail("open the door"));
        assert_eq!(seen.file, file!());
        assert!(seen.message.starts_with("cannot open the door: ENOENT"), "{}", seen.message);
    }
}
