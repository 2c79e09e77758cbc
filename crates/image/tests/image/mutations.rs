//! Archives with random damage: whatever is in them, reading ends, nothing panics, and nothing is written outside the tree.

use std::fs;
use std::os::fd::AsFd;

use image::archive::Reader;
use image::unpack::Limits;
use image::unpack::layer::apply;
use tar::{EntryType, Header};

use crate::build::{Dir, Tar};
use crate::layers::owners;

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn seed() -> Vec<u8> {
    Tar::new()
        .dir("a")
        .file("a/f", b"data")
        .symlink("l", "a")
        .file("l/g", &[b'x'; 700])
        .hard_link("h", "a/f")
        .pax(&[("path", b"p/q"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b"), ("size", b"4")])
        .file("x", b"data")
        .raw(&Tar::header(EntryType::GNULongName, "L", "", 6), b"long/n")
        .file("x", b"data")
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.name", b"s"), ("GNU.sparse.realsize", b"4096")])
        .file("s", &{
            let mut map = b"1\n0\n4\n".to_vec();
            map.resize(512, 0);
            [&map[..], b"data"].concat()
        })
        .file("a/.wh.f", b"")
        .file(".wh..wh..opq", b"")
        .end()
}

/// Changes some bytes; headers get right checksums again, or little would be read.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => {
                // Words that mean something.
                let words: [&[u8]; 8] = [b"../", b"/", b"..", b".wh.", b".wh..wh..opq", b"\0", b"99999999999", b"77777777777"];
                let word = words[random.below(words.len())];
                let end = (at + word.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            3 => {
                // The type of a member.
                let block = random.below(bytes.len() / 512) * 512;
                bytes[block + 156] = b"0123456LKxgSV"[random.below(13)];
            }
            4 => {
                let (from, to) = (random.below(bytes.len() / 512) * 512, random.below(bytes.len() / 512) * 512);
                let block: Vec<u8> = bytes[from..from + 512].to_vec();
                bytes[to..to + 512].copy_from_slice(&block);
            }
            _ => bytes.truncate(at.max(512)),
        }
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    for block in bytes.chunks_mut(512) {
        if block[257..262] == *b"ustar" {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

#[test]
fn damaged_archives_do_no_harm() {
    let dir = Dir::new("mutations");
    let mut random = Random(0x5eed_1234_5678_9abc);
    let (mut good, mut bad) = (0, 0);
    fs::write(dir.join("secret"), "secret").expect("secret");
    for round in 0..3000 {
        let mut bytes = seed();
        mutate(&mut bytes, &mut random);
        // The reader alone: it ends, and does not run beyond the archive.
        let mut reader = Reader::new(&bytes[..]);
        let mut members = 0;
        while let Ok(Some(_)) = reader.next_member() {
            members += 1;
            assert!(members <= bytes.len() / 512, "round {round}: more members than blocks");
        }
        assert!(reader.position() <= bytes.len() as u64, "round {round}");
        if round % 4 != 0 {
            continue;
        }
        let root = dir.join("root");
        fs::create_dir(&root).expect("root");
        let opened = fs::File::open(&root).expect("root");
        let limits = Limits { file: 1 << 30, ..Limits::default() };
        match apply(opened.as_fd(), std::io::Cursor::new(bytes), limits, owners(), &mut |_| {}) {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        }
        drop(opened);
        let parent = fs::File::open(&dir.0).expect("directory");
        image::unpack::beneath::remove(parent.as_fd(), b"root").expect("removed");
        let left: Vec<_> = fs::read_dir(&dir.0).expect("directory").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["secret"], "round {round}");
        assert_eq!(fs::read_to_string(dir.join("secret")).expect("secret"), "secret", "round {round}");
    }
    assert!(good > 20 && bad > 20, "{good} unpacked and {bad} refused: the mutations are too weak or too strong");
}
