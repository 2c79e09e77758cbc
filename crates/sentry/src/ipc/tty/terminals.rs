//! [`Terminals`]: a container's pseudo-terminals, by number; and how its terminal devices are opened.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::pty::{Master, Pty, Slave};
use crate::Errno;
use crate::fs::{FileOps, OpenFlags};
use crate::task::{Capability, Cx};

/// Most ptys of a container (`kernel.pty.max`).
const PTYS_MAX: u32 = 4096;
/// The `tty` group that owns slaves, and their mode (devpts `gid=5,mode=620`).
const TTY_GROUP: u32 = 5;
const SLAVE_MODE: u32 = 0o620;

/// Who gets the slaves of an instance of devpts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slaves {
    /// None: whoever opens the master.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub permissions: u32,
}

/// The ptys of an instance of devpts: a container's, or of one that was mounted from inside.
pub struct Terminals {
    slaves: Slaves,
    max: u32,
    ptys: Mutex<BTreeMap<u32, Arc<Pty>>>,
    /// What /dev/console is.
    console: Mutex<Weak<Pty>>,
    me: Weak<Terminals>,
}

impl Terminals {
    pub fn new() -> Arc<Terminals> {
        Terminals::with(Slaves { uid: None, gid: Some(TTY_GROUP), permissions: SLAVE_MODE }, PTYS_MAX)
    }

    pub fn with(slaves: Slaves, max: u32) -> Arc<Terminals> {
        Arc::new_cyclic(|me| Terminals {
            slaves,
            max: max.min(PTYS_MAX),
            ptys: Mutex::default(),
            console: Mutex::default(),
            me: me.clone(),
        })
    }

    /// A new pty, locked, whose slave belongs to `owner` (uid, gid) unless the mount says otherwise.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn allocate(&self, owner: (u32, u32)) -> Result<Arc<Pty>, Errno> {
        let mut ptys = self.ptys.lock();
        let index = (0..self.max).find(|index| !ptys.contains_key(index)).ok_or(Errno::ENOSPC)?;
        let Slaves { uid, gid, permissions } = self.slaves;
        let (uid, gid) = (uid.unwrap_or(owner.0), gid.unwrap_or(owner.1));
        let pty = Pty::new(index, self.me.clone(), (uid, gid, permissions));
        ptys.insert(index, pty.clone());
        Ok(pty)
    }

    pub fn get(&self, index: u32) -> Option<Arc<Pty>> {
        self.ptys.lock().get(&index).cloned()
    }

    /// The numbers in use.
    pub fn list(&self) -> Vec<u32> {
        self.ptys.lock().keys().copied().collect()
    }

    pub(super) fn remove(&self, index: u32) {
        let removed = self.ptys.lock().remove(&index);
        drop(removed);
    }

    /// Makes a pty the container's /dev/console.
    pub fn set_console(&self, pty: &Arc<Pty>) {
        *self.console.lock() = Arc::downgrade(pty);
    }

    pub fn console(&self) -> Option<Arc<Pty>> {
        self.console.lock().upgrade()
    }
}

/// Opens a terminal device of `terminals`: /dev/tty (5,0), /dev/console (5,1), /dev/ptmx (5,2), a slave (136 to 143).
///
/// # Errors
/// `ENXIO` when there is no such terminal, `EIO` when it is locked or hung up, `ENOSPC`.
pub fn open_device(
    cx: &Cx,
    terminals: &Arc<Terminals>,
    (major, minor): (u32, u32),
    flags: OpenFlags,
) -> Result<Arc<dyn FileOps>, Errno> {
    match (major, minor) {
        (5, 0) => {
            let terminal = cx.task.group.session().terminal().ok_or(Errno::ENXIO)?;
            let any: &dyn Any = terminal.as_any();
            let pty = any.downcast_ref::<Pty>().and_then(|pty| pty.me.upgrade()).ok_or(Errno::ENXIO)?;
            Ok(pty.open_slave()?)
        }
        (5, 1) => open_slave(cx, &cx.task.container.terminals.console().ok_or(Errno::ENXIO)?, flags)
            .map(|slave| slave as Arc<dyn FileOps>),
        (5, 2) => {
            let creds = cx.creds();
            Ok(Arc::new(Master { pty: terminals.allocate((creds.fsuid, creds.fsgid))? }))
        }
        (136..=143, _) => {
            let pty = terminals.get((major - 136) * 256 + minor).ok_or(Errno::EIO)?;
            open_slave(cx, &pty, flags).map(|slave| slave as Arc<dyn FileOps>)
        }
        _ => Err(Errno::ENXIO),
    }
}

fn open_slave(cx: &Cx, pty: &Arc<Pty>, flags: OpenFlags) -> Result<Arc<Slave>, Errno> {
    if pty.state.lock().exclusive && !cx.creds().has(Capability::SysAdmin) {
        return Err(Errno::EBUSY);
    }
    let slave = pty.open_slave()?;
    if !flags.contains(OpenFlags::NOCTTY) {
        pty.adopt(cx);
    }
    Ok(slave)
}
