//! Rings made by hand.

use std::{
    fs::File,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use gofer::{
    passthrough::Source,
    protocol::{Access, Cache},
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vhost::vhost_user::{
    VhostUserBackendReqHandler,
    message::{VhostUserMemoryRegion, VhostUserVringAddrFlags},
};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::*;
use crate::abi::{InHeader, OutHeader, ReadIn, op};

const REQUESTS: usize = 1;
const SIZE: u16 = 16;
const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x10000;
const END: u64 = 0x100000;
/// Where the VMM has the guest's memory.
const VMM: u64 = 0x7000_0000_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A guest's end of a ring, and the device on it.
struct Guest {
    memory: Arc<GuestMemoryMmap>,
    device: Arc<Device>,
}

impl Guest {
    fn new() -> Guest {
        let server = Server::new(Config::for_nofile(256));
        let source = Source::at_path(&std::env::temp_dir()).unwrap();
        server.shown().add(TreeConfig { source, access: Access::ReadOnly, cache: Cache::Shared, told: false }).unwrap();
        let device = Device::new(server.shown().fs.clone()).unwrap();
        let file = memfd_create("guest", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, END).unwrap();
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        let (rings, index) = (&device.rings, REQUESTS as u32);
        rings.set_mem_table(&[VhostUserMemoryRegion::new(0, END, VMM, 0)], vec![file.into()], None).unwrap();
        rings.set_vring_num(index, SIZE.into()).unwrap();
        rings.set_vring_addr(index, VhostUserVringAddrFlags::empty(), VMM + TABLE, VMM + USED, VMM + AVAIL, 0).unwrap();
        rings.set_vring_kick(index as u8, Some(File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap()))).unwrap();
        rings.set_vring_enable(index, true).unwrap();
        let memory = rings.lock().memory.clone();
        Guest { memory, device: Arc::new(device) }
    }

    fn next_avail(&self) -> u16 {
        self.device.rings.lock().rings[REQUESTS].queue.next_avail()
    }

    fn put<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn descriptor(&self, table: u64, n: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = table + u64::from(n) * 16;
        self.put(at, addr);
        self.put(at + 8, len);
        self.put(at + 12, flags);
        self.put(at + 14, next);
    }

    /// Offers a chain that begins at `head`, as the `n`th.
    fn offer(&self, n: u16, head: u16) {
        self.put(AVAIL + 4 + u64::from(n % SIZE) * 2, head);
        self.put(AVAIL + 2, n.wrapping_add(1));
    }

    /// A request in two descriptors from `head` on, at a place of its own.
    fn request(&self, n: u16, head: u16, opcode: u32, nodeid: u64, body: &[u8]) {
        let header = InHeader { len: (40 + body.len()) as u32, opcode, nodeid, unique: head.into(), ..InHeader::default() };
        let bytes = [header.as_bytes(), body].concat();
        let at = BUFFERS + u64::from(head) * 0x2000;
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        self.descriptor(TABLE, head, at, bytes.len() as u32, NEXT, head + 1);
        self.descriptor(TABLE, head + 1, at + 0x1000, 0x1000, WRITE, 0);
        self.offer(n, head);
    }

    fn kick(&self) {
        self.device.attend(REQUESTS);
    }

    fn used(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// Head and length of the `n`th that came back.
    fn returned(&self, n: u16) -> (u32, u32) {
        let at = USED + 4 + u64::from(n % SIZE) * 8;
        (self.memory.read_obj(GuestAddress(at)).unwrap(), self.memory.read_obj(GuestAddress(at + 4)).unwrap())
    }

    /// The answer to the request at `head`.
    fn error(&self, head: u16) -> i32 {
        let mut bytes = [0; 16];
        self.memory.read_slice(&mut bytes, GuestAddress(BUFFERS + u64::from(head) * 0x2000 + 0x1000)).unwrap();
        <OutHeader as zerocopy::FromBytes>::read_from_bytes(&bytes).unwrap().error
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn requests_come_back_answered() {
    let guest = Guest::new();
    guest.request(0, 0, op::LOOKUP, 1, b"0\0");
    guest.request(1, 4, op::LOOKUP, 1, b"1\0");
    guest.kick();
    assert_eq!(guest.used(), 2);
    assert_eq!((guest.returned(0), guest.returned(1)), ((0, 16 + 128), (4, 16)));
    assert_eq!((guest.error(0), guest.error(4)), (0, -libc::ENOENT));
}

#[test]
fn a_request_that_comes_after_a_helpers_is_not_left_lying() {
    let guest = Guest::new();
    guest.request(0, 0, op::LOOKUP, 1, b"0\0");
    guest.device.drain(REQUESTS, Role::Helper);
    // The leader was kicked for the first, finds nothing, and the guest has no reason to kick for this.
    guest.request(1, 4, op::LOOKUP, 1, b"0\0");
    let mut told_at = None;
    assert!(guest.device.must_look_again(REQUESTS, &mut told_at));
    assert!(!guest.device.must_look_again(REQUESTS, &mut told_at), "nobody has taken any");
    guest.device.drain(REQUESTS, Role::Leader);
    assert!(!guest.device.must_look_again(REQUESTS, &mut told_at), "there is none");
    guest.request(2, 0, op::LOOKUP, 1, b"0\0");
    assert!(guest.device.must_look_again(REQUESTS, &mut told_at));
    guest.kick();
    assert_eq!(guest.used(), 3);
}

#[test]
fn broken_chains_come_back_empty() {
    let guest = Guest::new();
    let table = BUFFERS + 0x40000;
    // A circle; memory that is not there; a table in a table; a table of half an entry; no header; nothing.
    guest.descriptor(TABLE, 0, BUFFERS, 8, NEXT, 0);
    guest.descriptor(TABLE, 1, END - 4, 4096, 0, 0);
    guest.descriptor(TABLE, 2, table, 16, INDIRECT, 0);
    guest.descriptor(table, 0, table, 16, INDIRECT, 0);
    guest.descriptor(TABLE, 3, table, 24, INDIRECT, 0);
    guest.descriptor(TABLE, 4, BUFFERS, 39, 0, 0);
    guest.descriptor(TABLE, 5, BUFFERS, 0, 0, 0);
    for head in 0..6 {
        guest.offer(head, head);
    }
    guest.kick();
    assert_eq!(guest.used(), 6);
    for n in 0..6 {
        assert_eq!(guest.returned(n), (n.into(), 0));
    }
    // A head beyond the table, and more offered than there is room for: not taken, and no turning in circles.
    guest.offer(6, 999);
    guest.kick();
    guest.put(AVAIL + 2, 5000u16);
    guest.kick();
    assert!(guest.used() <= 7);
}

#[test]
fn any_rings_are_survived() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let guest = Guest::new();
    let mut taken = 0;
    for round in 0..3000u32 {
        for n in 0..SIZE {
            let (addr, len) = match random(8) {
                0 => (random(u64::MAX), random(1 << 32) as u32),
                1 => (BUFFERS + random(0x8000) * 16, random(64) as u32 * 16),
                _ => (BUFFERS + random(0x80000), random(300) as u32),
            };
            guest.descriptor(TABLE, n, addr, len, random(8) as u16, random(u64::from(SIZE) + 2) as u16);
            let header =
                InHeader { len: random(200) as u32, opcode: random(53) as u32, nodeid: random(3), ..InHeader::default() };
            if random(2) == 0 && addr < END - 64 {
                guest.memory.write_slice(header.as_bytes(), GuestAddress(addr)).unwrap();
            }
            guest.put(AVAIL + 4 + u64::from(n) * 2, random(u64::from(SIZE) + 1) as u16);
        }
        let next = guest.next_avail();
        let wild = random(20) == 0;
        guest.put(AVAIL + 2, if wild { random(1 << 16) as u16 } else { next.wrapping_add(random(u64::from(SIZE)) as u16) });
        guest.kick();
        taken += u32::from(guest.next_avail().wrapping_sub(next) > 0);
        assert!(round < 100 || taken > 10);
    }
}

#[test]
fn one_that_hangs_does_not_stop_the_others() {
    let guest = Guest::new();
    let stopped = AtomicBool::new(false);
    let turns = || guest.device.pool.turns.load(Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| guest.device.help());
        scope.spawn(|| guest.device.watch());
        let hung = guest.device.fs.hold_handles();
        guest.request(0, 0, op::READ, 1, ReadIn::default().as_bytes());
        scope.spawn(|| guest.kick());
        until("the leader is in its request", || turns() % 2 == 1);
        // Nobody is told of this one: the leader has switched that off, and hangs.
        guest.request(1, 4, op::LOOKUP, 1, b"0\0");
        until("a helper does the other", || guest.used() == 1);
        assert_eq!((guest.returned(0).0, guest.error(4)), (4, 0));
        scope.spawn(|| {
            guest.device.rings.get_vring_base(REQUESTS as u32).unwrap();
            stopped.store(true, Ordering::SeqCst);
        });
        thread::sleep(Duration::from_millis(50));
        assert!(!stopped.load(Ordering::SeqCst), "a queue is not stopped while a request is under way");
        drop(hung);
        until("the queue is stopped", || stopped.load(Ordering::SeqCst));
        until("the first is done too", || guest.used() == 2);
        assert_eq!(guest.error(0), -libc::EBADF);
        guest.device.pool.end();
    });
}
