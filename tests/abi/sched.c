// sched: affinity, policies, nice values, I/O priorities, CPU-time clocks and timers, limits of CPU time and file size, prctl. Runs as root.
#include "abi.h"
#include <sys/syscall.h>
#include <linux/capability.h>

struct sattr { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; uint32_t umin, umax; };
static long setattr_(pid_t p, void *a, unsigned f) { return syscall(SYS_sched_setattr, p, a, f); }
static long getattr_(pid_t p, void *a, unsigned n, unsigned f) { return syscall(SYS_sched_getattr, p, a, n, f); }
static pid_t sleeper(void) {
    pid_t pid = OK(fork());
    if (!pid) for (;;) pause();
    return pid;
}
static void end(pid_t pid) { kill(pid, SIGKILL); wait_status(pid); }
static void become_user(void) { OK(setresgid(1000, 1000, 1000)); OK(setresuid(1000, 1000, 1000)); }

CASE(affinity_rules) {
    unsigned long m[16] = {0}, none[16] = {0};
    CHECK(syscall(SYS_sched_getaffinity, 0, sizeof m, m) >= 8);
    ERR(syscall(SYS_sched_getaffinity, 0, 7, m), EINVAL);
    ERR(syscall(SYS_sched_getaffinity, 0, 0, m), EINVAL);
    ERR(syscall(SYS_sched_getaffinity, 0, sizeof m, BAD), EFAULT);
    ERR(syscall(SYS_sched_getaffinity, 4000000, sizeof m, m), ESRCH);
    ERR(syscall(SYS_sched_getaffinity, -1, sizeof m, m), ESRCH);
    ERR(syscall(SYS_sched_setaffinity, 0, sizeof none, none), EINVAL);
    ERR(syscall(SYS_sched_setaffinity, 0, sizeof m, BAD), EFAULT);
    ERR(syscall(SYS_sched_setaffinity, 4000000, sizeof m, m), ESRCH);
    OK(syscall(SYS_sched_setaffinity, 0, sizeof m, m));
}
CASE(affinity_is_kept_and_inherited) {
    unsigned long one = 1, got = 0;
    OK(syscall(SYS_sched_setaffinity, 0, sizeof one, &one));
    IN_CHILD(CHECK(syscall(SYS_sched_getaffinity, 0, sizeof got, &got) == 8); EQ(got, 1); unsigned cpu = 9; OK(syscall(SYS_getcpu, &cpu, NULL, NULL)); EQ(cpu, 0));
    CHECK(strstr(slurp("/proc/self/status"), "Cpus_allowed_list:\t0\n"));
}
CASE(affinity_of_others_needs_permission) {
    pid_t pid = sleeper();
    unsigned long m = 1;
    IN_CHILD(become_user(); ERR(syscall(SYS_sched_setaffinity, pid, sizeof m, &m), EPERM); OK(syscall(SYS_sched_getaffinity, pid, sizeof m, &m)));
    end(pid);
}

CASE(policy_rules) {
    struct sched_param p = {0}, one = {1};
    EQ(sched_getscheduler(0), SCHED_OTHER);
    ERR(sched_getscheduler(-1), EINVAL);
    ERR(sched_getscheduler(4000000), ESRCH);
    ERR(sched_setscheduler(0, SCHED_OTHER, &one), EINVAL);
    ERR(sched_setscheduler(0, SCHED_FIFO, &p), EINVAL);
    ERR(sched_setscheduler(0, 77, &p), EINVAL);
    ERR(sched_setscheduler(0, -1, &p), EINVAL);
    ERR(sched_setscheduler(-1, SCHED_OTHER, &p), EINVAL);
    ERR(sched_setscheduler(4000000, SCHED_OTHER, &p), ESRCH);
    ERR(sched_setscheduler(0, SCHED_OTHER, NULL), EINVAL);
    ERR(sched_setscheduler(0, SCHED_OTHER, BAD), EFAULT);
    ERR(sched_getparam(0, NULL), EINVAL);
    ERR(sched_getparam(0, BAD), EFAULT);
    OK(sched_setscheduler(0, SCHED_BATCH, &p));
    EQ(sched_getscheduler(0), SCHED_BATCH);
    OK(sched_setscheduler(0, SCHED_IDLE, &p));
    OK(sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &p));
    EQ(sched_getscheduler(0), SCHED_OTHER | SCHED_RESET_ON_FORK);
    IN_CHILD(EQ(sched_getscheduler(0), SCHED_OTHER));
    EQ(sched_get_priority_max(SCHED_FIFO), 99);
    EQ(sched_get_priority_min(SCHED_RR), 1);
    EQ(sched_get_priority_max(SCHED_OTHER), 0);
    ERR(sched_get_priority_max(99), EINVAL);
}
CASE(policy_without_privilege) {
    struct rlimit none = {0, 0};
    OK(setrlimit(RLIMIT_RTPRIO, &none));
    pid_t pid = sleeper();
    IN_CHILD(become_user(); struct sched_param p = {1}, z = {0}; ERR(sched_setscheduler(0, SCHED_FIFO, &p), EPERM); ERR(sched_setscheduler(pid, SCHED_BATCH, &z), EPERM);
             OK(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &z)); ERR(sched_setscheduler(0, SCHED_BATCH, &z), EPERM));
    end(pid);
}
CASE(attributes) {
    struct sattr a = {0}, b = {0};
    OK(getattr_(0, &a, sizeof a, 0));
    EQ(a.policy, SCHED_OTHER);
    CHECK(a.size >= 48 && a.size <= 56);
    ERR(getattr_(0, &a, 47, 0), EINVAL);
    ERR(getattr_(0, &a, 5000, 0), EINVAL);
    ERR(getattr_(0, &a, sizeof a, 1), EINVAL);
    ERR(getattr_(0, NULL, sizeof a, 0), EINVAL);
    ERR(getattr_(-1, &a, sizeof a, 0), EINVAL);
    ERR(getattr_(4000000, &a, sizeof a, 0), ESRCH);
    ERR(getattr_(0, BAD, sizeof a, 0), EFAULT);
    b.size = sizeof b, b.policy = SCHED_BATCH, b.nice = 5;
    OK(setattr_(0, &b, 0));
    OK(getattr_(0, &a, 48, 0));
    EQ(a.policy, SCHED_BATCH);
    EQ(a.nice, 5);
    EQ(a.size, 48);
    EQ(getpriority(PRIO_PROCESS, 0), 5);
    ERR(setattr_(0, &b, 1), EINVAL);
    ERR(setattr_(0, NULL, 0), EINVAL);
    ERR(setattr_(0, BAD, 0), EFAULT);
    ERR(setattr_(-1, &b, 0), EINVAL);
    ERR(setattr_(4000000, &b, 0), ESRCH);
    b.flags = 1ull << 40;
    ERR(setattr_(0, &b, 0), EINVAL);
    b.flags = 0, b.size = 10;
    ERR(setattr_(0, &b, 0), E2BIG);
    CHECK(b.size >= 56);
    b.size = 0;
    OK(setattr_(0, &b, 0));
    b.size = sizeof b, b.policy = -1;
    ERR(setattr_(0, &b, 0), EINVAL);
}
CASE(round_robin_interval) {
    struct timespec t;
    OK(sched_rr_get_interval(0, &t));
    ERR(sched_rr_get_interval(-1, &t), EINVAL);
    ERR(sched_rr_get_interval(4000000, &t), ESRCH);
    ERR(syscall(SYS_sched_rr_get_interval, 0, BAD), EFAULT);
}

CASE(nice_rules) {
    EQ(getpriority(PRIO_PROCESS, 0), 0);
    OK(setpriority(PRIO_PROCESS, 0, 100));
    EQ(getpriority(PRIO_PROCESS, 0), 19);
    OK(setpriority(PRIO_PROCESS, 0, 3));
    IN_CHILD(EQ(getpriority(PRIO_PROCESS, 0), 3));
    errno = 0;
    ERR(getpriority(7, 0), EINVAL);
    ERR(setpriority(7, 0, 0), EINVAL);
    ERR(getpriority(PRIO_PROCESS, 4000000), ESRCH);
    ERR(setpriority(PRIO_PGRP, 4000000, 0), ESRCH);
    ERR(getpriority(PRIO_USER, 54321), ESRCH);
    EQ(syscall(SYS_getpriority, PRIO_PROCESS, 0), 17);
}
CASE(nice_without_privilege) {
    struct rlimit none = {0, 0}, some = {25, 25};
    pid_t pid = sleeper();
    if (setrlimit(RLIMIT_NICE, &some) == 0) // down to 20 - 25; raising it takes CAP_SYS_RESOURCE
        IN_CHILD(become_user(); OK(setpriority(PRIO_PROCESS, 0, -5)); ERR(setpriority(PRIO_PROCESS, 0, -6), EACCES));
    OK(setrlimit(RLIMIT_NICE, &none));
    IN_CHILD(become_user(); OK(setpriority(PRIO_PROCESS, 0, 2)); ERR(setpriority(PRIO_PROCESS, 0, 1), EACCES); ERR(setpriority(PRIO_PROCESS, pid, 5), EPERM));
    end(pid);
}
CASE(io_priorities) {
    EQ(syscall(SYS_ioprio_get, 1, 0) >> 13 & ~2, 0);
    OK(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5));
    EQ(syscall(SYS_ioprio_get, 1, 0), 2 << 13 | 5);
    OK(syscall(SYS_ioprio_set, 1, 0, 3 << 13));
    ERR(syscall(SYS_ioprio_set, 1, 0, 5 << 13), EINVAL);
    ERR(syscall(SYS_ioprio_set, 1, 0, 0 << 13 | 3), EINVAL);
    ERR(syscall(SYS_ioprio_set, 4, 0, 2 << 13), EINVAL);
    ERR(syscall(SYS_ioprio_set, 1, 4000000, 2 << 13), ESRCH);
    ERR(syscall(SYS_ioprio_get, 1, 4000000), ESRCH);
    ERR(syscall(SYS_ioprio_get, 9, 0), EINVAL);
    IN_CHILD(become_user(); ERR(syscall(SYS_ioprio_set, 1, 0, 1 << 13 | 4), EPERM));
}

static void burn_ms(long ms) { long long e = now_ns(CLOCK_THREAD_CPUTIME_ID) + ms * 1000000LL; while (now_ns(CLOCK_THREAD_CPUTIME_ID) < e) {} }
CASE(cpu_clock_of_another) {
    pid_t pid = OK(fork());
    if (!pid) { burn_ms(60); for (;;) pause(); }
    clockid_t c;
    EQ(clock_getcpuclockid(pid, &c), 0);
    struct timespec t = {0, 0};
    for (int i = 0; i < 500 && t.tv_sec == 0 && t.tv_nsec < 50000000; i++) { OK(clock_gettime(c, &t)); nap_ms(10); }
    CHECK(t.tv_sec > 0 || t.tv_nsec >= 50000000);
    ERR(clock_settime(c, &t), EPERM);
    end(pid);
    ERR(clock_gettime(c, &t), EINVAL);
    EQ(clock_getcpuclockid(4000000, &c), ESRCH);
}
CASE(cpu_timer_of_the_process) {
    handle(SIGUSR1, 0);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    ev.sigev_value.sival_int = 42;
    timer_t t;
    OK(timer_create(CLOCK_PROCESS_CPUTIME_ID, &ev, &t));
    struct itimerspec s = {{0, 0}, {0, 30000000}}, left;
    OK(timer_settime(t, 0, &s, NULL));
    OK(timer_gettime(t, &left));
    CHECK(left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 30000000);
    nap_ms(60);
    EQ(hits, 0); // sleeping costs nothing
    long long e = mono_ms() + 5000;
    while (!hits && mono_ms() < e) {}
    EQ(hits, 1);
    EQ(last_info.si_code, SI_TIMER);
    EQ(last_info.si_value.sival_int, 42);
    OK(timer_gettime(t, &left));
    EQ(left.it_value.tv_nsec, 0);
    OK(timer_delete(t));
}
CASE(cpu_timer_repeats) {
    handle(SIGUSR1, 0);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t t;
    OK(timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &t));
    struct itimerspec s = {{0, 10000000}, {0, 10000000}};
    OK(timer_settime(t, 0, &s, NULL));
    long long e = mono_ms() + 8000;
    while (hits < 3 && mono_ms() < e) {}
    CHECK(hits >= 3);
}
CASE(cpu_sleep) {
    struct timespec t = {0, 1000000};
    EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL), EINVAL);
    pid_t pid = OK(fork());
    if (!pid) for (;;) {}
    clockid_t c;
    EQ(clock_getcpuclockid(pid, &c), 0);
    t.tv_nsec = 30000000;
    EQ(clock_nanosleep(c, 0, &t, NULL), 0);
    struct timespec now;
    OK(clock_gettime(c, &now));
    CHECK(now.tv_sec > 0 || now.tv_nsec >= 30000000);
    end(pid);
}
CASE(interval_timers_of_cpu_time) {
    handle(SIGVTALRM, 0);
    handle(SIGPROF, 0);
    struct itimerval v = {{0, 0}, {0, 20000}}, got;
    OK(setitimer(ITIMER_VIRTUAL, &v, NULL));
    OK(getitimer(ITIMER_VIRTUAL, &got));
    CHECK(got.it_value.tv_usec > 0);
    long long e = mono_ms() + 5000;
    while (!hits && mono_ms() < e) {}
    EQ(last_sig, SIGVTALRM);
    OK(setitimer(ITIMER_PROF, &v, NULL));
    while (hits < 2 && mono_ms() < e) {}
    EQ(last_sig, SIGPROF);
}
CASE(limit_of_cpu_time) {
    pid_t pid = OK(fork());
    if (!pid) {
        struct rlimit r = {1, 2};
        setrlimit(RLIMIT_CPU, &r);
        for (;;) {}
    }
    DIES(pid, SIGXCPU);
}
CASE(usage_of_children_and_self) {
    struct rusage before, after;
    OK(getrusage(RUSAGE_CHILDREN, &before));
    pid_t pid = OK(fork());
    if (!pid) { burn_ms(50); _exit(0); }
    struct rusage one;
    EQ(wait4(pid, NULL, 0, &one), pid);
    OK(getrusage(RUSAGE_CHILDREN, &after));
    long us = one.ru_utime.tv_sec * 1000000 + one.ru_utime.tv_usec + one.ru_stime.tv_sec * 1000000 + one.ru_stime.tv_usec;
    CHECK(us >= 45000);
    long d = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 + after.ru_utime.tv_usec - before.ru_utime.tv_usec +
             (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 + after.ru_stime.tv_usec - before.ru_stime.tv_usec;
    CHECK(d >= 45000);
    ERR(getrusage(7, &one), EINVAL);
    ERR(syscall(SYS_getrusage, RUSAGE_SELF, BAD), EFAULT);
    OK(getrusage(RUSAGE_THREAD, &one));
}

CASE(file_size_limit) {
    struct rlimit r = {10, 10};
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600)), app = OK(open("f", O_WRONLY | O_APPEND));
    handle(SIGXFSZ, 0);
    OK(setrlimit(RLIMIT_FSIZE, &r));
    EQ(write(fd, "0123456789abcdef", 16), 10); // what fits
    EQ(hits, 0);
    ERR(write(fd, "x", 1), EFBIG);
    EQ(hits, 1);
    EQ(last_sig, SIGXFSZ);
    ERR(write(app, "x", 1), EFBIG);
    ERR(pwrite(fd, "x", 1, 10), EFBIG);
    EQ(pwrite(fd, "xy", 2, 9), 1);
    EQ(write(fd, "", 0), 0);
    ERR(ftruncate(fd, 11), EFBIG);
    ERR(truncate("f", 11), EFBIG);
    EQ(hits, 5);
    OK(ftruncate(fd, 5));
    int p[2];
    OK(pipe(p));
    EQ(write(p[1], "0123456789abcdef", 16), 16); // no file
    pid_t pid = OK(fork());
    if (!pid) { signal(SIGXFSZ, SIG_DFL); if (pwrite(fd, "x", 1, 100)) {} _exit(0); }
    DIES(pid, SIGXFSZ);
}

CASE(prctl_flags) {
    ERR(prctl(PR_SET_DUMPABLE, 2, 0, 0, 0), EINVAL);
    OK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
    EQ(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    EQ(prctl(PR_GET_TIMING, 0, 0, 0, 0), 0);
    ERR(prctl(PR_SET_TIMING, 1, 0, 0, 0), EINVAL);
    OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
    ERR(prctl(PR_GET_THP_DISABLE, 1, 0, 0, 0), EINVAL);
    IN_CHILD(EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1));
    OK(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
    ERR(prctl(12345, 0, 0, 0, 0), EINVAL);
    ERR(prctl(PR_SET_PDEATHSIG, 100, 0, 0, 0), EINVAL);
    ERR(prctl(PR_GET_PDEATHSIG, BAD, 0, 0, 0), EFAULT);
    ERR(prctl(PR_SET_NAME, BAD, 0, 0, 0), EFAULT);
    ERR(prctl(PR_SET_KEEPCAPS, 2, 0, 0, 0), EINVAL);
    ERR(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    ERR(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0), EINVAL);
    ERR(prctl(PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0), EINVAL);
    ERR(prctl(PR_CAPBSET_READ, 999, 0, 0, 0), EINVAL);
}
CASE(prctl_machine_checks) {
    EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_DEFAULT);
    OK(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
    EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY);
    ERR(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, 9, 0, 0), EINVAL);
    ERR(prctl(PR_MCE_KILL, 7, 0, 0, 0), EINVAL);
    ERR(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 1, 0, 0), EINVAL);
    ERR(prctl(PR_MCE_KILL_GET, 1, 0, 0, 0), EINVAL);
    OK(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0));
}
CASE(prctl_needs_privilege) {
    IN_CHILD(become_user(); ERR(prctl(PR_SET_MM, PR_SET_MM_BRK, 0, 0, 0), EPERM); ERR(prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0), EPERM); ERR(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0), EPERM);
             ERR(prctl(PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0), EPERM); ERR(prctl(PR_SET_SECUREBITS, 1, 0, 0, 0), EPERM));
    ERR(prctl(PR_GET_SPECULATION_CTRL, 99, 0, 0, 0), ENODEV);
    ERR(prctl(PR_GET_SPECULATION_CTRL, 0, 1, 0, 0), EINVAL);
    ERR(prctl(PR_SET_SPECULATION_CTRL, 99, 0, 0, 0), ENODEV);
}
CASE(kill_order_of_errors) {
    ERR(kill(4000000, 100), ESRCH);
    ERR(kill(getpid(), 65), EINVAL);
    ERR(kill(getpid(), -1), EINVAL);
    ERR(kill(-4000000, 0), ESRCH);
    ERR(kill(INT_MIN, 0), ESRCH);
    ERR(syscall(SYS_tgkill, 0, 1, 0), EINVAL);
    ERR(syscall(SYS_tgkill, getpid(), -1, 0), EINVAL);
    ERR(syscall(SYS_tkill, 4000000, 0), ESRCH);
    ERR(syscall(SYS_tkill, 0, 0), EINVAL);
    siginfo_t si = {.si_code = SI_USER};
    pid_t pid = sleeper();
    ERR(syscall(SYS_rt_sigqueueinfo, pid, SIGTERM, &si), EPERM);
    si.si_code = SI_TKILL;
    ERR(syscall(SYS_rt_sigqueueinfo, pid, SIGTERM, &si), EPERM);
    si.si_code = -50;
    ERR(syscall(SYS_rt_sigqueueinfo, 4000000, SIGTERM, &si), ESRCH);
    ERR(syscall(SYS_rt_sigqueueinfo, pid, 99, &si), EINVAL);
    ERR(syscall(SYS_rt_sigqueueinfo, pid, SIGTERM, BAD), EFAULT);
    ERR(syscall(SYS_rt_tgsigqueueinfo, pid, 0, SIGTERM, &si), EINVAL);
    ERR(syscall(SYS_rt_tgsigqueueinfo, pid, pid + 100000, SIGTERM, &si), ESRCH);
    OK(syscall(SYS_rt_sigqueueinfo, pid, SIGTERM, &si));
    DIES(pid, SIGTERM);
}
CASE(clone3_order_of_errors) {
    struct { uint64_t a[11]; uint64_t more; } c = {0};
    ERR(syscall(SYS_clone3, &c, 63L), EINVAL);
    ERR(syscall(SYS_clone3, &c, 5000L), E2BIG);
    ERR(syscall(SYS_clone3, BAD, 64L), EFAULT);
    c.more = 1;
    ERR(syscall(SYS_clone3, &c, 96L), E2BIG);
    c.more = 0;
    c.a[4] = 65; // exit_signal
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[4] = 0;
    c.a[5] = 4096; // a stack without a size
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[5] = 0, c.a[6] = 4096;
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[6] = 0;
    c.a[0] = CLONE_THREAD;
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[0] = CLONE_SIGHAND;
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[0] = CLONE_DETACHED;
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[0] = CLONE_FS | CLONE_NEWNS;
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[0] = 1ull << 40;
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[0] = CLONE_VM | CLONE_SIGHAND | 0x100000000ull; // CLONE_CLEAR_SIGHAND
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
    c.a[0] = CLONE_PARENT, c.a[4] = SIGCHLD;
    ERR(syscall(SYS_clone3, &c, 88L), EINVAL);
}
CASE(clone3_clear_sighand) {
    handle(SIGUSR1, 0);
    signal(SIGUSR2, SIG_IGN);
    struct { uint64_t a[11]; } c = {0};
    c.a[0] = 0x100000000ull, c.a[4] = SIGCHLD;
    pid_t pid = OK(syscall(SYS_clone3, &c, 88L));
    if (!pid) {
        struct sigaction sa;
        sigaction(SIGUSR2, NULL, &sa);
        if (sa.sa_handler != SIG_IGN) _exit(1);
        sigaction(SIGUSR1, NULL, &sa);
        if (sa.sa_handler != SIG_DFL) _exit(2);
        kill(getpid(), SIGUSR1);
    }
    DIES(pid, SIGUSR1);
}
CASE(many_threads) {
    enum { N = 300 };
    pthread_t t[N];
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 65536);
    static pthread_barrier_t b;
    pthread_barrier_init(&b, NULL, N + 1);
    void *run(void *x) { pthread_barrier_wait(&b); return x; }
    for (int i = 0; i < N; i++) EQ(pthread_create(&t[i], &a, run, (void *)(long)i), 0);
    pthread_barrier_wait(&b);
    for (int i = 0; i < N; i++) { void *r; pthread_join(t[i], &r); EQ((long)r, i); }
}
