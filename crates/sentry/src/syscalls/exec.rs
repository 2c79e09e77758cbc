//! execve and execveat.

use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::ResolveFlags;
use crate::fs::open::open_exec;
use crate::fs::walk::{AT_FDCWD, PATH_MAX};
use crate::loader::{self, Request};
use crate::task::{Cx, Resource, exec_creds};

const AT_EMPTY_PATH: u32 = 0x1000;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;

/// Most arguments or variables (`MAX_ARG_STRINGS` is more; memory ends before).
const STRINGS_MAX: usize = 1 << 20;
/// Longest of them (`MAX_ARG_STRLEN`).
const STRING_MAX: usize = 32 * 4096;
/// All together, before the stack limit is applied.
const TOTAL_MAX: usize = 8 << 20;

pub(super) fn execve(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(exec_from_memory(cx, AT_FDCWD, [args.u64(0), args.u64(1), args.u64(2)], 0))
}

pub(super) fn execveat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(exec_from_memory(cx, args.i32(0), [args.u64(1), args.u64(2), args.u64(3)], args.u32(4)))
}

async fn exec_from_memory(cx: &mut Cx, dirfd: i32, [path, argv, envp]: [u64; 3], flags: u32) -> Outcome {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = cx.mm.read_cstr(path, PATH_MAX)?;
    if path.is_empty() && flags & AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT.into());
    }
    let mut left = TOTAL_MAX;
    let argv = read_strings(cx, argv, &mut left)?;
    let envp = read_strings(cx, envp, &mut left)?;
    let mut resolve = ResolveFlags::empty();
    resolve.set(ResolveFlags::NOFOLLOW, flags & AT_SYMLINK_NOFOLLOW != 0);
    resolve.set(ResolveFlags::EMPTY_PATH, flags & AT_EMPTY_PATH != 0);
    cx.exec(dirfd, path, resolve, argv, envp).await?;
    // The new program's registers are set; `rax` is 0 in them.
    Ok(0)
}

/// An array of pointers to strings, ended by a null pointer.
fn read_strings(cx: &Cx, array: u64, left: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    if array == 0 {
        return Ok(strings);
    }
    for n in 0..STRINGS_MAX {
        let pointer: u64 = cx.mm.read_val(array.saturating_add(n as u64 * 8))?;
        if pointer == 0 {
            return Ok(strings);
        }
        let string = cx.mm.read_cstr(pointer, STRING_MAX).map_err(|errno| match errno {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            other => other,
        })?;
        *left = left.checked_sub(string.len() + 1).ok_or(Errno::E2BIG)?;
        strings.push(string);
    }
    Err(Errno::E2BIG)
}

impl Cx {
    /// Runs another program in this process.
    ///
    /// # Errors
    /// execve(2)'s; then nothing has changed.
    pub async fn exec(
        &mut self,
        dirfd: i32,
        path: Vec<u8>,
        resolve: ResolveFlags,
        mut argv: Vec<Vec<u8>>,
        envp: Vec<Vec<u8>>,
    ) -> Result<(), Errno> {
        if argv.is_empty() {
            // As Linux since 5.18.
            argv.push(Vec::new());
        }
        let file = open_exec(self, dirfd, &path, resolve).await?;
        let path = match (path.is_empty(), path.first()) {
            (true, _) => format!("/dev/fd/{dirfd}").into_bytes(),
            (false, Some(b'/')) => path,
            (false, _) if dirfd == AT_FDCWD => path,
            (false, _) => [format!("/dev/fd/{dirfd}/").as_bytes(), &path].concat(),
        };
        let old = self.creds();
        let image = {
            let cx = &*self;
            loader::load(
                cx,
                Request {
                    file,
                    path,
                    argv,
                    envp,
                    open: &|path| Box::pin(async move { open_exec(cx, AT_FDCWD, &path, ResolveFlags::empty()).await }),
                    stack_limit: cx.task.rlimit(Resource::Stack).soft,
                    credentials: &|file| exec_creds(&old, file),
                },
            )
            .await?
        };
        self.replace_image(image).await
    }
}
