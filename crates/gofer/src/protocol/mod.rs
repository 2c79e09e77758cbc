//! What sentry and gofer say to each other.
//!
//! One message is one packet of a `SEQPACKET` unix socket, at most [`MAX_MESSAGE`] bytes, little-endian. A request is
//! `tag u64, op u16, body`; its answer is `tag u64, errno u16, op u16, body`, with at most [`MAX_OPENS`] descriptors beside it. Tags are chosen by
//! the client, so that many requests may be outstanding and answers may come in any order. `Forget` has no answer.
//!
//! Bytes are parsed once, here, into types that cannot hold a bad value ([`Name`], [`Handle`], the enums): both sides
//! treat the other as hostile. Nothing here touches the host.

mod entries;
mod name;
mod request;
mod response;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod wire;

pub use entries::{Packed, PackedEntry};
pub use name::{Name, XattrName};
pub use request::Request;
pub use response::{Attached, Entries, Response, Walked};
pub use types::{
    Access, Attr, Cache, Durability, Entry, EntryKind, FileKind, FsStat, Handle, MakeNode, OpenHow, Owner, ReadDirDetail,
    RenameKind, Scanned, SetAttr, SetTime, Timestamp, Truncate, WalkEnd, XattrMode,
};
pub use wire::Malformed;

/// The longest message either side sends: a 64 KiB extended attribute with its name and header.
pub const MAX_MESSAGE: usize = 72 * 1024;

/// The most names in one walk.
pub const MAX_WALK: usize = 64;

/// The most files opened by one request.
pub const MAX_OPENS: usize = 16;

/// The most directories in one scan, and how far down it goes.
pub const MAX_SCAN: usize = 512;
pub const MAX_SCAN_DEPTH: usize = 16;

/// The most handles in one `Forget`.
pub const MAX_FORGET: usize = 1024;
