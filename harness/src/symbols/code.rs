//! Whether code of an object and code of the kernel are the same.
//!
//! What the linker and objtool fill in is left out of the comparison. Nothing
//! here does IO.

/// A place in a function that the linker fills in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    /// In bytes from the start of the function.
    pub(super) at: usize,
    /// In bytes.
    pub(super) size: usize,
    /// Whether the linker may choose another instruction that does the same:
    /// one that asks the global offset table becomes one that needs none.
    pub(super) relaxed: bool,
}

/// Opcodes of a call and of a jump with four bytes of distance.
const CALL: u8 = 0xe8;
const JUMP: u8 = 0xe9;
/// The opcode of a jump with one byte of distance.
const SHORT_JUMP: u8 = 0xeb;
/// The five bytes that objtool makes of a call that it takes out: of a
/// profiler's, for example (`--mnop`, `--hacks=noinstr`).
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Compares a function of an object with that of the kernel. `branches` are
/// the jump labels in it: the compiler writes jumps there, which objtool turns
/// into NOPs (`--hacks=jump_label`).
pub(super) fn same(object: &[u8], holes: &[Hole], branches: &[usize], kernel: &[u8]) -> bool {
    if object.len() != kernel.len() {
        return false;
    }
    let mut left_out = vec![false; object.len()];
    let mut leave_out = |from: usize, size: usize| {
        let end = from.saturating_add(size).min(object.len());
        left_out[from.min(end)..end].fill(true);
    };
    for hole in holes {
        leave_out(hole.at, hole.size);
        let Some(opcode) = hole.at.checked_sub(1) else { continue };
        let call = matches!(object.get(opcode), Some(&CALL | &JUMP));
        if call && kernel.get(opcode..opcode + NOP5.len()) == Some(&NOP5) {
            leave_out(opcode, 1);
        }
        if hole.relaxed {
            // A REX prefix, the opcode, and the byte that names registers.
            let before = hole.at.saturating_sub(3);
            leave_out(before, hole.at - before);
        }
    }
    for &branch in branches {
        match object.get(branch) {
            Some(&SHORT_JUMP) => leave_out(branch, 2),
            Some(&JUMP) => leave_out(branch, 5),
            // A NOP already.
            _ => {}
        }
    }
    std::iter::zip(object, kernel).zip(left_out).all(|((ours, theirs), out)| out || ours == theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn hole(at: usize) -> Hole {
        Hole { at, size: 4, relaxed: false }
    }

    #[test]
    fn what_the_linker_fills_in_does_not_count() {
        let object = [0x53, CALL, 0, 0, 0, 0, 0xc3];
        let kernel = [0x53, CALL, 0x12, 0x34, 0x56, 0x78, 0xc3];
        assert!(same(&object, &[hole(2)], &[], &kernel));
        assert!(!same(&object, &[], &[], &kernel));
        assert!(!same(&object, &[hole(3)], &[], &kernel));
        let other = [0x55, CALL, 0x12, 0x34, 0x56, 0x78, 0xc3];
        assert!(!same(&object, &[hole(2)], &[], &other));
    }

    #[test]
    fn code_of_another_size_differs() {
        assert!(!same(&[0x90, 0xc3], &[], &[], &[0x90]));
        assert!(same(&[], &[], &[], &[]));
        // A hole beyond the end is none of ours.
        assert!(same(&[0xc3], &[hole(7)], &[9], &[0xc3]));
    }

    #[test]
    fn a_call_may_have_been_taken_out_but_not_another_instruction() {
        let object = [CALL, 0, 0, 0, 0, 0xc3];
        assert!(same(&object, &[hole(1)], &[], &[0x0f, 0x1f, 0x44, 0, 0, 0xc3]));
        assert!(!same(&object, &[hole(1)], &[], &[0x0f, 0x1f, 0x80, 0, 0, 0xc3]));
        let load = [0xa1, 0, 0, 0, 0, 0xc3];
        assert!(!same(&load, &[hole(1)], &[], &[0x0f, 0x1f, 0x44, 0, 0, 0xc3]));
    }

    #[test]
    fn a_jump_label_is_a_jump_or_a_nop() {
        let short = [0x90, SHORT_JUMP, 0x10, 0xc3];
        assert!(same(&short, &[], &[1], &[0x90, 0x66, 0x90, 0xc3]));
        assert!(!same(&short, &[], &[], &[0x90, 0x66, 0x90, 0xc3]));
        let long = [JUMP, 1, 2, 3, 4, 0xc3];
        assert!(same(&long, &[], &[0], &[0x0f, 0x1f, 0x44, 0, 0, 0xc3]));
        assert!(!same(&long, &[], &[0], &[0x0f, 0x1f, 0x44, 0, 0, 0xcc]));
        // The other way round is not what objtool does.
        assert!(!same(&[0x66, 0x90], &[], &[0], &[SHORT_JUMP, 0x10]));
    }

    #[test]
    fn an_access_by_the_global_offset_table_may_be_relaxed() {
        // mov f@GOTPCREL(%rip),%rax; lea f(%rip),%rax
        let object = [0x48, 0x8b, 0x05, 0, 0, 0, 0];
        let kernel = [0x48, 0x8d, 0x05, 1, 2, 3, 4];
        assert!(same(&object, &[Hole { relaxed: true, ..hole(3) }], &[], &kernel));
        assert!(!same(&object, &[hole(3)], &[], &kernel));
    }
}
