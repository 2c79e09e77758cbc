//! From requests to the passthrough core and back.

use std::{sync::Arc, time::Duration};

use super::{Server, table::Table};
use crate::{
    Errno,
    passthrough::{Node, Notifier, ScanLimits},
    protocol::{
        Attached, Attr, Entries, Entry, FileKind, Handle, MAX_MESSAGE, MAX_OPENS, MAX_SCAN, Name, OpenHow, ReadDirDetail,
        Request, Response, Truncate, WalkEnd, Walked,
    },
};

/// How often a walk looks up its last name again because it changed between lookup and open.
const OPEN_TRIES: usize = 8;

/// Room in a message for a directory's entries.
const MAX_ENTRIES_BYTES: usize = MAX_MESSAGE - 64;
/// How long one scan goes on.
const SCAN_TIME: Duration = Duration::from_millis(4);

impl Server {
    pub(super) fn forget(&mut self, nodes: &[Handle]) {
        for &node in nodes {
            self.table.remove(node);
            self.streams.remove(node);
        }
    }

    pub(super) fn answer(&mut self, request: Request) -> Result<Response, Errno> {
        let table = &mut self.table;
        Ok(match request {
            Request::Attach { index } => return self.attach(index),
            Request::Walk { start, names, open } => {
                let start = table.get(start)?;
                Response::Walked(walk(table, start, &names, open))
            }
            Request::GetAttr { node } => Response::Attr(table.get(node)?.attr()?),
            Request::ReadLink { node } => Response::Bytes(table.get(node)?.read_link()?),
            Request::Open { node, how, truncate } => Response::Opened(table.get(node)?.open(how, truncate)?),
            Request::ReadDir { node, from, max_bytes, detail } => return self.read_dir(node, from, max_bytes, detail),
            Request::Create { dir, name, mode, owner, how } => {
                let (node, attr, fd) = table.get(dir)?.create(&name, mode, owner, how)?;
                Response::Created(entry(table, node, attr)?, fd)
            }
            Request::MkDir { dir, name, mode, owner } => {
                let (node, attr) = table.get(dir)?.mkdir(&name, mode, owner)?;
                Response::Entry(entry(table, node, attr)?)
            }
            Request::MkNod { dir, name, kind, mode, owner } => {
                let (node, attr) = table.get(dir)?.mknod(&name, kind, mode, owner)?;
                Response::Entry(entry(table, node, attr)?)
            }
            Request::Symlink { dir, name, target, owner } => {
                let (node, attr) = table.get(dir)?.symlink(&name, &target, owner)?;
                Response::Entry(entry(table, node, attr)?)
            }
            Request::Link { node, dir, name } => {
                let (node, attr) = table.get(dir)?.link(&*table.get(node)?, &name)?;
                Response::Entry(entry(table, node, attr)?)
            }
            Request::Unlink { dir, name, kind } => {
                table.get(dir)?.unlink(&name, kind)?;
                Response::Done
            }
            Request::Rename { dir, name, new_dir, new_name, kind, moved, displaced } => {
                let (dir, new_dir) = (table.get(dir)?, table.get(new_dir)?);
                let (moved, displaced) = (get(table, moved)?, get(table, displaced)?);
                dir.rename(&name, &new_dir, &new_name, kind)?;
                if let Some(moved) = moved {
                    moved.moved_to(&new_dir, &new_name);
                }
                if let Some(displaced) = displaced {
                    displaced.moved_to(&dir, &name);
                }
                Response::Done
            }
            Request::SetAttr { node, set } => Response::Attr(table.get(node)?.set_attr(&set)?),
            Request::GetXattr { node, name, size } => {
                Response::Bytes(table.get(node)?.get_xattr(&name, usize::try_from(size).unwrap_or(usize::MAX))?)
            }
            Request::SetXattr { node, name, value, mode } => {
                table.get(node)?.set_xattr(&name, &value, mode)?;
                Response::Done
            }
            Request::ListXattr { node } => Response::Bytes(table.get(node)?.list_xattr()?),
            Request::RemoveXattr { node, name } => {
                table.get(node)?.remove_xattr(&name)?;
                Response::Done
            }
            Request::StatFs { node } => Response::FsStat(table.get(node)?.statfs()?),
            Request::Fsync { node, durability } => {
                table.get(node)?.fsync(durability)?;
                Response::Done
            }
            Request::LookUp { dir, names } => {
                let dir = table.get(dir)?;
                Response::Found(look_up(table, &dir, &names))
            }
            Request::Stat { dir, path, names } => {
                let dir = table.get(dir)?.descend(&path)?;
                Response::Attrs(names.iter().map(|name| dir.attr_of(name)).collect())
            }
            Request::Scan { dir, path, roots, directories, detail } => {
                let dir = table.get(dir)?.descend(&path)?;
                let directories = usize::from(directories).min(MAX_SCAN);
                let limits = ScanLimits { bytes: MAX_ENTRIES_BYTES, directories, time: SCAN_TIME };
                Response::Scanned(dir.scan(&roots, detail, limits)?)
            }
            Request::OpenAll { dir, path, names, how } => {
                if names.len() > MAX_OPENS {
                    return Err(Errno::EINVAL);
                }
                let dir = table.get(dir)?.descend(&path)?;
                Response::OpenedAll(names.iter().map(|name| dir.open_entry(name, how)).collect())
            }
            Request::Notifier {} => Response::Notifier(Arc::clone(self.notifier()?.fd())),
            Request::Watch { node, events } => {
                let node = self.table.get(node)?;
                Response::Watched(self.notifier()?.watch(&node, events)?)
            }
            Request::Unwatch { watch } => {
                self.notifier()?.unwatch(watch)?;
                Response::Done
            }
            Request::Forget { nodes } => {
                self.forget(&nodes);
                Response::Done
            }
        })
    }

    fn attach(&mut self, index: u32) -> Result<Response, Errno> {
        let attach = self.attaches.get(index as usize).ok_or(Errno::ENOENT)?;
        let root = Arc::clone(&attach.root);
        let attr = root.attr()?;
        let root = entry(&mut self.table, root, attr)?;
        Ok(Response::Attached(Attached { root, access: attach.access, cache: attach.cache }))
    }

    /// The connection's inotify instance, made when the first watch is wanted: hosts give few to a user.
    fn notifier(&mut self) -> Result<&mut Notifier, Errno> {
        if self.notifier.is_none() {
            let home = self.attaches.first().ok_or(Errno::ENXIO)?;
            self.notifier = Some(Notifier::new(&home.root)?);
        }
        self.notifier.as_mut().ok_or(Errno::ENXIO)
    }

    fn read_dir(&mut self, dir: Handle, from: u64, max: u32, detail: ReadDirDetail) -> Result<Response, Errno> {
        let node = self.table.get(dir)?;
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(MAX_ENTRIES_BYTES);
        let stream = self.streams.get(dir, &node, from)?;
        let (entries, end) = stream.pack(Some(from), detail, max)?;
        // getdents(2): the buffer is too small for an entry.
        if entries.is_empty() && !end {
            return Err(Errno::EINVAL);
        }
        if end {
            self.streams.remove(dir);
        }
        Ok(Response::Entries(Entries { entries, end }))
    }
}

fn get(table: &mut Table, handle: Option<Handle>) -> Result<Option<Arc<Node>>, Errno> {
    handle.map(|handle| table.get(handle)).transpose()
}

fn entry(table: &mut Table, node: Arc<Node>, attr: Attr) -> Result<Entry, Errno> {
    Ok(Entry { handle: table.insert(node)?, attr })
}

fn look_up(table: &mut Table, dir: &Node, names: &[Name]) -> Vec<Result<Entry, Errno>> {
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let outcome = dir.lookup(name).and_then(|(node, attr)| entry(table, node, attr));
        if outcome == Err(Errno::ENFILE) && !found.is_empty() {
            break;
        }
        found.push(outcome);
    }
    found
}

fn walk(table: &mut Table, start: Arc<Node>, names: &[Name], open: Option<OpenHow>) -> Walked {
    let mut at = start;
    let mut walked = Walked { steps: Vec::with_capacity(names.len()), end: WalkEnd::Complete, link: None, opened: None };
    for (i, name) in names.iter().enumerate() {
        match at.kind() {
            FileKind::Directory => {}
            FileKind::Symlink => {
                walked.end = WalkEnd::Symlink;
                break;
            }
            _ => {
                walked.end = WalkEnd::NotDirectory;
                break;
            }
        }
        let open = if i + 1 == names.len() { open } else { None };
        let step = step(&at, name, open).and_then(|(node, attr, opened)| {
            walked.opened = opened;
            at = Arc::clone(&node);
            entry(table, node, attr)
        });
        match step {
            Ok(entry) => walked.steps.push(entry),
            Err(errno) => {
                walked.opened = None;
                walked.end = WalkEnd::Failed(errno);
                return walked;
            }
        }
    }
    if names.is_empty() && at.kind() == FileKind::Regular {
        walked.opened = open.map(|how| at.open(how, Truncate::Keep));
    }
    if at.kind() == FileKind::Symlink {
        walked.link = at.read_link().ok();
    }
    walked
}

type Step = (Arc<Node>, Attr, Option<Result<std::os::fd::OwnedFd, Errno>>);

/// One name; opened too if asked for and a regular file. Both mean the same file: else they are done again.
fn step(dir: &Node, name: &Name, open: Option<OpenHow>) -> Result<Step, Errno> {
    let mut tries = 0;
    loop {
        let (node, attr) = dir.lookup(name)?;
        let opened = match (open, node.kind()) {
            (Some(how), FileKind::Regular) => Some(node.open(how, Truncate::Keep)),
            _ => None,
        };
        tries += 1;
        if !matches!(opened, Some(Err(Errno::ESTALE))) || tries == OPEN_TRIES {
            return Ok((node, attr, opened));
        }
    }
}
