//! A guest's FUSE requests, one after the other, on a small tree: no panic, no answer longer than its room, and nothing beside the tree changes.
//!
//! Of a request the input has opcode, length and body. Numbers of inodes and handles that answers have brought are chosen from: they cannot be guessed.
#![no_main]

use std::fs;
use std::sync::Once;

use gofer::passthrough::Source;
use gofer::protocol::{Access, Cache};
use libfuzzer_sys::fuzz_target;
use virtiofs::{Config, Server, TreeConfig};
use vm_memory::VolatileSlice;

/// Of a request and an answer.
const HEADS: (usize, usize) = (40, 16);

/// Files stay small, whatever is written where; and what is left of one input is no other's.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
        // SAFETY: plain data.
        unsafe {
            libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
    });
}

fuzz_target!(|bytes: &[u8]| {
    prepare();
    let home = std::env::temp_dir().join(format!("nacre-fuzz-fuse-{}", std::process::id()));
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(home.join("tree/dir/sub")).expect("a tree");
    fs::write(home.join("tree/file"), "of the tree").expect("a file");
    fs::write(home.join("beside"), "not of the tree").expect("a file");
    std::os::unix::fs::symlink("../beside", home.join("tree/link")).expect("a link");
    // Nobody writes here: what changes has been changed through the share that is only to be read.
    fs::create_dir(home.join("read")).expect("a tree");
    fs::write(home.join("read/file"), "to be read").expect("a file");
    let server = Server::new(Config::for_nofile(300));
    for (access, tree) in [(Access::ReadWrite, "tree"), (Access::ReadOnly, "read")] {
        let source = Source::at_path(&home.join(tree)).expect("a tree");
        server.shown().add(TreeConfig { source, access, cache: Cache::Shared, told: false }).expect("room");
    }
    // The root, and what answers have begun with: inodes' numbers and handles'.
    let (mut known, mut rest) = (vec![1_u64], bytes);
    // The first request of a guest: version 7.38.
    let init: Vec<u8> = [7_u32, 38, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
    let ask = |opcode: u32, node: u64, body: &[u8], room: usize, known: &mut Vec<u64>| {
        let mut input = Vec::with_capacity(HEADS.0 + body.len());
        input.extend(((HEADS.0 + body.len()) as u32).to_le_bytes());
        input.extend(opcode.to_le_bytes());
        input.extend(1_u64.to_le_bytes());
        input.extend(node.to_le_bytes());
        input.extend([0; 16]);
        input.extend(body);
        let mut output = vec![0; room];
        let (one, two) = input.split_at_mut(HEADS.0 / 2);
        let (three, four) = output.split_at_mut(room / 3);
        let used = server.shown().serve(
            &[VolatileSlice::from(one), VolatileSlice::from(two)],
            &[VolatileSlice::from(three), VolatileSlice::from(four)],
        );
        assert!(used <= room, "{used} bytes in {room}");
        if let Some(number) = output.get(HEADS.1..HEADS.1 + 8).filter(|_| used >= HEADS.1 + 8 && known.len() < 64) {
            known.push(u64::from_le_bytes(number.try_into().expect("8 bytes")));
        }
    };
    ask(26, 0, &init, 200, &mut known);
    ask(1, 1, b"0\0", 200, &mut known);
    ask(1, 1, b"1\0", 200, &mut known);
    while let [opcode, node, number, len, room, more @ ..] = rest {
        let (body, next) = more.split_at(usize::from(*len).min(more.len()));
        rest = next;
        let mut body = body.to_vec();
        let choose = |by: u8| known[usize::from(by) % known.len()];
        if let (Some(place), true) = (body.first_chunk_mut::<8>(), *number < 200) {
            *place = choose(*number).to_le_bytes();
        }
        let node = choose(*node);
        ask(u32::from(*opcode % 52), node, &body, usize::from(*room) * 8, &mut known);
    }
    assert_eq!(fs::read_to_string(home.join("beside")).expect("a file"), "not of the tree");
    let mut entries: Vec<_> = fs::read_dir(&home).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    entries.sort();
    assert_eq!(entries, ["beside", "read", "tree"]);
    assert_eq!(fs::read_to_string(home.join("read/file")).expect("a file"), "to be read");
    assert_eq!(fs::read_dir(home.join("read")).expect("list").count(), 1);
});
