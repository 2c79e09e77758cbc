//! A blob: bytes in a file, with the digest they must have.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::digest::Digest;
use crate::error::{Error, Result};

/// Part of a file, or all of it.
#[derive(Debug)]
pub struct Blob {
    pub file: File,
    pub offset: u64,
    pub length: u64,
    /// None where the format has none (docker's archives).
    pub digest: Option<Digest>,
}

impl Blob {
    /// All of a small blob, checked.
    ///
    /// # Errors
    /// It is larger than `most`, cannot be read, or is not what its digest says.
    pub fn read(&self, what: &str, most: u64) -> Result<Vec<u8>> {
        if self.length > most {
            return Err(Error::TooLarge { what: what.into(), size: self.length, most });
        }
        let mut bytes = Vec::new();
        self.reader()
            .and_then(|mut reader| reader.read_to_end(&mut bytes))
            .map_err(Error::host(format!("cannot read {what}")))?;
        if bytes.len() as u64 != self.length {
            return Err(Error::Size { what: what.into(), expected: self.length, actual: bytes.len() as u64 });
        }
        match self.digest {
            Some(expected) if Digest::of(&bytes) != expected => {
                Err(Error::Digest { what: what.into(), expected, actual: Digest::of(&bytes) })
            }
            _ => Ok(bytes),
        }
    }

    /// A reader of it. It shares the file's position.
    ///
    /// # Errors
    /// The host's.
    pub fn reader(&self) -> io::Result<io::Take<File>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.length))
    }
}
