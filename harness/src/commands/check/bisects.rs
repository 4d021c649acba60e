//! Bisects whose answers are known: `ci/bisects.yaml`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser as _;
use serde::Deserialize;

use crate::cli::{Cli, Command};
use crate::commands::bisect;
use crate::context::Session;
use crate::stop::Stop;

/// The file, in the checkout.
const FILE: &str = "ci/bisects.yaml";

/// What makes the kernel that of before the story.
const BEFORE: &str = "ci/series/before";

/// A bisect, and what it must find.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// The patches, relative to the file.
    series: PathBuf,
    /// The options that are the question.
    ask: Vec<String>,
    /// The number of the patch.
    found: usize,
    /// Kernels that are the same as another.
    #[serde(default)]
    same: Vec<usize>,
    /// Kernels that cannot be judged.
    #[serde(default)]
    unknown: Vec<usize>,
}

/// Reads the cases.
///
/// # Errors
/// When the file is not as it should be.
pub(super) fn cases(checkout: &Path) -> Result<Vec<Case>, Stop> {
    let text = fs::read_to_string(checkout.join(FILE)).context(FILE)?;
    Ok(serde_yaml::from_str(&text).context(FILE)?)
}

impl Case {
    /// What the step is called.
    pub(super) fn name(&self) -> String {
        let series = self.series.file_name().unwrap_or_default().display();
        format!("{FILE}: {series} {}", self.ask.join(" "))
    }

    /// Bisects, and says what is wrong with the answer, if anything is.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(super) async fn run(
        &self,
        session: &Session,
        checkout: &Path,
    ) -> Result<Option<String>, Stop> {
        let dir = tempfile::tempdir().context("make a temporary directory")?;
        let out = dir.path().join("out");
        let series = checkout.join("ci").join(&self.series);
        let mut words: Vec<String> = ["hmm-harness", "bisect"].map(str::to_owned).into();
        for (option, path) in
            [("--series", &checkout.join(BEFORE)), ("--series", &series), ("--out", &out)]
        {
            words.extend([option.to_owned(), path.to_string_lossy().into_owned()]);
        }
        words.extend(self.ask.iter().cloned());
        let cli = Cli::try_parse_from(words).context(FILE)?;
        let Command::Bisect(args) = cli.command else { unreachable!("it was asked for") };
        let code = bisect::run(session, &args).await?;
        let found = bisect::found(&out);
        if (code, found.as_ref().map(|found| found.at)) != (0, Some(self.found)) {
            return Ok(Some(format!("exit code {code}, and it has found {found:?}")));
        }
        let found = found.unwrap_or_default();
        if found.same != self.same {
            return Ok(Some(format!("{:?} are the same as another", found.same)));
        }
        Ok((found.unknown != self.unknown).then(|| format!("{:?} cannot be judged", found.unknown)))
    }
}
