// inet_udp: UDP over the loopback interface, its errors, groups and control messages; ICMP echo.
#include "inet.h"
#include <linux/errqueue.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>

static char big[70000];

CASE(datagrams_keep_borders) {
    in4 a, from;
    char b[16];
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(sendto(s, "one", 3, 0, SA(a), sizeof a), 3);
    EQ(sendto(s, "two!", 4, 0, SA(a), sizeof a), 4);
    socklen_t n = sizeof from;
    EQ(recvfrom(r, b, 16, 0, SA(from), &n), 3);
    EQ(n, sizeof from);
    EQ(from.sin_port, name4(s).sin_port);
    EQ(from.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    EQ(name4(s).sin_addr.s_addr, 0); // a port was chosen, no address
    EQ(recv(r, b, 2, 0), 2); // the rest of it is gone
    ERR(recv(r, b, 2, MSG_DONTWAIT), EAGAIN);
}

CASE(truncation_shows) {
    in4 a;
    char b[4];
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    for (int i = 0; i < 3; i++) EQ(sendto(s, "0123456789", 10, 0, SA(a), sizeof a), 10);
    EQ(recv(r, b, 4, MSG_TRUNC | MSG_PEEK), 10);
    struct iovec io = {b, 4};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};
    EQ(recvmsg(r, &m, 0), 4);
    EQ(m.msg_flags, MSG_TRUNC);
    EQ(recvmsg(r, &m, MSG_TRUNC), 10);
    int q;
    OK(ioctl(r, FIONREAD, &q));
    EQ(q, 10);
}

CASE(zero_length_datagrams) {
    in4 a, from;
    char b[4];
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(sendto(s, "", 0, 0, SA(a), sizeof a), 0);
    EQ(events_within(r, POLLIN, 100), POLLIN);
    socklen_t n = sizeof from;
    EQ(recvfrom(r, b, 4, MSG_DONTWAIT, SA(from), &n), 0);
    EQ(n, sizeof from);
    OK(connect(s, SA(a), sizeof a));
    EQ(write(s, "", 0), 0);
    EQ(recv(r, b, 4, MSG_DONTWAIT), 0);
    ERR(recv(r, b, 4, MSG_DONTWAIT), EAGAIN);
}

CASE(send_errors) {
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    in4 a = v4("127.0.0.1", 9);
    ERR(send(s, "x", 1, 0), EDESTADDRREQ);
    ERR(write(s, "x", 1), EDESTADDRREQ);
    ERR(sendto(s, "x", 1, 0, SA(a), 8), EINVAL);
    ERR(sendto(s, "x", 1, MSG_OOB, SA(a), sizeof a), EOPNOTSUPP);
    ERR(sendto(s, BAD, 1, 0, SA(a), sizeof a), EFAULT);
    ERR(sendto(s, "x", 1, 0, BAD, sizeof a), EFAULT);
    a.sin_family = AF_UNIX;
    ERR(sendto(s, "x", 1, 0, SA(a), sizeof a), EAFNOSUPPORT);
    a = v4("127.0.0.1", 0);
    ERR(sendto(s, "x", 1, 0, SA(a), sizeof a), EINVAL);
    a = v4("127.0.0.1", 9);
    a.sin_family = AF_UNSPEC;
    EQ(sendto(s, "x", 1, 0, SA(a), sizeof a), 1);
}

CASE(size_limits) {
    in4 a;
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(sendto(s, big, 65507, 0, SA(a), sizeof a), 65507);
    EQ(recv(r, big, sizeof big, 0), 65507);
    ERR(sendto(s, big, 65508, 0, SA(a), sizeof a), EMSGSIZE);
    ERR(sendto(s, big, 65536, 0, SA(a), sizeof a), EMSGSIZE);
}

CASE(connected) {
    in4 a, b, p;
    char c[8];
    int x = bound(SOCK_DGRAM, &a), y = bound(SOCK_DGRAM, &b), z = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(connect(x, SA(b), sizeof b));
    socklen_t n = sizeof p;
    OK(getpeername(x, SA(p), &n));
    EQ(p.sin_port, b.sin_port);
    EQ(sendto(z, "stranger", 8, 0, SA(a), sizeof a), 8);
    ERR(recv(x, c, 8, MSG_DONTWAIT), EAGAIN);
    EQ(sendto(y, "friend", 6, 0, SA(a), sizeof a), 6);
    EQ(recv(x, c, 8, MSG_DONTWAIT), 6);
    EQ(send(x, "back", 4, 0), 4);
    EQ(recv(y, c, 8, 0), 4);
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    OK(connect(x, &none, sizeof none));
    ERR(getpeername(x, SA(p), &n), ENOTCONN);
    EQ(name4(x).sin_port, 0); // a port that was not asked for by number goes
    ERR(accept(x, NULL, NULL), EOPNOTSUPP);
}

CASE(connect_names_the_socket) {
    in4 a;
    bound(SOCK_DGRAM, &a);
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(connect(s, SA(a), sizeof a));
    EQ(name4(s).sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    CHECK(name4(s).sin_port != 0);
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    OK(connect(s, &none, sizeof none));
    EQ(name4(s).sin_addr.s_addr, 0);
    EQ(name4(s).sin_port, 0);
    a = v4("0.0.0.0", 77);
    OK(connect(s, SA(a), sizeof a));
    socklen_t n = sizeof a;
    OK(getpeername(s, SA(a), &n));
    EQ(a.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
}

CASE(refused_shows_on_connected) {
    in4 a;
    char b[4];
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(connect(s, SA(a), sizeof a));
    OK(close(r));
    EQ(send(s, "x", 1, 0), 1);
    EQ(events_within(s, POLLIN | POLLOUT, 100), POLLOUT | POLLERR);
    ERR(recv(s, b, 4, MSG_DONTWAIT), ECONNREFUSED);
    ERR(recv(s, b, 4, MSG_DONTWAIT), EAGAIN);
    EQ(send(s, "x", 1, 0), 1);
    nap_ms(5);
    ERR(send(s, "x", 1, 0), ECONNREFUSED);
    EQ(send(s, "x", 1, 0), 1);
    nap_ms(5);
    EQ(get_int(s, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
    int u = OK(socket(AF_INET, SOCK_DGRAM, 0)); // not connected: not told
    EQ(sendto(u, "x", 1, 0, SA(a), sizeof a), 1);
    EQ(sendto(u, "x", 1, 0, SA(a), sizeof a), 1);
}

CASE(error_queue) {
    in4 a, to;
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    set_int(s, IPPROTO_IP, IP_RECVERR, 1);
    OK(close(r));
    EQ(sendto(s, "lost", 4, 0, SA(a), sizeof a), 4);
    EQ(events_within(s, POLLIN | POLLOUT, 100), POLLOUT | POLLERR);
    char b[16], control[256];
    struct iovec io = {b, 16};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    EQ(recvmsg(s, &m, MSG_ERRQUEUE), 4);
    EQ(m.msg_flags & MSG_ERRQUEUE, MSG_ERRQUEUE);
    EQ(to.sin_port, a.sin_port);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    CHECK(c && c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR);
    struct sock_extended_err *e = (void *)CMSG_DATA(c);
    EQ(e->ee_errno, ECONNREFUSED);
    EQ(e->ee_origin, SO_EE_ORIGIN_ICMP);
    EQ(e->ee_type, 3);
    EQ(e->ee_code, 3);
    ERR(recvmsg(s, &m, MSG_ERRQUEUE), EAGAIN);
}

CASE(shutdown_rules) {
    in4 a;
    char b[4];
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), r = bound(SOCK_DGRAM, &a);
    ERR(shutdown(s, SHUT_RD), ENOTCONN);
    OK(connect(s, SA(a), sizeof a));
    OK(shutdown(s, SHUT_RD));
    EQ(recv(s, b, 4, 0), 0);
    EQ(events(s, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    OK(shutdown(s, SHUT_WR));
    ERR(send(s, "x", 1, 0), EPIPE);
    EQ(events(s, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP | POLLHUP);
    (void)r;
}

CASE(fresh_socket_events) {
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(events(s, ALL_EVENTS | POLLWRNORM | POLLWRBAND | POLLRDNORM), POLLOUT | POLLWRNORM | POLLWRBAND);
    EQ(get_int(s, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
    EQ(get_int(s, SOL_SOCKET, SO_PROTOCOL), IPPROTO_UDP);
    EQ(get_int(s, SOL_SOCKET, SO_DOMAIN), AF_INET);
}

CASE(bind_conflicts) {
    in4 a;
    bound(SOCK_DGRAM, &a);
    int y = OK(socket(AF_INET, SOCK_DGRAM, 0));
    ERR(bind(y, SA(a), sizeof a), EADDRINUSE);
    set_int(y, SOL_SOCKET, SO_REUSEADDR, 1);
    ERR(bind(y, SA(a), sizeof a), EADDRINUSE); // both must say so
    in4 any = v4("0.0.0.0", 0);
    OK(bind(y, SA(any), sizeof any));
    any.sin_port = name4(y).sin_port;
    int z = OK(socket(AF_INET, SOCK_DGRAM, 0));
    set_int(z, SOL_SOCKET, SO_REUSEADDR, 1);
    OK(bind(z, SA(any), sizeof any));
    in4 to = v4("127.0.0.1", ntohs(any.sin_port));
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(sendto(s, "x", 1, 0, SA(to), sizeof to), 1);
    char b[4];
    ERR(recv(y, b, 4, MSG_DONTWAIT), EAGAIN);
    EQ(recv(z, b, 4, MSG_DONTWAIT), 1); // the one that came last
}

CASE(reuseport_spreads) {
    in4 a = v4("127.0.0.1", 0);
    int r[2], n[2] = {0, 0};
    char b[4];
    for (int i = 0; i < 2; i++) {
        r[i] = OK(socket(AF_INET, SOCK_DGRAM, 0));
        set_int(r[i], SOL_SOCKET, SO_REUSEPORT, 1);
        OK(bind(r[i], SA(a), sizeof a));
        a = name4(r[0]);
    }
    for (int i = 0; i < 100; i++) {
        int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
        EQ(sendto(s, "x", 1, 0, SA(a), sizeof a), 1);
        OK(close(s));
    }
    for (int i = 0; i < 2; i++) while (recv(r[i], b, 4, MSG_DONTWAIT) == 1) n[i]++;
    EQ(n[0] + n[1], 100);
    CHECK(n[0] > 10 && n[1] > 10);
}

CASE(the_best_fit_receives) {
    in4 a = v4("0.0.0.0", 0), b, c;
    char t[4];
    int any = OK(socket(AF_INET, SOCK_DGRAM, 0)), one = OK(socket(AF_INET, SOCK_DGRAM, 0)), s = bound(SOCK_DGRAM, &c);
    set_int(any, SOL_SOCKET, SO_REUSEADDR, 1);
    set_int(one, SOL_SOCKET, SO_REUSEADDR, 1);
    OK(bind(any, SA(a), sizeof a));
    b = v4("127.0.0.1", ntohs(name4(any).sin_port));
    OK(bind(one, SA(b), sizeof b));
    EQ(sendto(s, "x", 1, 0, SA(b), sizeof b), 1);
    EQ(recv(one, t, 4, MSG_DONTWAIT), 1);
    OK(connect(any, SA(c), sizeof c)); // a connection is a better fit than a bound address
    EQ(sendto(s, "y", 1, 0, SA(b), sizeof b), 1);
    EQ(recv(any, t, 4, MSG_DONTWAIT), 1);
}

CASE(receive_buffer_drops) {
    in4 a;
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0)), got = 0;
    set_int(r, SOL_SOCKET, SO_RCVBUF, 10000);
    for (int i = 0; i < 200; i++) EQ(sendto(s, big, 1000, 0, SA(a), sizeof a), 1000); // never waits
    while (recv(r, big, 1000, MSG_DONTWAIT) > 0) got++;
    CHECK(got >= 1 && got < 50);
}

CASE(waiting_receiver) {
    in4 a;
    char b[4];
    int r = bound(SOCK_DGRAM, &a);
    pid_t pid = OK(fork());
    if (!pid) {
        nap_ms(40);
        int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
        _exit(sendto(s, "x", 1, 0, SA(a), sizeof a) == 1 ? 0 : 1);
    }
    EQ(read(r, b, 4), 1);
    EXITS(pid, 0);
    struct timeval tv = {0, 40000};
    OK(setsockopt(r, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    ERR(recv(r, b, 4, 0), EAGAIN);
    tv.tv_usec = 0;
    OK(setsockopt(r, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    INTERRUPTED(recvfrom(r, b, 4, 0, NULL, NULL));
}

CASE(receive_restarts) {
    in4 a;
    char b[4];
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN(sendto(s, "x", 1, 0, SA(a), sizeof a));
    EQ(recv(r, b, 4, 0), 1);
    EQ(hits, 1);
    EXITS(pid, 0);
}

CASE(many_messages) {
    in4 a;
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(connect(s, SA(a), sizeof a));
    char b[4][8];
    struct iovec out[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}}, in[4];
    struct mmsghdr m[4] = {0};
    for (int i = 0; i < 3; i++) m[i].msg_hdr = (struct msghdr){.msg_iov = &out[i], .msg_iovlen = 1};
    EQ(sendmmsg(s, m, 3, 0), 3);
    in4 from[4];
    for (int i = 0; i < 4; i++) {
        in[i] = (struct iovec){b[i], 8};
        m[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &in[i], .msg_iovlen = 1};
    }
    EQ(recvmmsg(r, m, 4, MSG_WAITFORONE, NULL), 3);
    EQ(m[1].msg_len, 2);
    EQ(m[2].msg_len, 3);
    EQ(from[2].sin_port, name4(s).sin_port);
    ERR(recvmmsg(r, m, 4, MSG_DONTWAIT, NULL), EAGAIN);
    struct timespec bad = {0, 2000000000};
    ERR(recvmmsg(r, m, 4, 0, &bad), EINVAL);
    ERR(sendmmsg(-1, m, 1, 0), EBADF);
}

static struct cmsghdr *control(struct msghdr *m, int level, int type) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
        if (c->cmsg_level == level && c->cmsg_type == type) return c;
    FAILED("no control message %d/%d", level, type);
}

CASE(control_messages_of_the_way) {
    in4 a;
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    set_int(r, IPPROTO_IP, IP_PKTINFO, 1);
    set_int(r, IPPROTO_IP, IP_RECVTTL, 1);
    set_int(r, IPPROTO_IP, IP_RECVTOS, 1);
    set_int(r, SOL_SOCKET, SO_TIMESTAMP, 1);
    set_int(s, IPPROTO_IP, IP_TTL, 33);
    set_int(s, IPPROTO_IP, IP_TOS, 0x10);
    EQ(sendto(s, "x", 1, 0, SA(a), sizeof a), 1);
    char b[4], room[512];
    struct iovec io = {b, 4};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    EQ(recvmsg(r, &m, 0), 1);
    struct in_pktinfo *info = (void *)CMSG_DATA(control(&m, IPPROTO_IP, IP_PKTINFO));
    EQ(info->ipi_ifindex, if_nametoindex("lo"));
    EQ(info->ipi_addr.s_addr, htonl(INADDR_LOOPBACK));
    EQ(*(int *)CMSG_DATA(control(&m, IPPROTO_IP, IP_TTL)), 33);
    EQ(*(unsigned char *)CMSG_DATA(control(&m, IPPROTO_IP, IP_TOS)), 0x10);
    struct timeval *tv = (void *)CMSG_DATA(control(&m, SOL_SOCKET, SO_TIMESTAMP));
    CHECK(tv->tv_sec > 1600000000);
    EQ(sendto(s, "x", 1, 0, SA(a), sizeof a), 1);
    m.msg_controllen = 20; // too little for any
    EQ(recvmsg(r, &m, 0), 1);
    EQ(m.msg_flags & MSG_CTRUNC, MSG_CTRUNC);
    set_int(r, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    EQ(get_int(r, SOL_SOCKET, SO_TIMESTAMP), 0); // one of the two
}

// Sends a byte that shall come from an address, with IP_PKTINFO; 0 or the error.
static int send_from(int fd, const char *ip, int index, in4 to) {
    char room[CMSG_SPACE(sizeof(struct in_pktinfo))] = {0};
    struct iovec io = {"x", 1};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo)), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO};
    *(struct in_pktinfo *)CMSG_DATA(c) = (struct in_pktinfo){.ipi_ifindex = index, .ipi_spec_dst.s_addr = inet_addr(ip)};
    return sendmsg(fd, &m, 0) < 0 ? errno : 0;
}
static int send_from6(int fd, const char *ip, int index, in6 to) {
    char room[CMSG_SPACE(sizeof(struct in6_pktinfo))] = {0};
    struct iovec io = {"x", 1};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(struct in6_pktinfo)), .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_PKTINFO};
    struct in6_pktinfo info = {.ipi6_ifindex = index};
    inet_pton(AF_INET6, ip, &info.ipi6_addr);
    memcpy(CMSG_DATA(c), &info, sizeof info);
    return sendmsg(fd, &m, 0) < 0 ? errno : 0;
}

CASE(who_sends_says_so_truly) {
    in4 a, from;
    char b[4];
    socklen_t n = sizeof from;
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(send_from(s, "127.0.0.9", 0, a), 0);
    EQ(recvfrom(r, b, 4, 0, SA(from), &n), 1);
    EQ(from.sin_addr.s_addr, inet_addr("127.0.0.9"));
    for (int free = 0; free < 2; free++) { // who may bind to anything may not send from there
        set_int(s, IPPROTO_IP, IP_FREEBIND, free);
        EQ(send_from(s, "192.0.2.1", 0, a), ENETUNREACH);
        EQ(send_from(s, "127.255.255.255", 0, a), ENETUNREACH);
        EQ(send_from(s, "224.0.0.1", 0, a), EINVAL);
        EQ(send_from(s, "255.255.255.255", 0, a), EINVAL);
        EQ(send_from(s, "0.0.0.0", 99, a), ENODEV);
    }
    in4 other = v4("192.0.2.1", 0);
    s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    set_int(s, IPPROTO_IP, IP_FREEBIND, 1);
    OK(bind(s, SA(other), sizeof other));
    ERR(sendto(s, "x", 1, 0, SA(a), sizeof a), ENETUNREACH);
    ERR(connect(s, SA(a), sizeof a), ENETUNREACH);
    int t = OK(socket(AF_INET, SOCK_STREAM, 0)), l = listener(&a, 1);
    set_int(t, IPPROTO_IP, IP_FREEBIND, 1);
    OK(bind(t, SA(other), sizeof other));
    ERR(connect(t, SA(a), sizeof a), ENETUNREACH);
    OK(close(l));
    ERR(recv(r, b, 4, MSG_DONTWAIT), EAGAIN);
}

CASE(who_sends_by_v6_says_so_truly) {
    in6 a = v6("::1", 0), from;
    char b[4];
    socklen_t n = sizeof from;
    int r = OK(socket(AF_INET6, SOCK_DGRAM, 0)), s = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    OK(bind(r, SA(a), sizeof a));
    a = name6(r);
    const char *others[] = {"2001:db8::1", "ff02::1", "::ffff:127.0.0.1", "fe80::1"};
    for (int i = 0; i < 4; i++) EQ(send_from6(s, others[i], 0, a), EINVAL);
    EQ(send_from6(s, "::1", 99, a), ENODEV);
    ERR(recv(r, b, 4, MSG_DONTWAIT), EAGAIN);
    EQ(send_from6(s, "::1", 0, a), 0);
    EQ(recv(r, b, 4, 0), 1);
    set_int(s, IPPROTO_IPV6, 78, 1); // IPV6_FREEBIND
    EQ(send_from6(s, "2001:db8::1", 0, a), 0);
    EQ(recvfrom(r, b, 4, 0, SA(from), &n), 1);
    EQ(from.sin6_addr.s6_addr[15], 1);
    EQ(from.sin6_addr.s6_addr[0], 0x20);
    in4 mapped;
    bound(SOCK_DGRAM, &mapped);
    in6 to = v6("::ffff:127.0.0.1", ntohs(mapped.sin_port));
    s = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    EQ(send_from6(s, "::ffff:192.0.2.1", 0, to), ENETUNREACH);
    EQ(send_from6(s, "::1", 0, to), EINVAL);
    EQ(send_from6(s, "::ffff:127.0.0.3", 0, to), 0);
}

CASE(control_messages_of_a_send) {
    in4 a;
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    set_int(r, IPPROTO_IP, IP_RECVTTL, 1);
    char b[4], room[64] = {0};
    struct iovec io = {"x", 1};
    struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = CMSG_SPACE(sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), IPPROTO_IP, IP_TTL};
    *(int *)CMSG_DATA(c) = 7;
    EQ(sendmsg(s, &m, 0), 1);
    *(int *)CMSG_DATA(c) = 700;
    ERR(sendmsg(s, &m, 0), EINVAL);
    c->cmsg_len = 5;
    ERR(sendmsg(s, &m, 0), EINVAL);
    io.iov_base = b;
    m = (struct msghdr){.msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    EQ(recvmsg(r, &m, 0), 1);
    EQ(*(int *)CMSG_DATA(control(&m, IPPROTO_IP, IP_TTL)), 7);
}

CASE(broadcast_needs_leave) {
    in4 a = v4("0.0.0.0", 0);
    char b[4];
    int r = OK(socket(AF_INET, SOCK_DGRAM, 0)), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(bind(r, SA(a), sizeof a));
    a = v4("127.255.255.255", ntohs(name4(r).sin_port));
    ERR(sendto(s, "x", 1, 0, SA(a), sizeof a), EACCES);
    ERR(connect(s, SA(a), sizeof a), EACCES);
    set_int(s, SOL_SOCKET, SO_BROADCAST, 1);
    EQ(sendto(s, "x", 1, 0, SA(a), sizeof a), 1);
    EQ(events_within(r, POLLIN, 200), POLLIN);
    EQ(recv(r, b, 4, 0), 1);
}

CASE(multicast_on_lo) {
    in4 any = v4("0.0.0.0", 0), g;
    char b[8];
    int r[2], s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    for (int i = 0; i < 2; i++) {
        r[i] = OK(socket(AF_INET, SOCK_DGRAM, 0));
        set_int(r[i], SOL_SOCKET, SO_REUSEADDR, 1);
        OK(bind(r[i], SA(any), sizeof any));
        any.sin_port = name4(r[0]).sin_port;
        struct ip_mreqn req = {.imr_ifindex = if_nametoindex("lo")};
        inet_pton(AF_INET, "239.1.2.3", &req.imr_multiaddr);
        OK(setsockopt(r[i], IPPROTO_IP, IP_ADD_MEMBERSHIP, &req, sizeof req));
        ERR(setsockopt(r[i], IPPROTO_IP, IP_ADD_MEMBERSHIP, &req, sizeof req), EADDRINUSE);
    }
    struct in_addr lo = {htonl(INADDR_LOOPBACK)}, got;
    OK(setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof lo));
    socklen_t n = sizeof got;
    OK(getsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &got, &n));
    EQ(got.s_addr, lo.s_addr);
    g = v4("239.1.2.3", ntohs(any.sin_port));
    EQ(sendto(s, "all", 3, 0, SA(g), sizeof g), 3);
    for (int i = 0; i < 2; i++) {
        EQ(events_within(r[i], POLLIN, 200), POLLIN);
        EQ(recv(r[i], b, 8, 0), 3);
    }
    struct ip_mreq bad = {0};
    ERR(setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &bad, sizeof bad), EINVAL);
    ERR(setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &bad, 4), EINVAL);
    inet_pton(AF_INET, "239.1.2.3", &bad.imr_multiaddr);
    bad.imr_interface = lo;
    ERR(setsockopt(s, IPPROTO_IP, IP_DROP_MEMBERSHIP, &bad, sizeof bad), EADDRNOTAVAIL);
    OK(setsockopt(r[0], IPPROTO_IP, IP_DROP_MEMBERSHIP, &bad, sizeof bad));
}

CASE(v6_basics) {
    in6 a = v6("::1", 0), from;
    char b[8];
    int r = OK(socket(AF_INET6, SOCK_DGRAM, 0)), s = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    OK(bind(r, SA(a), sizeof a));
    a = name6(r);
    set_int(r, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    set_int(r, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
    set_int(s, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9);
    EQ(sendto(s, "six", 3, 0, SA(a), sizeof a), 3);
    char room[256];
    struct iovec io = {b, 8};
    struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    EQ(recvmsg(r, &m, 0), 3);
    EQ(m.msg_namelen, sizeof from);
    CHECK(IN6_IS_ADDR_LOOPBACK(&from.sin6_addr));
    EQ(*(int *)CMSG_DATA(control(&m, IPPROTO_IPV6, IPV6_HOPLIMIT)), 9);
    struct in6_pktinfo *info = (void *)CMSG_DATA(control(&m, IPPROTO_IPV6, IPV6_PKTINFO));
    CHECK(IN6_IS_ADDR_LOOPBACK(&info->ipi6_addr));
    EQ(sendto(s, big, 65527, 0, SA(a), sizeof a), 65527);
    ERR(sendto(s, big, 65528, 0, SA(a), sizeof a), EMSGSIZE);
    ERR(sendto(s, "x", 1, 0, SA(a), 20), EINVAL);
}

CASE(v6_and_v4) {
    in6 a = v6("::", 0), from;
    char b[8];
    int r = OK(socket(AF_INET6, SOCK_DGRAM, 0)), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(bind(r, SA(a), sizeof a));
    in4 to = v4("127.0.0.1", ntohs(name6(r).sin6_port));
    EQ(sendto(s, "four", 4, 0, SA(to), sizeof to), 4);
    socklen_t n = sizeof from;
    EQ(recvfrom(r, b, 8, 0, SA(from), &n), 4);
    CHECK(IN6_IS_ADDR_V4MAPPED(&from.sin6_addr));
    EQ(sendto(r, "back", 4, 0, SA(from), n), 4);
    EQ(recv(s, b, 8, 0), 4);
    EQ(sendto(r, "v4 address", 10, 0, SA(to), sizeof to), 10); // to itself
    EQ(recv(r, b, 8, 0), 8);
    int only = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    set_int(only, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    ERR(sendto(only, "x", 1, 0, SA(to), sizeof to), ENETUNREACH);
}

CASE(peek_offset) {
    in4 a;
    char b[8];
    int r = bound(SOCK_DGRAM, &a), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(get_int(r, SOL_SOCKET, SO_PEEK_OFF), -1);
    set_int(r, SOL_SOCKET, SO_PEEK_OFF, 2);
    EQ(sendto(s, "abcdef", 6, 0, SA(a), sizeof a), 6);
    EQ(recv(r, b, 2, MSG_PEEK), 2);
    CHECK(!memcmp(b, "cd", 2));
    EQ(recv(r, b, 2, MSG_PEEK), 2); // it moves on
    CHECK(!memcmp(b, "ef", 2));
    EQ(recv(r, b, 8, 0), 6);
    CHECK(!memcmp(b, "abcdef", 6));
}

CASE(ping_socket) {
    int s = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    if (s < 0 && errno == EACCES) skip("ping sockets are not allowed to this group");
    CHECK(s >= 0);
    in4 a = v4("127.0.0.1", 0), from;
    struct { struct icmphdr h; char data[8]; } out = {.h.type = ICMP_ECHO, .h.un.echo.sequence = htons(3), .data = "payload"}, in;
    EQ(sendto(s, &out, sizeof out, 0, SA(a), sizeof a), sizeof out);
    EQ(events_within(s, POLLIN, 500), POLLIN);
    socklen_t n = sizeof from;
    EQ(recvfrom(s, &in, sizeof in, 0, SA(from), &n), sizeof in);
    EQ(in.h.type, ICMP_ECHOREPLY);
    EQ(in.h.un.echo.sequence, htons(3));
    EQ(in.h.un.echo.id, name4(s).sin_port);
    CHECK(!memcmp(in.data, "payload", 8));
    out.h.type = ICMP_TIMESTAMP;
    ERR(sendto(s, &out, sizeof out, 0, SA(a), sizeof a), EINVAL);
    ERR(sendto(s, &out, 4, 0, SA(a), sizeof a), EINVAL);
}

CASE(raw_socket) {
    int s = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (s < 0 && errno == EPERM) return;
    CHECK(s >= 0);
    in4 a = v4("127.0.0.1", 0);
    struct { unsigned char ip[20]; struct icmphdr h; char data[4]; } in;
    struct { struct icmphdr h; char data[4]; } out = {.h.type = ICMP_ECHO, .h.un.echo.id = 7, .data = "raw"};
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof out; i += 2) sum += *(unsigned short *)((char *)&out + i);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    out.h.checksum = ~sum;
    EQ(sendto(s, &out, sizeof out, 0, SA(a), sizeof a), sizeof out);
    for (int want = ICMP_ECHO;; want = ICMP_ECHOREPLY) { // it sees the request and the reply
        EQ(events_within(s, POLLIN, 500), POLLIN);
        EQ(recv(s, &in, sizeof in, 0), sizeof in);
        EQ(in.ip[0], 0x45);
        EQ(in.ip[9], IPPROTO_ICMP);
        EQ(in.h.type, want);
        CHECK(!memcmp(in.data, "raw", 4));
        if (want == ICMP_ECHOREPLY) break;
    }
    IN_CHILD({
        OK(setresuid(1000, 1000, 1000));
        ERR(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM);
    });
}
