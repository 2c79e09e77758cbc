use super::*;

fn header(kind: EntryType, name: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

fn archive(parts: &[(&Header, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, data) in parts {
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

#[test]
fn members_follow_each_other_whether_read_or_not() {
    let bytes = archive(&[
        (&header(EntryType::Regular, b"a", 5), b"first"),
        (&header(EntryType::Regular, b"b/", 0), b""),
        // Header-only members have no data, whatever they say.
        (&header(EntryType::Symlink, b"c", 99), b""),
        (&header(EntryType::Regular, b"d", 6), b"second"),
    ]);
    let mut reader = Reader::new(&bytes[..]);
    let names: Vec<_> =
        std::iter::from_fn(|| reader.next_member().expect("member")).map(|m| (m.path, m.kind, m.size)).collect();
    let expected = [("a", Kind::File, 5), ("b/", Kind::Directory, 0), ("c", Kind::Symlink, 0), ("d", Kind::File, 6)];
    assert_eq!(names, expected.map(|(name, kind, size)| (name.as_bytes().to_vec(), kind, size)));
    let mut reader = Reader::new(&bytes[..]);
    let (mut all, mut buffer) = (Vec::new(), [0; 4]);
    while reader.next_member().expect("member").is_some() {
        loop {
            match reader.read_data(&mut buffer).expect("data") {
                0 => break,
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    }
    assert_eq!(all, b"firstsecond");
    assert_eq!(reader.position(), bytes.len() as u64);
}

#[test]
fn a_size_that_overflows_is_refused() {
    let mut big = header(EntryType::Regular, b"x", 0);
    big.as_old_mut().size = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    big.set_cksum();
    assert!(Reader::new(&archive(&[(&big, b"")])[..]).next_member().is_err());
    let pax = b"29 size=18446744073709551615\n";
    let bytes =
        archive(&[(&header(EntryType::XHeader, b"p", pax.len() as u64), pax), (&header(EntryType::Regular, b"x", 0), b"")]);
    assert!(Reader::new(&bytes[..]).next_member().is_err());
}

#[test]
fn empty_numbers_are_zero() {
    let mut old = header(EntryType::Regular, b"x", 0);
    old.as_old_mut().uid = [0; 8];
    old.as_old_mut().mtime = [b' '; 12];
    old.set_cksum();
    let member = Reader::new(&archive(&[(&old, b"")])[..]).next_member().expect("member").expect("one");
    assert_eq!((member.uid, member.mtime), (0, Time::default()));
    old.as_old_mut().uid = *b"nonsense";
    old.set_cksum();
    assert!(matches!(Reader::new(&archive(&[(&old, b"")])[..]).next_member(), Err(ArchiveError::Field("uid"))));
}
