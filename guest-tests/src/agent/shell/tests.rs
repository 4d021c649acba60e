//! Commands of the host in place of the guest's, over socket pairs.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;

use hmm_protocol::frame;
use hmm_protocol::wire::Window;
use nix::sys::socket::{Shutdown, shutdown};

use super::*;

/// What came of a command.
struct Came {
    end: ShellEnd,
    output: Vec<u8>,
    errors: Vec<u8>,
}

fn sh(script: &str) -> Shell {
    Shell {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("WORD".into(), "word".into())],
        cwd: "/usr".into(),
        terminal: None,
    }
}

fn pair() -> (UnixStream, File) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    (ours, File::from(OwnedFd::from(theirs)))
}

/// Runs a command to which `input` is sent, and these messages with the order. On a
/// terminal the input waits until the command says something: a key could be earlier
/// than whoever is to catch it.
fn came(order: Shell, input: &[u8], messages: &[HostMessage]) -> Came {
    let ((mut agent, agents), (bytes, port), (errors, errors_port)) = (pair(), pair(), pair());
    let ordered = HostMessage::Shell(order.clone());
    let sent = [&ordered].into_iter().chain(messages);
    let sent: Vec<u8> = sent.flat_map(|m| frame::encode(m).expect("short")).collect();
    agent.write_all(&sent).expect("room");
    let mut agents = Port::on(agents);
    // What came with the order is heard already, and nothing more to be waited for.
    assert_eq!(agents.listen(), ordered);
    let (mut to, input) = (bytes.try_clone().expect("open"), input.to_vec());
    let (speaks, spoken) = channel();
    let waits = order.terminal.is_some();
    // The command may end before it has read everything, or without a word.
    thread::spawn(move || match waits {
        true => spoken.recv().map(|()| to.write_all(&input)).unwrap_or(Ok(())),
        false => to.write_all(&input),
    });
    let read = |mut from: UnixStream, speaks: Option<Sender<()>>| {
        thread::spawn(move || {
            let mut all = vec![0];
            // The end may come without a byte.
            let first = from.read(&mut all)?;
            all.truncate(first);
            if let Some(speaks) = speaks {
                // Whoever has no input to send is not there any more.
                let _ = speaks.send(());
            }
            from.read_to_end(&mut all).map(|_| all)
        })
    };
    let output = read(bytes.try_clone().expect("open"), Some(speaks));
    let errors = read(errors, None);
    let last = serve(&order, &mut agents, &port, &errors_port).expect("it runs");
    // What the command did not read may lie there still, so nothing is closed.
    for port in [&port, &errors_port] {
        shutdown(port.as_raw_fd(), Shutdown::Write).expect("open");
    }
    let output = output.join().expect("it reads").expect("it is read");
    let errors = errors.join().expect("it reads").expect("it is read");
    let GuestMessage::ShellEnded { end, output: sent, errors: sent_errors } = last else {
        panic!("{last:?}")
    };
    assert_eq!((sent, sent_errors), (output.len() as u64, errors.len() as u64));
    Came { end, output, errors }
}

/// One test, for they reap whatever ends in this process.
#[test]
fn commands_run_as_they_do_at_home() {
    let exited = |code| ShellEnd::Exited { code };

    let ran = came(sh("echo $WORD; pwd; echo no >&2; exit 7"), b"", &[]);
    assert_eq!(ran.end, exited(7));
    assert_eq!((ran.output, ran.errors), (b"word\n/usr\n".to_vec(), b"no\n".to_vec()));

    assert_eq!(came(sh("kill -9 $$"), b"", &[]).end, ShellEnd::Killed { signal: 9 });

    assert_eq!(came(sh("kill -34 $$"), b"", &[]).end, ShellEnd::Killed { signal: 34 });

    let nowhere = Shell { cwd: "/nowhere".into(), ..sh("pwd") };
    assert_eq!(came(nowhere, b"", &[]).output, b"/\n");

    let argv = vec!["no-such-program".to_owned()];
    let absent = came(Shell { argv, ..sh("") }, b"", &[]).end;
    assert!(matches!(absent, ShellEnd::NotStarted { absent: true, .. }), "{absent:?}");

    let script = std::env::temp_dir().join(format!("no-interpreter-{}", std::process::id()));
    std::fs::write(&script, "#!/no/such/interpreter\n").expect("a temporary directory");
    let runs = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, runs).expect("it is ours");
    let argv = vec![script.display().to_string()];
    let there = came(Shell { argv, ..sh("") }, b"", &[]).end;
    std::fs::remove_file(&script).expect("it is ours");
    assert!(matches!(there, ShellEnd::NotStarted { absent: false, .. }), "{there:?}");

    // More than all buffers on the way, and every byte.
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let ends = [HostMessage::InputEnds { length: bytes.len() as u64 }];
    let ran = came(sh("cat; echo end >&2"), &bytes, &ends);
    assert_eq!((ran.end, ran.errors), (exited(0), b"end\n".to_vec()));
    assert!(ran.output == bytes, "{} bytes of {}", ran.output.len(), bytes.len());

    // No input at all is an end, too.
    assert_eq!(came(sh("cat"), b"", &[HostMessage::InputEnds { length: 0 }]).end, exited(0));

    // A command that does not read what it is sent ends nevertheless.
    assert_eq!(came(sh("exec <&-; exit 4"), &bytes, &ends).end, exited(4));

    // What nobody reads ends who writes it; 13 is SIGPIPE.
    let unread = [HostMessage::Unread { output: Output::Output }];
    assert_eq!(came(sh("exec yes"), b"", &unread).end, ShellEnd::Killed { signal: 13 });

    // What a command leaves behind does not keep it.
    let ran = came(sh("sleep 100 & echo $!"), b"", &[]);
    assert_eq!(ran.end, exited(0));
    let left: i32 = String::from_utf8_lossy(&ran.output).trim().parse().expect("its number");
    nix::sys::signal::kill(Pid::from_raw(left), nix::sys::signal::SIGKILL).expect("it lives");

    let ran = came(sh("yes & echo $! >&2"), b"", &[]);
    assert_eq!(ran.end, exited(0));
    let left: i32 = String::from_utf8_lossy(&ran.errors).trim().parse().expect("its number");
    nix::sys::signal::kill(Pid::from_raw(left), nix::sys::signal::SIGKILL).expect("it lives");

    // On a terminal: of the right size, controlling, and an interrupt ends one
    // command and not the shell.
    let terminal = Some(Window { rows: 33, columns: 77 });
    let resize = [HostMessage::Resize(Window { rows: 11, columns: 22 })];
    let ran = came(Shell { terminal, ..sh("stty size </dev/tty >&2; exit 3") }, b"", &[]);
    assert_eq!((ran.end, ran.output), (exited(3), b"33 77\r\n".to_vec()));
    let waits = "for n in $(seq 300); do case $(stty size) in '11 22') break; esac; sleep .1; done; \
                 stty size";
    let ran = came(Shell { terminal, ..sh(waits) }, b"", &resize);
    assert_eq!((ran.end, ran.output), (exited(0), b"11 22\r\n".to_vec()));
    // The shell itself is busy: one that is about to start a program has looked for
    // signals already, and the program is not yet there to be interrupted.
    let script = "trap 'echo caught; exit 5' INT; stty -echo; echo ready; while :; do :; done";
    let ran = came(Shell { terminal, ..sh(script) }, b"\x03", &[]);
    assert_eq!(ran.end, exited(5));
    assert!(String::from_utf8_lossy(&ran.output).contains("caught"));
}
