//! What the runtime keeps on disk, one directory per container.
//!
//! `state.json` is written whole beside its place and renamed there, so it is never half a file; `lock` is held (flock) by whoever changes
//! the container; `agent.sock` and `report` belong to the sandbox. Status is derived: the file says what was last done, the
//! sandbox's pid and start time say whether it still lives. Nothing has to be running for this to be right.

mod process;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Process};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

pub use self::process::ProcessRef;
use crate::cgroup;
use crate::error::{Doing, Error, Result};
use crate::sandbox::Kind;

/// OCI's container status (and `paused`, as runc has it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// A container's state.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    pub id: String,
    pub oci_version: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
    /// Who made it, on the host.
    pub owner: u32,
    pub annotations: std::collections::BTreeMap<String, String>,
    /// What was last done; [`Status::Stopped`] is never written.
    pub phase: Status,
    /// The container whose end is the sandbox's: this one, unless it has joined another's.
    pub sandbox_id: String,
    pub kind: Kind,
    pub sandbox: Option<ProcessRef>,
    pub gofers: Vec<ProcessRef>,
    /// Of a container that has joined another's sandbox, where an engine waits for a process of its own.
    #[serde(default)]
    pub stand_in: Option<ProcessRef>,
    /// The file system of its application memory, if it has one of its own ([`process::memory`](crate::process::memory)).
    pub memory_dev: Option<u64>,
    /// The network namespace that the sandbox has joined, if that has a name.
    #[serde(default)]
    pub network: Option<PathBuf>,
    pub cgroup: cgroup::Location,
    pub hooks: Option<Hooks>,
    /// For `exec`'s defaults.
    pub process: Option<Process>,
}

impl Saved {
    /// Whether it has joined another container's sandbox.
    pub fn is_member(&self) -> bool {
        self.sandbox_id != self.id
    }

    /// The pid that engines know it by: the sandbox's, whose end is that of its first container. One that has joined it is known by a process that is
    /// its own, if it has one: its stand-in, or its gofer.
    pub fn pid(&self) -> i32 {
        let own = self.stand_in.as_ref().or_else(|| self.gofers.first()).filter(|_| self.is_member());
        own.or(self.sandbox.as_ref()).map_or(0, |process| process.pid)
    }

    /// What it is now, as far as the disk and the sandbox's process tell; [`pod::status`](crate::pod::status) knows more.
    pub fn status(&self) -> Status {
        match &self.sandbox {
            Some(process) if process.is_alive() => self.phase,
            None if self.phase == Status::Creating => Status::Creating,
            _ => Status::Stopped,
        }
    }

    /// OCI's state, as hooks and `nacre state` show it.
    pub fn oci(&self, status: Status) -> serde_json::Value {
        let pid = match status {
            Status::Stopped => 0,
            _ => self.pid(),
        };
        serde_json::json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "pid": pid,
            "status": status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": crate::logging::rfc3339(self.created_ns),
            "owner": "",
            "annotations": self.annotations,
        })
    }
}

/// All containers of one root directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// One container's directory, locked or not.
#[derive(Debug)]
pub struct Entry {
    pub dir: PathBuf,
    pub saved: Saved,
    /// Held for as long as this is, or until `unlock`.
    lock: Option<File>,
}

/// Of a new file that anybody may read, as far as the umask lets them, and of one that is its owner's until more is known.
const PUBLIC: u32 = 0o666;
const PRIVATE: u32 = 0o600;
/// How often a new container's root is made again.
const ROOT_TRIES: u32 = 10;

/// Whether an entry is opened to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// As it is at this moment.
    Look,
    /// Nobody else changes it meanwhile.
    Change,
}

/// runc's rule for ids.
pub fn check_id(id: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id == "." || id == ".." || id.len() > 255 || !id.chars().all(good) {
        return Err(Error::BadId(id.into()));
    }
    Ok(())
}

impl Store {
    pub fn new(root: PathBuf) -> Store {
        Store { root }
    }

    /// The directory they are in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a new container's directory, locked.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadId`], the host's.
    pub fn create(&self, saved: Saved) -> Result<Entry> {
        check_id(&saved.id)?;
        let make = |recursive, path: &Path| DirBuilder::new().recursive(recursive).mode(0o711).create(path);
        let dir = self.root.join(&saved.id);
        // Again, if who removed the last container has taken the root away in between ([`Store::tidy`]).
        let mut tries = 0..ROOT_TRIES;
        loop {
            make(true, &self.root).doing(|| format!("cannot make {}", self.root.display()))?;
            self.check_owner()?;
            match make(false, &dir) {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Error::Exists(saved.id)),
                Err(e) if e.kind() == ErrorKind::NotFound && tries.next().is_some() => {}
                made => made.doing(|| format!("cannot make {}", dir.display()))?,
            }
        }
        let lock = lock(&dir)?;
        let entry = Entry { dir, saved, lock: Some(lock) };
        entry.save()?;
        Ok(entry)
    }

    /// Whoever may write there could have other programs run by what is kept.
    fn check_owner(&self) -> Result<()> {
        let root = self.root.display();
        let found = match fs::metadata(&self.root) {
            Ok(found) => found,
            // Taken away in between, and made again by the caller.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).doing(|| format!("cannot read {root}")),
        };
        let own = rustix::process::geteuid().as_raw();
        if ![0, own].contains(&found.uid()) || found.mode() & 0o002 != 0 {
            return Err(Error::Other(format!(
                "{root} is another user's, or all may write there: state is not safe in it (--root names another place)"
            )));
        }
        Ok(())
    }

    /// Takes the root away if no container is in it, and the directory it is in likewise.
    pub fn tidy(&self) {
        // Refused where there is something; somebody else may be at it.
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() != ErrorKind::NotFound => {}
            _ => drop(self.root.parent().map(fs::remove_dir)),
        }
    }

    /// Opens a container's directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::BadId`], the host's.
    pub fn open(&self, id: &str, access: Access) -> Result<Entry> {
        check_id(id)?;
        let dir = self.root.join(id);
        if !dir.is_dir() {
            return Err(Error::NotFound(id.into()));
        }
        let lock = (access == Access::Change).then(|| lock(&dir)).transpose()?;
        let path = dir.join("state.json");
        let text = match fs::read(&path) {
            // Removed while we waited for the lock, or made just now.
            Err(e) if e.kind() == ErrorKind::NotFound && !dir.is_dir() => return Err(Error::NotFound(id.into())),
            text => text.doing(|| format!("cannot read {}", path.display()))?,
        };
        let saved = serde_json::from_slice(&text).map_err(|e| Error::Other(format!("{}: {e}", path.display())))?;
        Ok(Entry { dir, saved, lock })
    }

    /// Removes what a create that was killed has left before it could save anything.
    ///
    /// # Errors
    /// The host's.
    pub fn remove_remains(&self, id: &str) -> Result<bool> {
        check_id(id)?;
        let dir = self.root.join(id);
        if !dir.is_dir() || dir.join("state.json").exists() {
            return Ok(false);
        }
        let _lock = lock(&dir)?;
        fs::remove_dir_all(&dir).doing(|| format!("cannot remove {}", dir.display()))?;
        Ok(true)
    }

    /// All containers, by id. Those that go away meanwhile are left out.
    ///
    /// # Errors
    /// The root cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).doing(|| format!("cannot read {}", self.root.display())),
        };
        let mut ids: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.sort();
        Ok(ids.iter().filter_map(|id| self.open(id, Access::Look).ok()).collect())
    }
}

impl Entry {
    /// Writes state.json, whole.
    ///
    /// # Errors
    /// The host's.
    pub fn save(&self) -> Result<()> {
        let path = self.dir.join("state.json");
        let text = serde_json::to_vec(&self.saved).map_err(|e| Error::Other(format!("{}: {e}", path.display())))?;
        write_whole(&path, &text)
    }

    /// Lets others change the container.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// Removes the directory.
    ///
    /// # Errors
    /// The host's.
    pub fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.dir).doing(|| format!("cannot remove {}", self.dir.display()))
    }

    /// The directory of the container that the sandbox is of.
    pub fn sandbox_dir(&self) -> PathBuf {
        match self.saved.is_member() {
            true => self.dir.with_file_name(&self.saved.sandbox_id),
            false => self.dir.clone(),
        }
    }

    pub fn report_path(&self) -> PathBuf {
        self.sandbox_dir().join("report")
    }

    /// A path of the agent's socket that fits a socket address however deep the directory is. Valid while `directory` is open.
    ///
    /// # Errors
    /// The host's.
    pub fn socket(&self) -> Result<Socket> {
        let dir = self.sandbox_dir();
        Socket::in_dir(&dir, "agent.sock").doing(|| format!("cannot open {}", dir.display()))
    }
}

/// Where a process of a sandbox listens.
#[derive(Debug)]
pub struct Socket {
    pub path: PathBuf,
    _directory: File,
}

impl Socket {
    /// By a path that fits a socket address however deep the directory is.
    ///
    /// # Errors
    /// The host's.
    pub fn in_dir(dir: &Path, name: &str) -> std::io::Result<Socket> {
        let directory = File::open(dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()));
        Ok(Socket { path, _directory: directory })
    }
}

/// Writes a file beside `path` and renames it there.
///
/// # Errors
/// The host's.
pub fn write_whole(path: &Path, text: &[u8]) -> Result<()> {
    write_beside(path, text, PUBLIC, |_| Ok(()))
}

/// As [`write_whole`], with the owner and the permissions of the file that was there.
///
/// # Errors
/// The host's.
pub fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let old = match fs::metadata(path) {
        Ok(old) => old,
        Err(error) if error.kind() == ErrorKind::NotFound => return write_whole(path, text),
        Err(error) => return Err(error).doing(|| format!("cannot read {}", path.display())),
    };
    write_beside(path, text, PRIVATE, |file| {
        std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))?;
        file.set_permissions(old.permissions())
    })
}

/// `prepare` gets the file, which is made with `mode` (and the umask), while there is nothing in it.
fn write_beside(path: &Path, text: &[u8], mode: u32, prepare: impl FnOnce(&File) -> std::io::Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let made = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&beside);
    let written = made.and_then(|mut file| {
        prepare(&file)?;
        file.write_all(text)?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.doing(|| format!("cannot write {}", path.display()))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .doing(|| format!("cannot open {}", path.display()))?;
    rustix::fs::flock(file.as_fd(), FlockOperation::LockExclusive).doing(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(id: &str) -> Saved {
        Saved {
            id: id.into(),
            oci_version: "1.0.2".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created_ns: 0,
            owner: 0,
            annotations: Default::default(),
            phase: Status::Creating,
            sandbox_id: id.into(),
            kind: Kind::Sentry,
            sandbox: None,
            gofers: Vec::new(),
            stand_in: None,
            memory_dev: None,
            network: None,
            cgroup: Default::default(),
            hooks: None,
            process: None,
        }
    }

    fn store(name: &str) -> Store {
        let root = std::env::temp_dir().join(format!("nacre-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Store::new(root)
    }

    #[test]
    fn ids() {
        for good in ["a", "a.b-c_d+e", "0123"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "ä", "a\n"] {
            assert!(matches!(check_id(bad), Err(Error::BadId(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_was_saved_is_read() {
        let store = store("read");
        let mut entry = store.create(saved("one")).expect("create");
        assert!(matches!(store.create(saved("one")), Err(Error::Exists(_))));
        assert_eq!(store.open("one", Access::Look).expect("open").saved.status(), Status::Creating);
        entry.saved.phase = Status::Running;
        entry.saved.sandbox = ProcessRef::of(std::process::id() as i32);
        entry.save().expect("save");
        assert_eq!(store.open("one", Access::Look).expect("open").saved.status(), Status::Running);
        // Another process with that pid is not it.
        if let Some(process) = &mut entry.saved.sandbox {
            process.start_time += 1;
        }
        assert_eq!(entry.saved.status(), Status::Stopped);
        assert_eq!(store.list().expect("list").len(), 1);
        entry.remove().expect("remove");
        assert!(matches!(store.open("one", Access::Change), Err(Error::NotFound(_))));
        fs::remove_dir_all(&store.root).expect("clean up");
    }

    #[test]
    fn an_empty_root_is_taken_away_and_made_again() {
        let store = Store::new(store("tidy").root().join("namespace"));
        let entry = store.create(saved("one")).expect("create");
        store.tidy();
        assert!(entry.dir.is_dir(), "a container is there");
        entry.remove().expect("remove");
        store.tidy();
        assert!(!store.root.exists() && !store.root.parent().expect("a parent").exists());
        store.create(saved("two")).expect("create again").remove().expect("remove");
        store.tidy();
    }

    #[test]
    fn what_replaces_a_file_is_nobody_elses_to_open_meanwhile() {
        let store = store("replace");
        fs::create_dir_all(&store.root).expect("dir");
        let path = store.root.join("file");
        let mode = |metadata: fs::Metadata| metadata.mode() & 0o777;
        let mut made = 0;
        let look = |file: &File| {
            made = mode(file.metadata()?);
            Ok(())
        };
        write_beside(&path, b"secret", PRIVATE, look).expect("written");
        assert_eq!(made, 0o600, "before its owner and permissions are known");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("permissions");
        replace(&path, b"another").expect("replaced");
        assert_eq!(mode(fs::metadata(&path).expect("the file")), 0o640);
        fs::remove_dir_all(&store.root).expect("clean up");
    }

    #[test]
    fn a_create_that_died_early_can_be_removed() {
        let store = store("early");
        fs::create_dir_all(store.root.join("x")).expect("dir");
        assert!(store.open("x", Access::Look).is_err());
        assert!(store.remove_remains("x").expect("remove"));
        assert!(!store.remove_remains("x").expect("gone"));
        fs::remove_dir_all(&store.root).expect("clean up");
    }
}
