//! Devices of a VM, as data, and what a driver can do with them.

use std::os::fd::OwnedFd;

bitflags::bitflags! {
    /// What a driver can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Features: u32 {
        const VIRTIO_FS = 1;
        const VSOCK = 1 << 1;
        const PMEM = 1 << 2;
        const BLOCK = 1 << 3;
        const NET = 1 << 4;
        const BALLOON = 1 << 5;
        const RNG = 1 << 6;
        /// Devices come and go while the VM runs.
        const HOTPLUG = 1 << 7;
        /// vCPUs come while the VM runs.
        const CPU_HOTPLUG = 1 << 8;
        /// They go, too.
        const CPU_UNPLUG = 1 << 11;
        /// Memory grows and shrinks while the VM runs.
        const MEMORY_RESIZE = 1 << 9;
        const PAUSE = 1 << 10;
    }
}

/// One device. Its descriptors are given away with it.
#[derive(Debug)]
pub enum Device {
    /// A tree of files; served by a vhost-user backend at the other end of `socket`, a connected unix stream socket.
    VirtioFs { tag: String, socket: OwnedFd },
    /// Stream sockets between guest and host; served by a vhost-user backend (ours: `vsock`) at the other end of `socket`.
    Vsock { socket: OwnedFd },
    /// A file as memory of the guest, shared with all that map it: `/dev/pmem<n>`, n counting those of a machine. `size` in bytes, of the
    /// file's as well: a multiple of [`PMEM_ALIGN`](crate::qemu::PMEM_ALIGN). The descriptor must be readable, and writable too for [`Access::Write`].
    Pmem { image: OwnedFd, size: u64, access: Access },
    /// A disk: a block device or file with raw content. The descriptor is opened for just what `access` says.
    Block { image: OwnedFd, access: Access },
    /// A network card on a tap (opened with `IFF_VNET_HDR`): a pair of queues for each of its descriptors, one at least (several: all with
    /// `IFF_MULTI_QUEUE`). `vhost` are as many descriptors of /dev/vhost-net, or none: then the VMM moves the frames.
    Net { taps: Vec<OwnedFd>, vhost: Vec<OwnedFd>, mac: [u8; 6] },
    /// Gives memory that the guest's kernel freed back to the host by itself (free page reporting).
    Balloon,
    /// The host's randomness.
    Rng,
}

/// What the guest may do with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Entries of a virtio-fs request queue.
pub const VIRTIO_FS_QUEUE: u16 = 1024;

impl Device {
    /// What a driver must be able to do to have it.
    pub fn feature(&self) -> Features {
        match self {
            Device::VirtioFs { .. } => Features::VIRTIO_FS,
            Device::Vsock { .. } => Features::VSOCK,
            Device::Pmem { .. } => Features::PMEM,
            Device::Block { .. } => Features::BLOCK,
            Device::Net { .. } => Features::NET,
            Device::Balloon => Features::BALLOON,
            Device::Rng => Features::RNG,
        }
    }
}
