//! What `--kernel` says, as a value. Pure: whether it exists is for
//! [`Source::check`] to find out.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::stop::Problem;

/// The option that names a source, for messages.
const AT: &str = "--kernel";

/// The forms that are understood, for messages.
const FORMS: &str = "debian:PKG[=VERSION][/SUITE], git:PATH[@REV] or dir:PATH";

/// Where a kernel's source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A source package of Debian's.
    Debian(Package),
    /// A git repository on this machine.
    Git {
        /// A directory in it: absolute.
        path: PathBuf,
        /// A revision; without one it is the work tree as it stands.
        rev: Option<String>,
    },
    /// A directory of files: absolute.
    Dir {
        /// Its path.
        path: PathBuf,
    },
}

/// A package of Debian's that holds a kernel's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name: `linux-source-6.12`.
    pub name: String,
    /// Its version, where the caller wants a certain one.
    pub version: Option<String>,
    /// The suite to take it from, where the caller wants a certain one.
    pub suite: Option<String>,
}

impl Source {
    /// Understands `text`; relative paths are relative to `cwd`.
    ///
    /// # Errors
    /// When the scheme is unknown or what follows it has not its form.
    pub fn parse(text: &str, cwd: &Path) -> Result<Source, Problem> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(Problem::new(AT, format!("`{text}` names no scheme"))
                .hint(format!("write {FORMS}; a tree on this machine is dir:{text}")));
        };
        match scheme {
            "debian" => package(rest).map(Source::Debian),
            "git" => git(rest, cwd),
            "dir" if rest.is_empty() => Err(no_path("dir:PATH")),
            "dir" => Ok(Source::Dir { path: absolute(rest, cwd) }),
            "tarball" => Err(Problem::new(AT, "tarball: is not supported yet")
                .hint("unpack it and name the directory: dir:PATH")),
            _ => Err(Problem::new(AT, format!("unknown scheme `{scheme}:` in `{text}`"))
                .hint(format!("write {FORMS}"))),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Debian(package) => write!(f, "debian:{package}"),
            Source::Git { path, rev: None } => write!(f, "git:{}", path.display()),
            Source::Git { path, rev: Some(rev) } => write!(f, "git:{}@{rev}", path.display()),
            Source::Dir { path } => write!(f, "dir:{}", path.display()),
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(version) = &self.version {
            write!(f, "={version}")?;
        }
        if let Some(suite) = &self.suite {
            write!(f, "/{suite}")?;
        }
        Ok(())
    }
}

/// `PKG[=VERSION][/SUITE]`. The words end up as arguments and in apt's list of
/// sources, so each must look like what it is.
fn package(rest: &str) -> Result<Package, Problem> {
    let wrong = |what: String| {
        Problem::new(AT, what)
            .hint("write debian:PKG[=VERSION][/SUITE], for example debian:linux-source-6.12")
    };
    let (rest, suite) = match rest.rsplit_once('/') {
        Some((rest, suite)) => (rest, Some(suite)),
        None => (rest, None),
    };
    let (name, version) = match rest.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (rest, None),
    };
    let plain = |word: &str, more: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if !plain(name, "+.-") || name.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(wrong(format!("`{name}` is not the name of a package")));
    }
    if let Some(version) = version.filter(|v| !plain(v, "+.-:~")) {
        return Err(wrong(format!("`{version}` is not a package's version")));
    }
    if let Some(suite) = suite.filter(|s| !plain(s, ".-")) {
        return Err(wrong(format!("`{suite}` is not the name of a suite")));
    }
    Ok(Package {
        name: name.into(),
        version: version.map(Into::into),
        suite: suite.map(Into::into),
    })
}

/// `PATH[@REV]`. The last `@` divides them, except that one in front of a
/// brace belongs to the revision, as in `HEAD@{1}`.
fn git(rest: &str, cwd: &Path) -> Result<Source, Problem> {
    let divide = rest
        .char_indices()
        .rev()
        .find(|&(i, c)| c == '@' && !rest[i + 1..].starts_with('{'))
        .map(|(i, _)| i);
    let (path, rev) = match divide {
        Some(i) => (&rest[..i], Some(&rest[i + 1..])),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err(no_path("git:PATH[@REV]"));
    }
    if let Some(rev) = rev {
        if rev.is_empty() {
            return Err(Problem::new(AT, format!("`git:{rest}` names no revision after the @"))
                .hint(format!("write git:{path}@HEAD, or git:{path} for the work tree")));
        }
        if rev.contains("..") {
            return Err(Problem::new(AT, format!("the range `{rev}` is not supported yet"))
                .hint("name its end here, git:PATH@REV, or give the patches by --series"));
        }
        // A dash in front would read as an option of git's.
        if rev.starts_with('-') || rev.contains(['\0', '\n']) {
            return Err(Problem::new(AT, format!("`{rev}` is not a revision"))
                .hint("write git:PATH@REV with a commit, a branch or a tag"));
        }
    }
    Ok(Source::Git { path: absolute(path, cwd), rev: rev.map(Into::into) })
}

fn no_path(form: &str) -> Problem {
    Problem::new(AT, "the path is missing").hint(format!("write {form}"))
}

/// The path without `.` and doubled slashes, but with its `..`: what those
/// mean depends on symbolic links.
fn absolute(path: &str, cwd: &Path) -> PathBuf {
    cwd.join(path).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, Problem> {
        Source::parse(text, Path::new("/here"))
    }

    fn deb(name: &str, version: Option<&str>, suite: Option<&str>) -> Source {
        Source::Debian(Package {
            name: name.into(),
            version: version.map(Into::into),
            suite: suite.map(Into::into),
        })
    }

    fn repo(path: &str, rev: Option<&str>) -> Source {
        Source::Git { path: path.into(), rev: rev.map(Into::into) }
    }

    #[test]
    fn sources_are_understood() {
        let check = |text: &str, expect: Source| assert_eq!(parse(text), Ok(expect), "{text}");
        check("debian:linux-source-6.12", deb("linux-source-6.12", None, None));
        check(
            "debian:linux-source-6.12=6.12.117-1~deb12u1",
            deb("linux-source-6.12", Some("6.12.117-1~deb12u1"), None),
        );
        check(
            "debian:linux-source-6.1=1:6.1.2-3/bookworm-security",
            deb("linux-source-6.1", Some("1:6.1.2-3"), Some("bookworm-security")),
        );
        check("debian:linux-source-7.2/forky", deb("linux-source-7.2", None, Some("forky")));
        check("git:.", repo("/here", None));
        check("git:linux@v6.12", repo("/here/linux", Some("v6.12")));
        check("git:/k@HEAD@{1}", repo("/k", Some("HEAD@{1}")));
        check("git:/k@@{upstream}", repo("/k", Some("@{upstream}")));
        check("git:/home/me@work/k@topic", repo("/home/me@work/k", Some("topic")));
        check("git:../k", repo("/here/../k", None));
        check("dir:k/", Source::Dir { path: "/here/k".into() });
        check("dir:/a:b", Source::Dir { path: "/a:b".into() });
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let check = |text: &str, word: &str| {
            let problem = parse(text).expect_err(text);
            assert!(problem.what.contains(word), "{text}: {}", problem.what);
            assert!(problem.hint.is_some(), "{text} has no hint");
        };
        check("linux", "names no scheme");
        check("", "names no scheme");
        check("svn:linux", "unknown scheme `svn:`");
        check("debian:", "`` is not the name of a package");
        check("debian:--help", "`--help`");
        check("debian:Linux", "`Linux`");
        check("debian:linux-source=", "`` is not a package's version");
        check("debian:linux-source=6 7", "`6 7`");
        check("debian:linux-source/", "`` is not the name of a suite");
        check("debian:linux-source/a b", "`a b`");
        check("git:", "path is missing");
        check("git:@v6.12", "path is missing");
        check("git:k@", "names no revision");
        check("git:k@v6.1..v6.2", "range `v6.1..v6.2`");
        check("git:k@--all", "`--all` is not a revision");
        check("dir:", "path is missing");
        check("tarball:linux.tar.xz", "tarball:");
    }

    #[test]
    fn a_source_reads_as_it_was_written() {
        for text in ["debian:p=1/s", "git:/k", "git:/k@v1", "dir:/k"] {
            assert_eq!(parse(text).expect(text).to_string(), text);
        }
    }
}
