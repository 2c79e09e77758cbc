//! Terminal ioctls (ioctl_tty(2)).

use std::sync::Arc;

use linux_raw_sys::ioctl as codes;
use zerocopy::{FromBytes, IntoBytes};

use super::pty::{Pty, WindowSize, packet};
use super::termios::{TERMIOS_SIZE, Termios};
use crate::Errno;
use crate::abi::uapi;
use crate::fs::anon::{self, Anon};
use crate::fs::{File, FileOps, OpenFlags, Origin};
use crate::syscalls::fds::install;
use crate::task::Cx;
use crate::wait::PollEvents;

/// On the master's side.
pub fn master(pty: &Arc<Pty>, file: &File, cx: &mut Cx, command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        codes::TIOCGPTN => cx.mm.write_val(argument, &pty.index).map(|()| 0),
        codes::TIOCSPTLCK => {
            let locked = cx.mm.read_val::<i32>(argument)? != 0;
            pty.state.lock().locked = locked;
            Ok(0)
        }
        codes::TIOCGPTLCK => {
            let locked = i32::from(pty.state.lock().locked);
            cx.mm.write_val(argument, &locked).map(|()| 0)
        }
        codes::TIOCGPTPEER => open_peer(pty, file, cx, OpenFlags::from_bits_retain(argument as u32)),
        codes::TIOCPKT => {
            let on = cx.mm.read_val::<i32>(argument)? != 0;
            let mut state = pty.state.lock();
            state.packets = on;
            state.status = 0;
            Ok(0)
        }
        codes::TIOCGPKT => {
            let on = i32::from(pty.state.lock().packets);
            cx.mm.write_val(argument, &on).map(|()| 0)
        }
        codes::FIONREAD | codes::TIOCOUTQ => {
            let state = pty.state.lock();
            let value = if command == codes::FIONREAD { state.output.len() } else { 0 };
            drop(state);
            cx.mm.write_val(argument, &(value as i32)).map(|()| 0)
        }
        codes::TIOCGPGRP => {
            let foreground = pty.state.lock().control.foreground();
            cx.mm.write_val(argument, &cx.local(foreground)).map(|()| 0)
        }
        codes::TIOCGSID => {
            let session = pty.state.lock().control.session().ok_or(Errno::ENOTTY)?;
            cx.mm.write_val(argument, &cx.local(session.sid)).map(|()| 0)
        }
        codes::TIOCSIG => signal(pty, argument),
        codes::TIOCSCTTY => Err(Errno::EPERM),
        codes::TIOCNOTTY => Err(Errno::ENOTTY),
        _ => common(pty, cx, command, argument),
    }
}

/// On a slave's side.
pub fn slave(pty: &Arc<Pty>, cx: &mut Cx, command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        codes::FIONREAD | codes::TIOCOUTQ => {
            let state = pty.state.lock();
            let value = if command == codes::FIONREAD { state.discipline.available() } else { state.output.len() };
            drop(state);
            cx.mm.write_val(argument, &(value as i32)).map(|()| 0)
        }
        codes::TIOCSCTTY => pty.set_controlling(cx, argument == 1).map(|()| 0),
        codes::TIOCNOTTY => pty.give_up(cx).map(|()| 0),
        codes::TIOCGPGRP | codes::TIOCGSID if !pty.controls(cx) => Err(Errno::ENOTTY),
        codes::TIOCGPGRP => {
            let foreground = pty.state.lock().control.foreground();
            cx.mm.write_val(argument, &cx.local(foreground)).map(|()| 0)
        }
        codes::TIOCGSID => cx.mm.write_val(argument, &cx.local(cx.task.group.session().sid)).map(|()| 0),
        codes::TIOCGPTPEER => Err(Errno::EIO),
        // Faking input is off by default since Linux 6.2.
        codes::TIOCSTI => Err(Errno::EIO),
        _ => common(pty, cx, command, argument),
    }
}

/// What both sides do.
fn common(pty: &Arc<Pty>, cx: &mut Cx, command: u32, argument: u64) -> Result<u64, Errno> {
    match command {
        codes::TCGETS => {
            let termios = *pty.state.lock().discipline.termios();
            let bytes = termios.as_bytes();
            cx.mm.write(argument, bytes.get(..TERMIOS_SIZE).unwrap_or(bytes)).map(|()| 0)
        }
        codes::TCGETS2 => {
            let termios = *pty.state.lock().discipline.termios();
            cx.mm.write_val(argument, &termios).map(|()| 0)
        }
        codes::TCSETS | codes::TCSETSW | codes::TCSETSF => {
            let mut termios = *pty.state.lock().discipline.termios();
            let bytes = termios.as_mut_bytes();
            cx.mm.read(argument, bytes.get_mut(..TERMIOS_SIZE).ok_or(Errno::EINVAL)?)?;
            set_termios(pty, termios, command == codes::TCSETSF);
            Ok(0)
        }
        codes::TCSETS2 | codes::TCSETSW2 | codes::TCSETSF2 => {
            let mut termios = Termios::default();
            cx.mm.read(argument, termios.as_mut_bytes())?;
            set_termios(pty, termios, command == codes::TCSETSF2);
            Ok(0)
        }
        codes::TIOCGWINSZ => cx.mm.write_val(argument, &pty.window()).map(|()| 0),
        codes::TIOCSWINSZ => {
            let mut bytes = [0; size_of::<WindowSize>()];
            cx.mm.read(argument, &mut bytes)?;
            pty.set_window(WindowSize::read_from_bytes(&bytes).map_err(|_| Errno::EINVAL)?);
            Ok(0)
        }
        codes::TIOCSPGRP => {
            let pgid = cx.mm.read_val::<i32>(argument)?;
            pty.set_foreground(cx, pgid).map(|()| 0)
        }
        codes::TCFLSH => flush(pty, argument),
        codes::TCXONC => flow(pty, argument),
        // Output is at the master at once: nothing to drain, no line to break.
        codes::TCSBRK | codes::TCSBRKP => Ok(0),
        codes::TIOCEXCL | codes::TIOCNXCL => {
            pty.state.lock().exclusive = command == codes::TIOCEXCL;
            Ok(0)
        }
        codes::TIOCGEXCL => {
            let exclusive = i32::from(pty.state.lock().exclusive);
            cx.mm.write_val(argument, &exclusive).map(|()| 0)
        }
        // `N_TTY`, the only one.
        codes::TIOCGETD => cx.mm.write_val(argument, &0i32).map(|()| 0),
        _ => Err(Errno::ENOTTY),
    }
}

fn set_termios(pty: &Pty, termios: Termios, flush: bool) {
    let mut state = pty.state.lock();
    if flush {
        state.discipline.flush_input();
    }
    let flows = |termios: &Termios| termios.input(uapi::IXON) && termios.cc.get(8..10) == Some(&[0x11, 0x13]);
    let (old, new) = (flows(state.discipline.termios()), flows(&termios));
    if old != new {
        let (add, remove) = if new { (packet::DOSTOP, packet::NOSTOP) } else { (packet::NOSTOP, packet::DOSTOP) };
        state.status = (state.status | add) & !remove;
    }
    state.discipline.set_termios(termios);
    drop(state);
    pty.slave_queue.wake(PollEvents::IN | PollEvents::OUT);
    pty.master_queue.wake(PollEvents::PRI | PollEvents::IN | PollEvents::OUT);
}

fn flush(pty: &Pty, what: u64) -> Result<u64, Errno> {
    if what > 2 {
        return Err(Errno::EINVAL);
    }
    let mut state = pty.state.lock();
    if what != 1 {
        state.discipline.flush_input();
        state.status |= packet::FLUSHREAD;
    }
    if what != 0 {
        state.output.skip(usize::MAX);
        state.status |= packet::FLUSHWRITE;
    }
    drop(state);
    pty.slave_queue.wake(PollEvents::OUT);
    pty.master_queue.wake(PollEvents::PRI | PollEvents::IN | PollEvents::OUT);
    Ok(0)
}

/// `TCXONC`: output is stopped (0) or started (1). 2 and 3 would send characters to a device; on a pty they go to the
/// master.
fn flow(pty: &Pty, what: u64) -> Result<u64, Errno> {
    let mut state = pty.state.lock();
    match what {
        0 | 1 => {
            if state.discipline.stopped() != (what == 0) {
                let (add, remove) = if what == 0 { (packet::STOP, packet::START) } else { (packet::START, packet::STOP) };
                state.status = (state.status | add) & !remove;
            }
            state.discipline.set_stopped(what == 0);
        }
        2 | 3 => {
            let at = if what == 2 { 9 } else { 8 };
            let byte = state.discipline.termios().cc.get(at).copied().filter(|&byte| byte != 0);
            if let Some(byte) = byte {
                let _ = state.output.fill(&mut &[byte][..], 1);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    drop(state);
    pty.slave_queue.wake(PollEvents::OUT);
    pty.master_queue.wake(PollEvents::PRI | PollEvents::IN);
    Ok(0)
}

/// `TIOCSIG`: the master sends a signal to the foreground.
fn signal(pty: &Pty, number: u64) -> Result<u64, Errno> {
    use crate::signal::Signal;
    let signal = i32::try_from(number).ok().and_then(Signal::new);
    let signal = signal.filter(|signal| [Signal::INT, Signal::QUIT, Signal::TSTP].contains(signal)).ok_or(Errno::EINVAL)?;
    let control = pty.state.lock().control.clone();
    control.signal(signal);
    Ok(0)
}

/// `TIOCGPTPEER`: the slave, as if its node had been opened.
fn open_peer(pty: &Arc<Pty>, master: &File, cx: &Cx, flags: OpenFlags) -> Result<u64, Errno> {
    let slave = pty.open_slave()?;
    if !flags.contains(OpenFlags::NOCTTY) {
        pty.adopt(cx);
    }
    let keep = OpenFlags::RDWR | OpenFlags::WRONLY | OpenFlags::NONBLOCK;
    let file = match crate::fs::devpts::slave_of(cx, master, pty.index) {
        Some(place) => File::new(slave as Arc<dyn FileOps>, Origin::Path(place), flags & keep),
        None => anon::file(cx, &Anon::Object("pts"), slave as Arc<dyn FileOps>, flags & keep),
    };
    install(cx, file, flags.contains(OpenFlags::CLOEXEC)).map(|fd| fd as u64)
}
