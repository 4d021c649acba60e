//! `bisect`: which patch of a series, or commit of a branch, changes something.
//!
//! What is judged is written down at once, so that a bisect that was interrupted
//! goes on where it was.

mod html;
mod state;
mod tell;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::candidates::{Branch, Candidates, Judged, run_of};
use super::check_writable;
use super::run_kernel_tests::{Permissions, resolve, wishes};
use crate::bisect::{Answer, Next, Question, Seen, next};
use crate::cli::BisectArgs;
use crate::context::Session;
use crate::plan::Wishes;
use crate::progress::{headline, print, say};
use crate::stop::{self, Problem, Stop};
use crate::words::clean;
use crate::{report, rundir};
use state::{End, State, Step};

/// How often each test runs where it is to be seen whether an answer stands.
const TURNS: u32 = 3;

/// Runs the command.
///
/// # Errors
/// What is wrong with the request, or with the place of its results; or when it was
/// interrupted.
pub async fn run(session: &Session, args: &BisectArgs) -> Result<u8, Stop> {
    let cwd = super::cwd()?;
    let branch = args.kernel.as_deref().and_then(|kernel| Branch::parse(kernel, &cwd));
    let mut problems = Vec::new();
    if branch.is_some() && (args.from.is_some() || args.to.is_some()) {
        let what = "the commits of a branch are bounded by GOOD and BAD";
        problems.push(Problem::new("--from", what).hint("name other commits"));
    }
    let json = args.json.as_deref().map(|path| cwd.join(path));
    problems.extend(json.as_deref().and_then(|path| check_writable("--json", path)));
    let out = args.out.as_deref().map(|dir| cwd.join(dir));
    // One that is gone on with keeps what it has.
    let before = out.as_deref().and_then(State::read);
    match &out {
        Some(dir) if before.is_some() && rundir::is_live(dir) => {
            let what = format!("{} belongs to a bisect that is still going", dir.display());
            problems.push(Problem::new("--out", what));
        }
        Some(dir) if before.is_none() => problems.extend(rundir::check_out(dir)),
        _ => {}
    }
    if let (Some(json), Some(out)) = (&json, &out) {
        problems.extend(rundir::check_beside("--json", json, out));
    }
    let wishes = wishes(asked(args, branch.as_ref()), None, &cwd, &mut problems);
    let prepared = resolve(wishes.clone(), problems, &cwd)?;
    let question = question(args, &prepared.plan().tests)?;

    let ctx = session.context()?;
    let permissions = Permissions { yes: args.yes, ..Permissions::default() };
    let mut candidates = match &branch {
        Some(branch) => Candidates::of_branch(branch, wishes, permissions)?,
        None => Candidates::of(&ctx, wishes, permissions).await?,
    };
    let (from, to) = bounds(args, candidates.last())?;
    // What was there before goes only when all that was asked for makes sense.
    let (dir, _held) = match &out {
        Some(dir) if before.is_some() => (dir.clone(), rundir::hold(dir)?),
        _ => rundir::create(out.as_deref(), &cwd)?,
    };
    candidates.place(dir.join(rundir::EACH));
    let fresh = State::new(question, prepared.plan(), &candidates.all, from, to);
    let mut state = match before {
        Some(state) if state.is_of(&fresh) => {
            say(format_args!("bisect   goes on after {} steps", state.steps.len()));
            state
        }
        Some(_) => {
            let what = format!("{} is a bisect of something else", dir.display());
            let hint = "name another directory, or remove this one";
            return Err(Stop::usage(Problem::new("--out", what).hint(hint)));
        }
        None => fresh,
    };
    // What makes the directory a run of ours.
    session.log.record_in(&dir)?;
    state.write(&dir)?;
    let mut judged: BTreeMap<usize, Judged> = BTreeMap::new();
    for step in &state.steps {
        if let Some(known) = candidates.judged_before(step.number) {
            judged.insert(step.number, known);
        }
    }
    if state.end.is_none() {
        let end = search(session, &mut candidates, &mut state, &mut judged, &dir, &cwd).await?;
        state.end = Some(end);
        state.write(&dir)?;
    }
    let traces = tell::traces(&state, &judged);
    fs::write(dir.join(rundir::BISECT_HTML), html::page(&state, traces.as_ref()))
        .context("cannot write bisect.html")?;
    if let Some(path) = &json {
        let text = state.json()?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&tell::text(&state, traces.as_ref(), &dir))?;
    Ok(state.end.as_ref().map_or(stop::NOT_AS_EXPECTED, End::exit_code))
}

/// What a bisect has found, in short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The patch.
    pub(super) at: usize,
    /// The kernels that were the same as another.
    pub(super) same: Vec<usize>,
    /// Those that could not be judged.
    pub(super) unknown: Vec<usize>,
}

/// What the bisect in a directory has found, if it has found anything.
pub(super) fn found(dir: &Path) -> Option<Found> {
    let state = State::read(dir)?;
    let End::Found { change, .. } = &state.end? else { return None };
    let numbers = |is: &dyn Fn(&Step) -> bool| {
        state.steps.iter().filter(|step| is(step)).map(|step| step.number).collect()
    };
    Some(Found {
        at: change.at,
        same: numbers(&|step| step.same_as.is_some()),
        unknown: numbers(&|step| matches!(step.answer, Answer::Unknown(_))),
    })
}

/// The closing words of the bisect in a directory, if there is one.
pub(super) fn told(dir: &Path) -> Option<String> {
    let state = State::read(dir)?;
    let judged = state.steps.iter().filter_map(|step| {
        let run = |number: usize| dir.join(rundir::EACH).join(run_of(number));
        let results = report::read(&run(step.number)).ok()?;
        let dir = run(step.same_as.unwrap_or(step.number));
        let judged = Judged { results, dir, same_as: step.same_as, seconds: step.seconds };
        Some((step.number, judged))
    });
    let traces = tell::traces(&state, &judged.collect());
    Some(tell::text(&state, traces.as_ref(), dir))
}

/// By what each kernel is to be judged.
fn asked(args: &BisectArgs, branch: Option<&Branch>) -> Wishes {
    let tests = match &args.trace {
        Some(id) => vec![id.clone()],
        None => args.test.clone(),
    };
    Wishes {
        kernel: branch.map(Branch::first).or_else(|| args.kernel.clone()),
        series: args.series.clone(),
        profile: args.profile.clone(),
        filter: args.filter.clone(),
        tests,
        timeout: args.timeout,
        ..Wishes::default()
    }
}

/// What is asked of each kernel. `tests` are those that will run.
fn question(args: &BisectArgs, tests: &[String]) -> Result<Question, Stop> {
    if let Some(question) = &args.event {
        return Ok(question.clone());
    }
    if let Some(words) = &args.crash {
        return Ok(Question::Crash(words.clone()));
    }
    match (&args.trace, tests) {
        (None, tests) => Ok(Question::Verdicts(tests.to_vec())),
        (Some(_), [id]) => Ok(Question::Trace(id.clone())),
        (Some(name), ids) => Err(Stop::usage(
            Problem::new("--trace", format!("{name} is a test on several devices"))
                .hint(format!("name one of {}", ids.join(", "))),
        )),
    }
}

/// The first and the last kernel.
fn bounds(args: &BisectArgs, last: usize) -> Result<(usize, usize), Stop> {
    let (from, to) = (args.from.unwrap_or(0), args.to.unwrap_or(last));
    if to > last {
        let what = format!("there are {last} patches, and not {to}");
        return Err(Stop::usage(Problem::new("--to", what)));
    }
    if from >= to {
        let what = format!("nothing lies between {from} and {to}");
        return Err(Stop::usage(Problem::new("--from", what)));
    }
    Ok((from, to))
}

/// Judges kernels until there is an answer that stands.
async fn search(
    session: &Session,
    candidates: &mut Candidates,
    state: &mut State,
    judged: &mut BTreeMap<usize, Judged>,
    dir: &Path,
    cwd: &Path,
) -> Result<End, Stop> {
    let last = candidates.last();
    let end = loop {
        let number = match next(state.to - state.from, &state.answers()) {
            Next::Judge(offset) => state.from + offset,
            Next::Found(change) => {
                break End::Found { change: state.absolute(change), commit: None };
            }
            Next::Suspects { patches, before, after } => {
                let patches = patches.into_iter().map(|patch| state.from + patch).collect();
                break End::Suspects { patches, before, after };
            }
            Next::Alike { answer, changes } => {
                let changes = changes.into_iter().map(|change| state.absolute(change)).collect();
                break End::Alike { answer, changes };
            }
            Next::Nothing => break End::Nothing,
        };
        let name = clean(&candidates.all[number].name(last));
        headline(format_args!("bisect   {name}"));
        let mut kernel = candidates.judge(session, number, cwd).await?;
        let mut answer = state.question.ask(&seen(&kernel));
        if let Answer::Flickers(_) = answer {
            let answer_now = clean(&answer.to_string());
            headline(format_args!("bisect   {answer_now}; once more, several times"));
            let again = candidates.judge_again(session, number, TURNS, cwd).await?;
            kernel = Judged { seconds: kernel.seconds + again.seconds, ..again };
            answer = state.question.ask(&seen(&kernel));
        }
        let same = match kernel.same_as {
            Some(other) => format!(" (the same kernel as {other}/{last})"),
            None => String::new(),
        };
        say(format_args!("bisect   {name}: {}{same}", clean(&answer.to_string())));
        state.steps.push(Step {
            number,
            answer,
            same_as: kernel.same_as,
            exit_code: kernel.results.exit_code,
            seconds: (kernel.seconds * 10.0).round() / 10.0,
        });
        judged.insert(number, kernel);
        state.write(dir)?;
    };
    for number in state.to_confirm(&end) {
        let name = clean(&candidates.all[number].name(last));
        headline(format_args!("bisect   {name}: once more, {TURNS} times"));
        let again = candidates.judge_again(session, number, TURNS, cwd).await?;
        let answer = state.question.ask(&seen(&again));
        if let Some(flaky) = state.confirm(number, &answer) {
            return Ok(flaky);
        }
        judged.insert(number, again);
        state.write(dir)?;
    }
    Ok(match end {
        // Of a run that was cut short it may not be known before.
        End::Found { change, .. } => {
            let results = judged.get(&change.at).map(|judged| &judged.results);
            let commit = results.and_then(|results| candidates.commit(change.at, results));
            End::Found { change, commit }
        }
        end => end,
    })
}

fn seen(judged: &Judged) -> Seen<'_> {
    Seen { results: &judged.results, canonical: judged.turns() }
}
