//! The scanner on lines of our own making. What kernels really print is read in
//! `tests/consoles.rs`.

use proptest::prelude::*;

use super::super::Report;
use super::*;

fn scan(text: &str) -> Vec<Finding> {
    let mut scanner = Scanner::default();
    let mut found = scanner.push(text.as_bytes());
    found.extend(scanner.finish());
    found
}

fn complaints(text: &str) -> Vec<(u64, &'static str)> {
    scan(text)
        .into_iter()
        .filter_map(|f| match f.what {
            What::Complaint { signature, .. } => Some((f.line, signature.class)),
            _ => None,
        })
        .collect()
}

fn reports(text: &str) -> Vec<(Finding, Report)> {
    scan(text)
        .into_iter()
        .filter_map(|f| match &f.what {
            What::Report(report) => Some((f.clone(), report.clone())),
            _ => None,
        })
        .collect()
}

const OOPS: &str = "\
[    4.400000][   T99] noise
[    4.500000][   T99] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    4.500001][   T99] #PF: supervisor read access in kernel mode
[    4.500002][   T99] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
[    4.500003][   T99] CPU: 1 UID: 0 PID: 99 Comm: hmm tests Not tainted 6.12.117 #1
[    4.500004][   T99] RIP: 0010:__list_del_entry_valid_or_report+0x3/0x40
[    4.500005][   T99] Call Trace:
[    4.500006][   T99]  <TASK>
[    4.500007][   T99]  ? page_fault_oops+0x1/0x2
[    4.500008][   T99]  dmirror_f.isra.0+0x10/0x20 [test_hmm]
[    4.500009][   T99] RIP: 0033:0x7ffff7fbd79b
[    4.500010][   T99]  </TASK>
[    4.500011][   T99] ---[ end trace 0000000000000000 ]---
";

#[test]
fn one_report_is_one_complaint() {
    assert_eq!(complaints(OOPS), [(2, "oops")]);
    assert_eq!(complaints(&format!("{OOPS}{OOPS}")), [(2, "oops"), (15, "oops")]);
    // The panic that an oops leads to is the same crash.
    let fatal =
        format!("{OOPS}[    4.600000][   T99] Kernel panic - not syncing: Fatal exception\n");
    assert_eq!(complaints(&fatal), [(2, "oops")]);
}

#[test]
fn a_report_says_whom_it_is_about_and_where() {
    let found = reports(OOPS);
    let [(finding, report)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(finding.lines(), 2..=13);
    assert_eq!(report.title, "BUG: kernel NULL pointer dereference in dmirror_f");
    assert_eq!((report.pid, report.comm.as_deref()), (Some(99), Some("hmm tests")));
    assert_eq!(
        report.frames,
        ["__list_del_entry_valid_or_report+0x3/0x40", "dmirror_f.isra.0+0x10/0x20"]
    );
}

#[test]
fn a_report_is_told_at_once_and_again_when_it_is_whole() {
    let mut scanner = Scanner::default();
    let (first, rest) = OOPS.split_at(OOPS.find("#PF").unwrap());
    assert_eq!(scanner.push(first.as_bytes()).len(), 1);
    assert!(scanner.in_report());
    let rest = scanner.push(rest.as_bytes());
    assert!(matches!(rest[..], [Finding { line: 2, what: What::Report(_) }]), "{rest:?}");
    assert!(!scanner.in_report());
    // One that breaks off is told at the end.
    scanner.push(first.as_bytes());
    assert_eq!(scanner.finish().len(), 1);
}

#[test]
fn two_reports_at_a_time_are_told_apart_by_who_prints_them() {
    let mut lines: Vec<String> = OOPS.lines().map(str::to_owned).collect();
    let other: Vec<String> = OOPS.lines().map(|line| line.replace("99", "77")).collect();
    let at = lines.len() / 2;
    lines.splice(at..at, other);
    let found = reports(&lines.join("\r\n"));
    let pids: Vec<_> = found.iter().map(|(f, report)| (f.lines(), report.pid)).collect();
    assert_eq!(pids, [(8..=19, Some(77)), (2..=26, Some(99))]);
}

#[test]
fn a_warning_that_becomes_a_panic_is_two() {
    let text = "\
WARNING: CPU: 1 PID: 2 at mm/x.c:1 f+0x1/0x2
Call Trace:
 f+0x1/0x2
Kernel panic - not syncing: kernel: panic_on_warn set
";
    assert_eq!(complaints(text), [(1, "warn"), (4, "panic")]);
}

#[test]
fn a_message_and_the_bug_that_is_made_of_it_are_one() {
    let text = "\
[    1.000000][    T9] list_del corruption. prev->next should be ffff888004a5f3c8, but was 0000000000000000
[    1.000001][    T9] ------------[ cut here ]------------
[    1.000002][    T9] kernel BUG at lib/list_debug.c:62!
[    1.000003][    T9] Oops: invalid opcode: 0000 [#1] SMP
[    1.000004][    T9] RIP: 0010:__list_del_entry_valid_or_report+0x3/0x40
[    1.000005][    T9] Call Trace:
[    1.000006][    T9]  f+0x1/0x2
[    1.000007][    T9] ---[ end trace 0000000000000000 ]---
";
    let found = reports(text);
    let [(finding, report)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(finding.lines(), 1..=8);
    assert_eq!((report.signature.id, report.signature.severity), ("kbug", Severity::Fatal));
    assert_eq!(report.title, "list_del corruption. prev->next should be in f");
}

#[test]
fn a_report_begins_where_it_is_cut() {
    let text = "\
[    1.000000][    T9] ------------[ cut here ]------------
[    1.000001][    C0] something else
[    1.000002][    T9] the driver is not amused
[    1.000003][    T9] WARNING: CPU: 1 PID: 9 at mm/x.c:1 f+0x1/0x2
[    1.000004][    T9] ---[ end trace 0000000000000000 ]---
";
    assert_eq!(reports(text)[0].0.lines(), 1..=5);
}

#[test]
fn what_has_no_last_line_is_over_when_something_else_is_said() {
    let text = "\
[    1.000000][    T9] x invoked oom-killer: gfp_mask=0x1, order=0, oom_score_adj=0
[    1.000001][    T9] Mem-Info:
[    1.000002][    C0] something else
[    1.000003][    T9] Out of memory: Killed process 9 (x)
[    9.000003][    T9] something else
";
    let found = reports(text);
    let [(finding, report)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.lines(), report.title.as_str()), (1..=4, "x invoked oom-killer"));
}

#[test]
fn markers_are_told() {
    let found = scan(
        "[    1.000000][   T1] hmm-harness: begin hmm.migrate.private\nx\nhmm-harness: end hmm.migrate.private\n",
    );
    assert_eq!(found[0].what, What::Begin("hmm.migrate.private".into()));
    assert_eq!(found[1], Finding { line: 3, what: What::End("hmm.migrate.private".into()) });
}

#[test]
fn what_a_hostile_guest_can_make_us_keep_is_bounded() {
    let mut scanner = Scanner::default();
    let marker = format!("hmm-harness: begin {}\n", "x".repeat(5000));
    assert_eq!(scanner.push(marker.as_bytes()), []);
    let flood = "BUG: KASAN: a\n".repeat(COMPLAINTS * 2);
    let found = scanner.push(flood.as_bytes());
    let found = found.len() + scanner.finish().len();
    assert_eq!(found, COMPLAINTS * 2, "a complaint and a report each");
    scanner.push(&vec![b'x'; 1 << 20]);
    assert!(scanner.pending.capacity() <= 2 * MAX_LINE);
}

proptest! {
    #[test]
    fn findings_do_not_depend_on_the_pieces(cuts in prop::collection::vec(1usize..40, 1..50)) {
        let text = b"a\nhmm-harness: begin x\n[    1.000000] BUG: KASAN: a\n\xff\xfe\nKernel panic - not syncing: b\nhmm-harness: end x\nlast BUG: no newline".as_slice();
        let mut whole = Scanner::default();
        let mut expect = whole.push(text);
        expect.extend(whole.finish());
        let mut scanner = Scanner::default();
        let mut seen = Vec::new();
        let mut rest = text;
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            seen.extend(scanner.push(now));
            rest = later;
        }
        seen.extend(scanner.finish());
        prop_assert_eq!(seen, expect);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut scanner = Scanner::default();
        scanner.push(&bytes);
        scanner.finish();
    }
}
