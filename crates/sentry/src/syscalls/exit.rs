//! `exit` and `exit_group`.

use super::{Args, Flow};
use crate::task::{Cx, ExitStatus};

pub(super) fn exit(cx: &mut Cx, args: Args) -> Flow<'_> {
    cx.exit = Some(ExitStatus::Exited(args.u64(0) as u8));
    Flow::Done(Ok(0))
}

pub(super) fn exit_group(cx: &mut Cx, args: Args) -> Flow<'_> {
    cx.task.exit_group(ExitStatus::Exited(args.u64(0) as u8));
    Flow::Done(Ok(0))
}
