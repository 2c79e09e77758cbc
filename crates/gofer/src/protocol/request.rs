//! What the sentry asks.

use std::ffi::CString;

use super::{
    Durability, EntryKind, Handle, MAX_FORGET, MAX_WALK, MakeNode, Malformed, Name, OpenHow, Owner, ReadDirDetail, RenameKind,
    SetAttr, Truncate, XattrMode, XattrName,
    wire::{Reader, Wire, get_list, put_list},
};

impl Wire for Vec<Name> {
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Vec<Name>, Malformed> {
        get_list(from, MAX_WALK)
    }
}

impl Wire for Vec<Vec<Name>> {
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Vec<Vec<Name>>, Malformed> {
        get_list(from, MAX_WALK)
    }
}

impl Wire for Vec<Handle> {
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Vec<Handle>, Malformed> {
        get_list(from, MAX_FORGET)
    }
}

macro_rules! requests {
    ($($(#[$meta:meta])* $op:literal $variant:ident { $($(#[$fmeta:meta])* $field:ident: $type:ty,)* })*) => {
        /// A request. Each operation's doc says what answers it.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request { $($(#[$meta])* $variant { $($(#[$fmeta])* $field: $type,)* },)* }

        impl Request {
            /// The operation's number on the wire.
            pub fn op(&self) -> u16 {
                match self { $(Request::$variant { .. } => $op,)* }
            }

            /// An operation's name.
            pub fn name_of(op: u16) -> Option<&'static str> {
                match op { $($op => Some(stringify!($variant)),)* _ => None }
            }

            fn put_body(&self, out: &mut Vec<u8>) {
                match self { $(Request::$variant { $($field,)* } => { $($field.put(out);)* })* }
            }

            fn get_body(op: u16, from: &mut Reader<'_>) -> Result<Request, Malformed> {
                match op {
                    $($op => Ok(Request::$variant { $($field: Wire::get(from)?,)* }),)*
                    _ => Err(Malformed::UnknownOp(op)),
                }
            }
        }
    };
}

requests! {
    /// The root of a configured tree, by its place in the configuration → `Attached`.
    1 Attach { index: u32, }
    /// Walks `names` from a directory; stops after the first symbolic link or non-directory and before the first missing name.
    /// Symbolic links are not followed; the target of one at the end comes along. If the walk is complete and ends at a regular
    /// file, `open` opens it too → `Walked`.
    2 Walk { start: Handle, names: Vec<Name>, open: Option<OpenHow>, }
    /// → `Attr`
    3 GetAttr { node: Handle, }
    /// → `Bytes`
    4 ReadLink { node: Handle, }
    /// Opens a regular file → `Opened`. `ESTALE`: the name now means another file; walk again.
    5 Open { node: Handle, how: OpenHow, truncate: Truncate, }
    /// Entries from `from` on (0 or a [`super::DirEntry::next`]), as many as fit in `max_bytes` and a message, without `.`
    /// and `..` → `Entries`.
    6 ReadDir { node: Handle, from: u64, max_bytes: u32, detail: ReadDirDetail, }
    /// `O_CREAT|O_EXCL` → `Created`
    7 Create { dir: Handle, name: Name, mode: u32, owner: Owner, how: OpenHow, }
    /// → `Entry`
    8 MkDir { dir: Handle, name: Name, mode: u32, owner: Owner, }
    /// → `Entry`
    9 MkNod { dir: Handle, name: Name, kind: MakeNode, mode: u32, owner: Owner, }
    /// → `Entry`
    10 Symlink { dir: Handle, name: Name, target: CString, owner: Owner, }
    /// A further name for `node`, which is no directory → `Entry` (a new handle, for the new name)
    11 Link { node: Handle, dir: Handle, name: Name, }
    /// → `Done`
    12 Unlink { dir: Handle, name: Name, kind: EntryKind, }
    /// → `Done`. `moved` is a handle held for `name`, `displaced` one for `new_name` (used by `Exchange`): the server notes their new
    /// places, without which a later `Open` on them says `ESTALE`.
    13 Rename {
        dir: Handle,
        name: Name,
        new_dir: Handle,
        new_name: Name,
        kind: RenameKind,
        moved: Option<Handle>,
        displaced: Option<Handle>,
    }
    /// → `Attr`, the new attributes
    14 SetAttr { node: Handle, set: SetAttr, }
    /// → `Bytes`, or `ERANGE` if longer than `size`
    15 GetXattr { node: Handle, name: XattrName, size: u32, }
    /// → `Done`
    16 SetXattr { node: Handle, name: XattrName, value: Vec<u8>, mode: XattrMode, }
    /// → `Bytes`: names, each ended by NUL
    17 ListXattr { node: Handle, }
    /// → `Done`
    18 RemoveXattr { node: Handle, name: XattrName, }
    /// → `FsStat`
    19 StatFs { node: Handle, }
    /// → `Done`
    20 Fsync { node: Handle, durability: Durability, }
    /// Several names of one directory, not followed → `Found`, an outcome for each; fewer where room for handles ran out.
    22 LookUp { dir: Handle, names: Vec<Name>, }
    /// The attributes of names in the directory that `path` leads to from `dir` (without links), not followed → `Attrs`, an outcome for
    /// each.
    23 Stat { dir: Handle, path: Vec<Name>, names: Vec<Name>, }
    /// Directories with their entries: each of those that `roots` lead to from the one that `path` leads to, followed by what is below it. As many
    /// directories as there is room for, and `directories` at most; at least the first → `Scanned`.
    24 Scan { dir: Handle, path: Vec<Name>, roots: Vec<Vec<Name>>, directories: u16, detail: ReadDirDetail, }
    /// Opens regular files of the directory that `path` leads to, [`super::MAX_OPENS`] at most → `OpenedAll`, an outcome for each: the file's attributes, and its
    /// descriptor.
    25 OpenAll { dir: Handle, path: Vec<Name>, names: Vec<Name>, how: OpenHow, }
    /// The descriptor from which events of watched files are read, an inotify instance of the connection's own → `Notifier`. `ENXIO` where nothing is exported.
    26 Notifier {}
    /// Watches a file or directory for `events` (`IN_*` bits of changes, and `IN_EXCL_UNLINK`; others are left out), besides those it is watched for → `Watched`.
    27 Watch { node: Handle, events: u32, }
    /// → `Done`
    28 Unwatch { watch: u32, }
    /// Handles that will not be used again. Has no answer.
    21 Forget { nodes: Vec<Handle>, }
}

impl Request {
    /// The message for this request.
    pub fn encode(&self, tag: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        tag.put(&mut out);
        self.op().put(&mut out);
        self.put_body(&mut out);
        out
    }

    /// The tag and operation of a message, if it has as much as that; then the request.
    ///
    /// # Errors
    /// `Err` without header; an inner `Err` for a bad body, which can be answered.
    #[allow(clippy::type_complexity)]
    pub fn decode(message: &[u8]) -> Result<(u64, u16, Result<Request, Malformed>), Malformed> {
        let mut from = Reader::new(message);
        let (tag, op) = (u64::get(&mut from)?, u16::get(&mut from)?);
        let request = Request::get_body(op, &mut from).and_then(|request| from.finish().map(|()| request));
        Ok((tag, op, request))
    }
}
