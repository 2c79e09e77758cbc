//! [`Rings`] that several threads work on.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandler, VhostUserBackendReqHandlerMut};

use super::{Layout, Rings};

/// Whether the device has given back, within a time that it chooses, all buffers that it had taken.
type Settle = Box<dyn Fn() -> bool + Send + Sync>;

/// Rings behind a lock. When they stop, the VMM gets its answer once no buffer of theirs is in use, as the memory may be another guest's afterwards.
pub struct Shared {
    rings: Mutex<Rings>,
    settle: Settle,
    unsettled: AtomicBool,
}

impl Shared {
    /// Kicks of the rings are watched by `epoll`. `settle` is called when rings have stopped, so that no more is taken from them, and without the lock.
    ///
    /// # Errors
    /// The layout makes no sense.
    pub fn new(layout: Layout, epoll: Arc<OwnedFd>, settle: impl Fn() -> bool + Send + Sync + 'static) -> io::Result<Shared> {
        let rings = Mutex::new(Rings::new(layout, epoll)?);
        Ok(Shared { rings, settle: Box::new(settle), unsettled: AtomicBool::new(false) })
    }

    /// The memory and rings, as the last message left them.
    pub fn lock(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether buffers were still in use when they had to be let go.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Relaxed)
    }

    fn settle(&self) -> Result<()> {
        if (self.settle)() {
            return Ok(());
        }
        self.unsettled.store(true, Ordering::Relaxed);
        Err(Error::ReqHandlerError(io::ErrorKind::TimedOut.into()))
    }
}

/// Those that only change or tell what is behind the lock.
macro_rules! under_the_lock {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> Result<$answer> {
            self.lock().$name($($arg),*)
        })*
    };
}

impl VhostUserBackendReqHandler for Shared {
    fn reset_owner(&self) -> Result<()> {
        self.lock().reset_owner()?;
        self.settle()
    }

    fn reset_device(&self) -> Result<()> {
        self.lock().reset_device()?;
        self.settle()
    }

    fn get_vring_base(&self, index: u32) -> Result<VhostUserVringState> {
        self.lock().stop(index)?;
        self.settle()?;
        self.lock().get_vring_base(index)
    }

    under_the_lock! {
        fn set_owner() -> ();
        fn get_features() -> u64;
        fn set_features(features: u64) -> ();
        fn set_mem_table(regions: &[VhostUserMemoryRegion], files: Vec<File>, postcopy: Option<bool>) -> Option<Vec<VhostUserMemoryRegionBase>>;
        fn set_vring_num(index: u32, num: u32) -> ();
        fn set_vring_addr(index: u32, flags: VhostUserVringAddrFlags, descriptor: u64, used: u64, available: u64, log: u64) -> ();
        fn set_vring_base(index: u32, base: u32) -> ();
        fn set_vring_kick(index: u8, fd: Option<File>) -> ();
        fn set_vring_call(index: u8, fd: Option<File>) -> ();
        fn set_vring_err(index: u8, fd: Option<File>) -> ();
        fn get_protocol_features() -> VhostUserProtocolFeatures;
        fn set_protocol_features(features: u64) -> ();
        fn get_queue_num() -> u64;
        fn set_vring_enable(index: u32, enable: bool) -> ();
        fn get_config(offset: u32, size: u32, flags: VhostUserConfigFlags) -> Vec<u8>;
        fn set_config(offset: u32, bytes: &[u8], flags: VhostUserConfigFlags) -> ();
        fn set_gpu_socket(backend: GpuBackend) -> ();
        fn get_shared_object(uuid: VhostUserSharedMsg) -> File;
        fn get_inflight_fd(inflight: &VhostUserInflight) -> (VhostUserInflight, File);
        fn set_inflight_fd(inflight: &VhostUserInflight, file: File) -> ();
        fn get_max_mem_slots() -> u64;
        fn add_mem_region(region: &VhostUserSingleMemoryRegion, file: File, postcopy: Option<bool>) -> Option<VhostUserMemoryRegionBase>;
        fn remove_mem_region(region: &VhostUserSingleMemoryRegion) -> ();
        fn set_device_state_fd(direction: VhostTransferStateDirection, phase: VhostTransferStatePhase, file: File) -> Option<File>;
        fn check_device_state() -> ();
        fn get_shmem_config() -> VhostUserShMemConfig;
        fn set_log_base(log: &VhostUserLog, file: File) -> ();
    }
}
