//! The guest's memory and rings as vhost-user messages describe them.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll;
use rustix::fs::SealFlags;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
    VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_queue::{Queue, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::{KICK, Layout, drain};

/// Features of rings that `virtio-queue` has, by their bits (virtio 1.2, 6).
const RING_INDIRECT: u64 = 1 << 28;
const RING_EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
/// Pieces of guest memory; QEMU's own limit is about as high.
const MAX_REGIONS: usize = 64;

/// One virtqueue.
pub struct Ring {
    pub queue: Queue,
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
}

impl Ring {
    /// Whether the device may touch it.
    pub fn is_live(&self) -> bool {
        self.enabled && self.queue.ready() && self.kick.is_some()
    }

    /// Interrupts the guest if it wants to know of buffers that came back.
    pub fn signal(&mut self, memory: &GuestMemoryMmap) -> std::result::Result<(), virtio_queue::Error> {
        if self.queue.needs_notification(memory)?
            && let Some(call) = &self.call
        {
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    /// The guest's driver wrote nonsense: not touched before the VMM sets it up anew.
    pub fn give_up(&mut self) {
        self.queue.set_ready(false);
    }
}

struct Mapping {
    vmm: u64,
    guest: u64,
    size: u64,
    region: Option<Arc<GuestRegionMmap>>,
}

pub struct Rings {
    /// A copy stays good for who has taken buffers from it.
    pub memory: Arc<GuestMemoryMmap>,
    pub rings: Vec<Ring>,
    /// Set when the guest's driver started the rings from their beginning, which it does after a reset only. For the device to take note of.
    pub fresh: bool,
    layout: Layout,
    epoll: Arc<OwnedFd>,
    mappings: Vec<Mapping>,
    acked: u64,
    /// Whether rings have been started elsewhere than at their beginning, or stopped: so that a driver has been there.
    used: bool,
}

impl Rings {
    pub(super) fn new(layout: Layout, epoll: Arc<OwnedFd>) -> io::Result<Rings> {
        let ring = |_| {
            let queue = Queue::new(layout.max_queue).map_err(io::Error::other)?;
            Ok(Ring { queue, kick: None, call: None, enabled: false })
        };
        let rings = (0..layout.queues).map(ring).collect::<io::Result<_>>()?;
        Ok(Rings { memory: Arc::default(), rings, fresh: false, layout, epoll, mappings: Vec::new(), acked: 0, used: false })
    }

    /// Takes note of a kick of ring `index`.
    pub fn kicked(&self, index: u64) {
        if let Some(Ring { kick: Some(kick), .. }) = self.rings.get(index as usize) {
            drain(kick);
        }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        self.rings.get_mut(index as usize).ok_or(Error::InvalidParam)
    }

    fn guest_address(&self, vmm: u64) -> Result<u64> {
        let inside = |m: &&Mapping| m.region.is_some() && vmm.checked_sub(m.vmm).is_some_and(|offset| offset < m.size);
        let mapping = self.mappings.iter().find(inside).ok_or(Error::InvalidParam)?;
        Ok(mapping.guest + (vmm - mapping.vmm))
    }

    fn map(&mut self, region: &VhostUserMemoryRegion, file: File) -> Result<()> {
        let (guest, size, vmm) = (region.guest_phys_addr, region.memory_size, region.user_addr);
        if self.mappings.len() == MAX_REGIONS || guest.checked_add(size).is_none() || vmm.checked_add(size).is_none() {
            return Err(Error::InvalidParam);
        }
        // A file that shrinks would kill us by SIGBUS. pmem images are such: rings and vsock's buffers are never in them.
        let sealed = rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if sealed {
            let length = rustix::fs::fstat(&file).map_err(|e| Error::ReqHandlerError(e.into()))?.st_size as u64;
            // Nothing else looks whether the file is as long as the VMM says.
            if region.mmap_offset.checked_add(size).is_none_or(|end| end > length) {
                return Err(Error::InvalidParam);
            }
        }
        let mapped = sealed.then(|| {
            let memory = MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), size as usize);
            let region = GuestRegionMmap::new(memory.map_err(io::Error::other)?, GuestAddress(guest));
            region.map(Arc::new).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
        });
        let region = mapped.transpose().map_err(Error::ReqHandlerError)?;
        if let Some(region) = &region {
            let memory = self.memory.insert_region(region.clone()).map_err(|e| Error::ReqHandlerError(io::Error::other(e)))?;
            self.memory = Arc::new(memory);
        }
        self.mappings.push(Mapping { vmm, guest, size, region });
        Ok(())
    }

    /// Takes nothing more from a ring. The guest is still told of what comes back.
    pub(super) fn stop(&mut self, index: u32) -> Result<()> {
        self.set_kick(index, None)?;
        self.ring(index)?.queue.set_ready(false);
        Ok(())
    }

    /// Stops watching a ring's kick before its descriptor is closed: the VMM's copy would keep it in the epoll.
    fn set_kick(&mut self, index: u32, kick: Option<File>) -> Result<()> {
        let epoll = self.epoll.clone();
        let ring = self.ring(index)?;
        if let Some(old) = ring.kick.take() {
            let _ = epoll::delete(&epoll, &old);
        }
        if let Some(kick) = &kick {
            let token = epoll::EventData::new_u64(KICK + u64::from(index));
            epoll::add(&epoll, kick, token, epoll::EventFlags::IN).map_err(|e| Error::ReqHandlerError(e.into()))?;
        }
        ring.kick = kick;
        Ok(())
    }
}

const NOT_OFFERED: Error = Error::InvalidOperation("not offered");

impl VhostUserBackendReqHandlerMut for Rings {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        for index in 0..self.rings.len() as u32 {
            self.set_kick(index, None)?;
            let ring = self.ring(index)?;
            ring.queue.reset();
            (ring.call, ring.enabled) = (None, false);
        }
        self.fresh = true;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        let rings = RING_INDIRECT | RING_EVENT_IDX | VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        Ok(self.layout.features | rings)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_features()? != 0 {
            return Err(Error::InvalidParam);
        }
        self.acked = features;
        let with_protocol = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0;
        for ring in &mut self.rings {
            ring.queue.set_event_idx(features & RING_EVENT_IDX != 0);
            // Without the protocol's features there is no message to enable a ring (vhost-user, "Ring states").
            ring.enabled |= !with_protocol;
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.memory = Arc::default();
        self.mappings.clear();
        for (region, file) in regions.iter().zip(files) {
            self.map(region, file)?;
        }
        Ok(None)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        self.map(region, file)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let same = |m: &Mapping| m.guest == region.guest_phys_addr && m.vmm == region.user_addr && m.size == region.memory_size;
        let at = self.mappings.iter().position(same).ok_or(Error::InvalidParam)?;
        let mapping = self.mappings.swap_remove(at);
        if mapping.region.is_some() {
            let (memory, _) = self
                .memory
                .remove_region(GuestAddress(mapping.guest), mapping.size)
                .map_err(|e| Error::ReqHandlerError(io::Error::other(e)))?;
            self.memory = Arc::new(memory);
        }
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue.try_set_size(size).map_err(|_| Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let [descriptor, used, available] = [descriptor, used, available].map(|vmm| self.guest_address(vmm).map(GuestAddress));
        let (descriptor, used, available) = (descriptor?, used?, available?);
        let memory = self.memory.clone();
        let queue = &mut self.ring(index)?.queue;
        queue.try_set_desc_table_address(descriptor).map_err(|_| Error::InvalidParam)?;
        queue.try_set_used_ring_address(used).map_err(|_| Error::InvalidParam)?;
        queue.try_set_avail_ring_address(available).map_err(|_| Error::InvalidParam)?;
        // A split ring's used index is not in any message: it is where the ring has it.
        let used = queue.used_idx(&*memory, std::sync::atomic::Ordering::Relaxed).map_err(|_| Error::InvalidParam)?;
        queue.set_next_used(used.0);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.queue.set_next_avail(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.stop(index)?;
        self.used = true;
        let ring = self.ring(index)?;
        ring.call = None;
        Ok(VhostUserVringState::new(index, ring.queue.next_avail().into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        if fd.is_none() {
            // It would have to be polled.
            return Err(NOT_OFFERED);
        }
        self.set_kick(index.into(), fd)?;
        let memory = self.memory.clone();
        let queue = &mut self.ring(index.into())?.queue;
        queue.set_ready(true);
        if !queue.is_valid(&*memory) {
            queue.set_ready(false);
            return Err(Error::InvalidParam);
        }
        // A paused machine's rings go on where they stopped; only a new driver starts at the beginning.
        let at_beginning = self.rings.iter().all(|ring| ring.queue.next_avail() == 0 && ring.queue.next_used() == 0);
        self.fresh |= at_beginning && self.used;
        self.used |= !at_beginning;
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let ring = self.ring(index.into())?;
        // Buffers may have come back while there was none, or another: told once too often is no harm, never told is.
        if let Some(call) = &fd {
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
        ring.call = fd;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.ring(index.into()).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        use VhostUserProtocolFeatures as F;
        // QEMU warns of a configuration that it has itself.
        let config = if self.layout.config.is_empty() { F::empty() } else { F::CONFIG };
        Ok(F::MQ | F::REPLY_ACK | F::CONFIGURE_MEM_SLOTS | config)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let end = offset.checked_add(size).ok_or(Error::InvalidParam)?;
        self.layout.config.get(offset as usize..end as usize).map(<[u8]>::to_vec).ok_or(Error::InvalidParam)
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        Err(NOT_OFFERED)
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(NOT_OFFERED)
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        Err(NOT_OFFERED)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(NOT_OFFERED)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(NOT_OFFERED)
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        Err(NOT_OFFERED)
    }
}
