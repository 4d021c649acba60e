//! The agent's virtio-serial port: frames in, frames out.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hmm_protocol::frame::{self, Decoder};
use hmm_protocol::wire::{GuestMessage, HostMessage, Sealed};

/// The name that the harness gives the port on QEMU's command line.
const NAME: &str = "hmm.agent";

/// How long the agent sleeps when nobody is at the other end yet.
const NOT_YET: Duration = Duration::from_millis(2);

/// How long the port may take to get its name: the device tells it in a message
/// of its own, which the driver may read when PID 1 runs already
/// (`VIRTIO_CONSOLE_PORT_NAME` in drivers/char/virtio_console.c).
const APPEARS: Duration = Duration::from_secs(10);

/// The device node of the port with this name.
fn find(name: &str) -> Option<OsString> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let found = ports.flatten().find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim() == name)
    });
    found.map(|port| port.file_name())
}

/// What there is instead of the port, for whoever looks for the reason: the
/// ports with their names, the virtio devices with their drivers, and how often
/// these interrupted each processor.
fn there_is() -> String {
    let entries = |class: &str, of: &dyn Fn(&Path) -> String| {
        let entries = fs::read_dir(class).into_iter().flatten().flatten();
        let mut told: Vec<String> = entries
            .map(|entry| format!("{} {}", entry.file_name().to_string_lossy(), of(&entry.path())))
            .collect();
        told.sort();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    };
    let ports = entries("/sys/class/virtio-ports", &|port| {
        let name = fs::read_to_string(port.join("name"));
        name.map_or_else(|_| "without a name".to_owned(), |name| name.trim().to_owned())
    });
    let devices = entries("/sys/bus/virtio/devices", &|device| {
        let driver = fs::read_link(device.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name);
        driver.map_or_else(|| "without a driver".into(), |name| name.to_string_lossy().into_owned())
    });
    let interrupts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let interrupts: Vec<String> = interrupts
        .lines()
        .filter(|line| line.contains("virtio"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    format!("; ports: {ports}; devices: {devices}; interrupts: {}", interrupts.join(", "))
}

/// Finds and opens the port with this name.
pub(crate) fn open(name: &str) -> Result<File, String> {
    let deadline = Instant::now() + APPEARS;
    let device = loop {
        match find(name) {
            Some(device) => break device,
            None if Instant::now() < deadline => thread::sleep(NOT_YET),
            None => return Err(format!("no virtio port is called {name}{}", there_is())),
        }
    };
    let path = Path::new("/dev").join(device);
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// The open port, and where the session on it stands.
pub(crate) struct Port {
    file: File,
    decoder: Decoder,
    nonce: String,
    seq: u64,
}

impl Port {
    /// Finds and opens the agent's own port.
    pub(crate) fn open() -> Result<Self, String> {
        Ok(Port::on(open(NAME)?))
    }

    /// The port behind a descriptor.
    pub(crate) fn on(file: File) -> Self {
        Port { file, decoder: Decoder::default(), nonce: String::new(), seq: 0 }
    }

    /// The nonce of the session.
    pub(crate) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Begins a session: what is said from now on carries `nonce`.
    pub(crate) fn start(&mut self, nonce: String) {
        self.nonce = nonce;
        self.seq = 0;
    }

    /// The harness's next message. A port that reads as closed has nobody at
    /// its other end yet.
    pub(crate) fn listen(&mut self) -> HostMessage {
        loop {
            if let Some(message) = self.heard() {
                return message;
            }
            self.hear();
        }
    }

    /// A message that has come already.
    pub(crate) fn heard(&mut self) -> Option<HostMessage> {
        self.decoder.take().unwrap_or_else(|_| {
            // What cannot be read now cannot be read later: begin anew, and let
            // the harness's deadline for an answer pass.
            self.decoder = Decoder::default();
            None
        })
    }

    /// Takes what has come, or waits until something does.
    pub(crate) fn hear(&mut self) {
        let mut chunk = [0u8; 4096];
        match self.file.read(&mut chunk) {
            Ok(0) => thread::sleep(NOT_YET),
            Ok(n) => self.decoder.push(&chunk[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => thread::sleep(NOT_YET),
        }
    }

    /// What is readable when there is something to hear.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Says something to the harness.
    pub(crate) fn say(&mut self, message: GuestMessage) {
        let sealed = Sealed { nonce: self.nonce.clone(), seq: self.seq, message };
        self.seq += 1;
        let bytes = match frame::encode(&sealed) {
            Ok(bytes) => bytes,
            Err(error) => {
                let message =
                    GuestMessage::Refused { what: "send a message".into(), why: error.to_string() };
                frame::encode(&Sealed { message, ..sealed }).expect("a refusal is short")
            }
        };
        // An error means that the harness is gone, and with it, soon, the VM.
        while let Err(error) = self.file.write_all(&bytes) {
            if error.kind() != ErrorKind::Interrupted {
                thread::sleep(NOT_YET);
                break;
            }
        }
    }
}
