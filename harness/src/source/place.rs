//! Where a source on this machine is, and whether it is what it should be.
//! Only looks.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::git::{Git, Place, TreeId};
use crate::source::{Package, Source, version_of};
use crate::stop::Problem;

/// A source on this machine that was found.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A package, which is not looked for before it is fetched.
    Package(&'a Package),
    /// A commit in a repository.
    Commit {
        /// The repository.
        place: Place,
        /// The commit's full name.
        commit: String,
    },
    /// A work tree.
    WorkTree {
        /// Its repository.
        place: Place,
        /// Its top directory.
        top: PathBuf,
    },
    /// A directory of files.
    Dir(PathBuf),
}

/// Finds a source, or says what is wrong with it.
pub(super) fn find(source: &Source) -> Result<Result<Found<'_>, Problem>> {
    match source {
        Source::Debian(package) => Ok(Ok(Found::Package(package))),
        Source::Dir { path } => Ok(dir(path)),
        Source::Git { path, rev } => {
            // The @ may be part of a directory's name.
            let whole = rev.as_ref().map(|rev| format!("{}@{rev}", path.display()));
            match whole.filter(|whole| Path::new(whole).is_dir()) {
                Some(whole) => git(Path::new(&whole), None),
                None => git(path, rev.as_deref()),
            }
        }
    }
}

fn dir(path: &Path) -> Result<Found<'static>, Problem> {
    let path = directory(path)?;
    if kernel_files(&path) {
        Ok(Found::Dir(path))
    } else {
        Err(no_kernel(&path.display().to_string()))
    }
}

fn git(path: &Path, rev: Option<&str>) -> Result<Result<Found<'static>, Problem>> {
    let path = match directory(path) {
        Ok(path) => path,
        Err(problem) => return Ok(Err(problem)),
    };
    let shown = path.display().to_string();
    let problem = |what: String| Problem::new("--kernel", what);
    let Some(place) = Place::find(&path)? else {
        return Ok(Err(problem(format!("{shown} is not in a git repository"))
            .hint(format!("a directory without one is dir:{shown}"))));
    };
    if place.format != "sha1" {
        let what = format!("{shown} names its objects by {}, the store by sha1", place.format);
        return Ok(Err(problem(what).hint(format!("its files can be taken as dir:{shown}"))));
    }
    let Some(rev) = rev else {
        let Some(top) = place.top.clone() else {
            return Ok(Err(problem(format!("{shown} has no work tree"))
                .hint(format!("name a commit: git:{shown}@HEAD"))));
        };
        return Ok(if kernel_files(&top) {
            Ok(Found::WorkTree { place, top })
        } else {
            Err(no_kernel(&format!("the work tree {}", top.display())))
        });
    };
    let Some(commit) = place.commit(rev)? else {
        return Ok(Err(problem(format!("{shown} has no commit `{rev}`"))
            .hint(format!("see what there is: git -C {shown} log --oneline --all"))));
    };
    let theirs = Git::theirs(&place);
    let tree = TreeId(format!("{commit}^{{tree}}"));
    let makefile = theirs.file(&tree, "Makefile")?.unwrap_or_default();
    let known = theirs.has(&tree, &["Kconfig", "mm"])?;
    Ok(if version_of(&makefile).is_some() && known.len() == 2 {
        Ok(Found::Commit { place, commit })
    } else {
        Err(no_kernel(&format!("{rev} in {shown}")))
    })
}

/// The path without links, if it is a directory.
fn directory(path: &Path) -> Result<PathBuf, Problem> {
    let shown = path.display();
    match path.canonicalize() {
        Ok(path) if path.is_dir() => Ok(path),
        Ok(_) => Err(Problem::new("--kernel", format!("{shown} is not a directory"))
            .hint("name the directory of a kernel's source")),
        Err(error) => Err(Problem::new("--kernel", format!("cannot find {shown}: {error}"))
            .hint("name the directory of a kernel's source")),
    }
}

fn kernel_files(path: &Path) -> bool {
    let makefile = std::fs::read(path.join("Makefile")).unwrap_or_default();
    version_of(&String::from_utf8_lossy(&makefile)).is_some()
        && path.join("Kconfig").is_file()
        && path.join("mm").is_dir()
}

fn no_kernel(name: &str) -> Problem {
    Problem::new("--kernel", format!("{name} is not a kernel's source"))
        .hint("its top directory has a Makefile with VERSION and PATCHLEVEL, a Kconfig and mm/")
}
