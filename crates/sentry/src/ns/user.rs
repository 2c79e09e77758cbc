//! [`UserNamespace`]: user and group ids and capabilities of their own (user_namespaces(7)).
//!
//! Inside the kernel all ids are the container's. A nested namespace maps the ids its processes see to those, in up to 340 extents, written once to
//! /proc/PID/uid_map and gid_map. What is not mapped shows as the overflow id.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::Errno;
use crate::task::{Capability, Creds};

/// What an id that is not mapped shows as (`kernel.overflowuid`).
pub const OVERFLOW_ID: u32 = 65_534;

/// Namespaces inside each other at most.
const MAX_LEVEL: u32 = 32;
/// Lines of a map (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_EXTENTS: usize = 340;

/// A user namespace, or the container's own, in which ids are the kernel's.
#[derive(Clone, Default)]
pub struct UserNs(Option<Arc<UserNamespace>>);

/// A nested user namespace.
pub struct UserNamespace {
    pub id: u64,
    parent: UserNs,
    level: u32,
    /// Who made it (effective ids).
    pub owner: u32,
    pub group: u32,
    /// Whether its maker had `CAP_SETFCAP`: it is needed to map the parent's root.
    parent_could_setfcap: bool,
    uids: RwLock<IdMap>,
    gids: RwLock<IdMap>,
    setgroups: AtomicBool,
}

/// Ids from one number on, and where they are in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub first: u32,
    pub outer: u32,
    pub count: u32,
}

/// A map of ids; empty until it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap(Vec<Extent>);

impl IdMap {
    fn to_outer(&self, id: u32) -> Option<u32> {
        let extent = self.0.iter().find(|extent| id.checked_sub(extent.first).is_some_and(|at| at < extent.count))?;
        Some(extent.outer + (id - extent.first))
    }

    fn to_inner(&self, id: u32) -> Option<u32> {
        let extent = self.0.iter().find(|extent| id.checked_sub(extent.outer).is_some_and(|at| at < extent.count))?;
        Some(extent.first + (id - extent.outer))
    }

    /// Reads lines of three numbers; `outer` is not translated yet.
    ///
    /// # Errors
    /// `EINVAL`: no line, too many, no numbers, an overflow or an overlap.
    pub fn parse(text: &[u8]) -> Result<IdMap, Errno> {
        let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let mut map = IdMap::default();
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            let mut fields = line.split_ascii_whitespace().map(|field| field.parse::<u32>().map_err(|_| Errno::EINVAL));
            let mut next = || fields.next().unwrap_or(Err(Errno::EINVAL));
            let extent = Extent { first: next()?, outer: next()?, count: next()? };
            if fields.next().is_some() || extent.count == 0 || extent.first == u32::MAX || extent.outer == u32::MAX {
                return Err(Errno::EINVAL);
            }
            let ends = [extent.first, extent.outer].map(|start| start.checked_add(extent.count));
            let overlaps = |a: u32, b: u32, other: u32| {
                u64::from(a) < u64::from(b) + u64::from(other) && u64::from(b) < u64::from(a) + u64::from(extent.count)
            };
            let taken = map
                .0
                .iter()
                .any(|old| overlaps(extent.first, old.first, old.count) || overlaps(extent.outer, old.outer, old.count));
            if ends.contains(&None) || taken || map.0.len() >= MAX_EXTENTS {
                return Err(Errno::EINVAL);
            }
            map.0.push(extent);
        }
        Ok(map)
    }

    pub fn extents(&self) -> &[Extent] {
        &self.0
    }
}

impl std::fmt::Debug for UserNs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user:[{}]", self.id())
    }
}

impl PartialEq for UserNs {
    fn eq(&self, other: &UserNs) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for UserNs {}

/// Which of the two maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ids {
    Users,
    Groups,
}

impl UserNs {
    /// The container's.
    pub const ROOT: UserNs = UserNs(None);

    pub fn id(&self) -> u64 {
        self.0.as_ref().map_or(super::Kind::User.first_id(), |ns| ns.id)
    }

    pub fn is_root(&self) -> bool {
        self.0.is_none()
    }

    /// The nested one.
    pub fn nested(&self) -> Option<&Arc<UserNamespace>> {
        self.0.as_ref()
    }

    /// None for the container's own.
    pub fn parent(&self) -> Option<UserNs> {
        self.0.as_ref().map(|ns| ns.parent.clone())
    }

    /// Who made it.
    pub fn owner(&self) -> u32 {
        self.0.as_ref().map_or(0, |ns| ns.owner)
    }

    pub fn level(&self) -> u32 {
        self.0.as_ref().map_or(0, |ns| ns.level)
    }

    /// Whether it is `outer` or inside it.
    pub fn is_within(&self, outer: &UserNs) -> bool {
        let mut at = Some(self.clone());
        while let Some(ns) = at {
            if ns == *outer {
                return true;
            }
            at = ns.parent();
        }
        false
    }

    /// A new one, made by `creds`, inside theirs.
    ///
    /// # Errors
    /// `ENOSPC` when it would be nested too deep; `EPERM` when the maker's own ids are not mapped.
    pub fn make(id: u64, creds: &Creds) -> Result<UserNs, Errno> {
        let parent = creds.user_ns.clone();
        let level = parent.level() + 1;
        if level > MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        if parent.shown(Ids::Users, creds.euid).is_none() || parent.shown(Ids::Groups, creds.egid).is_none() {
            return Err(Errno::EPERM);
        }
        let setgroups = parent.0.as_ref().is_none_or(|parent| parent.setgroups.load(Ordering::SeqCst));
        Ok(UserNs(Some(Arc::new(UserNamespace {
            id,
            level,
            owner: creds.euid,
            group: creds.egid,
            parent_could_setfcap: creds.has_own(Capability::Setfcap),
            parent,
            uids: RwLock::default(),
            gids: RwLock::default(),
            setgroups: AtomicBool::new(setgroups),
        }))))
    }

    /// The container's id for one that is used here; None when it is not mapped (`make_kuid`).
    pub fn kernel_id(&self, which: Ids, id: u32) -> Option<u32> {
        match &self.0 {
            _ if id == u32::MAX => None,
            None => Some(id),
            Some(ns) => ns.map(which).read().to_outer(id),
        }
    }

    /// An id of the container as it is seen here; None when it is not (`from_kuid`).
    pub fn shown(&self, which: Ids, id: u32) -> Option<u32> {
        match &self.0 {
            None => Some(id),
            Some(ns) => ns.map(which).read().to_inner(id),
        }
    }

    /// As [`shown`](UserNs::shown), with the overflow id for what is not mapped.
    pub fn show_uid(&self, uid: u32) -> u32 {
        self.shown(Ids::Users, uid).unwrap_or(OVERFLOW_ID)
    }

    /// As [`show_uid`](UserNs::show_uid) for groups.
    pub fn show_gid(&self, gid: u32) -> u32 {
        self.shown(Ids::Groups, gid).unwrap_or(OVERFLOW_ID)
    }

    /// The container's id of this namespace's root, if it has one.
    pub fn root_uid(&self) -> Option<u32> {
        self.kernel_id(Ids::Users, 0)
    }

    /// Whether `setgroups` may be called here: groups are mapped, and it has not been denied.
    pub fn may_set_groups(&self) -> bool {
        self.0.as_ref().is_none_or(|ns| ns.setgroups.load(Ordering::SeqCst) && !ns.gids.read().0.is_empty())
    }

    /// /proc/PID/setgroups.
    pub fn setgroups_text(&self) -> &'static str {
        if self.0.as_ref().is_none_or(|ns| ns.setgroups.load(Ordering::SeqCst)) { "allow\n" } else { "deny\n" }
    }

    /// Writing /proc/PID/setgroups.
    ///
    /// # Errors
    /// `EINVAL`; `EPERM` when it is too late.
    pub fn write_setgroups(&self, text: &[u8], opener: &Creds) -> Result<(), Errno> {
        if !opener.has_in(self, Capability::SysAdmin) {
            return Err(Errno::EPERM);
        }
        let allow = match text.strip_suffix(b"\n").unwrap_or(text) {
            b"allow" => true,
            b"deny" => false,
            _ => return Err(Errno::EINVAL),
        };
        let Some(ns) = &self.0 else { return if allow { Ok(()) } else { Err(Errno::EPERM) } };
        let gids = ns.gids.write();
        if allow {
            return if ns.setgroups.load(Ordering::SeqCst) { Ok(()) } else { Err(Errno::EPERM) };
        }
        if !gids.0.is_empty() {
            return Err(Errno::EPERM);
        }
        ns.setgroups.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// /proc/PID/uid_map or gid_map, for a reader in `reader`.
    pub fn map_text(&self, which: Ids, reader: &UserNs) -> String {
        let Some(ns) = &self.0 else { return format!("{:>10} {:>10} {:>10}\n", 0, 0, u32::MAX) };
        // To itself a namespace shows its map to its parent.
        let lower = if reader == self { ns.parent.clone() } else { reader.clone() };
        let map = ns.map(which).read();
        let show = |extent: &Extent| {
            let outer = lower.shown(which, extent.outer).unwrap_or(u32::MAX);
            format!("{:>10} {:>10} {:>10}\n", extent.first, outer, extent.count)
        };
        map.0.iter().map(show).collect()
    }

    /// Writing /proc/PID/uid_map or gid_map (`map_write`), by whoever has opened the file.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL`.
    pub fn write_map(&self, which: Ids, text: &[u8], opener: &Creds) -> Result<(), Errno> {
        let Some(ns) = &self.0 else { return Err(Errno::EPERM) };
        if opener.user_ns != *self && opener.user_ns != ns.parent {
            return Err(Errno::EPERM);
        }
        let mut map = ns.map(which).write();
        if !map.0.is_empty() {
            return Err(Errno::EPERM);
        }
        if !opener.has_in(self, Capability::SysAdmin) {
            return Err(Errno::EPERM);
        }
        let mut new = IdMap::parse(text)?;
        if !self.may_write(which, &new, opener) {
            return Err(Errno::EPERM);
        }
        for extent in &mut new.0 {
            // The whole range has to be mapped, in one piece.
            let (first, last) = (extent.outer, extent.outer + (extent.count - 1));
            let outer = ns.parent.kernel_id(which, first).ok_or(Errno::EPERM)?;
            if ns.parent.kernel_id(which, last).is_none_or(|end| end.checked_sub(outer) != Some(last - first)) {
                return Err(Errno::EPERM);
            }
            extent.outer = outer;
        }
        *map = new;
        Ok(())
    }

    /// `new_idmap_permitted`.
    fn may_write(&self, which: Ids, new: &IdMap, opener: &Creds) -> bool {
        let Some(ns) = &self.0 else { return false };
        let covers_root = new.0.iter().any(|extent| extent.outer == 0);
        if which == Ids::Users && covers_root {
            let could =
                if opener.user_ns == *self { ns.parent_could_setfcap } else { opener.has_in(&ns.parent, Capability::Setfcap) };
            let own = new.0.len() == 1 && ns.owner == opener.euid;
            let maps_owner = own && ns.parent.kernel_id(Ids::Users, 0) == Some(opener.euid);
            if !(could || maps_owner) {
                return false;
            }
        }
        // One's own id may be mapped without privilege.
        if let [Extent { outer, count: 1, .. }] = new.0.as_slice()
            && ns.owner == opener.euid
        {
            let outer = ns.parent.kernel_id(which, *outer);
            match which {
                Ids::Users if outer == Some(opener.euid) => return true,
                Ids::Groups if outer == Some(opener.egid) && !ns.setgroups.load(Ordering::SeqCst) => return true,
                _ => {}
            }
        }
        let capability = if which == Ids::Users { Capability::Setuid } else { Capability::Setgid };
        opener.has_in(&ns.parent, capability)
    }
}

impl UserNamespace {
    fn map(&self, which: Ids) -> &RwLock<IdMap> {
        match which {
            Ids::Users => &self.uids,
            Ids::Groups => &self.gids,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_parsed_and_applied() {
        let map = IdMap::parse(b"0 1000 1\n1 100000 65535\n").unwrap();
        assert_eq!(
            (map.to_outer(0), map.to_outer(5), map.to_inner(1000), map.to_inner(1)),
            (Some(1000), Some(100_004), Some(0), None)
        );
        for bad in [
            &b""[..],
            b"0 0",
            b"0 0 0",
            b"x 0 1",
            b"0 0 1 1",
            b"0 0 2\n1 9 1",
            b"0 5 2\n9 6 1",
            b"4294967295 0 1",
            b"1 0 4294967295",
        ] {
            assert_eq!(IdMap::parse(bad), Err(Errno::EINVAL), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn an_unprivileged_user_maps_itself_only() {
        let user = Creds { uid: 1000, euid: 1000, egid: 1000, ..Creds::default() };
        let ns = UserNs::make(7, &user).unwrap();
        assert_eq!(ns.show_uid(1000), OVERFLOW_ID);
        let inside = Creds { user_ns: ns.clone(), ..Creds::root() };
        let inside = Creds { uid: 1000, euid: 1000, egid: 1000, ..inside };
        assert_eq!(ns.write_map(Ids::Users, b"0 1001 1", &inside), Err(Errno::EPERM));
        assert_eq!(ns.write_map(Ids::Groups, b"0 1000 1", &inside), Err(Errno::EPERM));
        assert_eq!(ns.write_map(Ids::Users, b"0 1000 1", &inside), Ok(()));
        assert_eq!(ns.write_map(Ids::Users, b"0 1000 1", &inside), Err(Errno::EPERM));
        assert_eq!(ns.write_setgroups(b"deny", &inside), Ok(()));
        assert_eq!(ns.write_map(Ids::Groups, b"0 1000 1", &inside), Ok(()));
        assert_eq!((ns.show_uid(1000), ns.root_uid()), (0, Some(1000)));
        assert_eq!(ns.map_text(Ids::Users, &ns), "         0       1000          1\n");
        assert!(!inside.has(Capability::SysAdmin) && inside.has_in(&ns, Capability::SysAdmin));
    }
}
