//! Messages between PID 1 and a helper: a length (4 bytes, little endian), a protobuf message, descriptors with the first byte.

use std::os::fd::{BorrowedFd, OwnedFd};

use agent_api::fds;
use agent_api::{Code, CreateContainerRequest, Process, SeccompProfile, Status};
use prost::{Enumeration, Message};
use rustix::io::Errno;

/// Longest message, in bytes: a request of the protocol fits.
const MAX: usize = agent_api::frame::MAX_PAYLOAD + 4096;

/// What a helper is to do. Descriptors that come with it: those to join, then the stdio that is there.
#[derive(Clone, PartialEq, Message)]
pub struct Plan {
    /// A container to make, its process in it; else `process` is to run in one that is there.
    #[prost(message, optional, tag = "1")]
    pub create: Option<CreateContainerRequest>,
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
    #[prost(message, optional, tag = "3")]
    pub seccomp: Option<SeccompProfile>,
    /// `CLONE_NEW*` flags of the name spaces to join, one for each pidfd.
    #[prost(uint32, repeated, tag = "4")]
    pub joins: Vec<u32>,
    /// Which of 0, 1 and 2 have a descriptor.
    #[prost(bool, repeated, tag = "5")]
    pub stdio: Vec<bool>,
    /// Whether device rules will hold for what it makes, so that its root may have nodes that open something.
    #[prost(bool, tag = "6")]
    pub device_rules: bool,
}

/// What a helper says.
#[derive(Clone, PartialEq, Message)]
pub struct Report {
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    #[prost(int32, tag = "2")]
    pub pid: i32,
    #[prost(int32, tag = "3")]
    pub code: i32,
    #[prost(string, tag = "4")]
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// The process exists, as `pid` of the guest, and waits for a byte.
    Forked = 0,
    /// The other end of its terminal comes along.
    Terminal = 1,
    /// It would execute its program now, and waits for a byte.
    Ready = 2,
    /// It could not; the helper is gone.
    Failed = 3,
}

impl Report {
    /// A report of `kind`, with nothing else.
    pub fn of(kind: Kind) -> Report {
        Report { kind: kind.into(), ..Report::default() }
    }

    pub fn failed(status: Status) -> Report {
        Report { kind: Kind::Failed.into(), code: status.code as i32, message: status.message, ..Report::default() }
    }

    /// The failure it tells of.
    pub fn status(&self) -> Status {
        let code = match self.code {
            3 => Code::InvalidArgument,
            5 => Code::NotFound,
            7 => Code::PermissionDenied,
            8 => Code::ResourceExhausted,
            9 => Code::FailedPrecondition,
            12 => Code::Unimplemented,
            _ => Code::Internal,
        };
        Status::new(code, self.message.clone())
    }
}

/// Sends a message whole.
///
/// # Errors
/// The kernel's.
pub fn send(socket: BorrowedFd<'_>, message: &impl Message, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut bytes = (message.encoded_len() as u32).to_le_bytes().to_vec();
    bytes.extend(message.encode_to_vec());
    let mut rest = bytes.as_slice();
    let mut fds = fds;
    while !rest.is_empty() {
        let sent = fds::send(socket, rest, fds)?;
        rest = rest.get(sent..).unwrap_or_default();
        fds = &[];
    }
    Ok(())
}

/// Receives a message; `None` when the other side is gone.
///
/// # Errors
/// The kernel's; `EPROTO` for what is no message.
pub fn receive<M: Message + Default>(socket: BorrowedFd<'_>, fds: &mut Vec<OwnedFd>) -> Result<Option<M>, Errno> {
    let mut length = [0; 4];
    if !fill(socket, &mut length, fds)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX {
        return Err(Errno::PROTO);
    }
    let mut bytes = vec![0; length];
    if !fill(socket, &mut bytes, fds)? {
        return Ok(None);
    }
    M::decode(bytes.as_slice()).map(Some).map_err(|_| Errno::PROTO)
}

fn fill(socket: BorrowedFd<'_>, mut into: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<bool, Errno> {
    while !into.is_empty() {
        match fds::receive(socket, into, fds) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(false),
            Ok(got) => into = into.get_mut(got..).unwrap_or_default(),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn messages_travel_with_their_descriptors() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a pair");
        let status = Status::new(Code::NotFound, "no such thing");
        send(a.as_fd(), &Report::failed(status.clone()), &[a.as_fd()]).expect("sent");
        let mut fds = Vec::new();
        let report: Report = receive(b.as_fd(), &mut fds).expect("received").expect("a message");
        assert_eq!((report.status(), fds.len()), (status, 1));
        drop((a, fds));
        assert_eq!(receive::<Report>(b.as_fd(), &mut Vec::new()), Ok(None));
    }

    #[test]
    fn a_length_beyond_all_messages_is_refused() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a pair");
        fds::send(a.as_fd(), &[0xff; 4], &[]).expect("sent");
        assert_eq!(receive::<Report>(b.as_fd(), &mut Vec::new()), Err(Errno::PROTO));
    }
}
