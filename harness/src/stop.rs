//! Why a command ends without a judgement, and the exit codes.
//!
//! Four classes, kept apart because scripts and `git bisect run` branch on
//! them: the caller's mistake, the kernel's fault, the machine's or our own,
//! and an interruption. Everything else that goes wrong inside us is a
//! [`Stop::Machine`], by way of [`anyhow::Error`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::flow::Stage;

/// Everything was as expected.
pub const AS_EXPECTED: u8 = 0;
/// The kernel was judged, and not as expected.
pub const NOT_AS_EXPECTED: u8 = 1;
/// This kernel cannot be judged; `git bisect run` skips it.
pub const NOT_JUDGEABLE: u8 = 125;
/// A usage or plan error.
pub const USAGE: u8 = 128;
/// The machine's fault or ours.
pub const FAULT: u8 = 129;
/// Interrupted by a signal.
pub const INTERRUPTED: u8 = 130;

/// One thing that is wrong with what the caller asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where it stands: `plan.yaml:3:1`, `--test`.
    pub at: String,
    /// What is wrong with it.
    pub what: String,
    /// What would be right, where that is known.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem at a place, without a hint.
    pub fn new(at: impl Into<String>, what: impl Into<String>) -> Self {
        Problem { at: at.into(), what: what.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What went wrong, with the lines that show it and the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The stage it happened in, if it happened in one.
    pub stage: Option<Stage>,
    /// One sentence: what, which thing, why.
    pub what: String,
    /// Evidence: compiler errors, the last console lines.
    pub details: Vec<String>,
    /// A command, or what to change.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault in no particular stage, without details.
    pub fn new(what: impl Into<String>) -> Self {
        Fault { stage: None, what: what.into(), details: Vec::new(), hint: None }
    }

    /// The same, in a stage.
    #[must_use]
    pub fn at(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// The same with evidence.
    #[must_use]
    pub fn details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    /// The same with the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Why there is no judgement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum Stop {
    /// What was asked for makes no sense: 128.
    Usage {
        /// All of it at once.
        problems: Vec<Problem>,
    },
    /// This kernel cannot be judged: 125.
    Kernel(Fault),
    /// The machine lacks something, or we are wrong: 129.
    Machine(Fault),
    /// A signal: 130.
    Interrupted,
}

impl Stop {
    /// A usage error with a single problem.
    pub fn usage(problem: Problem) -> Self {
        Stop::Usage { problems: vec![problem] }
    }

    /// The stage that could not be done, if it is known.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Stop::Kernel(fault) | Stop::Machine(fault) => fault.stage,
            Stop::Usage { .. } | Stop::Interrupted => None,
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Stop::Usage { .. } => USAGE,
            Stop::Kernel(_) => NOT_JUDGEABLE,
            Stop::Machine(_) => FAULT,
            Stop::Interrupted => INTERRUPTED,
        }
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        let full = error.chain().any(|cause| {
            cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull)
        });
        let fault = Fault::new(format!("{error:#}"));
        Stop::Machine(if full {
            fault
                .hint("free some space, or point HMM_HARNESS_CACHE and --out at a disk that has it")
        } else {
            fault
        })
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self {
            Stop::Usage { problems } => {
                for (n, p) in problems.iter().enumerate() {
                    let newline = if n == 0 { "" } else { "\n" };
                    write!(f, "{newline}error: {}: {}", p.at, p.what)?;
                    if let Some(hint) = &p.hint {
                        write!(f, "\n  hint: {hint}")?;
                    }
                }
                return Ok(());
            }
            Stop::Interrupted => {
                return f.write_str("stopped by a signal; what was judged so far is kept");
            }
            Stop::Kernel(fault) | Stop::Machine(fault) => fault,
        };
        match fault.stage {
            Some(stage) => write!(f, "error: {stage}: {}", fault.what)?,
            None => write!(f, "error: {}", fault.what)?,
        }
        for line in &fault.details {
            write!(f, "\n    {line}")?;
        }
        if let Some(hint) = &fault.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}
