//! `nacre spec`: a config.json to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::Failure;

/// Make a new config.json
#[derive(Debug, Args)]
pub struct Spec {
    /// Directory to make it in [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// For an ordinary user
    #[arg(long)]
    rootless: bool,
}

impl Spec {
    pub fn run(&self) -> Result<u8, Failure> {
        let path = self.bundle.clone().unwrap_or_default().join("config.json");
        let opened = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = match opened {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(anyhow!("file {} exists. Remove it first", path.display()).into());
            }
            opened => opened.with_context(|| format!("cannot make {}", path.display()))?,
        };
        file.write_all(serde_json::to_string_pretty(&example(self.rootless))?.as_bytes())?;
        file.write_all(b"\n")?;
        Ok(0)
    }
}

/// What runc makes.
pub fn example(rootless: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut namespaces =
        vec![json!({"type": "pid"}), json!({"type": "network"}), json!({"type": "ipc"}), json!({"type": "uts"})];
    namespaces.extend([json!({"type": "mount"}), json!({"type": "cgroup"})]);
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities, "ambient": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "nacre",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    if rootless && let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        linux.remove("resources");
        linux.insert("uidMappings".into(), json!([{"containerID": 0, "hostID": uid, "size": 1}]));
        linux.insert("gidMappings".into(), json!([{"containerID": 0, "hostID": gid, "size": 1}]));
        if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
            namespaces.push(json!({"type": "user"}));
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_takes_its_own_example() {
        let dir = std::env::temp_dir().join(format!("nacre-spec-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("rootfs")).expect("dirs");
        for rootless in [false, true] {
            let _ = std::fs::remove_file(dir.join("config.json"));
            let verb = Spec { bundle: Some(dir.clone()), rootless };
            assert_eq!(verb.run().expect("written"), 0);
            assert!(verb.run().is_err(), "an existing file is kept");
            let spec = runtime::config::load(&dir).expect("valid");
            runtime::config::plan("x", &dir, &spec, Vec::new(), &runtime::config::Overlay::Memory, None).expect("planned");
        }
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
