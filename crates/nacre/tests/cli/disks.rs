//! Block devices of the host that a container is given, and volumes on devices that come when the machine runs already.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Place, in_vm};
use crate::vm::{Containers, config, make, place};

const MIB: u64 = 1 << 20;

/// A loop device of the host, with a file's content.
struct Loop {
    node: String,
    file: PathBuf,
}

impl Loop {
    /// None (with a word why) where there are none.
    fn new(file: PathBuf, text: &str, sector: u32) -> Option<Loop> {
        if let Err(error) = fs::File::open("/dev/loop-control") {
            eprintln!("not tested: no loop devices on this host: /dev/loop-control: {error}");
            return None;
        }
        fs::write(&file, text).and_then(|()| fs::OpenOptions::new().write(true).open(&file)?.set_len(MIB)).expect("a file");
        let sector = sector.to_string();
        let made = Command::new("losetup").args(["--find", "--show", "--sector-size", &sector]).arg(&file).output();
        match made {
            Ok(made) if made.status.success() => Some(Loop { node: String::from_utf8_lossy(&made.stdout).trim().into(), file }),
            made => panic!("losetup: {made:?}"),
        }
    }

    fn number(&self) -> (u32, u32) {
        let rdev = fs::metadata(&self.node).expect("the node").rdev();
        (rustix::fs::major(rdev), rustix::fs::minor(rdev))
    }

    fn detach(&self) -> bool {
        make("losetup", &[Path::new("-d"), Path::new(&self.node)])
    }

    /// Gives it back; whether nobody else holds it.
    fn gives_back(self) -> bool {
        // Somebody else may have it then.
        let device = std::mem::ManuallyDrop::new(self);
        // The kernel detaches one that is held later; and a node that is free again may be another file's at once.
        assert!(device.detach(), "losetup -d {}", device.node);
        let list = Command::new("losetup").arg("-j").arg(&device.file).output().expect("losetup");
        assert!(list.status.success(), "{list:?}");
        list.stdout.is_empty()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Gives a container the block device of this number.
fn give(config: &mut Value, number: (u32, u32), path: &str, access: &str) {
    let mut add = |list: &str, item: Value| match config.pointer_mut(list) {
        Some(Value::Array(there)) => there.push(item),
        _ => panic!("no {list}"),
    };
    let node = json!({"type": "b", "major": number.0, "minor": number.1, "path": path, "fileMode": 0o640, "uid": 0, "gid": 6});
    add("/linux/devices", node);
    let rule = json!({"allow": true, "type": "b", "major": number.0, "minor": number.1, "access": access});
    add("/linux/resources/devices", rule);
}

fn with_devices(mut config: Value) -> Value {
    config["linux"]["devices"] = json!([]);
    config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    config["mounts"].as_array_mut().expect("a list").push(json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}));
    config
}

#[test]
fn block_devices_are_given() {
    let Some(place) = place("vm-block") else { return };
    let new = |name: &str, text: &str, sector| Loop::new(place.dir.join(name), text, sector);
    let Some(volume) = new("volume", "of the host", 512) else { return };
    let Some(other) = new("other", "of the other", 4096) else { return };
    let containers = Containers(&place);
    let first = place.id();
    let member = format!("{first}-member");

    let shared = place.dir.join("shared");
    fs::create_dir(&shared).expect("a directory");
    let mut of_first = with_devices(config(None));
    give(&mut of_first, volume.number(), "/dev/volume", "rwm");
    let bind = |destination: &str, source: &Path| json!({"destination": destination, "type": "bind", "source": source});
    let mounts = of_first["mounts"].as_array_mut().expect("a list");
    mounts.extend([bind("/shared", &shared), bind("/hidden", Path::new("/dev/null"))]);
    containers.run(&first, &of_first);
    let seen = containers.exec(&first, "ls -ln /dev/volume; busybox head -c 11 /dev/volume");
    assert!(seen.starts_with("brw-r-----") && seen.contains(" 6 ") && seen.ends_with("of the host"), "{seen}");
    let write =
        "printf 'of the guest' | busybox dd of=/dev/volume conv=fsync,notrunc 2>&1 && busybox blockdev --getsize64 /dev/volume";
    let said = containers.exec(&first, write);
    assert!(said.ends_with(&format!("{MIB}\n")), "{said}");
    assert!(fs::read(&volume.file).expect("the file").starts_with(b"of the guest"), "it is not on the host's disk");

    // A node in a volume opens nothing: its number is that of a disk of the guest's. A default device's over a file is the guest's.
    let number = containers.exec(&first, "busybox stat -c '%t %T' /dev/volume");
    let mut number = number.split_ascii_whitespace().map(|hex| u32::from_str_radix(hex, 16).expect("a number"));
    let number = rustix::fs::makedev(number.next().expect("its major"), number.next().expect("its minor"));
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, shared.join("node"), rustix::fs::FileType::BlockDevice, mode, number).expect("a node");
    let seen = containers.exec(&first, "busybox head -c 1 /shared/node 2>&1; echo gone > /hidden && cat /hidden");
    assert!(seen.contains("/shared/node: Permission denied"), "{seen}");

    // A later container: the same disk, and one of its own to be read only, with sectors of another size.
    let mut of_member = with_devices(config(Some(&first)));
    give(&mut of_member, volume.number(), "/dev/same", "rw");
    give(&mut of_member, other.number(), "/dev/deep/other", "r");
    // On the host's file system, which has no nodes of ours; and in the overlay.
    fs::create_dir(shared.join("disks")).expect("a directory");
    of_member["mounts"].as_array_mut().expect("a list").push(bind("/shared", &shared));
    give(&mut of_member, volume.number(), "/shared/disks/same", "rw");
    give(&mut of_member, volume.number(), "/root-disk", "rw");
    containers.run(&member, &of_member);
    let seen = containers.exec(&member, "busybox head -c 12 /dev/same; echo; busybox head -c 12 /dev/deep/other");
    assert_eq!(seen, "of the guest\nof the other");
    let seen =
        containers.exec(&member, "busybox head -c 12 /shared/disks/same; ls -ln /root-disk; busybox head -c 12 /root-disk");
    assert!(seen.starts_with("of the guestbrw-r-----") && seen.ends_with("of the guest"), "{seen}");
    let seen = containers.exec(
        &member,
        "for disk in /dev/deep/other /dev/same; do busybox blockdev --getss $disk; busybox blockdev --getro $disk; done",
    );
    assert_eq!(seen, "4096\n1\n512\n0\n");
    let written =
        containers.exec(&member, "echo no | busybox dd of=/dev/deep/other conv=fsync,notrunc 2>/dev/null || echo refused");
    assert_eq!(written, "refused\n");
    assert!(fs::read(&other.file).expect("the file").starts_with(b"of the other"), "it was written to");
    assert!(containers.exec(&first, "cat /proc/partitions").contains(" vdb\n"));

    // It goes with its container.
    place.nacre(&["delete", "--force", &member]).ok();
    assert!(!containers.exec(&first, "cat /proc/partitions").contains(" vdb\n"));
    assert!(other.gives_back(), "the machine holds it still");

    // What is not there is named, and who has it otherwise already.
    let absent = format!("{first}-absent");
    for (number, access, why) in
        [((7, 77_777), "rw", "the host has no block device 7:77777"), (volume.number(), "r", "one container's only")]
    {
        let mut config = with_devices(self::config(Some(&first)));
        give(&mut config, number, "/dev/volume", access);
        place.write(&config);
        place.nacre(&["create", &absent]).fails(1, why);
    }
    containers.exec(&first, "busybox head -c 1 /dev/volume");
}

/// Who may make any node opens with it what the rules say, and of block devices the container's own disks, whatever they say.
#[test]
fn nodes_of_other_devices_open_nothing() {
    let Some(place) = place("vm-rules") else { return };
    let Some(volume) = Loop::new(place.dir.join("volume"), "of the first", 512) else { return };
    let containers = Containers(&place);
    let first = place.id();
    let member = format!("{first}-member");
    let with_caps = |mut config: Value| {
        let caps = json!(["CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SYSLOG"]);
        config["process"]["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps});
        config
    };
    let mut of_first = with_caps(with_devices(config(None)));
    give(&mut of_first, volume.number(), "/dev/volume", "r");
    let kmsg = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"});
    of_first["linux"]["resources"]["devices"].as_array_mut().expect("a list").push(kmsg);
    containers.run(&first, &of_first);
    let seen = containers.exec(
        &first,
        "busybox head -c 12 /dev/volume; echo; mknod() { busybox mknod \"$@\" && echo made; }
        mknod /null c 1 3; echo x > /null && echo written; mknod /dev/kmsg c 1 11; busybox dd if=/dev/kmsg bs=8k count=1 2>/dev/null | busybox grep -q . && echo read
        (echo x > /dev/kmsg) 2>&1 || echo not written; mknod /mem c 1 1; busybox head -c 1 /mem 2>&1; busybox stat -c '%t %T' /dev/volume",
    );
    let lines: Vec<&str> = seen.lines().collect();
    let [content, "made", "written", "made", "read", kmsg, "not written", "made", mem, number] = lines[..] else {
        panic!("{seen}")
    };
    assert_eq!(content, "of the first");
    for denied in [kmsg, mem] {
        assert!(denied.contains("Operation not permitted"), "{denied}");
    }

    let mut of_member = with_caps(with_devices(config(Some(&first))));
    of_member["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    containers.run(&member, &of_member);
    let number: Vec<u32> = number.split(' ').map(|hex| u32::from_str_radix(hex, 16).expect("a number")).collect();
    let seen = containers.exec(
        &member,
        &format!(
            "for node in /dev/disk /disk; do
                busybox mknod $node b {} {} && busybox head -c 1 $node 2>&1; (echo x > $node) 2>&1
            done; busybox mknod /kmsg c 1 11 && : > /kmsg && echo opened",
            number[0], number[1]
        ),
    );
    assert_eq!(seen.matches("Operation not permitted").count(), 4, "{seen}");
    assert!(seen.ends_with("opened\n"), "{seen}");
}

#[test]
fn a_sentry_is_given_none() {
    if in_vm() {
        return;
    }
    let place = Place::new("block");
    let mut config = with_devices(Place::config(&["true"]));
    give(&mut config, (7, 0), "/dev/volume", "rw");
    place.write(&config);
    place.nacre(&["create", "x"]).fails(1, "linux.devices /dev/volume: the block device 7:0: only a virtual machine has disks");
    place.assert_clean();
}

/// The first container brings no device of a kind: the guest has not needed its driver yet.
#[test]
fn only_a_later_container_has_volumes() {
    let Some(place) = place("vm-late") else { return };
    let path = |name: &str| place.dir.join(name);
    fs::create_dir(path("tree")).expect("a directory");
    fs::write(path("tree/file"), "of the image\n").expect("a file");
    for (name, size) in [("memory.erofs", 128 * MIB), ("odd.erofs", 0)] {
        if !make("mkfs.erofs", &[&path(name), &path("tree")]) {
            eprintln!("not tested: no mkfs.erofs on this host (erofs-utils)");
            return;
        }
        if size > 0 {
            fs::OpenOptions::new().write(true).open(path(name)).and_then(|file| file.set_len(size)).expect("its size");
        }
    }
    fs::File::create(path("ext4")).and_then(|file| file.set_len(32 * MIB)).expect("a disk");
    assert!(make("mkfs.ext4", &[Path::new("-qF"), &path("ext4")]), "mkfs.ext4, of e2fsprogs");
    let containers = Containers(&place);
    let first = place.id();
    containers.run(&first, &config(None));
    // Each kind by a container of its own, so that none finds a driver that another has had loaded: a disk last, as an image may become one.
    for (name, kind, wanted) in [
        ("memory.erofs", "erofs", "/dev/pmem0 /volume erofs "),
        ("odd.erofs", "erofs", "/dev/vda /volume erofs "),
        ("ext4", "ext4", " /volume ext4 "),
    ] {
        let member = format!("{first}-{name}");
        let mut config = config(Some(&first));
        let volume = json!({"destination": "/volume", "type": kind, "source": path(name), "options": []});
        config["mounts"].as_array_mut().expect("a list").push(volume);
        containers.run(&member, &config);
        let mounts = containers.exec(&member, "cat /proc/mounts; ls /volume");
        assert!(mounts.contains(wanted), "{name}: {mounts}");
        if kind == "erofs" {
            assert_eq!(containers.exec(&member, "cat /volume/file"), "of the image\n");
        }
        place.nacre(&["delete", "--force", &member]).ok();
    }
}
