//! Waiting, restart and signals of this room's objects, with tasks on the scripted platform.

use crate::Errno;
use crate::task::ExitStatus;
use crate::testing::{Role, User, map_memory, nr, run_script};

mod call {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const CLOSE: u64 = 3;
    pub const POLL: u64 = 7;
    pub const PIPE: u64 = 22;
    pub const SOCKETPAIR: u64 = 53;
    pub const EPOLL_WAIT: u64 = 232;
    pub const EPOLL_CTL: u64 = 233;
    pub const EVENTFD: u64 = 284;
    pub const TIMERFD_CREATE: u64 = 283;
    pub const TIMERFD_SETTIME: u64 = 286;
    pub const EPOLL_CREATE1: u64 = 291;
}

const MS: u64 = 1_000_000;

async fn fork<F, Fut>(u: &User, child: F) -> i64
where
    F: Fn(User) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    u.spawn(nr::FORK, [], Role::Program, child).await
}

async fn fds(u: &User, number: u64, args: [u64; 3], at: u64) -> (u64, u64) {
    let [a, b, c] = args;
    assert_eq!(u.syscall(number, [if number == call::PIPE { at } else { a }, b, c, at]).await, 0);
    (u64::from(u.load_u32(at).await), u64::from(u.load_u32(at + 4).await))
}

#[test]
fn a_read_waits_for_the_writer_and_then_for_the_end() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let (reader, writer) = fds(&u, call::PIPE, [0; 3], memory).await;
        fork(&u, move |u| async move {
            u.compute(5 * MS).await;
            u.store(memory, b"late").await;
            assert_eq!(u.syscall(call::WRITE, [writer, memory, 4]).await, 4);
            u.compute(5 * MS).await;
        })
        .await;
        assert_eq!(u.syscall(call::CLOSE, [writer]).await, 0);
        let begin = u.now_ns();
        assert_eq!(u.syscall(call::READ, [reader, memory, 100]).await, 4);
        assert_eq!(u.load(memory, 4).await, b"late");
        assert!(u.now_ns() - begin >= 5 * MS);
        assert_eq!(u.syscall(call::READ, [reader, memory, 100]).await, 0);
        assert!(u.now_ns() - begin >= 10 * MS, "the end comes when the writer exits");
        u.syscall(nr::WAIT4, [u64::MAX, 0, 0, 0]).await;
    });
}

#[test]
fn a_write_goes_on_until_all_is_written() {
    const SIZE: u64 = 300_000;
    run_script(|u| async move {
        let memory = map_memory(&u, SIZE + 4096).await;
        let (reader, writer) = fds(&u, call::PIPE, [0; 3], memory).await;
        fork(&u, move |u| async move {
            u.syscall(call::CLOSE, [writer]).await;
            let mut total = 0;
            loop {
                u.compute(MS).await;
                match u.syscall(call::READ, [reader, memory, 10_000]).await {
                    0 => break,
                    n => total += n,
                }
            }
            assert_eq!(total, SIZE as i64);
        })
        .await;
        assert_eq!(u.syscall(call::WRITE, [writer, memory, SIZE]).await, SIZE as i64);
        assert_eq!(u.syscall(call::CLOSE, [writer]).await, 0);
        assert_eq!(u.syscall(nr::WAIT4, [2, memory, 0, 0]).await, 2);
        assert_eq!(u.load_u32(memory).await, 0);
    });
}

#[test]
fn a_broken_pipe_kills() {
    let status = run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let (reader, writer) = fds(&u, call::PIPE, [0; 3], memory).await;
        assert_eq!(u.syscall(call::CLOSE, [reader]).await, 0);
        fork(&u, move |u| async move {
            u.syscall(call::WRITE, [writer, memory, 1]).await;
            u.syscall(nr::EXIT_GROUP, [9]).await;
        })
        .await;
        assert_eq!(u.syscall(nr::WAIT4, [2, memory, 0, 0]).await, 2);
        assert_eq!(u.load_u32(memory).await, 13, "SIGPIPE");
        u.syscall(nr::EXIT_GROUP, [0]).await;
    });
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn poll_times_out_in_virtual_time_and_wakes_before() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let event = u.syscall(call::EVENTFD, [0]).await as u64;
        let entry: Vec<u8> = (event as u32).to_le_bytes().into_iter().chain([1, 0, 0, 0]).collect();
        u.store(memory, &entry).await;
        let begin = u.now_ns();
        assert_eq!(u.syscall(call::POLL, [memory, 1, 20]).await, 0);
        let waited = u.now_ns() - begin;
        assert!((20 * MS..21 * MS).contains(&waited), "{waited}");
        fork(&u, move |u| async move {
            u.compute(3 * MS).await;
            u.store(memory + 64, &1u64.to_le_bytes()).await;
            assert_eq!(u.syscall(call::WRITE, [event, memory + 64, 8]).await, 8);
        })
        .await;
        let begin = u.now_ns();
        assert_eq!(u.syscall(call::POLL, [memory, 1, 1000]).await, 1);
        assert!(u.now_ns() - begin < 100 * MS);
        assert_eq!(u.load_u32(memory + 4).await, 0x1_0001, "POLLIN in revents");
        u.syscall(nr::WAIT4, [u64::MAX, 0, 0, 0]).await;
    });
}

#[test]
fn epoll_waits_for_a_timer() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let epoll = u.syscall(call::EPOLL_CREATE1, [0]).await as u64;
        let timer = u.syscall(call::TIMERFD_CREATE, [1, 0]).await as u64;
        // Events IN, data 77.
        let event: Vec<u8> = 1u32.to_le_bytes().into_iter().chain(77u64.to_le_bytes()).collect();
        u.store(memory, &event).await;
        assert_eq!(u.syscall(call::EPOLL_CTL, [epoll, 1, timer, memory]).await, 0);
        assert_eq!(u.syscall(call::EPOLL_CTL, [epoll, 1, timer, memory]).await, Errno::EEXIST.as_return());
        let spec: Vec<u8> = [0u64, 0, 0, 7 * MS].iter().flat_map(|word| word.to_le_bytes()).collect();
        u.store(memory, &spec).await;
        assert_eq!(u.syscall(call::TIMERFD_SETTIME, [timer, 0, memory, 0]).await, 0);
        let begin = u.now_ns();
        assert_eq!(u.syscall(call::EPOLL_WAIT, [epoll, memory, 4, u64::MAX]).await, 1);
        assert!(u.now_ns() - begin >= 7 * MS);
        assert_eq!(u.load(memory, 12).await, event);
        assert_eq!(u.syscall(call::READ, [timer, memory, 8]).await, 8);
        assert_eq!(u.load_u64(memory).await, 1);
        assert_eq!(u.syscall(call::EPOLL_WAIT, [epoll, memory, 4, 0]).await, 0);
    });
}

#[test]
fn a_killed_reader_leaves_at_once() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let (a, _b) = fds(&u, call::SOCKETPAIR, [1, 1, 0], memory).await;
        let child = fork(&u, move |u| async move {
            u.syscall(call::READ, [a, memory, 1]).await;
        })
        .await as u64;
        u.compute(2 * MS).await;
        assert_eq!(u.syscall(nr::KILL, [child, 9]).await, 0);
        assert_eq!(u.syscall(nr::WAIT4, [child, memory, 0, 0]).await, child as i64);
        assert_eq!(u.load_u32(memory).await, 9);
    });
}
