//! The processor state of a guest thread.

/// The general registers, in the order of Linux's `user_regs_struct`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

impl Registers {
    /// Flags a guest may set: CF PF AF ZF SF TF DF OF NT RF AC ID.
    pub const GUEST_FLAGS: u64 = 0x25_4dd5;

    /// A new program's state: everything zero but the entry point and the stack.
    pub fn at_entry(rip: u64, rsp: u64) -> Registers {
        Registers { rip, rsp, cs: 0x33, ss: 0x2b, eflags: 0x202, ..Registers::default() }
    }

    /// Makes hostile values safe to load: canonical user addresses, 64-bit user segments, only flags a user may set.
    pub fn sanitise(&mut self) {
        const TOP: u64 = 0x7fff_ffff_f000;
        for base in [&mut self.fs_base, &mut self.gs_base] {
            if *base >= TOP {
                *base = 0;
            }
        }
        if self.rip >= TOP {
            self.rip = 0;
        }
        self.eflags = self.eflags & Self::GUEST_FLAGS | 0x202;
        self.cs = 0x33;
        self.ss = 0x2b;
    }
}

/// The extended state (x87, SSE, AVX, AVX-512 …) in `XSAVE`'s standard layout, or the processor's initial state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum XState {
    #[default]
    Initial,
    Saved(Box<[u8]>),
}

/// What a stub may answer by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    pub pid: u32,
    pub tid: u32,
    pub ppid: u32,
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// Whether calls may be answered in the stub at all (off while the process is traced or filtered).
    pub enabled: bool,
}
