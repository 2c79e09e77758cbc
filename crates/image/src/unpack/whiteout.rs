//! Whiteouts: names that say what of the layers below is gone.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::AsFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::layer::{Name, Tree, host};
use super::{UnpackError, beneath};

const PREFIX: &[u8] = b".wh.";
/// aufs's own files begin so; only the opaque mark has a meaning in images.
const OWN: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a member's name says.
pub(super) enum Meaning<'a> {
    Member,
    /// The directory it is in has nothing of the layers below.
    Opaque,
    /// This name of its directory is gone.
    Hides(&'a [u8]),
    Ignored,
    Bad(&'static str),
}

pub(super) fn meaning<'a>(components: &[&'a [u8]]) -> Meaning<'a> {
    let Some((last, before)) = components.split_last() else { return Meaning::Member };
    if before.iter().any(|part| part.starts_with(OWN)) {
        return Meaning::Ignored;
    }
    if before.iter().any(|part| part.starts_with(PREFIX)) {
        return Meaning::Bad("a whiteout that is a directory");
    }
    match last.strip_prefix(PREFIX) {
        _ if *last == OPAQUE => Meaning::Opaque,
        _ if last.starts_with(OWN) => Meaning::Ignored,
        None => Meaning::Member,
        Some(b"" | b"." | b"..") => Meaning::Bad("a whiteout of no name"),
        Some(hidden) => Meaning::Hides(hidden),
    }
}

/// The paths a layer has, and those above them; as keyed hashes, so that names cost 8 bytes each however long they are.
#[derive(Default)]
pub(super) struct Touched {
    keys: RandomState,
    paths: HashSet<u64>,
}

impl Touched {
    pub(super) fn add(&mut self, components: &[&[u8]]) {
        for end in (1..=components.len()).rev() {
            let path = components.get(..end).unwrap_or_default();
            // Those above are known as well then.
            if !self.paths.insert(self.keys.hash_one(path.join(&b'/'))) {
                return;
            }
        }
    }

    pub(super) fn contains(&self, path: &[u8]) -> bool {
        self.paths.contains(&self.keys.hash_one(path))
    }
}

impl Tree<'_> {
    pub(super) fn hide(&mut self, name: &Name<'_>, hidden: &[u8]) -> Result<(), UnpackError> {
        let Some(parent) = self.existing_parent(name)? else { return Ok(()) };
        let path = below(&name.parent(), hidden);
        if self.touched.contains(&path) {
            // This layer has it as well: only what is below goes.
            return match beneath::kind(parent.as_fd(), hidden).map_err(host(&path, "look at it"))? {
                Some(FileType::Directory) => self.clear(path),
                _ => Ok(()),
            };
        }
        self.forget_parent();
        beneath::remove(parent.as_fd(), hidden).map_err(host(&path, "remove it"))
    }

    pub(super) fn opaque(&mut self, name: &Name<'_>) -> Result<(), UnpackError> {
        match self.existing_parent(name)? {
            Some(_) => self.clear(name.parent()),
            None => Ok(()),
        }
    }

    /// Removes what this layer does not have.
    fn clear(&mut self, path: Vec<u8>) -> Result<(), UnpackError> {
        self.forget_parent();
        let mut waiting = vec![path];
        while let Some(path) = waiting.pop() {
            let directory = beneath::directory(self.root, &path).map_err(host(&path, "open the directory"))?;
            for name in beneath::names(directory.as_fd()).map_err(host(&path, "read the directory"))? {
                let child = below(&path, &name);
                if !self.touched.contains(&child) {
                    beneath::remove(directory.as_fd(), &name).map_err(host(&child, "remove it"))?;
                } else if beneath::kind(directory.as_fd(), &name).map_err(host(&child, "look at it"))?
                    == Some(FileType::Directory)
                {
                    waiting.push(child);
                }
            }
        }
        Ok(())
    }

    fn existing_parent(&self, name: &Name<'_>) -> Result<Option<std::os::fd::OwnedFd>, UnpackError> {
        match beneath::directory(self.root, &name.parent()) {
            Ok(parent) => Ok(Some(parent)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(host(&name.path(), "open the directory it is in")(error)),
        }
    }
}

fn below(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
