//! The mount calls that work on descriptors: open_tree, move_mount, mount_setattr, fsopen, fsconfig, fsmount, fspick.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::fds::install;
use super::fs_path::{AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_SYMLINK_NOFOLLOW, path, path_or_empty, real_file, resolve};
use super::{Args, Flow, Outcome};
use crate::Errno;
use crate::fs::anon::{self, Anon};
use crate::fs::types::{Request, Type, Value, may_mount};
use crate::fs::{
    Depth, File, FileOps, Mount, MountFlags, MountNamespace, Moving, OpenFlags, Origin, Path, PropagationType, ResolveFlags,
    View,
};
use crate::mm::{Sink, Source};
use crate::step::Step;
use crate::task::Cx;

const AT_RECURSIVE: u32 = 0x8000;
const OPEN_TREE_CLONE: u32 = 1;
const CLOEXEC: u32 = OpenFlags::CLOEXEC.bits();

/// The place of a path relative to a descriptor, by `AT_*` flags.
async fn place(cx: &Cx, view: &View, dirfd: i32, addr: u64, flags: ResolveFlags) -> Result<Path, Errno> {
    let path = path_or_empty(cx, addr, flags)?;
    resolve(cx, view, dirfd, &path, flags).await
}

fn resolve_flags(flags: u32) -> ResolveFlags {
    let mut how = ResolveFlags::empty();
    how.set(ResolveFlags::NOFOLLOW, flags & AT_SYMLINK_NOFOLLOW != 0);
    how.set(ResolveFlags::EMPTY_PATH, flags & AT_EMPTY_PATH != 0);
    how
}

/// What a descriptor of a tree holds: for one that is mounted nowhere, its namespace.
struct TreeOps {
    _tree: Option<Arc<MountNamespace>>,
}

impl FileOps for TreeOps {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn tree_file(place: Path, tree: Option<Arc<MountNamespace>>) -> Arc<File> {
    File::new(Arc::new(TreeOps { _tree: tree }), Origin::Path(place), OpenFlags::PATH)
}

pub fn sys_open_tree(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let flags = args.u32(2);
        let known = AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | OPEN_TREE_CLONE | CLOEXEC;
        if flags & !known != 0 || flags & (AT_RECURSIVE | OPEN_TREE_CLONE) == AT_RECURSIVE {
            return Err(Errno::EINVAL.into());
        }
        if flags & OPEN_TREE_CLONE != 0 {
            may_mount(cx)?;
        }
        let view = View::of(cx);
        let at = place(cx, &view, args.i32(0), args.u64(1), resolve_flags(flags)).await?;
        let file = match flags & OPEN_TREE_CLONE {
            0 => tree_file(at, None),
            _ => {
                let tree = cx.fs.namespace().edit().bind_detached(&at, depth(flags))?;
                tree_file(tree.top().ok_or(Errno::EINVAL)?, Some(tree))
            }
        };
        Ok(install(cx, file, flags & CLOEXEC != 0)? as u64)
    })
}

fn depth(flags: u32) -> Depth {
    if flags & AT_RECURSIVE != 0 { Depth::Recursive } else { Depth::One }
}

const MOVE_MOUNT_F_SYMLINKS: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_T_SYMLINKS: u32 = 0x10;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const MOVE_MOUNT_SET_GROUP: u32 = 0x100;
const MOVE_MOUNT_BENEATH: u32 = 0x200;

pub fn sys_move_mount(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        may_mount(cx)?;
        let flags = args.u32(4);
        // All of them, with those for automounts that there are none of.
        if flags & !0x377 != 0
            || flags & (MOVE_MOUNT_BENEATH | MOVE_MOUNT_SET_GROUP) == MOVE_MOUNT_BENEATH | MOVE_MOUNT_SET_GROUP
        {
            return Err(Errno::EINVAL.into());
        }
        let how = |links: u32, empty: u32| {
            let mut how = ResolveFlags::empty();
            how.set(ResolveFlags::NOFOLLOW, flags & links == 0);
            how.set(ResolveFlags::EMPTY_PATH, flags & empty != 0);
            how
        };
        let view = View::of(cx);
        let (from_how, to_how) =
            (how(MOVE_MOUNT_F_SYMLINKS, MOVE_MOUNT_F_EMPTY_PATH), how(MOVE_MOUNT_T_SYMLINKS, MOVE_MOUNT_T_EMPTY_PATH));
        let from = place(cx, &view, args.i32(0), args.u64(1), from_how).await?;
        let to = place(cx, &view, args.i32(2), args.u64(3), to_how).await?;
        let namespace = cx.fs.namespace();
        let mut tree = namespace.edit();
        if flags & MOVE_MOUNT_SET_GROUP != 0 {
            tree.set_group(&from, &to)?;
            return Ok(0);
        }
        let moving = if flags & MOVE_MOUNT_BENEATH != 0 { Moving::Beneath } else { Moving::OnTop };
        tree.move_mount(&from, &to, moving)?;
        Ok(0)
    })
}

/// `MOUNT_ATTR_*` with the values of [`MountFlags`].
const ATTRIBUTES: [(u64, MountFlags); 6] = [
    (1, MountFlags::RDONLY),
    (2, MountFlags::NOSUID),
    (4, MountFlags::NODEV),
    (8, MountFlags::NOEXEC),
    (0x80, MountFlags::NODIRATIME),
    (0x20_0000, MountFlags::NOSYMFOLLOW),
];
const ATTR_ATIME: u64 = 0x70;
const ATTR_NOATIME: u64 = 0x10;
const ATTR_STRICTATIME: u64 = 0x20;
const ATTR_IDMAP: u64 = 0x10_0000;

/// The flags of `MOUNT_ATTR_*`, but for access times.
fn plain_attributes(bits: u64) -> Result<MountFlags, Errno> {
    let known = ATTRIBUTES.iter().fold(ATTR_ATIME, |known, (bit, _)| known | bit);
    if bits & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = ATTRIBUTES.iter().filter(|(bit, _)| bits & bit != 0);
    Ok(flags.fold(MountFlags::empty(), |all, (_, flag)| all | *flag))
}

/// The rule for access times.
fn atime(bits: u64) -> Result<MountFlags, Errno> {
    match bits & ATTR_ATIME {
        0 => Ok(MountFlags::empty()),
        ATTR_NOATIME => Ok(MountFlags::NOATIME),
        ATTR_STRICTATIME => Ok(MountFlags::STRICTATIME),
        _ => Err(Errno::EINVAL),
    }
}

/// Most bytes of a `struct mount_attr` that are looked at.
const MOUNT_ATTR_MAX: u64 = 4096;

pub fn sys_mount_setattr(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        let flags = args.u32(2);
        if flags & !(AT_EMPTY_PATH | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0 {
            return Err(Errno::EINVAL.into());
        }
        let (addr, size) = (args.u64(3), args.u64(4));
        if size > MOUNT_ATTR_MAX {
            return Err(Errno::E2BIG.into());
        }
        if size < 32 {
            return Err(Errno::EINVAL.into());
        }
        may_mount(cx)?;
        let [set, clear, propagation, userns] = cx.mm.read_val::<[u64; 4]>(addr)?;
        for at in 32..size {
            if cx.mm.read_val::<u8>(addr.wrapping_add(at))? != 0 {
                return Err(Errno::E2BIG.into());
            }
        }
        if [set, clear, propagation, userns] == [0; 4] {
            return Ok(0);
        }
        let change = Change::parse(set, clear, propagation)?;
        let view = View::of(cx);
        let at = place(cx, &view, args.i32(0), args.u64(1), resolve_flags(flags)).await?;
        change.apply(cx, &at, depth(flags)).map(|()| 0).map_err(Into::into)
    })
}

/// What `mount_setattr` is to do.
struct Change {
    set: MountFlags,
    clear: MountFlags,
    propagation: Option<PropagationType>,
}

impl Change {
    fn parse(set: u64, clear: u64, propagation: u64) -> Result<Change, Errno> {
        let propagation = match propagation {
            0 => None,
            0x10_0000 => Some(PropagationType::Shared),
            0x4_0000 => Some(PropagationType::Private),
            0x8_0000 => Some(PropagationType::Slave),
            0x2_0000 => Some(PropagationType::Unbindable),
            _ => return Err(Errno::EINVAL),
        };
        // Mounts with mapped ids are not there.
        if (set | clear) & ATTR_IDMAP != 0 {
            return Err(Errno::EINVAL);
        }
        let (mut on, mut off) = (plain_attributes(set)?, plain_attributes(clear)?);
        // Access times are one value: to set one, the old one must be cleared.
        match clear & ATTR_ATIME {
            ATTR_ATIME => {
                on |= atime(set)?;
                off |= MountFlags::NOATIME | MountFlags::STRICTATIME | MountFlags::RELATIME;
            }
            0 if set & ATTR_ATIME == 0 => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(Change { set: on, clear: off, propagation })
    }

    /// All mounts or none.
    fn apply(&self, cx: &Cx, at: &Path, depth: Depth) -> Result<(), Errno> {
        let mount = at.mounted_here()?;
        let namespace = cx.fs.namespace();
        let mut tree = namespace.edit();
        tree.check_or_anonymous(mount)?;
        let mounts = if depth == Depth::One { vec![mount.clone()] } else { mount.subtree() };
        let new = |mount: &Mount| (mount.flags() - self.clear) | self.set;
        for mount in &mounts {
            mount.may_change_flags(new(mount))?;
        }
        for mount in &mounts {
            tree.change_flags(mount, new(mount))?;
        }
        match self.propagation {
            Some(to) => tree.set_propagation(mount, to, depth),
            None => Ok(()),
        }
    }
}

/// What a descriptor of `fsopen` or `fspick` is about.
struct Context {
    state: Mutex<State>,
    /// What went wrong, for `read`.
    log: Mutex<Vec<String>>,
}

#[derive(Clone)]
enum State {
    /// Options are being collected for a new file system.
    Parameters(Request),
    /// The file system is made, to be mounted by `fsmount`.
    Made(Arc<Mount>),
    /// Options for a file system that is mounted.
    Reconfigure { request: Request, mount: Arc<Mount> },
    /// `fsmount` has had it, or it could not be made.
    Done,
}

impl Context {
    fn new(state: State) -> Arc<Context> {
        Arc::new(Context { state: Mutex::new(state), log: Mutex::default() })
    }

    fn complain(&self, text: String) {
        let mut log = self.log.lock();
        // As Linux, which keeps the last eight.
        if log.len() == 8 {
            log.remove(0);
        }
        log.push(text);
    }
}

impl FileOps for Context {
    /// One message for each read.
    fn read<'a>(&'a self, _file: &'a File, _offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let mut log = self.log.lock();
        let Some(first) = log.first() else { return Step::err(Errno::ENODATA) };
        if first.len() > into.remaining() {
            return Step::err(Errno::EMSGSIZE);
        }
        let text = log.remove(0);
        Step::Ready(into.put(text.as_bytes()))
    }

    fn write<'a>(
        &'a self,
        _file: &'a File,
        _at: crate::fs::WriteAt,
        _from: &'a mut dyn Source,
    ) -> Step<'a, Result<crate::fs::Written, Errno>> {
        Step::err(Errno::EINVAL)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub fn sys_fsopen(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(fsopen(cx, args))
}

fn fsopen(cx: &Cx, args: Args) -> Result<u64, Errno> {
    may_mount(cx)?;
    if args.u32(1) & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    let name = cx.mm.read_cstr(args.u64(0), crate::abi::PAGE_SIZE as usize).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        errno => errno,
    })?;
    let request = Request::new(cx, Type::from_name(&name)?);
    context_file(cx, State::Parameters(request), args.u32(1) & 1 != 0)
}

fn context_file(cx: &Cx, state: State, close_on_exec: bool) -> Result<u64, Errno> {
    let file = anon::file(cx, &Anon::Object("[fscontext]"), Context::new(state), OpenFlags::RDWR);
    install(cx, file, close_on_exec).map(|fd| fd as u64)
}

pub fn sys_fspick(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(async move {
        may_mount(cx)?;
        let flags = args.u32(2);
        if flags & !0xf != 0 {
            return Err(Errno::EINVAL.into());
        }
        let mut how = ResolveFlags::empty();
        how.set(ResolveFlags::NOFOLLOW, flags & 2 != 0);
        how.set(ResolveFlags::EMPTY_PATH, flags & 8 != 0);
        let view = View::of(cx);
        let at = place(cx, &view, args.i32(0), args.u64(1), how).await?;
        let mount = at.mounted_here()?.clone();
        let kind = Type::from_name(mount.fs.name().as_bytes()).map_err(|_| Errno::EOPNOTSUPP)?;
        let mut request = Request::new(cx, kind);
        request.read_only = mount.super_block().read_only();
        Ok(context_file(cx, State::Reconfigure { request, mount }, flags & 1 != 0)?)
    })
}

const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const SET_BINARY: u32 = 2;
const SET_PATH: u32 = 3;
const SET_PATH_EMPTY: u32 = 4;
const SET_FD: u32 = 5;
const CMD_CREATE: u32 = 6;
const CMD_RECONFIGURE: u32 = 7;
const CMD_CREATE_EXCL: u32 = 8;

/// Longest key or string value, with its NUL.
const TEXT_MAX: usize = 256;

pub fn sys_fsconfig(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::wait(fsconfig(cx, args))
}

async fn fsconfig(cx: &Cx, args: Args) -> Outcome {
    let (fd, command, key, value, aux) = (args.i32(0), args.u32(1), args.u64(2), args.u64(3), args.i32(4));
    if fd < 0 {
        return Err(Errno::EINVAL.into());
    }
    let fits = match command {
        SET_FLAG => key != 0 && value == 0 && aux == 0,
        SET_STRING => key != 0 && value != 0 && aux == 0,
        SET_BINARY => key != 0 && value != 0 && (1..=1 << 20).contains(&aux),
        SET_PATH | SET_PATH_EMPTY => key != 0 && value != 0 && (aux == crate::fs::walk::AT_FDCWD || aux >= 0),
        SET_FD => key != 0 && value == 0 && aux >= 0,
        CMD_CREATE | CMD_RECONFIGURE | CMD_CREATE_EXCL => key == 0 && value == 0 && aux == 0,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    if !fits {
        return Err(Errno::EINVAL.into());
    }
    let file = real_file(cx, fd)?;
    let context = file.downcast::<Context>().ok_or(Errno::EINVAL)?;
    match command {
        CMD_CREATE | CMD_CREATE_EXCL => return create(cx, context).await,
        CMD_RECONFIGURE => return reconfigure(cx, context),
        _ => {}
    }
    let text = |addr: u64| {
        cx.mm.read_cstr(addr, TEXT_MAX).map_err(|errno| if errno == Errno::ENAMETOOLONG { Errno::EINVAL } else { errno })
    };
    let key = String::from_utf8(text(key)?).map_err(|_| Errno::EINVAL)?;
    let value = match command {
        SET_FLAG => Value::Flag,
        SET_STRING => Value::Text(text(value)?),
        SET_PATH | SET_PATH_EMPTY => {
            let mut how = ResolveFlags::empty();
            how.set(ResolveFlags::EMPTY_PATH, command == SET_PATH_EMPTY);
            let name = path(cx, value)?;
            let view = View::of(cx);
            Value::Place(resolve(cx, &view, aux, &name, how).await?)
        }
        SET_FD => Value::File(real_file(cx, aux)?),
        // No file system here takes bytes.
        _ => return Err(Errno::EINVAL.into()),
    };
    let mut state = context.state.lock();
    let request = match &mut *state {
        State::Parameters(request) | State::Reconfigure { request, .. } => request,
        State::Made(_) | State::Done => return Err(Errno::EBUSY.into()),
    };
    let result = request.set(cx, &key, &value);
    if result == Err(Errno::EINVAL) {
        context.complain(format!("e {}: Unknown parameter or bad value: '{key}'\n", request.kind.name()));
    }
    super::fs_path::unit(result)
}

async fn create(cx: &Cx, context: &Context) -> Outcome {
    may_mount(cx)?;
    let request = {
        let mut state = context.state.lock();
        match &*state {
            State::Parameters(request) => {
                let request = request.clone();
                *state = State::Done;
                request
            }
            _ => return Err(Errno::EBUSY.into()),
        }
    };
    let fs = request.make(cx).await.inspect_err(|errno| {
        context.complain(format!("e {}: cannot be made: {errno}\n", request.kind.name()));
    })?;
    let source = request.source.unwrap_or_else(|| b"none".to_vec());
    let mount = Mount::new(fs, source, MountFlags::empty(), &cx.kernel().clock);
    if request.read_only {
        mount.super_block().set_read_only(true)?;
    }
    *context.state.lock() = State::Made(mount);
    Ok(0)
}

fn reconfigure(cx: &Cx, context: &Context) -> Outcome {
    may_mount(cx)?;
    let mut state = context.state.lock();
    let State::Reconfigure { request, mount } = &mut *state else { return Err(Errno::EBUSY.into()) };
    mount.fs.reconfigure(&request.config)?;
    mount.super_block().set_read_only(request.read_only)?;
    Ok(0)
}

pub fn sys_fsmount(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(fsmount(cx, args))
}

fn fsmount(cx: &Cx, args: Args) -> Result<u64, Errno> {
    may_mount(cx)?;
    let (flags, attributes) = (args.u32(1), args.u64(2));
    if flags & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    let options = plain_attributes(attributes)? | atime(attributes)?;
    let file = real_file(cx, args.i32(0))?;
    let context = file.downcast::<Context>().ok_or(Errno::EINVAL)?;
    let made = {
        let mut state = context.state.lock();
        match std::mem::replace(&mut *state, State::Done) {
            State::Made(mount) => mount,
            other => {
                let errno = if matches!(other, State::Parameters(_)) { Errno::EINVAL } else { Errno::EBUSY };
                *state = other;
                return Err(errno);
            }
        }
    };
    made.set_flags(options);
    let tree = cx.fs.namespace().edit().detached(made);
    let file = tree_file(tree.top().ok_or(Errno::EINVAL)?, Some(tree));
    install(cx, file, flags & 1 != 0).map(|fd| fd as u64)
}
