//! What a filter's answer does to the call and to the task (`__seccomp_filter`).

use platform::Syscall;

use super::{ARCH, Data, Mode, ret};
use crate::Errno;
use crate::signal::{SigInfo, Signal};
use crate::task::{Cx, ExitStatus};

/// Whether a call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    /// It is not made; this is its result.
    Skip(u64),
    /// A tracer that asked for it is to be told, with this much data; the call it leaves is to be judged once more.
    Trace(u16),
}

/// What strict mode allows: read, write, `rt_sigreturn`, exit.
const STRICT: [u64; 4] = [0, 1, 15, 60];

/// The largest errno (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// Whether the tracer has been asked about this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    No,
    Yes,
}

impl Cx {
    /// Judges a call by the task's mode and filters.
    pub(crate) fn seccomp_judge(&mut self, call: &Syscall, asked: Asked) -> Verdict {
        let state = self.task.seccomp.lock();
        let (answer, log) = match (state.mode, &state.filter) {
            (Mode::Disabled, _) => return Verdict::Allow,
            (Mode::Strict, _) => {
                drop(state);
                return self.strict(call);
            }
            (Mode::Filter, Some(filter)) if filter.always_allows(call.number) => return Verdict::Allow,
            (Mode::Filter, Some(filter)) => filter.run(&Data {
                number: call.number as i32,
                instruction_pointer: self.context.registers().rip,
                args: call.args,
            }),
            (Mode::Filter, None) => return Verdict::Allow,
        };
        drop(state);
        let data = answer & ret::DATA;
        let action = answer & ret::ACTION;
        if action == ret::LOG || log && action != ret::ALLOW {
            self.log(call, answer);
        }
        match action {
            ret::ALLOW | ret::LOG => Verdict::Allow,
            ret::ERRNO => Verdict::Skip((-i64::from(data.min(MAX_ERRNO))) as u64),
            ret::TRAP => {
                self.task.force_signal(self.sigsys(call, data));
                Verdict::Skip(call.number)
            }
            ret::TRACE if asked == Asked::Yes => Verdict::Allow,
            ret::TRACE => Verdict::Trace(data as u16),
            // Nobody listens.
            ret::USER_NOTIF => Verdict::Skip(Errno::ENOSYS.as_return() as u64),
            ret::KILL_THREAD if self.task.group.threads().len() > 1 => {
                self.log(call, answer);
                self.exit = Some(ExitStatus::killed(Signal::SYS));
                Verdict::Skip(call.number)
            }
            // Whatever else it said.
            _ => {
                self.log(call, answer);
                self.fatal = Some(self.sigsys(call, data));
                Verdict::Skip(call.number)
            }
        }
    }

    fn strict(&mut self, call: &Syscall) -> Verdict {
        if STRICT.contains(&call.number) {
            return Verdict::Allow;
        }
        self.log(call, ret::KILL_THREAD);
        self.exit = Some(ExitStatus::killed(Signal::KILL));
        Verdict::Skip(call.number)
    }

    fn sigsys(&self, call: &Syscall, data: u32) -> SigInfo {
        SigInfo::seccomp(self.context.registers().rip, call.number as i32, ARCH, data as i32)
    }

    fn log(&self, call: &Syscall, answer: u32) {
        tracing::debug!(pid = self.task.tgid(), tid = self.task.tid(), number = call.number, "seccomp: {answer:#010x}");
    }
}
