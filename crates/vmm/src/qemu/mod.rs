//! QEMU: the q35 machine, driven by QMP.

mod command;
#[cfg(test)]
mod command_tests;
mod devices;
mod driver;
mod hotplug;
mod qmp;
#[cfg(test)]
mod qmp_tests;
mod resize;

pub use command::{PROGRAM, command_line};
use devices::refused;
pub use driver::Qemu;

/// What a pmem image's size must be a multiple of, in bytes: a memory block of the guest's kernel on x86-64.
pub const PMEM_ALIGN: u64 = 128 << 20;
/// By what memory grows and shrinks.
pub const MEMORY_STEP: u64 = 128 << 20;

/// How many CPUs and bytes of memory a machine has at most.
pub const MOST_CPUS: u32 = 255;
pub const MOST_MEMORY: u64 = 1 << 40;
/// How many images and disks it has at most at its start.
pub const MOST_DRIVES: u32 = 32;

const DRIVER: &str = "qemu";
/// The virtio-mem device's name.
const RESIZABLE: &str = "resizable";
