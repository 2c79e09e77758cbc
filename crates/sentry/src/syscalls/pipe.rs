//! pipe and pipe2.

use super::fds::install_pair;
use super::{Args, Flow};
use crate::Errno;
use crate::fs::OpenFlags;
use crate::ipc::pipe;
use crate::task::Cx;

pub fn sys_pipe(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(make(cx, args.u64(0), OpenFlags::empty()))
}

pub fn sys_pipe2(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(make(cx, args.u64(0), OpenFlags::from_bits_retain(args.u32(1))))
}

fn make(cx: &Cx, addr: u64, flags: OpenFlags) -> Result<u64, Errno> {
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT).contains(flags) {
        return Err(Errno::EINVAL);
    }
    install_pair(cx, pipe::pair(cx, flags), flags.contains(OpenFlags::CLOEXEC), addr)
}
