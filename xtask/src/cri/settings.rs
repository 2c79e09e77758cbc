//! What a pod's specification can ask for: users, capabilities, volumes, limits; and what makes no sense.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use super::engine::{self, Engine};
use super::image;

pub const CASES: &[Case] = &[
    ("pod-security", security),
    ("pod-files", files),
    ("pod-resources", resources),
    ("pod-cpu-limit", cpu_limit),
    ("pod-network", network),
    ("pod-node-network", node_network),
    ("pod-cgroup-parent", cgroup_parent),
    ("pod-sysctl", sysctl),
    ("pod-memory-volume", memory_volume),
    ("pod-init", init),
    ("pod-block-device", block_device),
    ("pod-bad-requests", bad_requests),
];

/// What cannot be asked of a containerd 2, and why.
pub const NOT_UNDER_TWO: &[(&str, &str)] =
    &[("pod-node-network", "it panics itself at such a pod of the sandboxer that is the shim (containerd issue 12983)")];

fn security(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "security", "--cni"])?;
    let shows = |name: &str, options: &[&str], script: &str, wanted: &str| -> Result<()> {
        let id = engine.container(&pod, name, &[&["--cni"], options].concat(), &["sleep", "1000"])?;
        let said = engine.exec(&id, &["sh", "-c", script])?;
        ensure!(said.stdout.trim() == wanted, "{name}: {:?} and {:?}, not {wanted:?}", said.stdout, said.stderr);
        Ok(())
    };
    shows(
        "user",
        &["--user", "1000", "--group", "2000", "--groups", "3000"],
        "echo $(id -u) $(id -g) $(id -G)",
        "1000 2000 2000 3000",
    )?;
    shows("drop", &["--cap-drop", "ALL"], "grep CapEff /proc/self/status", "CapEff:\t0000000000000000")?;
    shows(
        "add",
        &["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"],
        "grep CapBnd /proc/self/status",
        "CapBnd:\t0000000000001000",
    )?;
    shows("privileges", &["--no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1")?;
    shows("read-only", &["--read-only"], "touch /x 2>&1; echo $?", "touch: /x: Read-only file system\n1")?;
    shows("seccomp", &["--seccomp"], "grep -w Seccomp /proc/self/status", "Seccomp:\t2")?;
    shows("masked", &[], "cat /proc/kcore /proc/keys 2>/dev/null | wc -c; touch /proc/sys/x 2>/dev/null; echo $?", "0\n1")
}

/// hostPath, one file of one, read-only.
fn files(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "files"])?;
    let shared = engine.dir.join("files");
    std::fs::create_dir_all(shared.join("part"))?;
    std::fs::write(shared.join("one"), "one\n")?;
    std::fs::write(shared.join("part/two"), "two\n")?;
    let (dir, part, one) = (shared.display(), shared.join("part"), shared.join("one"));
    let (all, part, one) =
        (format!("{dir}:/all:ro"), format!("{}:/part", part.display()), format!("{}:/etc/one", one.display()));
    let id = engine.container(&pod, "main", &["--mount", &all, "--mount", &part, "--mount", &one], &["sleep", "1000"])?;
    let said =
        engine.exec(&id, &["sh", "-c", "cat /all/part/two /part/two /etc/one; touch /all/x 2>/dev/null || echo refused"])?;
    ensure!(said.stdout == "two\ntwo\none\nrefused\n", "{:?} {}", said.stdout, said.stderr);
    // The file that Kubernetes reads the reason of an end from.
    let message = engine.dir.join("message");
    std::fs::write(&message, "")?;
    std::fs::set_permissions(&message, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let mount = format!("{}:/dev/termination-log", message.display());
    let id = engine.container(
        &pod,
        "last",
        &["--mount", &mount, "--user", "1000"],
        &["sh", "-c", "echo why > /dev/termination-log"],
    )?;
    engine.wait_status(&id, "exited 0 Completed")?;
    ensure!(std::fs::read_to_string(&message)? == "why\n", "the message is lost");
    Ok(())
}

/// Limits, and how they change while the container runs.
fn resources(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "resources"])?;
    let id = engine.container(&pod, "main", &["--memory", "67108864", "--cpu-quota", "50000"], &["sleep", "1000"])?;
    let other = engine.container(&pod, "other", &[], &["sleep", "1000"])?;
    let limit = |engine: &Engine, id: &str| -> Result<String> {
        let said = engine.exec(id, &["sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"])?;
        Ok(said.stdout)
    };
    ensure!(limit(engine, &id)? == "67108864\n50000 100000\n", "{:?}", limit(engine, &id)?);
    engine.call(&["update", &id, "--memory", "134217728", "--cpu-quota", "100000"])?;
    ensure!(limit(engine, &id)? == "134217728\n100000 100000\n", "updated: {:?}", limit(engine, &id)?);
    ensure!(limit(engine, &other)?.starts_with("max\nmax"), "the other: {:?}", limit(engine, &other)?);
    // Each container's own figures.
    let hold = ["sh", "-c", "x=$(head -c 20000000 /dev/zero | tr '\\0' a); sleep 1000"];
    let big = engine.container(&pod, "big", &[], &hold)?;
    let memory = |engine: &Engine, id: &str| -> Result<u64> {
        let said = engine.call(&["stats", id])?;
        Ok(said.rsplit(' ').next().unwrap_or_default().parse()?)
    };
    engine.soon("memory is counted for who has it", |engine| {
        Ok(memory(engine, &big)? > 20_000_000 && memory(engine, &other)? < 10_000_000)
    })
}

/// Of two containers that are always busy, the one with a limit is kept to it.
fn cpu_limit(engine: &mut Engine) -> Result<()> {
    const QUOTA_US: u64 = 20_000;
    let pod = engine.call(&["run-pod", "cpu-limit"])?;
    let busy = ["sh", "-c", "while true; do :; done"];
    let free = engine.container(&pod, "free", &[], &busy)?;
    let limited = engine.container(&pod, "limited", &["--cpu-quota", &QUOTA_US.to_string()], &busy)?;
    let count = |engine: &Engine, id: &str, key: &str| -> Result<u64> {
        let text = engine.exec(id, &["cat", "/sys/fs/cgroup/cpu.stat"])?.stdout;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        value.with_context(|| format!("no {key} in {text:?}"))
    };
    engine.soon("it is stopped again and again", |engine| Ok(count(engine, &limited, "nr_throttled")? >= 20))?;
    // What is too much in one period is taken off the next ones.
    let (used, periods) = (count(engine, &limited, "usage_usec")?, count(engine, &limited, "nr_periods")?);
    let most = (periods + 5) * QUOTA_US;
    ensure!(used <= most + most / 4, "{used} us in {periods} periods of {QUOTA_US} us");
    ensure!(count(engine, &free, "nr_throttled")? == 0, "the other is stopped, too");
    // Without a limit it goes on.
    engine.call(&["update", &limited, "--cpu-quota", "-1"])?;
    let before = count(engine, &limited, "nr_throttled")?;
    let then = count(engine, &limited, "usage_usec")?;
    engine.soon("it runs on", |engine| Ok(count(engine, &limited, "usage_usec")? > then + 1_000_000))?;
    ensure!(count(engine, &limited, "nr_throttled")? == before, "it is still stopped");
    Ok(())
}

/// A pod's address is the sandbox's, and one pod reaches another.
fn network(engine: &mut Engine) -> Result<()> {
    let one = engine.call(&["run-pod", "one", "--cni"])?;
    let two = engine.call(&["run-pod", "two", "--cni"])?;
    let server =
        engine.container(&one, "server", &["--cni"], &["sh", "-c", "while true; do echo hello | nc -l -p 80; done"])?;
    let client = engine.container(&two, "client", &["--cni"], &["sleep", "1000"])?;
    let address = engine.exec(&server, &["sh", "-c", "ip -4 addr show eth0 | grep -o '10.198.[0-9.]*' | head -n 1"])?.stdout;
    ensure!(address.starts_with("10.198."), "no address: {address:?}");
    let ask = format!("nc {} 80 </dev/null", address.trim());
    engine.soon("the other pod answers", |engine| Ok(engine.exec(&client, &["sh", "-c", &ask])?.stdout == "hello\n"))?;
    let host = sh_output(&format!("timeout 5 busybox nc {} 80 </dev/null", address.trim()))?;
    ensure!(host == "hello\n", "from the host: {host:?}");
    let name = engine.exec(&server, &["hostname"])?.stdout;
    ensure!(name == "one\n", "the pod's name: {name:?}");
    Ok(())
}

/// hostNetwork: not unasked, and then by the node's sockets.
fn node_network(engine: &mut Engine) -> Result<()> {
    let refused = engine.cri(&["run-pod", "node", "--node-network"])?;
    ensure!(!refused.success() && refused.stderr.contains("dev.nacre.network"), "{:?} {}", refused.code(), refused.stderr);
    let given = ["--node-network", "--annotation", "dev.nacre.network=host"];
    let pod = engine.call(&[&["run-pod", "node"], &given[..]].concat())?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let id = engine.container(&pod, "main", &given, &["sh", "-c", &format!("echo from inside | nc 127.0.0.1 {port}")])?;
    let (mut client, _) = listener.accept()?;
    let mut said = String::new();
    std::io::Read::read_to_string(&mut client, &mut said)?;
    drop(client);
    ensure!(said == "from inside\n", "{said:?}");
    engine.wait_status(&id, "exited 0 Completed")
}

/// As a kubelet whose driver is systemd's names it.
fn cgroup_parent(engine: &mut Engine) -> Result<()> {
    let parent = ["--cgroup-parent", "/nacretest.slice/nacretest-pod1.slice"];
    let pod = engine.call(&[&["run-pod", "slice"], &parent[..]].concat())?;
    let id = engine.container(&pod, "main", &parent, &["sleep", "1000"])?;
    let hierarchies = [Path::new("/sys/fs/cgroup").to_path_buf(), "/sys/fs/cgroup/memory".into()];
    let slice = hierarchies.map(|dir| dir.join("nacretest.slice")).into_iter().find(|dir| dir.is_dir());
    let slice = slice.context("there is no slice")?;
    let scope = |id: &str| slice.join(format!("nacretest-pod1.slice/cri-containerd-{id}.scope"));
    let members = |id: &str| std::fs::read_to_string(scope(id).join("cgroup.procs")).unwrap_or_default().lines().count();
    // The processes of a VM's containers are its guest's.
    let is_in = engine.handler == engine::VM || members(&id) > 0;
    ensure!(members(&pod) > 0 && is_in, "nobody is in {} or {}", scope(&pod).display(), scope(&id).display());
    engine.call(&["stop", &id])?;
    engine.call(&["remove", &id])?;
    engine.remove_pod(&pod)?;
    ensure!(!scope(&pod).exists() && !scope(&id).exists(), "scopes are left");
    // The kubelet's to remove.
    let tops = std::fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path());
    for hierarchy in tops.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let slice = hierarchy.join("nacretest.slice");
        let _ = std::fs::remove_dir(slice.join("nacretest-pod1.slice"));
        let _ = std::fs::remove_dir(&slice);
        ensure!(!slice.exists(), "{} is left", slice.display());
    }
    Ok(())
}

fn sysctl(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "sysctl", "--sysctl", "kernel.sem=250 32000 100 77"])?;
    let id = engine.container(&pod, "main", &[], &["sleep", "1000"])?;
    let said = engine.exec(&id, &["cat", "/proc/sys/kernel/sem"])?.stdout;
    ensure!(said.split_whitespace().eq(["250", "32000", "100", "77"]), "{said:?}");
    let refused = engine.cri(&["run-pod", "sysctl2", "--sysctl", "kernel.no_such_thing=1"])?;
    ensure!(!refused.success() && refused.stderr.contains("no_such_thing"), "{:?} {}", refused.code(), refused.stderr);
    Ok(())
}

/// An emptyDir of medium Memory: a tmpfs of the kubelet's.
fn memory_volume(engine: &mut Engine) -> Result<()> {
    let volume = engine.dir.join("memory-volume");
    std::fs::create_dir_all(&volume)?;
    crate::sh::run(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m,mode=1777", "tmpfs"]).arg(&volume))?;
    let used = (|| {
        let pod = engine.call(&["run-pod", "memory-volume"])?;
        let mount = format!("{}:/cache", volume.display());
        let one = engine.container(&pod, "one", &["--mount", &mount], &["sleep", "1000"])?;
        let two = engine.container(&pod, "two", &["--mount", &mount, "--user", "1000"], &["sleep", "1000"])?;
        let script =
            "echo told > /cache/file; dd if=/dev/zero of=/cache/big bs=1k count=2000 2>/dev/null; echo $?; rm /cache/big";
        let said = engine.exec(&one, &["sh", "-c", script])?;
        ensure!(said.stdout == "1\n", "more than its size was written: {:?} {}", said.stdout, said.stderr);
        let said = engine.exec(&two, &["cat", "/cache/file"])?;
        ensure!(said.stdout == "told\n", "{:?} {}", said.stdout, said.stderr);
        engine.clear_pods()
    })();
    // Also where something still has it open; what failed first is said first.
    let unmounted = crate::sh::run(std::process::Command::new("umount").arg("-l").arg(&volume));
    used.and(unmounted.map(drop))
}

/// Init containers: each ends before the next begins, and what they leave is there.
fn init(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "init"])?;
    let work = engine.dir.join("init");
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(&work)?;
    let mount = format!("{}:/data", work.display());
    for (name, status) in [("first", "exited 0 Completed"), ("second", "exited 0 Completed"), ("failing", "exited 7 Error")] {
        let script = format!("echo {name} >> /data/done; [ {name} != failing ] || exit 7");
        let id = engine.container(&pod, name, &["--mount", &mount], &["sh", "-c", &script])?;
        engine.wait_status(&id, status)?;
        engine.call(&["remove", &id])?;
    }
    let id = engine.container(&pod, "main", &["--mount", &mount], &["sleep", "1000"])?;
    let said = engine.exec(&id, &["cat", "/data/done"])?.stdout;
    ensure!(said == "first\nsecond\nfailing\n", "{said:?}");
    Ok(())
}

/// A raw block volume is refused, and a privileged container, which gets all devices of the node, has none of its disks.
fn block_device(engine: &mut Engine) -> Result<()> {
    let pod = engine.call(&["run-pod", "block", "--privileged"])?;
    let disk = std::fs::read_dir("/sys/class/block")?.flatten().map(|entry| entry.file_name());
    let disk = disk.map(|name| format!("/dev/{}", name.to_string_lossy())).find(|path| Path::new(path).exists());
    let disk = disk.context("this machine has no block device")?;
    let id = engine.call(&["create", &pod, "volume", image::NAME, "--device", &format!("{disk}:/dev/volume"), "--", "true"])?;
    let refused = engine.cri(&["start", &id])?;
    ensure!(!refused.success() && refused.stderr.contains("block device"), "{:?} {}", refused.code(), refused.stderr);
    let id = engine.container(&pod, "privileged", &["--privileged"], &["sleep", "1000"])?;
    let said = engine.exec(&id, &["ls", &disk])?;
    ensure!(!said.success(), "it is there: {:?}", said.stdout);
    Ok(())
}

fn sh_output(script: &str) -> Result<String> {
    crate::sh::output(std::process::Command::new("sh").args(["-c", script]))
}

/// Each fails with its reason, and nothing stays.
fn bad_requests(engine: &mut Engine) -> Result<()> {
    let refused = |args: &[&str], reason: &str| -> Result<()> {
        let said = engine.cri(args)?;
        if said.success() || !said.stderr.contains(reason) {
            bail!("{}: {:?}, {reason:?} is not in {:?}", args.join(" "), said.code(), said.stderr);
        }
        Ok(())
    };
    refused(&["run-pod", "bad", "--handler", "unknown"], "unknown")?;
    refused(&["run-pod", "bad", "--annotation", "dev.nacre.sandbox=painting"], "painting")?;
    let pod = engine.call(&["run-pod", "bad"])?;
    refused(&["run-pod", "bad"], "name")?;
    let start = |name: &str, options: &[&str], command: &[&str], reason: &str| -> Result<()> {
        let id = engine.call(&[&["create", &pod, name, image::NAME], options, &["--"], command].concat())?;
        refused(&["start", &id], reason)
    };
    start("missing", &[], &["no-such-program"], "no-such-program")?;
    start("directory", &[], &["/etc"], "/etc")?;
    start("small", &["--memory", "1"], &["true"], "cannot make the container")?;
    start("overlay", &["--annotation", "dev.nacre.overlay=painting"], &["true"], "painting")?;
    start("others-layer", &["--annotation", "dev.nacre.rootfs=erofs:/other.erofs"], &["true"], "dev.nacre.rootfs")?;
    start("others-files", &["--annotation", "dev.nacre.overlay=dir:/other"], &["true"], "dev.nacre.overlay")?;
    let id = engine.container(&pod, "good", &[], &["sleep", "1000"])?;
    refused(&["start", &id], "CONTAINER_RUNNING")?;
    refused(&["create", &pod, "good", image::NAME, "--", "true"], "name")?;
    refused(&["update", &id, "--memory", "1"], "memory")?;
    refused(&["exec", "no-such-container", "--", "true"], "not found")?;
    let said = engine.exec(&id, &["no-such-program"])?;
    ensure!(!said.success(), "a program that is missing ran");
    // Much output at once, and a client that goes away in the middle.
    let flood = format!("timeout 1 {} exec-stream {id} -- cat /dev/zero >/dev/null", engine.client());
    crate::sh::timed(std::process::Command::new("sh").args(["-c", &flood]), std::time::Duration::from_secs(20))?;
    ensure!(engine.exec(&id, &["echo", "here"])?.stdout == "here\n", "after a client that has gone away");
    Ok(())
}
