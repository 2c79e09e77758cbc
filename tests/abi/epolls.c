// epoll and its neighbours, the rarer parts.
#include "abi.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#ifndef EPOLLEXCLUSIVE
#define EPOLLEXCLUSIVE (1u << 28)
#endif

static int ep, ev;
static void start(void) { ep = OK(epoll_create1(0)); ev = OK(eventfd(0, EFD_NONBLOCK)); }
static int ctl(int op, int fd, unsigned events) {
    struct epoll_event e = {events, {.fd = fd}};
    return epoll_ctl(ep, op, fd, &e);
}
static void ring(void) { uint64_t one = 1; EQ(write(ev, &one, 8), 8); }

CASE(exclusive_rules) {
    start();
    OK(ctl(EPOLL_CTL_ADD, ev, EPOLLIN | EPOLLEXCLUSIVE | EPOLLET | EPOLLWAKEUP));
    ERR(ctl(EPOLL_CTL_MOD, ev, EPOLLIN), EINVAL);
    OK(ctl(EPOLL_CTL_DEL, ev, 0));
    ERR(ctl(EPOLL_CTL_ADD, ev, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT), EINVAL);
    ERR(ctl(EPOLL_CTL_ADD, ev, EPOLLPRI | EPOLLEXCLUSIVE), EINVAL);
    OK(ctl(EPOLL_CTL_ADD, ev, EPOLLIN));
    ERR(ctl(EPOLL_CTL_MOD, ev, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
    int other = OK(epoll_create1(0));
    ERR(ctl(EPOLL_CTL_ADD, other, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
}

CASE(arguments) {
    start();
    struct epoll_event e;
    ERR(epoll_create(0), EINVAL);
    ERR(epoll_create1(1), EINVAL);
    ERR(epoll_ctl(ep, 9, ev, &e), EINVAL);
    ERR(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &e), EINVAL);
    ERR(epoll_ctl(ev, EPOLL_CTL_ADD, ep, &e), EINVAL);
    ERR(epoll_ctl(ep, EPOLL_CTL_ADD, ev, BAD), EFAULT);
    ERR(epoll_ctl(-1, EPOLL_CTL_ADD, ev, &e), EBADF);
    ERR(epoll_ctl(ep, EPOLL_CTL_ADD, -1, &e), EBADF);
    ERR(epoll_ctl(ep, EPOLL_CTL_ADD, OK(open("f", O_RDWR | O_CREAT, 0600)), &e), EPERM);
    ERR(epoll_wait(ep, &e, 0, 0), EINVAL);
    ERR(epoll_wait(ep, &e, -1, 0), EINVAL);
    ERR(epoll_wait(ep, &e, INT_MAX, 0), EINVAL);
    ERR(epoll_wait(ev, &e, 1, 0), EINVAL);
    ERR(epoll_wait(-1, &e, 1, 0), EBADF);
    OK(ctl(EPOLL_CTL_ADD, ev, EPOLLIN));
    ring();
    ERR(epoll_wait(ep, BAD, 1, 0), EFAULT);
    EQ(epoll_wait(ep, &e, 1, 0), 1);
}

CASE(pwait2_times) {
    start();
    struct epoll_event e;
    struct timespec t = {0, 20000000}, bad = {0, 1000000000}, neg = {-1, 0};
    long long at = mono_ms();
    EQ(syscall(SYS_epoll_pwait2, ep, &e, 1, &t, NULL, 0), 0);
    CHECK(mono_ms() - at >= 15);
    ERR(syscall(SYS_epoll_pwait2, ep, &e, 1, &bad, NULL, 0), EINVAL);
    ERR(syscall(SYS_epoll_pwait2, ep, &e, 1, &neg, NULL, 0), EINVAL);
    ERR(syscall(SYS_epoll_pwait2, ep, &e, 1, BAD, NULL, 0), EFAULT);
    ERR(syscall(SYS_epoll_pwait, ep, &e, 1, 0, BAD, 8), EFAULT);
    ERR(syscall(SYS_epoll_pwait, ep, &e, 1, 0, &t, 4), EINVAL);
}

CASE(a_mask_lets_a_signal_in) {
    start();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    OK(sigprocmask(SIG_BLOCK, &set, NULL));
    handle(SIGUSR1, 0);
    kill(getpid(), SIGUSR1);
    sigemptyset(&set);
    struct epoll_event e;
    ERR(epoll_pwait(ep, &e, 1, 1000, &set), EINTR);
    EQ(hits, 1);
    OK(sigprocmask(SIG_BLOCK, NULL, &set));
    CHECK(sigismember(&set, SIGUSR1));
}

CASE(nesting_is_limited) {
    int at = OK(epoll_create1(0)), depth = 0;
    for (;;) {
        int next = OK(epoll_create1(0));
        struct epoll_event e = {EPOLLIN, {0}};
        if (epoll_ctl(next, EPOLL_CTL_ADD, at, &e) < 0) break;
        at = next;
        depth++;
    }
    EQ(errno, ELOOP);
    CHECK(depth >= 4 && depth <= 5);
}

CASE(the_same_file_by_two_descriptors) {
    start();
    int copy = OK(dup(ev));
    OK(ctl(EPOLL_CTL_ADD, ev, EPOLLIN));
    OK(ctl(EPOLL_CTL_ADD, copy, EPOLLIN));
    ERR(ctl(EPOLL_CTL_ADD, copy, EPOLLIN), EEXIST);
    ring();
    struct epoll_event e[4];
    EQ(epoll_wait(ep, e, 4, 0), 2);
    close(ev); // the description lives on by the copy, and both items with it
    EQ(epoll_wait(ep, e, 4, 0), 2);
    ERR(ctl(EPOLL_CTL_DEL, ev, 0), EBADF);
    OK(ctl(EPOLL_CTL_DEL, copy, 0));
    EQ(epoll_wait(ep, e, 4, 0), 1);
}

CASE(edges_of_a_pipe) {
    start();
    int p[2];
    OK(pipe2(p, O_NONBLOCK));
    OK(ctl(EPOLL_CTL_ADD, p[0], EPOLLIN | EPOLLET));
    struct epoll_event e;
    EQ(write(p[1], "ab", 2), 2);
    EQ(epoll_wait(ep, &e, 1, 0), 1);
    EQ(epoll_wait(ep, &e, 1, 0), 0);
    char c;
    EQ(read(p[0], &c, 1), 1);
    EQ(epoll_wait(ep, &e, 1, 0), 0); // more is there, but nothing new
    EQ(write(p[1], "c", 1), 1);
    EQ(epoll_wait(ep, &e, 1, 0), 1);
    close(p[1]);
    EQ(epoll_wait(ep, &e, 1, 0), 1);
    CHECK(e.events & EPOLLHUP);
}

CASE(eventfd_rules) {
    ERR(eventfd(0, 0x10), EINVAL);
    int fd = OK(eventfd(5, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC));
    uint64_t n;
    for (int i = 0; i < 5; i++) { EQ(read(fd, &n, 8), 8); EQ(n, 1); }
    ERR(read(fd, &n, 8), EAGAIN);
    ERR(read(fd, &n, 4), EINVAL);
    ERR(write(fd, &n, 4), EINVAL);
    n = UINT64_MAX;
    ERR(write(fd, &n, 8), EINVAL);
    n = UINT64_MAX - 1;
    EQ(write(fd, &n, 8), 8);
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLIN);
    n = 1;
    ERR(write(fd, &n, 8), EAGAIN);
    EQ(lseek(fd, 0, SEEK_CUR), 0);
    ERR(ioctl(fd, FIONREAD, &n), ENOTTY);
}

CASE(timerfd_rules) {
    ERR(timerfd_create(99, 0), EINVAL);
    ERR(timerfd_create(CLOCK_PROCESS_CPUTIME_ID, 0), EINVAL);
    ERR(timerfd_create(CLOCK_MONOTONIC, 1), EINVAL);
    int fd = OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    uint64_t n;
    ERR(read(fd, &n, 8), EAGAIN);
    struct itimerspec t = {{0, 10000000}, {0, 10000000}}, old;
    OK(timerfd_settime(fd, 0, &t, NULL));
    nap_ms(55);
    EQ(read(fd, &n, 8), 8);
    CHECK(n >= 4 && n <= 7);
    OK(timerfd_gettime(fd, &old));
    EQ(old.it_interval.tv_nsec, 10000000);
    CHECK(old.it_value.tv_nsec > 0 && old.it_value.tv_nsec <= 10000000);
    t = (struct itimerspec){{0, 0}, {0, 0}};
    OK(timerfd_settime(fd, 0, &t, &old));
    ERR(read(fd, &n, 8), EAGAIN);
    ERR(read(fd, &n, 4), EINVAL);
    ERR(write(fd, &n, 8), EINVAL);
    ERR(timerfd_settime(fd, 99, &t, NULL), EINVAL);
    ERR(timerfd_settime(0, 0, &t, NULL), EINVAL);
    ERR(timerfd_settime(-1, 0, &t, NULL), EBADF);
    ERR(timerfd_settime(fd, 0, BAD, NULL), EFAULT);
    t.it_value.tv_nsec = 1000000000;
    ERR(timerfd_settime(fd, 0, &t, NULL), EINVAL);
    // In the past, by the real-time clock.
    int rt = OK(timerfd_create(CLOCK_REALTIME, 0));
    t = (struct itimerspec){{0, 0}, {1, 0}};
    OK(timerfd_settime(rt, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &t, NULL));
    EQ(read(rt, &n, 8), 8);
    EQ(n, 1);
}

CASE(signalfd_rules) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    OK(sigprocmask(SIG_BLOCK, &set, NULL));
    int fd = OK(signalfd(-1, &set, SFD_NONBLOCK));
    struct signalfd_siginfo si;
    ERR(read(fd, &si, sizeof si), EAGAIN);
    kill(getpid(), SIGUSR2);
    pid_t parent = getpid();
    IN_CHILD(ERR(read(fd, &si, sizeof si), EAGAIN); kill(getpid(), SIGUSR2); EQ(read(fd, &si, sizeof si), sizeof si); EQ(si.ssi_pid, getpid()));
    EQ(read(fd, &si, sizeof si), sizeof si);
    EQ(si.ssi_signo, SIGUSR2);
    EQ(si.ssi_pid, parent);
    EQ(si.ssi_code, SI_USER);
    IN_CHILD(int b = OK(signalfd(-1, &set, 0)); pid_t me = getpid(); IN_CHILD(nap_ms(40); kill(me, SIGUSR2)); EQ(read(b, &si, sizeof si), sizeof si));
    ERR(read(fd, &si, 64), EINVAL);
    ERR(signalfd(0, &set, 0), EINVAL);
    ERR(signalfd(-1, &set, 1), EINVAL);
    ERR(syscall(SYS_signalfd4, -1, &set, 4, 0), EINVAL);
    ERR(syscall(SYS_signalfd4, -1, BAD, 8, 0), EFAULT);
}
