//! The control side: serves the Agent protocol.
//!
//! One host thread, [`Server::run`], reads requests and writes answers. Each request becomes a future on an executor ([`calls`]),
//! where everything that touches the kernel runs; its answer comes back through the [`Outbox`].

mod calls;
mod outbox;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use agent_api::{Call, Connection, Incoming};
use hostcall::control::{Want, accept, wait_ready};

use crate::Errno;
use crate::container::Agent;
use outbox::{Outbox, Reply};

/// Most clients at a time.
const MAX_CONNECTIONS: usize = 64;

/// The control thread's state.
pub struct Server {
    agent: Arc<Agent>,
    listener: OwnedFd,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    outbox: Arc<Outbox>,
}

/// Which of the polled descriptors.
#[derive(Debug, Clone, Copy)]
enum Polled {
    Listener,
    Outbox,
    Connection(u64),
}

impl Server {
    /// Takes a listening, non-blocking stream socket.
    ///
    /// # Errors
    /// The host's.
    pub fn new(agent: Arc<Agent>, listener: OwnedFd) -> Result<Server, Errno> {
        let outbox = Arc::new(Outbox::new()?);
        Ok(Server { agent, listener, connections: BTreeMap::new(), next_connection: 0, outbox })
    }

    /// Serves until a `Shutdown`.
    ///
    /// # Errors
    /// When the host refuses to wait for the sockets.
    pub fn run(mut self) -> Result<(), Errno> {
        loop {
            for which in self.ready()? {
                match which {
                    Polled::Listener => self.accept(),
                    Polled::Connection(id) => self.serve(id),
                    Polled::Outbox => {
                        for reply in self.outbox.take() {
                            let last = reply.last;
                            self.send(reply);
                            if last {
                                return Ok(());
                            }
                        }
                    }
                }
            }
        }
    }

    fn ready(&self) -> Result<Vec<Polled>, Errno> {
        let mut which = vec![Polled::Outbox];
        let mut fds = vec![(self.outbox.as_fd(), Want::Read)];
        if self.connections.len() < MAX_CONNECTIONS {
            which.push(Polled::Listener);
            fds.push((self.listener.as_fd(), Want::Read));
        }
        for (id, connection) in &self.connections {
            which.push(Polled::Connection(*id));
            fds.push((connection.as_fd(), if connection.wants_write() { Want::ReadWrite } else { Want::Read }));
        }
        let ready = wait_ready(&fds)?;
        Ok(which.into_iter().zip(ready).filter_map(|(which, ready)| ready.then_some(which)).collect())
    }

    fn accept(&mut self) {
        match accept(self.listener.as_fd()) {
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
                self.send(Reply { connection, stream, answer: Err(status), last: false });
                return;
            }
        };
        let (agent, outbox) = (self.agent.clone(), self.outbox.clone());
        let last = matches!(call, Call::Shutdown(_));
        self.agent.kernel.scheduler.spawn(move |_| async move {
            let answer = calls::serve(&agent, call, fds).await;
            outbox.put(Reply { connection, stream, answer, last });
        });
    }

    fn send(&mut self, reply: Reply) {
        let Some(connection) = self.connections.get_mut(&reply.connection) else { return };
        if let Err(error) = connection.reply_with(reply.stream, reply.answer) {
            tracing::debug!(%error, "a control connection ends");
            self.connections.remove(&reply.connection);
        }
    }
}
