//! Commands on machines that misbehave.

use std::fs;
use std::io::{Error, ErrorKind, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmm_harness::context::Context;
use hmm_harness::events::Log;
use hmm_harness::interrupt::Interrupt;
use hmm_harness::plan::Isolate;
use hmm_harness::run::Options;
use hmm_harness::run::shell::{End, Ended, Order, command};
use hmm_harness::stop::Stop;
use hmm_harness::store::Store;
use hmm_protocol::wire::{GuestMessage, Shell, ShellEnd};
use tokio::sync::mpsc;

use super::qemu::{Act, At, print};
use super::story::{Story, processes_of, recipe};

/// What keeps what was written to it, or has nobody who reads it.
#[derive(Clone, Default)]
struct Reader {
    read: Arc<Mutex<Vec<u8>>>,
    gone: bool,
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.gone {
            return Err(Error::from(ErrorKind::BrokenPipe));
        }
        self.read.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn ended(end: ShellEnd, output: u64) -> [Act; 2] {
    let ended = GuestMessage::ShellEnded { end, output, errors: 0 };
    [print("hmm-harness: end shell"), Act::Say(ended)]
}

/// What comes of a command with this input on the machine of a story, and what it
/// wrote.
async fn ran(story: Story, input: &[u8], reader: Reader) -> (Result<Ended, Stop>, Vec<u8>) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    story.stage(dir, true);
    let store = Store::at(&dir.join("store")).unwrap();
    let ctx = Context::new(store, Log::new(|_| {}), Interrupt::never()).unwrap();
    let recipe = recipe(&ctx, dir).for_shell();
    let options = Options {
        timeout: Duration::from_secs(60),
        time_scale: 1.0,
        seed: 1,
        isolate: Isolate::Process,
        jobs: 1,
        repeat: 1,
        retry: 0,
        snapshot: false,
        trace: None,
        agent_dies: None,
        hold: None,
    };
    let (to, input_comes) = mpsc::channel(1);
    if !input.is_empty() {
        to.send(input.to_vec()).await.unwrap();
    }
    drop(to);
    let (_, sizes) = mpsc::channel(1);
    let order = Order {
        shell: Shell::default(),
        input: input_comes,
        sizes,
        output: Box::new(reader.clone()),
        errors: Box::new(Reader::default()),
        raw: None,
    };
    let came = command(&ctx, &recipe, &options, dir, || Ok(order)).await;
    let left = processes_of(dir);
    assert!(left.is_empty(), "processes are left: {left:?}");
    let console = fs::read_to_string(dir.join("console.log")).unwrap();
    assert!(console.contains("Linux version"), "{console}");
    let read = reader.read.lock().unwrap().clone();
    (came, read)
}

#[tokio::test]
async fn a_command_has_all_its_output_and_its_own_exit_code() {
    let acts = [Act::Output(b"out".to_vec()), Act::Output(vec![0; 1 << 20])];
    let acts = acts.into_iter().chain(ended(ShellEnd::Exited { code: 7 }, 3 + (1 << 20)));
    let (came, read) = ran(Story::new().first(At::Shell, acts), b"", Reader::default()).await;
    let came = came.unwrap();
    assert_eq!(came.end, End::Command(ShellEnd::Exited { code: 7 }));
    assert!(came.complaints.is_empty() && came.unwritten.is_none(), "{came:?}");
    assert_eq!((read.len(), &read[..3]), (3 + (1 << 20), b"out".as_slice()));
}

#[tokio::test]
async fn what_a_guest_sends_beyond_the_output_is_not_the_commands() {
    let acts = [Act::Output(b"more".to_vec())];
    let acts = acts.into_iter().chain(ended(ShellEnd::Exited { code: 0 }, 0));
    let (came, _) = ran(Story::new().first(At::Shell, acts), b"", Reader::default()).await;
    assert_eq!(came.unwrap().end, End::Command(ShellEnd::Exited { code: 0 }));
}

#[tokio::test]
async fn the_end_of_the_input_is_told_with_its_length() {
    let acts = ended(ShellEnd::Exited { code: 0 }, 0);
    let story = Story::new().first(At::Shell, []).first(At::InputEnds(5), acts);
    let (came, _) = ran(story, b"hello", Reader::default()).await;
    assert_eq!(came.unwrap().end, End::Command(ShellEnd::Exited { code: 0 }));
}

#[tokio::test]
async fn a_reader_that_is_gone_is_told_to_the_command() {
    let acts = ended(ShellEnd::Killed { signal: 13 }, 3);
    let story = Story::new().first(At::Shell, [Act::Output(b"out".to_vec())]);
    let gone = Reader { gone: true, ..Reader::default() };
    let (came, _) = ran(story.first(At::Unread, acts), b"", gone).await;
    let came = came.unwrap();
    assert_eq!(came.end, End::Command(ShellEnd::Killed { signal: 13 }));
    assert_eq!(came.unwritten, None, "nobody wanted it");
}

#[tokio::test]
async fn a_guest_that_dies_under_its_command_leaves_its_output_and_its_last_words() {
    let words = "Kernel panic - not syncing: x";
    let dies = [Act::Output(b"half".to_vec()), print(words), Act::End("guest-panic".into())];
    let (came, read) = ran(Story::new().first(At::Shell, dies), b"", Reader::default()).await;
    let came = came.unwrap();
    let End::Guest { why, tail } = &came.end else { panic!("{came:?}") };
    assert!(why.contains("guest-panic"), "{why}");
    assert!(tail.iter().any(|line| line.contains(words)), "{tail:?}");
    assert!(came.complaints.iter().any(|title| title.contains("panic")), "{came:?}");
    assert_eq!(read, b"half");
}

#[tokio::test]
async fn a_qemu_that_fails_under_a_command_is_the_machines_fault() {
    let story = Story::new().first(At::Shell, [Act::Exit(3)]);
    let (came, _) = ran(story, b"", Reader::default()).await;
    let stop = came.unwrap_err();
    assert_eq!(stop.exit_code(), 129, "{stop}");
    assert!(stop.to_string().contains("QEMU ended with 3"), "{stop}");
}

#[tokio::test]
async fn an_agent_that_cannot_run_a_command_is_not_the_commands_fault() {
    let refused = GuestMessage::Refused { what: "run a command".into(), why: "no port".into() };
    let story = Story::new().first(At::Shell, [Act::Say(refused)]);
    let (came, _) = ran(story, b"", Reader::default()).await;
    let stop = came.unwrap_err();
    assert_eq!(stop.exit_code(), 129, "{stop}");
    assert!(stop.to_string().contains("run a command: no port"), "{stop}");
}
