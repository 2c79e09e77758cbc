//! What the tests of this room share: trees of tmpfs, and calls by path, without tasks.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::tmpfs::{Options, TmpFs};
use super::walk::{parent_in, resolve_in};
use super::{
    DirEntry, File, FileKind, FileSystem, Inode, Metadata, Mount, MountFlags, NewInode, OpenFlags, Origin, Path, RenameFlags,
    ResolveFlags, UnlinkKind, View, WriteAt, namei, next_device,
};
use crate::Errno;
use crate::mm::MemoryFile;
use crate::step::Step;
use crate::task::Creds;
use crate::time::Clock;

/// Runs a future that waits for nobody but itself.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..100_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
    panic!("the future waits for ever");
}

pub fn memory() -> Arc<MemoryFile> {
    MemoryFile::new(hostcall::memory::anonymous_file("test").expect("a memory file")).expect("a memory file")
}

pub fn tmpfs() -> Arc<TmpFs> {
    TmpFs::new(memory(), Clock::Host, next_device(), Options::default())
}

/// Calls by path in one tree.
pub struct Tree {
    pub view: View,
}

impl Tree {
    /// Root's view of a new mount.
    pub fn new(fs: Arc<dyn FileSystem>) -> Tree {
        let root = Mount::new(fs, "test", MountFlags::empty(), &Clock::Host).root_path();
        Tree { view: View::kernel(root) }
    }

    /// Somebody else's.
    pub fn seen_by(&self, uid: u32) -> Tree {
        let creds = Creds { uid, euid: uid, fsuid: uid, gid: uid, fsgid: uid, ..Creds::default() };
        Tree { view: View { creds: Arc::new(creds), ..self.view.clone() } }
    }

    pub fn at(&self, path: &str) -> Result<Path, Errno> {
        self.resolve(path, ResolveFlags::empty())
    }

    pub fn resolve(&self, path: &str, flags: ResolveFlags) -> Result<Path, Errno> {
        run(resolve_in(&self.view, None, self.view.cwd.clone(), path.as_bytes(), flags))
    }

    pub fn stat(&self, path: &str) -> Result<Metadata, Errno> {
        run(async { self.resolve(path, ResolveFlags::NOFOLLOW)?.inode().metadata().await })
    }

    fn make(&self, path: &str, kind: FileKind, permissions: u32, target: &str) -> Result<Path, Errno> {
        run(async {
            let (dir, last) = parent_in(&self.view, None, self.view.cwd.clone(), path.as_bytes()).await?;
            let (uid, gid) = (self.view.creds.fsuid, self.view.creds.fsgid);
            let new = NewInode { kind, permissions, uid, gid, rdev: 0, target: target.into() };
            namei::create(&self.view, &dir, &last, new).await
        })
    }

    pub fn mkdir(&self, path: &str) -> Result<Path, Errno> {
        self.make(path, FileKind::Directory, 0o755, "")
    }

    pub fn symlink(&self, target: &str, path: &str) -> Result<Path, Errno> {
        self.make(path, FileKind::Symlink, 0o777, target)
    }

    /// Makes a file with this content, or replaces its beginning.
    pub fn write(&self, path: &str, content: &str) -> Result<(), Errno> {
        let place = match self.at(path) {
            Err(Errno::ENOENT) => self.make(path, FileKind::Regular, 0o644, "")?,
            place => place?,
        };
        let file = self.open(&place, OpenFlags::RDWR)?;
        run(file.ops.write(&file, WriteAt::Offset(0), &mut content.as_bytes()).into_future()).map(drop)
    }

    pub fn open(&self, place: &Path, flags: OpenFlags) -> Result<Arc<File>, Errno> {
        let ops = run(place.inode().clone().open_data(flags).into_future())?;
        Ok(File::new(ops, Origin::Path(place.clone()), flags))
    }

    pub fn read(&self, path: &str) -> Result<String, Errno> {
        let file = self.open(&self.at(path)?, OpenFlags::empty())?;
        read(&file)
    }

    pub fn unlink(&self, path: &str) -> Result<(), Errno> {
        self.remove(path, UnlinkKind::NotDirectory)
    }

    pub fn rmdir(&self, path: &str) -> Result<(), Errno> {
        self.remove(path, UnlinkKind::Directory)
    }

    fn remove(&self, path: &str, kind: UnlinkKind) -> Result<(), Errno> {
        run(async {
            let (dir, last) = parent_in(&self.view, None, self.view.cwd.clone(), path.as_bytes()).await?;
            namei::unlink(&self.view, &dir, &last, kind).await
        })
    }

    pub fn link(&self, from: &str, to: &str) -> Result<(), Errno> {
        run(async {
            let from = self.resolve(from, ResolveFlags::NOFOLLOW)?;
            let (dir, last) = parent_in(&self.view, None, self.view.cwd.clone(), to.as_bytes()).await?;
            namei::link(&self.view, &from, &dir, &last).await
        })
    }

    pub fn rename(&self, from: &str, to: &str, flags: RenameFlags) -> Result<(), Errno> {
        run(async {
            let cwd = || self.view.cwd.clone();
            let (dir, last) = parent_in(&self.view, None, cwd(), from.as_bytes()).await?;
            let (to_dir, to_last) = parent_in(&self.view, None, cwd(), to.as_bytes()).await?;
            namei::rename(&self.view, (&dir, &last), (&to_dir, &to_last), flags).await
        })
    }

    /// The sorted names in a directory, without dots.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Errno> {
        let place = self.at(path)?;
        let file = self.open(&place, OpenFlags::empty())?;
        let mut names = Vec::new();
        let mut emit = |entry: DirEntry<'_>| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        };
        run(file.ops.read_dir(&file, 0, &mut emit).into_future())?;
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }
}

/// All of a file.
pub fn read(file: &File) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    run(file.ops.read(file, 0, &mut bytes).into_future())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file system that never answers at once: every operation that may wait does, as with a gofer.
pub struct Slow {
    inner: Arc<dyn FileSystem>,
    pub ttl_ns: u64,
    root: Arc<dyn Inode>,
}

impl Slow {
    pub fn new(inner: Arc<dyn FileSystem>, ttl_ns: u64) -> Arc<Slow> {
        let root = slow::wrap(inner.root());
        Arc::new(Slow { inner, ttl_ns, root })
    }
}

impl FileSystem for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn stat_fs(&self) -> Step<'_, Result<super::StatFs, Errno>> {
        self.inner.stat_fs()
    }

    fn name_ttl_ns(&self) -> u64 {
        self.ttl_ns
    }
}

mod slow {
    use std::any::Any;
    use std::collections::HashMap;
    use std::sync::{Arc, Weak};

    use parking_lot::Mutex;

    use crate::Errno;
    use crate::executor::yield_now;
    use crate::fs::{FileKind, FileOps, Inode, LookedUp, Metadata, OpenFlags, Ownership, XattrCall, XattrReply};
    use crate::step::{BoxFuture, Step};
    use crate::task::Cx;

    type Table = Arc<Mutex<HashMap<usize, Weak<SlowInode>>>>;

    struct SlowInode {
        inner: Arc<dyn Inode>,
        table: Table,
    }

    pub fn wrap(inner: Arc<dyn Inode>) -> Arc<dyn Inode> {
        Arc::new(SlowInode { inner, table: Table::default() })
    }

    impl SlowInode {
        /// The same inode for the same file, while somebody holds it.
        fn child(&self, inner: Arc<dyn Inode>) -> Arc<dyn Inode> {
            let key = Arc::as_ptr(&inner).cast::<()>().addr();
            let mut table = self.table.lock();
            if let Some(known) = table.get(&key).and_then(Weak::upgrade) {
                return known;
            }
            let new = Arc::new(SlowInode { inner, table: self.table.clone() });
            table.insert(key, Arc::downgrade(&new));
            new
        }
    }

    impl Inode for SlowInode {
        fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
            Step::wait(async {
                yield_now().await;
                self.inner.metadata().await
            })
        }

        fn kind(&self) -> FileKind {
            self.inner.kind()
        }

        fn ownership(&self) -> Option<Ownership> {
            None
        }

        fn lookup<'a>(&'a self, name: &'a [u8]) -> Step<'a, Result<Arc<dyn Inode>, Errno>> {
            Step::wait(async move {
                yield_now().await;
                Ok(self.child(self.inner.lookup(name).await?))
            })
        }

        fn lookup_path<'a>(&'a self, names: &'a [&'a [u8]]) -> Option<BoxFuture<'a, Result<LookedUp, Errno>>> {
            Some(Box::pin(async move {
                let (mut inodes, mut at) = (Vec::new(), self.inner.clone());
                for name in names {
                    if at.kind() != FileKind::Directory {
                        break;
                    }
                    match at.lookup(name).await {
                        Ok(inode) => {
                            inodes.push(self.child(inode.clone()));
                            at = inode;
                        }
                        Err(errno) => return Ok(LookedUp { inodes, error: Some(errno) }),
                    }
                }
                Ok(LookedUp { inodes, error: None })
            }))
        }

        fn link_text(&self) -> Option<Arc<[u8]>> {
            self.inner.link_text()
        }

        fn open<'a>(self: Arc<Self>, cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
            self.inner.clone().open(cx, flags)
        }

        fn open_data(self: Arc<Self>, access: OpenFlags) -> Step<'static, Result<Arc<dyn FileOps>, Errno>> {
            self.inner.clone().open_data(access)
        }

        fn xattr<'a>(&'a self, call: XattrCall<'a>) -> Step<'a, Result<XattrReply, Errno>> {
            self.inner.xattr(call)
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }
}
