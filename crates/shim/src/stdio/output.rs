//! [`Output`]: an output's FIFO, kept with what is in it until the process is deleted.
//!
//! While the process lives, a reader here keeps its writes from failing. Once it has ended, the trouble is the other way round: whoever comes to read (a
//! containerd that was away) cannot even open a FIFO that nobody writes to, and waits for ever. So what is still in it is *offered*: a writer is held
//! here in the reader's place, until a reader has come. Not longer, as that reader waits for the end of what it reads. Then a reader is held again, should that one go
//! before it has read everything. Whoever holds an end holds what is in the FIFO.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[derive(Debug)]
pub struct Output {
    held: Arc<Mutex<Held>>,
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
        Output { held: Arc::new(Mutex::new(Held::Reader(reader))) }
    }

    /// Offers what nobody has read yet, if there is something.
    pub fn offer(&self) {
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
        let held = lock(&self.held);
        if let Held::Offered(writer) = &*held {
            let _ = again(writer, OpenOptions::new().read(true));
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
    use std::time::Duration;

    use super::super::tests::place;
    use super::super::{Io, Kept};
    use super::*;

    const MUCH: usize = 500_000;

    fn fifo(name: &str) -> (PathBuf, Io) {
        let path = place(name).join("out");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo");
        let io = Io { stdout: path.to_string_lossy().into_owned(), ..Io::default() };
        (path, io)
    }

    /// A process has written and ended, and nobody has read yet.
    fn ended(name: &str) -> (PathBuf, Kept) {
        let (path, io) = fifo(name);
        let (mut streams, mut kept) = io.open().expect("opened");
        streams.stdout.as_mut().expect("stdout").write_all(&[b'x'; MUCH]).expect("written");
        drop(streams);
        kept.process_ended();
        (path, kept)
    }

    /// As containerd opens it: waiting for a writer. Reads so much.
    fn read(path: &Path, len: u64) -> usize {
        let (done, result) = mpsc::channel();
        let path = path.to_path_buf();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            File::open(path).and_then(|file| file.take(len).read_to_end(&mut text)).expect("read");
            let _ = done.send(text.len());
        });
        result.recv_timeout(Duration::from_secs(60)).expect("a reader finds what was written, and its end")
    }

    #[test]
    fn who_comes_after_the_end_reads_everything() {
        let (path, kept) = ended("late");
        assert_eq!(read(&path, u64::MAX), MUCH);
        drop(kept);
    }

    #[test]
    fn what_a_reader_has_left_waits_for_the_next() {
        let (path, kept) = ended("half");
        assert_eq!(read(&path, 1000), 1000);
        let [output] = &kept.outputs[..] else { unreachable!("one output") };
        while matches!(*lock(&output.held), Held::Offered(_)) {
            std::thread::yield_now();
        }
        kept.offer();
        assert_eq!(read(&path, u64::MAX), MUCH - 1000);
        kept.offer();
    }

    #[test]
    fn a_reader_that_is_there_reads_an_end() {
        let (path, io) = fifo("there");
        let (mut streams, mut kept) = io.open().expect("opened");
        let mut reader = File::open(&path).expect("a reader");
        streams.stdout.as_mut().expect("stdout").write_all(b"last words").expect("written");
        drop(streams);
        kept.process_ended();
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read to the end");
        assert_eq!(text, "last words");
    }

    #[test]
    fn nobody_waits_for_a_reader_after_the_deletion() {
        let (path, kept) = ended("never");
        let [output] = &kept.outputs[..] else { unreachable!("one output") };
        let held = Arc::downgrade(&output.held);
        std::fs::remove_file(path).expect("removed");
        drop(kept);
        while held.upgrade().is_some() {
            std::thread::yield_now();
        }
    }
}
