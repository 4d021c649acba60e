//! Captures notifier events: kprobe events in a tracefs instance of their own
//! (Documentation/trace/kprobetrace.rst), whose buffer leaves the guest page by
//! page while a test runs.
//!
//! Nothing is decoded here. A kernel that cannot trace is no reason to stop:
//! it is told, and the harness decides.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hmm_protocol::trace::{Capture, ChunkHeader, INSTANCE, Probe, TraceReady, TraceSetup};
use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use crate::port;

/// Where tracefs is mounted.
const TRACEFS: &str = "/sys/kernel/tracing";

/// The name that the harness gives the port on QEMU's command line.
const PORT: &str = "hmm.trace";

/// How often the buffers are emptied while a test runs: what a dying kernel
/// takes with it is what came since.
const EVERY: Duration = Duration::from_millis(10);

/// What one read of a buffer gives at most: its pages are the machine's.
const PAGE: usize = 4096;

/// How much is written to the port at once. The driver copies up to 32 KiB
/// (`port_fops_write()` in drivers/char/virtio_console.c).
const BATCH: usize = 32 * 1024;

/// Where the length of a page's events stands, after its time stamp
/// (`struct buffer_data_page` in kernel/trace/ring_buffer.c); its upper bits say
/// that events are missing before it.
const COMMIT: std::ops::Range<usize> = 8..16;
const MISSED: u64 = 3 << 30;

/// The capture of this guest.
pub(crate) struct Tracer(Arc<Mutex<Inner>>);

struct Inner {
    port: File,
    cpus: Vec<(u32, File)>,
    tracing_on: File,
    /// The test whose events these are, while there is one.
    armed: Option<Armed>,
}

struct Armed {
    tag: u64,
    run: u32,
    chunks: u64,
    before: Result<Counters, String>,
    trouble: Option<String>,
}

/// The kernel's counters, summed up over processors and probes.
#[derive(Default)]
struct Counters {
    lost: u64,
    missed: u64,
    hits: u64,
    kept: u64,
}

/// Puts the probes in place. Returns what became of them, and the capture if
/// there is one.
pub(crate) fn prepare(setup: &TraceSetup) -> (TraceReady, Option<Tracer>) {
    let mut ready = TraceReady::default();
    match set_up(setup, &mut ready) {
        Ok(tracer) => (ready, Some(tracer)),
        Err(why) => {
            ready.unavailable = Some(why);
            (ready, None)
        }
    }
}

fn set_up(setup: &TraceSetup, ready: &mut TraceReady) -> Result<Tracer, String> {
    let tracefs = Path::new(TRACEFS);
    let definitions = tracefs.join("kprobe_events");
    if !tracefs.join("trace_clock").exists() {
        return Err("this kernel has no tracefs".into());
    }
    if !definitions.exists() {
        return Err("this kernel has no kprobe events (CONFIG_KPROBE_EVENTS)".into());
    }
    for probe in &setup.probes {
        if let Err(error) = append(&definitions, probe) {
            ready.refused.insert(probe.name.clone(), error.to_string());
        }
    }
    let instance = tracefs.join("instances").join(INSTANCE);
    fs::create_dir(&instance).map_err(|e| format!("{}: {e}", instance.display()))?;
    let set = |file: &str, value: &str| {
        fs::write(instance.join(file), value).map_err(|e| format!("set {file} of the trace: {e}"))
    };
    set("tracing_on", "0")?;
    // The only clock by which the events of two processors are in a strict order.
    set("trace_clock", "counter")?;
    set("buffer_size_kb", &setup.buffer_kib.to_string())?;
    // The first events stay, and what finds no room is counted.
    set("options/overwrite", "0")?;
    // To be readable is to have one event that is committed; kernels without the
    // file know nothing else.
    if instance.join("buffer_percent").exists() {
        set("buffer_percent", "0")?;
    }
    for probe in setup.probes.iter().filter(|probe| !ready.refused.contains_key(&probe.name)) {
        let name = &probe.name;
        set(&format!("events/{INSTANCE}/{name}/enable"), "1")?;
        ready.formats.insert(name.clone(), format_of(&instance, INSTANCE, name)?);
    }
    // Markers appear as `print` events, whose format only the top level has.
    ready.formats.insert("print".into(), format_of(tracefs, "ftrace", "print")?);

    let mut cpus = Vec::new();
    for (cpu, dir) in processors(&instance)? {
        let path = dir.join("trace_pipe_raw");
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(O_NONBLOCK)
            .open(&path)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        cpus.push((cpu, file));
    }
    let path = instance.join("tracing_on");
    let tracing_on = OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let inner = Inner { port: port::open(PORT)?, cpus, tracing_on, armed: None };
    let inner = Arc::new(Mutex::new(inner));
    let own = Arc::clone(&inner);
    // The thread must not take the signal for which the agent waits.
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().map_err(|e| format!("block SIGCHLD: {e}"))?;
    thread::spawn(move || {
        loop {
            thread::sleep(EVERY);
            lock(&own).drain();
        }
    });
    Ok(Tracer(inner))
}

fn append(definitions: &Path, probe: &Probe) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(definitions)?;
    file.write_all(format!("{}\n", probe.definition).as_bytes())
}

fn format_of(root: &Path, group: &str, name: &str) -> Result<String, String> {
    let path = root.join("events").join(group).join(name).join("format");
    fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The processors of an instance, with their directories.
fn processors(instance: &Path) -> Result<BTreeMap<u32, PathBuf>, String> {
    let per_cpu = instance.join("per_cpu");
    let entries = fs::read_dir(&per_cpu).map_err(|e| format!("{}: {e}", per_cpu.display()))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((name.strip_prefix("cpu")?.parse().ok()?, entry.path()))
        })
        .collect())
}

impl Tracer {
    /// From here on events belong to a test: the one with the number `run`.
    pub(crate) fn begin(&self, tag: u64, run: u32) {
        let mut inner = lock(&self.0);
        let armed = Armed { tag, run, chunks: 0, before: Counters::now(), trouble: None };
        inner.armed = Some(armed);
        inner.switch(b"1");
    }

    /// The test is over: what is left in the buffers is sent, and what the kernel
    /// counted meanwhile returned.
    pub(crate) fn end(&self) -> Capture {
        let mut inner = lock(&self.0);
        inner.drain();
        inner.switch(b"0");
        inner.drain();
        let armed = inner.armed.take().expect("what ends was begun");
        let mut capture =
            Capture { chunks: armed.chunks, trouble: armed.trouble, ..Capture::default() };
        match armed.before.and_then(|before| Ok((before, Counters::now()?))) {
            Ok((before, after)) => {
                capture.lost = after.lost.saturating_sub(before.lost);
                capture.missed = after.missed.saturating_sub(before.missed);
                capture.hits = after.hits.saturating_sub(before.hits);
                capture.kept = after.kept.saturating_sub(before.kept);
            }
            Err(why) => {
                capture.trouble.get_or_insert(why);
            }
        }
        capture
    }
}

impl Inner {
    fn switch(&mut self, on: &[u8]) {
        if let Err(error) = self.tracing_on.write_all(on) {
            self.failed(format!("tracing_on: {error}"));
        }
    }

    fn failed(&mut self, why: String) {
        if let Some(armed) = &mut self.armed {
            armed.trouble.get_or_insert(why);
        }
    }

    /// Sends what the buffers hold.
    ///
    /// Nothing is read that was not seen to be there. The kernel empties a page
    /// whose events were all read, unless it is the one that is being written: it
    /// asks for the former and then for the latter (`rb_get_reader_page()` in
    /// kernel/trace/ring_buffer.c), and what another processor has written on it in
    /// between is gone, and counted by nobody. Where there is an event to be read,
    /// the former is not so, or the writer has left the page. To ask whether there
    /// is one changes nothing (`ring_buffer_empty_cpu()`).
    fn drain(&mut self) {
        let Inner { port, cpus, armed, .. } = self;
        let Some(armed) = armed else { return };
        let mut batch = Vec::with_capacity(BATCH);
        for (cpu, file) in cpus {
            let mut page = [0; PAGE];
            while has_events(file) {
                let read = match file.read(&mut page) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                    Err(e) => {
                        armed.trouble.get_or_insert(format!("read the trace of cpu {cpu}: {e}"));
                        break;
                    }
                };
                let page = used(&page[..read]);
                if batch.len() + ChunkHeader::SIZE + page.len() > BATCH {
                    send(port, &mut batch, armed);
                }
                let length = u32::try_from(page.len()).expect("a page is short");
                let Armed { tag, run, chunks: seq, .. } = *armed;
                let header = ChunkHeader { tag, run, cpu: *cpu, seq, length };
                batch.extend(header.encode());
                batch.extend(page);
                armed.chunks += 1;
            }
        }
        send(port, &mut batch, armed);
    }
}

/// Whether there is an event that was not read yet.
fn has_events(file: &File) -> bool {
    let mut asked = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    // An interrupted question is asked again the next time.
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// What of a page is used. The number of lost events may stand behind the last.
fn used(page: &[u8]) -> &[u8] {
    let Some(commit) = page.get(COMMIT) else { return page };
    let commit = u64::from_le_bytes(commit.try_into().expect("eight bytes"));
    let events = usize::try_from(commit & !MISSED).unwrap_or(usize::MAX);
    &page[..page.len().min(COMMIT.end.saturating_add(events).saturating_add(8))]
}

fn send(port: &mut File, batch: &mut Vec<u8>, armed: &mut Armed) {
    if !batch.is_empty()
        && let Err(error) = port.write_all(batch)
    {
        armed.trouble.get_or_insert(format!("the trace port: {error}"));
    }
    batch.clear();
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counters {
    fn now() -> Result<Counters, String> {
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let mut counters = Counters::default();
        let tracefs = Path::new(TRACEFS);
        for dir in processors(&tracefs.join("instances").join(INSTANCE))?.values() {
            let stats = read(&dir.join("stats"))?;
            counters.lost += sum(&stats, &["overrun", "commit overrun", "dropped events"])?;
            counters.kept += sum(&stats, &["entries", "read events"])?;
        }
        let (hits, missed) = profile(&read(&tracefs.join("kprobe_profile"))?)?;
        Ok(Counters { hits, missed, ..counters })
    }
}

/// The sum of some of a processor's counters (`tracing_stats_read()` in
/// kernel/trace/trace.c).
fn sum(stats: &str, wanted: &[&str]) -> Result<u64, String> {
    wanted.iter().try_fold(0, |sum, wanted| {
        let value = stats.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            (name == *wanted).then(|| value.trim().parse::<u64>().ok())?
        });
        Ok(sum + value.ok_or_else(|| format!("the trace's stats do not say {wanted:?}"))?)
    })
}

/// How often the probes ran, and could not run (`probes_profile_seq_show()` in
/// kernel/trace/trace_kprobe.c).
fn profile(text: &str) -> Result<(u64, u64), String> {
    text.lines().try_fold((0, 0), |(hits, missed), line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers = match words.as_slice() {
            [_, hit, miss] => hit.parse::<u64>().ok().zip(miss.parse::<u64>().ok()),
            _ => None,
        };
        let (hit, miss) = numbers.ok_or_else(|| format!("kprobe_profile says {line:?}"))?;
        Ok((hits + hit, missed + miss))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_counts_is_understood_or_an_error() {
        let stats = "entries: 3\noverrun: 2\ncommit overrun: 1\nbytes: 9\ndropped events: 4\n";
        assert_eq!(sum(stats, &["overrun", "dropped events"]), Ok(6));
        assert!(sum("entries: 3\n", &["entries", "read events"]).is_err());
        assert_eq!(profile("  hmm/start   12   1\n  end 3 0\n"), Ok((15, 1)));
        assert!(profile("start 12\n").is_err());
    }

    #[test]
    fn a_page_is_as_long_as_its_events() {
        let mut page = vec![0; PAGE];
        page[COMMIT].copy_from_slice(&(40u64 | 1 << 31).to_le_bytes());
        assert_eq!(used(&page).len(), 16 + 40 + 8);
        page[COMMIT].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(used(&page).len(), PAGE);
        assert_eq!(used(&page[..9]).len(), 9);
    }
}
