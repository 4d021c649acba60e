//! The agent: PID 1 of the guest.
//!
//! It waits on its virtio-serial port for the harness, puts the guest in order
//! as it is told, runs one test process at a time, or a person's command, and says
//! what became of it. It decides nothing: verdicts are the harness's. It is small
//! on purpose, so that it seldom changes while the tests do.
//!
//! What the harness may rely on: every frame carries the nonce of the `Start`
//! it answers to; a marker with the test's id stands in the kernel log before
//! and after each test, the latter before `Finished` is sent; a process that
//! cannot be killed is said to be so; and if the agent dies, so does the guest.

mod guest;
mod health;
mod port;
mod random;
mod shell;
mod test_process;
mod trace;

use std::thread;
use std::time::Duration;

use hmm_protocol::wire::{GuestMessage, HostMessage, VERSION};
use nix::sys::signal::{SigSet, Signal};

use crate::port::Port;

fn main() {
    let mut port = match guest::bootstrap().and_then(|()| Port::open()) {
        Ok(port) => port,
        Err(why) => {
            // Without the port only the console is left; the end of PID 1 is a
            // kernel panic, which the harness sees.
            eprintln!("hmm-agent: {why}");
            std::process::exit(1);
        }
    };
    loop {
        if let Err((what, why)) = serve(&mut port) {
            port.say(GuestMessage::Refused { what, why });
        }
    }
}

/// Serves until something cannot be done. Returns what and why.
fn serve(port: &mut Port) -> Result<(), (String, String)> {
    let mut finished = 0;
    let mut settings = Vec::new();
    let mut tracing = None;
    let mut tracer = None;
    loop {
        match port.listen() {
            HostMessage::Start { nonce, unix_ms } => {
                port.start(nonce);
                finished = 0;
                guest::set_time(unix_ms);
                port.say(GuestMessage::Hello {
                    protocol: VERSION,
                    release: guest::release(),
                    boot_id: guest::boot_id(),
                    uptime_us: guest::uptime_us(),
                });
            }
            HostMessage::Prepare(prepare) => {
                guest::prepare(&prepare)?;
                settings = prepare.settings;
                if let Some(setup) = &prepare.trace {
                    let (ready, capture) = trace::prepare(setup);
                    tracing = Some(ready);
                    tracer = capture;
                }
                port.say(GuestMessage::Prepared {
                    taint: health::taint(),
                    uptime_us: guest::uptime_us(),
                    untraceable: tracing.as_ref().and_then(|ready| ready.unavailable.clone()),
                });
            }
            HostMessage::Attach(attach) => {
                guest::attach(&attach)?;
                port.say(GuestMessage::Attached {
                    settings: guest::read_back(settings.iter().chain(&attach.settings)),
                    devices: guest::devices(),
                    tests: test_process::list()?,
                    trace: tracing.clone(),
                });
            }
            HostMessage::Die { after_ms } => die_after(Duration::from_millis(after_ms))?,
            HostMessage::Run(job) => {
                finished += 1;
                test_process::run(&job, finished, port, tracer.as_ref())?;
            }
            HostMessage::Shell(order) => shell::run(&order, port)?,
            // The command had ended when this was said.
            HostMessage::InputEnds { .. } | HostMessage::Unread { .. } | HostMessage::Resize(_) => {
            }
            // Nothing is held between two tests.
            HostMessage::GoOn => {}
            HostMessage::Finish => {
                port.say(GuestMessage::Done { finished });
                guest::power_off();
            }
        }
    }
}

/// Ends this process, and with it the guest, whatever it does at that time.
fn die_after(time: Duration) -> Result<(), (String, String)> {
    // The thread must not take the signal for which the agent waits.
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().map_err(|e| ("block SIGCHLD".to_owned(), e.to_string()))?;
    thread::spawn(move || {
        thread::sleep(time);
        std::process::exit(1);
    });
    Ok(())
}
