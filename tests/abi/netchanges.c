// netchanges: addresses of the loopback interface by netlink in a network of one's own, who may change what, and who is told.
#include "inet.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

static char in[65536];
static int nl(unsigned groups) {
    int fd = OK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_groups = groups};
    OK(bind(fd, SA(a), sizeof a));
    return fd;
}
struct request {
    struct nlmsghdr h;
    union { struct ifaddrmsg a; struct ifinfomsg l; struct rtmsg r; };
    char attributes[256];
};
static void add(struct request *q, int type, const void *value, int len) {
    struct rtattr *a = (void *)((char *)q + NLMSG_ALIGN(q->h.nlmsg_len));
    a->rta_type = type;
    a->rta_len = RTA_LENGTH(len);
    memcpy(RTA_DATA(a), value, len);
    q->h.nlmsg_len = NLMSG_ALIGN(q->h.nlmsg_len) + RTA_ALIGN(a->rta_len);
}
// Sends a request; the errno of the answer.
static int result(struct request *q) {
    int fd = nl(0);
    q->h.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    q->h.nlmsg_seq = 5;
    EQ(send(fd, q, q->h.nlmsg_len, 0), q->h.nlmsg_len);
    OK(recv(fd, in, sizeof in, 0));
    struct nlmsghdr *h = (void *)in;
    EQ(h->nlmsg_type, NLMSG_ERROR);
    EQ(h->nlmsg_seq, 5);
    OK(close(fd));
    return -((struct nlmsgerr *)NLMSG_DATA(h))->error;
}
static int address(int type, int flags, int family, const char *ip, int prefix, int index) {
    struct request q = {.h = {NLMSG_LENGTH(sizeof q.a), type, flags, 0, 0}, .a = {family, prefix, 0, 0, index}};
    char bytes[16];
    EQ(inet_pton(family, ip, bytes), 1);
    int len = family == AF_INET ? 4 : 16;
    add(&q, IFA_LOCAL, bytes, len);
    add(&q, IFA_ADDRESS, bytes, len);
    return result(&q);
}
static int new_address(const char *ip) { return address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, AF_INET, ip, 32, 1); }
static int binds(const char *ip) {
    in4 a = v4(ip, 0);
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0)), r = bind(fd, SA(a), sizeof a);
    int e = r ? errno : 0;
    close(fd);
    return e;
}

CASE(an_address_comes_and_goes) {
    alone();
    EQ(binds("10.9.8.7"), EADDRNOTAVAIL);
    EQ(new_address("10.9.8.7"), 0);
    EQ(binds("10.9.8.7"), 0);
    EQ(address(RTM_DELADDR, 0, AF_INET, "10.9.8.7", 32, 1), 0);
    EQ(binds("10.9.8.7"), EADDRNOTAVAIL);
    EQ(address(RTM_DELADDR, 0, AF_INET, "10.9.8.7", 32, 1), EADDRNOTAVAIL);
}

CASE(twice_is_refused) {
    alone();
    EQ(new_address("10.9.8.7"), 0);
    EQ(new_address("10.9.8.7"), EEXIST);
    EQ(address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, AF_INET, "10.9.8.7", 32, 1), 0);
    EQ(new_address("10.9.8.6"), 0);
    EQ(address(RTM_DELADDR, 0, AF_INET, "10.9.8.7", 24, 1), EADDRNOTAVAIL); // another network
}

CASE(it_answers) {
    alone();
    EQ(new_address("10.9.8.7"), 0);
    int l = OK(socket(AF_INET, SOCK_STREAM, 0)), u = OK(socket(AF_INET, SOCK_DGRAM, 0));
    in4 a = v4("10.9.8.7", 0);
    OK(bind(l, SA(a), sizeof a));
    OK(listen(l, 1));
    a = name4(l);
    int c = connected_to(a), s = OK(accept(l, NULL, NULL));
    EQ(name4(c).sin_addr.s_addr, a.sin_addr.s_addr); // from itself
    EQ(send(c, "x", 1, 0), 1);
    EQ(recv(s, in, 10, 0), 1);
    OK(bind(u, SA(a), sizeof a));
    EQ(sendto(u, "yz", 2, 0, SA(a), sizeof a), 2);
    EQ(recv(u, in, 10, 0), 2);
}

CASE(wildcards_take_it) {
    alone();
    EQ(new_address("10.9.8.7"), 0);
    int l = OK(socket(AF_INET, SOCK_STREAM, 0));
    in4 any = v4("0.0.0.0", 0);
    OK(bind(l, SA(any), sizeof any));
    OK(listen(l, 1));
    in4 to = v4("10.9.8.7", ntohs(name4(l).sin_port));
    int c = connected_to(to), s = OK(accept(l, NULL, NULL));
    EQ(name4(s).sin_addr.s_addr, to.sin_addr.s_addr);
    CHECK(c >= 0);
}

// Waits for a new address of IPv6. The kernel takes it up from a work queue, though this interface has no duplicate detection:
// until then it cannot be bound, and then for a moment it has no route.
static void taken_up(in6 a) {
    int fd = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    while (bind(fd, SA(a), sizeof a)) EQ(errno, EADDRNOTAVAIL);
    a = name6(fd);
    struct pollfd p = {fd, POLLIN, 0};
    do sendto(fd, "x", 1, 0, SA(a), sizeof a);
    while (!OK(poll(&p, 1, 10)));
    OK(close(fd));
}

CASE(six) {
    alone();
    EQ(address(RTM_NEWADDR, NLM_F_CREATE, AF_INET6, "fd00::7", 128, 1), 0);
    EQ(address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, AF_INET6, "fd00::7", 128, 1), EEXIST);
    int fd = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    in6 a = v6("fd00::7", 0);
    taken_up(a);
    OK(bind(fd, SA(a), sizeof a));
    a = name6(fd);
    EQ(sendto(fd, "x", 1, 0, SA(a), sizeof a), 1);
    EQ(recv(fd, in, 10, 0), 1);
    EQ(address(RTM_DELADDR, 0, AF_INET6, "fd00::7", 128, 1), 0);
    EQ(address(RTM_DELADDR, 0, AF_INET6, "fd00::7", 128, 1), EADDRNOTAVAIL);
}

CASE(refusals) {
    alone();
    EQ(address(RTM_NEWADDR, NLM_F_CREATE, AF_INET, "10.9.8.7", 32, 99), ENODEV);
    EQ(address(RTM_NEWADDR, NLM_F_CREATE, AF_INET, "10.9.8.7", 33, 1), EINVAL);
    EQ(address(RTM_NEWADDR, NLM_F_CREATE, AF_INET6, "fd00::7", 129, 1), EINVAL);
    EQ(address(RTM_NEWADDR, NLM_F_CREATE, AF_INET6, "ff02::7", 128, 1), EADDRNOTAVAIL);
    struct request q = {.h = {NLMSG_LENGTH(sizeof q.a), RTM_NEWADDR, NLM_F_CREATE, 0, 0}, .a = {AF_INET, 32, 0, 0, 1}};
    EQ(result(&q), EINVAL); // without an address
}

CASE(privilege) {
    alone();
    IN_CHILD({
        OK(setresuid(1234, 1234, 1234));
        EQ(new_address("10.9.8.7"), EPERM);
        EQ(address(RTM_DELADDR, 0, AF_INET, "127.0.0.1", 8, 1), EPERM);
        struct request q = {.h = {NLMSG_LENGTH(sizeof q.l), RTM_NEWLINK, 0, 0, 0}, .l = {.ifi_index = 1, .ifi_change = IFF_UP}};
        EQ(result(&q), EPERM);
    });
}

static int seen_new, seen_del;
static void listen_for(int fd) {
    while (events_within(fd, POLLIN, 100)) {
        int n = OK(recv(fd, in, sizeof in, 0));
        for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            struct ifaddrmsg *a = NLMSG_DATA(h);
            seen_new += h->nlmsg_type == RTM_NEWADDR && a->ifa_family == AF_INET && a->ifa_prefixlen == 32;
            seen_del += h->nlmsg_type == RTM_DELADDR && a->ifa_family == AF_INET && a->ifa_prefixlen == 32;
        }
    }
}
CASE(listeners_are_told) {
    alone();
    int told = nl(RTMGRP_IPV4_IFADDR), other = nl(RTMGRP_IPV6_IFADDR);
    EQ(new_address("10.9.8.7"), 0);
    EQ(address(RTM_DELADDR, 0, AF_INET, "10.9.8.7", 32, 1), 0);
    listen_for(told);
    EQ(seen_new, 1);
    EQ(seen_del, 1);
    EQ(events(other, POLLIN), 0);
}

CASE(link_up_and_down_are_told) {
    alone();
    int told = nl(RTMGRP_LINK), down = 0, up = 0;
    for (int on = 0; on < 2; on++) {
        struct request q = {.h = {NLMSG_LENGTH(sizeof q.l), RTM_NEWLINK, 0, 0, 0},
                            .l = {.ifi_index = 1, .ifi_change = IFF_UP, .ifi_flags = on ? IFF_UP : 0}};
        EQ(result(&q), 0);
    }
    while (events_within(told, POLLIN, 100)) {
        int n = OK(recv(told, in, sizeof in, 0));
        for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            struct ifinfomsg *l = NLMSG_DATA(h);
            if (h->nlmsg_type != RTM_NEWLINK || l->ifi_index != 1) continue;
            if (l->ifi_flags & IFF_UP) up = 1;
            else down = 1;
        }
    }
    CHECK(up && down);
}

static int dumped(const char *ip) {
    int fd = nl(0), found = 0;
    struct request q = {.h = {NLMSG_LENGTH(sizeof q.a), RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 5, 0}, .a = {.ifa_family = AF_INET}};
    EQ(send(fd, &q, q.h.nlmsg_len, 0), q.h.nlmsg_len);
    for (;;) {
        int n = OK(recv(fd, in, sizeof in, 0));
        for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            if (h->nlmsg_type == NLMSG_DONE) {
                close(fd);
                return found;
            }
            struct ifaddrmsg *a = NLMSG_DATA(h);
            struct rtattr *r = IFA_RTA(a);
            for (int left = IFA_PAYLOAD(h); RTA_OK(r, left); r = RTA_NEXT(r, left))
                found += r->rta_type == IFA_LOCAL && *(unsigned *)RTA_DATA(r) == inet_addr(ip);
        }
    }
}
CASE(it_is_listed) {
    alone();
    EQ(dumped("10.9.8.7"), 0);
    EQ(new_address("10.9.8.7"), 0);
    EQ(dumped("10.9.8.7"), 1);
    EQ(dumped("127.0.0.1"), 1);
    EQ(address(RTM_DELADDR, 0, AF_INET, "10.9.8.7", 32, 1), 0);
    EQ(dumped("10.9.8.7"), 0);
}

static int route(int type, int flags, const char *to, int prefix, const char *gateway, int index) {
    struct request q = {.h = {NLMSG_LENGTH(sizeof q.r), type, flags, 0, 0},
                        .r = {.rtm_family = AF_INET, .rtm_dst_len = prefix, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT,
                              .rtm_scope = gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK, .rtm_type = RTN_UNICAST}};
    unsigned ip = inet_addr(to), by = gateway ? inet_addr(gateway) : 0;
    if (prefix) add(&q, RTA_DST, &ip, 4);
    if (gateway) add(&q, RTA_GATEWAY, &by, 4);
    if (index) add(&q, RTA_OIF, &index, 4);
    return result(&q);
}
CASE(routes_that_cannot_be) {
    alone();
    EQ(route(RTM_NEWROUTE, NLM_F_CREATE, "10.0.0.0", 8, "10.1.1.1", 0), ENETUNREACH); // nobody knows the gateway
    EQ(route(RTM_NEWROUTE, NLM_F_CREATE, "10.0.0.1", 8, NULL, 1), EINVAL);             // a host's bits
    EQ(route(RTM_NEWROUTE, NLM_F_CREATE, "10.0.0.0", 33, NULL, 1), EINVAL);
    EQ(route(RTM_NEWROUTE, NLM_F_CREATE, "10.0.0.0", 8, NULL, 99), ENODEV);
    EQ(route(RTM_DELROUTE, 0, "10.0.0.0", 8, NULL, 0), ESRCH);
    EQ(route(RTM_DELROUTE, 0, "0.0.0.0", 0, NULL, 0), ESRCH);
}

CASE(new_links_need_a_name_or_an_index) {
    alone();
    struct request q = {.h = {NLMSG_LENGTH(sizeof q.l), RTM_SETLINK, 0, 0, 0}, .l = {.ifi_index = 99}};
    EQ(result(&q), ENODEV);
    q = (struct request){.h = {NLMSG_LENGTH(sizeof q.l), RTM_SETLINK, 0, 0, 0}};
    EQ(result(&q), EINVAL);
    q = (struct request){.h = {NLMSG_LENGTH(sizeof q.l), RTM_NEWLINK, NLM_F_EXCL | NLM_F_CREATE, 0, 0}, .l = {.ifi_index = 1}};
    EQ(result(&q), EEXIST);
}

// Addresses of one link only, with the interface as their scope.
static in6 scoped(const char *ip, int port, int scope) {
    in6 a = v6(ip, port);
    a.sin6_scope_id = scope;
    return a;
}
static int six(int type) { return OK(socket(AF_INET6, type, 0)); }
static void link_local(void) {
    alone();
    EQ(address(RTM_NEWADDR, NLM_F_CREATE, AF_INET6, "fe80::77", 64, 1), 0);
    taken_up(scoped("fe80::77", 0, 1));
}

CASE(binding_to_a_link_needs_it) {
    link_local();
    for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
        in6 none = scoped("fe80::77", 0, 0), there = scoped("fe80::77", 0, 1), other = scoped("fe80::78", 0, 1), nowhere = scoped("fe80::77", 0, 4242);
        ERR(bind(six(type), SA(none), sizeof none), EINVAL);
        ERR(bind(six(type), SA(nowhere), sizeof nowhere), ENODEV);
        ERR(bind(six(type), SA(other), sizeof other), EADDRNOTAVAIL);
        int fd = six(type);
        OK(bind(fd, SA(there), sizeof there));
        EQ(name6(fd).sin6_scope_id, 1);
        EQ(get_int(fd, SOL_SOCKET, SO_BINDTOIFINDEX), 1);
    }
}

CASE(an_interface_chosen_before_is_the_scope) {
    link_local();
    int fd = six(SOCK_DGRAM);
    in6 a = scoped("fe80::77", 0, 0), other = scoped("fe80::77", 5, 2);
    set_int(fd, SOL_SOCKET, SO_BINDTOIFINDEX, 1);
    OK(bind(fd, SA(a), sizeof a));
    EQ(name6(fd).sin6_scope_id, 1);
    ERR(connect(fd, SA(other), sizeof other), EINVAL);
}

CASE(connecting_to_a_link_needs_it) {
    link_local();
    in6 none = scoped("fe80::77", 9, 0), group = scoped("ff02::5", 9, 0);
    ERR(connect(six(SOCK_STREAM), SA(none), sizeof none), EINVAL);
    ERR(connect(six(SOCK_DGRAM), SA(none), sizeof none), EINVAL);
    ERR(connect(six(SOCK_DGRAM), SA(group), sizeof group), EINVAL);
    int fd = six(SOCK_STREAM);
    in6 to = scoped("fe80::77", 9, 1);
    ERR(connect(fd, SA(to), sizeof to), ECONNREFUSED);
    EQ(get_int(fd, SOL_SOCKET, SO_BINDTOIFINDEX), 1);
}

CASE(streams_over_a_link_tell_it) {
    link_local();
    int l = six(SOCK_STREAM), c = six(SOCK_STREAM);
    in6 a = scoped("::", 0, 0), from, peer;
    OK(bind(l, SA(a), sizeof a));
    OK(listen(l, 1));
    in6 to = scoped("fe80::77", ntohs(name6(l).sin6_port), 1);
    OK(connect(c, SA(to), sizeof to));
    socklen_t n = sizeof from;
    int s = OK(accept(l, SA(from), &n));
    EQ(from.sin6_scope_id, 1);
    n = sizeof peer;
    OK(getpeername(c, SA(peer), &n));
    EQ(peer.sin6_scope_id, 1);
    EQ(name6(c).sin6_scope_id, 1);
    EQ(name6(s).sin6_scope_id, 1);
    EQ(get_int(s, SOL_SOCKET, SO_BINDTOIFINDEX), 1);
}

CASE(datagrams_over_a_link_tell_it) {
    link_local();
    int r = six(SOCK_DGRAM), s = six(SOCK_DGRAM);
    in6 a = scoped("fe80::77", 0, 1), from;
    OK(bind(r, SA(a), sizeof a));
    in6 to = name6(r);
    OK(bind(s, SA(a), sizeof a));
    EQ(sendto(s, "x", 1, 0, SA(to), sizeof to), 1);
    socklen_t n = sizeof from;
    EQ(recvfrom(r, in, 8, 0, SA(from), &n), 1);
    EQ(from.sin6_scope_id, 1);
    EQ(from.sin6_port, name6(s).sin6_port);
}

CASE(addresses_of_all_have_no_scope) {
    alone();
    int r = six(SOCK_DGRAM);
    in6 a = scoped("::1", 0, 7);
    OK(bind(r, SA(a), sizeof a));
    EQ(name6(r).sin6_scope_id, 0);
    EQ(get_int(r, SOL_SOCKET, SO_BINDTOIFINDEX), 0);
    in6 to = name6(r), from;
    to.sin6_scope_id = 4242;
    int s = six(SOCK_DGRAM);
    OK(connect(s, SA(to), sizeof to));
    EQ(send(s, "x", 1, 0), 1);
    socklen_t n = sizeof from;
    EQ(recvfrom(r, in, 8, 0, SA(from), &n), 1);
    EQ(from.sin6_scope_id, 0);
}

CASE(groups_on_different_interfaces_are_different) {
    alone();
    int fd = six(SOCK_DGRAM);
    struct ipv6_mreq m = {.ipv6mr_interface = 1}, other = {.ipv6mr_interface = 4242};
    EQ(inet_pton(AF_INET6, "ff05::77", &m.ipv6mr_multiaddr), 1);
    other.ipv6mr_multiaddr = m.ipv6mr_multiaddr;
    OK(setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &m, sizeof m));
    ERR(setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &m, sizeof m), EADDRINUSE);
    ERR(setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &other, sizeof other), ENODEV);
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &other, sizeof other) < 0);
    OK(setsockopt(fd, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &m, sizeof m));
    ERR(setsockopt(fd, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &m, sizeof m), EADDRNOTAVAIL);
}
