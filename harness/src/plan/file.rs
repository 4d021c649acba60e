//! A plan file: a YAML mapping whose keys are the long option names.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use super::{Expect, Wishes, series_at};
use crate::source::Source;
use crate::stop::Problem;

/// One word, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(word) => vec![word],
            OneOrMany::Many(words) => words,
        }
    }
}

/// Reads the text of the plan `path`, which is relative to `cwd`. Paths in it
/// are relative to the file. What is wrong is added to `problems`, and the rest
/// is read all the same.
pub fn read(path: &Path, text: &str, cwd: &Path, problems: &mut Vec<Problem>) -> Wishes {
    let name = path.display().to_string();
    let keys = match serde_yaml::from_str::<Option<Mapping>>(text) {
        Ok(keys) => keys.unwrap_or_default(),
        Err(error) => {
            let at = error
                .location()
                .map_or(name.clone(), |l| format!("{name}:{}:{}", l.line(), l.column()));
            problems.push(Problem::new(at, format!("not a plan: {error}")));
            return Wishes::default();
        }
    };
    let mut reader = Reader { name, text, keys, problems };
    let file = cwd.join(path);
    let base = file.parent().unwrap_or(cwd);
    let words = |found: Option<OneOrMany>| found.map(OneOrMany::into_vec).unwrap_or_default();

    let mut wishes = Wishes {
        kernel: None,
        series: words(reader.take("series"))
            .iter()
            .map(|path| series_at(Path::new(path), base))
            .collect(),
        first: reader.take("first"),
        profile: reader.take("profile"),
        rootfs: reader.take("rootfs"),
        filter: words(reader.take("filter")),
        tests: words(reader.take("test")),
        device: reader.take("device"),
        timeout: None,
        seed: reader.take("seed"),
        isolate: reader.take("isolate"),
        jobs: reader.take("jobs"),
        repeat: reader.take("repeat"),
        retry: reader.take("retry"),
        accel: reader.take("accel"),
        no_snapshot: reader.take("no_snapshot"),
        trace: reader.take("trace"),
        until: reader.take("until"),
        baseline: reader.take::<PathBuf>("baseline").map(|p| base.join(p)),
        allow: reader.take("allow"),
        out: reader.take::<PathBuf>("out").map(|p| base.join(p)),
        json: reader.take::<PathBuf>("json").map(|p| base.join(p)),
        junit: reader.take::<PathBuf>("junit").map(|p| base.join(p)),
        ktap: reader.take::<PathBuf>("ktap").map(|p| base.join(p)),
        kcidb: reader.take::<PathBuf>("kcidb").map(|p| base.join(p)),
        kcidb_origin: reader.take("kcidb_origin"),
        perfetto: reader.take::<PathBuf>("perfetto").map(|p| base.join(p)),
        expect: reader.take::<Expect>("expect"),
    };
    if let Some(text) = reader.take::<String>("kernel") {
        match Source::parse(&text, base) {
            Ok(source) => wishes.kernel = Some(source.to_string()),
            Err(problem) => reader.problem("kernel", problem.what),
        }
    }
    wishes.tests.extend(words(reader.take("tests")));
    if let Some(text) = reader.take::<String>("timeout") {
        match humantime::parse_duration(&text) {
            Ok(timeout) => wishes.timeout = Some(timeout),
            Err(error) => reader.problem("timeout", format!("{text:?} is no duration: {error}")),
        }
    }
    reader.refuse_the_rest();
    wishes
}

/// The keys a plan may have, for the message about one that it may not.
const KEYS: &str = "kernel, series, first, profile, rootfs, filter, test, tests, device, timeout, \
                    seed, isolate, jobs, repeat, retry, accel, no_snapshot, trace, until, \
                    baseline, allow, out, json, junit, ktap, kcidb, kcidb_origin, perfetto, expect";

struct Reader<'a> {
    name: String,
    text: &'a str,
    keys: Mapping,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.keys.remove(key)?;
        match serde_yaml::from_value(value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(key, error.to_string());
                None
            }
        }
    }

    fn problem(&mut self, key: &str, what: String) {
        let at = self.place_of(key);
        self.problems.push(Problem::new(at, format!("`{key}`: {what}")));
    }

    fn refuse_the_rest(&mut self) {
        for (key, _) in std::mem::take(&mut self.keys) {
            let key = match key {
                Value::String(key) => key,
                other => format!("{other:?}"),
            };
            let at = self.place_of(&key);
            self.problems.push(
                Problem::new(at, format!("unknown key `{key}`"))
                    .hint(format!("the keys are: {KEYS}")),
            );
        }
    }

    /// Where a key of the outermost mapping stands. The YAML reader does not
    /// keep places; at the start of a line, optionally quoted, and before a
    /// colon, nothing else of a plan can stand.
    fn place_of(&self, key: &str) -> String {
        let found = self.text.lines().enumerate().find_map(|(n, line)| {
            let column = line.len() - line.trim_start_matches(['"', '\'', '{', ' ']).len();
            let rest = line[column..].strip_prefix(key)?.trim_start_matches(['"', '\'']);
            rest.trim_start().starts_with(':').then_some((n + 1, column + 1))
        });
        match found {
            Some((line, column)) => format!("{}:{line}:{column}", self.name),
            None => self.name.clone(),
        }
    }
}
