//! A container's sysctls (`linux.sysctl`): what a name space of its own has is set, all else is refused by name, as runc refuses it.

use agent_api::{Code, Status, Sysctl};

use crate::fs::proc::fixed_sysctl;
use crate::ipc::limits;
use crate::kernel::Container;
use crate::net::TUNABLE_SYSCTLS;

/// Sets them all.
///
/// # Errors
/// `InvalidArgument`: one that does not exist here, is not in a name space, or cannot have that value.
pub(super) fn set(container: &Container, sysctls: &[Sysctl]) -> Result<(), Status> {
    sysctls.iter().try_for_each(|sysctl| {
        let path = sysctl.key.replace('.', "/");
        one(container, &path, sysctl.value.trim())
            .map_err(|what| Status::new(Code::InvalidArgument, format!("sysctl {}={}: {what}", sysctl.key, sysctl.value)))
    })
}

fn one(container: &Container, path: &str, value: &str) -> Result<(), String> {
    let namespaces = &container.namespaces;
    let wrong = || "it cannot have that value".to_string();
    if path.starts_with("net/") && namespaces.net.is_hosts() {
        return Err("the network is the host's".into());
    }
    if TUNABLE_SYSCTLS.contains(&path) {
        return if namespaces.net.set_sysctl(path, value) { Ok(()) } else { Err(wrong()) };
    }
    if let Some((_, fields)) = limits::SYSCTLS.iter().find(|(known, _)| *known == path) {
        return if namespaces.ipc.objects.limits.set(fields, value) { Ok(()) } else { Err(wrong()) };
    }
    if path == "kernel/domainname" {
        namespaces.uts.change(|names| names.domainname = value.into());
        return Ok(());
    }
    let fixed = match path {
        "kernel/shm_rmid_forced" => Some("0"),
        path => fixed_sysctl(path),
    };
    match fixed {
        Some(fixed) if words(fixed).eq(words(value)) => Ok(()),
        Some(fixed) => Err(format!(
            "a sentry has {:?} there, which cannot be changed (--sandbox vm can)",
            words(fixed).collect::<Vec<_>>().join(" ")
        )),
        None if path.starts_with("net/") => Err("a sentry has none of that name".into()),
        None => Err("it is not in a name space of the container".into()),
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

    #[test]
    fn what_is_in_a_name_space_is_set_and_all_else_refused() {
        let machine = Machine::new();
        let container = &machine.container;
        let set = |key: &str, value: &str| super::set(container, &[Sysctl { key: key.into(), value: value.into() }]);
        for (key, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ip_local_port_range", "50000 50009"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
            ("net/core/somaxconn", "1024"),
            ("net.ipv4.tcp_syncookies", "1"),
            ("net.ipv4.tcp_fin_timeout", "30"),
            ("net.ipv4.tcp_rmem", "4096 87380 4194304"),
            ("net.ipv4.tcp_keepalive_time", "600"),
            ("kernel.sem", "250 32000 100 128"),
            ("kernel.shmmax", "68719476736"),
            ("fs.mqueue.msg_max", "100"),
            ("kernel.domainname", "example"),
        ] {
            set(key, value).unwrap_or_else(|status| panic!("{}", status.message));
        }
        let net = &container.namespaces.net;
        assert_eq!(net.sysctl("net/ipv4/ip_local_port_range").as_deref(), Some("50000\t50009"));
        assert_eq!(net.sysctl("net/core/somaxconn").as_deref(), Some("1024"));
        assert_eq!(net.sysctl("net/ipv4/tcp_rmem").as_deref(), Some("4096\t87380\t4194304"));
        let limits = &container.namespaces.ipc.objects.limits;
        assert_eq!((limits.semmsl.get(), limits.semmni.get(), limits.mq_msg_max.get()), (250, 128, 100));
        assert_eq!(container.namespaces.uts.get().domainname, "example");
        for (key, value, why) in [
            ("net.ipv4.ip_unprivileged_port_start", "65536", "value"),
            ("net.ipv4.ip_local_port_range", "9 1", "value"),
            ("net.ipv4.tcp_retries2", "30", "\"15\""),
            ("net.ipv4.tcp_wmem", "0 1 2", "value"),
            ("net.ipv4.tcp_keepalive_probes", "256", "value"),
            ("net.ipv4.tcp_syn_retries", "0", "value"),
            ("net.ipv4.conf.eth9.proxy_arp", "1", "none of that name"),
            ("kernel.sem", "250 32000 100", "value"),
            ("kernel.shmmni", "1000000", "value"),
            ("kernel.pid_max", "5", "name space"),
            ("vm.swappiness", "1", "name space"),
            ("../../x", "1", "name space"),
        ] {
            let status = set(key, value).expect_err(key);
            assert!(status.message.contains(why) && status.message.contains(key), "{}", status.message);
        }
        assert_eq!(limits.semmsl.get(), 250, "all of a sysctl's numbers or none");
    }
}
