//! Machines whose traces do not arrive as they were sent.

use std::collections::BTreeMap;

use hmm_harness::results::Check;
use hmm_harness::results::Verdict::{Crashed, Failed, Passed};
use hmm_protocol::trace::{Capture, Marker, Step, TraceReady};
use hmm_protocol::wire::{GuestMessage, Health, Outcome};

use super::qemu::{Act, At, ChunkOf, begins, ends, prepared};
use super::story::{A, B, C, Story, TESTS, Told};

/// Markers, as tracefs describes them (events/ftrace/print/format).
const PRINT: &str = "name: print\nID: 5\nformat:\n\
    \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
    \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
    \tfield:unsigned long ip;\toffset:8;\tsize:8;\tsigned:0;\n\
    \tfield:char buf[];\toffset:16;\tsize:0;\tsigned:0;\n";

/// A guest that can trace.
pub(crate) fn attached() -> GuestMessage {
    let formats = BTreeMap::from([("print".to_owned(), PRINT.to_owned())]);
    GuestMessage::Attached {
        settings: Default::default(),
        devices: vec!["hmm_dmirror0".into()],
        tests: TESTS.iter().map(|id| id.replace(".private", "")).collect(),
        trace: Some(TraceReady { formats, ..TraceReady::default() }),
    }
}

/// A test that passes, with what comes through the trace port meanwhile and what
/// is said of it in the end.
pub(crate) fn traced(
    id: &str,
    capture: Capture,
    meanwhile: impl IntoIterator<Item = Act>,
) -> Vec<Act> {
    let finished = GuestMessage::Finished {
        id: id.into(),
        outcome: Outcome::Passed,
        duration_us: 1500,
        health: Health::default(),
        capture: Some(capture),
    };
    begins(id).into_iter().chain(meanwhile).chain(ends(id, finished)).collect()
}

/// A page of the ring buffer with one step in it.
fn page(op: &str) -> Vec<u8> {
    let marker = Marker::Step(Step::new(op));
    let mut record = vec![0; 16];
    record[0] = 5;
    record.extend(serde_json::to_vec(&marker).unwrap());
    record.push(0);
    record.resize(record.len().next_multiple_of(4), 0);
    let mut events = 0u32.to_le_bytes().to_vec();
    events.extend(u32::try_from(record.len() + 4).unwrap().to_le_bytes());
    events.extend(record);
    let mut page = 1u64.to_le_bytes().to_vec();
    page.extend((events.len() as u64).to_le_bytes());
    page.extend(events);
    page
}

fn chunk(run: u32, seq: u64) -> Act {
    Act::Trace(ChunkOf { run, seq, forged: false }, page("walk"), None)
}

fn of(chunks: u64) -> Capture {
    Capture { chunks, kept: chunks, ..Capture::default() }
}

#[tokio::test]
async fn a_trace_that_is_whole_is_good() {
    let told = Story::new()
        .first(At::Run(A.into()), traced(A, of(2), [chunk(1, 0), chunk(1, 1)]))
        .traced()
        .told()
        .await;
    let told = told.exits(0).verdicts([Passed; 3]).machines(1).notes(&[]);
    assert_eq!(told.test(A).checks.trace, Check::Ok);
    assert!(told.test(A).trace.complete);
    let rows = told.file(&format!("trace/{A}.jsonl")).unwrap();
    assert_eq!(rows.matches("walk").count(), 2);
}

/// The test fails for its trace alone, for this reason, and the others pass.
async fn is_incomplete(capture: Capture, meanwhile: Vec<Act>, why: &str) -> Told {
    let told = Story::new()
        .first(At::Run(A.into()), traced(A, capture, meanwhile))
        .traced()
        .hurried(0.1)
        .told()
        .await;
    let told = told.exits(1).verdicts([Failed, Passed, Passed]);
    let told = told.because(A, &format!("its trace is incomplete: {why}"));
    assert_eq!(told.test(A).checks.data, Check::Ok);
    assert_eq!(told.test(A).checks.trace, Check::Bad);
    assert!(!told.test(A).trace.complete);
    let canonical = told.file(&format!("trace/{A}.canonical"));
    assert_eq!(canonical, None, "half a trace has no canonical form");
    told
}

#[tokio::test]
async fn a_chunk_that_never_comes_makes_a_trace_incomplete() {
    is_incomplete(of(2), vec![chunk(1, 0)], "1 of 2 chunks arrived").await;
}

#[tokio::test]
async fn a_chunk_that_is_cut_off_makes_a_trace_incomplete() {
    let cut = Act::Trace(ChunkOf { run: 1, seq: 1, forged: false }, page("walk"), Some(40));
    is_incomplete(of(2), vec![chunk(1, 0), cut], "1 of 2 chunks arrived").await;
}

#[tokio::test]
async fn chunks_in_another_order_make_a_trace_incomplete() {
    let swapped = vec![chunk(1, 1), chunk(1, 0)];
    is_incomplete(of(2), swapped, "chunk 1 came where chunk 0 was due").await;
}

#[tokio::test]
async fn a_chunk_of_another_start_is_not_believed() {
    let forged = Act::Trace(ChunkOf { run: 1, seq: 1, forged: true }, page("walk"), None);
    let told = is_incomplete(of(2), vec![chunk(1, 0), forged], "1 of 2 chunks arrived").await;
    // From that port nobody believes anything any more.
    let told = told.machines(2);
    assert_eq!([B, C].map(|id| told.test(id).checks.trace), [Check::Ok; 2]);
}

#[tokio::test]
async fn a_chunk_of_another_test_is_not_believed() {
    is_incomplete(of(1), vec![chunk(2, 0)], "0 of 1 chunks arrived").await;
}

#[tokio::test]
async fn a_chunk_without_end_is_not_waited_for() {
    let endless = Act::Trace(ChunkOf { run: 1, seq: 0, forged: false }, vec![7; 1 << 20], None);
    is_incomplete(of(1), vec![endless], "0 of 1 chunks arrived").await;
}

#[tokio::test]
async fn events_that_found_no_room_make_a_trace_incomplete() {
    let capture = Capture { lost: 3, ..of(1) };
    is_incomplete(capture, vec![chunk(1, 0)], "3 events found no room").await;
}

#[tokio::test]
async fn probes_that_could_not_run_make_a_trace_incomplete() {
    let capture = Capture { missed: 2, ..of(1) };
    is_incomplete(capture, vec![chunk(1, 0)], "probes could not run 2 times").await;
}

#[tokio::test]
async fn events_that_the_probes_saw_and_nobody_else_make_a_trace_incomplete() {
    let capture = Capture { hits: 5, ..of(1) };
    is_incomplete(capture, vec![chunk(1, 0)], "0 events of 5 that the probes saw").await;
}

#[tokio::test]
async fn events_that_were_captured_and_did_not_come_make_a_trace_incomplete() {
    let capture = Capture { kept: 2, ..of(1) };
    is_incomplete(capture, vec![chunk(1, 0)], "1 events of 2 that were captured").await;
}

#[tokio::test]
async fn an_agent_that_cannot_read_its_counters_makes_a_trace_incomplete() {
    let capture = Capture { trouble: Some("stats: no such file".into()), ..of(1) };
    is_incomplete(capture, vec![chunk(1, 0)], "stats: no such file").await;
}

#[tokio::test]
async fn a_test_that_takes_its_machine_with_it_keeps_its_trace() {
    let acts = begins(A).into_iter().chain([chunk(1, 0), Act::End("guest-panic".into())]);
    let told = Story::new().first(At::Run(A.into()), acts).traced().told().await;
    let told = told.exits(1).verdicts([Crashed, Passed, Passed]).machines(2);
    let rows = told.file(&format!("trace/{A}.jsonl")).unwrap();
    assert_eq!(rows.matches("walk").count(), 1);
}

#[tokio::test]
async fn a_guest_that_cannot_trace_is_judged_without() {
    let ready = TraceReady { unavailable: Some("no tracefs".into()), ..TraceReady::default() };
    let GuestMessage::Attached { settings, devices, tests, .. } = attached() else {
        unreachable!("it is one")
    };
    let attached = GuestMessage::Attached { settings, devices, tests, trace: Some(ready) };
    let told = Story::new().always(At::Attach, [Act::Say(attached)]).told().await;
    let told = told.exits(0).verdicts([Passed; 3]);
    for id in [A, B, C] {
        assert_eq!(told.test(id).checks.trace, Check::None);
    }
    assert_eq!(told.results.machine.settings["trace"], "unavailable: no tracefs");
}

#[tokio::test]
async fn a_test_that_is_had_again_leaves_its_last_trace() {
    let died = begins(B).into_iter().chain([chunk(2, 0), Act::Exit(1)]);
    let story = Story::new().first(At::Run(B.into()), died);
    let told = story.turn(1, At::Run(B.into()), traced(B, of(0), [])).traced().told().await;
    let told = told.exits(0).verdicts([Passed; 3]).machines(2).attempts(B, 2);
    assert_eq!(told.file(&format!("trace/{B}.jsonl")).as_deref(), Some(""));
}

#[tokio::test]
async fn a_guest_that_cannot_trace_is_not_saved() {
    let cannot = [Act::Say(prepared(Some("no port")))];
    let told = Story::new().with_snapshots().always(At::Prepare, cannot).traced().told().await;
    let why = "no guest is saved, so each VM boots: nothing can be traced: no port";
    let told = told.exits(0).verdicts([Passed; 3]).notes(&[why]);
    assert_eq!(told.restored(), [false, false]);
}

#[tokio::test]
async fn traces_that_are_demanded_are_no_judgement_where_there_are_none() {
    let told = Story::new().traces_demanded().told().await;
    told.exits(125).says("--trace on, and nothing can be traced: the guest says nothing of it");
}
