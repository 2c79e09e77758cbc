//! The root directory: an entry for each tree, and nothing else.

use gofer::Errno;

use super::{Fs, Outcome, reply};
use crate::abi::{self, AttrOut, Kstatfs, ROOT_ID};

impl Fs {
    fn root(&self) -> abi::Attr {
        abi::Attr {
            ino: ROOT_ID,
            mode: libc::S_IFDIR | 0o555,
            nlink: 2 + self.trees.count() as u32,
            blksize: 4096,
            ..abi::Attr::default()
        }
    }

    pub(super) fn root_attr(&self) -> AttrOut {
        AttrOut { attr_valid: 1, attr: self.root(), ..AttrOut::default() }
    }

    pub(super) fn root_lookup(&self, name: &[u8]) -> Outcome {
        let tree = self.trees.named(name).ok_or(Errno::ENOENT)?;
        let attr = tree.root.attr()?;
        reply(&self.entry(&tree, None, &attr, None)?)
    }

    pub(super) fn root_statfs(&self) -> Outcome {
        reply(&Kstatfs { bsize: 4096, frsize: 4096, namelen: 255, ..Kstatfs::default() })
    }

    pub(super) fn root_readdir(&self, offset: u64, mut list: super::dir::List) -> Outcome {
        const DOTS: u64 = 2;
        let entries = [(1, &b"."[..]), (2, &b".."[..])];
        for (next, name) in entries.into_iter().filter(|&(next, _)| next > offset) {
            if !list.push_name(ROOT_ID, next, libc::DT_DIR, name) {
                return list.answer();
            }
        }
        let mut at = offset.saturating_sub(DOTS);
        while let Some(tree) = u32::try_from(at).ok().and_then(|index| self.trees.from(index)) {
            at = u64::from(tree.index) + 1;
            // A tree that cannot be asked just now is still a name.
            let (ino, kind) = match tree.root.attr() {
                Ok(attr) => (self.ino((attr.dev_major, attr.dev_minor), attr.ino), super::dir::dirent_kind(Some(attr.kind))),
                Err(_) => (ROOT_ID, libc::DT_UNKNOWN),
            };
            if !list.push_name(ino, at + DOTS, kind, tree.index.to_string().as_bytes()) {
                break;
            }
        }
        list.answer()
    }
}
