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

CASE(six) {
    alone();
    EQ(address(RTM_NEWADDR, NLM_F_CREATE, AF_INET6, "fd00::7", 128, 1), 0);
    EQ(address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, AF_INET6, "fd00::7", 128, 1), EEXIST);
    int fd = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    in6 a = v6("fd00::7", 0);
    // It may take a moment until it may be used.
    for (int i = 0; i < 100 && bind(fd, SA(a), sizeof a) < 0; i++) nap_ms(20);
    a = name6(fd);
    CHECK(a.sin6_port);
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
