// sockpairs: what two connected sockets do, whatever they are: TCP and UDP of both families (and TCP across them), and unix sockets of each type.
// Each rule is a case for each kind that has it.
#include "inet.h"
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/un.h>

enum kind { TCP4, TCP6, TCPMAPPED, UNIX, UDP4, UDP6, UNIXDGRAM, UNIXSEQ };
static enum kind K;
static int A, B;
static char buf[1 << 17];

static int is_stream(void) { return K <= UNIX; }
static int is_unix(void) { return K == UNIX || K == UNIXDGRAM || K == UNIXSEQ; }
static int is_udp(void) { return K == UDP4 || K == UDP6; }

// A socket of the kind, bound to loopback; *len is its address's length.
static int bound_one(struct sockaddr_storage *at, socklen_t *len) {
    int four = K == TCP4 || K == UDP4, fd;
    if (four) {
        in4 a = v4("127.0.0.1", 0);
        memcpy(at, &a, *len = sizeof a);
    } else {
        in6 a = v6(K == TCPMAPPED ? "::" : "::1", 0);
        memcpy(at, &a, *len = sizeof a);
    }
    fd = OK(socket(four ? AF_INET : AF_INET6, is_stream() ? SOCK_STREAM : SOCK_DGRAM, 0));
    OK(bind(fd, (void *)at, *len));
    OK(getsockname(fd, (void *)at, len));
    return fd;
}
static void make(void) {
    if (is_unix()) {
        int p[2];
        OK(socketpair(AF_UNIX, K == UNIX ? SOCK_STREAM : K == UNIXDGRAM ? SOCK_DGRAM : SOCK_SEQPACKET, 0, p));
        A = p[0], B = p[1];
        return;
    }
    struct sockaddr_storage at, other;
    socklen_t len, n;
    B = bound_one(&at, &len);
    if (is_stream()) {
        OK(listen(B, 5));
        if (K == TCPMAPPED) {
            in4 to = v4("127.0.0.1", ntohs(((in6 *)&at)->sin6_port));
            A = OK(socket(AF_INET, SOCK_STREAM, 0));
            OK(connect(A, SA(to), sizeof to));
        } else {
            A = OK(socket(at.ss_family, SOCK_STREAM, 0));
            OK(connect(A, SA(at), len));
        }
        int l = B;
        B = OK(accept(l, NULL, NULL));
        OK(close(l));
    } else {
        A = bound_one(&other, &n);
        OK(connect(A, SA(at), len));
        OK(connect(B, SA(other), n));
    }
}

#define ON(k, rule) CASE(k##_##rule) { K = k; make(); rule(); }
#define STREAMS(rule) ON(TCP4, rule) ON(TCP6, rule) ON(TCPMAPPED, rule) ON(UNIX, rule)
#define PACKETS(rule) ON(UDP4, rule) ON(UDP6, rule) ON(UNIXDGRAM, rule) ON(UNIXSEQ, rule)
#define ALL(rule) STREAMS(rule) PACKETS(rule)
#define CONNECTED(rule) STREAMS(rule) ON(UNIXSEQ, rule)

static void arrives(int fd) { EQ(events_within(fd, POLLIN, 5000) & POLLIN, POLLIN); }

static void gather_and_scatter(void) {
    struct iovec out[] = {{"one", 3}, {NULL, 0}, {"three", 5}}, in[] = {{buf, 2}, {buf + 2, 4}, {buf + 6, 100}};
    EQ(writev(A, out, 3), 8);
    arrives(B);
    EQ(readv(B, in, 3), 8);
    CHECK(!memcmp(buf, "onethree", 8));
}
ALL(gather_and_scatter)

static void nothing_there(void) {
    ERR(recv(B, buf, 10, MSG_DONTWAIT), EAGAIN);
    OK(fcntl(B, F_SETFL, O_NONBLOCK));
    ERR(read(B, buf, 10), EAGAIN);
    ERR(recv(B, buf, 10, MSG_PEEK), EAGAIN);
    OK(ioctl(B, FIONBIO, &(int){0}));
    EQ(fcntl(B, F_GETFL) & O_NONBLOCK, 0);
}
ALL(nothing_there)

static void readiness(void) {
    EQ(events(A, ALL_EVENTS), POLLOUT);
    EQ(events(B, ALL_EVENTS), POLLOUT);
    EQ(send(A, "x", 1, 0), 1);
    arrives(B);
    EQ(events(B, ALL_EVENTS), POLLIN | POLLOUT);
    EQ(events(A, ALL_EVENTS), POLLOUT);
    EQ(recv(B, buf, 10, 0), 1);
    EQ(events(B, ALL_EVENTS), POLLOUT);
}
ALL(readiness)

static void edges(void) {
    int e = OK(epoll_create1(0));
    struct epoll_event in = {EPOLLIN | EPOLLET, {.u32 = 7}}, out;
    OK(epoll_ctl(e, EPOLL_CTL_ADD, B, &in));
    EQ(epoll_wait(e, &out, 1, 0), 0);
    for (int i = 0; i < 3; i++) { // each arrival is an edge, though nothing was read
        EQ(send(A, "x", 1, 0), 1);
        EQ(epoll_wait(e, &out, 1, 5000), 1);
        EQ(out.data.u32, 7);
        EQ(out.events, EPOLLIN);
        EQ(epoll_wait(e, &out, 1, 0), 0);
    }
}
ALL(edges)

static void one_shot(void) {
    int e = OK(epoll_create1(0));
    struct epoll_event in = {EPOLLIN | EPOLLONESHOT, {.u32 = 7}}, out;
    OK(epoll_ctl(e, EPOLL_CTL_ADD, B, &in));
    EQ(send(A, "x", 1, 0), 1);
    EQ(epoll_wait(e, &out, 1, 5000), 1);
    EQ(send(A, "x", 1, 0), 1);
    EQ(epoll_wait(e, &out, 1, 0), 0);
    OK(epoll_ctl(e, EPOLL_CTL_MOD, B, &in)); // armed again: it is still so
    EQ(epoll_wait(e, &out, 1, 5000), 1);
}
ALL(one_shot)

static void by_select(void) {
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(B, &r);
    FD_SET(A, &w);
    struct timeval t = {5, 0};
    EQ(send(A, "x", 1, 0), 1);
    arrives(B);
    EQ(select((A > B ? A : B) + 1, &r, &w, NULL, &t), 2);
    CHECK(FD_ISSET(B, &r) && FD_ISSET(A, &w));
}
ALL(by_select)

static void peek(void) {
    EQ(send(A, "hello", 5, 0), 5);
    arrives(B);
    EQ(recv(B, buf, 3, MSG_PEEK), 3);
    EQ(recv(B, buf, 10, MSG_PEEK), 5);
    EQ(recv(B, buf, 10, 0), 5);
    CHECK(!memcmp(buf, "hello", 5));
    ERR(recv(B, buf, 10, MSG_DONTWAIT), EAGAIN);
}
ALL(peek)

static void message_fields(void) {
    char control[64];
    struct sockaddr_storage from;
    struct iovec v = {buf, 100};
    struct msghdr m = {&from, sizeof from, &v, 1, control, sizeof control, 0x7777};
    EQ(send(A, "hello", 5, 0), 5);
    arrives(B);
    EQ(recvmsg(B, &m, 0), 5);
    EQ(m.msg_controllen, 0);
    EQ(m.msg_flags, 0);
    // Only a datagram has a sender; an unbound unix one has no name.
    EQ(m.msg_namelen, K == UDP4 ? sizeof(in4) : K == UDP6 ? sizeof(in6) : 0);
}
ALL(message_fields)

static void duplicates(void) {
    int d = OK(dup(B));
    OK(close(B));
    EQ(send(A, "x", 1, 0), 1);
    arrives(d);
    EQ(recv(d, buf, 10, 0), 1);
    OK(fcntl(d, F_SETFL, O_NONBLOCK)); // shared by all
    int e = OK(fcntl(d, F_DUPFD_CLOEXEC, 100));
    EQ(fcntl(e, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    EQ(fcntl(e, F_GETFD), FD_CLOEXEC);
}
ALL(duplicates)

static void across_fork(void) {
    pid_t pid = OK(fork());
    if (!pid) {
        close(B);
        _exit(send(A, "child", 5, 0) != 5);
    }
    EQ(recv(B, buf, 10, 0), 5);
    EXITS(pid, 0);
    EQ(send(A, "parent", 6, 0), 6); // the child's end was not the last
    EQ(recv(B, buf, 10, 0), 6);
}
ALL(across_fork)

static void passed_on(void) {
    int p[2], got;
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 'x';
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &B, sizeof B);
    EQ(sendmsg(p[0], &m, 0), 1);
    OK(close(B));
    EQ(send(A, "while it is on its way", 22, 0), 22);
    EQ(recvmsg(p[1], &m, MSG_CMSG_CLOEXEC), 1);
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof got);
    EQ(fcntl(got, F_GETFD), FD_CLOEXEC);
    EQ(recv(got, buf, 100, 0), 22);
}
ALL(passed_on)

static void bytes_waiting(void) {
    int n = -1;
    OK(ioctl(B, FIONREAD, &n));
    EQ(n, 0);
    EQ(send(A, "abc", 3, 0), 3);
    EQ(send(A, "defg", 4, 0), 4);
    arrives(B);
    OK(ioctl(B, FIONREAD, &n));
    EQ(n, is_stream() || K == UNIXSEQ ? 7 : 3);
    ERR(ioctl(B, FIONREAD, BAD), EFAULT);
}
ALL(bytes_waiting)

static void timeouts(void) {
    struct timeval t = {0, 20000}, got;
    socklen_t n = sizeof got;
    OK(setsockopt(B, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    ERR(recv(B, buf, 10, 0), EAGAIN);
    ERR(read(B, buf, 10), EAGAIN);
    OK(getsockopt(B, SOL_SOCKET, SO_RCVTIMEO, &got, &n));
    EQ(got.tv_sec, 0);
    CHECK(got.tv_usec >= 20000);
}
ALL(timeouts)

static void interrupted(void) { INTERRUPTED(recv(B, buf, 10, 0)); }
ALL(interrupted)

static void *send_late(void *p) {
    nap_ms(30);
    return (void *)send(A, p, 4, 0);
}
static void waiting_thread(void) {
    pthread_t t;
    void *sent;
    EQ(pthread_create(&t, NULL, send_late, "late"), 0);
    EQ(recv(B, buf, 10, 0), 4);
    EQ(pthread_join(t, &sent), 0);
    EQ((long)sent, 4);
}
ALL(waiting_thread)

static void bad_memory(void) {
    ERR(send(A, BAD, 10, 0), EFAULT);
    EQ(send(A, "abc", 3, 0), 3);
    arrives(B);
    ERR(recv(B, BAD, 10, 0), EFAULT);
    ERR(recvmsg(B, BAD, MSG_DONTWAIT), EFAULT);
    ERR(sendmsg(A, BAD, 0), EFAULT);
}
ALL(bad_memory)

static void many_at_once(void) {
    struct iovec v[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}}, w[3] = {{buf, 10}, {buf + 10, 10}, {buf + 20, 10}};
    struct mmsghdr m[3] = {0}, r[3] = {0};
    for (int i = 0; i < 3; i++) {
        m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
        r[i].msg_hdr = (struct msghdr){.msg_iov = &w[i], .msg_iovlen = 1};
    }
    EQ(sendmmsg(A, m, 3, 0), 3);
    EQ(m[2].msg_len, 3);
    arrives(B);
    if (is_stream()) {
        EQ(recvmmsg(B, r, 3, MSG_DONTWAIT, NULL), 1);
        EQ(r[0].msg_len, 6);
        return;
    }
    EQ(recvmmsg(B, r, 3, MSG_DONTWAIT, NULL), 3);
    for (int i = 0; i < 3; i++) EQ(r[i].msg_len, i + 1);
    CHECK(!memcmp(buf + 20, "ccc", 3));
}
ALL(many_at_once)

static void by_pipe(void) {
    int p[2];
    OK(pipe(p));
    EQ(write(p[1], "spliced", 7), 7);
    EQ(splice(p[0], NULL, A, NULL, 7, 0), 7);
    arrives(B);
    EQ(recv(B, buf, 100, 0), 7);
    CHECK(!memcmp(buf, "spliced", 7));
}
ALL(by_pipe)

static void from_a_file(void) {
    int f = OK(memfd_create("x", 0));
    off_t at = 2;
    EQ(write(f, "0123456789", 10), 10);
    EQ(sendfile(A, f, &at, 5), 5);
    EQ(at, 7);
    arrives(B);
    EQ(recv(B, buf, 100, 0), 5);
    CHECK(!memcmp(buf, "23456", 5));
}
ALL(from_a_file)

static void shut_for_writing(void) {
    OK(shutdown(A, SHUT_WR));
    ERR(send(A, "x", 1, MSG_NOSIGNAL), EPIPE);
    EQ(events(A, POLLOUT) & POLLOUT, POLLOUT);
    OK(shutdown(A, SHUT_WR)); // again is fine
    EQ(send(B, "back", 4, 0), 4);
    arrives(A);
    EQ(recv(A, buf, 10, 0), 4);
}
ALL(shut_for_writing)

static void shut_for_reading(void) {
    OK(shutdown(B, SHUT_RD));
    EQ(recv(B, buf, 10, 0), 0);
    EQ(events(B, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    EQ(recv(B, buf, 10, 0), 0);
}
ALL(shut_for_reading)

static void no_such_shutdown(void) {
    ERR(shutdown(A, 3), EINVAL);
    ERR(shutdown(A, -1), EINVAL);
    ERR(shutdown(-1, SHUT_RD), EBADF);
    ERR(shutdown(0x7ffff, SHUT_RD), EBADF);
}
ALL(no_such_shutdown)

static void as_a_file(void) {
    struct stat st;
    struct statfs_ { long x[15]; } fs;
    char path[64], link[64], want[64];
    OK(fstat(A, &st));
    CHECK(S_ISSOCK(st.st_mode));
    EQ(st.st_size, 0);
    EQ(st.st_nlink, 1);
    EQ(st.st_uid, geteuid());
    OK(syscall(SYS_fstatfs, A, &fs));
    EQ(fs.x[0], 0x534f434b); // SOCKFS_MAGIC
    snprintf(path, sizeof path, "/proc/self/fd/%d", A);
    int n = OK(readlink(path, link, sizeof link - 1));
    link[n] = 0;
    snprintf(want, sizeof want, "socket:[%lu]", (unsigned long)st.st_ino);
    CHECK(!strcmp(link, want));
    ERR(open(path, O_RDWR), ENXIO);
}
ALL(as_a_file)

static void not_what_files_do(void) {
    ERR(lseek(A, 0, SEEK_CUR), ESPIPE);
    ERR(pread(A, buf, 1, 0), ESPIPE);
    ERR(pwrite(A, buf, 1, 0), ESPIPE);
    ERR(ftruncate(A, 0), EINVAL);
    ERR(fsync(A), EINVAL);
    ERR(fallocate(A, 0, 0, 10), ENODEV);
    if (K > TCPMAPPED) { // TCP has a use for it
        CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, A, 0) == MAP_FAILED);
        EQ(errno, ENODEV);
    }
    ERR(syscall(SYS_getdents64, A, buf, 1000), ENOTDIR);
    ERR(ioctl(A, 0x5401, buf), ENOTTY);
}
ALL(not_what_files_do)

static void names_fit_each_other(void) {
    struct sockaddr_storage a = {0}, b = {0};
    socklen_t n = sizeof a, m = sizeof b;
    OK(getsockname(A, SA(a), &n));
    OK(getpeername(B, SA(b), &m));
    if (K == TCPMAPPED) {
        EQ(((in4 *)&a)->sin_port, ((in6 *)&b)->sin6_port);
        CHECK(IN6_IS_ADDR_V4MAPPED(&((in6 *)&b)->sin6_addr));
    } else {
        EQ(n, m);
        CHECK(!memcmp(&a, &b, n));
    }
    socklen_t little = 2;
    OK(getsockname(A, SA(b), &little)); // cut, and told how long it is
    EQ(little, n);
    little = -1;
    ERR(getsockname(A, SA(b), &little), EINVAL);
    ERR(getsockname(A, SA(b), BAD), EFAULT);
}
ALL(names_fit_each_other)

static void options_of_both_ends(void) {
    EQ(get_int(A, SOL_SOCKET, SO_TYPE), is_stream() ? SOCK_STREAM : K == UNIXSEQ ? SOCK_SEQPACKET : SOCK_DGRAM);
    EQ(get_int(B, SOL_SOCKET, SO_DOMAIN), is_unix() ? AF_UNIX : K == TCP4 || K == UDP4 ? AF_INET : AF_INET6);
    EQ(get_int(A, SOL_SOCKET, SO_PROTOCOL), is_unix() ? 0 : is_udp() ? IPPROTO_UDP : IPPROTO_TCP);
    EQ(get_int(A, SOL_SOCKET, SO_ACCEPTCONN), 0);
    EQ(get_int(A, SOL_SOCKET, SO_ERROR), 0);
    ERR(setsockopt(A, SOL_SOCKET, SO_ERROR, &(int){1}, 4), ENOPROTOOPT);
    ERR(setsockopt(A, SOL_SOCKET, SO_TYPE, &(int){1}, 4), ENOPROTOOPT);
}
ALL(options_of_both_ends)

static void when_the_other_end_closes(void) {
    OK(close(A));
    if (is_udp()) {
        ERR(recv(B, buf, 10, MSG_DONTWAIT), EAGAIN);
        EQ(send(B, "x", 1, 0), 1);
        ERR(recv(B, buf, 10, 0), ECONNREFUSED); // told by ICMP
    } else if (K == UNIXDGRAM) {
        ERR(send(B, "x", 1, 0), ECONNREFUSED);
    } else {
        EQ(recv(B, buf, 10, 0), 0);
        EQ(events(B, POLLIN | POLLRDHUP) & (POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    }
}
ALL(when_the_other_end_closes)

static void what_was_sent_outlives_the_sender(void) {
    EQ(send(A, "legacy", 6, 0), 6);
    OK(close(A));
    EQ(recv(B, buf, 10, 0), 6);
}
ALL(what_was_sent_outlives_the_sender)

// Streams.

static void bytes_without_borders(void) {
    EQ(send(A, "abc", 3, 0), 3);
    EQ(send(A, "def", 3, 0), 3);
    EQ(recv(B, buf, 4, MSG_WAITALL), 4);
    EQ(recv(B, buf + 4, 10, 0), 2);
    CHECK(!memcmp(buf, "abcdef", 6));
}
STREAMS(bytes_without_borders)

static void *pour(void *total) {
    char block[10000];
    for (long i = 0; i < (long)total;) {
        for (int k = 0; k < 10000; k++) block[k] = (i + k) * 31 >> 3;
        long n = send(A, block, 10000 < (long)total - i ? 10000 : (long)total - i, 0);
        if (n <= 0) return (void *)1;
        i += n;
    }
    return (void *)(long)(shutdown(A, SHUT_WR) < 0);
}
static void much_through_little(void) {
    pthread_t t;
    void *failed;
    long total = 1000001, at = 0, n;
    set_int(B, SOL_SOCKET, SO_RCVBUF, 30000);
    set_int(A, SOL_SOCKET, SO_SNDBUF, 30000);
    EQ(pthread_create(&t, NULL, pour, (void *)total), 0);
    while ((n = OK(recv(B, buf, 7777, 0))) > 0)
        for (long i = 0; i < n; i++, at++)
            if (buf[i] != (char)(at * 31 >> 3)) FAILED("byte %ld is wrong", at);
    EQ(at, total);
    EQ(pthread_join(t, &failed), 0);
    CHECK(!failed);
}
STREAMS(much_through_little)

static void full_and_free_again(void) {
    long sent = 0, n;
    OK(fcntl(A, F_SETFL, O_NONBLOCK));
    for (int idle = 0; idle < 3;) { // until nothing goes for a while
        n = send(A, buf, 20000, 0);
        if (n > 0) sent += n, idle = 0;
        else {
            EQ(errno, EAGAIN);
            idle++;
            nap_ms(10);
        }
    }
    EQ(events(A, POLLOUT), 0);
    while (sent > 0) sent -= OK(recv(B, buf, sizeof buf, 0));
    EQ(sent, 0);
    EQ(events_within(A, POLLOUT, 5000), POLLOUT);
}
CONNECTED(full_and_free_again)

static void sigpipe(void) {
    handle(SIGPIPE, 0);
    OK(shutdown(A, SHUT_WR));
    ERR(write(A, "x", 1), EPIPE);
    EQ(hits, 1);
    ERR(send(A, "x", 1, MSG_NOSIGNAL), EPIPE);
    EQ(hits, 1);
    ERR(send(A, "x", 1, 0), EPIPE);
    EQ(hits, 2);
}
STREAMS(sigpipe)

static void end_of_the_stream(void) {
    EQ(send(A, "last", 4, 0), 4);
    OK(shutdown(A, SHUT_WR));
    EQ(events_within(B, POLLRDHUP, 5000), POLLRDHUP);
    EQ(events(B, ALL_EVENTS), POLLIN | POLLOUT | POLLRDHUP);
    EQ(recv(B, buf, 100, MSG_WAITALL), 4);
    EQ(recv(B, buf, 100, 0), 0);
    EQ(recv(B, buf, 100, MSG_PEEK), 0);
    EQ(send(B, "still open", 10, 0), 10);
    EQ(recv(A, buf, 100, 0), 10);
    OK(shutdown(B, SHUT_WR));
    EQ(events_within(A, POLLHUP, 5000) & POLLHUP, POLLHUP);
    EQ(recv(A, buf, 100, 0), 0);
}
CONNECTED(end_of_the_stream)

static void connected_once(void) {
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    OK(getpeername(A, SA(a), &n));
    if (is_unix()) {
        a.ss_family = AF_UNIX, n = 3;
        ERR(listen(A, 1), EINVAL);
    } else {
        ERR(connect(A, SA(a), n), EISCONN);
        ERR(listen(A, 1), EINVAL);
        ERR(bind(A, SA(a), n), EINVAL);
    }
    ERR(accept(A, NULL, NULL), EINVAL);
}
CONNECTED(connected_once)

static void nothing_read_nothing_lost(void) {
    EQ(send(A, "abc", 3, 0), 3);
    arrives(B);
    EQ(recv(B, buf, 0, 0), 0);
    EQ(read(B, buf, 0), 0);
    EQ(send(A, "", 0, 0), 0);
    EQ(recv(B, buf, 10, 0), 3);
    ERR(recv(B, buf, 10, MSG_DONTWAIT), EAGAIN);
}
STREAMS(nothing_read_nothing_lost)

static void low_water(void) {
    set_int(B, SOL_SOCKET, SO_RCVLOWAT, 4);
    EQ(get_int(B, SOL_SOCKET, SO_RCVLOWAT), 4);
    if (K != UNIX) { // poll of unix sockets does not look at it
        EQ(send(A, "abc", 3, 0), 3);
        nap_ms(20);
        EQ(events(B, POLLIN), 0);
        EQ(send(A, "d", 1, 0), 1);
        EQ(events_within(B, POLLIN, 5000), POLLIN);
    } else {
        EQ(send(A, "abcd", 4, 0), 4);
    }
    EQ(recv(B, buf, 10, 0), 4);
}
STREAMS(low_water)

// Packets.

static void borders_stay(void) {
    EQ(send(A, "abc", 3, 0), 3);
    EQ(send(A, "de", 2, 0), 2);
    arrives(B);
    EQ(recv(B, buf, 100, 0), 3);
    EQ(recv(B, buf, 100, 0), 2);
}
PACKETS(borders_stay)

static void cut_packets(void) {
    struct iovec v = {buf, 2};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    EQ(send(A, "abcdef", 6, 0), 6);
    EQ(send(A, "next", 4, 0), 4);
    arrives(B);
    EQ(recv(B, buf, 2, MSG_PEEK | MSG_TRUNC), 6); // how long it is
    EQ(recvmsg(B, &m, 0), 2);
    EQ(m.msg_flags & MSG_TRUNC, MSG_TRUNC);
    EQ(recv(B, buf, 100, MSG_TRUNC), 4); // the rest is gone
}
PACKETS(cut_packets)

static void empty_packets(void) {
    EQ(send(A, "", 0, 0), 0);
    EQ(send(A, "x", 1, 0), 1);
    arrives(B);
    EQ(recv(B, buf, 10, 0), 0);
    EQ(recv(B, buf, 10, 0), 1);
}
PACKETS(empty_packets)

static void too_long(void) {
    if (is_udp()) {
        ERR(send(A, buf, 66000, 0), EMSGSIZE);
    } else {
        static char huge[1 << 20];
        set_int(A, SOL_SOCKET, SO_SNDBUF, 5000);
        ERR(send(A, huge, sizeof huge, 0), EMSGSIZE);
    }
    EQ(send(A, "fits", 4, 0), 4);
    arrives(B);
    EQ(recv(B, buf, 10, 0), 4);
}
PACKETS(too_long)

static void waitall_waits_for_one_packet(void) {
    EQ(send(A, "abc", 3, 0), 3);
    EQ(recv(B, buf, 100, MSG_WAITALL), 3);
}
PACKETS(waitall_waits_for_one_packet)

static void no_urgent_data(void) {
    if (K == UDP6) EQ(send(A, "x", 1, MSG_OOB), 1); // as any other packet
    else ERR(send(A, "x", 1, MSG_OOB), EOPNOTSUPP);
    if (is_unix()) ERR(recv(B, buf, 1, MSG_OOB | MSG_DONTWAIT), EOPNOTSUPP);
}
PACKETS(no_urgent_data)

// A socket of messages that is shut says so, without a signal.
static void writing_after_shutdown(void) {
    handle(SIGPIPE, 0);
    OK(shutdown(A, SHUT_WR));
    ERR(write(A, "x", 1), EPIPE);
    EQ(hits, is_stream() ? 1 : 0);
    ERR(send(A, "x", 1, 0), EPIPE);
    EQ(hits, is_stream() ? 2 : 0);
    ERR(send(A, "x", 1, MSG_NOSIGNAL), EPIPE);
    EQ(hits, is_stream() ? 2 : 0);
}
ALL(writing_after_shutdown)
