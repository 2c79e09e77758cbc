//! Devices: what opening a device node gives, and the nodes every container has in /dev.

pub mod loops;
mod memory;

use std::sync::Arc;

use super::{FileOps, OpenFlags, Path};
use crate::Errno;
use crate::task::Cx;

pub use memory::MemoryDevice;

/// A device number, as in `st_rdev`.
pub const fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

/// Major and minor of a device number.
pub const fn device_parts(number: u64) -> (u32, u32) {
    let major = (number >> 8 & 0xfff) | (number >> 32 & !0xfff);
    let minor = (number & 0xff) | (number >> 12 & 0xffff_ff00);
    (major as u32, minor as u32)
}

/// Opens a character device.
///
/// # Errors
/// `ENXIO` when there is no such device.
pub fn open_char_device(cx: &Cx, place: &Path, rdev: u64, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
    let device = match device_parts(rdev) {
        (1, 3) => MemoryDevice::Null,
        (1, 5) => MemoryDevice::Zero,
        (1, 7) => MemoryDevice::Full,
        (1, 8 | 9) => MemoryDevice::Random,
        loops::CONTROL => return Ok(Arc::new(loops::LoopControl)),
        number => {
            let terminals = super::devpts::terminals_of(place).unwrap_or_else(|| cx.task.container.terminals.clone());
            return crate::ipc::tty::open_device(cx, &terminals, number, flags);
        }
    };
    Ok(Arc::new(device))
}

/// Opens a block device.
///
/// # Errors
/// `ENXIO` when there is no such device.
pub fn open_block_device(cx: &Cx, rdev: u64, flags: OpenFlags) -> Result<Arc<dyn FileOps>, Errno> {
    match device_parts(rdev) {
        (loops::MAJOR, index) => cx.task.container.loops.open(index, flags),
        _ => Err(Errno::ENXIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip() {
        assert_eq!(device_number(1, 3), 0x103);
        for (major, minor) in [(0, 0), (1, 9), (5, 2), (136, 300), (0xfffff, 0xfffff)] {
            assert_eq!(device_parts(device_number(major, minor)), (major, minor));
        }
    }
}
