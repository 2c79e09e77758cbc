//! Packets, with at most [`MAX_OPENS`] descriptors each, over a `SEQPACKET` unix socket.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use hostcall::tally::{self, Counted};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::{Errno, protocol::MAX_OPENS};

/// Whether a call may wait for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Never,
    Allowed,
}

/// Sends one packet. `EAGAIN` with [`Wait::Never`] when the socket is full.
pub(crate) fn send(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>], wait: Wait) -> Result<(), Errno> {
    let flags = match wait {
        Wait::Never => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        Wait::Allowed => SendFlags::NOSIGNAL,
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_OPENS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::EMSGSIZE);
    }
    loop {
        tally::count(Counted::Sendmsg);
        match sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(drop).map_err(Errno::from),
        }
    }
}

/// Receives one packet, of which no more than `into` holds may come: longer ones are `EMSGSIZE`. 0 bytes: the peer is gone.
/// Without `donated`, descriptors never enter this process.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    donated: Option<&mut Vec<OwnedFd>>,
    wait: Wait,
) -> Result<usize, Errno> {
    let flags = match wait {
        Wait::Never => RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        Wait::Allowed => RecvFlags::CMSG_CLOEXEC,
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_OPENS))];
    let mut control = match &donated {
        Some(_) => RecvAncillaryBuffer::new(&mut space),
        None => RecvAncillaryBuffer::default(),
    };
    let received = loop {
        tally::count(Counted::Recvmsg);
        match recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<OwnedFd> = fds.flatten().collect();
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    if let Some(slot) = donated {
        if fds.len() > MAX_OPENS || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Errno::EBADMSG);
        }
        *slot = fds;
    }
    Ok(received.bytes)
}
