//! Machines that misbehave, and what becomes of the run: the stages from the
//! run to the judge, with a script in place of QEMU.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod qemu;
mod shell;
mod story;
mod traces;

use std::fs;
use std::time::Duration;

use hmm_harness::events::VmEnd;
use hmm_harness::results::Check;
use hmm_harness::results::Verdict::{Crashed, Failed, NotRun, Passed, TimedOut};
use hmm_protocol::wire::{GuestMessage, Health, Outcome, VERSION};

use qemu::{Act, At, begins, ends, finished, hello, passed, print};
use story::{A, B, C, Story, entries};

/// The guest ends by itself.
fn resets() -> Act {
    Act::End("guest-reset".into())
}

/// QEMU tells that the guest was saved.
fn saved() -> Act {
    Act::Tell(serde_json::json!({ "event": "MIGRATION", "data": { "status": "completed" } }))
}

fn step(id: &str) -> GuestMessage {
    GuestMessage::Step { id: id.into(), text: "walks".into() }
}

// Machines that do not come up.

#[tokio::test]
async fn an_honest_machine_is_as_expected() {
    let told = Story::new().told().await;
    let told = told.exits(0).verdicts([Passed; 3]).machines(1).notes(&[]).says_nothing();
    assert_eq!(told.ends(), [&VmEnd::Done]);
}

#[tokio::test]
async fn a_qemu_that_fails_twice_is_the_machines_fault() {
    let told = Story::new().prelude("echo \"no such thing: $start\" >&2; exit 1").told().await;
    told.exits(129)
        .verdicts([NotRun; 3])
        .machines(2)
        .notes(&["QEMU ended with 1 without a word, which is forgiven once"])
        .says("QEMU ended with 1 without a word; and before that: QEMU ended with 1")
        .says("no such thing: 1");
}

#[tokio::test]
async fn a_qemu_that_fails_once_is_forgiven_and_told_of() {
    let told = Story::new().prelude("[ $start -gt 0 ] || exit 3").told().await;
    told.exits(0)
        .verdicts([Passed; 3])
        .machines(2)
        .notes(&["QEMU ended with 3 without a word, which is forgiven once"])
        .attempts(A, 1);
}

#[tokio::test]
async fn a_kernel_that_never_speaks_has_a_second_chance_and_no_third() {
    let told = Story::new().always(At::Start, [Act::Hang]).hurried(0.02).told().await;
    told.exits(125)
        .verdicts([NotRun; 3])
        .machines(2)
        .notes(&["the boot deadline of 0.4 s passed"])
        .says("the kernel does not boot: the boot deadline of 0.4 s passed");
}

#[tokio::test]
async fn a_guest_that_is_not_put_in_order_in_time_is_forgiven_once_too() {
    let told = Story::new().first(At::Prepare, [Act::Hang]).hurried(0.1).told().await;
    told.exits(0).machines(2).notes(&["the prepare deadline of 1.0 s passed"]);
}

#[tokio::test]
async fn a_second_guest_that_is_late_is_not_forgiven() {
    let told = Story::new().isolated().first(At::Attach, [Act::Hang]);
    let told = told.turn(2, At::Attach, [Act::Hang]).hurried(0.1).told().await;
    told.exits(125)
        .verdicts([Passed, NotRun, NotRun])
        .machines(3)
        .notes(&["the attach deadline of 1.0 s passed, which is forgiven once"])
        .says("the attach deadline of 1.0 s passed");
}

#[tokio::test]
async fn an_agent_of_another_version_is_not_ours() {
    let hello = GuestMessage::Hello {
        protocol: VERSION + 1,
        release: "6.12.0-fake".into(),
        boot_id: String::new(),
        uptime_us: 0,
    };
    let told = Story::new().first(At::Start, [Act::Say(hello)]).told().await;
    told.exits(129)
        .verdicts([NotRun; 3])
        .machines(1)
        .says("the guest is not ours")
        .says(&format!("protocol {}", VERSION + 1));
}

#[tokio::test]
async fn a_guest_without_a_planned_test_is_not_ours() {
    let attached = GuestMessage::Attached {
        settings: Default::default(),
        devices: Vec::new(),
        tests: vec!["hmm.migrate".into()],
        trace: None,
    };
    let told = Story::new().first(At::Attach, [Act::Say(attached)]).told().await;
    told.exits(129).machines(1).says(&format!("it has no test {B}"));
}

#[tokio::test]
async fn a_kernel_that_cannot_be_put_in_order_is_not_judged() {
    let refused =
        GuestMessage::Refused { what: "mount /dev".into(), why: "no such file system".into() };
    let told = Story::new().first(At::Prepare, [Act::Say(refused), Act::Hang]).told().await;
    told.exits(125)
        .verdicts([NotRun; 3])
        .machines(1)
        .notes(&[])
        .says("the agent could not mount /dev: no such file system");
}

#[tokio::test]
async fn an_agent_that_speaks_no_json_is_not_ours() {
    let babble = Act::Babble(b"\x00\x00\x00\x05{\"x\":".to_vec());
    let told = Story::new().first(At::Prepare, [babble]).told().await;
    told.exits(129).machines(1).says("the guest is not ours: the agent failed: not a message");
}

// Frames that are none.

#[tokio::test]
async fn a_frame_of_another_start_costs_its_test() {
    let told = Story::new().in_test(B, [Act::Forge(passed(B)), Act::Hang]).told().await;
    told.exits(1)
        .verdicts([Passed, Crashed, Passed])
        .machines(2)
        .because(B, "a frame that carries another start's nonce");
}

#[tokio::test]
async fn a_doubled_frame_costs_its_test() {
    let story = Story::new().in_test(A, [Act::Say(step(A)), Act::Double, Act::Say(passed(A))]);
    let told = story.told().await;
    told.exits(1)
        .verdicts([Crashed, Passed, Passed])
        .machines(2)
        .because(A, "frame 4 where 5 was next");
}

#[tokio::test]
async fn a_doubled_last_word_is_nobodys_failure_and_yet_not_good() {
    // Whether it is noticed before or after the next test is ordered is chance.
    let acts = ends(A, passed(A)).into_iter().chain([Act::Double]);
    let told = Story::new().in_test(A, acts).told().await;
    told.exits(1).verdicts([Passed; 3]).machines(2).says("frame 4 where 5 was next");
}

#[tokio::test]
async fn half_a_frame_is_waited_for_until_the_deadline() {
    let torn = [Act::Tear(passed(C)), Act::HangUp, Act::Hang];
    let told = Story::new().in_test(C, torn).hurried(0.1).timeout(1).told().await;
    told.exits(1)
        .verdicts([Passed, Passed, TimedOut])
        .machines(1)
        .because(C, "the silence deadline of 2.0 s passed");
}

#[tokio::test]
async fn a_frame_of_4_gib_is_not_waited_for() {
    let told = Story::new().in_test(B, [Act::Babble(vec![0xff; 4]), Act::Hang]).told().await;
    told.exits(1)
        .verdicts([Passed, Crashed, Passed])
        .machines(2)
        .because(B, "a frame of 4294967295 bytes");
}

#[tokio::test]
async fn an_agent_that_never_stops_talking_is_stopped() {
    let told = Story::new().in_test(A, [Act::Chatter(A.into(), 9 << 20)]).told().await;
    let told = told.exits(1).verdicts([Crashed, Passed, Passed]).machines(2);
    let told = told.because(A, "too many frames");
    assert!(told.size_of("events.jsonl") < 2 << 20);
}

// Words in the wrong place.

#[tokio::test]
async fn another_tests_verdict_is_not_taken() {
    let told = Story::new().in_test(B, ends(C, passed(C))).told().await;
    told.exits(1)
        .verdicts([Passed, Crashed, Passed])
        .machines(2)
        .attempts(C, 1)
        .because(B, "the agent failed");
}

#[tokio::test]
async fn a_test_that_finished_without_a_start_did_not_run_well() {
    // Without its start it has a second turn, without any doubt of its kernel.
    let told = Story::new().always(At::Run(B.into()), [Act::Say(passed(B))]).told().await;
    told.exits(1)
        .verdicts([Passed, Crashed, Passed])
        .machines(3)
        .attempts(B, 2)
        .because(B, "it did not start: the agent failed");
}

#[tokio::test]
async fn a_marker_on_the_console_is_no_start() {
    let [marker, _] = begins(B);
    let acts = [marker].into_iter().chain(ends(B, passed(B)));
    // Which of the two is read first is chance, and so is the number of turns.
    let told = Story::new().always(At::Run(B.into()), acts).told().await;
    told.exits(1)
        .verdicts([Passed, Crashed, Passed])
        .because(B, "it did not start: the agent failed");
}

#[tokio::test]
async fn an_agent_that_cannot_go_on_costs_the_test() {
    let refused = GuestMessage::Refused { what: "start a test".into(), why: "no memory".into() };
    let told = Story::new().in_test(B, [Act::Say(refused), Act::Hang]).told().await;
    told.exits(1)
        .verdicts([Passed, Crashed, Passed])
        .machines(2)
        .because(B, "the agent could not start a test: no memory");
}

// Kernels that complain.

#[tokio::test]
async fn a_panic_costs_its_test_and_a_machine() {
    let acts = [print("Kernel panic - not syncing: x"), resets()];
    let told = Story::new().in_test(B, acts).told().await;
    let told = told
        .exits(1)
        .verdicts([Passed, Crashed, Passed])
        .machines(2)
        .because(B, "Kernel panic - not syncing: x")
        .says_nothing();
    assert_eq!(told.ends()[0], &VmEnd::GuestGone { how: "guest-reset".into() });
}

#[tokio::test]
async fn a_panic_that_does_not_end_the_machine_is_a_crash_and_no_timeout() {
    let acts = [print("Kernel panic - not syncing: stuck"), Act::Hang];
    let told = Story::new().in_test(B, acts).hurried(0.1).timeout(1).told().await;
    told.exits(1).verdicts([Passed, Crashed, Passed]).machines(2).because(B, "stuck");
}

#[tokio::test]
async fn a_panic_after_the_last_result_is_not_good() {
    let acts = [print("Kernel panic - not syncing: late"), resets()];
    let told = Story::new().first(At::Finish, acts).told().await;
    let told = told.exits(1).verdicts([Passed; 3]).machines(1).says("the guest reset itself");
    assert_eq!(told.results.kernel_events[0].title, "Kernel panic - not syncing: late");
}

#[tokio::test]
async fn a_kernel_that_dies_between_two_tests_is_not_good() {
    let told = Story::new().first(At::Run(B.into()), [resets()]).told().await;
    told.exits(1).verdicts([Passed; 3]).machines(2).attempts(B, 2).says("the guest reset itself");
}

#[tokio::test]
async fn a_report_is_not_forgotten_with_the_machine_that_made_it() {
    let acts = [print("BUG: KASAN: use-after-free in f+0x0/0x1"), Act::Exit(1)];
    let told = Story::new().in_test(B, acts).told().await;
    told.exits(1)
        .verdicts([Passed, Crashed, Passed])
        .machines(2)
        .attempts(B, 1)
        .because(B, "BUG: KASAN: use-after-free in f");
}

#[tokio::test]
async fn a_warning_spoils_its_test_and_the_kernel() {
    let warning = print("WARNING: CPU: 0 PID: 9 at mm/x.c:1 f+0x0/0x1");
    let told = Story::new().in_test(A, [warning].into_iter().chain(ends(A, passed(A)))).told();
    let told = told.await.exits(1).verdicts([Failed, Passed, Passed]).machines(2);
    let told = told.because(A, "WARNING at mm/x.c:1 in f");
    assert_eq!(told.test(A).checks.data, Check::Ok);
    assert!(matches!(told.ends()[..], [VmEnd::Replaced { .. }, VmEnd::Done]));
}

#[tokio::test]
async fn counters_that_rise_in_silence_spoil_them_too() {
    let health = Health { taint_after: 512, warnings: 1, ..Health::default() };
    let told = Story::new().in_test(C, ends(C, finished(C, Outcome::Passed, health))).told().await;
    let told = told.exits(1).verdicts([Passed, Passed, Failed]).machines(1);
    assert_eq!(told.test(C).checks.taint, Check::Bad);
}

// Tests and machines that do not end.

#[tokio::test]
async fn a_guest_that_falls_silent_is_ended_and_the_rest_is_judged() {
    let told = Story::new().in_test(B, [Act::Hang]).hurried(0.1).timeout(2).told().await;
    told.exits(1)
        .verdicts([Passed, TimedOut, Passed])
        .machines(2)
        .because(B, "started and did not finish: the silence deadline of 2.1 s passed");
}

#[tokio::test]
async fn an_agent_that_lives_and_never_ends_its_test_is_ended_too() {
    let told = Story::new().in_test(B, [Act::Live(B.into())]).hurried(0.1).timeout(2).told().await;
    told.exits(1)
        .verdicts([Passed, TimedOut, Passed])
        .machines(2)
        .because(B, "started and did not finish: the test deadline of 2.3 s passed");
}

#[tokio::test]
async fn a_run_in_which_everything_hangs_comes_to_an_end() {
    let story = Story::new().repeat(40).always(At::Run(A.into()), [Act::Hang]);
    let told = story.hurried(0.05).timeout(1).told().await;
    let told = told.exits(1).verdicts([TimedOut, NotRun, NotRun]);
    assert!(told.took < Duration::from_secs(20), "{:?}", told.took);
}

#[tokio::test]
async fn a_test_that_the_agent_had_to_kill_costs_the_machine() {
    let stack = "[<0>] migrate_vma_setup+0x1/0x2\n[<0>] x".to_owned();
    let outcome = Outcome::TimedOut { killed: true, stack };
    let message = finished(A, outcome, Health::default());
    let told = Story::new().in_test(A, ends(A, message)).told().await;
    told.exits(1)
        .verdicts([TimedOut, Passed, Passed])
        .machines(2)
        .because(A, "in the kernel it was at [<0>] migrate_vma_setup+0x1/0x2");
}

#[tokio::test]
async fn a_console_that_fell_silent_is_not_a_clean_one() {
    let told = Story::new().in_test(B, [Act::Say(passed(B))]).hurried(0.1).told().await;
    told.exits(1)
        .verdicts([Passed, Failed, Passed])
        .machines(2)
        .because(B, "the console fell silent")
        .says_nothing();
}

#[tokio::test]
async fn a_qemu_that_does_not_heed_sigterm_is_killed() {
    let story = Story::new().prelude("trap '' TERM").in_test(B, [Act::Forge(step(B)), Act::Hang]);
    let told = story.told().await.exits(1).verdicts([Passed, Crashed, Passed]).machines(2);
    // It had its time to end, and not much more. That nothing is left is seen
    // in every story.
    assert!(told.took > Duration::from_secs(2), "{:?}", told.took);
    assert!(told.took < Duration::from_secs(15), "{:?}", told.took);
}

#[tokio::test]
async fn a_keeper_that_stands_still_is_killed_with_its_qemu() {
    let stop = Act::Shell("kill -STOP $(cut -d' ' -f4 /proc/$PPID/stat)".into());
    let acts = [stop].into_iter().chain(ends(B, passed(B)));
    let told = Story::new().in_test(B, acts).hurried(0.1).told().await;
    let told = told.verdicts([Passed; 3]).machines(1);
    assert!(told.took < Duration::from_secs(30), "{told}");
}

#[tokio::test]
async fn a_harness_that_stood_still_blames_nobody() {
    let told = Story::new().stopped_in(B).hurried(0.05).timeout(2).told().await;
    told.exits(0).verdicts([Passed; 3]).machines(1).says_nothing();
}

/// In a process of its own: the other stories would stand still with it.
#[tokio::test]
async fn a_harness_that_is_stopped_blames_nobody() {
    if std::env::var_os("STOPPED").is_none() {
        return alone("a_harness_that_is_stopped_blames_nobody", "STOPPED");
    }
    let stop = "
        harness=$(cut -d' ' -f4 /proc/$(cut -d' ' -f4 /proc/$PPID/stat)/stat)
        env -i sh -c \"sleep 2; kill -CONT $harness\" >&- 2>&- &
        kill -STOP $harness
        for thread in /proc/$harness/task/*; do
            until grep -q 'State:.T' $thread/status; do sleep 0.01; done
        done";
    let acts = [Act::Shell(stop.into())].into_iter().chain(ends(B, passed(B)));
    let told = Story::new().in_test(B, acts).hurried(0.05).timeout(2).told().await;
    assert!(told.took > Duration::from_secs(2), "it was not stopped: {told}");
    told.exits(0).verdicts([Passed; 3]).machines(1).says_nothing();
}

/// Tells a story once more in a process of its own, which knows it by a variable
/// of its environment.
#[expect(clippy::disallowed_methods, reason = "nothing is left of it when it has ended")]
fn alone(story: &str, variable: &str) {
    let ended = std::process::Command::new(std::env::current_exe().unwrap())
        .args([story, "--exact"])
        .env(variable, "1")
        .output()
        .unwrap();
    let told = [ended.stdout, ended.stderr].concat();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&told));
}

#[tokio::test]
async fn what_a_qemu_leaves_behind_does_not_hold_us_up() {
    // They hold every pipe and socket open. One of them ignores what can be
    // ignored and has left the group, which is waited for.
    let left = r#"
        sleep 300 &
        (trap '' TERM HUP; setsid sh -c ': >"$0/away"; exec sleep 300' "$dir" &)
        until [ -e "$dir/away" ]; do sleep 0.01; done"#;
    let told = Story::new().prelude(left).told().await;
    let told = told.exits(0).verdicts([Passed; 3]).machines(1);
    assert!(told.took < Duration::from_secs(15), "{:?}", told.took);
}

#[tokio::test]
async fn a_guest_that_powers_off_without_its_last_word_is_not_good() {
    let told = Story::new().first(At::Finish, [Act::End("guest-shutdown".into())]).told().await;
    told.exits(1).verdicts([Passed; 3]).machines(1).says("the guest powered itself off");
}

#[tokio::test]
async fn a_qemu_that_dies_while_it_finishes_is_forgiven_once() {
    let told = Story::new().first(At::Finish, [Act::Exit(1)]).told().await;
    told.exits(0)
        .verdicts([Passed; 3])
        .machines(1)
        .notes(&["QEMU ended with 1 without a word, which is forgiven once"])
        .attempts(C, 1);
}

#[tokio::test]
async fn a_qemu_that_dies_after_a_tests_last_word_costs_the_test_another_turn() {
    let told = Story::new().in_test(B, [Act::Say(passed(B)), Act::Exit(1)]).told().await;
    told.exits(0)
        .verdicts([Passed; 3])
        .machines(2)
        .notes(&["QEMU ended with 1 without a word, which is forgiven once"])
        .attempts(B, 2);
}

#[tokio::test]
async fn a_qemu_that_dies_after_a_failure_takes_nothing_back() {
    let failed = finished(B, Outcome::Died { how: "killed by SIGSEGV".into() }, Health::default());
    let told = Story::new().in_test(B, [Act::Say(failed), Act::Exit(1)]).told().await;
    told.exits(1).verdicts([Passed, Crashed, Passed]).attempts(B, 1).because(B, "SIGSEGV");
}

#[tokio::test]
async fn a_qemu_that_dies_in_a_test_twice_is_the_machines_fault() {
    let acts: Vec<Act> = begins(B).into_iter().chain([Act::Exit(9)]).collect();
    let told = Story::new().always(At::Run(B.into()), acts).told().await;
    told.exits(129)
        .verdicts([Passed, NotRun, NotRun])
        .machines(2)
        .attempts(B, 2)
        .because(B, "started and did not finish: QEMU ended with 9 without a word");
}

#[tokio::test]
async fn an_interruption_ends_the_machine_and_keeps_what_was_judged() {
    let told = Story::new().in_test(B, [Act::Hang]).interrupted_in(B).told().await;
    let told = told.exits(130).verdicts([Passed, NotRun, NotRun]).machines(1);
    let told = told.because(B, "started and did not finish: interrupted");
    assert_eq!(told.ends(), [&VmEnd::Interrupted]);
}

// Guests that are saved and restored.

#[tokio::test]
async fn a_guest_is_booted_once_and_restored_from_then_on() {
    let acts = [print("Kernel panic - not syncing: x"), resets()];
    let story = Story::new().with_snapshots().turn(1, At::Run(B.into()), {
        let begins = begins(B);
        begins.into_iter().chain(acts)
    });
    let told = story.told().await.exits(1).verdicts([Passed, Crashed, Passed]).machines(3);
    let ends = told.ends();
    assert!(matches!(ends[..], [VmEnd::Saved, VmEnd::GuestGone { .. }, VmEnd::Done]), "{told}");
    assert_eq!(told.restored(), [false, true, true]);
    assert!(told.results.machine.restored);
}

#[tokio::test]
async fn a_guest_that_cannot_be_saved_costs_time_and_nothing_else() {
    let refusal = serde_json::json!({ "error": { "class": "GenericError", "desc": "no room" } });
    let told = Story::new().with_snapshots().first(At::Save, [Act::Tell(refusal)]).told().await;
    let told =
        told.exits(0).machines(2).notes(&["no guest is saved, so each VM boots: QEMU: no room"]);
    assert_eq!(told.restored(), [false, false]);
}

#[tokio::test]
async fn a_guest_whose_saving_never_ends_is_given_up() {
    let story = Story::new().with_snapshots().first(At::Save, [Act::Hang]).hurried(0.05);
    story.told().await.exits(0).machines(2).notes(&["the save deadline of 1.0 s passed"]);
}

#[tokio::test]
async fn a_kernel_that_complains_while_it_boots_says_so_in_every_vm() {
    let warning = print("WARNING: CPU: 0 PID: 1 at mm/x.c:1 f+0x0/0x1");
    let boots = [warning, Act::Say(hello("boot 0", 900))];
    let told = Story::new().with_snapshots().always(At::Start, boots).told().await;
    let told = told.exits(1).verdicts([Passed; 3]).machines(2);
    let told = told.notes(&["the kernel complains while it boots, so each VM boots"]);
    assert_eq!(told.restored(), [false, false]);
    assert_eq!(told.results.kernel_events.len(), 2);
}

#[tokio::test]
async fn a_restored_guest_that_is_another_one_is_thrown_away() {
    let other = Act::Say(hello("another boot", 1000));
    let told = Story::new().with_snapshots().turn(1, At::Start, [other]).told().await;
    let told = told.exits(0).verdicts([Passed; 3]).machines(4);
    let told = told
        .notes(&["the saved guest is thrown away: a fresh kernel was due: it is of another boot"]);
    assert_eq!(told.restored(), [false, true, false, true]);
}

#[tokio::test]
async fn saved_guests_that_never_come_back_are_not_tried_for_ever() {
    let story = Story::new().with_snapshots();
    let told = story.prelude("case \"$*\" in *-incoming*) exit 1;; esac").told().await;
    let thrown = "the saved guest is thrown away: QEMU ended with 1 without a word";
    let told = told.exits(0).verdicts([Passed; 3]).machines(5).notes(&[thrown, thrown]);
    assert_eq!(told.restored(), [false, true, false, true, false]);
}

#[tokio::test]
async fn a_restored_guest_whose_clock_went_back_is_not_believed() {
    let told = Story::new().with_snapshots().turn(1, At::Start, [Act::Say(hello("boot 0", 1))]);
    let told = told.told().await.exits(0).machines(4);
    assert!(told.notes_made()[0].contains("its clock went back from 900.0ms to 1.0ms"), "{told}");
}

#[tokio::test]
async fn a_store_without_room_for_a_guest_costs_time_and_nothing_else() {
    let full = Act::Shell("cd store/snapshots/.new*; ln -s /dev/full facts.json".into());
    let told = Story::new().with_snapshots().first(At::Save, [full, saved()]).told().await;
    let told = told.exits(0).verdicts([Passed; 3]).machines(2);
    let told = told.notes(&["no guest is saved, so each VM boots: cannot write to the store"]);
    assert_eq!((told.restored(), told.saved().len()), (vec![false, false], 0), "{told}");

    let told = Story::new().with_snapshots().prelude("rm -r \"$dir\"/store; echo >\"$dir\"/store");
    let told = told.told().await.exits(0).verdicts([Passed; 3]).machines(2);
    let note = told.notes_made()[0];
    assert!(note.starts_with("no guest is saved, so each VM boots: "), "{note}");
}

#[tokio::test]
async fn two_runs_may_save_into_one_store_at_the_same_time() {
    let store = tempfile::tempdir().unwrap();
    // Neither saves before both are about to.
    let place = tempfile::tempdir().unwrap();
    let place = place.path().display();
    let meet = format!("cd {place}; : >$$; until [ $(ls | wc -l) = 2 ]; do sleep 0.01; done");
    let story = || {
        let acts = [Act::Shell(meet.clone()), saved()];
        Story::new().with_snapshots().store(store.path()).first(At::Save, acts).told()
    };
    let (one, other) = tokio::join!(story(), story());
    for told in [one, other] {
        let told = told.exits(0).verdicts([Passed; 3]).machines(2).notes(&[]);
        assert_eq!(told.restored(), [false, true]);
    }
    assert_eq!(entries(&store.path().join("snapshots")).len(), 1);
}

#[tokio::test]
async fn a_console_that_cannot_be_kept_is_the_machines_fault() {
    let crash = [print("Kernel panic - not syncing: x"), resets()];
    let story = Story::new().in_test(B, crash).prelude("ln -sf /dev/full \"$dir\"/console-1.log");
    let told = story.told().await.exits(129).verdicts([Passed, Crashed, NotRun]);
    told.says("cannot write console-1.log: No space left on device");
}

// Several turns, several machines.

#[tokio::test]
async fn isolated_tests_have_a_machine_each() {
    let told = Story::new().with_snapshots().isolated().told().await;
    let told = told.exits(0).verdicts([Passed; 3]).machines(4);
    assert_eq!(told.restored(), [false, true, true, true]);
}

#[tokio::test]
async fn jobs_run_at_the_same_time() {
    // The first one waits for the second, and would wait for ever.
    let wait = "until [ -d \"$dir/start.1\" ]; do sleep 0.01; done";
    let told = Story::new().jobs(2).isolated().repeat(2).prelude(wait).told().await;
    told.exits(0).verdicts([Passed; 3]).machines(6).attempts(A, 2).attempts(C, 2).notes(&[]);
}

#[tokio::test]
async fn machines_side_by_side_do_not_mix_up_their_tests() {
    let acts = begins(B).into_iter().chain([print("Kernel panic - not syncing: x"), resets()]);
    let told = Story::new().jobs(3).always(At::Run(B.into()), acts).told().await;
    told.exits(1).verdicts([Passed, Crashed, Passed]).because(B, "not syncing: x").says_nothing();
}

#[tokio::test]
async fn each_turn_of_a_repeated_test_counts() {
    let told = Story::new().repeat(3).told().await;
    told.exits(0).verdicts([Passed; 3]).machines(1).attempts(A, 3).attempts(C, 3);
    let failed = Outcome::Died { how: "killed by SIGSEGV".into() };
    let acts = begins(B).into_iter().chain(ends(B, finished(B, failed, Health::default())));
    let told = Story::new().isolated().repeat(2).turn(1, At::Run(B.into()), acts).told().await;
    let told = told.exits(1).verdicts([Passed, Crashed, Passed]).machines(6);
    assert!(told.test(B).flaky && !told.test(A).flaky);
}

#[tokio::test]
async fn a_test_that_passes_the_second_time_is_flaky_and_red() {
    let failed = Outcome::Died { how: "killed by SIGSEGV".into() };
    let acts = ends(B, finished(B, failed, Health::default()));
    let told = Story::new().retry(2).in_test(B, acts).told().await;
    let told = told.exits(1).verdicts([Passed, Crashed, Passed]).machines(2).attempts(B, 2);
    assert!(told.test(B).flaky);
    assert_eq!(told.results.summary.flaky, 1);
}

#[tokio::test]
async fn a_test_that_fails_each_time_is_not_flaky() {
    let crash = begins(B).into_iter().chain([print("Kernel panic - not syncing: x"), resets()]);
    let told = Story::new().retry(2).always(At::Run(B.into()), crash).told().await;
    let told = told.exits(1).verdicts([Passed, Crashed, Passed]).machines(4).attempts(B, 3);
    assert!(!told.test(B).flaky);
}

// Consoles.

#[tokio::test]
async fn a_flood_on_the_console_is_bounded_and_spoils_only_its_test() {
    let flood = [Act::Flood(100 << 20)].into_iter().chain(ends(B, passed(B)));
    // Time enough for the flood, and little for the marker that it has drowned.
    let told = Story::new().in_test(B, flood).hurried(0.1).timeout(1200).told().await;
    let told = told.exits(1).verdicts([Passed, Failed, Passed]).machines(2);
    let told = told.because(B, "the console fell silent");
    let size = told.size_of("console.log");
    assert!(((64 << 20)..(65 << 20)).contains(&size), "{size} bytes");
    // All stories run in this process: no flood is held in its memory.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
    let peak: u64 = peak.unwrap().trim().parse().unwrap();
    assert!(peak < 100 << 10, "{peak} kB");
}

#[tokio::test]
async fn words_without_end_do_not_put_a_deadline_off() {
    let story = Story::new().prelude("[ $start -gt 0 ] || yes >&2 &").in_test(B, [Act::Hang]);
    let told = story.hurried(0.05).timeout(2).told().await;
    let told = told.verdicts([Passed, TimedOut, Passed]).machines(2);
    assert!(told.took < Duration::from_secs(20), "{told}");
}

#[tokio::test]
async fn bytes_that_are_no_text_disturb_nobody() {
    let noise: Vec<u8> = (0..=255).chain(b"\x1b[2J\xf0\x28\x8c\xbc\r\r\n".to_vec()).collect();
    let noise = || Act::Print(noise.clone());
    let acts = [noise()].into_iter().chain(begins(B)).chain([noise()]);
    let told = Story::new()
        .first(At::Run(B.into()), acts.chain(ends(B, passed(B))).chain([noise()]))
        .in_test(
            C,
            [print("WARNING: CPU: 0 PID: 9 at \x1b[31m\x07\u{1}mm/x.c")]
                .into_iter()
                .chain(ends(C, passed(C))),
        )
        .told()
        .await;
    told.exits(1)
        .verdicts([Passed, Passed, Failed])
        .machines(1)
        .because(C, "WARNING at [31mmm/x.c");
}
