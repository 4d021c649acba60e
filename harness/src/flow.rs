//! The stages, in their order.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stage of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// What is to be done.
    Plan,
    /// The kernel's source, as a tree of the store.
    Source,
    /// The tree with the series applied.
    Series,
    /// The kernel's configuration.
    Config,
    /// The kernel.
    Build,
    /// The guest's root file system.
    Image,
    /// The recipe of the machine.
    Boot,
    /// The tests.
    Run,
    /// The evidence.
    Collect,
    /// The verdicts.
    Judge,
    /// What is shown of them.
    Report,
}

impl Stage {
    /// Those after which a run can be told to stop. What comes after the tests
    /// is done in any case.
    pub const STOPS: [Stage; 7] = [
        Stage::Source,
        Stage::Series,
        Stage::Config,
        Stage::Build,
        Stage::Image,
        Stage::Boot,
        Stage::Run,
    ];

    /// The word for it, on the command line too.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Plan => "plan",
            Stage::Source => "source",
            Stage::Series => "series",
            Stage::Config => "config",
            Stage::Build => "build",
            Stage::Image => "image",
            Stage::Boot => "boot",
            Stage::Run => "run",
            Stage::Collect => "collect",
            Stage::Judge => "judge",
            Stage::Report => "report",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
