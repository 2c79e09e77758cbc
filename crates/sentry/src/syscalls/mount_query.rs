//! statmount and listmount (Linux 6.8): the mount table without text.

use std::sync::Arc;

use super::{Args, Flow};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::fs::dev::device_parts;
use crate::fs::types::may_mount;
use crate::fs::{Mount, MountFlags, Path};
use crate::step::Step;
use crate::task::Cx;

/// `struct mnt_id_req`.
struct Request {
    mount_id: u64,
    param: u64,
    namespace_id: u64,
}

/// Mount ids are above this one (`MNT_UNIQUE_ID_OFFSET`).
const FIRST_ID: u64 = 1 << 31;
/// `LSMT_ROOT`.
const ROOT: u64 = u64::MAX;

fn request(cx: &Cx, addr: u64) -> Result<Request, Errno> {
    let size = u64::from(cx.mm.read_val::<u32>(addr)?);
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < 24 {
        return Err(Errno::EINVAL);
    }
    let word = |at: u64| if at + 8 <= size { cx.mm.read_val::<u64>(addr.wrapping_add(at)) } else { Ok(0) };
    let (spare, request) = (word(0)? >> 32, Request { mount_id: word(8)?, param: word(16)?, namespace_id: word(24)? });
    for at in 32..size {
        if cx.mm.read_val::<u8>(addr.wrapping_add(at))? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    if spare != 0 || request.mount_id <= FIRST_ID {
        return Err(Errno::EINVAL);
    }
    Ok(request)
}

/// The caller's mounts.
fn mounts(cx: &Cx, request: &Request) -> Result<Vec<Arc<Mount>>, Errno> {
    let namespace = cx.fs.namespace();
    if request.namespace_id != 0 && request.namespace_id != namespace.id() {
        return Err(Errno::ENOENT);
    }
    Ok(namespace.mounts())
}

/// Bytes of `struct statmount` before its strings.
const HEADER: usize = 512;

const SB_BASIC: u64 = 1;
const MNT_BASIC: u64 = 2;
const PROPAGATE_FROM: u64 = 4;
const MNT_ROOT: u64 = 8;
const MNT_POINT: u64 = 0x10;
const FS_TYPE: u64 = 0x20;
const MNT_NS_ID: u64 = 0x40;
const MNT_OPTS: u64 = 0x80;

/// `struct statmount` being filled in.
struct Answer {
    bytes: Vec<u8>,
    mask: u64,
}

impl Answer {
    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn word(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_ne_bytes());
    }

    fn half(&mut self, at: usize, value: u64) {
        self.put(at, &(value as u32).to_ne_bytes());
    }

    /// Adds a string; `at` is where its offset goes.
    fn text(&mut self, at: usize, text: &[u8]) {
        let offset = self.bytes.len().saturating_sub(HEADER);
        self.half(at, offset as u64);
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
    }
}

pub fn sys_statmount(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(statmount(cx, args))
}

fn statmount(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let (out, size) = (args.u64(1), args.u64(2));
    if args.u32(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let wanted = request(cx, args.u64(0))?;
    let found = mounts(cx, &wanted)?.into_iter().find(|mount| mount.unique_id() == wanted.mount_id).ok_or(Errno::ENOENT)?;
    let root = cx.fs.root();
    let reachable = found.info(&root);
    if reachable.is_none() {
        may_mount(cx)?;
    }
    let strings = MNT_ROOT | MNT_POINT | FS_TYPE | MNT_OPTS;
    if wanted.param & strings != 0 && size <= HEADER as u64 {
        return Err(Errno::EOVERFLOW);
    }
    let mut answer = Answer { bytes: vec![0; HEADER], mask: 0 };
    fill(cx, &mut answer, &found, &root, wanted.param)?;
    if answer.bytes.len() > HEADER && answer.bytes.len() as u64 > size {
        return Err(Errno::EOVERFLOW);
    }
    let (mask, len) = (answer.mask, answer.bytes.len() as u64);
    answer.half(0, len);
    answer.word(8, mask);
    let n = answer.bytes.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    cx.mm.write(out, answer.bytes.get(..n).unwrap_or_default())?;
    Ok(0)
}

fn fill(cx: &Cx, answer: &mut Answer, mount: &Arc<Mount>, root: &Path, wanted: u64) -> Result<(), Errno> {
    let info = mount.info(root);
    let peers = mount.peer_ids(root);
    if wanted & SB_BASIC != 0 {
        answer.mask |= SB_BASIC;
        let dev = match mount.root().inode().metadata() {
            Step::Ready(Ok(metadata)) => metadata.dev,
            _ => 0,
        };
        let (major, minor) = device_parts(dev);
        answer.half(16, u64::from(major));
        answer.half(20, u64::from(minor));
        if let Step::Ready(Ok(stat)) = mount.fs.stat_fs() {
            answer.word(24, stat.magic);
        }
        answer.half(32, u64::from(mount.super_block().read_only()));
    }
    if wanted & MNT_BASIC != 0 {
        answer.mask |= MNT_BASIC;
        let parent = mount.mount_point().map_or_else(|| mount.clone(), |point| point.mount);
        answer.word(40, mount.unique_id());
        answer.word(48, parent.unique_id());
        answer.half(56, mount.id());
        answer.half(60, parent.id());
        answer.word(64, attributes(mount.flags()));
        let mut propagation = 0;
        for (set, bit) in [(peers.group != 0, 1 << 20), (peers.master != 0, 1 << 19), (mount.is_unbindable(), 1 << 17)] {
            propagation |= if set { bit } else { 0 };
        }
        answer.word(72, if propagation == 0 { 1 << 18 } else { propagation });
        answer.word(80, u64::from(peers.group));
        answer.word(88, u64::from(peers.master));
    }
    if wanted & PROPAGATE_FROM != 0 {
        answer.mask |= PROPAGATE_FROM;
        let from = if peers.from == 0 { peers.master } else { peers.from };
        answer.word(96, u64::from(from));
    }
    if wanted & MNT_NS_ID != 0 {
        answer.mask |= MNT_NS_ID;
        answer.word(112, cx.fs.namespace().id());
    }
    if wanted & FS_TYPE != 0 {
        answer.mask |= FS_TYPE;
        answer.text(36, mount.fs.name().as_bytes());
    }
    if let Some(info) = info {
        if wanted & MNT_ROOT != 0 {
            answer.mask |= MNT_ROOT;
            answer.text(104, &info.root);
        }
        if wanted & MNT_POINT != 0 {
            answer.mask |= MNT_POINT;
            answer.text(108, &info.target);
        }
    }
    let options = mount.fs.options();
    if wanted & MNT_OPTS != 0 && !options.is_empty() {
        answer.mask |= MNT_OPTS;
        answer.text(4, options.as_bytes());
    }
    Ok(())
}

/// As `MOUNT_ATTR_*`.
fn attributes(flags: MountFlags) -> u64 {
    let pairs = [
        (MountFlags::RDONLY, 1),
        (MountFlags::NOSUID, 2),
        (MountFlags::NODEV, 4),
        (MountFlags::NOEXEC, 8),
        (MountFlags::NODIRATIME, 0x80),
        (MountFlags::NOSYMFOLLOW, 0x20_0000),
        (MountFlags::NOATIME, 0x10),
        (MountFlags::STRICTATIME, 0x20),
    ];
    pairs.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |all, (_, bit)| all | bit)
}

/// Most ids that are asked for at a time.
const LIST_MAX: u64 = 1_000_000;

pub fn sys_listmount(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(listmount(cx, args))
}

fn listmount(cx: &Cx, args: Args) -> Result<u64, Errno> {
    let (out, most, flags) = (args.u64(1), args.u64(2), args.u32(3));
    if flags & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    if most > LIST_MAX {
        return Err(Errno::EOVERFLOW);
    }
    let wanted = request(cx, args.u64(0))?;
    if wanted.param != 0 && wanted.param <= FIRST_ID {
        return Err(Errno::EINVAL);
    }
    let mut all = mounts(cx, &wanted)?;
    let root = cx.fs.root();
    let top = match wanted.mount_id {
        ROOT => root.clone(),
        id => all.iter().find(|mount| mount.unique_id() == id).ok_or(Errno::ENOENT)?.root_path(),
    };
    if top.mount.info(&root).is_none() {
        may_mount(cx)?;
    }
    if flags & 1 != 0 {
        all.reverse();
    }
    let after = |id: u64| match (wanted.param, flags & 1) {
        (0, _) => true,
        (last, 0) => id > last,
        (last, _) => id < last,
    };
    let ids = all.iter().filter(|mount| {
        let id = mount.unique_id();
        id != wanted.mount_id && after(id) && mount.info(&top).is_some()
    });
    let mut n = 0;
    for mount in ids.take(usize::try_from(most).unwrap_or(usize::MAX)) {
        cx.mm.write_val(out.wrapping_add(n * 8), &mount.unique_id())?;
        n += 1;
    }
    Ok(n)
}
