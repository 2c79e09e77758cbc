//! The host calls that each of Nacre's confined processes may make: printed, counted, and proven.
//!
//! - `page` renders all lists into docs/host-calls.md and compares (`NACRE_UPDATE=1` writes it): no list changes unseen.
//! - `confined` installs the filters of sentry, gofer, keeper and virtio-fs device in children and tries every call, listed or not.
//! - `stubs` does the same for the two filters of stubs, whose calls must come from the blob's addresses.
//! - `live` reads the filters of a running sandbox's threads back from the host kernel and compares.
//!
//! One thread, no test harness: it forks. A probe that cannot tell an allowed call from a forbidden one would prove nothing, so each
//! is first run with a list that differs from its filter, and must notice.

mod confined;
mod live;
mod page;
mod probe;
mod stubs;

use hostcall::seccomp::AllowList;
use hostcall::seccomp::gofer::{self, GoferCalls};
use hostcall::seccomp::{keeper, sentry, virtiofs};
use platform::systrap::{MEMORY_CALLS, THREAD_CALLS};

/// Most calls each process may have.
const MOST: [(&str, usize); 8] = [
    ("sentry", 60),
    ("sentry with the host's network", 60),
    ("sentry on a pod's network", 60),
    ("gofer", 45),
    // With the four of inotify.
    ("virtio-fs device", 64),
    ("keeper", 60),
    ("stub's application thread", 3),
    ("stub's memory thread", 11),
];

fn main() {
    // libtest's flags (`--nocapture`, a filter) come from `cargo test`; there is one test here.
    if std::env::args().any(|arg| arg == "--list") {
        println!("hostcalls: test");
        return;
    }
    probe::prepare();
    let mut failures = Vec::new();
    let lists = [
        ("sentry", sentry::list()),
        ("sentry, with --net host", sentry::list_with_host_network()),
        ("sentry, with --net NAMESPACE", sentry::list_with_packets()),
        ("gofer, read-only", gofer::list(GoferCalls::ReadOnly)),
        ("gofer, writable", gofer::list(GoferCalls::ReadWrite)),
        ("virtio-fs device", virtiofs::list(GoferCalls::ReadWrite)),
        ("keeper of a VM", keeper::list()),
    ];
    count(&lists, &mut failures);
    page::check(&lists, &mut failures);
    for (name, list) in &lists {
        confined::check(name, list, &mut failures);
    }
    stubs::check(&mut failures);
    live::check(&lists, &mut failures);
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!("host calls: {} failures", failures.len());
    std::process::exit(i32::from(!failures.is_empty()));
}

fn count(lists: &[(&str, AllowList)], failures: &mut Vec<String>) {
    let mut counts: Vec<(&str, usize)> = lists.iter().map(|(_, list)| (list.process, list.calls.len())).collect();
    counts.push(("stub's application thread", THREAD_CALLS.len()));
    counts.push(("stub's memory thread", MEMORY_CALLS.len()));
    for (process, calls) in counts {
        let most = MOST.iter().find(|(name, _)| *name == process).map_or(0, |(_, most)| *most);
        if calls > most {
            failures.push(format!("{process}: {calls} calls, at most {most} are allowed"));
        }
    }
}
