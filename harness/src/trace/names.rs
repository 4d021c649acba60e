//! Names for the numbers of a trace: address spaces, range objects,
//! subscriptions, devices, threads.
//!
//! A name is given at first sight and in order, so the same events get the same
//! names each time. Devices are known by their addresses, from the kernel's
//! symbols, and never from the events that are judged by them.

use std::collections::HashMap;

use crate::layout::Layout;

/// How many things of a kind can have names. An honest test has some dozens.
const MOST: usize = 1 << 12;

/// Events that nobody sends on somebody's behalf: in a kernel that has such a
/// field it is left as it was in memory, or set to NULL for all.
const OWNERLESS: [&str; 6] =
    ["UNMAP", "CLEAR", "PROTECTION_VMA", "PROTECTION_PAGE", "SOFT_DIRTY", "RELEASE"];

/// The names that were given.
pub(super) struct Names<'a> {
    layout: &'a Layout,
    mms: HashMap<u64, usize>,
    ranges: HashMap<u64, usize>,
    /// Those that are in the kernel's hands, by address.
    subscriptions: HashMap<u64, String>,
    threads: HashMap<u32, (u32, String)>,
    /// Which subscription's call each thread is in, innermost last.
    calls: HashMap<u32, Vec<Option<String>>>,
    full: Option<&'static str>,
}

impl<'a> Names<'a> {
    pub(super) fn new(layout: &'a Layout) -> Self {
        Names {
            layout,
            mms: HashMap::new(),
            ranges: HashMap::new(),
            subscriptions: HashMap::new(),
            threads: HashMap::new(),
            calls: HashMap::new(),
            full: None,
        }
    }

    /// What there was too much of to be named, if anything.
    pub(super) fn overflow(&self) -> Option<String> {
        self.full.map(|what| format!("more {what} than a test can have"))
    }

    /// Whether there is room for another.
    fn room(&mut self, len: usize, what: &'static str) -> bool {
        if len >= MOST {
            self.full.get_or_insert(what);
        }
        len < MOST
    }

    pub(super) fn introduce(&mut self, tid: u32, tgid: u32, role: String) {
        if self.room(self.threads.len(), "threads") {
            self.threads.insert(tid, (tgid, role));
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

    pub(super) fn mm(&mut self, address: u64) -> String {
        numbered(&mut self.mms, address, "mm", "address spaces", &mut self.full)
    }

    pub(super) fn range(&mut self, address: u64) -> String {
        numbered(&mut self.ranges, address, "r", "range objects", &mut self.full)
    }

    /// Names a subscription that goes to the kernel, by its device: that of a
    /// mirror, or that of a snapshot.
    pub(super) fn inserted(
        &mut self,
        address: u64,
        (mirror, snapshot): (Option<u64>, Option<u64>),
    ) -> String {
        let known = |value: Option<u64>| value.and_then(|value| self.known_device(value));
        let whose = match (known(mirror), known(snapshot)) {
            (Some(device), _) => device,
            (None, Some(device)) => format!("{device}.snapshot"),
            (None, None) => "other".into(),
        };
        if !self.room(self.subscriptions.len(), "subscriptions") {
            return whose;
        }
        self.subscriptions.remove(&address);
        let taken = |name: &String| self.subscriptions.values().any(|other| other == name);
        let numbered = (1..).map(|n| format!("{whose}.{n}"));
        let name = std::iter::once(whose.clone()).chain(numbered).find(|name| !taken(name));
        let name = name.expect("there is no end of numbers");
        self.subscriptions.insert(address, name.clone());
        name
    }

    pub(super) fn subscription(&self, address: u64) -> String {
        self.subscriptions.get(&address).cloned().unwrap_or_else(|| "unknown".into())
    }

    /// A subscription is out of the kernel's hands.
    pub(super) fn removed(&mut self, name: Option<&str>) {
        self.subscriptions.retain(|_, own| Some(own.as_str()) != name);
    }

    /// A thread begins a call about a subscription.
    pub(super) fn enter(&mut self, tid: u32, sub: Option<String>) {
        if self.room(self.calls.len(), "threads") {
            let calls = self.calls.entry(tid).or_default();
            if calls.len() < 64 {
                calls.push(sub);
            }
        }
    }

    /// It ends the innermost.
    pub(super) fn leave(&mut self, tid: u32) -> Option<String> {
        self.calls.get_mut(&tid)?.pop()?
    }
}

/// The number that an address has, after `prefix`; the next one, if it is new.
fn numbered(
    known: &mut HashMap<u64, usize>,
    address: u64,
    prefix: &str,
    what: &'static str,
    full: &mut Option<&'static str>,
) -> String {
    let next = known.len();
    if next >= MOST && !known.contains_key(&address) {
        full.get_or_insert(what);
        return format!("{prefix}?");
    }
    format!("{prefix}{}", known.entry(address).or_insert(next))
}
