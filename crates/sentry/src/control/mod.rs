//! The control side: serves the Agent protocol.
//!
//! One host thread, [`Server::run`], reads requests and writes answers. Each request becomes a future on an executor ([`calls`]),
//! where everything that touches the kernel runs; its answer comes back through the [`Outbox`], and so does the end of the first container,
//! which is the sandbox's.

mod calls;
mod outbox;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_api::{Call, Connection, Incoming};
use hostcall::control::{Want, accept, wait_ready};

use crate::Errno;
use crate::container::Agent;
use outbox::{Outbox, Reply};

/// Most clients at a time.
const MAX_CONNECTIONS: usize = 64;
/// How long the first container's end waits for answers that are on their way.
const ANSWERS: Duration = Duration::from_millis(10);

/// The control thread's state.
pub struct Server {
    agent: Arc<Agent>,
    listener: Option<OwnedFd>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    outbox: Arc<Outbox>,
    /// The container whose end is the sandbox's.
    first_container: String,
    /// Requests without an answer yet.
    unanswered: usize,
}

/// Which of the polled descriptors.
#[derive(Debug, Clone, Copy)]
enum Polled {
    Listener,
    Outbox,
    Connection(u64),
}

impl Server {
    /// Takes the first client's connection, and a listening stream socket if others may come; both non-blocking.
    ///
    /// # Errors
    /// The host's.
    pub fn new(
        agent: Arc<Agent>,
        client: OwnedFd,
        listener: Option<OwnedFd>,
        first_container: String,
    ) -> Result<Server, Errno> {
        let outbox = Arc::new(Outbox::new()?);
        let connections = BTreeMap::from([(0, Connection::new(client))]);
        Ok(Server { agent, listener, connections, next_connection: 1, outbox, first_container, unanswered: 0 })
    }

    /// Serves until a `Shutdown`, or the end of the first container, whose exit status it returns.
    ///
    /// # Errors
    /// When the host refuses to wait for the sockets.
    pub fn run(mut self) -> Result<Option<u8>, Errno> {
        self.watch_first_container();
        // Set when it has ended: its exit status, and until when answers are waited for.
        let mut end: Option<(u8, Instant)> = None;
        loop {
            let patience = match end {
                Some((status, _)) if self.unanswered == 0 => return Ok(Some(status)),
                Some((status, until)) => match until.checked_duration_since(Instant::now()) {
                    None => return Ok(Some(status)),
                    left => left,
                },
                None => None,
            };
            for which in self.ready(patience)? {
                match which {
                    Polled::Listener => self.accept(),
                    Polled::Connection(id) => self.serve(id),
                    Polled::Outbox => {
                        let mail = self.outbox.take();
                        for reply in mail.replies {
                            let last = reply.last;
                            self.send(reply);
                            if last {
                                return Ok(None);
                            }
                        }
                        end = end.or(mail.end.map(|status| (status, Instant::now() + ANSWERS)));
                    }
                }
            }
        }
    }

    fn watch_first_container(&self) {
        let (agent, outbox, id) = (self.agent.clone(), self.outbox.clone(), self.first_container.clone());
        self.agent.kernel.scheduler.spawn(move |_| async move {
            outbox.end(agent.events.exit_of(&id).await);
        });
    }

    fn ready(&self, patience: Option<Duration>) -> Result<Vec<Polled>, Errno> {
        let mut which = vec![Polled::Outbox];
        let mut fds = vec![(self.outbox.as_fd(), Want::Read)];
        if let Some(listener) = self.listener.as_ref().filter(|_| self.connections.len() < MAX_CONNECTIONS) {
            which.push(Polled::Listener);
            fds.push((listener.as_fd(), Want::Read));
        }
        for (id, connection) in &self.connections {
            which.push(Polled::Connection(*id));
            fds.push((connection.as_fd(), if connection.wants_write() { Want::ReadWrite } else { Want::Read }));
        }
        let ready = wait_ready(&fds, patience)?;
        Ok(which.into_iter().zip(ready).filter_map(|(which, ready)| ready.then_some(which)).collect())
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match accept(listener.as_fd()) {
            Ok(Some(socket)) => {
                self.connections.insert(self.next_connection, Connection::new(socket));
                self.next_connection += 1;
            }
            Ok(None) => {}
            Err(errno) => tracing::warn!(%errno, "cannot accept a control connection"),
        }
    }

    /// Reads what a client has sent; drops the client when it is gone or talks nonsense.
    fn serve(&mut self, id: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match connection.flush().and_then(|()| connection.recv()) {
                Ok(Some(incoming)) => self.dispatch(id, incoming),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "a control connection ends");
                    self.connections.remove(&id);
                    return;
                }
            }
        }
    }

    fn dispatch(&mut self, connection: u64, incoming: Incoming) {
        let Incoming { stream, call, fds } = incoming;
        let call = match call {
            Ok(call) => call,
            Err(status) => {
                self.unanswered += 1;
                self.send(Reply { connection, stream, answer: Err(status), last: false });
                return;
            }
        };
        self.unanswered += 1;
        let (agent, outbox) = (self.agent.clone(), self.outbox.clone());
        let last = matches!(call, Call::Shutdown(_));
        self.agent.kernel.scheduler.spawn(move |_| async move {
            let answer = calls::serve(&agent, call, fds).await;
            outbox.put(Reply { connection, stream, answer, last });
        });
    }

    fn send(&mut self, reply: Reply) {
        self.unanswered = self.unanswered.saturating_sub(1);
        let Some(connection) = self.connections.get_mut(&reply.connection) else { return };
        if let Err(error) = connection.reply_with(reply.stream, reply.answer) {
            tracing::debug!(%error, "a control connection ends");
            self.connections.remove(&reply.connection);
        }
    }
}
