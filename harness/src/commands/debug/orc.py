# For gdb: unwinds a kernel's stack by the kernel's own tables (ORC, since 5.12 of
# our kernels; arch/x86/kernel/unwind_orc.c says how) where gdb has nothing to go by:
# through the entry code, which is assembler, and everywhere in a kernel without debug
# info. So a backtrace leads from an oops to the code that oopsed.

import re
import struct

import gdb
import gdb.unwinder

MASK = (1 << 64) - 1
KERNEL = 0xFFFF800000000000

# ORC_REG_* and ORC_TYPE_* (arch/x86/include/asm/orc_types.h, 6.4 and later).
PREV_SP, DX, DI, BP, SP, R10, R13, BP_INDIRECT, SP_INDIRECT = range(1, 10)
CALL, REGS, REGS_PARTIAL = 2, 3, 4
NAMES = {DX: "rdx", DI: "rdi", BP: "rbp", SP: "rsp", R10: "r10", R13: "r13",
         BP_INDIRECT: "rbp", SP_INDIRECT: "rsp"}

# struct pt_regs (arch/x86/include/asm/ptrace.h), one word each.
PT_REGS = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi "
           "orig_rax rip cs eflags rsp ss").split()
PARTIAL = PT_REGS.index("rip")


def read(address, length):
    return bytes(gdb.selected_inferior().read_memory(address, length))


def word(address):
    return struct.unpack("<Q", read(address & MASK, 8))[0]


class FrameId:
    def __init__(self, sp, pc):
        self.sp = gdb.Value(sp)
        self.pc = gdb.Value(pc)


class Orc(gdb.unwinder.Unwinder):
    def __init__(self):
        super().__init__("orc")
        address = lambda name: int(gdb.parse_and_eval("(long)&" + name)) & MASK
        self.word = gdb.lookup_type("unsigned long")
        self.ips = address("__start_orc_unwind_ip")
        self.entries = address("__start_orc_unwind")
        self.count = (address("__stop_orc_unwind_ip") - self.ips) // 4
        banner = read(address("linux_banner"), 64).decode("ascii", "replace")
        version = re.search(r"Linux version (\d+)\.(\d+)", banner)
        self.new = version is None or tuple(map(int, version.groups())) >= (6, 4)
        # Where a frame was interrupted, and did not call, and where that was a program:
        # by stack and address.
        self.interrupted = set()
        self.programs = set()

    def ip(self, n):
        at = self.ips + 4 * n
        return (at + struct.unpack("<i", read(at, 4))[0]) & MASK

    def entry(self, pc):
        low, high = 0, self.count
        while high - low > 1:
            middle = (low + high) // 2
            if self.ip(middle) <= pc:
                low = middle
            else:
                high = middle
        sp_offset, bp_offset, bits = struct.unpack("<hhH", read(self.entries + 6 * low, 6))
        kind = bits >> 8 & 7 if self.new else (bits >> 8 & 3) + CALL
        return sp_offset, bp_offset, bits & 15, bits >> 4 & 15, kind

    def __call__(self, frame):
        try:
            return self.unwind(frame)
        except gdb.error:
            return None

    def unwind(self, frame):
        get = lambda name: int(frame.read_register(name)) & MASK
        pc, sp, bp = get("rip"), get("rsp"), get("rbp")
        # Before gdb 11 a frame does not know which it is.
        first = getattr(frame, "level", lambda: 1)() == 0
        if (sp, pc) in self.programs or first and get("cs") & 3:
            # What entered the kernel, or has not: the last frame for us.
            before = frame.create_unwind_info(FrameId(sp, pc))
            before.add_saved_register("rip", gdb.Value(0).cast(self.word))
            before.add_saved_register("rsp", gdb.Value(sp).cast(self.word))
            return before
        block = gdb.block_for_pc(pc)
        if block is not None and block.function is not None:
            return None
        exact = first or (sp, pc) in self.interrupted
        if pc < KERNEL:
            # Whoever called a pointer to nowhere has only left where it did.
            entry = 8, 0, SP, 0, CALL
        else:
            entry = self.entry(pc if exact else pc - 1)
        sp_offset, bp_offset, sp_reg, bp_reg, kind = entry
        if sp_reg not in NAMES:
            return None
        base = get(NAMES[sp_reg])
        if sp_reg == SP_INDIRECT:
            base = word(base)
        cfa = (base + sp_offset) & MASK
        if sp_reg == BP_INDIRECT:
            cfa = word(cfa)
        before = frame.create_unwind_info(FrameId(cfa, pc))
        save = lambda name, value: before.add_saved_register(
            name, gdb.Value(value & MASK).cast(self.word))
        if kind == CALL:
            save("rip", word(cfa - 8))
            save("rsp", cfa)
            if bp_reg == PREV_SP:
                bp = word(cfa + bp_offset)
            elif bp_reg == BP:
                bp = word(bp + bp_offset)
            # What is not said to be saved is not known in the caller. Of the others
            # that a function must keep, the tables say nothing.
            save("rbp", bp)
            return before
        if kind not in (REGS, REGS_PARTIAL):
            return None
        names = PT_REGS if kind == REGS else PT_REGS[PARTIAL:]
        saved = dict(zip(names, struct.unpack("<%dQ" % len(names), read(cfa, 8 * len(names)))))
        place = saved["rsp"], saved["rip"]
        self.interrupted.add(place)
        if saved["cs"] & 3:
            self.programs.add(place)
        for name, value in saved.items():
            if name not in ("orig_rax", "cs", "eflags", "ss"):
                save(name, value)
        return before


try:
    gdb.unwinder.register_unwinder(None, Orc(), replace=True)
except gdb.error:
    # A kernel that has no such tables, or no kernel.
    pass
