//! Where the machine takes packages from, read from its apt configuration.
//! Almost pure: only the keys of a repository are looked up in files.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// What `apt-get indextargets` is asked for, a row for each list.
pub(super) const FORMAT: &str =
    "$(TARGET_OF)\t$(CREATED_BY)\t$(COMPONENT)\t$(REPO_URI)\t$(RELEASE)\t$(ORIGIN)";

/// The component that holds the kernel.
const COMPONENT: &str = "main";

/// A suite of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    /// The mirror, with a slash at its end.
    pub(super) uri: String,
    /// The suite or codename.
    pub(super) suite: String,
    /// Whether it calls itself Debian's; unknown before its lists were fetched.
    debian: Option<bool>,
    /// What apt's list of sources says of its keys: `signed-by=...`.
    options: Vec<String>,
}

impl Repository {
    fn new(uri: &str, suite: &str, debian: Option<bool>) -> Self {
        let uri = format!("{}/", uri.trim_end_matches('/'));
        Repository { uri, suite: suite.into(), debian, options: Vec::new() }
    }

    /// Its line in a list of sources of ours: no other lists than the one of
    /// packages are wanted.
    pub(super) fn line(&self) -> String {
        let options = ["target=Packages".to_owned()].into_iter().chain(self.options.clone());
        let options = options.collect::<Vec<_>>().join(" ");
        format!("deb [{options}] {} {} {COMPONENT}\n", self.uri, self.suite)
    }

    /// Another suite, on the same mirror or on the one beside it.
    fn other(&self, uri: &str, suite: &str) -> Self {
        Repository { uri: uri.into(), suite: suite.into(), ..self.clone() }
    }

    /// The mirror of security updates beside an ordinary one.
    fn security(&self) -> Option<String> {
        Some(format!("{}/debian-security/", self.uri.strip_suffix("/debian/")?))
    }

    fn is_debian(&self) -> bool {
        let named = || {
            let last = self.uri.trim_end_matches('/').rsplit('/').next();
            last.is_some_and(|name| name.starts_with("debian"))
        };
        self.debian.unwrap_or_else(named)
    }
}

/// Reads the output for [`FORMAT`].
pub(super) fn from_targets(lines: &[String]) -> Vec<Repository> {
    let rows = lines.iter().filter_map(|line| {
        let row: Vec<&str> = line.split('\t').collect();
        let ["deb", "Packages", COMPONENT, uri, suite, origin] = row[..] else { return None };
        // A field that apt does not know stays as it was asked for.
        let debian = (!origin.starts_with("$(") && !origin.is_empty()).then(|| origin == "Debian");
        Some(Repository::new(uri, suite, debian))
    });
    debians(rows)
}

/// Reads the output of `apt-get update --print-uris`, of which only the names
/// of signed files say something: `'URI/dists/SUITE/InRelease' ...`.
pub(super) fn from_uris(lines: &[String]) -> Vec<Repository> {
    let rows = lines.iter().filter_map(|line| {
        let place = line.strip_prefix('\'')?.split('\'').next()?.strip_suffix("/InRelease")?;
        let (uri, suite) = place.rsplit_once("/dists/")?;
        Some(Repository::new(uri, suite, None))
    });
    debians(rows)
}

/// Each once, and only those of Debian where there are any.
fn debians(rows: impl Iterator<Item = Repository>) -> Vec<Repository> {
    let mut all: Vec<Repository> = Vec::new();
    for row in rows {
        if !all.iter().any(|r| r.uri == row.uri && r.suite == row.suite) {
            all.push(row);
        }
    }
    if all.iter().any(Repository::is_debian) {
        all.retain(Repository::is_debian);
    }
    all
}

/// The suites beside the configured ones that a bare system does not list.
pub(super) fn beside(configured: &[Repository]) -> Vec<Repository> {
    let mut more: Vec<Repository> = Vec::new();
    for base in configured.iter().filter(|r| !r.suite.contains('-')) {
        let security =
            base.security().map(|uri| base.other(&uri, &format!("{}-security", base.suite)));
        let same = ["updates", "backports"]
            .map(|kind| base.other(&base.uri, &format!("{}-{kind}", base.suite)));
        for repository in security.into_iter().chain(same) {
            if !configured.iter().chain(&more).any(|r| r.suite == repository.suite) {
                more.push(repository);
            }
        }
    }
    more
}

/// The suite that the caller names, on the mirrors of the configured ones.
pub(super) fn suite(configured: &[Repository], name: &str) -> Vec<Repository> {
    let secure = |suite: &str| suite.ends_with("-security");
    let mut found: Vec<Repository> = Vec::new();
    let mut add = |repository: Repository| {
        if !found.iter().any(|r| r.uri == repository.uri) {
            found.push(repository);
        }
    };
    for r in configured.iter().filter(|r| secure(&r.suite) == secure(name)) {
        add(r.other(&r.uri, name));
    }
    if secure(name) {
        for r in configured.iter().filter(|r| !secure(&r.suite)) {
            if let Some(uri) = r.security() {
                add(r.other(&uri, name));
            }
        }
    }
    found
}

/// Looks up by which keys each repository is signed: apt does not tell. Keys
/// that stand in a list of sources themselves are written to `keys`.
pub(super) fn add_keys(repositories: &mut [Repository], etc: &Path, keys: &Path) -> Result<()> {
    let parts = fs::read_dir(etc.join("sources.list.d"));
    let mut files: Vec<_> = parts.into_iter().flatten().flatten().map(|f| f.path()).collect();
    files.push(etc.join("sources.list"));
    files.sort();
    // What cannot be read says nothing; then apt's trusted keys must do.
    let texts: Vec<String> = files.iter().filter_map(|f| fs::read_to_string(f).ok()).collect();
    for (n, repository) in repositories.iter_mut().enumerate() {
        let Some(options) = texts.iter().find_map(|text| options(text, &repository.uri)) else {
            continue;
        };
        for (key, value) in options {
            let value = if value.contains("BEGIN PGP") {
                let path = keys.join(format!("{n}.asc"));
                fs::create_dir_all(keys)
                    .and_then(|()| fs::write(&path, value))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                path.display().to_string()
            } else {
                value.split_whitespace().collect::<Vec<_>>().join(",")
            };
            repository.options.push(format!("{key}={value}"));
        }
    }
    Ok(())
}

/// What a list of sources, in either of its forms, says of a mirror's keys.
fn options(text: &str, uri: &str) -> Option<Vec<(&'static str, String)>> {
    let same = |other: &str| other.trim_end_matches('/') == uri.trim_end_matches('/');
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("deb ")) {
        let (options, rest) = match line.trim().strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", line),
        };
        if rest.split_whitespace().next().is_some_and(same) {
            let find = |key: &str| {
                let found = options.split_whitespace().find_map(|o| o.strip_prefix(key));
                found.and_then(|o| o.strip_prefix('=')).map(str::to_owned)
            };
            return Some(known(find));
        }
    }
    let text = text.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n");
    for stanza in text.split("\n\n") {
        let field = |name: &str| field(stanza, name);
        if field("uris").is_some_and(|uris| uris.split_whitespace().any(same)) {
            return Some(known(field));
        }
    }
    None
}

/// The options that matter, of those that `find` knows.
fn known(find: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    ["signed-by", "trusted"].into_iter().filter_map(|key| Some((key, find(key)?))).collect()
}

/// A field of a stanza with its continuation lines, in which a lone dot stands
/// for an empty line.
fn field(stanza: &str, name: &str) -> Option<String> {
    let mut lines = stanza.lines().skip_while(|line| {
        !line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
    });
    let first = lines.next()?.split_once(':')?.1.trim().to_owned();
    let more = lines
        .take_while(|line| line.starts_with([' ', '\t']))
        .map(|line| if line.trim() == "." { "" } else { line.trim() });
    Some(std::iter::once(first.as_str()).chain(more).collect::<Vec<_>>().join("\n").trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(Into::into).collect()
    }

    fn names(repositories: &[Repository]) -> Vec<String> {
        repositories.iter().map(|r| format!("{} {}", r.uri, r.suite)).collect()
    }

    const TARGETS: &str = "\
deb\tPackages\tmain\thttp://m/debian/\tbookworm\tDebian
deb\tDEP-11\tmain\thttp://m/debian/\tbookworm\tDebian
deb\tPackages\tcontrib\thttp://m/debian/\tbookworm\tDebian
deb\tPackages\tmain\thttp://other/node\tnodistro\t. nodistro
deb-src\tSources\tmain\thttp://m/debian/\tbookworm\tDebian
a line of another kind";

    #[test]
    fn mirrors_are_read_from_the_machine() {
        let check = |found: Vec<Repository>, expect: &[&str]| assert_eq!(names(&found), expect);
        check(from_targets(&lines(TARGETS)), &["http://m/debian/ bookworm"]);
        check(
            from_targets(&lines("deb\tPackages\tmain\thttp://m/deb\ts\t$(ORIGIN)")),
            &["http://m/deb/ s"],
        );
        check(
            from_uris(&lines(
                "'http://m/debian/dists/bookworm/InRelease' m_InRelease 0 \n\
                 'http://m/debian/dists/bookworm/main/binary-all/Packages.xz' x 0 \n\
                 'http://n/node/dists/nodistro/InRelease' n_InRelease 0 ",
            )),
            &["http://m/debian/ bookworm"],
        );
    }

    #[test]
    fn a_bare_system_gets_the_suites_beside_its_own() {
        let base = [Repository::new("http://m/debian", "bookworm", None)];
        let expect = [
            "http://m/debian-security/ bookworm-security",
            "http://m/debian/ bookworm-updates",
            "http://m/debian/ bookworm-backports",
        ];
        assert_eq!(names(&beside(&base)), expect);
        let more = [base[0].clone(), Repository::new("http://s/sec", "bookworm-security", None)];
        assert_eq!(names(&beside(&more)), expect[1..]);
        let odd = [Repository::new("http://m/mirror", "bookworm", None)];
        assert_eq!(names(&beside(&odd)).len(), 2);
    }

    #[test]
    fn a_named_suite_is_looked_for_on_its_mirror() {
        let base = [
            Repository::new("http://m/debian", "bookworm", None),
            Repository::new("http://m/debian", "bookworm-updates", None),
        ];
        assert_eq!(names(&suite(&base, "forky")), ["http://m/debian/ forky"]);
        assert_eq!(
            names(&suite(&base, "trixie-security")),
            ["http://m/debian-security/ trixie-security"]
        );
        let with = [base[0].clone(), Repository::new("http://s/sec", "bookworm-security", None)];
        assert_eq!(names(&suite(&with, "trixie-security"))[0], "http://s/sec/ trixie-security");
    }

    #[test]
    fn keys_are_found_in_both_forms() {
        let check = |text: &str, expect: Option<&[(&'static str, &str)]>| {
            let expect = expect.map(|e| e.iter().map(|(k, v)| (*k, v.to_string())).collect());
            assert_eq!(options(text, "http://m/debian/"), expect, "{text}");
        };
        check("deb http://m/debian bookworm main", Some(&[]));
        check(
            "# deb http://m/debian\ndeb [arch=amd64 signed-by=/k.gpg] http://m/debian/ s main",
            Some(&[("signed-by", "/k.gpg")]),
        );
        check(
            "Types: deb\nURIs: http://x/y\n\nTypes: deb\n# why\nURIs: http://m/debian\nSuites: s\nSigned-By: /k.gpg\n",
            Some(&[("signed-by", "/k.gpg")]),
        );
        check(
            "URIs: http://m/debian\nSigned-By:\n -----BEGIN PGP\n .\n abc\nTrusted: yes",
            Some(&[("signed-by", "-----BEGIN PGP\n\nabc"), ("trusted", "yes")]),
        );
        check("deb http://other/debian s main", None);
    }

    #[test]
    fn a_line_names_its_options() {
        let mut r = Repository::new("http://m/debian", "s", None);
        r.options.push("signed-by=/k.gpg".into());
        assert_eq!(r.line(), "deb [target=Packages signed-by=/k.gpg] http://m/debian/ s main\n");
    }
}
