//! A process's streams: containerd's FIFOs, or files.
//!
//! The sandbox gets the FIFO's own descriptors; no byte passes through here. What stays here only keeps the FIFOs alive: a reader of each output ([`Output`]), so
//! that a containerd that is started again does not make the container's writes fail, and finds what it has not read; and, if nobody has come to write to the input by the time the
//! process is made, a writer until CloseIO, so that the process does not read an end before somebody has attached. Only a terminal's bytes are carried, as its FIFOs are two and a terminal is one.

mod output;

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::forward::copy;
use runtime::sandbox::HostStdio;
use serde::{Deserialize, Serialize};

use self::output::{Carried, Output};

/// Bytes that an output's FIFO is to hold: a sandbox that has filled one is woken by way of three threads when there is room again, so that should not be often.
const CAPACITY: usize = 1 << 20;
/// How long a process's start waits for who writes to its input.
const WRITER: Duration = Duration::from_millis(500);

/// Where containerd says a process's streams are; empty: nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// A process's ends.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<File>,
    pub stdout: Option<File>,
    pub stderr: Option<File>,
    /// Of a terminal. It goes after the output has been closed, so it stands last.
    carried: Option<Carried>,
}

/// What keeps FIFOs alive.
#[derive(Debug, Default)]
pub struct Kept {
    /// Until CloseIO, where nobody else had the input open.
    pub stdin: Option<File>,
    outputs: Vec<Arc<Output>>,
}

impl Kept {
    /// After the process's end: what it has written waits for whoever reads it, until this is dropped.
    pub fn process_ended(&mut self) {
        self.stdin = None;
        self.offer();
    }

    /// Lets a reader that is still to come have what nobody has read yet.
    pub fn offer(&self) {
        self.outputs.iter().for_each(|output| output.offer());
    }
}

impl Streams {
    pub fn as_host(&self) -> HostStdio<'_> {
        HostStdio {
            stdin: self.stdin.as_ref().map(AsFd::as_fd),
            stdout: self.stdout.as_ref().map(AsFd::as_fd),
            stderr: self.stderr.as_ref().map(AsFd::as_fd),
        }
    }
}

impl Io {
    /// Opens what there is. A terminal has no standard error of its own.
    ///
    /// # Errors
    /// Names the stream.
    pub fn open(&self) -> Result<(Streams, Kept), String> {
        let (mut streams, mut kept) = (Streams::default(), Kept::default());
        if !self.stdin.is_empty() {
            let about = |e: std::io::Error| format!("cannot open stdin {}: {e}", self.stdin);
            let (input, keeper) = match is_fifo(&self.stdin) {
                true => open_input(&self.stdin).map_err(about)?,
                false => (File::open(&self.stdin).map_err(about)?, None),
            };
            streams.stdin = Some(input);
            kept.stdin = keeper;
        }
        // The end is nobody else's, so a sandbox, which never waits, gets it with O_NONBLOCK; the thread that carries a terminal's bytes does wait.
        let flags = if self.terminal { 0 } else { libc::O_NONBLOCK };
        let mut output = |path: &str, name: &str| -> Result<Option<File>, String> {
            if path.is_empty() {
                return Ok(None);
            }
            let (file, keeper) = open_output(path, flags).map_err(|what| format!("cannot open {name} {path}: {what}"))?;
            kept.outputs.extend(keeper);
            Ok(Some(file))
        };
        streams.stdout = output(&self.stdout, "stdout")?;
        if self.terminal {
            streams.carried = kept.outputs.first().map(Output::carried);
        } else {
            streams.stderr = output(&self.stderr, "stderr")?;
        }
        Ok((streams, kept))
    }
}

fn is_fifo(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// The input's end to read from, and, if its writer is late, another writer.
///
/// A reader that is there before any writer reads an end at once; and one that keeps a writer of its own reads none when the other goes. A client opens
/// its end as the process is made, so that is waited for a while, as `open` does.
fn open_input(path: &str) -> std::io::Result<(File, Option<File>)> {
    let (opened, result) = std::sync::mpsc::channel();
    let wanted = path.to_string();
    std::thread::Builder::new().name("stdin".into()).stack_size(64 << 10).spawn(move || {
        let _ = opened.send(File::open(wanted));
    })?;
    if let Ok(file) = result.recv_timeout(WRITER) {
        return Ok((file?, None));
    }
    // This lets the waiting `open` go on, too.
    let keeper = OpenOptions::new().read(true).write(true).open(path)?;
    match result.recv() {
        Ok(file) => Ok((file?, Some(keeper))),
        Err(_) => Err(ErrorKind::Other.into()),
    }
}

/// An end to write to, with these further flags if it is a FIFO's, and what keeps it alive.
fn open_output(path: &str, flags: i32) -> Result<(File, Option<Arc<Output>>), String> {
    let path = match path.split_once("://") {
        None => path,
        Some(("fifo", path)) => path,
        Some(("file", path)) => {
            // containerd's own loggers make the directory as well.
            if let Some(dir) = Path::new(path).parent() {
                std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
            }
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| e.to_string())?;
            return Ok((file, None));
        }
        Some((scheme, _)) => return Err(format!("a log of kind {scheme:?} is not supported: a FIFO or file:// is")),
    };
    if !is_fifo(path) {
        return Ok((OpenOptions::new().append(true).open(path).map_err(|e| e.to_string())?, None));
    }
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| e.to_string())?;
    let writer = OpenOptions::new().write(true).custom_flags(flags).open(path).map_err(|e| e.to_string())?;
    // A host that does not allow it has a smaller one.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, CAPACITY);
    Ok((writer, Some(Arc::new(Output::new(reader)))))
}

/// Carries a terminal's bytes between its master and the FIFOs, until the process's end is closed.
pub fn carry(master: OwnedFd, streams: Streams) -> std::io::Result<()> {
    let thread = || std::thread::Builder::new().name("terminal".into()).stack_size(64 << 10);
    let master = File::from(master);
    if let Some(stdin) = streams.stdin {
        let to = master.try_clone()?;
        thread().spawn(move || copy(stdin, to))?;
    }
    let (stdout, carried) = (streams.stdout, streams.carried);
    thread().spawn(move || {
        match stdout {
            Some(stdout) => copy(master, stdout),
            // Read all the same: a full terminal would stop the process.
            None => copy(master, std::io::sink()),
        }
        drop(carried);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A directory of a test's own, which goes however the test ends.
    pub struct Place(std::path::PathBuf);

    impl Place {
        pub fn new(name: &str) -> Place {
            let dir = std::env::temp_dir().join(format!("nacre-shim-io-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).expect("dir");
            Place(dir)
        }

        pub fn fifo(&self) -> std::path::PathBuf {
            let path = self.0.join("out");
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo");
            path
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_fifo_without_a_reader_takes_output() {
        let place = Place::new("fifo");
        let path = place.fifo();
        let io = Io { stdout: path.to_string_lossy().into_owned(), ..Io::default() };
        let (mut streams, kept) = io.open().expect("opened");
        streams.stdout.as_mut().expect("stdout").write_all(b"early").expect("written");
        let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("a late reader");
        drop((streams, kept));
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "early");
    }

    #[test]
    fn logs_to_programs_are_refused() {
        let io = Io { stdout: "binary:///bin/logger?x=y".into(), ..Io::default() };
        assert!(io.open().expect_err("refused").contains("binary"));
    }
}
