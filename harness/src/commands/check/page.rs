//! The page of a run, opened in a real browser.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::context::Context;
use crate::packages;
use crate::proc::Cmd;
use crate::report;
use crate::results::Results;
use crate::rundir::REPORT;
use crate::stop::Stop;

/// What the step is called.
pub(super) const NAME: &str = "report.html in chromium";

/// How long the browser may take to open a page.
const OPENING: Duration = Duration::from_secs(60);

/// Makes sure that there is a browser. Returns why there is none: that is no fault
/// of the change that is checked.
///
/// # Errors
/// When the user stops us.
pub(super) async fn lacking(ctx: &Context, yes: bool) -> Result<Option<String>, Stop> {
    match packages::install(ctx, yes, &packages::missing_for_check()).await {
        Ok(()) => Ok(None),
        Err(Stop::Interrupted) => Err(Stop::Interrupted),
        Err(stop) => Ok(Some(stop.to_string())),
    }
}

/// Opens the page of a run, and says what is wrong with it, if anything is.
///
/// # Errors
/// When the browser cannot be started, or the user stops us.
pub(super) async fn run(ctx: &Context, dir: &Path) -> Result<Option<String>, Stop> {
    let results = report::read(dir)?;
    let mut opened = Vec::new();
    let fragments = [Some(String::new()), traced(&results).map(|id| fragment(&id))];
    for fragment in fragments.into_iter().flatten() {
        opened.push(Opened::of(ctx, dir, &fragment).await?);
    }
    let [whole, filtered] = opened.as_slice() else {
        return Ok(Some(format!("{} has no test with a trace", dir.display())));
    };
    Ok(whole.wrong().or(filtered.wrong()).or_else(|| differs(&results, whole, filtered)))
}

/// The first test whose trace has invalidations of its buffer to be drawn.
fn traced(results: &Results) -> Option<String> {
    let traced =
        results.tests.iter().find(|test| test.trace.operations.contains_key("to-device"))?;
    Some(traced.id.clone())
}

/// Where in the page it is, alone.
fn fragment(id: &str) -> String {
    format!("test={id}&filter={id}")
}

/// What is not in the page as it is in the results.
fn differs(results: &Results, whole: &Opened, filtered: &Opened) -> Option<String> {
    let tests = results.tests.len();
    let all = format!("{tests} tests");
    let one = if tests == 1 { all.clone() } else { format!("1 of {tests} tests") };
    [
        (whole.tests == tests, format!("{} rows for {tests} tests", whole.tests)),
        (whole.count == all, format!("{:?} are shown, not {all:?}", whole.count)),
        (whole.bars == 0, "something is drawn before it is looked at".to_owned()),
        (filtered.count == one, format!("of a filter {:?} is left, not {one:?}", filtered.count)),
        (filtered.hidden == tests - 1, format!("a filter hides {} rows", filtered.hidden)),
        (filtered.bars > 0, "a trace is drawn without any invalidation".to_owned()),
    ]
    .into_iter()
    .find_map(|(holds, wrong)| (!holds).then_some(wrong))
}

/// A page as it stands in the browser.
#[derive(Debug, Default, PartialEq, Eq)]
struct Opened {
    /// How the browser ended.
    code: i32,
    /// What it complains of.
    complaints: Vec<String>,
    /// Rows of tests, and how many of them cannot be seen.
    tests: usize,
    hidden: usize,
    /// What is said of how many are shown.
    count: String,
    /// Invalidations that are drawn.
    bars: u64,
}

impl Opened {
    async fn of(ctx: &Context, dir: &Path, fragment: &str) -> Result<Opened, Stop> {
        let home = tempfile::tempdir().context("make a temporary directory")?;
        let mut page = Opened::default();
        let cmd = Cmd::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
            // It is to open one file, and to ask nobody on the network.
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .arg(format!("--user-data-dir={}", home.path().display()))
            .args(["--virtual-time-budget=5000", "--dump-dom"])
            .arg(address(&dir.join(REPORT), fragment));
        let ran = cmd.run(&ctx.interrupt, |line| page.line(line));
        match tokio::time::timeout(OPENING, ran).await {
            Ok(ended) => page.code = ended?.code,
            Err(_) => {
                page.complaints.push(format!("it is not open after {} s", OPENING.as_secs()));
            }
        }
        Ok(page)
    }

    /// Takes a line of what the browser writes: the page, and what it logs.
    fn line(&mut self, line: &str) {
        if line.starts_with('[') && line.contains(":CONSOLE") {
            self.complaints.push(line.to_owned());
        }
        if let Some((_, tag)) = line.split_once("<tbody id=\"") {
            let tag = tag.split('>').next().unwrap_or_default();
            self.tests += 1;
            self.hidden += usize::from(tag.contains(" hidden"));
        }
        if let Some((_, count)) = line.split_once("<output class=\"count\"") {
            let count = count.split(['>', '<']).nth(1).unwrap_or_default();
            count.clone_into(&mut self.count);
        }
        if let Some((_, bars)) = line.split_once(" data-bars=\"") {
            let bars = bars.split('"').next().and_then(|bars| bars.parse().ok());
            self.bars += bars.unwrap_or(0);
        }
    }

    fn wrong(&self) -> Option<String> {
        match (self.code, self.complaints.as_slice()) {
            (0, []) => None,
            (code, []) => Some(format!("chromium exits with {code}")),
            (_, complaints) => Some(complaints.join("\n")),
        }
    }
}

/// A file as a browser names it.
fn address(path: &Path, fragment: &str) -> String {
    let mut text = "file://".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => text.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            byte => write!(text, "%{byte:02X}").expect("writing to a string"),
        }
    }
    if fragment.is_empty() { text } else { format!("{text}#{fragment}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_the_browser_writes_it() {
        let mut page = Opened::default();
        for line in [
            "<tbody id=\"a.b\" class=\"test good opened\"><tr>",
            "<tbody id=\"a.c\" class=\"test good\" hidden=\"\"><tr>",
            "<output class=\"count\" aria-live=\"polite\">1 of 2 tests</output>",
            "<svg class=\"drawing\" width=\"9\" data-bars=\"7\"><g>",
            "[1:2:0101/000000.1:INFO:CONSOLE:9] \"Uncaught\", source: file:///x (9)",
            "[0.1] a line of a console",
        ] {
            page.line(line);
        }
        assert_eq!(
            (page.tests, page.hidden, page.bars, page.count.as_str()),
            (2, 1, 7, "1 of 2 tests")
        );
        assert!(page.wrong().is_some_and(|wrong| wrong.contains("Uncaught")));
        assert_eq!(page.complaints.len(), 1);
    }

    #[test]
    fn a_path_becomes_an_address() {
        assert_eq!(address(Path::new("/a b/#c.html"), "x"), "file:///a%20b/%23c.html#x");
    }
}
