//! Reading tar archives that nobody vouches for.
//!
//! The `tar` crate decodes header blocks; how blocks follow each other is here, because that is where hostile archives act: the names and
//! attributes before a member (GNU long names, pax records) are bounded before they are read, pax values may hold any byte (a file's
//! capabilities do), and sparse files of all formats become one map that is checked once. Like Go's reader, which engines use: a member that is
//! header only (links, directories, nodes) has no data whatever its size says.

mod pax;
mod sparse;

use std::io::{self, Read};

use tar::{EntryType, Header};

use self::pax::Records;
pub use self::sparse::Segment;

const BLOCK: u64 = 512;
/// Most bytes of names and attributes before one member.
const MOST_META: u64 = 1 << 20;
/// Linux's PATH_MAX without its NUL.
const MOST_PATH: usize = 4095;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("not a tar archive, or damaged: a header's checksum is wrong")]
    Checksum,
    #[error("a header's {0} is malformed")]
    Field(&'static str),
    #[error("the names and attributes of one member are larger than 1 MiB")]
    MetaTooLarge,
    #[error("{0} describes a member that does not follow")]
    NoMember(&'static str),
    #[error("a member's {0} is given twice")]
    Twice(&'static str),
    #[error("malformed pax record")]
    Pax,
    #[error("member {name:?} has the unsupported type {kind:?}")]
    Kind { name: String, kind: char },
    #[error("a name is longer than 4095 bytes or contains a NUL")]
    Name,
    #[error("malformed map of a sparse file")]
    Sparse,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    /// Character or block.
    Device,
}

/// A modification time: seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// One member, without its data.
#[derive(Debug, Clone)]
pub struct Member {
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Of links.
    pub target: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: Time,
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Where the data in the archive belongs; one segment for ordinary files.
    pub segments: Vec<Segment>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads members one after the other.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Bytes read of the whole archive.
    position: u64,
    /// What is left of the current member's data.
    data: u64,
    /// And of the padding after it.
    padding: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Reader<R> {
        Reader { input, position: 0, data: 0, padding: 0, ended: false }
    }

    /// Where in the archive the next read is: after [`next_member`](Reader::next_member), the member's data.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the current member's data not read yet.
    pub fn left(&self) -> u64 {
        self.data
    }

    pub fn into_inner(self) -> R {
        self.input
    }

    /// The input, to seek in. What is skipped must be said by [`skipped`](Reader::skipped).
    pub fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// The current member's data and padding were skipped by seeking.
    pub fn skipped(&mut self) {
        self.position += self.data + self.padding;
        (self.data, self.padding) = (0, 0);
    }

    /// How far [`skipped`](Reader::skipped) jumps.
    pub fn to_skip(&self) -> u64 {
        self.data + self.padding
    }

    /// The next member; what is left of the one before is skipped.
    ///
    /// # Errors
    /// The archive is damaged or hostile, or cannot be read.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        self.skip_data()?;
        let mut meta = Meta::default();
        loop {
            let Some(header) = self.header()? else {
                return match meta.pending() {
                    Some(what) => Err(ArchiveError::NoMember(what)),
                    None => Ok(None),
                };
            };
            let size = field(&header.as_old().size, header.entry_size(), "size")?;
            match header.entry_type() {
                EntryType::GNULongName => set(&mut meta.path, self.meta(size, &mut meta.bytes)?, "long name")?,
                EntryType::GNULongLink => set(&mut meta.target, self.meta(size, &mut meta.bytes)?, "long link name")?,
                EntryType::XHeader => {
                    let records = self.meta(size, &mut meta.bytes)?;
                    set(&mut meta.records, Records::parse(&records)?, "pax header")?;
                }
                // Global records hold comments; no engine applies others.
                EntryType::XGlobalHeader => drop(self.meta(size, &mut meta.bytes)?),
                _ => return self.member(&header, size, meta).map(Some),
            }
        }
    }

    /// Reads of the current member's data.
    ///
    /// # Errors
    /// The archive is cut off, or cannot be read.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let most = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = loop {
            match self.input.read(buffer.get_mut(..most).unwrap_or_default()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                count => break count?,
            }
        };
        if count == 0 {
            return Err(ArchiveError::Truncated("a member's data"));
        }
        self.data -= count as u64;
        self.position += count as u64;
        Ok(count)
    }

    fn member(&mut self, header: &Header, size: u64, meta: Meta) -> Result<Member, ArchiveError> {
        let records = meta.records.unwrap_or_default();
        let path = records.path.clone().or(meta.path.map(until_nul)).unwrap_or_else(|| header.path_bytes().into_owned());
        let target = records.target.clone().or(meta.target.map(until_nul));
        let target = target.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        if [&path, &target].iter().any(|name| name.len() > MOST_PATH || name.contains(&0)) {
            return Err(ArchiveError::Name);
        }
        let size = records.size.unwrap_or(size);
        let entry_type = header.entry_type();
        let kind = match entry_type {
            // Before POSIX, a directory was a file whose name ends in a slash.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            other => {
                let name = String::from_utf8_lossy(&path).into_owned();
                return Err(ArchiveError::Kind { name, kind: char::from(other.as_byte()) });
            }
        };
        let mut member = Member {
            kind,
            target,
            mode: field(&header.as_old().mode, header.mode(), "mode")? & 0o7777,
            uid: records.uid.map_or_else(|| field(&header.as_old().uid, header.uid(), "uid"), Ok)?,
            gid: records.gid.map_or_else(|| field(&header.as_old().gid, header.gid(), "gid"), Ok)?,
            mtime: match records.mtime {
                Some(time) => time,
                None => Time { seconds: signed(field(&header.as_old().mtime, header.mtime(), "mtime")?), nanoseconds: 0 },
            },
            size: 0,
            segments: Vec::new(),
            xattrs: records.xattrs.clone(),
            path,
        };
        if kind == Kind::File {
            let end = size.checked_next_multiple_of(BLOCK).and_then(|padded| self.position.checked_add(padded));
            end.ok_or(ArchiveError::Field("size"))?;
            self.data = size;
            self.padding = size.next_multiple_of(BLOCK) - size;
            (member.segments, member.size) = match (entry_type, &records.sparse) {
                (EntryType::GNUSparse, _) => self.old_gnu_sparse(header, size)?,
                (_, Some(sparse)) => {
                    if let Some(name) = &sparse.name {
                        member.path.clone_from(name);
                    }
                    self.pax_sparse(sparse)?
                }
                _ => (vec![Segment { offset: 0, length: size }], size),
            };
        }
        Ok(member)
    }

    /// A block; None at the end of the archive (a block of zeros, or of the input).
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let got = fill(&mut self.input, header.as_mut_bytes())?;
        self.position += got as u64;
        if got == 0 || (got == BLOCK as usize && header.as_bytes().iter().all(|byte| *byte == 0)) {
            self.ended = true;
            return Ok(None);
        }
        if got < BLOCK as usize {
            return Err(ArchiveError::Truncated("a header"));
        }
        // The checksum field itself counts as spaces.
        let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let (before, after) =
            (header.as_bytes().get(..148).unwrap_or_default(), header.as_bytes().get(156..).unwrap_or_default());
        if header.cksum().ok() != Some(sum(before) + sum(after) + 8 * u32::from(b' ')) {
            return Err(ArchiveError::Checksum);
        }
        Ok(Some(header))
    }

    /// The data of a header that describes the next member.
    fn meta(&mut self, size: u64, used: &mut u64) -> Result<Vec<u8>, ArchiveError> {
        *used = used.saturating_add(size).saturating_add(BLOCK);
        if *used > MOST_META {
            return Err(ArchiveError::MetaTooLarge);
        }
        let mut bytes = vec![0; size.next_multiple_of(BLOCK) as usize];
        let got = fill(&mut self.input, &mut bytes)?;
        self.position += got as u64;
        if got < bytes.len() {
            return Err(ArchiveError::Truncated("a member's name or attributes"));
        }
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    fn skip_data(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0; 8192];
        while self.data > 0 {
            self.read_data(&mut buffer)?;
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        let got = fill(&mut self.input, buffer.get_mut(..padding).unwrap_or_default())?;
        self.position += got as u64;
        // Some writers leave out the padding at the very end.
        self.ended |= got < padding;
        Ok(())
    }
}

/// What comes before a member.
#[derive(Debug, Default)]
struct Meta {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Option<Records>,
    bytes: u64,
}

impl Meta {
    fn pending(&self) -> Option<&'static str> {
        let all = [
            (self.path.is_some(), "a long name"),
            (self.target.is_some(), "a long link name"),
            (self.records.is_some(), "a pax header"),
        ];
        all.into_iter().find(|(there, _)| *there).map(|(_, what)| what)
    }
}

/// A number of a header; an empty field is 0, as in Go's reader.
fn field<T: Default>(raw: &[u8], parsed: io::Result<T>, name: &'static str) -> Result<T, ArchiveError> {
    match parsed {
        Ok(value) => Ok(value),
        Err(_) if raw.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(T::default()),
        Err(_) => Err(ArchiveError::Field(name)),
    }
}

fn set<T>(slot: &mut Option<T>, value: T, what: &'static str) -> Result<(), ArchiveError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ArchiveError::Twice(what)),
    }
}

/// Fills the buffer as far as the input goes.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(buffer.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
