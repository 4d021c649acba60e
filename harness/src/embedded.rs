//! What the build script put into this binary.

/// The agent: PID 1 of the guest, a static program.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hmm-agent"));

/// The test binary, likewise.
pub const TESTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hmm-tests"));

/// The files of kernel-configs and images, ci/known-issues.yaml, and the bug that
/// `torture` plants: path in the repository, bytes.
pub fn files() -> &'static [(&'static str, &'static [u8])] {
    include!(concat!(env!("OUT_DIR"), "/files.rs"))
}

/// The text of one of them.
pub fn text(path: &str) -> Option<&'static str> {
    let (_, bytes) = files().iter().find(|(name, _)| *name == path)?;
    std::str::from_utf8(bytes).ok()
}
