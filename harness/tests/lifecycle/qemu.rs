//! A machine of QEMU's outer shape in which nothing runs: it plays a script.
//!
//! Where the script is silent it is the honest guest of a kernel without bugs.
//! It is this test program once more, started by `qemu.sh`, and knows nothing
//! of the harness but the protocol.

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use std::{env, fs, process, thread};

use hmm_protocol::frame::{self, Decoder};
use hmm_protocol::trace::{ChunkHeader, tag};
use hmm_protocol::wire::{GuestMessage, Health, HostMessage, Outcome, Sealed, ShellEnd, VERSION};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::{Deserialize, Serialize};

use super::story::TESTS;

/// Where the script speaks: the answer to a message of the harness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum At {
    Start,
    Prepare,
    /// The order of the monitor to save the guest.
    Save,
    Attach,
    Run(String),
    Shell,
    InputEnds(u64),
    Unread,
    Finish,
}

/// What is done there instead of the honest answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// On which start of the machine; on each, if none is named.
    pub(crate) start: Option<u32>,
    pub(crate) at: At,
    pub(crate) acts: Vec<Act>,
}

/// Something that the machine does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Act {
    /// The agent says something, as it should.
    Say(GuestMessage),
    /// It says something under the nonce of another start.
    Forge(GuestMessage),
    /// Its last frame comes a second time.
    Double,
    /// Only the first half of a frame comes.
    Tear(GuestMessage),
    /// Bytes come that need not be a frame.
    Babble(Vec<u8>),
    /// Steps of a test, until this many bytes have come.
    Chatter(String, usize),
    /// The agent says for ever that a test goes on.
    Live(String),
    /// A chunk comes through the trace port, as that of this start; of it only the
    /// first bytes, if there is a limit.
    Trace(ChunkOf, Vec<u8>, Option<usize>),
    /// A command writes to its standard output.
    Output(Vec<u8>),
    /// The agent's port is closed from its side.
    HangUp,
    /// The console prints.
    Print(Vec<u8>),
    /// The console prints lines, until this many bytes have come.
    Flood(usize),
    /// The guest ends and QEMU tells the reason, as with -no-reboot.
    End(String),
    /// The monitor says something.
    Tell(serde_json::Value),
    /// A shell does something behind everybody's back, in the story's directory.
    Shell(String),
    /// QEMU ends with an exit code and without a word.
    Exit(i32),
    /// Nothing happens any more.
    Hang,
}

/// What a chunk says of itself, beside whose start it is of.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ChunkOf {
    pub(crate) run: u32,
    pub(crate) seq: u64,
    /// It is of another start.
    pub(crate) forged: bool,
}

/// A line of the kernel's log on the console.
pub(crate) fn print(text: &str) -> Act {
    Act::Print(format!("[    1.000000][    T1] {text}\r\n").into_bytes())
}

pub(crate) fn begins(id: &str) -> [Act; 2] {
    let started = GuestMessage::Started { id: id.into(), pid: 9 };
    [print(&format!("hmm-harness: begin {id}")), Act::Say(started)]
}

pub(crate) fn finished(id: &str, outcome: Outcome, health: Health) -> GuestMessage {
    GuestMessage::Finished { id: id.into(), outcome, duration_us: 1500, health, capture: None }
}

pub(crate) fn passed(id: &str) -> GuestMessage {
    finished(id, Outcome::Passed, Health::default())
}

pub(crate) fn ends(id: &str, message: GuestMessage) -> [Act; 2] {
    [print(&format!("hmm-harness: end {id}")), Act::Say(message)]
}

/// The first word of a guest that has this boot id and booted so many
/// milliseconds ago.
pub(crate) fn hello(boot_id: &str, uptime_ms: u64) -> GuestMessage {
    GuestMessage::Hello {
        protocol: VERSION,
        release: "6.12.0-fake".into(),
        boot_id: boot_id.into(),
        uptime_us: uptime_ms * 1000,
    }
}

/// A guest is in order, though it may not be able to trace.
pub(crate) fn prepared(untraceable: Option<&str>) -> GuestMessage {
    let untraceable = untraceable.map(str::to_owned);
    GuestMessage::Prepared { taint: 0, uptime_us: 900_000, untraceable }
}

/// What an honest guest that was booted as `boot` does.
fn honest(message: &HostMessage, boot: &str) -> (At, Vec<Act>) {
    match message {
        HostMessage::Start { .. } => {
            // A copy of a saved guest is a little older than that was.
            let (words, age) = match env::var_os("RESTORED") {
                None => ("Linux version 6.12.0-fake", 900),
                Some(_) => ("a restored guest goes on", 1000),
            };
            (At::Start, vec![print(words), Act::Say(hello(boot, age))])
        }
        HostMessage::Prepare(_) => (At::Prepare, vec![Act::Say(prepared(None))]),
        HostMessage::Attach(_) => {
            let attached = GuestMessage::Attached {
                settings: Default::default(),
                devices: vec!["hmm_dmirror0".into()],
                tests: TESTS.iter().map(|id| id.replace(".private", "")).collect(),
                trace: None,
            };
            (At::Attach, vec![Act::Say(attached)])
        }
        HostMessage::Die { .. } => unreachable!("no story tells its agent to die"),
        HostMessage::GoOn => unreachable!("no story holds a test"),
        HostMessage::Run(job) => {
            let acts = begins(&job.id).into_iter().chain(ends(&job.id, passed(&job.id)));
            (At::Run(job.id.clone()), acts.collect())
        }
        HostMessage::Shell(_) => {
            let end = ShellEnd::Exited { code: 0 };
            let ended = GuestMessage::ShellEnded { end, output: 0, errors: 0 };
            let marker = |word| print(&format!("hmm-harness: {word} shell"));
            (At::Shell, vec![marker("begin"), marker("end"), Act::Say(ended)])
        }
        HostMessage::InputEnds { length } => (At::InputEnds(*length), Vec::new()),
        HostMessage::Unread { .. } => (At::Unread, Vec::new()),
        HostMessage::Resize(_) => unreachable!("no story has a terminal"),
        HostMessage::Finish => {
            let done = GuestMessage::Done { finished: 0 };
            (At::Finish, vec![Act::Say(done), Act::End("guest-shutdown".into())])
        }
    }
}

/// The machine of every story. Started by one, it plays it; started as a test,
/// it sees whether it plays an honest guest.
#[test]
fn plays() {
    match (env::var("STORY"), env::var("START")) {
        (Ok(story), Ok(start)) => play(&story, &start),
        _ => is_an_honest_guest(),
    }
}

/// Starts this program as a machine without a script, and talks to it as the
/// harness does.
#[expect(clippy::disallowed_methods, reason = "the machine is what is tested")]
fn is_an_honest_guest() {
    let home = tempfile::tempdir().unwrap();
    let story = home.path().join("story.json");
    fs::write(&story, "[]").unwrap();
    let pair = || UnixStream::pair().unwrap();
    let ((mut agent, its_agent), (mut monitor, its_monitor)) = (pair(), pair());
    let mut machine = process::Command::new(env::current_exe().unwrap())
        .args(["qemu::plays", "--exact", "--nocapture"])
        .env("STORY", &story)
        .env("START", "0")
        .stdin(OwnedFd::from(its_agent))
        .stdout(OwnedFd::from(its_monitor))
        .stderr(process::Stdio::piped())
        .spawn()
        .unwrap();
    monitor.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
    let start = HostMessage::Start { nonce: "a nonce".into(), unix_ms: 0 };
    for message in [start, HostMessage::Finish] {
        agent.write_all(&frame::encode(&message).unwrap()).unwrap();
    }
    let mut said = Vec::new();
    agent.read_to_end(&mut said).unwrap();
    let mut decoder = Decoder::default();
    decoder.push(&said);
    let mut next = || decoder.take::<Sealed>().unwrap().unwrap();
    let (first, last) = (next(), next());
    assert_eq!((first.nonce.as_str(), first.seq), ("a nonce", 0));
    assert_eq!(first.message, hello("boot 0", 900));
    assert_eq!((last.seq, last.message), (1, GuestMessage::Done { finished: 0 }));
    let mut console = String::new();
    machine.stderr.take().unwrap().read_to_string(&mut console).unwrap();
    assert!(console.contains("Linux version 6.12.0-fake"), "{console}");
    let mut told = String::new();
    monitor.read_to_string(&mut told).unwrap();
    assert!(told.contains("\"SHUTDOWN\""), "{told}");
    assert!(machine.wait().unwrap().success());
}

/// Is QEMU.
fn play(story: &str, start: &str) {
    let turns: Vec<Turn> = serde_json::from_str(&fs::read_to_string(story).unwrap()).unwrap();
    let start: u32 = start.parse().unwrap();
    // The state of a machine is the name of its boot.
    let boot = match env::var_os("RESTORED") {
        None => format!("boot {start}"),
        Some(_) => fs::read_to_string("/proc/self/fd/7").unwrap(),
    };
    let mut machine = Machine::inherited();
    machine.listen_to_the_monitor(&turns, start, boot.clone());
    let mut decoder = Decoder::default();
    let mut bytes = [0u8; 8192];
    loop {
        let n = machine.agent.read(&mut bytes).unwrap();
        if n == 0 {
            // A real one would not notice that its agent has no listener.
            hang();
        }
        decoder.push(&bytes[..n]);
        while let Some(message) = decoder.take::<HostMessage>().unwrap() {
            if let HostMessage::Start { nonce, .. } = &message {
                machine.nonce.clone_from(nonce);
            }
            let (at, honest) = honest(&message, &boot);
            for act in script(&turns, start, at).unwrap_or(&honest) {
                machine.act(act);
            }
        }
    }
}

/// What the script wants done there on this start.
fn script(turns: &[Turn], start: u32, at: At) -> Option<&Vec<Act>> {
    let turn = turns.iter().find(|t| t.at == at && t.start.is_none_or(|n| n == start));
    turn.map(|turn| &turn.acts)
}

/// The machine's ends of what it shares with the harness.
struct Machine {
    console: File,
    agent: UnixStream,
    monitor: UnixStream,
    /// Says when somebody has introduced himself to the monitor.
    introduced: Option<Receiver<()>>,
    nonce: String,
    seq: u64,
    last: Vec<u8>,
    /// The way to the trace port, once it was needed.
    trace: Option<File>,
    /// The way to a command's output, likewise.
    output: Option<File>,
}

impl Machine {
    /// From where `qemu.sh` has put them.
    fn inherited() -> Self {
        let stream = |fd: &dyn AsFd| UnixStream::from(fd.as_fd().try_clone_to_owned().unwrap());
        Machine {
            console: File::from(std::io::stderr().as_fd().try_clone_to_owned().unwrap()),
            agent: stream(&std::io::stdin()),
            monitor: stream(&std::io::stdout()),
            introduced: None,
            nonce: String::new(),
            seq: 0,
            last: Vec::new(),
            trace: None,
            output: None,
        }
    }

    /// Obeys the monitor's commands on the side, as QEMU does.
    fn listen_to_the_monitor(&mut self, turns: &[Turn], start: u32, state: String) {
        let (introduce, introduced) = channel();
        self.introduced = Some(introduced);
        let honest = vec![super::saved()];
        let acts = script(turns, start, At::Save).cloned().unwrap_or(honest);
        let mut monitor = self.monitor.try_clone().unwrap();
        thread::spawn(move || {
            let (mut heard, mut place) = (String::new(), None);
            while hear(&monitor, &mut heard, &mut place) {
                while let Some((line, rest)) = heard.split_once('\n') {
                    let (line, rest) = (line.to_owned(), rest.to_owned());
                    heard = rest;
                    if line.contains("qmp_capabilities") {
                        introduce.send(()).unwrap();
                    }
                    if !line.contains("\"migrate\"") {
                        continue;
                    }
                    let place: RawFd = place.take().expect("a descriptor came with getfd");
                    fs::write(format!("/proc/self/fd/{place}"), &state).unwrap();
                    for act in &acts {
                        match act {
                            Act::Tell(words) => {
                                monitor.write_all(format!("{words}\r\n").as_bytes()).unwrap()
                            }
                            Act::Shell(commands) => shell(commands),
                            Act::Exit(code) => process::exit(*code),
                            Act::Hang => hang(),
                            other => panic!("nothing that a monitor does: {other:?}"),
                        }
                    }
                }
            }
        });
    }

    /// A pipe to a port, as the shell has made it.
    fn pipe(name: &str) -> String {
        let (story, start) = (env::var("STORY").unwrap(), env::var("START").unwrap());
        story.replace("story.json", &format!("{name}.{start}"))
    }

    /// What was written to such a pipe has left the machine when this returns.
    fn end_the_pipes(&mut self) {
        for (name, end) in [("trace", self.trace.take()), ("output", self.output.take())] {
            let Some(end) = end else { continue };
            drop(end);
            while !fs::exists(Self::pipe(name) + ".sent").unwrap() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Say(message) => {
                self.last = self.sealed(self.nonce.clone(), message);
                self.agent.write_all(&self.last).unwrap();
            }
            Act::Forge(message) => {
                let frame = self.sealed("00".repeat(16), message);
                self.agent.write_all(&frame).unwrap();
            }
            Act::Double => self.agent.write_all(&self.last).unwrap(),
            Act::Tear(message) => {
                let frame = self.sealed(self.nonce.clone(), message);
                self.agent.write_all(&frame[..frame.len() / 2]).unwrap();
            }
            Act::Babble(bytes) => self.agent.write_all(bytes).unwrap(),
            Act::Chatter(id, bytes) => {
                let mut sent = 0;
                while sent < *bytes {
                    let step = GuestMessage::Step { id: id.clone(), text: "x".repeat(64 << 10) };
                    let frame = self.sealed(self.nonce.clone(), &step);
                    self.agent.write_all(&frame).unwrap();
                    sent += frame.len();
                }
            }
            Act::Live(id) => loop {
                let frame =
                    self.sealed(self.nonce.clone(), &GuestMessage::Alive { id: id.clone() });
                self.agent.write_all(&frame).unwrap();
                thread::sleep(Duration::from_millis(50));
            },
            Act::Trace(ChunkOf { run, seq, forged }, bytes, limit) => {
                let length = u32::try_from(bytes.len()).unwrap();
                let tag = tag(&self.nonce).wrapping_add(u64::from(*forged));
                let header = ChunkHeader { tag, run: *run, cpu: 0, seq: *seq, length };
                let chunk = [&header.encode()[..], bytes].concat();
                let chunk = &chunk[..limit.unwrap_or(chunk.len())];
                let trace = self.trace.get_or_insert_with(|| {
                    fs::OpenOptions::new().write(true).open(Self::pipe("trace")).unwrap()
                });
                trace.write_all(chunk).unwrap();
            }
            Act::Output(bytes) => {
                let output = self.output.get_or_insert_with(|| {
                    fs::OpenOptions::new().write(true).open(Self::pipe("output")).unwrap()
                });
                output.write_all(bytes).unwrap();
            }
            Act::HangUp => self.agent.shutdown(Shutdown::Both).unwrap(),
            Act::Print(bytes) => self.console.write_all(bytes).unwrap(),
            Act::Flood(bytes) => {
                // The longest lines that printk makes.
                let lines = format!("{}\r\n", "noise ".repeat(165)).repeat(64);
                let mut printed = 0;
                while printed < *bytes {
                    self.console.write_all(lines.as_bytes()).unwrap();
                    printed += lines.len();
                }
            }
            Act::End(reason) => {
                self.end_the_pipes();
                // QEMU tells nothing to a monitor that was not introduced.
                self.introduced.take().unwrap().recv().unwrap();
                let data = serde_json::json!({ "guest": true, "reason": reason });
                let event = serde_json::json!({ "event": "SHUTDOWN", "data": data });
                self.monitor.write_all(format!("{event}\r\n").as_bytes()).unwrap();
                process::exit(0);
            }
            Act::Tell(words) => self.monitor.write_all(format!("{words}\r\n").as_bytes()).unwrap(),
            Act::Shell(commands) => shell(commands),
            Act::Exit(code) => process::exit(*code),
            Act::Hang => hang(),
        }
    }

    fn sealed(&mut self, nonce: String, message: &GuestMessage) -> Vec<u8> {
        let sealed = Sealed { nonce, seq: self.seq, message: message.clone() };
        self.seq += 1;
        frame::encode(&sealed).unwrap()
    }
}

/// Takes what the monitor is told, with a descriptor if one comes along. Returns
/// whether there may be more.
fn hear(monitor: &UnixStream, heard: &mut String, place: &mut Option<RawFd>) -> bool {
    let mut bytes = [0u8; 4096];
    let mut words = [IoSliceMut::new(&mut bytes)];
    let mut room = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::empty();
    let told = recvmsg::<()>(monitor.as_raw_fd(), &mut words, Some(&mut room), flags).unwrap();
    for rights in told.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(fds) = rights {
            *place = fds.first().copied();
        }
    }
    let n = told.bytes;
    heard.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
    n > 0
}

#[expect(clippy::disallowed_methods, reason = "nobody but the machine waits for it")]
fn shell(commands: &str) {
    let dir = env::var("STORY").unwrap().replace("/story.json", "");
    let status = process::Command::new("sh").args(["-ec", commands]).current_dir(dir).status();
    assert!(status.unwrap().success(), "{commands}");
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}
