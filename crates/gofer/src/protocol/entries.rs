//! [`Packed`]: a directory's entries as they travel.
//!
//! A walk over a tree moves tens of thousands of entries, most of which are looked at once or never. So they are not taken apart: the bytes are
//! checked when they come, kept as they are, and an entry is read from them when it is looked at.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    Attr, FileKind, Malformed, Name,
    types::RawAttr,
    wire::{Reader, Wire},
};

/// How an entry begins: the name follows, then the attributes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    ino: [u8; 8],
    next: [u8; 8],
    /// A [`FileKind`], or [`UNTOLD`].
    kind: u8,
    /// [`ATTRIBUTES`] or 0.
    flags: u8,
    /// Of the name.
    len: u8,
}

/// The host's file system does not say of what kind an entry is.
const UNTOLD: u8 = 0xff;

/// The entry has attributes.
const ATTRIBUTES: u8 = 1;

/// One entry.
#[derive(Debug, Clone, Copy)]
pub struct PackedEntry<'a> {
    pub ino: u64,
    /// Where reading goes on after this entry; `0` is the start. Opaque otherwise.
    pub next: u64,
    /// `None` where the host's file system does not tell (`DT_UNKNOWN`).
    pub kind: Option<FileKind>,
    /// A valid [`Name`].
    pub name: &'a [u8],
    attr: Option<&'a RawAttr>,
}

impl PackedEntry<'_> {
    /// If they were asked for, and the entry still existed.
    pub fn attr(&self) -> Option<Attr> {
        self.attr?.read().ok()
    }

    /// Whether it has attributes.
    pub fn has_attr(&self) -> bool {
        self.attr.is_some()
    }
}

/// Reads the entry that bytes begin with; gives the rest.
fn split(bytes: &[u8]) -> Result<(PackedEntry<'_>, &[u8]), Malformed> {
    let (head, rest) = Head::ref_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    let (name, rest) = rest.split_at_checked(head.len.into()).ok_or(Malformed::Short)?;
    let (attr, rest) = match head.flags {
        0 => (None, rest),
        ATTRIBUTES => {
            let (attr, rest) = RawAttr::ref_from_prefix(rest).map_err(|_| Malformed::Short)?;
            (Some(attr), rest)
        }
        _ => return Err(Malformed::BadValue("entry's flags")),
    };
    let kind = match head.kind {
        UNTOLD => None,
        kind => Some(FileKind::from_raw(kind)?),
    };
    let (ino, next) = (u64::from_le_bytes(head.ino), u64::from_le_bytes(head.next));
    Ok((PackedEntry { ino, next, kind, name, attr }, rest))
}

/// Entries of a directory, in its order, without `.` and `..`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Packed {
    bytes: Vec<u8>,
    /// Where each begins.
    starts: Vec<u32>,
}

impl Packed {
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub fn get(&self, at: usize) -> Option<PackedEntry<'_>> {
        let start = *self.starts.get(at)?;
        // It was checked, or made here.
        Some(split(self.bytes.get(start as usize..)?).ok()?.0)
    }

    pub fn last(&self) -> Option<PackedEntry<'_>> {
        self.get(self.len().checked_sub(1)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = PackedEntry<'_>> {
        self.from(0).map(|(_, entry)| entry)
    }

    /// Those from one on, with their places.
    pub fn from(&self, first: usize) -> impl Iterator<Item = (usize, PackedEntry<'_>)> {
        (first..self.len()).filter_map(|at| Some((at, self.get(at)?)))
    }

    /// How many bytes of a message one entry takes.
    pub fn size_of(name: &[u8], attr: Option<&Attr>) -> usize {
        size_of::<Head>() + name.len() + attr.map_or(0, |_| size_of::<RawAttr>())
    }

    /// How many bytes of a message they take.
    pub fn encoded_len(&self) -> usize {
        8 + self.bytes.len()
    }

    /// Adds an entry, whose name must be a valid [`Name`].
    pub fn push(&mut self, ino: u64, next: u64, kind: Option<FileKind>, name: &[u8], attr: Option<&Attr>) {
        let (Ok(len), Ok(start)) = (u8::try_from(name.len()), u32::try_from(self.bytes.len())) else { return };
        let flags = if attr.is_some() { ATTRIBUTES } else { 0 };
        let kind = kind.map_or(UNTOLD, |kind| kind as u8);
        let head = Head { ino: ino.to_le_bytes(), next: next.to_le_bytes(), kind, flags, len };
        self.starts.push(start);
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name);
        if let Some(attr) = attr {
            self.bytes.extend_from_slice(RawAttr::from(attr).as_bytes());
        }
    }

    /// Adds others after these.
    pub fn extend(&mut self, more: &Packed) {
        let Ok(base) = u32::try_from(self.bytes.len()) else { return };
        self.bytes.extend_from_slice(&more.bytes);
        self.starts.extend(more.starts.iter().map(|start| base.saturating_add(*start)));
    }

    /// Keeps the first ones.
    pub fn truncate(&mut self, len: usize) {
        if let Some(start) = self.starts.get(len) {
            self.bytes.truncate(*start as usize);
            self.starts.truncate(len);
        }
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Their number, the number of their bytes, and the bytes.
impl Wire for Packed {
    fn put(&self, out: &mut Vec<u8>) {
        (self.starts.len() as u32).put(out);
        (self.bytes.len() as u32).put(out);
        out.extend_from_slice(&self.bytes);
    }
    fn get(from: &mut Reader<'_>) -> Result<Packed, Malformed> {
        let (count, len) = (u32::get(from)?, u32::get(from)?);
        let bytes = from.take(len as usize)?;
        // Each takes more bytes than that, and they are there: a lying count allocates nothing.
        let mut starts = Vec::with_capacity((count as usize).min(bytes.len() / size_of::<Head>()));
        let mut rest = bytes;
        while !rest.is_empty() {
            starts.push((bytes.len() - rest.len()) as u32);
            let (entry, after) = split(rest)?;
            Name::check(entry.name)?;
            if let Some(attr) = entry.attr {
                attr.read()?;
            }
            rest = after;
        }
        if starts.len() != count as usize {
            return Err(Malformed::BadValue("number of entries"));
        }
        Ok(Packed { bytes: bytes.to_vec(), starts })
    }
}
