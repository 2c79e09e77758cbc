//! limits.

use std::fmt::Write;

use super::Subject;
use crate::Errno;
use crate::task::Resource;

const LIMITS: [(&str, Resource, &str); 16] = [
    ("Max cpu time", Resource::Cpu, "seconds"),
    ("Max file size", Resource::Fsize, "bytes"),
    ("Max data size", Resource::Data, "bytes"),
    ("Max stack size", Resource::Stack, "bytes"),
    ("Max core file size", Resource::Core, "bytes"),
    ("Max resident set", Resource::Rss, "bytes"),
    ("Max processes", Resource::Nproc, "processes"),
    ("Max open files", Resource::Nofile, "files"),
    ("Max locked memory", Resource::Memlock, "bytes"),
    ("Max address space", Resource::As, "bytes"),
    ("Max file locks", Resource::Locks, "locks"),
    ("Max pending signals", Resource::Sigpending, "signals"),
    ("Max msgqueue size", Resource::Msgqueue, "bytes"),
    ("Max nice priority", Resource::Nice, ""),
    ("Max realtime priority", Resource::Rtprio, ""),
    ("Max realtime timeout", Resource::Rttime, "us"),
];

/// `proc_pid_limits(5)`.
pub(super) fn limits(subject: &Subject) -> Result<Vec<u8>, Errno> {
    let task = subject.task()?;
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let show = |limit: u64| if limit == u64::MAX { "unlimited".to_string() } else { limit.to_string() };
    for (label, resource, unit) in LIMITS {
        let limit = task.group.rlimit(resource);
        let _ = write!(text, "{label:<25} {:<20} {:<20} ", show(limit.soft), show(limit.hard));
        let _ = if unit.is_empty() { writeln!(text) } else { writeln!(text, "{unit:<10}") };
    }
    Ok(text.into_bytes())
}
