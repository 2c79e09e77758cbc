//! Stopping for a tracer, and going on (`ptrace_stop` of kernel/signal.c).

use platform::{Registers, XState};

use super::tracee::State;
use crate::signal::{Handling, SigFlags, SigInfo, Signal, cld};
use crate::syscalls::Restart;
use crate::task::{Cx, SyscallWork, Task, TaskFlags, ticks};
use crate::time::MonoTime;
use crate::wait::{PollEvents, Share, Sleep, wait_for};

/// A tracee that waits for its tracer.
pub(crate) struct Stop {
    /// What `wait` shows above `0x7f`: a signal, with an event or 0x80.
    pub code: i32,
    /// Whether a wait has seen it.
    pub reported: bool,
    /// `PTRACE_GETSIGINFO`; None in the group stop of one that was not seized.
    pub info: Option<SigInfo>,
    /// `PTRACE_GETEVENTMSG`.
    pub message: u64,
    pub syscall: SyscallInfo,
    pub registers: Registers,
    pub registers_changed: bool,
    pub extended: Extended,
    /// It goes on with this signal (0: none), when the tracer says so.
    pub resume: Option<i32>,
}

/// `PTRACE_GET_SYSCALL_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyscallInfo {
    None,
    Entry { number: u64, args: [u64; 6] },
    Exit { value: i64 },
    Seccomp { number: u64, args: [u64; 6], data: u32 },
}

/// The extended state: fetched when the tracer asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extended {
    Unknown,
    Wanted,
    Known(XState),
    Changed(XState),
}

/// What a stop is for.
pub(super) struct Report {
    pub code: i32,
    pub info: Option<SigInfo>,
    pub message: u64,
    pub syscall: SyscallInfo,
    /// The signal it goes on with when the tracer vanishes before it has seen the stop.
    pub signal: i32,
    pub why: Why,
    /// What `rax` shows, where that is not what the registers hold.
    pub rax: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// `CLD_TRAPPED`
    Trapped,
    /// Job control: `CLD_STOPPED`.
    JobControl,
    /// On the way out: a kill that was there before does not keep it from stopping.
    Exit,
}

/// How it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resumed {
    pub signal: i32,
    /// The tracer has written registers, which are in place.
    pub registers_changed: bool,
    /// The signal's information, as the tracer left it.
    pub info: Option<SigInfo>,
}

impl Report {
    pub fn trap(code: i32, message: u64) -> Report {
        Report { code, info: None, message, syscall: SyscallInfo::None, signal: 0, why: Why::Trapped, rax: None }
    }
}

enum Next {
    GoOn,
    FetchExtended,
    /// A listening one has news.
    Listened,
}

impl Cx {
    /// Stops until the tracer resumes the task, it loses its tracer, or is killed. Without a tracer it does not stop.
    pub(super) async fn stop_for_tracer(&mut self, report: Report) -> Resumed {
        let task = self.task.clone();
        let going_on = Resumed { signal: report.signal, registers_changed: false, info: report.info };
        let why = report.why;
        let mut registers = self.visible_registers();
        if let Some(rax) = report.rax {
            registers.rax = rax;
        }
        {
            let mut state = task.ptrace.lock();
            if state.tracer.strong_count() == 0 || why != Why::Exit && task.flags().contains(TaskFlags::KILLED) {
                return going_on;
            }
            state.listening = false;
            state.stop = Some(Stop {
                code: report.code,
                reported: false,
                info: report.info,
                message: report.message,
                syscall: report.syscall,
                registers,
                registers_changed: false,
                extended: Extended::Unknown,
                resume: None,
            });
        }
        task.tell_tracer(report.code, why);
        let sleep = if why == Why::Exit { Sleep::Uninterruptible } else { Sleep::Killable };
        loop {
            let queues = [(&task.ptrace.resumed, PollEvents::IN)];
            let next = || next(&mut task.ptrace.lock(), report.signal);
            let waited = wait_for(task.waiting(sleep, Share::All, MonoTime::NEVER), &queues, next).await;
            match waited {
                Ok(Next::FetchExtended) => self.show_extended().await,
                Ok(Next::GoOn | Next::Listened) | Err(_) => break,
            }
        }
        let stop = {
            let mut state = task.ptrace.lock();
            state.listening = false;
            state.stop.take()
        };
        // Whoever waits for the extended state waits no more.
        task.ptrace.served.wake(PollEvents::IN);
        let Some(stop) = stop else { return going_on };
        let registers_changed = stop.registers_changed;
        if registers_changed {
            self.take_registers(stop.registers);
        }
        if let Extended::Changed(state) = stop.extended {
            self.context.set_xstate(state);
        }
        Resumed { signal: stop.resume.unwrap_or(0), registers_changed, info: stop.info }
    }

    async fn show_extended(&mut self) {
        let fetched = self.xstate().await.unwrap_or_default();
        // Reading takes it out of the way back in some stops of the platform.
        self.context.set_xstate(fetched.clone());
        if let Some(stop) = &mut self.task.ptrace.lock().stop {
            stop.extended = Extended::Known(fetched);
        }
        self.task.ptrace.served.wake(PollEvents::IN);
    }

    /// The registers as Linux would have them saved: not inside a patched site's slot, and with a cut-short call's restart code.
    fn visible_registers(&self) -> Registers {
        let mut registers = *self.context.registers();
        if let Some(original) = self.mm.unmoved(registers.rip) {
            registers.rip = original;
        }
        if let Some((number, restart)) = self.cut_short() {
            registers.orig_rax = number;
            registers.rax = restart.code();
        }
        registers
    }

    /// Puts registers in place that a tracer has written.
    fn take_registers(&mut self, new: Registers) {
        let orig_rax = new.orig_rax;
        let registers = self.context.registers_mut();
        *registers = new;
        registers.sanitise();
        registers.orig_rax = orig_rax;
    }
}

/// What is next for a stopped task.
fn next(state: &mut State, signal: i32) -> Option<Next> {
    let listening_with_news = state.listening && (state.trap || state.notify);
    let gone = state.tracer.strong_count() == 0;
    let killed_again = state.killed_again;
    let stop = state.stop.as_mut()?;
    if stop.resume.is_some() || killed_again {
        return Some(Next::GoOn);
    }
    if gone {
        // What a wait has taken is the tracer's, and gone with it.
        stop.resume = Some(if stop.reported { 0 } else { signal });
        return Some(Next::GoOn);
    }
    if stop.extended == Extended::Wanted {
        return Some(Next::FetchExtended);
    }
    listening_with_news.then_some(Next::Listened)
}

impl Restart {
    /// What `rax` holds meanwhile.
    pub(crate) fn code(self) -> u64 {
        let code: i64 = match self {
            Restart::Sys => -512,
            Restart::Always => -513,
            Restart::NoHandler => -514,
            Restart::Block => -516,
        };
        code as u64
    }

    pub(crate) fn from_code(code: u64) -> Option<Restart> {
        match code as i64 {
            -512 => Some(Restart::Sys),
            -513 => Some(Restart::Always),
            -514 => Some(Restart::NoHandler),
            -516 => Some(Restart::Block),
            _ => None,
        }
    }
}

impl Task {
    /// `SIGCHLD` for the tracer, unless `SA_NOCLDSTOP`, and a look for its waits.
    fn tell_tracer(&self, code: i32, why: Why) {
        let Some(tracer) = self.tracer() else { return };
        let kind = if why == Why::JobControl { cld::STOPPED } else { cld::TRAPPED };
        let action = tracer.group.sighand().get(Signal::CHLD);
        if action.handling() != Handling::Ignore && !action.flags().contains(SigFlags::NOCLDSTOP) {
            let usage = self.usage();
            let info =
                SigInfo::child(kind, self.tid(), self.creds().uid, code & 0x7f, ticks(usage.user_ns), ticks(usage.system_ns));
            let _ = tracer.group.send_signal(info);
        }
        tracer.group.wake_waiters();
    }

    /// Lets a stopped tracee go on.
    pub(crate) fn resume_tracee(&self, signal: i32, work: SyscallWork) {
        let all = SyscallWork::SYSCALL_TRACE | SyscallWork::SYSCALL_EMU | SyscallWork::STEP;
        self.remove_work(all - work);
        self.add_work(work);
        if let Some(stop) = &mut self.ptrace.lock().stop {
            stop.resume = Some(signal);
        }
        self.ptrace.wake();
    }
}
