//! [`ExitStatus`]: how a process ended, and [`Usage`]: what it used.

use crate::signal::Signal;

/// How a process (or thread) ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By `exit`; the low eight bits of its argument.
    Exited(u8),
    /// By a signal.
    Signaled { signal: Signal, core: bool },
}

impl ExitStatus {
    pub fn killed(signal: Signal) -> ExitStatus {
        ExitStatus::Signaled { signal, core: false }
    }

    /// As `wait4` stores it.
    pub fn wait_status(self) -> u32 {
        match self {
            ExitStatus::Exited(code) => u32::from(code) << 8,
            ExitStatus::Signaled { signal, core } => signal.number() as u32 | if core { 0x80 } else { 0 },
        }
    }

    /// As a shell and OCI runtimes give it: 128 + the signal's number for signals.
    pub fn code(self) -> i32 {
        match self {
            ExitStatus::Exited(code) => i32::from(code),
            ExitStatus::Signaled { signal, .. } => 128 + signal.number(),
        }
    }
}

/// Resources used, as `getrusage` reports them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub user_ns: u64,
    pub system_ns: u64,
    /// Largest resident size, in KiB.
    pub max_rss_kib: u64,
    pub minor_faults: u64,
    pub voluntary_switches: u64,
}

impl Usage {
    /// All CPU time.
    pub fn cpu_ns(&self) -> u64 {
        self.user_ns.saturating_add(self.system_ns)
    }

    /// Adds another process's use; the resident size is the larger one.
    pub fn add(&mut self, other: &Usage) {
        self.user_ns = self.user_ns.saturating_add(other.user_ns);
        self.system_ns = self.system_ns.saturating_add(other.system_ns);
        self.max_rss_kib = self.max_rss_kib.max(other.max_rss_kib);
        self.minor_faults = self.minor_faults.saturating_add(other.minor_faults);
        self.voluntary_switches = self.voluntary_switches.saturating_add(other.voluntary_switches);
    }
}

/// Clock ticks (`USER_HZ`, 100 per second) of a time.
pub fn ticks(ns: u64) -> u64 {
    ns / 10_000_000
}
