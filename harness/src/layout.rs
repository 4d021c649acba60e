//! Where the notifier's facts lie in the memory of the kernel under test.
//!
//! A series may move, rename or add a member of `struct mmu_notifier_range`, or
//! an event; so nothing of it is written down here but what the members mean.
//! Names come from the tree's headers, offsets and values from its compiler.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Offsets, sizes and values, as the compiler says them; in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The values of the events, by their names without the prefix.
    pub events: BTreeMap<String, u64>,
    /// The members of `struct mmu_notifier_range`: `mm`, `start`, `end`, `flags`,
    /// `event`, and `owner` where there is one, whatever it is called.
    pub range: BTreeMap<String, u64>,
    /// Whether `mmu_notifier_range_init()` sets the owner, so that it is not left
    /// as it was in memory for events that have none.
    pub owner_is_set: bool,
    /// The flag of a range whose callbacks may block.
    pub blockable: u64,
    /// The members of `struct migrate_vma`: `start`, `end`, and `owner`.
    pub migrate: BTreeMap<String, u64>,
    /// `address` of `struct vm_fault`.
    pub fault_address: u64,
    /// From a mirror's interval notifier to the pointer to its device.
    pub device_of_mirror: i64,
    /// From a snapshot's interval notifier to the pointer to its mirror, and from
    /// there to the pointer to its device.
    pub device_of_snapshot: (i64, i64),
    /// The address of the first of the driver's devices.
    pub devices_at: u64,
    /// The size of one.
    pub device_size: u64,
    /// How many there are.
    pub devices: u64,
}

/// What is known of a kernel's layout: itself, or why it cannot be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// This.
    Is(Layout),
    /// Nothing: why.
    Not(String),
}
