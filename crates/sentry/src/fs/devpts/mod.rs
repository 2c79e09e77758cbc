//! devpts: the nodes of a container's pseudo-terminals. Opening them is [`crate::ipc::tty::open_device`]'s affair, by device number.

use std::any::Any;
use std::sync::Arc;

use super::dev::device_number;
use super::pseudo::{DirInode, Directory, Identity, Listed};
use super::{FileKind, FileOps, FileSystem, Inode, Metadata, OpenFlags, SetAttr, StatFs, Timestamp, next_device};
use crate::Errno;
use crate::ipc::tty::{Pty, Terminals};
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
}

impl Devpts {
    pub fn new(terminals: &Arc<Terminals>) -> Arc<Devpts> {
        Arc::new(Devpts { root: DirInode::make(Root { dev: next_device(), terminals: terminals.clone() }) })
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
        "gid=5,mode=620,ptmxmode=666".into()
    }
}

struct Root {
    dev: u64,
    terminals: Arc<Terminals>,
}

impl Directory for Root {
    fn identity(&self) -> Identity {
        Identity { dev: self.dev, ino: ROOT_INO, permissions: 0o755, uid: 0, gid: 0 }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if name == b"ptmx" {
            return Ok(Arc::new(Node { dev: self.dev, pty: None }));
        }
        // As they are listed: no sign, no leading zeros.
        let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let index: u32 = text.parse().map_err(|_| Errno::ENOENT)?;
        let pty = self.terminals.get(index).filter(|_| index.to_string() == text).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(Node { dev: self.dev, pty: Some(pty) }))
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
}

impl Inode for Node {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        let (rdev, ino, (uid, gid, permissions)) = match &self.pty {
            Some(pty) => (pty.device(), u64::from(pty.index) + FIRST_INO, pty.owner()),
            None => (device_number(5, 2), PTMX_INO, (0, 0, 0o666)),
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
