// signals: masks, queues, order, alternate stacks, siginfo, restart rules.
#define ABI_PROGRAM
#include "abi.h"
#include <linux/futex.h>
#include <poll.h>
#include <setjmp.h>
#include <sys/socket.h>
#include <sys/select.h>
#include <ucontext.h>

int special(int argc, char **argv) { (void)argc; (void)argv; return 0; }

static void block(int sig) {
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, sig);
    OK(sigprocmask(SIG_BLOCK, &s, NULL));
}
static void unblock(int sig) {
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, sig);
    OK(sigprocmask(SIG_UNBLOCK, &s, NULL));
}
static int pending(int sig) {
    sigset_t s;
    OK(sigpending(&s));
    return sigismember(&s, sig);
}

CASE(handler_runs) {
    handle(SIGUSR1, 0);
    OK(raise(SIGUSR1));
    EQ(hits, 1);
    EQ(last_sig, SIGUSR1);
}

CASE(siginfo_of_kill) {
    handle(SIGUSR1, 0);
    OK(kill(getpid(), SIGUSR1));
    EQ(last_info.si_code, SI_USER);
    EQ(last_info.si_pid, getpid());
    EQ(last_info.si_uid, getuid());
    OK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
    EQ(last_info.si_code, SI_TKILL);
}

CASE(sigqueue_value) {
    handle(SIGUSR1, 0);
    OK(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 4242}));
    EQ(last_info.si_code, SI_QUEUE);
    EQ(last_info.si_value.sival_int, 4242);
    EQ(last_info.si_pid, getpid());
}

CASE(sigqueueinfo_may_not_pretend) {
    siginfo_t si = {.si_code = SI_USER, .si_signo = SIGUSR1};
    pid_t pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    ERR(syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &si), EPERM);
    si.si_code = SI_QUEUE;
    OK(syscall(SYS_rt_sigqueueinfo, pid, SIGTERM, &si));
    DIES(pid, SIGTERM);
    ERR(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, BAD), EFAULT);
}

CASE(standard_signals_do_not_queue) {
    handle(SIGUSR1, 0);
    block(SIGUSR1);
    for (int i = 0; i < 3; i++) OK(raise(SIGUSR1));
    CHECK(pending(SIGUSR1));
    unblock(SIGUSR1);
    EQ(hits, 1);
    CHECK(!pending(SIGUSR1));
}

static int order[16], orders;
static void note_order(int sig, siginfo_t *si, void *uc) {
    (void)uc;
    order[orders++] = sig * 100 + si->si_value.sival_int;
}
CASE(rt_signals_queue_in_order) {
    struct sigaction sa = {.sa_sigaction = note_order, .sa_flags = SA_SIGINFO};
    sigfillset(&sa.sa_mask);
    int a = SIGRTMIN + 1, b = SIGRTMIN + 2;
    OK(sigaction(a, &sa, NULL));
    OK(sigaction(b, &sa, NULL));
    block(a);
    block(b);
    for (int i = 0; i < 3; i++) {
        OK(sigqueue(getpid(), b, (union sigval){.sival_int = i}));
        OK(sigqueue(getpid(), a, (union sigval){.sival_int = i}));
    }
    sigset_t s;
    sigemptyset(&s);
    OK(sigprocmask(SIG_SETMASK, &s, NULL));
    EQ(orders, 6);
    for (int i = 0; i < 6; i++) EQ(order[i], (i < 3 ? a : b) * 100 + i % 3); // the lowest number first
}

CASE(sigpending_limit_eagain) {
    struct rlimit rl = {5, 5};
    OK(setrlimit(RLIMIT_SIGPENDING, &rl));
    block(SIGRTMIN);
    int i, r = 0;
    for (i = 0; i < 100 && r == 0; i++) r = sigqueue(getpid(), SIGRTMIN, (union sigval){0});
    CHECK(r == -1 && errno == EAGAIN);
}

static volatile int depth, max_depth, raised;
static void nest(int sig) {
    if (++depth > max_depth) max_depth = depth;
    if (++raised < 3) raise(sig);
    depth--;
}
CASE(handler_blocks_itself_unless_nodefer) {
    struct sigaction sa = {.sa_handler = nest};
    OK(sigaction(SIGUSR1, &sa, NULL));
    OK(raise(SIGUSR1));
    EQ(depth, 0);
    EQ(max_depth, 1); // each next one waits for the end of the one before
    EQ(raised, 3);
    depth = max_depth = raised = 0;
    sa.sa_flags = SA_NODEFER;
    OK(sigaction(SIGUSR1, &sa, NULL));
    OK(raise(SIGUSR1));
    EQ(max_depth, 3);
}

static void is_blocked(int sig) {
    sigset_t s;
    sigprocmask(SIG_BLOCK, NULL, &s);
    hits = sigismember(&s, sig) && sigismember(&s, SIGHUP) && !sigismember(&s, SIGTERM);
}
CASE(mask_during_handler) {
    struct sigaction sa = {.sa_handler = is_blocked};
    sigaddset(&sa.sa_mask, SIGHUP);
    OK(sigaction(SIGUSR1, &sa, NULL));
    OK(raise(SIGUSR1));
    EQ(hits, 1);
    sigset_t s;
    OK(sigprocmask(SIG_BLOCK, NULL, &s));
    CHECK(!sigismember(&s, SIGUSR1) && !sigismember(&s, SIGHUP));
}

CASE(resethand) {
    handle(SIGUSR1, SA_RESETHAND);
    OK(raise(SIGUSR1));
    EQ(hits, 1);
    struct sigaction sa;
    OK(sigaction(SIGUSR1, NULL, &sa));
    CHECK(sa.sa_handler == SIG_DFL);
}

CASE(sigaction_returns_old) {
    struct sigaction sa = {.sa_handler = nest, .sa_flags = SA_RESTART}, old;
    sigaddset(&sa.sa_mask, SIGHUP);
    OK(sigaction(SIGUSR2, &sa, NULL));
    OK(sigaction(SIGUSR2, NULL, &old));
    CHECK(old.sa_handler == nest && (old.sa_flags & SA_RESTART) && sigismember(&old.sa_mask, SIGHUP));
}

CASE(sigaction_errors) {
    struct { void *h; unsigned long flags; void *restorer; unsigned long mask; } k = {0};
    ERR(syscall(SYS_rt_sigaction, SIGKILL, &k, NULL, 8), EINVAL);
    ERR(syscall(SYS_rt_sigaction, SIGSTOP, &k, NULL, 8), EINVAL);
    OK(syscall(SYS_rt_sigaction, SIGKILL, NULL, &k, 8));
    ERR(syscall(SYS_rt_sigaction, 0, &k, NULL, 8), EINVAL);
    ERR(syscall(SYS_rt_sigaction, 65, &k, NULL, 8), EINVAL);
    ERR(syscall(SYS_rt_sigaction, SIGUSR1, &k, NULL, 4), EINVAL);
    ERR(syscall(SYS_rt_sigaction, SIGUSR1, BAD, NULL, 8), EFAULT);
    ERR(syscall(SYS_rt_sigaction, SIGUSR1, NULL, BAD, 8), EFAULT);
}

CASE(sigprocmask_errors) {
    uint64_t m = 0;
    ERR(syscall(SYS_rt_sigprocmask, 77, &m, NULL, 8), EINVAL);
    ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &m, NULL, 16), EINVAL);
    ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, BAD, NULL, 8), EFAULT);
    ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, BAD, 8), EFAULT);
    m = ~0ul;
    OK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &m, NULL, 8));
    OK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &m, 8));
    CHECK(!(m & (1ul << (SIGKILL - 1))) && !(m & (1ul << (SIGSTOP - 1))));
}

CASE(kill_errors) {
    ERR(kill(getpid(), 65), EINVAL);
    ERR(kill(getpid(), -1), EINVAL);
    ERR(kill(99999999, 0), ESRCH);
    OK(kill(getpid(), 0));
    ERR(syscall(SYS_tgkill, getpid(), -1, SIGUSR1), EINVAL);
    ERR(syscall(SYS_tgkill, 1, gettid(), 0), ESRCH);
    IN_CHILD(OK(setuid(12345)); ERR(kill(getppid(), 0), EPERM));
}

CASE(default_actions) {
    const struct { int sig, dies; } t[] = {{SIGTERM, 1}, {SIGCHLD, 0}, {SIGURG, 0}, {SIGWINCH, 0}, {SIGUSR1, 1},
                                                  {SIGALRM, 1}, {SIGRTMIN, 1}, {SIGIO, 1}, {SIGCONT, 0}, {SIGHUP, 1}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        pid_t pid = OK(fork());
        if (!pid) { raise(t[i].sig); _exit(0); }
        if (t[i].dies) DIES(pid, t[i].sig);
        else EXITS(pid, 0);
    }
}

CASE(core_flag) {
    pid_t pid = OK(fork());
    if (!pid) { struct rlimit rl = {0, 0}; setrlimit(RLIMIT_CORE, &rl); abort(); }
    DIES(pid, SIGABRT);
}

CASE(ignored_signal_is_dropped) {
    signal(SIGUSR1, SIG_IGN);
    OK(raise(SIGUSR1));
    CHECK(!pending(SIGUSR1));
    block(SIGUSR1);
    OK(raise(SIGUSR1));
    CHECK(pending(SIGUSR1)); // blocked: kept although ignored
    signal(SIGUSR1, SIG_IGN);
    CHECK(!pending(SIGUSR1)); // setting it to ignored throws it away
}

CASE(sigsuspend) {
    handle(SIGUSR1, 0);
    block(SIGUSR1);
    OK(raise(SIGUSR1));
    EQ(hits, 0);
    sigset_t none;
    sigemptyset(&none);
    ERR(sigsuspend(&none), EINTR);
    EQ(hits, 1);
    sigset_t now;
    OK(sigprocmask(SIG_BLOCK, NULL, &now));
    CHECK(sigismember(&now, SIGUSR1));
    ERR(syscall(SYS_rt_sigsuspend, BAD, 8), EFAULT);
    ERR(syscall(SYS_rt_sigsuspend, &none, 7), EINVAL);
}

CASE(pause_returns_eintr) {
    INTERRUPTED_EVEN_WITH_RESTART(pause());
}

CASE(sigtimedwait) {
    sigset_t s;
    siginfo_t si;
    struct timespec zero = {0}, soon = {0, 30000000}, wrong = {0, 2000000000};
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    sigaddset(&s, SIGRTMIN);
    OK(sigprocmask(SIG_BLOCK, &s, NULL));
    ERR(sigtimedwait(&s, &si, &zero), EAGAIN);
    long long t = mono_ms();
    ERR(sigtimedwait(&s, &si, &soon), EAGAIN);
    CHECK(mono_ms() - t >= 29);
    OK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 9}));
    OK(raise(SIGUSR1));
    EQ(sigtimedwait(&s, &si, NULL), SIGUSR1);
    EQ(sigtimedwait(&s, &si, NULL), SIGRTMIN);
    EQ(si.si_value.sival_int, 9);
    ERR(sigtimedwait(&s, &si, &wrong), EINVAL);
    ERR(syscall(SYS_rt_sigtimedwait, BAD, NULL, NULL, 8), EFAULT);
    ERR(syscall(SYS_rt_sigtimedwait, &s, NULL, BAD, 8), EFAULT);
    OK(raise(SIGUSR1));
    ERR(syscall(SYS_rt_sigtimedwait, &s, BAD, NULL, 8), EFAULT);
}

CASE(sigtimedwait_eintr) {
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGUSR2);
    OK(sigprocmask(SIG_BLOCK, &s, NULL));
    INTERRUPTED_EVEN_WITH_RESTART(sigwaitinfo(&s, NULL));
}

CASE(sigwait_takes_signal_of_child) {
    block(SIGCHLD);
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(20); _exit(21); }
    sigset_t s;
    siginfo_t si;
    sigemptyset(&s);
    sigaddset(&s, SIGCHLD);
    EQ(sigwaitinfo(&s, &si), SIGCHLD);
    EQ(si.si_pid, pid);
    EQ(si.si_code, CLD_EXITED);
    EQ(si.si_status, 21);
}

CASE(sigchld_codes) {
    handle(SIGCHLD, SA_RESTART);
    pid_t pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    OK(kill(pid, SIGSTOP));
    int st;
    EQ(waitpid(pid, &st, WUNTRACED), pid);
    EQ(last_info.si_code, CLD_STOPPED);
    EQ(last_info.si_status, SIGSTOP);
    OK(kill(pid, SIGCONT));
    EQ(waitpid(pid, &st, WCONTINUED), pid);
    while (hits < 2) usleep(1000); // the child itself sends it, once it runs
    EQ(last_info.si_code, CLD_CONTINUED);
    OK(kill(pid, SIGKILL));
    EQ(waitpid(pid, &st, 0), pid);
    EQ(last_info.si_code, CLD_KILLED);
    EQ(last_info.si_status, SIGKILL);
    EQ(last_info.si_pid, pid);
}

// Whoever finds a child ended has its SIGCHLD, even who looks all the time.
CASE(sigchld_comes_before_the_wait_ends) {
    handle(SIGCHLD, SA_RESTART);
    for (int i = 1; i <= 200; i++) {
        pid_t pid = OK(fork()), found;
        if (!pid) _exit(0);
        while (!(found = OK(waitpid(pid, NULL, WNOHANG)))) {}
        EQ(found, pid);
        EQ(hits, i);
    }
}

CASE(nocldstop) {
    handle(SIGCHLD, SA_NOCLDSTOP);
    pid_t pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    int st;
    OK(kill(pid, SIGSTOP));
    EQ(waitpid(pid, &st, WUNTRACED), pid);
    EQ(hits, 0);
    OK(kill(pid, SIGKILL));
    EQ(waitpid(pid, &st, 0), pid);
    EQ(hits, 1);
}

CASE(stop_by_tstp_and_cont_handler) {
    pid_t pid = OK(fork());
    if (!pid) {
        handle(SIGCONT, 0);
        raise(SIGSTOP);
        _exit(hits == 1 ? 0 : 5);
    }
    int st;
    EQ(waitpid(pid, &st, WUNTRACED), pid);
    CHECK(WIFSTOPPED(st));
    OK(kill(pid, SIGCONT));
    EXITS(pid, 0);
}

CASE(cont_drops_pending_stops) {
    block(SIGTSTP);
    OK(raise(SIGTSTP));
    CHECK(pending(SIGTSTP));
    OK(raise(SIGCONT));
    CHECK(!pending(SIGTSTP));
}

CASE(stopped_process_dies_by_kill) {
    pid_t pid = OK(fork());
    if (!pid) { raise(SIGSTOP); _exit(0); }
    int st;
    EQ(waitpid(pid, &st, WUNTRACED), pid);
    OK(kill(pid, SIGTERM));
    nap_ms(20);
    EQ(waitpid(pid, &st, WNOHANG), 0); // SIGTERM waits for SIGCONT
    OK(kill(pid, SIGKILL));
    DIES(pid, SIGKILL);
}

static char alt[65536];
static volatile int was_on_alt;
static void where(int sig) {
    char here;
    (void)sig;
    stack_t ss;
    sigaltstack(NULL, &ss);
    was_on_alt = &here >= alt && &here < alt + sizeof alt && (ss.ss_flags & SS_ONSTACK);
    stack_t off = {.ss_flags = SS_DISABLE};
    if (sigaltstack(&off, NULL) != -1 || errno != EPERM) was_on_alt = 0;
}
CASE(sigaltstack_is_used) {
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt}, old;
    OK(sigaltstack(&ss, NULL));
    OK(sigaltstack(NULL, &old));
    CHECK(old.ss_sp == alt && old.ss_size == sizeof alt && old.ss_flags == 0);
    struct sigaction sa = {.sa_handler = where, .sa_flags = SA_ONSTACK};
    OK(sigaction(SIGUSR1, &sa, NULL));
    OK(raise(SIGUSR1));
    EQ(was_on_alt, 1);
    sa.sa_flags = 0;
    OK(sigaction(SIGUSR1, &sa, NULL));
    OK(raise(SIGUSR1));
    EQ(was_on_alt, 0);
}

CASE(sigaltstack_errors) {
    stack_t small = {.ss_sp = alt, .ss_size = 100}, wrong = {.ss_sp = alt, .ss_size = sizeof alt, .ss_flags = 77};
    ERR(sigaltstack(&small, NULL), ENOMEM);
    ERR(sigaltstack(&wrong, NULL), EINVAL);
    ERR(syscall(SYS_sigaltstack, BAD, NULL), EFAULT);
    ERR(syscall(SYS_sigaltstack, NULL, BAD), EFAULT);
}

static void autodisarm(int sig) {
    (void)sig;
    stack_t ss;
    sigaltstack(NULL, &ss);
    hits = ss.ss_flags & SS_DISABLE ? 1 : -1;
}
CASE(sigaltstack_autodisarm) {
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt, .ss_flags = (int)(1u << 31)}; // SS_AUTODISARM
    OK(sigaltstack(&ss, NULL));
    struct sigaction sa = {.sa_handler = autodisarm, .sa_flags = SA_ONSTACK};
    OK(sigaction(SIGUSR1, &sa, NULL));
    OK(raise(SIGUSR1));
    EQ(hits, 1);
    OK(sigaltstack(NULL, &ss));
    CHECK(ss.ss_sp == alt);
}

static sigjmp_buf env;
static void overflow(int sig, siginfo_t *si, void *uc) {
    (void)sig; (void)uc;
    last_info = *si;
    siglongjmp(env, 1);
}
__attribute__((noinline)) static int recurse(volatile int n) {
    volatile char page[4096];
    page[0] = n;
    return n <= 0 ? page[0] : recurse(n + 1) + page[0];
}
CASE(stack_overflow_on_altstack) {
    struct rlimit rl = {1 << 20, RLIM_INFINITY};
    getrlimit(RLIMIT_STACK, &rl);
    rl.rlim_cur = 1 << 20;
    OK(setrlimit(RLIMIT_STACK, &rl));
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    OK(sigaltstack(&ss, NULL));
    struct sigaction sa = {.sa_sigaction = overflow, .sa_flags = SA_ONSTACK | SA_SIGINFO};
    OK(sigaction(SIGSEGV, &sa, NULL));
    if (!sigsetjmp(env, 1)) {
        recurse(1);
        FAILED("no overflow");
    }
    EQ(last_info.si_signo, SIGSEGV);
}

CASE(no_room_for_frame_kills) {
    pid_t pid = OK(fork());
    if (!pid) {
        handle(SIGUSR1, 0);
        handle(SIGSEGV, 0);
        __asm__ volatile("mov $16, %%rsp; mov $39, %%eax; syscall; mov %%eax, %%edi; mov $10, %%esi; mov $62, %%eax; syscall" ::: "memory");
        _exit(0);
    }
    DIES(pid, SIGSEGV);
}

static void change_context(int sig, siginfo_t *si, void *uc_) {
    (void)sig; (void)si;
    ucontext_t *uc = uc_;
    uc->uc_mcontext.gregs[REG_RAX] = 77;
    sigaddset(&uc->uc_sigmask, SIGHUP);
}
CASE(handler_changes_context) {
    struct sigaction sa = {.sa_sigaction = change_context, .sa_flags = SA_SIGINFO};
    OK(sigaction(SIGUSR1, &sa, NULL));
    EQ(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1), 77);
    sigset_t s;
    OK(sigprocmask(SIG_BLOCK, NULL, &s));
    CHECK(sigismember(&s, SIGHUP));
}

static void clobber(int sig) {
    (void)sig;
    __asm__ volatile("pxor %%xmm0,%%xmm0; pxor %%xmm7,%%xmm7; pxor %%xmm15,%%xmm15; xor %%r12,%%r12" ::: "xmm0", "xmm7", "xmm15", "r12");
    hits++;
}
CASE(registers_survive_handler) {
    struct sigaction sa = {.sa_handler = clobber};
    OK(sigaction(SIGUSR1, &sa, NULL));
    uint64_t in = 0x1234567890abcdef, x0 = 0, x15 = 0, r12 = 0;
    __asm__ volatile("movq %4,%%xmm0; movq %4,%%xmm15; mov %4,%%r12\n"
                     "mov $39,%%eax; syscall; mov %%eax,%%edi; mov $10,%%esi; mov $62,%%eax; syscall\n"
                     "movq %%xmm0,%0; movq %%xmm15,%1; mov %%r12,%2"
                     : "=&r"(x0), "=&r"(x15), "=&r"(r12), "+m"(hits) : "r"(in)
                     : "rax", "rdi", "rsi", "rcx", "r11", "r12", "xmm0", "xmm15", "memory");
    EQ(hits, 1);
    EQ(x0, in);
    EQ(x15, in);
    EQ(r12, in);
}

CASE(ymm_survives_handler) {
    if (!__builtin_cpu_supports("avx2")) return;
    struct sigaction sa = {.sa_handler = clobber};
    OK(sigaction(SIGUSR1, &sa, NULL));
    uint64_t in[4] = {1, 2, 3, 4}, out[4] = {0};
    __asm__ volatile("vmovdqu %1,%%ymm7\n"
                     "mov $39,%%eax; syscall; mov %%eax,%%edi; mov $10,%%esi; mov $62,%%eax; syscall\n"
                     "vmovdqu %%ymm7,%0; vzeroupper"
                     : "=m"(out) : "m"(in) : "rax", "rdi", "rsi", "rcx", "r11", "xmm7", "memory");
    EQ(hits, 1);
    CHECK(!memcmp(in, out, sizeof in));
}

CASE(siglongjmp_restores_mask) {
    struct sigaction sa = {.sa_sigaction = overflow, .sa_flags = SA_SIGINFO};
    OK(sigaction(SIGUSR1, &sa, NULL));
    for (int i = 0; i < 3; i++)
        if (!sigsetjmp(env, 1)) { raise(SIGUSR1); FAILED("no jump"); }
    sigset_t s;
    OK(sigprocmask(SIG_BLOCK, NULL, &s));
    CHECK(!sigismember(&s, SIGUSR1));
}

static volatile pid_t handler_tid;
static void note_tid(int sig) { (void)sig; handler_tid = gettid(); hits++; }
static volatile int go;
static void *waiting(void *arg) {
    *(volatile pid_t *)arg = gettid();
    while (!go) usleep(1000);
    return NULL;
}
CASE(thread_directed_signal) {
    struct sigaction sa = {.sa_handler = note_tid};
    OK(sigaction(SIGUSR1, &sa, NULL));
    pthread_t t;
    volatile pid_t tid = 0;
    pthread_create(&t, NULL, waiting, (void *)&tid);
    while (!tid) usleep(1000);
    OK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1));
    while (!hits) usleep(1000);
    EQ(handler_tid, tid);
    go = 1;
    pthread_join(t, NULL);
}

CASE(process_signal_goes_to_unblocked_thread) {
    struct sigaction sa = {.sa_handler = note_tid};
    OK(sigaction(SIGUSR1, &sa, NULL));
    pthread_t t;
    volatile pid_t tid = 0;
    pthread_create(&t, NULL, waiting, (void *)&tid);
    while (!tid) usleep(1000);
    block(SIGUSR1);
    OK(kill(getpid(), SIGUSR1));
    while (!hits) usleep(1000);
    EQ(handler_tid, tid);
    go = 1;
    pthread_join(t, NULL);
}

CASE(new_thread_inherits_mask) {
    block(SIGUSR1);
    pthread_t t;
    volatile pid_t tid = 0;
    handle(SIGUSR1, 0);
    pthread_create(&t, NULL, waiting, (void *)&tid);
    while (!tid) usleep(1000);
    OK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1));
    nap_ms(20);
    EQ(hits, 0);
    go = 1;
    pthread_join(t, NULL);
}

CASE(sigpipe_kills_or_epipe) {
    int p[2];
    OK(pipe(p));
    close(p[0]);
    pid_t pid = OK(fork());
    if (!pid) { if (write(p[1], "x", 1) < 0) {} _exit(0); }
    DIES(pid, SIGPIPE);
    signal(SIGPIPE, SIG_IGN);
    ERR(write(p[1], "x", 1), EPIPE);
}

// Restart rules.
CASE(read_pipe_eintr) {
    int p[2];
    char c;
    OK(pipe(p));
    INTERRUPTED(read(p[0], &c, 1));
}
CASE(read_pipe_restarts) {
    int p[2];
    char c = 0;
    OK(pipe(p));
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN(if (write(p[1], "k", 1) != 1) _exit(1));
    EQ(read(p[0], &c, 1), 1);
    EQ(c, 'k');
    EQ(hits, 1);
    EXITS(pid, 0);
}
CASE(ignored_signal_does_not_interrupt) {
    int p[2];
    char c = 0;
    OK(pipe(p));
    signal(SIGUSR1, SIG_IGN);
    pid_t pid = POKE_THEN(if (write(p[1], "k", 1) != 1) _exit(1));
    EQ(read(p[0], &c, 1), 1);
    EXITS(pid, 0);
}
CASE(default_ignored_signal_does_not_interrupt_nanosleep) {
    pid_t me = getpid(), pid = OK(fork());
    if (!pid) { nap_ms(20); kill(me, SIGWINCH); _exit(0); }
    struct timespec t = {0, 100000000};
    long long start = mono_ms();
    OK(nanosleep(&t, NULL));
    CHECK(mono_ms() - start >= 99);
    EXITS(pid, 0);
}
CASE(stop_and_cont_restart_read) {
    int p[2];
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) { char c; _exit(read(p[0], &c, 1) == 1 && c == 'k' ? 0 : 1); }
    nap_ms(30);
    OK(kill(pid, SIGSTOP));
    int st;
    EQ(waitpid(pid, &st, WUNTRACED), pid);
    OK(kill(pid, SIGCONT));
    nap_ms(20);
    EQ(write(p[1], "k", 1), 1);
    EXITS(pid, 0);
}
CASE(stop_and_cont_keep_nanosleep_deadline) {
    pid_t pid = OK(fork());
    if (!pid) {
        struct timespec t = {0, 200000000};
        long long start = mono_ms();
        if (nanosleep(&t, NULL) != 0) _exit(1);
        long long d = mono_ms() - start;
        _exit(d >= 199 && d < 5000 ? 0 : 2);
    }
    nap_ms(30);
    OK(kill(pid, SIGSTOP));
    nap_ms(30);
    OK(kill(pid, SIGCONT));
    EXITS(pid, 0);
}
CASE(write_pipe_eintr_and_partial) {
    int p[2];
    static char big[200000];
    OK(pipe(p));
    handle(SIGUSR1, 0);
    pid_t poker = poke_forever();
    EQ(write(p[1], big, sizeof big), 65536); // what went in before the signal counts
    ERR(write(p[1], big, 1), EINTR);
    poke_stop(poker);
}
CASE(nanosleep_eintr_tells_rest) {
    struct timespec t = {10, 0}, rest = {0};
    INTERRUPTED_EVEN_WITH_RESTART(nanosleep(&t, &rest));
    CHECK(rest.tv_sec >= 5 && rest.tv_sec < 10);
}
CASE(poll_eintr_even_with_restart) {
    int p[2];
    OK(pipe(p));
    struct pollfd f = {p[0], POLLIN, 0};
    INTERRUPTED_EVEN_WITH_RESTART(poll(&f, 1, -1));
}
CASE(select_eintr_even_with_restart) {
    int p[2];
    fd_set r;
    OK(pipe(p));
    FD_ZERO(&r);
    FD_SET(p[0], &r);
    INTERRUPTED_EVEN_WITH_RESTART(select(p[0] + 1, &r, NULL, NULL, NULL));
}
CASE(poll_continues_after_stop) { // ERESTART_RESTARTBLOCK: no handler runs, so poll goes on with what is left
    int p[2];
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) {
        struct pollfd f = {p[0], POLLIN, 0};
        long long start = mono_ms();
        int r = poll(&f, 1, 200);
        _exit(r == 0 && mono_ms() - start >= 199 ? 0 : 1);
    }
    nap_ms(30);
    OK(kill(pid, SIGSTOP));
    nap_ms(30);
    OK(kill(pid, SIGCONT));
    EXITS(pid, 0);
}
CASE(futex_eintr) {
    int word = 0;
    INTERRUPTED(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0));
}
CASE(futex_restarts) {
    int *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN(for (int i = 0; i < 200 && syscall(SYS_futex, word, FUTEX_WAKE, 1, 0, 0, 0) != 1; i++) usleep(5000));
    OK(syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0));
    EQ(hits, 1);
    EXITS(pid, 0);
}
CASE(futex_timed_eintr_even_with_restart) {
    int word = 0;
    struct timespec t = {30, 0};
    INTERRUPTED_EVEN_WITH_RESTART(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0));
}
CASE(accept_eintr_and_recv_restart) {
    int s[2];
    char c;
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN(if (write(s[1], "k", 1) != 1) _exit(1));
    EQ(recv(s[0], &c, 1, 0), 1);
    EQ(hits, 1);
    EXITS(pid, 0);
    hits = 0;
    INTERRUPTED(recv(s[0], &c, 1, 0));
}

CASE(sigreturn_restores_mask_of_frame) {
    handle(SIGUSR1, 0);
    block(SIGHUP);
    OK(raise(SIGUSR1));
    sigset_t s;
    OK(sigprocmask(SIG_BLOCK, NULL, &s));
    CHECK(sigismember(&s, SIGHUP) && !sigismember(&s, SIGUSR1));
}

CASE(signalfd_reads_signal) {
    int signalfd(int, const sigset_t *, int);
    sigset_t s;
    char si[128];
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    OK(sigprocmask(SIG_BLOCK, &s, NULL));
    int fd = OK(signalfd(-1, &s, 04000));
    ERR(read(fd, si, sizeof si), EAGAIN);
    OK(raise(SIGUSR1));
    EQ(read(fd, si, sizeof si), 128);
    EQ(*(uint32_t *)si, SIGUSR1);
    ERR(read(fd, si, 100), EINVAL);
}

CASE(many_signals_under_load) {
    handle(SIGUSR1, SA_RESTART);
    handle(SIGRTMIN, SA_RESTART);
    for (int i = 0; i < 2000; i++) raise(i & 1 ? SIGUSR1 : SIGRTMIN);
    EQ(hits, 2000);
}

// A process that is being made while a signal goes to its group gets it too, or is not made (`copy_process`).
CASE(no_child_escapes_a_signal_to_its_group) {
    OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
    for (int round = 0; round < 60; round++) {
        pid_t leader = OK(fork());
        if (!leader) {
            setpgid(0, 0);
            for (int i = 0; i < 100; i++)
                if (fork() == 0) {
                    if (i % 2) fork();
                    pause();
                    _exit(0);
                }
            for (;;) pause();
        }
        while (getpgid(leader) != leader) usleep(10);
        usleep(round * 37 % 700);
        OK(kill(-leader, round % 2 ? SIGTERM : SIGKILL));
        while (waitpid(-1, NULL, 0) > 0) {}
        ERR(kill(-leader, 0), ESRCH);
    }
}
