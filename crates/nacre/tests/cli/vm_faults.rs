//! What befalls virtual machines: each fault ends the sandbox in a bounded time, says why, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Place, Run};
use crate::vm::{Network, place};

/// The longest a fault may take to be over: the emulated guest is given its time to answer first.
const LIMIT: Duration = Duration::from_secs(90);

/// Waits until something is so. False: it has not become so within the limit.
fn until(mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + LIMIT;
    while !so() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// The processes of a sandbox: what they are called, and their pids.
fn processes(place: &Place, id: &str) -> Vec<(String, i32)> {
    let state: Value = serde_json::from_str(&place.nacre(&["state", id]).ok().stdout).expect("JSON");
    let keeper = state["pid"].as_i64().expect("a pid") as i32;
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = cgroup(keeper);
    let all = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_string();
    // The sandbox's cgroup holds nobody else.
    all.filter(|pid| own.contains(id) && cgroup(*pid) == own).map(|pid| (name(pid), pid)).collect()
}

fn send(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid");
    kill_process(pid, signal).expect("a process that lives");
}

fn gone(processes: &[(String, i32)]) {
    let left = || processes.iter().filter(|(_, pid)| Path::new(&format!("/proc/{pid}")).exists()).collect::<Vec<_>>();
    assert!(until(|| left().is_empty()), "they live on: {:?}", left());
}

/// Waits for a command that must come to its end.
fn end_of(mut child: Child) -> Run {
    if !until(|| child.try_wait().expect("wait").is_some()) {
        let _ = child.kill();
        panic!("it does not end: {:?}", Run::of(child.wait_with_output().expect("output")));
    }
    Run::of(child.wait_with_output().expect("output"))
}

fn spawn(place: &Place, args: &[&str]) -> Child {
    let mut command: Command = place.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nacre runs")
}

#[test]
fn a_guest_that_panics_says_so() {
    let Some(place) = place("vm-panic") else { return };
    place.write(&Place::config(&["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100"]));
    let run = end_of(spawn(&place, &["run", &place.id()]));
    run.fails(1, "the guest kernel has panicked: Kernel panic - not syncing: sysrq triggered crash");
    place.assert_clean();
}

#[test]
fn a_machine_that_hangs_hangs_nobody() {
    let Some(place) = place("vm-hung") else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sleep", "1000"]));
    place.detached(&["run", "-d", id]).ok();
    let all = processes(&place, id);
    let (_, vmm) = all.iter().find(|(name, _)| name.starts_with("qemu")).expect("a VMM");
    send(*vmm, Signal::STOP);
    let verbs = [&["ps", id][..], &["exec", id, "true"], &["events", "--stats", id], &["update", "--memory", "64m", id]];
    std::thread::scope(|scope| {
        for verb in verbs {
            let place = &place;
            scope.spawn(move || assert_ne!(end_of(spawn(place, verb)).code, Some(0), "{verb:?}"));
        }
    });
    end_of(spawn(&place, &["delete", "--force", id])).ok();
    gone(&all);
    place.assert_clean();
}

#[test]
fn whichever_process_dies_all_is_over() {
    let Some(place) = place("vm-killed") else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sleep", "1000"]));
    for victim in ["nacre-keeper", "qemu", "nacre-fs"] {
        for step in ["created", "running", "exec"] {
            place.detached(&["create", id]).ok();
            if step != "created" {
                place.nacre(&["start", id]).ok();
            }
            let all = processes(&place, id);
            let (_, pid) =
                all.iter().find(|(name, _)| name.starts_with(victim)).unwrap_or_else(|| panic!("no {victim} in {all:?}"));
            let exec = (step == "exec").then(|| {
                let exec = spawn(&place, &["exec", id, "sleep", "1000"]);
                std::thread::sleep(Duration::from_secs(1));
                exec
            });
            send(*pid, Signal::KILL);
            if let Some(exec) = exec {
                assert_ne!(end_of(exec).code, Some(0), "exec, after the death of {victim}");
            }
            gone(&all);
            let state: Value = serde_json::from_str(&place.nacre(&["state", id]).ok().stdout).expect("JSON");
            assert_eq!(state["status"], "stopped", "{victim}, {step}");
            place.nacre(&["delete", id]).ok();
            place.assert_clean();
        }
    }
}

#[test]
fn a_killed_machine_leaves_the_pods_network_as_it_was() {
    let Some(place) = place("vm-net-killed") else { return };
    let Some(network) = Network::new("nacre-vm-killed") else { return };
    let id = &*place.id();
    network.attach("eth0", 95);
    let before = network.state("eth0");
    let mut config = Place::config(&["sleep", "1000"]);
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": network.path()}]);
    place.write(&config);
    for victim in ["qemu", "nacre-keeper"] {
        place.detached(&["run", "-d", id]).ok();
        let meanwhile = network.state("eth0");
        assert!(meanwhile.contains("nacre") && meanwhile.contains("mirred"), "the test looks for what is there: {meanwhile}");
        let all = processes(&place, id);
        let (_, pid) = all.iter().find(|(name, _)| name.starts_with(victim)).expect("the victim");
        send(*pid, Signal::KILL);
        gone(&all);
        place.nacre(&["delete", id]).ok();
        assert_eq!(network.state("eth0"), before, "{victim}");
        place.assert_clean();
    }
}

/// A file system of the host's that others fill, too.
struct Small(PathBuf);

impl Small {
    fn new(path: PathBuf) -> Option<Small> {
        fs::create_dir(&path).expect("a directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&path).status();
        match mounted.is_ok_and(|status| status.success()) {
            true => Some(Small(path)),
            false => {
                eprintln!("not tested: no mounts here (root)");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_host_without_room_for_a_disk_is_an_error_in_the_guest() {
    let Some(place) = place("vm-full") else { return };
    let Some(small) = Small::new(place.dir.join("small")) else { return };
    let disk = small.0.join("disk.ext4");
    fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    let made = Command::new("mkfs.ext4").args(["-qF", "-O", "^has_journal"]).arg(&disk).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfs.ext4, of e2fsprogs");
    let script = "busybox yes | busybox dd of=/disk/file bs=4k count=8192 conv=fsync; echo $?; echo alive";
    let mut config = Place::config(&["sh", "-c", script]);
    let mount = json!({"destination": "/disk", "type": "ext4", "source": disk, "options": ["noatime"]});
    config["mounts"].as_array_mut().expect("a list").push(mount);
    place.write(&config);
    let run = end_of(spawn(&place, &["run", &place.id()])).ok();
    assert_eq!(run.stdout, "1\nalive\n", "{run:?}");
    assert!(run.stderr.contains("Input/output error"), "{run:?}");
    drop(small);
    place.assert_clean();
}

#[test]
fn what_a_machine_is_missing_is_named() {
    let Some(place) = place("vm-missing") else { return };
    place.write(&Place::config(&["true"]));
    let id = place.id();
    let run = place.command(&["run", &id]).env("PATH", "/nonexistent").output().expect("nacre runs");
    Run::of(run).fails(1, "no qemu-system-x86_64 in PATH: install the Debian package qemu-system-x86");
    place.assert_clean();
    // A host without kernels, whose user has built none.
    let mut run = place.command_beside("-t tmpfs tmpfs /boot", &["run", &id]);
    run.env("XDG_CACHE_HOME", place.dir.join("cache"));
    let why = "no guest kernel: /boot has none that has the modules a VM needs; install the package linux-image-cloud-amd64";
    Run::of(run.output().expect("unshare")).fails(1, why);
    place.assert_clean();
}

#[test]
fn a_file_process_that_dies_is_named() {
    let Some(place) = place("vm-files") else { return };
    let id = &*place.id();
    place.write(&Place::config(&["sleep", "1000"]));
    let run = spawn(&place, &["run", id]);
    assert!(until(|| place.nacre(&["state", id]).stdout.contains("running")), "it does not start");
    let all = processes(&place, id);
    let (_, files) = all.iter().find(|(name, _)| name == "nacre-fs").expect("a file process");
    send(*files, Signal::KILL);
    end_of(run).fails(1, "the process that serves the VM's files (nacre-fs) has ended");
    gone(&all);
    place.assert_clean();
}

#[test]
fn an_image_that_vanishes_ends_the_machine() {
    let Some(place) = place("vm-image") else { return };
    let image = place.dir.join("root.erofs");
    for name in ["proc", "dev"] {
        fs::create_dir(place.bundle().join("rootfs").join(name)).expect("a directory");
    }
    fs::write(place.bundle().join("rootfs/large"), vec![7; 8 << 20]).expect("a file");
    let made = Command::new("mkfs.erofs").args([&image, &place.bundle().join("rootfs")]).stdout(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("not tested: no mkfs.erofs on this host (erofs-utils)");
        return;
    }
    // What a memory device takes.
    let open = || fs::OpenOptions::new().write(true).open(&image).expect("the image");
    open().set_len(128 << 20).expect("its size");
    let mut config = Place::config(&[
        "sh",
        "-c",
        "cat /large > /dev/null; echo ready > /bound/ready; sleep 3; cat /large /bin/* | busybox wc -c",
    ]);
    config["annotations"] = json!({"dev.nacre.rootfs": format!("erofs:{}", image.display())});
    fs::create_dir(place.dir.join("bound")).expect("a directory");
    config["mounts"].as_array_mut().expect("a list").extend([
        json!({"destination": "/bound", "type": "bind", "source": place.dir.join("bound"), "options": ["bind"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}),
    ]);
    place.write(&config);
    let run = spawn(&place, &["run", &place.id()]);
    let ready = until(|| place.dir.join("bound/ready").exists());
    assert!(ready, "it does not start: {:?}", end_of(run));
    open().set_len(0).expect("no image any more");
    let run = end_of(run);
    assert_ne!(run.code, Some(0), "{run:?}");
    place.assert_clean();
}
