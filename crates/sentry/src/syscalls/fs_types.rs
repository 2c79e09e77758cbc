//! sysfs(2) and ustat(2): the old questions about file systems, with /proc/filesystems and statfs as their successors.

use zerocopy::{Immutable, IntoBytes};

use super::{Args, Flow};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::fs::types::TYPES;
use crate::step::Step;
use crate::task::Cx;

/// Longest name of a type, more or less.
const NAME_MAX: usize = PAGE_SIZE as usize;

pub(super) fn sysfs(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(type_info(cx, args))
}

fn type_info(cx: &Cx, args: Args) -> Result<u64, Errno> {
    match args.i32(0) {
        // Its index by its name.
        1 => {
            let name = match cx.mm.read_cstr(args.u64(1), NAME_MAX) {
                Err(Errno::ENAMETOOLONG) => return Err(Errno::EINVAL),
                name => name?,
            };
            TYPES.iter().position(|(known, _)| known.as_bytes() == name).map(|at| at as u64).ok_or(Errno::EINVAL)
        }
        // Its name by its index.
        2 => {
            let found = usize::try_from(args.u32(1)).ok().and_then(|at| TYPES.get(at));
            let (name, _) = found.ok_or(Errno::EINVAL)?;
            cx.mm.write(args.u64(2), &[name.as_bytes(), b"\0"].concat()).map(|()| 0)
        }
        3 => Ok(TYPES.len() as u64),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct ustat`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Ustat {
    free_blocks: i32,
    padding: u32,
    free_inodes: u64,
    /// A name and a pack, which nobody fills in.
    names: [u8; 12],
    tail: u32,
}

pub(super) fn ustat(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let dev = u64::from(args.u32(0));
        let mut found = None;
        for mount in cx.fs.namespace().mounts() {
            let root = mount.root().inode().clone();
            if let Step::Ready(Ok(metadata)) = root.metadata()
                && metadata.dev == dev
            {
                found = Some(mount.fs.clone());
                break;
            }
        }
        let stat = found.ok_or(Errno::EINVAL)?.stat_fs().await?;
        let out = Ustat { free_blocks: stat.blocks_free as i32, free_inodes: stat.files_free, ..Ustat::default() };
        cx.mm.write_val(args.u64(1), &out)?;
        Ok(0)
    })
}
