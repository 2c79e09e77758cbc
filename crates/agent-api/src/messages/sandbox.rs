//! What a VM's agent is told once, before anything runs in it. A sentry has been told by other ways.

use prost::Message;

use super::CreateContainerRequest;

/// Everything in one call, while the guest has just come up.
#[derive(Clone, PartialEq, Message)]
pub struct SetUpSandboxRequest {
    /// The host's real-time clock, in nanoseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub clock_ns: u64,
    /// For the guest's pool; at most 256 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub entropy: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub hostname: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "4")]
    pub interfaces: Vec<Interface>,
    #[prost(message, repeated, tag = "5")]
    pub routes: Vec<Route>,
    #[prost(message, repeated, tag = "6")]
    pub neighbours: Vec<Neighbour>,
    /// Content of containers' /etc/resolv.conf; theirs stays if empty.
    #[prost(bytes = "vec", tag = "7")]
    pub resolv_conf: Vec<u8>,
    /// Bytes of /dev/shm that containers share; Linux's default if absent.
    #[prost(uint64, optional, tag = "8")]
    pub shm_size: Option<u64>,
    /// The first container, made as `CreateContainer` would.
    #[prost(message, optional, tag = "9")]
    pub container: Option<CreateContainerRequest>,
    /// The least urgent of syslog's levels that the agent logs, on the console; the agent's own choice if 0.
    #[prost(uint32, tag = "10")]
    pub log_level: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetUpSandboxResponse {
    /// The guest kernel's release, as `uname -r` prints it.
    #[prost(string, tag = "1")]
    pub kernel: String,
}

/// A network interface of the guest, found by its hardware address.
#[derive(Clone, PartialEq, Message)]
pub struct Interface {
    /// What it is called in the guest.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Six bytes; empty: the loopback interface.
    #[prost(bytes = "vec", tag = "2")]
    pub hardware_address: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub mtu: u32,
    /// As `10.0.0.2/24` and `fd00::2/64`.
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Route {
    /// As `10.1.0.0/16`; the default route if empty.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// None if empty.
    #[prost(string, tag = "2")]
    pub gateway: String,
    #[prost(string, tag = "3")]
    pub interface: String,
    /// The preferred source address; none if empty.
    #[prost(string, tag = "4")]
    pub source: String,
    /// Linux's `RT_SCOPE_*`.
    #[prost(uint32, tag = "5")]
    pub scope: u32,
    /// Of two routes to the same place the one with the lower is taken.
    #[prost(uint32, tag = "6")]
    pub metric: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Neighbour {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(bytes = "vec", tag = "2")]
    pub hardware_address: Vec<u8>,
    #[prost(string, tag = "3")]
    pub interface: String,
}

/// The pod's network as it is now: what is new comes, and interfaces that are not named here go.
#[derive(Clone, PartialEq, Message)]
pub struct UpdateNetworkRequest {
    #[prost(message, repeated, tag = "1")]
    pub interfaces: Vec<Interface>,
    #[prost(message, repeated, tag = "2")]
    pub routes: Vec<Route>,
    #[prost(message, repeated, tag = "3")]
    pub neighbours: Vec<Neighbour>,
    /// For a VM's keeper: the ways to interfaces that the answer to an earlier request said are missing.
    #[prost(message, repeated, tag = "4")]
    pub ways: Vec<InterfaceWay>,
    /// For a guest's agent: hardware addresses of those that go and that the machine cannot unplug.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub gone: Vec<Vec<u8>>,
}

/// How a VM gets at an interface.
#[derive(Clone, PartialEq, Message)]
pub struct InterfaceWay {
    #[prost(bytes = "vec", tag = "1")]
    pub hardware_address: Vec<u8>,
    /// Indices of the descriptors of a tap's queues.
    #[prost(uint32, repeated, tag = "2")]
    pub taps: Vec<u32>,
    /// Indices of as many descriptors of /dev/vhost-net, or of none.
    #[prost(uint32, repeated, tag = "3")]
    pub vhost: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateNetworkResponse {
    /// Hardware addresses of the interfaces that the VM has no way to yet.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub missing: Vec<Vec<u8>>,
    /// How many pairs of queues an interface can use.
    #[prost(uint32, tag = "2")]
    pub queues: u32,
    /// Whether the machine can have its frames moved by /dev/vhost-net.
    #[prost(bool, tag = "3")]
    pub vhost: bool,
}

/// CPUs and memory that were plugged in, to be brought into use. Answered when they are.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct OnlineRequest {
    /// Until this many CPUs are on line; 0: as many as there are.
    #[prost(uint32, tag = "1")]
    pub cpus: u32,
}
