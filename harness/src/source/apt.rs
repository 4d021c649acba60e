//! Packages by way of apt, without root and without touching the machine's
//! own lists, caches or configuration.
//!
//! The mirrors and their keys are the machine's; everything that apt writes
//! lies in a directory of the store.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::flow::Stage;
use crate::proc::Cmd;
use crate::source::mirrors::{self, Repository};
use crate::source::{MAKE_SPACE, disk_full};
use crate::stop::{Fault, Stop};

/// What a machine without a network, or without apt, can do instead.
const INSTEAD: &str = "look at the network and at /etc/apt, or name a tree on this machine: \
                       --kernel git:PATH or dir:PATH";

/// Settings that are none of a path. The machine's hooks must not run: some of
/// them empty its caches.
const SETTINGS: &str = r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
APT::Sandbox::User "";
APT::Default-Release "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::GzipIndexes "true";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"#;

/// What of the caller's environment says how to reach the network.
const NETWORK: [&str; 8] = [
    "APT_CONFIG",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// An apt with directories of its own.
pub(super) struct Apt<'a> {
    ctx: &'a Context,
    dir: PathBuf,
    /// What the last update could not fetch, in apt's words.
    complaints: Vec<String>,
}

impl<'a> Apt<'a> {
    /// Sets it up in `dir`.
    pub(super) fn set_up(ctx: &'a Context, dir: &Path) -> Result<Self> {
        let mut conf = SETTINGS.to_owned();
        for (key, path) in [
            ("Dir::State", "state/"),
            ("Dir::State::lists", "lists/"),
            ("Dir::Cache", "cache/"),
            ("Dir::Cache::archives", "archives/"),
            ("Dir::Log", "log/"),
        ] {
            let path = dir.join(path);
            fs::create_dir_all(path.join("partial"))
                .with_context(|| format!("cannot make {}", path.display()))?;
            conf += &format!("{key} \"{}/\";\n", path.display());
        }
        for (key, name) in
            [("Dir::State::status", "status"), ("Dir::Etc::sourcelist", "sources.list")]
        {
            let path = dir.join(name);
            fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
            conf += &format!("{key} \"{}\";\n", path.display());
        }
        fs::write(dir.join("apt.conf"), conf).context("cannot write apt's configuration")?;
        Ok(Apt { ctx, dir: dir.to_owned(), complaints: Vec::new() })
    }

    /// The repositories that the machine is configured for.
    pub(super) async fn configured(&self) -> Result<Vec<Repository>, Stop> {
        let ask = apt("apt-get").args(["indextargets", "--format", mirrors::FORMAT]);
        let mut found = mirrors::from_targets(&self.lines(&ask).await?.0);
        if found.is_empty() {
            // A machine that never fetched its lists, as images come.
            let ask = apt("apt-get").args(["update", "--print-uris"]);
            found = mirrors::from_uris(&self.lines(&ask).await?.0);
        }
        if found.is_empty() {
            return Err(Stop::Machine(
                Fault::new("apt is configured for no repository").at(Stage::Source).hint(INSTEAD),
            ));
        }
        mirrors::add_keys(&mut found, Path::new("/etc/apt"), &self.dir.join("keys"))?;
        Ok(found)
    }

    /// Fetches the lists of `repositories`, and of no others. What cannot be
    /// fetched is missing afterwards: another may have what is wanted.
    pub(super) async fn update(&mut self, repositories: &[Repository]) -> Result<(), Stop> {
        let list: String = repositories.iter().map(Repository::line).collect();
        fs::write(self.dir.join("sources.list"), list).context("cannot write apt's sources")?;
        let names: Vec<&str> = repositories.iter().map(|r| r.suite.as_str()).collect();
        self.ctx.log.progress(Stage::Source, format!("asking for {}", names.join(", ")));
        let mut lines = Vec::new();
        self.own("apt-get")
            .arg("update")
            .run(&self.ctx.interrupt, |line| {
                self.ctx.log.line(line);
                lines.push(line.to_owned());
            })
            .await
            .map_err(no_apt)?;
        self.complaints = complaints(&lines);
        Ok(())
    }

    /// The version of a package that apt would take, and all that there are.
    pub(super) async fn versions(&self, name: &str) -> Result<(Option<String>, Vec<String>), Stop> {
        let (policy, _) = self.lines(&self.own("apt-cache").args(["policy", name])).await?;
        let candidate = policy
            .iter()
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
            .filter(|version| *version != "(none)");
        let (rows, _) = self.lines(&self.own("apt-cache").args(["madison", name])).await?;
        let all = rows.iter().filter_map(|row| Some(row.split('|').nth(1)?.trim().to_owned()));
        Ok((candidate.map(Into::into), all.collect()))
    }

    /// The names of packages that hold a kernel's source.
    pub(super) async fn sources(&self) -> Result<Vec<String>, Stop> {
        let ask = self.own("apt-cache").args(["pkgnames", "linux-source-"]);
        let mut names = self.lines(&ask).await?.0;
        names.sort();
        Ok(names)
    }

    /// Downloads a package into `to`.
    pub(super) async fn download(
        &self,
        name: &str,
        version: &str,
        to: &Path,
    ) -> Result<PathBuf, Stop> {
        let what = format!("{name}={version}");
        let cmd = self.own("apt-get").args(["-o", "APT::Status-Fd=1", "download", &what]).dir(to);
        let mut told = 0;
        let ended = cmd
            .run(&self.ctx.interrupt, |line| {
                let Some(percent) = percent(line) else {
                    self.ctx.log.line(line);
                    return;
                };
                if percent / 10 <= told {
                    return;
                }
                told = percent / 10;
                self.ctx.log.progress(Stage::Source, format!("downloading {what}: {told}0 %"));
            })
            .await
            .map_err(no_apt)?;
        let files = fs::read_dir(to).context("reading the download")?;
        let deb = files
            .filter_map(Result::ok)
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        match deb {
            Some(deb) if ended.success() => Ok(deb),
            _ => Err(self.fault(format!("cannot download {what}"), complaints(&ended.tail))),
        }
    }

    /// Why a package was not found, if that may be for want of a list.
    pub(super) fn incomplete(&self, what: &str) -> Option<Stop> {
        if self.complaints.is_empty() {
            return None;
        }
        let what = format!("{what} was not found, and not every list could be fetched");
        Some(self.fault(what, self.complaints.clone()))
    }

    fn fault(&self, what: String, details: Vec<String>) -> Stop {
        let hint = if disk_full(&details) { MAKE_SPACE } else { INSTEAD };
        Stop::Machine(Fault::new(what).at(Stage::Source).details(details).hint(hint))
    }

    /// A program of apt's on our directories.
    fn own(&self, program: &str) -> Cmd {
        apt(program).arg("-c").arg(self.dir.join("apt.conf"))
    }

    /// What a command writes, and whether it ended well.
    async fn lines(&self, cmd: &Cmd) -> Result<(Vec<String>, bool), Stop> {
        let mut lines = Vec::new();
        let ended = cmd
            .run(&self.ctx.interrupt, |line| lines.push(line.to_owned()))
            .await
            .map_err(no_apt)?;
        Ok((lines, ended.success()))
    }
}

/// A program of apt's, which may need to be told the way out.
fn apt(program: &str) -> Cmd {
    NETWORK
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .fold(Cmd::new(program), |cmd, (name, value)| cmd.env(name, value))
}

/// A machine without apt learns what to do instead.
fn no_apt(stop: Stop) -> Stop {
    match stop {
        Stop::Machine(fault) => Stop::Machine(fault.at(Stage::Source).hint(INSTEAD)),
        stop => stop,
    }
}

/// The lines in which apt says what went wrong.
fn complaints(lines: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in lines.iter().filter(|l| l.starts_with("E:") || l.starts_with("W:")) {
        if !found.contains(line) {
            found.push(line.clone());
        }
    }
    found
}

/// How far a download is, from a line for apt's status descriptor:
/// `dlstatus:1:42.8571:Retrieving file 1 of 1`.
fn percent(line: &str) -> Option<u64> {
    let number = line.strip_prefix("dlstatus:")?.split(':').nth(1)?;
    number.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read() {
        assert_eq!(percent("dlstatus:1:42.8571:Retrieving file 1 of 1"), Some(42));
        assert_eq!(percent("Get:1 somewhere linux-source"), None);
        assert_eq!(percent("dlstatus:"), None);
    }

    #[test]
    fn complaints_are_told_once() {
        let lines = ["Hit:1 x", "W: no", "E: no", "W: no"].map(String::from);
        assert_eq!(complaints(&lines), ["W: no", "E: no"]);
    }
}
