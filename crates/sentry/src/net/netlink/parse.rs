//! Requests: `nlmsghdr`s and attributes, with every length checked.

use crate::net::address::array;

/// `sizeof(struct nlmsghdr)`, and of an attribute's header.
pub const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// The bits of an attribute's type that are flags.
const ATTRIBUTE_FLAGS: u16 = 0xc000;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
    /// With its header.
    pub whole: &'a [u8],
}

/// The messages in a buffer, up to the first that is broken.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32::from_le_bytes(array(bytes, 0)?) as usize;
        let whole = bytes.get(..len).filter(|_| len >= HEADER)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_le_bytes(array(whole, 4)?),
            flags: u16::from_le_bytes(array(whole, 6)?),
            sequence: u32::from_le_bytes(array(whole, 8)?),
            payload: whole.get(HEADER..)?,
            whole,
        })
    })
}

/// The attributes behind a family's header of `header` bytes.
pub fn attributes(payload: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = payload.get(header.next_multiple_of(4)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_le_bytes(array(bytes, 0)?));
        let kind = u16::from_le_bytes(array(bytes, 2)?);
        let value = bytes.get(ATTRIBUTE..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !ATTRIBUTE_FLAGS, value))
    })
}

/// The value of one attribute.
pub fn attribute(payload: &[u8], header: usize, kind: u16) -> Option<&[u8]> {
    attributes(payload, header).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lengths_end_the_list() {
        let mut bytes = vec![20, 0, 0, 0, 18, 0, 1, 3, 7, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0];
        bytes.extend_from_slice(&[17, 0, 0, 0, 22, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2]);
        let found: Vec<_> = messages(&bytes).collect();
        assert_eq!(found.iter().map(|m| (m.kind, m.flags, m.sequence)).collect::<Vec<_>>(), [(18, 0x301, 7), (22, 1, 8)]);
        assert_eq!(found[1].payload, [2]);
        for len in 0..bytes.len() {
            assert!(messages(&bytes[..len]).count() <= 1);
        }
        for bad in [0u32, 1, 15, 21, u32::MAX] {
            let mut bytes = bytes[..20].to_vec();
            bytes[..4].copy_from_slice(&bad.to_le_bytes());
            assert_eq!(messages(&bytes).count(), 0);
        }
    }

    #[test]
    fn attributes_are_checked() {
        let bytes = [9, 9, 9, 9, 7, 0, 3, 0x80, b'l', b'o', 0, 0, 4, 0, 5, 0, 3, 0, 1, 0];
        let found: Vec<_> = attributes(&bytes, 4).collect();
        assert_eq!(found, [(3, &b"lo\0"[..]), (5, &[][..])]);
        assert_eq!(attribute(&bytes, 4, 5), Some(&[][..]));
        assert_eq!(attributes(&bytes, 100).count(), 0);
    }
}
