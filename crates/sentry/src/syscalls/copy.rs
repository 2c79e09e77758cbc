//! Moving data between files inside the kernel: sendfile, splice, tee, vmsplice, copy_file_range. All by way of a buffer.

use std::sync::Arc;

use super::fs_path::real_file;
use super::transfer::{self, Transfer, accessed, broken_pipe, modified, wait_ready};
use super::{Args, Fail, Flow, Outcome, Restart, fsize};
use crate::Errno;
use crate::executor::yield_now;
use crate::fs::{Direction, File, FileKind, OpenFlags, WriteAt};
use crate::ipc::pipe::{Mode, PipeEnd};
use crate::mm::Buffer;
use crate::task::Cx;
use crate::time::MonoTime;
use crate::wait::{Interrupt, WaitError};

/// Bytes moved at a time.
const PIECE: usize = 64 << 10;
const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_FLAGS: u32 = 0xf;
/// Most bytes of one call (`MAX_RW_COUNT`).
const MAX_COUNT: u64 = 0x7fff_f000;

/// One side of a copy.
struct End {
    file: Arc<File>,
    /// Where in the file; None for streams. Goes to `stored`, or the file's position, at the end.
    at: Option<u64>,
    /// Where the guest keeps the offset; 0: the file's own position counts.
    stored: u64,
}

impl End {
    fn new(cx: &Cx, file: Arc<File>, offset_addr: u64) -> Result<End, Errno> {
        if !file.ops.seekable() {
            return if offset_addr == 0 { Ok(End { file, at: None, stored: 0 }) } else { Err(Errno::ESPIPE) };
        }
        let at = match offset_addr {
            0 => *file.position.lock(),
            addr => u64::try_from(cx.mm.read_val::<i64>(addr)?).map_err(|_| Errno::EINVAL)?,
        };
        Ok(End { file, at: Some(at), stored: offset_addr })
    }

    fn pipe(&self) -> Option<&PipeEnd> {
        self.file.downcast()
    }

    fn advance(&mut self, n: usize) {
        if let Some(at) = &mut self.at {
            *at = at.saturating_add(n as u64);
        }
    }

    /// Stores where it has come to.
    fn finish(&self, cx: &Cx) -> Result<(), Errno> {
        match (self.at, self.stored) {
            (None, _) => Ok(()),
            (Some(at), 0) => {
                *self.file.position.lock() = at;
                Ok(())
            }
            (Some(at), addr) => cx.mm.write_val(addr, &(at as i64)),
        }
    }

    async fn read(&self, buffer: &mut Buffer) -> Result<usize, Errno> {
        self.file.ops.read(&self.file, self.at.unwrap_or(0), buffer).await
    }

    /// What `RLIMIT_FSIZE` leaves of `bytes` to be written.
    ///
    /// # Errors
    /// `EFBIG`, with `SIGXFSZ`, when it leaves nothing.
    fn within_limit<'a>(&self, cx: &Cx, bytes: &'a [u8]) -> Result<&'a [u8], Errno> {
        match (self.at, fsize::limit(cx)) {
            (Some(at), Some(limit)) if self.file.inode().kind() == FileKind::Regular && !bytes.is_empty() => {
                let room = usize::try_from(fsize::room(cx, at, limit)?).unwrap_or(usize::MAX);
                Ok(bytes.get(..room).unwrap_or(bytes))
            }
            _ => Ok(bytes),
        }
    }

    async fn write(&mut self, cx: &Cx, bytes: &[u8]) -> Result<usize, Errno> {
        let mut bytes = self.within_limit(cx, bytes)?;
        let append = self.file.flags().contains(OpenFlags::APPEND) && self.at.is_some();
        let at = if append { WriteAt::Append } else { WriteAt::Offset(self.at.unwrap_or(0)) };
        let written = self.file.ops.write(&self.file, at, &mut bytes).await?;
        self.at = self.at.map(|_| written.end);
        modified(&self.file, written.bytes);
        Ok(written.bytes)
    }

    async fn ready(&self, cx: &Cx, direction: Direction) -> Result<(), Fail> {
        if cx.task.interrupted() {
            return Err(Fail::Restart(Restart::Sys));
        }
        match wait_ready(cx, &self.file, direction.events(), MonoTime::NEVER).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Errno::EAGAIN.into()),
            Err(WaitError::Interrupted | WaitError::TimedOut) => Err(Fail::Restart(Restart::Sys)),
        }
    }
}

/// How a copy waits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waits {
    input: bool,
    output: bool,
}

/// Moves up to `count` bytes. From a stream it takes what is there; from a file it goes on to the end.
async fn copy(cx: &mut Cx, from: &mut End, to: &mut End, count: u64, waits: Waits) -> Outcome {
    let mut done = 0u64;
    let result = copy_on(cx, from, to, count.min(MAX_COUNT), waits, &mut done).await;
    from.finish(cx)?;
    to.finish(cx)?;
    match result {
        Err(fail) if done == 0 => Err(fail),
        _ => Ok(done),
    }
}

async fn copy_on(cx: &mut Cx, from: &mut End, to: &mut End, count: u64, waits: Waits, done: &mut u64) -> Result<(), Fail> {
    if from.pipe().is_some() {
        return move_on(cx, from, to, count, waits, done).await;
    }
    while *done < count {
        let mut buffer = Buffer { bytes: Vec::new(), room: PIECE.min((count - *done) as usize) };
        match from.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::EAGAIN) if waits.input && *done == 0 => {
                from.ready(cx, Direction::Read).await?;
                continue;
            }
            Err(errno) => return Err(errno.into()),
        }
        let mut rest = buffer.bytes.as_slice();
        while !rest.is_empty() {
            match to.write(cx, rest).await {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    from.advance(n);
                    accessed(&from.file, n);
                    *done += n as u64;
                    rest = rest.get(n..).unwrap_or_default();
                }
                Err(Errno::EAGAIN) if waits.output => to.ready(cx, Direction::Write).await?,
                Err(errno) => {
                    broken_pipe(cx, &to.file, errno);
                    return Err(errno.into());
                }
            }
        }
        if from.at.is_none() || cx.task.interrupted() {
            return Ok(());
        }
        yield_now().await;
    }
    Ok(())
}

/// From a pipe: what is in it is taken out when it has arrived, and meanwhile is nobody else's.
async fn move_on(cx: &mut Cx, from: &End, to: &mut End, count: u64, waits: Waits, done: &mut u64) -> Result<(), Fail> {
    let pipe = from.pipe().ok_or(Errno::EINVAL)?;
    let mut left = None;
    // What was there at first, or as much as is asked for.
    while *done < count && left != Some(0) {
        let moved = {
            let room = PIECE.min((count - *done) as usize).min(left.unwrap_or(usize::MAX));
            let mut buffer = Buffer { bytes: Vec::new(), room };
            match pipe.begin_move().and_then(|moving| moving.peek(&mut buffer, room).map(|n| (moving, n))) {
                Ok((_, 0)) => return Ok(()),
                Ok((moving, n)) => {
                    left.get_or_insert(n);
                    let written = to.write(cx, &buffer.bytes).await;
                    moving.took(*written.as_ref().unwrap_or(&0));
                    written.map_err(|errno| (errno, Direction::Write))
                }
                Err(errno) => Err((errno, Direction::Read)),
            }
        };
        match moved {
            Ok(0) => return Ok(()),
            Ok(n) => {
                accessed(&from.file, n);
                *done += n as u64;
                left = left.map(|left| left - n.min(left));
                if cx.task.interrupted() {
                    return Ok(());
                }
            }
            Err((Errno::EAGAIN, Direction::Read)) if waits.input && *done == 0 => from.ready(cx, Direction::Read).await?,
            Err((Errno::EAGAIN, Direction::Write)) if waits.output => to.ready(cx, Direction::Write).await?,
            Err((errno, side)) => {
                if side == Direction::Write {
                    broken_pipe(cx, &to.file, errno);
                }
                return Err(errno.into());
            }
        }
    }
    Ok(())
}

fn reader(cx: &Cx, fd: i32) -> Result<Arc<File>, Errno> {
    cx.file(fd).and_then(|file| if file.flags().readable() { Ok(file) } else { Err(Errno::EBADF) })
}

fn writer(cx: &Cx, fd: i32) -> Result<Arc<File>, Errno> {
    cx.file(fd).and_then(|file| if file.flags().writable() { Ok(file) } else { Err(Errno::EBADF) })
}

/// Whether a file's data can be spliced: files, pipes, sockets and devices can, objects such as timers cannot.
fn splices(file: &File) -> bool {
    match file.inode().kind() {
        FileKind::Regular => file.ops.seekable(),
        FileKind::Directory => false,
        _ => true,
    }
}

fn blocks(file: &File) -> bool {
    !file.flags().contains(OpenFlags::NONBLOCK)
}

pub fn sys_sendfile(cx: &mut Cx, args: Args) -> Flow<'_> {
    let prepared = (|| {
        let input = reader(cx, args.i32(1))?;
        let output = writer(cx, args.i32(0))?;
        if !input.ops.seekable() && args.u64(2) != 0 {
            return Err(Errno::ESPIPE);
        }
        if !input.ops.seekable() || !splices(&input) || !splices(&output) {
            return Err(Errno::EINVAL);
        }
        if output.flags().contains(OpenFlags::APPEND) {
            return Err(Errno::EINVAL);
        }
        let waits = Waits { input: blocks(&input), output: blocks(&output) };
        Ok((End::new(cx, input, args.u64(2))?, End::new(cx, output, 0)?, waits))
    })();
    match prepared {
        Err(errno) => Flow::done(Err(errno)),
        Ok((mut from, mut to, waits)) => Flow::wait(async move { copy(cx, &mut from, &mut to, args.u64(3), waits).await }),
    }
}

pub fn sys_splice(cx: &mut Cx, args: Args) -> Flow<'_> {
    let flags = args.u32(5);
    if args.u64(4) == 0 {
        return Flow::done(Ok(0));
    }
    let prepared = (|| {
        if flags & !SPLICE_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let (input, output) = (reader(cx, args.i32(0))?, writer(cx, args.i32(2))?);
        let (from, to) = (End::new(cx, input, args.u64(1))?, End::new(cx, output, args.u64(3))?);
        if !splices(&from.file) || !splices(&to.file) {
            return Err(Errno::EINVAL);
        }
        let same = match (from.pipe(), to.pipe()) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a.pipe(), b.pipe()),
            _ => false,
        };
        if same || (to.at.is_some() && to.file.flags().contains(OpenFlags::APPEND)) {
            return Err(Errno::EINVAL);
        }
        let may_wait = flags & SPLICE_F_NONBLOCK == 0;
        let waits = Waits { input: may_wait && blocks(&from.file), output: may_wait && blocks(&to.file) };
        Ok((from, to, waits))
    })();
    match prepared {
        Err(errno) => Flow::done(Err(errno)),
        Ok((mut from, mut to, waits)) => Flow::wait(async move { copy(cx, &mut from, &mut to, args.u64(4), waits).await }),
    }
}

pub fn sys_tee(cx: &mut Cx, args: Args) -> Flow<'_> {
    let flags = args.u32(3);
    let prepared = reader(cx, args.i32(0)).and_then(|input| Ok((input, writer(cx, args.i32(1))?)));
    match prepared {
        _ if flags & !SPLICE_FLAGS != 0 => Flow::done(Err(Errno::EINVAL)),
        _ if args.u64(2) == 0 => Flow::done(Ok(0)),
        Err(errno) => Flow::done(Err(errno)),
        Ok((input, output)) => Flow::wait(tee(cx, input, output, args.u64(2), flags & SPLICE_F_NONBLOCK == 0)),
    }
}

async fn tee(cx: &mut Cx, input: Arc<File>, output: Arc<File>, count: u64, waits: bool) -> Outcome {
    let pipe = input.downcast::<PipeEnd>().ok_or(Errno::EINVAL)?;
    let other = output.downcast::<PipeEnd>().ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(pipe.pipe(), other.pipe()) {
        return Err(Errno::EINVAL.into());
    }
    loop {
        let mut buffer = Buffer { bytes: Vec::new(), room: PIECE.min(count.min(MAX_COUNT) as usize) };
        let room = buffer.room;
        let (file, direction) = match pipe.peek(0, &mut buffer, room) {
            Ok(0) => return Ok(0),
            Ok(_) => match other.write_now(&mut buffer.bytes.as_slice(), Mode::of(&output)) {
                Ok(n) => return Ok(n as u64),
                Err(Errno::EAGAIN) => (&output, Direction::Write),
                Err(errno) => {
                    broken_pipe(cx, &output, errno);
                    return Err(errno.into());
                }
            },
            Err(Errno::EAGAIN) => (&input, Direction::Read),
            Err(errno) => return Err(errno.into()),
        };
        if !waits || !blocks(file) {
            return Err(Errno::EAGAIN.into());
        }
        let waited = wait_ready(cx, file, direction.events(), MonoTime::NEVER).await;
        waited.map_err(|error| Fail::from_wait(error, Errno::EAGAIN, Restart::Sys))?;
    }
}

/// To a pipe it is writev of as much as fits, from one readv: pages are never given away.
pub fn sys_vmsplice(cx: &mut Cx, args: Args) -> Flow<'_> {
    let flags = args.u32(3);
    let prepared = cx.file(args.i32(0)).and_then(|file| {
        let pipe = file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?;
        if flags & !SPLICE_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let writes = pipe.side() == crate::ipc::pipe::Side::Write;
        let ranges = cx.mm.read_ranges(args.u64(1), args.u64(2))?;
        let transfer = Transfer::new(file, ranges);
        let nonblocking = transfer.nonblocking || flags & SPLICE_F_NONBLOCK != 0;
        Ok((writes, Transfer { nonblocking, ..transfer }))
    });
    match prepared {
        Ok((true, transfer)) if transfer::total(&transfer.ranges) == 0 => Flow::done(Ok(0)),
        Ok((true, transfer)) => Flow::wait(transfer::write_some(cx, transfer)),
        Ok((false, transfer)) => transfer::read(cx, Ok(transfer)),
        Err(errno) => Flow::done(Err(errno)),
    }
}

pub fn sys_copy_file_range(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(copy_file_range(cx, args))
}

async fn copy_file_range(cx: &mut Cx, args: Args) -> Outcome {
    let (input, output) = (real_file(cx, args.i32(0))?, real_file(cx, args.i32(2))?);
    if args.u32(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut inodes = Vec::new();
    for file in [&input, &output] {
        let metadata = file.inode().metadata().await?;
        match metadata.kind {
            FileKind::Regular if file.ops.seekable() => inodes.push((metadata.dev, metadata.ino)),
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    if !input.flags().readable() || !output.flags().writable() || output.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF.into());
    }
    // No file system here copies from another one.
    if let [(from, _), (to, _)] = inodes[..]
        && from != to
    {
        return Err(Errno::EXDEV.into());
    }
    let (mut from, mut to) = (End::new(cx, input, args.u64(1))?, End::new(cx, output, args.u64(3))?);
    let mut count = args.u64(4);
    if let (Some(at), Some(limit)) = (to.at, fsize::limit(cx)) {
        count = count.min(fsize::room(cx, at, limit)?);
    }
    if let (Some(a), Some(b)) = (from.at, to.at)
        && inodes.first() == inodes.last()
        && a < b.saturating_add(count)
        && b < a.saturating_add(count)
    {
        return Err(Errno::EINVAL.into());
    }
    copy(cx, &mut from, &mut to, count, Waits { input: true, output: true }).await
}
