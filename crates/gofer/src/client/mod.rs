//! The sentry's end of the conversation.
//!
//! [`Client::call`] sends a request and gives a future of its answer. The first poll waits for the answer right there, for a short,
//! bounded time, because it usually comes sooner than another thread could be woken; after that the future registers its waker, and
//! whoever is told by [`Config::notify`] watches the socket and runs [`Client::process`]. Any thread may do either at any time.
//!
//! When the gofer dies, or answers nonsense, every call there is and will be ends with `EIO`. A call that is
//! dropped before its answer leaves nothing behind: a descriptor that comes is closed, handles are forgotten.
//!
//! Locking: `inbox` (who reads the socket) before `state`; neither is held while wakers run or anything is waited for.

mod call;
mod ops;
mod state;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Waker,
    time::Duration,
};

use hostcall::tally::{self, Counted};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};

pub use self::call::Call;
use self::state::State;
pub use self::state::Traffic;
use crate::{
    Errno,
    protocol::{Handle, MAX_MESSAGE, Request, Response},
    socket::{self, Wait},
};

/// After so many vain spins, only every [`SPIN_RETRY`]th call spins.
const SPIN_PATIENCE: u32 = 4;
const SPIN_RETRY: u32 = 64;

/// What a client waits for on its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interest {
    #[default]
    None,
    Readable,
    ReadableOrWritable,
}

pub struct Config {
    /// How long a call's first poll waits for the answer itself. Zero: not at all.
    pub inline_wait: Duration,
    /// How much of that is spent looking rather than sleeping: the sleep of an idle CPU costs more than the answer. Zero where only one
    /// CPU (or a quota for less than two) is there: the gofer could not run meanwhile.
    pub spin: Duration,
    /// Asks for one [`Client::process`] when the socket is ready for the interest (`EPOLLONESHOT`, level-triggered). Called without locks;
    /// not again before that `process`, which then returns the interest to watch for next.
    pub notify: Box<dyn Fn(Interest) + Send + Sync>,
}

impl Config {
    /// Waits that served best when measured; see `docs/gofer.md`.
    pub const INLINE_WAIT: Duration = Duration::from_micros(300);
    pub const SPIN: Duration = Duration::from_micros(60);

    /// The usual waits, for `cpus` that sentry and gofer may use at the same time.
    pub fn new(cpus: usize, notify: Box<dyn Fn(Interest) + Send + Sync>) -> Config {
        let spin = if cpus > 1 { Config::SPIN } else { Duration::ZERO };
        Config { inline_wait: Config::INLINE_WAIT, spin, notify }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("inline_wait", &self.inline_wait).field("spin", &self.spin).finish_non_exhaustive()
    }
}

/// A connection to a gofer.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    /// The receive buffer; its holder reads the socket.
    inbox: Mutex<Vec<u8>>,
    state: Mutex<State>,
    /// How many times in a row spinning was in vain (all CPUs are busy): then it is tried only now and then.
    vain_spins: AtomicU32,
    config: Config,
}

impl AsFd for Client {
    /// The socket, for readiness only.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    /// Takes one end of a `SEQPACKET` socket pair whose other end a gofer serves.
    pub fn new(socket: OwnedFd, config: Config) -> Arc<Client> {
        let (inbox, state) = (Mutex::new(vec![0; MAX_MESSAGE]), Mutex::new(State::default()));
        Arc::new(Client { socket, inbox, state, vain_spins: AtomicU32::new(0), config })
    }

    /// Sends a request; its future waits inline first. Not for `Forget`, which has no answer: see [`Client::forget`].
    pub fn call(self: &Arc<Client>, request: &Request) -> Call {
        let (tag, sleepers) = self.send(request);
        // The gofer answers in turn: it is busy longer than an inline wait already.
        let inline = if sleepers { Duration::ZERO } else { self.config.inline_wait };
        Call::new(self, tag, inline)
    }

    /// As [`Client::call`], but the future never waits inline.
    pub fn submit(self: &Arc<Client>, request: &Request) -> Call {
        Call::new(self, self.send(request).0, Duration::ZERO)
    }

    /// Notes a handle that will not be used again; told to the gofer in batches.
    pub fn forget(&self, handle: Handle) {
        self.state.lock().forget(self.as_fd(), &[handle]);
    }

    /// Tells the gofer of all forgotten handles now: after `ENFILE`, before trying again.
    pub fn flush_forgets(&self) {
        self.state.lock().flush_forgets(self.as_fd());
    }

    /// Whether the gofer is gone.
    pub fn is_dead(&self) -> bool {
        self.state.lock().is_dead()
    }

    /// What has been asked and answered so far.
    pub fn traffic(&self) -> Traffic {
        self.state.lock().traffic().clone()
    }

    /// Takes in all answers that are there and sends what waits for room, without blocking. Returns what to watch the socket for next.
    pub fn process(&self) -> Interest {
        self.exchange();
        let mut state = self.state.lock();
        let interest = state.interest();
        state.armed = interest;
        interest
    }

    /// The request's tag, and whether others sleep until their answers come.
    fn send(&self, request: &Request) -> (u64, bool) {
        debug_assert!(!matches!(request, Request::Forget { .. }), "forget has no answer");
        let mut state = self.state.lock();
        let sleepers = state.has_sleepers();
        (state.send(self.as_fd(), request), sleepers)
    }

    /// Reads the socket empty and writes the outbox to it.
    fn exchange(&self) {
        let mut woken: Vec<Waker> = Vec::new();
        {
            let mut inbox = self.inbox.lock();
            loop {
                let mut fds = Vec::new();
                match socket::receive(self.as_fd(), &mut inbox, Some(&mut fds), Wait::Never) {
                    Err(Errno::EAGAIN) => break,
                    Ok(n @ 1..) => {
                        let answer = Response::decode(inbox.get(..n).unwrap_or_default(), fds);
                        let mut state = self.state.lock();
                        state.received(n);
                        match answer {
                            Ok((tag, answer)) => woken.extend(state.complete(self.as_fd(), tag, answer)),
                            Err(malformed) => {
                                tracing::warn!(%malformed, "the gofer's answer makes no sense; giving it up");
                                woken.extend(state.die());
                            }
                        }
                        if state.is_dead() {
                            break;
                        }
                    }
                    Ok(0) | Err(_) => {
                        woken.extend(self.state.lock().die());
                        break;
                    }
                }
            }
        }
        woken.extend(self.state.lock().flush(self.as_fd()));
        woken.into_iter().for_each(Waker::wake);
    }

    /// How long the next call should spin.
    fn spin(&self) -> Duration {
        let vain = self.vain_spins.load(Ordering::Relaxed);
        if vain < SPIN_PATIENCE || vain.is_multiple_of(SPIN_RETRY) {
            self.config.spin
        } else {
            self.vain_spins.fetch_add(1, Ordering::Relaxed);
            Duration::ZERO
        }
    }

    fn spun(&self, time: Duration, paid: bool) {
        if paid {
            self.vain_spins.store(0, Ordering::Relaxed);
        } else if !time.is_zero() {
            self.vain_spins.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sleeps until the socket is readable (or writable, if there is something to write), for the time given at most.
    fn sleep(&self, time: Duration) {
        let flags = match self.state.lock().interest() {
            Interest::ReadableOrWritable => PollFlags::IN | PollFlags::OUT,
            _ => PollFlags::IN,
        };
        let time = Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
        // A failed poll is a short one: the caller looks again.
        tally::count(Counted::Poll);
        let _ = hostcall::time::slept(|| rustix::event::poll(&mut [PollFd::new(&self.socket, flags)], Some(&time)));
    }
}
