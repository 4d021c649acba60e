//! What comes through a VM's trace port, written down chunk by chunk.
//!
//! Only what belongs to the test that runs is kept, whole chunks in their order,
//! within a bound. What they mean is nobody's business here.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use hmm_protocol::trace::{CHUNKS, ChunkHeader};

use crate::rundir::raw_trace_of;

/// How much of a test's trace is kept, in bytes: some ten million events.
const LIMIT: u64 = 1 << 30;

/// The trace of the test that a VM runs.
#[derive(Debug)]
pub(crate) struct Chunks {
    dir: PathBuf,
    vm: u32,
    tag: u64,
    /// Which order of this VM is being carried out, counted from 1.
    run: u32,
    file: Option<File>,
    written: u64,
    arrived: u64,
    /// The beginning of a chunk.
    pending: Vec<u8>,
    /// What comes is no trace, or too much of it: nothing is believed any more.
    broken: bool,
}

impl Chunks {
    /// For the VM with this number, whose chunks carry `tag`.
    pub(crate) fn new(dir: &Path, vm: u32, tag: u64) -> Self {
        Chunks {
            dir: dir.to_owned(),
            vm,
            tag,
            run: 0,
            file: None,
            written: 0,
            arrived: 0,
            pending: Vec::new(),
            broken: false,
        }
    }

    /// The next test is ordered. Where it is `traced`, what comes from here on is
    /// its trace.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(crate) fn begin(&mut self, traced: bool) -> std::io::Result<()> {
        self.run += 1;
        (self.written, self.arrived, self.file) = (0, 0, None);
        if traced {
            let path = self.dir.join(raw_trace_of(self.vm, self.run));
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            self.file = Some(File::create(&path)?);
        }
        Ok(())
    }

    /// How many chunks of the test have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Whether what follows is believed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes bytes as they come.
    ///
    /// # Errors
    /// When they cannot be written down.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.broken {
            return Ok(());
        }
        self.pending.extend_from_slice(bytes);
        let mut taken = 0;
        while let Some(header) = ChunkHeader::decode(&self.pending[taken..]) {
            let length = ChunkHeader::SIZE + header.length as usize;
            let due = header.tag == self.tag && header.run == self.run;
            if !CHUNKS.contains(&header.length) || !due || self.written + length as u64 > LIMIT {
                self.broken = true;
                break;
            }
            let Some(chunk) = self.pending.get(taken..taken + length) else { break };
            if let Some(file) = &mut self.file {
                file.write_all(chunk)?;
            }
            self.written += length as u64;
            self.arrived += 1;
            taken += length;
        }
        self.pending.drain(..taken);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(tag: u64, run: u32, seq: u64, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).expect("short");
        let header = ChunkHeader { tag, run, cpu: 0, seq, length };
        [&header.encode()[..], bytes].concat()
    }

    #[test]
    fn whole_chunks_of_the_test_that_runs_are_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut chunks = Chunks::new(dir.path(), 3, 7);
        chunks.begin(true).expect("writable");
        let all =
            [chunk(7, 1, 0, b"sixteen bytes: 1"), chunk(7, 1, 1, b"sixteen bytes: 2")].concat();
        for byte in &all {
            chunks.push(&[*byte]).expect("writable");
        }
        assert_eq!((chunks.arrived(), chunks.is_broken()), (2, false));
        let path = dir.path().join(raw_trace_of(3, 1));
        assert_eq!(fs::read(&path).expect("written"), all);
        chunks.begin(false).expect("writable");
        chunks.push(&chunk(7, 1, 2, b"sixteen bytes: 3")).expect("writable");
        assert!(chunks.is_broken(), "it is of a test that is over");
        assert_eq!(fs::read(&path).expect("written"), all);
    }

    #[test]
    fn what_is_no_trace_is_not_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for wrong in [chunk(8, 1, 0, b"of another start"), chunk(7, 1, 0, b""), vec![0xff; 100]] {
            let mut chunks = Chunks::new(dir.path(), 0, 7);
            chunks.begin(true).expect("writable");
            chunks.push(&wrong).expect("writable");
            chunks.push(&chunk(7, 1, 0, b"sixteen bytes: 1")).expect("writable");
            assert_eq!((chunks.arrived(), chunks.is_broken()), (0, true));
        }
    }
}
