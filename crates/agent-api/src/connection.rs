//! [`Connection`]: the serving side of one connection.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use prost::Message;
use rustix::io::Errno;

use crate::fds::{self, MAX_FDS};
use crate::frame::{self, FrameError, HEADER, Header, Kind, RequestBody, ResponseBody};
use crate::service::Call;
use crate::status::Status;

/// Most bytes of answers that wait for a client that does not read.
const MAX_UNSENT: usize = 16 << 20;

/// Why a connection is of no more use. Drop it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the client has gone")]
    Closed,
    #[error("the client does not read its answers")]
    Stuck,
    #[error("connection failed: {0}")]
    Socket(Errno),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the client sent a response, or too many descriptors")]
    Protocol,
}

/// A request that has come in whole.
#[derive(Debug)]
pub struct Incoming {
    /// To be given to [`Connection::reply`].
    pub stream: u32,
    /// The request; or what to answer to one that is unknown or malformed.
    pub call: Result<Call, Status>,
    /// The descriptors that came with it, to be taken by [`Incoming::take_fd`].
    pub fds: Vec<Option<OwnedFd>>,
}

impl Incoming {
    /// Takes the descriptor a message names by index.
    ///
    /// # Errors
    /// When it did not come, or was taken already.
    pub fn take_fd(&mut self, index: u32, what: &str) -> Result<OwnedFd, Status> {
        crate::service::take_fd(&mut self.fds, index, what)
    }
}

/// Works on a blocking or a non-blocking socket: with the latter, [`recv`](Connection::recv) returns `None` when there is
/// nothing (more) to read yet, and answers that do not fit wait until [`flush`](Connection::flush).
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    header: Option<Header>,
    received: Vec<u8>,
    fds: Vec<OwnedFd>,
    unsent: VecDeque<u8>,
}

impl Connection {
    /// Takes a connected stream socket.
    pub fn new(socket: OwnedFd) -> Connection {
        Connection { socket, header: None, received: Vec::new(), fds: Vec::new(), unsent: VecDeque::new() }
    }

    /// The next request, or `None` if it has not come in whole (non-blocking sockets only).
    ///
    /// # Errors
    /// The connection is at its end.
    pub fn recv(&mut self) -> Result<Option<Incoming>, ConnectionError> {
        loop {
            // The header is read alone: descriptors come with a frame's first byte, so those that come are this frame's.
            let wanted = self.header.map_or(HEADER, |header| header.len);
            if !self.fill(wanted)? {
                return Ok(None);
            }
            match self.header {
                None => {
                    let bytes = self.received.as_slice().try_into().map_err(|_| ConnectionError::Protocol)?;
                    self.header = Some(Header::parse(bytes)?);
                    self.received.clear();
                }
                Some(header) => {
                    self.header = None;
                    let body = RequestBody::decode(self.received.as_slice()).map_err(FrameError::from);
                    self.received = Vec::new();
                    let fds = std::mem::take(&mut self.fds).into_iter().map(Some).collect();
                    if header.kind != Kind::Request {
                        return Err(ConnectionError::Protocol);
                    }
                    return Ok(Some(Incoming { stream: header.stream, call: Call::decode(&body?), fds }));
                }
            }
        }
    }

    /// Reads until `received` has `wanted` bytes; false if that would block.
    fn fill(&mut self, wanted: usize) -> Result<bool, ConnectionError> {
        while self.received.len() < wanted {
            let at = self.received.len();
            // Grow by what has come, not by what is announced.
            self.received.resize(wanted.min(at + (64 << 10)), 0);
            let into = self.received.get_mut(at..).unwrap_or_default();
            let got = fds::receive(self.socket.as_fd(), into, &mut self.fds);
            self.received.truncate(at + got.unwrap_or(0));
            if self.fds.len() > MAX_FDS {
                return Err(ConnectionError::Protocol);
            }
            match got {
                Ok(0) | Err(Errno::CONNRESET) => return Err(ConnectionError::Closed),
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(ConnectionError::Socket(errno)),
            }
        }
        Ok(true)
    }

    /// Answers a request. `M` is its type; see [`reply_with`](Connection::reply_with) for the bytes.
    ///
    /// # Errors
    /// The connection is at its end.
    pub fn reply<R: Message>(&mut self, stream: u32, answer: Result<R, Status>) -> Result<(), ConnectionError> {
        self.reply_with(stream, answer.map(|reply| reply.encode_to_vec()))
    }

    /// Answers a request with an encoded reply message.
    ///
    /// # Errors
    /// As [`reply`](Connection::reply).
    pub fn reply_with(&mut self, stream: u32, answer: Result<Vec<u8>, Status>) -> Result<(), ConnectionError> {
        let body = match answer {
            Ok(payload) => ResponseBody { status: None, payload },
            Err(status) => ResponseBody { status: Some(status.into()), payload: Vec::new() },
        };
        self.unsent.extend(frame::encode(stream, Kind::Response, &body));
        if self.unsent.len() > MAX_UNSENT {
            return Err(ConnectionError::Stuck);
        }
        self.flush()
    }

    /// Whether answers wait for the socket to become writable.
    pub fn wants_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what can be sent.
    ///
    /// # Errors
    /// The connection is at its end.
    pub fn flush(&mut self) -> Result<(), ConnectionError> {
        while !self.unsent.is_empty() {
            let (bytes, _) = self.unsent.as_slices();
            match fds::send(self.socket.as_fd(), bytes, &[]) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(Errno::AGAIN) => break,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ConnectionError::Closed),
                Err(errno) => return Err(ConnectionError::Socket(errno)),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
