//! [`Tunables`]: what a pod's sysctls may change of a network namespace.

use std::ops::RangeInclusive;

use parking_lot::RwLock;

use super::NetNamespace;
use crate::task::Creds;

/// The values. A leaf lock.
pub(super) struct Tunables(RwLock<Values>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Values {
    /// `net.ipv4.ip_unprivileged_port_start`: ports below are for who has `CAP_NET_BIND_SERVICE`.
    unprivileged_port: u32,
    /// `net.ipv4.ip_local_port_range`
    ports: RangeInclusive<u16>,
    /// `net.ipv4.ping_group_range`: who may have ICMP echo sockets; empty if its end comes first.
    ping_groups: (u32, u32),
    /// `net.core.somaxconn`: largest backlog.
    backlog: u32,
}

/// Those of [`Values`], below /proc/sys.
pub const SYSCTLS: [&str; 4] = [PORT, PORTS, PING, BACKLOG];
const PORT: &str = "net/ipv4/ip_unprivileged_port_start";
const PORTS: &str = "net/ipv4/ip_local_port_range";
const PING: &str = "net/ipv4/ping_group_range";
const BACKLOG: &str = "net/core/somaxconn";

/// The first values.
pub(super) const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

impl Default for Tunables {
    fn default() -> Tunables {
        let (ping_groups, backlog) = ((0, i32::MAX as u32), 4096);
        Tunables(RwLock::new(Values { unprivileged_port: 1024, ports: EPHEMERAL, ping_groups, backlog }))
    }
}

impl NetNamespace {
    /// As a sysctl's file in /proc/sys shows it; None: it is none of [`SYSCTLS`].
    pub fn sysctl(&self, path: &str) -> Option<String> {
        let values = self.tunables.0.read();
        Some(match path {
            PORT => values.unprivileged_port.to_string(),
            PORTS => format!("{}\t{}", values.ports.start(), values.ports.end()),
            PING => format!("{}\t{}", values.ping_groups.0, values.ping_groups.1),
            BACKLOG => values.backlog.to_string(),
            _ => return None,
        })
    }

    /// Sets one; false if it is none, or that is no value for it.
    pub fn set_sysctl(&self, path: &str, text: &str) -> bool {
        let Some(numbers) = text.split_ascii_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>() else {
            return false;
        };
        let ports = {
            let mut values = self.tunables.0.write();
            match (path, numbers.as_slice()) {
                (PORT, [port]) if *port <= 65535 => values.unprivileged_port = *port,
                (PORTS, [first, last]) => match (u16::try_from(*first), u16::try_from(*last)) {
                    (Ok(first @ 1..), Ok(last)) if first <= last => values.ports = first..=last,
                    _ => return false,
                },
                (PING, [first, last]) => values.ping_groups = (*first, *last),
                (BACKLOG, [most]) if *most <= i32::MAX as u32 => values.backlog = *most,
                _ => return false,
            }
            values.ports.clone()
        };
        self.tcp.lock().set_ephemeral(ports.clone());
        self.datagrams.lock().set_ephemeral(ports);
        true
    }

    /// Whether a port is for who has `CAP_NET_BIND_SERVICE` only.
    pub(super) fn is_privileged(&self, port: u16) -> bool {
        u32::from(port) < self.tunables.0.read().unprivileged_port
    }

    /// How many connections may wait to be accepted by whoever asks for `backlog` (`__sys_listen`).
    pub fn backlog(&self, backlog: i32) -> usize {
        usize::try_from(backlog).unwrap_or(usize::MAX).min(self.tunables.0.read().backlog as usize)
    }

    /// Whether somebody may have an ICMP echo socket (`ping_init_sock`).
    pub(super) fn may_ping(&self, creds: &Creds) -> bool {
        let (first, last) = self.tunables.0.read().ping_groups;
        let inside = |group: &u32| (first..=last).contains(group);
        inside(&creds.egid) || creds.groups.iter().any(inside)
    }
}
