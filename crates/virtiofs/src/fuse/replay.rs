//! What others have changed, done once more by the guest's agent, so that the guest's kernel tells those of its programs that watch (inotify), and knows the
//! names at once.
//!
//! The agent announces each change: it sets [`ATTRIBUTE`] of the device's root, which nobody else in the guest can reach, to the change's token. From then on, until
//! it announces another or none, requests of the announcing thread about that change are answered as if it were being done; nothing is done on the host,
//! in no tree. A guest that lies about who announces deceives itself.

use gofer::{Errno, protocol::FileKind};

use super::{Answer, Fs, Outcome, Request, c_string, done, name, reply};
use crate::{
    abi::{self, EntryOut, MkdirIn, MknodIn, OpenOut, Rename2In, RenameIn, SetxattrIn, fopen, op},
    changes::Happening,
    inodes::Place,
    watches::Spot,
};

/// Only who rules the guest may set it, and only on the root of all.
const ATTRIBUTE: &[u8] = b"trusted.nacre.replay";
/// Inodes of names that are gone and that the guest did not know: there are none of these numbers.
const GHOST: u64 = u64::MAX;
const GHOST_DIRECTORY: u64 = u64::MAX - 1;
/// An open file that is none.
const NO_FILE: u64 = u64::MAX;

/// The change that is being done once more, and by whom.
#[derive(Debug)]
pub(super) struct Replay {
    pid: u32,
    deed: Deed,
    at: Spot,
    to: Option<Spot>,
    /// What the guest was told last of a file's attributes.
    told: Option<Vec<u8>>,
}

/// What is done, as a token says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Deed {
    Create,
    Delete,
    DeleteDirectory,
    Move,
    Touch,
}

impl Deed {
    const ALL: [Deed; 5] = [Deed::Create, Deed::Delete, Deed::DeleteDirectory, Deed::Move, Deed::Touch];

    fn of(happening: Happening, kind: u32) -> Deed {
        match happening {
            Happening::Created => Deed::Create,
            Happening::Deleted if kind == libc::S_IFDIR => Deed::DeleteDirectory,
            Happening::Deleted => Deed::Delete,
            Happening::Moved => Deed::Move,
            Happening::Written | Happening::AttributesChanged | Happening::Closed => Deed::Touch,
        }
    }
}

/// What announces a change: the deed, then directory and name of each place, the name with a NUL.
pub fn token(happening: Happening, kind: u32, at: &Spot, to: Option<&Spot>) -> Vec<u8> {
    let mut bytes = vec![Deed::of(happening, kind) as u8];
    for (directory, name) in std::iter::once(at).chain(to) {
        bytes.extend(directory.to_le_bytes());
        bytes.extend(name.as_c_str().to_bytes_with_nul());
    }
    bytes
}

fn parse(token: &[u8]) -> Option<(Deed, Spot, Option<Spot>)> {
    let (deed, rest) = token.split_first()?;
    let deed = Deed::ALL.into_iter().find(|known| *known as u8 == *deed)?;
    let (at, rest) = spot(rest)?;
    let to = if rest.is_empty() { None } else { Some(spot(rest)?.0) };
    (to.is_some() == (deed == Deed::Move)).then_some((deed, at, to))
}

fn spot(bytes: &[u8]) -> Option<(Spot, &[u8])> {
    let (directory, rest) = bytes.split_first_chunk()?;
    let (name, rest) = name(rest).ok()?;
    Some(((u64::from_le_bytes(*directory), name), rest))
}

/// The names that a request is about.
fn names(request: &Request<'_>) -> Option<(Spot, Option<Spot>)> {
    let id = request.head.nodeid;
    let one = |rest: &[u8]| Some(((id, name(rest).ok()?.0), None));
    let two = |new: u64, rest: &[u8]| {
        let (old, rest) = name(rest).ok()?;
        Some(((id, old), Some((new, name(rest).ok()?.0))))
    };
    match request.head.opcode {
        op::LOOKUP | op::UNLINK | op::RMDIR | op::SYMLINK => one(request.body),
        op::MKNOD => one(request.arg_and_rest::<MknodIn>().ok()?.1),
        op::MKDIR => one(request.arg_and_rest::<MkdirIn>().ok()?.1),
        op::RENAME => {
            let (arg, rest) = request.arg_and_rest::<RenameIn>().ok()?;
            two(arg.newdir, rest)
        }
        op::RENAME2 => {
            let (arg, rest) = request.arg_and_rest::<Rename2In>().ok()?;
            two(arg.newdir, rest)
        }
        _ => None,
    }
}

impl Fs {
    /// The agent announces a change, or with an empty token that there is none.
    ///
    /// # Errors
    /// It is none; `EROFS`: another attribute of the root.
    pub(super) fn announced(&self, request: &Request<'_>) -> Outcome {
        let (arg, rest): (SetxattrIn, _) = request.arg_and_rest()?;
        let (attribute, value) = c_string(rest)?;
        let token = value.get(..arg.size as usize).ok_or(Errno::EINVAL)?;
        if attribute != ATTRIBUTE {
            return Err(Errno::EROFS);
        }
        *self.replay.lock() = match token {
            [] => None,
            token => {
                let (deed, at, to) = parse(token).ok_or(Errno::EINVAL)?;
                Some(Replay { pid: request.head.pid, deed, at, to, told: None })
            }
        };
        done()
    }

    /// The answer to a request that does an announced change once more. None: it is a request like any other.
    pub(super) fn replayed(&self, request: &Request<'_>) -> Option<Outcome> {
        let (deed, at, to) = {
            let replay = self.replay.lock();
            let replay = replay.as_ref().filter(|replay| replay.pid == request.head.pid)?;
            (replay.deed, replay.at.clone(), replay.to.clone())
        };
        if deed == Deed::Touch {
            return self.touched(request);
        }
        let is_lookup = request.head.opcode == op::LOOKUP;
        let (asked, other) = names(request)?;
        Some(match deed {
            // So the name is new. Then it is made, if it has not gone on already.
            Deed::Create if asked == at && is_lookup => Err(Errno::ENOENT),
            Deed::Create if asked == at => match self.found(&at) {
                Err(Errno::ENOENT) => reply(&ghost(request.head.opcode == op::MKDIR)),
                outcome => outcome,
            },
            Deed::Delete | Deed::DeleteDirectory if asked == at && is_lookup => {
                self.old(&at).unwrap_or_else(|| reply(&ghost(deed == Deed::DeleteDirectory)))
            }
            Deed::Delete | Deed::DeleteDirectory if asked == at => done(),
            Deed::Move if asked == at && is_lookup => match self.found(to.as_ref()?) {
                Err(Errno::ENOENT) => self.old(&at).unwrap_or_else(|| reply(&ghost(false))),
                outcome => outcome,
            },
            Deed::Move if Some(&asked) == to.as_ref() && is_lookup => self.old(&asked).unwrap_or(Err(Errno::ENOENT)),
            Deed::Move if asked == at && other == to => done(),
            _ => return None,
        })
    }

    /// What a change of content or attributes asks. The guest's kernel drops what it has of a file's content when it asks for its attributes and they are others, not
    /// when it sets them: so it is told the same again.
    fn touched(&self, request: &Request<'_>) -> Option<Outcome> {
        match request.head.opcode {
            op::GETATTR => {
                let outcome = self.getattr(request);
                if let (Ok(Answer::Bytes(bytes)), Some(replay)) = (&outcome, &mut *self.replay.lock()) {
                    replay.told = Some(bytes.clone());
                }
                Some(outcome)
            }
            op::SETATTR => {
                let told = self.replay.lock().as_ref().and_then(|replay| replay.told.clone());
                Some(told.map(Answer::Bytes).ok_or(Errno::ESTALE))
            }
            // Closed again at once: the handle is none, which does no harm.
            op::OPEN => Some(reply(&OpenOut { fh: NO_FILE, open_flags: fopen::KEEP_CACHE, padding: 0 })),
            _ => None,
        }
    }

    /// What a name is now, to be believed for no time.
    fn found(&self, spot: &Spot) -> Outcome {
        let (id, name) = spot;
        let (dir, tree) = self.directory(*id)?;
        let attr = dir.attr_of(name)?;
        let entry = self.entry(&tree, Some(Place { dir: *id, node: &dir, name }), &attr, None)?;
        reply(&EntryOut { entry_valid: 0, attr_valid: 0, ..entry })
    }

    /// What the guest knows by a name that is not what is there now.
    fn old(&self, spot: &Spot) -> Option<Outcome> {
        let (dir, tree) = self.directory(spot.0).ok()?;
        let now = dir.attr_of(&spot.1).ok().and_then(|attr| self.inodes.lock().find(&tree, &attr));
        let (id, kind, node) = self.inodes.lock().tell_again(spot.0, &spot.1, now)?;
        let attr = node.and_then(|node| node.attr().ok()).map(|attr| self.fuse_attr(&attr));
        Some(reply(&EntryOut { nodeid: id, attr: attr.unwrap_or_else(|| gone(id, kind)), ..EntryOut::default() }))
    }
}

/// A name that the guest did not know, and that is gone.
fn ghost(directory: bool) -> EntryOut {
    let (nodeid, kind) = if directory { (GHOST_DIRECTORY, FileKind::Directory) } else { (GHOST, FileKind::Regular) };
    EntryOut { nodeid, attr: gone(nodeid, kind), ..EntryOut::default() }
}

/// Of what is not there to be asked.
fn gone(ino: u64, kind: FileKind) -> abi::Attr {
    let nlink = if kind == FileKind::Directory { 2 } else { 1 };
    abi::Attr { ino, mode: super::kind_bits(kind), nlink, blksize: 4096, ..abi::Attr::default() }
}
