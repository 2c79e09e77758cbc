// times: clocks, sleeps, interval timers, POSIX timers, timerfd.
#include "abi.h"
#include <poll.h>
#include <sys/timerfd.h>
#include <sys/resource.h>
#include <sys/times.h>
#include <utime.h>

static struct timespec ms(long n) { return (struct timespec){n / 1000, n % 1000 * 1000000}; }

CASE(clocks_advance) {
    clockid_t c[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE};
    for (int i = 0; i < 6; i++) {
        long long a = now_ns(c[i]);
        nap_ms(10);
        long long d = now_ns(c[i]) - a;
        CHECK(d >= 5000000 && d < 5000000000ll);
    }
    CHECK(now_ns(CLOCK_REALTIME) > 1600000000ll * 1000000000);
}

CASE(clock_syscall_agrees_with_vdso) {
    struct timespec t;
    long long a = now_ns(CLOCK_MONOTONIC);
    OK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t));
    long long b = t.tv_sec * 1000000000ll + t.tv_nsec, c = now_ns(CLOCK_MONOTONIC);
    CHECK(a <= b && b <= c);
}

CASE(clock_errors) {
    struct timespec t;
    ERR(syscall(SYS_clock_gettime, 99L, &t), EINVAL);
    ERR(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, BAD), EFAULT);
    OK(syscall(SYS_clock_getres, CLOCK_MONOTONIC, &t));
    CHECK(t.tv_sec == 0 && t.tv_nsec >= 1);
    OK(syscall(SYS_clock_getres, CLOCK_MONOTONIC, NULL));
    ERR(syscall(SYS_clock_getres, 99L, &t), EINVAL);
    IN_CHILD(OK(setuid(65534)); struct timespec s = {0}; ERR(clock_settime(CLOCK_REALTIME, &s), EPERM));
    ERR(clock_settime(CLOCK_MONOTONIC, &t), EINVAL);
}

CASE(cpu_clocks_count_work) {
    long long p = now_ns(CLOCK_PROCESS_CPUTIME_ID), t = now_ns(CLOCK_THREAD_CPUTIME_ID);
    nap_ms(50);
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) - p < 40000000);
    while (now_ns(CLOCK_THREAD_CPUTIME_ID) - t < 30000000) {}
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) - p >= 29000000);
}

CASE(gettimeofday_and_time) {
    struct timeval tv;
    OK(gettimeofday(&tv, NULL));
    time_t t = time(NULL);
    CHECK(t - tv.tv_sec <= 1);
    ERR(syscall(SYS_gettimeofday, BAD, NULL), EFAULT);
    ERR(syscall(SYS_time, BAD), EFAULT);
}

CASE(times_and_getrusage) {
    struct tms t;
    CHECK(times(&t) > 0);
    struct rusage r;
    OK(getrusage(RUSAGE_SELF, &r));
    CHECK(r.ru_maxrss > 0);
    OK(getrusage(RUSAGE_CHILDREN, &r));
    OK(getrusage(RUSAGE_THREAD, &r));
    ERR(getrusage(77, &r), EINVAL);
    ERR(syscall(SYS_getrusage, 0L, BAD), EFAULT);
    ERR(syscall(SYS_times, BAD), EFAULT);
}

CASE(nanosleep_sleeps) {
    struct timespec t = ms(30), wrong = {0, 1000000000}, neg = {-1, 0};
    long long s = now_ns(CLOCK_MONOTONIC);
    OK(nanosleep(&t, NULL));
    CHECK(now_ns(CLOCK_MONOTONIC) - s >= 30000000);
    ERR(nanosleep(&wrong, NULL), EINVAL);
    ERR(nanosleep(&neg, NULL), EINVAL);
    ERR(syscall(SYS_nanosleep, BAD, NULL), EFAULT);
    t = ms(0);
    OK(nanosleep(&t, NULL));
}

CASE(clock_nanosleep_forms) {
    struct timespec t, wrong = {0, -1};
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 30000000;
    if (t.tv_nsec >= 1000000000) { t.tv_sec++; t.tv_nsec -= 1000000000; }
    EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) >= t.tv_sec * 1000000000ll + t.tv_nsec);
    EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0); // in the past: at once
    EQ(clock_nanosleep(CLOCK_REALTIME, 0, &wrong, NULL), EINVAL);
    EQ(clock_nanosleep(99, 0, &t, NULL), EINVAL);
    EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL), EINVAL);
}

CASE(clock_nanosleep_eintr_absolute_has_no_rest) {
    struct timespec t, rest = {7, 7};
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += 20;
    INTERRUPTED_EVEN_WITH_RESTART(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, (long)TIMER_ABSTIME, &t, &rest));
    EQ(rest.tv_sec, 7);
}

CASE(alarm_and_its_rest) {
    handle(SIGALRM, 0);
    EQ(alarm(100), 0);
    CHECK(alarm(0) >= 99);
    EQ(alarm(1), 0);
    long long s = mono_ms();
    pause();
    EQ(hits, 1);
    CHECK(mono_ms() - s >= 950);
}

CASE(setitimer_real_repeats) {
    handle(SIGALRM, SA_RESTART);
    struct itimerval v = {{0, 10000}, {0, 10000}}, old;
    OK(setitimer(ITIMER_REAL, &v, NULL));
    while (hits < 5) pause();
    OK(getitimer(ITIMER_REAL, &old));
    EQ(old.it_interval.tv_usec, 10000);
    v = (struct itimerval){0};
    OK(setitimer(ITIMER_REAL, &v, &old));
    EQ(old.it_interval.tv_usec, 10000);
    int h = hits;
    nap_ms(40);
    CHECK(hits <= h + 1);
    EQ(last_info.si_code, SI_KERNEL);
}

CASE(setitimer_errors) {
    struct itimerval v = {{0, 0}, {0, 1000000}};
    ERR(setitimer(ITIMER_REAL, &v, NULL), EINVAL);
    ERR(setitimer(99, &v, NULL), EINVAL);
    ERR(syscall(SYS_setitimer, ITIMER_REAL, BAD, NULL), EFAULT);
    ERR(syscall(SYS_getitimer, ITIMER_REAL, BAD), EFAULT);
    ERR(getitimer(99, &v), EINVAL);
}

CASE(setitimer_virtual_counts_cpu) {
    handle(SIGVTALRM, 0);
    handle(SIGPROF, 0);
    struct itimerval v = {{0, 0}, {0, 20000}};
    OK(setitimer(ITIMER_VIRTUAL, &v, NULL));
    nap_ms(60);
    EQ(hits, 0);
    long long end = mono_ms() + 10000;
    while (!hits && mono_ms() < end) {}
    EQ(last_sig, SIGVTALRM);
    OK(setitimer(ITIMER_PROF, &v, NULL));
    while (hits < 2 && mono_ms() < end) {}
    EQ(last_sig, SIGPROF);
}

CASE(rlimit_cpu_sends_sigxcpu) {
    pid_t pid = OK(fork());
    if (!pid) {
        struct rlimit rl = {1, 2};
        setrlimit(RLIMIT_CPU, &rl);
        for (;;) {}
    }
    DIES(pid, SIGXCPU);
}

CASE(timer_create_signal) {
    timer_t t;
    handle(SIGRTMIN, 0);
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 55};
    OK(timer_create(CLOCK_MONOTONIC, &e, &t));
    struct itimerspec v = {{0}, ms(20)}, old;
    OK(timer_settime(t, 0, &v, NULL));
    OK(timer_gettime(t, &old));
    CHECK(old.it_value.tv_nsec > 0 || hits);
    while (!hits) pause();
    EQ(last_info.si_code, SI_TIMER);
    EQ(last_info.si_value.sival_int, 55);
    OK(timer_gettime(t, &old));
    CHECK(old.it_value.tv_sec == 0 && old.it_value.tv_nsec == 0);
    OK(timer_delete(t));
    ERR(syscall(SYS_timer_delete, 77L), EINVAL);
}

CASE(timer_overrun) {
    timer_t t;
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGUSR1);
    OK(sigprocmask(SIG_BLOCK, &s, NULL));
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    OK(timer_create(CLOCK_MONOTONIC, &e, &t));
    struct itimerspec v = {ms(5), ms(5)};
    OK(timer_settime(t, 0, &v, NULL));
    nap_ms(60);
    siginfo_t si;
    EQ(sigwaitinfo(&s, &si), SIGUSR1);
    CHECK(si.si_overrun >= 5);
    CHECK(timer_getoverrun(t) >= 5);
}

CASE(timer_absolute_none_and_thread) {
    timer_t t;
    struct sigevent e = {.sigev_notify = SIGEV_NONE};
    OK(timer_create(CLOCK_REALTIME, &e, &t));
    struct itimerspec v = {{0}, {0}}, now;
    clock_gettime(CLOCK_REALTIME, &v.it_value);
    v.it_value.tv_sec += 100;
    OK(timer_settime(t, TIMER_ABSTIME, &v, NULL));
    OK(timer_gettime(t, &now));
    CHECK(now.it_value.tv_sec >= 95 && now.it_value.tv_sec <= 100);
    handle(SIGUSR2, 0);
    e = (struct sigevent){.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
    e._sigev_un._tid = gettid();
    OK(timer_create(CLOCK_MONOTONIC, &e, &t));
    v = (struct itimerspec){{0}, ms(10)};
    OK(timer_settime(t, 0, &v, NULL));
    while (!hits) pause();
}

CASE(timer_errors) {
    timer_t t;
    struct sigevent e = {.sigev_notify = 77};
    ERR(timer_create(CLOCK_MONOTONIC, &e, &t), EINVAL);
    ERR(syscall(SYS_timer_create, 99L, NULL, &t), EINVAL);
    ERR(syscall(SYS_timer_create, CLOCK_MONOTONIC, BAD, &t), EFAULT);
    ERR(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, BAD), EFAULT);
    OK(timer_create(CLOCK_MONOTONIC, NULL, &t));
    struct itimerspec v = {{0}, {0, 1000000000}};
    ERR(timer_settime(t, 0, &v, NULL), EINVAL);
}

CASE(timerfd_relative_and_periodic) {
    int fd = OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    uint64_t n;
    ERR(read(fd, &n, 8), EAGAIN);
    struct itimerspec v = {ms(10), ms(10)}, old;
    OK(timerfd_settime(fd, 0, &v, NULL));
    struct pollfd p = {fd, POLLIN, 0};
    EQ(poll(&p, 1, 5000), 1);
    nap_ms(50);
    EQ(read(fd, &n, 8), 8);
    CHECK(n >= 4);
    OK(timerfd_gettime(fd, &old));
    EQ(old.it_interval.tv_nsec, 10000000);
    v = (struct itimerspec){{0}};
    OK(timerfd_settime(fd, 0, &v, NULL));
    OK(timerfd_gettime(fd, &old));
    EQ(old.it_value.tv_nsec, 0);
    ERR(read(fd, &n, 4), EINVAL);
}

CASE(timerfd_absolute_blocking) {
    int fd = OK(timerfd_create(CLOCK_REALTIME, 0));
    struct itimerspec v = {{0}};
    uint64_t n;
    clock_gettime(CLOCK_REALTIME, &v.it_value);
    OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &v, NULL));
    EQ(read(fd, &n, 8), 8);
    EQ(n, 1);
    v.it_value.tv_sec += 100;
    OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &v, NULL));
    INTERRUPTED(read(fd, &n, 8));
}

CASE(timerfd_errors) {
    struct itimerspec v = {{0}, {0, 1000000000}};
    int fd = OK(timerfd_create(CLOCK_MONOTONIC, 0)), p[2];
    ERR(timerfd_create(99, 0), EINVAL);
    ERR(timerfd_create(CLOCK_MONOTONIC, 0x7), EINVAL);
    ERR(timerfd_settime(fd, 0, &v, NULL), EINVAL);
    OK(pipe(p));
    v.it_value.tv_nsec = 0;
    ERR(timerfd_settime(-1, 0, &v, NULL), EBADF);
    ERR(timerfd_settime(p[0], 0, &v, NULL), EINVAL);
    ERR(syscall(SYS_timerfd_settime, fd, 0L, BAD, NULL), EFAULT);
}

CASE(sleep_of_many_threads) {
    void *nap(void *a) { nap_ms(50); return a; }
    pthread_t t[20];
    long long s = mono_ms();
    for (int i = 0; i < 20; i++) EQ(pthread_create(&t[i], NULL, nap, NULL), 0);
    for (int i = 0; i < 20; i++) pthread_join(t[i], NULL);
    long long d = mono_ms() - s;
    CHECK(d >= 50 && d < 900); // beside, not after, one another
}

// Calls that take the kernel some work are system time; both kinds together are the process's clock.
CASE(system_time) {
    struct rusage ru;
    struct timespec ts;
    do {
        for (int i = 0; i < 1000; i++) access("/nowhere", F_OK);
        OK(getrusage(RUSAGE_SELF, &ru));
    } while (ru.ru_stime.tv_usec == 0 && ru.ru_stime.tv_sec == 0);
    OK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts));
    int64_t both = (ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000LL + ru.ru_utime.tv_usec + ru.ru_stime.tv_usec;
    CHECK(ts.tv_sec * 1000000LL + ts.tv_nsec / 1000 >= both - 20000);
    pid_t pid = OK(fork());
    if (!pid) {
        do {
            for (int i = 0; i < 1000; i++) access("/nowhere", F_OK);
            OK(getrusage(RUSAGE_SELF, &ru));
        } while (ru.ru_stime.tv_usec < 20000 && ru.ru_stime.tv_sec == 0);
        _exit(0);
    }
    EXITS(pid, 0);
    OK(getrusage(RUSAGE_CHILDREN, &ru));
    CHECK(ru.ru_stime.tv_sec > 0 || ru.ru_stime.tv_usec >= 20000);
    struct tms t;
    OK(times(&t));
    CHECK(t.tms_cstime >= 2);
}
