//! What is tried in the guest, where `/` is the read-only tree and `/mnt` the one for writing; and what the host must find afterwards.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use rustix::fs::{CWD, RenameFlags};

/// What the host does when it reads these on the console.
pub const WANT_TREE: &str = "WANT A TREE";
pub const WANT_CHANGE: &str = "WANT A CHANGE";
pub const TREE_IS_GONE: &str = "TREE IS GONE";
pub const WANT_NO_TREE: &str = "WANT NO TREE";

const BIG: usize = 3 << 20;

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// Before the machine boots.
pub fn prepare(share: &Path) {
    fs::write(share.join("given"), pattern(BIG)).unwrap();
    fs::create_dir(share.join("many")).unwrap();
    for n in 0..2000 {
        fs::write(share.join(format!("many/file-{n:04}")), n.to_string()).unwrap();
    }
}

/// After it is off.
pub fn check_on_host(share: &Path) {
    assert_eq!(fs::read(share.join("copy")).unwrap(), pattern(BIG));
    assert_eq!(fs::metadata(share.join("owned")).unwrap().uid(), 1234);
    let mapped = fs::read(share.join("mapped")).unwrap();
    assert_eq!((mapped.len(), mapped[5000]), (10_000, 42));
    assert_eq!(fs::read_link(share.join("link")).unwrap(), Path::new("/etc/hostname"));
}

pub fn main() {
    let cases: [(&str, fn()); 14] = [
        ("a root of Debian is read", root),
        ("nothing changes in a read-only tree", read_only),
        ("a single file is a tree", single_file),
        ("large files are copied", copy),
        ("files are mapped", map),
        ("names come and go", names),
        ("an unlinked file stays", unlinked),
        ("many files are walked", many),
        ("many files get their names as git gives them", linked),
        ("attributes and owners", attributes),
        ("extended attributes", xattrs),
        ("holes and space", holes),
        ("a tree comes, changes and goes", tree),
        ("an overlay on top", overlay),
    ];
    for (name, case) in cases {
        println!("case {name}");
        case();
    }
    println!("ALL DONE");
}

fn root() {
    assert!(fs::read_to_string("/etc/os-release").unwrap().contains("Debian"));
    assert!(fs::read_dir("/usr/bin").unwrap().count() > 100);
    let output = std::process::Command::new("/bin/ls").arg("-la").arg("/etc").output().unwrap();
    assert!(output.status.success() && output.stdout.len() > 1000, "{output:?}");
}

fn read_only() {
    let e = fs::write("/etc/new", "").unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::EROFS), "{e}");
    let e = fs::remove_file("/etc/hostname").unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::EROFS), "{e}");
    let e = OpenOptions::new().write(true).open("/etc/os-release").unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::EROFS), "{e}");
    let e = fs::create_dir("/../5").unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::EROFS), "{e}");
}

fn single_file() {
    assert_eq!(fs::read_to_string("/etc/motd").unwrap(), "a single file\n");
}

fn copy() {
    let mut from = File::open("/mnt/given").unwrap();
    let mut to = File::create("/mnt/copy").unwrap();
    let mut data = Vec::new();
    from.read_to_end(&mut data).unwrap();
    assert!(data == pattern(BIG));
    for piece in data.chunks(300_001) {
        to.write_all(piece).unwrap();
    }
    to.sync_all().unwrap();
    let mut back = [0; 5];
    assert!(to.read_at(&mut back, 0).is_err(), "opened for writing only");
    assert_eq!(to.metadata().unwrap().len(), BIG as u64);
}

fn map() {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open("/mnt/mapped").unwrap();
    file.set_len(10_000).unwrap();
    // SAFETY: a fresh mapping of a file that nobody else maps.
    unsafe {
        let map = rustix::mm::mmap(
            std::ptr::null_mut(),
            10_000,
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
            rustix::mm::MapFlags::SHARED,
            &file,
            0,
        )
        .unwrap()
        .cast::<u8>();
        map.add(5000).write_volatile(42);
        rustix::mm::msync(map.cast(), 10_000, rustix::mm::MsyncFlags::SYNC).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, 5000).unwrap();
        assert_eq!(byte, [42]);
        file.write_at(&[43], 6000).unwrap();
        assert_eq!(map.add(6000).read_volatile(), 43);
        rustix::mm::munmap(map.cast(), 10_000).unwrap();
    }
}

fn names() {
    fs::create_dir_all("/mnt/a/b/c").unwrap();
    fs::write("/mnt/a/b/c/file", "x").unwrap();
    fs::rename("/mnt/a/b", "/mnt/a/d").unwrap();
    assert_eq!(fs::read_to_string("/mnt/a/d/c/file").unwrap(), "x");
    assert!(fs::metadata("/mnt/a/b").is_err());
    fs::hard_link("/mnt/a/d/c/file", "/mnt/a/second").unwrap();
    assert_eq!(fs::metadata("/mnt/a/second").unwrap().nlink(), 2);
    fs::remove_file("/mnt/a/d/c/file").unwrap();
    assert_eq!(fs::read_to_string("/mnt/a/second").unwrap(), "x");
    fs::write("/mnt/a/other", "y").unwrap();
    rustix::fs::renameat_with(CWD, "/mnt/a/other", CWD, "/mnt/a/second", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string("/mnt/a/second").unwrap(), "y");
    assert_eq!(fs::read_to_string("/mnt/a/other").unwrap(), "x");
    let e = rustix::fs::renameat_with(CWD, "/mnt/a/other", CWD, "/mnt/a/second", RenameFlags::NOREPLACE);
    assert_eq!(e, Err(rustix::io::Errno::EXIST));
    fs::rename("/mnt/a/other", "/mnt/a/second").unwrap();
    assert_eq!(fs::read_to_string("/mnt/a/second").unwrap(), "x");
    symlink("/etc/hostname", "/mnt/link").unwrap();
    assert_eq!(fs::read_link("/mnt/link").unwrap(), Path::new("/etc/hostname"));
    rustix::fs::mknodat(CWD, "/mnt/fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let device = rustix::fs::mknodat(CWD, "/mnt/null", rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::RWXU, 0x103);
    assert_eq!(device, Err(rustix::io::Errno::PERM));
    assert!(fs::remove_dir("/mnt/a").is_err());
    fs::remove_dir_all("/mnt/a").unwrap();
    assert!(fs::metadata("/mnt/a").is_err());
}

fn unlinked() {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open("/mnt/gone").unwrap();
    file.write_all(b"still here").unwrap();
    fs::remove_file("/mnt/gone").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.set_len(5).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still");
    fs::create_dir("/mnt/cwd").unwrap();
    std::env::set_current_dir("/mnt/cwd").unwrap();
    fs::remove_dir("/mnt/cwd").unwrap();
    assert_eq!(fs::read_dir(".").unwrap().count(), 0);
    std::env::set_current_dir("/").unwrap();
}

/// More files than the server may have descriptors (1,024), all remembered by the guest, and all open at times.
fn many() {
    let names: Vec<_> = fs::read_dir("/mnt/many").unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 2000);
    for round in 0..2 {
        for name in &names {
            assert!(fs::metadata(name).unwrap().len() <= 4, "{round}");
        }
    }
    for name in names.iter().step_by(3) {
        fs::set_permissions(name, fs::Permissions::from_mode(0o640)).unwrap();
    }
    for name in names.iter().rev().step_by(3) {
        let text = fs::read_to_string(name).unwrap();
        assert!(name.to_str().unwrap().ends_with(&format!("{:0>4}", text)), "{name:?}: {text}");
    }
    let open: Result<Vec<File>, _> = names.iter().map(File::open).collect();
    assert_eq!(open.unwrap_err().raw_os_error(), Some(libc::ENFILE));
    assert_eq!(fs::read_to_string("/mnt/many/file-0007").unwrap(), "7");
}

/// Written under one name, linked to another, the first removed: more of them than there are descriptors.
fn linked() {
    for n in 0..700 {
        let dir = format!("/mnt/objects/{:02}", n % 50);
        fs::create_dir_all(&dir).unwrap();
        fs::write(format!("{dir}/tmp"), n.to_string()).unwrap();
        fs::hard_link(format!("{dir}/tmp"), format!("{dir}/{n}")).unwrap();
        if n % 3 == 0 {
            assert_eq!(fs::metadata(format!("{dir}/tmp")).unwrap().nlink(), 2);
        }
        fs::remove_file(format!("{dir}/tmp")).unwrap();
    }
    for n in 0..700 {
        assert_eq!(fs::read_to_string(format!("/mnt/objects/{:02}/{n}", n % 50)).unwrap(), n.to_string());
    }
}

fn attributes() {
    let file = File::create("/mnt/owned").unwrap();
    std::os::unix::fs::chown("/mnt/owned", Some(1234), Some(4321)).unwrap();
    fs::set_permissions("/mnt/owned", fs::Permissions::from_mode(0o4751)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    file.set_modified(time).unwrap();
    let found = fs::metadata("/mnt/owned").unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1234, 4321, 0o4751));
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_000_000_000, 5));
    std::os::unix::fs::chown("/mnt/owned", Some(1234), Some(1)).unwrap();
    assert_eq!(fs::metadata("/mnt/owned").unwrap().mode() & 0o7777, 0o751);
    let stat = rustix::fs::statvfs("/mnt").unwrap();
    assert!(stat.f_blocks > 0 && stat.f_namemax == 255);
}

fn xattrs() {
    let file = File::create("/mnt/xattr").unwrap();
    match rustix::fs::fsetxattr(&file, "user.colour", b"blue", rustix::fs::XattrFlags::CREATE) {
        // The host's folder for temporary files may have none.
        Err(rustix::io::Errno::OPNOTSUPP) => return println!("no extended attributes on the host"),
        other => other.unwrap(),
    }
    let mut value = [0; 16];
    assert_eq!(rustix::fs::fgetxattr(&file, "user.colour", &mut value), Ok(4));
    let mut list = [0; 64];
    let n = rustix::fs::flistxattr(&file, &mut list).unwrap();
    assert_eq!(&list[..n], b"user.colour\0");
    assert_eq!(rustix::fs::fsetxattr(&file, "trusted.x", b"", rustix::fs::XattrFlags::empty()), Err(rustix::io::Errno::PERM));
    rustix::fs::fremovexattr(&file, "user.colour").unwrap();
    assert_eq!(rustix::fs::fgetxattr(&file, "user.colour", &mut value), Err(rustix::io::Errno::NODATA));
}

fn holes() {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open("/mnt/holes").unwrap();
    file.write_at(b"end", 1 << 20).unwrap();
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 0);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap(), 1 << 20);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 2 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2 << 20);
    let copy = File::create("/mnt/holes-copy").unwrap();
    let n = rustix::fs::copy_file_range(&file, Some(&mut (1 << 20)), &copy, Some(&mut 0), 3).unwrap();
    assert_eq!((n, fs::read("/mnt/holes-copy").unwrap().as_slice()), (3, &b"end"[..]));
    // Locks are kept in the guest.
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let second = File::open("/mnt/holes").unwrap();
    assert!(rustix::fs::flock(&second, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err());
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < std::time::Duration::from_secs(30), "{what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// All trees are in `/srv`.
fn tree() {
    assert!(fs::metadata("/srv/3").is_err());
    println!("{WANT_TREE}");
    until("the tree does not come", || fs::metadata("/srv/3/file").is_ok());
    assert_eq!(fs::read_to_string("/srv/3/file").unwrap(), "late");
    fs::write("/srv/3/new", "").unwrap();
    println!("{WANT_CHANGE}");
    until("the host's change is not seen", || {
        fs::read_to_string("/srv/3/file").is_ok_and(|text| text == "changed by the host")
    });
    let open = File::open("/srv/3/file").unwrap();
    println!("{WANT_NO_TREE}");
    until("the tree does not go", || fs::read_dir("/srv/3").is_err());
    assert_eq!(open.sync_all().unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(fs::read_dir("/srv").unwrap().count(), 3);
    println!("{TREE_IS_GONE}");
}

fn overlay() {
    use rustix::mount::{MountFlags, mount};
    for dir in ["/tmp", "/run"] {
        mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None).unwrap();
    }
    for dir in ["/run/upper", "/run/work", "/run/root"] {
        fs::create_dir(dir).unwrap();
    }
    mount("overlay", "/run/root", "overlay", MountFlags::empty(), c"lowerdir=/etc,upperdir=/run/upper,workdir=/run/work")
        .unwrap();
    let before = fs::read_to_string("/run/root/passwd").unwrap();
    let mut file = OpenOptions::new().append(true).open("/run/root/passwd").unwrap();
    file.write_all(b"more\n").unwrap();
    fs::remove_file("/run/root/hostname").unwrap();
    fs::rename("/run/root/os-release", "/run/root/renamed").unwrap();
    assert_eq!(fs::read_to_string("/run/root/passwd").unwrap(), before.clone() + "more\n");
    assert_eq!(fs::read_to_string("/etc/passwd").unwrap(), before);
    assert!(fs::metadata("/run/root/hostname").is_err() && fs::metadata("/etc/hostname").is_ok());
}
