//! Extended attributes: beside the inode, and shared between inodes.

use super::image::{Image, RawInode, number};
use crate::Errno;
use crate::fs::{XattrCall, XattrReply};

/// Attributes of an inode that are looked at at most.
const ENTRIES_MAX: usize = 4096;

/// The beginning of a name, by its number on the image.
fn prefix(index: u64) -> Option<&'static [u8]> {
    match index {
        0 => Some(b""),
        1 => Some(b"user."),
        2 => Some(b"system.posix_acl_access"),
        3 => Some(b"system.posix_acl_default"),
        4 => Some(b"trusted."),
        6 => Some(b"security."),
        _ => None,
    }
}

struct Attribute {
    name: Vec<u8>,
    value_at: u64,
    value_len: usize,
}

/// The attribute at a place, and where it ends. None for a name that is not known here (long prefixes).
fn attribute(image: &Image, at: u64) -> Result<(Option<Attribute>, u64), Errno> {
    let head = image.bytes(at, 4)?;
    let (name_len, value_len) = (number::<1>(&head, 0)?, number::<2>(&head, 2)?);
    let value_at = at + 4 + name_len;
    let end = (value_at + value_len).next_multiple_of(4);
    let Some(prefix) = prefix(number::<1>(&head, 1)?) else { return Ok((None, end)) };
    let mut name = prefix.to_vec();
    name.extend(image.bytes(at + 4, name_len as usize)?);
    if name.is_empty() || name.contains(&0) {
        return Err(Errno::EUCLEAN);
    }
    Ok((Some(Attribute { name, value_at, value_len: value_len as usize }), end))
}

fn all(image: &Image, raw: &RawInode) -> Result<Vec<Attribute>, Errno> {
    let (start, len) = raw.xattrs;
    let mut found = Vec::new();
    if len == 0 {
        return Ok(found);
    }
    let head = image.bytes(start, 12)?;
    let shared = number::<1>(&head, 4)?;
    let end = start + len;
    let mut at = start + 12 + shared * 4;
    if at > end {
        return Err(Errno::EUCLEAN);
    }
    for index in 0..shared {
        let id = number::<4>(&image.bytes(start + 12 + index * 4, 4)?, 0)?;
        found.extend(attribute(image, image.shared_xattr_at(id)?)?.0);
    }
    // An entry is at least 4 bytes; what is left over is padding.
    while at + 4 <= end && found.len() < ENTRIES_MAX {
        let (one, next) = attribute(image, at)?;
        if next > end {
            return Err(Errno::EUCLEAN);
        }
        found.extend(one);
        at = next;
    }
    Ok(found)
}

pub(super) fn call(image: &Image, raw: &RawInode, call: XattrCall<'_>) -> Result<XattrReply, Errno> {
    match call {
        XattrCall::List => Ok(all(image, raw)?.into_iter().flat_map(|one| [one.name, vec![0]].concat()).collect()),
        XattrCall::Get(name) => {
            let found = all(image, raw)?.into_iter().find(|one| one.name == name).ok_or(Errno::ENODATA)?;
            image.bytes(found.value_at, found.value_len)
        }
        XattrCall::Set(..) | XattrCall::Remove(_) => Err(Errno::EROFS),
    }
}
