//! The one door to git: always with our own repository, index and object
//! directory, never with anything that the caller's environment or
//! configuration says.
//!
//! Trees keep the bytes of the files that they were made from: no attribute
//! of theirs turns line ends, runs a filter or expands a keyword, neither on
//! the way in nor on the way out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use xshell::{Cmd, Shell, cmd};

use crate::proc::{self, environment};
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
    /// Where objects are, if not in `dir`.
    objects: Option<PathBuf>,
    alternates: Vec<PathBuf>,
}

/// What a git command said.
#[derive(Debug)]
pub struct Said {
    /// Whether it exited with 0.
    pub success: bool,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error, line by line.
    pub complaints: Vec<String>,
}

impl Said {
    /// Its output as text, without the line end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).trim_end_matches('\n').to_owned()
    }
}

impl Git {
    /// The repository of the store, made if it is missing.
    ///
    /// # Errors
    /// When git is missing or the repository cannot be made.
    pub fn of(store: &Store) -> Result<Self> {
        Self::at(&store.path("trees.git"))
    }

    /// A repository of ours in `dir`, made if it is missing.
    ///
    /// # Errors
    /// When git is missing or the repository cannot be made.
    pub fn at(dir: &Path) -> Result<Self> {
        let git = Git { dir: dir.to_owned(), objects: None, alternates: Vec::new() };
        let attributes = Path::new("info/attributes");
        if !git.dir.join(attributes).exists() {
            let parent = dir.parent().context("a repository lies in a directory")?;
            let cannot = || format!("cannot make the repository {}", dir.display());
            std::fs::create_dir_all(parent).with_context(cannot)?;
            let made =
                tempfile::Builder::new().prefix(".new-").tempdir_in(parent).with_context(cannot)?;
            let (shell, path) = (Shell::new()?, made.path());
            run(built(cmd!(shell, "git init --quiet --bare --template= {path}")))
                .with_context(cannot)?;
            std::fs::create_dir_all(path.join("info")).with_context(cannot)?;
            std::fs::write(path.join(attributes), RAW).with_context(cannot)?;
            // Another run may have been quicker: then its repository is taken.
            if std::fs::rename(path, &git.dir).is_err() {
                let info = git.dir.join("info");
                std::fs::create_dir_all(info).with_context(cannot)?;
                std::fs::write(git.dir.join(attributes), RAW).with_context(cannot)?;
            }
        }
        Ok(git)
    }

    /// The repository of somebody else, only ever to be asked.
    pub fn theirs(place: &Place) -> Self {
        Git { dir: place.dir.clone(), objects: None, alternates: Vec::new() }
    }

    /// The same, also reading objects from `objects`, a directory that is
    /// never written to.
    #[must_use]
    pub fn with_alternate(mut self, objects: &Path) -> Self {
        self.alternates.push(objects.to_owned());
        self
    }

    /// The same objects seen from the repository in `dir`, which is made if it
    /// is missing and has its own index and references.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn seen_from(&self, dir: &Path) -> Result<Self> {
        let objects = Some(self.objects());
        Ok(Git { objects, alternates: self.alternates.clone(), ..Git::at(dir)? })
    }

    /// The variables that make git use this repository, for commands that run
    /// through [`crate::proc`].
    pub fn variables(&self) -> Vec<(String, OsString)> {
        let mut vars: Vec<(String, OsString)> = fixed_variables().collect();
        vars.push(("GIT_DIR".into(), self.dir.clone().into()));
        if let Some(objects) = &self.objects {
            vars.push(("GIT_OBJECT_DIRECTORY".into(), objects.clone().into()));
        }
        if !self.alternates.is_empty() {
            vars.push(("GIT_ALTERNATE_OBJECT_DIRECTORIES".into(), path_list(&self.alternates)));
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

    /// A git command on this repository that may take long.
    pub fn long(&self, args: &[&str]) -> proc::Cmd {
        let command = proc::Cmd::new("git").args(args);
        self.variables().into_iter().fold(command, |command, (k, v)| command.env(k, v))
    }

    /// What a command says, however it ends.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn ask(&self, args: &[&str]) -> Result<Said> {
        ask(self.cmd(&Shell::new()?, args))
    }

    /// The text of a file in a tree, `None` if it is not there.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn file(&self, tree: &TreeId, path: &str) -> Result<Option<String>> {
        let said = self.ask(&["cat-file", "blob", &format!("{tree}:{path}")])?;
        Ok(said.success.then(|| String::from_utf8_lossy(&said.out).into_owned()))
    }

    /// Which of `paths` a tree has. Nothing if there is no such tree.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn has(&self, tree: &TreeId, paths: &[&str]) -> Result<Vec<String>> {
        let args = [&["ls-tree", "-z", "--name-only", &tree.0, "--"], paths].concat();
        let names = self.ask(&args)?.out;
        let names = names.split(|&b| b == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// The directory of the repository itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where new objects go.
    pub fn objects(&self) -> PathBuf {
        self.objects.clone().unwrap_or_else(|| self.dir.join("objects"))
    }
}

/// Where the repository around a path of the caller's is, as far as we read
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its own directory: of the linked work tree, if it is one.
    pub dir: PathBuf,
    /// Its objects.
    pub objects: PathBuf,
    /// The index of the work tree, which need not exist.
    pub index: PathBuf,
    /// The top of the work tree; a bare repository has none.
    pub top: Option<PathBuf>,
    /// The hash that names its objects: `sha1`.
    pub format: String,
    /// Whether the executable bit of its files can be believed.
    pub file_mode: bool,
}

impl Place {
    /// Finds the repository that `path` lies in, `None` if it lies in none.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn find(path: &Path) -> Result<Option<Self>> {
        let shell = Shell::new()?;
        let question = |args: &[&str]| {
            let args = ["-C".into(), path.as_os_str().to_owned(), "rev-parse".into()]
                .into_iter()
                .chain(args.iter().map(OsString::from));
            ask(built(cmd!(shell, "git {args...}")))
        };
        let known = question(&[
            "--path-format=absolute",
            "--show-object-format",
            "--is-inside-work-tree",
            "--absolute-git-dir",
            "--git-path",
            "objects",
            "--git-path",
            "index",
        ])?;
        let text = String::from_utf8_lossy(&known.out);
        let mut lines = text.lines();
        let (true, Some(format), Some(inside), Some(dir), Some(objects), Some(index)) =
            (known.success, lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Ok(None);
        };
        let top = match inside {
            "true" => Some(question(&["--show-toplevel"])?.text().into()),
            _ => None,
        };
        let mode = ["-C".into(), path.as_os_str().to_owned()];
        let mode = ask(built(cmd!(shell, "git {mode...} config --type=bool core.fileMode")))?;
        Ok(Some(Place {
            dir: dir.into(),
            objects: objects.into(),
            index: index.into(),
            top,
            format: format.into(),
            file_mode: mode.text() != "false",
        }))
    }

    /// The commit that a revision names here, `None` if it names none.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn commit(&self, rev: &str) -> Result<Option<String>> {
        let shell = Shell::new()?;
        let name = format!("{rev}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", "--end-of-options", &name];
        // With their directory but not their work tree: nothing of it matters.
        let said = ask(built(cmd!(shell, "git {args...}")).env("GIT_DIR", &self.dir))?;
        Ok(said.success.then(|| said.text()))
    }
}

/// Overrides the attributes of every tree: bytes stay as they are.
const RAW: &str = "* -text -eol -crlf -ident -filter -working-tree-encoding\n";

/// What git must not take from the caller's machine or repository, and what
/// keeps it from tidying up behind our back.
const CONFIG: &[(&str, &str)] = &[
    ("safe.directory", "*"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.splitIndex", "false"),
    ("core.hooksPath", "/dev/null"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.quotePath", "false"),
    // Kernel trees come and go by the gigabyte: time matters more than space.
    ("core.compression", "1"),
    ("pack.compression", "1"),
    ("fastimport.unpackLimit", "0"),
    // A checksum over ten megabytes at every write of an index.
    ("index.skipHash", "true"),
];

/// The environment that makes git's work depend on its arguments alone.
fn fixed_variables() -> impl Iterator<Item = (String, OsString)> {
    let plain = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_AUTHOR_NAME", "hmm-harness"),
        ("GIT_AUTHOR_EMAIL", "hmm-harness@localhost"),
        ("GIT_AUTHOR_DATE", "2020-07-06T00:00:00+0000"),
        ("GIT_COMMITTER_NAME", "hmm-harness"),
        ("GIT_COMMITTER_EMAIL", "hmm-harness@localhost"),
        ("GIT_COMMITTER_DATE", "2020-07-06T00:00:00+0000"),
    ];
    let config = CONFIG.iter().enumerate().flat_map(|(n, (key, value))| {
        [(format!("GIT_CONFIG_KEY_{n}"), key), (format!("GIT_CONFIG_VALUE_{n}"), value)]
    });
    let count = ("GIT_CONFIG_COUNT".to_owned(), CONFIG.len().to_string().into());
    let plain = plain.into_iter().map(|(k, v)| (k.to_owned(), v.into()));
    plain.chain([count]).chain(config.map(|(k, v)| (k, v.into())))
}

/// A command in the built environment.
pub fn built(cmd: Cmd<'_>) -> Cmd<'_> {
    cmd.env_clear().envs(environment()).envs(fixed_variables()).quiet()
}

/// What a command says, however it ends.
///
/// # Errors
/// When it cannot be run.
pub fn ask(cmd: Cmd<'_>) -> Result<Said> {
    let output = cmd.ignore_status().quiet().output().context("cannot run git")?;
    let complaints = String::from_utf8_lossy(&output.stderr).lines().map(Into::into).collect();
    Ok(Said { success: output.status.success(), out: output.stdout, complaints })
}

/// The text that a command prints.
///
/// # Errors
/// With git's own words when it fails.
pub fn run(cmd: Cmd<'_>) -> Result<String> {
    let name = cmd.to_string();
    let said = ask(cmd)?;
    if !said.success {
        bail!("`{name}` failed: {}", said.complaints.join("; "));
    }
    Ok(said.text())
}

/// Paths as `GIT_ALTERNATE_OBJECT_DIRECTORIES` wants them: one with a colon in
/// it is quoted.
fn path_list(paths: &[PathBuf]) -> OsString {
    let mut list = OsString::new();
    for (n, path) in paths.iter().enumerate() {
        if n > 0 {
            list.push(":");
        }
        let text = path.to_string_lossy();
        if text.contains(':') || text.starts_with('"') {
            list.push(format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"")));
        } else {
            list.push(path);
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_colons_are_quoted() {
        let check = |paths: &[&str], expect: &str| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            assert_eq!(path_list(&paths), expect);
        };
        check(&["/a", "/b"], "/a:/b");
        check(&["/a:b\"c", "/b"], "\"/a:b\\\"c\":/b");
    }
}
