//! [`Wire`]: whole Ethernet frames of one interface, each with virtio-net's header before it (GSO and GRO frames both ways).
//!
//! The runtime opens a packet socket in the pod's network namespace, or a tap that stands for the pod's interface; the sentry receives and sends
//! by it. Sending never waits; receiving does, on a thread of its own.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::tally::{self, Counted};
use crate::{Errno, event};

/// Bytes of the longest frame: a GRO packet, its Ethernet header and virtio-net's.
const LONGEST: usize = 65_536 + 64;
/// Frames taken at a time.
const BATCH: usize = 16;
/// What the host may keep of frames on their way in and out, in bytes.
const BUFFER: libc::c_int = 8 << 20;
/// linux/if_packet.h
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Of a tap whose interface is gone: as a read that waits is told, and as all others are.
const GONE: [i32; 2] = [libc::EFAULT, libc::EBADFD];

/// A way to an interface.
#[derive(Debug)]
pub enum Wire {
    /// A packet socket.
    Socket(OwnedFd),
    /// A tap with virtio-net headers. It needs no host call that a sentry has not anyway.
    Tap(OwnedFd),
}

fn unit(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 { Err(Errno::last_host()) } else { Ok(()) }
}

fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> Result<(), Errno> {
    // SAFETY: pointer and length are those of `value`, which is only read.
    unit(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t)
    })
}

/// A packet socket on the interface with this index, in the caller's network namespace, whose frames have this mark on the host.
///
/// # Errors
/// The host's: `EPERM` without CAP_NET_RAW and CAP_NET_ADMIN there, `ENODEV`, `ENETDOWN`.
pub fn open(index: i32, mark: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    unit(fd)?;
    // SAFETY: the call has just made this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1i32)?;
    set(socket.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)?;
    set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, &mark)?;
    // Groups are chosen by us, not by the host's interface.
    let groups =
        libc::packet_mreq { mr_ifindex: index, mr_type: libc::PACKET_MR_ALLMULTI as u16, mr_alen: 0, mr_address: [0; 8] };
    set(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &groups)?;
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        set(socket.as_fd(), libc::SOL_SOCKET, forced, &BUFFER)
            .or_else(|_| set(socket.as_fd(), libc::SOL_SOCKET, plain, &BUFFER))?;
    }
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: pointer and length are those of `address`, which is only read.
    unit(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    })?;
    Ok(socket)
}

impl Wire {
    /// Sends a frame in pieces, without waiting.
    ///
    /// # Errors
    /// The host's: `EAGAIN`, `ENOBUFS` when there is no room; `EINVAL` for more pieces than a frame has.
    pub fn send(&self, pieces: &[&[u8]]) -> Result<(), Errno> {
        let mut iov = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 8];
        let iov = iov.get_mut(..pieces.len()).ok_or(Errno::EINVAL)?;
        for (place, piece) in iov.iter_mut().zip(pieces) {
            *place = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
        }
        match self {
            Wire::Socket(socket) => send_message(socket.as_fd(), iov),
            Wire::Tap(tap) => write_frame(tap.as_fd(), iov),
        }
    }
}

/// Writes a frame to a tap. The host's stack takes it on this thread; it waits for nobody, as a tap's send buffer has no bound of its own.
fn write_frame(tap: BorrowedFd<'_>, iov: &[libc::iovec]) -> Result<(), Errno> {
    tally::count(Counted::Pwritev);
    // SAFETY: the iovecs refer to bytes of `send`'s caller, which are only read and live over the call.
    let n = unsafe { libc::pwritev2(tap.as_raw_fd(), iov.as_ptr(), iov.len() as i32, -1, 0) };
    if n < 0 { Err(Errno::last_host()) } else { Ok(()) }
}

fn send_message(socket: BorrowedFd<'_>, iov: &mut [libc::iovec]) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iov.as_mut_ptr();
    message.msg_iovlen = iov.len();
    tally::count(Counted::Sendmsg);
    // SAFETY: the message refers to `iov` and bytes of `send`'s caller, which are only read and live over the call.
    let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if n < 0 { Err(Errno::last_host()) } else { Ok(()) }
}

/// Whether a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Allowed,
    Never,
}

/// Room for a batch of frames.
pub struct Batch {
    bytes: Vec<u8>,
    lengths: [usize; BATCH],
    count: usize,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { bytes: vec![0; LONGEST * BATCH], lengths: [0; BATCH], count: 0 }
    }
}

impl Batch {
    /// Waits for frames, and takes those that are there. When a tap's interface is gone, nothing comes any more.
    ///
    /// # Errors
    /// The host's: `ENETDOWN` when the interface goes down (once), `EINTR`.
    pub fn receive(&mut self, wire: &Wire, wait: Wait) -> Result<(), Errno> {
        self.count = 0;
        match wire {
            Wire::Socket(socket) => self.receive_messages(socket.as_fd(), wait),
            Wire::Tap(tap) => self.read_frames(tap.as_fd(), wait),
        }
    }

    /// At most the first frame is waited for.
    fn read_frames(&mut self, tap: BorrowedFd<'_>, wait: Wait) -> Result<(), Errno> {
        for (room, length) in self.bytes.chunks_exact_mut(LONGEST).zip(&mut self.lengths) {
            let iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let flags = if self.count == 0 && wait == Wait::Allowed { 0 } else { libc::RWF_NOWAIT };
            tally::count(Counted::Preadv);
            // SAFETY: the iovec is `room`, exclusively borrowed.
            let read = unsafe { libc::preadv2(tap.as_raw_fd(), &raw const iov, 1, -1, flags) };
            match usize::try_from(read).map_err(|_| Errno::last_host()) {
                Ok(read) => *length = read.min(LONGEST),
                Err(errno) if GONE.contains(&errno.raw()) => event::wait_for_nothing(),
                // There are no more, or a host whose taps cannot say so (before Linux 5.18).
                Err(_) if self.count > 0 => break,
                Err(Errno::EOPNOTSUPP) if wait == Wait::Never => return Err(Errno::EAGAIN),
                Err(errno) => return Err(errno),
            }
            self.count += 1;
        }
        Ok(())
    }

    fn receive_messages(&mut self, socket: BorrowedFd<'_>, wait: Wait) -> Result<(), Errno> {
        let mut iovs = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: LONGEST }; BATCH];
        // SAFETY: all-zero is a valid mmsghdr.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for ((iov, room), message) in iovs.iter_mut().zip(self.bytes.chunks_exact_mut(LONGEST)).zip(&mut messages) {
            iov.iov_base = room.as_mut_ptr().cast();
            message.msg_hdr.msg_iov = &raw mut *iov;
            message.msg_hdr.msg_iovlen = 1;
        }
        let flags = match wait {
            Wait::Allowed => libc::MSG_WAITFORONE,
            Wait::Never => libc::MSG_DONTWAIT,
        };
        let none = std::ptr::null_mut();
        tally::count(Counted::Recvmmsg);
        // SAFETY: the messages refer to `iovs`, and those to disjoint parts of `bytes`, exclusively borrowed over the call.
        let n = unsafe { libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, flags, none) };
        unit(n)?;
        self.count = n as usize;
        for (length, message) in self.lengths.iter_mut().zip(&messages) {
            // What was too long for its room has lost its end.
            *length = (message.msg_len as usize).min(LONGEST);
        }
        Ok(())
    }

    /// The frames of the last batch.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let rooms = self.bytes.chunks_exact(LONGEST).zip(&self.lengths).take(self.count);
        rooms.map(|(room, length)| room.get(..*length).unwrap_or_default())
    }
}
