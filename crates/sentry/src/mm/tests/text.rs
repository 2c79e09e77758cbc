//! Patched text, and file mappings, over a file made for the purpose.

use std::os::fd::OwnedFd;

use hostcall::Window;
use hostcall::window::WindowMode;
use platform::Patch;

use super::*;
use crate::Errno;
use crate::mm::fault::FILE_RUN;
use crate::mm::{Access, Locked, Mappable, MappedFile, Piece, SegmentFlags};

/// A host file; its size can change.
struct HostFile {
    window: Arc<Window>,
    size: std::sync::atomic::AtomicU64,
}

impl HostFile {
    fn new(contents: &[u8]) -> Arc<HostFile> {
        let fd: OwnedFd = memfd();
        hostcall::io::write_at(std::os::fd::AsFd::as_fd(&fd), contents, 0, hostcall::io::Sleep::Allowed).expect("write");
        let window = Window::map(Arc::new(fd), 0, 1 << 20, WindowMode::ReadWrite).expect("window");
        Arc::new(HostFile { window: Arc::new(window), size: (contents.len() as u64).into() })
    }

    fn resize(&self, len: u64) {
        hostcall::io::set_len(&*self.window, len).expect("truncate");
        self.size.store(len, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Mappable for HostFile {
    fn pieces(&self, offset: u64, len: u64, _access: Access) -> Result<Vec<Piece>, Errno> {
        let len = len.min(self.size().next_multiple_of(PAGE).saturating_sub(offset));
        Ok(vec![Piece { window: self.window.clone(), offset, len, pages: None }])
    }

    fn size(&self) -> u64 {
        self.size.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn identity(&self) -> u64 {
        42
    }

    fn version(&self) -> Option<u64> {
        Some(1)
    }
}

fn map_file(mm: &Mm, file: &Arc<HostFile>, placement: Placement, offset: u64, len: u64, prot: Prot, shared: bool) -> u64 {
    let mapped = Arc::new(MappedFile { mappable: file.clone(), file: Arc::new(()) });
    let mut request = MapRequest { file: Some((mapped, offset)), ..MapRequest::anonymous(placement, len, prot) };
    request.flags.set(SegmentFlags::SHARED, shared);
    mm.map(&request).expect("mmap")
}

fn pages(n: u64) -> Vec<u8> {
    (0..n * PAGE).map(|at| (at / PAGE + 1) as u8).collect()
}

#[test]
fn private_file_pages_are_copied_on_write() {
    let (mm, stub) = new_mm(&memory());
    let file = HostFile::new(&pages(600));
    let at = map_file(&mm, &file, Placement::Hint(0), 0, 600 * PAGE, RW, false);
    assert_eq!((stub.read(at), stub.read(at + 99 * PAGE)), (Some(1), Some(100)));
    assert!(!stub.write(at + PAGE, 200));
    assert_eq!(mm.fault(&write_fault(at + PAGE), 0), FaultOutcome::Resume);
    assert!(stub.write(at + PAGE, 200));
    // Those around it came with it.
    let block = (at + PAGE) / FILE_RUN * FILE_RUN;
    assert!(stub.write(block + FILE_RUN - PAGE + 1, 9) && !stub.write(block + FILE_RUN, 9));
    mm.write(at + 50 * PAGE, &[201]).expect("write");
    assert_eq!((stub.read(at + PAGE), stub.read(at + 50 * PAGE), stub.read(at + 2 * PAGE)), (Some(200), Some(201), Some(3)));
    let mut byte = [0];
    file.window.read(PAGE, &mut byte).expect("read");
    assert_eq!(byte, [2], "the file itself changed");
    let child = mm.fork(0).expect("fork");
    child.write(at + PAGE, &[202]).expect("write");
    assert_eq!(stub.read(at + PAGE), Some(200));
    mm.dont_need(at, 600 * PAGE, Locked::Refused).expect("madvise");
    mm.read(at + PAGE, &mut byte).expect("read");
    assert_eq!(byte, [2]);
}

#[test]
fn small_data_segments_are_copied_at_once() {
    let (mm, stub) = new_mm(&memory());
    let file = HostFile::new(&pages(3));
    let at = map_file(&mm, &file, Placement::Hint(0), PAGE, 2 * PAGE, RW, false);
    assert!(stub.write(at, 9));
    assert_eq!((stub.read(at), stub.read(at + PAGE), stub.read(at + 1)), (Some(9), Some(3), Some(2)));
}

#[test]
fn past_the_end_is_a_bus_error_until_the_file_grows() {
    let (mm, stub) = new_mm(&memory());
    let file = HostFile::new(&pages(1));
    let at = map_file(&mm, &file, Placement::Hint(0), 0, 3 * PAGE, Prot::READ, true);
    assert!(matches!(mm.fault(&read_fault(at + PAGE), 0), FaultOutcome::Signal { signo: 7, code: 2, .. }));
    assert_eq!(mm.read(at + PAGE, &mut [0]), Err(Errno::EFAULT));
    file.resize(2 * PAGE);
    file.window.write(PAGE, &[77]).expect("write");
    assert_eq!(mm.fault(&read_fault(at + PAGE), 0), FaultOutcome::Resume);
    assert_eq!(stub.read(at + PAGE), Some(77));
    file.resize(PAGE);
    let bus = Fault { signal: 7, ..read_fault(at + PAGE) };
    assert!(matches!(mm.fault(&bus, 0), FaultOutcome::Signal { signo: 7, .. }));
    assert!(!mm.is_broken());
}

const TEXT: u64 = 0x5555_0000_0000;

struct Scene {
    platform: Arc<FakePlatform>,
    memory: Arc<MemoryFile>,
    file: Arc<HostFile>,
}

/// `mov $39,%eax; syscall` at 0x100, and a process that has trapped there so often that the site is patched.
fn patched() -> (Scene, Arc<Mm>, Arc<Stub>) {
    let mut text = vec![0x90; 4 * PAGE as usize];
    text[0x100..0x107].copy_from_slice(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
    let scene = Scene { platform: FakePlatform::new(), memory: memory(), file: HostFile::new(&text) };
    let (mm, stub) = scene.process();
    scene.platform.plan(Patch {
        slot_at: TEXT - (1 << 30) + 0x40,
        slot: vec![0xcc; 20],
        site_at: TEXT + 0x100,
        site: vec![0xe9, 1, 2, 3, 4],
        moved: vec![(TEXT + 0x107, TEXT - (1 << 30) + 0x50)],
    });
    let last = (0..40).fold(None, |_, _| Some(mm.patch(TEXT + 0x107, 39)));
    assert_eq!(last.flatten(), Some(TEXT - (1 << 30) + 0x50));
    (scene, mm, stub)
}

impl Scene {
    fn process(&self) -> (Arc<Mm>, Arc<Stub>) {
        let mm = Mm::new(self.platform.clone(), self.memory.clone()).expect("mm");
        map_file(&mm, &self.file, Placement::Fixed(TEXT), 0, 4 * PAGE, Prot::READ | Prot::EXEC, false);
        (mm, self.platform.last_stub())
    }
}

fn site(stub: &Stub) -> Vec<Option<u8>> {
    (0..7).map(|n| stub.read(TEXT + 0x100 + n)).collect()
}

const NEW: [Option<u8>; 7] = [Some(0xe9), Some(1), Some(2), Some(3), Some(4), Some(0x0f), Some(0x05)];
const OLD: [Option<u8>; 7] = [Some(0xb8), Some(39), Some(0), Some(0), Some(0), Some(0x0f), Some(0x05)];

#[test]
fn a_patch_reaches_this_process_and_the_next() {
    let (scene, mm, stub) = patched();
    assert_eq!(site(&stub), NEW);
    assert_eq!(stub.read(TEXT - (1 << 30) + 0x40), Some(0xcc));
    let (other, other_stub) = scene.process();
    assert_eq!(site(&other_stub), NEW);
    assert_eq!(other.moved(TEXT + 0x107), Some(TEXT - (1 << 30) + 0x50));
    assert_eq!(other.moved(TEXT + 0x100), None);
    let child = mm.fork(0).expect("fork");
    assert_eq!(child.moved(TEXT + 0x107), Some(TEXT - (1 << 30) + 0x50));
    let ill = Fault { signal: 4, code: 2, addr: TEXT + 0x107, error: 0, trap: 6 };
    assert_eq!(mm.fault(&ill, TEXT + 0x107), FaultOutcome::MovedTo(TEXT - (1 << 30) + 0x50));
    let mut bytes = [0; 7];
    assert_eq!(mm.read_forced(TEXT + 0x100, &mut bytes), Ok(bytes.len()));
    assert_eq!(bytes.map(Some), OLD);
    assert_eq!(mm.vmas(crate::mm::Detail::Places).len(), 1, "the guest sees slots or pieces");
}

#[test]
fn the_guest_may_map_over_slots_and_write_to_its_text() {
    let slots = TEXT - (1 << 30);
    let (scene, mm, stub) = patched();
    mm.map(&MapRequest::anonymous(Placement::Fixed(slots), PAGE, RW)).expect("mmap");
    assert_eq!((site(&stub), stub.read(slots)), (OLD.to_vec(), Some(0)));
    let (mm, stub) = scene.process();
    assert_eq!(mm.protect(slots, PAGE, RW), Err(Errno::ENOMEM));
    assert_eq!(mm.read(slots, &mut [0]), Err(Errno::EFAULT));
    mm.protect(TEXT, PAGE, RW | Prot::EXEC).expect("mprotect");
    mm.write(TEXT + 0x102, &[9]).expect("write");
    assert_eq!(stub.read(TEXT + 0x100), Some(0xb8));
    let (mm, stub) = scene.process();
    mm.disable_patching();
    assert_eq!(site(&stub), OLD);
    assert_eq!(mm.patch(TEXT + 0x107, 39), None);
    let (mm, stub) = scene.process();
    mm.unmap(TEXT, 2 * PAGE).expect("munmap");
    mm.unmap(TEXT, 4 * PAGE).expect("munmap");
    assert_eq!(stub.page_count(), 0);
}

#[test]
fn slots_are_not_locked_and_patched_text_is_until_it_goes() {
    let slots = TEXT - (1 << 30);
    let (scene, mm, _) = patched();
    mm.lock_all(true, true, u64::MAX).expect("mlockall");
    assert_eq!(mm.locked_bytes(), 4 * PAGE);
    for _ in 0..3 {
        mm.unmap(TEXT, 4 * PAGE).expect("munmap");
        assert_eq!(mm.locked_bytes(), 0);
        map_file(&mm, &scene.file, Placement::Fixed(TEXT), 0, 4 * PAGE, Prot::READ | Prot::EXEC, false);
        assert_eq!((mm.moved(TEXT + 0x107), mm.locked_bytes()), (Some(slots + 0x50), 4 * PAGE));
        mm.lock_all(true, true, u64::MAX).expect("mlockall");
        assert_eq!(mm.locked_bytes(), 4 * PAGE);
    }
    assert_eq!((mm.lock(slots, PAGE, true, u64::MAX), mm.locked_bytes()), (Err(Errno::ENOMEM), 4 * PAGE));
    mm.disable_patching();
    assert_eq!(mm.locked_bytes(), 4 * PAGE);
    mm.lock_all(false, false, 0).expect("munlockall");
    assert_eq!(mm.locked_bytes(), 0);
}

/// A file whose mappings something happens to when it is mapped again.
struct Racing {
    file: Arc<HostFile>,
    meanwhile: parking_lot::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Mappable for Racing {
    fn pieces(&self, offset: u64, len: u64, access: Access) -> Result<Vec<Piece>, Errno> {
        if let Some(happens) = self.meanwhile.lock().take() {
            happens();
        }
        self.file.pieces(offset, len, access)
    }

    fn size(&self) -> u64 {
        self.file.size()
    }

    fn identity(&self) -> u64 {
        43
    }

    fn version(&self) -> Option<u64> {
        Some(1)
    }
}

#[test]
fn what_another_thread_maps_while_remap_looks_for_room_is_not_moved() {
    use crate::mm::{Detail, Remap, RemapTo};
    let (mm, _) = new_mm(&memory());
    let racing = Arc::new(Racing { file: HostFile::new(&pages(4)), meanwhile: parking_lot::Mutex::default() });
    let mapped = Arc::new(MappedFile { mappable: racing.clone(), file: Arc::new(()) });
    let at = TEXT;
    let map = |len| {
        let file = Some((mapped.clone(), 0));
        mm.map(&MapRequest { file, ..MapRequest::anonymous(Placement::Fixed(at), len, Prot::READ) }).expect("mmap")
    };
    map(PAGE);
    let (seen, other) = (mm.file_at(at).expect("a file"), mm.clone());
    *racing.meanwhile.lock() = Some(Box::new(move || {
        // The room that there was goes, so it is to be moved; and what is to be moved is another.
        other.map(&MapRequest::anonymous(Placement::Fixed(at), 2 * PAGE, RW)).expect("mmap");
        other.write(at, &[77]).expect("write");
    }));
    let request = Remap { addr: at, old_len: PAGE, new_len: 2 * PAGE, to: RemapTo::Anywhere, keep_old: false, limit: u64::MAX };
    assert_eq!(mm.remap(&request, Some(&seen)), Ok(None));
    let mut byte = [0];
    mm.read(at, &mut byte).expect("read");
    assert_eq!((byte, mm.vmas(Detail::Places).len()), ([77], 1), "the other mapping, and no reservation");
    // Without a race it is moved, and what is cut off goes.
    map(3 * PAGE);
    let request = Remap { old_len: 3 * PAGE, new_len: PAGE, to: RemapTo::Fixed(at + 16 * PAGE), ..request };
    assert_eq!(mm.remap(&request, Some(&seen)), Ok(Some(at + 16 * PAGE)));
    assert_eq!((mm.vmas(Detail::Places).len(), mm.is_mapped(at, PAGE), mm.is_mapped(at + 2 * PAGE, PAGE)), (1, false, false));
}

#[test]
fn remap_leaves_a_mapping_alone_that_is_not_the_one_that_was_seen() {
    use crate::mm::{Remap, RemapTo};
    let (mm, stub) = new_mm(&memory());
    let file = HostFile::new(&pages(4));
    let at = map_file(&mm, &file, Placement::Hint(0), 0, 2 * PAGE, RW, true);
    let seen = mm.file_at(at).expect("a file");
    // Another thread puts another there: a mapping of its own, though of the same file.
    map_file(&mm, &file, Placement::Fixed(at), 0, 2 * PAGE, RW, true);
    let request =
        |old_len, new_len| Remap { addr: at, old_len, new_len, to: RemapTo::Anywhere, keep_old: false, limit: u64::MAX };
    for (old_len, new_len) in [(0, PAGE), (2 * PAGE, PAGE), (2 * PAGE, 2 * PAGE), (2 * PAGE, 3 * PAGE)] {
        assert_eq!(mm.remap(&request(old_len, new_len), Some(&seen)), Ok(None));
        assert_eq!(mm.remap(&request(old_len, new_len), None), Ok(None));
    }
    assert_eq!((stub.page_count(), mm.vmas(crate::mm::Detail::Places).len()), (2, 1));
    let seen = mm.file_at(at).expect("a file");
    assert!(mm.remap(&request(0, PAGE), Some(&seen)).is_ok_and(|second| second.is_some_and(|second| second != at)));
}
