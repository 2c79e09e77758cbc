//! [`MountInfo`]: a mount as mount tables show it.

use std::sync::Arc;

use super::{Mount, MountNamespace};
use crate::fs::Path;
use crate::step::Step;

/// One line of a mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    pub id: u64,
    pub parent: u64,
    /// The part of the file system that is mounted.
    pub root: Vec<u8>,
    pub target: Vec<u8>,
    /// The mount's own options.
    pub mount_options: String,
    /// `ro` or `rw`, and the file system's options.
    pub fs_options: String,
    pub read_only: bool,
    /// `shared:7 master:3`: ends in a blank unless empty.
    pub propagation: String,
    pub fs_name: &'static str,
    pub source: Vec<u8>,
    pub dev: u64,
}

/// A mount's part in propagation, in numbers; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerIds {
    pub group: u32,
    pub master: u32,
    /// The nearest group above the master that the reader can see.
    pub from: u32,
}

impl Mount {
    /// Its part in propagation as a process with this root directory sees it.
    pub fn peer_ids(&self, root: &Path) -> PeerIds {
        let group = self.group().map_or(0, |group| group.id());
        let Some(master) = self.master() else { return PeerIds { group, ..PeerIds::default() } };
        let mut ids = PeerIds { group, master: master.id(), from: 0 };
        let namespace = root.mount.namespace();
        let mut at = Some(master);
        // Masters of masters; a chain has no loops, and ends somewhere.
        for _ in 0..64 {
            let Some(group) = at else { break };
            let members = group.members();
            let visible = members.iter().find(|member| {
                let same = match (&namespace, member.namespace()) {
                    (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, &theirs),
                    _ => false,
                };
                same && member.root_path().is_below(root)
            });
            if visible.is_some() {
                ids.from = group.id();
                break;
            }
            at = members.first().and_then(|member| member.master());
        }
        if ids.from == ids.master {
            ids.from = 0;
        }
        ids
    }

    /// Its line, if it can be reached from `root`.
    pub fn info(self: &Arc<Mount>, root: &Path) -> Option<MountInfo> {
        let target = self.root_path().name_below(root)?;
        let parent = self.mount_point().map_or(self.id, |point| point.mount.id);
        let dev = match self.root.inode().metadata() {
            Step::Ready(Ok(metadata)) => metadata.dev,
            _ => 0,
        };
        let PeerIds { group, master, from } = self.peer_ids(root);
        let mut propagation = String::new();
        for (number, name) in [(group, "shared:"), (master, "master:"), (from, "propagate_from:")] {
            if number != 0 {
                propagation.push_str(&format!("{name}{number} "));
            }
        }
        if self.is_unbindable() {
            propagation.push_str("unbindable ");
        }
        let access = |read_only| if read_only { "ro" } else { "rw" };
        let (own, whole) = (self.has(super::MountFlags::RDONLY), self.super_block.read_only());
        let options = self.fs.options();
        let comma = if options.is_empty() { "" } else { "," };
        Some(MountInfo {
            id: self.id,
            parent,
            root: self.root.path_in_fs(),
            target,
            mount_options: format!("{}{}", access(own), self.flags().names()),
            fs_options: format!("{}{comma}{options}", access(whole)),
            read_only: own || whole,
            propagation,
            fs_name: self.fs.name(),
            source: self.source.clone(),
            dev,
        })
    }

    /// What it shows, as it was named (`mount`'s source).
    pub fn source(&self) -> &[u8] {
        &self.source
    }
}

impl MountNamespace {
    /// The mount table as seen from a root directory.
    pub fn table(&self, root: &Path) -> Vec<MountInfo> {
        self.mounts().iter().filter_map(|mount| mount.info(root)).collect()
    }
}
