//! [`Walker`]: the walk itself, without waiting.

use std::borrow::Cow;
use std::sync::Arc;

use super::lookup::{known, try_ask};
use super::{NAME_MAX, PATH_MAX};
use crate::Errno;
use crate::fs::dentry::Cached;
use crate::fs::permission::may_search;
use crate::fs::{Dentry, FileKind, Link, Metadata, Mount, MountFlags, Ownership, Path, View};
use crate::step::Step;
use crate::task::Cx;

/// Most symbolic links in one walk (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;

/// Names that a batched lookup asks for at most.
const AHEAD_MAX: usize = 16;

bitflags::bitflags! {
    /// How a name is resolved. Without any: symbolic links are followed, also the last.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ResolveFlags: u32 {
        /// Do not follow the last component (unless a slash comes after it).
        const NOFOLLOW = 1;
        /// An empty path is the start itself (`AT_EMPTY_PATH`).
        const EMPTY_PATH = 2;
        /// The place must be a directory.
        const DIRECTORY = 4;
        // `openat2`'s:
        const NO_XDEV = 1 << 8;
        const NO_MAGICLINKS = 1 << 9;
        const NO_SYMLINKS = 1 << 10;
        const BENEATH = 1 << 11;
        const IN_ROOT = 1 << 12;
    }
}

/// The last component of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Last {
    Name {
        name: Vec<u8>,
        /// A slash came after it: it must be a directory.
        slash: bool,
    },
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// The path was only slashes.
    Root,
}

impl Last {
    /// The name, where it is one; `otherwise` for the special ones.
    ///
    /// # Errors
    /// `otherwise`.
    pub fn name(&self, otherwise: Errno) -> Result<(&[u8], bool), Errno> {
        match self {
            Last::Name { name, slash } => Ok((name, *slash)),
            _ => Err(otherwise),
        }
    }
}

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Goal {
    Target,
    /// Attributes will do, where they are known without a dentry.
    Attributes,
    /// Stop before the last component.
    Parent,
}

/// What a walk for attributes ends at.
pub enum Found {
    Place(Path),
    /// Of something without a dentry, and the mount that it is on.
    Attributes(Metadata, Arc<Mount>),
}

/// Where a walk has come to.
pub(super) enum Progress {
    Done,
    /// The next name must be asked for: see [`Walker::ahead`], [`Walker::supply`].
    Lookup,
    /// This link's text must be read, then [`Walker::follow`].
    ReadLink(Arc<Dentry>),
    /// This directory's attributes must be read, then [`Walker::search`].
    Search(Arc<Dentry>),
}

/// A walk in progress.
pub(in crate::fs) struct Walker<'v> {
    view: &'v View,
    /// `..` does not go above it.
    root: Path,
    mount: Arc<Mount>,
    dentry: Arc<Dentry>,
    text: Cow<'v, [u8]>,
    /// Start of the next component in `text`.
    at: usize,
    links: u32,
    flags: ResolveFlags,
    goal: Goal,
    last: Last,
    /// The directory at `at` may be searched.
    searchable: bool,
    supplied: Option<Option<Arc<Dentry>>>,
    /// Of the last component, in the directory that the walk has come to ([`Goal::Attributes`]).
    peeked: Option<Metadata>,
}

/// A component of the text.
struct Component {
    start: usize,
    end: usize,
    /// Nothing but slashes after it.
    last: bool,
    slash: bool,
}

impl<'v> Walker<'v> {
    pub(super) fn new(
        view: &'v View,
        start: Path,
        path: &'v [u8],
        flags: ResolveFlags,
        goal: Goal,
    ) -> Result<Walker<'v>, Errno> {
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if path.is_empty() && !flags.contains(ResolveFlags::EMPTY_PATH) {
            return Err(Errno::ENOENT);
        }
        let confined = flags.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT);
        let root = if confined { start.clone() } else { view.root.clone() };
        let mut walker = Walker {
            view,
            mount: start.mount,
            dentry: start.dentry,
            root,
            text: Cow::Borrowed(path),
            at: 0,
            links: 0,
            flags,
            goal,
            last: Last::Root,
            searchable: false,
            supplied: None,
            peeked: None,
        };
        if path.first() == Some(&b'/') {
            walker.jump_to_root()?;
        }
        Ok(walker)
    }

    fn jump_to_root(&mut self) -> Result<(), Errno> {
        if self.flags.contains(ResolveFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        if self.flags.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&self.root.mount, &self.mount) {
            return Err(Errno::EXDEV);
        }
        let Path { mount, dentry } = self.root.clone();
        (self.mount, self.dentry) = (mount, dentry);
        self.last = Last::Root;
        Ok(())
    }

    /// The place that was found.
    pub(super) fn into_place(self) -> Path {
        Path { mount: self.mount, dentry: self.dentry }
    }

    /// The directory and the last component.
    pub(super) fn into_parent(self) -> (Path, Last) {
        (Path { mount: self.mount, dentry: self.dentry }, self.last)
    }

    /// The directory that the walk is in.
    pub(in crate::fs) fn place(&self) -> Path {
        Path { mount: self.mount.clone(), dentry: self.dentry.clone() }
    }

    pub(in crate::fs) fn last(&self) -> &Last {
        &self.last
    }

    fn next_component(&self) -> Option<Component> {
        let rest = self.text.get(self.at..)?;
        let start = self.at + rest.iter().position(|&byte| byte != b'/')?;
        let name = self.text.get(start..)?;
        let end = start + name.iter().position(|&byte| byte == b'/').unwrap_or(name.len());
        let after = self.text.get(end..).unwrap_or_default();
        Some(Component { start, end, last: after.iter().all(|&byte| byte == b'/'), slash: !after.is_empty() })
    }

    /// Goes on until the end or until something must be waited for.
    pub(super) fn run(&mut self, cx: Option<&Cx>) -> Result<Progress, Errno> {
        while let Some(component) = self.next_component() {
            if !self.searchable {
                if !self.dentry.is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                match self.dentry.inode().ownership() {
                    Some(owner) => may_search(owner, &self.view.creds)?,
                    None => return Ok(Progress::Search(self.dentry.clone())),
                }
                self.searchable = true;
            }
            let Component { start, end, last, slash } = component;
            let name = self.text.get(start..end).unwrap_or_default();
            if self.goal == Goal::Parent && last {
                self.last = match name {
                    b"." => Last::Dot,
                    b".." => Last::DotDot,
                    name => Last::Name { name: name.to_vec(), slash },
                };
                return Ok(Progress::Done);
            }
            if name == b"." {
                self.at = end;
                continue;
            }
            if name == b".." {
                self.at = end;
                self.up()?;
                continue;
            }
            let child = match self.supplied.take() {
                Some(child) => child,
                None => match known(&self.dentry, name)? {
                    Cached::Found(child) => Some(child),
                    Cached::Absent => None,
                    Cached::Unknown => {
                        if self.goal == Goal::Attributes && last && !slash {
                            self.peeked = self.peek(name);
                            if self.peeked.is_some() {
                                return Ok(Progress::Done);
                            }
                        }
                        match try_ask(&self.dentry, name) {
                            Step::Ready(found) => found?,
                            Step::Wait(_) => return Ok(Progress::Lookup),
                        }
                    }
                },
            };
            let child = child.ok_or(Errno::ENOENT)?;
            self.at = end;
            let follow = !last || slash || !self.flags.contains(ResolveFlags::NOFOLLOW);
            if child.kind() == FileKind::Symlink && follow && !child.is_mounted() {
                if self.mount.has(MountFlags::NOSYMFOLLOW) {
                    return Err(Errno::ELOOP);
                }
                if let Some(text) = child.inode().link_text() {
                    self.follow_text(&text)?;
                    continue;
                }
                let Some(cx) = cx else { return Ok(Progress::ReadLink(child)) };
                match child.inode().read_link(cx) {
                    Step::Ready(link) => self.follow(link?)?,
                    Step::Wait(_) => return Ok(Progress::ReadLink(child.clone())),
                }
                continue;
            }
            self.enter(child)?;
        }
        let slash = self.text.last() == Some(&b'/');
        if (slash || self.flags.contains(ResolveFlags::DIRECTORY)) && !self.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(Progress::Done)
    }

    /// The last component's attributes, if they are known though it has no dentry, and it is what the walk ends at.
    fn peek(&self, name: &[u8]) -> Option<Metadata> {
        if self.flags.contains(ResolveFlags::DIRECTORY) {
            return None;
        }
        let peeked = self.dentry.inode().peek(name)?;
        (peeked.kind != FileKind::Symlink || self.flags.contains(ResolveFlags::NOFOLLOW)).then_some(peeked)
    }

    /// What a walk for attributes has found.
    pub(super) fn into_found(self) -> Found {
        let Walker { mount, dentry, peeked, .. } = self;
        match peeked {
            Some(metadata) => Found::Attributes(metadata, mount),
            None => Found::Place(Path { mount, dentry }),
        }
    }

    /// The directory whose names are to be asked for, and the names: the next, and those that follow it in the text.
    pub(super) fn ahead(&self) -> (Arc<Dentry>, Vec<Vec<u8>>) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let parts = rest.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
        let names = parts
            .take_while(|part| !matches!(*part, b"." | b"..") && part.len() <= NAME_MAX)
            .take(AHEAD_MAX)
            .map(<[u8]>::to_vec)
            .collect();
        (self.dentry.clone(), names)
    }

    /// The answer to [`Progress::Lookup`], for the next name.
    pub(super) fn supply(&mut self, found: Option<Arc<Dentry>>) {
        self.supplied = Some(found);
    }

    /// The answer to [`Progress::Search`].
    pub(super) fn search(&mut self, metadata: &Metadata) -> Result<(), Errno> {
        may_search(Ownership::from(metadata), &self.view.creds)?;
        self.searchable = true;
        Ok(())
    }

    /// Whether the walk may jump to `place`.
    ///
    /// # Errors
    /// `ELOOP`, `EXDEV`.
    pub fn admit_magic(&mut self, place: &Path) -> Result<(), Errno> {
        self.count_link()?;
        if self.flags.intersects(ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        if self.flags.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT)
            || (self.flags.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&place.mount, &self.mount))
        {
            return Err(Errno::EXDEV);
        }
        Ok(())
    }

    /// The answer to [`Progress::ReadLink`].
    pub(super) fn follow(&mut self, link: Link) -> Result<(), Errno> {
        match link {
            Link::Text(text) => self.follow_text(&text),
            Link::Magic { place, .. } => {
                self.admit_magic(&place)?;
                (self.mount, self.dentry) = (place.mount, place.dentry);
                self.searchable = false;
                Ok(())
            }
        }
    }

    fn count_link(&mut self) -> Result<(), Errno> {
        self.links += 1;
        if self.links > LINKS_MAX || self.flags.contains(ResolveFlags::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        Ok(())
    }

    /// Goes on with a link's text, then what was left of the path. With [`Goal::Parent`], also for the link that the walk had stopped at: see
    /// [`Walker::skip_last`].
    pub(in crate::fs) fn follow_text(&mut self, target: &[u8]) -> Result<(), Errno> {
        self.count_link()?;
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        let rest = self.text.get(self.at..).unwrap_or_default();
        let mut text = Vec::with_capacity(target.len() + rest.len());
        text.extend_from_slice(target);
        text.extend_from_slice(rest);
        self.text = Cow::Owned(text);
        self.at = 0;
        if target.first() == Some(&b'/') {
            self.jump_to_root()?;
            self.searchable = false;
        }
        Ok(())
    }

    /// With [`Goal::Parent`]: passes over the last component, so that its link's text can be followed.
    pub(in crate::fs) fn skip_last(&mut self) {
        if let Some(component) = self.next_component() {
            self.at = component.end;
        }
    }

    fn enter(&mut self, child: Arc<Dentry>) -> Result<(), Errno> {
        self.searchable = false;
        if !child.is_mounted() {
            self.dentry = child;
            return Ok(());
        }
        let place = Path { mount: self.mount.clone(), dentry: child }.descend();
        self.move_to(place)
    }

    fn move_to(&mut self, place: Path) -> Result<(), Errno> {
        if self.flags.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&place.mount, &self.mount) {
            return Err(Errno::EXDEV);
        }
        (self.mount, self.dentry) = (place.mount, place.dentry);
        self.searchable = false;
        Ok(())
    }

    /// `..`: stays at the root; crosses to the directory that a mount is in.
    fn up(&mut self) -> Result<(), Errno> {
        let mut at = self.place();
        loop {
            if at == self.root {
                if self.flags.contains(ResolveFlags::BENEATH) {
                    return Err(Errno::EXDEV);
                }
                return self.move_to(at);
            }
            if !Arc::ptr_eq(&at.dentry, at.mount.root()) {
                break;
            }
            match at.mount.mount_point() {
                Some(point) => at = point,
                // Outside of its root: what is mounted on the outermost root hides that.
                None => return self.move_to(at.descend()),
            }
        }
        match at.dentry.parent() {
            Some(parent) => self.move_to(Path { mount: at.mount, dentry: parent }.descend()),
            None => self.move_to(at),
        }
    }
}
