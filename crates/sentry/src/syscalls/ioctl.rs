//! ioctl: what is the same for all files; the rest goes to the file.

use linux_raw_sys::ioctl as codes;

use super::io::is_object;
use super::transfer::ready;
use super::{Args, Fail, Flow, fcntl};
use crate::Errno;
use crate::fs::{Direction, File, FileKind, OpenFlags};
use crate::ipc::async_io;
use crate::net::socket::SocketFile;
use crate::task::Cx;

/// Of any file (linux/fs.h, asm-generic/ioctls.h).
const FIGETBSZ: u32 = 2;
const FIOQSIZE: u32 = 0x5460;

/// Changes of a terminal's settings, which a background process may not make (`tty_check_change`).
const TERMINAL_CHANGES: [u32; 12] = [
    codes::TCSETS,
    codes::TCSETSW,
    codes::TCSETSF,
    codes::TCSETS2,
    codes::TCSETSW2,
    codes::TCSETSF2,
    codes::TCSETA,
    codes::TCSETAW,
    codes::TCSETAF,
    codes::TCXONC,
    codes::TCFLSH,
    codes::TIOCSPGRP,
];

pub fn sys_ioctl(cx: &mut Cx, args: Args) -> Flow<'_> {
    let (fd, command, argument) = (args.i32(0), args.u32(1), args.u64(2));
    let file = match cx.file(fd) {
        Ok(file) if !file.flags().contains(OpenFlags::PATH) => file,
        _ => return Flow::done(Err(Errno::EBADF)),
    };
    match command {
        codes::FIOCLEX => return Flow::done(cx.files.set_close_on_exec(fd, true).map(|()| 0)),
        codes::FIONCLEX => return Flow::done(cx.files.set_close_on_exec(fd, false).map(|()| 0)),
        codes::FIONBIO => return Flow::done(set_flag(cx, &file, argument, OpenFlags::NONBLOCK)),
        codes::FIOASYNC => return Flow::done(set_async(cx, fd, &file, argument)),
        codes::FIOSETOWN | codes::SIOCSPGRP if SocketFile::of(&file).is_some() => {
            let owner = cx.mm.read_val::<i32>(argument).and_then(|id| fcntl::own(cx, &file, id));
            return Flow::done(owner);
        }
        codes::FIOGETOWN | codes::SIOCGPGRP if SocketFile::of(&file).is_some() => {
            return Flow::done(cx.mm.write_val(argument, &fcntl::owner_of(cx, &file)).map(|()| 0));
        }
        _ => {}
    }
    if TERMINAL_CHANGES.contains(&command)
        && let Err(fail) = file.ops.admit(&file, cx, Direction::Control)
    {
        return Flow::Done(Err(fail));
    }
    match ready(file.ops.ioctl(&file, cx, command, argument)) {
        Some(Err(Errno::ENOTTY)) if command == codes::FIONREAD => Flow::wait(readable_bytes(cx, file, argument)),
        Some(Err(Errno::ENOTTY)) if command == FIGETBSZ => Flow::wait(block_size(cx, file, argument)),
        Some(Err(Errno::ENOTTY)) if command == FIOQSIZE => Flow::wait(bytes_on_disk(cx, file, argument)),
        Some(result) => Flow::done(result),
        None => Flow::wait(async move { file.ops.ioctl(&file, cx, command, argument).await.map_err(Fail::Errno) }),
    }
}

fn set_flag(cx: &Cx, file: &File, argument: u64, flag: OpenFlags) -> Result<u64, Errno> {
    let on = cx.mm.read_val::<i32>(argument)? != 0;
    let flags = file.flags();
    file.set_flags(if on { flags | flag } else { flags - flag });
    Ok(0)
}

fn set_async(cx: &Cx, fd: i32, file: &std::sync::Arc<File>, argument: u64) -> Result<u64, Errno> {
    let on = cx.mm.read_val::<i32>(argument)? != 0;
    match (file.flags().contains(OpenFlags::ASYNC), on) {
        (false, true) | (true, false) if !async_io::possible(file) => return Err(Errno::ENOTTY),
        (false, true) => async_io::start(cx, file, fd),
        (true, false) => async_io::stop(file),
        _ => {}
    }
    let flags = file.flags();
    file.set_flags(if on { flags | OpenFlags::ASYNC } else { flags - OpenFlags::ASYNC });
    Ok(0)
}

/// `FIGETBSZ`: the file system's block size.
async fn block_size(cx: &mut Cx, file: std::sync::Arc<File>, addr: u64) -> super::Outcome {
    let metadata = file.inode().metadata().await?;
    cx.mm.write_val(addr, &metadata.block_size)?;
    Ok(0)
}

/// `FIOQSIZE`: what a file, directory or link takes of the disk.
async fn bytes_on_disk(cx: &mut Cx, file: std::sync::Arc<File>, addr: u64) -> super::Outcome {
    let metadata = file.inode().metadata().await?;
    let has_size = matches!(metadata.kind, FileKind::Regular | FileKind::Directory | FileKind::Symlink);
    if !has_size || is_object(&file) {
        return Err(Errno::ENOTTY.into());
    }
    cx.mm.write_val(addr, &metadata.blocks.saturating_mul(512))?;
    Ok(0)
}

/// `FIONREAD` of a regular file: what is left to its end.
async fn readable_bytes(cx: &mut Cx, file: std::sync::Arc<File>, addr: u64) -> super::Outcome {
    let metadata = file.inode().metadata().await?;
    if metadata.kind != FileKind::Regular || !file.ops.seekable() {
        return Err(Errno::ENOTTY.into());
    }
    let position = *file.position.lock();
    let left = metadata.size.saturating_sub(position).min(i32::MAX as u64) as i32;
    cx.mm.write_val(addr, &left)?;
    Ok(0)
}
