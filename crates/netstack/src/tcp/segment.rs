//! [`Segment`]: a TCP header as a checked value, read from bytes and written to them.

use smallvec::SmallVec;
use smoltcp::wire::{TcpOption, TcpPacket};

bitflags::bitflags! {
    /// The control bits as they stand in the header.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Flags: u8 {
        const FIN = 0x01;
        const SYN = 0x02;
        const RST = 0x04;
        const PSH = 0x08;
        const ACK = 0x10;
        const URG = 0x20;
        const ECE = 0x40;
        const CWR = 0x80;
    }
}

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// Bytes of the longest header.
pub const LONGEST_HEADER: usize = 60;
/// Blocks of a SACK option that fit beside timestamps.
const SACK_BLOCKS: usize = 3;

/// Blocks of bytes that came out of order: first, one past last.
pub type Sack = SmallVec<[(u32, u32); SACK_BLOCKS]>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    pub source: u16,
    pub destination: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: Flags,
    /// As it stands in the header, unscaled.
    pub window: u16,
    /// Bytes after `seq` at which urgent data ends.
    pub urgent: u16,
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack_permitted: bool,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    pub sack: Sack,
}

impl Segment {
    /// Reads a header; the payload is what is behind it. None: malformed.
    pub fn parse(bytes: &[u8]) -> Option<(Segment, &[u8])> {
        let packet = TcpPacket::new_checked(bytes).ok()?;
        let bits = bytes.get(13).copied()?;
        let mut segment = Segment {
            source: packet.src_port(),
            destination: packet.dst_port(),
            seq: packet.seq_number().0 as u32,
            ack: packet.ack_number().0 as u32,
            flags: Flags::from_bits_retain(bits),
            window: packet.window_len(),
            urgent: packet.urgent_at(),
            ..Segment::default()
        };
        let mut rest = packet.options();
        while !rest.is_empty() {
            // What is malformed ends the options; what came before it counts, as in Linux.
            let Ok((next, option)) = TcpOption::parse(rest) else { break };
            match option {
                TcpOption::EndOfList => break,
                TcpOption::MaxSegmentSize(mss) => segment.mss = Some(mss),
                TcpOption::WindowScale(scale) => segment.window_scale = Some(scale.min(14)),
                TcpOption::SackPermitted => segment.sack_permitted = true,
                TcpOption::TimeStamp { tsval, tsecr } => segment.timestamps = Some((tsval, tsecr)),
                TcpOption::SackRange(ranges) => segment.sack = ranges.iter().flatten().copied().collect(),
                _ => {}
            }
            rest = next;
        }
        Some((segment, bytes.get(usize::from(packet.header_len())..)?))
    }

    pub fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// Sequence numbers it takes with so many bytes.
    pub fn length(&self, payload: usize) -> u32 {
        payload as u32 + u32::from(self.has(Flags::SYN)) + u32::from(self.has(Flags::FIN))
    }

    /// The header's bytes; the checksum is left 0.
    pub fn header(&self) -> SmallVec<[u8; LONGEST_HEADER]> {
        let mut bytes: SmallVec<[u8; LONGEST_HEADER]> = SmallVec::new();
        bytes.extend_from_slice(&self.source.to_be_bytes());
        bytes.extend_from_slice(&self.destination.to_be_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.ack.to_be_bytes());
        bytes.extend_from_slice(&[0, self.flags.bits()]);
        bytes.extend_from_slice(&self.window.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&self.urgent.to_be_bytes());
        // In Linux's order, padded by no-operations in front.
        if let Some(mss) = self.mss {
            bytes.extend_from_slice(&[2, 4]);
            bytes.extend_from_slice(&mss.to_be_bytes());
        }
        if let Some((value, echo)) = self.timestamps {
            bytes.extend_from_slice(if self.sack_permitted { &[4, 2, 8, 10] } else { &[1, 1, 8, 10] });
            bytes.extend_from_slice(&value.to_be_bytes());
            bytes.extend_from_slice(&echo.to_be_bytes());
        } else if self.sack_permitted {
            bytes.extend_from_slice(&[1, 1, 4, 2]);
        }
        if let Some(scale) = self.window_scale {
            bytes.extend_from_slice(&[1, 3, 3, scale]);
        }
        if !self.sack.is_empty() {
            let blocks = self.sack.iter().take(SACK_BLOCKS);
            bytes.extend_from_slice(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
            for (first, end) in blocks {
                bytes.extend_from_slice(&first.to_be_bytes());
                bytes.extend_from_slice(&end.to_be_bytes());
            }
        }
        let words = (bytes.len() / 4) as u8;
        if let Some(offset) = bytes.get_mut(12) {
            *offset = words << 4;
        }
        bytes
    }

    /// The answer to a segment that belongs to nothing (RFC 9293, 3.10.7.1). None: it is a reset itself.
    pub fn reset_for(&self, payload: usize) -> Option<Segment> {
        if self.has(Flags::RST) {
            return None;
        }
        let ports = Segment { source: self.destination, destination: self.source, ..Segment::default() };
        Some(if self.has(Flags::ACK) {
            Segment { seq: self.ack, flags: Flags::RST, ..ports }
        } else {
            Segment { ack: self.seq.wrapping_add(self.length(payload)), flags: Flags::RST | Flags::ACK, ..ports }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_a_round_trip() {
        let syn = Segment {
            source: 1,
            destination: 2,
            seq: 0xffff_ffff,
            ack: 7,
            flags: Flags::SYN,
            window: 9,
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some((3, 4)),
            ..Segment::default()
        };
        let ack = Segment {
            flags: Flags::ACK | Flags::PSH,
            mss: None,
            window_scale: None,
            sack_permitted: false,
            sack: Sack::from_slice(&[(1, 2), (3, 4), (5, 6)]),
            ..syn.clone()
        };
        for segment in [syn, ack, Segment { sack_permitted: true, ..Segment::default() }] {
            let mut bytes = segment.header().to_vec();
            assert!(bytes.len() % 4 == 0 && bytes.len() <= LONGEST_HEADER);
            bytes.extend_from_slice(b"xyz");
            assert_eq!(Segment::parse(&bytes), Some((segment, &b"xyz"[..])));
            for len in 0..HEADER {
                assert_eq!(Segment::parse(bytes.get(..len).expect("short")), None);
            }
        }
    }
}
