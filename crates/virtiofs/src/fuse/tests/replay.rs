//! What others change, and what is answered to who does it once more.

use rustix::event::epoll;

use super::*;
use crate::{
    changes::{Change, Happening},
    fuse::token,
};

const AGENT: u32 = 77;
const OTHER: u32 = 78;

/// A volume that is only to be read, which is watched.
fn volume(access: Access) -> Guest {
    let guest = Guest::new(access, Cache::Shared, LIMITS);
    guest.fs.watches.begin(Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()));
    guest
}

fn spot(dir: u64, name: &str) -> (u64, Name) {
    (dir, Name::new(name.as_bytes()).unwrap())
}

impl Guest {
    fn host(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    fn announce(&self, token: &[u8]) -> Result<(), Errno> {
        self.set_root_attribute(b"trusted.nacre.replay", token)
    }

    fn set_root_attribute(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        self.pid.set(AGENT);
        let arg = SetxattrIn { size: value.len() as u32, flags: 0 };
        self.call(op::SETXATTR, ROOT_ID, &[arg.as_bytes(), name, b"\0", value], 0).map(drop)
    }

    fn mknod(&self, dir: u64, name: &str) -> Result<EntryOut, Errno> {
        let arg = MknodIn { mode: libc::S_IFREG | 0o600, ..MknodIn::default() };
        self.ask(op::MKNOD, dir, &[arg.as_bytes(), name.as_bytes(), b"\0"])
    }

    fn changes(&self) -> Vec<(Happening, String)> {
        let words = |change: Change| {
            let to = change.target.map(|(dir, name)| [b" to ".as_slice(), &dir, b"/", &name].concat());
            let words = [&change.directory, b"/".as_slice(), &change.name, &to.unwrap_or_default()].concat();
            (change.happening, String::from_utf8(words).unwrap())
        };
        self.fs.changes().into_iter().map(words).collect()
    }
}

#[test]
fn a_name_that_others_have_made() {
    let guest = volume(Access::ReadOnly);
    let dir = guest.at("0");
    fs::write(guest.host("new"), "new").unwrap();
    guest.announce(&token(Happening::Created, libc::S_IFREG, &spot(dir, "new"), None)).unwrap();
    assert_eq!(guest.lookup(dir, "new").unwrap_err(), Errno::ENOENT, "so it can be made");
    let made = guest.mknod(dir, "new").unwrap();
    assert_eq!((made.entry_valid, made.attr.size), (0, 3));
    assert_eq!(guest.mknod(dir, "another").unwrap_err(), Errno::EROFS, "only what was announced");
    guest.pid.set(OTHER);
    assert_eq!(guest.lookup(dir, "new").unwrap().nodeid, made.nodeid, "others see what is there");
    assert_eq!(guest.mknod(dir, "new").unwrap_err(), Errno::EROFS);
    guest.announce(&[]).unwrap();
    assert_eq!(guest.lookup(dir, "new").unwrap().nodeid, made.nodeid);
}

#[test]
fn names_that_others_have_removed() {
    let guest = volume(Access::ReadWrite);
    let dir = guest.at("0");
    fs::write(guest.host("known"), "").unwrap();
    fs::write(guest.host("stays"), "").unwrap();
    let known = guest.at("0/known");
    fs::remove_file(guest.host("known")).unwrap();
    guest.announce(&token(Happening::Deleted, 0, &spot(dir, "known"), None)).unwrap();
    let found = guest.lookup(dir, "known").unwrap();
    assert_eq!((found.nodeid, found.attr.nlink < 2), (known, true), "what the guest had there");
    guest.unlink(dir, "known").unwrap();
    // The guest did not know it, and whatever is there now stays.
    guest.announce(&token(Happening::Deleted, 0, &spot(dir, "stays"), None)).unwrap();
    let ghost = guest.lookup(dir, "stays").unwrap();
    assert_eq!(ghost.attr.mode, libc::S_IFREG);
    guest.unlink(dir, "stays").unwrap();
    guest.forget(ghost.nodeid, 1);
    assert_eq!(guest.attr(ghost.nodeid).unwrap_err(), Errno::ESTALE, "there is no such inode");
    assert!(guest.host("stays").exists(), "nothing is done on the host");
    guest.announce(&token(Happening::Deleted, libc::S_IFDIR, &spot(dir, "none"), None)).unwrap();
    assert_eq!(guest.lookup(dir, "none").unwrap().attr.mode, libc::S_IFDIR);
}

#[test]
fn a_name_that_others_have_moved() {
    let guest = volume(Access::ReadWrite);
    fs::create_dir(guest.host("sub")).unwrap();
    let (dir, sub) = (guest.at("0"), guest.at("0/sub"));
    fs::write(guest.host("from"), "moved").unwrap();
    fs::write(guest.host("sub/to"), "displaced").unwrap();
    let (moved, displaced) = (guest.at("0/from"), guest.at("0/sub/to"));
    fs::rename(guest.host("from"), guest.host("sub/to")).unwrap();
    guest.announce(&token(Happening::Moved, 0, &spot(dir, "from"), Some(&spot(sub, "to")))).unwrap();
    assert_eq!(guest.lookup(dir, "from").unwrap().nodeid, moved);
    assert_eq!(guest.lookup(sub, "to").unwrap().nodeid, displaced);
    guest.rename(dir, "from", sub, "to", 0).unwrap();
    guest.announce(&[]).unwrap();
    assert_eq!(guest.lookup(sub, "to").unwrap().nodeid, moved);
    assert_eq!(guest.attr(moved).unwrap().size, 5, "found by its new name");
    assert_eq!(fs::read(guest.host("sub/to")).unwrap(), b"moved");
    // It has gone on already.
    guest.announce(&token(Happening::Moved, 0, &spot(dir, "quick"), Some(&spot(dir, "gone")))).unwrap();
    assert_eq!(guest.lookup(dir, "quick").unwrap().attr.mode, libc::S_IFREG);
    assert_eq!(guest.lookup(dir, "gone").unwrap_err(), Errno::ENOENT);
    guest.rename(dir, "quick", dir, "gone", 0).unwrap();
}

#[test]
fn a_file_that_others_have_written() {
    let guest = volume(Access::ReadOnly);
    let dir = guest.at("0");
    fs::write(guest.host("file"), "one").unwrap();
    let file = guest.at("0/file");
    guest.announce(&token(Happening::Written, 0, &spot(dir, "file"), None)).unwrap();
    let set = SetattrIn { valid: fattr::MTIME | fattr::MTIME_NOW, ..SetattrIn::default() };
    assert_eq!(guest.ask::<AttrOut>(op::SETATTR, file, &[set.as_bytes()]).unwrap_err(), Errno::ESTALE, "not asked before");
    let told = guest.attr(file).unwrap();
    fs::write(guest.host("file"), "longer").unwrap();
    let again: AttrOut = guest.ask(op::SETATTR, file, &[set.as_bytes()]).unwrap();
    assert_eq!((again.attr.size, again.attr.mtimensec), (3, told.mtimensec), "the same as before");
    let fh = guest.open(file, libc::O_WRONLY).expect("not really");
    assert_eq!(guest.write(file, fh, 0, b"x", 0), Err(Errno::EBADF));
    guest.release(file, fh);
    guest.pid.set(OTHER);
    assert_eq!(guest.open(file, libc::O_WRONLY), Err(Errno::EROFS));
}

#[test]
fn what_is_no_announcement() {
    let guest = volume(Access::ReadWrite);
    let good = token(Happening::Moved, 0, &spot(5, "a"), Some(&spot(6, "b")));
    for length in 1..good.len() {
        assert_eq!(guest.announce(&good[..length]), Err(Errno::EINVAL), "{length}");
    }
    assert_eq!(guest.announce(&[9; 20]), Err(Errno::EINVAL));
    assert_eq!(guest.set_root_attribute(b"trusted.other", b"x"), Err(Errno::EROFS));
    guest.announce(&good).unwrap();
    assert_eq!(guest.lookup(5, "a").unwrap_err(), Errno::ESTALE, "there is no such directory");
}

#[test]
fn what_others_change_is_told() {
    let guest = volume(Access::ReadWrite);
    fs::create_dir(guest.host("sub")).unwrap();
    let sub = guest.at("0/sub");
    fs::write(guest.host("theirs"), "x").unwrap();
    fs::rename(guest.host("theirs"), guest.host("sub/moved")).unwrap();
    fs::set_permissions(guest.host("sub/moved"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(guest.host("sub/deep")).unwrap();
    fs::remove_dir(guest.host("sub/deep")).unwrap();
    let told = |happening, what: &str| (happening, what.to_string());
    let expected = [
        told(Happening::Created, "0/theirs"),
        told(Happening::Written, "0/theirs"),
        told(Happening::Closed, "0/theirs"),
        told(Happening::Moved, "0/theirs to 0/sub/moved"),
        told(Happening::AttributesChanged, "0/sub/moved"),
        told(Happening::Created, "0/sub/deep"),
        told(Happening::Deleted, "0/sub/deep"),
    ];
    assert_eq!(guest.changes(), expected);
    let elsewhere = TestDir::new();
    fs::rename(guest.host("sub/moved"), elsewhere.0.join("away")).unwrap();
    assert_eq!(guest.changes(), [told(Happening::Deleted, "0/sub/moved")]);
    fs::rename(elsewhere.0.join("away"), guest.host("sub/back")).unwrap();
    assert_eq!(guest.changes(), [told(Happening::Created, "0/sub/back")]);
    guest.forget(sub, 1);
    fs::write(guest.host("sub/unseen"), "").unwrap();
    let _ = guest.changes();
    fs::write(guest.host("sub/unseen"), "x").unwrap();
    assert_eq!(guest.changes(), [], "a directory that the guest has forgotten");
}

#[test]
fn what_the_guest_changes_is_not_told() {
    let guest = volume(Access::ReadWrite);
    let dir = guest.at("0");
    let (entry, fh) = guest.create(dir, "own", libc::O_RDWR, 0o644).unwrap();
    guest.write(entry.nodeid, fh, 0, b"text", 0).unwrap();
    let release = ReleaseIn { fh, flags: libc::O_RDWR as u32, ..ReleaseIn::default() };
    guest.call(op::RELEASE, entry.nodeid, &[release.as_bytes()], 0).unwrap();
    guest.rename(dir, "own", dir, "renamed", 0).unwrap();
    guest.unlink(dir, "renamed").unwrap();
    assert_eq!(guest.unlink(dir, "renamed"), Err(Errno::ENOENT));
    assert_eq!(guest.changes(), []);
    // What has failed is not expected any more.
    fs::write(guest.host("renamed"), "").unwrap();
    fs::remove_file(guest.host("renamed")).unwrap();
    let kinds: Vec<Happening> = guest.changes().into_iter().map(|(happening, _)| happening).collect();
    assert_eq!(kinds, [Happening::Created, Happening::Closed, Happening::Deleted]);
    // A directory that the guest is busy in is its own.
    for n in 0..300 {
        guest.mknod(dir, &n.to_string()).unwrap();
    }
    let _ = guest.changes();
    fs::write(guest.host("late"), "").unwrap();
    assert_eq!(guest.changes(), []);
}
