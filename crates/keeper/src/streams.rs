//! Streams of the guest's processes, each joined to a descriptor of the host.
//!
//! Before a call goes to the guest its descriptors are [announced](Streams::announce) under random numbers; the guest's agent connects for each
//! from the port of that number. Who comes from another port gets nothing, so other programs of the guest's are not in the agent's way. A stream's
//! thread copies until one side ends, and passes the end on: the end of a file as that, a reader that has gone as a broken pipe.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_api::vm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::spawn;

/// Bytes that are copied at a time.
pub const PIECE: usize = 64 << 10;
/// What has been written arrives within this time, if nothing is in its way.
const ARRIVAL: Duration = Duration::from_millis(30);

/// Which way a stream goes, seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the host's descriptor into the guest.
    In,
    Out,
}

/// Container and exec id.
type Owner = (String, String);

struct Stream {
    owner: Owner,
    direction: Direction,
    state: Progress,
}

enum Progress {
    /// Until the guest connects: the host's descriptor.
    Announced(OwnedFd),
    /// Until one side ends: the guest's side, and whether bytes are on their way.
    Open { guest: Arc<UnixStream>, moving: bool },
}

/// All streams of a VM.
#[derive(Default)]
pub struct Streams {
    state: Mutex<HashMap<u32, Stream>>,
    changed: Condvar,
}

/// Numbers given out for one call; taken back unless [kept](Announced::keep).
pub struct Announced {
    streams: Arc<Streams>,
    owner: Owner,
    numbers: Vec<u32>,
}

impl Streams {
    /// To announce streams of a process.
    pub fn announce(self: &Arc<Streams>, container_id: &str, exec_id: &str) -> Announced {
        Announced { streams: self.clone(), owner: (container_id.into(), exec_id.into()), numbers: Vec::new() }
    }

    /// Somebody in the guest connects from this port.
    pub fn connect(self: &Arc<Streams>, number: u32) -> Option<OwnedFd> {
        let mut state = self.lock();
        let stream = state.get_mut(&number).filter(|s| matches!(s.state, Progress::Announced(_)))?;
        let (ours, theirs) = UnixStream::pair().ok()?;
        let guest = Arc::new(ours);
        let open = Progress::Open { guest: guest.clone(), moving: false };
        let Progress::Announced(host) = std::mem::replace(&mut stream.state, open) else { return None };
        let direction = stream.direction;
        drop(state);
        let streams = self.clone();
        if let Err(error) = spawn("stream", move || streams.attend(number, host, &guest, direction)) {
            tracing::error!(%error, "a stream of the guest's is not served");
            self.end(number);
            return None;
        }
        Some(theirs.into())
    }

    /// Waits until nothing that a process has written is on its way any more; at most `patience`. Somebody else may still hold its streams.
    pub fn drain(&self, container_id: &str, exec_id: &str, patience: Duration) {
        let owns = |s: &Stream| s.direction == Direction::Out && s.owner.0 == container_id && s.owner.1 == exec_id;
        let end = Instant::now() + patience;
        let mut idle_since = None;
        let mut state = self.lock();
        loop {
            let mut open = state.values().filter(|s| owns(s)).peekable();
            if open.peek().is_none() {
                return;
            }
            let now = Instant::now();
            let idle = open.all(|s| match &s.state {
                Progress::Announced(_) => true,
                Progress::Open { guest, moving } => !moving && !matches!(rustix::io::ioctl_fionread(guest), Ok(n) if n > 0),
            });
            idle_since = if idle { idle_since.or(Some(now)) } else { None };
            if now >= end || idle_since.is_some_and(|since| now - since >= ARRIVAL) {
                return;
            }
            state = self.changed.wait_timeout(state, ARRIVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A connection's life.
    fn attend(&self, number: u32, host: OwnedFd, guest: &UnixStream, direction: Direction) {
        match direction {
            Direction::In => pump_in(&host, guest),
            Direction::Out => self.pump_out(number, &host, guest),
        }
        drop(host);
        self.end(number);
    }

    /// A stream is over.
    fn end(&self, number: u32) {
        self.lock().remove(&number);
        self.changed.notify_all();
    }

    fn pump_out(&self, number: u32, host: &OwnedFd, guest: &UnixStream) {
        let mut buffer = vec![0; PIECE];
        let moves = |now: bool| {
            if let Some(Stream { state: Progress::Open { moving, .. }, .. }) = self.lock().get_mut(&number) {
                *moving = now;
            }
            if !now {
                self.changed.notify_all();
            }
        };
        loop {
            // Before it is read, what came counts as there; afterwards as moving.
            match wait(&[(guest.as_fd(), PollFlags::IN), (host.as_fd(), PollFlags::empty())]) {
                // The reader has gone, or the terminal has hung up: so the writer shall see.
                [_, host] if host.intersects(PollFlags::ERR | PollFlags::HUP) => return,
                [guest, _] if guest.is_empty() => continue,
                _ => {}
            }
            moves(true);
            let read = (&mut &*guest).read(&mut buffer);
            let written = match read {
                Ok(n) if n > 0 => write_all(host, buffer.get(..n).unwrap_or_default()),
                _ => false,
            };
            moves(false);
            if !written {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Stream>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announced {
    /// A number for one more descriptor.
    pub fn add(&mut self, host: OwnedFd, direction: Direction) -> u32 {
        let mut state = self.streams.lock();
        let number = loop {
            let mut bytes = [0; 4];
            let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
            let number = u32::from_le_bytes(bytes);
            if (vm::FIRST_STREAM..vm::ANY_PORT).contains(&number) && !state.contains_key(&number) {
                break number;
            }
        };
        let stream = Stream { owner: self.owner.clone(), direction, state: Progress::Announced(host) };
        state.insert(number, stream);
        self.numbers.push(number);
        number
    }

    /// The call has succeeded: the streams are in use. The agent connects before it answers; what it has not fetched by now it never will.
    pub fn keep(mut self) {
        let mut state = self.streams.lock();
        for number in self.numbers.drain(..) {
            if let Some(Stream { state: Progress::Announced(_), .. }) = state.get(&number) {
                tracing::warn!("the agent in the guest has not taken a stream of {:?}", self.owner);
                state.remove(&number);
            }
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut state = self.streams.lock();
        for number in &self.numbers {
            // The thread of an open one sees the guest's side end.
            if let Some(Stream { state: Progress::Open { guest, .. }, .. }) = state.remove(number) {
                let _ = guest.shutdown(Shutdown::Both);
            }
        }
    }
}

fn pump_in(host: &OwnedFd, guest: &UnixStream) {
    let mut buffer = vec![0; PIECE];
    loop {
        match wait(&[(host.as_fd(), PollFlags::IN), (guest.as_fd(), PollFlags::RDHUP)]) {
            // Nobody reads it any more: what comes is for others to read.
            [_, guest] if !guest.is_empty() => return,
            [host, _] if host.is_empty() => continue,
            _ => {}
        }
        match rustix::io::read(host, &mut buffer) {
            Ok(n) if n > 0 => {
                if (&mut &*guest).write_all(buffer.get(..n).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO is a terminal whose other end is closed.
            Ok(_) | Err(_) => {
                let _ = guest.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

fn write_all(host: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(host, bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::AGAIN) => drop(wait(&[(host.as_fd(), PollFlags::OUT)])),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Waits for one of these to happen, and says what has happened to each.
fn wait<const N: usize>(wanted: &[(std::os::fd::BorrowedFd<'_>, PollFlags); N]) -> [PollFlags; N] {
    let mut fds = wanted.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    let none: Option<&Timespec> = None;
    while let Err(Errno::INTR) = poll(&mut fds, none) {}
    fds.map(|fd| fd.revents())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
        std::io::pipe().unwrap()
    }

    fn guest_side(streams: &Arc<Streams>, number: u32) -> UnixStream {
        UnixStream::from(streams.connect(number).unwrap())
    }

    #[test]
    fn what_a_process_writes_arrives_before_its_end_is_told() {
        let streams = Arc::new(Streams::default());
        let (mut reader, writer) = pipe();
        let mut announced = streams.announce("c", "");
        let number = announced.add(writer.into(), Direction::Out);
        let mut guest = guest_side(&streams, number);
        announced.keep();
        let slow = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all.len()
        });
        guest.write_all(&vec![7; 200_000]).unwrap();
        streams.drain("c", "", SOON);
        // More than a pipe holds, and nothing is left here.
        assert_eq!(rustix::io::ioctl_fionread(&guest).unwrap(), 0);
        drop(guest);
        assert_eq!(slow.join().unwrap(), 200_000);
    }

    #[test]
    fn ends_are_passed_on() {
        let streams = Arc::new(Streams::default());
        let (reader, mut writer) = pipe();
        let mut announced = streams.announce("c", "e");
        let number = announced.add(reader.into(), Direction::In);
        let mut guest = guest_side(&streams, number);
        announced.keep();
        writer.write_all(b"all there is").unwrap();
        drop(writer);
        let mut text = String::new();
        guest.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all there is");

        let (reader, writer) = pipe();
        let mut announced = streams.announce("c", "f");
        let number = announced.add(writer.into(), Direction::Out);
        let mut guest = guest_side(&streams, number);
        announced.keep();
        drop(reader);
        let broken = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            guest.write_all(b"x").is_err()
        });
        assert!(broken, "a reader that has gone breaks the pipe");
    }

    #[test]
    fn only_what_is_announced_can_be_had_and_once() {
        let streams = Arc::new(Streams::default());
        let (mut reader, writer) = pipe();
        let mut announced = streams.announce("c", "");
        let number = announced.add(writer.into(), Direction::Out);
        assert!((vm::FIRST_STREAM..vm::ANY_PORT).contains(&number));
        // However many strangers try, the agent is let in.
        assert!((1..100).all(|other| streams.connect(number ^ other).is_none()), "a wrong number gets nothing");
        let guest = guest_side(&streams, number);
        assert!(streams.connect(number).is_none(), "it is taken");
        // The call failed: the stream ends with it, on both sides.
        drop(announced);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert!(matches!((&guest).read(&mut [0]), Ok(0) | Err(_)));
    }

    #[test]
    fn what_is_not_fetched_is_not_kept() {
        let streams = Arc::new(Streams::default());
        let (mut unread, unwritten) = pipe();
        let (reader, writer) = pipe();
        let mut announced = streams.announce("c", "");
        let (never, taken) = (announced.add(unwritten.into(), Direction::Out), announced.add(writer.into(), Direction::Out));
        let guest = guest_side(&streams, taken);
        announced.keep();
        assert_eq!(unread.read(&mut [0]).unwrap(), 0, "the host's reader sees the end");
        assert!(streams.connect(never).is_none());
        assert_eq!(streams.lock().len(), 1);
        drop((guest, reader));
    }
}
