//! Short questions to git, always with our own repository, index and object
//! directory, never with anything that the caller's environment says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xshell::{Cmd, Shell, cmd};

use crate::proc::environment;
use crate::store::Store;

/// The name of a tree object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeId(pub String);

impl std::fmt::Display for TreeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// The store's repository, with the object directories of others beside it.
#[derive(Debug, Clone)]
pub struct Git {
    dir: PathBuf,
    alternates: Vec<PathBuf>,
}

impl Git {
    /// The repository of the store, made if it is missing.
    ///
    /// # Errors
    /// When git is missing or the repository cannot be made.
    pub fn of(store: &Store) -> Result<Self> {
        let git = Git { dir: store.path("trees.git"), alternates: Vec::new() };
        if !git.dir.join("HEAD").exists() {
            let dir = store.dir("trees.git")?;
            let shell = Shell::new()?;
            built(cmd!(shell, "git init --quiet --bare {dir}")).run()?;
        }
        Ok(git)
    }

    /// The same, also reading objects from `objects`, a directory that is
    /// never written to.
    #[must_use]
    pub fn with_alternate(mut self, objects: &Path) -> Self {
        self.alternates.push(objects.to_owned());
        self
    }

    /// The variables that make git use this repository, for commands that run
    /// through [`crate::proc`].
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let mut vars: Vec<(&str, OsString)> = fixed_variables().collect();
        vars.push(("GIT_DIR", self.dir.clone().into()));
        if !self.alternates.is_empty() {
            let joined = std::env::join_paths(&self.alternates)
                .unwrap_or_else(|_| self.alternates[0].clone().into());
            vars.push(("GIT_ALTERNATE_OBJECT_DIRECTORIES", joined));
        }
        vars
    }

    /// A git command on this repository.
    pub fn cmd<'a>(&self, shell: &'a Shell, args: &[&str]) -> Cmd<'a> {
        built(cmd!(shell, "git {args...}")).envs(self.variables()).quiet()
    }

    /// The same with an index file.
    pub fn cmd_with_index<'a>(&self, shell: &'a Shell, index: &Path, args: &[&str]) -> Cmd<'a> {
        self.cmd(shell, args).env("GIT_INDEX_FILE", index)
    }

    /// The text of a file in a tree, `None` if it is not there.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn file(&self, tree: &TreeId, path: &str) -> Result<Option<String>> {
        let shell = Shell::new()?;
        let name = format!("{tree}:{path}");
        let output = self
            .cmd(&shell, &["cat-file", "blob", &name])
            .ignore_status()
            .output()
            .context("git")?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The directory of the repository itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What git must not take from the caller, and what makes its output stable.
fn fixed_variables() -> impl Iterator<Item = (&'static str, OsString)> {
    [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_AUTHOR_NAME", "hmm-harness"),
        ("GIT_AUTHOR_EMAIL", "hmm-harness@localhost"),
        ("GIT_AUTHOR_DATE", "2020-07-06T00:00:00+0000"),
        ("GIT_COMMITTER_NAME", "hmm-harness"),
        ("GIT_COMMITTER_EMAIL", "hmm-harness@localhost"),
        ("GIT_COMMITTER_DATE", "2020-07-06T00:00:00+0000"),
    ]
    .into_iter()
    .map(|(k, v)| (k, v.into()))
}

/// A command in the built environment.
pub fn built(cmd: Cmd<'_>) -> Cmd<'_> {
    cmd.env_clear().envs(environment()).envs(fixed_variables()).quiet()
}
