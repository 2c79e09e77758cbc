//! Processes and signals on the scripted platform.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Creds, ExitStatus};
use crate::Errno;
use crate::signal::{SigAction, Signal};
use crate::testing::{Machine, Role, User, map_memory, nr, run_script};
use crate::wait::Interrupt;

const SA_RESTORER: u64 = 0x0400_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SA_NOCLDSTOP: u64 = 1;
const STACK: u64 = 64 << 10;

/// What happened, in order.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn note(&self, text: impl Into<String>) {
        self.0.lock().push(text.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

fn errno(errno: Errno) -> i64 {
    errno.as_return()
}

async fn fork<F, Fut>(u: &User, child: F) -> u64
where
    F: Fn(User) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let pid = u.spawn(nr::FORK, [], Role::Program, child).await;
    assert!(pid > 0, "fork: {pid}");
    pid as u64
}

/// Gives the thread a stack, so that signal frames have a place.
async fn make_stack(u: &User) -> u64 {
    let memory = map_memory(u, STACK).await;
    let mut registers = u.registers();
    registers.rsp = memory + STACK / 2;
    u.set_registers(registers);
    memory
}

async fn set_handler(u: &User, scratch: u64, signal: Signal, flags: u64, handler: u64) {
    let action = SigAction { handler, flags: flags | SA_RESTORER, restorer: 0x1234, mask: 0 };
    let bytes: Vec<u8> =
        [action.handler, action.flags, action.restorer, action.mask].iter().flat_map(|w| w.to_le_bytes()).collect();
    u.store(scratch, &bytes).await;
    let result = u.syscall(nr::RT_SIGACTION, [signal.number() as u64, scratch, 0, 8]).await;
    assert_eq!(result, 0);
}

async fn wait_status(u: &User, scratch: u64, pid: i64, options: u64) -> (i64, u32) {
    let found = u.syscall(nr::WAIT4, [pid as u64, scratch, options, 0]).await;
    (found, u.load_u32(scratch).await)
}

#[test]
fn fork_exit_wait() {
    let status = run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        u.store(memory, &7u32.to_le_bytes()).await;
        let child = fork(&u, move |u| async move {
            assert_eq!(u.syscall(nr::GETPPID, []).await, 1);
            u.store(memory, &8u32.to_le_bytes()).await;
            u.syscall(nr::EXIT_GROUP, [300]).await;
        })
        .await;
        assert_eq!(child, 2);
        assert_eq!(wait_status(&u, memory + 8, -1, 0).await, (2, 44 << 8));
        assert_eq!(u.load_u32(memory).await, 7, "the child wrote its own copy");
        assert_eq!(u.syscall(nr::WAIT4, [u64::MAX, 0, 0, 0]).await, errno(Errno::ECHILD));
        u.syscall(nr::EXIT_GROUP, [3]).await;
    });
    assert_eq!(status, ExitStatus::Exited(3));
}

#[test]
fn the_end_of_init_kills_all() {
    let machine = Machine::new();
    let told = Journal::default();
    let journal = told.clone();
    machine.container.life.on_exit(Box::new(move |status| journal.note(format!("{status:?}"))));
    let init = machine.start(|u| async move {
        fork(&u, |u| async move {
            fork(&u, |u| async move {
                u.syscall(nr::PAUSE, []).await;
            })
            .await;
            u.compute(10_000_000_000).await;
        })
        .await;
        u.compute(1_000_000).await;
    });
    assert_eq!(machine.finish(&init), ExitStatus::Exited(0));
    machine.drain();
    assert_eq!(told.lines(), ["Exited(0)"]);
    assert!(machine.now_ns() < 2_000_000_000, "nobody computed on: {}", machine.now_ns());
}

#[test]
fn orphans_go_to_init_and_subreapers() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let child = fork(&u, |u| async move {
            fork(&u, |u| async move {
                u.compute(1000).await;
                assert_eq!(u.syscall(nr::GETPPID, []).await, 1);
                u.syscall(nr::EXIT_GROUP, [5]).await;
            })
            .await;
        })
        .await;
        assert_eq!(wait_status(&u, memory, child as i64, 0).await, (2, 0));
        assert_eq!(wait_status(&u, memory, -1, 0).await, (3, 5 << 8));
    });
}

#[test]
fn pids_limit_and_reuse() {
    let machine = Machine::with_max_tasks(Some(3));
    let init = machine.start(|u| async move {
        for _ in 0..2 {
            fork(&u, |u| async move {
                u.syscall(nr::PAUSE, []).await;
            })
            .await;
        }
        assert_eq!(u.syscall(nr::FORK, []).await, errno(Errno::EAGAIN));
        assert_eq!(u.syscall(nr::KILL, [2, 9]).await, 0);
        assert_eq!(u.syscall(nr::WAIT4, [2, 0, 0, 0]).await, 2);
        assert_eq!(fork(&u, |_| async {}).await, 4);
    });
    assert_eq!(machine.finish(&init), ExitStatus::Exited(0));
    machine.drain();
}

#[test]
fn a_blocked_task_is_killed() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let child = fork(&u, |u| async move {
            u.syscall(nr::WAIT4, [u64::MAX, 0, 0, 0]).await;
            fork(&u, |u| async move {
                u.syscall(nr::PAUSE, []).await;
            })
            .await;
            u.syscall(nr::WAIT4, [u64::MAX, 0, 0, 0]).await;
            panic!("it woke up");
        })
        .await;
        u.compute(1000).await;
        assert_eq!(u.syscall(nr::KILL, [child, 9]).await, 0);
        assert_eq!(wait_status(&u, memory, child as i64, 0).await, (2, 9));
    });
}

#[test]
fn vfork_waits_for_the_child() {
    let journal = Journal::default();
    let notes = journal.clone();
    run_script(move |u| {
        let journal = notes.clone();
        async move {
            let memory = map_memory(&u, 4096).await;
            let inner = journal.clone();
            let child = move |u: User| {
                let journal = inner.clone();
                async move {
                    u.compute(1_000_000).await;
                    u.store(memory, &1u32.to_le_bytes()).await;
                    journal.note("child ends");
                }
            };
            let pid = u.spawn(nr::VFORK, [], Role::Program, child).await;
            journal.note("parent goes on");
            assert_eq!(pid, 2);
            assert_eq!(u.load_u32(memory).await, 1, "memory is shared");
            assert_eq!(u.syscall(nr::WAIT4, [2, 0, 0, 0]).await, 2);
        }
    });
    assert_eq!(journal.lines(), ["child ends", "parent goes on"]);
}

#[test]
fn threads_share_and_exit_group_ends_all() {
    // CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM, CHILD_CLEARTID
    const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
    let status = run_script(|u| async move {
        let memory = map_memory(&u, STACK).await;
        u.store(memory, &1u32.to_le_bytes()).await;
        let args = [THREAD | 0x20_0000, memory + STACK, 0, memory, 0];
        let tid = u
            .spawn(nr::CLONE, args, Role::Thread, move |u| async move {
                assert_eq!(u.syscall(nr::GETPID, []).await, 1);
                assert_eq!(u.syscall(nr::GETTID, []).await, 2);
                u.compute(5000).await;
            })
            .await;
        assert_eq!(tid, 2);
        // pthread_join: FUTEX_WAIT on the tid word.
        let joined = u.syscall(nr::FUTEX, [memory, 0, 1, 0, 0, 0]).await;
        assert!(joined == 0 || joined == errno(Errno::EAGAIN), "{joined}");
        assert_eq!(u.load_u32(memory).await, 0);
        u.spawn(nr::CLONE, [THREAD, memory + STACK, 0, 0, 0], Role::Thread, |u| async move {
            u.syscall(nr::EXIT_GROUP, [9]).await;
        })
        .await;
        u.syscall(nr::PAUSE, []).await;
        panic!("exit_group leaves nobody");
    });
    assert_eq!(status, ExitStatus::Exited(9));
}

#[test]
fn clone_flags_are_checked() {
    run_script(|u| async move {
        assert_eq!(u.syscall(nr::CLONE, [0x1_0000]).await, errno(Errno::EINVAL), "THREAD without SIGHAND");
        assert_eq!(u.syscall(nr::CLONE, [0x800]).await, errno(Errno::EINVAL), "SIGHAND without VM");
        assert_eq!(u.syscall(nr::CLONE, [0x8000 | 17]).await, errno(Errno::EINVAL), "PARENT of init");
        assert_eq!(
            u.syscall(nr::CLONE, [0x2000_0000 | 0x1_0900]).await,
            errno(Errno::EINVAL),
            "a thread in another pid namespace"
        );
    });
}

#[test]
fn a_handler_runs_and_returns() {
    let journal = Journal::default();
    let notes = journal.clone();
    run_script(move |u| {
        let journal = notes.clone();
        async move {
            let memory = make_stack(&u).await;
            let inner = journal.clone();
            let handler = u.script(Role::Handler, move |u| {
                let journal = inner.clone();
                async move {
                    let registers = u.registers();
                    let code = u.load_u32(registers.rsi + 8).await as i32;
                    let pid = u.load_u32(registers.rsi + 16).await;
                    journal.note(format!("signal {} code {code} pid {pid}", registers.rdi));
                    // A handler's own calls do not disturb what it interrupted.
                    assert_eq!(u.syscall(nr::GETPID, []).await, 1);
                }
            });
            set_handler(&u, memory, Signal::USR1, 4, handler).await;
            assert_eq!(u.syscall(nr::KILL, [1, 10]).await, 0, "the result of kill survives the handler");
            journal.note("after");
        }
    });
    assert_eq!(journal.lines(), ["signal 10 code 0 pid 1", "after"]);
}

#[test]
fn interrupted_calls_fail_or_restart() {
    for (flags, expected) in [(0, errno(Errno::EINTR)), (SA_RESTART, 2)] {
        run_script(move |u| async move {
            let memory = make_stack(&u).await;
            let handler = u.script(Role::Handler, |_| async {});
            set_handler(&u, memory, Signal::USR1, flags, handler).await;
            let child = fork(&u, |u| async move {
                u.compute(1_000_000).await;
                u.syscall(nr::KILL, [1, 10]).await;
                u.compute(1_000_000).await;
            })
            .await;
            assert_eq!(u.syscall(nr::WAIT4, [child, 0, 0, 0]).await, expected);
            if expected != 2 {
                assert_eq!(u.syscall(nr::WAIT4, [child, 0, 0, 0]).await, 2);
            }
        });
    }
}

#[test]
fn pause_is_not_restarted_and_ignored_signals_do_not_end_it() {
    run_script(|u| async move {
        let memory = make_stack(&u).await;
        let handler = u.script(Role::Handler, |_| async {});
        set_handler(&u, memory, Signal::USR1, SA_RESTART, handler).await;
        fork(&u, |u| async move {
            u.compute(1000).await;
            u.syscall(nr::KILL, [1, 17]).await;
            u.compute(1000).await;
            u.syscall(nr::KILL, [1, 10]).await;
            u.syscall(nr::PAUSE, []).await;
        })
        .await;
        let before = u.now_ns();
        assert_eq!(u.syscall(nr::PAUSE, []).await, errno(Errno::EINTR));
        assert!(u.now_ns() >= before + 2000);
    });
}

#[test]
fn stop_and_continue() {
    let journal = Journal::default();
    let notes = journal.clone();
    run_script(move |u| {
        let journal = notes.clone();
        async move {
            let memory = make_stack(&u).await;
            let inner = journal.clone();
            let handler = u.script(Role::Handler, move |u| {
                let journal = inner.clone();
                async move {
                    let info = u.registers().rsi;
                    journal.note(format!("SIGCHLD code {} status {}", u.load_u32(info + 8).await, u.load_u32(info + 24).await));
                }
            });
            set_handler(&u, memory, Signal::CHLD, 4 | SA_RESTART, handler).await;
            let inner = journal.clone();
            let child = fork(&u, move |u| {
                let journal = inner.clone();
                async move {
                    u.syscall(nr::PAUSE, []).await;
                    journal.note("not reached");
                }
            })
            .await;
            u.compute(1000).await;
            u.syscall(nr::KILL, [child, 19]).await;
            // WUNTRACED, then WCONTINUED.
            assert_eq!(wait_status(&u, memory, -1, 2).await, (2, 19 << 8 | 0x7f));
            assert_eq!(u.syscall(nr::WAIT4, [child, memory, 1 | 2, 0]).await, 0, "reported once");
            u.syscall(nr::KILL, [child, 18]).await;
            assert_eq!(wait_status(&u, memory, -1, 8).await, (2, 0xffff));
            u.syscall(nr::KILL, [child, 15]).await;
            assert_eq!(wait_status(&u, memory, -1, 0).await, (2, 15));
        }
    });
    assert_eq!(journal.lines(), ["SIGCHLD code 5 status 19", "SIGCHLD code 6 status 18", "SIGCHLD code 2 status 15"]);
}

#[test]
fn a_stopped_process_dies_by_sigkill_only() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let child = fork(&u, |u| async move {
            u.compute(u64::MAX / 2).await;
        })
        .await;
        u.syscall(nr::KILL, [child, 19]).await;
        assert_eq!(wait_status(&u, memory, -1, 2).await, (2, 19 << 8 | 0x7f));
        u.syscall(nr::KILL, [child, 12]).await;
        u.compute(1000).await;
        assert_eq!(u.syscall(nr::WAIT4, [child, 0, 1, 0]).await, 0);
        u.syscall(nr::KILL, [child, 9]).await;
        let (_, status) = wait_status(&u, memory, -1, 0).await;
        assert!(status == 9 || status == 12);
    });
}

#[test]
fn ignored_children_are_reaped_at_once() {
    run_script(|u| async move {
        let memory = make_stack(&u).await;
        set_handler(&u, memory, Signal::CHLD, SA_NOCLDSTOP, 1).await;
        fork(&u, |_| async {}).await;
        assert_eq!(
            u.syscall(nr::WAIT4, [u64::MAX, 0, 0, 0]).await,
            errno(Errno::ECHILD),
            "it waits for the end and finds nothing"
        );
    });
}

#[test]
fn init_ignores_what_it_has_no_handler_for() {
    let machine = Machine::new();
    let init = machine.start(|u| async move {
        u.syscall(nr::KILL, [1, 15]).await;
        u.syscall(nr::KILL, [1, 9]).await;
        u.syscall(nr::EXIT_GROUP, [4]).await;
    });
    assert_eq!(machine.finish(&init), ExitStatus::Exited(4));
    machine.drain();
}

#[test]
fn other_users_may_not_be_killed() {
    let machine = Machine::new();
    let init = machine.start(|u| async move {
        u.syscall(nr::PAUSE, []).await;
    });
    let user = Creds { uid: 1000, euid: 1000, suid: 1000, ..Creds::default() };
    let other = machine.start_as(user, |u| async move {
        assert_eq!(u.syscall(nr::KILL, [1, 9]).await, errno(Errno::EPERM));
        assert_eq!(u.syscall(nr::KILL, [77, 9]).await, errno(Errno::ESRCH));
        assert_eq!(u.syscall(nr::KILL, [1, 99]).await, errno(Errno::EINVAL));
    });
    assert_eq!(machine.finish(&other), ExitStatus::Exited(0));
    machine.run();
    assert!(init.ended().is_none());
    let leader = init.leader().unwrap();
    assert!(!leader.killed());
}

#[test]
fn sigsuspend_and_masks() {
    let journal = Journal::default();
    let notes = journal.clone();
    run_script(move |u| {
        let journal = notes.clone();
        async move {
            let memory = make_stack(&u).await;
            let inner = journal.clone();
            let handler = u.script(Role::Handler, move |u| {
                let journal = inner.clone();
                async move { journal.note(format!("handler {}", u.registers().rdi)) }
            });
            set_handler(&u, memory, Signal::USR1, 0, handler).await;
            u.store(memory, &Signal::USR1.bit().to_le_bytes()).await;
            assert_eq!(u.syscall(nr::RT_SIGPROCMASK, [0, memory, 0, 8]).await, 0);
            u.syscall(nr::KILL, [1, 10]).await;
            journal.note("blocked");
            u.store(memory, &0u64.to_le_bytes()).await;
            assert_eq!(u.syscall(nr::RT_SIGSUSPEND, [memory, 8]).await, errno(Errno::EINTR));
            journal.note("suspended");
            // The old mask is back.
            u.syscall(nr::RT_SIGPROCMASK, [0, 0, memory + 8, 8]).await;
            assert_eq!(u.load_u64(memory + 8).await, Signal::USR1.bit());
        }
    });
    assert_eq!(journal.lines(), ["blocked", "handler 10", "suspended"]);
}

#[test]
fn faults_become_signals() {
    let status = Machine::new();
    let init = status.start(|u| async move {
        let memory = make_stack(&u).await;
        let child = fork(&u, |u| async move {
            u.load(0x10, 1).await;
        })
        .await;
        assert_eq!(wait_status(&u, memory, child as i64, 0).await, (2, 11));
        let handler = u.script(Role::Handler, move |u| async move {
            let info = u.registers().rsi;
            assert_eq!(u.load_u32(info + 8).await, 1, "SEGV_MAPERR");
            assert_eq!(u.load_u64(info + 16).await, 0x18);
            u.syscall(nr::EXIT_GROUP, [6]).await;
        });
        set_handler(&u, memory, Signal::SEGV, 4, handler).await;
        u.load(0x18, 1).await;
    });
    assert_eq!(status.finish(&init), ExitStatus::Exited(6));
}

#[test]
fn process_groups_and_sessions() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let child = fork(&u, |u| async move {
            u.syscall(nr::PAUSE, []).await;
        })
        .await;
        let other = fork(&u, |u| async move {
            assert_eq!(u.syscall(nr::SETSID, []).await, 3);
            assert_eq!(u.syscall(nr::SETSID, []).await, errno(Errno::EPERM));
            u.syscall(nr::PAUSE, []).await;
        })
        .await;
        u.compute(1000).await;
        assert_eq!(u.syscall(nr::SETPGID, [child, child]).await, 0);
        assert_eq!(u.syscall(nr::SETPGID, [other, child]).await, errno(Errno::EPERM), "another session");
        assert_eq!(u.syscall(nr::KILL, [-(child as i64) as u64, 15]).await, 0);
        assert_eq!(wait_status(&u, memory, -(child as i64), 0).await, (2, 15));
        assert_eq!(u.syscall(nr::KILL, [-77i64 as u64, 15]).await, errno(Errno::ESRCH));
        u.syscall(nr::KILL, [other, 9]).await;
    });
}

#[test]
fn futexes_hand_over_between_threads() {
    const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000;
    const ROUNDS: u32 = 50;
    run_script(|u| async move {
        let memory = map_memory(&u, STACK).await;
        let turn = move |u: User, own: u32| async move {
            for _ in 0..ROUNDS {
                loop {
                    let now = u.load_u32(memory).await;
                    if now == own {
                        break;
                    }
                    let waited = u.syscall(nr::FUTEX, [memory, 128, u64::from(now), 0, 0, 0]).await;
                    assert!(waited == 0 || waited == errno(Errno::EAGAIN));
                }
                u.store(memory, &(1 - own).to_le_bytes()).await;
                u.syscall(nr::FUTEX, [memory, 129, 1, 0, 0, 0]).await;
            }
        };
        u.spawn(nr::CLONE, [THREAD | 0x20_0000, memory + STACK, 0, memory + 8, 0], Role::Thread, move |u| turn(u, 1)).await;
        u.store(memory + 8, &5u32.to_le_bytes()).await;
        turn(u.clone(), 0).await;
        u.syscall(nr::FUTEX, [memory + 8, 0, 5, 0, 0, 0]).await;
    });
}

#[test]
fn limits_and_prctl() {
    const PRLIMIT64: u64 = 302;
    const NOFILE: u64 = 7;
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let words = |words: [u64; 2]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        u.store(memory, &words([100, 50])).await;
        assert_eq!(u.syscall(PRLIMIT64, [0, NOFILE, memory, 0]).await, errno(Errno::EINVAL));
        u.store(memory, &words([64, 64])).await;
        assert_eq!(u.syscall(PRLIMIT64, [0, NOFILE, memory, memory + 16]).await, 0);
        assert_eq!([u.load_u64(memory + 16).await, u.load_u64(memory + 24).await], [1024, 1 << 20]);
        // The name is cut to 15 bytes, and inherited.
        u.store(memory, b"a-rather-long-name\0").await;
        assert_eq!(u.syscall(nr::PRCTL, [15, memory]).await, 0);
        fork(&u, move |u| async move {
            assert_eq!(u.syscall(nr::PRCTL, [16, memory]).await, 0);
            assert_eq!(u.load(memory, 16).await, b"a-rather-long-n\0");
            assert_eq!(u.syscall(PRLIMIT64, [0, NOFILE, 0, memory]).await, 0);
            assert_eq!(u.load_u64(memory).await, 64);
            // no_new_privs cannot be taken back.
            assert_eq!(u.syscall(nr::PRCTL, [38, 1]).await, 0);
            assert_eq!(u.syscall(nr::PRCTL, [38, 0]).await, errno(Errno::EINVAL));
            assert_eq!(u.syscall(nr::PRCTL, [39]).await, 1);
        })
        .await;
        assert_eq!(u.syscall(nr::WAIT4, [u64::MAX, memory, 0, 0]).await, 2);
        assert_eq!(u.load_u32(memory).await, 0);
    });
}

#[test]
fn a_limit_of_cpu_time_ends_a_loop() {
    const PRLIMIT64: u64 = 302;
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let child = fork(&u, move |u| async move {
            u.store(memory, &1u64.to_le_bytes()).await;
            u.store(memory + 8, &3u64.to_le_bytes()).await;
            assert_eq!(u.syscall(PRLIMIT64, [0, 0, memory, 0]).await, 0);
            loop {
                u.compute(100_000_000).await;
            }
        })
        .await;
        assert_eq!(wait_status(&u, memory, child as i64, 0).await, (2, Signal::XCPU.number() as u32));
    });
}

#[test]
fn parent_death_and_subreaper() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        let child = fork(&u, move |u| async move {
            assert_eq!(u.syscall(nr::PRCTL, [36, 1]).await, 0);
            fork(&u, |u| async move {
                fork(&u, |u| async move {
                    assert_eq!(u.syscall(nr::PRCTL, [1, 15]).await, 0);
                    u.syscall(nr::PAUSE, []).await;
                })
                .await;
                u.compute(1000).await;
            })
            .await;
            assert_eq!(u.syscall(nr::WAIT4, [3, memory, 0, 0]).await, 3);
            assert_eq!(u.syscall(nr::WAIT4, [4, memory, 0, 0]).await, 4, "it came to the subreaper");
            assert_eq!(u.load_u32(memory).await, 15, "and got its signal");
        })
        .await;
        assert_eq!(wait_status(&u, memory, child as i64, 0).await, (2, 0));
    });
}

#[test]
fn orphaned_groups_are_continued() {
    run_script(|u| async move {
        let memory = map_memory(&u, 4096).await;
        // A shell-like child with a stopped job of another group in its session.
        let shell = fork(&u, |u| async move {
            assert_eq!(u.syscall(nr::SETSID, []).await, 2);
            let job = fork(&u, |u| async move {
                u.syscall(nr::SETPGID, [0, 0]).await;
                u.syscall(nr::PAUSE, []).await;
            })
            .await;
            u.compute(1000).await;
            assert_eq!(u.syscall(nr::KILL, [job, 19]).await, 0);
            u.compute(1000).await;
        })
        .await;
        assert_eq!(wait_status(&u, memory, shell as i64, 0).await, (2, 0));
        assert_eq!(wait_status(&u, memory, -1, 0).await, (3, Signal::HUP.number() as u32), "the job is hung up");
    });
}

#[test]
fn a_paused_container_stands_still() {
    let machine = Machine::new();
    let count = Arc::new(Mutex::new(0));
    let counter = count.clone();
    let init = machine.start(move |u| {
        let counter = counter.clone();
        async move {
            for _ in 0..10 {
                u.compute(1000).await;
                *counter.lock() += 1;
            }
        }
    });
    machine.run_until(|| *count.lock() == 3);
    machine.container.pause();
    machine.run();
    assert_eq!(*count.lock(), 3);
    assert!(init.ended().is_none());
    machine.container.resume();
    assert_eq!(machine.finish(&init), ExitStatus::Exited(0));
}

#[test]
fn a_thread_that_ends_completes_a_stop() {
    const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000;
    run_script(|u| async move {
        let memory = map_memory(&u, STACK).await;
        let child = fork(&u, move |u| async move {
            // It cannot stop before it has ended: it waits for a vfork child, killably.
            u.spawn(nr::CLONE, [THREAD, memory + STACK, 0, 0, 0], Role::Thread, |u| async move {
                u.spawn(nr::VFORK, [], Role::Program, |u| async move { u.compute(50_000).await }).await;
                u.syscall(nr::EXIT, [0]).await;
            })
            .await;
            u.syscall(nr::PAUSE, []).await;
        })
        .await;
        u.compute(1000).await;
        u.syscall(nr::KILL, [child, 19]).await;
        assert_eq!(wait_status(&u, memory, child as i64, 2).await, (2, 19 << 8 | 0x7f));
        u.syscall(nr::KILL, [child, 9]).await;
    });
}
