//! [`HostFile`]: a host descriptor as a guest's file: a container's stdin, stdout and stderr.
//!
//! The descriptor may be shared with other processes, so its `O_NONBLOCK` is left alone: I/O is `RWF_NOWAIT`; where the host has no such
//! thing for the file (terminals, FIFOs, sockets of old kernels), what counts is how it was opened: with `O_NONBLOCK` (as the shim opens FIFOs and the
//! runtime terminals), or it is asked for readiness first and then given small pieces.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hostcall::io::{FileStatus, Sleep};
use hostcall::{WindowSlice, event, io};

use crate::Errno;
use crate::executor::{CAREFUL, HostWatch, Pace, Reactor};
use crate::fs::{
    File, FileKind, FileOps, Inode, Metadata, OpenFlags, Origin, SetAttr, Timestamp, WriteAt, Written, dev::device_number,
};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};

/// Bytes in one host call where data goes by way of our own memory.
const BOUNCE: usize = 64 << 10;

/// A pipe that says it is ready takes as many, whole (pipe(7)). FIFOs have no `RWF_NOWAIT`, which pipes without a name have.
const PIPE_BUF: usize = 4096;

/// A host file.
pub struct HostFile {
    file: Arc<OwnedFd>,
    /// None: always ready (regular files, /dev/null).
    watch: Option<HostWatch>,
    /// `RWF_NOWAIT` is not known to fail.
    nowait: AtomicBool,
    /// It was opened with `O_NONBLOCK`.
    nonblocking: bool,
    /// Bytes written at a time to what can only be asked for readiness.
    careful: usize,
    /// Of a pipe.
    pace: Option<Arc<Pace>>,
}

impl HostFile {
    /// Wraps a host descriptor. The guest's flags should name the access mode it has.
    ///
    /// # Errors
    /// The host's.
    pub fn open(reactor: &Arc<Reactor>, file: OwnedFd, flags: OpenFlags) -> Result<Arc<File>, Errno> {
        let status = io::status(&file)?;
        let kind = FileKind::from_mode(status.mode).ok_or(Errno::EINVAL)?;
        if kind == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        let ops = HostFile::new(reactor, Arc::new(file), kind)?;
        let inode = Arc::new(HostInode { file: ops.file.clone(), status, kind });
        let name = match kind {
            FileKind::Fifo => format!("pipe:[{}]", status.ino),
            FileKind::Socket => format!("socket:[{}]", status.ino),
            _ => "host:[stdio]".into(),
        };
        Ok(File::new(Arc::new(ops), Origin::Anonymous { inode, name }, flags))
    }

    fn new(reactor: &Arc<Reactor>, file: Arc<OwnedFd>, kind: FileKind) -> Result<HostFile, Errno> {
        let pace = match kind {
            FileKind::Fifo => Some(Arc::new(Pace::new(io::pipe_capacity(&*file)?))),
            _ => None,
        };
        let watch = match reactor.watch_at(file.clone(), pace.clone()) {
            Ok(watch) => Some(watch),
            Err(Errno::EPERM) => None,
            Err(errno) => return Err(errno),
        };
        let careful = if kind == FileKind::Fifo { PIPE_BUF } else { CAREFUL };
        let nonblocking = io::is_nonblocking(&*file)?;
        Ok(HostFile { file, watch, nowait: AtomicBool::new(true), nonblocking, careful, pace })
    }

    /// How a host call is made that never waits for others. None: only after a look at its readiness.
    fn at_once(&self) -> Option<Sleep> {
        match self.watch.is_some() {
            true if self.nowait.load(Ordering::Relaxed) => Some(Sleep::Never),
            true if !self.nonblocking => None,
            _ => Some(Sleep::Allowed),
        }
    }

    /// One host call that does not wait, with `io` told whether it may sleep and how many bytes to move at most.
    fn call(&self, events: PollEvents, io: &mut dyn FnMut(Sleep, usize) -> Result<usize, Errno>) -> Result<usize, Errno> {
        while let Some(sleep) = self.at_once() {
            match io(sleep, BOUNCE) {
                Err(Errno::EOPNOTSUPP) if sleep == Sleep::Never => self.nowait.store(false, Ordering::Relaxed),
                result => return result,
            }
        }
        let wanted = events.bits() as u16;
        match event::poll_now(&self.file, wanted)? {
            0 => Err(Errno::EAGAIN),
            _ => io(Sleep::Allowed, if events == PollEvents::IN { BOUNCE } else { self.careful }),
        }
    }

    fn read_now(&self, into: &mut dyn Sink) -> Result<usize, Errno> {
        let fd = self.file.as_fd();
        let direct =
            |slices: &[WindowSlice<'_>]| self.call(PollEvents::IN, &mut |sleep, _| io::read_windows(fd, slices, -1, sleep));
        if let Some(result) = into.put_direct(BOUNCE, &mut { direct }) {
            return result;
        }
        let mut bytes = vec![0; into.remaining().min(BOUNCE)];
        let n = self.call(PollEvents::IN, &mut |sleep, _| io::read_at(fd, &mut bytes, -1, sleep))?;
        into.put(bytes.get(..n).unwrap_or_default())
    }

    fn write_now(&self, from: &mut dyn Source) -> Result<usize, Errno> {
        let fd = self.file.as_fd();
        let want = from.remaining().min(BOUNCE);
        while let Some(sleep) = self.at_once() {
            let direct = |slices: &[WindowSlice<'_>]| io::write_windows(fd, slices, -1, sleep);
            match from.take_direct(want, &mut { direct }) {
                Some(Err(Errno::EOPNOTSUPP)) if sleep == Sleep::Never => self.nowait.store(false, Ordering::Relaxed),
                Some(result) => return result,
                None => break,
            }
        }
        let mut bytes = vec![0; want];
        let taken = from.take(&mut bytes)?;
        bytes.truncate(taken);
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let result =
                self.call(PollEvents::OUT, &mut |sleep, most| io::write_at(fd, rest.get(..most).unwrap_or(rest), -1, sleep));
            match result {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

impl FileOps for HostFile {
    /// Regular host files too are streams, at the position they share with whoever passed them in (`while read` loops around us).
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.read_now(into))
    }

    fn write<'a>(&'a self, _file: &'a File, _at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        let written = self.write_now(from);
        if let (Some(pace), Ok(bytes)) = (&self.pace, written) {
            pace.wrote(bytes);
        }
        Step::Ready(written.map(|bytes| Written { bytes, end: 0 }))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        if self.watch.is_none() {
            return PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM;
        }
        let wanted = PollEvents::IN | PollEvents::OUT | PollEvents::PRI | PollEvents::RDHUP;
        let wanted = (wanted | PollEvents::RDNORM | PollEvents::WRNORM).bits() as u16;
        event::poll_now(&self.file, wanted).map_or(PollEvents::ERR, |events| PollEvents::from_bits_truncate(events.into()))
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        self.watch.as_ref().map(HostWatch::queue)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The inode of a host file, as far as the guest is told.
struct HostInode {
    file: Arc<OwnedFd>,
    status: FileStatus,
    kind: FileKind,
}

impl Inode for HostInode {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        let size = match self.kind {
            FileKind::Regular => io::status(&self.file).map_or(0, |status| status.size),
            _ => 0,
        };
        Step::ok(Metadata {
            dev: device_number(0, 16),
            ino: self.status.ino,
            kind: self.kind,
            permissions: self.status.mode & 0o777,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: self.status.rdev,
            size,
            blocks: size.div_ceil(512),
            block_size: 4096,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            born: Timestamp::default(),
        })
    }

    fn set_attr(&self, _change: SetAttr) -> Step<'_, Result<(), Errno>> {
        Step::err(Errno::EPERM)
    }

    /// /proc/self/fd/1 and /dev/stdout: the same host file once more.
    fn open<'a>(self: Arc<Self>, cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        let Some(reactor) = cx.kernel().reactor.get() else { return Step::err(Errno::ENXIO) };
        // The set takes a descriptor once; a second file needs its own.
        let opened = io::duplicate(&*self.file).and_then(|file| HostFile::new(reactor, Arc::new(file), self.kind));
        Step::Ready(opened.map(|file| Arc::new(file) as Arc<dyn FileOps>))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read, write};
    use super::*;

    #[test]
    fn a_host_pipe_is_read_and_written_without_waiting() {
        let reactor = Reactor::new().expect("epoll");
        let (reader, writer) = std::io::pipe().expect("pipe");
        let reader = HostFile::open(&reactor, reader.into(), OpenFlags::empty()).expect("reader");
        let writer = HostFile::open(&reactor, writer.into(), OpenFlags::WRONLY).expect("writer");
        assert_eq!(read(&reader, 10), Err(Errno::EAGAIN));
        assert!(!reader.ops.poll(&reader).contains(PollEvents::IN));
        assert_eq!(write(&writer, b"to the host"), Ok(11));
        assert!(reader.ops.poll(&reader).contains(PollEvents::IN));
        assert_eq!(read(&reader, 6), Ok(b"to the".to_vec()));
        let mut all = 0;
        while let Ok(n) = write(&writer, &[7; 50_000]) {
            all += n;
        }
        assert!(all > 60_000 && !writer.ops.poll(&writer).contains(PollEvents::OUT));
        drop(writer);
        assert!(reader.ops.poll(&reader).contains(PollEvents::HUP));
    }

    /// A FIFO's end to read from, and one to write to that is opened with further flags.
    fn fifo(name: &str, flags: i32) -> (std::fs::File, std::fs::File) {
        use std::os::unix::fs::OpenOptionsExt;
        let path = std::env::temp_dir().join(format!("nacre-{name}-{}", std::process::id()));
        let name = std::ffi::CString::new(path.to_string_lossy().as_bytes()).expect("a name");
        rustix::fs::mknodat(rustix::fs::CWD, &name, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("a FIFO");
        let end = |flags| std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).expect("opens");
        let ends = (end(0), end(flags));
        std::fs::remove_file(&path).expect("removed");
        ends
    }

    #[test]
    fn a_fifo_opened_with_o_nonblock_takes_all_it_has_room_for() {
        let reactor = Reactor::new().expect("epoll");
        let (mut reader, writer) = fifo("nonblocking", OpenFlags::NONBLOCK.bits() as i32);
        let writer = HostFile::open(&reactor, writer.into(), OpenFlags::WRONLY).expect("writer");
        while write(&writer, &[7; 10_000]).is_ok() {}
        assert_eq!(write(&writer, &[7; 10_000]), Err(Errno::EAGAIN));
        let mut bytes = [0; 3 * PIPE_BUF];
        std::io::Read::read_exact(&mut reader, &mut bytes).expect("reads");
        assert_eq!(write(&writer, &[7; 50_000]), Ok(bytes.len()));
        assert_eq!(write(&writer, &[7; 10_000]), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_fifo_takes_a_page_at_a_time() {
        let reactor = Reactor::new().expect("epoll");
        let (mut reader, writer) = fifo("fifo", 0);
        let writer = HostFile::open(&reactor, writer.into(), OpenFlags::WRONLY).expect("writer");
        assert_eq!(write(&writer, &[7; 10_000]), Ok(10_000));
        let mut all = 10_000;
        while let Ok(n) = write(&writer, &[7; 10_000]) {
            all += n;
        }
        assert!(all >= 50_000, "{all}");
        let mut bytes = [0; 4096];
        std::io::Read::read_exact(&mut reader, &mut bytes).expect("reads");
        // As much as is surely taken at once.
        assert_eq!(write(&writer, &[7; 10_000]), Ok(PIPE_BUF));
        assert_eq!(write(&writer, &[7; 10_000]), Err(Errno::EAGAIN));
    }

    #[test]
    fn regular_host_files_are_streams_and_always_ready() {
        let reactor = Reactor::new().expect("epoll");
        let file = std::fs::File::open("/proc/self/exe").expect("open");
        let file = HostFile::open(&reactor, file.into(), OpenFlags::empty()).expect("wrap");
        assert_eq!(read(&file, 4), Ok(b"\x7fELF".to_vec()));
        assert_ne!(read(&file, 4), Ok(b"\x7fELF".to_vec()));
        assert!(file.ops.wait_queue().is_none());
    }
}
