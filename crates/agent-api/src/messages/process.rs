//! A process to run: container init or exec.

use prost::Message;

/// What to run, and as whom.
#[derive(Clone, PartialEq, Message)]
pub struct Process {
    /// At least one. The program is looked up in `PATH` of `env` if it has no slash.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub args: Vec<Vec<u8>>,
    /// `NAME=value`.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub env: Vec<Vec<u8>>,
    /// Absolute.
    #[prost(bytes = "vec", tag = "3")]
    pub cwd: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub uid: u32,
    #[prost(uint32, tag = "5")]
    pub gid: u32,
    #[prost(uint32, repeated, tag = "6")]
    pub additional_gids: Vec<u32>,
    /// 022 if absent.
    #[prost(uint32, optional, tag = "7")]
    pub umask: Option<u32>,
    /// None at all if absent.
    #[prost(message, optional, tag = "8")]
    pub capabilities: Option<CapabilitySets>,
    #[prost(message, repeated, tag = "9")]
    pub rlimits: Vec<Rlimit>,
    #[prost(bool, tag = "10")]
    pub no_new_privs: bool,
    /// With a terminal, the process gets a new terminal of the sandbox as stdin, stdout, stderr and controlling terminal; its other end
    /// is copied from `stdio.stdin` and to `stdio.stdout` (which may be one host terminal in raw mode).
    #[prost(message, optional, tag = "11")]
    pub terminal: Option<WindowSize>,
    #[prost(sint32, optional, tag = "12")]
    pub oom_score_adj: Option<i32>,
    #[prost(message, optional, tag = "13")]
    pub stdio: Option<Stdio>,
    /// Descriptors that become 3, 4, ….
    #[prost(uint32, repeated, tag = "14")]
    pub extra_fds: Vec<u32>,
}

/// Indices of descriptors; what is absent is closed.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Stdio {
    #[prost(uint32, optional, tag = "1")]
    pub stdin: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    pub stdout: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    pub stderr: Option<u32>,
}

/// Bit n is capability n.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CapabilitySets {
    #[prost(uint64, tag = "1")]
    pub effective: u64,
    #[prost(uint64, tag = "2")]
    pub permitted: u64,
    #[prost(uint64, tag = "3")]
    pub inheritable: u64,
    #[prost(uint64, tag = "4")]
    pub bounding: u64,
    #[prost(uint64, tag = "5")]
    pub ambient: u64,
}

/// `RLIM_INFINITY` is `u64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Rlimit {
    /// Linux's `RLIMIT_*` number.
    #[prost(uint32, tag = "1")]
    pub resource: u32,
    #[prost(uint64, tag = "2")]
    pub soft: u64,
    #[prost(uint64, tag = "3")]
    pub hard: u64,
}

/// `struct winsize`; each field fits 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WindowSize {
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    #[prost(uint32, tag = "2")]
    pub columns: u32,
    #[prost(uint32, tag = "3")]
    pub x_pixels: u32,
    #[prost(uint32, tag = "4")]
    pub y_pixels: u32,
}
