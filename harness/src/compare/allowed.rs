//! What a plan allows to be worse.

use serde::{Deserialize, Serialize};

use crate::results::{About, Change, Comparison};

/// A change of the trace that is meant to be: an operation, `to-device`, or one
/// change of it, `to-device: CLEAR -> MIGRATE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Allowed(String);

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> String {
        allowed.0
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Allowed, String> {
        let operation = text.split_once(": ").map_or(text.as_str(), |(operation, _)| operation);
        if operation.is_empty() || operation.contains(char::is_whitespace) {
            return Err(format!(
                "{text:?} is neither an operation, as to-device, nor a change of one, as \
                 'to-device: CLEAR -> MIGRATE'"
            ));
        }
        Ok(Allowed(text))
    }
}

impl Allowed {
    fn covers(&self, change: &Change) -> bool {
        let operation = change.operation.as_deref();
        change.about == About::Trace && (operation == Some(&self.0) || change.in_a_line() == self.0)
    }
}

impl Comparison {
    /// Sets apart what the plan allows.
    pub fn allow(&mut self, allow: &[Allowed]) {
        let worse = std::mem::take(&mut self.worse);
        let allowed = |change: &Change| allow.iter().any(|allowed| allowed.covers(change));
        let (allowed, worse) = worse.into_iter().partition(allowed);
        (self.allowed, self.worse) = (allowed, worse);
        let unseen = |allow: &&Allowed| !self.allowed.iter().any(|change| allow.covers(change));
        self.unseen = allow.iter().filter(unseen).map(|allow| allow.0.clone()).collect();
    }
}
