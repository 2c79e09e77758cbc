//! The gofer process: takes requests from its one connection, one after the other.
//!
//! Life: [`Server::new`] opens the trees of its configuration, [`Server::lock_down`] gives up everything else, then
//! [`Server::serve`] until the sentry closes the connection. A single thread: operations take microseconds, what can sleep long (file
//! data) does not come here, and a seccomp list without `clone` is worth more than overlap.
//!
//! Everything received is hostile. It is parsed by `protocol`, looked up in the handle table and done by `passthrough`; descriptors
//! sent by the sentry never enter the process.

mod dispatch;
mod lockdown;
mod spin;
mod table;
#[cfg(test)]
mod tests;

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

pub use self::lockdown::{LockDown, LockDownError, RunAs, give_up};
use self::{
    spin::Spin,
    table::{Streams, Table},
};
use crate::{
    Errno,
    passthrough::{Budget, Export, Node, Notifier, Source},
    protocol::{Access, Cache, MAX_MESSAGE, MAX_OPENS, MAX_SCAN_DEPTH, Request, Response},
    socket::{self, Wait},
};

/// One tree the sentry may attach: the root, or a bind mount.
#[derive(Debug)]
pub struct AttachConfig {
    pub source: Source,
    pub access: Access,
    /// Passed on to the sentry.
    pub cache: Cache,
}

#[derive(Debug)]
pub struct Config {
    /// The `index` of an attach request is a place in this list.
    pub attaches: Vec<AttachConfig>,
    /// How many handles the sentry may hold; `ENFILE` beyond. Must leave some of `RLIMIT_NOFILE` free; see [`Config::handles_for`].
    pub max_handles: usize,
    /// How long to look for a next request before sleeping, while that pays: requests come in bursts, and the wake-up of an idle CPU costs
    /// more than the answer. [`Config::SPIN`], or zero where sentry and gofer cannot run at the same time.
    pub spin: Duration,
}

impl Config {
    /// The spin that served best when measured; see `docs/gofer.md`.
    pub const SPIN: Duration = Duration::from_micros(60);

    /// How many handles fit in a limit of open files: directories being read or scanned, descriptors on their way out and a
    /// handle's parent directory that was itself forgotten (which stays within the budget) need some beside them.
    pub fn handles_for(nofile: u64) -> usize {
        usize::try_from(nofile).unwrap_or(usize::MAX).saturating_sub(Streams::MAX + MAX_SCAN_DEPTH + MAX_OPENS + 48)
    }
}

struct Attach {
    root: Arc<Node>,
    access: Access,
    cache: Cache,
}

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot open attach {index}: {errno}")]
    Attach { index: usize, errno: Errno },
    #[error("connection to the sentry failed: {0}")]
    Socket(Errno),
    #[error("the sentry sent what is no request")]
    NoRequest,
}

/// A gofer with its trees open.
pub struct Server {
    attaches: Vec<Attach>,
    table: Table,
    streams: Streams,
    notifier: Option<Notifier>,
    spin: Spin,
}

impl Server {
    /// Opens the trees.
    ///
    /// # Errors
    /// Names the attach that cannot be opened.
    pub fn new(config: Config) -> Result<Server, ServeError> {
        let budget = Budget::new(config.max_handles);
        let open = |(index, attach): (usize, AttachConfig)| {
            let root =
                Export::open(attach.source, attach.access, &budget).map_err(|errno| ServeError::Attach { index, errno })?;
            Ok(Attach { root, access: attach.access, cache: attach.cache })
        };
        Ok(Server {
            attaches: config.attaches.into_iter().enumerate().map(open).collect::<Result<_, _>>()?,
            table: Table::new(config.max_handles),
            streams: Streams::default(),
            notifier: None,
            spin: Spin::new(config.spin),
        })
    }

    /// Serves until the sentry closes its end.
    ///
    /// # Errors
    /// The connection failed, or the sentry sent something without so much as a header.
    pub fn serve(mut self, socket: OwnedFd) -> Result<(), ServeError> {
        let mut packet = vec![0; MAX_MESSAGE];
        let mut reply = Vec::with_capacity(MAX_MESSAGE);
        loop {
            let n = match self.spin.receive(socket.as_fd(), &mut packet) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(()),
                Ok(n) => n,
                Err(errno) => return Err(ServeError::Socket(errno)),
            };
            let message = packet.get(..n).unwrap_or_default();
            let (tag, _, request) = Request::decode(message).map_err(|_| ServeError::NoRequest)?;
            let answer = match request {
                Ok(Request::Forget { nodes }) => {
                    self.forget(&nodes);
                    continue;
                }
                Ok(request) => self.answer(request),
                Err(malformed) => Err(malformed.into()),
            };
            Response::encode(&answer, tag, &mut reply);
            let fds = answer.as_ref().map(Response::fds).unwrap_or_default();
            match socket::send(socket.as_fd(), &reply, &fds, Wait::Allowed) {
                Ok(()) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
                Err(errno) => return Err(ServeError::Socket(errno)),
            }
        }
    }
}

/// A gofer's whole life: opens the trees, locks the process down, serves.
///
/// # Errors
/// Any step's; a failed lock-down serves nothing.
pub fn serve(socket: OwnedFd, config: Config, lock_down: &LockDown) -> Result<(), GoferError> {
    let server = Server::new(config)?;
    server.lock_down(lock_down)?;
    Ok(server.serve(socket)?)
}

/// Why a gofer ended.
#[derive(Debug, thiserror::Error)]
pub enum GoferError {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    LockDown(#[from] LockDownError),
}
