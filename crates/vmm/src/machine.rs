//! A VM before it is started, and the program that would run it.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use crate::{Accelerator, Device};

/// A machine to start. Sizes are in bytes.
#[derive(Debug)]
pub struct Machine {
    /// Seen in the host's `ps`; a pod's id, say.
    pub name: String,
    pub accelerator: Accelerator,
    /// A bzImage, or (quicker: nothing to unpack) an ELF vmlinux with the PVH note. Readable; must have a name that can be opened again by the VMM's user.
    pub kernel: OwnedFd,
    /// Likewise.
    pub initrd: Option<OwnedFd>,
    /// What the kernel is told, after what the driver adds by itself ([`qemu::command_line`](crate::qemu::command_line) says what).
    pub cmdline: String,
    pub cpus: Cpus,
    pub memory: Memory,
    /// The guest's console; none: it has none, which boots quicker.
    pub console: Option<Console>,
    /// With their names, which `remove_device` takes. A name is 1 to 32 of a-z, 0-9 and -, beginning with a letter.
    pub devices: Vec<(String, Device)>,
    /// How many devices can be plugged in later, at the same time. Each costs the guest's boot some milliseconds.
    pub slots: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// There from the start.
    pub boot: u32,
    /// As many as there can ever be.
    pub max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// There from the start; a multiple of 2 MiB.
    pub boot: u64,
    /// As much as there can ever be, by steps of 128 MiB above `boot` (virtio-mem). Equal to `boot`: it never grows.
    pub max: u64,
}

/// Where the serial console goes.
#[derive(Debug)]
pub enum Console {
    /// A connected stream socket; what is written at the other end is the guest's input. Read it: a full one slows the guest down.
    Socket(OwnedFd),
    /// A file open for writing only.
    File(OwnedFd),
}

/// A program to run, with all it inherits. Nothing in it is secret.
#[derive(Debug)]
pub struct CommandLine<'a> {
    /// A name to look for in PATH.
    pub program: String,
    pub args: Vec<String>,
    /// To be there, at these numbers and without `FD_CLOEXEC`, when the program starts; it closes none of 0 to 2. All others can be closed.
    pub inherited: Vec<Inherited<'a>>,
}

#[derive(Debug)]
pub struct Inherited<'a> {
    pub number: RawFd,
    pub fd: BorrowedFd<'a>,
}
