//! The agent's virtio-serial port: frames in, frames out.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use hmm_protocol::frame::{self, Decoder};
use hmm_protocol::wire::{GuestMessage, HostMessage, Sealed};

/// The name that the harness gives the port on QEMU's command line.
const NAME: &str = "hmm.agent";

/// How long the agent sleeps when nobody is at the other end yet.
const NOT_YET: Duration = Duration::from_millis(2);

/// The open port, and where the session on it stands.
pub(crate) struct Port {
    file: File,
    decoder: Decoder,
    nonce: String,
    seq: u64,
}

impl Port {
    /// Finds and opens the port.
    pub(crate) fn open() -> Result<Self, String> {
        let class = "/sys/class/virtio-ports";
        let ports = fs::read_dir(class).map_err(|e| format!("{class}: {e}"))?;
        let found = ports.flatten().find(|port| {
            fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == NAME)
        });
        let device = found.ok_or_else(|| format!("no virtio port is called {NAME}"))?.file_name();
        let path = std::path::Path::new("/dev").join(device);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Port { file, decoder: Decoder::default(), nonce: String::new(), seq: 0 })
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
            match self.decoder.take() {
                Ok(Some(message)) => return message,
                Ok(None) => {}
                // What cannot be read now cannot be read later: begin anew, and
                // let the harness's deadline for an answer pass.
                Err(_) => self.decoder = Decoder::default(),
            }
            let mut chunk = [0u8; 4096];
            match self.file.read(&mut chunk) {
                Ok(0) => thread::sleep(NOT_YET),
                Ok(n) => self.decoder.push(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => thread::sleep(NOT_YET),
            }
        }
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
