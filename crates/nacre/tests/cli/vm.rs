//! What only virtual machines have: volumes on disks, and a size of their own. Run with `NACRE_SANDBOX=vm` (`cargo xtask vm`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Place, Run, in_vm};

const MIB: u64 = 1 << 20;

/// A place for containers in VMs; none where VMs are not what is tested.
pub fn place(name: &str) -> Option<Place> {
    match in_vm() {
        true => Place::new(name).busybox(),
        false => None,
    }
}

pub struct Containers<'a>(pub &'a Place);

impl Containers<'_> {
    pub fn run(&self, id: &str, config: &Value) {
        self.0.write(config);
        self.0.detached(&["run", "-d", id]).ok();
    }

    pub fn exec(&self, id: &str, script: &str) -> String {
        self.0.nacre(&["exec", id, "sh", "-c", script]).ok().stdout
    }
}

/// Of a container that stays; a pod's first, or one that joins it.
pub fn config(of: Option<&str>) -> Value {
    let mut config = Place::config(&["sleep", "1000"]);
    config["annotations"] = match of {
        None => json!({"io.kubernetes.cri.container-type": "sandbox"}),
        Some(first) => json!({"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": first}),
    };
    config
}

pub fn make(program: &str, args: &[&Path]) -> bool {
    let made = Command::new(program).args(args).stdout(std::process::Stdio::null()).status();
    made.is_ok_and(|status| status.success())
}

#[test]
fn volumes_of_each_kind() {
    let Some(place) = place("vm-volumes") else { return };
    let path = |name: &str| place.dir.join(name);
    // A root that memory devices take: a multiple of 128 MiB, and everybody may read it.
    fs::create_dir(path("tree")).expect("a directory");
    fs::write(path("tree/file"), "of the image\n").expect("a file");
    fs::create_dir(place.bundle().join("rootfs/proc")).expect("a directory");
    let images = [("root.erofs", place.bundle().join("rootfs"), 128 * MIB), ("odd.erofs", path("tree"), 0)];
    for (name, from, size) in images {
        if !make("mkfs.erofs", &[&path(name), &from]) {
            eprintln!("not tested: no mkfs.erofs on this host (erofs-utils)");
            return;
        }
        if size > 0 {
            fs::OpenOptions::new().write(true).open(path(name)).and_then(|file| file.set_len(size)).expect("its size");
        }
    }
    for name in ["one.ext4", "two.ext4"] {
        fs::File::create(path(name)).and_then(|file| file.set_len(32 * MIB)).expect("a disk");
        assert!(make("mkfs.ext4", &[Path::new("-qF"), &path(name)]), "mkfs.ext4, of e2fsprogs");
    }
    fs::create_dir(path("directory")).expect("a directory");
    let with_volumes = |of: Option<&str>, disk: &str| {
        let mut config = config(of);
        config["annotations"]["dev.nacre.rootfs"] = format!("erofs:{}", path("root.erofs").display()).into();
        let mount = |to: &str, kind: &str, from: &Path, options: Value| json!({"destination": to, "type": kind, "source": from, "options": options});
        config["mounts"].as_array_mut().expect("a list").extend([
            mount("/image", "erofs", &path("odd.erofs"), json!(["ro"])),
            mount("/disk", "ext4", &path(disk), json!(["noatime"])),
            mount("/bound", "bind", &path("directory"), json!(["bind"])),
            mount("/new", "tmpfs", Path::new("tmpfs"), json!(["size=64k"])),
        ]);
        config
    };
    let containers = Containers(&place);
    let first = place.id();
    let member = format!("{first}-member");
    containers.run(&first, &with_volumes(None, "one.ext4"));
    containers.run(&member, &with_volumes(Some(&first), "two.ext4"));
    for id in [&first, &member] {
        let script =
            "cat /image/file; echo $0 > /disk/mine; echo $0 > /bound/$0; echo new > /new/file; cat /disk/mine /new/file";
        let seen = containers.exec(id, &script.replace("$0", id));
        assert_eq!(seen, format!("of the image\n{id}\nnew\n"));
        assert_eq!(fs::read_to_string(path("directory").join(id)).expect("written through"), format!("{id}\n"));
        assert!(containers.exec(id, "cat /proc/mounts").contains(" /disk ext4 rw,nodev,noatime"));
    }
    // A disk that is written to is nobody else's, and free again when its container has gone.
    let other = format!("{first}-other");
    place.write(&with_volumes(Some(&first), "two.ext4"));
    place.nacre(&["create", &other]).fails(1, "one container's only");
    place.nacre(&["delete", "--force", &member]).ok();
    containers.run(&other, &with_volumes(Some(&first), "two.ext4"));
    assert_eq!(containers.exec(&other, "cat /disk/mine"), format!("{member}\n"));
    // Read-only and without an overlay, the image itself is the root: mapped, not copied.
    let mut bare = config(Some(&first));
    bare["root"]["readonly"] = true.into();
    bare["annotations"]["dev.nacre.rootfs"] = format!("erofs:{}", path("root.erofs").display()).into();
    bare["annotations"]["dev.nacre.overlay"] = "none".into();
    let mapped = format!("{first}-mapped");
    containers.run(&mapped, &bare);
    let mounts = containers.exec(&mapped, "cat /proc/mounts");
    assert!(mounts.lines().any(|line| line.starts_with("/dev/pmem0 / erofs ro") && line.contains("dax")), "{mounts}");
}

#[test]
fn the_machine_is_as_large_as_its_containers() {
    let Some(place) = place("vm-size") else { return };
    let containers = Containers(&place);
    let first = place.id();
    let member = format!("{first}-member");
    let limited = |of: Option<&str>, mib: u64, cpus: u64| {
        let mut config = config(of);
        config["linux"]["resources"] =
            json!({"memory": {"limit": mib * MIB}, "cpu": {"quota": cpus * 100_000, "period": 100_000}});
        config
    };
    // MemTotal is less by what the kernel keeps for itself.
    let memory = |containers: &Containers<'_>| {
        let text = containers.exec(&first, "cat /proc/meminfo");
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse::<u64>().ok());
        kib.expect("a number") >> 10
    };
    let cpus = |containers: &Containers<'_>| containers.exec(&first, "cat /proc/cpuinfo").matches("processor\t").count();
    // One program sees it all: it notes each size of the machine that it has not seen before.
    let mut watched = limited(None, 64, 1);
    watched["process"]["args"] = json!([
        "sh",
        "-c",
        "while :; do
        now=\"$(grep -c ^processor /proc/cpuinfo) $(grep MemTotal /proc/meminfo)\"
        grep -q \"$now\" /seen 2>&- || echo \"$now\" >> /seen
        sleep 0.2
    done"
    ]);
    containers.run(&first, &watched);
    let small = memory(&containers);
    assert!((100..=192).contains(&small), "{small} MiB");
    assert_eq!(cpus(&containers), 1);
    containers.run(&member, &limited(Some(&first), 300, 1));
    assert_eq!(memory(&containers), small + 384, "by steps of 128 MiB");
    let host = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(cpus(&containers), host.min(2));
    // A running program sees a limit that grows, and stays within it.
    place.nacre(&["update", "--memory", "600m", &member]).ok();
    assert_eq!(memory(&containers), small + 640);
    let limit = |id: &str| {
        let stats = place.nacre(&["events", "--stats", id]).ok().stdout;
        let stats: Value = serde_json::from_str(&stats).expect("JSON");
        stats["data"]["memory"]["usage"]["limit"].as_u64()
    };
    assert_eq!((limit(&member), limit(&first)), (Some(600 * MIB), Some(64 * MIB)), "as the guest's kernel keeps them");
    place.nacre(&["delete", "--force", &member]).ok();
    assert_eq!(memory(&containers), small);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let seen = containers.exec(&first, "cat /seen");
    let sizes: Vec<u64> = seen
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok())
        .map(|kib| kib >> 10)
        .collect();
    assert!([small, small + 384, small + 640].iter().all(|size| sizes.contains(size)), "{seen}");
    assert!(host < 2 || (seen.starts_with("1 ") && seen.contains("\n2 ")), "a CPU more: {seen}");
}

#[test]
fn statistics_are_what_the_guest_sees() {
    let Some(place) = place("vm-stats") else { return };
    let containers = Containers(&place);
    let id = place.id();
    let mut config = config(None);
    config["process"]["args"] = json!([
        "sh",
        "-c",
        "x=0; while [ $x -lt 20000 ]; do x=$((x + 1)); done; sleep 1000 & sleep 1000 & echo > /ready; wait"
    ]);
    config["linux"]["resources"] = json!({"memory": {"limit": 96 * MIB}, "pids": {"limit": 50}});
    config["mounts"].as_array_mut().expect("a list").extend([
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}),
    ]);
    containers.run(&id, &config);
    containers.exec(&id, "while ! test -e /ready; do sleep 0.1; done");
    // The guest's own figures, and the same from outside in between two of them: the exec that reads them is in them too.
    let inside = || {
        let text = containers
            .exec(&id, "cd /sys/fs/cgroup; grep usage_usec cpu.stat; cat memory.current memory.max pids.max pids.current");
        let numbers: Vec<u64> = text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        <[u64; 5]>::try_from(numbers).unwrap_or_else(|_| panic!("{text}"))
    };
    let before = inside();
    let stats = place.nacre(&["events", "--stats", &id]).ok().stdout;
    let after = inside();
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}: {stats}"));
    let cpu_us = number("/data/cpu/usage/total") / 1000;
    assert!((before[0]..=after[0]).contains(&cpu_us), "{before:?} {after:?} {stats}");
    let memory = number("/data/memory/usage/usage");
    assert!(memory.abs_diff(before[1]) < 2 * MIB && memory.abs_diff(after[1]) < 2 * MIB, "{before:?} {after:?} {stats}");
    assert_eq!((number("/data/memory/usage/limit"), number("/data/pids/limit")), (before[2], before[3]));
    // The shell and its two; and the `cat` that reads it.
    assert_eq!((number("/data/pids/current"), before[4]), (3, 4), "{stats}");
}

#[test]
fn measurements_reach_the_log_and_the_host() {
    let Some(place) = place("vm-log") else { return };
    let id = place.id();
    let log = place.dir.join("log");
    let mut config = Place::config(&["sh", "-c", "(x=y; while :; do x=$x$x; done); exit 3"]);
    config["linux"]["resources"] = json!({"memory": {"limit": 64 * MIB}});
    place.write(&config);
    let run = place.nacre(&["--log", log.to_str().expect("a path"), "run", &id]);
    assert_eq!(run.code, Some(3), "{run:?}");
    let text = fs::read_to_string(&log).expect("the log");
    let told = text.lines().find(|line| line.contains("a process was killed because its memory was full"));
    assert!(told.is_some_and(|line| line.contains("level=warning") && line.contains("in the guest: nacre-agent: ")), "{text}");
}

/// A network namespace that stands for a pod's, and one for the host's, with veth pairs between them; gone when dropped.
pub struct Network(String);

impl Network {
    pub fn new(name: &str) -> Option<Network> {
        let network = Network(format!("{name}-{}", std::process::id()));
        let made = ["pod", "host"].iter().all(|end| network.ip(&format!("netns add {}", network.end(end))));
        if !made {
            eprintln!("not tested: no network namespaces here (root, iproute2)");
        }
        made.then_some(network)
    }

    fn end(&self, end: &str) -> String {
        format!("{}-{end}", self.0)
    }

    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.end("pod"))
    }

    fn ip(&self, command: &str) -> bool {
        Command::new("ip").args(command.split(' ')).status().is_ok_and(|status| status.success())
    }

    /// An interface of the pod's, in the network 10.NET.0.0/24, where the host is 10.NET.0.1.
    pub fn attach(&self, interface: &str, net: u8) {
        let (pod, host) = (self.end("pod"), self.end("host"));
        for command in [
            format!("link add peer{net} netns {host} type veth peer name {interface} netns {pod}"),
            format!("-n {host} addr add 10.{net}.0.1/24 dev peer{net}"),
            format!("-n {host} link set peer{net} up"),
            format!("-n {pod} addr add 10.{net}.0.2/24 dev {interface}"),
            format!("-n {pod} link set {interface} up"),
        ] {
            assert!(self.ip(&command), "ip {command}");
        }
    }

    /// What there is of the pod's interfaces, and of what is done with the frames of one.
    pub fn state(&self, interface: &str) -> String {
        let script = format!(
            "ip -o link show | cut -d: -f2 | cut -d@ -f1; tc qdisc show dev {interface}; tc filter show dev {interface} parent ffff: 2>&1"
        );
        let shown = Command::new("ip").args(["netns", "exec", &self.end("pod"), "sh", "-c", &script]).output();
        String::from_utf8_lossy(&shown.expect("ip runs").stdout).into_owned()
    }

    fn detach(&self, interface: &str) {
        assert!(self.ip(&format!("-n {} link del {interface}", self.end("pod"))));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for end in ["pod", "host"] {
            self.ip(&format!("netns del {}", self.end(end)));
        }
    }
}

#[test]
fn interfaces_come_and_go() {
    let Some(place) = place("vm-nics") else { return };
    let Some(network) = Network::new("nacre-vm-nics") else { return };
    let id = place.id();
    let containers = Containers(&place);
    let mut bare = Place::config(&["sleep", "1000"]);
    bare["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": network.path()}]);
    bare["mounts"].as_array_mut().expect("mounts").push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"}));
    bare["process"]["capabilities"] =
        json!({"bounding": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"]});
    network.attach("eth0", 91);
    containers.run(&id, &bare);
    let update = || place.nacre(&["update", "--network", &id]);
    let interfaces = || containers.exec(&id, "cd /sys/class/net; echo *");
    let reaches = |net: u8| {
        containers
            .exec(&id, &format!("busybox ping -c 1 -W 20 10.{net}.0.1 | grep -q '1 packets received' && echo yes || echo no"))
    };
    assert_eq!((reaches(91).as_str(), interfaces().as_str()), ("yes\n", "eth0 lo\n"));
    update().ok();
    assert_eq!(interfaces(), "eth0 lo\n", "nothing has come");

    network.attach("net1", 92);
    let pod = network.end("pod");
    assert!(network.ip(&format!("-n {pod} route add 10.93.0.0/16 via 10.92.0.1 metric 50")));
    update().ok();
    assert_eq!((reaches(92).as_str(), interfaces().as_str()), ("yes\n", "eth0 lo net1\n"));
    assert_eq!(
        containers.exec(&id, "busybox ip route show 10.93.0.0/16").trim(),
        "10.93.0.0/16 via 10.92.0.1 dev net1  metric 50"
    );
    let other = place.nacre(&["run", &format!("{id}-other")]).fails(1, "another sandbox has interface eth0");
    assert!(other.stderr.contains("its tap"), "{}", other.stderr);

    network.detach("net1");
    update().ok();
    assert_eq!((reaches(91).as_str(), interfaces().as_str()), ("yes\n", "eth0 lo\n"));
    // One of the machine's start goes likewise, and its name can come again.
    network.detach("eth0");
    update().ok();
    assert_eq!(interfaces(), "lo\n");
    network.attach("eth0", 94);
    update().ok();
    assert_eq!((reaches(94).as_str(), interfaces().as_str()), ("yes\n", "eth0 lo\n"));
}

/// The kernel's, as landlock_create_ruleset(2) tells it.
fn landlock_version() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag it takes no memory and makes nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) }
}

/// QEMU's stand-in, a shell, is started as QEMU is, and tells on the console what it may not do.
#[test]
fn the_vmm_is_under_landlock() {
    let Some(place) = place("vm-landlock") else { return };
    place.write(&Place::config(&["true"]));
    let stand_in = place.dir.join("qemu-system-x86_64");
    let script = "#!/bin/bash\nexec 9<> /dev/tcp/127.0.0.1/1 || echo this was the stand-in >&2\n";
    fs::write(&stand_in, script).expect("a program");
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).expect("its mode");
    // Only what is below /usr can be a VMM.
    let mount = format!("--bind '{}' /usr/bin/qemu-system-x86_64", stand_in.display());
    let run = Run::of(place.command_beside(&mount, &["run", &place.id()]).output().expect("unshare runs"));
    assert!(run.stderr.contains("this was the stand-in"), "{run:?}");
    // Without the rules, the network would be unreachable. Before version 4 there are none for TCP.
    assert!(landlock_version() < 4 || run.stderr.contains("Permission denied"), "{run:?}");
}

#[test]
fn the_guest_image_is_the_same_each_time() {
    let Some(place) = place("vm-image") else { return };
    let build = |name: &str| {
        let dir = place.dir.join(name);
        place.nacre(&["guest", "build", "--output", dir.to_str().expect("a path")]).ok();
        ["vmlinuz", "initrd.cpio"].map(|file| fs::read(dir.join(file)).expect("a file of the image"))
    };
    let (one, two) = (build("one"), build("two"));
    assert!(one.iter().all(|file| file.len() > 1 << 20) && one == two, "two builds differ");
}

#[test]
fn without_a_network_there_is_none_to_follow() {
    let Some(place) = place("vm-no-network") else { return };
    let id = place.id();
    let containers = Containers(&place);
    containers.run(&id, &Place::config(&["sleep", "1000"]));
    place.nacre(&["update", "--network", &id]).fails(1, "has joined no network namespace that has a name");
}

#[test]
fn changes_are_kept_in_a_directory() {
    let Some(place) = place("vm-overlay") else { return };
    let keeps = |args: &[&str]| {
        let mut config = Place::config(args);
        config["annotations"] = json!({"dev.nacre.overlay": "dir"});
        place.write(&config);
    };
    let rootfs = place.bundle().join("rootfs");
    fs::create_dir_all(rootfs.join("etc/old")).expect("a directory");
    for name in ["etc/removed", "etc/changed", "etc/moved", "etc/old/file"] {
        fs::write(rootfs.join(name), "of the image\n").expect("a file");
    }
    let changes = "cd /etc; busybox rm removed; echo more >> changed; busybox mv moved elsewhere; busybox rm -r old; \
                   busybox mkdir old; echo new > old/new";
    keeps(&["sh", "-c", changes]);
    place.nacre(&["run", &place.id()]).ok();
    let look = "cd /etc; echo *; echo old/*; cat changed elsewhere";
    let there = "changed elsewhere old\nold/new\nof the image\nmore\nof the image\n";
    keeps(&["sh", "-c", look]);
    assert_eq!(place.nacre(&["run", &place.id()]).ok().stdout, there, "another VM");
    assert!(rootfs.join("etc/removed").exists(), "the image's files stay as they are");
    assert_eq!(place.nacre(&["--sandbox", "sentry", "run", &place.id()]).ok().stdout, there, "a sentry knows what is there");
    // It may have removed files in a way that the guest's kernel does not know.
    place.nacre(&["run", &place.id()]).fails(1, "it is a sentry's, and a VM's kernel would show files that were removed there");
    place.assert_clean();
}

#[test]
fn what_a_vm_cannot_have_is_said() {
    let Some(place) = place("vm-cannot") else { return };
    place.write(&Place::config(&["true"]));
    let refused: [(&[&str], &str); 3] = [
        (&["run", "--net", "host"], "a VM cannot use the host's sockets (--net host)"),
        (&["create", "--preserve-fds", "1"], "--preserve-fds 1 is not supported yet"),
        (&["do", "--strace", "--", "true"], "cannot be traced from outside"),
    ];
    for (args, why) in refused {
        let id = place.id();
        let args = if args.first() != Some(&"do") { [args, &[id.as_str()]].concat() } else { args.to_vec() };
        let run = place.nacre(&args);
        assert!(run.code != Some(0) && run.stderr.contains(why), "{args:?}: {run:?}");
    }
    place.assert_clean();
}
