//! Profiles: which fragments, in which order.
//!
//! The files are an input ([`Fragments`]), so that the embedded ones and a
//! test's own are read alike. Nothing here does IO.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::fragment::{Request, merge, parse_fragment};
use crate::stop::{Problem, Stop};

/// The files of `kernel-configs`, by their path below it.
#[derive(Debug, Clone, Default)]
pub struct Fragments(BTreeMap<String, String>);

impl Fragments {
    /// Those of `files` that lie in `kernel-configs/`, which is how the
    /// embedded ones are named.
    pub fn of(files: &[(&str, &[u8])]) -> Self {
        let ours = files.iter().filter_map(|(path, text)| {
            let name = path.strip_prefix("kernel-configs/")?;
            Some((name.to_owned(), String::from_utf8_lossy(text).into_owned()))
        });
        Fragments(ours.collect())
    }

    /// The text of a file.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Adds a file, or replaces it.
    pub fn insert(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.0.insert(name.into(), text.into());
    }

    /// The names of the profiles.
    pub fn profiles(&self) -> Vec<&str> {
        let names = self.0.keys();
        names.filter_map(|n| n.strip_prefix("profiles/")?.strip_suffix(".yaml")).collect()
    }

    /// The names of the fragments.
    fn fragments(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).filter(|n| n.ends_with(".config")).collect()
    }
}

/// A profile with the requests of its fragments.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its file name without `.yaml`.
    pub name: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// The fragments' file names, in the order in which they are read.
    pub fragments: Vec<String>,
    /// What every timeout is multiplied by.
    pub timeout_scale: f64,
    /// The merged requests.
    pub requests: Vec<Request>,
}

/// A profile's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    description: String,
    fragments: Vec<String>,
    #[serde(default = "one")]
    timeout_scale: f64,
}

fn one() -> f64 {
    1.0
}

impl Profile {
    /// Reads the profile `name` and its fragments.
    ///
    /// # Errors
    /// [`Stop::Usage`] with everything that is wrong with any of the files.
    pub fn load(files: &Fragments, name: &str) -> Result<Self, Stop> {
        let written = read(files, name).map_err(Stop::usage)?;
        let path = path_of(name);
        let mut problems = Vec::new();
        if !(written.timeout_scale.is_finite() && written.timeout_scale > 0.0) {
            problems.push(
                Problem::new(&path, format!("timeout_scale is {}", written.timeout_scale))
                    .hint("a number above 0"),
            );
        }
        let mut requests = Vec::new();
        for fragment in &written.fragments {
            match files.get(fragment).filter(|_| fragment.ends_with(".config")) {
                None => problems.push(
                    Problem::new(&path, format!("there is no fragment `{fragment}`"))
                        .hint(format!("there are {}", files.fragments().join(", "))),
                ),
                Some(text) => match parse_fragment(fragment, text) {
                    Ok(more) => requests.extend(more),
                    Err(more) => problems.extend(more),
                },
            }
        }
        let requests = merge(requests).unwrap_or_else(|more| {
            problems.extend(more);
            Vec::new()
        });
        if !problems.is_empty() {
            return Err(Stop::Usage { problems });
        }
        Ok(Profile {
            name: name.to_owned(),
            description: written.description,
            fragments: written.fragments,
            timeout_scale: written.timeout_scale,
            requests,
        })
    }

    /// What it requests of a kernel of this version.
    pub fn requests_of(&self, version: (u32, u32, u32)) -> Vec<Request> {
        self.requests.iter().filter(|r| r.applies_to(version)).cloned().collect()
    }
}

fn path_of(name: &str) -> String {
    format!("kernel-configs/profiles/{name}.yaml")
}

fn read(files: &Fragments, name: &str) -> Result<Written, Problem> {
    let Some(text) = files.get(&format!("profiles/{name}.yaml")) else {
        let there = files.profiles().join(", ");
        return Err(Problem::new("--profile", format!("there is no profile `{name}`"))
            .hint(format!("there are {there}")));
    };
    serde_yaml::from_str(text).map_err(|error| {
        let path = path_of(name);
        let at = match error.location() {
            Some(at) => format!("{path}:{}:{}", at.line(), at.column()),
            None => path,
        };
        Problem::new(at, error.to_string())
            .hint("a profile has description, fragments, and optionally timeout_scale")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Fragments {
        Fragments::of(&[
            ("kernel-configs/a.config", b"CONFIG_A=y\n"),
            ("kernel-configs/b.config", b"# since: 6.0\nCONFIG_B=y\nCONFIG_A=n\n"),
            ("kernel-configs/profiles/one.yaml", b"description: d\nfragments: [a.config]\n"),
            (
                "kernel-configs/profiles/two.yaml",
                b"description: d\nfragments: [a.config, b.config, c.config]\ntimeout_scale: 0\n",
            ),
            ("kernel-configs/profiles/odd.yaml", b"description: d\nfragment: [a.config]\n"),
            ("images/other.yaml", b""),
        ])
    }

    #[test]
    fn a_profile_has_its_requests_and_defaults() {
        let profile = Profile::load(&files(), "one").expect("good");
        assert_eq!((profile.timeout_scale, profile.requests.len()), (1.0, 1));
        assert_eq!(files().profiles(), ["odd", "one", "two"]);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let Err(Stop::Usage { problems }) = Profile::load(&files(), "two") else {
            panic!("it has three faults");
        };
        let what: Vec<&str> = problems.iter().map(|p| p.what.as_str()).collect();
        assert_eq!(what.len(), 3, "{what:?}");
        assert!(what[0].contains("timeout_scale") && what[1].contains("c.config"));
        assert!(what[2].contains("contradicts"));
    }

    #[test]
    fn an_unknown_key_has_a_place() {
        let Err(Stop::Usage { problems }) = Profile::load(&files(), "odd") else {
            panic!("`fragment` is not a key");
        };
        assert!(problems[0].at.starts_with("kernel-configs/profiles/odd.yaml:2:"), "{problems:?}");
        let Err(Stop::Usage { problems }) = Profile::load(&files(), "none") else {
            panic!("there is no such profile");
        };
        assert!(problems[0].hint.as_deref().is_some_and(|h| h.contains("one")));
    }
}
