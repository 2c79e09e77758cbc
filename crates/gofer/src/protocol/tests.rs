//! Round trips, and bytes that are no messages.

use std::{fs::File, os::fd::OwnedFd};

use super::*;
use crate::{Errno, testrandom::Random};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn handle(raw: u64) -> Handle {
    Handle::from_raw(raw).unwrap()
}

fn attr() -> Attr {
    let time = Timestamp { seconds: -5, nanoseconds: 999_999_999 };
    Attr {
        ino: u64::MAX,
        dev_major: 8,
        dev_minor: 1,
        kind: FileKind::Regular,
        mode: 0o4755,
        nlink: 2,
        uid: 1000,
        gid: 100,
        rdev_major: 0,
        rdev_minor: 0,
        size: 1 << 40,
        blocks: 7,
        blksize: 4096,
        atime: time,
        mtime: time,
        ctime: time,
        btime: Some(time),
    }
}

/// One request of each kind.
pub(crate) fn requests() -> Vec<Request> {
    let (node, dir) = (handle(1 << 32), handle(u64::MAX));
    let owner = Owner { uid: 0, gid: 65534 };
    let xattr = XattrName::new(b"user.mime").unwrap();
    let at = SetTime::At(Timestamp { seconds: 1, nanoseconds: 2 });
    vec![
        Request::Attach { index: 3 },
        Request::Walk { start: dir, names: vec![name("a"), name("..b")], open: Some(OpenHow::ReadWrite) },
        Request::Walk { start: dir, names: vec![], open: None },
        Request::GetAttr { node },
        Request::ReadLink { node },
        Request::Open { node, how: OpenHow::Write, truncate: Truncate::ToZero },
        Request::ReadDir { node, from: 9, max_bytes: 4096, detail: ReadDirDetail::Attributes },
        Request::Create { dir, name: name("new"), mode: 0o640, owner, how: OpenHow::Write },
        Request::MkDir { dir, name: name("d"), mode: 0o1777, owner },
        Request::MkNod { dir, name: name("p"), kind: MakeNode::Fifo, mode: 0o600, owner },
        Request::Symlink { dir, name: name("l"), target: c"/to/there".into(), owner },
        Request::Link { node, dir, name: name("n") },
        Request::Unlink { dir, name: name("n"), kind: EntryKind::Directory },
        Request::Rename {
            dir,
            name: name("a"),
            new_dir: node,
            new_name: name("b"),
            kind: RenameKind::Exchange,
            moved: Some(node),
            displaced: None,
        },
        Request::SetAttr {
            node,
            set: SetAttr { mode: Some(0o600), atime: Some(SetTime::Now), mtime: Some(at), ..SetAttr::default() },
        },
        Request::GetXattr { node, name: xattr.clone(), size: 10 },
        Request::SetXattr { node, name: xattr.clone(), value: vec![0; 65536], mode: XattrMode::Create },
        Request::ListXattr { node },
        Request::RemoveXattr { node, name: xattr },
        Request::StatFs { node },
        Request::Fsync { node, durability: Durability::Data },
        Request::Forget { nodes: vec![node, dir] },
        Request::Stat { dir, path: vec![name("a")], names: vec![name("b"), name("c")] },
        Request::Scan {
            dir,
            path: Vec::new(),
            roots: vec![vec![name("b")], vec![name("c"), name("d")]],
            directories: 7,
            detail: ReadDirDetail::Directories,
        },
        Request::OpenAll { dir, path: vec![name("a")], names: vec![name("b")], how: OpenHow::Read },
        Request::Notifier {},
        Request::Watch { node, events: 0x3c0 },
        Request::Unwatch { watch: 1 },
    ]
}

fn fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn responses() -> Vec<Response> {
    let entry = Entry { handle: handle(5), attr: attr() };
    let mut listed = Packed::default();
    listed.push(1, 2, None, b"x", Some(&attr()));
    let mut more = listed.clone();
    more.push(2, 3, Some(FileKind::Fifo), b"a longer name", None);
    let walked = |end, opened| Response::Walked(Walked { steps: vec![entry; 3], end, link: Some(b"to".to_vec()), opened });
    vec![
        Response::Done,
        Response::Attached(Attached { root: entry, access: Access::ReadOnly, cache: Cache::Shared }),
        walked(WalkEnd::Complete, Some(Ok(fd()))),
        walked(WalkEnd::Failed(Errno::ENOENT), None),
        walked(WalkEnd::Complete, Some(Err(Errno::EACCES))),
        Response::Attr(attr()),
        Response::Bytes(b"bytes".to_vec()),
        Response::Opened(fd()),
        Response::Entries(Entries { entries: more, end: true }),
        Response::Attrs(vec![Ok(attr()), Err(Errno::ENOENT)]),
        Response::Scanned(vec![Scanned { depth: 1, name: name("d"), attr: attr(), entries: listed, end: false }]),
        Response::OpenedAll(vec![Ok((attr(), fd())), Err(Errno::ENOENT), Ok((attr(), fd()))]),
        Response::Notifier(fd().into()),
        Response::Watched(7),
        Response::Found(vec![Err(Errno::ENOENT), Err(Errno::EACCES)]),
        Response::Created(entry, fd()),
        Response::Entry(entry),
        Response::FsStat(FsStat {
            kind: 1,
            block_size: 2,
            blocks: 3,
            blocks_free: 4,
            blocks_available: 5,
            files: 6,
            files_free: 7,
            name_max: 8,
            fragment_size: 9,
        }),
    ]
}

fn encoded(answer: &Result<Response, Errno>, tag: u64) -> Vec<u8> {
    let mut out = Vec::new();
    Response::encode(answer, tag, &mut out);
    out
}

#[test]
fn requests_round_trip() {
    for request in requests() {
        let bytes = request.encode(77);
        assert!(bytes.len() <= MAX_MESSAGE);
        assert_eq!(Request::decode(&bytes), Ok((77, request.op(), Ok(request))));
    }
}

#[test]
fn responses_round_trip() {
    for response in responses() {
        let fds: Vec<OwnedFd> = response.fds().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        let answer = Ok(response);
        let bytes = encoded(&answer, 5);
        let (tag, decoded) = Response::decode(&bytes, fds).unwrap();
        assert_eq!((tag, encoded(&decoded, 5)), (5, bytes));
    }
    let bytes = encoded(&Err(Errno::ESTALE), 6);
    let (tag, answer) = Response::decode(&bytes, None).unwrap();
    assert_eq!((tag, answer.unwrap_err()), (6, Errno::ESTALE));
}

#[test]
fn descriptors_come_exactly_where_they_belong() {
    for response in responses() {
        let wrong = if response.fds().is_empty() { Some(fd()) } else { None };
        assert_eq!(Response::decode(&encoded(&Ok(response), 5), wrong).unwrap_err(), Malformed::Descriptor);
    }
}

#[test]
fn a_message_cut_short_or_with_more_is_none() {
    for request in requests() {
        let bytes = request.encode(1);
        for len in 0..bytes.len().min(300) {
            assert!(!matches!(Request::decode(&bytes[..len]), Ok((_, _, Ok(_)))), "{request:?} cut to {len}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Request::decode(&longer).unwrap().2, Err(Malformed::Trailing));
    }
}

#[test]
fn names_are_checked_where_they_enter() {
    for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
        assert_eq!(Name::new(bad), Err(Malformed::BadName));
    }
    assert_eq!(Name::new(&[b'a'; 256]), Err(Malformed::NameTooLong));
    assert!(Name::new(&[b'a'; 255]).is_ok());
    assert!(Name::new(b"...").is_ok() && Name::new(b"\xff\n").is_ok());
    // The same on the wire.
    let mut bytes = Request::Unlink { dir: handle(1), name: name("xx"), kind: EntryKind::NotDirectory }.encode(1);
    let at = bytes.windows(2).position(|w| w == b"xx").unwrap();
    bytes[at..at + 2].copy_from_slice(b"..");
    assert_eq!(Request::decode(&bytes).unwrap().2, Err(Malformed::BadName));
}

#[test]
fn a_lying_count_allocates_nothing() {
    // 1,024 handles announced, none there.
    let mut bytes = Request::Forget { nodes: vec![] }.encode(1);
    let at = bytes.len() - 2;
    bytes[at..].copy_from_slice(&(MAX_FORGET as u16).to_le_bytes());
    assert_eq!(Request::decode(&bytes).unwrap().2, Err(Malformed::Short));
    bytes[at..].copy_from_slice(&(MAX_FORGET as u16 + 1).to_le_bytes());
    assert!(matches!(Request::decode(&bytes).unwrap().2, Err(Malformed::BadValue(_))));
    // 4 GiB of bytes announced.
    let mut bytes = encoded(&Ok(Response::Bytes(vec![])), 1);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Response::decode(&bytes, None).unwrap_err(), Malformed::Short);
}

#[test]
fn random_bytes_never_panic_and_what_parses_is_canonical() {
    let mut random = Random::new(1);
    let valid: Vec<Vec<u8>> = requests().iter().map(|r| r.encode(3)).filter(|r| r.len() < 1000).collect();
    for _ in 0..100_000 {
        let bytes = random.mutate(&valid);
        if let Ok((tag, op, Ok(request))) = Request::decode(&bytes) {
            assert_eq!((request.encode(tag), request.op()), (bytes, op));
        }
    }
    let valid: Vec<Vec<u8>> = responses().into_iter().map(|r| encoded(&Ok(r), 3)).collect();
    for _ in 0..100_000 {
        let bytes = random.mutate(&valid);
        if let Ok((tag, answer)) = Response::decode(&bytes, None) {
            assert_eq!(encoded(&answer, tag), bytes);
        }
    }
}

#[test]
fn packed_entries_are_read_as_they_were_put() {
    let without = Attr { btime: None, ..attr() };
    let cases = [(None, None), (Some(FileKind::Socket), Some(attr())), (Some(FileKind::Regular), Some(without))];
    let mut packed = Packed::default();
    for (n, (kind, attr)) in cases.iter().enumerate() {
        let before = packed.encoded_len();
        packed.push(n as u64, 7, *kind, b"name", attr.as_ref());
        assert_eq!(packed.encoded_len(), before + Packed::size_of(b"name", attr.as_ref()));
    }
    let empty = encoded(&Ok(Response::Entries(Entries { entries: Packed::default(), end: false })), 1).len();
    let bytes = encoded(&Ok(Response::Entries(Entries { entries: packed.clone(), end: false })), 1);
    assert_eq!(bytes.len(), empty + packed.encoded_len() - Packed::default().encoded_len());
    let Ok((_, Ok(Response::Entries(decoded)))) = Response::decode(&bytes, None) else { panic!("no entries") };
    assert_eq!(decoded.entries, packed);
    let read: Vec<_> = decoded.entries.iter().map(|entry| (entry.kind, entry.attr())).collect();
    assert_eq!(read, cases);
    let mut twice = packed.clone();
    twice.extend(&packed);
    assert_eq!(twice.iter().map(|entry| entry.ino).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    twice.truncate(3);
    assert_eq!(twice, packed);
    // A bad name, a number that is not theirs.
    for (from, to) in [(&b"name"[..], b"na/e"), (&3u32.to_le_bytes()[..], &2u32.to_le_bytes())] {
        let mut bad = bytes.clone();
        let at = bad.windows(4).position(|w| w == from).expect("there");
        bad[at..at + 4].copy_from_slice(to);
        assert!(Response::decode(&bad, None).is_err());
    }
}
