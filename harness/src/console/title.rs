//! Titles: what happened and where, in words that are the same in every run.

use std::sync::LazyLock;

use regex::Regex;

use super::signatures::Signature;

/// The longest title, in characters.
const LONGEST: usize = 200;

/// The title of a report that began with the message `header`. `hint` is the
/// function that the report says it is about, where it does; `frames` is its
/// call trace.
pub(super) fn title(
    signature: &Signature,
    header: &str,
    hint: Option<&str>,
    frames: &[String],
) -> String {
    let header: String = header.chars().filter(|c| !c.is_control()).collect();
    let mut title = String::new();
    let mut at = None;
    let mut function = None;
    if let Some(captures) = signature.pattern.captures(&header) {
        let names = signature.pattern.capture_names().skip(1);
        for (name, group) in names.zip(captures.iter().skip(1)) {
            match (name, group) {
                (_, None) => {}
                (Some("at"), Some(group)) => at = Some(group.as_str()),
                (Some("f"), Some(group)) => function = Some(group.as_str()),
                (_, Some(group)) => title.push_str(group.as_str()),
            }
        }
    }
    if title.is_empty() {
        title.push_str(&header);
    }
    if let Some(address) = ADDRESS.find(&title) {
        title.truncate(address.start());
    }
    let end = title.trim_end_matches(|c: char| " (:,;=-!".contains(c)).len();
    title.truncate(end);
    if let Some(at) = at {
        title.push_str(" at ");
        title.push_str(in_the_tree(at));
    }
    let own = function.filter(|f| !is_helper(f));
    let blamed = own.or(hint).or_else(|| blamed(frames)).or(function);
    if let Some(blamed) = blamed {
        title.push_str(" in ");
        title.push_str(blamed);
    }
    let title = OFFSET.replace_all(&title, "");
    COMPILED.replace_all(&title, "").chars().take(LONGEST).collect()
}

/// A title without the line of its place, where it names the function besides: an edit
/// above it is another line.
pub fn without_line(title: &str) -> String {
    LINE.replace(title, "$place in ").into_owned()
}

/// A place in the sources, without the directory that they happened to be in.
fn in_the_tree(place: &str) -> &str {
    const TOP: [&str; 19] = [
        "arch", "block", "certs", "crypto", "drivers", "fs", "include", "init", "io_uring", "ipc",
        "kernel", "lib", "mm", "net", "rust", "samples", "security", "sound", "virt",
    ];
    if !place.starts_with('/') {
        return place;
    }
    if let Some((_, inside)) = place.rsplit_once("/src/") {
        return inside;
    }
    let mut inside = place;
    while let Some((_, deeper)) = inside.split_once('/') {
        inside = deeper;
        if inside.split_once('/').is_some_and(|(first, _)| TOP.contains(&first)) {
            return inside;
        }
    }
    place
}

/// The innermost function of a call trace that can be to blame.
fn blamed(frames: &[String]) -> Option<&str> {
    frames
        .iter()
        .map(|frame| frame.split_once('+').map_or(frame.as_str(), |(name, _)| name))
        .find(|name| !is_helper(name))
}

/// Whether a function is never the one to blame (`helpers.txt`).
fn is_helper(function: &str) -> bool {
    static HELPERS: LazyLock<Regex> = LazyLock::new(|| {
        let rows = include_str!("helpers.txt").lines();
        let rows: Vec<&str> = rows.filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
        Regex::new(&format!("^(?:{})$", rows.join("|"))).expect("helpers.txt, checked by a test")
    });
    HELPERS.is_match(&COMPILED.replace_all(function, ""))
}

/// An address, as itself or hashed, or another number of that size.
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b0x[0-9a-f]{9,}\b|\b[0-9a-f]{12,16}\b|\((?:____)?ptrval(?:____)?\)")
        .expect("a pattern")
});

/// The offset in a function, and the function's size.
static OFFSET: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?").expect("a pattern"));

/// The line, and the column, of a place that a function follows.
static LINE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?<place> at \S+?):\d+(?::\d+)? in ").expect("a pattern"));

/// What compilers add to the names of functions that they took apart; another
/// compiler or one more caller makes it another name.
static COMPILED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)*\b").expect("a pattern")
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::signatures::matching;

    #[test]
    fn titles_name_the_function_and_nothing_that_changes() {
        let check = |header: &str, frames: &[&str], expect: &str| {
            let signature = matching(header).expect(header);
            let frames: Vec<String> = frames.iter().map(|f| (*f).to_owned()).collect();
            assert_eq!(title(signature, header, None, &frames), expect);
        };
        let trace =
            ["dump_stack_lvl+0x1/0x2", "dmirror_do_read.isra.0+0x3/0x4", "vfs_ioctl+0x5/0x6"];
        check(
            "BUG: KASAN: slab-use-after-free in dmirror_do_read.isra.0+0x1a/0x2b0",
            &[],
            "BUG: KASAN: slab-use-after-free in dmirror_do_read",
        );
        check(
            "BUG: KASAN: slab-out-of-bounds in memcpy+0x1/0x2",
            &trace,
            "BUG: KASAN: slab-out-of-bounds in dmirror_do_read",
        );
        check(
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            &trace,
            "BUG: kernel NULL pointer dereference in dmirror_do_read",
        );
        check(
            "BUG: unable to handle page fault for address: ffffc90000000000",
            &[],
            "BUG: unable to handle page fault",
        );
        check(
            "Oops: general protection fault, probably for non-canonical address 0xdffffc0000000001: 0000 [#1] PREEMPT SMP",
            &trace,
            "general protection fault in dmirror_do_read",
        );
        check(
            "kernel BUG at mm/migrate_device.c:42!",
            &trace,
            "kernel BUG at mm/migrate_device.c:42 in dmirror_do_read",
        );
        for warning in [
            "WARNING: CPU: 1 PID: 59 at lib/test_hmm.c:1363 dmirror_fops_unlocked_ioctl+0x106/0x4c0",
            "WARNING: lib/test_hmm.c:1363 at dmirror_fops_unlocked_ioctl+0x106/0x4c0, CPU#1: hmm-tests/59",
        ] {
            let expect = "WARNING at lib/test_hmm.c:1363 in dmirror_fops_unlocked_ioctl";
            check(warning, &trace, expect);
        }
        check(
            "list_del corruption, ffff888004a5f3c8->next is LIST_POISON1 (dead000000000100)",
            &["__list_del_entry_valid_or_report+0x1/0x2", "dmirror_do_read+0x3/0x4"],
            "list_del corruption in dmirror_do_read",
        );
        check(
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [hmm-tests:80]",
            &["delay_tsc+0x1/0x2", "dmirror_do_read+0x3/0x4"],
            "BUG: soft lockup in dmirror_do_read",
        );
        check(
            "INFO: task hmm-tests:77 blocked for more than 20 seconds.",
            &["__schedule+0x1/0x2", "schedule+0x1/0x2", "migrate_vma_setup+0x1/0x2"],
            "INFO: task hmm-tests blocked in migrate_vma_setup",
        );
        check(
            "BUG: Bad rss-counter state mm:00000000c0ffee00 type:MM_ANONPAGES val:1",
            &[],
            "BUG: Bad rss-counter state type:MM_ANONPAGES",
        );
        check(
            "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
            &["panic+0x1/0x2", "do_exit+0x1/0x2", "do_syscall_64+0x1/0x2"],
            "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
        );
        for dir in ["/build/linux-6.12/", "/home/lib/lanes/1f/src/", "", "/"] {
            let header =
                format!("UBSAN: array-index-out-of-bounds in {dir}drivers/gpu/lib/x.c:4:9");
            let expect = "UBSAN: array-index-out-of-bounds at drivers/gpu/lib/x.c:4:9";
            check(&header, &[], expect);
        }
    }

    #[test]
    fn an_edit_above_a_place_leaves_the_title_as_it_was() {
        let check = |title: &str, expect: &str| assert_eq!(without_line(title), expect);
        check("WARNING at mm/x.c:12 in f", "WARNING at mm/x.c in f");
        check("kernel BUG at mm/x.c:4:9 in f", "kernel BUG at mm/x.c in f");
        check(
            "UBSAN: shift-out-of-bounds at mm/x.c:4:9",
            "UBSAN: shift-out-of-bounds at mm/x.c:4:9",
        );
        check("BUG: KASAN: use-after-free in f", "BUG: KASAN: use-after-free in f");
    }

    #[test]
    fn whoever_only_prints_or_enters_is_not_blamed() {
        for name in ["dump_stack_lvl", "entry_SYSCALL_64_after_hwframe", "kasan_report", "kfree"] {
            assert!(is_helper(name), "{name}");
        }
        for name in ["dmirror_fops_unlocked_ioctl", "migrate_vma_setup", "kernel_init", "listen"] {
            assert!(!is_helper(name), "{name}");
        }
    }
}
