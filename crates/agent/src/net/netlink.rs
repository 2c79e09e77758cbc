//! rtnetlink (rtnetlink(7)): requests to change the network, one at a time.
//!
//! The libraries for it bring an asynchronous runtime, or types for all of rtnetlink; five requests are less than either.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

pub const NEW_LINK: u16 = 16;
pub const NEW_ADDRESS: u16 = 20;
pub const NEW_ROUTE: u16 = 24;
pub const NEW_NEIGHBOUR: u16 = 28;

/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST: u16 = 0x1 | 0x4;
/// `NLM_F_REPLACE | NLM_F_CREATE`: what is there already is as good as new.
const REPLACE: u16 = 0x100 | 0x400;
const ERROR: u16 = 2;
const HEADER: usize = 16;

/// A socket to the kernel's network.
pub struct Netlink {
    socket: OwnedFd,
}

/// A request being written: a fixed part, then attributes.
pub struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    pub fn new(kind: u16, fixed: &[u8]) -> Request {
        Request { kind, body: fixed.to_vec() }
    }

    /// Adds an attribute; each starts at a multiple of four.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Request {
        let len = (value.len() + 4) as u16;
        self.body.extend_from_slice(&len.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    pub fn with_ip(self, kind: u16, address: &IpAddr) -> Request {
        match address {
            IpAddr::V4(address) => self.with(kind, &address.octets()),
            IpAddr::V6(address) => self.with(kind, &address.octets()),
        }
    }

    pub fn with_number(self, kind: u16, number: u32) -> Request {
        self.with(kind, &number.to_ne_bytes())
    }

    /// The whole message.
    fn bytes(&self) -> Vec<u8> {
        let flags = if self.kind == NEW_LINK { REQUEST } else { REQUEST | REPLACE };
        let mut bytes = ((HEADER + self.body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        // Sequence number and port: one request at a time needs neither.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

impl Netlink {
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Netlink, Errno> {
        // Without a protocol it is NETLINK_ROUTE, which is 0.
        Ok(Netlink { socket: socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)? })
    }

    /// Sends a request and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, request: &Request) -> Result<(), Errno> {
        send(&self.socket, &request.bytes(), SendFlags::empty())?;
        let mut answer = [0; 4096];
        loop {
            let (got, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
            if let Some(result) = acknowledgement(answer.get(..got).unwrap_or_default()) {
                return result;
            }
        }
    }
}

/// What an answer says; `None` if it is no acknowledgement.
fn acknowledgement(answer: &[u8]) -> Option<Result<(), Errno>> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != ERROR {
        return None;
    }
    let error = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    Some(if error == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(error.saturating_neg())) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let request = Request::new(NEW_LINK, &[7; 16]).with(3, b"eth0\0").with_number(4, 1500);
        let bytes = request.bytes();
        assert_eq!(bytes.len(), HEADER + 16 + 12 + 8);
        assert_eq!(bytes.get(..4), Some((bytes.len() as u32).to_ne_bytes().as_slice()));
        assert_eq!(bytes.get(32..36), Some([9, 0, 3, 0].as_slice()));
        assert_eq!(bytes.get(41..44), Some([0; 3].as_slice()));
    }

    #[test]
    fn answers_are_read() {
        let mut answer = vec![0; HEADER + 4];
        assert_eq!(acknowledgement(&answer), None);
        answer[4] = ERROR as u8;
        assert_eq!(acknowledgement(&answer), Some(Ok(())));
        answer[HEADER..].copy_from_slice(&(-17_i32).to_ne_bytes());
        assert_eq!(acknowledgement(&answer), Some(Err(Errno::EXIST)));
        assert_eq!(acknowledgement(&answer[..18]), None);
    }

    #[test]
    fn the_kernel_answers_a_request_that_changes_nothing() {
        let netlink = Netlink::open().expect("a socket");
        // An interface that cannot be.
        let link = [&[0, 0, 0, 0], i32::MAX.to_ne_bytes().as_slice(), &[0; 8]].concat();
        assert!(netlink.ask(&Request::new(NEW_LINK, &link)).is_err());
    }
}
