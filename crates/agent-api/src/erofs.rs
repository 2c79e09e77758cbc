//! Which EROFS images (fs/erofs/erofs_fs.h) a sandbox takes, as their superblock says it: the rule of the sentry, and of those who choose between an image and
//! another way to a root.

/// `EROFS_SUPER_MAGIC_V1`.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the superblock is.
pub const SUPER_AT: u64 = 1024;
pub const SUPER_LEN: usize = 128;
/// Of a block's bytes, the logarithm.
pub const BLOCK_BITS: u8 = 12;
/// Of what is compressed, if anything is (mkfs.erofs takes it away again otherwise).
const LZ4_0PADDING: u32 = 0x1;
const CHUNKED_FILE: u32 = 0x4;
/// Names of attributes may begin with those of a table.
const XATTR_PREFIXES: u32 = 0x40;
/// Features that change nothing for uncompressed files.
const KNOWN_FEATURES: u32 = LZ4_0PADDING | CHUNKED_FILE | XATTR_PREFIXES;

/// Why an image is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is no EROFS image.
    NoImage,
    /// Compression, several devices, other blocks than of 4 KiB.
    Unsupported,
}

/// Looks at a superblock, which is hostile.
///
/// # Errors
/// [`Refused`].
pub fn check(superblock: &[u8; SUPER_LEN]) -> Result<(), Refused> {
    let number = |at| number(superblock, at);
    if number(0) != MAGIC {
        return Err(Refused::NoImage);
    }
    // `u1.lz4_max_distance` or available algorithms, and behind it the number of further devices.
    let devices = number(84) >> 16;
    let (block_bits, directory_bits) = (superblock[12], superblock[90]);
    match block_bits == BLOCK_BITS && number(80) & !KNOWN_FEATURES == 0 && devices == 0 && directory_bits == 0 {
        true => Ok(()),
        false => Err(Refused::Unsupported),
    }
}

/// Whether all of an image can be read, by all that it might be given to. Of what [`check`] lets pass the sentry refuses compressed files when they are opened,
/// and leaves out attributes whose names it cannot read.
pub fn is_plain(superblock: &[u8; SUPER_LEN]) -> bool {
    // LZ4's distance or available algorithms: nothing, where nothing is compressed.
    let compressed = number(superblock, 80) & LZ4_0PADDING != 0 || number(superblock, 84) & 0xffff != 0;
    check(superblock).is_ok() && !compressed && !has_long_prefixes(superblock)
}

/// Whether names of attributes may begin with those of a table. Marks for an overlay may be among them.
pub fn has_long_prefixes(superblock: &[u8; SUPER_LEN]) -> bool {
    number(superblock, 80) & XATTR_PREFIXES != 0
}

fn number(superblock: &[u8; SUPER_LEN], at: usize) -> u32 {
    superblock.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        let mut plain = [0; SUPER_LEN];
        assert_eq!(check(&plain), Err(Refused::NoImage));
        plain[..4].copy_from_slice(&MAGIC.to_le_bytes());
        plain[12] = BLOCK_BITS;
        plain[80] = 0x45;
        // A distance of LZ4's says nothing.
        plain[84] = 1;
        assert_eq!(check(&plain), Ok(()));
        for (at, value) in [(12, 9), (80, 0x8), (83, 1), (86, 1), (90, 1)] {
            let mut other = plain;
            other[at] = value;
            assert_eq!(check(&other), Err(Refused::Unsupported), "byte {at}");
            assert!(!is_plain(&other), "byte {at}");
        }
    }

    #[test]
    fn what_is_read_in_part_is_not_plain() {
        let mut plain = [0; SUPER_LEN];
        plain[..4].copy_from_slice(&MAGIC.to_le_bytes());
        plain[12] = BLOCK_BITS;
        plain[80] = 0x4;
        assert!(is_plain(&plain) && !has_long_prefixes(&plain));
        for (at, value) in [(80, 0x1), (80, 0x5), (80, 0x40), (84, 1), (85, 0xff)] {
            let mut other = plain;
            other[at] = value;
            assert_eq!(check(&other), Ok(()), "byte {at}");
            assert!(!is_plain(&other), "byte {at}");
            assert_eq!(has_long_prefixes(&other), value == 0x40);
        }
    }
}
