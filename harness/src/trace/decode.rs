//! From the chunks of a test to its rows.
//!
//! The pages of each processor are in order, and the trace's clock gives each
//! record a number of its own, so the rows of all are in the order in which
//! things happened. Memory is bounded whatever the guest sends: a page for each
//! processor, and names.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use hmm_protocol::trace::{ChunkHeader, MAX_CHUNK, Marker};

use super::format::Formats;
use super::names::Names;
use super::ring;
use super::row::{Address, Probe, Row};
use crate::layout::Layout;

/// How many processors a guest may have: more are not ours.
const MOST_CPUS: usize = 64;

/// What must be known to understand a test's chunks.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// What every chunk of this start of the VM carries.
    pub tag: u64,
    /// Which test of this start it is, from 1.
    pub run: u32,
    /// The kinds of records.
    pub formats: &'a Formats,
    /// Where the notifier's facts lie.
    pub layout: &'a Layout,
}

/// What came out beside the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// How many chunks there were.
    pub chunks: u64,
    /// How many records were of probes: each time that one ran should be one.
    pub hits: u64,
    /// Whether the kernel says that records are missing somewhere.
    pub missed: bool,
    /// The first thing that could not be understood, or nothing.
    pub trouble: Option<String>,
    /// The calls of `migrate_vma_setup()`, by where they returned to.
    pub callers: BTreeMap<u64, Calls>,
}

/// Calls of `migrate_vma_setup()` from one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// How many there were.
    pub times: u64,
    /// How many of them had no owner.
    pub unowned: u64,
}

impl Calls {
    /// Adds others from the same place.
    pub fn add(&mut self, more: &Calls) {
        self.times += more.times;
        self.unowned += more.unowned;
    }
}

impl Decoded {
    fn trouble(&mut self, what: impl Into<String>) {
        self.trouble.get_or_insert_with(|| what.into());
    }
}

/// Reads a test's chunks and gives its rows, in their order. `open` opens the
/// same bytes anew for each processor.
///
/// # Errors
/// When they cannot be read; what they say wrongly is told in [`Decoded`].
pub fn decode<R: Read + Seek>(
    open: impl Fn() -> io::Result<R>,
    about: About<'_>,
    mut sink: impl FnMut(Row),
) -> io::Result<Decoded> {
    let mut decoded = Decoded::default();
    let cpus = survey(open()?, about, &mut decoded)?;
    let mut streams = Vec::new();
    for (cpu, chunks) in cpus {
        let mut stream = Stream::new(open()?, cpu, chunks);
        stream.refill(&mut decoded)?;
        streams.push(stream);
    }
    let mut rows = Rows { names: Names::new(about.layout), seq: 0, step: 0 };
    loop {
        let first = streams
            .iter()
            .enumerate()
            .filter_map(|(n, stream)| Some((stream.next_time()?, n)))
            .min();
        let Some((_, n)) = first else { break };
        let stream = &mut streams[n];
        let at = stream.take();
        let record = &stream.page[at];
        if let Some(row) = rows.understand(stream.cpu, record, about.formats, &mut decoded) {
            sink(row);
        }
        stream.refill(&mut decoded)?;
    }
    if let Some(what) = rows.names.overflow() {
        decoded.trouble(what);
    }
    Ok(decoded)
}

/// Goes through the headers: checks that none is missing, and counts each
/// processor's chunks.
fn survey<R: Read + Seek>(
    mut reader: R,
    about: About<'_>,
    decoded: &mut Decoded,
) -> io::Result<BTreeMap<u32, u64>> {
    let length = reader.seek(SeekFrom::End(0))?;
    reader.seek(SeekFrom::Start(0))?;
    let mut cpus: BTreeMap<u32, u64> = BTreeMap::new();
    let mut at = 0;
    while let Some(header) = header(&mut reader)? {
        at += ChunkHeader::SIZE as u64 + u64::from(header.length);
        if header.tag != about.tag || header.run != about.run || header.seq != decoded.chunks {
            decoded.trouble(format!("chunk {} is not the one that was due", decoded.chunks));
            break;
        }
        if at > length || header.length > MAX_CHUNK {
            decoded.trouble("the last chunk is torn");
            break;
        }
        if cpus.len() == MOST_CPUS && !cpus.contains_key(&header.cpu) {
            decoded.trouble("more processors than there can be");
            break;
        }
        *cpus.entry(header.cpu).or_default() += 1;
        decoded.chunks += 1;
        reader.seek_relative(i64::from(header.length))?;
    }
    if at < length {
        decoded.trouble("half a chunk at the end");
    }
    Ok(cpus)
}

fn header(reader: &mut impl Read) -> io::Result<Option<ChunkHeader>> {
    let mut bytes = [0; ChunkHeader::SIZE];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(ChunkHeader::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The records of one processor.
struct Stream<R> {
    reader: R,
    cpu: u32,
    /// How many of its chunks are left.
    chunks: u64,
    page: Vec<u8>,
    records: std::vec::IntoIter<ring::Record>,
    next: Option<ring::Record>,
}

impl<R: Read + Seek> Stream<R> {
    fn new(reader: R, cpu: u32, chunks: u64) -> Self {
        let records = Vec::new().into_iter();
        Stream { reader, cpu, chunks, page: Vec::new(), records, next: None }
    }

    fn next_time(&self) -> Option<u64> {
        self.next.as_ref().map(|record| record.time)
    }

    /// Where the next record is in the page.
    fn take(&mut self) -> Range<usize> {
        self.next.take().map_or(0..0, |record| record.at)
    }

    /// Finds the next record, if there is another.
    fn refill(&mut self, decoded: &mut Decoded) -> io::Result<()> {
        loop {
            self.next = self.records.next();
            if self.next.is_some() || self.chunks == 0 {
                return Ok(());
            }
            let Some(header) = header(&mut self.reader)? else { return Ok(()) };
            if header.cpu != self.cpu {
                self.reader.seek_relative(i64::from(header.length))?;
                continue;
            }
            self.chunks -= 1;
            self.page.resize(header.length as usize, 0);
            self.reader.read_exact(&mut self.page)?;
            match ring::page(&self.page) {
                Ok(page) => {
                    decoded.missed |= page.missed;
                    self.records = page.records.into_iter();
                }
                Err(why) => decoded.trouble(why),
            }
        }
    }
}

/// Makes rows of records.
struct Rows<'a> {
    names: Names<'a>,
    seq: u64,
    step: u32,
}

impl Rows<'_> {
    /// The row of a record, unless it is none of a trace's.
    fn understand(
        &mut self,
        cpu: u32,
        record: &[u8],
        formats: &Formats,
        decoded: &mut Decoded,
    ) -> Option<Row> {
        let Some(format) = formats.of(record) else {
            decoded.trouble("a record of a kind that the kernel did not describe");
            return None;
        };
        let value = |field: &str| format.value(field, record);
        let tid = value("common_pid").and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        let (tgid, role) = self.names.thread(tid);
        let mut row = Row {
            seq: self.seq,
            cpu,
            tid,
            tgid,
            role,
            probe: Probe::Step,
            event: None,
            start: None,
            end: None,
            blockable: None,
            owner: None,
            mm: None,
            range: None,
            sub: None,
            cur_seq: None,
            ret: None,
            step: self.step,
            doing: None,
            t_ns: None,
        };
        if format.name == "print" {
            let text = format.text("buf", record).unwrap_or_default();
            match serde_json::from_slice(text) {
                Ok(Marker::Process { tgid, role }) => {
                    self.names.introduce(tid, tgid, role);
                    return None;
                }
                Ok(Marker::Step(mut step)) => {
                    self.step += 1;
                    row.step = self.step;
                    row.t_ns = step.t_ns.take();
                    row.doing = Some(step);
                }
                Err(_) => {
                    decoded.trouble("a marker that is none");
                    return None;
                }
            }
        } else {
            decoded.hits += 1;
            let known = self.fill(&mut row, &format.name, value);
            if known.is_none() {
                decoded.trouble(format!("a record of {} that lacks a field", format.name));
                return None;
            }
            if row.probe == Probe::MigrateSetup {
                // A hostile guest could name any number of callers.
                let caller = value("caller").unwrap_or_default();
                if decoded.callers.len() < 1024 || decoded.callers.contains_key(&caller) {
                    let unowned = u64::from(row.owner.is_none());
                    decoded.callers.entry(caller).or_default().add(&Calls { times: 1, unowned });
                }
            }
        }
        self.seq += 1;
        Some(row)
    }

    /// Takes over what a probe has read. `None` where it lacks something.
    fn fill(
        &mut self,
        row: &mut Row,
        probe: &str,
        value: impl Fn(&str) -> Option<u64>,
    ) -> Option<()> {
        let names = &mut self.names;
        let address = |field: &str| value(field).map(Address);
        row.probe = match probe {
            "invalidate_start" => Probe::InvalidateStart,
            "invalidate_end" => Probe::InvalidateEnd,
            "callback" | "snapshot_callback" => Probe::Callback,
            "callback_return" | "snapshot_callback_return" => Probe::CallbackReturn,
            "collect" | "collect_hole" => Probe::Collect,
            "migrate_setup" => Probe::MigrateSetup,
            "migrate_fault" => Probe::MigrateFault,
            "insert" | "insert_locked" | "insert_return" | "insert_locked_return" => Probe::Insert,
            "remove" | "remove_return" => Probe::Remove,
            "release" => Probe::Release,
            _ => return None,
        };
        match probe {
            "invalidate_start" | "invalidate_end" | "callback" | "snapshot_callback" => {
                let event = value("event")?;
                let name = names.event(event);
                row.start = Some(address("start")?);
                row.end = Some(address("end")?);
                row.blockable = Some(names.may_block(value("flags")?));
                row.owner = names.owner_of(&name, value("owner"));
                row.event = Some(name);
                row.mm = Some(names.mm(value("mm")?));
                row.range = Some(names.range(value("range")?));
                if let Some(sub) = value("sub") {
                    row.sub = Some(names.subscription(sub));
                    row.cur_seq = Some(value("seq")?);
                    names.enter(row.tid, row.sub.clone());
                }
            }
            "callback_return" | "snapshot_callback_return" => {
                row.ret = Some(value("ret")?.cast_signed());
                row.sub = names.leave(row.tid);
            }
            "collect" | "collect_hole" => {
                row.start = Some(address("start")?);
                row.end = Some(address("end")?);
            }
            "migrate_setup" => {
                row.start = Some(address("start")?);
                row.end = Some(address("end")?);
                row.owner = names.device(value("owner").unwrap_or_default());
            }
            "migrate_fault" => {
                let page = value("start")? & !0xfff;
                row.start = Some(Address(page));
                row.end = Some(Address(page.wrapping_add(0x1000)));
            }
            "insert" | "insert_locked" => {
                let start = value("start")?;
                row.start = Some(Address(start));
                row.end = Some(Address(start.wrapping_add(value("length")?)));
                row.mm = Some(names.mm(value("mm")?));
                let devices = (value("device"), value("snapshot_device"));
                row.sub = Some(names.inserted(value("sub")?, devices));
                names.enter(row.tid, row.sub.clone());
            }
            "insert_return" | "insert_locked_return" => {
                let ret = value("ret")?.cast_signed();
                row.ret = Some(ret);
                row.sub = names.leave(row.tid);
                if ret != 0 {
                    names.removed(row.sub.as_deref());
                }
            }
            "remove" => {
                row.sub = Some(names.subscription(value("sub")?));
                names.enter(row.tid, row.sub.clone());
            }
            "remove_return" => {
                row.ret = Some(0);
                row.sub = names.leave(row.tid);
                names.removed(row.sub.as_deref());
            }
            _ => row.mm = Some(names.mm(value("mm")?)),
        }
        Some(())
    }
}
