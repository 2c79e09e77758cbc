//! A scripted driver: rings and descriptors as a guest could write them.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, IntoBytes};

use super::mux::Mux;
use super::packet::{HEADER, HOST_CID, Header, Op, Ports, STREAM};
use super::queues::{Moved, receive, transmit};

const CID: u64 = 3;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Where packets are built.
const DATA: u64 = 0x10_0000;
const SIZE: usize = 0x20_0000;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), SIZE)]).unwrap()
}

fn mux() -> (Mux, std::sync::mpsc::Receiver<UnixStream>) {
    let (sender, hosts) = std::sync::mpsc::channel();
    let host = move |_: Ports| {
        let (guests, hosts) = UnixStream::pair().ok()?;
        hosts.set_nonblocking(true).ok()?;
        sender.send(hosts).ok()?;
        Some(OwnedFd::from(guests))
    };
    (Mux::new(CID, Box::new(host)).unwrap(), hosts)
}

fn header(op: Op, len: u32) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST_CID.into(),
        src_port: 9.into(),
        dst_port: 2000.into(),
        len: len.into(),
        kind: STREAM.into(),
        op: (op as u16).into(),
        buf_alloc: (1 << 20).into(),
        ..Header::default()
    }
}

/// A queue that holds one chain of the pieces (address, length, flags), whose links are made here.
fn queue(memory: &GuestMemoryMmap, pieces: &[(u64, u32, u16)]) -> Queue {
    let mock = MockSplitQueue::new(memory, 16);
    let last = pieces.len() - 1;
    let chain: Vec<RawDescriptor> = pieces
        .iter()
        .enumerate()
        .map(|(n, (address, len, flags))| {
            let next = if n == last { 0 } else { NEXT };
            RawDescriptor::from(Descriptor::new(*address, *len, flags | next, n as u16 + 1))
        })
        .collect();
    mock.build_desc_chain(&chain).unwrap();
    mock.create_queue().unwrap()
}

/// How many chains came back, and the length that the last was given.
fn used(queue: &Queue, memory: &GuestMemoryMmap) -> (u16, u32) {
    let ring = queue.used_ring();
    let count: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap();
    (count, memory.read_obj(GuestAddress(ring + 8)).unwrap())
}

fn connected(memory: &GuestMemoryMmap) -> (Mux, UnixStream) {
    let (mut mux, hosts) = mux();
    memory.write_slice(header(Op::Request, 0).as_bytes(), GuestAddress(DATA)).unwrap();
    let mut queue = queue(memory, &[(DATA, HEADER as u32, 0)]);
    assert_eq!(transmit(&mut queue, memory, &mut mux).unwrap(), Moved { any: true, more: false });
    assert_eq!(mux.receive(&[]).map(|response| response.op.get()), Some(Op::Response as u16));
    (mux, hosts.recv().unwrap())
}

#[test]
fn a_packet_may_be_cut_anywhere() {
    use std::io::Read;
    let text = b"the data of a packet";
    let whole = HEADER as u32 + text.len() as u32;
    for cuts in [vec![], vec![44], vec![10], vec![44, 50], vec![1, 43, 44, 45], vec![60]] {
        let memory = memory();
        let (mut mux, mut host) = connected(&memory);
        let mut packet = header(Op::Data, text.len() as u32).as_bytes().to_vec();
        packet.extend(text);
        memory.write_slice(&packet, GuestAddress(DATA)).unwrap();
        let mut edges = vec![0];
        edges.extend(&cuts);
        edges.push(whole);
        let pieces: Vec<_> = edges.windows(2).map(|edge| (DATA + u64::from(edge[0]), edge[1] - edge[0], 0)).collect();
        let mut queue = queue(&memory, &pieces);
        transmit(&mut queue, &memory, &mut mux).unwrap();
        assert_eq!(used(&queue, &memory), (1, 0));
        let mut got = vec![0; text.len()];
        host.read_exact(&mut got).unwrap();
        assert_eq!((got.as_slice(), mux.counts().breaches), (text.as_slice(), 0), "{cuts:?}");
    }
}

#[test]
fn chains_without_a_packet_come_back_and_do_nothing() {
    let bad: [&[(u64, u32, u16)]; 5] = [
        &[(DATA, HEADER as u32 - 1, 0)],               // too short
        &[(SIZE as u64 - 10, HEADER as u32, 0)],       // out of memory
        &[(u64::MAX - 10, HEADER as u32, 0)],          // beyond all addresses
        &[(DATA, HEADER as u32, WRITE)],               // nothing to read
        &[(DATA, 0, 0), (DATA, HEADER as u32 / 2, 0)], // half a header
    ];
    for pieces in bad {
        let memory = memory();
        let (mut mux, hosts) = mux();
        memory.write_slice(header(Op::Request, 0).as_bytes(), GuestAddress(DATA)).unwrap();
        let mut queue = queue(&memory, pieces);
        transmit(&mut queue, &memory, &mut mux).unwrap();
        assert_eq!((used(&queue, &memory), mux.len(), hosts.try_recv().is_err()), ((1, 0), 0, true), "{pieces:?}");
    }
}

#[test]
fn a_payload_shorter_than_its_length_resets() {
    let memory = memory();
    let (mut mux, _host) = connected(&memory);
    memory.write_slice(header(Op::Data, 1000).as_bytes(), GuestAddress(DATA)).unwrap();
    let mut queue = queue(&memory, &[(DATA, HEADER as u32 + 999, 0)]);
    transmit(&mut queue, &memory, &mut mux).unwrap();
    assert_eq!((mux.counts().breaches, mux.len()), (1, 0));
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    let memory = memory();
    let (mut mux, _hosts) = mux();
    let mock = MockSplitQueue::new(&memory, 16);
    mock.build_desc_chain(&[RawDescriptor::from(Descriptor::new(DATA, 10, 0, 0))]).unwrap();
    let mut queue: Queue = mock.create_queue().unwrap();
    mock.desc_table().store(0, RawDescriptor::from(Descriptor::new(DATA, 10, NEXT, 0))).unwrap();
    transmit(&mut queue, &memory, &mut mux).unwrap();
    assert_eq!(used(&queue, &memory).0, 1);
}

#[test]
fn a_ring_that_claims_more_than_it_has_is_an_error() {
    let memory = memory();
    let (mut mux, _hosts) = mux();
    let mut queue = queue(&memory, &[(DATA, HEADER as u32, 0)]);
    memory.write_obj(1000u16, GuestAddress(queue.avail_ring() + 2)).unwrap();
    assert!(transmit(&mut queue, &memory, &mut mux).is_err());
}

#[test]
fn packets_go_into_the_guests_buffers() {
    use std::io::Write;
    let memory = memory();
    let (mut mux, mut host) = connected(&memory);
    host.write_all(b"to the guest").unwrap();
    mux.turn().unwrap();
    // In pieces, and a readable one that is no buffer.
    let mut buffers = queue(&memory, &[(DATA, 5, 0), (DATA, 20, WRITE), (DATA + 20, 30, WRITE), (DATA + 50, 100, WRITE)]);
    assert_eq!(receive(&mut buffers, &memory, &mut mux).unwrap(), Moved { any: true, more: false });
    assert_eq!(used(&buffers, &memory), (1, HEADER as u32 + 12));
    let mut packet = [0; HEADER + 12];
    memory.read_slice(&mut packet, GuestAddress(DATA)).unwrap();
    let header = Header::read_from_bytes(&packet[..HEADER]).unwrap();
    assert_eq!((header.op.get(), header.len.get(), &packet[HEADER..]), (Op::Data as u16, 12, b"to the guest".as_slice()));
}

#[test]
fn a_buffer_is_not_taken_for_nothing_and_a_small_one_comes_back() {
    use std::io::Write;
    let memory = memory();
    let (mut mux, mut host) = connected(&memory);
    let mut buffers = queue(&memory, &[(DATA, 4096, WRITE)]);
    assert_eq!(receive(&mut buffers, &memory, &mut mux).unwrap(), Moved { any: false, more: false });
    assert_eq!((used(&buffers, &memory).0, buffers.next_avail()), (0, 0));
    host.write_all(b"x").unwrap();
    mux.turn().unwrap();
    let mut small = queue(&memory, &[(DATA, HEADER as u32 - 1, WRITE)]);
    receive(&mut small, &memory, &mut mux).unwrap();
    assert_eq!(used(&small, &memory), (1, 0));
    assert!(mux.has_packet(), "the packet waits for a better one");
}
