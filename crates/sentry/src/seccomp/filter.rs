//! [`Filter`]: a program in its chain, and what the chain says of a call.

use std::sync::Arc;

use super::{ARCH, ret};
use crate::Errno;
use crate::bpf::{self, Dialect, Instruction, Program, Size};

/// `struct seccomp_data`: what a filter sees of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    pub number: i32,
    pub instruction_pointer: u64,
    pub args: [u64; 6],
}

impl Data {
    /// Its size in bytes.
    pub const SIZE: u32 = 64;
    pub const DIALECT: Dialect = Dialect::Seccomp { bytes: Data::SIZE };

    /// Checks a program that is to run on it.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn program(code: &[Instruction]) -> Result<Program, Errno> {
        Program::new(Self::DIALECT, code)
    }

    /// The 32-bit word at an offset.
    fn word(&self, offset: u32) -> Option<u32> {
        let half = |value: u64| if offset & 4 == 0 { value as u32 } else { (value >> 32) as u32 };
        match offset {
            0 => Some(self.number as u32),
            4 => Some(ARCH),
            8 | 12 => Some(half(self.instruction_pointer)),
            _ => self.args.get(usize::try_from(offset.checked_sub(16)?).ok()? / 8).map(|&arg| half(arg)),
        }
    }
}

impl bpf::Data for Data {
    fn load(&self, _size: Size, offset: u32) -> Option<u32> {
        self.word(offset)
    }

    fn length(&self) -> u32 {
        Data::SIZE
    }
}

/// A call of which only number and architecture are known.
struct Number(u32);

impl bpf::Data for Number {
    fn load(&self, _size: Size, offset: u32) -> Option<u32> {
        match offset {
            0 => Some(self.0),
            4 => Some(ARCH),
            _ => None,
        }
    }

    fn length(&self) -> u32 {
        Data::SIZE
    }
}

/// Numbers that [`Filter::always_allows`] knows of.
const NUMBERS: usize = 512;

/// A filter and those it was put on.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    /// `SECCOMP_FILTER_FLAG_LOG`.
    log: bool,
    previous: Option<Arc<Filter>>,
    /// Numbers that the whole chain allows whatever else the call is, one bit each.
    allowed: [u64; NUMBERS / 64],
    /// Its length and its ancestors', as Linux counts them.
    cost: usize,
    /// How many there are in the chain.
    depth: usize,
}

impl Filter {
    /// Most instructions in a chain (`MAX_INSNS_PER_PATH`); each ancestor counts 4 more.
    const COST_MAX: usize = (1 << 18) / 8;

    /// Puts a program on top of a chain.
    ///
    /// # Errors
    /// `ENOMEM` when the chain becomes too long.
    pub fn new(program: Program, log: bool, previous: Option<Arc<Filter>>) -> Result<Arc<Filter>, Errno> {
        let above = previous.as_ref().map_or(0, |filter| filter.cost + 4);
        let cost = program.cost() + above;
        if cost > Self::COST_MAX {
            return Err(Errno::ENOMEM);
        }
        let mut allowed = previous.as_ref().map_or([u64::MAX; NUMBERS / 64], |filter| filter.allowed);
        for (at, word) in allowed.iter_mut().enumerate() {
            for bit in 0..64 {
                if *word & 1 << bit != 0 && !allows(&program, (at * 64 + bit) as u32) {
                    *word &= !(1 << bit);
                }
            }
        }
        let depth = previous.as_ref().map_or(0, |filter| filter.depth) + 1;
        Ok(Arc::new(Filter { program, log, previous, allowed, cost, depth }))
    }

    /// Whether a call with this number passes whatever its arguments.
    pub fn always_allows(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).ok().and_then(|at| self.allowed.get(at));
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// What the chain says: the most restrictive answer, of equal ones the newest filter's. And whether that filter wants it logged.
    pub fn run(&self, data: &Data) -> (u32, bool) {
        let rank = |answer: u32| (answer & ret::ACTION) as i32;
        let (mut result, mut log) = (ret::ALLOW, false);
        for filter in self.chain() {
            // A word that is not there cannot be asked for: offsets were checked.
            let answer = filter.program.run(data).unwrap_or(ret::KILL_THREAD);
            if rank(answer) < rank(result) {
                (result, log) = (answer, filter.log);
            }
        }
        (result, log)
    }

    /// How many filters there are in the chain.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Whether `self` is `other` or one it was put on. None is an ancestor of all.
    pub fn is_ancestor(ancestor: Option<&Arc<Filter>>, other: Option<&Arc<Filter>>) -> bool {
        let Some(ancestor) = ancestor else { return true };
        other.is_some_and(|other| other.chain().any(|filter| std::ptr::eq(filter, Arc::as_ptr(ancestor))))
    }

    /// From the newest to the oldest.
    fn chain(&self) -> impl Iterator<Item = &Filter> {
        std::iter::successors(Some(self), |filter| filter.previous.as_deref())
    }
}

/// Whether a program allows a number without looking at more than number and architecture (`seccomp_is_const_allow`).
fn allows(program: &Program, number: u32) -> bool {
    program.run(&Number(number)) == Some(ret::ALLOW)
}

impl Drop for Filter {
    /// Long chains go one by one, not by recursion.
    fn drop(&mut self) {
        let mut next = self.previous.take();
        while let Some(filter) = next {
            next = Arc::try_unwrap(filter).ok().and_then(|mut filter| filter.previous.take());
        }
    }
}
