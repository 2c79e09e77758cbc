//! An unpacked root as one EROFS image (`roots/CHAIN/rootfs.erofs`): sandboxes map it, so that no process is asked for its files, and all that run the
//! image have one copy of its pages. Made by `mkfs.erofs` at the first use, where the host has that program.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Resource, Rlimit, Signal};

use super::gc::used_bytes;
use super::{Root, Store, may_give_files_away};
use crate::error::{Error, Result};

/// What a VM's memory devices come in, in bytes: a file of whole ones is mapped there too. What is added is a hole.
const UNIT: u64 = 128 << 20;

const PROGRAM: &str = "mkfs.erofs";

/// Of a file that became too large.
const SIGXFSZ: i32 = Signal::XFSZ.as_raw();

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
        let mut make = match may_give_files_away() {
            // It reads what an image has brought: with the one right of root that it takes to read it.
            true => {
                let mut make = Command::new("setpriv");
                make.args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+dac_read_search", PROGRAM]);
                make
            }
            false => {
                let mut make = Command::new(PROGRAM);
                make.arg("--all-root");
                make
            }
        };
        // Files that begin on pages of their own can be mapped.
        make.args(["-E", "noinline_data"]);
        make.arg(&beside).arg(&root.path).env("LC_ALL", "C").current_dir("/");
        let started = make.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        if started.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let cannot = || format!("cannot make {}", path.display());
        let output = started.and_then(|child| output(child, most_bytes(&root.path))).map_err(Error::host(cannot()))?;
        let kept = match output.status.success() {
            true => finish(&beside).and_then(|()| fs::rename(&beside, &path)),
            false => Err(io::Error::other(what_it_said(&output))),
        };
        let Err(error) = kept else { return Ok(Some(path)) };
        let _ = fs::remove_file(&beside);
        match (output.status.code(), output.status.signal()) {
            // setpriv has not found it.
            (Some(127), _) => return Ok(None),
            // It will be no other the next time.
            (Some(1..), _) | (_, Some(SIGXFSZ)) => drop(fs::write(&failed, what_it_said(&output))),
            _ => {}
        }
        Err(Error::host(cannot())(error))
    }
}

fn what_it_said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    format!("{PROGRAM}: {}: {}", output.status, said.lines().last().unwrap_or_default())
}

/// Waits for the program, which may write so many bytes.
fn output(mut child: Child, most: u64) -> io::Result<Output> {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    if let Err(errno) = rustix::process::prlimit(Some(Pid::from_child(&child)), Resource::Fsize, limit) {
        let _ = (child.kill(), child.wait());
        return Err(errno.into());
    }
    child.wait_with_output()
}

/// Fills the last unit, lets everybody read it (who has its descriptor: the directories are closed to others), and writes it to the disk.
fn finish(image: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(image)?;
    file.set_len(file.metadata()?.len().next_multiple_of(UNIT))?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()
}
