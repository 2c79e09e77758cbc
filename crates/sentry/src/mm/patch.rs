//! Patched system-call sites.
//!
//! A system call that comes in by a trap costs a signal. After some traps from the same stretch of text the platform rewrites the site into
//! a jump ([`platform::Platform::plan_patch`]). The text is not the guest's copy but ours: for each [`CHUNK_LEN`] of a mapped file there is one
//! copy in the memory file, with a region of slots at a fixed distance, shared by all processes of the container that map the file; the
//! next one gets it at mmap time. A later patch is written into the shared copy: the slot first, then the site by one 8-byte store.
//!
//! In the segment map, text on our copy is `PATCHED`, and the slots are a segment of their own (`SLOTS`), invisible to the guest. If the guest
//! maps over the slots, makes the text writable, or sets %gs, the text goes back to the file ([`State::originals`]).
//!
//! Locking: a chunk's lock is below the state lock.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use platform::{Patch, PatchRequest, Prot};
use smallvec::SmallVec;

use super::segment::{Backing, Segment, SegmentFlags};
use super::space::{MAP_COUNT_MAX, State, Trash};
use super::{MemoryFile, Mm};
use crate::abi::PAGE_SIZE;

/// Text is copied and patched in pieces of this size, by file offset.
pub(super) const CHUNK_LEN: u64 = 512 << 10;

/// Room for slots of one chunk.
const SLOTS_LEN: u64 = 128 << 10;

/// Distance of the slots from their text: below it, or above for programs at low addresses.
const SLOTS_DISTANCE: u64 = 1 << 30;
const LOW: u64 = 4 << 30;

/// Traps from a chunk before it is copied: a copy costs as much as some dozen traps.
const TRAPS_MIN: u32 = 16;

/// So often a site may be refused by the platform before it is left alone.
const REFUSALS_MAX: u32 = 4;

/// Bytes of text on each side of a site that the platform sees.
const CONTEXT: u64 = 64;

/// Bytes that one bit of the slot bitmap stands for.
const SLOT_UNIT: u64 = 16;

/// Patched copies of text, by file.
#[derive(Default)]
pub(super) struct TextCache {
    chunks: Mutex<HashMap<ChunkKey, Entry>>,
}

/// Which part of which file, and on which side the slots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ChunkKey {
    file: u64,
    version: u64,
    offset: u64,
    len: u64,
    low: bool,
}

/// Most chunks that are kept when no process uses them.
const IDLE_MAX: usize = 64;

enum Entry {
    /// Not copied yet: traps so far.
    Counting(u32),
    Copied(Arc<Chunk>),
}

/// A patched copy: offsets in the memory file, of which the cache has a reference.
pub(super) struct Chunk {
    text: u64,
    slots: u64,
    patched: Mutex<Patched>,
}

/// Patched text in an address space: what was behind it, and the chunk that is now.
#[derive(Clone)]
pub(super) struct Original {
    pub end: u64,
    pub back: Backing,
    place: Place,
    chunk: Arc<Chunk>,
}

struct Patched {
    /// Slots in use, one bit per [`SLOT_UNIT`].
    taken: Vec<u64>,
    /// Destroyed instruction boundaries and where to go on, relative to the text (the slots' side wraps around).
    moved: BTreeMap<u64, u64>,
    /// What was at rewritten places: offset, bytes.
    originals: Vec<(u64, Vec<u8>)>,
    refusals: HashMap<u64, u32>,
}

/// A chunk's place in an address space.
#[derive(Debug, Clone)]
pub(super) struct Place {
    key: ChunkKey,
    text: Range<u64>,
    slots: Range<u64>,
}

impl Place {
    /// The chunk around `addr`, if that is private text of a file which may be patched.
    fn at(state: &State, addr: u64) -> Option<Place> {
        let (start, segment) = state.map.find(addr)?;
        let (file, offset) = segment.file.as_ref()?;
        if segment.shared() || segment.prot != Prot::READ | Prot::EXEC {
            return None;
        }
        let first = start - vma_before(state, start, segment);
        let vma = first..vma_end(state, start, segment);
        let from = offset - (start - first);
        // Boundaries by file offset, cut to the mapping.
        let chunk = (from + (addr - first)) / CHUNK_LEN * CHUNK_LEN;
        let text =
            first + chunk.saturating_sub(from)..vma.end.min((chunk + CHUNK_LEN).saturating_sub(from).saturating_add(first));
        let key = ChunkKey {
            file: file.mappable.identity(),
            version: file.mappable.version()?,
            offset: from + (text.start - first),
            len: text.end - text.start,
            low: text.start < LOW,
        };
        let slots = if key.low { text.start + SLOTS_DISTANCE } else { text.start - SLOTS_DISTANCE };
        Some(Place { key, text, slots: slots..slots + SLOTS_LEN })
    }

    fn slots_free(&self, state: &State) -> bool {
        state.places.allows(&self.slots) && state.map.is_free(self.slots.clone())
    }
}

/// Bytes of the same VMA before `start`.
fn vma_before(state: &State, start: u64, segment: &Segment) -> u64 {
    let (mut at, mut now) = (start, segment);
    while let Some((before, other)) = state.map.before(at)
        && other.end == at
        && now.same_vma(before, other)
    {
        (at, now) = (before, other);
    }
    start - at
}

fn vma_end(state: &State, start: u64, segment: &Segment) -> u64 {
    let (mut at, mut now) = (start, segment);
    while let Some((next, other)) = state.map.find(now.end)
        && other.same_vma(at, now)
    {
        (at, now) = (next, other);
    }
    now.end
}

impl Mm {
    /// Where a thread stopped at `rip` must go on, if that is an instruction boundary that a patch has destroyed. For signal
    /// frames' return, and contexts stopped while a patch was made.
    pub fn moved(&self, rip: u64) -> Option<u64> {
        let state = self.state.read();
        let (place, chunk) = patched_at(&state, rip)?;
        let to = chunk.patched.lock().moved.get(&(rip - place.text.start)).copied()?;
        Some(place.text.start.wrapping_add(to))
    }

    /// The instruction of the text that stands for `rip` in a slot, for whoever shows registers. None when `rip` is not in a slot, or between
    /// the instructions that have moved there.
    pub fn unmoved(&self, rip: u64) -> Option<u64> {
        let state = self.state.read();
        if !state.map.find(rip).is_some_and(|(_, segment)| segment.flags.contains(SegmentFlags::SLOTS)) {
            return None;
        }
        let now = state.originals.values().map(|old| (&old.place, &old.chunk));
        let (place, chunk) =
            now.chain(state.retired.iter().map(|old| (&old.0, &old.1))).find(|(place, _)| place.slots.contains(&rip))?;
        let to = rip.wrapping_sub(place.text.start);
        let from = chunk.patched.lock().moved.iter().find(|(_, moved)| **moved == to).map(|(&from, _)| from)?;
        Some(place.text.start.wrapping_add(from))
    }

    /// Where a thread whose system call returns to `rip` must go to make that call again.
    pub fn call_again_at(&self, rip: u64) -> u64 {
        let state = self.state.read();
        let in_slot = state.map.find(rip).is_some_and(|(_, segment)| segment.flags.contains(SegmentFlags::SLOTS));
        rip.wrapping_sub(if in_slot { platform::SLOT_CALL_LEN } else { 2 })
    }

    /// After a system call that came in by a trap from `return_ip - 2`: rewrites the site, if that can be done. Returns where the
    /// thread must go on if `return_ip` is no longer an instruction.
    pub fn patch(&self, return_ip: u64, number: u64) -> Option<u64> {
        if !self.platform.capabilities().patches {
            return None;
        }
        let site = return_ip.checked_sub(2)?;
        let (place, mapped) = {
            let state = self.state.read();
            if !state.patching {
                return None;
            }
            match patched_at(&state, site) {
                Some((place, chunk)) => (place, Some(chunk)),
                None => (Place::at(&state, site)?, None),
            }
        };
        let chunk = match mapped {
            Some(chunk) => chunk,
            None => {
                let chunk = match self.memory.texts.count(&place.key)? {
                    Some(chunk) => chunk,
                    None => self.copy_chunk(&place)?,
                };
                if !self.map_chunk(&place, &chunk) {
                    return None;
                }
                chunk
            }
        };
        self.rewrite(&place, &chunk, return_ip, number);
        self.moved(return_ip)
    }

    /// No (more) patched sites in this address space: it is traced, filtered, or uses %gs. Slots stay, for threads that will
    /// return through them.
    pub fn disable_patching(&self) {
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        if std::mem::replace(&mut state.patching, false) {
            let retired: Vec<_> = state.originals.values().map(|old| (old.place.clone(), old.chunk.clone())).collect();
            state.retired.extend(retired);
            let all = 0..u64::MAX;
            self.unpatch_text(&mut state, &all, &mut trash);
        }
    }

    /// Copies a chunk's text and files it, unless another process was faster.
    fn copy_chunk(&self, place: &Place) -> Option<Arc<Chunk>> {
        let text = self.memory.alloc(place.key.len).ok()?;
        let slots = self.memory.alloc(SLOTS_LEN).ok()?;
        {
            let state = self.state.read();
            let mut at = place.text.start;
            while at < place.text.end {
                let (start, segment) = state.map.find(at)?;
                let end = segment.end.min(place.text.end);
                let (window, base) = match &segment.back {
                    Backing::Host(window, from) => (window, from.checked_sub(window.offset())?),
                    Backing::Memory(from) if !segment.flags.contains(SegmentFlags::PATCHED) => (self.memory.window(), *from),
                    _ => return None,
                };
                let to = text.start() + (at - place.text.start);
                window.copy_to(base + (at - start), self.memory.window(), to, end - at).ok()?;
                at = end;
            }
        }
        let patched = Mutex::new(Patched {
            taken: vec![0; (SLOTS_LEN / SLOT_UNIT / 64) as usize],
            moved: BTreeMap::new(),
            originals: Vec::new(),
            refusals: HashMap::new(),
        });
        let chunk = Chunk { text: text.into_raw().0, slots: slots.into_raw().0, patched };
        let (chunk, unused) = self.memory.texts.file(&self.memory, place.key, chunk);
        for (text, slots, len) in unused {
            self.memory.release(text, len);
            self.memory.release(slots, SLOTS_LEN);
        }
        Some(chunk)
    }

    /// Puts a chunk in the place of the file's own text. False: it does not fit here (any more).
    fn map_chunk(&self, place: &Place, chunk: &Arc<Chunk>) -> bool {
        let mut trash = Trash::new(self);
        let mut state = self.state.write();
        let Some(now) = Place::at(&state, place.text.start).filter(|now| now.key == place.key && now.text == place.text) else {
            return false;
        };
        if state.map.find(place.text.start).is_some_and(|(_, segment)| segment.flags.contains(SegmentFlags::PATCHED)) {
            return true;
        }
        if !state.patching || !self.install(&mut state, &now, chunk) {
            return false;
        }
        for range in [place.slots.clone(), place.text.clone()] {
            self.post_all(&state, range);
        }
        // A thread that runs in the old pages must not miss a patch that others rely on: there is none. The old pages are the
        // file's, so nothing waits for this order but the limbo.
        self.settle(&mut state, &mut trash);
        true
    }

    /// Changes the map for a chunk, without orders. The old contents must be the file's.
    fn install(&self, state: &mut State, place: &Place, chunk: &Arc<Chunk>) -> bool {
        if !place.slots_free(state) || state.map.len() + 3 >= MAP_COUNT_MAX {
            return false;
        }
        let pristine = |segment: &Segment| match segment.back {
            Backing::Host(..) => true,
            Backing::Memory(_) => segment.cow() && !segment.flags.contains(SegmentFlags::PATCHED),
            Backing::Empty => false,
        };
        if !state.map.overlapping(place.text.clone()).all(|(_, segment)| pristine(segment)) {
            return false;
        }
        for (start, old) in state.map.remove(place.text.clone()) {
            let new = Segment {
                back: Backing::Memory(chunk.text + (start - place.text.start)),
                flags: old.flags | SegmentFlags::PATCHED | SegmentFlags::COW,
                ..old.clone()
            };
            self.memory.retain(chunk.text + (start - place.text.start), old.end - start);
            state.map.insert(start, new);
            let original = Original { end: old.end, back: old.back, place: place.clone(), chunk: chunk.clone() };
            state.originals.insert(start, original);
        }
        self.memory.retain(chunk.slots, SLOTS_LEN);
        state.had_slots = true;
        state.map.insert(
            place.slots.start,
            Segment {
                end: place.slots.end,
                prot: Prot::READ | Prot::EXEC,
                flags: SegmentFlags::SLOTS | SegmentFlags::SHARED,
                file: None,
                back: Backing::Memory(chunk.slots),
            },
        );
        true
    }

    pub(super) fn post_all(&self, state: &State, range: Range<u64>) {
        for (start, segment) in state.map.overlapping(range) {
            self.post_map(start, segment, false);
        }
    }

    /// Asks the platform for a patch and applies it to the shared copy.
    fn rewrite(&self, place: &Place, chunk: &Chunk, return_ip: u64, number: u64) {
        let mut patched = chunk.patched.lock();
        let relative = return_ip - place.text.start;
        if patched.moved.contains_key(&relative)
            || patched.originals.iter().any(|(at, bytes)| (*at..at + bytes.len() as u64).contains(&relative))
            || patched.refusals.get(&relative).is_some_and(|&count| count >= REFUSALS_MAX)
        {
            return;
        }
        let from = return_ip.saturating_sub(CONTEXT).max(place.text.start);
        let to = (return_ip + CONTEXT).min(place.text.end);
        let mut text = vec![0; (to - from) as usize];
        let window = self.memory.window();
        if window.read(chunk.text + (from - place.text.start), &mut text).is_err() {
            return;
        }
        let request = PatchRequest {
            return_ip,
            number,
            text: &text,
            text_start: from,
            slots: place.slots.clone(),
            taken: &patched.taken,
        };
        let plan = self.platform.plan_patch(&request);
        match plan.filter(|plan| fits(plan, place)) {
            Some(plan) if self.apply(place, chunk, &mut patched, &plan) => {}
            _ => *patched.refusals.entry(relative).or_default() += 1,
        }
    }

    fn apply(&self, place: &Place, chunk: &Chunk, patched: &mut Patched, plan: &Patch) -> bool {
        let window = self.memory.window();
        let slot = plan.slot_at - place.slots.start;
        let site = plan.site_at - place.text.start;
        let (word, skip) = (site / 8 * 8, (site % 8) as usize);
        let mut bytes = [0; 8];
        if window.read(chunk.text + word, &mut bytes).is_err() {
            return false;
        }
        let Some(old) = bytes.get_mut(skip..skip + plan.site.len()) else { return false };
        let original = old.to_vec();
        old.copy_from_slice(&plan.site);
        if window.write(chunk.slots + slot, &plan.slot).is_err() {
            return false;
        }
        let last = slot + plan.slot.len() as u64;
        for unit in slot / SLOT_UNIT..last.div_ceil(SLOT_UNIT) {
            if let Some(word) = patched.taken.get_mut((unit / 64) as usize) {
                *word |= 1 << (unit % 64);
            }
        }
        // Before the store: whoever lands on a destroyed boundary finds its way.
        for &(from, to) in &plan.moved {
            patched.moved.insert(from.wrapping_sub(place.text.start), to.wrapping_sub(place.text.start));
        }
        patched.originals.push((site, original));
        window.store_u64(chunk.text + word, u64::from_le_bytes(bytes)).is_ok()
    }

    /// Whether text in the range is on our copy.
    pub(super) fn patched_in(&self, range: Range<u64>) -> bool {
        self.state.read().map.overlapping(range).any(|(_, segment)| segment.flags.contains(SegmentFlags::PATCHED))
    }

    /// Puts the original bytes in the place of patches, in what has been read from `addr`.
    pub(super) fn show_unpatched(&self, addr: u64, into: &mut [u8]) {
        let end = addr.saturating_add(into.len() as u64);
        let state = self.state.read();
        for original in state.originals.range(..end).map(|(_, original)| original).filter(|original| original.end > addr) {
            for (site, bytes) in &original.chunk.patched.lock().originals {
                for (at, byte) in (original.place.text.start + site..).zip(bytes) {
                    let to = at.checked_sub(addr).and_then(|n| into.get_mut(usize::try_from(n).ok()?));
                    if let Some(to) = to {
                        *to = *byte;
                    }
                }
            }
        }
    }

    /// Before the guest unmaps or maps over a range: patched text in it, and text whose slots lie in it, goes back to the file, and
    /// the slots go.
    pub(super) fn unpatch(&self, state: &mut State, range: &Range<u64>, trash: &mut Trash) {
        if state.originals.is_empty() && !state.had_slots {
            return;
        }
        let overlaps = |start: u64, end: u64| start < range.end && range.start < end;
        let texts: Vec<(u64, u64)> = state
            .originals
            .iter()
            .filter(|&(&start, old)| overlaps(start, old.end) || overlaps(old.place.slots.start, old.place.slots.end))
            .map(|(&start, old)| (start, old.place.slots.start))
            .collect();
        let mut slots: SmallVec<[u64; 4]> = texts.iter().map(|&(_, slots)| slots).collect();
        self.restore(state, texts.into_iter().map(|(start, _)| start));
        for (start, segment) in state.map.overlapping(range.clone()) {
            if segment.flags.contains(SegmentFlags::SLOTS) {
                slots.push(start);
            }
        }
        slots.sort_unstable();
        slots.dedup();
        for start in slots {
            // Other text may still use them (a chunk in two segments).
            if !overlaps(start, start + SLOTS_LEN) && state.originals.values().any(|old| old.place.slots.start == start) {
                continue;
            }
            let gone = state.take_out(start..start + SLOTS_LEN);
            state.limbo.extend(gone);
            self.post_unmap(start..start + SLOTS_LEN);
        }
        self.settle(state, trash);
    }

    /// Text that becomes writable goes back to the file; its slots stay, for threads on their way through them.
    pub(super) fn unpatch_for_write(&self, state: &mut State, range: &Range<u64>, prot: Prot, trash: &mut Trash) {
        if prot.contains(Prot::WRITE) {
            self.unpatch_text(state, range, trash);
        }
    }

    fn unpatch_text(&self, state: &mut State, range: &Range<u64>, trash: &mut Trash) {
        let texts: Vec<u64> =
            state.originals.range(..range.end).filter(|(_, old)| old.end > range.start).map(|(&start, _)| start).collect();
        if !texts.is_empty() {
            self.restore(state, texts.into_iter());
            self.settle(state, trash);
        }
    }

    /// Puts the file's pages back, where the text is still mapped.
    fn restore(&self, state: &mut State, texts: impl Iterator<Item = u64>) {
        for start in texts {
            let Some(original) = state.originals.remove(&start) else { continue };
            let mut restored: SmallVec<[(u64, Segment); 2]> = SmallVec::new();
            state.map.update(start..original.end, |at, segment| {
                if segment.flags.contains(SegmentFlags::PATCHED) {
                    restored.push((at, segment.clone()));
                    segment.back = original.back.advance(at - start);
                    segment.flags -= SegmentFlags::PATCHED;
                }
            });
            let mut from = start;
            for (at, old) in restored {
                self.forget(state, &original, start, from..at);
                from = old.end;
                self.post_all(state, at..old.end);
                state.limbo.push((at, old));
            }
            self.forget(state, &original, start, from..original.end);
        }
    }

    /// Lets go of original pages whose text has been unmapped.
    fn forget(&self, state: &mut State, original: &Original, start: u64, part: Range<u64>) {
        if part.is_empty() {
            return;
        }
        let back = original.back.advance(part.start - start);
        let gone = Segment { end: part.end, prot: Prot::empty(), flags: SegmentFlags::empty(), file: None, back };
        state.limbo.push((part.start, gone));
    }

    /// Whether a new mapping may get text that is patched already.
    pub(super) fn may_adopt(&self, state: &State, segment: &Segment) -> bool {
        state.patching
            && !segment.shared()
            && segment.prot == Prot::READ | Prot::EXEC
            && segment.file.as_ref().is_some_and(|(file, _)| self.memory.texts.knows(file.mappable.identity()))
    }

    /// Takes over the parent's originals in a fork.
    pub(super) fn share_originals(&self, originals: &BTreeMap<u64, Original>) -> BTreeMap<u64, Original> {
        for (start, original) in originals {
            if let Backing::Memory(at) = original.back {
                self.memory.retain(at, original.end - start);
            }
        }
        originals.clone()
    }

    /// Puts patched copies in the place of new text, without orders for the text itself.
    pub(super) fn adopt_patches(&self, state: &mut State, range: &Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let Some(place) = Place::at(state, at) else { return };
            at = place.text.end.max(at + PAGE_SIZE);
            let Some(chunk) = self.memory.texts.get(&place.key) else { continue };
            if self.install(state, &place, &chunk) {
                self.post_all(state, place.slots.clone());
            }
        }
    }
}

/// The chunk behind patched text.
fn patched_at(state: &State, addr: u64) -> Option<(Place, Arc<Chunk>)> {
    let (_, original) = state.originals.range(..=addr).next_back()?;
    let (_, segment) = state.map.find(addr)?;
    let here = original.end > addr && segment.flags.contains(SegmentFlags::PATCHED);
    here.then(|| (original.place.clone(), original.chunk.clone()))
}

/// Whether a plan stays inside its slots, its text and one word.
fn fits(plan: &Patch, place: &Place) -> bool {
    let inside = |at: u64, len: usize, range: &Range<u64>| {
        at >= range.start && at.checked_add(len as u64).is_some_and(|end| end <= range.end)
    };
    inside(plan.slot_at, plan.slot.len(), &place.slots)
        && inside(plan.site_at, plan.site.len(), &place.text)
        && !plan.site.is_empty()
        && plan.site_at / 8 == (plan.site_at + plan.site.len() as u64 - 1) / 8
}

impl TextCache {
    fn get(&self, key: &ChunkKey) -> Option<Arc<Chunk>> {
        match self.chunks.lock().get(key)? {
            Entry::Copied(chunk) => Some(chunk.clone()),
            Entry::Counting(_) => None,
        }
    }

    fn knows(&self, file: u64) -> bool {
        self.chunks.lock().iter().any(|(key, entry)| key.file == file && matches!(entry, Entry::Copied(_)))
    }

    /// Counts a trap. None: not yet worth it. Some(None): to be copied now.
    fn count(&self, key: &ChunkKey) -> Option<Option<Arc<Chunk>>> {
        let mut chunks = self.chunks.lock();
        match chunks.entry(*key).or_insert(Entry::Counting(0)) {
            Entry::Copied(chunk) => Some(Some(chunk.clone())),
            Entry::Counting(count) => {
                *count = count.saturating_add(1);
                (*count > TRAPS_MIN).then_some(None)
            }
        }
    }

    /// Files a copy; returns the one that counts (another may have been first), and what is to be released: (text, slots, length of
    /// the text).
    fn file(&self, memory: &MemoryFile, key: ChunkKey, chunk: Chunk) -> (Arc<Chunk>, Vec<(u64, u64, u64)>) {
        let mut chunks = self.chunks.lock();
        if let Some(Entry::Copied(first)) = chunks.get(&key) {
            return (first.clone(), vec![(chunk.text, chunk.slots, key.len)]);
        }
        let mut unused = Vec::new();
        if chunks.len() >= IDLE_MAX {
            chunks.retain(|key, entry| match entry {
                Entry::Copied(chunk) if memory.sole(chunk.text, 0, MemoryFile::SPAN).is_some() => {
                    unused.push((chunk.text, chunk.slots, key.len));
                    false
                }
                Entry::Copied(_) => true,
                Entry::Counting(_) => false,
            });
        }
        let chunk = Arc::new(chunk);
        chunks.insert(key, Entry::Copied(chunk.clone()));
        (chunk, unused)
    }
}
