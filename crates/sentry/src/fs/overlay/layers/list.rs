//! Listing: the names of all layers of a directory.

use std::collections::HashSet;
use std::sync::Arc;

use super::node::Node;
use crate::Errno;
use crate::fs::overlay::copy_up;
use crate::fs::overlay::dir::{Lister, Listing};
use crate::fs::{DirEntry, FileKind, Inode, OpenFlags};
use crate::step::BoxFuture;

/// A layer's own entries, without `.` and `..`.
pub(super) async fn raw(dir: &Arc<dyn Inode>) -> Result<Vec<(FileKind, Box<[u8]>)>, Errno> {
    Ok(numbered(dir).await?.into_iter().map(|(_, kind, name)| (kind, name)).collect())
}

async fn numbered(dir: &Arc<dyn Inode>) -> Result<Listing, Errno> {
    let ops = dir.clone().open_data(OpenFlags::empty()).await?;
    let file = copy_up::open(dir, ops, OpenFlags::empty());
    let mut found = Listing::new();
    let mut emit = |entry: DirEntry<'_>| {
        if !matches!(entry.name, b"." | b"..") {
            found.push((entry.ino, entry.kind, entry.name.into()));
        }
        true
    };
    file.ops.read_dir(&file, 0, &mut emit).await?;
    Ok(found)
}

impl Lister for Node {
    fn own_ino(&self) -> u64 {
        self.ino()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, Errno>> {
        Box::pin(async move {
            let mut seen: HashSet<Box<[u8]>> = HashSet::new();
            let mut all = Listing::new();
            for dir in self.layers() {
                let dev = if self.fs.devices.is_empty() { 0 } else { dir.metadata().await?.dev };
                for (ino, kind, name) in numbered(dir).await? {
                    let ino = self.fs.ino(dev, ino);
                    if seen.contains(&name) {
                        continue;
                    }
                    // Devices and empty files may stand for nothing; a name that is gone meanwhile is left out.
                    let hides = match kind {
                        FileKind::CharDevice | FileKind::Regular => match dir.lookup(&name).await {
                            Ok(inode) => self.format().is_whiteout(&inode).await?,
                            Err(Errno::ENOENT) => true,
                            Err(errno) => return Err(errno),
                        },
                        _ => false,
                    };
                    if !hides {
                        all.push((ino, kind, name.clone()));
                    }
                    seen.insert(name);
                }
            }
            Ok(all)
        })
    }
}
