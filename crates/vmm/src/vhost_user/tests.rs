//! A scripted VMM, in its right mind and not.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserMemoryRegion, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags,
};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::{KICK, Layout, Rings};

const SIZE: u64 = 1 << 20;
/// Where the VMM has the guest's memory, and the guest.
const VMM: u64 = 0x7000_0000_0000;
const GUEST: u64 = 0x1_0000_0000;

fn memory(seals: SealFlags) -> File {
    let fd = memfd_create("guest", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, SIZE).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd.into()
}

fn region(size: u64) -> VhostUserMemoryRegion {
    VhostUserMemoryRegion::new(GUEST, size, VMM, 0)
}

fn rings() -> (Rings, Arc<OwnedFd>) {
    let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
    let layout = Layout { features: 0, queues: 2, max_queue: 256, config: vec![1, 2, 3, 4] };
    (Rings::new(layout, epoll.clone()).unwrap(), epoll)
}

fn with_memory() -> (Rings, Arc<OwnedFd>) {
    let (mut rings, epoll) = rings();
    rings.set_mem_table(&[region(SIZE)], vec![memory(SealFlags::SHRINK)], None).unwrap();
    (rings, epoll)
}

fn start(rings: &mut Rings, index: u32, base: u32) -> File {
    let flags = VhostUserVringAddrFlags::empty();
    let at = VMM + u64::from(index) * 0x10000;
    rings.set_vring_num(index, 128).unwrap();
    rings.set_vring_base(index, base).unwrap();
    rings.set_vring_addr(index, flags, at, at + 0x4000, at + 0x2000, 0).unwrap();
    let kick = File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    rings.set_vring_kick(index as u8, Some(kick.try_clone().unwrap())).unwrap();
    rings.set_vring_enable(index, true).unwrap();
    kick
}

/// The tokens of what is readable.
fn readable(epoll: &OwnedFd) -> Vec<u64> {
    let mut events = [const { std::mem::MaybeUninit::uninit() }; 8];
    let (events, _) = epoll::wait(epoll, &mut events, Some(&Timespec::default())).unwrap();
    events.iter().map(|event| event.data.u64()).collect()
}

#[test]
fn a_ring_lives_when_all_is_there() {
    let (mut rings, epoll) = with_memory();
    assert!(!rings.rings[0].is_live());
    let kick = start(&mut rings, 0, 7);
    assert!(rings.rings[0].is_live() && !rings.rings[1].is_live());
    let queue = &rings.rings[0].queue;
    assert_eq!((queue.desc_table(), queue.next_avail(), queue.next_used()), (GUEST, 7, 0));
    rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(readable(&epoll), [KICK]);
    rings.kicked(0);
    assert!(readable(&epoll).is_empty());
    rings.set_vring_enable(0, false).unwrap();
    assert!(!rings.rings[0].is_live());
    let state = rings.get_vring_base(0).unwrap();
    assert_eq!({ state.num }, 7);
    // The VMM still has the eventfd; it means nothing any more.
    rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
    assert!(readable(&epoll).is_empty());
}

#[test]
fn a_new_call_descriptor_is_told_of_what_came_back_before() {
    let (mut rings, _epoll) = with_memory();
    start(&mut rings, 0, 0);
    let call = File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    assert!(rings.set_vring_call(2, Some(call.try_clone().unwrap())).is_err(), "there is no such ring");
    let mut count = [0; 8];
    assert!(rustix::io::read(&call, &mut count).is_err(), "nothing was said");
    rings.set_vring_call(0, Some(call.try_clone().unwrap())).unwrap();
    assert_eq!(rustix::io::read(&call, &mut count), Ok(8));
}

#[test]
fn only_a_new_driver_starts_anew() {
    let (mut rings, _) = with_memory();
    let first: Vec<File> = (0..2).map(|ring| start(&mut rings, ring, 0)).collect();
    assert!(!rings.fresh, "there was none before");
    // A pause: the rings go on where they were.
    for ring in 0..2 {
        rings.get_vring_base(ring).unwrap();
    }
    let paused: Vec<File> = (0..2).map(|ring| start(&mut rings, ring, 5)).collect();
    assert!(!rings.fresh);
    for ring in 0..2 {
        rings.get_vring_base(ring).unwrap();
    }
    let anew: Vec<File> = (0..2).map(|ring| start(&mut rings, ring, 0)).collect();
    assert!(rings.fresh);
    drop((first, paused, anew));
}

#[test]
fn memory_that_could_shrink_is_not_touched() {
    let (mut rings, _) = rings();
    rings.set_mem_table(&[region(SIZE)], vec![memory(SealFlags::GROW)], None).unwrap();
    assert!(rings.memory.write_obj(1u8, GuestAddress(GUEST)).is_err());
    assert!(rings.set_vring_addr(0, VhostUserVringAddrFlags::empty(), VMM, VMM + 0x4000, VMM + 0x2000, 0).is_err());
    // Nor what lies behind the end of a sealed one.
    assert!(rings.set_mem_table(&[region(2 * SIZE)], vec![memory(SealFlags::SHRINK)], None).is_err());
    assert!(rings.memory.write_obj(1u8, GuestAddress(GUEST)).is_err());
}

#[test]
fn regions_come_and_go() {
    let (mut rings, _) = with_memory();
    let second = VhostUserSingleMemoryRegion::new(GUEST + SIZE, SIZE, VMM + SIZE, 0);
    rings.add_mem_region(&second, memory(SealFlags::SHRINK), None).unwrap();
    let at = GuestAddress(GUEST + SIZE);
    rings.memory.write_obj(1u8, at).unwrap();
    assert!(rings.add_mem_region(&second, memory(SealFlags::SHRINK), None).is_err(), "it is there already");
    rings.remove_mem_region(&second).unwrap();
    assert!(rings.memory.write_obj(1u8, at).is_err());
    assert!(rings.remove_mem_region(&second).is_err());
    let wraps = VhostUserSingleMemoryRegion::new(u64::MAX - 10, SIZE, VMM, 0);
    assert!(rings.add_mem_region(&wraps, memory(SealFlags::SHRINK), None).is_err());
}

#[test]
fn numbers_without_sense_are_refused() {
    let (mut rings, _) = with_memory();
    for size in [0, 3, 512, 65536, u32::MAX] {
        assert!(rings.set_vring_num(0, size).is_err(), "{size} entries");
    }
    assert!(
        rings.set_vring_num(2, 128).is_err() && rings.get_vring_base(2).is_err() && rings.set_vring_enable(9, true).is_err()
    );
    assert!(rings.set_vring_base(0, 65536).is_err());
    let address = |rings: &mut Rings, at: u64| {
        let flags = VhostUserVringAddrFlags::empty();
        rings.set_vring_addr(0, flags, at, VMM + 0x4000, VMM + 0x2000, 0)
    };
    for at in [0, VMM - 1, VMM + SIZE, u64::MAX, VMM + 1] {
        assert!(address(&mut rings, at).is_err(), "{at:#x}");
    }
    // In memory at its beginning, beyond it at its end.
    rings.set_vring_num(0, 128).unwrap();
    address(&mut rings, VMM + SIZE - 16).unwrap();
    let kick = File::from(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    assert!(rings.set_vring_kick(0, Some(kick)).is_err());
    assert!(!rings.rings[0].is_live());
    assert!(rings.set_features(1 << 34).is_err(), "packed rings were not offered");
}

#[test]
fn the_configuration_is_read_within_its_bounds() {
    let (mut rings, _) = rings();
    let flags = VhostUserConfigFlags::empty();
    assert_eq!(rings.get_config(1, 3, flags).unwrap(), [2, 3, 4]);
    for (offset, size) in [(0, 5), (4, 1), (u32::MAX, 1), (1, u32::MAX)] {
        assert!(rings.get_config(offset, size, flags).is_err());
    }
    assert!(rings.set_config(0, &[1], VhostUserConfigFlags::WRITABLE).is_err());
}
