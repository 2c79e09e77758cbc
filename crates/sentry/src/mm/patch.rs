//! Patched system-call sites.

use std::ops::Range;

use platform::Prot;

use super::Mm;
use super::space::{State, Trash};

/// Patched copies of text, by file.
#[derive(Default)]
pub(super) struct TextCache {}

impl Mm {
    /// Where a thread stopped at `rip` must go on, if that is an instruction boundary that a patch has destroyed. For signal
    /// frames' return, and contexts stopped while a patch was made.
    pub fn moved(&self, _rip: u64) -> Option<u64> {
        None
    }

    /// After a system call that came in by a trap from `return_ip - 2`: rewrites the site, if that can be done. Returns where the
    /// thread must go on if `return_ip` is no longer an instruction.
    pub fn patch(&self, _return_ip: u64, _number: u64) -> Option<u64> {
        None
    }

    /// No (more) patched sites in this address space: it is traced, filtered, or uses %gs.
    pub fn disable_patching(&self) {
        self.state.write().patching = false;
    }

    pub(super) fn unpatch_slots(&self, _state: &mut State, _range: &Range<u64>, _trash: &mut Trash) {}

    pub(super) fn unpatch_for_write(&self, _state: &mut State, _range: &Range<u64>, _prot: Prot, _trash: &mut Trash) {}

    pub(super) fn adopt_patches(&self, _state: &mut State, _range: &Range<u64>) {}
}
