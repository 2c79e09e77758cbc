//! `RLIMIT_FSIZE`: how far files may grow by writing.

use super::transfer::{At, Transfer, total};
use crate::Errno;
use crate::fs::FileKind;
use crate::signal::{SigInfo, Signal};
use crate::task::{Cx, Limit, Resource};

/// The limit, if there is one.
pub(super) fn limit(cx: &Cx) -> Option<u64> {
    Some(cx.task.rlimit(Resource::Fsize).soft).filter(|&limit| limit != Limit::INFINITY)
}

/// Tells the caller that it went too far.
pub(super) fn exceeded(cx: &Cx) -> Errno {
    let _ = cx.task.send_signal(SigInfo::kernel(Signal::XFSZ));
    Errno::EFBIG
}

/// Bytes that the limit leaves from `at` on.
///
/// # Errors
/// `EFBIG`, with `SIGXFSZ`, when it leaves none.
pub(super) fn room(cx: &Cx, at: u64, limit: u64) -> Result<u64, Errno> {
    match limit.saturating_sub(at) {
        0 => Err(exceeded(cx)),
        room => Ok(room),
    }
}

/// Cuts a write to what the limit leaves.
///
/// # Errors
/// `EFBIG`, with `SIGXFSZ`, when it leaves nothing.
pub(super) async fn cut(cx: &Cx, mut transfer: Transfer, limit: u64) -> Result<Transfer, Errno> {
    if transfer.file.inode().kind() != FileKind::Regular || total(&transfer.ranges) == 0 {
        return Ok(transfer);
    }
    let start = match transfer.at {
        _ if transfer.append => transfer.file.inode().metadata().await?.size,
        At::Offset(offset) => offset,
        At::Position | At::Stream => *transfer.file.position.lock(),
    };
    let mut room = usize::try_from(room(cx, start, limit)?).unwrap_or(usize::MAX);
    for (_, len) in &mut transfer.ranges {
        *len = (*len).min(room);
        room -= *len;
    }
    Ok(transfer)
}
