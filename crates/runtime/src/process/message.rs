//! The one message a confined process starts with: JSON and descriptors, over an inherited socket; and its answer.
//!
//! The parent sends; the child reads until it has all. An answer comes only if the child cannot start.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_api::fds;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest configuration in bytes.
const MAX: usize = 1 << 20;
/// Descriptors go in batches of this size.
const BATCH: usize = 32;

/// Sends `message` with any number of descriptors.
///
/// # Errors
/// The socket's; `InvalidInput` when the message is too long.
pub fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "configuration is too long"));
    }
    let mut head = [0; 8];
    head[..4].copy_from_slice(&(text.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&(descriptors.len() as u32).to_le_bytes());
    send_all(socket.as_fd(), &[head.as_slice(), &text].concat())?;
    for batch in descriptors.chunks(BATCH) {
        fds::send(socket.as_fd(), &[0], batch)?;
    }
    Ok(())
}

/// Receives what [`send`] sent.
///
/// # Errors
/// The socket's; `UnexpectedEof` when the parent has gone; `InvalidData`.
pub fn receive<M: DeserializeOwned>(socket: impl AsFd) -> io::Result<(M, Vec<OwnedFd>)> {
    let mut head = [0; 8];
    receive_all(socket.as_fd(), &mut head)?;
    let [l0, l1, l2, l3, n0, n1, n2, n3] = head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let count = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
    if len > MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; len];
    receive_all(socket.as_fd(), &mut text)?;
    let mut descriptors = Vec::new();
    while descriptors.len() < count {
        if fds::receive(socket.as_fd(), &mut [0], &mut descriptors)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((serde_json::from_slice(&text)?, descriptors))
}

/// Sends plain bytes (an error text, on the way back).
///
/// # Errors
/// The socket's.
pub fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = fds::send(socket, bytes, &[])?;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

fn receive_all(socket: BorrowedFd<'_>, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match fds::receive_bytes(socket, into)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => into = into.get_mut(n..).unwrap_or_default(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn many_descriptors_arrive_in_order() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("pair");
        let files: Vec<_> =
            (0..70).map(|_| rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd")).collect();
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).expect("stat").st_ino;
        send(&a, &"hello", &files.iter().map(AsFd::as_fd).collect::<Vec<_>>()).expect("send");
        let (text, got): (String, _) = receive(&b).expect("receive");
        assert_eq!(text, "hello");
        let expected: Vec<_> = files.iter().map(|f| inode(f.as_fd())).collect();
        assert_eq!(got.iter().map(|f| inode(f.as_fd())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_parent_that_dies_is_the_end() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("pair");
        drop(a);
        assert_eq!(receive::<String>(&b).expect_err("eof").kind(), io::ErrorKind::UnexpectedEof);
    }
}
