//! How the protocol travels to a VM's agent, which cannot be sent descriptors.
//!
//! The guest's agent connects (`AF_VSOCK`) to [`HOST`], port [`CONTROL_PORT`], when it is ready, and serves the protocol on that connection: nobody
//! polls. Where a message names a descriptor by index, it carries a *stream number* instead, chosen by the host at random, never used twice. For each
//! the agent makes one connection to [`STREAM_PORT`] before it answers the call, *from* the port of that number, and then both
//! sides use it as they would the descriptor: raw bytes, `shutdown` of one side is the end of file, a closed connection a broken pipe. A terminal's
//! `stdin` and `stdout` are two streams, one for each direction.
//!
//! Containers can connect to the host's ports too: nothing in a guest's kernel keeps them from it. A port of the guest's has one owner at a time, and who
//! does not know a number that the host waits for gets nothing, at once, and costs the agent nothing.
//!
//! Instead of a gofer and image descriptors: an attach index `n` (of [`Root`](crate::Root) and [`GoferMount`](crate::GoferMount)) is the entry `n`
//! of the directory that the virtio-fs device [`FS_TAG`] shows, a directory or a file; an entry `i` of `images` is the pmem device
//! `/dev/pmem<i>`, or, with the bit [`DISK`] set, a disk; an entry of `disks` is a disk, by the number in its [serial](disk_serial). `gofer` means
//! nothing.

/// The host's context id.
pub const HOST: u32 = 2;
/// Where the host waits for the agent.
pub const CONTROL_PORT: u32 = 1024;
/// Where the host waits for streams.
pub const STREAM_PORT: u32 = 1025;
/// Where stream numbers begin: what is below needs a capability, as with TCP.
pub const FIRST_STREAM: u32 = 1024;
/// The number that means any, in the place of a port (`VMADDR_PORT_ANY`).
pub const ANY_PORT: u32 = u32::MAX;
/// In an entry of `images`: the rest is a disk's number.
pub const DISK: u32 = 1 << 31;

/// What the disk with this number calls itself.
pub fn disk_serial(number: u32) -> String {
    format!("disk-{number}")
}

/// What lines of the agent's log begin with on the guest's console, behind their level: `<4>nacre-agent: …`.
pub const AGENT_LOG: &str = "nacre-agent: ";

/// The virtio-fs device with all trees of the host.
pub const FS_TAG: &str = "nacre";
