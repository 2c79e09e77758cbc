//! A container to make.

use prost::{Enumeration, Message};

use super::{Mount, Process, Root, SeccompProfile};

/// A container, as checked and typed data: the agent never sees a config.json.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub hostname: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub domainname: Option<Vec<u8>>,
    /// Index of the descriptor that is connected to the container's gofer.
    #[prost(uint32, tag = "5")]
    pub gofer: u32,
    #[prost(message, optional, tag = "6")]
    pub root: Option<Root>,
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<Mount>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub masked_paths: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub read_only_paths: Vec<Vec<u8>>,
    /// Beside OCI's default devices.
    #[prost(message, repeated, tag = "10")]
    pub devices: Vec<Device>,
    #[prost(message, repeated, tag = "11")]
    pub sysctls: Vec<Sysctl>,
    #[prost(message, optional, tag = "12")]
    pub limits: Option<Limits>,
    /// Name spaces that are another container's; the rest are new.
    #[prost(message, repeated, tag = "13")]
    pub shared_namespaces: Vec<SharedNamespace>,
    /// Of a user namespace of the container; the identity if empty.
    #[prost(message, repeated, tag = "14")]
    pub uid_mappings: Vec<IdMapping>,
    #[prost(message, repeated, tag = "15")]
    pub gid_mappings: Vec<IdMapping>,
    /// For all its processes, exec'd ones too.
    #[prost(message, optional, tag = "16")]
    pub seccomp: Option<SeccompProfile>,
    /// Indices of descriptors of read-only file-system images; root and mounts name them by their place here.
    #[prost(uint32, repeated, tag = "17")]
    pub images: Vec<u32>,
    /// Index of the descriptor of an empty file for application memory, on a file system whose size is the limit of it. Absent: the
    /// sandbox's own. (Sentry only.)
    #[prost(uint32, optional, tag = "18")]
    pub memory: Option<u32>,
    /// Indices of descriptors of disks, which mounts and devices name by their place here. (VMs only.)
    #[prost(uint32, repeated, tag = "19")]
    pub disks: Vec<u32>,
    /// Which devices may be made and opened, each over those before it; what none allows is denied, but for OCI's default devices and the disks among
    /// `devices`. Numbers of block devices would be the host's: only rules for all of them are there. (VMs only.)
    #[prost(message, repeated, tag = "20")]
    pub device_rules: Vec<DeviceRule>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CreateContainerResponse {}

/// A device node.
#[derive(Clone, PartialEq, Message)]
pub struct Device {
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    #[prost(enumeration = "DeviceKind", tag = "2")]
    pub kind: i32,
    #[prost(uint32, tag = "3")]
    pub major: u32,
    #[prost(uint32, tag = "4")]
    pub minor: u32,
    /// Permission bits.
    #[prost(uint32, tag = "5")]
    pub mode: u32,
    #[prost(uint32, tag = "6")]
    pub uid: u32,
    #[prost(uint32, tag = "7")]
    pub gid: u32,
    /// A disk that the container is given. Its number in the guest takes the place of `major` and `minor`, which are the host's.
    #[prost(message, optional, tag = "8")]
    pub disk: Option<DeviceDisk>,
}

/// What may be done with devices, or may not.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DeviceRule {
    #[prost(bool, tag = "1")]
    pub allow: bool,
    /// Character or block; absent: both.
    #[prost(enumeration = "DeviceKind", optional, tag = "2")]
    pub kind: Option<i32>,
    /// Absent: any.
    #[prost(uint32, optional, tag = "3")]
    pub major: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    pub minor: Option<u32>,
    /// Bits of [`crate::dev::access`].
    #[prost(uint32, tag = "5")]
    pub access: u32,
}

/// (VMs only.)
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DeviceDisk {
    /// Its place in the request's `disks`.
    #[prost(uint32, tag = "1")]
    pub disk: u32,
    #[prost(bool, tag = "2")]
    pub read_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum DeviceKind {
    Character = 0,
    Block = 1,
    Fifo = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sysctl {
    /// With dots, as `net.ipv4.ip_forward`.
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Absent: not limited.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Limits {
    /// Bytes of application memory, tmpfs included.
    #[prost(uint64, optional, tag = "1")]
    pub memory: Option<u64>,
    /// Tasks.
    #[prost(uint64, optional, tag = "2")]
    pub pids: Option<u64>,
    /// Microseconds of CPU time per `cpu_period_us`.
    #[prost(uint64, optional, tag = "3")]
    pub cpu_quota_us: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub cpu_period_us: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub cpu_shares: Option<u64>,
}

impl Limits {
    /// In an update: a limit that is to be taken away.
    pub const NONE: u64 = u64::MAX;

    /// Microseconds in which the quota may be used once; Linux's default if nothing is said.
    pub fn period_us(&self) -> u64 {
        self.cpu_period_us.filter(|us| *us > 0).unwrap_or(100_000)
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct SharedNamespace {
    #[prost(enumeration = "NamespaceKind", tag = "1")]
    pub kind: i32,
    #[prost(string, tag = "2")]
    pub container_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum NamespaceKind {
    Pid = 0,
    Ipc = 1,
    Uts = 2,
    Network = 3,
    User = 4,
    Mount = 5,
    Cgroup = 6,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct IdMapping {
    #[prost(uint32, tag = "1")]
    pub container_id: u32,
    #[prost(uint32, tag = "2")]
    pub host_id: u32,
    #[prost(uint32, tag = "3")]
    pub size: u32,
}
