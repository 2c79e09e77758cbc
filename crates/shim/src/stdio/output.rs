//! [`Output`]: an output's FIFO, kept with what is in it until the process is deleted.
//!
//! While the process lives, a reader here keeps its writes from failing. Once it has ended, the trouble is the other way round: whoever comes to read (a
//! containerd that was away) cannot even open a FIFO that nobody writes to, and waits for ever. So what is still in it is *offered*: a writer is held
//! here in the reader's place, until a reader has come. Not longer, as that reader waits for the end of what it reads. Then a reader is held again, should that one go
//! before it has read everything. Whoever holds an end holds what is in the FIFO. A terminal's bytes are still being carried when its process has ended:
//! what it leaves is offered when that is done ([`Carried`]).

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[derive(Debug)]
pub struct Output {
    held: Arc<Mutex<Held>>,
    /// There is a [`Carried`]: somebody here may still write, whose writes fail without a reader.
    carried: AtomicBool,
}

/// That a terminal's bytes are being carried to an output: it offers nothing until this is dropped, and then what there is. It does not keep the output.
#[derive(Debug)]
pub struct Carried {
    output: Weak<Output>,
}

#[derive(Debug)]
enum Held {
    Reader(File),
    /// A writer; a thread waits for a reader to come.
    Offered(Arc<File>),
}

impl Output {
    /// Keeps a FIFO by a reader of it.
    pub fn new(reader: File) -> Output {
        Output { held: Arc::new(Mutex::new(Held::Reader(reader))), carried: AtomicBool::new(false) }
    }

    /// For whoever carries a terminal's bytes to it.
    pub fn carried(self: &Arc<Output>) -> Carried {
        self.carried.store(true, Ordering::Release);
        Carried { output: Arc::downgrade(self) }
    }

    /// Offers what nobody has read yet, if there is something.
    pub fn offer(&self) {
        if self.carried.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = self.try_offer() {
            tracing::warn!("a reader that comes later may not find the last output: {error}");
        }
    }

    fn try_offer(&self) -> std::io::Result<()> {
        let mut held = lock(&self.held);
        let Held::Reader(reader) = &*held else { return Ok(()) };
        if rustix::io::ioctl_fionread(reader)? == 0 {
            return Ok(());
        }
        let writer = Arc::new(again(reader, OpenOptions::new().write(true))?);
        // The only reader may have been this one: it has to go for others to be seen.
        *held = Held::Offered(writer.clone());
        let offered = is_read(&writer).and_then(|read| if read { Ok(false) } else { self.wait_for_reader(writer.clone()) });
        if !matches!(offered, Ok(true)) {
            *held = Held::Reader(again(&writer, OpenOptions::new().read(true))?);
        }
        offered.map(drop)
    }

    /// On a thread of its own.
    fn wait_for_reader(&self, writer: Arc<File>) -> std::io::Result<bool> {
        let held = self.held.clone();
        let waiting = move || {
            // Without O_NONBLOCK: it opens when there is a reader. fifo(7)
            let opened = OpenOptions::new().write(true).open(path(&writer));
            let reader = again(&writer, OpenOptions::new().read(true));
            match (opened, reader) {
                (Ok(_), Ok(reader)) => *lock(&held) = Held::Reader(reader),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!("the last output of a process stays without an end: {error}")
                }
            }
        };
        std::thread::Builder::new().name("output".into()).stack_size(64 << 10).spawn(waiting).map(|_| true)
    }
}

impl Drop for Output {
    /// The thread that waits for a reader ends.
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        let Held::Offered(writer) = &*held else { return };
        match again(writer, OpenOptions::new().read(true)) {
            // It is there until the thread lets go of it, which may be only about to wait.
            Ok(reader) => *held = Held::Reader(reader),
            Err(error) => tracing::warn!("a thread waits for the reader of an output that is gone: {error}"),
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(output) = self.output.upgrade() {
            output.carried.store(false, Ordering::Release);
            output.offer();
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The FIFO, whatever has become of its name.
fn path(end: &File) -> String {
    format!("/proc/self/fd/{}", end.as_raw_fd())
}

/// Opens it once more, without waiting for anybody.
fn again(end: &File, options: &mut OpenOptions) -> std::io::Result<File> {
    options.custom_flags(libc::O_NONBLOCK).open(path(end))
}

/// Whether the FIFO of this writer has a reader.
fn is_read(writer: &File) -> std::io::Result<bool> {
    let mut ends = [PollFd::new(writer, PollFlags::OUT)];
    poll(&mut ends, Some(&Timespec::default()))?;
    Ok(!ends.iter().any(|end| end.revents().contains(PollFlags::ERR)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::path::{Path, PathBuf};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::super::tests::Place;
    use super::super::{Io, Kept, carry};
    use super::*;

    const MUCH: usize = 500_000;
    /// How long something is waited for that comes at once, but on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Does not hang if it never comes.
    fn until(what: &str, mut come: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !come() {
            assert!(Instant::now() < end, "{what}");
            std::thread::yield_now();
        }
    }

    fn fifo(name: &str) -> (Place, PathBuf, Io) {
        let place = Place::new(name);
        let path = place.fifo();
        let io = Io { stdout: path.to_string_lossy().into_owned(), ..Io::default() };
        (place, path, io)
    }

    /// A process has written and ended, and nobody has read yet.
    fn ended(name: &str) -> (Place, PathBuf, Kept) {
        let (place, path, io) = fifo(name);
        let (mut streams, mut kept) = io.open().expect("opened");
        streams.stdout.as_mut().expect("stdout").write_all(&[b'x'; MUCH]).expect("written");
        drop(streams);
        kept.process_ended();
        (place, path, kept)
    }

    /// As containerd opens it: waiting for a writer. Reads so much; the reader is still there.
    fn read_part(path: &Path, len: u64) -> (usize, File) {
        let (done, result) = mpsc::channel();
        let path = path.to_path_buf();
        std::thread::spawn(move || {
            let (file, mut text) = (File::open(path).expect("opened"), Vec::new());
            (&file).take(len).read_to_end(&mut text).expect("read");
            let _ = done.send((text.len(), file));
        });
        result.recv_timeout(PATIENCE).expect("a reader finds what was written, and its end")
    }

    fn read(path: &Path, len: u64) -> usize {
        read_part(path, len).0
    }

    #[test]
    fn who_comes_after_the_end_reads_everything() {
        let (_place, path, kept) = ended("late");
        assert_eq!(read(&path, u64::MAX), MUCH);
        drop(kept);
    }

    #[test]
    fn what_a_reader_has_left_waits_for_the_next() {
        let (_place, path, kept) = ended("half");
        let (len, reader) = read_part(&path, 1000);
        assert_eq!(len, 1000);
        let [output] = &kept.outputs[..] else { unreachable!("one output") };
        // One that goes before the thread has seen it is as good as none: the offer stands.
        until("the reader is seen", || matches!(*lock(&output.held), Held::Reader(_)));
        drop(reader);
        kept.offer();
        assert_eq!(read(&path, u64::MAX), MUCH - 1000);
        kept.offer();
    }

    #[test]
    fn a_reader_that_is_there_reads_an_end() {
        let (_place, path, io) = fifo("there");
        let (mut streams, mut kept) = io.open().expect("opened");
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("a reader");
        streams.stdout.as_mut().expect("stdout").write_all(b"last words").expect("written");
        drop(streams);
        kept.process_ended();
        let mut text = Vec::new();
        // EAGAIN until there is an end.
        until("there is an end", || (&reader).read_to_end(&mut text).is_ok());
        assert_eq!(text, b"last words");
    }

    #[test]
    fn a_terminal_is_offered_when_all_of_it_has_been_carried() {
        let (_place, path, io) = fifo("terminal");
        let (mut streams, mut kept) = Io { terminal: true, ..io }.open().expect("opened");
        streams.stdout.as_mut().expect("stdout").write_all(b"first").expect("written");
        let (master, mut slave) = std::io::pipe().expect("a pipe");
        carry(master.into(), streams).expect("carried");
        kept.process_ended();
        slave.write_all(b", last").expect("written");
        drop(slave);
        let [output] = &kept.outputs[..] else { unreachable!("one output") };
        until("it is offered", || matches!(*lock(&output.held), Held::Offered(_)));
        assert_eq!(read(&path, u64::MAX), "first, last".len());
    }

    #[test]
    fn a_terminal_that_is_deleted_is_not_carried_on() {
        let (_place, path, io) = fifo("deleted");
        let (streams, kept) = Io { terminal: true, ..io }.open().expect("opened");
        let [output] = &kept.outputs[..] else { unreachable!("one output") };
        let held = Arc::downgrade(&output.held);
        let (master, mut slave) = std::io::pipe().expect("a pipe");
        carry(master.into(), streams).expect("carried");
        drop(kept);
        assert!(held.upgrade().is_none(), "who carries keeps no reader, and so cannot wait for itself");
        until("nobody reads it any more", || slave.write_all(b"x").is_err());
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn nobody_waits_for_a_reader_after_the_deletion() {
        let (_place, path, kept) = ended("never");
        let [output] = &kept.outputs[..] else { unreachable!("one output") };
        let held = Arc::downgrade(&output.held);
        std::fs::remove_file(path).expect("removed");
        drop(kept);
        until("the thread has ended", || held.upgrade().is_none());
    }
}
