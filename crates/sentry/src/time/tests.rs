//! Sleeping and timers in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{LazyTimer, MonoTime, Timers};
use crate::Errno;
use crate::signal::{SigAction, Signal};
use crate::testing::{Role, User, map_memory, nr, run_script};

const SETITIMER: u64 = 38;
const TIMER_CREATE: u64 = 222;
const TIMER_SETTIME: u64 = 223;
const TIMER_GETOVERRUN: u64 = 225;
const MS: u64 = 1_000_000;

#[test]
fn a_lazy_timer_fires_by_its_earliest_deadline() {
    let (timers, timer, calls) = (Timers::new(), Arc::new(LazyTimer::default()), Arc::new(AtomicU64::new(0)));
    let arm = |at: u64| {
        timer.arm(&timers, MonoTime(at), || {
            let (timer, calls) = (Arc::downgrade(&timer), calls.clone());
            Arc::new(move || {
                timer.upgrade().expect("the timer").fired();
                calls.fetch_add(1, Ordering::SeqCst);
            })
        });
        timers.earliest()
    };
    assert_eq!([20, 30, 10, 40].map(arm), [20, 20, 10, 10].map(|at| Some(MonoTime(at))));
    assert_eq!((timers.fire_due(MonoTime(9)), timers.fire_due(MonoTime(50))), (0, 1));
    assert_eq!((calls.load(Ordering::SeqCst), timers.earliest()), (1, None));
    assert_eq!(arm(60), Some(MonoTime(60)));
    drop(timer);
    assert_eq!(timers.earliest(), None, "it goes with its owner");
}

async fn stack(u: &User) -> u64 {
    let memory = map_memory(u, 64 << 10).await;
    let mut registers = u.registers();
    registers.rsp = memory + (32 << 10);
    u.set_registers(registers);
    memory
}

async fn words(u: &User, at: u64, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    u.store(at, &bytes).await;
}

async fn handle(u: &User, scratch: u64, signal: Signal, flags: u64) {
    let handler = u.script(Role::Handler, |_| async {});
    let action = SigAction { handler, flags: flags | 0x0400_0000, restorer: 1, mask: 0 };
    words(u, scratch, &[action.handler, action.flags, action.restorer, action.mask]).await;
    assert_eq!(u.syscall(nr::RT_SIGACTION, [signal.number() as u64, scratch, 0, 8]).await, 0);
}

#[test]
fn nanosleep_takes_its_time() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let start = u.now_ns();
        words(&u, memory, &[1, 500 * MS]).await;
        assert_eq!(u.syscall(nr::NANOSLEEP, [memory, 0]).await, 0);
        assert_eq!(u.now_ns() - start, 1500 * MS);
        words(&u, memory, &[0, 1_000_000_000]).await;
        assert_eq!(u.syscall(nr::NANOSLEEP, [memory, 0]).await, Errno::EINVAL.as_return());
    });
}

#[test]
fn a_stop_does_not_lengthen_a_sleep() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        words(&u, memory, &[0, 100 * MS]).await;
        let child = u
            .spawn(nr::FORK, [], Role::Program, move |u| async move {
                let start = u.now_ns();
                assert_eq!(u.syscall(nr::NANOSLEEP, [memory, 0]).await, 0);
                assert_eq!(u.now_ns() - start, 100 * MS, "the first deadline holds");
            })
            .await as u64;
        for _ in 0..3 {
            u.compute(10 * MS).await;
            u.syscall(nr::KILL, [child, 19]).await;
            u.compute(10 * MS).await;
            u.syscall(nr::KILL, [child, 18]).await;
        }
        assert_eq!(u.syscall(nr::WAIT4, [child, memory, 0, 0]).await, child as i64);
        assert_eq!(u.load_u32(memory).await, 0);
    });
}

#[test]
fn a_handler_ends_a_sleep_and_says_what_is_left() {
    run_script(|u| async move {
        let memory = stack(&u).await;
        handle(&u, memory, Signal::ALRM, 0x1000_0000).await;
        // An alarm in 30 ms.
        words(&u, memory, &[0, 0, 0, 30_000]).await;
        assert_eq!(u.syscall(SETITIMER, [0, memory, 0]).await, 0);
        words(&u, memory, &[0, 100 * MS]).await;
        assert_eq!(
            u.syscall(nr::NANOSLEEP, [memory, memory + 16]).await,
            Errno::EINTR.as_return(),
            "not restarted, even with SA_RESTART"
        );
        assert_eq!([u.load_u64(memory + 16).await, u.load_u64(memory + 24).await], [0, 70 * MS]);
    });
}

#[test]
fn interval_timers_repeat() {
    run_script(|u| async move {
        let memory = stack(&u).await;
        handle(&u, memory, Signal::ALRM, 0).await;
        words(&u, memory, &[0, 10_000, 0, 5_000]).await;
        assert_eq!(u.syscall(SETITIMER, [0, memory, 0]).await, 0);
        let start = u.now_ns();
        for n in 0..5 {
            assert_eq!(u.syscall(nr::PAUSE, []).await, Errno::EINTR.as_return());
            assert_eq!(u.now_ns() - start, (5 + 10 * n) * MS);
        }
        words(&u, memory, &[0; 4]).await;
        assert_eq!(u.syscall(SETITIMER, [0, memory, memory + 32]).await, 0);
        assert_eq!(u.load_u64(memory + 56).await, 10_000, "10 ms were left");
    });
}

#[test]
fn posix_timers_count_overruns() {
    run_script(|u| async move {
        let memory = stack(&u).await;
        handle(&u, memory, Signal::USR1, 4).await;
        // sigevent: value 99, SIGUSR1, SIGEV_SIGNAL.
        words(&u, memory, &[99, 10, 0, 0, 0, 0, 0, 0]).await;
        assert_eq!(u.syscall(TIMER_CREATE, [1, memory, memory + 128]).await, 0);
        let id = u64::from(u.load_u32(memory + 128).await);
        // Blocked meanwhile.
        words(&u, memory, &[Signal::USR1.bit()]).await;
        u.syscall(nr::RT_SIGPROCMASK, [0, memory, 0, 8]).await;
        words(&u, memory, &[0, 10 * MS, 0, 10 * MS]).await;
        assert_eq!(u.syscall(TIMER_SETTIME, [id, 0, memory, 0]).await, 0);
        u.compute(45 * MS).await;
        words(&u, memory, &[Signal::USR1.bit()]).await;
        u.syscall(nr::RT_SIGPROCMASK, [1, memory, 0, 8]).await;
        assert_eq!(u.syscall(TIMER_GETOVERRUN, [id]).await, 3, "10 ms by the signal; 20, 30 and 40 missed");
    });
}

#[test]
fn sigtimedwait_times_out_and_takes() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        words(&u, memory, &[Signal::USR1.bit(), 0, 20 * MS]).await;
        u.syscall(nr::RT_SIGPROCMASK, [0, memory, 0, 8]).await;
        let start = u.now_ns();
        let waited = u.syscall(nr::RT_SIGTIMEDWAIT, [memory, 0, memory + 8, 8]).await;
        assert_eq!((waited, u.now_ns() - start), (Errno::EAGAIN.as_return(), 20 * MS));
        u.spawn(nr::FORK, [], Role::Program, |u| async move {
            u.compute(5 * MS).await;
            u.syscall(nr::KILL, [1, 10]).await;
        })
        .await;
        assert_eq!(u.syscall(nr::RT_SIGTIMEDWAIT, [memory, memory + 64, memory + 8, 8]).await, 10);
        assert_eq!(u.load_u32(memory + 64 + 16).await, 2, "from the child");
    });
}

#[test]
fn futex_time_outs() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let start = u.now_ns();
        words(&u, memory + 16, &[0, 7 * MS]).await;
        let waited = u.syscall(nr::FUTEX, [memory, 128, 0, memory + 16, 0, 0]).await;
        assert_eq!((waited, u.now_ns() - start), (Errno::ETIMEDOUT.as_return(), 7 * MS));
        // WAIT_BITSET: absolute, on the monotonic clock.
        let until = u.now_ns() + 3 * MS;
        words(&u, memory + 16, &[until / 1_000_000_000, until % 1_000_000_000]).await;
        let waited = u.syscall(nr::FUTEX, [memory, 128 | 9, 0, memory + 16, 0, u64::from(u32::MAX)]).await;
        assert_eq!((waited, u.now_ns()), (Errno::ETIMEDOUT.as_return(), until));
        assert_eq!(u.syscall(nr::FUTEX, [memory, 128, 1, 0, 0, 0]).await, Errno::EAGAIN.as_return());
        assert_eq!(u.syscall(nr::FUTEX, [memory + 2, 128, 0, 0, 0, 0]).await, Errno::EINVAL.as_return());
    });
}

#[test]
fn profiling_timers_follow_cpu_time() {
    run_script(|u| async move {
        let memory = stack(&u).await;
        handle(&u, memory, Signal::PROF, 0).await;
        words(&u, memory, &[0, 0, 0, 20_000]).await;
        assert_eq!(u.syscall(SETITIMER, [2, memory, 0]).await, 0);
        words(&u, memory, &[0, 100 * MS]).await;
        assert_eq!(u.syscall(nr::NANOSLEEP, [memory, 0]).await, 0, "asleep, no CPU time passes");
        // Its end is looked at once a millisecond at most.
        words(&u, memory, &[Signal::PROF.bit()]).await;
        u.syscall(nr::RT_SIGPROCMASK, [0, memory, 0, 8]).await;
        u.compute(25 * MS).await;
        words(&u, memory + 8, &[0, 0]).await;
        assert_eq!(u.syscall(nr::RT_SIGTIMEDWAIT, [memory, 0, memory + 8, 8]).await, 27);
    });
}
