//! Pipes and fifos (`pipe(7)`, `fifo(7)`).
//!
//! A [`Pipe`] is a queue of bytes with counts of its ends; [`PipeEnd`] is an open one. Writes of at most [`PIPE_BUF`] bytes are whole or
//! not at all; readiness to write means that so many fit. What is written with `O_DIRECT` is a packet: a read takes one, and what of it does
//! not fit is lost. A packet takes the room of a page, as in Linux.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::ring::ByteRing;
use crate::Errno;
use crate::fs::anon::{self, Anon, AnonInode};
use crate::fs::{File, FileOps, OpenFlags, Origin, Path, WriteAt, Written};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::syscalls::{Fail, Restart};
use crate::task::Cx;
use crate::time::MonoTime;
use crate::wait::{PollEvents, WaitQueue};

/// Writes up to this many bytes are atomic.
pub const PIPE_BUF: usize = 4096;
/// A new pipe's capacity in bytes.
pub const DEFAULT_CAPACITY: usize = 65536;
/// Largest capacity for those without `CAP_SYS_RESOURCE` (`fs.pipe-max-size`).
pub const MAX_CAPACITY: usize = 1 << 20;

/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
}

struct State {
    bytes: ByteRing,
    /// Where packets lie, in bytes from the pipe's beginning: start and length.
    packets: VecDeque<(u64, usize)>,
    /// Bytes of packets.
    packet_bytes: usize,
    /// Bytes taken out so far.
    taken: u64,
    readers: usize,
    writers: usize,
    /// How often each side was opened: a fifo's opener sees a peer that came and went.
    reader_opens: u64,
    writer_opens: u64,
    /// Somebody looks at the bytes to move them elsewhere ([`Moving`]): for others there are none.
    moving: bool,
}

impl State {
    /// Bytes that still fit.
    fn room(&self) -> usize {
        let used = self.bytes.len() - self.packet_bytes + self.packets.len() * PIPE_BUF;
        self.bytes.capacity().saturating_sub(used)
    }

    fn writable(&self) -> bool {
        self.room() >= PIPE_BUF
    }

    /// Takes bytes off the front, and packets that end there.
    fn skip(&mut self, n: usize) {
        let n = n.min(self.bytes.len());
        self.bytes.skip(n);
        self.taken += n as u64;
        while let Some(&(start, len)) = self.packets.front()
            && start < self.taken
        {
            // Of a packet that was begun (by splice) the rest stays one.
            let gone = len.min((self.taken - start) as usize);
            self.packet_bytes -= gone;
            self.packets.pop_front();
            if gone < len {
                self.packets.push_front((self.taken, len - gone));
                break;
            }
        }
    }

    /// Moves bytes out: up to the next packet, or one packet.
    fn take(&mut self, into: &mut dyn Sink) -> Result<usize, Errno> {
        let (most, packet) = match self.packets.front() {
            Some(&(start, len)) if start == self.taken => (len, true),
            Some(&(start, _)) => ((start - self.taken) as usize, false),
            None => (usize::MAX, false),
        };
        let n = self.bytes.copy_out(into, most)?;
        self.skip(if packet { most } else { n });
        Ok(n)
    }

    /// Appends up to a packet of bytes as one.
    fn put_packet(&mut self, from: &mut dyn Source) -> Result<usize, Errno> {
        let start = self.taken + self.bytes.len() as u64;
        let n = self.bytes.fill(from, PIPE_BUF)?;
        if n > 0 {
            self.packets.push_back((start, n));
            self.packet_bytes += n;
        }
        Ok(n)
    }
}

/// How a write goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Bytes,
    /// `O_DIRECT`.
    Packets,
}

impl Mode {
    pub fn of(file: &File) -> Mode {
        if file.flags().contains(OpenFlags::DIRECT) { Mode::Packets } else { Mode::Bytes }
    }
}

/// Which side of a pipe an open file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Read,
    Write,
    /// A fifo opened `O_RDWR`.
    Both,
}

impl Side {
    fn of(flags: OpenFlags) -> Side {
        match (flags.readable(), flags.writable()) {
            (true, true) => Side::Both,
            (false, _) => Side::Write,
            (true, false) => Side::Read,
        }
    }

    fn reads(self) -> bool {
        self != Side::Write
    }

    fn writes(self) -> bool {
        self != Side::Read
    }
}

impl Pipe {
    /// A pipe without ends.
    pub fn new() -> Arc<Pipe> {
        let bytes = ByteRing::new(DEFAULT_CAPACITY);
        let state = State {
            bytes,
            packets: VecDeque::new(),
            packet_bytes: 0,
            taken: 0,
            readers: 0,
            writers: 0,
            reader_opens: 0,
            writer_opens: 0,
            moving: false,
        };
        Arc::new(Pipe { state: Mutex::new(state), queue: WaitQueue::new() })
    }

    /// A new open end.
    pub fn open(self: &Arc<Pipe>, side: Side) -> Arc<PipeEnd> {
        let mut state = self.state.lock();
        if side.reads() {
            state.readers += 1;
            state.reader_opens += 1;
        }
        if side.writes() {
            state.writers += 1;
            state.writer_opens += 1;
        }
        let alone = match side {
            Side::Read => (state.writers == 0).then_some(state.writer_opens),
            Side::Write => (state.readers == 0).then_some(state.reader_opens),
            Side::Both => None,
        };
        drop(state);
        self.queue.wake(PollEvents::IN | PollEvents::OUT);
        Arc::new(PipeEnd { pipe: self.clone(), side, alone })
    }

    /// Capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.state.lock().bytes.capacity()
    }

    /// Sets the capacity to at least `size` bytes (a power of two of pages). Returns it.
    ///
    /// # Errors
    /// `EBUSY` when more is in the pipe, `EPERM` above the limit, `EINVAL` for nonsense.
    pub fn set_capacity(&self, size: usize, most: usize, unlimited: bool) -> Result<usize, Errno> {
        if size > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let capacity = size.max(PIPE_BUF).next_power_of_two();
        let mut state = self.state.lock();
        // A pipe that is larger already may stay so.
        let grows = capacity > state.bytes.capacity();
        if grows && capacity > most && !(unlimited && capacity <= 1 << 26) {
            return Err(Errno::EPERM);
        }
        if state.bytes.capacity() - state.room() > capacity {
            return Err(Errno::EBUSY);
        }
        state.bytes.set_capacity(capacity);
        let writable = state.writable();
        drop(state);
        if writable {
            self.queue.wake(PollEvents::OUT);
        }
        Ok(capacity)
    }
}

/// An open end of a pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    side: Side,
    /// How often the other side had been opened when this end was opened without one: as long as it is that, an open waits and a
    /// reader is not hung up.
    alone: Option<u64>,
}

impl PipeEnd {
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    pub fn side(&self) -> Side {
        self.side
    }

    fn read_now(&self, into: &mut dyn Sink) -> Result<usize, Errno> {
        let mut state = self.pipe.state.lock();
        if state.moving {
            return Err(Errno::EAGAIN);
        }
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_writable = state.writable();
        let n = state.take(into)?;
        let wake = !was_writable && state.writable();
        drop(state);
        if wake {
            self.pipe.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
        Ok(n)
    }

    /// Writes without waiting.
    ///
    /// # Errors
    /// `EAGAIN`, `EPIPE`, `EFAULT`.
    pub fn write_now(&self, from: &mut dyn Source, mode: Mode) -> Result<usize, Errno> {
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let want = from.remaining();
        let room = state.room();
        if want > 0 && (room == 0 || (want <= PIPE_BUF && room < want)) {
            return Err(Errno::EAGAIN);
        }
        let n = match mode {
            Mode::Bytes => state.bytes.fill(from, room)?,
            Mode::Packets => {
                if want > 0 && room < PIPE_BUF {
                    return Err(Errno::EAGAIN);
                }
                let mut n = state.put_packet(from)?;
                while from.remaining() > 0 && state.writable() {
                    match state.put_packet(from) {
                        Ok(more @ 1..) => n += more,
                        _ => break,
                    }
                }
                n
            }
        };
        drop(state);
        if n > 0 {
            self.pipe.queue.wake(PollEvents::IN | PollEvents::RDNORM);
        }
        Ok(n)
    }

    /// Begins to move bytes elsewhere: until the result is dropped, nobody else takes any (Linux holds the pipe's lock over a splice).
    ///
    /// # Errors
    /// `EAGAIN` while somebody else does.
    pub fn begin_move(&self) -> Result<Moving<'_>, Errno> {
        let moving = std::mem::replace(&mut self.pipe.state.lock().moving, true);
        if moving { Err(Errno::EAGAIN) } else { Ok(Moving { end: self }) }
    }

    /// Takes bytes that were looked at out.
    fn skip(&self, n: usize) {
        let mut state = self.pipe.state.lock();
        let was_writable = state.writable();
        state.skip(n);
        let wake = !was_writable && state.writable();
        drop(state);
        if wake {
            self.pipe.queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
    }

    /// What `tee` copies: up to `max` bytes without the first `from`, which stay in the pipe.
    ///
    /// # Errors
    /// `EAGAIN` when there is nothing yet.
    pub fn peek(&self, from: usize, into: &mut dyn Sink, max: usize) -> Result<usize, Errno> {
        let state = self.pipe.state.lock();
        if state.moving { Err(Errno::EAGAIN) } else { self.look(&state, from, into, max) }
    }

    fn look(&self, state: &State, from: usize, into: &mut dyn Sink, max: usize) -> Result<usize, Errno> {
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        state.bytes.copy_out_from(from, into, max)
    }
}

/// Who moves a pipe's bytes elsewhere.
pub struct Moving<'a> {
    end: &'a PipeEnd,
}

impl Moving<'_> {
    /// As [`PipeEnd::peek`], from the first byte on.
    ///
    /// # Errors
    /// `EAGAIN` when there is nothing yet.
    pub fn peek(&self, into: &mut dyn Sink, max: usize) -> Result<usize, Errno> {
        self.end.look(&self.end.pipe.state.lock(), 0, into, max)
    }

    /// Bytes that were looked at have arrived.
    pub fn took(&self, n: usize) {
        self.end.skip(n);
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        let mut state = self.end.pipe.state.lock();
        state.moving = false;
        let mut events = PollEvents::empty();
        if !state.bytes.is_empty() {
            events |= PollEvents::IN | PollEvents::RDNORM;
        }
        if state.writers == 0 {
            events |= PollEvents::IN | PollEvents::HUP;
        }
        drop(state);
        if !events.is_empty() {
            self.end.pipe.queue.wake(events);
        }
    }
}

impl FileOps for PipeEnd {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.read_now(into))
    }

    fn write<'a>(&'a self, file: &'a File, _at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        Step::Ready(self.write_now(from, Mode::of(file)).map(|bytes| Written { bytes, end: 0 }))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let state = self.pipe.state.lock();
        let mut events = PollEvents::empty();
        if self.side.reads() {
            if !state.bytes.is_empty() && !state.moving {
                events |= PollEvents::IN | PollEvents::RDNORM;
            }
            // Not while the last bytes are on their way elsewhere: a reader would try again and again without one.
            if state.writers == 0 && !state.moving && self.alone != Some(state.writer_opens) {
                events |= PollEvents::HUP;
            }
        }
        if self.side.writes() {
            if state.writable() {
                events |= PollEvents::OUT | PollEvents::WRNORM;
            }
            if state.readers == 0 {
                events |= PollEvents::ERR;
            }
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        use linux_raw_sys::ioctl::FIONREAD;
        if command != FIONREAD {
            return Step::err(Errno::ENOTTY);
        }
        let waiting = self.pipe.state.lock().bytes.len() as i32;
        Step::Ready(cx.mm.write_val(argument, &waiting).map(|()| 0))
    }

    fn release(&self, _file: &File) {
        let mut state = self.pipe.state.lock();
        let mut events = PollEvents::empty();
        if self.side.reads() {
            state.readers -= 1;
            if state.readers == 0 {
                events |= PollEvents::OUT | PollEvents::ERR;
            }
        }
        if self.side.writes() {
            state.writers -= 1;
            if state.writers == 0 {
                events |= PollEvents::IN | PollEvents::HUP;
            }
        }
        drop(state);
        self.pipe.queue.wake(events);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new pipe: its read and its write end.
pub fn pair(cx: &Cx, flags: OpenFlags) -> (Arc<File>, Arc<File>) {
    let (reader, writer) = ends();
    let status = flags & (OpenFlags::NONBLOCK | OpenFlags::DIRECT);
    let Origin::Anonymous { inode, name } = anon::origin(cx, &Anon::Pipe) else {
        // `anon::origin` makes nothing else.
        return (anon::file(cx, &Anon::Pipe, reader, status), anon::file(cx, &Anon::Pipe, writer, status | OpenFlags::WRONLY));
    };
    if let Some(inode) = inode.as_any().downcast_ref::<AnonInode>() {
        inode.set_pipe(reader.pipe());
    }
    let also = Origin::Anonymous { inode: inode.clone(), name: name.clone() };
    let reader = File::new(reader, Origin::Anonymous { inode, name }, status);
    let writer = File::new(writer, also, status | OpenFlags::WRONLY);
    (reader, writer)
}

/// The two ends of a new pipe, for those who make their own files of them.
pub fn ends() -> (Arc<PipeEnd>, Arc<PipeEnd>) {
    let pipe = Pipe::new();
    let reader = PipeEnd { pipe: pipe.clone(), side: Side::Read, alone: None };
    let writer = PipeEnd { pipe: pipe.clone(), side: Side::Write, alone: None };
    let mut state = pipe.state.lock();
    (state.readers, state.writers) = (1, 1);
    (state.reader_opens, state.writer_opens) = (1, 1);
    drop(state);
    (Arc::new(reader), Arc::new(writer))
}

/// Opens a fifo by `fifo(7)`'s rules: waits for a peer unless `O_RDWR` or `O_NONBLOCK`.
///
/// # Errors
/// `ENXIO` for a writer that would not wait and has no reader; an interrupted wait.
pub async fn open_fifo(cx: &Cx, path: Path, flags: OpenFlags) -> Result<Arc<File>, Fail> {
    let metadata = path.inode().metadata().await?;
    let anonymous = path.inode().as_any().downcast_ref::<AnonInode>().and_then(AnonInode::pipe);
    // Through /proc/PID/fd: a pipe's end never waits for the other (Linux: fs/pipe.c, fifo_open, is_pipe).
    let unnamed = anonymous.is_some();
    let pipe = anonymous.unwrap_or_else(|| cx.kernel().ipc.fifo((metadata.dev, metadata.ino)));
    let side = Side::of(flags);
    let nonblocking = flags.contains(OpenFlags::NONBLOCK);
    if side == Side::Write && nonblocking && !unnamed && pipe.state.lock().readers == 0 {
        return Err(Errno::ENXIO.into());
    }
    // Opened before the wait: the peer's open sees us. If the wait is cut short, the file's release takes the end back.
    let end = pipe.open(side);
    let alone = end.alone;
    let file = File::new(end, Origin::Path(path), flags);
    if let Some(before) = alone.filter(|_| !nonblocking && !unnamed) {
        let met = || {
            let state = pipe.state.lock();
            let opens = if side == Side::Read { state.writer_opens } else { state.reader_opens };
            (opens != before).then_some(())
        };
        let queues = [(&pipe.queue, PollEvents::IN | PollEvents::OUT)];
        let waited = cx.wait(&queues, MonoTime::NEVER, met).await;
        waited.map_err(|error| Fail::from_wait(error, Errno::EINTR, Restart::Sys))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(end: Arc<PipeEnd>) -> Arc<File> {
        let flags = if end.side == Side::Read { OpenFlags::empty() } else { OpenFlags::WRONLY };
        super::super::tests::file(end, flags)
    }

    fn write(file: &File, bytes: &[u8]) -> Result<usize, Errno> {
        super::super::tests::write(file, bytes)
    }

    fn read(file: &File, max: usize) -> Result<Vec<u8>, Errno> {
        super::super::tests::read(file, max)
    }

    fn pipe() -> (Arc<File>, Arc<File>) {
        let (reader, writer) = ends();
        (file(reader), file(writer))
    }

    #[test]
    fn while_bytes_are_moved_a_reader_waits() {
        let (reader, writer) = pipe();
        assert_eq!(write(&writer, b"last"), Ok(4));
        drop(writer);
        let end: &PipeEnd = reader.downcast().expect("a pipe's end");
        let moving = end.begin_move().expect("nobody else moves");
        assert_eq!(read(&reader, 4), Err(Errno::EAGAIN));
        assert!(reader.ops.poll(&reader).is_empty(), "who sees it ready reads again at once");
        moving.took(2);
        drop(moving);
        assert!(reader.ops.poll(&reader).contains(PollEvents::IN | PollEvents::HUP));
        assert_eq!(read(&reader, 4).as_deref(), Ok(&b"st"[..]));
    }

    #[test]
    fn small_writes_are_whole_or_not_at_all() {
        let (reader, writer) = pipe();
        assert_eq!(write(&writer, &[1; DEFAULT_CAPACITY - 100]), Ok(DEFAULT_CAPACITY - 100));
        assert!(!writer.ops.poll(&writer).contains(PollEvents::OUT));
        assert_eq!(write(&writer, &[2; 101]), Err(Errno::EAGAIN));
        assert_eq!(write(&writer, &[2; 100]), Ok(100));
        assert_eq!(write(&writer, &[3; 1]), Err(Errno::EAGAIN));
        assert_eq!(read(&reader, PIPE_BUF), Ok(vec![1; PIPE_BUF]));
        assert!(writer.ops.poll(&writer).contains(PollEvents::OUT));
        assert_eq!(write(&writer, &[4; 2 * PIPE_BUF]), Ok(PIPE_BUF), "a large write is cut");
    }

    #[test]
    fn what_is_being_moved_is_nobody_elses() {
        let (reader, writer) = pipe();
        assert_eq!(write(&writer, b"abcdef"), Ok(6));
        let end = reader.downcast::<PipeEnd>().expect("a pipe");
        let moving = end.begin_move().expect("nobody else");
        let mut seen = Vec::new();
        assert_eq!(moving.peek(&mut seen, 4), Ok(4));
        assert_eq!(end.begin_move().err(), Some(Errno::EAGAIN));
        assert_eq!(read(&reader, 6), Err(Errno::EAGAIN));
        assert!(!reader.ops.poll(&reader).contains(PollEvents::IN));
        moving.took(4);
        drop(moving);
        assert!(reader.ops.poll(&reader).contains(PollEvents::IN));
        assert_eq!((seen, read(&reader, 6)), (b"abcd".to_vec(), Ok(b"ef".to_vec())));
    }

    #[test]
    fn the_end_of_the_other_side_shows() {
        let (reader, writer) = pipe();
        assert_eq!(read(&reader, 1), Err(Errno::EAGAIN));
        assert_eq!(write(&writer, b"ab"), Ok(2));
        drop(writer);
        assert_eq!(reader.ops.poll(&reader), PollEvents::IN | PollEvents::RDNORM | PollEvents::HUP);
        assert_eq!(read(&reader, 9), Ok(b"ab".to_vec()));
        assert_eq!(read(&reader, 9), Ok(vec![]));
        let (reader, writer) = pipe();
        drop(reader);
        assert_eq!(write(&writer, b"x"), Err(Errno::EPIPE));
        assert!(writer.ops.poll(&writer).contains(PollEvents::ERR));
    }

    #[test]
    fn the_capacity_changes_within_its_limits() {
        let (_reader, writer) = ends();
        let writer = file(writer);
        let pipe = writer.downcast::<PipeEnd>().expect("a pipe").pipe.clone();
        assert_eq!(pipe.set_capacity(5000, MAX_CAPACITY, false), Ok(8192));
        assert_eq!(write(&writer, &[0; 9000]), Ok(8192));
        assert_eq!(pipe.set_capacity(4096, MAX_CAPACITY, false), Err(Errno::EBUSY));
        assert_eq!(pipe.set_capacity(MAX_CAPACITY + 1, MAX_CAPACITY, false), Err(Errno::EPERM));
        assert_eq!(pipe.set_capacity(MAX_CAPACITY + 1, MAX_CAPACITY, true), Ok(2 * MAX_CAPACITY));
    }
}
