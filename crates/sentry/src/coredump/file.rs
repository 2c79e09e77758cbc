//! The file itself: which memory goes in, the ELF headers, and writing them.

use std::sync::Arc;

use platform::Prot;

use super::ThreadState;
use super::notes::{filter, notes};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::executor::yield_now;
use crate::fs::walk::AT_FDCWD;
use crate::fs::{File, FileKind, OpenFlags, WriteAt, open};
use crate::mm::{SegmentFlags, VmaInfo};
use crate::signal::SigInfo;
use crate::task::{Cx, TaskFlags};

/// Bytes copied at a time.
const PIECE: u64 = 256 << 10;

// Bits of /proc/PID/coredump_filter.
const ANONYMOUS_PRIVATE: u32 = 1;
const ANONYMOUS_SHARED: u32 = 2;
const FILE_PRIVATE: u32 = 4;
const FILE_SHARED: u32 = 8;
const ELF_HEADERS: u32 = 16;

const HEADER_LEN: u64 = 64;
const PROGRAM_HEADER_LEN: u64 = 56;
/// Most program headers whose number fits (`PN_XNUM`); more mappings are left out.
const HEADERS_MAX: usize = 0xfffe;

/// Where the file's bytes go.
struct Writer {
    file: Arc<File>,
    at: u64,
    /// `RLIMIT_CORE`: what lies beyond is left out.
    limit: u64,
}

impl Writer {
    async fn put(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let room = self.limit.saturating_sub(self.at).min(bytes.len() as u64);
        let mut rest = bytes.get(..room as usize).unwrap_or_default();
        while !rest.is_empty() {
            let written = self.file.ops.write(&self.file, WriteAt::Offset(self.at), &mut rest).await?;
            if written.bytes == 0 {
                return Err(Errno::EIO);
            }
            self.at += written.bytes as u64;
        }
        Ok(())
    }
}

impl Cx {
    /// Writes the core file.
    ///
    /// # Errors
    /// Why there is none; `EINTR` when the task was killed meanwhile.
    pub(super) async fn write_core(&mut self, info: &SigInfo, threads: &[ThreadState], limit: u64) -> Result<(), Errno> {
        let file = self.core_file().await?;
        let mut vmas = self.mm.vmas(crate::mm::Detail::Places);
        vmas.truncate(HEADERS_MAX - 1);
        let sizes: Vec<u64> = vmas.iter().map(|vma| self.dumped(vma)).collect();
        let notes = notes(self, info, threads, &vmas);
        let headers = headers(&vmas, &sizes, notes.len() as u64);
        let mut writer = Writer { file, at: 0, limit };
        writer.put(&headers).await?;
        writer.put(&notes).await?;
        for (vma, size) in vmas.iter().zip(sizes) {
            // Holes stay holes: the place of each mapping was fixed by the sizes.
            writer.at = writer.at.next_multiple_of(PAGE_SIZE);
            self.write_memory(&mut writer, vma.range.start, size).await?;
        }
        Ok(())
    }

    async fn write_memory(&self, writer: &mut Writer, start: u64, size: u64) -> Result<(), Errno> {
        let base = writer.at;
        let mut buffer = vec![0; PIECE as usize];
        for done in (0..size).step_by(PIECE as usize) {
            if self.task.flags().contains(TaskFlags::KILLED) {
                return Err(Errno::EINTR);
            }
            let len = PIECE.min(size - done);
            if self.mm.is_present(start + done, len) {
                let part = buffer.get_mut(..len as usize).unwrap_or_default();
                part.fill(0);
                // What cannot be read (past the end of a file) is zero.
                let _ = self.mm.read_forced(start + done, part);
                writer.at = base + done;
                writer.put(part).await?;
            }
            yield_now().await;
        }
        writer.at = base.saturating_add(size);
        if writer.at <= writer.limit && size > 0 && !self.mm.is_present(start + size - PAGE_SIZE, PAGE_SIZE) {
            // So that the file is as long as its headers say.
            writer.at -= 1;
            writer.put(&[0]).await?;
        }
        Ok(())
    }

    /// How much of a mapping goes in (`vma_dump_size`).
    fn dumped(&self, vma: &VmaInfo) -> u64 {
        if vma.flags.contains(SegmentFlags::DONT_DUMP) {
            return 0;
        }
        let len = vma.range.end - vma.range.start;
        let wants = |bit: u32| filter(self) & bit != 0;
        let shared = vma.flags.contains(SegmentFlags::SHARED);
        let whole = match (&vma.file, shared) {
            (None, false) => wants(ANONYMOUS_PRIVATE),
            (None, true) => wants(ANONYMOUS_SHARED),
            (Some(_), true) => wants(FILE_SHARED),
            // Pages of its own count as anonymous.
            (Some(_), false) => wants(FILE_PRIVATE) || wants(ANONYMOUS_PRIVATE) && vma.unbroken < vma.backed,
        };
        if whole {
            return len;
        }
        let mut magic = [0; 4];
        let begins_elf = wants(ELF_HEADERS)
            && vma.file.as_ref().is_some_and(|(_, offset)| *offset == 0)
            && vma.prot.contains(Prot::READ)
            && self.mm.read_forced(vma.range.start, &mut magic) == Ok(4)
            && &magic == b"\x7fELF";
        if begins_elf { PAGE_SIZE } else { 0 }
    }

    /// The new file: a plain one, its own, with one name.
    async fn core_file(&self) -> Result<Arc<File>, Errno> {
        let flags = OpenFlags::CREAT | OpenFlags::RDWR | OpenFlags::NOFOLLOW | OpenFlags::LARGEFILE;
        let file = open::open(self, AT_FDCWD, b"core", flags, 0o600).await.map_err(|_| Errno::EACCES)?;
        let metadata = file.inode().metadata().await?;
        if metadata.kind != FileKind::Regular || metadata.uid != self.creds().fsuid || metadata.nlink != 1 {
            return Err(Errno::EACCES);
        }
        let empty = crate::fs::SetAttr { size: Some(0), ..Default::default() };
        file.inode().set_attr(empty).await?;
        Ok(file)
    }
}

/// The ELF header and the program headers; the notes follow, then the memory from the next page on.
fn headers(vmas: &[VmaInfo], sizes: &[u64], notes_len: u64) -> Vec<u8> {
    let count = vmas.len() as u64 + 1;
    let notes_at = HEADER_LEN + count * PROGRAM_HEADER_LEN;
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    let half = |bytes: &mut Vec<u8>, value: u16| bytes.extend(value.to_le_bytes());
    let word = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    let long = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    // ET_CORE, EM_X86_64, EV_CURRENT.
    half(&mut bytes, 4);
    half(&mut bytes, 62);
    word(&mut bytes, 1);
    for value in [0, HEADER_LEN, 0] {
        long(&mut bytes, value);
    }
    word(&mut bytes, 0);
    for value in [HEADER_LEN as u16, PROGRAM_HEADER_LEN as u16, count as u16, 0, 0, 0] {
        half(&mut bytes, value);
    }
    let mut program_header = |kind: u32, flags: u32, numbers: [u64; 6]| {
        word(&mut bytes, kind);
        word(&mut bytes, flags);
        for number in numbers {
            long(&mut bytes, number);
        }
    };
    // PT_NOTE, PT_LOAD: offset, address, physical address, size in the file, in memory, alignment.
    program_header(4, 0, [notes_at, 0, 0, notes_len, 0, 4]);
    let mut at = (notes_at + notes_len).next_multiple_of(PAGE_SIZE);
    for (vma, &size) in vmas.iter().zip(sizes) {
        let rights = [(Prot::READ, 4), (Prot::WRITE, 2), (Prot::EXEC, 1)];
        let flags = rights.iter().filter(|(right, _)| vma.prot.contains(*right)).map(|(_, bit)| bit).sum();
        program_header(1, flags, [at, vma.range.start, 0, size, vma.range.end - vma.range.start, PAGE_SIZE]);
        at += size;
    }
    bytes
}
