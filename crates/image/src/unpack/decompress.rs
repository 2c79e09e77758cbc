//! A layer's bytes, decompressed and counted.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Limits, UnpackError};
use crate::digest::{Digest, Hashing};

/// Most memory a zstd frame may ask for (zstd's own default limit).
const MOST_WINDOW: u64 = 128 << 20;

/// Reads what a layer unpacks to, and keeps the digests of both sides.
pub struct Layer<R: Read> {
    inner: Hashing<Box<dyn Read>>,
    compressed: Shared<R>,
    limits: Limits,
    /// Set when a limit was the reason for an error.
    pub refused: Option<UnpackError>,
}

/// The compressed side, which the decoder owns and we look at.
struct Shared<R>(Rc<Tap<R>>);

struct Tap<R> {
    input: std::cell::RefCell<Hashing<R>>,
    count: Cell<u64>,
}

impl<R: Read> Read for Shared<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.input.borrow_mut().read(buffer)?;
        self.0.count.set(self.0.count.get() + count as u64);
        Ok(count)
    }
}

impl<R: Read + 'static> Layer<R> {
    /// Finds out how the input is compressed, by its first bytes.
    ///
    /// # Errors
    /// It cannot be read, or is compressed in a way we do not know.
    pub fn new(input: R, limits: Limits) -> Result<Layer<R>, UnpackError> {
        let tap = Rc::new(Tap { input: Hashing::new(input).into(), count: Cell::new(0) });
        let mut input = BufReader::with_capacity(256 << 10, Shared(tap.clone()));
        let start = input.fill_buf().map_err(|e| UnpackError::Decompress(e.to_string()))?;
        let start = start.get(..start.len().min(6)).unwrap_or_default().to_vec();
        let inner: Box<dyn Read> = match *start {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(input)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(Zstd::new(input)),
            [b'B', b'Z', b'h', ..] => return Err(UnpackError::Compression("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(UnpackError::Compression("xz")),
            _ => Box::new(input),
        };
        Ok(Layer { inner: Hashing::new(inner), compressed: Shared(tap), limits, refused: None })
    }

    /// Compressed bytes read so far.
    pub fn consumed(&self) -> u64 {
        self.compressed.0.count.get()
    }

    /// Reads to the end of both sides. Gives the digests of the blob and of what it unpacks to, and the latter's length.
    ///
    /// # Errors
    /// As when reading.
    pub fn finish(mut self) -> Result<(Digest, Digest, u64), UnpackError> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(self.refused.take().unwrap_or_else(|| UnpackError::Decompress(error.to_string()))),
            }
        }
        let Layer { inner, mut compressed, .. } = self;
        // What follows the compressed stream belongs to the blob's digest.
        io::copy(&mut compressed, &mut io::sink()).map_err(|e| UnpackError::Decompress(e.to_string()))?;
        let length = inner.hasher.count();
        let blob = compressed.0.input.borrow().hasher.clone().finish();
        Ok((blob, inner.hasher.finish(), length))
    }

    fn check(&mut self) -> io::Result<()> {
        let (bytes, limits) = (self.inner.hasher.count(), &self.limits);
        let refused = if bytes > limits.bytes {
            UnpackError::TooLarge { limit: limits.bytes }
        } else if bytes > limits.ratio_from && bytes / limits.ratio.max(1) > self.consumed() {
            UnpackError::Bomb { ratio: limits.ratio }
        } else {
            return Ok(());
        };
        let error = io::Error::other(refused.to_string());
        self.refused = Some(refused);
        Err(error)
    }
}

impl<R: Read + 'static> Read for Layer<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.check()?;
        Ok(count)
    }
}

/// All frames of a zstd stream, skippable ones left out.
struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> Zstd<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MOST_WINDOW);
        Zstd { input, decoder, in_frame: false }
    }

    /// Goes to the next frame. False at the end.
    fn start_frame(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut (&mut self.input).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                self.in_frame = self.start_frame()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder.decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1)).map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(bytes: &[u8], limits: Limits) -> Result<Vec<u8>, UnpackError> {
        let mut layer = Layer::new(io::Cursor::new(bytes.to_vec()), limits)?;
        let mut out = Vec::new();
        match layer.read_to_end(&mut out) {
            Ok(_) => {}
            Err(error) => return Err(layer.refused.take().unwrap_or(UnpackError::Decompress(error.to_string()))),
        }
        let (blob, diff_id, length) = layer.finish()?;
        assert_eq!((blob, diff_id, length), (Digest::of(bytes), Digest::of(&out), out.len() as u64));
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn all_kinds_come_out_the_same() {
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let limits = Limits::default();
        assert_eq!(unpack(&bytes, limits).expect("plain"), bytes);
        assert_eq!(unpack(&gzip(&bytes), limits).expect("gzip"), bytes);
        assert_eq!(unpack(&zstd(&bytes), limits).expect("zstd"), bytes);
        assert_eq!(unpack(&[gzip(&bytes), gzip(b"more")].concat(), limits).expect("members"), [&bytes[..], b"more"].concat());
        let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"skip"].concat();
        let frames = [zstd(&bytes), skippable, zstd(b"more")].concat();
        assert_eq!(unpack(&frames, limits).expect("frames"), [&bytes[..], b"more"].concat());
        assert_eq!(unpack(b"", limits).expect("nothing"), b"");
    }

    #[test]
    fn other_compressions_and_damage_are_errors() {
        assert!(matches!(unpack(b"BZh91AY", Limits::default()), Err(UnpackError::Compression("bzip2"))));
        assert!(matches!(
            unpack(&[0xfd, b'7', b'z', b'X', b'Z', 0, 0], Limits::default()),
            Err(UnpackError::Compression("xz"))
        ));
        let bytes: Vec<u8> = (0..30_000_u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        for good in [gzip(&bytes), zstd(&bytes)] {
            assert!(unpack(&good[..good.len() / 2], Limits::default()).is_err());
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 0x55;
            bad[good.len() / 2 + 1] ^= 0xaa;
            // zstd's checksum is not looked at: the digest decides.
            assert!(unpack(&bad, Limits::default()).map_or(true, |out| out != bytes));
        }
    }

    #[test]
    fn bombs_are_refused() {
        let bomb = gzip(&vec![0; 40 << 20]);
        let limits = Limits { ratio: 100, ratio_from: 1 << 20, ..Limits::default() };
        assert!(matches!(unpack(&bomb, limits), Err(UnpackError::Bomb { ratio: 100 })));
        assert!(matches!(unpack(&zstd(&vec![0; 40 << 20]), limits), Err(UnpackError::Bomb { ratio: 100 })));
        let limits = Limits { bytes: 10 << 20, ..Limits::default() };
        assert!(matches!(unpack(&bomb, limits), Err(UnpackError::TooLarge { .. })));
    }
}
