//! SHA-256 digests, the names of everything in an image.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// `sha256:…`
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    #[error("{0:?} is no digest (sha256: and 64 hexadecimal digits)")]
    Form(String),
    #[error("digest {0:?}: only sha256 is supported")]
    Algorithm(String),
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Without the algorithm; a safe file name.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Enough of it for people.
    pub fn short(&self) -> String {
        self.hex().chars().take(12).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let form = || DigestError::Form(text.chars().take(200).collect());
        let (algorithm, hex) = text.split_once(':').ok_or_else(form)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm(text.chars().take(200).collect()));
        }
        let lower = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex.len() != 64 || !lower {
            return Err(form());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| form())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| form())?;
        }
        Ok(Digest(bytes))
    }
}

/// Computes the digest of a stream as it goes by.
#[derive(Clone, Default)]
pub struct Hasher {
    state: Sha256,
    count: u64,
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.count += bytes.len() as u64;
    }

    /// How many bytes went by.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

/// A reader with a [`Hasher`] beside it.
pub struct Hashing<R> {
    pub inner: R,
    pub hasher: Hasher,
}

impl<R> Hashing<R> {
    pub fn new(inner: R) -> Hashing<R> {
        Hashing { inner, hasher: Hasher::default() }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_parsed_strictly() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.parse::<Digest>().expect("digest"), Digest::of(b""));
        assert_eq!(Digest::of(b"").to_string(), empty);
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:00",
            &empty.to_uppercase(),
            &format!("{empty}0"),
            &empty.replace("e3", "é"),
            "sha256:../../etc/passwd",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(matches!("sha512:00".parse::<Digest>(), Err(DigestError::Algorithm(_))));
    }
}
