//! Which EROFS images (fs/erofs/erofs_fs.h) a sandbox takes, as their superblock says it: the rule of the sentry, and of those who choose between an image and
//! another way to a root.

/// `EROFS_SUPER_MAGIC_V1`.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the superblock is.
pub const SUPER_AT: u64 = 1024;
pub const SUPER_LEN: usize = 128;
/// Of a block's bytes, the logarithm.
pub const BLOCK_BITS: u8 = 12;
/// Features that change nothing for uncompressed files: `LZ4_0PADDING`, `CHUNKED_FILE`, `XATTR_PREFIXES`.
const KNOWN_FEATURES: u32 = 0x1 | 0x4 | 0x40;

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
    let number = |at: usize| superblock.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes);
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
        }
    }
}
