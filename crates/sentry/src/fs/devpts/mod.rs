//! devpts: the nodes of a container's pseudo-terminals. Opening them is [`crate::ipc::tty::open_device`]'s affair, by device number.

use std::any::Any;
use std::sync::Arc;

use super::dev::device_number;
use super::pseudo::{DirInode, Directory, Identity, Listed};
use super::{
    File, FileKind, FileOps, FileSystem, Inode, Metadata, OpenFlags, Origin, Path, ResolveFlags, SetAttr, StatFs, Timestamp,
    View, next_device, walk,
};
use crate::Errno;
use crate::ipc::tty::{Pty, Slaves, Terminals};
use crate::step::Step;
use crate::task::Cx;

/// `DEVPTS_SUPER_MAGIC`.
const MAGIC: u64 = 0x1cd1;
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
/// Slave n has inode number n + 3.
const FIRST_INO: u64 = 3;

/// The file system of a container's ptys.
pub struct Devpts {
    root: Arc<dyn Inode>,
    options: Options,
}

/// What `mount -o` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Of slaves.
    pub permissions: u32,
    pub ptmx_permissions: u32,
    pub max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { uid: None, gid: None, permissions: 0o600, ptmx_permissions: 0, max: 1 << 20 }
    }
}

impl Options {
    /// # Errors
    /// `EINVAL`.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), Errno> {
        let text = || value.ok_or(Errno::EINVAL);
        let number = |radix| u32::from_str_radix(text()?, radix).map_err(|_| Errno::EINVAL);
        match key {
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "mode" => self.permissions = number(8)? & 0o7777,
            "ptmxmode" => self.ptmx_permissions = number(8)? & 0o7777,
            // Every mount is a new instance, as on Linux.
            "newinstance" if value.is_none() => {}
            "max" => self.max = number(10)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

impl Devpts {
    /// The instance that a container starts with.
    pub fn new(terminals: &Arc<Terminals>) -> Arc<Devpts> {
        Devpts::with(terminals, Options { gid: Some(5), permissions: 0o620, ptmx_permissions: 0o666, ..Options::default() })
    }

    /// Another instance, with ptys of its own.
    pub fn instance(options: Options) -> Arc<Devpts> {
        let terminals =
            Terminals::with(Slaves { uid: options.uid, gid: options.gid, permissions: options.permissions }, options.max);
        Devpts::with(&terminals, options)
    }

    fn with(terminals: &Arc<Terminals>, options: Options) -> Arc<Devpts> {
        let root = Root { dev: next_device(), terminals: terminals.clone(), options };
        Arc::new(Devpts { root: DirInode::make(root), options })
    }
}

impl FileSystem for Devpts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<StatFs, Errno>> {
        Step::ok(StatFs { magic: MAGIC, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    /// Nodes come and go by themselves.
    fn name_ttl_ns(&self) -> u64 {
        0
    }

    fn options(&self) -> String {
        let Options { uid, gid, permissions, ptmx_permissions, max } = self.options;
        let mut text = String::new();
        if let Some(uid) = uid {
            text.push_str(&format!("uid={uid},"));
        }
        if let Some(gid) = gid {
            text.push_str(&format!("gid={gid},"));
        }
        text.push_str(&format!("mode={permissions:03o},ptmxmode={ptmx_permissions:03o}"));
        if max < 1 << 20 {
            text.push_str(&format!(",max={max}"));
        }
        text
    }
}

struct Root {
    dev: u64,
    terminals: Arc<Terminals>,
    options: Options,
}

impl Root {
    fn node(&self, pty: Option<Arc<Pty>>) -> Node {
        Node { dev: self.dev, pty, terminals: self.terminals.clone(), ptmx_permissions: self.options.ptmx_permissions }
    }
}

/// The ptys that a terminal device belongs to: those of the instance it is in, or for a ptmx elsewhere, of the one mounted on `pts` beside it.
pub fn terminals_of(place: &Path) -> Option<Arc<Terminals>> {
    if let Some(node) = place.inode().as_any().downcast_ref::<Node>() {
        return Some(node.terminals.clone());
    }
    beside(place)?.inode().as_any().downcast_ref::<DirInode<Root>>().map(|root| root.0.terminals.clone())
}

/// What is mounted on `pts` beside a ptmx.
fn beside(place: &Path) -> Option<Path> {
    let beside = place.dentry.parent()?.child_if_known(b"pts")?;
    Some(Path { mount: place.mount.clone(), dentry: beside }.descend())
}

/// Where the slave of an open master is (`TIOCGPTPEER`); None when its instance is no longer in sight.
pub fn slave_of(cx: &Cx, master: &File, index: u32) -> Option<Path> {
    let Origin::Path(place) = &master.origin else { return None };
    let inside = place.inode().as_any().is::<Node>();
    let root = if inside { place.mount.root_path() } else { beside(place)? };
    walk::try_resolve_in(&View::of(cx), Some(cx), root, index.to_string().as_bytes(), ResolveFlags::NOFOLLOW).ok().flatten()
}

impl Directory for Root {
    fn identity(&self) -> Identity {
        Identity { dev: self.dev, ino: ROOT_INO, permissions: 0o755, uid: 0, gid: 0, size: 0, block_size: 1024 }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if name == b"ptmx" {
            return Ok(Arc::new(self.node(None)));
        }
        // As they are listed: no sign, no leading zeros.
        let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let index: u32 = text.parse().map_err(|_| Errno::ENOENT)?;
        let pty = self.terminals.get(index).filter(|_| index.to_string() == text).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(self.node(Some(pty))))
    }

    fn list(&self) -> Vec<Listed> {
        let slaves = self.terminals.list().into_iter().map(|index| Listed::new(index.to_string(), FileKind::CharDevice));
        std::iter::once(Listed::new("ptmx", FileKind::CharDevice)).chain(slaves).collect()
    }
}

/// A slave's node, or (None) ptmx.
struct Node {
    dev: u64,
    pty: Option<Arc<Pty>>,
    terminals: Arc<Terminals>,
    ptmx_permissions: u32,
}

impl Inode for Node {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        let (rdev, ino, (uid, gid, permissions)) = match &self.pty {
            Some(pty) => (pty.device(), u64::from(pty.index) + FIRST_INO, pty.owner()),
            None => (device_number(5, 2), PTMX_INO, (0, 0, self.ptmx_permissions)),
        };
        Step::ok(Metadata {
            dev: self.dev,
            ino,
            kind: FileKind::CharDevice,
            permissions,
            nlink: 1,
            uid,
            gid,
            rdev,
            size: 0,
            blocks: 0,
            block_size: 1024,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            born: Timestamp::default(),
        })
    }

    fn set_attr(&self, change: SetAttr) -> Step<'_, Result<(), Errno>> {
        let Some(pty) = &self.pty else { return Step::err(Errno::EPERM) };
        let (uid, gid, permissions) = pty.owner();
        let permissions = change.permissions.unwrap_or(permissions);
        pty.set_owner((change.uid.unwrap_or(uid), change.gid.unwrap_or(gid), permissions));
        Step::ok(())
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, _flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        Step::err(Errno::ENXIO)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
