//! An address space: a stub in use, and the application threads in it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use parking_lot::Mutex;

use super::Systrap;
use super::context::SystrapContext;
use super::control::Block;
use super::layout::*;
use super::stub::{Failure, Order, Stub};
use super::thread::Thread;
use crate::{AddressSpace, Context, Death, MapFlags, MapOrder, PlatformError, Prot, Wish};

/// Threads kept for the next context when a context ends.
const SPARE_THREADS: usize = 4;

/// See the module.
pub struct Space {
    platform: Arc<Systrap>,
    /// Some until dropped.
    stub: Option<Arc<Stub>>,
    threads: Mutex<Threads>,
    me: std::sync::Weak<Space>,
}

struct Threads {
    /// Blocks below this have been used.
    next: u64,
    free: Vec<u64>,
    spare: Vec<Spare>,
}

/// A host thread whose context has ended: it waits for its turn in the blob.
pub struct Spare {
    pub thread: Arc<Thread>,
    pub stop: super::context::Stop,
}

impl Space {
    pub fn new(platform: Arc<Systrap>, stub: Arc<Stub>) -> Arc<Space> {
        let threads = Mutex::new(Threads { next: 0, free: Vec::new(), spare: Vec::new() });
        Arc::new_cyclic(|me| Space { platform, stub: Some(stub), threads, me: me.clone() })
    }

    pub fn stub(&self) -> &Arc<Stub> {
        self.stub.as_ref().expect("the stub leaves in drop only")
    }

    pub fn platform(&self) -> &Arc<Systrap> {
        &self.platform
    }

    /// The one place where ranges of orders are checked: page-aligned, in user memory, nowhere near our own pages or the vDSO.
    fn check(&self, what: &'static str, addr: u64, len: u64) -> Result<(), PlatformError> {
        let refused = || PlatformError::Order { what, addr, len, errno: hostcall::Errno::EINVAL };
        let end = addr.checked_add(len).ok_or_else(refused)?;
        let layout = self.platform.layout_ref();
        let aligned = addr.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && len > 0;
        let inside = addr >= layout.user.start && end <= layout.user.end;
        if !aligned || !inside || layout.reserved.iter().any(|r| addr < r.end && end > r.start) {
            return Err(refused());
        }
        Ok(())
    }

    fn order(&self, what: &'static str, number: i64, args: [u64; 6], failure: Failure) -> Result<(), PlatformError> {
        self.stub().post(Order { what, number, args, failure })
    }

    /// Takes a context's thread back.
    pub fn give_back(&self, spare: Spare) {
        let mut threads = self.threads.lock();
        // The host may not let us take a nice value back.
        let is_nice = spare.thread.nice.load(SeqCst) != Wish::default().nice;
        if threads.spare.len() < SPARE_THREADS && spare.thread.death().is_none() && !is_nice {
            threads.spare.push(spare);
            return;
        }
        drop(threads);
        let index = spare.thread.index;
        spare.thread.kill(Death::Signal(libc::SIGKILL));
        self.threads.lock().free.push(index);
    }

    /// Ends a thread that is in user mode or broken.
    pub fn bury(&self, thread: &Thread) {
        thread.kill(Death::Signal(libc::SIGKILL));
        self.threads.lock().free.push(thread.index);
    }

    pub fn context(&self) -> Result<SystrapContext, PlatformError> {
        let spare = self.start_thread()?;
        let me = self.me.upgrade().expect("called through a living Arc");
        Ok(SystrapContext::new(me, spare))
    }

    fn start_thread(&self) -> Result<Spare, PlatformError> {
        let index = {
            let mut threads = self.threads.lock();
            if let Some(spare) = threads.spare.pop() {
                return Ok(spare);
            }
            match threads.free.pop() {
                Some(index) => index,
                None if threads.next < BLOCK_COUNT => {
                    threads.next += 1;
                    threads.next - 1
                }
                None => return Err(PlatformError::Context(hostcall::Errno::EAGAIN)),
            }
        };
        let stub = self.stub();
        let block = Block::new(self.platform.control(), stub.area, index);
        block.write(0, &[0; 0x400]);
        block.set32(SPIN, self.platform.stub_spin());
        let args = [CLONE_THREAD, block.address, 0, 0, 0, 0];
        let order = Order { what: "clone", number: libc::SYS_clone, args, failure: Failure::Ignored };
        match stub.call(order)? {
            Ok(tid) => {
                let thread = Thread::new(block, index, tid as i32, stub.clone(), self.platform.executors());
                Ok(Spare { thread: Arc::new(thread), stop: super::context::Stop::New })
            }
            Err(errno) => {
                self.threads.lock().free.push(index);
                Err(PlatformError::Context(errno))
            }
        }
    }
}

impl AddressSpace for Space {
    fn map(&self, order: &MapOrder<'_>) -> Result<(), PlatformError> {
        use std::os::fd::AsRawFd;
        let MapOrder { addr, len, prot, flags, file, offset } = *order;
        self.check("mmap", addr, len)?;
        let populate = if flags.contains(MapFlags::POPULATE) { libc::MAP_POPULATE } else { 0 };
        let host_flags = (libc::MAP_SHARED | libc::MAP_FIXED | populate) as u64;
        let args = [addr, len, u64::from(prot.bits()), host_flags, file.as_raw_fd() as u64, offset];
        self.order("mmap", libc::SYS_mmap, args, Failure::Reported)?;
        if flags.contains(MapFlags::HUGE) {
            let args = [addr, len, libc::MADV_HUGEPAGE as u64, 0, 0, 0];
            self.order("madvise", libc::SYS_madvise, args, Failure::Ignored)?;
        }
        Ok(())
    }

    fn unmap(&self, addr: u64, len: u64) -> Result<(), PlatformError> {
        self.check("munmap", addr, len)?;
        self.order("munmap", libc::SYS_munmap, [addr, len, 0, 0, 0, 0], Failure::Reported)
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) -> Result<(), PlatformError> {
        self.check("mprotect", addr, len)?;
        let args = [addr, len, u64::from(prot.bits()), 0, 0, 0];
        self.order("mprotect", libc::SYS_mprotect, args, Failure::Reported)
    }

    fn settle(&self) -> Result<(), PlatformError> {
        self.stub().settle()
    }

    fn new_context(&self) -> Result<Box<dyn Context>, PlatformError> {
        Ok(Box::new(self.context()?))
    }
}

impl Drop for Space {
    /// Contexts hold the address space, so none is left. Ends the spare threads, then hands the stub over.
    fn drop(&mut self) {
        let threads = self.threads.get_mut();
        let spare: Vec<_> = threads.spare.drain(..).map(|spare| spare.thread).collect();
        spare.iter().for_each(|thread| thread.begin_to_die());
        if let Some(stub) = self.stub.take() {
            self.platform.recycle(stub, spare, threads.next);
        }
    }
}
