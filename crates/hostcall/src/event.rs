//! Readiness of host descriptors: an epoll set for the thread that waits, and a look without waiting.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll};

use crate::Errno;
use crate::tally::{self, Counted};

/// Most events taken at a time.
const BATCH: usize = 64;

/// An epoll set: edge-triggered, or one-shot where asked for.
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// # Errors
    /// The host's, usually `EMFILE`.
    pub fn new() -> Result<Poller, Errno> {
        Ok(Poller { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Reports changes of `fd` as `token` from now on.
    ///
    /// # Errors
    /// `EPERM` for files that are always ready (regular ones, /dev/null).
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        use epoll::EventFlags;
        let events = EventFlags::IN | EventFlags::PRI | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        tally::count(Counted::EpollCtl);
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), events)?)
    }

    /// Takes `fd` in without reporting anything, until [`Poller::arm`].
    ///
    /// # Errors
    /// As [`Poller::add`].
    pub fn add_unarmed(&self, fd: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        tally::count(Counted::EpollCtl);
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::ONESHOT)?)
    }

    /// Reports once when `fd` is, or becomes, ready for any of the `EPOLL*` bits `wanted`.
    ///
    /// # Errors
    /// `ENOENT` when it is not in the set.
    pub fn arm(&self, fd: BorrowedFd<'_>, token: u64, wanted: u32) -> Result<(), Errno> {
        let events = epoll::EventFlags::from_bits_retain(wanted) | epoll::EventFlags::ONESHOT;
        tally::count(Counted::EpollCtl);
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), events)?)
    }

    /// Reports no more of `fd`.
    ///
    /// # Errors
    /// `ENOENT` when it is not in the set.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        tally::count(Counted::EpollCtl);
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Sleeps until something happens, for `patience` at most (in whole milliseconds, rounded up); gives each token with its `EPOLL*` bits to `each`.
    ///
    /// # Errors
    /// The host's; `EINTR` is not one.
    pub fn wait(&self, patience: Option<Duration>, mut each: impl FnMut(u64, u32)) -> Result<(), Errno> {
        let mut events = Vec::with_capacity(BATCH);
        let patience = patience.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
        tally::count(Counted::EpollWait);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in events {
            let (data, flags) = (event.data, event.flags);
            each(data.u64(), flags.bits());
        }
        Ok(())
    }
}

/// Waits until `fd` is ready for one of the `POLL*` bits `wanted` (or broken), for `patience` at most. Whether it is.
///
/// # Errors
/// The host's.
pub fn poll_for(fd: impl AsFd, wanted: u16, patience: Duration) -> Result<bool, Errno> {
    let fd = fd.as_fd();
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::from_bits_retain(wanted))];
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    tally::count(Counted::Poll);
    Ok(rustix::event::poll(&mut fds, Some(&patience))? > 0)
}

/// What is ready on `fd` now, of the `POLL*` bits `wanted` (and error and hang-up).
///
/// # Errors
/// The host's.
pub fn poll_now(fd: impl AsFd, wanted: u16) -> Result<u16, Errno> {
    let fd = fd.as_fd();
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::from_bits_retain(wanted))];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    tally::count(Counted::Poll);
    rustix::event::poll(&mut fds, Some(&at_once))?;
    Ok(fds[0].revents().bits())
}

/// Sleeps for good: for a thread that has nothing more to do and may not end.
pub fn wait_for_nothing() -> ! {
    loop {
        let _ = rustix::event::poll(&mut [], None);
    }
}
