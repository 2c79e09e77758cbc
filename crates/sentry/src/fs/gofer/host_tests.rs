//! Changes on the host and by guests, as those who watch hear of them.

use std::fs as host_fs;
use std::os::unix::fs::symlink;
use std::path::Path as HostPath;
use std::time::Duration;

use super::tests::{Setup, setup};
use super::*;
use crate::executor::block_on;
use crate::fs::RenameFlags;
use crate::fs::fsnotify::{FsEvent, Listener, Mark};
use crate::fs::testing::Tree as TestTree;

type Told = (i32, FsEvent, String);

/// Writes down what it hears.
#[derive(Default)]
struct Ear(Mutex<Vec<Told>>);

impl Listener for Ear {
    fn event(&self, mark: &Arc<Mark>, event: FsEvent, _cookie: u32, name: Option<&[u8]>) {
        let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
        self.0.lock().push((mark.id, event, name));
    }

    fn ended(&self, mark: &Arc<Mark>, why: FsEvent) {
        self.0.lock().push((mark.id, why | FsEvent::IGNORED, String::new()));
    }
}

struct Watched {
    tree: TestTree,
    ear: Arc<Ear>,
    marks: Vec<Arc<Mark>>,
    setup: Setup,
}

impl Watched {
    fn new(what: &str, access: Access, fill: impl FnOnce(&HostPath)) -> Watched {
        let setup = setup(what, access, Cache::Shared, fill);
        Watched { tree: TestTree::new(setup.fs.clone()), ear: Arc::default(), marks: Vec::new(), setup }
    }

    /// Watches for all that the host tells; its place in the list is what events are told by.
    fn watch(&mut self, path: &str) {
        let dentry = self.tree.at(path).expect(path).dentry;
        let outside = block_on(dentry.inode().watch_outside(dentry.cache(), FsEvent::HOST).expect("shared")).expect("watched");
        let ear: Arc<dyn Listener> = self.ear.clone();
        let id = self.marks.len() as i32;
        let events = FsEvent::HOST | FsEvent::DELETE_SELF;
        self.marks.push(dentry.watch(id, events, Arc::downgrade(&ear), Some(outside)));
    }

    /// What has been heard, once it is as much as this; and no more.
    fn hears(&self, wanted: &[(i32, FsEvent, &str)]) {
        for _ in 0..5000 {
            if self.ear.0.lock().len() >= wanted.len() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let wanted: Vec<Told> = wanted.iter().map(|(id, event, name)| (*id, *event, name.to_string())).collect();
        assert_eq!(std::mem::take(&mut *self.ear.0.lock()), wanted);
    }

    fn host(&self, name: &str) -> std::path::PathBuf {
        self.setup.path.join(name)
    }
}

#[test]
fn what_the_host_changes_is_told_and_seen() {
    let mut w = Watched::new("told", Access::ReadOnly, |path| {
        host_fs::create_dir(path.join("1")).expect("dir");
        host_fs::write(path.join("1/key"), "one").expect("file");
        symlink("1", path.join("data")).expect("link");
    });
    w.watch("/");
    w.watch("/1/key");
    assert!(w.tree.at("/new").is_err());
    assert_eq!(w.tree.read("/1/key"), Ok("one".to_string()));
    host_fs::write(w.host("new"), "text").expect("write");
    w.hears(&[(0, FsEvent::CREATE, "new"), (0, FsEvent::MODIFY, "new"), (0, FsEvent::CLOSE_WRITE, "new")]);
    assert_eq!(w.tree.read("/new"), Ok("text".to_string()));

    host_fs::create_dir(w.host("2")).expect("dir");
    host_fs::write(w.host("2/key"), "two").expect("file");
    symlink("2", w.host("tmp")).expect("link");
    host_fs::rename(w.host("tmp"), w.host("data")).expect("swap");
    w.hears(&[
        (0, FsEvent::CREATE | FsEvent::ISDIR, "2"),
        (0, FsEvent::CREATE, "tmp"),
        (0, FsEvent::MOVED_FROM, "tmp"),
        (0, FsEvent::MOVED_TO, "data"),
    ]);
    assert_eq!(w.tree.read("/2/key"), Ok("two".to_string()));
    assert!(w.tree.at("/tmp").is_err());

    // Nothing here keeps the old one from ending.
    host_fs::remove_file(w.host("1/key")).expect("remove");
    w.hears(&[(1, FsEvent::ATTRIB, ""), (1, FsEvent::DELETE_SELF | FsEvent::IGNORED, "")]);
}

#[test]
fn directories_end_before_their_names_do() {
    let mut w = Watched::new("ends", Access::ReadWrite, |path| host_fs::create_dir_all(path.join("d/e")).expect("dir"));
    w.watch("/d");
    w.watch("/d/e");
    host_fs::remove_dir(w.host("d/e")).expect("remove");
    w.hears(&[(1, FsEvent::DELETE_SELF | FsEvent::IGNORED, ""), (0, FsEvent::DELETE | FsEvent::ISDIR, "e")]);
    host_fs::remove_dir(w.host("d")).expect("remove");
    w.hears(&[(0, FsEvent::DELETE_SELF | FsEvent::IGNORED, "")]);
}

#[test]
fn what_guests_change_is_told_once_when_the_call_returns() {
    let mut w = Watched::new("own", Access::ReadWrite, |_| {});
    w.watch("/");
    w.tree.mkdir("/d").expect("mkdir");
    w.hears(&[(0, FsEvent::CREATE | FsEvent::ISDIR, "d")]);
    w.tree.write("/f", "text").expect("file");
    w.hears(&[(0, FsEvent::CREATE, "f"), (0, FsEvent::MODIFY, "f"), (0, FsEvent::CLOSE_WRITE, "f")]);
    w.tree.rename("/f", "/d/g", RenameFlags::empty()).expect("rename");
    w.hears(&[(0, FsEvent::MOVED_FROM, "f")]);
    w.watch("/d/g");
    w.watch("/d");
    w.tree.unlink("/d/g").expect("unlink");
    let told = std::mem::take(&mut *w.ear.0.lock());
    for wanted in [(1, FsEvent::ATTRIB, ""), (1, FsEvent::DELETE_SELF | FsEvent::IGNORED, ""), (2, FsEvent::DELETE, "g")] {
        let times = told.iter().filter(|(id, event, name)| (*id, *event, name.as_str()) == wanted).count();
        assert_eq!(times, 1, "{wanted:?} in {told:?}");
    }
    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn watches_of_one_file_are_one_on_the_host_and_the_last_ends_it() {
    let mut w = Watched::new("one", Access::ReadWrite, |path| host_fs::write(path.join("f"), "").expect("file"));
    w.watch("/f");
    w.watch("/f");
    let mut file = host_fs::OpenOptions::new().append(true).open(w.host("f")).expect("open");
    std::io::Write::write_all(&mut file, b"x").expect("write");
    drop(file);
    let modified = [(0, FsEvent::MODIFY, ""), (1, FsEvent::MODIFY, "")];
    let closed = [(0, FsEvent::CLOSE_WRITE, ""), (1, FsEvent::CLOSE_WRITE, "")];
    w.hears(&[modified, closed].concat());
    let dentry = w.tree.at("/f").expect("f").dentry;
    for mark in std::mem::take(&mut w.marks) {
        assert!(dentry.cache().marks.remove(&mark));
        drop(mark);
        assert_eq!(w.setup.fs.tree.host.is_idle(), !dentry.is_watched());
    }
}
