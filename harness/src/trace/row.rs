//! A line of `trace/<id>.jsonl`: one event of a test's trace, in names instead
//! of numbers.

use std::fmt;
use std::io::{self, BufRead};

use hmm_protocol::trace::Step;
use serde::{Deserialize, Serialize};

/// Where an event was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// `__mmu_notifier_invalidate_range_start()` begins.
    InvalidateStart,
    /// `__mmu_notifier_invalidate_range_end()` begins.
    InvalidateEnd,
    /// The driver's `dmirror_interval_invalidate()` or
    /// `dmirror_snapshot_invalidate()` begins.
    Callback,
    /// It ends; `ret` is what it said.
    CallbackReturn,
    /// `migrate_vma_collect_pmd()` or `migrate_vma_collect_hole()` begins.
    Collect,
    /// `migrate_vma_setup()` begins.
    MigrateSetup,
    /// `dmirror_devmem_fault()` begins: the CPU touched a page of the device.
    MigrateFault,
    /// `mmu_interval_notifier_insert()` begins; or ends, and then there is `ret`.
    Insert,
    /// `mmu_interval_notifier_remove()` begins; or ends, and then there is `ret`,
    /// always 0.
    Remove,
    /// `__mmu_notifier_release()` begins.
    Release,
    /// The test goes on to its next step.
    Step,
}

/// An event. What a probe does not know is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its place in the trace, from 0.
    pub seq: u64,
    /// On which processor.
    pub cpu: u32,
    /// By which thread.
    pub tid: u32,
    /// Of which process; 0 for one that never said who it is.
    pub tgid: u32,
    /// What that process is to the test: `test`, `child`, `thread`; `other` for
    /// one that never said.
    pub role: String,
    /// Where it was seen.
    pub probe: Probe,
    /// The kind of invalidation, without `MMU_NOTIFY_`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub event: Option<String>,
    /// The first address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start: Option<Address>,
    /// The one behind the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end: Option<Address>,
    /// Whether callbacks may block.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub blockable: Option<bool>,
    /// On whose behalf: `dmirror0`; `other` for an address that is no device of
    /// the driver's; `unset` where the kernel leaves the field as it was in
    /// memory. Left out where it is NULL or there is no such field.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<String>,
    /// Which address space: `mm0` is the test's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mm: Option<String>,
    /// Which range object of the kernel: what starts and ends an invalidation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub range: Option<String>,
    /// Which subscription: the device, a number, and whether a snapshot made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sub: Option<String>,
    /// The sequence that the callback is told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cur_seq: Option<u64>,
    /// What was returned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ret: Option<i64>,
    /// The step that it belongs to, counted from 1; 0 before the first.
    pub step: u32,
    /// What the step does; on `step` rows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub doing: Option<Step>,
    /// The guest's monotonic clock, in nanoseconds; on `step` rows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub t_ns: Option<u64>,
}

impl Row {
    /// The range of addresses, if there is one.
    pub fn addresses(&self) -> Option<(u64, u64)> {
        Some((self.start?.0, self.end?.0))
    }
}

/// The rows of a `trace/<id>.jsonl`, one after the other.
pub fn rows(lines: impl BufRead) -> impl Iterator<Item = io::Result<Row>> {
    lines.lines().zip(1_u64..).map(|(line, n)| {
        serde_json::from_str(&line?)
            .map_err(|error| io::Error::other(format!("line {n} is no row: {error}")))
    })
}

/// An address, written as a string of hex digits: JSON's numbers end before
/// 2^64 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hex = text.strip_prefix("0x").unwrap_or(&text);
        u64::from_str_radix(hex, 16).map(Address).map_err(serde::de::Error::custom)
    }
}
