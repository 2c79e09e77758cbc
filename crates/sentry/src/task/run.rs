//! The life of a task: run until the next trap, handle it, run again.
//!
//! On the way to user mode it looks at its [`TaskFlags`] (one load when there is nothing to do): it ends, stops, takes signals, takes
//! back a temporary mask. A system call that a signal cut short is run again here with its saved arguments, or, if a handler is
//! to run, ends with `EINTR` or is set up to be made again after the handler, by Linux's rules.
//!
//! `in_user` and the flags are written in opposite orders by the task and by who kicks it, so no kick is lost: the task sets `in_user` and
//! then reads the flags; the other sets flags and then reads `in_user`.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;

use platform::{Entry, ExecutorId, Fault, Syscall, Trap};

use super::cx::CutShort;
use super::oom::repeats;
use super::{Cx, ExitStatus, SyscallWork, TaskFlags};
use crate::Errno;
use crate::executor::yield_now;
use crate::mm::FaultOutcome;
use crate::signal::{Caught, Delivery, LastFault, SigFlags, SigInfo, Signal};
use crate::syscalls::{Fail, Flow, Outcome, Restart};
use crate::wait::PollEvents;

/// After so many traps without a pause, other tasks of the executor get a turn.
const TRAPS_PER_TURN: u32 = 64;

/// `X86_EFLAGS_TF`.
const TRAP_FLAG: u64 = 0x100;

/// The page of the old system calls.
const VSYSCALL_PAGE: std::ops::Range<u64> = 0xffff_ffff_ff60_0000..0xffff_ffff_ff60_1000;

/// Drives a task to its end.
pub async fn run(mut cx: Cx, executor: ExecutorId) {
    cx.executor = executor;
    poll_fn(|poll| {
        let _ = cx.task.waker.set(poll.waker().clone());
        std::task::Poll::Ready(())
    })
    .await;
    cx.publish();
    let task = cx.task.clone();
    let status = {
        let mut life = pin!(live(&mut cx));
        poll_fn(|poll| {
            task.activity.take_up();
            let polled = life.as_mut().poll(poll);
            task.activity.put_down();
            polled
        })
        .await
    };
    super::exit::exit(cx, status).await;
}

async fn live(cx: &mut Cx) -> ExitStatus {
    let mut traps = 0;
    loop {
        if let Some(info) = cx.fatal.take() {
            return cx.die_of(&info).await;
        }
        if !cx.task.flags().is_empty() {
            match cx.before_user().await {
                BeforeUser::Go => {}
                BeforeUser::Handler(caught) => {
                    cx.call_handler(&caught).await;
                    cx.trace_step().await;
                    continue;
                }
                BeforeUser::Exit(status) => return status,
            }
        }
        if let Some(CutShort { mut call, restart }) = cx.cut_short.take() {
            // No handler runs: once more, with the arguments as they were.
            if let Some(status) = cx.take_exit() {
                return status;
            }
            let site = cx.site(&call);
            cx.rerun = Some(restart);
            let outcome = match cx.begin_call(&mut call) {
                Flow::Done(outcome) => outcome,
                Flow::Wait(future) => future.await,
            };
            cx.rerun = None;
            cx.end_call(&call, site, outcome);
            if cx.cut_short.is_some() && cx.task.flags().is_empty() {
                yield_now().await;
            }
            continue;
        }
        if let Some(status) = cx.take_exit() {
            return status;
        }
        if !cx.enter_user() {
            continue;
        }
        let stepping = cx.begin_step();
        let trap = {
            let (context, executor, activity) = (&mut cx.context, cx.executor, &cx.task.activity);
            poll_fn(|poll| {
                activity.put_down();
                let polled = context.poll_switch(poll, executor);
                activity.take_up();
                if polled.is_pending() {
                    traps = 0;
                }
                polled
            })
            .await
        };
        cx.task.in_user.store(false, Ordering::Release);
        if stepping {
            cx.end_step();
        }
        match trap {
            // This path is the hot one: a call that is done at once takes no allocation and no lock here.
            Trap::Syscall(mut call) if call.entry != Entry::Foreign => {
                cx.clear_deadline();
                cx.has_run_on();
                let site = cx.site(&call);
                let outcome = match cx.begin_call(&mut call) {
                    Flow::Done(outcome) => outcome,
                    Flow::Wait(future) => future.await,
                };
                cx.end_call(&call, site, outcome);
            }
            Trap::Syscall(_) => cx.foreign_call(),
            Trap::Fault(fault) => cx.fault(&fault),
            Trap::Interrupted => {
                let rip = cx.context.registers().rip;
                if let Some(moved) = cx.mm.moved(rip) {
                    cx.context.registers_mut().rip = moved;
                }
            }
            Trap::Died(death) => {
                tracing::warn!(pid = cx.task.tgid(), tid = cx.task.tid(), %death, "an application thread died");
                let mut inner = cx.task.group.inner.lock();
                inner.oom_killed |= cx.mm.is_broken();
                inner.begin_exit(ExitStatus::killed(Signal::KILL));
            }
        }
        traps += 1;
        if traps >= TRAPS_PER_TURN {
            traps = 0;
            cx.task.activity.yielded();
            yield_now().await;
        }
    }
}

enum BeforeUser {
    Go,
    /// Push a frame, then look again.
    Handler(Caught),
    Exit(ExitStatus),
}

impl Cx {
    /// Says that the context is about to be in user mode. False when there is something to do first.
    fn enter_user(&mut self) -> bool {
        self.task.in_user.store(true, Ordering::SeqCst);
        let go = self.task.flags().is_empty();
        if !go {
            self.task.in_user.store(false, Ordering::Relaxed);
        }
        go
    }

    /// The status to end with, if the task is to end: by its own `exit`, or because it is being killed.
    fn take_exit(&mut self) -> Option<ExitStatus> {
        if let Some(status) = self.exit.take() {
            return Some(status);
        }
        self.task.flags().contains(TaskFlags::KILLED).then(|| {
            // A sibling's exec ends threads without a status of their own.
            self.task.group.inner.lock().exiting.unwrap_or(ExitStatus::killed(Signal::KILL))
        })
    }

    /// The work that the flags ask for.
    async fn before_user(&mut self) -> BeforeUser {
        loop {
            if let Some(status) = self.take_exit() {
                return BeforeUser::Exit(status);
            }
            let flags = self.task.flags();
            if flags.contains(TaskFlags::IDENTITY) {
                self.task.clear(TaskFlags::IDENTITY);
                self.set_identity();
            } else if flags.contains(TaskFlags::STOP) {
                self.stop_here().await;
            } else if flags.contains(TaskFlags::SIGNAL) {
                match self.next_signal().await {
                    Delivery::None => {}
                    Delivery::Handler(caught) => return BeforeUser::Handler(caught),
                    Delivery::Stop { signal, continues } => self.task.group.begin_stop(signal, continues),
                    Delivery::Exit(info) => return BeforeUser::Exit(self.die_of(&info).await),
                }
            } else if flags.contains(TaskFlags::BARRIER) {
                self.task.clear(TaskFlags::BARRIER);
                self.kernel().barriers.wake(PollEvents::IN);
            } else if flags.contains(TaskFlags::MEMORY) {
                Box::pin(self.find_memory()).await;
            } else if flags.contains(TaskFlags::RESTORE_MASK) {
                self.restore_mask();
            } else if flags.contains(TaskFlags::THROTTLE) {
                Box::pin(self.wait_for_cpu_time()).await;
            } else {
                return BeforeUser::Go;
            }
        }
    }

    /// Pushes a frame for a handler.
    async fn call_handler(&mut self, caught: &Caught) {
        if let Some(cut) = self.cut_short.take() {
            self.end_cut_short(&cut, caught);
        }
        let pushed = loop {
            self.forget_shortages();
            let pushed = self.push_frame(caught).await;
            if pushed.is_ok() || !self.was_short() || !self.found_memory().await {
                break pushed;
            }
        };
        if pushed.is_err() {
            // The frame does not fit: SIGSEGV, and if that was it, by default.
            if caught.info.signal == Signal::SEGV {
                self.task.group.sighand().set(Signal::SEGV, crate::signal::SigAction::default());
            }
            self.task.force_signal(SigInfo::kernel(Signal::SEGV));
        }
    }

    /// A handler runs: the call it interrupted fails with `EINTR`, or is made again by the application after the handler.
    fn end_cut_short(&mut self, cut: &CutShort, caught: &Caught) {
        let again = match cut.restart {
            Restart::Always => true,
            Restart::Sys => caught.action.flags().contains(SigFlags::RESTART),
            Restart::NoHandler | Restart::Block => false,
        };
        let again_at = self.mm.call_again_at(self.context.registers().rip);
        let registers = self.context.registers_mut();
        if again {
            registers.rax = cut.call.number;
            registers.rip = again_at;
        } else {
            registers.rax = Errno::EINTR.as_return() as u64;
        }
    }

    /// The next thing that runs in user mode is a single instruction, if the tracer wants that.
    fn begin_step(&mut self) -> bool {
        let step = self.task.work().contains(SyscallWork::STEP);
        if step {
            self.context.registers_mut().eflags |= TRAP_FLAG;
        }
        step
    }

    fn end_step(&mut self) {
        let registers = self.context.registers_mut();
        registers.eflags &= !TRAP_FLAG;
        // Where the instruction was a system call.
        registers.r11 &= !TRAP_FLAG;
    }

    /// The address after the instruction of a call that may be patched. (To read the registers of one that is costs two lines of memory that are in
    /// the other processor's cache.)
    fn site(&self, call: &Syscall) -> Option<u64> {
        (call.entry == Entry::Trapped).then(|| self.context.registers().rip)
    }

    /// Puts the result of a system call into the registers, or keeps it when it was cut short and is to be run again.
    fn end_call(&mut self, call: &Syscall, site: Option<u64>, outcome: Outcome) {
        let value = match outcome {
            Ok(value) => value,
            Err(Fail::Errno(errno)) => {
                if errno == Errno::EFAULT && self.mm.is_broken() {
                    self.task.group.kill_out_of_memory();
                } else if errno == Errno::EFAULT && self.was_short() {
                    if repeats(call.number) {
                        // Once there is memory: again.
                        self.wants_memory();
                        self.cut_short = Some(CutShort { call: *call, restart: Restart::Always });
                        return;
                    }
                    tracing::info!(
                        pid = self.task.tgid(),
                        call = call.number,
                        "there is no memory for what a system call has to tell: the process is killed"
                    );
                    self.task.group.kill_out_of_memory();
                }
                errno.as_return() as u64
            }
            Err(Fail::Restart(restart)) => {
                self.cut_short = Some(CutShort { call: *call, restart });
                return;
            }
        };
        self.context.set_return(value);
        // The signal that cut it short is delivered with the temporary mask (`restore_saved_sigmask_unless`).
        let interrupted = value == Errno::EINTR.as_return() as u64;
        if self.task.flags().contains(TaskFlags::RESTORE_MASK) && !interrupted {
            self.restore_mask();
        }
        // Not where exec or `rt_sigreturn` has gone elsewhere.
        if let Some(site) = site
            && self.context.registers().rip == site
            && let Some(moved) = self.mm.patch(site, call.number)
        {
            self.context.registers_mut().rip = moved;
        }
    }

    /// `int 0x80` and the like: no such call. A jump to the vsyscall page: no such page.
    fn foreign_call(&mut self) {
        let rip = self.context.registers().rip;
        if VSYSCALL_PAGE.contains(&rip) {
            self.task.force_signal(SigInfo::fault(Signal::SEGV, 1, rip));
        } else {
            self.context.set_return(Errno::ENOSYS.as_return() as u64);
        }
    }

    fn fault(&mut self, fault: &Fault) {
        self.task.container.traps.fault(self.executor);
        let rip = self.context.registers().rip;
        match self.mm.fault(fault, rip) {
            FaultOutcome::Resume => {}
            FaultOutcome::MovedTo(rip) => self.context.registers_mut().rip = rip,
            FaultOutcome::Signal { signo, code, addr } => {
                self.last_fault = LastFault { error: fault.error, trap: fault.trap, addr };
                let signal = Signal::new(signo).unwrap_or(Signal::SEGV);
                self.task.force_signal(SigInfo::fault(signal, code, addr));
            }
            FaultOutcome::OutOfMemory => self.wants_memory(),
            FaultOutcome::Broken => self.task.group.kill_out_of_memory(),
        }
    }
}
