// fds: pipes, polling, epoll, eventfd, dup, close_range, unix stream sockets.
#include "abi.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>

static int P[2];
static void make_pipe(int flags) { OK(pipe2(P, flags)); }
static char big[1 << 20];

CASE(pipe_basics) {
    char b[8];
    make_pipe(0);
    EQ(write(P[1], "abc", 3), 3);
    EQ(read(P[0], b, 2), 2);
    EQ(read(P[0], b, 8), 1);
    EQ(b[0], 'c');
    ERR(write(P[0], b, 1), EBADF);
    ERR(read(P[1], b, 1), EBADF);
    OK(close(P[1]));
    EQ(read(P[0], b, 8), 0);
}

CASE(pipe_errors) {
    ERR(syscall(SYS_pipe2, BAD, 0), EFAULT);
    ERR(syscall(SYS_pipe2, P, 0x1), EINVAL);
    ERR(pipe2(P, 0x40000000), EINVAL);
    make_pipe(O_CLOEXEC | O_NONBLOCK);
    EQ(fcntl(P[0], F_GETFD), FD_CLOEXEC);
    EQ(fcntl(P[1], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    struct stat st;
    OK(fstat(P[0], &st));
    CHECK(S_ISFIFO(st.st_mode));
}

CASE(pipe_nonblock_and_capacity) {
    make_pipe(O_NONBLOCK);
    char c;
    ERR(read(P[0], &c, 1), EAGAIN);
    EQ(write(P[1], big, sizeof big), 65536);
    ERR(write(P[1], "x", 1), EAGAIN);
    EQ(read(P[0], big, 4096), 4096);
    EQ(write(P[1], big, 4096), 4096);
    EQ(fcntl(P[1], F_GETPIPE_SZ), 65536);
    CHECK(OK(fcntl(P[1], F_SETPIPE_SZ, 131072)) == 131072);
    EQ(write(P[1], big, sizeof big), 65536);
    int n;
    OK(ioctl(P[0], FIONREAD, &n));
    EQ(n, 131072);
    ERR(fcntl(P[1], F_SETPIPE_SZ, 4096), EBUSY);
}

CASE(pipe_small_writes_are_atomic) {
    make_pipe(O_NONBLOCK);
    EQ(write(P[1], big, 65536), 65536);
    EQ(read(P[0], big, 4096), 4096);
    EQ(write(P[1], big, 8192), 4096); // larger than PIPE_BUF: in part
    EQ(read(P[0], big, 100), 100);
    ERR(write(P[1], big, 4096), EAGAIN); // PIPE_BUF: whole or not at all
}

CASE(pipe_blocking_write_wakes) {
    make_pipe(0);
    pid_t pid = OK(fork());
    if (!pid) {
        close(P[1]);
        long n, sum = 0;
        while ((n = read(P[0], big, 1000)) > 0) sum += n;
        _exit(sum == 300000 ? 0 : 1);
    }
    OK(close(P[0]));
    EQ(write(P[1], big, 300000), 300000);
    OK(close(P[1]));
    EXITS(pid, 0);
}

CASE(pipe_many_writers) {
    make_pipe(0);
    for (int i = 0; i < 4; i++)
        if (!OK(fork())) {
            char line[16];
            for (int j = 0; j < 500; j++) { memset(line, 'a' + i, 16); if (write(P[1], line, 16) != 16) _exit(1); }
            _exit(0);
        }
    OK(close(P[1]));
    char line[16];
    int n, lines = 0;
    while ((n = read(P[0], line, 16)) == 16) { for (int i = 1; i < 16; i++) EQ(line[i], line[0]); lines++; }
    EQ(n, 0);
    EQ(lines, 2000);
}

CASE(dup_forms) {
    make_pipe(0);
    int d = OK(dup(P[1]));
    EQ(dup2(P[1], 100), 100);
    EQ(dup2(100, 100), 100);
    EQ(dup3(P[1], 101, O_CLOEXEC), 101);
    EQ(fcntl(101, F_GETFD), FD_CLOEXEC);
    ERR(dup3(101, 101, 0), EINVAL);
    ERR(dup3(P[1], 102, 7), EINVAL);
    ERR(dup2(999, 5), EBADF);
    ERR(dup2(999, 999), EBADF);
    ERR(dup2(P[1], -1), EBADF);
    ERR(dup(-1), EBADF);
    OK(close(P[1]));
    EQ(write(d, "x", 1), 1);
    EQ(write(100, "y", 1), 1);
}

CASE(close_range_forms) {
    make_pipe(0);
    for (int i = 50; i < 60; i++) EQ(dup2(P[0], i), i);
    OK(close_range(50, 54, 0));
    ERR(fcntl(54, F_GETFD), EBADF);
    EQ(fcntl(55, F_GETFD), 0);
    OK(close_range(55, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */));
    EQ(fcntl(59, F_GETFD), FD_CLOEXEC);
    ERR(close_range(5, 4, 0), EINVAL);
    ERR(close_range(5, 6, 0x100), EINVAL);
}

CASE(poll_reports) {
    make_pipe(0);
    struct pollfd f[3] = {{P[0], POLLIN, 0}, {P[1], POLLOUT, 0}, {-5, POLLIN, 77}};
    EQ(poll(f, 3, 0), 1);
    EQ(f[0].revents, 0);
    EQ(f[1].revents, POLLOUT);
    EQ(f[2].revents, 0);
    EQ(write(P[1], "x", 1), 1);
    EQ(poll(f, 2, 1000), 2);
    EQ(f[0].revents, POLLIN);
    OK(close(P[1]));
    EQ(poll(f, 1, 0), 1);
    EQ(f[0].revents, POLLIN | POLLHUP);
    f[0].fd = 999;
    EQ(poll(f, 1, 0), 1);
    EQ(f[0].revents, POLLNVAL);
    make_pipe(0);
    OK(close(P[0]));
    f[0].fd = P[1];
    f[0].events = POLLOUT;
    EQ(poll(f, 1, 0), 1);
    EQ(f[0].revents, POLLOUT | POLLERR);
}

CASE(poll_regular_file_is_ready) {
    int fd = file_with("f", "x");
    struct pollfd f = {fd, POLLIN | POLLOUT, 0};
    EQ(poll(&f, 1, 0), 1);
    EQ(f.revents, POLLIN | POLLOUT);
}

CASE(poll_timeout_and_errors) {
    make_pipe(0);
    struct pollfd f = {P[0], POLLIN, 0};
    long long t = mono_ms();
    EQ(poll(&f, 1, 30), 0);
    CHECK(mono_ms() - t >= 29);
    EQ(poll(NULL, 0, 5), 0);
    ERR(syscall(SYS_poll, BAD, 1L, 0L), EFAULT);
    struct rlimit rl = {20, 20};
    OK(setrlimit(RLIMIT_NOFILE, &rl));
    ERR(syscall(SYS_poll, big, 21L, 0L), EINVAL);
}

CASE(poll_wakes_for_writer) {
    make_pipe(0);
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(30); _exit(write(P[1], "x", 1) == 1 ? 0 : 1); }
    struct pollfd f = {P[0], POLLIN, 0};
    EQ(poll(&f, 1, 10000), 1);
    EQ(f.revents, POLLIN);
    EXITS(pid, 0);
}

CASE(ppoll_mask) {
    make_pipe(0);
    handle(SIGUSR1, 0);
    sigset_t s, none;
    sigemptyset(&s);
    sigemptyset(&none);
    sigaddset(&s, SIGUSR1);
    OK(sigprocmask(SIG_BLOCK, &s, NULL));
    OK(raise(SIGUSR1));
    struct pollfd f = {P[0], POLLIN, 0};
    struct timespec t = {5, 0}, wrong = {0, -1};
    ERR(ppoll(&f, 1, &t, &none), EINTR);
    EQ(hits, 1);
    ERR(ppoll(&f, 1, &wrong, NULL), EINVAL);
    ERR(syscall(SYS_ppoll, &f, 1L, BAD, NULL, 8L), EFAULT);
    ERR(syscall(SYS_ppoll, &f, 1L, NULL, BAD, 8L), EFAULT);
    ERR(syscall(SYS_ppoll, &f, 1L, &t, &none, 4L), EINVAL);
}

CASE(select_reports) {
    make_pipe(0);
    fd_set r, w;
    struct timeval zero = {0}, soon = {0, 20000};
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(P[0], &r);
    FD_SET(P[1], &w);
    EQ(select(P[1] + 1, &r, &w, NULL, &zero), 1);
    CHECK(!FD_ISSET(P[0], &r) && FD_ISSET(P[1], &w));
    FD_ZERO(&r);
    FD_SET(P[0], &r);
    EQ(select(P[0] + 1, &r, NULL, NULL, &soon), 0);
    CHECK(soon.tv_sec == 0 && soon.tv_usec == 0); // Linux counts it down
    FD_ZERO(&r);
    FD_SET(60, &r);
    ERR(select(61, &r, NULL, NULL, &zero), EBADF);
    ERR(select(-1, NULL, NULL, NULL, &zero), EINVAL);
    ERR(syscall(SYS_select, 5L, BAD, NULL, NULL, &zero), EFAULT);
    zero.tv_sec = -1;
    ERR(select(0, NULL, NULL, NULL, &zero), EINVAL);
}

CASE(pselect_mask) {
    handle(SIGUSR1, 0);
    sigset_t s, none;
    sigemptyset(&s);
    sigemptyset(&none);
    sigaddset(&s, SIGUSR1);
    OK(sigprocmask(SIG_BLOCK, &s, NULL));
    OK(raise(SIGUSR1));
    struct timespec t = {5, 0};
    ERR(pselect(0, NULL, NULL, NULL, &t, &none), EINTR);
    EQ(hits, 1);
}

static int E;
static struct epoll_event ev;
static void add(int fd, uint32_t events) {
    struct epoll_event e = {.events = events, .data.u64 = 0x1234567800000000ull | (unsigned)fd};
    OK(epoll_ctl(E, EPOLL_CTL_ADD, fd, &e));
}

CASE(epoll_level) {
    make_pipe(0);
    E = OK(epoll_create1(EPOLL_CLOEXEC));
    add(P[0], EPOLLIN);
    EQ(epoll_wait(E, &ev, 1, 0), 0);
    EQ(write(P[1], "ab", 2), 2);
    for (int i = 0; i < 3; i++) {
        EQ(epoll_wait(E, &ev, 1, 1000), 1);
        EQ(ev.events, EPOLLIN);
        EQ(ev.data.u64, 0x1234567800000000ull | (unsigned)P[0]);
    }
    char b[4];
    EQ(read(P[0], b, 4), 2);
    EQ(epoll_wait(E, &ev, 1, 0), 0);
    OK(close(P[1]));
    EQ(epoll_wait(E, &ev, 1, 0), 1);
    EQ(ev.events, EPOLLHUP);
}

CASE(epoll_edge) {
    make_pipe(0);
    E = OK(epoll_create1(0));
    add(P[0], EPOLLIN | EPOLLET);
    EQ(write(P[1], "a", 1), 1);
    EQ(epoll_wait(E, &ev, 1, 0), 1);
    EQ(epoll_wait(E, &ev, 1, 0), 0);
    EQ(write(P[1], "b", 1), 1); // a new event although it was readable already
    EQ(epoll_wait(E, &ev, 1, 0), 1);
    EQ(epoll_wait(E, &ev, 1, 0), 0);
}

CASE(epoll_oneshot_and_mod) {
    make_pipe(0);
    E = OK(epoll_create1(0));
    add(P[0], EPOLLIN | EPOLLONESHOT);
    EQ(write(P[1], "a", 1), 1);
    EQ(epoll_wait(E, &ev, 1, 0), 1);
    EQ(epoll_wait(E, &ev, 1, 0), 0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT};
    OK(epoll_ctl(E, EPOLL_CTL_MOD, P[0], &e));
    EQ(epoll_wait(E, &ev, 1, 0), 1);
    OK(epoll_ctl(E, EPOLL_CTL_DEL, P[0], NULL));
    EQ(epoll_wait(E, &ev, 1, 0), 0);
}

CASE(epoll_nested) {
    make_pipe(0);
    E = OK(epoll_create1(0));
    add(P[0], EPOLLIN);
    int outer = OK(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN, .data.fd = E};
    OK(epoll_ctl(outer, EPOLL_CTL_ADD, E, &e));
    EQ(epoll_wait(outer, &ev, 1, 0), 0);
    struct pollfd f = {E, POLLIN, 0};
    EQ(poll(&f, 1, 0), 0);
    EQ(write(P[1], "a", 1), 1);
    EQ(epoll_wait(outer, &ev, 1, 1000), 1);
    EQ(ev.data.fd, E);
    EQ(poll(&f, 1, 0), 1);
    struct epoll_event back = {.events = EPOLLIN};
    ERR(epoll_ctl(E, EPOLL_CTL_ADD, outer, &back), ELOOP);
}

CASE(epoll_errors) {
    make_pipe(0);
    E = OK(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN};
    add(P[0], EPOLLIN);
    ERR(epoll_ctl(E, EPOLL_CTL_ADD, P[0], &e), EEXIST);
    ERR(epoll_ctl(E, EPOLL_CTL_MOD, P[1], &e), ENOENT);
    ERR(epoll_ctl(E, EPOLL_CTL_DEL, P[1], &e), ENOENT);
    ERR(epoll_ctl(E, EPOLL_CTL_ADD, E, &e), EINVAL);
    ERR(epoll_ctl(P[0], EPOLL_CTL_ADD, P[1], &e), EINVAL);
    ERR(epoll_ctl(E, EPOLL_CTL_ADD, 999, &e), EBADF);
    ERR(epoll_ctl(E, 77, P[1], &e), EINVAL);
    ERR(epoll_ctl(E, EPOLL_CTL_ADD, file_with("f", ""), &e), EPERM);
    ERR(syscall(SYS_epoll_ctl, E, EPOLL_CTL_ADD, P[1], BAD), EFAULT);
    ERR(syscall(SYS_epoll_wait, E, &ev, 0L, 0L), EINVAL);
    ERR(epoll_wait(P[0], &ev, 1, 0), EINVAL);
    EQ(write(P[1], "a", 1), 1);
    ERR(syscall(SYS_epoll_wait, E, BAD, 1L, 0L), EFAULT);
    ERR(epoll_create(0), EINVAL);
    ERR(epoll_create1(5), EINVAL);
}

CASE(epoll_eintr_even_with_restart) {
    E = OK(epoll_create1(0));
    INTERRUPTED_EVEN_WITH_RESTART(epoll_wait(E, &ev, 1, -1));
}

CASE(epoll_close_removes) {
    make_pipe(0);
    E = OK(epoll_create1(0));
    add(P[0], EPOLLIN);
    int d = OK(dup(P[0]));
    EQ(write(P[1], "a", 1), 1);
    OK(close(P[0]));
    EQ(epoll_wait(E, &ev, 1, 0), 1); // the duplicate keeps the open file
    OK(close(d));
    EQ(epoll_wait(E, &ev, 1, 0), 0);
}

CASE(epoll_many_and_fair) {
    E = OK(epoll_create1(0));
    for (int i = 0; i < 20; i++) add(OK(eventfd(1, 0)), EPOLLIN);
    int seen[64] = {0};
    struct epoll_event some[5];
    for (int i = 0; i < 8; i++) {
        int n = OK(epoll_wait(E, some, 5, 0));
        EQ(n, 5);
        for (int j = 0; j < n; j++) seen[some[j].data.u64 & 63]++;
    }
    int distinct = 0;
    for (int i = 0; i < 64; i++) distinct += seen[i] > 0;
    EQ(distinct, 20);
}

static void *epoll_waker(void *arg) {
    uint64_t one = 1;
    nap_ms(30);
    if (write((int)(long)arg, &one, 8) != 8) return (void *)1;
    return NULL;
}
CASE(epoll_waits_for_eventfd_of_thread) {
    E = OK(epoll_create1(0));
    int fd = OK(eventfd(0, 0));
    add(fd, EPOLLIN);
    pthread_t t;
    pthread_create(&t, NULL, epoll_waker, (void *)(long)fd);
    EQ(epoll_wait(E, &ev, 1, 10000), 1);
    pthread_join(t, NULL);
}

CASE(eventfd_counts) {
    int fd = OK(eventfd(3, EFD_NONBLOCK));
    uint64_t v = 4;
    EQ(write(fd, &v, 8), 8);
    EQ(read(fd, &v, 8), 8);
    EQ(v, 7);
    ERR(read(fd, &v, 8), EAGAIN);
    v = ~0ull;
    ERR(write(fd, &v, 8), EINVAL);
    v = ~0ull - 1;
    EQ(write(fd, &v, 8), 8);
    v = 1;
    ERR(write(fd, &v, 8), EAGAIN);
    ERR(read(fd, &v, 4), EINVAL);
    ERR(write(fd, &v, 4), EINVAL);
    ERR(read(fd, BAD, 8), EFAULT);
    ERR(eventfd(0, 7), EINVAL);
}

CASE(eventfd_takes_exactly_one_value) {
    needs(6, 14);
    int fd = OK(eventfd(0, 0));
    uint64_t v[64];
    for (int i = 0; i < 64; i++) v[i] = 3;
    ERR(write(fd, v, sizeof v), EINVAL);
    ERR(write(fd, v, 7), EINVAL);
    EQ(write(fd, v, 8), 8);
    EQ(read(fd, v, sizeof v), 8);
    EQ(v[0], 3);
}
CASE(eventfd_semaphore) {
    int fd = OK(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
    uint64_t v;
    EQ(read(fd, &v, 8), 8);
    EQ(v, 1);
    EQ(read(fd, &v, 8), 8);
    ERR(read(fd, &v, 8), EAGAIN);
}

CASE(eventfd_eintr_and_restart) {
    int fd = OK(eventfd(0, 0));
    uint64_t v = 0;
    INTERRUPTED(read(fd, &v, 8));
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN(uint64_t one = 1; if (write(fd, &one, 8) != 8) _exit(1));
    EQ(read(fd, &v, 8), 8);
    EXITS(pid, 0);
}

static int S[2];
static void make_pair(int type) { OK(socketpair(AF_UNIX, type, 0, S)); }

CASE(socketpair_stream) {
    make_pair(SOCK_STREAM);
    char b[16];
    EQ(write(S[0], "abc", 3), 3);
    EQ(send(S[0], "def", 3, 0), 3);
    EQ(recv(S[1], b, 4, MSG_PEEK), 4);
    EQ(recv(S[1], b, 16, 0), 6);
    CHECK(!memcmp(b, "abcdef", 6));
    ERR(recv(S[1], b, 1, MSG_DONTWAIT), EAGAIN);
    OK(shutdown(S[0], SHUT_WR));
    EQ(read(S[1], b, 1), 0);
    EQ(write(S[1], "x", 1), 1);
    OK(close(S[1]));
    signal(SIGPIPE, SIG_IGN);
    ERR(write(S[0], "x", 1), EPIPE);
}

CASE(socket_sigpipe_and_nosignal) {
    make_pair(SOCK_STREAM);
    OK(close(S[1]));
    ERR(send(S[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    pid_t pid = OK(fork());
    if (!pid) { if (write(S[0], "x", 1) < 0) {} _exit(0); }
    DIES(pid, SIGPIPE);
}

CASE(socketpair_dgram_and_seqpacket_keep_boundaries) {
    char b[16];
    make_pair(SOCK_DGRAM);
    EQ(send(S[0], "abc", 3, 0), 3);
    EQ(send(S[0], "de", 2, 0), 2);
    EQ(recv(S[1], b, 2, 0), 2);
    EQ(recv(S[1], b, 16, 0), 2);
    CHECK(b[0] == 'd');
    make_pair(SOCK_SEQPACKET);
    EQ(send(S[0], "abc", 3, 0), 3);
    EQ(send(S[0], "de", 2, 0), 2);
    EQ(recv(S[1], b, 16, 0), 3);
    OK(close(S[0]));
    EQ(recv(S[1], b, 16, 0), 2);
    EQ(recv(S[1], b, 16, 0), 0);
}

CASE(socket_errors) {
    int v[2];
    ERR(socket(AF_UNIX, 99, 0), EINVAL);
    ERR(socket(999, SOCK_STREAM, 0), EAFNOSUPPORT);
    ERR(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, BAD), EFAULT);
    ERR(socketpair(AF_UNIX, SOCK_STREAM, 99, v), EPROTONOSUPPORT);
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ERR(send(fd, "x", 1, MSG_NOSIGNAL), ENOTCONN);
    ERR(listen(fd, 1), EINVAL);
    ERR(listen(file_with("f", ""), 1), ENOTSOCK);
    ERR(accept(fd, NULL, NULL), EINVAL);
    ERR(shutdown(fd, 99), EINVAL);
    ERR(listen(-1, 1), EBADF);
}

static struct sockaddr_un at(const char *name) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, name);
    return a;
}
#define ADDR(a) (struct sockaddr *)&(a), sizeof(a)

CASE(unix_listen_accept) {
    struct sockaddr_un a = at("sock"), peer;
    int l = OK(socket(AF_UNIX, SOCK_STREAM, 0)), c = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ERR(connect(c, ADDR(a)), ENOENT);
    OK(bind(l, ADDR(a)));
    struct stat st;
    OK(stat("sock", &st));
    CHECK(S_ISSOCK(st.st_mode));
    ERR(connect(c, ADDR(a)), ECONNREFUSED);
    OK(listen(l, 5));
    OK(connect(c, ADDR(a)));
    ERR(connect(c, ADDR(a)), EISCONN);
    socklen_t n = sizeof peer;
    int s = OK(accept4(l, (struct sockaddr *)&peer, &n, SOCK_CLOEXEC | SOCK_NONBLOCK));
    EQ(fcntl(s, F_GETFD), FD_CLOEXEC);
    EQ(fcntl(s, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    EQ(peer.sun_family, AF_UNIX);
    EQ(write(c, "hi", 2), 2);
    char b[4];
    EQ(read(s, b, 4), 2);
    n = sizeof peer;
    OK(getpeername(c, (struct sockaddr *)&peer, &n));
    CHECK(!strcmp(peer.sun_path, "sock"));
    n = sizeof peer;
    OK(getsockname(l, (struct sockaddr *)&peer, &n));
    CHECK(!strcmp(peer.sun_path, "sock"));
    int other = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ERR(bind(other, ADDR(a)), EADDRINUSE);
    OK(close(l));
    ERR(connect(other, ADDR(a)), ECONNREFUSED);
    OK(unlink("sock"));
}

CASE(unix_abstract) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path + 1, 50, "nacre-abi-%d", getpid());
    socklen_t n = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(a.sun_path + 1);
    int l = OK(socket(AF_UNIX, SOCK_STREAM, 0)), c = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    OK(bind(l, (struct sockaddr *)&a, n));
    OK(listen(l, 1));
    OK(connect(c, (struct sockaddr *)&a, n));
    OK(accept(l, NULL, NULL));
}

CASE(unix_accept_waits_and_eintr) {
    struct sockaddr_un a = at("sock");
    int l = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    OK(bind(l, ADDR(a)));
    OK(listen(l, 1));
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(30); int c = socket(AF_UNIX, SOCK_STREAM, 0); _exit(connect(c, ADDR(a)) ? 1 : 0); }
    OK(accept(l, NULL, NULL));
    EXITS(pid, 0);
    INTERRUPTED(accept(l, NULL, NULL));
    OK(fcntl(l, F_SETFL, O_NONBLOCK));
    ERR(accept(l, NULL, NULL), EAGAIN);
}

CASE(unix_connect_backlog_nonblock) {
    struct sockaddr_un a = at("sock");
    int l = OK(socket(AF_UNIX, SOCK_STREAM, 0)), n = 0, c;
    OK(bind(l, ADDR(a)));
    OK(listen(l, 2));
    for (;;) {
        c = OK(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
        if (connect(c, ADDR(a)) < 0) break;
        CHECK(++n < 50);
    }
    EQ(errno, EAGAIN);
    EQ(n, 3);
}

static int send_fd(int s, int fd, const char *text) {
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec v = {(void *)text, strlen(text)};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(s, &m, 0);
}
static int receive_fd(int s, int flags, char *text, size_t len, int *msg_flags, size_t control_len) {
    char control[256] = {0};
    struct iovec v = {text, len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = control_len};
    OK(recvmsg(s, &m, flags));
    *msg_flags = m.msg_flags;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (!c || c->cmsg_type != SCM_RIGHTS) return -1;
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

CASE(scm_rights) {
    make_pair(SOCK_STREAM);
    int flags, fd = file_with("f", "hello");
    char b[8] = {0};
    OK(send_fd(S[0], fd, "x"));
    OK(close(fd));
    int got = receive_fd(S[1], MSG_CMSG_CLOEXEC, b, 8, &flags, 256);
    CHECK(got >= 0);
    EQ(fcntl(got, F_GETFD), FD_CLOEXEC);
    EQ(read(got, b, 8), 5);
    CHECK(!memcmp(b, "hello", 5));
    ERR(send_fd(S[0], 999, "x"), EBADF);
}

CASE(scm_rights_between_processes) {
    make_pair(SOCK_STREAM);
    pid_t pid = OK(fork());
    if (!pid) { int fd = file_with("g", "secret"); lseek(fd, 3, SEEK_SET); _exit(send_fd(S[0], fd, "y") == 1 ? 0 : 1); }
    int flags;
    char b[8];
    int got = receive_fd(S[1], 0, b, 1, &flags, 256);
    EXITS(pid, 0);
    EQ(read(got, b, 8), 3);
    CHECK(!memcmp(b, "ret", 3));
}

CASE(scm_rights_truncated) {
    make_pair(SOCK_STREAM);
    int flags;
    char b[8];
    OK(send_fd(S[0], S[0], "x"));
    int got = receive_fd(S[1], 0, b, 8, &flags, 0);
    EQ(got, -1);
    CHECK(flags & MSG_CTRUNC);
}

CASE(scm_rights_splits_stream) { // data before the descriptor does not merge with data after it
    make_pair(SOCK_STREAM);
    int flags;
    char b[16];
    EQ(write(S[0], "aa", 2), 2);
    OK(send_fd(S[0], S[0], "bb"));
    EQ(write(S[0], "cc", 2), 2);
    struct iovec v = {b, 16};
    char control[64];
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = OK(recvmsg(S[1], &m, 0));
    CHECK(n == 2 || n == 4);
    (void)flags;
}

CASE(scm_credentials_and_peercred) {
    make_pair(SOCK_STREAM);
    struct ucred c;
    socklen_t n = sizeof c;
    OK(getsockopt(S[0], SOL_SOCKET, SO_PEERCRED, &c, &n));
    EQ(c.pid, getpid());
    EQ(c.uid, getuid());
    int on = 1;
    OK(setsockopt(S[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    EQ(write(S[0], "x", 1), 1);
    char b[4], control[256];
    struct iovec v = {b, 4};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    EQ(recvmsg(S[1], &m, 0), 1);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    CHECK(h && h->cmsg_type == SCM_CREDENTIALS);
    memcpy(&c, CMSG_DATA(h), sizeof c);
    EQ(c.pid, getpid());
}

CASE(socket_options) {
    make_pair(SOCK_STREAM);
    int v;
    socklen_t n = sizeof v;
    OK(getsockopt(S[0], SOL_SOCKET, SO_TYPE, &v, &n));
    EQ(v, SOCK_STREAM);
    OK(getsockopt(S[0], SOL_SOCKET, SO_DOMAIN, &v, &n));
    EQ(v, AF_UNIX);
    OK(getsockopt(S[0], SOL_SOCKET, SO_ERROR, &v, &n));
    EQ(v, 0);
    OK(getsockopt(S[0], SOL_SOCKET, SO_ACCEPTCONN, &v, &n));
    EQ(v, 0);
    struct timeval t = {0, 30000};
    OK(setsockopt(S[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    long long start = mono_ms();
    char c;
    ERR(recv(S[0], &c, 1, 0), EAGAIN);
    CHECK(mono_ms() - start >= 29);
    ERR(setsockopt(S[0], SOL_SOCKET, 9999, &v, sizeof v), ENOPROTOOPT);
    ERR(syscall(SYS_getsockopt, S[0], SOL_SOCKET, SO_TYPE, &v, BAD), EFAULT);
}

CASE(socket_poll_hangup) {
    make_pair(SOCK_STREAM);
    struct pollfd f = {S[0], POLLIN | POLLOUT | POLLRDHUP, 0};
    EQ(poll(&f, 1, 0), 1);
    EQ(f.revents, POLLOUT);
    OK(shutdown(S[1], SHUT_WR));
    EQ(poll(&f, 1, 0), 1);
    EQ(f.revents, POLLIN | POLLOUT | POLLRDHUP);
    OK(close(S[1]));
    EQ(poll(&f, 1, 0), 1);
    EQ(f.revents, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
}

CASE(msg_waitall_and_large_transfer) {
    make_pair(SOCK_STREAM);
    pid_t pid = OK(fork());
    if (!pid) { close(S[1]); for (int i = 0; i < 100; i++) if (write(S[0], big, 10000) != 10000) _exit(1); _exit(0); }
    OK(close(S[0]));
    EQ(recv(S[1], big, 500000, MSG_WAITALL), 500000);
    EQ(recv(S[1], big, 600000, MSG_WAITALL), 500000);
    EXITS(pid, 0);
}

CASE(fionbio_fioclex) {
    make_pipe(0);
    int on = 1, n;
    OK(ioctl(P[0], FIONBIO, &on));
    EQ(fcntl(P[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    OK(ioctl(P[0], FIOCLEX));
    EQ(fcntl(P[0], F_GETFD), FD_CLOEXEC);
    OK(ioctl(P[0], FIONCLEX));
    EQ(fcntl(P[0], F_GETFD), 0);
    EQ(write(P[1], "abc", 3), 3);
    OK(ioctl(P[0], FIONREAD, &n));
    EQ(n, 3);
    ERR(ioctl(P[0], 0x5401 /* TCGETS */, big), ENOTTY);
    ERR(ioctl(-1, FIONREAD, &n), EBADF);
    ERR(syscall(SYS_ioctl, P[0], FIONREAD, BAD), EFAULT);
}

CASE(close_wakes_nobody_but_data_goes_on) {
    make_pipe(0);
    pid_t pid = OK(fork());
    if (!pid) { close(P[1]); char b; _exit(read(P[0], &b, 1) == 0 ? 0 : 1); }
    nap_ms(20);
    OK(close(P[1]));
    EXITS(pid, 0);
}

CASE(pipe_opened_again_after_its_writer_left) {
    make_pipe(0);
    EQ(write(P[1], "abc", 3), 3);
    OK(close(P[1]));
    char path[64], b[8];
    snprintf(path, sizeof path, "/proc/self/fd/%d", P[0]);
    int again = OK(open(path, O_RDONLY)); // does not wait for a writer
    EQ(read(again, b, 8), 3);
    EQ(read(again, b, 8), 0);
}
