//! Virtual machine monitors and the devices we serve them.
//!
//! A machine is data ([`Machine`], [`Device`]); what drives it is a [`Vmm`]; [`qemu`] is the one driver there is. Drivers start no process: they say
//! what to run ([`CommandLine`]), the runtime runs it confined and hands back the control socket. Everything of the host a VMM is to use comes as a
//! descriptor. Not here: the guest's kernel and agent (`guest`, `agent`), virtio-fs (`virtiofs`), taps, cgroups and confinement (`runtime`).

mod accelerator;
mod device;
mod error;
mod machine;
pub mod qemu;
pub mod vhost_user;
pub mod vsock;

use std::time::Duration;

pub use accelerator::Accelerator;
pub use device::{Access, Device, Features, VIRTIO_FS_QUEUE};
pub use error::{Error, Feature, Result};
pub use machine::{CommandLine, Console, Cpus, Inherited, Machine, Memory};

/// What a running VM may be asked. Calls may come from several threads; each takes at most a few seconds, also when the guest or the VMM hangs.
pub trait Vmm: Send + Sync {
    /// What this driver can do at all.
    fn features(&self) -> Features;

    /// Returns when the VM runs (its kernel has its first instruction; nothing is said about the agent in it).
    ///
    /// # Errors
    /// [`Error::Ended`] if the VMM is gone, [`Error::Timeout`].
    fn boot(&self, timeout: Duration) -> Result<()>;

    /// Plugs a device in. Returns when the VMM has it; the guest finds it a little later.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::NoSlot`], or the VMM's own refusal.
    fn add_device(&self, id: &str, device: Device) -> Result<()>;

    /// Takes a device out, and returns when the guest has let it go.
    ///
    /// # Errors
    /// [`Error::Timeout`] if the guest does not: the device is still there then, and may leave later.
    fn remove_device(&self, id: &str, timeout: Duration) -> Result<()>;

    /// Plugs vCPUs in or out until there are `count`; returns how many there are. The guest has to bring new ones on line, and may keep old ones.
    ///
    /// # Errors
    /// [`Error::Limit`] if `count` is 0 or above [`Cpus::max`]; [`Error::Unsupported`] if there are more now and the driver cannot take one away.
    fn resize_cpus(&self, count: u32, timeout: Duration) -> Result<u32>;

    /// Lets the guest have `bytes` of memory in all; returns how much it has at the end of `timeout`, or as soon as it is as asked for.
    ///
    /// # Errors
    /// [`Error::Limit`] if `bytes` is below [`Memory::boot`] or above [`Memory::max`].
    fn resize_memory(&self, bytes: u64, timeout: Duration) -> Result<u64>;

    /// Stops all vCPUs.
    fn pause(&self) -> Result<()>;

    /// Lets them run again.
    fn resume(&self) -> Result<()>;

    /// Ends the VM at once; the guest is not asked. Fine if it has ended already.
    fn stop(&self) -> Result<()>;

    fn status(&self) -> Result<Status>;

    /// The next event, or None if `timeout` passed first. After [`Event::Ended`] there are none.
    fn next_event(&self, timeout: Duration) -> Option<Event>;
}

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    Paused,
    /// The guest powered off or was reset.
    Shutdown,
    /// Its kernel panicked.
    Panicked,
    /// The VMM met an error of its own (a full disk, an internal error) and stopped the vCPUs.
    Failed,
}

/// What happened to a VM without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest powered off.
    Shutdown,
    /// The guest rebooted. A machine of ours ends then too.
    Reset,
    /// The guest's kernel panicked.
    Panicked,
    /// The guest let a device go.
    DeviceRemoved(String),
    /// The VMM met an error with a device of this name.
    DeviceFailed(String),
    /// The control socket is closed: the VMM has ended.
    Ended,
}
