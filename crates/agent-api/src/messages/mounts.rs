//! The root and the mounts of a container.

use prost::{Enumeration, Message, Oneof};

use super::Empty;

/// Most images that a root is made of.
pub const MOST_ROOT_IMAGES: usize = 128;

/// The root file system: a tree of the gofer or images, under an overlay or not.
#[derive(Clone, PartialEq, Message)]
pub struct Root {
    /// The gofer's attach index.
    #[prost(uint32, tag = "1")]
    pub attach: u32,
    #[prost(bool, tag = "2")]
    pub read_only: bool,
    /// [`root::Overlay::None`] if absent: writes go to the gofer's tree.
    #[prost(oneof = "root::Overlay", tags = "3, 4, 5")]
    pub overlay: Option<root::Overlay>,
    #[prost(enumeration = "CacheMode", tag = "6")]
    pub cache: i32,
    /// EROFS images of the request, instead of the gofer's tree: one, or several of which each is over the one before it as overlayfs has its layers, with
    /// whiteouts and opaque directories (`trusted.overlay.*`).
    #[prost(uint32, repeated, tag = "7")]
    pub images: Vec<u32>,
}

pub mod root {
    use super::{Empty, Oneof};

    /// Where writes to the root go.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Overlay {
        /// Into the tree itself.
        #[prost(message, tag = "3")]
        None(Empty),
        /// Into the container's memory.
        #[prost(message, tag = "4")]
        Memory(Empty),
        /// Into this other attach of the gofer.
        #[prost(uint32, tag = "5")]
        Dir(u32),
    }
}

/// How far caches of a gofer's tree may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum CacheMode {
    /// Others change it too: check again at each use.
    Shared = 0,
    /// Only this container changes it.
    Exclusive = 1,
}

/// One mount, in order.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Absolute, in the container. Missing directories (or the file) are made.
    #[prost(bytes = "vec", tag = "1")]
    pub destination: Vec<u8>,
    #[prost(oneof = "mount::Kind", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub kind: Option<mount::Kind>,
    #[prost(message, optional, tag = "15")]
    pub flags: Option<MountFlags>,
    /// For /proc/mounts.
    #[prost(bytes = "vec", tag = "16")]
    pub source: Vec<u8>,
}

pub mod mount {
    use super::{DevptsMount, DiskMount, Empty, GoferMount, Oneof, TmpfsMount};

    /// What is mounted.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// A bind mount of a host directory or file.
        #[prost(message, tag = "2")]
        Gofer(GoferMount),
        #[prost(message, tag = "3")]
        Tmpfs(TmpfsMount),
        #[prost(message, tag = "4")]
        Proc(Empty),
        #[prost(message, tag = "5")]
        Sysfs(Empty),
        #[prost(message, tag = "6")]
        Devpts(DevptsMount),
        /// A /dev with OCI's default devices and links.
        #[prost(message, tag = "7")]
        Dev(TmpfsMount),
        #[prost(message, tag = "8")]
        Mqueue(Empty),
        #[prost(message, tag = "9")]
        Cgroup(Empty),
        /// An EROFS image of the request.
        #[prost(uint32, tag = "10")]
        Erofs(u32),
        #[prost(message, tag = "11")]
        Disk(DiskMount),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GoferMount {
    #[prost(uint32, tag = "1")]
    pub attach: u32,
    #[prost(enumeration = "CacheMode", tag = "2")]
    pub cache: i32,
}

/// A file system on a disk. (VMs only.)
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiskMount {
    /// Its place in the request's `disks`.
    #[prost(uint32, tag = "1")]
    pub disk: u32,
    /// Linux's name of the file system.
    #[prost(string, tag = "2")]
    pub file_system: String,
    /// `name` or `name=value`.
    #[prost(string, repeated, tag = "3")]
    pub options: Vec<String>,
}

/// tmpfs options; what is absent has Linux's default.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TmpfsMount {
    /// Bytes.
    #[prost(uint64, optional, tag = "1")]
    pub size: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub inodes: Option<u64>,
    #[prost(uint32, optional, tag = "3")]
    pub mode: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub uid: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub gid: Option<u32>,
}

/// devpts options (always a new instance).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DevptsMount {
    #[prost(uint32, optional, tag = "1")]
    pub ptmx_mode: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    pub mode: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    pub gid: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct MountFlags {
    #[prost(bool, tag = "1")]
    pub read_only: bool,
    #[prost(bool, tag = "2")]
    pub nosuid: bool,
    #[prost(bool, tag = "3")]
    pub nodev: bool,
    #[prost(bool, tag = "4")]
    pub noexec: bool,
    #[prost(bool, tag = "5")]
    pub noatime: bool,
    #[prost(bool, tag = "6")]
    pub nodiratime: bool,
    #[prost(bool, tag = "7")]
    pub relatime: bool,
    #[prost(bool, tag = "8")]
    pub strictatime: bool,
    #[prost(bool, tag = "9")]
    pub sync: bool,
}
