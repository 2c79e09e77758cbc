//! What has been counted: for /proc/net/{dev,snmp,netstat}.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a network namespace.
        #[derive(Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Counter,)* }
    };
}

#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Messages over the loopback interface, and their bytes.
    packets, bytes,
    tcp_active_opens, tcp_passive_opens, tcp_attempt_fails, tcp_resets, tcp_segments,
    syn_cookies_sent, syn_cookies_received,
    udp_datagrams, udp_no_ports, udp_receive_errors,
}
