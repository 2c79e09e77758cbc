//! Pumps: bytes between a process's pipes (or terminal) and the host's streams.
//!
//! Each is a thread. What a pipe would do happens on both sides: the end of a stream closes the pipe, a stream that the host has closed breaks it, and the
//! other way round.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use agent_api::{Code, Status};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread, read, write};

const BUFFER: usize = 64 << 10;
const STACK: usize = 64 << 10;
/// How long the report of an exit waits for a host that does not read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks whether a pipe that others keep open is empty.
const LOOK: Duration = Duration::from_millis(2);

/// From a process to the host.
pub struct Output {
    /// The pump's; gone when it is at its end, so that writers notice.
    source: Weak<OwnedFd>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// Waits for bytes.
    #[default]
    Idle,
    /// Has bytes that the host does not have yet.
    Busy,
    Done,
}

impl State {
    fn set(&self, phase: Phase) {
        *self.phase.lock() = phase;
        self.changed.notify_all();
    }
}

impl Output {
    /// Starts to pump.
    ///
    /// # Errors
    /// `ResourceExhausted`, without a thread.
    pub fn start(source: OwnedFd, stream: OwnedFd) -> Result<Output, Status> {
        let source = Arc::new(source);
        let output = Output { source: Arc::downgrade(&source), state: Arc::default() };
        let state = output.state.clone();
        spawn(move || {
            let mut buffer = vec![0; BUFFER];
            while step(&source, &stream, &mut buffer, &state) {}
            drop((stream, source));
            state.set(Phase::Done);
        })?;
        Ok(output)
    }

    /// Waits until the host has all that was written, in so far as it reads. What background processes may write later is not waited for.
    pub fn flush(&self) {
        let end = Instant::now() + PATIENCE;
        let mut phase = self.state.phase.lock();
        while *phase != Phase::Done && Instant::now() < end {
            let empty = self.source.upgrade().is_none_or(|source| ioctl_fionread(&*source).unwrap_or(0) == 0);
            if *phase == Phase::Idle && empty {
                return;
            }
            self.state.changed.wait_for(&mut phase, LOOK);
        }
    }

    /// Waits until all other ends are closed, for a while.
    pub fn wait_end(&self, patience: Duration) {
        let mut phase = self.state.phase.lock();
        if *phase != Phase::Done {
            self.state.changed.wait_for(&mut phase, patience);
        }
    }
}

/// Moves what there is; false at the end of either side.
fn step(source: &OwnedFd, stream: &OwnedFd, buffer: &mut [u8], state: &State) -> bool {
    let mut fds = [PollFd::new(source, PollFlags::IN), PollFd::new(stream, PollFlags::empty())];
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(_) => return false,
    }
    let [of_source, of_stream] = fds.map(|fd| fd.revents());
    if of_stream.intersects(PollFlags::HUP | PollFlags::ERR) {
        return false;
    }
    if !of_source.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
        return true;
    }
    state.set(Phase::Busy);
    let goes_on = match read(source, &mut *buffer) {
        // A terminal's other side has hung up: EIO.
        Ok(0) | Err(Errno::IO) => false,
        Ok(got) => write_all(stream, buffer.get(..got).unwrap_or_default()).is_ok(),
        Err(Errno::INTR | Errno::AGAIN) => true,
        Err(_) => false,
    };
    state.set(Phase::Idle);
    goes_on
}

/// From the host to a process. Ends with either side.
///
/// # Errors
/// `ResourceExhausted`, without a thread.
pub fn start_input(stream: OwnedFd, sink: OwnedFd) -> Result<(), Status> {
    spawn(move || {
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut fds = [PollFd::new(&stream, PollFlags::IN), PollFd::new(&sink, PollFlags::empty())];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let [of_stream, of_sink] = fds.map(|fd| fd.revents());
            // Nobody reads any more.
            if of_sink.intersects(PollFlags::ERR | PollFlags::HUP) {
                return;
            }
            if !of_stream.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                continue;
            }
            match read(&stream, &mut buffer) {
                Ok(0) => {
                    // A connection's other direction goes on; on a pipe this does nothing.
                    let _ = rustix::net::shutdown(&sink, rustix::net::Shutdown::Write);
                    return;
                }
                Ok(got) if write_all(&sink, buffer.get(..got).unwrap_or_default()).is_ok() => {}
                Err(Errno::INTR | Errno::AGAIN) => {}
                Ok(_) | Err(_) => return,
            }
        }
    })
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Status> {
    let thread = thread::Builder::new().name("pump".into()).stack_size(STACK).spawn(work);
    thread.map(drop).map_err(|error| Status::new(Code::ResourceExhausted, format!("cannot make a thread: {error}")))
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(&to, bytes) {
            Ok(wrote) => bytes = bytes.get(wrote..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn streams() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a pair")
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).expect("a pipe")
    }

    fn read_to_end(from: &OwnedFd) -> usize {
        let (mut all, mut buffer) = (0, vec![0; 65536]);
        loop {
            match read(from, &mut buffer).expect("read") {
                0 => return all,
                got => all += got,
            }
        }
    }

    #[test]
    fn all_output_arrives_and_then_its_end() {
        let ((source, writer), (stream, host)) = (pipe(), streams());
        let output = Output::start(source, stream).expect("started");
        let total = 3 << 20;
        let write = thread::spawn(move || write_all(&writer, &vec![7; total]));
        assert_eq!(read_to_end(&host), total);
        write.join().expect("joined").expect("written");
        output.wait_end(PATIENCE);
        assert_eq!(*output.state.phase.lock(), Phase::Done);
        output.flush();
    }

    #[test]
    fn a_flush_does_not_wait_for_a_writer_in_the_background() {
        let ((source, writer), (stream, host)) = (pipe(), streams());
        let output = Output::start(source, stream).expect("started");
        write_all(&writer, b"hello").expect("written");
        output.flush();
        let mut got = [0; 16];
        // What was flushed is there already.
        rustix::io::ioctl_fionbio(&host, true).expect("set");
        assert_eq!(read(&host, &mut got), Ok(5));
        drop(writer);
    }

    #[test]
    fn a_host_that_closes_breaks_the_pipe() {
        let ((source, writer), (stream, host)) = (pipe(), streams());
        let output = Output::start(source, stream).expect("started");
        drop(host);
        output.wait_end(PATIENCE);
        // The test's process ignores SIGPIPE, as Rust's do.
        assert_eq!(write_all(&writer, b"x"), Err(Errno::PIPE));
    }

    #[test]
    fn the_end_of_input_is_the_end_of_the_pipe() {
        let ((reader, sink), (stream, host)) = (pipe(), streams());
        start_input(stream, sink).expect("started");
        write_all(&host, b"some input").expect("written");
        shutdown(&host, Shutdown::Write).expect("shut down");
        assert_eq!(read_to_end(&reader), 10);
    }

    #[test]
    fn a_reader_that_closes_ends_the_stream() {
        let ((reader, sink), (stream, host)) = (pipe(), streams());
        start_input(stream, sink).expect("started");
        drop(reader);
        assert_eq!(read_to_end(&host), 0);
    }
}
