//! [`Tree`]: directories and files from a flat list of paths.

use std::sync::Arc;

use super::{DirInode, Directory, Identity, Listed, TextFile};
use crate::Errno;
use crate::fs::{FileKind, Inode};

type Make = Arc<dyn Fn() -> String + Send + Sync>;

/// Files by their path (`kernel/hostname`), each with how its text is made. Paths with a common prefix stand together.
#[derive(Default)]
pub struct Tree {
    files: Vec<(String, Make)>,
    dev: u64,
}

impl Tree {
    pub fn new(dev: u64) -> Tree {
        Tree { files: Vec::new(), dev }
    }

    /// Adds a file; a newline is put after its text.
    pub fn add(&mut self, path: impl Into<String>, make: impl Fn() -> String + Send + Sync + 'static) {
        self.files.push((path.into(), Arc::new(make)));
    }

    /// Adds a directory, if only to mount something on.
    pub fn add_directory(&mut self, path: &str) {
        self.files.push((format!("{path}/"), Arc::new(String::new)));
    }

    /// The directory at the top.
    pub fn into_root(mut self) -> Arc<dyn Inode> {
        self.files.sort_by(|a, b| a.0.cmp(&b.0));
        DirInode::make(TreeDir { tree: Arc::new(self), prefix: String::new() })
    }
}

struct TreeDir {
    tree: Arc<Tree>,
    /// Empty at the top, else ends in `/`.
    prefix: String,
}

impl TreeDir {
    /// The first component below the prefix, its kind, and the file it is or leads to.
    fn entries(&self) -> impl Iterator<Item = (&str, FileKind, &(String, Make))> + '_ {
        self.tree.files.iter().filter_map(|file| {
            let rest = file.0.strip_prefix(self.prefix.as_str()).filter(|rest| !rest.is_empty())?;
            Some(match rest.split_once('/') {
                Some((name, _)) => (name, FileKind::Directory, file),
                None => (rest, FileKind::Regular, file),
            })
        })
    }
}

impl Directory for TreeDir {
    fn identity(&self) -> Identity {
        Identity::named(self.tree.dev, 0o555, ("tree", &self.prefix))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let found = self.entries().find(|(entry, ..)| entry.as_bytes() == name);
        let (name, kind, (path, make)) = found.ok_or(Errno::ENOENT)?;
        if kind == FileKind::Directory {
            let prefix = format!("{}{name}/", self.prefix);
            return Ok(DirInode::make(TreeDir { tree: self.tree.clone(), prefix }));
        }
        let make = make.clone();
        let text = move || {
            let mut text = make();
            text.push('\n');
            Ok(text.into_bytes())
        };
        Ok(TextFile::make(Identity::named(self.tree.dev, 0o444, path), text))
    }

    fn list(&self) -> Vec<Listed> {
        let mut list: Vec<Listed> = self.entries().map(|(name, kind, _)| Listed::new(name, kind)).collect();
        list.dedup();
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_directories() {
        let mut tree = Tree::new(7);
        for path in ["b/x", "a", "b/c/y", "b/z"] {
            tree.add(path, move || path.into());
        }
        tree.files.sort_by(|a, b| a.0.cmp(&b.0));
        let top = TreeDir { tree: Arc::new(tree), prefix: String::new() };
        assert_eq!(top.list(), [Listed::new("a", FileKind::Regular), Listed::new("b", FileKind::Directory)]);
        let below = TreeDir { tree: top.tree.clone(), prefix: "b/".into() };
        let names: Vec<Vec<u8>> = below.list().into_iter().map(|listed| listed.name).collect();
        assert_eq!(names, [b"c", b"x", b"z"]);
        assert!(below.lookup(b"c").is_ok() && below.lookup(b"a").is_err());
        let mut tree = Tree::new(7);
        tree.add_directory("fs/empty");
        let inside = TreeDir { tree: Arc::new(tree), prefix: "fs/".into() };
        assert_eq!(inside.list(), [Listed::new("empty", FileKind::Directory)]);
        assert_eq!(TreeDir { prefix: "fs/empty/".into(), ..inside }.list(), []);
    }
}
