//! One stream of bytes, from a descriptor to another, without ever waiting.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};

/// How much is read at once, and kept at most. The driver of the ports copies up
/// to 32 KiB (`port_fops_write()` in drivers/char/virtio_console.c).
const CHUNK: usize = 32 * 1024;

/// More than a pipe or a terminal holds (`PIPE_DEF_BUFFERS` in
/// include/linux/pipe_fs_i.h, `TTYB_DEFAULT_MEM_LIMIT` in drivers/tty/tty_buffer.c).
const MOST_LEFT: usize = 1 << 20;

/// A stream between its beginning and its end.
pub(super) struct Flow {
    /// Where bytes come from, as long as they do.
    from: Option<File>,
    /// Where they go, as long as somebody takes them.
    to: Option<File>,
    /// What was read and not yet written.
    pending: Vec<u8>,
    given: u64,
    /// Of what is there when nobody writes to it any more who counts, how much is yet
    /// to be read at most.
    left: Option<usize>,
}

impl Flow {
    /// Sees to it that neither end makes anybody wait.
    pub(super) fn new(from: Option<File>, to: File) -> Result<Self, String> {
        for end in from.iter().chain([&to]) {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| format!("fcntl: {e}"))?;
        }
        Ok(Flow { from, to: Some(to), pending: Vec::with_capacity(CHUNK), given: 0, left: None })
    }

    /// Reads once, if everything was written, and writes once. `last` says that
    /// what is not there now does not belong to the stream, whoever still writes to it.
    pub(super) fn step(&mut self, last: bool) {
        if last && *self.left.get_or_insert(MOST_LEFT) == 0 {
            self.from = None;
        }
        if self.pending.is_empty()
            && let Some(from) = &mut self.from
        {
            self.pending.resize(CHUNK, 0);
            let read = from.read(&mut self.pending);
            self.pending.truncate(read.as_ref().map_or(0, |n| *n));
            match read {
                Ok(n @ 1..) => self.left = self.left.map(|left| left.saturating_sub(n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && !last => {}
                // A terminal that nobody has open any more reads as an error (EIO).
                Ok(0) | Err(_) => self.from = None,
            }
        }
        let Some(to) = &mut self.to else {
            // Nobody takes it, and nobody shall wait for that.
            self.given += self.pending.len() as u64;
            self.pending.clear();
            return;
        };
        if self.pending.is_empty() {
            return;
        }
        match to.write(&self.pending) {
            Ok(n) => {
                self.given += n as u64;
                self.pending.drain(..n);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.to = None,
        }
    }

    /// What has to happen before the next step can do anything.
    pub(super) fn waits_for(&self) -> Option<PollFd<'_>> {
        let (end, what) = match self.pending.is_empty() {
            true => (&self.from, PollFlags::POLLIN),
            false => (&self.to, PollFlags::POLLOUT),
        };
        end.as_ref().map(|end| PollFd::new(end.as_fd(), what))
    }

    /// How many bytes are through.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Whether it waits for whoever takes its bytes.
    pub(super) fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether all that it will ever bring is through.
    pub(super) fn is_over(&self) -> bool {
        self.from.is_none() && self.pending.is_empty()
    }

    /// Tells whoever takes its bytes that there are no more.
    pub(super) fn close(&mut self) {
        self.to = None;
    }

    /// Lets go of whoever makes its bytes, and of those that are here.
    pub(super) fn forget(&mut self) {
        self.from = None;
        self.pending.clear();
    }
}
