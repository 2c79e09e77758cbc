//! Reading and writing for all calls that do it: the rules of partial transfers, waiting, restart, time-outs and `SIGPIPE` stand here
//! and nowhere else.
//!
//! - A read that has got something returns it. A write to a blocking file goes on until all is written.
//! - What has been transferred is returned rather than a later error or interruption.
//! - Interrupted before the first byte: restart (`Restart::Sys`), or `EINTR` where a time-out is set (`sock_intr_errno`).
//! - After each [`CHUNK`] other tasks get a turn.

use std::sync::Arc;

use super::{Fail, Flow, Outcome, Restart};
use crate::Errno;
use crate::executor::yield_now;
use crate::fs::fsnotify::FsEvent;
use crate::fs::{Direction, Expired, File, OpenFlags, Turn, WriteAt};
use crate::ipc::pipe::PipeEnd;
use crate::mm::{Ranges, Sink, Source, UserSink, UserSource};
use crate::net::socket::{SOCK_STREAM, SocketFile};
use crate::step::Step;
use crate::task::Cx;
use crate::time::MonoTime;
use crate::wait::{Interrupt, PollEvents, WaitError};

/// Bytes moved between turns.
pub const CHUNK: usize = 256 << 10;

/// Of a write at a file's end: others' bytes do not come between its own.
const APPEND_CHUNK: usize = 4 << 20;

/// Where in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At the file position, which moves.
    Position,
    Offset(u64),
    /// The file has no positions.
    Stream,
}

/// A read or write to be done.
pub struct Transfer {
    pub file: Arc<File>,
    pub ranges: Ranges,
    pub at: At,
    /// `EAGAIN` rather than waiting.
    pub nonblocking: bool,
    /// Write at the end.
    pub append: bool,
    /// The caller sees to it that what is written is on the disk (`RWF_SYNC`).
    pub sync: bool,
}

impl Transfer {
    /// A transfer at the file's position.
    pub fn new(file: Arc<File>, ranges: Ranges) -> Transfer {
        let at = if file.ops.seekable() { At::Position } else { At::Stream };
        let flags = file.flags();
        let nonblocking = flags.contains(OpenFlags::NONBLOCK);
        let append = flags.contains(OpenFlags::APPEND) && at != At::Stream;
        Transfer { file, ranges, at, nonblocking, append, sync: false }
    }

    fn offset(&self, done: usize) -> u64 {
        match self.at {
            At::Offset(offset) => offset.saturating_add(done as u64),
            At::Position | At::Stream => 0,
        }
    }

    /// Reads without waiting for anything; None where the host, or another's turn, must be waited for.
    fn try_read(&self, done: usize, sink: &mut dyn Sink) -> Option<Result<usize, Errno>> {
        let (file, ops) = (&*self.file, &*self.file.ops);
        if self.at != At::Position {
            return ready(ops.read(file, self.offset(done), sink));
        }
        let mut position = file.position.lock();
        if file.turn_taken() {
            return None;
        }
        let result = ready(ops.read(file, *position, sink))?;
        if let Ok(n) = result {
            *position = position.saturating_add(n as u64);
        }
        Some(result)
    }

    /// Whether a read that found no memory has left the file as it was, and so can be tried again: messages, and what objects have counted, may be gone.
    fn keeps_what_faults(&self) -> bool {
        self.at != At::Stream || self.file.downcast::<PipeEnd>().is_some()
    }

    /// Whether a read that gave `result` is worth trying again (or goes on) once there is memory.
    fn may_find_memory(&self, short: bool, result: Result<usize, Errno>) -> bool {
        short
            && match result {
                Ok(_) => self.at != At::Stream,
                Err(errno) => errno == Errno::EFAULT && self.keeps_what_faults(),
            }
    }

    /// Reads a part; `short` says whether it was memory that there was too little of.
    async fn read_some(&self, cx: &Cx, done: usize, short: &mut bool) -> Result<usize, Fail> {
        let mut sink = UserSink::from_ranges(&cx.mm, part(&self.ranges, done));
        if let Some(result) = self.try_read(done, &mut sink) {
            *short = sink.was_short();
            return Ok(result?);
        }
        // A new one: what the attempt has put before it found that it must wait is put again.
        let mut sink = UserSink::from_ranges(&cx.mm, part(&self.ranges, done));
        let result = self.read_later(cx, done, &mut sink).await;
        *short = sink.was_short();
        result
    }

    async fn read_later(&self, cx: &Cx, done: usize, sink: &mut UserSink<'_>) -> Result<usize, Fail> {
        let (file, ops) = (&*self.file, &*self.file.ops);
        if self.at != At::Position {
            return Ok(ops.read(file, self.offset(done), sink).await?);
        }
        let _turn = turn(cx, file).await?;
        let position = *file.position.lock();
        let n = ops.read(file, position, sink).await?;
        *file.position.lock() = position.saturating_add(n as u64);
        Ok(n)
    }

    fn write_at(&self, offset: u64) -> WriteAt {
        if self.append { WriteAt::Append } else { WriteAt::Offset(offset) }
    }

    /// As [`Transfer::try_read`].
    fn try_write(&self, done: usize, source: &mut dyn Source) -> Option<Result<usize, Errno>> {
        let (file, ops) = (&*self.file, &*self.file.ops);
        if self.at != At::Position {
            let result = ready(ops.write(file, self.write_at(self.offset(done)), source))?;
            return Some(result.map(|written| written.bytes));
        }
        let mut position = file.position.lock();
        if file.turn_taken() {
            return None;
        }
        let result = ready(ops.write(file, self.write_at(*position), source))?;
        if let Ok(written) = result {
            *position = written.end;
        }
        Some(result.map(|written| written.bytes))
    }

    async fn write_some(&self, cx: &Cx, done: usize, source: &mut dyn Source) -> Result<usize, Fail> {
        if let Some(result) = self.try_write(done, source) {
            return Ok(result?);
        }
        let (file, ops) = (&*self.file, &*self.file.ops);
        if self.at != At::Position {
            return Ok(ops.write(file, self.write_at(self.offset(done)), source).await?.bytes);
        }
        let _turn = turn(cx, file).await?;
        let position = *file.position.lock();
        let written = ops.write(file, self.write_at(position), source).await?;
        *file.position.lock() = written.end;
        Ok(written.bytes)
    }
}

/// Bytes in the ranges.
pub fn total(ranges: &Ranges) -> usize {
    ranges.iter().fold(0, |sum, (_, len)| sum.saturating_add(*len))
}

/// The ranges from `done` bytes on, at most a chunk of them.
pub fn part(ranges: &Ranges, done: usize) -> Ranges {
    part_of(ranges, done, CHUNK)
}

fn part_of(ranges: &Ranges, done: usize, most: usize) -> Ranges {
    let (mut skip, mut room) = (done, most);
    let mut part = Ranges::new();
    for &(addr, len) in ranges {
        let start = skip.min(len);
        skip -= start;
        let take = (len - start).min(room);
        room -= take;
        if take > 0 {
            part.push((addr.wrapping_add(start as u64), take));
        }
    }
    part
}

/// The value of a step that is there at once. Otherwise the step is dropped before it has done anything.
pub fn ready<T>(step: Step<'_, T>) -> Option<T> {
    match step {
        Step::Ready(value) => Some(value),
        Step::Wait(_) => None,
    }
}

/// Waits for the turn to use a file's position over a wait for the host.
async fn turn<'a>(cx: &Cx, file: &'a File) -> Result<Turn<'a>, Fail> {
    let queues = [(file.turn_queue(), PollEvents::IN)];
    let taken = cx.task.wait_killable(&queues, || file.take_turn()).await;
    taken.map_err(|error| Fail::from_wait(error, Errno::EINTR, Restart::Always))
}

/// Waits until a file reports one of `events` (or an error or hang-up). Gives false at once if it has no wait queue.
///
/// # Errors
/// [`WaitError`].
pub async fn wait_ready(cx: &Cx, file: &File, events: PollEvents, deadline: MonoTime) -> Result<bool, WaitError> {
    let Some(queue) = file.ops.wait_queue() else { return Ok(false) };
    let wanted = events | PollEvents::ALWAYS;
    let queues = [(queue, wanted)];
    let mut looks = 0u32;
    let look = || {
        looks = looks.saturating_add(1);
        file.ops.poll(file).intersects(wanted).then_some(())
    };
    cx.wait(&queues, deadline, look).await?;
    if looks == 1 {
        // It was ready, and yet the caller has just found it not to be: perhaps not before another task has run.
        yield_now().await;
    }
    Ok(true)
}

/// Waits for a file that was not ready. Ok: try again.
async fn wait_again(cx: &mut Cx, file: &File, direction: Direction) -> Result<(), Outcome> {
    let patience = file.ops.patience(direction);
    let deadline = cx.deadline(patience.timeout_ns);
    // A file that says it is ready and then is not must not keep us from leaving, nor others from running.
    if cx.task.interrupted() {
        return Err(Err(Fail::interrupted(patience.timeout_ns)));
    }
    match wait_ready(cx, file, direction.events(), deadline).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Err(Errno::EAGAIN.into())),
        Err(WaitError::Interrupted) => Err(Err(Fail::interrupted(patience.timeout_ns))),
        Err(WaitError::TimedOut) if patience.then == Expired::Nothing => Err(Ok(0)),
        Err(WaitError::TimedOut) => Err(Err(Errno::EAGAIN.into())),
    }
}

/// Serves a read.
pub fn read(cx: &mut Cx, transfer: Result<Transfer, Errno>) -> Flow<'_> {
    let transfer = match transfer {
        Ok(transfer) => transfer,
        Err(errno) => return Flow::done(Err(errno)),
    };
    if let Err(fail) = transfer.file.ops.admit(&transfer.file, cx, Direction::Read) {
        return Flow::Done(Err(fail));
    }
    let total = total(&transfer.ranges);
    let mut done = 0;
    if total <= CHUNK {
        if total == 0 {
            return Flow::done(Ok(0));
        }
        let mut sink = UserSink::from_ranges(&cx.mm, transfer.ranges.clone());
        match transfer.try_read(0, &mut sink) {
            Some(result) if transfer.may_find_memory(sink.was_short(), result) => done = result.unwrap_or(0),
            Some(Ok(n)) => {
                cx.task.activity.count_read(n as u64);
                accessed(&transfer.file, n);
                return Flow::done(Ok(n as u64));
            }
            Some(Err(errno)) if errno != Errno::EAGAIN || transfer.nonblocking => return Flow::done(Err(errno)),
            Some(Err(_)) | None => {}
        }
    }
    Flow::wait(async move {
        accessed(&transfer.file, done);
        let outcome = read_waiting(cx, transfer, total, done).await;
        cx.task.activity.count_read(*outcome.as_ref().unwrap_or(&0));
        outcome
    })
}

async fn read_waiting(cx: &mut Cx, transfer: Transfer, total: usize, mut done: usize) -> Outcome {
    loop {
        let asked = (total - done).min(CHUNK);
        let mut short = false;
        let result = transfer.read_some(cx, done, &mut short).await;
        match result {
            Ok(n) => {
                accessed(&transfer.file, n);
                done += n;
                short = n < asked && transfer.may_find_memory(short, Ok(n));
                let more = (n == asked || short) && done < total && transfer.at != At::Stream;
                if cx.task.interrupted() || !more || short && !cx.found_memory().await {
                    return Ok(done as u64);
                }
                yield_now().await;
            }
            Err(Fail::Errno(errno)) if transfer.may_find_memory(short, Err(errno)) && cx.found_memory().await => {}
            Err(_) if done > 0 => return Ok(done as u64),
            Err(Fail::Errno(Errno::EAGAIN)) if !transfer.nonblocking => {
                if let Err(end) = wait_again(cx, &transfer.file, Direction::Read).await {
                    return end;
                }
            }
            Err(fail) => return Err(fail),
        }
    }
}

/// Serves a write.
pub fn write(cx: &mut Cx, transfer: Result<Transfer, Errno>) -> Flow<'_> {
    let transfer = match transfer {
        Ok(transfer) => transfer,
        Err(errno) => return Flow::done(Err(errno)),
    };
    if let Err(fail) = transfer.file.ops.admit(&transfer.file, cx, Direction::Write) {
        return Flow::Done(Err(fail));
    }
    if transfer.at != At::Stream
        && let Some(limit) = super::fsize::limit(cx)
    {
        return Flow::wait(async move {
            let transfer = super::fsize::cut(cx, transfer, limit).await?;
            let total = total(&transfer.ranges);
            write_waiting(cx, &transfer, total, 0).await
        });
    }
    let total = total(&transfer.ranges);
    let mut done = 0;
    if total <= CHUNK {
        if total == 0 && !crate::ipc::takes_empty_writes(&transfer.file) {
            return Flow::done(Ok(0));
        }
        let mut source = UserSource::from_ranges(&cx.mm, transfer.ranges.clone());
        match transfer.try_write(0, &mut source) {
            Some(Ok(n)) => {
                modified(&transfer.file, n);
                if n >= total || transfer.nonblocking {
                    cx.task.activity.count_write(n as u64);
                    return Flow::done(Ok(n as u64));
                }
                done = n;
            }
            Some(Err(Errno::EAGAIN)) if !transfer.nonblocking => {}
            // Nothing was written: again, once there is memory.
            Some(Err(Errno::EFAULT)) if source.was_short() => {}
            Some(Err(errno)) => {
                broken_pipe(cx, &transfer.file, errno);
                return Flow::done(Err(errno));
            }
            None => {}
        }
    }
    Flow::wait(async move {
        let outcome = write_waiting(cx, &transfer, total, done).await;
        cx.task.activity.count_write(*outcome.as_ref().unwrap_or(&0));
        outcome
    })
}

/// Serves a write of which no more than fits is wanted: it waits for room (unless `transfer` says not to), and then for no more.
pub async fn write_some(cx: &mut Cx, transfer: Transfer) -> Outcome {
    let waits = !transfer.nonblocking;
    let transfer = Transfer { nonblocking: true, ..transfer };
    let total = total(&transfer.ranges);
    loop {
        match write_waiting(cx, &transfer, total, 0).await {
            Err(Fail::Errno(Errno::EAGAIN)) if waits => {
                if let Err(end) = wait_again(cx, &transfer.file, Direction::Write).await {
                    return end;
                }
            }
            outcome => return outcome,
        }
    }
}

async fn write_waiting(cx: &mut Cx, transfer: &Transfer, total: usize, mut done: usize) -> Outcome {
    loop {
        let (result, short) = {
            let most = if transfer.append { APPEND_CHUNK } else { CHUNK };
            let mut source = UserSource::from_ranges(&cx.mm, part_of(&transfer.ranges, done, most));
            let result = transfer.write_some(cx, done, &mut source).await;
            (result, source.was_short())
        };
        match result {
            Ok(n) => {
                modified(&transfer.file, n);
                done += n;
                if n == 0 || done >= total || cx.task.interrupted() {
                    return Ok(done as u64);
                }
                yield_now().await;
            }
            Err(Fail::Errno(Errno::EFAULT)) if short && cx.found_memory().await => {}
            Err(Fail::Errno(Errno::EAGAIN)) if !transfer.nonblocking => {
                if let Err(end) = wait_again(cx, &transfer.file, Direction::Write).await {
                    return if done > 0 { Ok(done as u64) } else { end };
                }
            }
            Err(fail) => {
                if let Fail::Errno(errno) = fail {
                    broken_pipe(cx, &transfer.file, errno);
                }
                return if done > 0 { Ok(done as u64) } else { Err(fail) };
            }
        }
    }
}

/// `n` bytes were read: those who watch the file hear of it.
#[inline]
pub fn accessed(file: &File, n: usize) {
    if n > 0 {
        file.notify(FsEvent::ACCESS);
    }
}

/// `n` bytes were written.
#[inline]
pub fn modified(file: &File, n: usize) {
    if n > 0 {
        file.notify(FsEvent::MODIFY);
    }
}

/// `SIGPIPE`, with `EPIPE`: by pipes and streams; sockets of messages raise none.
pub fn broken_pipe(cx: &Cx, file: &File, errno: Errno) {
    let messages = || SocketFile::of(file).is_some_and(|socket| socket.kind().kind != SOCK_STREAM);
    if errno == Errno::EPIPE && !messages() {
        cx.task.send_sigpipe();
    }
}
