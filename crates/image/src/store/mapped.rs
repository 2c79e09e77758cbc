//! An unpacked root as one EROFS image (`roots/CHAIN/rootfs.erofs`): sandboxes map it, so that no process is asked for its files, and all that run the
//! image have one copy of its pages. Made by `mkfs.erofs` at the first use, where the host has that program.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Resource, Rlimit};

use super::gc::used_bytes;
use super::{Root, Store, may_give_files_away};
use crate::error::{Error, Result};

/// What a VM's memory devices come in, in bytes: a file of whole ones is mapped there too. What is added is a hole.
const UNIT: u64 = 128 << 20;

const PROGRAM: &str = "mkfs.erofs";

/// How much larger than what the root takes on the disk an image may become: it has no holes, and hostile layers have files that are nothing else.
fn most_bytes(root: &Path) -> u64 {
    used_bytes(root).saturating_mul(2).saturating_add(64 << 20)
}

impl Store {
    /// The image of a root. None: the host has no `mkfs.erofs` (Debian package `erofs-utils`), or it has failed before.
    ///
    /// # Errors
    /// The host's; what `mkfs.erofs` says, once.
    pub fn mapped(&self, root: &Root) -> Result<Option<PathBuf>> {
        let path = root.path.with_extension("erofs");
        let failed = root.path.with_extension("no-erofs");
        if path.is_file() {
            return Ok(Some(path));
        }
        if failed.exists() {
            return Ok(None);
        }
        let making = format!("erofs-{}", root.chain_id.hex());
        let _lock = self.lock(&format!("tmp/{making}.lock"), FlockOperation::LockExclusive)?;
        if path.is_file() {
            return Ok(Some(path));
        }
        let beside = self.tmp(&making);
        let mut make = Command::new(PROGRAM);
        // Files that begin on pages of their own can be mapped.
        make.args(["-E", "noinline_data"]);
        if !may_give_files_away() {
            make.arg("--all-root");
        }
        make.arg(&beside).arg(&root.path).env("LC_ALL", "C").current_dir("/");
        let started = make.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        if started.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let made = started.and_then(|child| finished(child, most_bytes(&root.path)));
        let kept = made.and_then(|()| finish(&beside)).and_then(|()| fs::rename(&beside, &path));
        if kept.is_err() {
            let _ = (fs::remove_file(&beside), fs::write(&failed, ""));
        }
        kept.map_err(Error::host(format!("cannot make {}", path.display())))?;
        Ok(Some(path))
    }
}

/// Waits for the program, which may write so many bytes.
fn finished(child: Child, most: u64) -> io::Result<()> {
    let pid = Pid::from_child(&child);
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    rustix::process::prlimit(Some(pid), Resource::Fsize, limit)?;
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("{PROGRAM}: {}: {}", output.status, said.lines().last().unwrap_or_default())))
        }
    }
}

/// Fills the last unit, lets everybody read it (who has its descriptor: the directories are closed to others), and writes it to the disk.
fn finish(image: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(image)?;
    file.set_len(file.metadata()?.len().next_multiple_of(UNIT))?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()
}
