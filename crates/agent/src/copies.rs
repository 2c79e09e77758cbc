//! Copies of small volumes that the host changes: ConfigMaps, secrets and their like.
//!
//! virtio-fs tells a guest nothing of what the host changes, so nobody who watches such a volume by inotify(7) would hear of it. Such a volume is a tmpfs here
//! instead, [made](Copies::make) of the host's tree, which follows that when the host says that it has changed ([`Copies::follow`]): then the guest's own kernel
//! tells its watchers. What changes is done in the kubelet's order: what is new comes before a link leads to it, a link changes at once by a
//! rename, and what is gone goes last.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::boot::{COPIES, TREES};
use crate::log;

/// What a volume may have to be copied: the kubelet's objects have 1 MiB each, and a projected volume has some of them.
const MOST: Room = Room { entries: 512, bytes: 4 << 20 };
/// The size of a copy: two versions, for a while.
const SIZE: &str = "mode=755,size=16m,nr_inodes=2048";
/// Until the guest's kernel looks at the host's names and attributes again (`virtiofs`: a second), and some more.
const STALE: Duration = Duration::from_millis(1100);
/// Deeper directories are nobody's volume.
const DEPTH: usize = 16;

/// What there is to be copied, or may be.
#[derive(Debug, Clone, Copy)]
struct Room {
    entries: usize,
    bytes: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> io::Result<()> {
        match (self.entries.checked_sub(1), self.bytes.checked_sub(bytes)) {
            (Some(entries), Some(bytes)) => {
                *self = Room { entries, bytes };
                Ok(())
            }
            _ => Err(other("it is too large")),
        }
    }
}

/// The copies there are: the tree of each, and whose it is.
#[derive(Default)]
pub struct Copies {
    list: Mutex<BTreeMap<u32, String>>,
}

/// Where a tree's copy is, if there is one.
pub fn path(tree: u32) -> PathBuf {
    Path::new(COPIES).join(tree.to_string())
}

impl Copies {
    /// Copies a container's tree. One that cannot be is the host's own, as others are, and the log says so.
    pub fn make(&self, container: &str, tree: u32) {
        let (from, to) = (Path::new(TREES).join(tree.to_string()), path(tree));
        let mut list = self.list.lock();
        let made = fs::create_dir_all(&to).and_then(|()| {
            let options = std::ffi::CString::new(SIZE).map_err(io::Error::from)?;
            mount("volume", &to, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
            bring(&from, &to, &mut MOST.clone(), 0)
        });
        match made {
            Ok(()) => drop(list.insert(tree, container.into())),
            Err(error) => {
                log::warn(format_args!(
                    "container {container}: those who watch volume {tree} do not hear of its changes: {error}"
                ));
                remove(&to);
            }
        }
    }

    /// Has the copies of these trees follow them, after a while.
    pub fn follow(&self, trees: &[u32]) {
        sleep(STALE);
        let list = self.list.lock();
        for tree in trees.iter().filter(|tree| list.contains_key(tree)) {
            let from = Path::new(TREES).join(tree.to_string());
            if let Err(error) = bring(&from, &path(*tree), &mut MOST.clone(), 0) {
                log::warn(format_args!("volume {tree} has not become what the host has there: {error}"));
            }
        }
    }

    /// A container has gone.
    pub fn release(&self, container: &str) {
        self.list.lock().retain(|tree, owner| {
            let stays = owner != container;
            if !stays {
                remove(&path(*tree));
            }
            stays
        });
    }
}

/// Whoever has it mounted keeps it.
fn remove(copy: &Path) {
    let _ = unmount(copy, UnmountFlags::DETACH);
    let _ = fs::remove_dir(copy);
}

/// Makes one directory like another.
fn bring(from: &Path, to: &Path, room: &mut Room, depth: usize) -> io::Result<()> {
    if depth > DEPTH {
        return Err(other("its directories are too deep"));
    }
    let (wanted, mut there) = (list(from)?, list(to)?);
    let mut wanted: Vec<(OsString, Metadata)> = wanted.into_iter().collect();
    wanted.sort_by_key(|(_, like)| (!like.is_dir(), like.is_symlink()));
    for (name, like) in wanted {
        let old = there.remove(&name);
        item(&from.join(&name), &to.join(&name), &like, old.as_ref(), room, depth)?;
    }
    for (name, old) in there {
        discard(&to.join(name), &old)?;
    }
    attributes(to, &fs::symlink_metadata(from)?)
}

fn item(from: &Path, to: &Path, like: &Metadata, old: Option<&Metadata>, room: &mut Room, depth: usize) -> io::Result<()> {
    if !(like.is_dir() || like.is_file() || like.is_symlink()) {
        return Err(other(&format!("{} is neither a file nor a directory nor a link", from.display())));
    }
    room.take(if like.is_file() { like.len() } else { 0 })?;
    let old = match old {
        Some(old) if old.file_type() != like.file_type() => {
            discard(to, old)?;
            None
        }
        old => old,
    };
    if like.is_symlink() {
        let target = fs::read_link(from)?;
        match old {
            None => symlink(target, to)?,
            Some(_) if fs::read_link(to)? == target => {}
            Some(_) => {
                let mut new = to.as_os_str().to_owned();
                new.push("_tmp");
                symlink(target, &new)?;
                fs::rename(new, to)?;
            }
        }
        return Ok(());
    }
    if like.is_dir() {
        if old.is_none() {
            fs::create_dir(to)?;
        }
        return bring(from, to, room, depth + 1);
    }
    let content = fs::read(from)?;
    if old.is_none() || fs::read(to)? != content {
        fs::write(to, content)?;
    }
    attributes(to, like)
}

/// Gives a file or directory another's owner, mode and time of change.
fn attributes(to: &Path, like: &Metadata) -> io::Result<()> {
    let own = fs::symlink_metadata(to)?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        lchown(to, Some(like.uid()), Some(like.gid()))?;
    }
    if own.mode() != like.mode() {
        fs::set_permissions(to, Permissions::from_mode(like.mode() & 0o7777))?;
    }
    if (own.mtime(), own.mtime_nsec()) != (like.mtime(), like.mtime_nsec()) {
        let time = Timespec { tv_sec: like.mtime(), tv_nsec: like.mtime_nsec() as _ };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn discard(path: &Path, what: &Metadata) -> io::Result<()> {
    if what.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn list(dir: &Path) -> io::Result<BTreeMap<OsString, Metadata>> {
    let mut list = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) => drop(list.insert(entry.file_name(), metadata)),
            // The host has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(list)
}

fn other(why: &str) -> io::Error {
    io::Error::other(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dirs(PathBuf);

    impl Dirs {
        fn new(name: &str) -> Dirs {
            let dirs = Dirs(std::env::temp_dir().join(format!("nacre-copies-{name}-{}", std::process::id())));
            fs::create_dir_all(dirs.0.join("host")).expect("a directory");
            fs::create_dir_all(dirs.0.join("copy")).expect("a directory");
            dirs
        }

        fn host(&self, name: &str) -> PathBuf {
            self.0.join("host").join(name)
        }

        fn copy(&self, name: &str) -> PathBuf {
            self.0.join("copy").join(name)
        }

        fn bring(&self) -> io::Result<()> {
            bring(&self.host(""), &self.copy(""), &mut MOST.clone(), 0)
        }

        /// As the kubelet does.
        fn version(&self, number: u32, text: &str) {
            let made = self.host(&format!("..{number}"));
            fs::create_dir(&made).expect("a directory");
            fs::write(made.join("key"), text).expect("a file");
            symlink(format!("..{number}"), self.host("..data_tmp")).expect("a link");
            fs::rename(self.host("..data_tmp"), self.host("..data")).expect("a rename");
        }
    }

    impl Drop for Dirs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_copy_follows() {
        let dirs = Dirs::new("follows");
        dirs.version(1, "one");
        symlink("..data/key", dirs.host("key")).expect("a link");
        fs::write(dirs.host("plain"), "old").expect("a file");
        fs::set_permissions(dirs.host("plain"), Permissions::from_mode(0o640)).expect("a mode");
        dirs.bring().expect("copied");
        let seen = |name: &str| fs::read_to_string(dirs.copy(name)).expect("it is there");
        assert_eq!((seen("key"), seen("plain")), ("one".into(), "old".into()));
        assert_eq!(fs::metadata(dirs.copy("plain")).expect("plain").mode() & 0o7777, 0o640);

        let plain = fs::metadata(dirs.copy("plain")).expect("plain").ino();
        dirs.version(2, "two");
        fs::remove_dir_all(dirs.host("..1")).expect("the old version");
        fs::write(dirs.host("plain"), "new").expect("a file");
        dirs.bring().expect("followed");
        assert_eq!((seen("key"), seen("plain")), ("two".into(), "new".into()));
        assert!(!dirs.copy("..1").exists() && !dirs.copy("..data_tmp").exists());
        assert_eq!(fs::metadata(dirs.copy("plain")).expect("plain").ino(), plain, "who watches it watches it still");

        // What was a directory may become a file.
        fs::remove_file(dirs.host("plain")).expect("removed");
        fs::create_dir(dirs.host("plain")).expect("a directory");
        dirs.bring().expect("followed");
        assert!(dirs.copy("plain").is_dir());
    }

    #[test]
    fn what_is_large_or_odd_is_not_copied() {
        let dirs = Dirs::new("large");
        fs::File::create(dirs.host("file")).and_then(|file| file.set_len(MOST.bytes + 1)).expect("a file");
        assert!(dirs.bring().expect_err("too large").to_string().contains("too large"));
        fs::remove_file(dirs.host("file")).expect("removed");
        for number in 0..MOST.entries {
            fs::write(dirs.host(&number.to_string()), "").expect("a file");
        }
        dirs.bring().expect("just enough");
        std::os::unix::net::UnixListener::bind(dirs.host("0socket")).expect("a socket");
        fs::remove_file(dirs.host("1")).expect("removed");
        assert!(dirs.bring().expect_err("odd").to_string().contains("0socket is neither"));
    }
}
