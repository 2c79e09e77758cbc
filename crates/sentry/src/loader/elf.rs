//! Parsing of ELF executables: from hostile bytes to checked numbers.

use std::ops::Range;

use platform::Prot;

use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down, page_up};

/// Bytes of an ELF-64 file header and of a program header.
pub(super) const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;

/// Most bytes of program headers (Linux: `ELF_MIN_ALIGN`-bound 64 KiB).
const PROGRAM_HEADERS_MAX: usize = 65536;

/// Highest address a segment may reach.
const TOP: u64 = 0x7fff_ffff_f000;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// The file header's part that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub position_independent: bool,
    pub entry: u64,
    pub phoff: u64,
    pub phnum: u16,
}

/// A `PT_LOAD` segment. All sums of its fields are below [`TOP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub vaddr: u64,
    pub offset: u64,
    pub file_size: u64,
    pub mem_size: u64,
    pub prot: Prot,
    pub align: u64,
}

/// What program headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub header: Header,
    pub loads: Vec<Load>,
    /// File range of the interpreter's name.
    pub interpreter: Option<Range<u64>>,
    pub stack_executable: bool,
    /// Virtual address of the program headers.
    pub phdr: u64,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

impl Header {
    /// None: not a program for this processor.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        // Magic, 64 bits, little-endian, version 1.
        if bytes.get(..7)? != b"\x7fELF\x02\x01\x01" {
            return None;
        }
        let kind = u16_at(bytes, 16)?;
        let header = Header {
            position_independent: kind == ET_DYN,
            entry: u64_at(bytes, 24)?,
            phoff: u64_at(bytes, 32)?,
            phnum: u16_at(bytes, 56)?,
        };
        let size = usize::from(header.phnum) * PROGRAM_HEADER_LEN;
        let good = matches!(kind, ET_EXEC | ET_DYN)
            && u16_at(bytes, 18)? == EM_X86_64
            && usize::from(u16_at(bytes, 54)?) == PROGRAM_HEADER_LEN
            && header.phnum > 0
            && size <= PROGRAM_HEADERS_MAX
            && header.phoff.checked_add(size as u64).is_some_and(|end| i64::try_from(end).is_ok());
        good.then_some(header)
    }

    /// Bytes of all program headers.
    pub fn program_headers_len(&self) -> usize {
        usize::from(self.phnum) * PROGRAM_HEADER_LEN
    }
}

impl Program {
    /// Reads the program headers.
    ///
    /// # Errors
    /// `ENOEXEC` for what cannot be, `EINVAL` for segments that cannot be mapped.
    pub fn parse(header: Header, table: &[u8]) -> Result<Program, Errno> {
        let mut program = Program { header, loads: Vec::new(), interpreter: None, stack_executable: false, phdr: 0 };
        let mut phdr = None;
        for entry in table.chunks_exact(PROGRAM_HEADER_LEN) {
            let read = || {
                Some((
                    u32_at(entry, 0)?,
                    u32_at(entry, 4)?,
                    [u64_at(entry, 8)?, u64_at(entry, 16)?, u64_at(entry, 32)?, u64_at(entry, 40)?, u64_at(entry, 48)?],
                ))
            };
            let (kind, flags, [offset, vaddr, file_size, mem_size, align]) = read().ok_or(Errno::ENOEXEC)?;
            match kind {
                PT_LOAD => {
                    let load = Load { vaddr, offset, file_size, mem_size, prot: prot(flags), align };
                    if mem_size > 0 {
                        program.loads.push(load.checked()?);
                    }
                }
                PT_INTERP if program.interpreter.is_none() => {
                    // Linux: at least "x\0", at most PATH_MAX.
                    let end =
                        offset.checked_add(file_size).filter(|_| (2..=4096).contains(&file_size)).ok_or(Errno::ENOEXEC)?;
                    program.interpreter = Some(offset..end);
                }
                PT_GNU_STACK => program.stack_executable = flags & 1 != 0,
                PT_PHDR => phdr = Some(vaddr),
                _ => {}
            }
        }
        if program.loads.is_empty() {
            return Err(Errno::ENOEXEC);
        }
        let holds = |load: &&Load| (load.offset..load.offset + load.file_size).contains(&header.phoff);
        let found = program.loads.iter().find(holds).map(|load| load.vaddr.wrapping_add(header.phoff - load.offset));
        program.phdr = found.or(phdr).unwrap_or(0);
        Ok(program)
    }

    /// Pages from the lowest to the highest segment, and the largest alignment asked for.
    pub fn span(&self) -> Result<(Range<u64>, u64), Errno> {
        let start = self.loads.iter().map(|load| page_down(load.vaddr)).min().unwrap_or(0);
        let end = self.loads.iter().map(|load| load.vaddr + load.mem_size).max().unwrap_or(0);
        let align = self.loads.iter().map(|load| load.align).filter(|align| align.is_power_of_two()).max().unwrap_or(0);
        // More than 1 GiB is nonsense, and would make no sense as an alignment of a random address.
        Ok((start..page_up(end).ok_or(Errno::EINVAL)?, align.clamp(PAGE_SIZE, 1 << 30)))
    }
}

impl Load {
    fn checked(self) -> Result<Load, Errno> {
        let fits = |at: u64, len: u64| at.checked_add(len).is_some_and(|end| end <= TOP);
        let congruent = self.vaddr % PAGE_SIZE == self.offset % PAGE_SIZE;
        let good = fits(self.vaddr, self.mem_size)
            && fits(self.offset, self.file_size)
            && self.file_size <= self.mem_size
            && (congruent || self.file_size == 0);
        if good { Ok(self) } else { Err(Errno::EINVAL) }
    }
}

fn prot(flags: u32) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::EXEC, flags & 1 != 0);
    prot.set(Prot::WRITE, flags & 2 != 0);
    prot.set(Prot::READ, flags & 4 != 0);
    prot
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Vec<u8>) {
        let mut header = vec![0; HEADER_LEN];
        header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        header[16] = 3;
        header[18] = 62;
        header[24..32].copy_from_slice(&0x1000u64.to_le_bytes());
        header[32..40].copy_from_slice(&64u64.to_le_bytes());
        header[54] = 56;
        header[56] = 2;
        let mut table = vec![0; 112];
        table[0] = 1;
        table[4] = 5;
        table[32..40].copy_from_slice(&0x2000u64.to_le_bytes());
        table[40..48].copy_from_slice(&0x2345u64.to_le_bytes());
        table[48..56].copy_from_slice(&0x1000u64.to_le_bytes());
        table[56..60].copy_from_slice(&PT_GNU_STACK.to_le_bytes());
        table[60] = 7;
        (header, table)
    }

    #[test]
    fn reads_a_small_program() {
        let (header, table) = sample();
        let header = Header::parse(&header).expect("header");
        let program = Program::parse(header, &table).expect("program");
        assert!(header.position_independent && program.stack_executable);
        assert_eq!(program.phdr, 64);
        assert_eq!(program.span(), Ok((0..0x3000, 0x1000)));
    }

    #[test]
    fn other_processors_are_refused() {
        let (mut header, _) = sample();
        for machine in [3u8, 40, 183] {
            header[18] = machine;
            assert_eq!(Header::parse(&header), None);
        }
        let (mut header, _) = sample();
        header[4] = 1;
        assert_eq!(Header::parse(&header), None);
    }

    #[test]
    fn truncated_and_flipped_bytes_never_panic() {
        let (header, table) = sample();
        for cut in 0..header.len() {
            assert_eq!(Header::parse(&header[..cut]).is_some(), cut >= 58);
        }
        let good = Header::parse(&header).expect("header");
        for at in 0..(header.len() + table.len()) * 8 {
            for second in (0..(header.len() + table.len()) * 8).step_by(37) {
                let (mut header, mut table) = (header.clone(), table.clone());
                for bit in [at, second] {
                    let byte = bit / 8;
                    let place = if byte < header.len() { &mut header[byte] } else { &mut table[byte - 64] };
                    *place ^= 1 << (bit % 8);
                }
                if let Ok(program) = Program::parse(Header::parse(&header).unwrap_or(good), &table) {
                    let _ = program.span();
                }
            }
        }
    }
}
