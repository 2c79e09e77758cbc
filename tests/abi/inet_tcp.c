// inet_tcp: TCP over the loopback interface, from bind to reset.
#include "inet.h"

static char big[4 << 20];

CASE(stream_basics) {
    char b[16];
    tcp_pair();
    EQ(write(C, "hello", 5), 5);
    EQ(read(S, b, 16), 5);
    CHECK(!memcmp(b, "hello", 5));
    EQ(send(S, "world", 5, 0), 5);
    EQ(recv(C, b, 3, 0), 3);
    EQ(recv(C, b, 16, 0), 2);
    OK(close(C));
    EQ(read(S, b, 16), 0);
    EQ(read(S, b, 16), 0);
}

CASE(socket_arguments) {
    ERR(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
    ERR(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP), EPROTONOSUPPORT);
    ERR(socket(AF_INET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
    ERR(socket(AF_INET, 77, 0), EINVAL);
    ERR(socket(AF_INET, SOCK_STREAM, -1), EINVAL);
    ERR(socket(AF_INET, SOCK_STREAM, 1000), EINVAL);
    ERR(socket(AF_INET, SOCK_RAW, 0), EPROTONOSUPPORT);
    ERR(socket(AF_MAX, SOCK_STREAM, 0), EAFNOSUPPORT);
    ERR(socket(-1, SOCK_STREAM, 0), EAFNOSUPPORT);
    int v[2];
    ERR(socketpair(AF_INET, SOCK_STREAM, 0, v), EOPNOTSUPP);
    int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
    EQ(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_NONBLOCK | O_RDWR);
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    struct stat st;
    OK(fstat(fd, &st));
    CHECK(S_ISSOCK(st.st_mode));
    ERR(lseek(fd, 0, SEEK_SET), ESPIPE);
}

CASE(names) {
    in4 a, p, q;
    int l = listener(&a, 1);
    CHECK(ntohs(a.sin_port) >= 1024);
    int c = connected_to(a);
    socklen_t n = sizeof p;
    int s = OK(accept(l, SA(p), &n));
    EQ(n, sizeof p);
    q = name4(c);
    EQ(p.sin_port, q.sin_port);
    EQ(p.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    n = sizeof p;
    OK(getpeername(c, SA(p), &n));
    EQ(p.sin_port, a.sin_port);
    EQ(name4(s).sin_port, a.sin_port);
    n = 4; // cut, and the whole length told
    memset(&p, 0xee, sizeof p);
    OK(getsockname(c, SA(p), &n));
    EQ(n, sizeof p);
    EQ(p.sin_addr.s_addr, 0xeeeeeeee);
    n = -1;
    ERR(getsockname(c, SA(p), &n), EINVAL);
    n = sizeof p;
    ERR(getsockname(c, BAD, &n), EFAULT);
    ERR(getsockname(c, SA(p), BAD), EFAULT);
    ERR(getpeername(l, SA(p), &n), ENOTCONN);
    ERR(getpeername(0x7fff, SA(p), &n), EBADF);
    int fd = OK(open("/dev/null", O_RDWR));
    ERR(getpeername(fd, SA(p), &n), ENOTSOCK);
}

CASE(fresh_socket) {
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
    char b[4];
    EQ(events(fd, ALL_EVENTS), POLLOUT | POLLHUP);
    ERR(recv(fd, b, 4, 0), ENOTCONN);
    ERR(send(fd, b, 4, MSG_NOSIGNAL), EPIPE);
    ERR(shutdown(fd, SHUT_RDWR), ENOTCONN);
    in4 a = name4(fd);
    EQ(a.sin_port, 0);
    EQ(a.sin_addr.s_addr, 0);
    socklen_t n = sizeof a;
    ERR(getpeername(fd, SA(a), &n), ENOTCONN);
    ERR(accept(fd, NULL, NULL), EINVAL);
}

CASE(send_on_unconnected_raises_sigpipe) {
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
    handle(SIGPIPE, 0);
    ERR(write(fd, "x", 1), EPIPE);
    EQ(hits, 1);
}

CASE(bind_errors) {
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
    in4 a = v4("127.0.0.1", 0);
    ERR(bind(fd, SA(a), 8), EINVAL);
    ERR(bind(fd, BAD, sizeof a), EFAULT);
    ERR(bind(fd, SA(a), 500), EINVAL);
    a.sin_family = AF_INET6;
    ERR(bind(fd, SA(a), sizeof a), EAFNOSUPPORT);
    a = v4("203.0.113.9", 0);
    ERR(bind(fd, SA(a), sizeof a), EADDRNOTAVAIL);
    a = v4("0.0.0.0", 0);
    a.sin_family = AF_UNSPEC; // as AF_INET, for the wildcard only
    OK(bind(fd, SA(a), sizeof a));
    a = v4("127.0.0.1", 0);
    ERR(bind(fd, SA(a), sizeof a), EINVAL);
    int other = OK(socket(AF_INET, SOCK_STREAM, 0));
    a.sin_family = AF_UNSPEC;
    ERR(bind(other, SA(a), sizeof a), EAFNOSUPPORT);
}

CASE(bind_privileged_port) {
    if (getuid()) return;
    IN_CHILD({
        OK(setresuid(1000, 1000, 1000));
        int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
        in4 a = v4("127.0.0.1", 77);
        ERR(bind(fd, SA(a), sizeof a), EACCES);
        int s = OK(socket(AF_INET6, SOCK_DGRAM, 0));
        in6 b = v6("::1", 77);
        ERR(bind(s, SA(b), sizeof b), EACCES);
    });
}

CASE(bind_conflicts) {
    in4 a, b;
    int fd = bound(SOCK_STREAM, &a), other = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(bind(other, SA(a), sizeof a), EADDRINUSE);
    b = v4("0.0.0.0", ntohs(a.sin_port));
    ERR(bind(other, SA(b), sizeof b), EADDRINUSE);
    b = v4("127.0.0.2", ntohs(a.sin_port));
    OK(bind(other, SA(b), sizeof b));
    OK(close(fd));
    int third = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(bind(third, SA(a), sizeof a));
    int udp = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(bind(udp, SA(a), sizeof a)); // another protocol's ports
}

CASE(reuseaddr_binds_but_listens_once) {
    in4 a = v4("127.0.0.1", 0);
    int x = OK(socket(AF_INET, SOCK_STREAM, 0)), y = OK(socket(AF_INET, SOCK_STREAM, 0));
    set_int(x, SOL_SOCKET, SO_REUSEADDR, 1);
    set_int(y, SOL_SOCKET, SO_REUSEADDR, 1);
    OK(bind(x, SA(a), sizeof a));
    a = name4(x);
    OK(bind(y, SA(a), sizeof a));
    OK(listen(x, 1));
    ERR(listen(y, 1), EADDRINUSE);
    int z = OK(socket(AF_INET, SOCK_STREAM, 0));
    set_int(z, SOL_SOCKET, SO_REUSEADDR, 1);
    ERR(bind(z, SA(a), sizeof a), EADDRINUSE);
    OK(close(x));
    OK(listen(y, 1));
}

CASE(reuseport_shares_a_port) {
    in4 a = v4("127.0.0.1", 0);
    int l[2], n[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        l[i] = OK(socket(AF_INET, SOCK_STREAM, 0));
        set_int(l[i], SOL_SOCKET, SO_REUSEPORT, 1);
        OK(bind(l[i], SA(a), sizeof a));
        if (!i) a = name4(l[0]);
        OK(listen(l[i], 100));
        OK(fcntl(l[i], F_SETFL, O_NONBLOCK));
    }
    for (int i = 0; i < 60; i++) connected_to(a);
    for (int i = 0; i < 2; i++) while (accept(l[i], NULL, NULL) >= 0) n[i]++;
    EQ(n[0] + n[1], 60);
    CHECK(n[0] > 5 && n[1] > 5);
    int other = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(bind(other, SA(a), sizeof a), EADDRINUSE);
}

CASE(connect_refused) {
    in4 a;
    int fd = bound(SOCK_STREAM, &a), c = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(connect(c, SA(a), sizeof a), ECONNREFUSED);
    OK(listen(fd, 1));
    OK(connect(c, SA(a), sizeof a)); // the same socket again
    ERR(connect(c, SA(a), sizeof a), EISCONN);
    ERR(connect(fd, SA(a), sizeof a), EISCONN);
}

CASE(connect_errors) {
    int c = OK(socket(AF_INET, SOCK_STREAM, 0));
    in4 a = v4("127.0.0.1", 9);
    ERR(connect(c, SA(a), 1), EINVAL);
    ERR(connect(c, SA(a), 8), EINVAL);
    ERR(connect(c, BAD, sizeof a), EFAULT);
    a.sin_family = AF_UNIX;
    ERR(connect(c, SA(a), sizeof a), EAFNOSUPPORT);
    a = v4("224.0.0.7", 9);
    ERR(connect(c, SA(a), sizeof a), ENETUNREACH);
}

CASE(connect_nonblocking) {
    in4 a;
    int l = listener(&a, 5), c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    ERR(connect(c, SA(a), sizeof a), EINPROGRESS);
    EQ(events_within(c, POLLOUT, 2000), POLLOUT);
    EQ(get_int(c, SOL_SOCKET, SO_ERROR), 0);
    OK(connect(c, SA(a), sizeof a)); // told once
    ERR(connect(c, SA(a), sizeof a), EISCONN);
    OK(accept(l, NULL, NULL));
}

CASE(connect_nonblocking_refused) {
    in4 a;
    int fd = bound(SOCK_STREAM, &a), c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    ERR(connect(c, SA(a), sizeof a), EINPROGRESS);
    EQ(events_within(c, POLLOUT, 2000), POLLOUT | POLLERR | POLLHUP);
    EQ(get_int(c, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
    EQ(get_int(c, SOL_SOCKET, SO_ERROR), 0);
    ERR(connect(c, SA(a), sizeof a), ECONNABORTED);
    OK(listen(fd, 1));
    ERR(connect(c, SA(a), sizeof a), EINPROGRESS);
    EQ(events_within(c, POLLOUT, 2000), POLLOUT);
}

CASE(connect_to_the_wildcard) {
    in4 a;
    int l = listener(&a, 5), c = OK(socket(AF_INET, SOCK_STREAM, 0));
    in4 any = v4("0.0.0.0", ntohs(a.sin_port));
    OK(connect(c, SA(any), sizeof any));
    OK(accept(l, NULL, NULL));
    in4 p;
    socklen_t n = sizeof p;
    OK(getpeername(c, SA(p), &n));
    EQ(p.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
}

CASE(connect_to_itself) {
    in4 a;
    int fd = bound(SOCK_STREAM, &a);
    char b[8];
    OK(connect(fd, SA(a), sizeof a));
    EQ(write(fd, "me", 2), 2);
    EQ(read(fd, b, 8), 2);
    OK(shutdown(fd, SHUT_WR));
    EQ(read(fd, b, 8), 0);
}

CASE(disconnect_by_unspec) {
    tcp_pair();
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    char b[4];
    OK(connect(C, &none, sizeof none));
    ERR(recv(S, b, 4, 0), ECONNRESET);
    EQ(events(C, ALL_EVENTS), POLLOUT | POLLERR | POLLHUP);
    EQ(get_int(C, SOL_SOCKET, SO_ERROR), ECONNRESET);
    in4 a;
    int l = listener(&a, 1);
    OK(connect(C, SA(a), sizeof a));
    OK(accept(l, NULL, NULL));
}

CASE(accept_blocks_and_times_out) {
    in4 a, p;
    int l = listener(&a, 5);
    struct timeval tv = {0, 60000};
    OK(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    long long t = mono_ms();
    ERR(accept(l, NULL, NULL), EAGAIN);
    CHECK(mono_ms() - t >= 50);
    tv.tv_usec = 0;
    OK(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(50); connected_to(a); nap_ms(50); _exit(0); }
    socklen_t n = sizeof p;
    int s = OK(accept4(l, SA(p), &n, SOCK_NONBLOCK | SOCK_CLOEXEC));
    EQ(fcntl(s, F_GETFD), FD_CLOEXEC);
    EQ(fcntl(s, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    EXITS(pid, 0);
    ERR(accept4(l, NULL, NULL, 0x10), EINVAL);
    OK(fcntl(l, F_SETFL, O_NONBLOCK));
    ERR(accept(l, NULL, NULL), EAGAIN);
    tcp_pair();
    ERR(accept(C, NULL, NULL), EINVAL);
}

CASE(accept_interrupted) {
    in4 a;
    int l = listener(&a, 5);
    INTERRUPTED(accept(l, NULL, NULL));
}

CASE(accept_restarts) {
    in4 a;
    int l = listener(&a, 5);
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN({ connected_to(a); nap_ms(100); });
    OK(accept(l, NULL, NULL));
    EQ(hits, 1);
    EXITS(pid, 0);
}

CASE(accept_address_errors) {
    in4 a, p;
    int l = listener(&a, 5);
    socklen_t n = -1;
    connected_to(a);
    ERR(accept(l, SA(p), &n), EINVAL);
    connected_to(a);
    n = sizeof p;
    ERR(accept(l, BAD, &n), EFAULT);
    connected_to(a);
    n = 0;
    OK(accept(l, SA(p), &n));
    EQ(n, sizeof p);
}

CASE(backlog_is_limited) {
    in4 a;
    int l = listener(&a, 2), c[6], done = 0;
    for (int i = 0; i < 6; i++) {
        c[i] = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        ERR(connect(c[i], SA(a), sizeof a), EINPROGRESS);
    }
    nap_ms(50);
    for (int i = 0; i < 6; i++) done += events(c[i], POLLOUT) == POLLOUT;
    CHECK(done >= 2 && done < 6); // the rest wait for room
    EQ(events(l, POLLIN), POLLIN);
    for (int i = 0; i < 6; i++) OK(accept(l, NULL, NULL));
    for (int i = 0; i < 6; i++) EQ(events_within(c[i], POLLOUT, 5000), POLLOUT);
}

CASE(listen_again_changes_the_backlog) {
    in4 a;
    int l = listener(&a, 0);
    OK(listen(l, 10));
    for (int i = 0; i < 8; i++) connected_to(a);
    EQ(get_int(l, SOL_SOCKET, SO_ACCEPTCONN), 1);
    tcp_pair();
    ERR(listen(C, 1), EINVAL);
    int u = OK(socket(AF_INET, SOCK_DGRAM, 0));
    ERR(listen(u, 1), EOPNOTSUPP);
    int f = OK(socket(AF_INET, SOCK_STREAM, 0)); // without bind: a port is chosen
    OK(listen(f, 1));
    CHECK(name4(f).sin_port != 0);
}

CASE(closing_a_listener_resets_waiting_connections) {
    in4 a;
    char b[4];
    int l = listener(&a, 5), c = connected_to(a);
    OK(close(l));
    EQ(events_within(c, ALL_EVENTS, 1000), POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP);
    ERR(recv(c, b, 4, 0), ECONNRESET);
    EQ(recv(c, b, 4, 0), 0);
    int d = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(connect(d, SA(a), sizeof a), ECONNREFUSED);
}

CASE(shutdown_of_a_listener) {
    in4 a;
    int l = listener(&a, 5);
    OK(shutdown(l, SHUT_WR)); // means nothing
    connected_to(a);
    OK(accept(l, NULL, NULL));
    OK(shutdown(l, SHUT_RD));
    ERR(accept(l, NULL, NULL), EINVAL);
    int d = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(connect(d, SA(a), sizeof a), ECONNREFUSED);
}

CASE(half_close) {
    char b[8];
    tcp_pair();
    EQ(events(C, ALL_EVENTS), POLLOUT);
    EQ(write(C, "last", 4), 4);
    OK(shutdown(C, SHUT_WR));
    EQ(events_within(S, ALL_EVENTS, 100), POLLIN | POLLOUT | POLLRDHUP);
    EQ(read(S, b, 8), 4);
    EQ(read(S, b, 8), 0);
    ERR(send(C, "x", 1, MSG_NOSIGNAL), EPIPE);
    EQ(write(S, "back", 4), 4);
    EQ(read(C, b, 8), 4);
    EQ(events(C, ALL_EVENTS), POLLOUT);
    OK(shutdown(S, SHUT_WR));
    EQ(events_within(C, ALL_EVENTS, 100), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    nap_ms(20);
    ERR(shutdown(C, SHUT_WR), ENOTCONN);
    ERR(shutdown(C, 3), EINVAL);
}

CASE(shutdown_of_reading) {
    char b[8];
    tcp_pair();
    EQ(write(S, "early", 5), 5);
    nap_ms(5);
    OK(shutdown(C, SHUT_RD));
    EQ(events(C, ALL_EVENTS), POLLIN | POLLOUT | POLLRDHUP);
    EQ(read(C, b, 8), 5);
    EQ(read(C, b, 8), 0);
    EQ(write(S, "late", 4), 4); // the peer is not told
    EQ(write(C, "fine", 4), 4);
    EQ(read(S, b, 8), 4);
}

CASE(write_to_a_closed_peer) {
    char b[8];
    tcp_pair();
    OK(close(S));
    nap_ms(5);
    EQ(events(C, ALL_EVENTS), POLLIN | POLLOUT | POLLRDHUP);
    EQ(write(C, "x", 1), 1); // answered by a reset
    nap_ms(5);
    EQ(events(C, ALL_EVENTS), POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP);
    EQ(read(C, b, 8), 0);
    handle(SIGPIPE, 0);
    ERR(write(C, "x", 1), EPIPE);
    ERR(write(C, "x", 1), EPIPE);
    CHECK(hits >= 1);
}

CASE(close_with_unread_data_resets) {
    char b[8];
    tcp_pair();
    EQ(write(C, "unread", 6), 6);
    EQ(write(S, "kept", 4), 4);
    nap_ms(5);
    OK(close(S));
    nap_ms(5);
    EQ(events(C, ALL_EVENTS), POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP);
    handle(SIGPIPE, 0);
    EQ(read(C, b, 8), 4); // what came before the reset
    ERR(read(C, b, 8), ECONNRESET);
    EQ(read(C, b, 8), 0);
    ERR(write(C, "x", 1), EPIPE);
    EQ(hits, 1);
}

CASE(reset_shows_once) {
    tcp_pair();
    struct linger lg = {1, 0};
    OK(setsockopt(S, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
    OK(close(S));
    nap_ms(5);
    handle(SIGPIPE, 0);
    ERR(write(C, "x", 1), ECONNRESET);
    EQ(hits, 0);
    ERR(write(C, "x", 1), EPIPE);
    EQ(hits, 1);
    in4 p;
    socklen_t n = sizeof p;
    ERR(getpeername(C, SA(p), &n), ENOTCONN);
}

CASE(reset_before_accept) {
    in4 a;
    char b[4];
    int l = listener(&a, 5), c = connected_to(a);
    struct linger lg = {1, 0};
    OK(setsockopt(c, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
    OK(close(c));
    int s = OK(accept(l, NULL, NULL));
    ERR(read(s, b, 4), ECONNRESET);
}

CASE(closed_before_accept) {
    in4 a;
    char b[8];
    int l = listener(&a, 5), c = connected_to(a);
    EQ(write(c, "bye", 3), 3);
    OK(close(c));
    int s = OK(accept(l, NULL, NULL));
    EQ(read(s, b, 8), 3);
    EQ(read(s, b, 8), 0);
}

CASE(time_wait_keeps_the_port) {
    in4 a;
    char b[4];
    int l = listener(&a, 5), c = connected_to(a), s = OK(accept(l, NULL, NULL));
    OK(close(s)); // the server closes first
    EQ(read(c, b, 4), 0);
    OK(close(c));
    OK(close(l));
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(bind(fd, SA(a), sizeof a), EADDRINUSE);
}

CASE(reuseaddr_passes_time_wait) {
    in4 a = v4("127.0.0.1", 0);
    char b[4];
    int l = OK(socket(AF_INET, SOCK_STREAM, 0));
    set_int(l, SOL_SOCKET, SO_REUSEADDR, 1);
    OK(bind(l, SA(a), sizeof a));
    OK(listen(l, 5));
    a = name4(l);
    int c = connected_to(a), s = OK(accept(l, NULL, NULL));
    OK(close(s));
    EQ(read(c, b, 4), 0);
    OK(close(c));
    OK(close(l));
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    OK(bind(fd, SA(a), sizeof a));
    OK(listen(fd, 5));
}

CASE(same_pair_twice) {
    in4 a, me;
    int l = listener(&a, 5), c = bound(SOCK_STREAM, &me);
    OK(connect(c, SA(a), sizeof a));
    OK(accept(l, NULL, NULL));
    int d = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(bind(d, SA(me), sizeof me), EADDRINUSE);
}

CASE(buffers_fill_and_drain) {
    tcp_pair();
    OK(fcntl(C, F_SETFL, O_NONBLOCK));
    long sent = 0, got = 0, n;
    while ((n = write(C, big, sizeof big)) > 0) sent += n;
    EQ(errno, EAGAIN);
    CHECK(sent > 100000);
    EQ(events(C, ALL_EVENTS), 0);
    int q;
    OK(ioctl(S, FIONREAD, &q));
    CHECK(q > 0);
    OK(fcntl(S, F_SETFL, O_NONBLOCK));
    for (long long end = mono_ms() + 5000; got < sent && mono_ms() < end;) {
        n = read(S, big, sizeof big);
        if (n > 0) got += n; else nap_ms(1);
    }
    EQ(got, sent);
    EQ(events_within(C, POLLOUT, 1000), POLLOUT);
}

CASE(small_buffers_block_early) {
    in4 a;
    int l = OK(socket(AF_INET, SOCK_STREAM, 0));
    set_int(l, SOL_SOCKET, SO_RCVBUF, 4096);
    a = v4("127.0.0.1", 0);
    OK(bind(l, SA(a), sizeof a));
    OK(listen(l, 1));
    a = name4(l);
    int c = OK(socket(AF_INET, SOCK_STREAM, 0));
    set_int(c, SOL_SOCKET, SO_SNDBUF, 8192);
    OK(connect(c, SA(a), sizeof a));
    OK(accept(l, NULL, NULL));
    OK(fcntl(c, F_SETFL, O_NONBLOCK));
    long sent = 0, n;
    while ((n = write(c, big, 1000)) > 0) sent += n;
    CHECK(sent < 200000);
}

CASE(blocking_writer_wakes) {
    tcp_pair();
    pid_t pid = OK(fork());
    if (!pid) {
        close(C);
        long n, sum = 0;
        while ((n = read(S, big, 100000)) > 0) sum += n;
        _exit(sum == 3 * (long)sizeof big ? 0 : 1);
    }
    OK(close(S));
    for (int i = 0; i < 3; i++) EQ(write(C, big, sizeof big), sizeof big);
    OK(close(C));
    EXITS(pid, 0);
}

CASE(blocking_reader_interrupted) {
    char c;
    tcp_pair();
    INTERRUPTED(read(S, &c, 1));
    INTERRUPTED(recvfrom(S, &c, 1, 0, NULL, NULL));
}

CASE(reader_restarts) {
    char c;
    tcp_pair();
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN({ if (write(C, "x", 1) != 1) _exit(2); });
    EQ(recv(S, &c, 1, 0), 1);
    EQ(hits, 1);
    EXITS(pid, 0);
}

CASE(receive_timeout) {
    char c;
    tcp_pair();
    struct timeval tv = {0, 50000}, got;
    socklen_t n = sizeof got;
    OK(setsockopt(S, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    OK(getsockopt(S, SOL_SOCKET, SO_RCVTIMEO, &got, &n));
    EQ(n, sizeof got);
    CHECK(got.tv_sec == 0 && got.tv_usec >= 50000 && got.tv_usec <= 60000);
    long long t = mono_ms();
    ERR(read(S, &c, 1), EAGAIN);
    ERR(recv(S, &c, 1, 0), EAGAIN);
    CHECK(mono_ms() - t >= 90);
    handle(SIGUSR1, SA_RESTART); // with a time-out there is no restart
    tv.tv_sec = 5;
    OK(setsockopt(S, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    pid_t pid = poke_forever();
    ERR(recv(S, &c, 1, 0), EINTR);
    poke_stop(pid);
    tv.tv_usec = 1000000;
    ERR(setsockopt(S, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv), EDOM);
}

CASE(send_timeout) {
    tcp_pair();
    struct timeval tv = {0, 50000};
    OK(setsockopt(C, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
    long sent = 0, n, rounds = 0;
    while ((n = send(C, big, sizeof big, 0)) > 0 && rounds++ < 100) sent += n;
    EQ(n, -1);
    EQ(errno, EAGAIN);
    CHECK(sent > 0);
}

CASE(peek_and_trunc) {
    char b[16] = "zzzzzzzzzzzzzzz";
    tcp_pair();
    EQ(write(C, "abcdef", 6), 6);
    EQ(recv(S, b, 4, MSG_PEEK), 4);
    CHECK(!memcmp(b, "abcd", 4));
    EQ(recv(S, b, 2, 0), 2);
    CHECK(!memcmp(b, "ab", 2));
    memcpy(b, "????", 4);
    EQ(recv(S, b, 2, MSG_TRUNC), 2); // thrown away, not copied
    CHECK(!memcmp(b, "????", 4));
    EQ(recv(S, b, 16, 0), 2);
    CHECK(!memcmp(b, "ef", 2));
    ERR(recv(S, b, 1, MSG_DONTWAIT), EAGAIN);
    ERR(recv(S, b, 1, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
    ERR(recv(S, b, 1, MSG_ERRQUEUE), EAGAIN);
}

CASE(waitall) {
    char b[16];
    tcp_pair();
    pid_t pid = OK(fork());
    if (!pid) {
        for (int i = 0; i < 4; i++) { nap_ms(20); if (write(C, "abc", 3) != 3) _exit(1); }
        _exit(0);
    }
    EQ(recv(S, b, 10, MSG_WAITALL), 10);
    EXITS(pid, 0);
    OK(close(C));
    EQ(recv(S, b, 16, MSG_WAITALL), 2); // the end comes first
    EQ(recv(S, b, 16, MSG_WAITALL), 0);
}

CASE(low_water_mark) {
    char b[16];
    tcp_pair();
    set_int(S, SOL_SOCKET, SO_RCVLOWAT, 5);
    EQ(get_int(S, SOL_SOCKET, SO_RCVLOWAT), 5);
    EQ(write(C, "abc", 3), 3);
    nap_ms(5);
    EQ(events(S, POLLIN), 0);
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(40); _exit(write(C, "defgh", 5) == 5 ? 0 : 1); }
    EQ(recv(S, b, 16, 0), 8);
    EXITS(pid, 0);
    EQ(write(C, "xy", 2), 2);
    nap_ms(5);
    EQ(recv(S, b, 16, MSG_DONTWAIT), 2);
}

CASE(urgent_data) {
    char b[16];
    tcp_pair();
    int mark;
    ERR(recv(S, b, 1, MSG_OOB), EINVAL);
    EQ(send(C, "abX", 3, MSG_OOB), 3);
    EQ(write(C, "cd", 2), 2);
    nap_ms(5);
    EQ(events(S, ALL_EVENTS), POLLIN | POLLOUT | POLLPRI);
    OK(ioctl(S, SIOCATMARK, &mark));
    EQ(mark, 0);
    EQ(recv(S, b, 16, 0), 2); // stops at the mark
    OK(ioctl(S, SIOCATMARK, &mark));
    EQ(mark, 1);
    EQ(recv(S, b, 16, MSG_OOB), 1);
    EQ(b[0], 'X');
    ERR(recv(S, b, 16, MSG_OOB), EINVAL);
    EQ(recv(S, b, 16, 0), 2);
    CHECK(!memcmp(b, "cd", 2));
    set_int(S, SOL_SOCKET, SO_OOBINLINE, 1);
    EQ(send(C, "Y", 1, MSG_OOB), 1);
    nap_ms(5);
    ERR(recv(S, b, 16, MSG_OOB), EINVAL);
    EQ(recv(S, b, 16, 0), 1);
    EQ(b[0], 'Y');
}

CASE(urgent_data_is_signalled) {
    char b[16];
    tcp_pair();
    handle(SIGURG, 0);
    handle(SIGIO, 0);
    EQ(send(C, "a", 1, MSG_OOB), 1);
    nap_ms(5);
    EQ(hits, 0); // nobody's
    OK(fcntl(S, F_SETOWN, getpid()));
    EQ(write(C, "bc", 2), 2);
    nap_ms(5);
    EQ(hits, 0);
    EQ(send(C, "dX", 2, MSG_OOB), 2);
    nap_ms(5);
    EQ(hits, 1);
    EQ(last_sig, SIGURG);
    EQ(last_info.si_code, SI_KERNEL);
    EQ(recv(S, b, 16, MSG_OOB), 1);
    EQ(b[0], 'X');
    OK(fcntl(S, F_SETSIG, SIGRTMIN)); // not for that
    EQ(send(C, "Y", 1, MSG_OOB), 1);
    nap_ms(5);
    EQ(hits, 2);
    OK(fcntl(S, F_SETOWN, 0));
    EQ(send(C, "Z", 1, MSG_OOB), 1);
    nap_ms(5);
    EQ(hits, 2);
    OK(fcntl(S, F_SETOWN, getpid()));
    OK(shutdown(C, SHUT_RDWR)); // the end is not urgent
    nap_ms(5);
    EQ(hits, 2);
}

CASE(urgent_data_is_signalled_to_one_thread_or_a_group) {
    tcp_pair();
    handle(SIGURG, 0);
    struct f_owner_ex ex = {F_OWNER_TID, syscall(SYS_gettid)};
    OK(fcntl(S, F_SETOWN_EX, &ex));
    EQ(send(C, "a", 1, MSG_OOB), 1);
    nap_ms(5);
    EQ(hits, 1);
    OK(setpgid(0, 0));
    OK(fcntl(S, F_SETOWN, -getpid()));
    EQ(send(C, "b", 1, MSG_OOB), 1);
    nap_ms(5);
    EQ(hits, 2);
}

CASE(owners_by_ioctl) {
    tcp_pair();
    int own = getpid(), group = -getpgrp(), none = 0x7fffffff, got;
    OK(ioctl(S, FIOSETOWN, &own));
    EQ(fcntl(S, F_GETOWN), own);
    OK(ioctl(S, SIOCGPGRP, &got));
    EQ(got, own);
    OK(ioctl(S, SIOCSPGRP, &group));
    OK(ioctl(S, FIOGETOWN, &got));
    EQ(got, group);
    ERR(ioctl(S, SIOCSPGRP, &none), ESRCH);
    ERR(ioctl(S, SIOCSPGRP, BAD), EFAULT);
    ERR(ioctl(S, SIOCGPGRP, BAD), EFAULT);
}

CASE(sigio_tells_of_sockets) {
    char b[4];
    tcp_pair();
    handle(SIGIO, 0);
    OK(fcntl(S, F_SETOWN, getpid()));
    EQ(write(C, "a", 1), 1);
    nap_ms(5);
    EQ(hits, 0);
    OK(fcntl(S, F_SETFL, O_ASYNC));
    EQ(write(C, "b", 1), 1);
    nap_ms(5);
    CHECK(hits >= 1);
    EQ(recv(S, b, 4, 0), 2);
    int before = hits;
    OK(shutdown(C, SHUT_WR));
    nap_ms(5);
    CHECK(hits > before);
}

CASE(empty_transfers) {
    char b[4];
    tcp_pair();
    EQ(write(C, b, 0), 0);
    EQ(send(C, b, 0, 0), 0);
    ERR(recv(S, b, 0, MSG_DONTWAIT), EAGAIN);
    EQ(read(S, b, 0), 0);
    ERR(recv(S, b, 1, MSG_DONTWAIT), EAGAIN);
}

CASE(transfer_faults) {
    char b[4];
    tcp_pair();
    ERR(write(C, BAD, 4), EFAULT);
    ERR(send(C, BAD, 4, 0), EFAULT);
    EQ(write(C, "abcd", 4), 4);
    nap_ms(5);
    ERR(read(S, BAD, 4), EFAULT);
    EQ(read(S, b, 4), 4); // nothing was lost
    struct msghdr m = {0};
    ERR(sendmsg(C, BAD, 0), EFAULT);
    ERR(recvmsg(S, BAD, MSG_DONTWAIT), EFAULT);
    m.msg_iovlen = 2000;
    ERR(sendmsg(C, &m, 0), EMSGSIZE);
    ERR(recvmsg(S, &m, MSG_DONTWAIT), EMSGSIZE);
}

CASE(messages_gather_and_scatter) {
    char x[3], y[8];
    tcp_pair();
    struct iovec out[2] = {{"abc", 3}, {"defgh", 5}}, in[2] = {{x, 3}, {y, 8}};
    struct msghdr m = {.msg_iov = out, .msg_iovlen = 2};
    EQ(sendmsg(C, &m, 0), 8);
    nap_ms(5);
    in4 from;
    m = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = in, .msg_iovlen = 2, .msg_flags = 77};
    EQ(recvmsg(S, &m, 0), 8);
    CHECK(!memcmp(x, "abc", 3) && !memcmp(y, "defgh", 5));
    EQ(m.msg_namelen, 0); // streams name nobody
    EQ(m.msg_flags, 0);
    in4 a = v4("127.0.0.1", 9);
    EQ(sendto(C, "x", 1, 0, SA(a), sizeof a), 1); // the name is ignored
}

CASE(many_messages) {
    tcp_pair();
    struct iovec io[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}};
    struct mmsghdr m[3] = {{{.msg_iov = &io[0], .msg_iovlen = 1}}, {{.msg_iov = &io[1], .msg_iovlen = 1}}, {{.msg_iov = &io[2], .msg_iovlen = 1}}};
    EQ(sendmmsg(C, m, 3, 0), 3);
    EQ(m[0].msg_len, 1);
    EQ(m[2].msg_len, 3);
    char b[16];
    EQ(recv(S, b, 6, MSG_WAITALL), 6);
}

CASE(sendfile_to_a_socket) {
    int fd = file_with("f", "some text in a file");
    char b[32];
    tcp_pair();
    OK(lseek(fd, 5, SEEK_SET));
    EQ(sendfile(C, fd, NULL, 4), 4);
    EQ(recv(S, b, 32, 0), 4);
    CHECK(!memcmp(b, "text", 4));
}

CASE(epoll_edges) {
    tcp_pair();
    int ep = OK(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET}, got;
    char b[8];
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, S, &e));
    EQ(epoll_wait(ep, &got, 1, 100), 1);
    EQ(got.events, EPOLLOUT);
    EQ(epoll_wait(ep, &got, 1, 0), 0);
    EQ(write(C, "a", 1), 1);
    EQ(epoll_wait(ep, &got, 1, 100), 1);
    EQ(got.events, EPOLLIN | EPOLLOUT);
    EQ(epoll_wait(ep, &got, 1, 0), 0);
    EQ(write(C, "b", 1), 1); // a new edge although the first byte is unread
    EQ(epoll_wait(ep, &got, 1, 100), 1);
    EQ(read(S, b, 8), 2);
    EQ(epoll_wait(ep, &got, 1, 0), 0);
    OK(shutdown(C, SHUT_WR));
    EQ(epoll_wait(ep, &got, 1, 100), 1);
    EQ(got.events, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
}

CASE(options_pass_to_accepted_sockets) {
    in4 a;
    int l = listener(&a, 5);
    set_int(l, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(l, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(l, SOL_SOCKET, SO_RCVBUF, 10000);
    OK(fcntl(l, F_SETFL, O_NONBLOCK));
    connected_to(a);
    int s = OK(accept(l, NULL, NULL));
    EQ(get_int(s, IPPROTO_TCP, TCP_NODELAY), 1);
    EQ(get_int(s, SOL_SOCKET, SO_KEEPALIVE), 1);
    EQ(get_int(s, SOL_SOCKET, SO_RCVBUF), 20000);
    EQ(get_int(s, SOL_SOCKET, SO_ACCEPTCONN), 0);
    EQ(fcntl(s, F_GETFL) & O_NONBLOCK, 0);
}

CASE(v6_basics) {
    int l = OK(socket(AF_INET6, SOCK_STREAM, 0)), c = OK(socket(AF_INET6, SOCK_STREAM, 0));
    in6 a = v6("::1", 0), p;
    char b[4];
    ERR(bind(l, SA(a), 20), EINVAL);
    OK(bind(l, SA(a), sizeof a));
    OK(listen(l, 5));
    a = name6(l);
    EQ(a.sin6_family, AF_INET6);
    OK(connect(c, SA(a), 24)); // without the scope: as of RFC 2133
    socklen_t n = sizeof p;
    int s = OK(accept(l, SA(p), &n));
    EQ(n, sizeof p);
    CHECK(IN6_IS_ADDR_LOOPBACK(&p.sin6_addr));
    EQ(p.sin6_port, name6(c).sin6_port);
    EQ(write(s, "x", 1), 1);
    EQ(read(c, b, 4), 1);
    in4 q = v4("127.0.0.1", 80);
    int d = OK(socket(AF_INET6, SOCK_STREAM, 0));
    ERR(connect(d, SA(q), sizeof q), EINVAL);
    a = v6("2001:db8::1", 0);
    ERR(bind(d, SA(a), sizeof a), EADDRNOTAVAIL);
}

CASE(v6_takes_v4_too) {
    int l = OK(socket(AF_INET6, SOCK_STREAM, 0));
    in6 a = v6("::", 0), p;
    OK(bind(l, SA(a), sizeof a));
    OK(listen(l, 5));
    int port = ntohs(name6(l).sin6_port);
    int c = connected_to(v4("127.0.0.1", port));
    socklen_t n = sizeof p;
    int s = OK(accept(l, SA(p), &n));
    EQ(p.sin6_family, AF_INET6);
    CHECK(IN6_IS_ADDR_V4MAPPED(&p.sin6_addr));
    EQ(p.sin6_port, name4(c).sin_port);
    p = name6(s);
    CHECK(IN6_IS_ADDR_V4MAPPED(&p.sin6_addr));
    int x = OK(socket(AF_INET, SOCK_STREAM, 0));
    in4 any = v4("0.0.0.0", port);
    ERR(bind(x, SA(any), sizeof any), EADDRINUSE);
    int d = OK(socket(AF_INET6, SOCK_STREAM, 0));
    in6 m = v6("::ffff:127.0.0.1", port);
    OK(connect(d, SA(m), sizeof m));
    OK(accept(l, NULL, NULL));
}

CASE(v6_only) {
    int l = OK(socket(AF_INET6, SOCK_STREAM, 0));
    set_int(l, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    in6 a = v6("::", 0);
    OK(bind(l, SA(a), sizeof a));
    int one = 1;
    ERR(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one), EINVAL);
    OK(listen(l, 5));
    in4 b = v4("0.0.0.0", ntohs(name6(l).sin6_port));
    int x = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(bind(x, SA(b), sizeof b));
    b.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int c = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(connect(c, SA(b), sizeof b), ECONNREFUSED);
    int d = OK(socket(AF_INET6, SOCK_STREAM, 0));
    set_int(d, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    in6 m = v6("::ffff:127.0.0.1", 80);
    ERR(connect(d, SA(m), sizeof m), ENETUNREACH);
    ERR(bind(d, SA(m), sizeof m), EINVAL);
}

CASE(many_connections) {
    in4 a;
    int l = listener(&a, 100);
    for (int i = 0; i < 300; i++) {
        int c = connected_to(a), s = OK(accept(l, NULL, NULL));
        char b[4];
        EQ(write(c, "q", 1), 1);
        EQ(read(s, b, 4), 1);
        OK(close(i & 1 ? c : s));
        EQ(read(i & 1 ? s : c, b, 4), 0);
        OK(close(i & 1 ? s : c));
    }
}

CASE(tcp_info_and_states) {
    struct tcp_info info;
    socklen_t n = sizeof info;
    tcp_pair();
    OK(getsockopt(C, IPPROTO_TCP, TCP_INFO, &info, &n));
    EQ(info.tcpi_state, TCP_ESTABLISHED);
    OK(shutdown(C, SHUT_WR));
    nap_ms(20);
    OK(getsockopt(C, IPPROTO_TCP, TCP_INFO, &info, &n));
    EQ(info.tcpi_state, TCP_FIN_WAIT2);
    OK(getsockopt(S, IPPROTO_TCP, TCP_INFO, &info, &n));
    EQ(info.tcpi_state, TCP_CLOSE_WAIT);
    in4 a;
    int l = listener(&a, 7);
    OK(getsockopt(l, IPPROTO_TCP, TCP_INFO, &info, &n));
    EQ(info.tcpi_state, TCP_LISTEN);
    EQ(info.tcpi_sacked, 7);
}

CASE(deferred_accept) {
    in4 a;
    char b[4];
    int l = listener(&a, 5);
    EQ(get_int(l, IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
    set_int(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
    EQ(get_int(l, IPPROTO_TCP, TCP_DEFER_ACCEPT), 7); // in whole retransmissions
    OK(fcntl(l, F_SETFL, O_NONBLOCK));
    int c = connected_to(a);
    nap_ms(20);
    EQ(events(l, POLLIN), 0);
    ERR(accept(l, NULL, NULL), EAGAIN);
    EQ(write(c, "x", 1), 1);
    EQ(events_within(l, POLLIN, 500), POLLIN);
    int s = OK(accept(l, NULL, NULL));
    EQ(read(s, b, 4), 1);
}

CASE(queue_told_with_the_bytes) {
    char b[4], room[64];
    tcp_pair();
    set_int(S, IPPROTO_TCP, 36 /* TCP_INQ */, 1);
    EQ(write(C, "abcdefg", 7), 7);
    struct iovec io = {b, 4};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    EQ(recvmsg(S, &m, 0), 4);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    CHECK(h && h->cmsg_level == IPPROTO_TCP && h->cmsg_type == 36);
    EQ(*(int *)CMSG_DATA(h), 3);
}
