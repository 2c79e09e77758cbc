//! The signal frame: `struct ucontext` of x86-64 (arch/x86/include/uapi/asm/sigcontext.h), as words.

use crate::Registers;

/// Length of the `ucontext` the kernel writes.
pub const FRAME_LEN: u64 = 304;
const WORDS: usize = (FRAME_LEN / 8) as usize;

const FLAGS: usize = 0;
const STACK_POINTER: usize = 2;
const STACK_SIZE: usize = 4;
/// First of the general registers.
const REGISTERS: usize = 5;
const SEGMENTS: usize = REGISTERS + 18;
const ERROR: usize = REGISTERS + 19;
const TRAP: usize = REGISTERS + 20;
const FPSTATE: usize = REGISTERS + 23;
const MASK: usize = REGISTERS + 32;

/// A checked copy, or one to be written.
pub struct Frame([u64; WORDS]);

impl Frame {
    pub fn from_bytes(bytes: &[u8; FRAME_LEN as usize]) -> Frame {
        let mut words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight"));
        }
        Frame(words)
    }

    pub fn to_bytes(&self) -> [u8; FRAME_LEN as usize] {
        let mut bytes = [0; FRAME_LEN as usize];
        for (word, chunk) in self.0.iter().zip(bytes.chunks_exact_mut(8)) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// A frame to return from: these registers, this extended state (an address, 0 for the initial state), that signal
    /// stack, and no signals blocked but those not in `open`.
    pub fn build(registers: &Registers, fpstate: u64, stack: std::ops::Range<u64>, open: &[i32]) -> Frame {
        let mut words = [0; WORDS];
        let r = registers;
        // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
        words[FLAGS] = 7;
        words[STACK_POINTER] = stack.start;
        words[STACK_SIZE] = stack.end - stack.start;
        let general = [
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx, r.rsp,
            r.rip, r.eflags,
        ];
        words[REGISTERS..SEGMENTS].copy_from_slice(&general);
        words[SEGMENTS] = r.cs & 0xffff | (r.ss & 0xffff) << 48;
        words[FPSTATE] = fpstate;
        words[MASK] = open.iter().fold(u64::MAX, |mask, signal| mask & !(1 << (signal - 1)));
        Frame(words)
    }

    /// The general registers, sanitised; without the bases, which are not in a frame.
    pub fn registers(&self) -> Registers {
        let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags]: [u64; 18] =
            self.0[REGISTERS..SEGMENTS].try_into().expect("eighteen registers");
        let mut registers = Registers {
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rdi,
            rsi,
            rbp,
            rbx,
            rdx,
            rax,
            rcx,
            rsp,
            rip,
            eflags,
            orig_rax: u64::MAX,
            ..Registers::default()
        };
        registers.sanitise();
        registers
    }

    /// Before any check: to tell where in the blob a thread was.
    pub fn raw_rip(&self) -> u64 {
        self.0[REGISTERS + 16]
    }
    pub fn error(&self) -> u64 {
        self.0[ERROR]
    }
    pub fn trap(&self) -> u64 {
        self.0[TRAP]
    }
    pub fn fpstate(&self) -> u64 {
        self.0[FPSTATE]
    }
}
