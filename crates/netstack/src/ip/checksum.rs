//! The Internet checksum (RFC 1071).

use core::net::IpAddr;

/// A sum under way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Of the pseudo-header that TCP, UDP and ICMPv6 count in.
    pub fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Sum {
        let mut sum = Sum::default();
        for ip in [from, to] {
            match ip {
                IpAddr::V4(ip) => sum.add(&ip.octets()),
                IpAddr::V6(ip) => sum.add(&ip.octets()),
            }
        }
        sum.0 += u64::from(protocol) + length as u64;
        sum
    }

    /// Adds bytes that start at an even place.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(4);
        let mut sum = 0u64;
        for word in &mut words {
            sum += u64::from(u32::from_be_bytes(word.try_into().unwrap_or_default()));
        }
        let rest = words.remainder();
        let mut last = [0u8; 4];
        for (place, byte) in last.iter_mut().zip(rest) {
            *place = *byte;
        }
        sum += u64::from(u32::from_be_bytes(last));
        // Words of 32 bits sum up to the same, once folded.
        self.0 += (sum >> 32) + (sum & 0xffff_ffff);
    }

    /// The sum itself, folded: what offloads start from.
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum.
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The checksum of bytes alone.
pub fn of(bytes: &[u8]) -> u16 {
    let mut sum = Sum::default();
    sum.add(bytes);
    sum.checksum()
}

/// Writes a number of 16 bits at `at`, if there is room.
pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(of(&header), 0xb861);
        // In pieces of even length, and with an odd end.
        let bytes: Vec<u8> = (0..1001u32).map(|n| (n * 7) as u8).collect();
        let plain = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum::<u32>();
        let plain = (plain & 0xffff) + (plain >> 16);
        assert_eq!(of(&bytes), !((plain & 0xffff) + (plain >> 16)) as u16);
        for cut in [2, 6, 500] {
            let mut sum = Sum::default();
            sum.add(&bytes[..cut]);
            sum.add(&bytes[cut..]);
            assert_eq!(sum.checksum(), of(&bytes));
        }
    }
}
