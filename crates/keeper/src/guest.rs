//! The agent in the guest: awaited, then a client's other end.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_api::{Client, ClientError, Code, Method, Status};

use crate::News;

/// How long it may take to hear what became of a guest whose agent has gone.
const FINDING_OUT: Duration = Duration::from_secs(2);

enum State {
    /// Its kernel boots.
    Awaited,
    Up(Arc<Client>),
    /// Why it is of no use any more.
    Gone(String),
}

/// The guest's agent, whatever state it is in.
pub struct Guest {
    state: Mutex<State>,
    changed: Condvar,
    news: Sender<News>,
    /// How long one message of the agent's may take.
    patience: Duration,
}

impl Guest {
    pub fn new(news: Sender<News>, patience: Duration) -> Guest {
        Guest { state: Mutex::new(State::Awaited), changed: Condvar::new(), news, patience }
    }

    /// The agent calls: once. What comes after is somebody else in the guest.
    pub fn connect(&self) -> Option<OwnedFd> {
        let mut state = self.lock();
        if !matches!(*state, State::Awaited) {
            return None;
        }
        let (ours, theirs) = UnixStream::pair().ok()?;
        *state = State::Up(Arc::new(Client::with_patience(ours.into(), self.patience)));
        self.changed.notify_all();
        Some(theirs.into())
    }

    /// From now on every call fails, for this reason.
    pub fn ended(&self, reason: String) {
        *self.lock() = State::Gone(reason);
        self.changed.notify_all();
    }

    pub fn is_up(&self) -> bool {
        matches!(*self.lock(), State::Up(_))
    }

    /// The agent, if it is up.
    pub fn up(&self) -> Option<Arc<Client>> {
        match &*self.lock() {
            State::Up(client) => Some(client.clone()),
            _ => None,
        }
    }

    /// Calls the agent, when it is up. One that has gone, or cannot be talked with, is the VM's end: nobody can reach what is in there any more.
    ///
    /// # Errors
    /// The agent's; or that it has gone.
    pub fn call<M: Method>(&self, request: &M) -> Result<M::Reply, Status> {
        let client = self.wait()?;
        client.call(request).map_err(|error| {
            let how = match &error {
                ClientError::Status(status) => return status.clone(),
                other if !other.is_the_end() => {
                    return Status::new(Code::Internal, format!("the agent in the guest: {other}"));
                }
                ClientError::Frame(what) => format!("sent nonsense: {what}"),
                ClientError::Stalled(patience) => format!("stopped within a message for {} s", patience.as_secs()),
                _ => "has gone".into(),
            };
            let _ = self.news.send(News::AgentGone(how));
            Status::new(Code::Internal, self.why_gone())
        })
    }

    /// Why the agent has gone, as soon as that is known.
    fn why_gone(&self) -> String {
        let known = |state: &mut State| !matches!(state, State::Gone(_));
        let state = self.changed.wait_timeout_while(self.lock(), FINDING_OUT, known);
        match &*state.unwrap_or_else(PoisonError::into_inner).0 {
            State::Gone(reason) => reason.clone(),
            _ => "the agent in the guest has gone".into(),
        }
    }

    fn wait(&self) -> Result<Arc<Client>, Status> {
        let mut state = self.lock();
        loop {
            match &*state {
                State::Up(client) => return Ok(client.clone()),
                State::Gone(reason) => return Err(Status::new(Code::Internal, reason.clone())),
                State::Awaited => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
