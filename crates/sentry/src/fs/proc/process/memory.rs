//! maps, smaps, statm, cmdline, environ, auxv.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use platform::Prot;

use super::Subject;
use crate::Errno;
use crate::fs::{File, Path};
use crate::mm::{Mm, Places, SegmentFlags, Usage, VmaInfo};
use crate::step::Step;
use crate::task::Task;

/// Longest cmdline or environ shown, in bytes.
const STRINGS_MAX: u64 = 128 << 10;

fn mm(subject: &Subject) -> Result<Option<Arc<Mm>>, Errno> {
    Ok(subject.task()?.shared.read().as_ref().map(|shared| shared.mm.clone()))
}

/// A process's memory; nothing for a zombie.
pub(super) fn usage(task: &Task) -> Usage {
    let mm = task.shared.read().as_ref().map(|shared| shared.mm.clone());
    mm.map(|mm| mm.usage()).unwrap_or_default()
}

/// A line of maps, without its range.
struct Shown {
    range: Range<u64>,
    rights: String,
    offset: u64,
    dev: u64,
    ino: u64,
    name: Vec<u8>,
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

fn line(shown: &Shown) -> String {
    let (major, minor) = crate::fs::dev::device_parts(shown.dev);
    let Range { start, end } = shown.range;
    let mut line = format!(
        "{start:08x}-{end:08x} {} {:08x} {major:02x}:{minor:02x} {} ",
        shown.rights, shown.offset, shown.ino
    );
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
fn mappings(subject: &Subject) -> Result<Vec<Shown>, Errno> {
    let Some(shared) = subject.task()?.shared.read().clone() else { return Ok(Vec::new()) };
    let root = shared.fs.root();
    let mut all: Vec<Shown> = shared.mm.vmas().iter().map(|vma| shown(vma, &root)).collect();
    let layout = subject.shared.kernel.platform.layout();
    for (range, rights, name) in [(&layout.vvar, "r--p", "[vvar]"), (&layout.vdso, "r-xp", "[vdso]")] {
        if let Some(range) = range {
            let (rights, name) = (rights.to_string(), name.as_bytes().to_vec());
            all.push(Shown { range: range.clone(), rights, offset: 0, dev: 0, ino: 0, name });
        }
    }
    all.sort_by_key(|shown| shown.range.start);
    Ok(all)
}

pub(super) fn maps(subject: &Subject) -> Result<Vec<u8>, Errno> {
    Ok(mappings(subject)?.iter().map(line).collect::<String>().into_bytes())
}

/// With the lines that tools add up; only sizes are known for each mapping.
pub(super) fn smaps(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for shown in mappings(subject)? {
        text.push_str(&line(&shown));
        let kib = (shown.range.end - shown.range.start) / 1024;
        let _ = write!(text, "Size:           {kib:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n");
        for label in ["Rss", "Pss", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty", "Swap"] {
            let _ = writeln!(text, "{:<16}{:>8} kB", format!("{label}:"), 0);
        }
    }
    Ok(text.into_bytes())
}

pub(super) fn statm(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let usage = usage(&*subject.task()?);
    let pages = |bytes: u64| bytes / 4096;
    let shared = usage.resident_file + usage.resident_shared;
    let text = format!(
        "{} {} {} {} 0 {} 0\n",
        pages(usage.total),
        pages(usage.resident_anonymous + shared),
        pages(shared),
        pages(usage.code),
        pages(usage.data + usage.stack),
    );
    Ok(text.into_bytes())
}

fn strings(subject: &Subject, part: fn(Places) -> Range<u64>) -> Result<Vec<u8>, Errno> {
    Ok(mm(subject)?.and_then(|mm| mm.strings(part, STRINGS_MAX)).unwrap_or_default())
}

pub(super) fn auxv(subject: &Subject) -> Result<Vec<u8>, Errno> {
    Ok(mm(subject)?.map(|mm| mm.auxiliary_vector()).unwrap_or_default())
}

pub(super) fn cmdline(subject: &Subject) -> Result<Vec<u8>, Errno> {
    strings(subject, |places| places.args)
}

pub(super) fn environ(subject: &Subject) -> Result<Vec<u8>, Errno> {
    strings(subject, |places| places.env)
}
