//! What the addresses of a kernel's call trace stand for, and how people read that.
//!
//! Nothing here does IO.

use serde::{Deserialize, Serialize};

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// As it was asked for.
    pub address: String,
    /// The innermost inlined function first, last the one that the kernel
    /// named. Empty if that could not be found out.
    pub frames: Vec<Frame>,
    /// Why there are no frames.
    pub why: Option<String>,
}

/// A function and the line in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Its name in the source.
    pub function: String,
    /// Relative to the tree, or to the build directory if the build made it.
    pub file: String,
    /// Counted from 1; 0 if the compiler assigned the code to no line.
    pub line: u32,
}

/// The lines of a trace, one for each frame: `function (file:line)`, those that
/// the compiler has inlined into the next one marked. An address that could
/// not be resolved stays as it is, with the reason.
pub fn trace(resolved: &[Resolved]) -> Vec<String> {
    let mut lines = Vec::new();
    for Resolved { address, frames, why } in resolved {
        for (n, frame) in frames.iter().enumerate() {
            let inlined = if n + 1 < frames.len() { " [inlined]" } else { "" };
            let line = if frame.line == 0 { "?" } else { &frame.line.to_string() };
            lines.push(format!("{} ({}:{line}){inlined}", frame.function, frame.file));
        }
        if frames.is_empty() {
            let why = why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            lines.push(format!("{address}{why}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_a_line_and_inlined_ones_are_marked() {
        let frame = |function: &str, file: &str, line| Frame {
            function: function.to_owned(),
            file: file.to_owned(),
            line,
        };
        let resolved = [
            Resolved {
                address: "__x64_sys_ioctl+0x49e/0x9e0".to_owned(),
                frames: vec![
                    frame("vfs_ioctl", "fs/ioctl.c", 0),
                    frame("__do_sys_ioctl", "fs/ioctl.c", 907),
                    frame("__x64_sys_ioctl", "fs/ioctl.c", 893),
                ],
                why: None,
            },
            Resolved {
                address: "entry_SYSCALL_64+0x4b/0x53".to_owned(),
                frames: Vec::new(),
                why: Some("assembler source".to_owned()),
            },
            Resolved { address: "f+0x1/0x2".to_owned(), frames: Vec::new(), why: None },
        ];
        let expect = [
            "vfs_ioctl (fs/ioctl.c:?) [inlined]",
            "__do_sys_ioctl (fs/ioctl.c:907) [inlined]",
            "__x64_sys_ioctl (fs/ioctl.c:893)",
            "entry_SYSCALL_64+0x4b/0x53 (assembler source)",
            "f+0x1/0x2",
        ];
        assert_eq!(trace(&resolved), expect);
        assert!(trace(&[]).is_empty());
    }
}
