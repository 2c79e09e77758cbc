//! What kernels, modules and packages are compressed with, by their first bytes.

use std::io::{self, BufRead, Read};

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Xz,
    Zstd,
    /// The old frames of LZ4, in which kernels are.
    Lz4,
}

impl Compression {
    /// None: not at all, or with something else.
    pub fn of(start: &[u8]) -> Option<Compression> {
        match start {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Compression::Lz4),
            _ => None,
        }
    }

    /// The content of a kernel or module. What follows its end is ignored: kernels have their length there.
    ///
    /// # Errors
    /// It is damaged.
    pub fn unpack(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        match self {
            Compression::Gzip => flate2::bufread::GzDecoder::new(bytes).read_to_end(&mut content).map(drop)?,
            Compression::Xz => lzma_rust2::XzReader::new(bytes, false).read_to_end(&mut content).map(drop)?,
            Compression::Zstd => zstd(bytes)?.read_to_end(&mut content).map(drop)?,
            Compression::Lz4 => lz4(bytes, &mut content)?,
        }
        Ok(content)
    }
}

/// A stream's content, as it is if it is not compressed.
///
/// # Errors
/// The stream's; LZ4, which packages are not in.
pub fn reader<'a>(mut stream: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match Compression::of(stream.fill_buf()?) {
        None => Box::new(stream),
        Some(Compression::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
        Some(Compression::Xz) => Box::new(lzma_rust2::XzReader::new(stream, true)),
        Some(Compression::Zstd) => Box::new(zstd(stream)?),
        Some(Compression::Lz4) => return Err(io::Error::other("it is compressed with LZ4")),
    })
}

fn zstd<R: Read>(stream: R) -> io::Result<impl Read> {
    ruzstd::decoding::StreamingDecoder::new(stream).map_err(io::Error::other)
}

/// Blocks, each after its compressed length; the last one is shorter than this.
fn lz4(bytes: &[u8], content: &mut Vec<u8>) -> io::Result<()> {
    const BLOCK: usize = 8 << 20;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a block of it is damaged");
    let mut rest = bytes.get(4..).unwrap_or_default();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let Some((block, after)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
        let start = content.len();
        content.resize(start + BLOCK, 0);
        let room = content.get_mut(start..).unwrap_or_default();
        let unpacked = lz4_flex::block::decompress_into(block, room).map_err(|_| damaged())?;
        content.truncate(start + unpacked);
        rest = after;
        if unpacked < BLOCK {
            return Ok(());
        }
    }
    match rest.len() {
        // After a last block that is whole, the length of all.
        0 | 4 => Ok(()),
        _ => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).expect("written");
        let gzip = gzip.finish().expect("packed");
        let block = lz4_flex::block::compress(&content);
        let head = [0x184c_2102_u32.to_le_bytes(), (block.len() as u32).to_le_bytes()].concat();
        let lz4 = [head, block, (content.len() as u32).to_le_bytes().to_vec()].concat();
        let zstd = ruzstd::encoding::compress_to_vec(&content[..], ruzstd::encoding::CompressionLevel::Fastest);
        for (packed, kind) in [(gzip, Compression::Gzip), (lz4, Compression::Lz4), (zstd, Compression::Zstd)] {
            assert_eq!(Compression::of(&packed), Some(kind));
            assert!(kind.unpack(&packed).expect("whole") == content, "{kind:?}");
            assert!(kind.unpack(&packed[..packed.len() / 2]).is_err(), "{kind:?}");
            if kind != Compression::Lz4 {
                let mut all = Vec::new();
                reader(&packed[..]).expect("known").read_to_end(&mut all).expect("whole");
                assert!(all == content, "{kind:?}");
            }
        }
        assert_eq!(Compression::of(b"\x7fELF"), None);
    }

    #[test]
    fn blocks_of_lz4_follow_one_another() {
        let content = vec![b'x'; (8 << 20) + 5];
        let mut packed = 0x184c_2102_u32.to_le_bytes().to_vec();
        for block in content.chunks(8 << 20).map(lz4_flex::block::compress) {
            packed.extend((block.len() as u32).to_le_bytes());
            packed.extend(block);
        }
        assert!(Compression::Lz4.unpack(&packed).expect("whole") == content);
    }

    /// By xz(1): `printf '%s' 'x86 x86 x86 x86' | xz --check=crc32 --x86 --lzma2=dict=1MiB`, as kernels are.
    #[test]
    fn xz_with_its_filter_for_programs() {
        let content = Compression::Xz.unpack(XZ).expect("whole");
        assert_eq!(content, b"x86 x86 x86 x86");
        assert!(Compression::Xz.unpack(&XZ[..40]).is_err());
    }

    const XZ: &[u8] = include_bytes!("../tests/x86.xz");
}
