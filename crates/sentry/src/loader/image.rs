//! Mapping a program's segments.

use std::ops::Range;
use std::sync::Arc;

use platform::Prot;

use super::elf::{Load, Program};
use crate::Errno;
use crate::abi::{PAGE_SIZE, page_down, page_up};
use crate::fs::File;
use crate::mm::{MapRequest, MappedFile, Mm, Placement, Randomisation};

/// Where a position-independent program goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// The place of programs.
    Program,
    /// Among the mappings (the dynamic linker).
    Mappings,
}

/// A mapped program.
pub(super) struct Loaded {
    /// What was added to the addresses in the file.
    pub base: u64,
    pub entry: u64,
    pub phdr: u64,
    pub phnum: u64,
    /// One past the last byte of data and bss.
    pub end: u64,
}

/// Maps all segments.
///
/// # Errors
/// `ENOMEM`, `EINVAL`, `EACCES` (a file that cannot be mapped), `ENOEXEC`.
pub(super) fn map(mm: &Mm, file: &Arc<File>, program: &Program, place: Where) -> Result<Loaded, Errno> {
    let mappable = file.ops.mappable().map_err(|_| Errno::EACCES)?;
    let mapped = Arc::new(MappedFile { mappable, file: file.clone() });
    let (span, align) = program.span()?;
    let base = base(mm, program, &span, align, place)?;
    for load in &program.loads {
        map_load(mm, &mapped, load, base)?;
    }
    let add = |addr: u64| addr.wrapping_add(base);
    let loaded = Loaded {
        base,
        entry: add(program.header.entry),
        phdr: add(program.phdr),
        phnum: program.header.phnum.into(),
        end: add(program.loads.iter().map(|load| load.vaddr + load.mem_size).max().unwrap_or(0)),
    };
    if place == Where::Program {
        note_places(mm, program, base);
    }
    Ok(loaded)
}

/// What is added to a position-independent program's addresses.
fn base(mm: &Mm, program: &Program, span: &Range<u64>, align: u64, place: Where) -> Result<u64, Errno> {
    if !program.header.position_independent {
        return Ok(0);
    }
    let at = match place {
        Where::Program => mm.places().program_base / align * align,
        Where::Mappings => {
            // A reservation finds the hole; the segments go over it.
            let len = (span.end - span.start).checked_add(align - PAGE_SIZE).ok_or(Errno::ENOMEM)?;
            let start = mm.map(&MapRequest::anonymous(Placement::Hint(0), len, Prot::empty()))?;
            mm.unmap(start, len)?;
            start.next_multiple_of(align)
        }
    };
    Ok(at.wrapping_sub(span.start))
}

fn map_load(mm: &Mm, file: &Arc<MappedFile>, load: &Load, base: u64) -> Result<(), Errno> {
    let vaddr = load.vaddr.wrapping_add(base);
    let skip = vaddr % PAGE_SIZE;
    let file_end = vaddr.checked_add(load.file_size).ok_or(Errno::EINVAL)?;
    let end = vaddr.checked_add(load.mem_size).ok_or(Errno::EINVAL)?;
    if load.file_size > 0 {
        mm.map(&MapRequest {
            file: Some((file.clone(), load.offset - skip)),
            ..MapRequest::anonymous(Placement::Fixed(page_down(vaddr)), load.file_size + skip, load.prot)
        })?;
    }
    if load.mem_size == load.file_size {
        return Ok(());
    }
    // The rest of the file's last page is zeroed (where it can be written), further pages are new.
    let zeros = if load.file_size > 0 { page_up(file_end).ok_or(Errno::EINVAL)? } else { page_down(vaddr) };
    if load.file_size > 0 && load.prot.contains(Prot::WRITE) && file_end < zeros {
        mm.zero(file_end, zeros.min(end) - file_end)?;
        if end < zeros {
            mm.zero(end, zeros - end)?;
        }
    }
    let end = page_up(end).ok_or(Errno::EINVAL)?;
    if zeros < end {
        mm.map(&MapRequest::anonymous(Placement::Fixed(zeros), end - zeros, load.prot))?;
    }
    Ok(())
}

/// The numbers of `mm_struct` for /proc.
fn note_places(mm: &Mm, program: &Program, base: u64) {
    let part = |wanted: fn(&&Load) -> bool| {
        let loads = || program.loads.iter().filter(wanted);
        let start = loads().map(|load| load.vaddr.wrapping_add(base)).min().unwrap_or(0);
        let end = loads().map(|load| load.vaddr.wrapping_add(base).wrapping_add(load.file_size)).max().unwrap_or(0);
        start..end.max(start)
    };
    mm.set_places(|places| {
        places.code = part(|load| load.prot.contains(Prot::EXEC));
        places.data = part(|load| load.prot.contains(Prot::WRITE));
    });
}

/// The heap begins a random distance after the program (`arch_randomize_brk`: up to 32 MiB).
pub(super) fn set_break(mm: &Mm, main: &Loaded, randomisation: Randomisation) -> Result<(), Errno> {
    let shift = (u64::from(u16::from_le_bytes(randomisation.dice()?)) & 0x1fff) * PAGE_SIZE;
    let start = page_up(main.end).and_then(|end| end.checked_add(shift)).ok_or(Errno::ENOMEM)?;
    mm.set_places(|places| {
        places.brk_start = start;
        places.brk = start;
    });
    Ok(())
}
