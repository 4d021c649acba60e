//! Asks where the notifier's facts lie in the memory of a kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _};

use super::{Answer, Question, Silence, ask, body, without_comments};
use crate::context::Context;
use crate::layout::{Known, Layout};
use crate::stop::Stop;

/// `struct mmu_notifier_range` and `enum mmu_notifier_event`.
const NOTIFIER: &str = "include/linux/mmu_notifier.h";
/// `struct migrate_vma`.
pub(crate) const MIGRATE: &str = "include/linux/migrate.h";
/// The driver.
const DRIVER: &str = "lib/test_hmm.c";

/// What comes before every event's name.
const EVENT: &str = "MMU_NOTIFY_";

/// The driver's devices: an array of `struct dmirror_device` (lib/test_hmm.c).
const DEVICES: &str = "dmirror_devices";

/// Reads the layout from a source directory and the build directory in which it
/// was just built.
///
/// # Errors
/// [`Stop`] when something else than the tree is wrong.
pub(crate) async fn read(ctx: &Context, src: &Path, obj: &Path) -> Result<Known, Stop> {
    let text = |file: &str| {
        let bytes = fs::read(src.join(file)).unwrap_or_default();
        without_comments(&String::from_utf8_lossy(&bytes))
    };
    let (notifier, migrate) = (text(NOTIFIER), text(MIGRATE));
    let questions = match questions(&notifier, &migrate) {
        Ok(questions) => questions,
        Err(why) => return Ok(Known::Not(why)),
    };
    let includes = format!("#include \"{}\"\n", src.join(DRIVER).display());
    let answers = match ask(ctx, obj, &includes, &questions).await {
        Ok(answers) => answers,
        Err(Silence::Stop(stop)) => return Err(stop),
        Err(Silence::Tree(lines)) => {
            let first = lines.first().map_or("the compiler says nothing", String::as_str);
            return Ok(Known::Not(format!("the notifier's layout cannot be read: {first}")));
        }
    };
    let mut layout = values(answers);
    layout.owner_is_set = owner_is_set(&notifier);
    let vmlinux = fs::read(obj.join("vmlinux")).context("the kernel that was just built")?;
    Ok(match devices_at(&vmlinux) {
        Some(address) => {
            layout.devices_at = address;
            Known::Is(layout)
        }
        None => Known::Not(format!("the kernel has no symbol {DEVICES}")),
    })
}

/// What is asked, from the texts of the two headers.
fn questions(notifier: &str, migrate: &str) -> Result<Vec<Question>, String> {
    const RANGE: &str = "mmu_notifier_range";
    const ARGS: &str = "migrate_vma";
    let lacks = |what: &str| format!("the notifier's layout cannot be read: there is no {what}");
    let offset = |kind: &'static str, of: &str, name: &str, member: &str| {
        Question::new(kind, name, format!("offsetof(struct {of}, {member})"))
    };
    let events = body(notifier, "mmu_notifier_event").ok_or_else(|| lacks("event"))?;
    let mut questions: Vec<Question> = events
        .split(',')
        .filter_map(|enumerator| enumerator.split('=').next()?.trim().strip_prefix(EVENT))
        .map(|name| Question::new("event", name, format!("{EVENT}{name}")))
        .collect();
    let range = body(notifier, RANGE).ok_or_else(|| lacks("struct mmu_notifier_range"))?;
    for member in ["mm", "start", "end", "flags", "event"] {
        questions.push(offset("range", RANGE, member, member));
    }
    if let Some(owner) = owner(range) {
        questions.push(offset("range", RANGE, "owner", owner));
    }
    let args = body(migrate, ARGS).ok_or_else(|| lacks("struct migrate_vma"))?;
    for member in ["start", "end"] {
        questions.push(offset("migrate", ARGS, member, member));
    }
    if let Some(owner) = owner(args) {
        questions.push(offset("migrate", ARGS, "owner", owner));
    }
    questions.extend([
        Question::new("one", "blockable", "MMU_NOTIFIER_RANGE_BLOCKABLE"),
        Question::new("one", "fault_address", "offsetof(struct vm_fault, address)"),
        Question::new(
            "one",
            "device_of_mirror",
            "offsetof(struct dmirror, mdevice) - offsetof(struct dmirror, notifier)",
        ),
        Question::new(
            "one",
            "mirror_of_snapshot",
            "offsetof(struct dmirror_interval, dmirror) - \
             offsetof(struct dmirror_interval, notifier)",
        ),
        Question::new("one", "device_in_mirror", "offsetof(struct dmirror, mdevice)"),
        Question::new("one", "device_size", "sizeof(dmirror_devices[0])"),
        Question::new("one", "devices", "sizeof(dmirror_devices) / sizeof(dmirror_devices[0])"),
    ]);
    Ok(questions)
}

/// The member that says on whose behalf something is done: `src_owner`,
/// `pgmap_owner`, `migrate_pgmap_owner`, `owner`, as versions and series have
/// called it. It is a pointer that is called so, or else one to nothing in
/// particular.
fn owner(body: &str) -> Option<&str> {
    let members =
        || body.split([';', '{', '}']).filter_map(|member| member.trim().rsplit_once('*'));
    let called = members().find(|(_, name)| name.contains("owner"));
    let anything = || members().find(|(what, _)| what.trim() == "void");
    called.or_else(anything).map(|(_, name)| name.trim())
}

/// Whether the function that begins every range sets its owner.
fn owner_is_set(notifier: &str) -> bool {
    let owner = body(notifier, "mmu_notifier_range").and_then(owner);
    let init = notifier
        .split("void mmu_notifier_range_init(")
        .skip(1)
        .find_map(|rest| rest.split_once('{')?.1.split_once('}'));
    owner.zip(init).is_some_and(|(owner, (init, _))| init.contains(&format!("->{owner}")))
}

/// What `struct migrate_vma` calls its owner, from the text of its header.
pub(crate) fn owner_in_migrate_vma(header: &str) -> Option<String> {
    let text = without_comments(header);
    body(&text, "migrate_vma").and_then(owner).map(str::to_owned)
}

fn values(answers: Vec<Answer>) -> Layout {
    let mut layout = Layout::default();
    let mut ones = BTreeMap::new();
    for Answer { kind, name, value } in answers {
        match kind.as_str() {
            "event" => drop(layout.events.insert(name, value)),
            "range" => drop(layout.range.insert(name, value)),
            "migrate" => drop(layout.migrate.insert(name, value)),
            _ => drop(ones.insert(name, value)),
        }
    }
    let one = |name: &str| ones.get(name).copied().unwrap_or_default();
    layout.blockable = one("blockable");
    layout.fault_address = one("fault_address");
    layout.device_of_mirror = one("device_of_mirror").cast_signed();
    layout.device_of_snapshot =
        (one("mirror_of_snapshot").cast_signed(), one("device_in_mirror").cast_signed());
    layout.device_size = one("device_size");
    layout.devices = one("devices");
    layout
}

/// The address of the driver's devices, which is that of the running kernel: its
/// addresses are not randomised.
fn devices_at(vmlinux: &[u8]) -> Option<u64> {
    let file = ElfFile64::<object::Endianness>::parse(vmlinux).ok()?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(DEVICES))?;
    Some(symbol.address())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_found_whatever_it_is_called() {
        assert_eq!(owner("struct mm_struct *mm; void *owner;"), Some("owner"));
        assert_eq!(
            owner("\n\tvoid *data;\n\tvoid *migrate_pgmap_owner;\n"),
            Some("migrate_pgmap_owner")
        );
        assert_eq!(owner("unsigned long start; void *whose;"), Some("whose"));
        assert_eq!(owner("void *data; const struct dev_pagemap *owner;"), Some("owner"));
        assert_eq!(owner("int a; union { long b; void *owner; };"), Some("owner"));
        assert_eq!(owner("unsigned long start; struct page *page;"), None);
    }

    #[test]
    fn an_owner_that_every_range_begins_with_is_told() {
        let range = "struct mmu_notifier_range { void *owner; };\n";
        let init = |more: &str| {
            format!(
                "{range}static inline void mmu_notifier_range_init(struct mmu_notifier_range *range)\n\
                     {{ range->event = event; {more} }}\n"
            )
        };
        assert!(owner_is_set(&init("range->owner = NULL;")));
        assert!(!owner_is_set(&init("")));
        assert!(!owner_is_set(range));
    }

    #[test]
    fn every_event_and_member_is_asked_about() {
        let notifier = "enum mmu_notifier_event {\n MMU_NOTIFY_UNMAP = 0,\n MMU_NOTIFY_CLEAR,\n};\n\
            struct mmu_notifier_range { struct mm_struct *mm; unsigned long start; void *whose; };";
        let migrate = "struct migrate_vma { unsigned long *src; void *pgmap_owner; };";
        let asked = questions(notifier, migrate).expect("they are there");
        for question in [
            Question::new("event", "CLEAR", "MMU_NOTIFY_CLEAR"),
            Question::new("range", "owner", "offsetof(struct mmu_notifier_range, whose)"),
            Question::new("migrate", "owner", "offsetof(struct migrate_vma, pgmap_owner)"),
        ] {
            assert!(asked.contains(&question), "{question:?}");
        }
        assert!(questions("", migrate).is_err_and(|why| why.contains("event")));
    }
}
