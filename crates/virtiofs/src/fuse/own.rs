//! What the guest changes itself, so that the events of it are not taken for others'.

use super::{Fs, Outcome, Request, name};
use crate::{
    abi::{CopyFileRangeIn, CreateIn, LinkIn, MkdirIn, MknodIn, OpenIn, ROOT_ID, ReleaseIn, Rename2In, RenameIn, op},
    watches::{Own, Spot},
};

impl Fs {
    /// Does a request. If it changes what is watched, that is noted before.
    pub(super) fn noting(&self, request: &Request<'_>, act: impl FnOnce() -> Outcome) -> Outcome {
        if !self.watches.are_there() {
            return act();
        }
        let notes = self.own(request);
        for (own, spot) in &notes {
            self.watches.note(*own, spot);
        }
        let outcome = act();
        if outcome.is_err() {
            for (own, spot) in &notes {
                self.watches.take_back(*own, spot);
            }
        }
        outcome
    }

    fn own(&self, request: &Request<'_>) -> Vec<(Own, Spot)> {
        let id = request.head.nodeid;
        let here = |rest: &[u8]| name(rest).ok().map(|(name, _)| (id, name));
        // Owner and mode may be set once it is there, and it may be written at once.
        let made = |spot: Option<Spot>| {
            spot.into_iter().flat_map(|spot| [(Own::Creates, spot.clone()), (Own::Touches, spot)]).collect()
        };
        let touched = |id: u64| self.spot(id).map(|spot| (Own::Touches, spot)).into_iter().collect();
        match request.head.opcode {
            op::MKNOD => made(request.arg_and_rest::<MknodIn>().ok().and_then(|(_, rest)| here(rest))),
            op::MKDIR => made(request.arg_and_rest::<MkdirIn>().ok().and_then(|(_, rest)| here(rest))),
            op::CREATE => made(request.arg_and_rest::<CreateIn>().ok().and_then(|(_, rest)| here(rest))),
            op::SYMLINK => made(here(request.body)),
            op::LINK => {
                let Ok((arg, rest)) = request.arg_and_rest::<LinkIn>() else { return Vec::new() };
                let target = self.spot(arg.oldnodeid).map(|spot| (Own::Touches, spot));
                here(rest).map(|spot| (Own::Creates, spot)).into_iter().chain(target).collect()
            }
            op::UNLINK | op::RMDIR => here(request.body).map(|spot| (Own::Deletes, spot)).into_iter().collect(),
            op::RENAME => match request.arg_and_rest::<RenameIn>() {
                Ok((arg, rest)) => moved(id, arg.newdir, 0, rest),
                Err(_) => Vec::new(),
            },
            op::RENAME2 => match request.arg_and_rest::<Rename2In>() {
                Ok((arg, rest)) => moved(id, arg.newdir, arg.flags, rest),
                Err(_) => Vec::new(),
            },
            op::SETATTR | op::SETXATTR | op::REMOVEXATTR | op::WRITE | op::FALLOCATE => touched(id),
            op::COPY_FILE_RANGE => request.arg::<CopyFileRangeIn>().map(|arg| touched(arg.nodeid_out)).unwrap_or_default(),
            op::OPEN if request.arg::<OpenIn>().is_ok_and(|arg| arg.flags as i32 & libc::O_TRUNC != 0) => touched(id),
            op::RELEASE if request.arg::<ReleaseIn>().is_ok_and(|arg| arg.flags as i32 & libc::O_ACCMODE != libc::O_RDONLY) => {
                touched(id)
            }
            _ => Vec::new(),
        }
    }

    /// Where an inode has its name.
    fn spot(&self, id: u64) -> Option<Spot> {
        if id == ROOT_ID { None } else { self.inodes.lock().known(id).ok()?.place }
    }
}

fn moved(dir: u64, new_dir: u64, flags: u32, rest: &[u8]) -> Vec<(Own, Spot)> {
    let Ok((old, rest)) = name(rest) else { return Vec::new() };
    let Ok((new, _)) = name(rest) else { return Vec::new() };
    let (from, to) = ((dir, old), (new_dir, new));
    let mut notes = vec![(Own::MovesFrom, from.clone()), (Own::MovesTo, to.clone())];
    match flags {
        libc::RENAME_EXCHANGE => notes.extend([(Own::MovesFrom, to), (Own::MovesTo, from)]),
        libc::RENAME_WHITEOUT => notes.push((Own::Creates, from)),
        _ => {}
    }
    notes
}
