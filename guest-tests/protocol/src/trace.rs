//! How notifier events travel: what the agent is told to probe, what a test
//! writes between the events, and the chunks of the trace port.
//!
//! The guest decodes nothing. The kernel's ring buffer leaves it page by page,
//! as the kernel wrote it, on a virtio-serial port of its own, while the test
//! runs: so a test that takes the kernel down keeps what was before.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of the tracefs instance, and of the group that its probes are in.
pub const INSTANCE: &str = "hmm";

/// Where a process of a test writes its [`Marker`]s.
pub const MARKER: &str = "/sys/kernel/tracing/instances/hmm/trace_marker";

/// The page that a traced test has for [`Calibration`], far from every buffer.
pub const CALIBRATION: u64 = 0x0f_0000_0000;

/// What the agent puts in place before the guest is saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSetup {
    /// The kernel's buffer, for each processor, in KiB.
    pub buffer_kib: u32,
    /// The probes, in the order in which they are made.
    pub probes: Vec<Probe>,
}

/// A kprobe event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Its name in the group.
    pub name: String,
    /// The line for `kprobe_events` (Documentation/trace/kprobetrace.rst).
    pub definition: String,
}

/// What became of a [`TraceSetup`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReady {
    /// Why nothing can be traced; nothing if it can.
    pub unavailable: Option<String>,
    /// The probes that the kernel refused, each with its words.
    pub refused: BTreeMap<String, String>,
    /// The text of each event's `format` file: those of the probes, and of
    /// `print`, as which markers appear.
    pub formats: BTreeMap<String, String>,
}

/// What the kernel's counters say of one test's capture: differences between
/// its start and its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// How many chunks of it were sent before this was said.
    pub chunks: u64,
    /// Events that found no room: `overrun`, `commit overrun` and `dropped
    /// events` of all processors (Documentation/trace/ftrace.rst).
    pub lost: u64,
    /// Times that a probe could not run (`kprobe_profile`).
    pub missed: u64,
    /// Times that the probes ran; each should be an event.
    pub hits: u64,
    /// Events that found room, markers among them: `entries` and `read events`.
    pub kept: u64,
    /// What went wrong in the agent, or nothing.
    pub trouble: Option<String>,
}

/// What a process of a test writes into the trace, as JSON. Its moment is that
/// of the kernel's record of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "snake_case")]
pub enum Marker {
    /// Who writes from here on with this thread id.
    Process {
        /// Its process id.
        tgid: u32,
        /// `test`, `child` or `thread`.
        role: String,
    },
    /// What the test does next.
    Step(Step),
}

/// What a test does: one operation of the vocabulary that steps, traces and the
/// notifier contract share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The operation: `to-device`, `cpu-read`, `fork`.
    pub op: String,
    /// The device that does it: `dmirror0`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<String>,
    /// The pages that it is about.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pages: Option<Span>,
    /// Where these pages begin, of an operation that maps them: from here on they
    /// have names.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<u64>,
    /// More about it: a protection.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
    /// The guest's monotonic clock, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub t_ns: Option<u64>,
}

/// Pages of a buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The buffer's name.
    pub buffer: String,
    /// The first page.
    pub first: u64,
    /// How many.
    pub pages: u64,
}

impl Step {
    /// An operation about nothing in particular.
    pub fn new(op: &str) -> Step {
        Step { op: op.to_owned(), ..Step::default() }
    }

    /// The same, done by a device.
    #[must_use]
    pub fn by(self, device: impl fmt::Display) -> Step {
        Step { device: Some(device.to_string()), ..self }
    }

    /// The same, about pages.
    #[must_use]
    pub fn of(self, pages: Span) -> Step {
        Step { pages: Some(pages), ..self }
    }

    /// The same, which maps them at an address.
    #[must_use]
    pub fn at(self, address: u64) -> Step {
        Step { address: Some(address), ..self }
    }

    /// The same, with more about it.
    #[must_use]
    pub fn note(self, note: impl fmt::Display) -> Step {
        Step { note: note.to_string(), ..self }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        if let Some(device) = &self.device {
            write!(f, " {device}")?;
        }
        if let Some(pages) = &self.pages {
            write!(f, " {pages}")?;
        }
        if !self.note.is_empty() {
            write!(f, " {}", self.note)?;
        }
        Ok(())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}..{})", self.buffer, self.first, self.first.saturating_add(self.pages))
    }
}

/// The known operations by which a traced test proves that what is captured is
/// what the kernel sends: `mprotect`, `MADV_DONTNEED` and `munmap` of a page of
/// its own, in this order, each with the event that every kernel sends for it
/// (`change_protection()`, `madvise_dontneed_single_vma()`, `unmap_region()`).
pub const CALIBRATIONS: [(&str, &str); 3] = [
    ("calibrate-protect", "PROTECTION_VMA"),
    ("calibrate-discard", "CLEAR"),
    ("calibrate-unmap", "UNMAP"),
];

/// Where a chunk of the trace port belongs. On the wire: all of it, little
/// endian, and then [`ChunkHeader::length`] bytes, a page of the kernel's ring
/// buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`tag`] of the nonce of this start of the VM.
    pub tag: u64,
    /// Which test of this start it belongs to, counted from 1.
    pub run: u32,
    /// The processor whose buffer it is from.
    pub cpu: u32,
    /// Counts a test's chunks from 0.
    pub seq: u64,
    /// How many bytes follow.
    pub length: u32,
}

/// How long a chunk can be: it has a header, and a sub-buffer of the kernel is a
/// page unless somebody asks for more.
pub const CHUNKS: std::ops::RangeInclusive<u32> = 16..=64 * 1024;

/// The first 64 bits of a nonce.
pub fn tag(nonce: &str) -> u64 {
    nonce.get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

impl ChunkHeader {
    /// How many bytes a header takes.
    pub const SIZE: usize = 28;

    /// The bytes of it.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.tag.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.run.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.cpu.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seq.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, or nothing if they are too few.
    pub fn decode(bytes: &[u8]) -> Option<ChunkHeader> {
        let bytes: &[u8; Self::SIZE] = bytes.first_chunk()?;
        let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        let eight = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        Some(ChunkHeader {
            tag: eight(0),
            run: four(8),
            cpu: four(12),
            seq: eight(16),
            length: four(24),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_survive_the_wire(
            tag: u64, run: u32, cpu: u32, seq: u64, length: u32, more in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let header = ChunkHeader { tag, run, cpu, seq, length };
            let mut bytes = header.encode().to_vec();
            bytes.extend(more);
            prop_assert_eq!(ChunkHeader::decode(&bytes), Some(header));
            prop_assert_eq!(ChunkHeader::decode(&bytes[..ChunkHeader::SIZE - 1]), None);
        }
    }

    #[test]
    fn a_step_reads_as_a_sentence() {
        let span = Span { buffer: "buffer".into(), first: 3, pages: 2 };
        let step = Step::new("to-device").by("dmirror0").of(span).note("again");
        assert_eq!(step.to_string(), "to-device dmirror0 buffer[3..5) again");
        assert_eq!(Step::new("fork").to_string(), "fork");
    }
}
