//! Archives that are refused, and nothing of which appears outside their tree.

use std::fs;
use std::os::fd::AsFd;

use image::unpack::layer::apply;
use image::unpack::{Limits, UnpackError};
use tar::EntryType;

use crate::build::{Dir, Tar, gzip};
use crate::layers::{owners, unpack};

#[track_caller]
fn refused(name: &str, layer: Vec<u8>, says: &str) {
    let dir = Dir::new("hostile");
    let root = dir.join("root");
    fs::create_dir(&root).expect("root");
    fs::write(dir.join("secret"), "secret").expect("secret");
    let error = unpack(&root, &layer).expect_err(name).to_string();
    assert!(error.contains(says), "{name}: {error:?} does not say {says:?}");
    let outside: Vec<_> = fs::read_dir(&dir.0).expect("directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(outside.len(), 2, "{name}: {outside:?}");
    assert_eq!(fs::read_to_string(dir.join("secret")).expect("secret"), "secret", "{name}");
}

#[test]
fn ways_out_are_refused() {
    refused("..", Tar::new().file("../evil", b"x").end(), "\"..\" in a path");
    refused("a/../..", Tar::new().file("a/../../evil", b"x").end(), "\"..\" in a path");
    refused("hard link", Tar::new().hard_link("x", "../secret").end(), "\"..\" in a path");
    refused("absolute hard link", Tar::new().hard_link("x", "/etc/passwd").end(), "not there");
    refused("hard link through a link", Tar::new().symlink("l", "..").hard_link("x", "l/secret").end(), "not there");
    refused("hard link to nothing", Tar::new().hard_link("x", "y").end(), "not there");
    refused("hard link to a directory", Tar::new().dir("d").hard_link("x", "d").end(), "a directory");
    refused("whiteout of ..", Tar::new().file(".wh...", b"").end(), "whiteout");
    refused("whiteout of .", Tar::new().file(".wh..", b"").end(), "whiteout");
    refused("whiteout of nothing", Tar::new().file(".wh.", b"").end(), "whiteout");
    refused("whiteout as a directory", Tar::new().file(".wh.x/y", b"").end(), "whiteout");
    refused("a dangling parent", Tar::new().symlink("l", "nowhere").file("l/x", b"").end(), "link to nothing");
    refused("a file as a parent", Tar::new().file("f", b"").file("f/x", b"").end(), "cannot open the directory");
    refused(
        "a ring of links",
        Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"").end(),
        "cannot open the directory",
    );
    refused("the root as a file", Tar::new().file("./", b"").symlink(".", "x").end(), "root is not a directory");
    refused("a long component", Tar::new().pax(&[("path", &[b'x'; 300])]).file("x", b"").end(), "longer than 255");
    refused("a long path", Tar::new().pax(&[("path", "x/".repeat(3000).as_bytes())]).file("x", b"").end(), "longer than 4095");
    refused("a NUL", Tar::new().pax(&[("path", b"a\0b")]).file("x", b"").end(), "NUL");
    refused(
        "an owner out of range",
        Tar::new().pax(&[("uid", b"4294967295")]).file("x", b"").end(),
        if owners() == image::unpack::Owners::Archive { "out of range" } else { "" },
    );
}

#[test]
fn damage_is_refused() {
    let good = Tar::new().file("x", &[b'x'; 2000]).end();
    refused("garbage", vec![b'g'; 4096], "not a tar archive");
    refused("cut in a header", good[..300].to_vec(), "ends in the middle of a header");
    refused("cut in data", good[..1200].to_vec(), "ends in the middle of a member's data");
    refused("cut gzip", gzip(&good)[..20].to_vec(), "");
    refused("xz", [0xfd, b'7', b'z', b'X', b'Z', 0].to_vec(), "xz");
    refused("a type nobody knows", Tar::new().entry(EntryType::new(b'Q'), "x", "", |_| {}).end(), "unsupported type 'Q'");
    refused(
        "a name for nobody",
        Tar::new().raw(&Tar::header(EntryType::GNULongName, "L", "", 3), b"abc").end(),
        "does not follow",
    );
    refused("two names", Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("x", b"").end(), "twice");
    refused(
        "malformed pax",
        Tar::new().raw(&Tar::header(EntryType::XHeader, "p", "", 9), b"7 no-thin").file("x", b"").end(),
        "malformed pax",
    );
    let mut sparse = Tar::header(EntryType::GNUSparse, "s", "", 512);
    sparse.as_gnu_mut().expect("gnu").realsize.copy_from_slice(b"00000000100\0");
    sparse.as_gnu_mut().expect("gnu").sparse[0].numbytes.copy_from_slice(b"00000001000\0");
    sparse.as_gnu_mut().expect("gnu").sparse[0].offset.copy_from_slice(b"00000000000\0");
    sparse.set_cksum();
    refused("sparse beyond the end", Tar::new().raw(&sparse, &[b'x'; 512]).end(), "sparse");
    let far = Tar::new()
        .pax(&[("GNU.sparse.map", b"18446744073709551615,512"), ("GNU.sparse.size", b"600")])
        .file("x", &[0; 512])
        .end();
    refused("sparse overflow", far, "sparse");
}

#[test]
fn bombs_are_refused() {
    // A pax header of 2 GiB by its word, and one that really comes.
    let huge = Tar::new().raw(&Tar::header(EntryType::XHeader, "p", "", 2 << 30), b"").end();
    refused("a huge pax header", huge, "larger than 1 MiB");
    let many =
        (0..40).fold(Tar::new(), |tar, _| tar.raw(&Tar::header(EntryType::XGlobalHeader, "g", "", 65536), &[b'x'; 65536]));
    refused("many global headers", many.file("x", b"").end(), "larger than 1 MiB");
    let sparse =
        Tar::new().pax(&[("GNU.sparse.map", b"0,0"), ("GNU.sparse.size", b"9000000000000000000")]).file("x", b"").end();
    refused("a sparse file of 8 EiB", sparse, "a file of 9000000000000000000 bytes");
    let dir = Dir::new("bomb");
    let root = fs::File::open(&dir.0).expect("directory");
    let run = |layer: &[u8], limits: Limits| {
        apply(root.as_fd(), std::io::Cursor::new(layer.to_vec()), limits, owners(), &mut |_| {}).expect_err("a bomb")
    };
    let zeros = gzip(&Tar::new().file("x", &vec![0; 64 << 20]).end());
    let error = run(&zeros, Limits { ratio: 100, ratio_from: 1 << 20, ..Limits::default() });
    assert!(matches!(error, UnpackError::Bomb { .. }), "{error}");
    let error = run(&zeros, Limits { bytes: 1 << 20, ..Limits::default() });
    assert!(matches!(error, UnpackError::TooLarge { .. }), "{error}");
    let many = (0..100).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), b"")).end();
    let error = run(&many, Limits { members: 50, ..Limits::default() });
    assert!(matches!(error, UnpackError::TooMany { limit: 50 }), "{error}");
}
