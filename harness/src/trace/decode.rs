//! From the chunks of a test to its rows.
//!
//! The pages of each processor are in order, and the trace's clock gives each
//! record a number of its own, so the rows of all are in the order in which
//! things happened. Memory is bounded whatever the guest sends: a page for each
//! processor, and names.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use hmm_protocol::trace::{CHUNKS, ChunkHeader, Marker};

use super::format::{Field, Format, Formats};
use super::names::Names;
use super::ring;
use super::row::{Address, Probe, Row};
use crate::layout::Layout;

/// How many processors a guest may have: more are not ours.
const MOST_CPUS: usize = 64;

/// How many rows there may be: some more than the harness keeps the records of.
const MOST_ROWS: u64 = 1 << 24;

/// How long the names may be that a test gives to its processes and its buffers:
/// they stand in every row and every line.
const LONGEST_NAME: usize = 64;

/// Less than any record takes, its header included.
const SMALLEST_RECORD: usize = 8;

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
    /// How many records there were.
    pub records: u64,
    /// How many of them were of probes: each time that one ran should be one.
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
    let mut rows = Rows::new(about);
    loop {
        let first = streams
            .iter()
            .enumerate()
            .filter_map(|(n, stream)| Some((stream.next_time()?, n)))
            .min();
        let Some((_, n)) = first else { break };
        if rows.seq == MOST_ROWS {
            decoded.trouble("more events than a test can have");
            break;
        }
        let stream = &mut streams[n];
        let at = stream.take();
        let record = &stream.page[at];
        decoded.records += 1;
        if let Some(row) = rows.understand(stream.cpu, record, &mut decoded) {
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
        let due = decoded.chunks;
        let wrong = if header.tag != about.tag {
            Some(format!("chunk {due} is of another start of the VM"))
        } else if header.run != about.run {
            Some(format!("chunk {due} is of another test"))
        } else if header.seq != due {
            Some(format!("chunk {} came where chunk {due} was due", header.seq))
        } else if !CHUNKS.contains(&header.length) {
            Some(format!("chunk {due} is of {} bytes", header.length))
        } else if at > length {
            Some("the last chunk is torn".to_owned())
        } else {
            None
        };
        if let Some(wrong) = wrong {
            decoded.trouble(wrong);
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
    /// How much was left of the kernel's page, where there was no room for the next
    /// record.
    left: Option<usize>,
    records: std::vec::IntoIter<ring::Record>,
    next: Option<ring::Record>,
}

impl<R: Read + Seek> Stream<R> {
    fn new(reader: R, cpu: u32, chunks: u64) -> Self {
        let records = Vec::new().into_iter();
        Stream { reader, cpu, chunks, page: Vec::new(), left: None, records, next: None }
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
            if self.next.is_some() {
                return Ok(());
            }
            if self.chunks == 0 {
                if self.left.take().is_some() {
                    decoded.trouble("padding for an event that never came");
                }
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
                    if page.given_up {
                        decoded.trouble("an event was given up");
                    }
                    if let (Some(left), Some(first)) = (self.left, page.first())
                        && first <= left
                    {
                        decoded.trouble("padding where the next event had room");
                    }
                    self.left = page.left.or(self.left.filter(|_| page.first().is_none()));
                    self.records = page.records.into_iter();
                }
                Err(why) => decoded.trouble(why),
            }
        }
    }
}

/// Makes rows of records.
struct Rows<'a> {
    kinds: BTreeMap<u16, Kind<'a>>,
    names: Names<'a>,
    seq: u64,
    step: u32,
}

/// What a record can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Marker,
    Event(Probe),
    /// What a probed function returned.
    Return(Probe),
}

/// The records of one event: what they are, and where in them the values lie that
/// a row is made of.
struct Kind<'a> {
    format: &'a Format,
    what: Option<What>,
    length: usize,
    tid: Option<Field>,
    mm: Option<Field>,
    range: Option<Field>,
    start: Option<Field>,
    end: Option<Field>,
    length_of_it: Option<Field>,
    flags: Option<Field>,
    event: Option<Field>,
    owner: Option<Field>,
    sub: Option<Field>,
    seq: Option<Field>,
    ret: Option<Field>,
    device: Option<Field>,
    mirror: Option<Field>,
    caller: Option<Field>,
}

impl<'a> Kind<'a> {
    fn new(format: &'a Format) -> Self {
        let field = |name| format.field(name);
        Kind {
            format,
            what: what(&format.name),
            length: format.length(),
            tid: field("common_pid"),
            mm: field("mm"),
            range: field("range"),
            start: field("start"),
            end: field("end"),
            length_of_it: field("length"),
            flags: field("flags"),
            event: field("event"),
            owner: field("owner"),
            sub: field("sub"),
            seq: field("seq"),
            ret: field("ret"),
            device: field("device"),
            mirror: field("mirror"),
            caller: field("caller"),
        }
    }

    /// Whether a record is as long as the kernel makes those of this event
    /// (`rb_calculate_event_length()` in kernel/trace/ring_buffer.c).
    fn fits(&self, record: &[u8]) -> bool {
        let length = self.length.next_multiple_of(4);
        record.len() == if length == 8 { 12 } else { length }
    }
}

/// The records of an event of this name, if it is one of a trace's.
fn what(event: &str) -> Option<What> {
    Some(match event {
        "print" => What::Marker,
        "invalidate_start" => What::Event(Probe::InvalidateStart),
        "invalidate_end" => What::Event(Probe::InvalidateEnd),
        "callback" | "snapshot_callback" => What::Event(Probe::Callback),
        "callback_return" | "snapshot_callback_return" => What::Return(Probe::CallbackReturn),
        "collect" | "collect_hole" => What::Event(Probe::Collect),
        "migrate_setup" => What::Event(Probe::MigrateSetup),
        "migrate_fault" => What::Event(Probe::MigrateFault),
        "insert" | "insert_locked" => What::Event(Probe::Insert),
        "insert_return" | "insert_locked_return" => What::Return(Probe::Insert),
        "remove" => What::Event(Probe::Remove),
        "remove_return" => What::Return(Probe::Remove),
        "release" => What::Event(Probe::Release),
        _ => return None,
    })
}

impl<'a> Rows<'a> {
    fn new(about: About<'a>) -> Self {
        let kinds = about.formats.all().map(|format| (format.id(), Kind::new(format))).collect();
        Rows { kinds, names: Names::new(about.layout), seq: 0, step: 0 }
    }

    /// The row of a record, unless it is none of a trace's.
    fn understand(&mut self, cpu: u32, record: &[u8], decoded: &mut Decoded) -> Option<Row> {
        let id = record.first_chunk().map(|id| u16::from_le_bytes(*id));
        let Some(kind) = id.and_then(|id| self.kinds.get(&id)) else {
            decoded.trouble("a record of a kind that the kernel did not describe");
            return None;
        };
        let value = |field: Option<Field>| field.and_then(|field| field.value(record));
        let tid = value(kind.tid).and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
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
        if kind.what == Some(What::Marker) {
            match marker(kind.format, record) {
                Some(Marker::Process { tgid, role }) => {
                    self.names.introduce(tid, tgid, role);
                    return None;
                }
                Some(Marker::Step(mut step)) => {
                    self.step += 1;
                    row.step = self.step;
                    row.t_ns = step.t_ns.take();
                    row.doing = Some(step);
                }
                None => {
                    decoded.trouble("a marker that is none");
                    return None;
                }
            }
        } else {
            decoded.hits += 1;
            let name = &kind.format.name;
            let Some(what) = kind.what else {
                decoded.trouble(format!("a record of {name}, which is no probe"));
                return None;
            };
            if !kind.fits(record) {
                decoded.trouble(format!("a record of {name} of {} bytes", record.len()));
                return None;
            }
            if fill(&mut row, kind, what, &mut self.names, value).is_none() {
                decoded.trouble(format!("a record of {name} that lacks a field"));
                return None;
            }
            if row.probe == Probe::MigrateSetup {
                // A hostile guest could name any number of callers.
                let caller = value(kind.caller).unwrap_or_default();
                if decoded.callers.len() < 1024 || decoded.callers.contains_key(&caller) {
                    let unowned = u64::from(row.owner.is_none());
                    decoded.callers.entry(caller).or_default().add(&Calls { times: 1, unowned });
                }
            }
        }
        self.seq += 1;
        Some(row)
    }
}

/// Takes over what a probe has read. `None` where it lacks something.
fn fill(
    row: &mut Row,
    kind: &Kind<'_>,
    what: What,
    names: &mut Names<'_>,
    value: impl Fn(Option<Field>) -> Option<u64>,
) -> Option<()> {
    match what {
        What::Marker => {}
        What::Event(probe) => {
            row.probe = probe;
            match probe {
                Probe::InvalidateStart | Probe::InvalidateEnd | Probe::Callback => {
                    let name = names.event(value(kind.event)?);
                    row.start = Some(Address(value(kind.start)?));
                    row.end = Some(Address(value(kind.end)?));
                    row.blockable = Some(names.may_block(value(kind.flags)?));
                    row.owner = names.owner_of(&name, value(kind.owner));
                    row.event = Some(name);
                    row.mm = Some(names.mm(value(kind.mm)?));
                    row.range = Some(names.range(value(kind.range)?));
                    if probe == Probe::Callback {
                        row.sub = Some(names.subscription(value(kind.sub)?));
                        row.cur_seq = Some(value(kind.seq)?);
                        names.enter(row.tid, row.sub.clone());
                    }
                }
                Probe::Collect => {
                    row.start = Some(Address(value(kind.start)?));
                    row.end = Some(Address(value(kind.end)?));
                }
                Probe::MigrateSetup => {
                    row.start = Some(Address(value(kind.start)?));
                    row.end = Some(Address(value(kind.end)?));
                    row.owner = names.device(value(kind.owner).unwrap_or_default());
                }
                Probe::MigrateFault => {
                    let page = value(kind.start)? & !0xfff;
                    row.start = Some(Address(page));
                    row.end = Some(Address(page.saturating_add(0x1000)));
                }
                Probe::Insert => {
                    let start = value(kind.start)?;
                    let end = start.saturating_add(value(kind.length_of_it)?);
                    (row.start, row.end) = (Some(Address(start)), Some(Address(end)));
                    let mm = value(kind.mm)?;
                    let leads_to = (value(kind.device), value(kind.mirror));
                    row.sub = Some(names.inserted(value(kind.sub)?, mm, leads_to));
                    row.mm = Some(names.mm(mm));
                    names.enter(row.tid, row.sub.clone());
                }
                Probe::Remove => {
                    row.sub = Some(names.subscription(value(kind.sub)?));
                    names.enter(row.tid, row.sub.clone());
                }
                Probe::Release => {
                    let mm = value(kind.mm)?;
                    row.mm = Some(names.mm(mm));
                    names.released(mm);
                }
                Probe::CallbackReturn | Probe::Step => {}
            }
        }
        What::Return(probe) => {
            row.probe = probe;
            row.ret = match probe {
                // It returns nothing.
                Probe::Remove => Some(0),
                _ => Some(value(kind.ret)?.cast_signed()),
            };
            row.sub = names.leave(row.tid);
            let over = match probe {
                Probe::Insert => row.ret != Some(0),
                other => other == Probe::Remove,
            };
            if over {
                names.removed(row.sub.as_deref());
            }
        }
    }
    Some(())
}

/// What a process of the test wrote, if it is that and nothing else.
fn marker(format: &Format, record: &[u8]) -> Option<Marker> {
    let (text, behind) = format.text("buf", record)?;
    // The kernel adds a newline where there is none, and fills up to a word
    // (`tracing_mark_write()` in kernel/trace/trace.c).
    if behind > SMALLEST_RECORD {
        return None;
    }
    let marker: Marker = serde_json::from_slice(text).ok()?;
    let sound = match &marker {
        Marker::Process { role, .. } => role.len() <= LONGEST_NAME,
        Marker::Step(step) => {
            step.pages.as_ref().is_none_or(|pages| {
                pages.buffer.len() <= LONGEST_NAME && pages.first.checked_add(pages.pages).is_some()
            }) && [Some(&step.op), step.device.as_ref(), Some(&step.note)]
                .into_iter()
                .flatten()
                .all(|word| word.len() <= LONGEST_NAME)
        }
    };
    sound.then_some(marker)
}
