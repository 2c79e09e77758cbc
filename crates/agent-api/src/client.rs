//! [`Client`]: the calling side.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::fds;
use crate::frame::{self, FrameError, HEADER, Header, Kind, RequestBody, ResponseBody};
use crate::messages::{Event, NextEventsRequest};
use crate::service::{BOOTED, Method, SERVICE};
use crate::status::Status;

/// How long the agent may take to accept a connection, and how long a whole frame may take either way once it has begun.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why a call has no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The agent refused or failed.
    #[error(transparent)]
    Status(#[from] Status),
    /// The agent is gone: the sandbox has ended.
    #[error("the sandbox has ended")]
    Closed,
    /// It is there but does not answer. Nothing says whether it will do what was asked.
    #[error("the sandbox has not answered for {} s; `delete --force` ends it", .0.as_secs())]
    Unresponsive(Duration),
    #[error("cannot reach the sandbox: {0}")]
    Socket(Errno),
    /// It has sent or taken a part of a message, and no more.
    #[error("the sandbox's agent stopped within a message for {} s; `delete --force` ends it", .0.as_secs())]
    Stalled(Duration),
    #[error("the sandbox's agent sent nonsense: {0}")]
    Frame(#[from] FrameError),
    /// Of ours: it was not sent.
    #[error("a request of {0} bytes is too large: at most {most} go", most = frame::MAX_PAYLOAD)]
    TooLarge(usize),
}

impl ClientError {
    /// Whether the agent is of no use any more, to nobody: it has gone, or cannot be talked with.
    pub fn is_the_end(&self) -> bool {
        match self {
            ClientError::Closed | ClientError::Socket(_) | ClientError::Stalled(_) | ClientError::Frame(_) => true,
            ClientError::Status(_) | ClientError::Unresponsive(_) | ClientError::TooLarge(_) => false,
        }
    }
}

/// A connection to an agent. Calls may be made from any number of threads at once; whichever thread waits reads for all.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
    sending: Mutex<()>,
    /// For a whole frame.
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    last_stream: u32,
    /// Streams that wait, with their answers.
    waiting: HashMap<u32, Option<ResponseBody>>,
    /// A thread is reading.
    reading: bool,
    /// Nothing will come any more.
    failed: Option<ClientError>,
}

/// A call that was sent. Dropping it forgets the answer.
#[derive(Debug)]
pub struct Pending<'a, M> {
    client: &'a Client,
    stream: u32,
    method: PhantomData<M>,
}

impl Client {
    /// Connects to an agent's socket. A path too long for a socket address goes by way of its directory's descriptor.
    ///
    /// # Errors
    /// [`ClientError::Socket`].
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(ClientError::Socket)?;
        let address = SocketAddrUnix::new(path).map_err(ClientError::Socket)?;
        // Its queue of connections may be full.
        let _ = sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE));
        match rustix::net::connect(&socket, &address) {
            Ok(()) => Ok(Client::new(socket)),
            Err(Errno::AGAIN) => Err(ClientError::Unresponsive(PATIENCE)),
            Err(errno) => Err(ClientError::Socket(errno)),
        }
    }

    /// Takes a connected (blocking) stream socket.
    pub fn new(socket: OwnedFd) -> Client {
        Client::with_patience(socket, PATIENCE)
    }

    /// With another patience than [`PATIENCE`] for a whole frame.
    pub fn with_patience(socket: OwnedFd, patience: Duration) -> Client {
        Client { socket, state: Mutex::default(), changed: Condvar::new(), sending: Mutex::new(()), patience }
    }

    /// Calls and waits for the reply.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call<M: Method>(&self, request: &M) -> Result<M::Reply, ClientError> {
        self.start(request, &[])?.wait()
    }

    /// Calls with descriptors and waits for the reply, as long as a VM may take that has to boot first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call_booting<M: Method>(&self, request: &M, fds: &[BorrowedFd<'_>]) -> Result<M::Reply, ClientError> {
        self.start(request, fds)?.wait_for(Some(BOOTED))
    }

    /// Calls with descriptors and waits for the reply.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call_with<M: Method>(&self, request: &M, fds: &[BorrowedFd<'_>]) -> Result<M::Reply, ClientError> {
        self.start(request, fds)?.wait()
    }

    /// Tells of all that happens in the sandbox, also of what has happened before and is still known, until the agent is gone: then why.
    pub fn follow(&self, mut each: impl FnMut(Event)) -> ClientError {
        let mut after = 0;
        loop {
            let next = match self.call(&NextEventsRequest { after }) {
                Ok(next) => next,
                Err(error) => return error,
            };
            for event in next.events {
                after = after.max(event.sequence);
                each(event);
            }
        }
    }

    /// Sends a request; the reply is waited for later.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn start<M: Method>(&self, request: &M, fds: &[BorrowedFd<'_>]) -> Result<Pending<'_, M>, ClientError> {
        let stream = {
            let mut state = self.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            // ttrpc's clients use odd numbers.
            state.last_stream = if state.last_stream == 0 { 1 } else { state.last_stream.wrapping_add(2) };
            let stream = state.last_stream;
            state.waiting.insert(stream, None);
            stream
        };
        let pending = Pending { client: self, stream, method: PhantomData };
        let body =
            RequestBody { service: SERVICE.into(), method: M::NAME.into(), payload: request.encode_to_vec(), timeout_nano: 0 };
        let bytes = frame::encode(stream, Kind::Request, &body);
        if bytes.len() > HEADER + frame::MAX_PAYLOAD {
            return Err(ClientError::TooLarge(bytes.len()));
        }
        self.send(&bytes, fds)?;
        Ok(pending)
    }

    fn send(&self, bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let _one_frame_at_a_time = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        // Behind a part of a frame no other one can be sent.
        if let Some(error) = &self.lock().failed {
            return Err(error.clone());
        }
        let end = Instant::now() + self.patience;
        let mut rest = bytes;
        let error = loop {
            match fds::send_now(self.socket.as_fd(), rest, fds) {
                Ok(n) => (rest, fds) = (rest.get(n..).unwrap_or_default(), &[]),
                Err(Errno::AGAIN) => drop(self.ready(PollFlags::OUT, Some(end.saturating_duration_since(Instant::now())))),
                Err(Errno::PIPE | Errno::CONNRESET) => break ClientError::Closed,
                Err(errno) => break ClientError::Socket(errno),
            }
            match Instant::now() > end {
                _ if rest.is_empty() => return Ok(()),
                true if rest.len() == bytes.len() => break ClientError::Unresponsive(self.patience),
                true => break ClientError::Stalled(self.patience),
                false => {}
            }
        };
        if rest.len() == bytes.len() { Err(error) } else { Err(self.fail(error)) }
    }

    /// From now on every call fails, for this reason, or for the one there was before.
    fn fail(&self, error: ClientError) -> ClientError {
        let first = self.lock().failed.get_or_insert(error).clone();
        self.changed.notify_all();
        // Who reads sleeps until something comes, and who sends until there is room.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        first
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, stream: u32, patience: Option<Duration>) -> Result<ResponseBody, ClientError> {
        let end = patience.map(|patience| (patience, Instant::now() + patience));
        let mut state = self.lock();
        loop {
            if let Some(answer) = state.waiting.get_mut(&stream).and_then(Option::take) {
                return Ok(answer);
            }
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            let left = match end {
                None => None,
                Some((patience, end)) => match end.checked_duration_since(Instant::now()) {
                    None => return Err(ClientError::Unresponsive(patience)),
                    left => left,
                },
            };
            if state.reading {
                state = match left {
                    None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                };
                continue;
            }
            state.reading = true;
            drop(state);
            let frame = self.ready(PollFlags::IN, left).then(|| self.read_frame());
            if let Some(Err(error)) = &frame {
                self.fail(error.clone());
            }
            state = self.lock();
            state.reading = false;
            match frame {
                // Out of patience, and who else waits reads on; or the end.
                None | Some(Err(_)) => {}
                // An answer nobody waits for (any more) is dropped.
                Some(Ok((stream, body))) => {
                    if let Some(slot) = state.waiting.get_mut(&stream) {
                        *slot = Some(body);
                    }
                }
            }
            self.changed.notify_all();
        }
    }

    /// Waits until there is something to read or room to send (or an end); false if not within `patience`.
    fn ready(&self, what: PollFlags, patience: Option<Duration>) -> bool {
        let end = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
            match poll(&mut [PollFd::new(&self.socket, what)], left.as_ref()) {
                Err(Errno::INTR) => {}
                // What is wrong with the socket, using it tells.
                other => return other != Ok(0),
            }
        }
    }

    /// When something of it is there: no frame takes longer than the patience in all, however its bytes drip.
    fn read_frame(&self) -> Result<(u32, ResponseBody), ClientError> {
        let end = Instant::now() + self.patience;
        let mut header = [0; HEADER];
        self.read_exact(&mut header, end)?;
        let header = Header::parse(header)?;
        if header.kind != Kind::Response {
            return Err(FrameError::UnknownKind(1).into());
        }
        let mut payload = vec![0; header.len];
        self.read_exact(&mut payload, end)?;
        let body = ResponseBody::decode(payload.as_slice()).map_err(FrameError::from)?;
        Ok((header.stream, body))
    }

    fn read_exact(&self, mut into: &mut [u8], end: Instant) -> Result<(), ClientError> {
        while !into.is_empty() {
            if !self.ready(PollFlags::IN, Some(end.saturating_duration_since(Instant::now()))) {
                return Err(ClientError::Stalled(self.patience));
            }
            match fds::receive_bytes(self.socket.as_fd(), into) {
                Ok(0) | Err(Errno::CONNRESET) => return Err(ClientError::Closed),
                Ok(n) => into = into.get_mut(n..).unwrap_or_default(),
                Err(errno) => return Err(ClientError::Socket(errno)),
            }
        }
        Ok(())
    }
}

impl<M: Method> Pending<'_, M> {
    /// Waits for the reply.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn wait(self) -> Result<M::Reply, ClientError> {
        self.wait_for(M::PATIENCE)
    }

    fn wait_for(self, patience: Option<Duration>) -> Result<M::Reply, ClientError> {
        let body = self.client.wait(self.stream, patience)?;
        match body.status {
            Some(status) if status.code != 0 => Err(Status::from(status).into()),
            _ => Ok(M::Reply::decode(body.payload.as_slice()).map_err(FrameError::from)?),
        }
    }
}

impl<M> Drop for Pending<'_, M> {
    fn drop(&mut self) {
        self.client.lock().waiting.remove(&self.stream);
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
