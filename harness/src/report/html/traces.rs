//! What the page shows of the traces: each is read once, and drawn while it is.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result};

use crate::results::{Results, TestResult};
use crate::rundir::rows_of;
use crate::trace::{Draw, Timeline, rows};

/// How many turns of a test are looked at for the one that its result is about.
const MOST_TURNS: u32 = 8;

/// The trace of a test.
#[derive(Debug, Default)]
pub(super) enum Traced {
    /// There is none.
    #[default]
    Nothing,
    /// It cannot be read: why.
    Unread(String),
    /// It is this, of one of its turns.
    Is { turn: u32, timeline: Timeline },
}

/// Reads the traces of all tests, in their order.
pub(super) fn read(results: &Results, dir: &Path) -> Vec<Traced> {
    let tests = &results.tests;
    let slots: Vec<Mutex<Traced>> = tests.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from).min(tests.len());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(test), Some(slot)) = (tests.get(n), slots.get(n)) else { break };
                    let traced = of_test(test, dir);
                    *slot.lock().expect("no holder panics") =
                        traced.unwrap_or_else(|error| Traced::Unread(format!("{error:#}")));
                }
            });
        }
    });
    slots.into_iter().map(|slot| slot.into_inner().expect("no holder panics")).collect()
}

/// The turn that the result is about has as many events as that says; if none has,
/// the first is shown.
fn of_test(test: &TestResult, dir: &Path) -> Result<Traced> {
    let mut first = Traced::Nothing;
    for turn in 0..test.attempts.clamp(1, MOST_TURNS) {
        let path = dir.join(rows_of(&test.id, turn));
        if !path.is_file() {
            continue;
        }
        let timeline = draw(test, &path)?;
        let is_it = timeline.told.events == test.trace.captured;
        let traced = Traced::Is { turn, timeline };
        if is_it {
            return Ok(traced);
        }
        if matches!(first, Traced::Nothing) {
            first = traced;
        }
    }
    Ok(first)
}

fn draw(test: &TestResult, path: &Path) -> Result<Timeline> {
    let name = || path.display().to_string();
    let file = File::open(path).with_context(name)?;
    let mut draw = Draw::new(&test.trace.violations);
    for row in rows(BufReader::with_capacity(64 << 10, file)) {
        draw.push(&row.with_context(name)?).with_context(name)?;
    }
    draw.finish().with_context(name)
}
