// seccomp: modes, filters and their actions, chains, inheritance, TSYNC. Each case runs in a child of its own, so a filter may stay.
#include "abi.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define NR offsetof(struct seccomp_data, nr)
#define ARG(n) offsetof(struct seccomp_data, args[n])
#define LOAD(off) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, off)
#define RET(v) BPF_STMT(BPF_RET | BPF_K, v)
#define PROG(...)                                                                                                      \
    (&(struct sock_fprog){.len = sizeof((struct sock_filter[]){__VA_ARGS__}) / sizeof(struct sock_filter),             \
                          .filter = (struct sock_filter[]){__VA_ARGS__}})
// A filter that answers one call, and allows the rest.
#define ONLY(nr_, action)                                                                                              \
    PROG(LOAD(NR), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr_, 0, 1), RET(action), RET(SECCOMP_RET_ALLOW))

static long seccomp(unsigned op, unsigned flags, void *arg) { return syscall(SYS_seccomp, op, flags, arg); }
static void no_new_privs(void) { OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }
static void install(struct sock_fprog *prog) {
    no_new_privs();
    EQ(seccomp(SECCOMP_SET_MODE_FILTER, 0, prog), 0);
}
static long status_field(const char *name) {
    char line[256], want[64];
    long value = -1;
    snprintf(want, sizeof want, "%s:\t%%ld", name);
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, want, &value) == 1) break;
    fclose(f);
    return value;
}

CASE(seccomp_errno) {
    install(ONLY(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV));
    ERR(syscall(SYS_getppid), EXDEV);
    CHECK(getpid() > 0);
}
CASE(seccomp_errno_zero_and_cap) {
    install(ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 0));
    EQ(syscall(SYS_getppid), 0);
    install(ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 0xffff));
    // Values above 4095 are cut to it; the older filter's 0 is as strict, so the newest of the equals counts.
    ERR(syscall(SYS_getppid), 4095);
}
CASE(seccomp_answers_in_stub_are_filtered) {
    for (int i = 0; i < 5000; i++) CHECK(syscall(SYS_getpid) > 0 && syscall(SYS_getuid) >= 0);
    install(ONLY(SYS_getpid, SECCOMP_RET_ERRNO | 77));
    ERR(syscall(SYS_getpid), 77);
    for (int i = 0; i < 5000; i++) CHECK(syscall(SYS_getpid) == -1 && syscall(SYS_getuid) >= 0);
}
CASE(seccomp_by_argument) {
    install(PROG(LOAD(NR), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup, 0, 3), LOAD(ARG(0)),
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1000, 0, 1), RET(SECCOMP_RET_ERRNO | ENOTTY), RET(SECCOMP_RET_ALLOW)));
    ERR(dup(1000), ENOTTY);
    ERR(dup(1001), EBADF);
    OK(dup(0));
}
CASE(seccomp_data_has_all) {
    // Architecture, number, the six arguments' halves.
    install(PROG(LOAD(NR), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x7000, 1, 0), RET(SECCOMP_RET_ALLOW), LOAD(4),
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0), RET(SECCOMP_RET_ERRNO | 1), LOAD(ARG(5) + 4),
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x66, 1, 0), RET(SECCOMP_RET_ERRNO | 2), LOAD(ARG(5)),
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x77, 1, 0), RET(SECCOMP_RET_ERRNO | 3), LOAD(12),
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)((uintptr_t)syscall >> 32), 1, 0), RET(SECCOMP_RET_ERRNO | 4),
                 RET(SECCOMP_RET_ERRNO | 100)));
    ERR(syscall(0x7000, 0, 0, 0, 0, 0, 0x6600000077), 100);
}
CASE(seccomp_needs_no_new_privs) {
    if (!getuid()) {
        IN_CHILD(OK(setresuid(1000, 1000, 1000)); errno = 0; ERR(seccomp(SECCOMP_SET_MODE_FILTER, 0, PROG(RET(SECCOMP_RET_ALLOW))), EACCES);
                 no_new_privs(); EQ(seccomp(SECCOMP_SET_MODE_FILTER, 0, PROG(RET(SECCOMP_RET_ALLOW))), 0));
        EQ(seccomp(SECCOMP_SET_MODE_FILTER, 0, PROG(RET(SECCOMP_RET_ALLOW))), 0);
    }
}
CASE(seccomp_prctl_filter) {
    no_new_privs();
    EQ(prctl(PR_GET_SECCOMP), 0);
    EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 5)), 0);
    EQ(prctl(PR_GET_SECCOMP), 2);
    ERR(syscall(SYS_getppid), 5);
    ERR(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0), EINVAL);
    ERR(prctl(PR_SET_SECCOMP, 7, 0), EINVAL);
}
CASE(seccomp_bad_calls) {
    no_new_privs();
    ERR(seccomp(99, 0, NULL), EINVAL);
    ERR(seccomp(SECCOMP_SET_MODE_STRICT, 1, NULL), EINVAL);
    ERR(seccomp(SECCOMP_SET_MODE_STRICT, 0, (void *)8), EINVAL);
    ERR(seccomp(SECCOMP_SET_MODE_FILTER, 1 << 20, NULL), EINVAL);
    ERR(seccomp(SECCOMP_SET_MODE_FILTER, 0, NULL), EFAULT);
    ERR(seccomp(SECCOMP_SET_MODE_FILTER, 0, BAD), EFAULT);
    ERR(seccomp(SECCOMP_SET_MODE_FILTER, 0, (&(struct sock_fprog){.len = 1, .filter = BAD})), EFAULT);
    ERR(seccomp(SECCOMP_SET_MODE_FILTER, 0, (&(struct sock_fprog){.len = 0, .filter = BAD})), EINVAL);
    ERR(seccomp(SECCOMP_SET_MODE_FILTER, 0, (&(struct sock_fprog){.len = 4097, .filter = BAD})), EINVAL);
    EQ(prctl(PR_GET_SECCOMP), 0);
}
CASE(seccomp_bad_programs) {
    no_new_privs();
#define REFUSED(...) ERR(seccomp(SECCOMP_SET_MODE_FILTER, 0, PROG(__VA_ARGS__)), EINVAL)
    REFUSED(LOAD(NR));
    REFUSED(LOAD(2), RET(SECCOMP_RET_ALLOW));
    REFUSED(LOAD(64), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_JMP | BPF_JA, 1), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_ST, 16), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_LD | BPF_MEM, 3), RET(SECCOMP_RET_ALLOW));
    REFUSED(BPF_STMT(BPF_RET | BPF_X, 0));
    REFUSED({0xffff, 0, 0, 0}, RET(SECCOMP_RET_ALLOW));
    // What Linux takes.
    EQ(seccomp(SECCOMP_SET_MODE_FILTER, 0,
               PROG(BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_STMT(BPF_ST, 15), BPF_STMT(BPF_LDX | BPF_MEM, 15),
                    BPF_STMT(BPF_ALU | BPF_SUB | BPF_X, 0), BPF_STMT(BPF_ALU | BPF_NEG, 0), BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ALLOW),
                    BPF_STMT(BPF_RET | BPF_A, 0))), 0);
}
CASE(seccomp_division_by_zero_kills) {
    pid_t pid = OK(fork());
    if (!pid) {
        install(PROG(LOAD(NR), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 1, 0), RET(SECCOMP_RET_ALLOW),
                     BPF_STMT(BPF_LDX | BPF_IMM, 0), BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0), RET(SECCOMP_RET_ALLOW)));
        syscall(SYS_getppid);
        _exit(0);
    }
    DIES(pid, SIGSYS);
}
CASE(seccomp_kill_process) {
    pid_t pid = OK(fork());
    if (!pid) {
        signal(SIGSYS, SIG_IGN);
        install(ONLY(SYS_getppid, SECCOMP_RET_KILL_PROCESS));
        syscall(SYS_getppid);
        _exit(0);
    }
    DIES(pid, SIGSYS);
}
static void *calls_getppid(void *ran) {
    install(ONLY(SYS_getppid, SECCOMP_RET_KILL_THREAD));
    syscall(SYS_getppid);
    *(volatile int *)ran = 1;
    return NULL;
}
CASE(seccomp_kill_thread) {
    // The only thread: the process goes.
    pid_t pid = OK(fork());
    if (!pid) {
        install(ONLY(SYS_getppid, SECCOMP_RET_KILL_THREAD));
        syscall(SYS_getppid);
        _exit(0);
    }
    DIES(pid, SIGSYS);
    // One of two: it alone.
    volatile int ran = 0;
    pthread_t thread;
    EQ(pthread_create(&thread, NULL, calls_getppid, (void *)&ran), 0);
    EQ(pthread_join(thread, NULL), 0);
    EQ(ran, 0);
    CHECK(syscall(SYS_getppid) > 0);
}
CASE(seccomp_unknown_action_kills) {
    pid_t pid = OK(fork());
    if (!pid) {
        install(ONLY(SYS_getppid, 0x00010000));
        syscall(SYS_getppid);
        _exit(0);
    }
    DIES(pid, SIGSYS);
}
static volatile long trap_rax, trap_rip;
static void on_sigsys(int sig, siginfo_t *info, void *uc) {
    on_signal(sig, info, uc);
    greg_t *regs = ((ucontext_t *)uc)->uc_mcontext.gregs;
    trap_rax = regs[REG_RAX];
    trap_rip = regs[REG_RIP];
    regs[REG_RAX] = 4711;
}
CASE(seccomp_trap) {
    struct sigaction sa = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
    OK(sigaction(SIGSYS, &sa, NULL));
    install(ONLY(SYS_getppid, SECCOMP_RET_TRAP | 1234));
    EQ(syscall(SYS_getppid), 4711);
    EQ(hits, 1);
    EQ(last_info.si_code, 1); // SYS_SECCOMP
    EQ(last_info.si_errno, 1234);
    EQ(last_info.si_syscall, SYS_getppid);
    EQ(last_info.si_arch, AUDIT_ARCH_X86_64);
    EQ((long)last_info.si_call_addr, trap_rip);
    EQ(trap_rax, SYS_getppid);
    // The two bytes before are the instruction.
    EQ(((unsigned char *)trap_rip)[-2], 0x0f);
    EQ(((unsigned char *)trap_rip)[-1], 0x05);
}
CASE(seccomp_trap_blocked_or_ignored_kills) {
    for (int block = 0; block < 2; block++) {
        pid_t pid = OK(fork());
        if (!pid) {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGSYS);
            if (block) {
                handle(SIGSYS, 0);
                sigprocmask(SIG_BLOCK, &set, NULL);
            } else signal(SIGSYS, SIG_IGN);
            install(ONLY(SYS_getppid, SECCOMP_RET_TRAP));
            syscall(SYS_getppid);
            _exit(0);
        }
        DIES(pid, SIGSYS);
    }
}
CASE(seccomp_log_and_allow) {
    install(ONLY(SYS_getppid, SECCOMP_RET_LOG));
    CHECK(syscall(SYS_getppid) > 0);
}
CASE(seccomp_trace_without_tracer) {
    install(ONLY(SYS_getppid, SECCOMP_RET_TRACE | 1));
    ERR(syscall(SYS_getppid), ENOSYS);
}
CASE(seccomp_notify_without_listener) {
    install(ONLY(SYS_getppid, 0x7fc00000));
    ERR(syscall(SYS_getppid), ENOSYS);
}
CASE(seccomp_strictest_wins) {
    install(ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 11));
    install(ONLY(SYS_getppid, SECCOMP_RET_ALLOW));
    ERR(syscall(SYS_getppid), 11);
    install(ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 12));
    ERR(syscall(SYS_getppid), 12);
    install(ONLY(SYS_getppid, SECCOMP_RET_TRACE));
    ERR(syscall(SYS_getppid), 12);
    EQ(status_field("Seccomp"), 2);
    EQ(status_field("Seccomp_filters"), 4);
}
CASE(seccomp_total_length) {
    no_new_privs();
    struct sock_filter *code = calloc(4096, sizeof *code);
    for (int i = 0; i < 4096; i++) code[i] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
    struct sock_fprog prog = {.len = 4096, .filter = code};
    int n = 0;
    while (seccomp(SECCOMP_SET_MODE_FILTER, 0, &prog) == 0) n++;
    EQ(errno, ENOMEM);
    // 32768 in all: each is 8195 long inside, and 4 more for each before.
    EQ(n, 3);
}
CASE(seccomp_fork_inherits) {
    install(ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 21));
    IN_CHILD(ERR(syscall(SYS_getppid), 21); EQ(prctl(PR_GET_SECCOMP), 2));
}
CASE(seccomp_exec_keeps) {
    pid_t pid = OK(fork());
    if (!pid) {
        install(ONLY(SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV));
        char *argv[] = {"sh", "-c", "mkdir /tmp/abi.seccomp.d 2>/dev/null && exit 1; grep -q 'Seccomp:.2' /proc/self/status", NULL};
        execv("/bin/sh", argv);
        _exit(99);
    }
    EXITS(pid, 0);
}
CASE(seccomp_exec_can_be_refused) {
    install(ONLY(SYS_execve, SECCOMP_RET_ERRNO | EPERM));
    char *argv[] = {"true", NULL};
    ERR(execv("/bin/true", argv), EPERM);
}
static volatile int thread_go, thread_result;
static void *waits_and_calls(void *arg) {
    (void)arg;
    while (!thread_go) usleep(1000);
    errno = 0;
    thread_result = syscall(SYS_getppid) == -1 ? errno : 0;
    return NULL;
}
CASE(seccomp_is_per_thread) {
    pthread_t thread;
    EQ(pthread_create(&thread, NULL, waits_and_calls, NULL), 0);
    nap_ms(20);
    install(ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 22));
    thread_go = 1;
    pthread_join(thread, NULL);
    EQ(thread_result, 0);
    // A thread made now has it.
    EQ(pthread_create(&thread, NULL, waits_and_calls, NULL), 0);
    pthread_join(thread, NULL);
    EQ(thread_result, 22);
}
CASE(seccomp_tsync) {
    pthread_t thread;
    EQ(pthread_create(&thread, NULL, waits_and_calls, NULL), 0);
    nap_ms(20);
    no_new_privs();
    EQ(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 23)), 0);
    thread_go = 1;
    pthread_join(thread, NULL);
    EQ(thread_result, 23);
}
static volatile int own_tid;
static void *filters_itself(void *arg) {
    (void)arg;
    install(PROG(RET(SECCOMP_RET_ALLOW)));
    own_tid = syscall(SYS_gettid);
    while (!thread_go) usleep(1000);
    return NULL;
}
CASE(seccomp_tsync_diverged) {
    pthread_t thread;
    EQ(pthread_create(&thread, NULL, filters_itself, NULL), 0);
    while (!own_tid) usleep(1000);
    no_new_privs();
    EQ(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, PROG(RET(SECCOMP_RET_ALLOW))), own_tid);
    ERR(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH, PROG(RET(SECCOMP_RET_ALLOW))), ESRCH);
    EQ(prctl(PR_GET_SECCOMP), 0);
    thread_go = 1;
    pthread_join(thread, NULL);
}
CASE(seccomp_flags) {
    no_new_privs();
    EQ(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW, PROG(RET(SECCOMP_RET_ALLOW))), 0);
    // 32: WAIT_KILLABLE_RECV, only with a listener.
    ERR(seccomp(SECCOMP_SET_MODE_FILTER, 32, PROG(RET(SECCOMP_RET_ALLOW))), EINVAL);
}
CASE(seccomp_action_avail) {
    unsigned known[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO,
                        SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) EQ(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, &known[i]), 0);
    unsigned none = 0x12340000;
    ERR(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, &none), EOPNOTSUPP);
    ERR(seccomp(SECCOMP_GET_ACTION_AVAIL, 1, &known[0]), EINVAL);
    ERR(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, BAD), EFAULT);
}
CASE(seccomp_notif_sizes) {
    unsigned short sizes[3] = {0};
    EQ(seccomp(SECCOMP_GET_NOTIF_SIZES, 0, sizes), 0);
    EQ(sizes[0], 80);
    EQ(sizes[1], 24);
    EQ(sizes[2], 64);
    ERR(seccomp(SECCOMP_GET_NOTIF_SIZES, 0, BAD), EFAULT);
}
CASE(seccomp_strict) {
    int fds[2];
    OK(pipe(fds));
    pid_t pid = OK(fork());
    if (!pid) {
        EQ(seccomp(SECCOMP_SET_MODE_STRICT, 0, NULL), 0);
        char byte = 'x';
        if (write(fds[1], &byte, 1) == 1 && read(fds[0], &byte, 1) == 1) syscall(SYS_exit, 7);
        for (;;) {}
    }
    EXITS(pid, 7);
    pid = OK(fork());
    if (!pid) {
        OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
        syscall(SYS_getpid);
        for (;;) {}
    }
    DIES(pid, SIGKILL);
}
CASE(seccomp_strict_kills_exit_group) {
    pid_t pid = OK(fork());
    if (!pid) {
        OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
        _exit(0);
    }
    DIES(pid, SIGKILL);
}
CASE(seccomp_status_fields) {
    EQ(status_field("Seccomp"), 0);
    EQ(status_field("Seccomp_filters"), 0);
    install(PROG(RET(SECCOMP_RET_ALLOW)));
    EQ(status_field("Seccomp"), 2);
    EQ(status_field("Seccomp_filters"), 1);
    EQ(status_field("NoNewPrivs"), 1);
}
CASE(seccomp_waits_are_restarted) {
    // A filter that allows what is needed; a stop and a continue in between.
    handle(SIGUSR1, SA_RESTART);
    install(ONLY(SYS_getppid, SECCOMP_RET_ERRNO | 1));
    int fds[2];
    OK(pipe(fds));
    pid_t self = getpid(), pid = OK(fork());
    if (!pid) {
        nap_ms(30);
        kill(self, SIGUSR1);
        nap_ms(30);
        if (write(fds[1], "a", 1) != 1) _exit(1);
        _exit(0);
    }
    char byte;
    EQ(read(fds[0], &byte, 1), 1);
    EQ(hits, 1);
    EXITS(pid, 0);
}

