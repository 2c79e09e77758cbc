//! The stops there are: system calls, events, signals, job control.

use platform::{Entry, Syscall};

use super::stop::{Report, Resumed, Why};
use super::{EVENT_STOP, Options, SYSGOOD, SyscallInfo, TRAP};
use crate::Errno;
use crate::signal::{SigInfo, Signal};
use crate::syscalls::{Fail, Outcome, Restart};
use crate::task::{CloneArgs, CloneFlags, Cx, ExitStatus, SyscallWork, Task};

/// `PTRACE_EVENT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Event {
    Fork = 1,
    Vfork = 2,
    Clone = 3,
    Exec = 4,
    VforkDone = 5,
    Exit = 6,
    Seccomp = 7,
}

impl Event {
    pub(super) fn option(self) -> Option<Options> {
        Options::from_bits(1 << self as u64)
    }

    /// Of a clone that asks for this (`kernel_clone`).
    pub(crate) fn of_clone(args: &CloneArgs) -> Option<Event> {
        match () {
            () if args.flags.contains(CloneFlags::UNTRACED) => None,
            () if args.flags.contains(CloneFlags::VFORK) => Some(Event::Vfork),
            () if args.exit_signal != Some(Signal::CHLD) => Some(Event::Clone),
            () => Some(Event::Fork),
        }
    }
}

/// Where in a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Entry = 1,
    Exit = 2,
}

impl Task {
    /// Whether its tracer wants to hear of an event.
    pub(crate) fn wants_event(&self, event: Event) -> bool {
        self.traced() && self.ptrace.lock().wants(event)
    }
}

impl Cx {
    /// `siginfo` of a stop that is no signal's.
    fn stop_info(&self, signal: Signal, code: i32) -> SigInfo {
        SigInfo::user(signal, self.task.tid(), self.creds().uid).with_code(code)
    }

    /// An event, if the tracer wants to hear of it.
    pub(crate) async fn trace_event(&mut self, event: Event, message: u64) {
        if self.task.wants_event(event) {
            self.report_event(event, message, SyscallInfo::None).await;
        }
    }

    async fn report_event(&mut self, event: Event, message: u64, syscall: SyscallInfo) {
        let code = TRAP | (event as i32) << 8;
        let why = if event == Event::Exit { Why::Exit } else { Why::Trapped };
        let info = Some(self.stop_info(Signal::TRAP, code));
        // Inside a call that has no result yet.
        let rax = (event != Event::Exit).then_some(Errno::ENOSYS.as_return() as u64);
        self.stop_for_tracer(Report { info, syscall, why, rax, ..Report::trap(code, message) }).await;
    }

    /// The program has been replaced: an event, or for a tracer of the old kind that did not ask, a `SIGTRAP`.
    pub(crate) async fn trace_exec(&mut self, old_tid: i32) {
        if self.task.wants_event(Event::Exec) {
            self.report_event(Event::Exec, old_tid as u64, SyscallInfo::None).await;
        } else if self.task.traced() && !self.task.seized() {
            let _ = self.task.send_signal(SigInfo::user(Signal::TRAP, self.task.tgid(), self.creds().uid));
        }
    }

    /// The task ends; its memory is still there.
    pub(crate) async fn trace_exit(&mut self, status: ExitStatus) {
        self.trace_event(Event::Exit, status.wait_status().into()).await;
    }

    /// A filter asks the tracer. None: nobody wants to know. Then what has become of the call.
    pub(crate) async fn trace_seccomp(&mut self, call: &mut Syscall, data: u16) -> Option<Called> {
        if !self.task.wants_event(Event::Seccomp) {
            return None;
        }
        let syscall = SyscallInfo::Seccomp { number: call.number, args: call.args, data: data.into() };
        let code = TRAP | (Event::Seccomp as i32) << 8;
        let info = Some(self.stop_info(Signal::TRAP, code));
        let report = Report { info, syscall, rax: Some(Errno::ENOSYS.as_return() as u64), ..Report::trap(code, data.into()) };
        let resumed = self.stop_for_tracer(report).await;
        Some(self.called(call, resumed))
    }

    /// The beginning of a system call. The tracer may change number and arguments.
    pub(crate) async fn trace_entry(&mut self, call: &mut Syscall) -> Called {
        let syscall = SyscallInfo::Entry { number: call.number, args: call.args };
        let resumed = self.report_syscall(Side::Entry, syscall, Errno::ENOSYS.as_return() as u64).await;
        self.called(call, resumed)
    }

    /// The end of a system call. The tracer may change its result.
    pub(crate) async fn trace_result(&mut self, outcome: Outcome) -> Outcome {
        let value = match outcome {
            Ok(value) => value,
            Err(Fail::Errno(errno)) => errno.as_return() as u64,
            Err(Fail::Restart(restart)) => restart.code(),
        };
        let resumed = self.report_syscall(Side::Exit, SyscallInfo::Exit { value: value as i64 }, value).await;
        if !resumed.registers_changed {
            return outcome;
        }
        let registers = self.context.registers();
        match Restart::from_code(registers.rax) {
            Some(restart) if registers.orig_rax as i64 >= 0 => Err(Fail::Restart(restart)),
            _ => Ok(registers.rax),
        }
    }

    async fn report_syscall(&mut self, side: Side, syscall: SyscallInfo, rax: u64) -> Resumed {
        let good = self.task.ptrace.lock().options.contains(Options::TRACESYSGOOD);
        let code = if good { TRAP | SYSGOOD } else { TRAP };
        let info = Some(self.stop_info(Signal::TRAP, code));
        let resumed = self.stop_for_tracer(Report { info, syscall, rax: Some(rax), ..Report::trap(code, side as u64) }).await;
        // A signal given here is sent, not delivered in place of one.
        if let Some(signal) = Signal::new(resumed.signal) {
            let _ = self.task.send_signal(SigInfo::kernel(signal));
        }
        resumed
    }

    /// What the tracer has made of a call.
    fn called(&mut self, call: &mut Syscall, resumed: Resumed) -> Called {
        if !resumed.registers_changed {
            return Called::Go;
        }
        let r = self.context.registers();
        *call = Syscall { number: r.orig_rax, args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], ..*call };
        if call.number as i32 == -1 { Called::Skip(r.rax) } else { Called::Go }
    }

    /// A signal is about to be delivered: the tracer sees it first. None: it is not delivered (now).
    pub(crate) async fn trace_signal(&mut self, info: SigInfo) -> Option<SigInfo> {
        let number = info.signal.number();
        let resumed = self.stop_for_tracer(Report { info: Some(info), signal: number, ..Report::trap(number, 0) }).await;
        self.registers_written(resumed);
        let signal = Signal::new(resumed.signal)?;
        let info = match resumed.info {
            Some(info) if info.signal == signal => info,
            _ => {
                let (pid, uid) = self.task.tracer().map_or((0, 0), |tracer| (tracer.tgid(), tracer.creds().uid));
                SigInfo::user(signal, pid, uid)
            }
        };
        if self.task.own_signals().1.contains(signal) {
            let _ = self.task.send_signal(info);
            return None;
        }
        Some(info)
    }

    /// After a stop on the way to user mode: registers that the tracer has written decide whether a call is to be run again.
    fn registers_written(&mut self, resumed: Resumed) {
        if resumed.registers_changed {
            let r = *self.context.registers();
            let restart = Restart::from_code(r.rax).filter(|_| r.orig_rax as i64 >= 0);
            let call = Syscall { number: r.orig_rax, args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], entry: Entry::Patched };
            self.set_cut_short(restart.map(|restart| (call, restart)));
        }
    }

    /// Job control, or what the tracer has asked for by INTERRUPT (`do_jobctl_trap`). `stop_signal`: of the group stop that is in effect.
    pub(crate) async fn trace_job_control(&mut self, stop_signal: Option<Signal>) {
        let report = match (self.task.seized(), stop_signal) {
            (true, signal) => {
                let signal = signal.unwrap_or(Signal::TRAP);
                let code = signal.number() | EVENT_STOP << 8;
                Report { info: Some(self.stop_info(signal, code)), ..Report::trap(code, 0) }
            }
            (false, signal) => Report::trap(signal.unwrap_or(Signal::STOP).number(), 0),
        };
        let resumed = self.stop_for_tracer(Report { why: Why::JobControl, ..report }).await;
        self.registers_written(resumed);
    }

    /// One instruction has been run, or a handler entered: `SIGTRAP` that is no signal.
    pub(crate) async fn trace_step(&mut self) {
        if self.task.work().contains(SyscallWork::STEP) {
            let info = Some(self.stop_info(Signal::TRAP, TRAP));
            let resumed = self.stop_for_tracer(Report { info, ..Report::trap(TRAP, 0) }).await;
            self.registers_written(resumed);
        }
    }
}

/// Whether a call goes on after its tracer has looked at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    Go,
    /// It is not made; this is its result.
    Skip(u64),
}
