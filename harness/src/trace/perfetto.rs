//! Traces as Chrome's trace event JSON, which <https://ui.perfetto.dev> and
//! `chrome://tracing` open.
//!
//! A process for each test: a track with its steps, and one for each thread of
//! the guest. Invalidations and callbacks last; all else is an instant.
//!
//! The trace's clock counts, so only steps have a time. What is between two steps
//! is spread evenly over the time between them: the order is exact, the time
//! within a step is not measured. Behind the last step a microsecond is put
//! between two rows.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde_json::{Value, json};

use super::buffers::Buffers;
use super::row::{Probe, Row};
use crate::words::clean;

/// `PID_MAX_LIMIT` of include/linux/threads.h: no thread of the guest has a
/// higher number, so those of processes are from here on.
const HIGHEST_TID: u64 = 4 << 20;

/// How many threads there are, and how deep one is in invalidations and callbacks.
/// An honest test has some dozens.
const MOST_THREADS: usize = 1 << 8;
const DEEPEST: usize = 32;

/// Where nothing is known of the time, rows are this far apart, in nanoseconds.
const APART: u64 = 1_000;

/// When rows happened.
#[derive(Debug, Clone, Default)]
pub struct Times {
    /// The steps, by place, in nanoseconds of the guest's clock.
    steps: Vec<(u64, u64)>,
}

impl Times {
    /// Takes the next row.
    pub fn push(&mut self, row: &Row) {
        let Some(ns) = row.t_ns else { return };
        if self.steps.last().is_some_and(|(seq, _)| *seq >= row.seq) {
            return;
        }
        // Two threads may read the clock in one order and be written in the other.
        let before = self.steps.last().map_or(0, |(_, ns)| *ns);
        self.steps.push((row.seq, ns.max(before)));
    }

    /// How long after the first row another one happened, in nanoseconds.
    fn at(&self, seq: u64) -> u64 {
        let apart = |rows: u64| rows.saturating_mul(APART);
        let Some((first, began)) = self.steps.first() else { return apart(seq) };
        let next = self.steps.partition_point(|(of, _)| *of <= seq);
        let Some(last) = next.checked_sub(1) else { return apart(seq) };
        let (from, ns) = self.steps[last];
        let since = match self.steps.get(next) {
            Some((to, then)) => {
                let (part, whole) = (u128::from(seq - from), u128::from(to - from));
                let ns = u128::from(then - ns) * part / whole.max(1);
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
            None => apart(seq - from),
        };
        apart(*first).saturating_add(ns - began).saturating_add(since)
    }
}

/// Writes traces, one after the other.
pub struct Perfetto<W> {
    out: W,
    tests: u64,
    begun: bool,
}

impl<W: Write> Perfetto<W> {
    /// Writes to `out`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(b"{\"traceEvents\":[")?;
        Ok(Perfetto { out, tests: 0, begun: false })
    }

    /// Writes a test's trace, which begins `from` nanoseconds after the first
    /// thing in the file. `times` have seen all of its rows.
    ///
    /// # Errors
    /// When a row cannot be had, or cannot be written.
    pub fn test(
        &mut self,
        name: &str,
        from: u64,
        times: &Times,
        rows: impl Iterator<Item = io::Result<Row>>,
    ) -> io::Result<()> {
        self.tests += 1;
        let mut test = Test {
            file: self,
            pid: 0,
            from,
            times,
            now: from,
            buffers: Buffers::default(),
            step: None,
            threads: BTreeMap::new(),
            roles: BTreeSet::new(),
        };
        test.pid = HIGHEST_TID + test.file.tests;
        test.meta("process_name", test.pid, json!({ "name": clean(name) }))?;
        let place = json!({ "sort_index": test.file.tests });
        test.meta("process_sort_index", test.pid, place)?;
        test.meta("thread_name", test.pid, json!({ "name": "steps" }))?;
        for row in rows {
            test.push(&row?)?;
        }
        test.finish()
    }

    /// The last test was written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn event(&mut self, event: &Value) -> io::Result<()> {
        let comma: &[u8] = if self.begun { b",\n" } else { b"\n" };
        self.begun = true;
        self.out.write_all(comma)?;
        serde_json::to_writer(&mut self.out, event).map_err(io::Error::from)
    }
}

/// The test that is being written.
struct Test<'a, W> {
    file: &'a mut Perfetto<W>,
    pid: u64,
    from: u64,
    times: &'a Times,
    now: u64,
    buffers: Buffers,
    /// The step that goes on: since when, its words, its number.
    step: Option<(u64, String, u32)>,
    /// What each thread is in, innermost last.
    threads: BTreeMap<u32, Vec<Open>>,
    roles: BTreeSet<(u32, String)>,
}

struct Open {
    /// Nothing for a callback.
    range: Option<String>,
    callback: bool,
    blockable: bool,
}

impl<W: Write> Test<'_, W> {
    fn push(&mut self, row: &Row) -> io::Result<()> {
        // A file that was put together otherwise than we do is shown all the same.
        self.now = self.now.max(self.from.saturating_add(self.times.at(row.seq)));
        let known = self.threads.get(&row.tid).map(Vec::len);
        let full = known.map_or(self.threads.len() >= MOST_THREADS, |depth| depth >= DEEPEST);
        if full && matches!(row.probe, Probe::InvalidateStart | Probe::Callback) {
            return Ok(());
        }
        if self.roles.len() < MOST_THREADS
            && self.roles.insert((row.tid, row.role.clone()))
            && row.role != "other"
        {
            let name = format!("{} {}", clean(&row.role), row.tid);
            self.meta("thread_name", u64::from(row.tid), json!({ "name": name }))?;
        }
        let sub = row.sub.as_deref().unwrap_or("unknown");
        match row.probe {
            Probe::Step => {
                self.end_step()?;
                self.buffers.learn(row);
                let doing = row.doing.clone().unwrap_or_default();
                let by = if row.role == "test" { "" } else { &format!(" by {}", row.role) };
                self.step = Some((self.now, clean(&format!("{doing}{by}")), row.step));
                Ok(())
            }
            Probe::InvalidateStart => {
                let name = row.event.as_deref().unwrap_or("event?");
                self.event("B", name, row)?;
                self.open(row, false);
                Ok(())
            }
            Probe::Callback => {
                self.event("B", &format!("callback {sub}"), row)?;
                self.open(row, true);
                Ok(())
            }
            Probe::InvalidateEnd => {
                let own = |open: &Open| !open.callback && open.range == row.range;
                if self.close(row, own)? {
                    return Ok(());
                }
                let name = row.event.as_deref().unwrap_or("event?");
                self.instant(&format!("{name} ends and never began"), row)
            }
            Probe::CallbackReturn => {
                self.close(row, |open| open.callback)?;
                // An invalidation that may not block, and would have to, has no end.
                let last = self.threads.get(&row.tid).and_then(|open| open.last());
                if row.ret == Some(0) && last.is_some_and(|open| !open.blockable) {
                    self.close(row, |_| true)?;
                }
                Ok(())
            }
            Probe::Insert | Probe::Remove => {
                let word = if row.probe == Probe::Insert { "insert" } else { "remove" };
                match row.ret {
                    None => self.instant(&format!("{word} {sub}"), row),
                    Some(0) => Ok(()),
                    Some(ret) => self.instant(&format!("{word} {sub} -> {ret}"), row),
                }
            }
            Probe::Collect => self.instant("collect", row),
            Probe::MigrateSetup => self.instant("migrate_setup", row),
            Probe::MigrateFault => self.instant("fault", row),
            Probe::Release => self.instant("release", row),
        }
    }

    fn open(&mut self, row: &Row, callback: bool) {
        self.threads.entry(row.tid).or_default().push(Open {
            range: row.range.clone(),
            callback,
            blockable: row.blockable != Some(false),
        });
    }

    /// Ends what the row ends, and what is open inside it.
    fn close(&mut self, row: &Row, which: impl Fn(&Open) -> bool) -> io::Result<bool> {
        let open = self.threads.entry(row.tid).or_default();
        let Some(at) = open.iter().rposition(which) else { return Ok(false) };
        let depth = open.len() - at;
        open.truncate(at);
        for n in 0..depth {
            let mut end = self.at("E", u64::from(row.tid));
            if let Some(ret) = row.ret.filter(|_| n + 1 == depth) {
                end["args"] = json!({ "ret": ret });
            }
            self.file.event(&end)?;
        }
        Ok(true)
    }

    fn end_step(&mut self) -> io::Result<()> {
        let Some((since, text, number)) = self.step.take() else { return Ok(()) };
        let mut event = self.at("X", self.pid);
        event["ts"] = micros(since);
        event["dur"] = micros(self.now - since);
        event["name"] = text.into();
        event["args"] = json!({ "step": number });
        self.file.event(&event)
    }

    fn finish(mut self) -> io::Result<()> {
        self.end_step()?;
        for (tid, open) in std::mem::take(&mut self.threads) {
            for _ in open {
                let end = self.at("E", u64::from(tid));
                self.file.event(&end)?;
            }
        }
        Ok(())
    }

    fn instant(&mut self, name: &str, row: &Row) -> io::Result<()> {
        self.event("i", name, row)
    }

    fn event(&mut self, phase: &str, name: &str, row: &Row) -> io::Result<()> {
        let mut event = self.at(phase, u64::from(row.tid));
        event["name"] = clean(name).into();
        if phase == "i" {
            // Of its thread alone.
            event["s"] = "t".into();
        }
        let range = row.addresses().map(|range| self.buffers.place(range));
        let args = [
            ("event", row.event.clone()),
            ("range", range),
            ("owner", row.owner.clone()),
            ("sub", row.sub.clone()),
            ("mm", row.mm.clone()),
        ];
        let mut args: serde_json::Map<String, Value> = args
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), clean(&value?).into())))
            .collect();
        args.extend(row.cur_seq.map(|seq| ("cur_seq".to_owned(), seq.into())));
        args.extend(row.blockable.map(|may| ("blockable".to_owned(), may.into())));
        args.insert("row".into(), row.seq.into());
        event["args"] = args.into();
        self.file.event(&event)
    }

    fn meta(&mut self, what: &str, tid: u64, args: Value) -> io::Result<()> {
        let event = json!({ "ph": "M", "pid": self.pid, "tid": tid, "name": what, "args": args });
        self.file.event(&event)
    }

    /// What all events have.
    fn at(&self, phase: &str, tid: u64) -> Value {
        json!({ "ph": phase, "pid": self.pid, "tid": tid, "ts": micros(self.now) })
    }
}

/// The format counts in microseconds.
fn micros(ns: u64) -> Value {
    json!(ns as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::row::rows;

    const TRACE: &str = include_str!("../../tests/golden/run/trace/hmm.migrate.private.jsonl");

    fn written(traces: &[&str]) -> Vec<Value> {
        let mut perfetto = Perfetto::new(Vec::new()).expect("memory");
        for (n, trace) in traces.iter().enumerate() {
            let mut times = Times::default();
            rows(trace.as_bytes()).for_each(|row| times.push(&row.expect("a row")));
            let from = n as u64 * 500;
            perfetto.test("a test", from, &times, rows(trace.as_bytes())).expect("memory");
        }
        let text = perfetto.finish().expect("memory");
        let file: Value = serde_json::from_slice(&text).expect("it is JSON");
        file["traceEvents"].as_array().expect("a list").clone()
    }

    /// What viewers rely on.
    fn check(events: &[Value]) {
        let mut threads: BTreeMap<(u64, u64), (f64, u32)> = BTreeMap::new();
        for event in events.iter().filter(|event| event["ph"] != "M") {
            let number = |key: &str| event[key].as_u64().expect("a number");
            let (last, depth) = threads.entry((number("pid"), number("tid"))).or_default();
            let ts = event["ts"].as_f64().expect("a time");
            assert!(ts >= *last, "{event} is earlier than {last}");
            *last = ts;
            match event["ph"].as_str() {
                Some("B") => *depth += 1,
                Some("E") => *depth = depth.checked_sub(1).expect("it began"),
                Some("X") => assert!(event["dur"].as_f64().is_some_and(|dur| dur >= 0.0)),
                Some("i") => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(threads.values().all(|(_, depth)| *depth == 0));
    }

    #[test]
    fn what_is_written_can_be_opened() {
        let events = written(&[TRACE, TRACE]);
        check(&events);
        let named = |name: &str| events.iter().filter(|event| event["name"] == name).count();
        assert_eq!((named("MIGRATE"), named("fault"), named("cpu-read buffer[0..4)")), (10, 8, 2));
        let migrate = events.iter().find(|event| event["name"] == "MIGRATE").expect("there is one");
        assert_eq!(migrate["args"]["range"], "buffer[0..4)");
        assert_eq!(migrate["args"]["owner"], "dmirror0");
        let step = events.iter().find(|event| event["ph"] == "X").expect("there is one");
        assert_eq!((step["ts"].as_f64(), step["dur"].as_f64()), (Some(0.0), Some(1_000.0)));
    }

    #[test]
    fn half_a_trace_can_be_opened_too() {
        let lines: Vec<&str> = TRACE.lines().collect();
        for (from, to) in [(0, 22), (0, 23), (21, 40), (23, 24), (0, 0)] {
            check(&written(&[&lines[from..to].join("\n")]));
        }
        let mut turned = lines.clone();
        turned.reverse();
        check(&written(&[&turned.join("\n")]));
    }
}
