//! Several threads, several stubs, interrupts, death.

use super::guests;
use super::harness::*;
use crate::systrap::Spin;
use crate::*;

#[test]
fn threads_share_an_address_space() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut guest = Guest::new(&platform, &space, guests::calls());
                for i in 0..200 {
                    assert_eq!(guest.call().number, 39);
                    guest.context.set_return(i);
                }
            });
        }
    });
    // One writes, the other stops at its own call meanwhile.
    let mut spinner = Guest::new(&platform, &space, guests::spin());
    assert_eq!(spinner.run_for(10_000_000), None);
    let mut other = Guest::new(&platform, &space, guests::calls());
    other.call();
    let before = peek(&file, DATA_OFFSET);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(peek(&file, DATA_OFFSET) > before);
    assert!(spinner.context.cpu_time_ns() > 1_000_000);
    drop(spinner);
    let after = peek(&file, DATA_OFFSET);
    std::thread::sleep(std::time::Duration::from_millis(10));
    assert_eq!(peek(&file, DATA_OFFSET), after, "a dropped context does not run");
}

/// The memory thread that makes it runs on one only, and it is born with the same affinity.
#[test]
fn a_thread_may_run_on_all_cpus() {
    let platform = start(Spin::Never);
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::calls());
    guest.call();
    assert_eq!(allowed(guest.tid()), allowed(std::process::id() as i32));
}

#[test]
fn a_thread_is_scheduled_as_its_guest_wishes() {
    // Nothing of the host's load makes this one close up.
    let platform = start(Spin::Never);
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::calls());
    guest.call();
    let all = allowed(guest.tid());
    let first: String = all.chars().take_while(char::is_ascii_digit).collect();
    guest.context.interrupter().prefer(Wish { nice: 7, cpus: 1 });
    for _ in 0..500 {
        guest.call();
    }
    assert_eq!((allowed(guest.tid()), nice(guest.tid())), (first, 7));
    guest.context.interrupter().prefer(Wish { nice: 7, ..Wish::default() });
    guest.call();
    assert_eq!(allowed(guest.tid()), all);
    let tid = guest.tid();
    drop(guest);
    let mut next = Guest::new(&platform, &space, guests::calls());
    next.call();
    assert_ne!(next.tid(), tid, "its thread is not for others");
    assert_eq!((allowed(next.tid()), nice(next.tid())), (all, nice(std::process::id() as i32)));
}

fn nice(tid: i32) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, tid as libc::id_t) }
}

/// The CPUs that a thread may run on, as /proc shows them.
fn allowed(tid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).map(str::to_owned).unwrap()
}

#[test]
fn one_executor_serves_many_stubs() {
    let platform = platform();
    let file = memory();
    let spaces: Vec<_> = (0..5).map(|_| space(&platform, &file)).collect();
    let executor = executor();
    let mut guests: Vec<_> =
        spaces.iter().map(|space| Guest { executor, ..Guest::new(&platform, space, guests::calls()) }).collect();
    for _ in 0..50 {
        for guest in &mut guests {
            assert_eq!(guest.call().number, 39);
            guest.context.set_return(0);
        }
    }
}

#[test]
fn interrupts_stop_a_spinner_and_stick() {
    let platform = platform();
    let file = memory();
    let space = space(&platform, &file);
    let mut guest = Guest::new(&platform, &space, guests::spin());
    let interrupter = guest.context.interrupter();
    // Before the first switch.
    interrupter.interrupt();
    assert_eq!(guest.run(), Trap::Interrupted);
    for _ in 0..20 {
        assert_eq!(guest.run_for(5_000_000), None);
        interrupter.interrupt();
        assert_eq!(guest.run(), Trap::Interrupted);
    }
    // From another thread, while the executor sleeps.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(30));
            interrupter.interrupt();
        });
        assert_eq!(guest.run(), Trap::Interrupted);
    });
}

#[test]
fn unpark_ends_a_park() {
    let platform = platform();
    let id = executor();
    platform.unpark(id);
    platform.park(id, None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            platform.unpark(id);
        });
        platform.park(id, None);
    });
    let start = hostcall::time::monotonic_ns();
    platform.park(id, Some(start + 10_000_000));
    assert!(hostcall::time::monotonic_ns() >= start + 10_000_000);
}

fn children() -> Vec<i32> {
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).and_then(|ppid| ppid.parse::<u32>().ok());
        if parent == Some(me) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn death_from_outside_is_noticed() {
    let platform = platform();
    let file = memory();
    for victim in ["thread", "stub"] {
        let space = space(&platform, &file);
        let before = children();
        let mut guest = Guest::new(&platform, &space, guests::spin());
        assert_eq!(guest.run_for(5_000_000), None);
        let pid = match victim {
            "thread" => guest.tid(),
            _ => guest.stub(),
        };
        assert!(children().contains(&pid) && (victim == "stub" || !before.contains(&pid)));
        // SAFETY: no memory is involved.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        assert_eq!(guest.run(), Trap::Died(Death::Signal(libc::SIGKILL)), "{victim}");
        assert!(matches!(guest.run(), Trap::Died(_)));
        if victim == "stub" {
            assert!(matches!(space.settle(), Err(PlatformError::Dead(_))));
        }
    }
}

/// An executor that is never idle still notices.
#[test]
fn death_is_noticed_by_a_busy_executor() {
    let platform = platform();
    let file = memory();
    let (dying, busy) = (space(&platform, &file), space(&platform, &file));
    let mut victim = Guest::new(&platform, &dying, guests::spin());
    assert_eq!(victim.run_for(5_000_000), None);
    let mut other = Guest { executor: victim.executor, ..Guest::new(&platform, &busy, guests::calls()) };
    // SAFETY: no memory is involved.
    unsafe { libc::kill(victim.tid(), libc::SIGKILL) };
    let woken = std::sync::Arc::new(Flag::default());
    victim.poll_with(&woken);
    let end = hostcall::time::monotonic_ns() + 10_000_000_000;
    while !woken.0.load(std::sync::atomic::Ordering::SeqCst) {
        assert!(hostcall::time::monotonic_ns() < end);
        other.call();
        other.context.set_return(0);
    }
    assert_eq!(victim.run(), Trap::Died(Death::Signal(libc::SIGKILL)));
}

/// Calls that come at once are collected in the first poll, but not so many that the executor's other tasks starve.
#[test]
fn an_executor_gets_its_turn_between_calls() {
    let platform = platform();
    let space = space(&platform, &memory());
    let mut guest = Guest::new(&platform, &space, guests::calls());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let (mut in_a_row, mut most) = (0, 0);
    for _ in 0..5_000 {
        in_a_row = if guest.context.poll_switch(&mut cx, guest.executor).is_ready() { in_a_row + 1 } else { 0 };
        most = most.max(in_a_row);
        if in_a_row == 0 {
            guest.call();
        }
        guest.context.set_return(0);
    }
    assert!(most <= super::super::context::INLINE_TRAPS, "{most}");
}

#[derive(Default)]
struct Flag(std::sync::atomic::AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: std::sync::Arc<Flag>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Guest {
    fn poll_with(&mut self, flag: &std::sync::Arc<Flag>) {
        let waker = flag.clone().into();
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(self.context.poll_switch(&mut cx, self.executor).is_pending());
    }
}
