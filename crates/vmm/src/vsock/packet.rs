//! A packet's header, as virtio 1.2, 5.10.6 has it.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The host's context id.
pub const HOST_CID: u64 = 2;
/// `VIRTIO_VSOCK_TYPE_STREAM`, the one type we carry.
pub const STREAM: u16 = 1;

/// What comes before a packet's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    pub src_cid: U64,
    pub dst_cid: U64,
    pub src_port: U32,
    pub dst_port: U32,
    /// Of the payload, in bytes.
    pub len: U32,
    pub kind: U16,
    pub op: U16,
    pub flags: U32,
    /// Bytes the sender has room for on this connection, in all.
    pub buf_alloc: U32,
    /// Bytes of this connection that have left the sender's buffer since its beginning, modulo 2^32.
    pub fwd_cnt: U32,
}

/// A header's size in bytes.
pub const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 44);

/// `VIRTIO_VSOCK_OP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    /// None for a number that means nothing.
    pub fn from_number(number: u16) -> Option<Op> {
        use Op::*;
        [Request, Response, Reset, Shutdown, Data, CreditUpdate, CreditRequest].into_iter().find(|op| *op as u16 == number)
    }
}

bitflags::bitflags! {
    /// What a sender of [`Op::Shutdown`] will not do any more (`VIRTIO_VSOCK_SHUTDOWN_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Shut: u32 {
        const RECEIVE = 1;
        const SEND = 2;
    }
}

/// What names a connection between the host and one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    pub host: u32,
    pub guest: u32,
}

impl Ports {
    /// Of a packet that the guest sent.
    pub fn of(header: &Header) -> Ports {
        Ports { host: header.dst_port.get(), guest: header.src_port.get() }
    }

    /// A packet to the guest with nothing in it.
    pub fn to_guest(self, guest: u64, op: Op) -> Header {
        Header {
            src_cid: HOST_CID.into(),
            dst_cid: guest.into(),
            src_port: self.host.into(),
            dst_port: self.guest.into(),
            kind: STREAM.into(),
            op: (op as u16).into(),
            ..Header::default()
        }
    }
}
