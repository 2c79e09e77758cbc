//! [`Pty`]: a pseudo-terminal, and its open ends [`Master`] and [`Slave`].

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::discipline::{Discipline, Effects};
use super::job::Control;
use super::terminals::Terminals;
use crate::Errno;
use crate::abi::uapi;
use crate::fs::{Direction, Expired, File, FileOps, Patience, WriteAt, Written, dev::device_number};
use crate::ipc::ring::ByteRing;
use crate::mm::{Sink, Source};
use crate::signal::{SigInfo, Signal};
use crate::step::Step;
use crate::syscalls::Fail;
use crate::task::{ControllingTerminal, Cx, Tid};
use crate::wait::{PollEvents, WaitQueue};

/// Output that waits for the master, in bytes.
const OUTPUT_MAX: usize = 16 << 10;
/// Bytes processed at a time.
const PIECE: usize = 1024;
/// Bytes of output room for the echo of one byte of input (a killed line is longer; the excess still goes in).
const ECHO_ROOM: usize = 64;

/// `struct winsize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
    pub x_pixels: u16,
    pub y_pixels: u16,
}

/// Bits of the packet-mode status byte.
pub(super) mod packet {
    pub const FLUSHREAD: u8 = 1;
    pub const FLUSHWRITE: u8 = 2;
    pub const STOP: u8 = 4;
    pub const START: u8 = 8;
    pub const NOSTOP: u8 = 16;
    pub const DOSTOP: u8 = 32;
}

/// A pseudo-terminal.
pub struct Pty {
    pub index: u32,
    pub(super) terminals: Weak<Terminals>,
    pub(super) state: Mutex<State>,
    /// Those who wait at the slave, and at the master.
    pub(super) slave_queue: WaitQueue,
    pub(super) master_queue: WaitQueue,
    pub(super) me: Weak<Pty>,
}

pub(super) struct State {
    pub discipline: Discipline,
    /// From the slave (and echo) to the master.
    pub output: ByteRing,
    pub master_open: bool,
    pub slaves: usize,
    /// Whether the slave was opened and all have closed it since.
    pub left: bool,
    pub locked: bool,
    /// `TIOCEXCL`.
    pub exclusive: bool,
    pub window: WindowSize,
    /// `TIOCPKT`, and what happened since the last packet.
    pub packets: bool,
    pub status: u8,
    pub control: Control,
    /// Slaves opened before the last hang-up are dead.
    pub hangups: u64,
    /// Owner, group and permissions of the node.
    pub owner: (u32, u32, u32),
}

impl Pty {
    pub(super) fn new(index: u32, terminals: Weak<Terminals>, owner: (u32, u32, u32)) -> Arc<Pty> {
        let state = State {
            discipline: Discipline::default(),
            output: ByteRing::new(OUTPUT_MAX),
            master_open: true,
            slaves: 0,
            left: false,
            locked: true,
            exclusive: false,
            window: WindowSize::default(),
            packets: false,
            status: 0,
            control: Control::default(),
            hangups: 0,
            owner,
        };
        Arc::new_cyclic(|me| Pty {
            index,
            terminals,
            state: Mutex::new(state),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
            me: me.clone(),
        })
    }

    /// The slave's device number.
    pub fn device(&self) -> u64 {
        device_number(136 + self.index / 256, self.index % 256)
    }

    /// Woken when there is output, or none any more.
    pub fn master_queue(&self) -> &WaitQueue {
        &self.master_queue
    }

    /// Owner, group and permissions of the node in /dev/pts.
    pub fn owner(&self) -> (u32, u32, u32) {
        self.state.lock().owner
    }

    pub fn set_owner(&self, owner: (u32, u32, u32)) {
        self.state.lock().owner = owner;
    }

    pub fn unlock(&self) {
        self.state.lock().locked = false;
    }

    /// A slave end.
    ///
    /// # Errors
    /// `EIO` when the pty is locked or its master closed.
    pub fn open_slave(self: &Arc<Pty>) -> Result<Arc<Slave>, Errno> {
        let mut state = self.state.lock();
        if state.locked || !state.master_open {
            return Err(Errno::EIO);
        }
        state.slaves += 1;
        state.left = false;
        Ok(Arc::new(Slave { pty: self.clone(), hangups: state.hangups }))
    }

    /// Whether all of the output has been read by the master.
    pub fn drained(&self) -> bool {
        self.state.lock().output.is_empty()
    }

    pub fn window(&self) -> WindowSize {
        self.state.lock().window
    }

    /// Sets the window's size and tells the foreground group (`SIGWINCH`).
    pub fn set_window(&self, window: WindowSize) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.window, window) == window {
            return;
        }
        let control = state.control.clone();
        drop(state);
        control.signal(Signal::WINCH);
    }

    /// Reads the slave's output.
    ///
    /// # Errors
    /// `EAGAIN`; `EIO` when all slaves are closed.
    pub fn master_read(&self, into: &mut dyn Sink) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let mut done = 0;
        if state.packets && into.remaining() > 0 {
            if state.status != 0 {
                let status = std::mem::take(&mut state.status);
                return into.put(&[status]);
            }
            if state.output.is_empty() {
                return Err(if state.left { Errno::EIO } else { Errno::EAGAIN });
            }
            done = into.put(&[0])?;
        }
        if state.output.is_empty() {
            return Err(if state.left { Errno::EIO } else { Errno::EAGAIN });
        }
        done += state.output.drain(into, usize::MAX)?;
        let room = state.output.free() >= OUTPUT_MAX / 2;
        drop(state);
        if room {
            self.slave_queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
        Ok(done)
    }

    /// Types bytes.
    ///
    /// # Errors
    /// `EAGAIN` when input waits that nobody reads.
    pub fn master_write(&self, from: &mut dyn Source) -> Result<usize, Errno> {
        let mut done = 0;
        while from.remaining() > 0 {
            let mut bytes = [0; PIECE];
            let mut effects = Effects::default();
            let mut state = self.state.lock();
            // Taken only as far as it is accepted, so one at a time where the room is nearly used up.
            if !state.has_input_room() {
                break;
            }
            let most = if state.discipline.held() + PIECE < 4096 { PIECE } else { 1 };
            let Some(piece) = bytes.get_mut(..from.remaining().min(most)) else { break };
            let n = match from.take(piece) {
                Ok(n) => n,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            };
            for &byte in bytes.iter().take(n) {
                state.discipline.receive(byte, &mut effects);
            }
            done += n;
            let control = state.apply(&effects);
            let readable = state.discipline.readable();
            drop(state);
            self.tell(&effects, &control, readable);
        }
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }

    /// Sends out what input brought about.
    fn tell(&self, effects: &Effects, control: &Control, readable: bool) {
        for &signal in &effects.signals {
            control.signal(signal);
        }
        if readable {
            self.slave_queue.wake(PollEvents::IN | PollEvents::RDNORM);
        }
        if effects.stopped == Some(false) || effects.flush_output {
            self.slave_queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
        if !effects.echo.is_empty() || effects.stopped.is_some() || effects.flush_output {
            self.master_queue.wake(PollEvents::IN | PollEvents::RDNORM | PollEvents::PRI);
        }
    }

    fn slave_write(&self, from: &mut dyn Source) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let mut done = 0;
        while from.remaining() > 0 && !state.discipline.stopped() {
            // A byte becomes at most eight (a tab).
            let room = state.output.free() / 8;
            let mut bytes = [0; PIECE];
            let Some(piece) = bytes.get_mut(..room.min(PIECE).min(from.remaining())).filter(|piece| !piece.is_empty()) else {
                break;
            };
            let n = match from.take(piece) {
                Ok(n) => n,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            };
            let mut out = Vec::with_capacity(n + n / 8);
            for &byte in bytes.iter().take(n) {
                state.discipline.output(byte, &mut out);
            }
            // It fits, by the room left above.
            let _ = state.output.fill(&mut out.as_slice(), usize::MAX);
            done += n;
        }
        drop(state);
        if done == 0 {
            return Err(Errno::EAGAIN);
        }
        self.master_queue.wake(PollEvents::IN | PollEvents::RDNORM);
        Ok(done)
    }

    /// The terminal is gone for its session: `SIGHUP` and `SIGCONT`, and open slaves are dead.
    pub(super) fn hang_up(&self) {
        let mut state = self.state.lock();
        state.hangups += 1;
        let control = std::mem::take(&mut state.control);
        drop(state);
        control.disconnect();
        self.slave_queue.wake(PollEvents::all());
    }

    /// Whether there is a master.
    pub fn is_open(&self) -> bool {
        self.state.lock().master_open
    }

    /// The master is closed (once; later calls do nothing).
    pub fn close_master(&self) {
        if !std::mem::replace(&mut self.state.lock().master_open, false) {
            return;
        }
        if let Some(terminals) = self.terminals.upgrade() {
            terminals.remove(self.index);
        }
        self.hang_up();
        self.master_queue.wake(PollEvents::all());
    }

    /// What the master can do now.
    pub fn master_poll(&self) -> PollEvents {
        let state = self.state.lock();
        let mut events = PollEvents::empty();
        let status = state.packets && state.status != 0;
        events.set(PollEvents::IN | PollEvents::RDNORM, !state.output.is_empty() || status);
        events.set(PollEvents::PRI, status);
        events.set(PollEvents::HUP, state.left);
        events.set(PollEvents::OUT | PollEvents::WRNORM, state.has_input_room());
        events
    }
}

impl State {
    fn has_input_room(&self) -> bool {
        self.discipline.has_room() && self.output.free() >= ECHO_ROOM
    }

    /// Takes up what input brought about. Returns who is to get signals.
    fn apply(&mut self, effects: &Effects) -> Control {
        if effects.flush_output {
            self.output.skip(usize::MAX);
            self.status |= packet::FLUSHWRITE;
        }
        if effects.flushed_input {
            self.status |= packet::FLUSHREAD;
        }
        match effects.stopped {
            Some(true) => self.status = (self.status | packet::STOP) & !packet::START,
            Some(false) => self.status = (self.status | packet::START) & !packet::STOP,
            None => {}
        }
        // An echo that does not fit is lost, as on a terminal that nobody reads.
        let _ = self.output.fill(&mut effects.echo.as_slice(), usize::MAX);
        self.control.clone()
    }
}

impl ControllingTerminal for Pty {
    fn leader_exited(&self) {
        self.hang_up();
    }

    fn foreground(&self) -> Tid {
        self.state.lock().control.foreground()
    }

    fn device(&self) -> u64 {
        Pty::device(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open master (`/dev/ptmx`).
pub struct Master {
    pub pty: Arc<Pty>,
}

impl FileOps for Master {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        Step::Ready(self.pty.master_read(into))
    }

    fn write<'a>(&'a self, _file: &'a File, _at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        Step::Ready(self.pty.master_write(from).map(|bytes| Written { bytes, end: 0 }))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        self.pty.master_poll()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pty.master_queue)
    }

    fn ioctl<'a>(&'a self, file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        Step::Ready(super::ioctl::master(&self.pty, file, cx, command, argument))
    }

    fn release(&self, _file: &File) {
        self.pty.close_master();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open slave (`/dev/pts/N`).
pub struct Slave {
    pub pty: Arc<Pty>,
    hangups: u64,
}

impl Slave {
    fn hung_up(&self, state: &State) -> bool {
        !state.master_open || state.hangups != self.hangups
    }
}

impl FileOps for Slave {
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let mut state = self.pty.state.lock();
        if self.hung_up(&state) {
            return Step::ok(0);
        }
        let had_room = state.has_input_room();
        let result = state.discipline.read(into);
        let room = !had_room && state.has_input_room();
        drop(state);
        if room {
            self.pty.master_queue.wake(PollEvents::OUT | PollEvents::WRNORM);
        }
        Step::Ready(result)
    }

    fn write<'a>(&'a self, _file: &'a File, _at: WriteAt, from: &'a mut dyn Source) -> Step<'a, Result<Written, Errno>> {
        if self.hung_up(&self.pty.state.lock()) {
            return Step::err(Errno::EIO);
        }
        Step::Ready(self.pty.slave_write(from).map(|bytes| Written { bytes, end: 0 }))
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let state = self.pty.state.lock();
        if self.hung_up(&state) {
            return PollEvents::all() - (PollEvents::PRI | PollEvents::NVAL | PollEvents::MSG | PollEvents::RDHUP);
        }
        let mut events = PollEvents::empty();
        events.set(PollEvents::IN | PollEvents::RDNORM, state.discipline.readable());
        let writable = !state.discipline.stopped() && state.output.free() >= OUTPUT_MAX / 2;
        events.set(PollEvents::OUT | PollEvents::WRNORM, writable);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pty.slave_queue)
    }

    fn admit(&self, _file: &File, cx: &Cx, direction: Direction) -> Result<(), Fail> {
        let checks = match direction {
            Direction::Write => self.pty.state.lock().discipline.termios().local(uapi::TOSTOP),
            Direction::Read | Direction::Control => true,
        };
        if checks { self.pty.admit(cx, direction) } else { Ok(()) }
    }

    fn patience(&self, direction: Direction) -> Patience {
        let timeout_ns = match direction {
            Direction::Read => self.pty.state.lock().discipline.read_timeout_ns(),
            _ => None,
        };
        Patience { timeout_ns, then: Expired::Nothing }
    }

    fn ioctl<'a>(&'a self, _file: &'a File, cx: &'a mut Cx, command: u32, argument: u64) -> Step<'a, Result<u64, Errno>> {
        if self.hung_up(&self.pty.state.lock()) {
            return Step::err(Errno::EIO);
        }
        Step::Ready(super::ioctl::slave(&self.pty, cx, command, argument))
    }

    fn release(&self, _file: &File) {
        let mut state = self.pty.state.lock();
        state.slaves -= 1;
        state.left = state.slaves == 0;
        let left = state.left;
        drop(state);
        if left {
            self.pty.master_queue.wake(PollEvents::IN | PollEvents::HUP);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Sends a terminal's signal to a process group.
pub(super) fn kernel_signal(signal: Signal) -> SigInfo {
    SigInfo::kernel(signal)
}
