//! Writes a cpio archive of the kind Linux unpacks as its initial root ("newc": Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Times are zero and numbers run from 1, so that the same files give the same bytes.

const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const REGULAR: u32 = 0o100_000;
const TRAILER: &str = "TRAILER!!!";

/// An archive being written.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    entries: u32,
}

impl Writer {
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, (0, 0), &[]);
    }

    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// A file with permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// The archive's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        // In this order: inode, mode, uid, gid, links, time, size, device, device of the node, length of the name, checksum.
        let size = content.len() as u32;
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, major, minor, path.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Each header and each content starts at a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_follow_one_another_on_multiples_of_four() {
        let mut writer = Writer::default();
        writer.directory("a");
        writer.file("a/bc", 0o755, b"hello");
        writer.character_device("n", 5, 1);
        let bytes = writer.finish();
        // Read back, as the kernel does.
        let hex = |at: usize| {
            let text = std::str::from_utf8(&bytes[at..at + 8]).expect("text");
            usize::from_str_radix(text, 16).expect("a number")
        };
        let (mut at, mut found) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| hex(at + 6 + 8 * n);
            let (mode, size, name) = (field(1), field(6), field(11));
            let path = std::str::from_utf8(&bytes[at + 110..at + 110 + name - 1]).expect("text").to_string();
            let content = (at + 110 + name).next_multiple_of(4);
            if path == TRAILER {
                break;
            }
            found.push((path, mode, (field(9), field(10)), bytes[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
        let expected = [
            ("a".to_string(), 0o040_755, (0, 0), vec![]),
            ("a/bc".to_string(), 0o100_755, (0, 0), b"hello".to_vec()),
            ("n".to_string(), 0o020_600, (5, 1), vec![]),
        ];
        assert_eq!(found, expected);
    }
}
