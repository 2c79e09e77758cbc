// Unix sockets, the finer rules: names, boundaries, peeking, credentials, queue sizes, backlog.
#include "abi.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

static socklen_t abstract(struct sockaddr_un *a, const char *name) {
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(a->sun_path + 1, sizeof a->sun_path - 1, "%s.%d", name, getpid());
    return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(a->sun_path + 1);
}
static struct sockaddr_un named(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    return a;
}
#define SA(a) ((struct sockaddr *)&(a))
static char buf[1 << 18];

CASE(binding) {
    int s = OK(socket(AF_UNIX, SOCK_STREAM, 0)), t = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un a = named("sock"), got;
    socklen_t n = sizeof got;
    OK(getsockname(s, SA(got), &n));
    EQ(n, 2);
    OK(bind(s, SA(a), sizeof a));
    n = sizeof got;
    OK(getsockname(s, SA(got), &n));
    EQ(n, 2 + 5);
    CHECK(!strcmp(got.sun_path, "sock"));
    ERR(bind(t, SA(a), sizeof a), EADDRINUSE);
    a = named("other");
    ERR(bind(s, SA(a), sizeof a), EINVAL);
    a = named("sock");
    struct stat st;
    OK(stat("sock", &st));
    CHECK(S_ISSOCK(st.st_mode));
    a = named("no/sock");
    ERR(bind(t, SA(a), sizeof a), ENOENT);
    a.sun_family = AF_INET;
    ERR(bind(t, SA(a), sizeof a), EINVAL);
    a.sun_family = AF_UNIX;
    ERR(bind(t, SA(a), 200), EINVAL);
    ERR(bind(t, BAD, sizeof a), EFAULT);
    ERR(connect(t, SA(a), sizeof a), ENOENT);
    a = named("sock");
    ERR(connect(t, SA(a), sizeof a), ECONNREFUSED); // nobody listens
    OK(unlink("sock"));
    ERR(connect(t, SA(a), sizeof a), ENOENT);
    close(file_with("plain", ""));
    a = named("plain");
    ERR(connect(t, SA(a), sizeof a), ECONNREFUSED);
    ERR(bind(t, SA(a), sizeof a), EADDRINUSE);
}

CASE(autobind) {
    int s = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    OK(bind(s, SA(a), 2));
    socklen_t n = sizeof a;
    OK(getsockname(s, SA(a), &n));
    EQ(n, 2 + 6);
    EQ(a.sun_path[0], 0);
    for (int i = 1; i < 6; i++) CHECK(strchr("0123456789abcdef", a.sun_path[i]));
}

CASE(abstract_names) {
    int s = OK(socket(AF_UNIX, SOCK_STREAM, 0)), c = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un a;
    socklen_t n = abstract(&a, "x");
    OK(bind(s, SA(a), n));
    OK(listen(s, 1));
    ERR(bind(c, SA(a), n), EADDRINUSE);
    ERR(connect(c, SA(a), n - 1), ECONNREFUSED); // another name
    OK(connect(c, SA(a), n));
    close(s);
    int again = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    OK(bind(again, SA(a), n)); // gone with its socket
}

CASE(connecting) {
    int s = OK(socket(AF_UNIX, SOCK_STREAM, 0)), c = OK(socket(AF_UNIX, SOCK_STREAM, 0)), d = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un a;
    socklen_t n = abstract(&a, "y");
    ERR(listen(s, 1), EINVAL); // no name
    OK(bind(s, SA(a), n));
    ERR(accept(s, NULL, NULL), EINVAL); // not listening
    OK(listen(s, 1));
    OK(connect(c, SA(a), n));
    ERR(connect(c, SA(a), n), EISCONN);
    ERR(listen(d, 1), EOPNOTSUPP);
    ERR(accept(d, NULL, NULL), EOPNOTSUPP);
    struct sockaddr_un peer;
    socklen_t m = sizeof peer;
    int t = OK(accept(s, SA(peer), &m));
    EQ(m, 2); // the client has no name
    m = sizeof peer;
    OK(getpeername(c, SA(peer), &m));
    EQ(m, n);
    int lone = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ERR(getpeername(lone, SA(peer), &m), ENOTCONN);
    ERR(send(lone, "x", 1, 0), ENOTCONN);
    ERR(recv(lone, buf, 1, 0), EINVAL);
    ERR(shutdown(t, 9), EINVAL);
    OK(shutdown(t, SHUT_WR));
    EQ(recv(c, buf, 1, 0), 0);
    signal(SIGPIPE, SIG_IGN);
    ERR(send(t, "x", 1, 0), EPIPE);
    EQ(send(c, "x", 1, 0), 1);
    EQ(recv(t, buf, 2, 0), 1);
}

CASE(backlog_is_kept) {
    int s = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un a;
    socklen_t n = abstract(&a, "z");
    OK(bind(s, SA(a), n));
    OK(listen(s, 2));
    int made = 0, fd = 0;
    for (;;) {
        fd = OK(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
        if (connect(fd, SA(a), n) < 0) break;
        made++;
    }
    EQ(errno, EAGAIN);
    EQ(made, 3);
    OK(accept(s, NULL, NULL));
    OK(connect(fd, SA(a), n));
}

CASE(datagrams) {
    int r = OK(socket(AF_UNIX, SOCK_DGRAM, 0)), s = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un a, b, from;
    socklen_t n = abstract(&a, "r"), m = abstract(&b, "s"), k = sizeof from;
    OK(bind(r, SA(a), n));
    ERR(send(s, "x", 1, 0), ENOTCONN);
    EQ(sendto(s, "hello", 5, 0, SA(a), n), 5);
    EQ(sendto(s, "", 0, 0, SA(a), n), 0);
    EQ(recvfrom(r, buf, 3, MSG_TRUNC, SA(from), &k), 5); // cut, the true length told
    EQ(recv(r, buf, 10, 0), 0);
    OK(bind(s, SA(b), m));
    EQ(sendto(s, "named", 5, 0, SA(a), n), 5);
    k = sizeof from;
    EQ(recvfrom(r, buf, 10, 0, SA(from), &k), 5);
    EQ(k, m);
    OK(connect(s, SA(a), n));
    EQ(send(s, "c", 1, 0), 1);
    EQ(recv(r, buf, 1, 0), 1);
    int other = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    OK(connect(r, SA(b), m));
    ERR(sendto(other, "x", 1, 0, SA(a), n), EPERM); // r hears only s
    struct sockaddr un = {.sa_family = AF_UNSPEC};
    OK(connect(r, &un, sizeof un));
    EQ(sendto(other, "x", 1, 0, SA(a), n), 1);
    close(r);
    ERR(send(s, "x", 1, 0), ECONNREFUSED);
    static char big[1 << 20];
    r = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    OK(bind(r, SA(a), n));
    ERR(sendto(s, big, sizeof big, 0, SA(a), n), EMSGSIZE);
}

CASE(connect_to_itself) {
    int s = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un a;
    socklen_t n = abstract(&a, "me");
    OK(bind(s, SA(a), n));
    OK(connect(s, SA(a), n));
    EQ(send(s, "me", 2, 0), 2);
    EQ(recv(s, buf, 9, 0), 2);
}

CASE(seqpacket_boundaries) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
    EQ(send(s[0], "one", 3, 0), 3);
    EQ(send(s[0], "two!", 4, 0), 4);
    struct iovec v = {buf, 2};
    struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};
    EQ(recvmsg(s[1], &h, 0), 2);
    CHECK(h.msg_flags & MSG_TRUNC);
    EQ(recv(s[1], buf, 100, MSG_PEEK), 4);
    EQ(recv(s[1], buf, 100, 0), 4);
    close(s[0]);
    EQ(recv(s[1], buf, 1, 0), 0);
    struct pollfd p = {s[1], POLLIN | POLLRDHUP, 0};
    EQ(poll(&p, 1, 0), 1);
    CHECK(p.revents & POLLHUP && p.revents & POLLRDHUP);
}

CASE(peeking) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    EQ(send(s[0], "abc", 3, 0), 3);
    EQ(send(s[0], "def", 3, 0), 3);
    EQ(recv(s[1], buf, 2, MSG_PEEK), 2);
    EQ(recv(s[1], buf, 100, MSG_PEEK), 6);
    int off = 2;
    if (setsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off) == 0) {
        EQ(recv(s[1], buf, 2, MSG_PEEK), 2);
        CHECK(!memcmp(buf, "cd", 2));
        EQ(recv(s[1], buf, 2, MSG_PEEK), 2);
        CHECK(!memcmp(buf, "ef", 2));
        off = -1;
        OK(setsockopt(s[1], SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off));
    }
    EQ(recv(s[1], buf, 100, 0), 6);
    ERR(recv(s[1], buf, 1, MSG_DONTWAIT), EAGAIN);
}

CASE(queues_are_counted) {
    int s[2], n;
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    EQ(send(s[0], "abcd", 4, 0), 4);
    OK(ioctl(s[1], FIONREAD, &n));
    EQ(n, 4);
    OK(ioctl(s[0], TIOCOUTQ, &n));
    CHECK(n > 0);
    EQ(recv(s[1], buf, 10, 0), 4);
    OK(ioctl(s[0], TIOCOUTQ, &n));
    EQ(n, 0);
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    EQ(send(s[0], "abc", 3, 0), 3);
    EQ(send(s[0], "de", 2, 0), 2);
    OK(ioctl(s[1], FIONREAD, &n));
    EQ(n, 3); // of the first
}

CASE(credentials) {
    int s[2], on = 1;
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    struct ucred c;
    socklen_t n = sizeof c;
    OK(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &c, &n));
    EQ(c.pid, getpid());
    OK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    EQ(send(s[0], "x", 1, 0), 1);
    char control[CMSG_SPACE(sizeof c)];
    struct iovec v = {buf, 10};
    struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    EQ(recvmsg(s[1], &h, 0), 1);
    struct cmsghdr *m = CMSG_FIRSTHDR(&h);
    CHECK(m && m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_CREDENTIALS);
    memcpy(&c, CMSG_DATA(m), sizeof c);
    EQ(c.pid, getpid());
    EQ(c.uid, getuid());
    // Root may say it is somebody else; others may not.
    h = (struct msghdr){.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    m = CMSG_FIRSTHDR(&h);
    *m = (struct cmsghdr){CMSG_LEN(sizeof c), SOL_SOCKET, SCM_CREDENTIALS};
    c = (struct ucred){getpid(), 1234, 5678};
    memcpy(CMSG_DATA(m), &c, sizeof c);
    v.iov_len = 1;
    EQ(sendmsg(s[0], &h, 0), 1);
    IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); ERR(sendmsg(s[0], &h, 0), EPERM));
    h.msg_controllen = sizeof control;
    EQ(recvmsg(s[1], &h, 0), 1);
    memcpy(&c, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof c);
    EQ(c.uid, 1234);
    EQ(c.gid, 5678);
    gid_t groups[64];
    n = sizeof groups;
    if (getsockopt(s[0], SOL_SOCKET, SO_PEERGROUPS, groups, &n) < 0) CHECK(errno == ENODATA || errno == ENOPROTOOPT);
}
