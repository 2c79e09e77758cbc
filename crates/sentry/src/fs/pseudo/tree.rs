//! [`Tree`]: directories, files and links from a flat list of paths.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{DirInode, Directory, Identity, LinkInode, Listed, TakesWrites, TextFile};
use crate::Errno;
use crate::fs::{FileKind, Inode, Link};
use crate::task::Task;

type Make = Arc<dyn Fn(&Arc<Task>) -> String + Send + Sync>;

/// Files by their path (`kernel/hostname`), each with how its text is made. Paths with a common prefix stand together.
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    dev: u64,
    look: Look,
}

/// What stat says of all files and directories of a tree.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub directory_permissions: u32,
    pub file_size: u64,
    pub block_size: u32,
}

impl Look {
    /// As /proc/sys.
    pub const PROC: Look = Look { directory_permissions: 0o555, file_size: 0, block_size: 1024 };
    /// As /sys.
    pub const SYSFS: Look = Look { directory_permissions: 0o755, file_size: 4096, block_size: 4096 };
}

enum Node {
    File(Entry),
    Link(String),
    /// A directory without anything in it, if only to mount something on. Its path ends in `/`.
    Directory,
}

/// A file of a tree.
#[derive(Clone)]
pub struct Entry {
    pub permissions: u32,
    make: Make,
    writes: TakesWrites,
}

impl Entry {
    /// A read-only file; a newline is put after its text.
    pub fn new(make: impl Fn(&Arc<Task>) -> String + Send + Sync + 'static) -> Entry {
        Entry { permissions: 0o444, make: Arc::new(make), writes: TakesWrites::NotOpened }
    }

    /// The same, writable by its owner: `write` gets what was written without the newline.
    pub fn writable(self, write: impl Fn(&Arc<Task>, &[u8]) -> Result<(), Errno> + Send + Sync + 'static) -> Entry {
        let writes = TakesWrites::Taken(Arc::new(move |task: &Arc<Task>, bytes: &[u8]| {
            write(task, bytes.strip_suffix(b"\n").unwrap_or(bytes))
        }));
        Entry { permissions: 0o644, writes, ..self }
    }

    pub fn permissions(self, permissions: u32) -> Entry {
        Entry { permissions, ..self }
    }
}

impl Tree {
    pub fn new(dev: u64) -> Tree {
        Tree::with_look(dev, Look::PROC)
    }

    pub fn with_look(dev: u64, look: Look) -> Tree {
        Tree { nodes: BTreeMap::new(), dev, look }
    }

    /// Adds a file; a newline is put after its text.
    pub fn add(&mut self, path: impl Into<String>, make: impl Fn() -> String + Send + Sync + 'static) {
        self.add_entry(path, Entry::new(move |_| make()));
    }

    pub fn add_entry(&mut self, path: impl Into<String>, entry: Entry) {
        self.nodes.insert(path.into(), Node::File(entry));
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: impl Into<String>, target: impl Into<String>) {
        self.nodes.insert(path.into(), Node::Link(target.into()));
    }

    /// Adds a directory, if only to mount something on.
    pub fn add_directory(&mut self, path: &str) {
        self.nodes.insert(format!("{path}/"), Node::Directory);
    }

    /// The directory at the top.
    pub fn into_root(self) -> Arc<dyn Inode> {
        DirInode::make(TreeDir { tree: Arc::new(self), prefix: String::new() })
    }

    fn identity(&self, permissions: u32, path: &str) -> Identity {
        let identity = Identity::named(self.dev, permissions, ("tree", path));
        Identity { size: self.look.file_size, block_size: self.look.block_size, ..identity }
    }
}

struct TreeDir {
    tree: Arc<Tree>,
    /// Empty at the top, else ends in `/`.
    prefix: String,
}

impl Directory for TreeDir {
    fn identity(&self) -> Identity {
        let permissions = if self.prefix.is_empty() { 0o555 } else { self.tree.look.directory_permissions };
        self.tree.identity(permissions, &self.prefix)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let path = format!("{}{name}", self.prefix);
        match self.tree.nodes.get(&path) {
            Some(Node::File(entry)) => {
                let make = entry.make.clone();
                let text = move |opener: &Arc<Task>| {
                    let mut text = make(opener);
                    text.push('\n');
                    Ok(text.into_bytes())
                };
                let identity = self.tree.identity(entry.permissions, &path);
                Ok(TextFile::for_opener(identity, text).writes(entry.writes.clone()).into_inode())
            }
            Some(Node::Link(target)) => {
                let target = target.clone().into_bytes();
                Ok(LinkInode::make(self.tree.identity(0o777, &path), move |_| Ok(Link::Text(target.clone()))))
            }
            Some(Node::Directory) | None => {
                let prefix = format!("{path}/");
                let first = self.tree.nodes.range(prefix.clone()..).next();
                if !first.is_some_and(|(path, _)| path.starts_with(&prefix)) {
                    return Err(Errno::ENOENT);
                }
                Ok(DirInode::make(TreeDir { tree: self.tree.clone(), prefix }))
            }
        }
    }

    fn list(&self) -> Vec<Listed> {
        let mut list = Vec::new();
        let mut from = self.prefix.clone();
        while let Some((path, node)) = self.tree.nodes.range(from.clone()..).next() {
            let Some(rest) = path.strip_prefix(&self.prefix) else { break };
            match (rest.split_once('/'), node) {
                // The empty directory that this one is.
                _ if rest.is_empty() => from = format!("{path}\0"),
                (Some((name, _)), _) => {
                    list.push(Listed::new(name, FileKind::Directory));
                    // The first path after all that begin with `name/`.
                    from = format!("{}{name}0", self.prefix);
                }
                (None, node) => {
                    let kind = if matches!(node, Node::Link(_)) { FileKind::Symlink } else { FileKind::Regular };
                    list.push(Listed::new(rest, kind));
                    from = format!("{path}\0");
                }
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_directories() {
        let mut tree = Tree::new(7);
        for path in ["b/x", "a", "b/c/y", "b/z", "b-a", "b0"] {
            tree.add(path, move || path.into());
        }
        tree.add_link("b/l", "x");
        let top = TreeDir { tree: Arc::new(tree), prefix: String::new() };
        let names = |dir: &TreeDir| -> Vec<String> {
            dir.list().into_iter().map(|listed| String::from_utf8_lossy(&listed.name).into_owned()).collect()
        };
        assert_eq!(names(&top), ["a", "b-a", "b", "b0"]);
        let below = TreeDir { tree: top.tree.clone(), prefix: "b/".into() };
        assert_eq!(names(&below), ["c", "l", "x", "z"]);
        assert_eq!(below.list()[1].kind, FileKind::Symlink);
        assert!(below.lookup(b"c").is_ok() && below.lookup(b"a").is_err() && below.lookup(b"l").is_ok());
        let mut tree = Tree::new(7);
        tree.add_directory("fs/empty");
        let inside = TreeDir { tree: Arc::new(tree), prefix: "fs/".into() };
        assert_eq!(inside.list(), [Listed::new("empty", FileKind::Directory)]);
        assert!(inside.lookup(b"empty").is_ok());
        assert_eq!(TreeDir { prefix: "fs/empty/".into(), ..inside }.list(), []);
    }
}
