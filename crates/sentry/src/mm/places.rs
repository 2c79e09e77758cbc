//! [`Places`]: where stack, heap, programs and mappings go.

use std::ops::Range;

use platform::Layout;

use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down};

/// Lowest address that may be mapped (`vm.mmap_min_addr`).
pub const MIN_ADDR: u64 = 0x1_0000;

/// Where position-independent programs go, before randomisation (Linux's `ELF_ET_DYN_BASE`).
const PROGRAM_BASE: u64 = 0x5555_5555_4000;

/// Distance kept between a growing stack and what is below it (`stack_guard_gap`).
pub(super) const STACK_GUARD: u64 = 256 * PAGE_SIZE;

/// Whether places are drawn by lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Randomisation {
    On,
    /// `ADDR_NO_RANDOMIZE`: as setarch -R and debuggers ask for.
    Off,
}

impl Randomisation {
    /// Random bytes, or zeros.
    pub(crate) fn dice<const N: usize>(self) -> Result<[u8; N], Errno> {
        let mut dice = [0; N];
        if self == Randomisation::On {
            hostcall::random::fill(&mut dice)?;
        }
        Ok(dice)
    }
}

/// The corners of an address space.
#[derive(Debug, Clone)]
pub struct Places {
    /// What may be mapped at all.
    pub user: Range<u64>,
    /// The platform's own; nobody's to change.
    pub reserved: Vec<Range<u64>>,
    /// Mappings are placed from here downwards.
    pub mmap_base: u64,
    /// One past the highest stack address.
    pub stack_top: u64,
    /// How large the main stack may grow, in bytes.
    pub stack_limit: u64,
    /// Where a position-independent program is loaded.
    pub program_base: u64,
    pub brk_start: u64,
    pub brk: u64,
    /// `mm_struct`'s numbers, for /proc/PID/stat.
    pub code: Range<u64>,
    pub data: Range<u64>,
    pub stack_start: u64,
    pub args: Range<u64>,
    pub env: Range<u64>,
    /// The auxiliary vector, as the loader wrote it.
    pub auxv: Range<u64>,
}

impl Places {
    /// Places in a platform's layout.
    pub(super) fn new(layout: &Layout, randomisation: Randomisation) -> Result<Places, Errno> {
        let dice = randomisation.dice::<24>()?;
        let roll = |n: usize, bits: u32| {
            let bytes = dice.get(n * 8..n * 8 + 8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
            (u64::from_le_bytes(bytes) & ((1 << bits) - 1)) * PAGE_SIZE
        };
        // Everything of the guest lies below the platform's upper ranges.
        let top = layout
            .reserved
            .iter()
            .map(|range| range.start)
            .filter(|&start| start > layout.user.end / 2)
            .fold(layout.user.end, u64::min);
        let stack_top = page_down(top) - PAGE_SIZE - roll(0, 22);
        Ok(Places {
            user: layout.user.start.max(MIN_ADDR)..layout.user.end,
            reserved: layout.reserved.clone(),
            mmap_base: stack_top - (1 << 30) - roll(1, 26),
            stack_top,
            stack_limit: 8 << 20,
            program_base: PROGRAM_BASE + roll(2, 28),
            brk_start: 0,
            brk: 0,
            code: 0..0,
            data: 0..0,
            stack_start: stack_top,
            args: 0..0,
            env: 0..0,
            auxv: 0..0,
        })
    }

    /// Makes room for a stack of `limit` bytes: mappings begin below it.
    pub fn set_stack_limit(&mut self, limit: u64) {
        let most = (self.user.end / 6 * 5).min(limit.max(128 << 20));
        let shift = (self.stack_top - self.mmap_base).saturating_sub(1 << 30);
        self.stack_limit = limit;
        self.mmap_base =
            page_down(self.stack_top.saturating_sub(most.max(1 << 30)).saturating_sub(shift).max(self.user.end / 6));
    }

    /// Whether the range is the guest's to map.
    pub(super) fn allows(&self, range: &Range<u64>) -> bool {
        range.start >= self.user.start && range.end <= self.user.end && !self.is_reserved(range)
    }

    pub(super) fn is_reserved(&self, range: &Range<u64>) -> bool {
        self.reserved_in(range).is_some()
    }

    pub(super) fn reserved_in(&self, range: &Range<u64>) -> Option<&Range<u64>> {
        self.reserved.iter().find(|reserved| reserved.start < range.end && range.start < reserved.end)
    }
}
