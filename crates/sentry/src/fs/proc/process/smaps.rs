//! smaps and smaps_rollup: mappings with what of them is in memory.

use std::fmt::Write;

use platform::Prot;

use super::Subject;
use super::memory::{Shown, line, mappings};
use crate::Errno;
use crate::mm::{Detail, Resident, SegmentFlags};

/// `proc_pid_smaps(5)`. Whether others share a page is not known, so private ones count as the process's own; single pages
/// have no history, so all count as referenced.
pub(super) fn smaps(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    for shown in mappings(subject, Detail::Residency)? {
        text.push_str(&line(&shown));
        let size = shown.range.end - shown.range.start;
        for (name, bytes) in [("Size", size), ("KernelPageSize", 4096), ("MMUPageSize", 4096)] {
            row(&mut text, name, bytes);
        }
        let locked = if shown.flags.contains(SegmentFlags::LOCKED) { size } else { 0 };
        sums(&mut text, &shown.resident, Parts::One, locked);
        let eligible = u8::from(shown.flags.contains(SegmentFlags::HUGE) && size >= 2 << 20);
        let _ = write!(text, "THPeligible:           {eligible}\nVmFlags: {}\n", flags(&shown));
    }
    Ok(text.into_bytes())
}

/// All mappings in one.
pub(super) fn smaps_rollup(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let all = mappings(subject, Detail::Residency)?;
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Err(Errno::ESRCH) };
    let (mut resident, mut locked) = (Resident::default(), 0);
    for shown in &all {
        resident.add(&shown.resident);
        if shown.flags.contains(SegmentFlags::LOCKED) {
            locked += shown.range.end - shown.range.start;
        }
    }
    let mut text = format!("{:08x}-{:08x} ---p 00000000 00:00 0 ", first.range.start, last.range.end);
    while text.len() < 73 {
        text.push(' ');
    }
    text.push_str("[rollup]\n");
    sums(&mut text, &resident, Parts::Rollup, locked);
    Ok(text.into_bytes())
}

/// Whether shares by kind are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    One,
    Rollup,
}

fn row(text: &mut String, name: &str, bytes: u64) {
    let _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
}

fn sums(text: &mut String, resident: &Resident, parts: Parts, locked: u64) {
    let Resident { anonymous, file, shared } = *resident;
    let all = resident.total();
    row(text, "Rss", all);
    row(text, "Pss", all);
    row(text, "Pss_Dirty", anonymous + shared);
    if parts == Parts::Rollup {
        for (name, bytes) in [("Pss_Anon", anonymous), ("Pss_File", file), ("Pss_Shmem", shared)] {
            row(text, name, bytes);
        }
    }
    for (name, bytes) in [
        ("Shared_Clean", file),
        ("Shared_Dirty", shared),
        ("Private_Clean", 0),
        ("Private_Dirty", anonymous),
        ("Referenced", all),
        ("Anonymous", anonymous),
        ("KSM", 0),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", locked),
    ] {
        row(text, name, bytes);
    }
}

/// Two letters for each flag, as Linux orders them.
fn flags(shown: &Shown) -> String {
    let segment = |flag| shown.flags.contains(flag);
    let known = [
        (shown.prot.contains(Prot::READ), "rd"),
        (shown.prot.contains(Prot::WRITE), "wr"),
        (shown.prot.contains(Prot::EXEC), "ex"),
        (segment(SegmentFlags::SHARED), "sh"),
        (segment(SegmentFlags::MAY_READ), "mr"),
        (segment(SegmentFlags::MAY_WRITE), "mw"),
        (segment(SegmentFlags::MAY_EXEC), "me"),
        (segment(SegmentFlags::SHARED), "ms"),
        (segment(SegmentFlags::GROWS_DOWN), "gd"),
        (segment(SegmentFlags::LOCKED), "lo"),
        (segment(SegmentFlags::DONT_FORK), "dc"),
        (segment(SegmentFlags::NORESERVE), "nr"),
        (segment(SegmentFlags::WIPE_ON_FORK), "wf"),
        (segment(SegmentFlags::DONT_DUMP), "dd"),
        (segment(SegmentFlags::HUGE), "hg"),
    ];
    known.iter().filter(|(on, _)| *on).fold(String::new(), |text, (_, letters)| text + letters + " ")
}
