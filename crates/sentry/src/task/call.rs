//! The way of a system call to its handler: past the tracer, past the filters, and back by the tracer (`syscall_trace_enter` and
//! `syscall_exit_work` of kernel/entry/common.c).

use std::sync::atomic::Ordering;

use platform::Syscall;

use super::{Cx, SyscallWork, TaskFlags};
use crate::Errno;
use crate::ptrace::Called;
use crate::seccomp::{Asked, Verdict};
use crate::signal::{SigInfo, Signal};
use crate::syscalls::{Args, Flow, Outcome, Restart, Support, line, strace};

/// What a call that waited until a deadline is called when it is run again.
const RESTART_SYSCALL: u64 = 219;
/// `TRAP_BRKPT`
const TRAP_BRKPT: i32 = 1;

impl Cx {
    /// Calls the handler of a system call, if nobody is against it. A tracer may change the call.
    pub(super) fn begin_call<'a>(&'a mut self, call: &'a mut Syscall) -> Flow<'a> {
        self.forget_shortages();
        let work = self.task.work();
        if work.intersects(SyscallWork::SLOW) || work.contains(SyscallWork::TRACED | SyscallWork::SECCOMP) {
            return Flow::wait(self.slow_call(call));
        }
        if work.contains(SyscallWork::SECCOMP) && self.rerun != Some(Restart::Block) {
            match self.seccomp_judge(call, Asked::No) {
                Verdict::Allow => {}
                Verdict::Skip(value) => return Flow::Done(Ok(value)),
                // Nobody traces.
                Verdict::Trace(_) => return Flow::done(Err(Errno::ENOSYS)),
            }
        }
        self.make_call(call)
    }

    fn make_call(&mut self, call: &Syscall) -> Flow<'_> {
        if self.task.container.life.strace.load(Ordering::Relaxed) {
            let call = *call;
            return Flow::wait(async move { strace::traced(self, &call).await });
        }
        dispatch(self, call.number, Args(call.args))
    }

    async fn slow_call(&mut self, call: &mut Syscall) -> Outcome {
        let work = self.task.work();
        let mut result = None;
        if work.intersects(SyscallWork::SYSCALL_TRACE | SyscallWork::SYSCALL_EMU) {
            result = self.show_entry(call).await;
            if work.contains(SyscallWork::SYSCALL_EMU) && result.is_none() {
                result = Some(self.context.registers().rax).filter(|&rax| rax != call.number);
                result = result.or(Some(Errno::ENOSYS.as_return() as u64));
            }
        }
        if self.task.flags().contains(TaskFlags::KILLED) {
            return Err(Errno::ENOSYS.into());
        }
        if result.is_none() && self.rerun != Some(Restart::Block) {
            result = self.filter_traced(call).await;
        }
        let outcome = match result {
            Some(value) => Ok(value),
            None => match self.make_call(call) {
                Flow::Done(outcome) => outcome,
                Flow::Wait(future) => future.await,
            },
        };
        if self.exit.is_some() || self.fatal.is_some() || self.task.flags().contains(TaskFlags::KILLED) {
            return outcome;
        }
        let work = self.task.work();
        if work.contains(SyscallWork::STEP) {
            self.task.force_signal(SigInfo::fault(Signal::TRAP, TRAP_BRKPT, self.context.registers().rip));
        } else if work.contains(SyscallWork::SYSCALL_TRACE) {
            return self.trace_result(outcome).await;
        }
        outcome
    }

    /// The stop at the entry. Some: the call is not made, and gives this.
    async fn show_entry(&mut self, call: &mut Syscall) -> Option<u64> {
        let real = call.number;
        let again = self.rerun == Some(Restart::Block);
        if again {
            call.number = RESTART_SYSCALL;
        }
        self.context.registers_mut().orig_rax = call.number;
        let called = self.trace_entry(call).await;
        if again && call.number == RESTART_SYSCALL {
            call.number = real;
        }
        match called {
            Called::Go => None,
            Called::Skip(value) => Some(value),
        }
    }

    /// Asks the filters, and the tracer if a filter says so. Some: the call is not made, and gives this.
    async fn filter_traced(&mut self, call: &mut Syscall) -> Option<u64> {
        let data = match self.seccomp_judge(call, Asked::No) {
            Verdict::Allow => return None,
            Verdict::Skip(value) => return Some(value),
            Verdict::Trace(data) => data,
        };
        match self.trace_seccomp(call, data).await {
            None => return Some(Errno::ENOSYS.as_return() as u64),
            Some(Called::Skip(value)) => return Some(value),
            Some(Called::Go) => {}
        }
        match self.seccomp_judge(call, Asked::Yes) {
            Verdict::Allow | Verdict::Trace(_) => None,
            Verdict::Skip(value) => Some(value),
        }
    }
}

/// Calls a handler by its number.
pub(crate) fn dispatch(cx: &mut Cx, number: u64, args: Args) -> Flow<'_> {
    cx.task.container.traps.call(cx.executor, number);
    let Some(line) = line(number) else { return Flow::done(Err(Errno::ENOSYS)) };
    match line.support {
        Support::Full(handler) | Support::Partial(handler, _) => handler(cx, args),
        Support::None(errno, _) => {
            cx.kernel().counters.unsupported(line);
            Flow::done(Err(errno))
        }
    }
}
