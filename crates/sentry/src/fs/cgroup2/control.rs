//! The files of a group: what each shows and takes. One table.

// A file is a line of the table: what it sets is assigned there.
#![allow(clippy::unit_arg)]

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::Errno;
use crate::cgroup::{Cgroup, Controllers, Freezing, Members, move_process};
use crate::fs::permission::{Mask, permission};
use crate::fs::{FileKind, Ownership};
use crate::kernel::Container;
use crate::task::{Creds, Task, ThreadGroup, Throttling, Tid};

/// What a file is asked about, and who opened it.
pub(super) struct Ask<'a> {
    pub container: &'a Container,
    pub group: &'a Arc<Cgroup>,
    pub opener: Option<Arc<Task>>,
}

impl Ask<'_> {
    /// A number of the container as the opener's pid namespace has it; 0 where it has not.
    fn local(&self, number: Tid) -> Tid {
        self.opener.as_ref().map_or(0, |opener| opener.group.pid_ns.local(number))
    }
}

type Read = fn(&Ask<'_>) -> Result<String, Errno>;
type Take = fn(&Ask<'_>, &str) -> Result<(), Errno>;

/// A file of a group.
pub(super) struct File {
    pub name: &'static str,
    pub controller: Controllers,
    /// Not in the root.
    pub below_root: bool,
    pub read: Option<Read>,
    pub write: Option<Take>,
}

impl File {
    /// The container's own limits are not for it to change.
    pub(super) fn permissions(&self, group: &Cgroup) -> u32 {
        let fixed = group.is_root() && !self.controller.is_empty();
        match (self.read, self.write) {
            (Some(_), Some(_)) if !fixed => 0o644,
            (Some(_), _) => 0o444,
            (None, _) => 0o200,
        }
    }
}

const CORE: Controllers = Controllers::empty();

const fn shows(name: &'static str, controller: Controllers, read: Read) -> File {
    File { name, controller, below_root: false, read: Some(read), write: None }
}

const fn takes(name: &'static str, controller: Controllers, read: Read, write: Take) -> File {
    File { name, controller, below_root: false, read: Some(read), write: Some(write) }
}

const fn below(file: File) -> File {
    File { below_root: true, ..file }
}

/// All files. The place in the list is part of the inode number.
pub(super) const FILES: &[File] = &[
    // Linux's very first group has none, but a container's root is a group like others, whose processes must leave it before it passes controllers on.
    takes(
        "cgroup.type",
        CORE,
        |_| Ok("domain\n".into()),
        |_, text| {
            // Threaded groups are not there.
            Err(if text == "threaded" { Errno::EOPNOTSUPP } else { Errno::EINVAL })
        },
    ),
    takes("cgroup.procs", CORE, procs, move_here),
    takes("cgroup.threads", CORE, threads, |_, _| Err(Errno::EOPNOTSUPP)),
    shows("cgroup.controllers", CORE, |ask| Ok(format!("{}\n", ask.group.controllers().names()))),
    takes("cgroup.subtree_control", CORE, |ask| Ok(format!("{}\n", ask.group.subtree_control().names())), set_subtree_control),
    shows("cgroup.events", CORE, |ask| {
        let populated = u8::from(Members(ask.container).is_populated(ask.group));
        Ok(format!("populated {populated}\nfrozen {}\n", u8::from(ask.group.is_frozen())))
    }),
    takes(
        "cgroup.max.descendants",
        CORE,
        |ask| Ok(limit(ask.group.settings.lock().max_descendants)),
        |ask, text| Ok(ask.group.settings.lock().max_descendants = number_or_max(text)?),
    ),
    takes(
        "cgroup.max.depth",
        CORE,
        |ask| Ok(limit(ask.group.settings.lock().max_depth)),
        |ask, text| Ok(ask.group.settings.lock().max_depth = number_or_max(text)?),
    ),
    shows("cgroup.stat", CORE, |ask| Ok(format!("nr_descendants {}\nnr_dying_descendants 0\n", ask.group.subtree().len() - 1))),
    below(takes(
        "cgroup.freeze",
        CORE,
        |ask| Ok(format!("{}\n", u8::from(ask.group.freezes()))),
        |ask, text| {
            let freezes = match text {
                "0" => Freezing::Go,
                "1" => Freezing::Stop,
                _ => return Err(if text.parse::<i64>().is_ok() { Errno::ERANGE } else { Errno::EINVAL }),
            };
            Members(ask.container).freeze(ask.group, freezes);
            Ok(())
        },
    )),
    below(File {
        name: "cgroup.kill",
        controller: CORE,
        below_root: true,
        read: None,
        write: Some(|ask, text| match text {
            "1" => {
                Members(ask.container).kill(ask.group);
                Ok(())
            }
            _ => Err(if text.parse::<i64>().is_ok() { Errno::ERANGE } else { Errno::EINVAL }),
        }),
    }),
    shows("cpu.stat", CORE, cpu_stat),
    takes("cpu.max", Controllers::CPU, cpu_max, set_cpu_max),
    takes(
        "cpu.weight",
        Controllers::CPU,
        |ask| Ok(format!("{}\n", ask.group.settings.lock().cpu_weight)),
        |ask, text| not_in_root(ask).and_then(|()| Ok(ask.group.settings.lock().cpu_weight = within(text, 1, 10_000)?)),
    ),
    shows("io.stat", Controllers::IO, |_| Ok(String::new())),
    takes(
        "io.weight",
        Controllers::IO,
        |ask| Ok(format!("default {}\n", ask.group.settings.lock().io_weight)),
        |ask, text| {
            not_in_root(ask)?;
            let value = text.strip_prefix("default ").unwrap_or(text);
            ask.group.settings.lock().io_weight = within(value, 1, 10_000)?;
            Ok(())
        },
    ),
    shows("memory.current", Controllers::MEMORY, |ask| Ok(format!("{}\n", Members(ask.container).memory(ask.group)))),
    shows("memory.peak", Controllers::MEMORY, |ask| {
        Members(ask.container).memory(ask.group);
        Ok(format!("{}\n", ask.group.memory_peak.load(Ordering::Relaxed)))
    }),
    takes(
        "memory.min",
        Controllers::MEMORY,
        |ask| Ok(format!("{}\n", ask.group.settings.lock().memory_min)),
        |ask, text| {
            not_in_root(ask).and_then(|()| Ok(ask.group.settings.lock().memory_min = bytes_or_max(text)?.unwrap_or(u64::MAX)))
        },
    ),
    takes(
        "memory.low",
        Controllers::MEMORY,
        |ask| Ok(format!("{}\n", ask.group.settings.lock().memory_low)),
        |ask, text| {
            not_in_root(ask).and_then(|()| Ok(ask.group.settings.lock().memory_low = bytes_or_max(text)?.unwrap_or(u64::MAX)))
        },
    ),
    takes(
        "memory.high",
        Controllers::MEMORY,
        |ask| Ok(limit(ask.group.settings.lock().memory_high)),
        |ask, text| not_in_root(ask).and_then(|()| Ok(ask.group.settings.lock().memory_high = bytes_or_max(text)?)),
    ),
    takes(
        "memory.max",
        Controllers::MEMORY,
        |ask| Ok(limit(ask.group.settings.lock().memory_max)),
        |ask, text| not_in_root(ask).and_then(|()| Ok(ask.group.settings.lock().memory_max = bytes_or_max(text)?)),
    ),
    shows("memory.events", Controllers::MEMORY, |ask| Ok(memory_events(ask))),
    shows("memory.events.local", Controllers::MEMORY, |ask| Ok(memory_events(ask))),
    shows("memory.stat", Controllers::MEMORY, memory_stat),
    shows("memory.swap.current", Controllers::MEMORY, |_| Ok("0\n".into())),
    takes(
        "memory.swap.max",
        Controllers::MEMORY,
        |ask| Ok(limit(ask.group.settings.lock().swap_max)),
        |ask, text| not_in_root(ask).and_then(|()| Ok(ask.group.settings.lock().swap_max = bytes_or_max(text)?)),
    ),
    takes(
        "memory.oom.group",
        Controllers::MEMORY,
        |ask| Ok(format!("{}\n", u8::from(ask.group.settings.lock().oom_group))),
        |ask, text| not_in_root(ask).and_then(|()| Ok(ask.group.settings.lock().oom_group = within(text, 0, 1)? == 1)),
    ),
    shows("pids.current", Controllers::PIDS, |ask| Ok(format!("{}\n", Members(ask.container).tasks(ask.group)))),
    shows("pids.peak", Controllers::PIDS, |ask| {
        Members(ask.container).tasks(ask.group);
        Ok(format!("{}\n", ask.group.pids_peak.load(Ordering::Relaxed)))
    }),
    takes(
        "pids.max",
        Controllers::PIDS,
        |ask| Ok(limit(ask.group.settings.lock().pids_max)),
        |ask, text| not_in_root(ask).and_then(|()| Ok(ask.group.settings.lock().pids_max = number_or_max(text)?)),
    ),
    shows("pids.events", Controllers::PIDS, |ask| Ok(format!("max {}\n", ask.group.pids_refused.load(Ordering::Relaxed)))),
];

/// What is not counted is zero.
/// The container's limit alone kills, so only its own group counts.
fn memory_events(ask: &Ask) -> String {
    let kills = if ask.group.is_root() { ask.container.oom_kills.load(Ordering::Relaxed) } else { 0 };
    format!("low 0\nhigh 0\nmax {kills}\noom {kills}\noom_kill {kills}\noom_group_kill 0\n")
}

fn limit(value: Option<u64>) -> String {
    value.map_or_else(|| "max\n".into(), |value| format!("{value}\n"))
}

/// The root's limits are the container's.
fn not_in_root(ask: &Ask<'_>) -> Result<(), Errno> {
    if ask.group.is_root() { Err(Errno::EPERM) } else { Ok(()) }
}

fn number_or_max(text: &str) -> Result<Option<u64>, Errno> {
    match text {
        "max" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| Errno::EINVAL),
    }
}

/// Bytes, with `K`, `M` or `G`, down to whole pages.
fn bytes_or_max(text: &str) -> Result<Option<u64>, Errno> {
    if text == "max" {
        return Ok(None);
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(1 << shift).map(|bytes| Some(bytes & !4095)).ok_or(Errno::EINVAL)
}

fn within(text: &str, least: u64, most: u64) -> Result<u64, Errno> {
    let value: u64 = text.parse().map_err(|_| Errno::EINVAL)?;
    if (least..=most).contains(&value) { Ok(value) } else { Err(Errno::ERANGE) }
}

/// One number a line, as the reader sees them; those it does not see are 0.
fn lines(numbers: impl Iterator<Item = Tid>) -> String {
    let mut text = String::new();
    for number in numbers {
        let _ = writeln!(text, "{number}");
    }
    text
}

fn procs(ask: &Ask<'_>) -> Result<String, Errno> {
    Ok(lines(Members(ask.container).own(ask.group).iter().map(|process| ask.local(process.tgid))))
}

fn threads(ask: &Ask<'_>) -> Result<String, Errno> {
    let own = Members(ask.container).own(ask.group);
    Ok(lines(own.iter().flat_map(|process| process.threads()).map(|thread| ask.local(thread.tid()))))
}

/// Whether somebody may write to a group's `cgroup.procs`.
///
/// # Errors
/// `EACCES`.
pub(super) fn may_write_procs(group: &Cgroup, creds: &Creds) -> Result<(), Errno> {
    let (uid, gid, permissions) = {
        let settings = group.settings.lock();
        let (uid, gid, _) = settings.owners.get("").copied().unwrap_or((0, 0, 0));
        settings.owners.get("cgroup.procs").copied().unwrap_or((uid, gid, 0o644))
    };
    permission(Ownership { kind: FileKind::Regular, permissions, uid, gid }, creds, Mask::WRITE)
}

/// Moves a process here. The opener must be allowed to write to `cgroup.procs` of the group that contains both too.
fn move_here(ask: &Ask<'_>, text: &str) -> Result<(), Errno> {
    let number: Tid = text.parse().ok().filter(|&number| number >= 0).ok_or(Errno::EINVAL)?;
    let opener = ask.opener.as_ref().ok_or(Errno::ESRCH)?;
    let process: Arc<ThreadGroup> = match number {
        0 => opener.group.clone(),
        number => opener
            .group
            .pid_ns
            .global(number)
            .and_then(|number| ask.container.pids.process_of(number))
            .filter(|process| process.leader().is_some())
            .ok_or(Errno::ESRCH)?,
    };
    may_write_procs(&process.cgroup().common_ancestor(ask.group), &opener.creds())?;
    move_process(&process, ask.group)
}

fn set_subtree_control(ask: &Ask<'_>, text: &str) -> Result<(), Errno> {
    let (mut enable, mut disable) = (CORE, CORE);
    for word in text.split_whitespace() {
        let one = |name: &str| Controllers::named(name).ok_or(Errno::EINVAL);
        if let Some(name) = word.strip_prefix('+') {
            let one = one(name)?;
            enable |= one;
            disable -= one;
        } else if let Some(name) = word.strip_prefix('-') {
            let one = one(name)?;
            disable |= one;
            enable -= one;
        } else {
            return Err(Errno::EINVAL);
        }
    }
    ask.group.set_subtree_control(enable, disable, &Members(ask.container))
}

fn cpu_stat(ask: &Ask<'_>) -> Result<String, Errno> {
    let (user, system) = Members(ask.container).cpu_ns(ask.group);
    let mut text = format!("usage_usec {}\nuser_usec {}\nsystem_usec {}\n", (user + system) / 1000, user / 1000, system / 1000);
    if ask.group.controllers().contains(Controllers::CPU) {
        // Groups made inside are not kept to theirs.
        let stats = if ask.group.is_root() { ask.container.bandwidth.stats() } else { Throttling::default() };
        let Throttling { periods, throttled, throttled_ns } = stats;
        text.push_str(&format!("nr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec {}\n", throttled_ns / 1000));
    }
    Ok(text)
}

fn cpu_max(ask: &Ask<'_>) -> Result<String, Errno> {
    let settings = ask.group.settings.lock();
    let quota = settings.cpu_quota_us.map_or_else(|| "max".into(), |quota| quota.to_string());
    Ok(format!("{quota} {}\n", settings.cpu_period_us))
}

fn set_cpu_max(ask: &Ask<'_>, text: &str) -> Result<(), Errno> {
    not_in_root(ask)?;
    let mut words = text.split_whitespace();
    let quota = number_or_max(words.next().ok_or(Errno::EINVAL)?)?;
    let mut settings = ask.group.settings.lock();
    let period = match words.next() {
        Some(word) => word.parse().map_err(|_| Errno::EINVAL)?,
        None => settings.cpu_period_us,
    };
    // 1 ms to 1 s, and no less than 1 ms of it, as Linux.
    if words.next().is_some() || !(1000..=1_000_000).contains(&period) || quota.is_some_and(|quota| quota < 1000) {
        return Err(Errno::EINVAL);
    }
    (settings.cpu_quota_us, settings.cpu_period_us) = (quota, period);
    Ok(())
}

/// What is known: the sum, as anonymous memory.
fn memory_stat(ask: &Ask<'_>) -> Result<String, Errno> {
    let bytes = Members(ask.container).memory(ask.group);
    let zero = ["file", "kernel", "kernel_stack", "pagetables", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback"];
    let mut text = format!("anon {bytes}\n");
    for name in zero {
        let _ = writeln!(text, "{name} 0");
    }
    let _ = write!(
        text,
        "inactive_anon 0\nactive_anon {bytes}\ninactive_file 0\nactive_file 0\nunevictable 0\nslab_reclaimable 0\nslab_unreclaimable 0\nslab 0\npgfault 0\npgmajfault 0\n"
    );
    Ok(text)
}
