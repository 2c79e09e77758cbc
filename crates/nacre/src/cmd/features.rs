//! `nacre features`: what config.json may ask for.

use clap::Args;
use runtime::config::capabilities;

use super::Failure;

/// Print the features of this runtime as JSON
#[derive(Debug, Args)]
pub struct Features {}

impl Features {
    pub fn run(&self) -> Result<u8, Failure> {
        let capabilities = capabilities::NAMES.map(|name| format!("CAP_{name}")).to_vec();
        let options = [
            "async",
            "atime",
            "bind",
            "defaults",
            "dev",
            "diratime",
            "exec",
            "noatime",
            "nodev",
            "nodiratime",
            "noexec",
            "norelatime",
            "nostrictatime",
            "nosuid",
            "private",
            "rbind",
            "relatime",
            "ro",
            "rprivate",
            "rslave",
            "rw",
            "slave",
            "strictatime",
            "suid",
            "sync",
        ];
        let features = serde_json::json!({
            "ociVersionMin": "1.0.0",
            "ociVersionMax": "1.2.0",
            "hooks": ["prestart", "createRuntime", "createContainer", "poststart", "poststop"],
            "mountOptions": options,
            "linux": {
                "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
                "capabilities": capabilities,
                "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false},
                "seccomp": {
                    "enabled": true,
                    "actions": [
                        "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG",
                        "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                    ],
                    "operators": [
                        "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                    ],
                    "archs": ["SCMP_ARCH_X86_64"],
                    "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
                    "supportedFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
                },
                "apparmor": {"enabled": false},
                "selinux": {"enabled": false},
            },
            "annotations": {"dev.nacre.version": env!("CARGO_PKG_VERSION")},
        });
        super::print(&serde_json::to_string_pretty(&features)?)?;
        Ok(0)
    }
}
