//! The connection to a gofer, and its place in the reactor.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use gofer::client::{Client, Config, Interest};
use parking_lot::Mutex;

use super::host_changes::HostChanges;
use crate::Errno;
use crate::executor::{HostWatch, Reactor};
use crate::wait::{Notify, PollEvents, Share};

/// A gofer's connection, and what it tells of the host's files.
#[derive(Clone)]
pub struct Connection {
    pub client: Arc<Client>,
    pub(super) host: Arc<HostChanges>,
}

/// Takes the sentry's end of a gofer's socket. Answers that no task waits for inline are taken in by the reactor. `cpus`: how many sentry
/// and gofer may use at the same time.
///
/// # Errors
/// The host's (`EMFILE`).
pub fn connect(reactor: &Arc<Reactor>, socket: OwnedFd, cpus: usize) -> Result<Connection, Errno> {
    let watched = Arc::new(hostcall::io::duplicate(&socket)?);
    let watch = reactor.watch_when_armed(watched)?;
    let queue = watch.queue().clone();
    let hook = Arc::new(Hook { watch, armed: Mutex::default(), client: OnceLock::new() });
    let registration = queue.register(PollEvents::IN | PollEvents::OUT, Share::All, hook.clone());
    let armer = hook.clone();
    let notify = move |interest| {
        // Kept as long as the client is.
        let _ = &registration;
        armer.arm(interest);
    };
    let client = Client::new(socket, Config::new(cpus, Box::new(notify)));
    let _ = hook.client.set(Arc::downgrade(&client));
    let host = HostChanges::new(&client, reactor);
    Ok(Connection { client, host })
}

/// Stands between the reactor and the client.
struct Hook {
    watch: HostWatch,
    /// What the reactor has been asked for since its last report.
    armed: Mutex<PollEvents>,
    client: OnceLock<Weak<Client>>,
}

impl Hook {
    fn arm(&self, interest: Interest) {
        let wanted = match interest {
            Interest::None => return,
            Interest::Readable => PollEvents::IN,
            Interest::ReadableOrWritable => PollEvents::IN | PollEvents::OUT,
        };
        let mut armed = self.armed.lock();
        *armed |= wanted;
        if let Err(errno) = self.watch.arm(*armed) {
            tracing::error!(%errno, "cannot watch the gofer's socket: its answers may be late");
        }
    }
}

impl Notify for Hook {
    fn notify(&self, _events: PollEvents) {
        *self.armed.lock() = PollEvents::empty();
        if let Some(client) = self.client.get().and_then(Weak::upgrade) {
            self.arm(client.process());
        }
    }
}
