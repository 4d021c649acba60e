//! Names for the numbers of a trace: address spaces, range objects,
//! subscriptions, devices, threads.
//!
//! A name is given at first sight and in order, so the same events get the same
//! names each time. Devices are known by their addresses, from the kernel's
//! symbols, and never from the events that are judged by them.

use std::collections::{BTreeMap, BTreeSet};

use crate::layout::Layout;

/// How many things of a kind can have names. An honest test has some dozens.
const MOST: usize = 1 << 12;

/// How many subscriptions there can be at a time. An honest test has a handful.
const MOST_SUBSCRIPTIONS: usize = 1 << 8;

/// How deep calls about subscriptions can be nested in a thread.
const DEEPEST: usize = 64;

/// Events that nobody sends on somebody's behalf: in a kernel that has such a
/// field it is left as it was in memory, or set to NULL for all.
const OWNERLESS: [&str; 6] =
    ["UNMAP", "CLEAR", "PROTECTION_VMA", "PROTECTION_PAGE", "SOFT_DIRTY", "RELEASE"];

/// The names that were given.
pub(super) struct Names<'a> {
    layout: &'a Layout,
    mms: Numbered,
    /// Address spaces that have been torn down: who subscribes to one at the same
    /// address subscribes to another.
    released: BTreeSet<u64>,
    ranges: Numbered,
    /// Those that are in the kernel's hands, by address.
    subscriptions: BTreeMap<u64, Named>,
    threads: BTreeMap<u32, (u32, String)>,
    /// Which subscription's call each thread is in, innermost last.
    calls: BTreeMap<u32, Vec<Option<String>>>,
    full: Option<&'static str>,
}

/// A subscription: whose it is, and which of those.
struct Named {
    whose: String,
    number: usize,
}

impl Named {
    fn name(&self) -> String {
        match self.number {
            0 => self.whose.clone(),
            number => format!("{}.{number}", self.whose),
        }
    }
}

impl<'a> Names<'a> {
    pub(super) fn new(layout: &'a Layout) -> Self {
        Names {
            layout,
            mms: Numbered::new("mm", "address spaces"),
            released: BTreeSet::new(),
            ranges: Numbered::new("r", "range objects"),
            subscriptions: BTreeMap::new(),
            threads: BTreeMap::new(),
            calls: BTreeMap::new(),
            full: None,
        }
    }

    /// What there was too much of to be named, if anything.
    pub(super) fn overflow(&self) -> Option<String> {
        let full = self.full.or(self.mms.full()).or(self.ranges.full());
        full.map(|what| format!("more {what} than a test can have"))
    }

    pub(super) fn introduce(&mut self, tid: u32, tgid: u32, role: String) {
        if self.threads.len() < MOST || self.threads.contains_key(&tid) {
            self.threads.insert(tid, (tgid, role));
        } else {
            self.full.get_or_insert("threads");
        }
    }

    pub(super) fn thread(&self, tid: u32) -> (u32, String) {
        self.threads.get(&tid).cloned().unwrap_or_else(|| (0, "other".into()))
    }

    pub(super) fn event(&self, value: u64) -> String {
        match self.layout.events.iter().find(|(_, of)| **of == value) {
            Some((name, _)) => name.clone(),
            None => format!("event {value}"),
        }
    }

    pub(super) fn may_block(&self, flags: u64) -> bool {
        flags & self.layout.blockable != 0
    }

    /// The owner of a range of this event.
    pub(super) fn owner_of(&self, event: &str, value: Option<u64>) -> Option<String> {
        let value = value?;
        if OWNERLESS.contains(&event) && !self.layout.owner_is_set {
            return Some("unset".into());
        }
        self.device(value)
    }

    /// The device at an address; nothing for NULL.
    pub(super) fn device(&self, address: u64) -> Option<String> {
        if address == 0 {
            return None;
        }
        Some(self.known_device(address).unwrap_or_else(|| "other".into()))
    }

    fn known_device(&self, address: u64) -> Option<String> {
        let Layout { devices_at, device_size, devices, .. } = *self.layout;
        let offset = address.checked_sub(devices_at)?;
        let index = offset.checked_div(device_size)?;
        (offset % device_size == 0 && index < devices).then(|| format!("dmirror{index}"))
    }

    /// The device of the mirror at an address, if its own subscription is there.
    fn mirror(&self, address: u64) -> Option<String> {
        let Layout { device_of_mirror, device_of_snapshot: (_, device), .. } = *self.layout;
        let own = address.wrapping_add_signed(device.wrapping_sub(device_of_mirror));
        self.subscriptions.get(&own).map(|mirror| mirror.whose.clone())
    }

    pub(super) fn mm(&mut self, address: u64) -> String {
        self.mms.name(address)
    }

    /// An address space is torn down: its last events come, and then its address
    /// is free for another.
    pub(super) fn released(&mut self, address: u64) {
        // Only what has a name, of which there is an end.
        if self.mms.knows(address) {
            self.released.insert(address);
        }
    }

    pub(super) fn range(&mut self, address: u64) -> String {
        self.ranges.name(address)
    }

    /// Names a subscription to an address space that goes to the kernel, by its
    /// device: the one that it leads to, or the one of the mirror that it leads to.
    pub(super) fn inserted(
        &mut self,
        address: u64,
        mm: u64,
        (device, mirror): (Option<u64>, Option<u64>),
    ) -> String {
        if self.released.remove(&mm) {
            self.mms.forget(mm);
        }
        let device = device.and_then(|device| self.known_device(device));
        let mirror = mirror.and_then(|mirror| self.mirror(mirror));
        let whose = match (device, mirror) {
            (Some(device), _) => device,
            (None, Some(mirror)) => format!("{mirror}.snapshot"),
            (None, None) => "other".into(),
        };
        self.subscriptions.remove(&address);
        if self.subscriptions.len() >= MOST_SUBSCRIPTIONS {
            self.full.get_or_insert("subscriptions");
            return whose;
        }
        let same = self.subscriptions.values().filter(|other| other.whose == whose);
        let taken: BTreeSet<usize> = same.map(|other| other.number).collect();
        let free = (0..).zip(&taken).take_while(|(n, taken)| n == *taken).count();
        let named = Named { whose, number: free };
        let name = named.name();
        self.subscriptions.insert(address, named);
        name
    }

    pub(super) fn subscription(&self, address: u64) -> String {
        self.subscriptions.get(&address).map_or_else(|| "unknown".into(), Named::name)
    }

    /// A subscription is out of the kernel's hands.
    pub(super) fn removed(&mut self, name: Option<&str>) {
        self.subscriptions.retain(|_, own| Some(own.name().as_str()) != name);
    }

    /// A thread begins a call about a subscription.
    pub(super) fn enter(&mut self, tid: u32, sub: Option<String>) {
        if self.calls.len() >= MOST && !self.calls.contains_key(&tid) {
            self.full.get_or_insert("threads");
            return;
        }
        let calls = self.calls.entry(tid).or_default();
        // Where the kernel refuses the probe of an end, the oldest are over.
        if calls.len() == DEEPEST {
            calls.remove(0);
        }
        calls.push(sub);
    }

    /// It ends the innermost.
    pub(super) fn leave(&mut self, tid: u32) -> Option<String> {
        self.calls.get_mut(&tid)?.pop()?
    }
}

/// Addresses that get numbers, in their order.
struct Numbered {
    prefix: &'static str,
    what: &'static str,
    names: BTreeMap<u64, String>,
    given: usize,
    full: bool,
}

impl Numbered {
    fn new(prefix: &'static str, what: &'static str) -> Self {
        Numbered { prefix, what, names: BTreeMap::new(), given: 0, full: false }
    }

    /// What these are, if there were too many.
    fn full(&self) -> Option<&'static str> {
        self.full.then_some(self.what)
    }

    /// The name of an address; the next one, if it has none.
    fn name(&mut self, address: u64) -> String {
        if let Some(name) = self.names.get(&address) {
            return name.clone();
        }
        if self.given >= MOST {
            self.full = true;
            return format!("{}?", self.prefix);
        }
        let name = format!("{}{}", self.prefix, self.given);
        self.given += 1;
        self.names.insert(address, name.clone());
        name
    }

    fn knows(&self, address: u64) -> bool {
        self.names.contains_key(&address)
    }

    /// What comes to this address is something else.
    fn forget(&mut self, address: u64) {
        self.names.remove(&address);
    }
}
