//! maps, numa_maps, cmdline, environ, auxv. (smaps builds on it.)

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use platform::Prot;

use super::Subject;
use crate::Errno;
use crate::fs::{File, Path};
use crate::mm::{Detail, Mm, Places, Resident, SegmentFlags, Usage, VmaInfo};
use crate::step::Step;
use crate::task::Task;

/// Longest cmdline or environ shown, in bytes.
const STRINGS_MAX: u64 = 128 << 10;

/// A task's memory; None for a zombie.
pub(super) fn mm(task: &Task) -> Option<Arc<Mm>> {
    task.shared.read().as_ref().map(|shared| shared.mm.clone())
}

/// A process's memory; nothing for a zombie.
pub(super) fn usage(task: &Task) -> Usage {
    mm(task).map(|mm| mm.usage()).unwrap_or_default()
}

/// A mapping as the files show it.
pub(super) struct Shown {
    pub range: Range<u64>,
    rights: String,
    offset: u64,
    dev: u64,
    ino: u64,
    pub name: Vec<u8>,
    pub flags: SegmentFlags,
    pub prot: Prot,
    pub resident: Resident,
    /// Whether it maps a file.
    pub file: bool,
}

fn shown(vma: &VmaInfo, root: &Path) -> Shown {
    let mark = |on: bool, letter: char| if on { letter } else { '-' };
    let rights = [
        mark(vma.prot.contains(Prot::READ), 'r'),
        mark(vma.prot.contains(Prot::WRITE), 'w'),
        mark(vma.prot.contains(Prot::EXEC), 'x'),
        if vma.flags.contains(SegmentFlags::SHARED) { 's' } else { 'p' },
    ];
    let mut shown = Shown {
        range: vma.range.clone(),
        rights: rights.iter().collect(),
        offset: 0,
        dev: 0,
        ino: 0,
        name: Vec::new(),
        flags: vma.flags,
        prot: vma.prot,
        resident: vma.resident,
        file: vma.file.is_some(),
    };
    if vma.flags.contains(SegmentFlags::HEAP) {
        shown.name = b"[heap]".to_vec();
    } else if vma.flags.contains(SegmentFlags::STACK) {
        shown.name = b"[stack]".to_vec();
    }
    if let Some((mapped, offset)) = &vma.file
        && let Some(file) = mapped.file.downcast_ref::<File>()
    {
        shown.offset = *offset;
        shown.name = file.name_from(root);
        if let Step::Ready(Ok(metadata)) = file.inode().metadata() {
            (shown.dev, shown.ino) = (metadata.dev, metadata.ino);
        }
    }
    shown
}

/// A line of maps.
pub(super) fn line(shown: &Shown) -> String {
    let (major, minor) = crate::fs::dev::device_parts(shown.dev);
    let Range { start, end } = shown.range;
    let mut line =
        format!("{start:08x}-{end:08x} {} {:08x} {major:02x}:{minor:02x} {} ", shown.rights, shown.offset, shown.ino);
    if !shown.name.is_empty() {
        while line.len() < 73 {
            line.push(' ');
        }
        line.push_str(&String::from_utf8_lossy(&shown.name));
    }
    line.push('\n');
    line
}

/// The process's mappings and the platform's vDSO, by address.
pub(super) fn mappings(subject: &Subject, detail: Detail) -> Result<Vec<Shown>, Errno> {
    let Some(shared) = subject.task()?.shared.read().clone() else { return Ok(Vec::new()) };
    let root = shared.fs.root();
    let mut all: Vec<Shown> = shared.mm.vmas(detail).iter().map(|vma| shown(vma, &root)).collect();
    let layout = subject.shared.kernel.platform.layout();
    for (range, rights, name) in [(&layout.vvar, "r--p", "[vvar]"), (&layout.vdso, "r-xp", "[vdso]")] {
        if let Some(range) = range {
            let (rights, name) = (rights.to_string(), name.as_bytes().to_vec());
            all.push(Shown {
                range: range.clone(),
                rights,
                offset: 0,
                dev: 0,
                ino: 0,
                name,
                flags: SegmentFlags::empty(),
                prot: Prot::READ,
                resident: Resident::default(),
                file: false,
            });
        }
    }
    all.sort_by_key(|shown| shown.range.start);
    Ok(all)
}

pub(super) fn maps(subject: &Subject) -> Result<Vec<u8>, Errno> {
    Ok(mappings(subject, Detail::Places)?.iter().map(line).collect::<String>().into_bytes())
}

/// A name in numa_maps: blanks and the like as octal escapes.
fn numa_name(name: &[u8]) -> String {
    name.iter().fold(String::new(), |mut text, &byte| {
        let _ = if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') {
            write!(text, "\\{byte:03o}")
        } else {
            write!(text, "{}", byte as char)
        };
        text
    })
}

/// `numa(7)`: all memory is on the one node.
pub(super) fn numa_maps(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for shown in mappings(subject, Detail::Residency)? {
        let _ = write!(text, "{:08x} default", shown.range.start);
        if shown.file {
            let _ = write!(text, " file={}", numa_name(&shown.name));
        } else if shown.flags.contains(SegmentFlags::HEAP) {
            text.push_str(" heap");
        } else if shown.flags.contains(SegmentFlags::STACK) {
            text.push_str(" stack");
        }
        let pages = shown.resident.total() / 4096;
        let anonymous = shown.resident.anonymous / 4096;
        if anonymous > 0 {
            let _ = write!(text, " anon={anonymous} dirty={anonymous}");
        }
        if pages > anonymous {
            let _ = write!(text, " mapped={}", pages - anonymous);
        }
        if pages > 0 {
            let _ = write!(text, " N0={pages} kernelpagesize_kB=4");
        }
        text.push('\n');
    }
    Ok(text.into_bytes())
}

fn strings(subject: &Subject, part: fn(Places) -> Range<u64>) -> Result<Vec<u8>, Errno> {
    Ok(mm(&*subject.task()?).and_then(|mm| mm.strings(part, STRINGS_MAX)).unwrap_or_default())
}

/// The arguments. A program that has overwritten their end (setproctitle(3)) shows one string that may go on into the environment's place.
pub(super) fn cmdline(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut args = strings(subject, |places| places.args)?;
    if args.last().is_some_and(|&byte| byte != 0) {
        let more = strings(subject, |places| if places.env.start == places.args.end { places.env } else { 0..0 })?;
        args.extend(more);
        args.truncate(args.iter().position(|&byte| byte == 0).map_or(args.len(), |end| end + 1));
    }
    Ok(args)
}

pub(super) fn environ(subject: &Subject) -> Result<Vec<u8>, Errno> {
    strings(subject, |places| places.env)
}

pub(super) fn auxv(subject: &Subject) -> Result<Vec<u8>, Errno> {
    strings(subject, |places| places.auxv)
}
