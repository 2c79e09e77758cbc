// sockopts: socket options by level: their defaults, limits and errors.
#include "inet.h"
#include <sys/un.h>

static int tcp(void) { return OK(socket(AF_INET, SOCK_STREAM, 0)); }
static int udp(void) { return OK(socket(AF_INET, SOCK_DGRAM, 0)); }
#define SET(fd, level, name, v) setsockopt(fd, level, name, &(int){v}, sizeof(int))

CASE(arguments) {
    int fd = tcp(), v;
    socklen_t n = sizeof v;
    ERR(getsockopt(-1, SOL_SOCKET, SO_TYPE, &v, &n), EBADF);
    ERR(setsockopt(-1, SOL_SOCKET, SO_REUSEADDR, &v, n), EBADF);
    ERR(getsockopt(0x7fff, SOL_SOCKET, SO_TYPE, &v, &n), EBADF);
    int null = OK(open("/dev/null", O_RDWR));
    ERR(getsockopt(null, SOL_SOCKET, SO_TYPE, &v, &n), ENOTSOCK);
    ERR(getsockopt(fd, SOL_SOCKET, SO_TYPE, BAD, &n), EFAULT);
    ERR(getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, BAD), EFAULT);
    ERR(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, BAD, sizeof v), EFAULT);
    ERR(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &v, 3), EINVAL);
    ERR(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &v, -1), EINVAL);
    ERR(getsockopt(fd, SOL_SOCKET, 9999, &v, &n), ENOPROTOOPT);
    ERR(setsockopt(fd, SOL_SOCKET, 9999, &v, n), ENOPROTOOPT);
    n = -1;
    ERR(getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, &n), EINVAL);
    v = -1;
    n = 1; // cut
    OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, &n));
    EQ(n, 1);
    EQ(v, (int)0xffffff01);
    n = 100;
    char wide[100];
    OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, wide, &n));
    EQ(n, 4);
}

CASE(what_it_is) {
    int t = tcp(), u = udp(), six = OK(socket(AF_INET6, SOCK_STREAM, 0)), un = OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    EQ(get_int(t, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    EQ(get_int(u, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
    EQ(get_int(un, SOL_SOCKET, SO_TYPE), SOCK_SEQPACKET);
    EQ(get_int(t, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
    EQ(get_int(un, SOL_SOCKET, SO_PROTOCOL), 0);
    EQ(get_int(six, SOL_SOCKET, SO_DOMAIN), AF_INET6);
    EQ(get_int(un, SOL_SOCKET, SO_DOMAIN), AF_UNIX);
    EQ(get_int(t, SOL_SOCKET, SO_ACCEPTCONN), 0);
    EQ(get_int(t, SOL_SOCKET, SO_ERROR), 0);
    ERR(SET(t, SOL_SOCKET, SO_TYPE, 1), ENOPROTOOPT);
    ERR(SET(t, SOL_SOCKET, SO_ERROR, 1), ENOPROTOOPT);
    ERR(SET(t, SOL_SOCKET, SO_ACCEPTCONN, 1), ENOPROTOOPT);
    ERR(SET(t, SOL_SOCKET, SO_DOMAIN, 1), ENOPROTOOPT);
    ERR(SET(t, SOL_SOCKET, SO_PROTOCOL, 1), ENOPROTOOPT);
}

CASE(flags_of_the_socket_level) {
    int names[] = {SO_REUSEADDR, SO_REUSEPORT, SO_KEEPALIVE, SO_BROADCAST, SO_OOBINLINE, SO_DONTROUTE, SO_TIMESTAMP, SO_TIMESTAMPNS, SO_NO_CHECK, SO_RXQ_OVFL};
    int fds[] = {tcp(), udp(), OK(socket(AF_INET6, SOCK_STREAM, 0))};
    for (int f = 0; f < 3; f++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            EQ(get_int(fds[f], SOL_SOCKET, names[i]), 0);
            set_int(fds[f], SOL_SOCKET, names[i], 7);
            EQ(get_int(fds[f], SOL_SOCKET, names[i]), 1);
            set_int(fds[f], SOL_SOCKET, names[i], 0);
            EQ(get_int(fds[f], SOL_SOCKET, names[i]), 0);
        }
}

CASE(buffer_sizes) {
    int fds[] = {tcp(), udp(), OK(socket(AF_UNIX, SOCK_STREAM, 0))};
    for (int f = 0; f < 3; f++) {
        set_int(fds[f], SOL_SOCKET, SO_SNDBUF, 20000);
        EQ(get_int(fds[f], SOL_SOCKET, SO_SNDBUF), 40000);
        set_int(fds[f], SOL_SOCKET, SO_RCVBUF, 20000);
        EQ(get_int(fds[f], SOL_SOCKET, SO_RCVBUF), 40000);
        set_int(fds[f], SOL_SOCKET, SO_SNDBUF, 1);
        EQ(get_int(fds[f], SOL_SOCKET, SO_SNDBUF), 4608);
        set_int(fds[f], SOL_SOCKET, SO_RCVBUF, 0);
        EQ(get_int(fds[f], SOL_SOCKET, SO_RCVBUF), 2304);
        set_int(fds[f], SOL_SOCKET, SO_RCVBUF, INT_MAX);
        CHECK(get_int(fds[f], SOL_SOCKET, SO_RCVBUF) >= 2 * 212992);
    }
    EQ(get_int(udp(), SOL_SOCKET, SO_RCVBUF), 212992);
    EQ(get_int(tcp(), SOL_SOCKET, SO_RCVBUF), 131072);
    EQ(get_int(tcp(), SOL_SOCKET, SO_SNDBUF), 16384);
    IN_CHILD({
        OK(setresuid(1000, 1000, 1000));
        ERR(SET(fds[0], SOL_SOCKET, SO_SNDBUFFORCE, 1000), EPERM);
        ERR(SET(fds[0], SOL_SOCKET, SO_RCVBUFFORCE, 1000), EPERM);
    });
}

CASE(linger) {
    int fd = tcp();
    struct linger l = {9, 9};
    socklen_t n = sizeof l;
    OK(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &n));
    EQ(n, sizeof l);
    EQ(l.l_onoff, 0);
    l = (struct linger){1, 5};
    OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    OK(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &n));
    EQ(l.l_onoff, 1);
    EQ(l.l_linger, 5);
    ERR(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, 4), EINVAL);
    ERR(setsockopt(fd, SOL_SOCKET, SO_LINGER, BAD, sizeof l), EFAULT);
}

CASE(timeouts) {
    int fd = udp();
    struct timeval t = {1, 500000}, got;
    socklen_t n = sizeof got;
    OK(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &got, &n));
    EQ(got.tv_sec, 0);
    OK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
    OK(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &got, &n));
    EQ(got.tv_sec, 1);
    EQ(got.tv_usec, 500000);
    ERR(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, 8), EINVAL);
    t.tv_usec = -1;
    ERR(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), EDOM);
    t = (struct timeval){-1, 0}; // does not wait at all
    OK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    ERR(recv(fd, &t, 1, 0), EAGAIN);
}

CASE(low_water_marks) {
    int fd = tcp();
    EQ(get_int(fd, SOL_SOCKET, SO_RCVLOWAT), 1);
    EQ(get_int(fd, SOL_SOCKET, SO_SNDLOWAT), 1);
    set_int(fd, SOL_SOCKET, SO_RCVLOWAT, 0);
    EQ(get_int(fd, SOL_SOCKET, SO_RCVLOWAT), 1);
    set_int(fd, SOL_SOCKET, SO_RCVLOWAT, 100);
    EQ(get_int(fd, SOL_SOCKET, SO_RCVLOWAT), 100);
    ERR(SET(fd, SOL_SOCKET, SO_SNDLOWAT, 5), ENOPROTOOPT);
}

CASE(priority_and_mark) {
    int fd = udp();
    EQ(get_int(fd, SOL_SOCKET, SO_PRIORITY), 0);
    set_int(fd, SOL_SOCKET, SO_PRIORITY, 6);
    EQ(get_int(fd, SOL_SOCKET, SO_PRIORITY), 6);
    EQ(get_int(fd, SOL_SOCKET, SO_MARK), 0);
    IN_CHILD({
        OK(setresuid(1000, 1000, 1000));
        ERR(SET(fd, SOL_SOCKET, SO_PRIORITY, 7), EPERM);
        ERR(SET(fd, SOL_SOCKET, SO_MARK, 7), EPERM);
        OK(SET(fd, SOL_SOCKET, SO_PRIORITY, 3));
    });
}

CASE(bound_devices) {
    int fd = udp();
    char name[16] = "x";
    socklen_t n = sizeof name;
    OK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &n));
    EQ(n, 0);
    OK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    n = sizeof name;
    OK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &n));
    EQ(n, 3);
    EQ(strcmp(name, "lo"), 0);
    ERR(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "nope0", 6), ENODEV);
    OK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
}

CASE(who_disconnects_is_bound_to_no_device) {
    int fd = udp();
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    char name[16];
    socklen_t n = sizeof name;
    OK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    OK(connect(fd, &none, sizeof none));
    OK(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &n));
    EQ(n, 0);
}

CASE(peer_credentials) {
    struct ucred u;
    socklen_t n = sizeof u;
    int v[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, v));
    OK(getsockopt(v[0], SOL_SOCKET, SO_PEERCRED, &u, &n));
    EQ(u.pid, getpid());
    EQ(n, sizeof u);
    OK(getsockopt(tcp(), SOL_SOCKET, SO_PEERCRED, &u, &n));
    EQ(u.pid, 0);
    EQ((int)u.uid, -1);
    ERR(SET(v[0], SOL_SOCKET, SO_PEERCRED, 1), ENOPROTOOPT);
}

CASE(peek_offsets) {
    int u = udp();
    EQ(get_int(u, SOL_SOCKET, SO_PEEK_OFF), -1);
    set_int(u, SOL_SOCKET, SO_PEEK_OFF, 5);
    EQ(get_int(u, SOL_SOCKET, SO_PEEK_OFF), 5);
    set_int(u, SOL_SOCKET, SO_PEEK_OFF, -1);
}

CASE(tcp_flags_and_numbers) {
    int fd = tcp();
    struct { int name, initial, value; } t[] = {
        {TCP_NODELAY, 0, 1}, {TCP_CORK, 0, 1}, {TCP_KEEPIDLE, 7200, 100}, {TCP_KEEPINTVL, 75, 10}, {TCP_KEEPCNT, 9, 3},
        {TCP_SYNCNT, 6, 4}, {TCP_USER_TIMEOUT, 0, 1000}, {TCP_LINGER2, 60, 10}, {TCP_QUICKACK, 1, 0},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        EQ(get_int(fd, IPPROTO_TCP, t[i].name), t[i].initial);
        set_int(fd, IPPROTO_TCP, t[i].name, t[i].value);
        EQ(get_int(fd, IPPROTO_TCP, t[i].name), t[i].value);
    }
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 55);
    EQ(get_int(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    struct { int asked, got; } lingers[] = {{0, 60}, {-5, -1}, {1000, 120}};
    for (int i = 0; i < 3; i++) {
        set_int(fd, IPPROTO_TCP, TCP_LINGER2, lingers[i].asked);
        EQ(get_int(fd, IPPROTO_TCP, TCP_LINGER2), lingers[i].got);
    }
}

CASE(tcp_limits) {
    int fd = tcp();
    struct { int name, value; } bad[] = {
        {TCP_KEEPIDLE, 0}, {TCP_KEEPIDLE, 32768}, {TCP_KEEPINTVL, 0}, {TCP_KEEPINTVL, 32768}, {TCP_KEEPCNT, 0},
        {TCP_KEEPCNT, 128}, {TCP_SYNCNT, 0}, {TCP_SYNCNT, 128}, {TCP_USER_TIMEOUT, -1}, {TCP_MAXSEG, 10}, {TCP_MAXSEG, 100000},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ERR(SET(fd, IPPROTO_TCP, bad[i].name, bad[i].value), EINVAL);
    ERR(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &fd, 1), EINVAL);
    ERR(SET(fd, IPPROTO_TCP, 999, 1), ENOPROTOOPT);
    ERR(SET(udp(), IPPROTO_TCP, TCP_NODELAY, 1), ENOPROTOOPT);
    EQ(get_int(fd, IPPROTO_TCP, TCP_MAXSEG), 536);
    set_int(fd, IPPROTO_TCP, TCP_MAXSEG, 1000);
}

CASE(tcp_congestion) {
    int fd = tcp();
    char name[32] = "";
    socklen_t n = sizeof name;
    OK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &n));
    EQ(n, 16);
    CHECK(name[0]);
    OK(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    OK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &n));
    EQ(strcmp(name, "reno"), 0);
    ERR(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "nonesuch", 8), ENOENT);
}

CASE(tcp_info_of_a_pair) {
    tcp_pair();
    unsigned long long i[64];
    socklen_t n = sizeof i;
    EQ(write(C, "12345", 5), 5);
    char b[8];
    EQ(read(S, b, 8), 5);
    OK(getsockopt(S, IPPROTO_TCP, TCP_INFO, i, &n));
    EQ(i[16], 5); // tcpi_bytes_received
    n = 1;
    OK(getsockopt(S, IPPROTO_TCP, TCP_INFO, i, &n));
    EQ(n, 1);
    EQ(get_int(S, IPPROTO_IP, IP_MTU), 65535);
    CHECK(get_int(S, IPPROTO_TCP, TCP_MAXSEG) > 1000);
}

CASE(ip_numbers) {
    int fds[] = {tcp(), udp()};
    for (int i = 0; i < 2; i++) {
        int fd = fds[i];
        EQ(get_int(fd, IPPROTO_IP, IP_TTL), 64);
        set_int(fd, IPPROTO_IP, IP_TTL, 255);
        EQ(get_int(fd, IPPROTO_IP, IP_TTL), 255);
        set_int(fd, IPPROTO_IP, IP_TTL, -1);
        EQ(get_int(fd, IPPROTO_IP, IP_TTL), 64);
        ERR(SET(fd, IPPROTO_IP, IP_TTL, 0), EINVAL);
        ERR(SET(fd, IPPROTO_IP, IP_TTL, 256), EINVAL);
        EQ(get_int(fd, IPPROTO_IP, IP_TOS), 0);
        set_int(fd, IPPROTO_IP, IP_TOS, 0x1c);
        EQ(get_int(fd, IPPROTO_IP, IP_TOS), 0x1c);
        ERR(SET(fd, IPPROTO_IP, 999, 1), ENOPROTOOPT);
        ERR(setsockopt(fd, IPPROTO_IP, IP_TTL, BAD, 4), EFAULT);
        ERR(SET(fd, IPPROTO_IP, IP_MTU_DISCOVER, 77), EINVAL);
    }
    unsigned char c = 7; // a byte will do
    OK(setsockopt(fds[1], IPPROTO_IP, IP_TTL, &c, 1));
    socklen_t n = 1;
    c = 0;
    OK(getsockopt(fds[1], IPPROTO_IP, IP_TTL, &c, &n));
    EQ(n, 1);
    EQ(c, 7);
    set_int(fds[0], IPPROTO_IP, IP_TOS, 0xff); // the ECN bits are TCP's
    EQ(get_int(fds[0], IPPROTO_IP, IP_TOS), 0xfc);
    int v;
    n = sizeof v;
    ERR(getsockopt(fds[0], IPPROTO_IP, IP_MTU, &v, &n), ENOTCONN);
}

CASE(ip_flags) {
    int fd = udp(), names[] = {IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_RECVERR, IP_FREEBIND, IP_RECVOPTS, IP_RECVORIGDSTADDR, IP_BIND_ADDRESS_NO_PORT};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        EQ(get_int(fd, IPPROTO_IP, names[i]), 0);
        set_int(fd, IPPROTO_IP, names[i], 1);
        EQ(get_int(fd, IPPROTO_IP, names[i]), 1);
    }
    in4 a = v4("203.0.113.9", 0);
    OK(bind(fd, SA(a), sizeof a)); // IP_FREEBIND
}

CASE(multicast_numbers) {
    int fd = udp(), t = tcp();
    EQ(get_int(fd, IPPROTO_IP, IP_MULTICAST_TTL), 1);
    EQ(get_int(fd, IPPROTO_IP, IP_MULTICAST_LOOP), 1);
    set_int(fd, IPPROTO_IP, IP_MULTICAST_TTL, 9);
    EQ(get_int(fd, IPPROTO_IP, IP_MULTICAST_TTL), 9);
    ERR(SET(fd, IPPROTO_IP, IP_MULTICAST_TTL, 256), EINVAL);
    set_int(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0);
    EQ(get_int(fd, IPPROTO_IP, IP_MULTICAST_LOOP), 0);
    ERR(SET(t, IPPROTO_IP, IP_MULTICAST_TTL, 9), EINVAL);
    struct in_addr far = {htonl(0xcb007109)};
    ERR(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &far, sizeof far), EADDRNOTAVAIL);
    ERR(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &far, 3), EINVAL);
}

CASE(v6_numbers) {
    int fd = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    EQ(get_int(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS), 64);
    set_int(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 5);
    EQ(get_int(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS), 5);
    ERR(SET(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 256), EINVAL);
    EQ(get_int(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS), 1);
    EQ(get_int(fd, IPPROTO_IPV6, IPV6_TCLASS), 0);
    set_int(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x20);
    EQ(get_int(fd, IPPROTO_IPV6, IPV6_TCLASS), 0x20);
    int names[] = {IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_V6ONLY, IPV6_RECVERR};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        EQ(get_int(fd, IPPROTO_IPV6, names[i]), 0);
        set_int(fd, IPPROTO_IPV6, names[i], 1);
        EQ(get_int(fd, IPPROTO_IPV6, names[i]), 1);
    }
    ERR(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &fd, 1), EINVAL);
    ERR(SET(fd, IPPROTO_IPV6, 999, 1), ENOPROTOOPT);
    set_int(fd, IPPROTO_IP, IP_TTL, 9); // the lower level of V4 packets
    EQ(get_int(fd, IPPROTO_IP, IP_TTL), 9);
    ERR(SET(udp(), IPPROTO_IPV6, IPV6_V6ONLY, 1), ENOPROTOOPT);
}

CASE(v6_groups) {
    int fd = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    struct ipv6_mreq r = {.ipv6mr_interface = if_nametoindex("lo")};
    ERR(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &r, sizeof r), EINVAL);
    inet_pton(AF_INET6, "ff02::77", &r.ipv6mr_multiaddr);
    ERR(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &r, 8), EINVAL);
    OK(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &r, sizeof r));
    ERR(setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &r, sizeof r), EADDRINUSE);
    OK(setsockopt(fd, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &r, sizeof r));
    ERR(setsockopt(fd, IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, &r, sizeof r), EADDRNOTAVAIL);
}

CASE(other_families) {
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ERR(SET(fd, IPPROTO_TCP, TCP_NODELAY, 1), EOPNOTSUPP);
    ERR(SET(fd, IPPROTO_IP, IP_TTL, 1), EOPNOTSUPP);
    ERR(SET(fd, SOL_SOCKET, SO_REUSEPORT, 1), EOPNOTSUPP);
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    EQ(get_int(fd, SOL_SOCKET, SO_REUSEADDR), 1);
    set_int(fd, SOL_SOCKET, SO_PASSCRED, 1);
    EQ(get_int(fd, SOL_SOCKET, SO_PASSCRED), 1);
    ERR(SET(tcp(), IPPROTO_UDP, 1, 1), ENOPROTOOPT);
}

CASE(cookies_differ) {
    unsigned long long a = 0, b = 0;
    socklen_t n = sizeof a;
    OK(getsockopt(tcp(), SOL_SOCKET, SO_COOKIE, &a, &n));
    OK(getsockopt(tcp(), SOL_SOCKET, SO_COOKIE, &b, &n));
    CHECK(a && b && a != b);
}

CASE(bound_indexes) {
    int fd = tcp(), lo = if_nametoindex("lo");
    EQ(get_int(fd, SOL_SOCKET, SO_BINDTOIFINDEX), 0);
    ERR(SET(fd, SOL_SOCKET, SO_BINDTOIFINDEX, -1), EINVAL);
    OK(SET(fd, SOL_SOCKET, SO_BINDTOIFINDEX, lo));
    EQ(get_int(fd, SOL_SOCKET, SO_BINDTOIFINDEX), lo);
    OK(SET(fd, SOL_SOCKET, SO_BINDTOIFINDEX, 0));
    OK(SET(fd, SOL_SOCKET, SO_BINDTOIFINDEX, 999)); // nobody looks whether it is there
    OK(SET(fd, SOL_SOCKET, SO_BINDTOIFINDEX, 0));
}

CASE(bound_devices_are_kept_from_others) { // only the first time is free
    IN_CHILD({
        OK(setresuid(1234, 1234, 1234));
        int fd = tcp();
        OK(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
        ERR(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2), EPERM);
        ERR(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0), EPERM);
        ERR(SET(fd, SOL_SOCKET, SO_BINDTOIFINDEX, 0), EPERM);
        ERR(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "nope0", 6), ENODEV);
    });
}

static int send_with(int fd, int type, int value, int len) {
    char control[CMSG_SPACE(8)] = {0};
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(len)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_len = CMSG_LEN(len);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = type;
    memcpy(CMSG_DATA(c), &value, 4);
    return sendmsg(fd, &m, 0);
}
CASE(marks_by_control_message) {
    in4 a;
    int sink = bound(SOCK_DGRAM, &a), fd = udp();
    OK(connect(fd, SA(a), sizeof a));
    EQ(send_with(fd, SO_MARK, 7, 4), 1);
    ERR(send_with(fd, SO_MARK, 7, 8), EINVAL);
    ERR(send_with(fd, 9999, 7, 4), EINVAL);
    ERR(send_with(fd, 61, 7, 8), EINVAL); // SCM_TXTIME, which was not asked for
    EQ(get_int(fd, SOL_SOCKET, SO_MARK), 0);
    IN_CHILD({
        OK(setresuid(1234, 1234, 1234));
        ERR(send_with(fd, SO_MARK, 7, 4), EPERM);
    });
    CHECK(sink >= 0);
}
