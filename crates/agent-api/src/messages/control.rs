//! Requests about containers and processes that exist.
//!
//! A process is named by its container's id and its exec id; the empty exec id is the container's own process.

use prost::{Enumeration, Message};

use super::{Limits, Process, WindowSize};

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub struct StartContainerRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct StartContainerResponse {
    /// In the container's pid namespace.
    #[prost(int32, tag = "1")]
    pub pid: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExecProcessRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Not empty, not in use.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    #[prost(message, optional, tag = "3")]
    pub process: Option<Process>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ExecProcessResponse {
    #[prost(int32, tag = "1")]
    pub pid: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SignalProcessRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub exec_id: String,
    #[prost(int32, tag = "3")]
    pub signal: i32,
    #[prost(enumeration = "SignalTarget", tag = "4")]
    pub target: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum SignalTarget {
    Process = 0,
    /// All processes of the container.
    Container = 1,
    /// The foreground process group of the process's terminal (the process if it has none).
    Foreground = 2,
}

#[derive(Clone, PartialEq, Message)]
pub struct WaitProcessRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub exec_id: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WaitProcessResponse {
    /// 0 to 255; 0 if a signal ended it.
    #[prost(uint32, tag = "1")]
    pub exit_code: u32,
    /// The signal that ended it, or 0.
    #[prost(uint32, tag = "2")]
    pub signal: u32,
    /// Ended because memory was full.
    #[prost(bool, tag = "3")]
    pub oom_killed: bool,
    /// Nanoseconds since 1970.
    #[prost(uint64, tag = "4")]
    pub exited_at_ns: u64,
}

impl WaitProcessResponse {
    /// As a shell has it. A guest may say any numbers.
    pub fn shell_status(&self) -> u8 {
        match self.signal {
            0 => self.exit_code as u8,
            signal => 128 | signal as u8,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct ResizeTtyRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, tag = "2")]
    pub exec_id: String,
    #[prost(message, optional, tag = "3")]
    pub size: Option<WindowSize>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PauseContainerRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResumeContainerRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteContainerRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Kill what still runs first.
    #[prost(bool, tag = "2")]
    pub force: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ListContainersRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<ContainerState>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerState {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(enumeration = "ContainerStatus", tag = "2")]
    pub status: i32,
    /// Of its own process, if it has ended.
    #[prost(message, optional, tag = "3")]
    pub exit: Option<WaitProcessResponse>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum ContainerStatus {
    Created = 0,
    Running = 1,
    Paused = 2,
    Stopped = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListProcessesRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListProcessesResponse {
    #[prost(message, repeated, tag = "1")]
    pub processes: Vec<ProcessInfo>,
}

/// A line of `ps`.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessInfo {
    #[prost(int32, tag = "1")]
    pub pid: i32,
    #[prost(int32, tag = "2")]
    pub parent_pid: i32,
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    #[prost(uint32, tag = "4")]
    pub threads: u32,
    /// `R`, `S`, `T`, `Z`, ….
    #[prost(string, tag = "5")]
    pub state: String,
    #[prost(uint64, tag = "6")]
    pub cpu_time_ns: u64,
    /// Nanoseconds since 1970.
    #[prost(uint64, tag = "7")]
    pub started_at_ns: u64,
    /// `pts/0`, or empty.
    #[prost(string, tag = "8")]
    pub terminal: String,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub args: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StatsRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct StatsResponse {
    /// CPU time of application code.
    #[prost(uint64, tag = "1")]
    pub cpu_user_ns: u64,
    /// CPU time the kernel spent for it, as far as it is known.
    #[prost(uint64, tag = "2")]
    pub cpu_system_ns: u64,
    /// Bytes of application memory in use.
    #[prost(uint64, tag = "3")]
    pub memory_usage: u64,
    #[prost(uint64, tag = "4")]
    pub memory_peak: u64,
    #[prost(uint64, optional, tag = "5")]
    pub memory_limit: Option<u64>,
    #[prost(uint64, tag = "6")]
    pub pids: u64,
    #[prost(uint64, optional, tag = "7")]
    pub pids_limit: Option<u64>,
    #[prost(uint64, tag = "8")]
    pub oom_kills: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct NextEventsRequest {
    /// Sequence number of the last event seen; 0 for all that are kept.
    #[prost(uint64, tag = "1")]
    pub after: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct NextEventsResponse {
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Event {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(enumeration = "EventKind", tag = "2")]
    pub kind: i32,
    #[prost(string, tag = "3")]
    pub container_id: String,
    #[prost(string, tag = "4")]
    pub exec_id: String,
    /// Of [`EventKind::ProcessExited`].
    #[prost(message, optional, tag = "5")]
    pub exit: Option<WaitProcessResponse>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum EventKind {
    ProcessExited = 0,
    OutOfMemory = 1,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateContainerRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// What is absent stays; [`Limits::NONE`] takes a limit away.
    #[prost(message, optional, tag = "2")]
    pub limits: Option<Limits>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StacksRequest {
    /// All containers if empty.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct StacksResponse {
    #[prost(string, tag = "1")]
    pub text: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetStraceRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Index of the descriptor that lines are written to; absent: tracing is turned off.
    #[prost(uint32, optional, tag = "2")]
    pub output: Option<u32>,
}

/// A TCP connection from outside to a port of the sandbox's loopback interface, as if from inside: IPv4, or IPv6 where nobody listens there.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ConnectRequest {
    #[prost(uint32, tag = "1")]
    pub port: u32,
    /// Index of the descriptor that is read for what goes in; its end is passed on.
    #[prost(uint32, tag = "2")]
    pub input: u32,
    /// Index of the descriptor that what comes out is written to; closed at the end.
    #[prost(uint32, tag = "3")]
    pub output: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ShutdownRequest {}
