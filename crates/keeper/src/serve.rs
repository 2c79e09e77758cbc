//! The keeper's clients: a thread reads each, and each call has one.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::drives::Plugs;
use crate::guest::Guest;
use crate::nics::Nics;
use crate::size::Sizes;
use crate::streams::Streams;
use crate::{KeeperError, News, spawn};
use agent_api::{Code, Connection, Incoming, SetUpSandboxRequest, Status};
use vmm::vsock::Vsock;

/// Most clients at a time.
const MAX_CLIENTS: usize = 64;
/// Most calls that are not answered yet, of all clients.
const MAX_CALLS: usize = 512;

/// What calls are served with.
pub struct Server {
    pub guest: Arc<Guest>,
    pub streams: Arc<Streams>,
    pub first_container: String,
    pub set_up: SetUpSandboxRequest,
    pub sizes: Sizes,
    pub plugs: Plugs,
    pub nics: Nics,
    /// Containers that are being made.
    pub making: Mutex<BTreeSet<String>>,
    pub vsock: Vsock,
    pub news: Sender<News>,
}

/// Calls under way.
#[derive(Default)]
pub struct Serving {
    clients: AtomicUsize,
    /// Calls that come now are not answered: the end of the connection is the answer.
    closing: AtomicBool,
    calls: Mutex<usize>,
    answered: Condvar,
}

impl Server {
    /// Serves the first client, and those that connect.
    ///
    /// # Errors
    /// No threads.
    pub fn serve(self: Arc<Server>, client: OwnedFd, listener: Option<OwnedFd>) -> Result<Arc<Serving>, KeeperError> {
        let serving = Arc::new(Serving::default());
        self.clone().attend(&serving, client)?;
        if let Some(listener) = listener {
            let (server, serving) = (self.clone(), serving.clone());
            spawn("listener", move || server.listen(&serving, listener))?;
        }
        Ok(serving)
    }

    fn listen(self: Arc<Server>, serving: &Arc<Serving>, listener: OwnedFd) {
        let _ = rustix::io::ioctl_fionbio(&listener, false);
        for client in UnixListener::from(listener).incoming() {
            let attended = client.map_err(|e| e.to_string()).and_then(|client| {
                if serving.clients.load(Ordering::Relaxed) >= MAX_CLIENTS {
                    return Err("too many".into());
                }
                self.clone().attend(serving, client.into()).map_err(|e| e.to_string())
            });
            if let Err(error) = attended {
                tracing::warn!(error, "a client is turned away");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn attend(self: Arc<Server>, serving: &Arc<Serving>, client: OwnedFd) -> Result<(), KeeperError> {
        let thread = |cause: rustix::io::Errno| KeeperError::Thread { name: "client", cause: cause.into() };
        rustix::io::ioctl_fionbio(&client, false).map_err(thread)?;
        // Reading and answering are apart: a connection for each.
        let answers = rustix::io::fcntl_dupfd_cloexec(client.as_fd(), 0).map_err(thread)?;
        let answers = Arc::new(Mutex::new(Connection::new(answers)));
        let mut requests = Connection::new(client);
        serving.clients.fetch_add(1, Ordering::Relaxed);
        let (server, serving) = (self, serving.clone());
        spawn("client", move || {
            loop {
                match requests.recv() {
                    Ok(Some(incoming)) => server.dispatch(&serving, &answers, incoming),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a client's connection ends");
                        break;
                    }
                }
            }
            serving.clients.fetch_sub(1, Ordering::Relaxed);
        })
    }

    fn dispatch(self: &Arc<Server>, serving: &Arc<Serving>, answers: &Arc<Mutex<Connection>>, incoming: Incoming) {
        let Incoming { stream, call, fds } = incoming;
        if serving.closing.load(Ordering::Relaxed) {
            return;
        }
        let call = match call {
            Ok(call) => call,
            Err(status) => return send(answers, stream, Err(status)),
        };
        if !serving.begin() {
            return send(answers, stream, Err(Status::new(Code::ResourceExhausted, "too many calls at a time")));
        }
        let (server, under_way, to) = (self.clone(), serving.clone(), answers.clone());
        let started = spawn("call", move || {
            let answer = server.call(call, fds);
            send(&to, stream, answer);
            under_way.end();
        });
        if let Err(error) = started {
            serving.end();
            send(answers, stream, Err(Status::new(Code::ResourceExhausted, error.to_string())));
        }
    }
}

impl Serving {
    fn begin(&self) -> bool {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let room = *calls < MAX_CALLS;
        *calls += usize::from(room);
        room
    }

    fn end(&self) {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.answered.notify_all();
    }

    /// Waits until all calls are answered, or `patience` has passed. Later ones are not answered.
    pub fn finish(&self, patience: Duration) {
        self.closing.store(true, Ordering::Relaxed);
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.answered.wait_timeout_while(calls, patience, |calls| *calls > 0));
    }
}

fn send(answers: &Mutex<Connection>, stream: u32, answer: Result<Vec<u8>, Status>) {
    let mut connection = answers.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = connection.reply_with(stream, answer) {
        tracing::debug!(%error, "an answer reaches nobody");
    }
}
