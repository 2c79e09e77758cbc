//! The bridge between a container's pty and a host descriptor (the user's terminal, or the engine's side of a console socket).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pty::{Pty, WindowSize};
use super::terminals::Terminals;
use crate::Errno;
use crate::executor::{HostWatch, read_now, write_now};
use crate::fs::{File, OpenFlags, Origin, Path, ResolveFlags, View, walk};
use crate::kernel::Kernel;
use crate::wait::{PollEvents, WaitQueue};

/// Bytes moved at a time.
const PIECE: usize = 4096;

/// A container's console.
pub struct Console {
    pty: Arc<Pty>,
    host: HostWatch,
    /// A piece of output is on its way to the host.
    busy: AtomicBool,
    /// Woken when output has been written.
    flushed: WaitQueue,
}

impl Console {
    /// Makes a pty whose master is joined to `host`, and starts moving bytes both ways.
    ///
    /// # Errors
    /// `ENXIO` without a reactor; `EPERM` when `host` is no terminal, pipe or socket; the host's.
    pub fn attach(kernel: &Arc<Kernel>, terminals: &Arc<Terminals>, host: OwnedFd, uid: u32) -> Result<Arc<Console>, Errno> {
        let reactor = kernel.reactor.get().ok_or(Errno::ENXIO)?;
        let host = reactor.watch(Arc::new(host))?;
        let pty = terminals.allocate((uid, 0))?;
        pty.unlock();
        terminals.set_console(&pty);
        let console = Arc::new(Console { pty, host, busy: AtomicBool::new(false), flushed: WaitQueue::new() });
        let (input, output) = (console.clone(), console.clone());
        kernel.scheduler.spawn(|_| async move { input.pump_input().await });
        kernel.scheduler.spawn(|_| async move { output.pump_output().await });
        Ok(console)
    }

    pub fn pty(&self) -> &Arc<Pty> {
        &self.pty
    }

    /// A file of the slave, for a process's stdin, stdout and stderr: its node in /dev/pts below the container's `root`, so that
    /// `ttyname` finds it.
    ///
    /// # Errors
    /// `EIO` after a hang-up; those of the path.
    pub async fn open_slave(&self, root: &Path) -> Result<Arc<File>, Errno> {
        let slave = self.pty.open_slave()?;
        let path = format!("/dev/pts/{}", self.pty.index);
        let view = View::kernel(root.clone());
        let place = walk::resolve_in(&view, None, root.clone(), path.as_bytes(), ResolveFlags::empty()).await?;
        Ok(File::new(slave, Origin::Path(place), OpenFlags::RDWR))
    }

    /// The container is gone: both pumps end.
    pub fn close(&self) {
        self.pty.close_master();
        self.host.queue().wake(PollEvents::IN | PollEvents::OUT);
        self.flushed.wake(PollEvents::OUT);
    }

    /// The user's window has this size.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.pty.set_window(WindowSize { rows, columns, ..WindowSize::default() });
    }

    /// Waits until the host has taken all output (before an exit is reported).
    pub async fn drain(&self) {
        let done = || (self.pty.drained() && !self.busy.load(Ordering::SeqCst)) || !self.pty.is_open();
        self.flushed.until(PollEvents::OUT, done).await;
    }

    /// From the host to the master. At the host's end the terminal hangs up.
    async fn pump_input(&self) {
        let mut bytes = [0; PIECE];
        loop {
            let read = self.host.retry(|file| if self.pty.is_open() { read_now(file, &mut bytes) } else { Ok(0) }).await;
            let Some(mut rest) = read.ok().filter(|&n| n > 0).and_then(|n| bytes.get(..n)) else { break };
            while !rest.is_empty() {
                if !self.pty.is_open() {
                    break;
                }
                // Only room can be lacking.
                if self.pty.master_write(&mut rest).is_err() {
                    let ready = || self.pty.master_poll().contains(PollEvents::OUT) || !self.pty.is_open();
                    self.pty.master_queue().until(PollEvents::OUT, ready).await;
                }
            }
        }
        self.close();
    }

    /// From the slaves to the host.
    async fn pump_output(&self) {
        let mut bytes = Vec::with_capacity(PIECE);
        loop {
            let ready = || self.pty.master_poll().contains(PollEvents::IN) || !self.pty.is_open();
            self.pty.master_queue().until(PollEvents::IN, ready).await;
            bytes.clear();
            self.busy.store(true, Ordering::SeqCst);
            let read = self.pty.master_read(&mut bytes);
            let mut rest = bytes.as_slice();
            let mut lost = false;
            while read.is_ok() && !rest.is_empty() && !lost {
                match self.host.retry(|file| write_now(file, rest)).await {
                    Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                    Err(_) => lost = true,
                }
            }
            self.busy.store(false, Ordering::SeqCst);
            self.flushed.wake(PollEvents::OUT);
            if lost || !self.pty.is_open() {
                self.close();
                return;
            }
        }
    }
}
