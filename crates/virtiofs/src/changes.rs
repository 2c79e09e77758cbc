//! What others have changed in shared trees, to be told to the guest: FUSE has no message for it that virtio-fs could carry. So it goes to the guest's agent
//! by another way, and the agent does it once more (`fuse/replay.rs`).

use std::{io, mem::MaybeUninit, sync::Arc, thread};

use rustix::{event::epoll, fs::inotify::ReadFlags, io::Errno as HostErrno};

use crate::{
    device::Shown,
    fuse::{Fs, kind_bits},
    watches::{Seen, Spot},
};

/// Changes told at a time: each may take the guest a second.
const BATCH: usize = 32;
const STACK: usize = 256 << 10;

/// What has happened to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    Created,
    Deleted,
    Moved,
    Written,
    AttributesChanged,
    /// By one who could write.
    Closed,
}

/// A change that others have made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub happening: Happening,
    /// What was made or removed (`S_IFMT`; of what is gone only whether it was a directory is known).
    pub kind: u32,
    /// The directory, below the device's root.
    pub directory: Vec<u8>,
    pub name: Vec<u8>,
    /// Directory and name that it was moved to.
    pub target: Option<(Vec<u8>, Vec<u8>)>,
    /// What the guest gives back to announce that it does this change once more.
    pub token: Vec<u8>,
}

/// Watches the trees that are shown, and calls `tell` with what others change, in a thread of its own, which must be made before
/// [`Running::confine`](crate::Running::confine); until it says false.
///
/// # Errors
/// No thread; the host's.
pub fn tell_changes(shown: &Shown, mut tell: impl FnMut(&[Change]) -> bool + Send + 'static) -> io::Result<()> {
    let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let fs = shown.fs().clone();
    fs.watches.begin(epoll.clone());
    let run = move || {
        let mut events = [const { MaybeUninit::uninit() }; 1];
        loop {
            match epoll::wait(&*epoll, &mut events, None) {
                Ok(_) | Err(HostErrno::INTR) => {}
                Err(_) => return,
            }
            let changes = fs.changes();
            if !changes.chunks(BATCH).all(&mut tell) {
                return;
            }
        }
    };
    thread::Builder::new().name("changes".to_owned()).stack_size(STACK).spawn(run).map(drop)
}

impl Fs {
    /// What others have changed since the last time.
    pub fn changes(&self) -> Vec<Change> {
        let seen = self.watches.read();
        self.watches.keep(|id| self.knows(id));
        let mut changes = Vec::new();
        let mut seen = seen.into_iter().peekable();
        while let Some(event) = seen.next() {
            // The two events of a rename follow one another.
            let moved_to = seen.next_if(|next| {
                event.what.contains(ReadFlags::MOVED_FROM)
                    && next.what.contains(ReadFlags::MOVED_TO)
                    && next.cookie == event.cookie
                    && self.is_in_one_tree(next.spot.0, event.spot.0)
            });
            let Some(change) = self.change(&event, moved_to.map(|to| to.spot)) else { continue };
            if changes.last() != Some(&change) {
                changes.push(change);
            }
        }
        changes
    }

    fn change(&self, seen: &Seen, to: Option<Spot>) -> Option<Change> {
        let Seen { what, spot, .. } = seen;
        let mut kind = if what.contains(ReadFlags::ISDIR) { libc::S_IFDIR } else { 0 };
        let happening = if to.is_some() {
            Happening::Moved
        } else if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            if kind == 0 {
                // What has gone on already was a file of some kind.
                kind = self.kind_at(spot).unwrap_or(libc::S_IFREG);
            }
            Happening::Created
        } else if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            Happening::Deleted
        } else if what.contains(ReadFlags::MODIFY) {
            Happening::Written
        } else if what.contains(ReadFlags::ATTRIB) {
            Happening::AttributesChanged
        } else if what.contains(ReadFlags::CLOSE_WRITE) {
            Happening::Closed
        } else {
            return None;
        };
        let path = |spot: &Spot| self.path(spot.0);
        let target = match &to {
            Some(to) => Some((path(to)?, to.1.as_bytes().to_vec())),
            None => None,
        };
        Some(Change {
            happening,
            kind,
            directory: path(spot)?,
            name: spot.1.as_bytes().to_vec(),
            target,
            token: crate::fuse::token(happening, kind, spot, to.as_ref()),
        })
    }

    fn kind_at(&self, spot: &Spot) -> Option<u32> {
        let node = self.node(spot.0).ok()?;
        node.attr_of(&spot.1).ok().map(|attr| kind_bits(attr.kind))
    }
}
