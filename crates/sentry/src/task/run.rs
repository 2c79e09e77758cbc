//! The life of a task: run until the next trap, handle it, run again.

use std::future::poll_fn;

use platform::{ExecutorId, Trap};

use super::Cx;
use crate::Errno;
use crate::syscalls::{Args, Fail, Flow, Outcome, Support, line};

/// Drives a task to its end.
pub async fn run(mut cx: Cx, executor: ExecutorId) {
    poll_fn(|poll| {
        let _ = cx.task.waker.set(poll.waker().clone());
        std::task::Poll::Ready(())
    })
    .await;
    loop {
        let trap = poll_fn(|poll| cx.context.poll_switch(poll, executor)).await;
        match trap {
            Trap::Syscall(call) => {
                cx.clear_deadline();
                let outcome = dispatch(&mut cx, call.number, Args(call.args)).await;
                match outcome {
                    Ok(value) => cx.context.set_return(value),
                    Err(Fail::Errno(errno)) => cx.context.set_return(errno.as_return() as u64),
                    Err(Fail::Restart(_)) => cx.context.set_return(Errno::EINTR.as_return() as u64),
                }
            }
            Trap::Fault(_) | Trap::Interrupted | Trap::Died(_) => return,
        }
    }
}

async fn dispatch(cx: &mut Cx, number: u64, args: Args) -> Outcome {
    let Some(line) = line(number) else { return Err(Errno::ENOSYS.into()) };
    match line.support {
        Support::Full(handler) | Support::Partial(handler, _) => match handler(cx, args) {
            Flow::Done(outcome) => outcome,
            Flow::Wait(future) => future.await,
        },
        Support::None(errno, _) => {
            cx.kernel().counters.unsupported(line);
            Err(errno.into())
        }
    }
}
