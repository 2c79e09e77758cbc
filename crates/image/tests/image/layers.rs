//! Well-formed layers, and what becomes of them.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use image::unpack::layer::apply;
use image::unpack::{Applied, Limits, Owners, UnpackError};
use tar::EntryType;

use crate::build::{Dir, Tar, gzip};

pub fn owners() -> Owners {
    if image::store::may_give_files_away() { Owners::Archive } else { Owners::Own }
}

pub fn unpack(dir: &Path, layer: &[u8]) -> Result<Applied, UnpackError> {
    let root = fs::File::open(dir).expect("directory");
    apply(root.as_fd(), std::io::Cursor::new(layer.to_vec()), Limits::default(), owners(), &mut |_| {})
}

fn read(dir: &Dir, path: &str) -> String {
    fs::read_to_string(dir.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn files_have_their_attributes() {
    let dir = Dir::new("attributes");
    let mut tar = Tar::new().entry(EntryType::Directory, "d/", "", |h| {
        h.set_mode(0o1777);
        h.set_mtime(5);
    });
    tar = tar.entry(EntryType::Regular, "d/setuid", "", |h| {
        h.set_mode(0o4755);
        h.set_uid(12);
        h.set_gid(34);
        h.set_mtime(7);
    });
    tar = tar.symlink("d/absolute", "/etc/passwd").symlink("d/up", "../../../x").entry(EntryType::Fifo, "d/fifo", "", |_| {});
    tar = tar.entry(EntryType::Char, "d/null", "", |_| {}).hard_link("d/same", "d/setuid");
    let applied = unpack(&dir.0, &gzip(&tar.end())).expect("unpacked");
    assert_eq!((applied.counts.members, applied.counts.devices_skipped), (7, 1));
    let metadata = |path: &str| fs::symlink_metadata(dir.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(metadata("d").mode() & 0o7777, 0o1777);
    assert_eq!(metadata("d").mtime(), 5, "set after files were put in");
    let setuid = metadata("d/setuid");
    assert_eq!((setuid.mode() & 0o7777, setuid.mtime(), setuid.nlink()), (0o4755, 7, 2));
    assert_eq!(setuid.ino(), metadata("d/same").ino());
    if owners() == Owners::Archive {
        assert_eq!((setuid.uid(), setuid.gid()), (12, 34));
    }
    assert_eq!(fs::read_link(dir.join("d/absolute")).expect("link"), Path::new("/etc/passwd"));
    assert_eq!(fs::read_link(dir.join("d/up")).expect("link"), Path::new("../../../x"));
    assert_eq!(metadata("d/absolute").mtime(), 1_000_000_000);
    assert!(metadata("d/fifo").file_type().is_fifo());
    assert!(!dir.join("d/null").exists(), "device nodes are not made");
}

#[test]
fn pax_and_gnu_say_more_than_a_header() {
    let dir = Dir::new("pax");
    let long = format!("{}/{}", "l".repeat(200), "n".repeat(250));
    let tar = Tar::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"12.5"),
            ("SCHILY.xattr.user.note", b"a\nb\0c"),
            ("SCHILY.xattr.trusted.x", b"1"),
        ])
        .file("short", b"pax")
        .raw(&Tar::header(EntryType::GNULongName, "././@LongLink", "", 151), format!("{}\0", "g".repeat(150)).as_bytes())
        .file("short", b"gnu")
        .raw(&Tar::header(EntryType::XGlobalHeader, "pax_global", "", 17), b"17 comment=hello\n")
        .file("plain", b"plain");
    let applied = unpack(&dir.0, &tar.end()).expect("unpacked");
    assert_eq!(read(&dir, &long), "pax");
    assert_eq!(read(&dir, &"g".repeat(150)), "gnu");
    assert_eq!(read(&dir, "plain"), "plain");
    let metadata = fs::metadata(dir.join(&long)).expect("metadata");
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (12, 500_000_000));
    assert!(applied.counts.xattrs_skipped >= 1, "trusted.x is left out");
    let mut value = [0; 16];
    match rustix::fs::getxattr(dir.join(&long), "user.note", &mut value) {
        Ok(length) => assert_eq!(&value[..length], b"a\nb\0c"),
        Err(_) => assert_eq!(applied.counts.xattrs_skipped, 2, "a file system without user attributes"),
    }
}

#[test]
fn capabilities_of_files_are_kept() {
    if owners() != Owners::Archive {
        eprintln!("not tested: only root may give files capabilities");
        return;
    }
    let dir = Dir::new("capability");
    // Revision 2, effective, CAP_NET_RAW and (for the byte 0x0a) two more.
    let value = [1, 0, 0, 2, 0x0a, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new().pax(&[("SCHILY.xattr.security.capability", &value)]).file("ping", b"x");
    unpack(&dir.0, &tar.end()).expect("unpacked");
    let mut found = [0; 32];
    let length = rustix::fs::getxattr(dir.join("ping"), "security.capability", &mut found).expect("attribute");
    assert_eq!(&found[..length], value);
}

#[test]
fn sparse_files_of_every_format() {
    let dir = Dir::new("sparse");
    // GNU's old format: one piece of 512 bytes at 1 MiB in a file of 2 MiB.
    let mut header = Tar::header(EntryType::GNUSparse, "old", "", 512);
    {
        let gnu = header.as_gnu_mut().expect("gnu");
        gnu.sparse[0].offset.copy_from_slice(b"00004000000\0");
        gnu.sparse[0].numbytes.copy_from_slice(b"00000001000\0");
        gnu.realsize.copy_from_slice(b"00010000000\0");
    }
    header.set_cksum();
    let piece = [b'x'; 512];
    let mut map = b"1\n1048576\n512\n".to_vec();
    map.resize(512, 0);
    let tar = Tar::new()
        .raw(&header, &piece)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"new"),
            ("GNU.sparse.realsize", b"2097152"),
        ])
        .file("GNUSparseFile.0/new", &[&map[..], &piece].concat())
        .pax(&[("GNU.sparse.size", b"2097152"), ("GNU.sparse.name", b"map"), ("GNU.sparse.map", b"1048576,512")])
        .file("GNUSparseFile.0/map", &piece)
        .file("zeros", &vec![0; 2 << 20]);
    unpack(&dir.0, &tar.end()).expect("unpacked");
    for name in ["old", "new", "map"] {
        let bytes = fs::read(dir.join(name)).expect("file");
        assert_eq!(bytes.len(), 2 << 20, "{name}");
        assert_eq!(&bytes[1 << 20..(1 << 20) + 512], piece, "{name}");
        assert!(bytes[..1 << 20].iter().chain(&bytes[(1 << 20) + 512..]).all(|byte| *byte == 0), "{name}");
    }
    for name in ["old", "new", "map", "zeros"] {
        assert!(fs::metadata(dir.join(name)).expect("metadata").blocks() < 200, "{name} has holes");
    }
}

#[test]
fn whiteouts_hide_what_is_below() {
    let dir = Dir::new("whiteouts");
    let base = Tar::new()
        .dir("a")
        .file("a/gone", b"1")
        .file("a/kept", b"1")
        .dir("b/deep")
        .file("b/deep/x", b"1")
        .file("b/y", b"1")
        .dir("c")
        .file("c/z", b"1");
    unpack(&dir.0, &base.end()).expect("base");
    // In b, an opaque mark after a file of this layer hides only what is below.
    let layer = Tar::new()
        .file("a/.wh.gone", b"")
        .file("b/deep/new", b"2")
        .file("b/.wh..wh..opq", b"")
        .file(".wh.c", b"")
        .file("a/.wh.never-there", b"")
        .file("nowhere/.wh.x", b"")
        .file(".wh..wh.aufs", b"")
        .file("d", b"2")
        .file(".wh.d", b"");
    unpack(&dir.0, &layer.end()).expect("layer");
    assert!(!dir.join("a/gone").exists() && dir.join("a/kept").exists());
    assert!(!dir.join("b/y").exists() && !dir.join("b/deep/x").exists());
    assert_eq!(read(&dir, "b/deep/new"), "2");
    assert!(!dir.join("c").exists());
    assert_eq!(read(&dir, "d"), "2", "a whiteout does not hide what its own layer has");
    let names: Vec<_> = fs::read_dir(&dir.0).expect("directory").flatten().map(|e| e.file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with(".wh.")), "{names:?}");
}

#[test]
fn later_layers_replace() {
    let dir = Dir::new("replace");
    let base =
        Tar::new().dir("d").file("d/x", b"1").file("f", b"1").symlink("l", "d").file("old", b"1").hard_link("linked", "old");
    unpack(&dir.0, &base.end()).expect("base");
    let layer = Tar::new()
        .file("d", b"a file now")
        .dir("f")
        .file("f/in", b"2")
        .dir("l")
        .file("l/own", b"2")
        .file("old", b"2")
        .hard_link("across", "linked");
    unpack(&dir.0, &layer.end()).expect("layer");
    assert_eq!(read(&dir, "d"), "a file now");
    assert_eq!(read(&dir, "f/in"), "2");
    assert!(!fs::symlink_metadata(dir.join("l")).expect("l").is_symlink(), "a directory replaces a link to one");
    assert_eq!((read(&dir, "old").as_str(), read(&dir, "linked").as_str(), read(&dir, "across").as_str()), ("2", "1", "1"));
    assert_eq!(fs::metadata(dir.join("linked")).expect("linked").nlink(), 2);
}

#[test]
fn the_same_member_twice_is_fine() {
    let dir = Dir::new("twice");
    let tar =
        Tar::new().file("x", b"1").file("x", b"2").dir("d").dir("d").hard_link("x", "x").symlink("s", "a").symlink("s", "b");
    unpack(&dir.0, &tar.end()).expect("unpacked");
    assert_eq!(read(&dir, "x"), "2");
    assert_eq!(fs::read_link(dir.join("s")).expect("link"), Path::new("b"));
}

#[test]
fn links_on_the_way_stay_inside() {
    let dir = Dir::new("inside");
    let root = dir.join("root");
    fs::create_dir(&root).expect("root");
    let outside = dir.join("outside");
    fs::create_dir(&outside).expect("outside");
    let tar = Tar::new()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .file("lib/libx", b"x")
        .symlink("up", "../outside")
        .dir("outside")
        .file("up/file", b"clamped")
        .symlink("abs", &outside.display().to_string()[..outside.display().to_string().len().min(99)])
        .dir("a");
    unpack(&root, &tar.end()).expect("unpacked");
    assert_eq!(fs::read_to_string(root.join("usr/lib/libx")).expect("libx"), "x");
    assert_eq!(fs::read_to_string(root.join("outside/file")).expect("file"), "clamped");
    assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0, "nothing outside");
    let mode = fs::metadata(root.join("usr")).expect("usr").permissions().mode() & 0o777;
    assert_eq!(mode, 0o755, "a directory nobody described");
}

#[test]
fn deep_trees_are_made_and_removed() {
    let dir = Dir::new("deep");
    let deep = "d/".repeat(1000);
    let tar = Tar::new().pax(&[("path", format!("{deep}f").as_bytes())]).file("x", b"1");
    unpack(&dir.0, &tar.end()).expect("unpacked");
    // A link into the depth makes more depth than a path can name.
    let tar = Tar::new()
        .pax(&[("linkpath", deep.trim_end_matches('/').as_bytes())])
        .symlink("l", "x")
        .pax(&[("path", format!("l/{deep}f").as_bytes())])
        .file("x", b"1");
    unpack(&dir.0, &tar.end()).expect("unpacked");
    unpack(&dir.0, &Tar::new().file(".wh.d", b"").end()).expect("removed");
    assert!(!dir.join("d").exists());
    assert!(fs::read_dir(&dir.0).expect("directory").flatten().all(|e| e.file_name() == "l"));
}
