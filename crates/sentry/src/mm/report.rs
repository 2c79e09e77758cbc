//! What /proc shows of an address space.

use std::ops::Range;

use hostcall::io::{Seek, seek_data};
use platform::Prot;

use super::segment::{Backing, MappedFile, Segment, SegmentFlags};
use super::{Mm, Places};
use crate::abi::PAGE_SIZE;
use std::sync::Arc;

/// Bytes whose pages are looked at one by one (256 KiB of answers).
const ONE_LOOK: u64 = 1 << 30;
/// Most pieces of a larger range that are looked at.
const MOST_LOOKS: usize = 100_000;

/// One line of /proc/PID/maps.
#[derive(Clone)]
pub struct VmaInfo {
    pub range: Range<u64>,
    pub prot: Prot,
    pub flags: SegmentFlags,
    /// The file and the offset of the first byte in it.
    pub file: Option<(Arc<MappedFile>, u64)>,
    /// Bytes with memory (or a host file) behind them; pages that were never touched count too.
    pub backed: u64,
    /// Bytes of private pages that are shared copy-on-write with another process or with a file.
    pub unbroken: u64,
    /// Bytes in memory, if asked for.
    pub resident: Resident,
}

/// What of a mapping is in memory, in bytes: private pages of its own, and pages of its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    pub anonymous: u64,
    pub file: u64,
    pub shared: u64,
}

impl Resident {
    pub fn total(&self) -> u64 {
        self.anonymous + self.file + self.shared
    }

    pub fn add(&mut self, other: &Resident) {
        self.anonymous += other.anonymous;
        self.file += other.file;
        self.shared += other.shared;
    }
}

/// How much is asked about mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Places,
    /// What is in memory too, which asks the host.
    Residency,
}

/// Mappings that one look asks the host about; those beyond count as present.
const ASK_MAX: u64 = 1024;

/// Sizes of an address space, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    pub peak: u64,
    pub data: u64,
    pub stack: u64,
    pub code: u64,
    pub libraries: u64,
    pub locked: u64,
    /// An upper estimate of what is in memory: anonymous, file, shared.
    pub resident_anonymous: u64,
    pub resident_file: u64,
    pub resident_shared: u64,
    pub segments: u64,
}

impl Usage {
    /// What is in memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        (self.resident_anonymous + self.resident_file + self.resident_shared) / 1024
    }
}

impl Mm {
    /// The file that is mapped at an address.
    pub fn file_at(&self, addr: u64) -> Option<Arc<MappedFile>> {
        let state = self.state.read();
        let (_, segment) = state.map.find(addr)?;
        segment.file.as_ref().map(|(file, _)| file.clone())
    }

    /// The mappings, by address.
    pub fn vmas(&self, detail: Detail) -> Vec<VmaInfo> {
        let mut asked = 0;
        let state = self.state.read();
        let mut vmas: Vec<VmaInfo> = Vec::new();
        let mut last: Option<(u64, super::segment::Segment)> = None;
        for (start, segment) in state.map.iter() {
            if segment.flags.contains(SegmentFlags::SLOTS) {
                continue;
            }
            let len = segment.end - start;
            let backed = if segment.backed() { len } else { 0 };
            let unbroken = if segment.cow() { len } else { 0 };
            let resident = match detail {
                Detail::Places => Resident::default(),
                Detail::Residency => self.residency(start, segment, &mut asked),
            };
            let joins = last.as_ref().is_some_and(|(from, before)| before.end == start && segment.same_vma(*from, before));
            match vmas.last_mut() {
                Some(vma) if joins => {
                    vma.range.end = segment.end;
                    vma.backed += backed;
                    vma.unbroken += unbroken;
                    vma.resident.add(&resident);
                }
                _ => vmas.push(VmaInfo {
                    range: start..segment.end,
                    prot: segment.prot,
                    flags: segment.flags,
                    file: segment.file.clone(),
                    backed,
                    unbroken,
                    resident,
                }),
            }
            last = Some((start, segment.clone()));
        }
        vmas
    }

    /// A copy of the corners of the address space.
    pub fn places(&self) -> Places {
        self.state.read().places.clone()
    }

    /// The bytes of a part of the stack that [`Places`] names (arguments, environment), at most `max` of them; None if the guest has unmapped
    /// it.
    pub fn strings(&self, part: fn(Places) -> Range<u64>, max: u64) -> Option<Vec<u8>> {
        let range = part(self.places());
        let mut bytes = vec![0; range.end.saturating_sub(range.start).min(max) as usize];
        self.read(range.start, &mut bytes).ok().map(|()| bytes)
    }

    /// Changes the corners (the loader; `prctl(PR_SET_MM)`).
    pub fn set_places(&self, change: impl FnOnce(&mut Places)) {
        change(&mut self.state.write().places);
    }

    /// Bytes of private writable mappings, stack apart (`RLIMIT_DATA`).
    pub fn data_bytes(&self) -> u64 {
        let counts = |segment: &super::segment::Segment| {
            segment.prot.contains(Prot::WRITE) && !segment.shared() && !segment.flags.contains(SegmentFlags::GROWS_DOWN)
        };
        self.state.read().map.iter().filter(|(_, segment)| counts(segment)).map(|(start, segment)| segment.end - start).sum()
    }

    /// Bytes that are locked in memory.
    pub fn locked_bytes(&self) -> u64 {
        self.state.read().locked_bytes
    }

    /// Sizes, for /proc/PID/status and statm. Which pages are present is asked of the host for pages of the memory file (of at most 1,024
    /// mappings); others are counted as a whole.
    pub fn usage(&self) -> Usage {
        let state = self.state.read();
        let mut usage = Usage {
            total: state.map.bytes(),
            peak: state.peak_bytes.max(state.map.bytes()),
            locked: state.locked_bytes,
            segments: state.map.len() as u64,
            code: state.places.code.end - state.places.code.start,
            ..Usage::default()
        };
        let mut asked = 0;
        for (start, segment) in state.map.iter() {
            let len = segment.end - start;
            if segment.flags.contains(SegmentFlags::STACK) {
                usage.stack += len;
            } else if segment.prot.contains(Prot::WRITE) && !segment.shared() {
                usage.data += len;
            } else if segment.prot.contains(Prot::EXEC) && segment.file.is_some() {
                usage.libraries += len;
            }
            let resident = self.residency(start, segment, &mut asked);
            usage.resident_anonymous += resident.anonymous;
            usage.resident_file += resident.file;
            usage.resident_shared += resident.shared;
        }
        usage.libraries = usage.libraries.saturating_sub(usage.code);
        usage
    }

    /// The auxiliary vector as it stands on the stack, where the loader has put it: after the environment's pointers.
    pub fn auxiliary_vector(&self) -> Vec<u8> {
        /// Most entries that are looked at.
        const ENTRIES_MAX: usize = 64;
        let places = self.places();
        let mut vector = Vec::new();
        let word = |at: u64| self.read_val::<u64>(at).unwrap_or(0);
        // Past the arguments and their null pointer, then past the environment and its.
        let mut at = places.stack_start.saturating_add(word(places.stack_start).saturating_add(2).saturating_mul(8));
        let end = at.saturating_add(places.env.end.saturating_sub(places.env.start).saturating_mul(8));
        while at < end && word(at) != 0 {
            at += 8;
        }
        at = at.saturating_add(8);
        for _ in 0..ENTRIES_MAX {
            let (kind, value) = (word(at), word(at.saturating_add(8)));
            vector.extend(kind.to_le_bytes());
            vector.extend(value.to_le_bytes());
            if kind == 0 {
                break;
            }
            at = at.saturating_add(16);
        }
        vector
    }

    /// Whether a part of the range may hold something other than zeros: it is in the memory file, or in a host file.
    pub fn is_present(&self, addr: u64, len: u64) -> bool {
        let state = self.state.read();
        let end = addr.saturating_add(len);
        state.map.overlapping(addr..end).any(|(start, segment)| {
            let (from, to) = (start.max(addr), segment.end.min(end));
            match &segment.back {
                Backing::Empty => false,
                Backing::Host(..) => true,
                Backing::Memory(at) => from < to && self.resident(at + (from - start), to - from) > 0,
            }
        })
    }

    /// Bytes it has of the container's memory: what may come back when it goes. Asks the host about so many mappings; the others count whole.
    pub fn memory_bytes(&self) -> u64 {
        let usage = self.usage();
        usage.resident_anonymous + usage.resident_shared
    }

    /// What of a segment is in memory; `asked` counts what the host was asked.
    fn residency(&self, start: u64, segment: &Segment, asked: &mut u64) -> Resident {
        let len = segment.end - start;
        let mut resident = Resident::default();
        match &segment.back {
            Backing::Empty => {}
            Backing::Host(..) => resident.file = len,
            Backing::Memory(at) => {
                let present = if *asked < ASK_MAX { self.resident(*at, len) } else { len };
                *asked += 1;
                if segment.shared() {
                    resident.shared = present;
                } else {
                    resident.anonymous = present;
                }
            }
        }
        resident
    }

    fn resident(&self, at: u64, len: u64) -> u64 {
        if len > ONE_LOOK {
            return self.resident_of_many(at, len);
        }
        let mut present = vec![0; (len / PAGE_SIZE) as usize];
        if self.memory.window().present(at, &mut present).is_err() {
            return len;
        }
        present.iter().filter(|&&byte| byte & 1 == 1).count() as u64 * PAGE_SIZE
    }

    /// A guest may map far more than it has: by what of the file there is, not by what might be.
    fn resident_of_many(&self, at: u64, len: u64) -> u64 {
        let window = self.memory.window();
        let (mut at, end) = (window.offset().saturating_add(at), window.offset().saturating_add(at).saturating_add(len));
        let mut resident = 0;
        for _ in 0..MOST_LOOKS {
            let Some(data) = seek_data(window, at, Seek::Data).ok().filter(|data| *data < end) else { break };
            let hole = seek_data(window, data, Seek::Hole).map_or(end, |hole| hole.clamp(data, end));
            resident += hole - data;
            at = hole;
        }
        resident
    }
}
