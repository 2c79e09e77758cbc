//! A platform whose stubs only remember what is mapped, page by page, and can be read and written as the application would.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use platform::{
    AddressSpace, Capabilities, Context, ExecutorId, Layout, MapOrder, Patch, PatchRequest, Platform, PlatformError, Prot,
};

pub const RESERVED: std::ops::Range<u64> = 0x7e00_0000_0000..0x7e00_1000_0000;

pub struct FakePlatform {
    layout: Layout,
    stubs: Mutex<Vec<Arc<Stub>>>,
    patch: Mutex<Option<Patch>>,
}

impl FakePlatform {
    pub fn new() -> Arc<FakePlatform> {
        let layout = Layout { user: 0x1000..0x7fff_ffff_f000, reserved: vec![RESERVED], vdso: None, vvar: None };
        Arc::new(FakePlatform { layout, stubs: Mutex::default(), patch: Mutex::default() })
    }

    pub fn last_stub(&self) -> Arc<Stub> {
        self.stubs.lock().last().cloned().expect("a stub")
    }

    pub fn plan(&self, patch: Patch) {
        *self.patch.lock() = Some(patch);
    }
}

impl Platform for FakePlatform {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { host_schedules: true, patches: true, xfeatures: 3, xstate_size: 576 }
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, PlatformError> {
        let stub = Arc::new(Stub::default());
        self.stubs.lock().push(stub.clone());
        Ok(stub)
    }

    fn plan_patch(&self, _request: &PatchRequest<'_>) -> Option<Patch> {
        self.patch.lock().clone()
    }

    fn poll(&self, _executor: ExecutorId) -> usize {
        0
    }

    fn park(&self, _executor: ExecutorId, _deadline_ns: Option<u64>) {}

    fn unpark(&self, _executor: ExecutorId) {}
}

#[derive(Debug, Clone)]
pub struct Page {
    pub file: Arc<OwnedFd>,
    pub offset: u64,
    pub prot: Prot,
}

/// One fake stub: its pages, and how many orders it got.
#[derive(Default)]
pub struct Stub {
    pages: Mutex<BTreeMap<u64, Page>>,
    pub counts: Mutex<HashMap<&'static str, usize>>,
}

impl Stub {
    fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    pub fn page(&self, addr: u64) -> Option<Page> {
        self.pages.lock().get(&(addr & !4095)).cloned()
    }

    pub fn page_count(&self) -> usize {
        self.pages.lock().len()
    }

    /// Reads a byte as the application would. None: a fault.
    pub fn read(&self, addr: u64) -> Option<u8> {
        let page = self.page(addr).filter(|page| !page.prot.is_empty())?;
        let mut byte = [0];
        let n = hostcall::io::read_at(
            page.file.as_fd(),
            &mut byte,
            (page.offset + addr % 4096) as i64,
            hostcall::io::Sleep::Allowed,
        );
        (n == Ok(1)).then_some(byte[0])
    }

    /// Writes a byte as the application would. False: a fault.
    pub fn write(&self, addr: u64, value: u8) -> bool {
        let Some(page) = self.page(addr).filter(|page| page.prot.contains(Prot::WRITE)) else { return false };
        hostcall::io::write_at(page.file.as_fd(), &[value], (page.offset + addr % 4096) as i64, hostcall::io::Sleep::Allowed)
            == Ok(1)
    }
}

impl AddressSpace for Stub {
    fn map(&self, order: &MapOrder<'_>) -> Result<(), PlatformError> {
        self.count("map");
        assert!(
            order.addr.is_multiple_of(4096)
                && order.len.is_multiple_of(4096)
                && order.offset.is_multiple_of(4096)
                && order.len > 0,
            "{order:?}"
        );
        assert!(
            order.addr >= RESERVED.end || order.addr + order.len <= RESERVED.start,
            "over the platform's own range: {order:?}"
        );
        let file = Arc::new(order.file.try_clone_to_owned().expect("dup"));
        let mut pages = self.pages.lock();
        for at in (0..order.len).step_by(4096) {
            pages.insert(order.addr + at, Page { file: file.clone(), offset: order.offset + at, prot: order.prot });
        }
        Ok(())
    }

    fn unmap(&self, addr: u64, len: u64) -> Result<(), PlatformError> {
        self.count("unmap");
        let mut pages = self.pages.lock();
        let gone: Vec<u64> = pages.range(addr..addr + len).map(|(&at, _)| at).collect();
        for at in gone {
            pages.remove(&at);
        }
        Ok(())
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) -> Result<(), PlatformError> {
        self.count("protect");
        let mut pages = self.pages.lock();
        for at in (addr..addr + len).step_by(4096) {
            pages.get_mut(&at).expect("protect of what is mapped").prot = prot;
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), PlatformError> {
        self.count("settle");
        Ok(())
    }

    fn new_context(&self) -> Result<Box<dyn Context>, PlatformError> {
        Err(PlatformError::Unsupported("a test stub runs nothing".into()))
    }
}
