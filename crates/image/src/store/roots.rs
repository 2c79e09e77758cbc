//! Unpacked roots, one for each chain id.
//!
//! A root is made in `tmp/`, under a lock that other processes who want it wait for, and renamed into `roots/` when every layer was what its digests say
//! and is on the disk. All layers are in one tree rather than one tree each: a container's lower layer is then one directory (a lookup asks one
//! place), and files have the link counts and numbers that the image gives them.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::progress::{Progress, Step, Update};
use crate::source::Source;
use crate::unpack::helper::Unpacker;
use crate::unpack::{Limits, Owners, beneath};

/// An image's files. They stay as long as a [`Use`](super::Use) is held, or a container's record names them.
#[derive(Debug, Clone)]
pub struct Root {
    pub chain_id: Digest,
    pub path: PathBuf,
}

impl Store {
    /// The image's root, unpacking it if that has not been done yet.
    ///
    /// # Errors
    /// A layer is refused; the host's.
    pub fn root(&self, source: &Source, image: &Image, unpacker: &Unpacker, progress: &dyn Progress) -> Result<Root> {
        let chain_id = image.chain_id();
        let home = self.dir.join("roots").join(chain_id.hex());
        let root = Root { chain_id, path: home.join("rootfs") };
        if root.path.is_dir() {
            return Ok(root);
        }
        let making = format!("root-{}", chain_id.hex());
        let _lock = self.lock(&format!("tmp/{making}.lock"), FlockOperation::LockExclusive)?;
        if root.path.is_dir() {
            return Ok(root);
        }
        // What is there was left by a process that died.
        self.remove_tree("tmp", &making)?;
        let made = self.unpack(&making, source, image, unpacker, progress);
        let kept = made.and_then(|tree| {
            // Once for all of it: what has its name must be whole after a power cut too.
            rustix::fs::syncfs(&tree).map_err(|e| Error::host("cannot write the root to the disk")(e.into()))?;
            fs::rename(self.tmp(&making), &home).map_err(Error::host(format!("cannot keep {}", home.display())))
        });
        if kept.is_err() {
            let _ = self.remove_tree("tmp", &making);
        }
        kept.map(|()| root)
    }

    fn unpack(
        &self,
        making: &str,
        source: &Source,
        image: &Image,
        unpacker: &Unpacker,
        progress: &dyn Progress,
    ) -> Result<std::os::fd::OwnedFd> {
        let path = self.tmp(making).join("rootfs");
        let cannot = || format!("cannot make {}", path.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.tmp(making)).map_err(Error::host(cannot()))?;
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(Error::host(cannot()))?;
        let tree = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let tree = tree.map_err(|e| Error::host(cannot())(e.into()))?;
        // Whatever the umask: an image need not say what its root's mode is.
        rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755)).map_err(|e| Error::host(cannot())(e.into()))?;
        let owners = if may_give_files_away() { Owners::Archive } else { Owners::Own };
        let mut limits = Limits::default();
        for layer in &image.layers {
            let name = layer.name();
            let blob = source.layer(layer)?;
            let mut update = |done: u64| {
                if done < layer.size {
                    progress.update(Update { layer: &name, step: Step::Unpacking, done, total: layer.size });
                }
            };
            let unpacked = unpacker.unpack(tree.as_fd(), &blob, limits, owners, &mut update);
            let applied = unpacked.map_err(|cause| Error::Unpack { layer: name.clone(), cause })?;
            let wrong = |what: &str, expected, actual| Error::Digest { what: format!("{what} {name}"), expected, actual };
            if let Some(expected) = blob.digest.filter(|expected| *expected != applied.blob) {
                return Err(wrong("layer", expected, applied.blob));
            }
            if applied.diff_id != layer.diff_id {
                return Err(wrong("unpacked layer", layer.diff_id, applied.diff_id));
            }
            limits.bytes = limits.bytes.saturating_sub(applied.counts.bytes);
            limits.members = limits.members.saturating_sub(applied.counts.members);
            progress.update(Update { layer: &name, step: Step::Unpacking, done: layer.size, total: layer.size });
            for (count, what) in
                [(applied.counts.devices_skipped, "device nodes"), (applied.counts.xattrs_skipped, "extended attributes")]
            {
                if count > 0 {
                    tracing::debug!("layer {name}: {count} {what} left out");
                }
            }
        }
        Ok(tree)
    }

    /// Removes a directory of the store, however deep.
    pub(super) fn remove_tree(&self, parent: &str, name: &str) -> Result<()> {
        let cannot = || format!("cannot remove {}/{parent}/{name}", self.dir.display());
        let parent =
            rustix::fs::open(self.dir.join(parent), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let parent = parent.map_err(|e| Error::host(cannot())(e.into()))?;
        beneath::remove(parent.as_fd(), name.as_bytes()).map_err(|e| Error::host(cannot())(e.into()))
    }
}

/// Whether files can get the owners that an image gives them.
pub fn may_give_files_away() -> bool {
    let wanted = rustix::thread::CapabilitySet::CHOWN | rustix::thread::CapabilitySet::SYS_CHROOT;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted)) && rustix::process::geteuid().is_root()
}
