// unix: unix sockets: names, kinds, credentials, descriptors in flight, options.
#include "abi.h"
#include <poll.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <linux/sockios.h>
#include <sys/socket.h>
#include <sys/un.h>

#define SA(a) ((struct sockaddr *)&(a))
#define ALL_EVENTS (POLLIN | POLLOUT | POLLRDHUP | POLLPRI)
static int v[2];
static char big[1 << 20];
static void make(int type) { OK(socketpair(AF_UNIX, type, 0, v)); }
static int sock(int type) { return OK(socket(AF_UNIX, type, 0)); }
// An address by path, or (starting with @) an abstract one; *n is its length.
static struct sockaddr_un at(const char *name, socklen_t *n) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, name);
    *n = offsetof(struct sockaddr_un, sun_path) + strlen(name) + (name[0] != '@');
    if (name[0] == '@') a.sun_path[0] = 0;
    return a;
}
static int bound(int type, const char *name) {
    socklen_t n;
    struct sockaddr_un a = at(name, &n);
    int fd = sock(type);
    OK(bind(fd, SA(a), n));
    return fd;
}
static int dial(int fd, const char *name) {
    socklen_t n;
    struct sockaddr_un a = at(name, &n);
    return connect(fd, SA(a), n);
}
static int events(int fd) {
    struct pollfd p = {fd, ALL_EVENTS, 0};
    OK(poll(&p, 1, 0));
    return p.revents;
}
static int get_int(int fd, int name) {
    int x = -12345;
    socklen_t n = sizeof x;
    OK(getsockopt(fd, SOL_SOCKET, name, &x, &n));
    return x;
}
static void set_int(int fd, int name, int x) { OK(setsockopt(fd, SOL_SOCKET, name, &x, sizeof x)); }

CASE(bind_names) {
    struct sockaddr_un a, b;
    socklen_t n;
    int fd = bound(SOCK_STREAM, "sock");
    struct stat st;
    OK(stat("sock", &st));
    CHECK(S_ISSOCK(st.st_mode));
    EQ(st.st_mode & 0777, 0755);
    n = sizeof a;
    OK(getsockname(fd, SA(a), &n));
    EQ(n, 2 + 5);
    EQ(strcmp(a.sun_path, "sock"), 0);
    b = at("other", &n);
    ERR(bind(fd, SA(b), n), EINVAL);
    int again = sock(SOCK_STREAM);
    a = at("sock", &n);
    ERR(bind(again, SA(a), n), EADDRINUSE);
    OK(unlink("sock"));
    OK(bind(again, SA(a), n));
    int c = sock(SOCK_STREAM);
    a = at("missing/sock", &n);
    ERR(bind(c, SA(a), n), ENOENT);
    ERR(bind(c, SA(a), 1), EINVAL);
    ERR(bind(c, SA(a), 200), EINVAL);
    ERR(bind(c, BAD, n), EFAULT);
    a.sun_family = AF_INET;
    ERR(bind(c, SA(a), n), EINVAL);
    ERR(open("sock", O_RDWR), ENXIO);
}

CASE(bind_abstract_and_auto) {
    struct sockaddr_un a;
    socklen_t n = sizeof a;
    int fd = bound(SOCK_DGRAM, "@nacre-abi"), other = sock(SOCK_DGRAM);
    OK(getsockname(fd, SA(a), &n));
    EQ(n, 2 + 10);
    EQ(a.sun_path[0], 0);
    a = at("@nacre-abi", &n);
    ERR(bind(other, SA(a), n), EADDRINUSE);
    OK(bind(other, SA(a), 2)); // any name
    n = sizeof a;
    OK(getsockname(other, SA(a), &n));
    EQ(n, 2 + 6);
    EQ(a.sun_path[0], 0);
    OK(close(fd));
    a = at("@nacre-abi", &n);
    int third = sock(SOCK_STREAM);
    OK(bind(third, SA(a), n)); // free again
}

CASE(connect_errors) {
    int s = sock(SOCK_STREAM), d = sock(SOCK_DGRAM);
    ERR(dial(s, "missing"), ENOENT);
    ERR(dial(s, "@missing"), ECONNREFUSED);
    file_with("file", "x");
    ERR(dial(s, "file"), ECONNREFUSED);
    int l = bound(SOCK_STREAM, "l");
    ERR(dial(s, "l"), ECONNREFUSED); // it does not listen
    ERR(dial(d, "l"), EPROTOTYPE);
    OK(listen(l, 1));
    OK(dial(s, "l"));
    ERR(dial(s, "l"), EISCONN);
    OK(close(l));
    ERR(dial(sock(SOCK_STREAM), "l"), ECONNREFUSED);
    OK(chmod("l", 0));
    IN_CHILD({
        OK(setresuid(1000, 1000, 1000));
        ERR(dial(sock(SOCK_STREAM), "l"), EACCES);
    });
}

CASE(accept_and_names) {
    struct sockaddr_un a;
    socklen_t n = sizeof a;
    int l = bound(SOCK_STREAM, "l"), c = bound(SOCK_STREAM, "c");
    OK(listen(l, 5));
    OK(dial(c, "l"));
    int s = OK(accept4(l, SA(a), &n, SOCK_CLOEXEC));
    EQ(n, 2 + 2);
    EQ(strcmp(a.sun_path, "c"), 0);
    n = sizeof a;
    OK(getsockname(s, SA(a), &n));
    EQ(strcmp(a.sun_path, "l"), 0);
    n = sizeof a;
    OK(getpeername(c, SA(a), &n));
    EQ(strcmp(a.sun_path, "l"), 0);
    n = sizeof a;
    ERR(getpeername(l, SA(a), &n), ENOTCONN);
    EQ(get_int(l, SO_ACCEPTCONN), 1);
    int u = sock(SOCK_STREAM);
    OK(dial(u, "l"));
    n = sizeof a;
    OK(accept(l, SA(a), &n));
    EQ(n, 2); // no name
    ERR(accept(u, NULL, NULL), EINVAL);
    ERR(accept(sock(SOCK_DGRAM), NULL, NULL), EOPNOTSUPP);
    ERR(listen(u, 1), EINVAL);
    ERR(listen(sock(SOCK_STREAM), 1), EINVAL); // no name
    ERR(listen(sock(SOCK_DGRAM), 1), EOPNOTSUPP);
}

CASE(backlog_makes_connect_wait) {
    int l = bound(SOCK_STREAM, "l");
    OK(listen(l, 0));
    OK(dial(sock(SOCK_STREAM), "l"));
    int n = OK(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    ERR(dial(n, "l"), EAGAIN);
    int w = sock(SOCK_STREAM);
    struct timeval tv = {0, 50000};
    OK(setsockopt(w, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
    ERR(dial(w, "l"), EAGAIN);
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(50); _exit(accept(l, NULL, NULL) < 0); }
    OK(dial(sock(SOCK_STREAM), "l"));
    EXITS(pid, 0);
    INTERRUPTED(dial(sock(SOCK_STREAM), "l"));
}

CASE(fresh_sockets) {
    char b[4];
    int s = sock(SOCK_STREAM), d = sock(SOCK_DGRAM), q = sock(SOCK_SEQPACKET);
    EQ(events(s), POLLOUT | POLLHUP);
    EQ(events(d), POLLOUT);
    ERR(recv(s, b, 4, 0), EINVAL);
    ERR(send(s, b, 4, MSG_NOSIGNAL), ENOTCONN);
    ERR(recv(d, b, 4, MSG_DONTWAIT), EAGAIN);
    ERR(send(d, b, 4, 0), ENOTCONN);
    ERR(recv(q, b, 4, 0), ENOTCONN);
    ERR(send(q, b, 4, MSG_NOSIGNAL), ENOTCONN);
    OK(shutdown(s, SHUT_RDWR));
    OK(shutdown(d, SHUT_RD));
    struct sockaddr_un a;
    socklen_t n = sizeof a;
    OK(getsockname(s, SA(a), &n));
    EQ(n, 2);
}

CASE(datagrams) {
    char b[16];
    struct sockaddr_un a;
    socklen_t n;
    int r = bound(SOCK_DGRAM, "r"), s = bound(SOCK_DGRAM, "s");
    a = at("r", &n);
    EQ(sendto(s, "one", 3, 0, SA(a), n), 3);
    EQ(sendto(s, "", 0, 0, SA(a), n), 0);
    EQ(sendto(s, "three", 5, 0, SA(a), n), 5);
    n = sizeof a;
    EQ(recvfrom(r, b, 16, 0, SA(a), &n), 3);
    EQ(strcmp(a.sun_path, "s"), 0);
    EQ(recv(r, b, 16, 0), 0);
    EQ(recv(r, b, 2, MSG_TRUNC), 5);
    OK(dial(s, "r"));
    EQ(send(s, "x", 1, 0), 1);
    OK(dial(r, "s")); // now it takes from s only
    int t = sock(SOCK_DGRAM);
    a = at("r", &n);
    ERR(sendto(t, "x", 1, 0, SA(a), n), EPERM);
    ERR(dial(t, "r"), EPERM);
    OK(close(r));
    ERR(send(s, "x", 1, 0), ECONNREFUSED);
    ERR(sendto(t, "x", 1, 0, SA(a), n), ECONNREFUSED);
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    OK(connect(s, &none, sizeof none));
    ERR(send(s, "x", 1, 0), ENOTCONN);
}

CASE(a_full_receiver_stops_datagrams) {
    int r = bound(SOCK_DGRAM, "r"), s = sock(SOCK_DGRAM), n = 0;
    OK(dial(s, "r"));
    OK(fcntl(s, F_SETFL, O_NONBLOCK));
    while (n < 5000 && send(s, "x", 1, 0) == 1) n++;
    EQ(errno, EAGAIN);
    CHECK(n >= 10 && n < 5000);
    EQ(events(s) & POLLOUT, 0);
    while (recv(r, big, 4, MSG_DONTWAIT) == 1) n--;
    EQ(n, 0);
    EQ(events(s) & POLLOUT, POLLOUT);
    set_int(s, SO_SNDBUF, 4096);
    ERR(send(s, big, 100000, 0), EMSGSIZE);
}

CASE(seqpackets) {
    char b[8];
    make(SOCK_SEQPACKET);
    EQ(write(v[0], "abcdef", 6), 6);
    EQ(write(v[0], "xy", 2), 2);
    struct iovec io = {b, 4};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
    EQ(recvmsg(v[1], &m, 0), 4);
    EQ(m.msg_flags & MSG_TRUNC, MSG_TRUNC);
    EQ(recvmsg(v[1], &m, 0), 2);
    EQ(m.msg_flags & MSG_TRUNC, 0);
    OK(close(v[0]));
    EQ(read(v[1], b, 8), 0);
    ERR(send(v[1], "x", 1, MSG_NOSIGNAL), EPIPE);
}

CASE(streams_peek_and_wait) {
    char b[16];
    make(SOCK_STREAM);
    EQ(write(v[0], "abc", 3), 3);
    EQ(write(v[0], "def", 3), 3);
    EQ(recv(v[1], b, 5, MSG_PEEK), 5);
    CHECK(!memcmp(b, "abcde", 5));
    int q;
    OK(ioctl(v[1], FIONREAD, &q));
    EQ(q, 6);
    OK(ioctl(v[0], SIOCOUTQ, &q));
    CHECK(q > 0);
    EQ(recv(v[1], b, 16, 0), 6);
    pid_t pid = OK(fork());
    if (!pid) {
        for (int i = 0; i < 3; i++) { nap_ms(20); if (write(v[0], "xyz", 3) != 3) _exit(1); }
        _exit(0);
    }
    EQ(recv(v[1], b, 8, MSG_WAITALL), 8);
    EXITS(pid, 0);
    EQ(recv(v[1], b, 1, 0), 1);
    set_int(v[1], SO_RCVLOWAT, 4);
    pid = OK(fork());
    if (!pid) {
        for (int i = 0; i < 3; i++) { nap_ms(20); if (write(v[0], "xy", 2) != 2) _exit(1); }
        _exit(0);
    }
    CHECK(recv(v[1], b, 16, 0) >= 4);
    EXITS(pid, 0);
}

CASE(peek_offset_moves) {
    char b[8];
    make(SOCK_STREAM);
    EQ(get_int(v[1], SO_PEEK_OFF), -1);
    set_int(v[1], SO_PEEK_OFF, 0);
    EQ(write(v[0], "abcd", 4), 4);
    EQ(write(v[0], "efgh", 4), 4);
    EQ(recv(v[1], b, 3, MSG_PEEK), 3);
    CHECK(!memcmp(b, "abc", 3));
    EQ(recv(v[1], b, 3, MSG_PEEK), 3);
    CHECK(!memcmp(b, "def", 3));
    EQ(recv(v[1], b, 2, 0), 2); // the offset goes back by what is read
    EQ(get_int(v[1], SO_PEEK_OFF), 4);
    EQ(recv(v[1], b, 8, MSG_PEEK), 2);
    CHECK(!memcmp(b, "gh", 2));
    EQ(recv(v[1], b, 8, 0), 6);
    make(SOCK_DGRAM);
    set_int(v[1], SO_PEEK_OFF, 2);
    EQ(write(v[0], "abcdef", 6), 6);
    EQ(recv(v[1], b, 2, MSG_PEEK), 2);
    CHECK(!memcmp(b, "cd", 2));
    EQ(recv(v[1], b, 8, 0), 6);
}

CASE(shutdown_and_events) {
    char b[4];
    make(SOCK_STREAM);
    EQ(events(v[0]), POLLOUT);
    OK(shutdown(v[0], SHUT_WR));
    EQ(events(v[1]), POLLIN | POLLOUT | POLLRDHUP);
    EQ(events(v[0]), POLLOUT);
    EQ(read(v[1], b, 4), 0);
    ERR(send(v[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    EQ(write(v[1], "y", 1), 1);
    OK(shutdown(v[1], SHUT_RDWR));
    EQ(events(v[0]), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    EQ(read(v[0], b, 4), 1);
    EQ(read(v[0], b, 4), 0);
    make(SOCK_STREAM);
    OK(close(v[0]));
    EQ(events(v[1]), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    ERR(shutdown(v[1], 5), EINVAL);
}

CASE(close_with_unread_data) {
    char b[4];
    make(SOCK_STREAM);
    EQ(write(v[0], "x", 1), 1);
    OK(close(v[1]));
    EQ(events(v[0]), POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP);
    ERR(read(v[0], b, 4), ECONNRESET);
    EQ(read(v[0], b, 4), 0);
}

// Sends `n` descriptors with a byte.
static long send_fds(int s, int *fds, int n) {
    char control[CMSG_SPACE(sizeof(int) * 300)] = {0};
    struct iovec io = {"f", 1};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * n)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){CMSG_LEN(sizeof(int) * n), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), fds, sizeof(int) * n);
    return sendmsg(s, &m, 0);
}
// Receives into room for `n` descriptors; how many came, flags in *flags.
static int take_fds(int s, int *fds, int n, int ask, int *flags) {
    char control[CMSG_SPACE(sizeof(int) * 300)], b[8];
    struct iovec io = {b, 8};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = n ? CMSG_LEN(sizeof(int) * n) : 0};
    CHECK(recvmsg(s, &m, ask) >= 1);
    *flags = m.msg_flags;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (!c) return 0;
    CHECK(c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS);
    int got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(c), got * sizeof(int));
    return got;
}

CASE(descriptors_travel) {
    int p[2], got[4], flags;
    char b[4];
    make(SOCK_STREAM);
    OK(pipe(p));
    EQ(send_fds(v[0], p, 2), 1);
    EQ(take_fds(v[1], got, 2, MSG_CMSG_CLOEXEC, &flags), 2);
    EQ(fcntl(got[0], F_GETFD), FD_CLOEXEC);
    EQ(write(got[1], "x", 1), 1);
    EQ(read(p[0], b, 4), 1);
    EQ(send_fds(v[0], p, 2), 1);
    EQ(take_fds(v[1], got, 1, 0, &flags), 1); // no room for the second
    EQ(flags & MSG_CTRUNC, MSG_CTRUNC);
    EQ(fcntl(got[0], F_GETFD), 0);
    EQ(send_fds(v[0], p, 1), 1);
    EQ(take_fds(v[1], got, 0, 0, &flags), 0);
    EQ(flags & MSG_CTRUNC, MSG_CTRUNC);
    int bad = 999;
    ERR(send_fds(v[0], &bad, 1), EBADF);
    int many[254];
    for (int i = 0; i < 254; i++) many[i] = p[0];
    EQ(send_fds(v[0], many, 253), 1);
    ERR(send_fds(v[0], many, 254), EINVAL);
    // Closing the last descriptor while it travels keeps the file.
    EQ(take_fds(v[1], many, 253, 0, &flags), 253);
    EQ(send_fds(v[0], &p[1], 1), 1);
    OK(close(p[1]));
    EQ(take_fds(v[1], got, 1, 0, &flags), 1);
    EQ(write(got[0], "z", 1), 1);
}

CASE(descriptors_split_a_stream) {
    int got[4], flags;
    char b[16];
    make(SOCK_STREAM);
    EQ(write(v[0], "aa", 2), 2);
    EQ(send_fds(v[0], v, 1), 1);
    EQ(write(v[0], "bb", 2), 2);
    EQ(recv(v[1], b, 1, 0), 1);
    EQ(recv(v[1], b, 16, MSG_PEEK), 2);
    EQ(take_fds(v[1], got, 1, 0, &flags), 1); // up to the end of the bytes that came with it
    EQ(recv(v[1], b, 16, 0), 2);
}

CASE(credentials_by_request) {
    char control[128], b[4];
    make(SOCK_DGRAM);
    set_int(v[1], SO_PASSCRED, 1);
    EQ(write(v[0], "x", 1), 1);
    struct iovec io = {b, 4};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    EQ(recvmsg(v[1], &m, 0), 1);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    CHECK(c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS);
    struct ucred *u = (void *)CMSG_DATA(c);
    EQ(u->pid, getpid());
    EQ(u->uid, getuid());
    struct ucred lie = {getpid(), 12345, getgid()};
    c->cmsg_len = CMSG_LEN(sizeof lie);
    memcpy(CMSG_DATA(c), &lie, sizeof lie);
    m.msg_controllen = CMSG_SPACE(sizeof lie);
    io = (struct iovec){"x", 1};
    IN_CHILD({
        OK(setresuid(1000, 1000, 1000));
        ERR(sendmsg(v[0], &m, 0), EPERM);
    });
    set_int(v[1], SO_PASSCRED, 0);
    EQ(write(v[0], "x", 1), 1);
    io = (struct iovec){b, 4};
    m.msg_controllen = sizeof control;
    EQ(recvmsg(v[1], &m, 0), 1);
    EQ(m.msg_controllen, 0);
}

CASE(peer_credentials) {
    int l = bound(SOCK_STREAM, "l");
    OK(listen(l, 1));
    pid_t pid = OK(fork());
    if (!pid) { int c = sock(SOCK_STREAM); if (dial(c, "l")) _exit(1); char b; _exit(read(c, &b, 1) != 0); }
    int s = OK(accept(l, NULL, NULL));
    struct ucred u;
    socklen_t n = sizeof u;
    OK(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &u, &n));
    EQ(u.pid, pid);
    EQ(u.uid, getuid());
    OK(close(s));
    EXITS(pid, 0);
}

CASE(flow_control) {
    make(SOCK_STREAM);
    OK(fcntl(v[0], F_SETFL, O_NONBLOCK));
    long sent = 0, n;
    while ((n = write(v[0], big, 4096)) > 0) sent += n;
    EQ(errno, EAGAIN);
    CHECK(sent >= 65536);
    EQ(events(v[0]) & POLLOUT, 0);
    long got = 0;
    while (got < sent) got += OK(read(v[1], big, sizeof big));
    EQ(got, sent);
    EQ(events(v[0]) & POLLOUT, POLLOUT);
    set_int(v[0], SO_SNDBUF, 8192);
    sent = 0;
    while ((n = write(v[0], big, 1000)) > 0) sent += n;
    CHECK(sent < 65536);
}

CASE(waits_are_interrupted) {
    char b[4];
    make(SOCK_STREAM);
    INTERRUPTED(recv(v[0], b, 4, 0));
    make(SOCK_DGRAM);
    INTERRUPTED(recvfrom(v[0], b, 4, 0, NULL, NULL));
    struct timeval tv = {0, 30000};
    OK(setsockopt(v[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    ERR(recv(v[0], b, 4, 0), EAGAIN);
}

CASE(urgent_byte) {
    char b[16];
    make(SOCK_STREAM);
    ERR(recv(v[1], b, 1, MSG_OOB), EINVAL);
    EQ(send(v[0], "abX", 3, MSG_OOB), 3);
    EQ(send(v[0], "cd", 2, 0), 2);
    EQ(events(v[1]), POLLIN | POLLOUT | POLLPRI);
    int mark;
    OK(ioctl(v[1], SIOCATMARK, &mark));
    EQ(mark, 0);
    EQ(recv(v[1], b, 16, 0), 2);
    OK(ioctl(v[1], SIOCATMARK, &mark));
    EQ(mark, 1);
    EQ(recv(v[1], b, 16, MSG_OOB), 1);
    EQ(b[0], 'X');
    EQ(recv(v[1], b, 16, 0), 2);
    CHECK(!memcmp(b, "cd", 2));
    make(SOCK_DGRAM);
    ERR(send(v[0], "x", 1, MSG_OOB), EOPNOTSUPP);
    ERR(recv(v[1], b, 1, MSG_OOB), EOPNOTSUPP);
}

CASE(an_urgent_byte_is_signalled) {
    make(SOCK_STREAM);
    handle(SIGURG, 0);
    OK(fcntl(v[1], F_SETOWN, getpid()));
    EQ(send(v[0], "x", 1, 0), 1);
    EQ(hits, 0);
    EQ(send(v[0], "y", 1, MSG_OOB), 1);
    EQ(hits, 1);
    EQ(last_sig, SIGURG);
}

CASE(addresses_on_streams) {
    socklen_t n;
    make(SOCK_STREAM);
    struct sockaddr_un a = at("x", &n);
    ERR(sendto(v[0], "x", 1, 0, SA(a), n), EISCONN);
    ERR(sendto(sock(SOCK_STREAM), "x", 1, 0, SA(a), n), EOPNOTSUPP);
    EQ(write(v[0], "x", 1), 1);
    char b[4];
    n = sizeof a;
    EQ(recvfrom(v[1], b, 4, 0, SA(a), &n), 1);
    EQ(n, 0);
}

CASE(names_of_senders) {
    socklen_t n;
    char b[4];
    struct sockaddr_un a;
    int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
    for (int i = 0; i < 2; i++) { // of a connection too
        int l = bound(types[i], i ? "@q" : "@s"), c = sock(types[i]);
        OK(listen(l, 1));
        OK(dial(c, i ? "@q" : "@s"));
        int s = OK(accept(l, NULL, NULL));
        EQ(send(s, "xy", 2, 0), 2);
        close(s);
        n = sizeof a;
        EQ(recvfrom(c, b, i ? 4 : 1, 0, SA(a), &n), i ? 2 : 1);
        EQ(n, 4);
        EQ(a.sun_path[1], i ? 'q' : 's');
        struct iovec io = {b, 4};
        struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &io, .msg_iovlen = 1};
        EQ(recvmsg(c, &m, 0), i ? 0 : 1);
        EQ(m.msg_namelen, i ? 0 : 4);
    }
    make(SOCK_DGRAM); // without a name no address, not even its family
    EQ(send(v[0], "x", 1, 0), 1);
    n = sizeof a;
    a.sun_family = 77;
    EQ(recvfrom(v[1], b, 4, 0, SA(a), &n), 1);
    EQ(n, 0);
    EQ(a.sun_family, 77);
}

CASE(proc_net_unix) {
    bound(SOCK_STREAM, "named");
    bound(SOCK_DGRAM, "@nacre-listed");
    char *text = slurp("/proc/net/unix");
    CHECK(strstr(text, "Num       RefCount Protocol Flags    Type St Inode Path"));
    CHECK(strstr(text, "@nacre-listed"));
    CHECK(strstr(text, " named\n"));
}
