//! Capability names and masks.

use agent_api::CapabilitySets;
use oci_spec::runtime::{Capability, LinuxCapabilities};

/// Linux's names in the order of their numbers, without `CAP_`.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All there are.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// What Docker and `runc spec`'s users usually leave to root in a container.
pub const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The mask of a name, with or without `CAP_`, in any case.
pub fn parse(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).map(|bit| 1 << bit)
}

/// The mask of several names that are known to be right.
pub fn mask(names: &[&str]) -> u64 {
    names.iter().filter_map(|name| parse(name)).fold(0, |mask, bit| mask | bit)
}

/// The same mask in the sets a root process has.
pub fn all_sets(mask: u64) -> CapabilitySets {
    CapabilitySets { effective: mask, permitted: mask, inheritable: 0, bounding: mask, ambient: 0 }
}

/// OCI's sets as masks.
pub fn sets(capabilities: &LinuxCapabilities) -> CapabilitySets {
    let mask = |set: &Option<std::collections::HashSet<Capability>>| {
        set.iter().flatten().filter_map(|capability| parse(&capability.to_string())).fold(0, |mask, bit| mask | bit)
    };
    CapabilitySets {
        effective: mask(capabilities.effective()),
        permitted: mask(capabilities.permitted()),
        inheritable: mask(capabilities.inheritable()),
        bounding: mask(capabilities.bounding()),
        ambient: mask(capabilities.ambient()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(parse("CAP_CHOWN"), Some(1));
        assert_eq!(parse("sys_admin"), Some(1 << 21));
        assert_eq!(parse("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(parse("CAP_FLY"), None);
        assert_eq!(mask(DEFAULT).count_ones() as usize, DEFAULT.len());
    }

    #[test]
    fn every_name_of_the_spec_is_known() {
        let text = format!("[{}]", NAMES.map(|n| format!("\"CAP_{n}\"")).join(","));
        let set: std::collections::HashSet<Capability> = serde_json::from_str(&text).expect("names");
        let caps = oci_spec::runtime::LinuxCapabilitiesBuilder::default().effective(set).build().expect("sets");
        assert_eq!(sets(&caps).effective, ALL);
    }
}
