//! [`Reactor`]: the host thread that waits for host descriptors and wakes [`WaitQueue`]s.
//!
//! It keeps no readiness: users try, and on `EAGAIN` register with the [`HostWatch`]'s queue, try again, and wait. Since the set is
//! edge-triggered, each change after the registration is a wake.

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Instant;

use hostcall::Errno;
use hostcall::event::Poller;
use parking_lot::Mutex;

use super::Pace;
use crate::wait::{PollEvents, Share, WaitQueue, notify_waker};

/// Watches host descriptors. Boot makes it and its thread before the seccomp filter.
pub struct Reactor {
    poller: Poller,
    watched: Mutex<HashMap<u64, Watched>>,
    next: AtomicU64,
}

/// What is woken, and, of a pipe that is written to, at which pace.
#[derive(Clone)]
struct Watched {
    queue: WaitQueue,
    pace: Option<Arc<Pace>>,
}

/// Room that a writer is not told of yet.
struct Late {
    token: u64,
    queue: WaitQueue,
    events: PollEvents,
    due: Instant,
}

impl Reactor {
    /// # Errors
    /// The host's `epoll_create` errors.
    pub fn new() -> Result<Arc<Reactor>, Errno> {
        Ok(Arc::new(Reactor { poller: Poller::new()?, watched: Mutex::default(), next: AtomicU64::new(0) }))
    }

    /// The body of its thread: never returns, unless the host refuses to wait.
    pub fn run(&self) -> Errno {
        let mut due = Vec::new();
        let mut late: Vec<Late> = Vec::new();
        loop {
            let patience = late.iter().map(|late| late.due).min().map(|due| due.saturating_duration_since(Instant::now()));
            let waited = self.poller.wait(patience, |token, events| due.push((token, events)));
            for (token, events) in due.drain(..) {
                let watched = self.watched.lock().get(&token).cloned();
                let Some(Watched { queue, pace }) = watched else { continue };
                let events = PollEvents::from_bits_truncate(events);
                let pace = pace.filter(|_| events == PollEvents::OUT);
                if pace.is_some() && late.iter().any(|late| late.token == token) {
                    continue;
                }
                match pace.map(|pace| pace.pause()).filter(|pause| !pause.is_zero()) {
                    Some(pause) => late.push(Late { token, queue, events, due: Instant::now() + pause }),
                    None => queue.wake(events),
                }
            }
            if !late.is_empty() {
                let now = Instant::now();
                late.extract_if(.., |late| late.due <= now).for_each(|late| late.queue.wake(late.events));
            }
            if let Err(errno) = waited {
                return errno;
            }
        }
    }

    /// Watches a host file until the result is dropped.
    ///
    /// # Errors
    /// `EPERM` for files that are always ready (regular ones, /dev/null).
    pub fn watch(self: &Arc<Reactor>, file: Arc<OwnedFd>) -> Result<HostWatch, Errno> {
        self.watch_at(file, None)
    }

    /// As [`Reactor::watch`], a pipe that is written to, which tells `pace` how much.
    ///
    /// # Errors
    /// As [`Reactor::watch`].
    pub fn watch_at(self: &Arc<Reactor>, file: Arc<OwnedFd>, pace: Option<Arc<Pace>>) -> Result<HostWatch, Errno> {
        let watch = self.new_watch(file, pace);
        self.poller.add(watch.file.as_fd(), watch.token)?;
        Ok(watch)
    }

    /// Watches a host file whenever it is armed ([`HostWatch::arm`]), until the result is dropped.
    ///
    /// # Errors
    /// As [`Reactor::watch`].
    pub fn watch_when_armed(self: &Arc<Reactor>, file: Arc<OwnedFd>) -> Result<HostWatch, Errno> {
        let watch = self.new_watch(file, None);
        self.poller.add_unarmed(watch.file.as_fd(), watch.token)?;
        Ok(watch)
    }

    fn new_watch(self: &Arc<Reactor>, file: Arc<OwnedFd>, pace: Option<Arc<Pace>>) -> HostWatch {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let queue = WaitQueue::new();
        self.watched.lock().insert(token, Watched { queue: queue.clone(), pace });
        HostWatch { reactor: self.clone(), file, queue, token }
    }
}

/// A host descriptor that the reactor watches.
pub struct HostWatch {
    reactor: Arc<Reactor>,
    file: Arc<OwnedFd>,
    queue: WaitQueue,
    token: u64,
}

impl HostWatch {
    pub fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// Woken at each change of readiness.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Asks for one wake when the file is (or becomes) ready for any of `events`; only for [`Reactor::watch_when_armed`].
    ///
    /// # Errors
    /// The host's; none is expected.
    pub fn arm(&self, events: PollEvents) -> Result<(), Errno> {
        self.reactor.poller.arm(self.file.as_fd(), self.token, events.bits())
    }

    /// For code that is no guest task (control, gofer client): tries `io` until it gives something else than `EAGAIN`.
    pub fn retry<'a, T>(
        &'a self,
        mut io: impl FnMut(&OwnedFd) -> Result<T, Errno> + Send + 'a,
    ) -> impl Future<Output = Result<T, Errno>> + Send + 'a {
        let mut registration = None;
        std::future::poll_fn(move |cx| {
            loop {
                match io(&self.file) {
                    Err(Errno::EAGAIN) if registration.is_some() => return Poll::Pending,
                    Err(Errno::EAGAIN) => {
                        let all = PollEvents::IN | PollEvents::OUT | PollEvents::PRI | PollEvents::RDHUP;
                        registration = Some(self.queue.register(all, Share::All, notify_waker(cx.waker())));
                    }
                    result => return Poll::Ready(result),
                }
            }
        })
    }
}

impl Drop for HostWatch {
    fn drop(&mut self) {
        self.reactor.watched.lock().remove(&self.token);
        // Not there if adding it failed.
        let _ = self.reactor.poller.remove(self.file.as_fd());
    }
}

/// Runs a future to its end on the calling host thread; for tests.
#[cfg(test)]
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park_timeout(std::time::Duration::from_secs(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostcall::io::{Sleep, read_at, write_at};

    #[test]
    fn a_reader_wakes_when_the_host_writes() {
        let reactor = Reactor::new().expect("epoll");
        let (reader, writer) = std::io::pipe().expect("pipe");
        let (reader, writer) = (Arc::new(OwnedFd::from(reader)), OwnedFd::from(writer));
        let watch = reactor.watch(reader).expect("watch");
        let running = reactor.clone();
        std::thread::spawn(move || running.run());
        let late = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            write_at(writer.as_fd(), b"hello", -1, Sleep::Allowed).expect("write");
        });
        let mut bytes = [0; 16];
        let n = block_on(watch.retry(|file| read_at(file.as_fd(), &mut bytes, -1, Sleep::Never)));
        late.join().expect("writer");
        assert_eq!(n, Ok(5));
        assert_eq!(&bytes[..5], b"hello");
    }
}
