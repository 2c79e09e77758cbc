//! /proc/locks.

use std::fmt::Write;

use super::Shared;
use crate::fs::dev::device_parts;
use crate::ipc::locks::{Family, LockKind, Owner, Range};

/// As fs/locks.c writes them.
pub(super) fn text(shared: &Shared) -> String {
    let mut text = String::new();
    for (n, (family, (dev, ino), held)) in shared.kernel.ipc.locks.list().into_iter().enumerate() {
        let kind = match (family, held.owner) {
            (Family::Flock, _) => "FLOCK ",
            (Family::Record, Owner::Process(_)) => "POSIX ",
            (Family::Record, Owner::Description(_)) => "OFDLCK",
        };
        let access = if held.kind == LockKind::Shared { "READ " } else { "WRITE" };
        let (major, minor) = device_parts(dev);
        let _ = write!(
            text,
            "{}: {kind} ADVISORY  {access} {} {major:02x}:{minor:02x}:{ino} {} ",
            n + 1,
            held.pid,
            held.range.start
        );
        let _ = match held.range.last {
            Range::MAX => writeln!(text, "EOF"),
            last => writeln!(text, "{last}"),
        };
    }
    text
}
