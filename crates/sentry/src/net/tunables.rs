//! [`Tunables`]: what a pod's sysctls, and root inside, may change of a network namespace.

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
    tcp: TcpValues,
}

/// What concerns TCP sockets that have not set it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcpValues {
    /// `net.ipv4.tcp_rmem`, `tcp_wmem`: bytes of a buffer, at least, at first, and what it grows to.
    pub receive: [u32; 3],
    pub send: [u32; 3],
    /// `net.ipv4.tcp_fin_timeout`, in seconds.
    pub fin_timeout: i32,
    /// `net.ipv4.tcp_keepalive_time`, `tcp_keepalive_intvl` in seconds, and `tcp_keepalive_probes`.
    pub keep_idle: i32,
    pub keep_interval: i32,
    pub keep_probes: u8,
    /// `net.ipv4.tcp_syn_retries`
    pub syn_retries: u8,
}

impl Default for TcpValues {
    fn default() -> TcpValues {
        TcpValues {
            receive: [4096, 131_072, 1 << 20],
            send: [4096, 16_384, 1 << 19],
            fin_timeout: 60,
            keep_idle: 7200,
            keep_interval: 75,
            keep_probes: 9,
            syn_retries: 6,
        }
    }
}

/// Those of [`Values`], below /proc/sys.
pub const SYSCTLS: [&str; 11] =
    [PORT, PORTS, PING, BACKLOG, RECEIVE, SEND, FIN_TIMEOUT, KEEP_IDLE, KEEP_INTERVAL, KEEP_PROBES, SYN_RETRIES];
const PORT: &str = "net/ipv4/ip_unprivileged_port_start";
const PORTS: &str = "net/ipv4/ip_local_port_range";
const PING: &str = "net/ipv4/ping_group_range";
const BACKLOG: &str = "net/core/somaxconn";
const RECEIVE: &str = "net/ipv4/tcp_rmem";
const SEND: &str = "net/ipv4/tcp_wmem";
const FIN_TIMEOUT: &str = "net/ipv4/tcp_fin_timeout";
const KEEP_IDLE: &str = "net/ipv4/tcp_keepalive_time";
const KEEP_INTERVAL: &str = "net/ipv4/tcp_keepalive_intvl";
const KEEP_PROBES: &str = "net/ipv4/tcp_keepalive_probes";
const SYN_RETRIES: &str = "net/ipv4/tcp_syn_retries";

/// The first values.
pub(super) const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

impl Default for Tunables {
    fn default() -> Tunables {
        let (ping_groups, backlog) = ((0, i32::MAX as u32), 4096);
        let tcp = TcpValues::default();
        Tunables(RwLock::new(Values { unprivileged_port: 1024, ports: EPHEMERAL, ping_groups, backlog, tcp }))
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
            RECEIVE => three(values.tcp.receive),
            SEND => three(values.tcp.send),
            FIN_TIMEOUT => values.tcp.fin_timeout.to_string(),
            KEEP_IDLE => values.tcp.keep_idle.to_string(),
            KEEP_INTERVAL => values.tcp.keep_interval.to_string(),
            KEEP_PROBES => values.tcp.keep_probes.to_string(),
            SYN_RETRIES => values.tcp.syn_retries.to_string(),
            _ => return None,
        })
    }

    /// Sets one; false if it is none, or that is no value for it.
    pub fn set_sysctl(&self, path: &str, text: &str) -> bool {
        let Some(numbers) = text.split_ascii_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<i64>>>() else {
            return false;
        };
        let mut values = self.tunables.0.write();
        // Within the ranges that Linux has.
        match (path, numbers.as_slice()) {
            (PORT, [port]) => (0..=65_535).contains(port) && set(&mut values.unprivileged_port, *port),
            (PORTS, [first, last]) => {
                let ports = match (u16::try_from(*first), u16::try_from(*last)) {
                    (Ok(first @ 1..), Ok(last)) if first <= last => first..=last,
                    _ => return false,
                };
                values.ports = ports.clone();
                drop(values);
                self.tcp.lock().set_ephemeral(ports.clone());
                self.datagrams.lock().set_ephemeral(ports);
                true
            }
            (PING, [first, last]) => {
                let (Ok(first), Ok(last)) = (u32::try_from(*first), u32::try_from(*last)) else { return false };
                values.ping_groups = (first, last);
                true
            }
            (BACKLOG, [most]) => (0..=i64::from(i32::MAX)).contains(most) && set(&mut values.backlog, *most),
            (RECEIVE, sizes) => set_sizes(&mut values.tcp.receive, sizes),
            (SEND, sizes) => set_sizes(&mut values.tcp.send, sizes),
            (FIN_TIMEOUT, [seconds]) => set(&mut values.tcp.fin_timeout, *seconds),
            (KEEP_IDLE, [seconds]) => set(&mut values.tcp.keep_idle, *seconds),
            (KEEP_INTERVAL, [seconds]) => set(&mut values.tcp.keep_interval, *seconds),
            (KEEP_PROBES, [count]) => set(&mut values.tcp.keep_probes, *count),
            (SYN_RETRIES, [count]) => (1..=127).contains(count) && set(&mut values.tcp.syn_retries, *count),
            _ => false,
        }
    }

    pub(super) fn tcp_values(&self) -> TcpValues {
        self.tunables.0.read().tcp
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

fn three(sizes: [u32; 3]) -> String {
    sizes.map(|size| size.to_string()).join("\t")
}

/// Sets the first of them, or more; those that are not named stay.
fn set_sizes(sizes: &mut [u32; 3], numbers: &[i64]) -> bool {
    let good = |number: &i64| (1..=i64::from(i32::MAX)).contains(number);
    let fine = (1..=sizes.len()).contains(&numbers.len()) && numbers.iter().all(good);
    if fine {
        sizes.iter_mut().zip(numbers).for_each(|(size, number)| *size = *number as u32);
    }
    fine
}

fn set<T: TryFrom<i64>>(place: &mut T, number: i64) -> bool {
    let number = T::try_from(number);
    number.map(|number| *place = number).is_ok()
}
