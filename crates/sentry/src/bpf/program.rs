//! [`Program`]: a classic BPF program that has been checked (`bpf_check_classic` of net/core/filter.c, `seccomp_check_filter`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Errno;
use crate::mm::Mm;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `struct sock_fprog`.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Fprog {
    len: u16,
    _pad: [u16; 3],
    filter: u64,
}

/// Offsets that stand for facts about a packet (`SKF_AD_*`).
pub mod fact {
    pub const PROTOCOL: u32 = AD_OFF;
    pub const PACKET_TYPE: u32 = AD_OFF + 4;
    pub const INTERFACE: u32 = AD_OFF + 8;
    pub const MARK: u32 = AD_OFF + 20;
    pub const QUEUE: u32 = AD_OFF + 24;
    pub const HARDWARE: u32 = AD_OFF + 28;
    pub const HASH: u32 = AD_OFF + 32;
    pub const CPU: u32 = AD_OFF + 36;
    pub const VLAN: u32 = AD_OFF + 44;
    pub const HAS_VLAN: u32 = AD_OFF + 48;
    pub const VLAN_PROTOCOL: u32 = AD_OFF + 60;
    /// Those that are there. Not there are netlink attributes, the payload's offset, random numbers.
    pub(super) const ALL: [u32; 11] =
        [PROTOCOL, PACKET_TYPE, INTERFACE, MARK, QUEUE, HARDWARE, HASH, CPU, VLAN, HAS_VLAN, VLAN_PROTOCOL];
    pub(super) const AD_OFF: u32 = (-0x1000i32) as u32;
}

/// Words of scratch memory (`BPF_MEMWORDS`).
pub(super) const MEM_WORDS: usize = 16;

/// What a program runs on, and so what it may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// A system call: aligned words of so many bytes, nothing else.
    Seccomp { bytes: u32 },
    /// A packet of any length, in network order, and what is known of it (`SKF_AD_*`).
    Socket,
}

/// How much is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Word,
    Half,
    Byte,
}

impl Size {
    /// The number that stands at `at` in network order. None: it is not all there.
    pub fn of(self, bytes: &[u8], at: usize) -> Option<u32> {
        let len = match self {
            Size::Word => 4,
            Size::Half => 2,
            Size::Byte => 1,
        };
        let bytes = bytes.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }
}

/// An instruction that has been checked: operands are in range, jumps go forward and stay inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// A = a part of the data.
    LoadData(Size, u32),
    /// Its place counts from X.
    LoadDataAtX(Size, u32),
    /// X = the bytes of an IPv4 header that starts there.
    LoadXHeader(u32),
    LoadLength,
    LoadXLength,
    LoadImm(u32),
    LoadMem(usize),
    LoadXImm(u32),
    LoadXMem(usize),
    Store(usize),
    StoreX(usize),
    Alu(Alu, Operand),
    Neg,
    Tax,
    Txa,
    /// So many instructions further.
    Jump(usize),
    /// On a comparison of A; (if true, if false).
    Branch(Compare, Operand, usize, usize),
    Return(u32),
    ReturnA,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    K(u32),
    X,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    And,
    Or,
    Xor,
    Lsh,
    Rsh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Greater,
    GreaterEqual,
    AnyBit,
}

/// A program that ends on every path after finitely many steps (all jumps go forward) and touches nothing but its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub(super) ops: Vec<Op>,
    cost: usize,
}

// The parts of a code.
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;
/// Sizes.
const W: u16 = 0;
const H: u16 = 0x08;
const B: u16 = 0x10;
const X: u16 = 8;
const A: u16 = 0x10;

impl Program {
    /// Most instructions (`BPF_MAXINSNS`).
    pub const MAX: usize = 4096;

    /// Reads a `struct sock_fprog` and checks the program that it names.
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL`.
    pub fn read(mm: &Mm, addr: u64, dialect: Dialect, allowed: impl FnOnce() -> Result<(), Errno>) -> Result<Program, Errno> {
        let fprog: Fprog = mm.read_val(addr)?;
        let len = usize::from(fprog.len);
        if len == 0 || len > Self::MAX {
            return Err(Errno::EINVAL);
        }
        allowed()?;
        let mut code = vec![Instruction::default(); len];
        mm.read(fprog.filter, code.as_mut_slice().as_mut_bytes())?;
        Program::new(dialect, &code)
    }

    /// Checks a program.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(dialect: Dialect, code: &[Instruction]) -> Result<Program, Errno> {
        if code.is_empty() || code.len() > Self::MAX {
            return Err(Errno::EINVAL);
        }
        let ops = code.iter().enumerate().map(|(at, one)| decode(dialect, one, code.len() - at)).collect::<Option<Vec<Op>>>();
        let ops = ops.ok_or(Errno::EINVAL)?;
        if !matches!(ops.last(), Some(Op::Return(_) | Op::ReturnA)) || !stored_before_loaded(&ops) {
            return Err(Errno::EINVAL);
        }
        let cost = 3 + ops.iter().map(cost).sum::<usize>();
        Ok(Program { ops, cost })
    }

    /// Its length as Linux counts it against the limit of a chain: in instructions of the extended BPF it becomes there.
    pub fn cost(&self) -> usize {
        self.cost
    }
}

/// One instruction, with `left` instructions from it to the end.
fn decode(dialect: Dialect, one: &Instruction, left: usize) -> Option<Op> {
    let Instruction { code, jt, jf, k } = *one;
    let word = usize::try_from(k).ok().filter(|&word| word < MEM_WORDS);
    let source = code & X;
    let operand = if source == X { Operand::X } else { Operand::K(k) };
    // Where a jump by `by` lands, if that is inside.
    let inside = |by: u32| usize::try_from(by).ok().filter(|&by| by < left - 1);
    let sized = match code & 0x18 {
        W => Some(Size::Word),
        H => Some(Size::Half),
        B => Some(Size::Byte),
        _ => None,
    };
    match code & 7 {
        LD if code & 0xe0 == ABS => match (dialect, sized?) {
            (Dialect::Seccomp { bytes }, Size::Word) if k < bytes && k.is_multiple_of(4) => Some(Op::LoadData(Size::Word, k)),
            (Dialect::Seccomp { .. }, _) => None,
            (Dialect::Socket, _) if k >= fact::AD_OFF && !fact::ALL.contains(&k) => None,
            (Dialect::Socket, size) => Some(Op::LoadData(size, k)),
        },
        LD if code & 0xe0 == IND && dialect == Dialect::Socket => Some(Op::LoadDataAtX(sized?, k)),
        LD | LDX if code & !7 == LEN => Some(match (dialect, code & 7) {
            (Dialect::Seccomp { bytes }, LD) => Op::LoadImm(bytes),
            (Dialect::Seccomp { bytes }, _) => Op::LoadXImm(bytes),
            (Dialect::Socket, LD) => Op::LoadLength,
            (Dialect::Socket, _) => Op::LoadXLength,
        }),
        LDX if code == LDX | MSH | B && dialect == Dialect::Socket => Some(Op::LoadXHeader(k)),
        LD if code == LD => Some(Op::LoadImm(k)),
        LD if code == LD | MEM => word.map(Op::LoadMem),
        LDX if code == LDX => Some(Op::LoadXImm(k)),
        LDX if code == LDX | MEM => word.map(Op::LoadXMem),
        ST if code == ST => word.map(Op::Store),
        STX if code == STX => word.map(Op::StoreX),
        ALU if code == ALU | 0x80 => Some(Op::Neg),
        ALU => {
            let alu = match code & !7 & !X {
                0x00 => Alu::Add,
                0x10 => Alu::Sub,
                0x20 => Alu::Mul,
                0x30 if source == X || k != 0 => Alu::Div,
                0x40 => Alu::Or,
                0x50 => Alu::And,
                0x60 if source == X || k < 32 => Alu::Lsh,
                0x70 if source == X || k < 32 => Alu::Rsh,
                0x90 if dialect == Dialect::Socket && (source == X || k != 0) => Alu::Mod,
                0xa0 => Alu::Xor,
                _ => return None,
            };
            Some(Op::Alu(alu, operand))
        }
        JMP if code == JMP => inside(k).map(Op::Jump),
        JMP => {
            let compare = match code & !7 & !X {
                0x10 => Compare::Equal,
                0x20 => Compare::Greater,
                0x30 => Compare::GreaterEqual,
                0x40 => Compare::AnyBit,
                _ => return None,
            };
            Some(Op::Branch(compare, operand, inside(jt.into())?, inside(jf.into())?))
        }
        RET if code == RET => Some(Op::Return(k)),
        RET if code == RET | A => Some(Op::ReturnA),
        MISC if code == MISC => Some(Op::Tax),
        MISC if code == MISC | 0x80 => Some(Op::Txa),
        _ => None,
    }
}

/// Whether no path loads a word of scratch memory that it has not stored (`check_load_and_stores`).
fn stored_before_loaded(ops: &[Op]) -> bool {
    // Words that are stored on every path to an instruction.
    let mut before = vec![u16::MAX; ops.len()];
    let mut valid = 0;
    for (at, op) in ops.iter().enumerate() {
        valid &= before.get(at).copied().unwrap_or(0);
        let mut reach = |by: usize, valid: u16| {
            if let Some(mask) = before.get_mut(at + 1 + by) {
                *mask &= valid;
            }
        };
        match *op {
            Op::Store(word) | Op::StoreX(word) => valid |= 1 << word,
            Op::LoadMem(word) | Op::LoadXMem(word) if valid & 1 << word == 0 => return false,
            Op::Jump(by) => {
                reach(by, valid);
                valid = u16::MAX;
            }
            Op::Branch(_, _, yes, no) => {
                reach(yes, valid);
                reach(no, valid);
                valid = u16::MAX;
            }
            _ => {}
        }
    }
    true
}

/// Instructions of extended BPF that one becomes (`bpf_convert_filter`).
fn cost(op: &Op) -> usize {
    match *op {
        Op::Return(_) => 2,
        Op::Alu(Alu::Div, Operand::X) => 4,
        Op::Branch(compare, operand, yes, no) => {
            let constant = usize::from(matches!(operand, Operand::K(k) if k > i32::MAX as u32));
            let one = no == 0 || yes == 0 && compare != Compare::AnyBit;
            constant + if one { 1 } else { 2 }
        }
        _ => 1,
    }
}
