//! Linux's numbers (x86-64), as the guest sees them. Structures of one family live with that family.

pub use linux_raw_sys::auxvec;
pub use linux_raw_sys::general as uapi;

/// Size of a page in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Rounds down to a page boundary.
pub const fn page_down(addr: u64) -> u64 {
    addr & !(PAGE_SIZE - 1)
}

/// Rounds up to a page boundary; None on overflow.
pub const fn page_up(addr: u64) -> Option<u64> {
    match addr.checked_add(PAGE_SIZE - 1) {
        Some(end) => Some(page_down(end)),
        None => None,
    }
}
