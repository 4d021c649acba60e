//! What a guest has in its memory, as a file that gdb and `crash` read: an ELF core
//! with a note for each processor.
//!
//! QEMU writes all of the guest's memory, most of which nobody has ever written to.
//! It writes into a pipe, and what is nothing but zeros becomes a hole of the file.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use serde_json::json;

use crate::vm::Vm;

/// How much is looked at in one piece, in bytes: a hole takes a block of the file
/// system.
const PIECE: usize = 64 * 1024;

/// Writes the memory of a VM to `path`.
///
/// # Errors
/// When QEMU or the disk does not let it; what is there then is removed.
pub(crate) async fn write(vm: &mut Vm<'_>, path: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let file = File::create(path).map_err(failed)?;
    let (from_qemu, to_us) = io::pipe().map_err(failed)?;
    let copied = tokio::task::spawn_blocking(move || copy(from_qemu, file));
    let lent = vm.ask("getfd", json!({ "fdname": "memory" }), Some(to_us.as_fd())).await;
    // The copy ends where QEMU has closed its end of the pipe and nobody else has one.
    drop(to_us);
    let dumped = match lent {
        // By the guest's page tables, so that a debugger finds virtual addresses.
        Ok(_) => {
            let arguments = json!({ "paging": true, "protocol": "fd:memory" });
            vm.ask("dump-guest-memory", arguments, None).await
        }
        Err(why) => Err(why),
    };
    let written = match dumped {
        Ok(_) => copied.await.map_err(io::Error::other).and_then(|copied| copied).map_err(failed),
        // A disk that is full makes QEMU stop too, and knows better why. Where QEMU
        // says nothing the copy goes on.
        Err(why) => Err(match copied.is_finished() {
            true => match copied.await {
                Ok(Err(error)) => failed(error),
                _ => format!("cannot write {}: {why}", path.display()),
            },
            false => format!("cannot write {}: {why}", path.display()),
        }),
    };
    if written.is_err() {
        // What cannot be removed either is told to be no dump.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Copies to the end of the stream, zeros as holes.
fn copy(mut from: impl Read, mut to: File) -> io::Result<()> {
    let mut piece = vec![0u8; PIECE];
    let mut length = 0;
    loop {
        let n = fill(&mut from, &mut piece)?;
        if n == 0 {
            return to.set_len(length);
        }
        length += n as u64;
        if piece[..n].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Start(length))?;
        } else {
            to.write_all(&piece[..n])?;
        }
    }
}

/// Reads until the buffer is full or the stream ends, and says how much it was.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match from.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn zeros_take_no_room_and_are_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("vmcore");
        let mut bytes = vec![0u8; 300 * PIECE + 7];
        bytes[0] = 1;
        bytes[200 * PIECE] = 2;
        copy(bytes.as_slice(), File::create(&path).expect("writable")).expect("writable");
        assert_eq!(std::fs::read(&path).expect("written"), bytes);
        let taken = path.metadata().expect("written").blocks() * 512;
        assert!(taken < bytes.len() as u64 / 10, "{taken} bytes");
    }
}
