//! As much of ELF (64-bit, little-endian) as an agent, a module and a kernel are asked for.

/// The magic, the class and the byte order.
pub const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const CUT_OFF: &str = "it is cut off";

const PT_INTERP: u64 = 3;
const PT_NOTE: u64 = 4;

/// An ELF file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Elf<'a>(&'a [u8]);

/// Part of a file: a segment or a section.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// A segment's type, or where a section's name is in the table of names.
    kind: u64,
    offset: usize,
    len: usize,
}

impl<'a> Elf<'a> {
    pub fn new(bytes: &'a [u8]) -> Option<Elf<'a>> {
        bytes.starts_with(MAGIC).then_some(Elf(bytes))
    }

    /// Whether it needs a program to load it.
    ///
    /// # Errors
    /// It is damaged.
    pub fn is_dynamic(&self) -> Result<bool, &'static str> {
        Ok(self.segments()?.iter().any(|segment| segment.kind == PT_INTERP))
    }

    /// Whether a note of this owner and type is in one of its segments.
    pub fn has_note(&self, owner: &[u8], kind: u64) -> bool {
        let segments = self.segments().unwrap_or_default();
        let notes = segments.iter().filter(|segment| segment.kind == PT_NOTE).filter_map(|segment| self.bytes(segment));
        notes.into_iter().any(|bytes| has_note(bytes, owner, kind))
    }

    /// A section's content.
    pub fn section(&self, name: &[u8]) -> Option<&'a [u8]> {
        let sections =
            self.parts([40, 58, 60], |at| Some([self.number(at, 4)?, self.number(at + 24, 8)?, self.number(at + 32, 8)?]));
        let sections = sections.ok()?;
        let names = self.bytes(sections.get(usize::try_from(self.number(62, 2)?).ok()?)?)?;
        let is_it = |section: &&Part| {
            let rest = names.get(section.kind as usize..).unwrap_or_default();
            rest.split(|&byte| byte == 0).next() == Some(name)
        };
        self.bytes(sections.iter().find(is_it)?)
    }

    fn segments(&self) -> Result<Vec<Part>, &'static str> {
        self.parts([32, 54, 56], |at| Some([self.number(at, 4)?, self.number(at + 8, 8)?, self.number(at + 32, 8)?]))
    }

    /// A table, by the places in the header of its offset, the size of an entry and their number; `entry` reads one: kind, offset, length.
    fn parts(
        &self,
        [offset, size, count]: [usize; 3],
        entry: impl Fn(usize) -> Option<[u64; 3]>,
    ) -> Result<Vec<Part>, &'static str> {
        let header =
            || Some((self.number(offset, 8)? as usize, self.number(size, 2)? as usize, self.number(count, 2)? as usize));
        let (start, size, count) = header().ok_or(CUT_OFF)?;
        let part = |index: usize| {
            let [kind, offset, len] = entry(start.checked_add(index.checked_mul(size)?)?)?;
            Some(Part { kind, offset: offset as usize, len: len as usize })
        };
        (0..count).map(part).collect::<Option<_>>().ok_or(CUT_OFF)
    }

    fn bytes(&self, part: &Part) -> Option<&'a [u8]> {
        self.0.get(part.offset..part.offset.checked_add(part.len)?)
    }

    fn number(&self, at: usize, len: usize) -> Option<u64> {
        let bytes = self.0.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

/// Looks through notes: length of the owner's name with its NUL, length of the content, type; name and content are padded to multiples of four.
fn has_note(mut bytes: &[u8], owner: &[u8], kind: u64) -> bool {
    while let Some(([name_len, len, note], rest)) = header(bytes) {
        if u64::from(note) == kind && rest.get(..name_len as usize).and_then(|name| name.strip_suffix(b"\0")) == Some(owner) {
            return true;
        }
        let skip = (name_len as usize).next_multiple_of(4) + (len as usize).next_multiple_of(4);
        bytes = rest.get(skip..).unwrap_or_default();
    }
    false
}

fn header(bytes: &[u8]) -> Option<([u32; 3], &[u8])> {
    let (head, rest) = bytes.split_at_checked(12)?;
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    Some(([word(0)?, word(4)?, word(8)?], rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_found_by_owner_and_type() {
        let note = |owner: &[u8], kind: u32| {
            let padded = [owner, b"\0\0\0\0"].concat();
            let name = padded[..(owner.len() + 1).next_multiple_of(4)].to_vec();
            let lens = [owner.len() as u32 + 1, 5];
            [lens[0].to_le_bytes(), lens[1].to_le_bytes(), kind.to_le_bytes()].concat().into_iter().chain(name).chain([7; 8])
        };
        let bytes: Vec<u8> = note(b"Linux", 1).chain(note(b"Xen", 18)).collect();
        assert!(has_note(&bytes, b"Xen", 18) && has_note(&bytes, b"Linux", 1));
        assert!(!has_note(&bytes, b"Xen", 1) && !has_note(&bytes, b"Xe", 18) && !has_note(&bytes[..20], b"Xen", 18));
        assert!(!has_note(&[0xff; 64], b"Xen", 18));
    }

    #[test]
    fn sections_are_found_by_name_and_damage_is_no_panic() {
        let own = std::fs::read("/proc/self/exe").expect("read");
        let elf = Elf::new(&own).expect("an ELF file");
        let interp = elf.section(b".interp").expect("the test is a dynamic program");
        assert!(interp.starts_with(b"/lib"), "{interp:?}");
        assert!(elf.section(b".no-such").is_none());
        assert_eq!(elf.is_dynamic(), Ok(true));
        for len in 0..512.min(own.len()) {
            if let Some(elf) = Elf::new(&own[..len]) {
                assert!(elf.section(b".interp").is_none());
                let _ = elf.is_dynamic();
            }
        }
    }
}
