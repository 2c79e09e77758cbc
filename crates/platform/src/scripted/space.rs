//! Scripted address spaces: the mappings they were ordered to make, and loads and stores through them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hostcall::Errno;
use hostcall::io::Sleep;
use parking_lot::Mutex;

use super::{Shared, context::ScriptedContext};
use crate::{AddressSpace, Context, Fault, MapOrder, PlatformError, Prot};

pub(super) struct ScriptedSpace {
    shared: Arc<Shared>,
    regions: Mutex<BTreeMap<u64, Region>>,
    failed: Mutex<Option<PlatformError>>,
}

#[derive(Clone)]
struct Region {
    len: u64,
    file: Arc<OwnedFd>,
    offset: u64,
    prot: Prot,
}

/// Loads, stores and fetches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    Load,
    Store,
}

impl ScriptedSpace {
    pub fn start(shared: Arc<Shared>) -> Arc<dyn AddressSpace> {
        Arc::new(SpaceHandle(Arc::new(ScriptedSpace { shared, regions: Mutex::default(), failed: Mutex::default() })))
    }

    /// Splits a region at `at`, so that none spans it.
    fn split(regions: &mut BTreeMap<u64, Region>, at: u64) {
        let Some((&start, region)) = regions.range_mut(..at).next_back() else { return };
        let before = at - start;
        if before < region.len {
            let tail = Region { len: region.len - before, offset: region.offset + before, ..region.clone() };
            region.len = before;
            regions.insert(at, tail);
        }
    }

    fn remove(regions: &mut BTreeMap<u64, Region>, addr: u64, len: u64) {
        Self::split(regions, addr);
        Self::split(regions, addr.saturating_add(len));
        let mut tail = regions.split_off(&addr);
        let mut beyond = tail.split_off(&addr.saturating_add(len));
        regions.append(&mut beyond);
    }

    /// Copies between `bytes` and memory from `addr` on, page by page.
    pub fn touch(&self, addr: u64, bytes: &mut [u8], touch: Touch) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let at = addr.saturating_add(done as u64);
            let n = (bytes.len() - done).min((4096 - at % 4096) as usize);
            let Some(piece) = bytes.get_mut(done..done + n) else { break };
            self.touch_page(at, piece, touch)?;
            done += n;
        }
        Ok(())
    }

    fn touch_page(&self, at: u64, piece: &mut [u8], touch: Touch) -> Result<(), Fault> {
        let write = u64::from(touch == Touch::Store) << 1;
        let fault = |signal, code| Fault { signal, code, addr: at, error: 4 | write | u64::from(code == 2), trap: 14 };
        let regions = self.regions.lock();
        let found = regions.range(..=at).next_back().filter(|(start, region)| at - **start < region.len);
        let Some((&start, region)) = found else { return Err(fault(libc::SIGSEGV, 1)) };
        let wanted = if touch == Touch::Store { Prot::WRITE } else { Prot::READ };
        if !region.prot.contains(wanted) {
            return Err(fault(libc::SIGSEGV, 2));
        }
        let offset = (region.offset + (at - start)) as i64;
        let n = match touch {
            Touch::Load => hostcall::io::read_at(region.file.as_fd(), piece, offset, Sleep::Allowed),
            Touch::Store => hostcall::io::write_at(region.file.as_fd(), piece, offset, Sleep::Allowed),
        };
        if n == Ok(piece.len()) { Ok(()) } else { Err(fault(libc::SIGBUS, 2)) }
    }

    fn map(&self, order: &MapOrder<'_>) {
        let Ok(file) = order.file.try_clone_to_owned() else {
            *self.failed.lock() =
                Some(PlatformError::Order { what: "map", addr: order.addr, len: order.len, errno: Errno::EMFILE });
            return;
        };
        let mut regions = self.regions.lock();
        Self::remove(&mut regions, order.addr, order.len);
        let region = Region { len: order.len, file: Arc::new(file), offset: order.offset, prot: order.prot };
        regions.insert(order.addr, region);
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        let mut regions = self.regions.lock();
        let end = addr.saturating_add(len);
        Self::split(&mut regions, addr);
        Self::split(&mut regions, end);
        let mut covered = 0;
        for (_, region) in regions.range_mut(addr..end) {
            region.prot = prot;
            covered += region.len;
        }
        if covered != len {
            *self.failed.lock() = Some(PlatformError::Order { what: "protect", addr, len, errno: Errno::ENOMEM });
        }
    }
}

/// What the kernel holds.
struct SpaceHandle(Arc<ScriptedSpace>);

impl AddressSpace for SpaceHandle {
    fn map(&self, order: &MapOrder<'_>) -> Result<(), PlatformError> {
        self.0.map(order);
        Ok(())
    }

    fn unmap(&self, addr: u64, len: u64) -> Result<(), PlatformError> {
        ScriptedSpace::remove(&mut self.0.regions.lock(), addr, len);
        Ok(())
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) -> Result<(), PlatformError> {
        self.0.protect(addr, len, prot);
        Ok(())
    }

    fn settle(&self) -> Result<(), PlatformError> {
        self.0.failed.lock().take().map_or(Ok(()), Err)
    }

    fn new_context(&self) -> Result<Box<dyn Context>, PlatformError> {
        let shared = &self.0.shared;
        if shared.contexts.load(Ordering::SeqCst) >= shared.max_contexts.load(Ordering::SeqCst) {
            return Err(PlatformError::Context(Errno::EAGAIN));
        }
        Ok(Box::new(ScriptedContext::new(shared.clone(), self.0.clone())))
    }
}
