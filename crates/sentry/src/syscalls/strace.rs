//! Traces of system calls, in strace's shape: name, arguments by their kinds in the table, result.

use std::fmt::Write;

use platform::Syscall;

use super::{Arg, Args, Fail, Flow, Outcome, line};
use crate::signal::Signal;
use crate::task::{Cx, dispatch};

/// Longest string that is shown.
const MAX_STRING: usize = 64;

/// Serves a call and logs it.
pub(crate) async fn traced(cx: &mut Cx, call: &Syscall) -> Outcome {
    // Arguments are read before the call: it may change what they point to.
    let text = describe(cx, call);
    let outcome = match dispatch(cx, call.number, Args(call.args)) {
        Flow::Done(outcome) => outcome,
        Flow::Wait(future) => future.await,
    };
    let result = match outcome {
        Ok(value) if value < 4096 => value.to_string(),
        Ok(value) => format!("{value:#x}"),
        Err(Fail::Errno(errno)) => format!("-1 {errno:?} ({})", errno.text()),
        Err(Fail::Restart(restart)) => format!("? (interrupted, {restart:?})"),
    };
    cx.task.container.life.trace(&format!("[{}] {text} = {result}", cx.task.tid()));
    outcome
}

fn describe(cx: &Cx, call: &Syscall) -> String {
    let Some(line) = line(call.number) else { return format!("syscall_{:#x}(…)", call.number) };
    let mut text = String::from(line.name);
    text.push('(');
    for (n, (arg, value)) in line.args.iter().zip(call.args).enumerate() {
        if n > 0 {
            text.push_str(", ");
        }
        argument(cx, &mut text, *arg, value);
    }
    text.push(')');
    text
}

fn argument(cx: &Cx, text: &mut String, arg: Arg, value: u64) {
    // Writing to a String cannot fail.
    let _ = match arg {
        Arg::DirFd if value as i32 == -100 => write!(text, "AT_FDCWD"),
        Arg::Fd | Arg::DirFd | Arg::Int => write!(text, "{}", value as i32),
        Arg::Uint | Arg::Size => write!(text, "{value}"),
        Arg::Hex => write!(text, "{value:#x}"),
        Arg::Mode => write!(text, "{:#o}", value as u32),
        Arg::Addr if value == 0 => write!(text, "NULL"),
        Arg::Addr => write!(text, "{value:#x}"),
        Arg::Signal => match Signal::new(value as i32) {
            Some(signal) => write!(text, "{signal:?}"),
            None => write!(text, "{}", value as i32),
        },
        Arg::Path => match cx.mm.read_cstr(value, 4096) {
            Ok(bytes) => {
                let shown = String::from_utf8_lossy(bytes.get(..MAX_STRING).unwrap_or(&bytes)).into_owned();
                write!(text, "{shown:?}{}", if bytes.len() > MAX_STRING { "..." } else { "" })
            }
            Err(_) => write!(text, "{value:#x}"),
        },
    };
}
