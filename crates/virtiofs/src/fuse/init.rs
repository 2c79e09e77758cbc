//! The first request: what both sides can do.

use gofer::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::{Answer, MAX_WRITE, Outcome, Request};
use crate::abi::{InitIn, InitOut, MAJOR, MINOR, MINOR_MIN, init::*};

/// Not among these, on purpose: writeback cache (a guest would no longer see sizes and times that others change; it holds for the whole
/// device), POSIX and BSD locks (kept in the guest), POSIX ACLs (a request more for each file looked at), submounts.
const WANTED: u32 = ASYNC_READ
    | ATOMIC_O_TRUNC
    | BIG_WRITES
    | AUTO_INVAL_DATA
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | ASYNC_DIO
    | PARALLEL_DIROPS
    | MAX_PAGES
    | CACHE_SYMLINKS
    | HANDLE_KILLPRIV_V2;

const PAGE: u32 = 4096;

pub(super) fn init(request: &Request<'_>) -> Outcome {
    let (offer, _) = InitIn::read_from_prefix(request.body).map_err(|_| Errno::EINVAL)?;
    if offer.major > MAJOR {
        // The guest tries again with our version.
        return Ok(Answer::Bytes(InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() }.as_bytes().to_vec()));
    }
    if offer.major < MAJOR || offer.minor < MINOR_MIN {
        return Err(Errno::EPROTO);
    }
    let answer = InitOut {
        major: MAJOR,
        minor: MINOR,
        max_readahead: offer.max_readahead,
        flags: offer.flags & WANTED,
        max_background: 64,
        congestion_threshold: 48,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: (MAX_WRITE / PAGE) as u16,
        ..InitOut::default()
    };
    Ok(Answer::Bytes(answer.as_bytes().to_vec()))
}
