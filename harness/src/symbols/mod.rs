//! Which line of the source an address of a kernel's report stands for.
//!
//! Kernels are built without debug info, which would double the time of a
//! build. When a report is to be read, the few objects that it names are
//! compiled once more, by the commands that kbuild kept, with debug info and
//! into a directory of our own; the lane's objects stay as they are. Lines are
//! only told when the function's code in such an object is that of the kernel
//! in the store, byte for byte but for what the linker and objtool fill in.
//! That makes it safe that the lane may have built another tree meanwhile.
//!
//! Nothing that is missing or goes wrong here ends a run: the address then
//! stays as it is, with the reason.

mod address;
mod vmlinux;
mod objects;
mod code;
mod lines;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::build::{Kernel, Lane, diagnose};
use crate::context::Context;
use crate::frames::{Frame, Resolved};
use crate::kbuild;
use crate::proc::Cmd;
use crate::stop::Stop;

pub use address::{Place, Wanted};
use lines::Compiled;
use objects::Built;
use vmlinux::{Function, Vmlinux};

/// How long another run may keep the lane: its build may take many minutes, and
/// lines are not worth them.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many objects are tried for one function.
const TRIES: usize = 3;

/// How many functions of the same name and size are tried for one address.
const NAMESAKES: usize = 4;

/// Debug info for lines and inlined functions, uncompressed. Where variables
/// are would cost a third of the compilation and is not asked for. It goes
/// without warnings, which the build has shown.
const FLAGS: [&str; 5] = ["-w", "-g", "-fno-var-tracking", "-gz=none", "-c"];

/// Resolves addresses of a kernel's report, each to one [`Resolved`], in order.
/// Takes about as long as the compilation of the objects that they are in, and
/// up to 20 s more while another run uses the lane.
///
/// # Errors
/// [`Stop::Interrupted`], and nothing else: whatever goes wrong is the reason
/// why addresses have no frames.
pub async fn resolve(
    ctx: &Context,
    kernel: &Kernel,
    wanted: &[Wanted],
) -> Result<Vec<Resolved>, Stop> {
    let why = match all(ctx, kernel, wanted).await {
        Ok(resolved) => return Ok(resolved),
        Err(Stop::Interrupted) => return Err(Stop::Interrupted),
        Err(Stop::Kernel(fault) | Stop::Machine(fault)) => fault.what,
        Err(stop @ Stop::Usage { .. }) => stop.to_string(),
    };
    let lost = |wanted: &Wanted| unresolved(wanted, &why);
    Ok(wanted.iter().map(lost).collect())
}

fn unresolved(wanted: &Wanted, why: &str) -> Resolved {
    Resolved { address: wanted.address.clone(), frames: Vec::new(), why: Some(why.to_owned()) }
}

/// An address of a kernel as its reports print it.
///
/// # Errors
/// When the kernel's System.map cannot be read.
pub fn printed(kernel: &Kernel, address: u64) -> anyhow::Result<Option<String>> {
    let map = fs::read(kernel.dir.join("System.map")).context("cannot read System.map")?;
    Ok(vmlinux::print(&String::from_utf8_lossy(&map), address))
}

/// The frames of an address, or why there are none, as a phrase.
type Outcome = Result<Vec<Frame>, String>;

/// The search for one function that an address may be in.
struct Search<'d> {
    /// Which of the addresses.
    wanted: usize,
    function: Function<'d>,
    /// In bytes from the function to the instruction that is meant.
    offset: u64,
    /// The objects that it may be from, the likeliest first.
    objects: Vec<usize>,
    found: Outcome,
}

/// Resolves all addresses, or says why none can be.
async fn all(ctx: &Context, kernel: &Kernel, wanted: &[Wanted]) -> Result<Vec<Resolved>, Stop> {
    let data = fs::read(kernel.vmlinux()).context("cannot read vmlinux")?;
    let map = fs::read(kernel.dir.join("System.map")).context("cannot read System.map")?;
    let map = String::from_utf8_lossy(&map);
    let vmlinux = Vmlinux::read(&data, &map).context("cannot read the symbols of vmlinux")?;

    let (mut searches, mut outcomes) = searches(&vmlinux, wanted);
    if !searches.is_empty() {
        let lane = tokio::time::timeout(PATIENCE, Lane::open_built(ctx, &kernel.configured))
            .await
            .map_err(|_| anyhow!("another run builds where it was built"))??
            .context("its build directory is gone")?;
        let _visit = lane.visit(ctx, &kernel.configured.source).await?;
        search(ctx, &lane, &vmlinux, &mut searches).await?;
    }
    for Search { wanted, found, .. } in searches {
        outcomes[wanted].push(found);
    }
    let resolved = std::iter::zip(wanted, outcomes).map(|(wanted, outcomes)| one(wanted, outcomes));
    Ok(resolved.collect())
}

/// What to look for, and what is known already of the other addresses.
fn searches<'d>(vmlinux: &Vmlinux<'d>, wanted: &[Wanted]) -> (Vec<Search<'d>>, Vec<Vec<Outcome>>) {
    let mut searches = Vec::new();
    let mut outcomes = Vec::new();
    for (n, Wanted { address, place }) in wanted.iter().enumerate() {
        let functions = address::parse(address)
            .ok_or_else(|| "no address".to_owned())
            .and_then(|parsed| Ok((parsed, vmlinux.functions(&parsed)?)));
        outcomes.push(match functions {
            Err(why) => vec![Err(why)],
            Ok((_, functions)) if functions.len() > NAMESAKES => vec![Err(many(functions.len()))],
            Ok((parsed, functions)) => {
                let offset = match place {
                    Place::At => parsed.offset,
                    Place::After => parsed.offset.saturating_sub(1),
                };
                searches.extend(functions.into_iter().map(|function| Search {
                    wanted: n,
                    function,
                    offset,
                    objects: Vec::new(),
                    found: Err("no object of the build has it".to_owned()),
                }));
                Vec::new()
            }
        });
    }
    (searches, outcomes)
}

fn many(functions: usize) -> String {
    format!("ambiguous: {functions} functions of that name and size")
}

/// What comes of an address, from what was found for each function that it may
/// be in: several may well be copies of one function of a header.
fn one(wanted: &Wanted, mut outcomes: Vec<Outcome>) -> Resolved {
    let functions = outcomes.len();
    outcomes.dedup();
    match (outcomes.pop(), outcomes.is_empty()) {
        (Some(Ok(frames)), true) => Resolved { address: wanted.address.clone(), frames, why: None },
        (Some(Err(why)), true) => unresolved(wanted, &why),
        _ => unresolved(wanted, &many(functions)),
    }
}

/// Finds the objects of the functions, compiles them and looks the lines up.
async fn search(
    ctx: &Context,
    lane: &Lane,
    vmlinux: &Vmlinux<'_>,
    searches: &mut [Search<'_>],
) -> Result<(), Stop> {
    let (src, obj) = (lane.src(), lane.obj());
    let near: Vec<_> = searches.iter().map(|s| vmlinux.neighbours(&s.function)).collect();
    let names: HashSet<&str> =
        near.iter().flatten().copied().chain(searches.iter().map(|s| s.function.name)).collect();
    let built = objects::scan(&obj, &names).context("cannot read the build directory")?;
    for (search, near) in std::iter::zip(searches.iter_mut(), &near) {
        search.objects = objects::rank(&search.function, near, &built);
        search.objects.truncate(TRIES);
    }

    let work = tempfile::tempdir().context("cannot make a temporary directory")?;
    let mut compiled: HashMap<usize, Result<Vec<u8>, String>> = HashMap::new();
    for attempt in 0..TRIES {
        let due = searches.iter().filter(|s| s.found.is_err());
        let due = due.filter_map(|s| s.objects.get(attempt)).copied();
        let due: HashSet<usize> = due.filter(|n| !compiled.contains_key(n)).collect();
        let mut due: Vec<usize> = due.into_iter().collect();
        // The longest first, or it would be the last that all wait for.
        due.sort_by_key(|n| Reverse(built[*n].size));
        let work = work.path();
        let all = stream::iter(due).map(|n| {
            let (obj, out) = (&obj, work.join(format!("{n}.o")));
            let object = &built[n];
            async move { Ok::<_, Stop>((n, compile(ctx, obj, object, &out).await?)) }
        });
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        compiled.extend(all.buffer_unordered(jobs).try_collect::<Vec<_>>().await?);

        for search in searches.iter_mut().filter(|s| s.found.is_err()) {
            let Some(n) = search.objects.get(attempt) else { continue };
            let found = match &compiled[n] {
                Ok(data) => look_up(vmlinux, search, data, &src, &obj),
                Err(why) => Err(why.clone()),
            };
            // What the likeliest object says is the better reason.
            if attempt == 0 || found.is_ok() {
                search.found = found;
            }
        }
    }
    Ok(())
}

/// Compiles an object once more, into `out`, and returns it, or why that cannot
/// be done.
async fn compile(
    ctx: &Context,
    obj: &Path,
    object: &Built,
    out: &Path,
) -> Result<Result<Vec<u8>, String>, Stop> {
    let name = object.path.file_name().unwrap_or_default().to_string_lossy();
    let saved = obj.join(object.path.with_file_name(format!(".{name}.cmd")));
    let Ok(saved) = fs::read_to_string(saved) else {
        return Ok(Err("the command that made its object is gone".to_owned()));
    };
    let (Some(words), Some(source)) = (kbuild::compiler(&saved), kbuild::source(&saved)) else {
        return Ok(Err("its object was not compiled from one source".to_owned()));
    };
    if !source.ends_with(".c") {
        return Ok(Err("assembler source".to_owned()));
    }
    let command = Cmd::new(&words[0]).args(&words[1..]).args(FLAGS);
    let command = command.arg("-o").arg(out).arg(source).dir(obj);
    let ended = match command.run(&ctx.interrupt, |_| {}).await {
        Err(Stop::Machine(fault)) => return Ok(Err(fault.what)),
        ended => ended?,
    };
    if !ended.success() {
        let said = diagnose(&ended.tail.join("\n")).what;
        return Ok(Err(format!("{} does not compile: {said}", object.path.display())));
    }
    Ok(fs::read(out).map_err(|error| format!("cannot read what the compiler wrote: {error}")))
}

/// The frames of an address in an object that was compiled with debug info, if
/// its function is the kernel's.
fn look_up(vmlinux: &Vmlinux, search: &Search, object: &[u8], src: &Path, obj: &Path) -> Outcome {
    let Search { function, offset, .. } = search;
    let kernel = vmlinux.code(function).ok_or("its code is not in vmlinux")?;
    let object = Compiled::read(object).map_err(|error| format!("{error:#}"))?;
    let found = object.find(function.name, kernel)?;
    let frames = object.frames(&found, *offset).map_err(|error| format!("{error:#}"))?;
    if frames.is_empty() {
        return Err("the debug info says nothing of it".to_owned());
    }
    let relative = |frame: Frame| Frame { file: lines::below(&frame.file, src, obj), ..frame };
    Ok(frames.into_iter().map(relative).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(line: u32) -> Vec<Frame> {
        vec![Frame { function: "f".to_owned(), file: "mm/a.c".to_owned(), line }]
    }

    fn check(outcomes: Vec<Outcome>, lines: &[u32], why: Option<&str>) {
        let resolved = one(&Wanted::at("f+0x1/0x2"), outcomes);
        assert_eq!(resolved.address, "f+0x1/0x2");
        assert_eq!(resolved.frames.iter().map(|f| f.line).collect::<Vec<_>>(), lines);
        assert_eq!(resolved.why.as_deref(), why);
    }

    #[test]
    fn copies_of_one_function_are_one_place_and_others_are_ambiguous() {
        let differs = || Err("code differs".to_owned());
        check(vec![Ok(frames(7))], &[7], None);
        check(vec![Ok(frames(7)), Ok(frames(7))], &[7], None);
        let ambiguous = Some("ambiguous: 2 functions of that name and size");
        check(vec![Ok(frames(7)), Ok(frames(8))], &[], ambiguous);
        check(vec![Ok(frames(7)), differs()], &[], ambiguous);
        check(vec![differs()], &[], Some("code differs"));
    }
}
