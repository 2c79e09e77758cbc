// netlink: route queries about the loopback interface, uevents, interface ioctls, /proc/net.
#include "inet.h"
#include <ifaddrs.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#define ADDRESS(n) (struct sockaddr *)&(struct sockaddr_nl){.nl_family = AF_NETLINK, .nl_pid = (n)}, sizeof(struct sockaddr_nl)
static char in[65536];
static int nl(void) { return OK(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)); }

struct request { struct nlmsghdr h; char body[256]; };
static struct request make(int type, int flags, const void *body, int len) {
    struct request r = {.h = {.nlmsg_len = NLMSG_LENGTH(len), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = 77}};
    memcpy(NLMSG_DATA(&r.h), body, len);
    return r;
}
static void ask(int fd, int type, int flags, const void *body, int len) {
    struct request r = make(type, flags, body, len);
    EQ(send(fd, &r, r.h.nlmsg_len, 0), r.h.nlmsg_len);
}
// The error in the one answer.
static int error_of(int fd, int type, int flags, const void *body, int len) {
    ask(fd, type, flags, body, len);
    long n = OK(recv(fd, in, sizeof in, 0));
    struct nlmsghdr *h = (void *)in;
    CHECK(NLMSG_OK(h, n));
    EQ(h->nlmsg_type, NLMSG_ERROR);
    EQ(h->nlmsg_seq, 77);
    return -((struct nlmsgerr *)NLMSG_DATA(h))->error;
}
static struct rtattr *attr(struct nlmsghdr *h, int header, int type) {
    struct rtattr *a = (void *)((char *)NLMSG_DATA(h) + NLMSG_ALIGN(header));
    int left = h->nlmsg_len - NLMSG_LENGTH(header);
    for (; RTA_OK(a, left); a = RTA_NEXT(a, left)) if (a->rta_type == type) return a;
    return NULL;
}
// Runs `see` on each message of a dump; how many of `type`.
static int dump(int fd, int ask_type, int family, int type, void (*see)(struct nlmsghdr *)) {
    struct rtgenmsg g = {family};
    int count = 0;
    ask(fd, ask_type, NLM_F_DUMP, &g, sizeof g);
    for (;;) {
        int n = OK(recv(fd, in, sizeof in, 0));
        for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            EQ(h->nlmsg_seq, 77);
            if (h->nlmsg_type == NLMSG_DONE) return count;
            EQ(h->nlmsg_type, type);
            EQ(h->nlmsg_flags & NLM_F_MULTI, NLM_F_MULTI);
            count++;
            if (see) see(h);
        }
    }
}

CASE(socket_arguments) {
    ERR(socket(AF_NETLINK, SOCK_STREAM, NETLINK_ROUTE), ESOCKTNOSUPPORT);
    ERR(socket(AF_NETLINK, SOCK_RAW, 99), EPROTONOSUPPORT);
    ERR(socket(AF_NETLINK, SOCK_RAW, -1), EPROTONOSUPPORT);
    int fd = OK(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE));
    EQ(get_int(fd, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
    EQ(get_int(fd, SOL_SOCKET, SO_DOMAIN), AF_NETLINK);
    EQ(get_int(fd, SOL_SOCKET, SO_PROTOCOL), NETLINK_ROUTE);
    EQ(events(fd, ALL_EVENTS), POLLOUT);
    ERR(listen(fd, 1), EOPNOTSUPP);
    ERR(accept(fd, NULL, NULL), EOPNOTSUPP);
    ERR(shutdown(fd, SHUT_RD), EOPNOTSUPP);
    ERR(recv(fd, in, 10, MSG_DONTWAIT), EAGAIN);
    ERR(send(fd, "x", 1, MSG_OOB), EOPNOTSUPP);
}

CASE(names) {
    int a = nl(), b = nl();
    struct sockaddr_nl n;
    socklen_t len = sizeof n;
    OK(getsockname(a, SA(n), &len));
    EQ(len, 12);
    EQ(n.nl_pid, 0);
    OK(bind(a, ADDRESS(0)));
    OK(getsockname(a, SA(n), &len));
    EQ(n.nl_pid, getpid());
    OK(bind(a, ADDRESS(getpid())));
    ERR(bind(a, ADDRESS(0)), EINVAL);
    ERR(bind(a, ADDRESS(12345)), EINVAL);
    ERR(bind(b, ADDRESS(getpid())), EADDRINUSE);
    OK(bind(b, ADDRESS(0)));
    OK(getsockname(b, SA(n), &len));
    CHECK(n.nl_pid != 0 && n.nl_pid != (unsigned)getpid());
    OK(getpeername(b, SA(n), &len));
    EQ(n.nl_pid, 0);
    ERR(bind(b, SA(n), 8), EINVAL);
    n.nl_family = AF_INET;
    ERR(bind(b, SA(n), sizeof n), EINVAL);
}

static int saw_lo;
static void see_link(struct nlmsghdr *h) {
    struct ifinfomsg *i = NLMSG_DATA(h);
    struct rtattr *name = attr(h, sizeof *i, IFLA_IFNAME), *mtu = attr(h, sizeof *i, IFLA_MTU);
    CHECK(name && mtu);
    if (strcmp(RTA_DATA(name), "lo")) return;
    saw_lo++;
    EQ(i->ifi_index, if_nametoindex("lo"));
    EQ(i->ifi_type, 772);
    EQ(i->ifi_flags & (IFF_UP | IFF_LOOPBACK | IFF_RUNNING), IFF_UP | IFF_LOOPBACK | IFF_RUNNING);
    EQ(*(int *)RTA_DATA(mtu), 65536);
    CHECK(attr(h, sizeof *i, IFLA_ADDRESS) && attr(h, sizeof *i, IFLA_STATS64));
}
CASE(links) {
    CHECK(dump(nl(), RTM_GETLINK, AF_UNSPEC, RTM_NEWLINK, see_link) >= 1);
    EQ(saw_lo, 1);
}

static int saw_four, saw_six;
static void see_address(struct nlmsghdr *h) {
    struct ifaddrmsg *a = NLMSG_DATA(h);
    struct rtattr *ip = attr(h, sizeof *a, IFA_ADDRESS);
    CHECK(ip);
    if (a->ifa_index != if_nametoindex("lo")) return;
    EQ(a->ifa_scope, RT_SCOPE_HOST);
    if (a->ifa_family == AF_INET) {
        saw_four++;
        EQ(a->ifa_prefixlen, 8);
        EQ(*(unsigned *)RTA_DATA(ip), htonl(INADDR_LOOPBACK));
        CHECK(attr(h, sizeof *a, IFA_LOCAL) && !strcmp(RTA_DATA(attr(h, sizeof *a, IFA_LABEL)), "lo"));
    } else {
        saw_six++;
        EQ(a->ifa_prefixlen, 128);
        CHECK(IN6_IS_ADDR_LOOPBACK((struct in6_addr *)RTA_DATA(ip)));
    }
}
CASE(addresses) {
    int fd = nl();
    dump(fd, RTM_GETADDR, AF_UNSPEC, RTM_NEWADDR, see_address);
    EQ(saw_four, 1);
    EQ(saw_six, 1);
    dump(fd, RTM_GETADDR, AF_INET, RTM_NEWADDR, see_address);
    EQ(saw_four, 2);
    EQ(saw_six, 1);
}

static int saw_route;
static void see_route(struct nlmsghdr *h) {
    struct rtmsg *r = NLMSG_DATA(h);
    struct rtattr *to = attr(h, sizeof *r, RTA_DST);
    if (r->rtm_family == AF_INET && r->rtm_dst_len == 8 && to && *(unsigned *)RTA_DATA(to) == htonl(0x7f000000)) {
        saw_route++;
        EQ(r->rtm_table, RT_TABLE_LOCAL);
        EQ(r->rtm_type, RTN_LOCAL);
        CHECK(attr(h, sizeof *r, RTA_OIF) && attr(h, sizeof *r, RTA_PREFSRC));
    }
}
CASE(routes_and_rules) {
    int fd = nl();
    CHECK(dump(fd, RTM_GETROUTE, AF_INET, RTM_NEWROUTE, see_route) >= 3);
    EQ(saw_route, 1);
    EQ(dump(fd, RTM_GETRULE, AF_INET, RTM_NEWRULE, NULL), 3);
    dump(fd, RTM_GETNEIGH, AF_UNSPEC, RTM_NEWNEIGH, NULL);
}

CASE(one_link) {
    int fd = nl();
    struct ifinfomsg i = {.ifi_index = if_nametoindex("lo")};
    ask(fd, RTM_GETLINK, 0, &i, sizeof i);
    OK(recv(fd, in, sizeof in, 0));
    struct nlmsghdr *h = (void *)in;
    EQ(h->nlmsg_type, RTM_NEWLINK);
    EQ(h->nlmsg_flags & NLM_F_MULTI, 0);
    see_link(h);
    i.ifi_index = 9999;
    EQ(error_of(fd, RTM_GETLINK, 0, &i, sizeof i), ENODEV);
    i.ifi_index = 0;
    EQ(error_of(fd, RTM_GETLINK, 0, &i, sizeof i), EINVAL);
}

CASE(one_route) {
    int fd = nl();
    struct { struct rtmsg r; struct rtattr a; unsigned ip; } q = {{.rtm_family = AF_INET, .rtm_dst_len = 32}, {8, RTA_DST}, htonl(INADDR_LOOPBACK)};
    ask(fd, RTM_GETROUTE, 0, &q, sizeof q);
    OK(recv(fd, in, sizeof in, 0));
    struct nlmsghdr *h = (void *)in;
    EQ(h->nlmsg_type, RTM_NEWROUTE);
    EQ(((struct rtmsg *)NLMSG_DATA(h))->rtm_type, RTN_LOCAL);
    EQ(*(unsigned *)RTA_DATA(attr(h, sizeof(struct rtmsg), RTA_PREFSRC)), htonl(INADDR_LOOPBACK));
}

CASE(acknowledgements_and_refusals) {
    int fd = nl();
    struct ifinfomsg i = {.ifi_index = if_nametoindex("lo")};
    ask(fd, RTM_GETLINK, NLM_F_ACK, &i, sizeof i);
    OK(recv(fd, in, sizeof in, 0));
    OK(recv(fd, in, sizeof in, 0));
    struct nlmsghdr *h = (void *)in;
    EQ(h->nlmsg_type, NLMSG_ERROR);
    EQ(((struct nlmsgerr *)NLMSG_DATA(h))->error, 0);
    char none[64] = {0};
    EQ(error_of(fd, 1000, 0, none, 16), EOPNOTSUPP);
    EQ(error_of(fd, NLMSG_NOOP, NLM_F_ACK, none, 16), 0);
    IN_CHILD({
        OK(setresuid(1000, 1000, 1000));
        int u = nl();
        EQ(error_of(u, RTM_NEWADDR, NLM_F_CREATE, none, sizeof(struct ifaddrmsg)), EPERM);
        EQ(error_of(u, RTM_DELLINK, 0, &i, sizeof i), EPERM);
        EQ(error_of(u, RTM_NEWROUTE, 0, none, sizeof(struct rtmsg)), EPERM);
    });
}

CASE(broken_messages) {
    int fd = nl();
    struct request r = make(RTM_GETLINK, NLM_F_DUMP, "", 1);
    r.h.nlmsg_len = 1000; // longer than what is there
    EQ(send(fd, &r, NLMSG_LENGTH(1), 0), NLMSG_LENGTH(1));
    EQ(send(fd, &r, 5, 0), 5);
    r.h.nlmsg_len = 3;
    EQ(send(fd, &r, NLMSG_LENGTH(1), 0), NLMSG_LENGTH(1));
    r = make(RTM_GETLINK, NLM_F_DUMP, "", 1);
    r.h.nlmsg_flags = NLM_F_DUMP; // no request
    EQ(send(fd, &r, NLMSG_LENGTH(1), 0), NLMSG_LENGTH(1));
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    ERR(send(fd, BAD, 20, 0), EFAULT);
    struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_pid = 7777777};
    ERR(sendto(fd, &r, 20, 0, SA(to), sizeof to), ECONNREFUSED);
    ERR(sendto(fd, &r, 20, 0, SA(to), 8), EINVAL);
}

CASE(receiving_details) {
    int fd = nl();
    struct ifinfomsg i = {.ifi_index = if_nametoindex("lo")};
    ask(fd, RTM_GETLINK, 0, &i, sizeof i);
    char b[20];
    struct sockaddr_nl from = {.nl_pid = 9};
    struct iovec io = {b, sizeof b};
    struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &io, .msg_iovlen = 1};
    long whole = OK(recvmsg(fd, &m, MSG_PEEK | MSG_TRUNC));
    CHECK(whole > 100);
    EQ(m.msg_flags & MSG_TRUNC, MSG_TRUNC);
    EQ(m.msg_namelen, sizeof from);
    EQ(from.nl_family, AF_NETLINK);
    EQ(from.nl_pid, 0);
    EQ(recv(fd, in, sizeof in, 0), whole);
}

CASE(nothing_is_no_message) {
    int fd = nl(), other = nl();
    struct sockaddr_nl a = {.nl_family = AF_NETLINK};
    socklen_t n = sizeof a;
    OK(bind(other, SA(a), sizeof a));
    OK(getsockname(other, SA(a), &n));
    ERR(sendto(fd, "", 0, 0, SA(a), sizeof a), ENODATA);
    ERR(send(fd, "", 0, 0), ENODATA);
    ERR(recv(other, in, 10, MSG_DONTWAIT), EAGAIN);
}

CASE(small_messages_fill_an_inbox_too) {
    int fd = nl(), other = nl();
    struct sockaddr_nl a = {.nl_family = AF_NETLINK};
    socklen_t n = sizeof a;
    set_int(other, SOL_SOCKET, SO_RCVBUF, 4096);
    OK(bind(other, SA(a), sizeof a));
    OK(getsockname(other, SA(a), &n));
    for (int i = 0; i < 1000; i++) sendto(fd, "x", 1, MSG_DONTWAIT, SA(a), sizeof a);
    int taken = 0;
    for (int i = 0; i < 1100; i++) taken += recv(other, in, 10, MSG_DONTWAIT) == 1;
    CHECK(taken > 0 && taken < 100);
}

CASE(uevents_are_silent) {
    int fd = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT));
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_groups = 1};
    OK(bind(fd, SA(a), sizeof a));
    ERR(recv(fd, in, 10, MSG_DONTWAIT), EAGAIN);
}

CASE(options) {
    int fd = nl(), one = 1;
    OK(setsockopt(fd, SOL_NETLINK, NETLINK_PKTINFO, &one, sizeof one));
    EQ(get_int(fd, SOL_NETLINK, NETLINK_PKTINFO), 1);
    OK(setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one));
    one = RTNLGRP_LINK;
    OK(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &one, sizeof one));
    ERR(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &(int){0}, 4), EINVAL);
    ERR(setsockopt(fd, SOL_NETLINK, 999, &one, sizeof one), ENOPROTOOPT);
}

CASE(getifaddrs_works) {
    struct ifaddrs *all, *i;
    int v4s = 0, links = 0;
    OK(getifaddrs(&all));
    for (i = all; i; i = i->ifa_next) {
        if (strcmp(i->ifa_name, "lo") || !i->ifa_addr) continue;
        CHECK(i->ifa_flags & IFF_LOOPBACK);
        v4s += i->ifa_addr->sa_family == AF_INET;
        links += i->ifa_addr->sa_family == AF_PACKET;
    }
    EQ(v4s, 1);
    EQ(links, 1);
    EQ(if_nametoindex("lo"), 1);
    char name[IF_NAMESIZE];
    CHECK(if_indextoname(1, name) && !strcmp(name, "lo"));
    ERR(if_nametoindex("nope") ? 0 : -1, ENODEV);
}

CASE(interface_ioctls) {
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq r = {.ifr_name = "lo"};
    OK(ioctl(fd, SIOCGIFFLAGS, &r));
    EQ(r.ifr_flags & (IFF_UP | IFF_LOOPBACK), IFF_UP | IFF_LOOPBACK);
    OK(ioctl(fd, SIOCGIFADDR, &r));
    EQ(((in4 *)&r.ifr_addr)->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    OK(ioctl(fd, SIOCGIFNETMASK, &r));
    EQ(((in4 *)&r.ifr_addr)->sin_addr.s_addr, htonl(0xff000000));
    OK(ioctl(fd, SIOCGIFMTU, &r));
    EQ(r.ifr_mtu, 65536);
    OK(ioctl(fd, SIOCGIFHWADDR, &r));
    EQ(r.ifr_hwaddr.sa_family, 772);
    strcpy(r.ifr_name, "nope");
    ERR(ioctl(fd, SIOCGIFFLAGS, &r), ENODEV);
    ERR(ioctl(fd, SIOCGIFFLAGS, BAD), EFAULT);
    struct ifreq list[8];
    struct ifconf c = {.ifc_len = sizeof list, .ifc_req = list};
    OK(ioctl(fd, SIOCGIFCONF, &c));
    CHECK(c.ifc_len >= (int)sizeof list[0]);
    EQ(strcmp(list[0].ifr_name, "lo"), 0);
    ERR(ioctl(fd, 0x12345678, &r), ENOTTY);
    IN_CHILD({
        OK(setresuid(1000, 1000, 1000));
        struct ifreq q = {.ifr_name = "lo"};
        ERR(ioctl(fd, SIOCSIFFLAGS, &q), EPERM);
        ERR(ioctl(fd, SIOCSIFADDR, &q), EPERM);
    });
}

CASE(proc_net_tables) {
    in4 a, u;
    char want[64];
    int l = listener(&a, 3), s = bound(SOCK_DGRAM, &u);
    struct stat st;
    OK(fstat(l, &st));
    snprintf(want, sizeof want, ": 0100007F:%04X 00000000:0000 0A ", ntohs(a.sin_port));
    char *line = strstr(slurp("/proc/net/tcp"), want);
    CHECK(line);
    snprintf(want, sizeof want, " %llu ", (unsigned long long)st.st_ino);
    CHECK(strstr(line, want));
    snprintf(want, sizeof want, ": 0100007F:%04X 00000000:0000 07 ", ntohs(u.sin_port));
    CHECK(strstr(slurp("/proc/net/udp"), want));
    CHECK(strstr(slurp("/proc/net/dev"), "lo:"));
    CHECK(strstr(slurp("/proc/net/if_inet6"), "00000000000000000000000000000001 01 80 10 80       lo"));
    const char *files[] = {"route", "tcp6", "udp6", "raw", "unix", "snmp", "netstat", "sockstat", "protocols", "netlink", "packet"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(want, sizeof want, "/proc/net/%s", files[i]);
        CHECK(strlen(slurp(want)) > 10);
    }
    CHECK(atoi(slurp("/proc/sys/net/core/somaxconn")) >= 128);
    int lo, hi;
    EQ(sscanf(slurp("/proc/sys/net/ipv4/ip_local_port_range"), "%d %d", &lo, &hi), 2);
    CHECK(lo >= 1024 && hi > lo && hi < 65536);
    EQ(atoi(slurp("/sys/class/net/lo/mtu")), 65536);
    (void)s;
}
CASE(los_addresses_in_a_new_namespace) {
    // As bubblewrap sets its sandbox up: the address first, then the interface.
    struct { struct ifaddrmsg m; struct rtattr local; uint32_t a; struct rtattr address; uint32_t b; } r = {
        {AF_INET, 8, IFA_F_PERMANENT, RT_SCOPE_HOST, 0}, {8, IFA_LOCAL}, htonl(INADDR_LOOPBACK), {8, IFA_ADDRESS}, htonl(INADDR_LOOPBACK)};
    r.m.ifa_index = if_nametoindex("lo");
    IN_CHILD({
        OK(unshare(CLONE_NEWNET));
        int fd = nl();
        EQ(error_of(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &r, sizeof r), 0);
        struct ifinfomsg up = {.ifi_index = r.m.ifa_index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
        EQ(error_of(fd, RTM_NEWLINK, NLM_F_ACK, &up, sizeof up), 0);
        EQ(error_of(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &r, sizeof r), EEXIST);
        r.m.ifa_index = 99;
        EQ(error_of(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &r, sizeof r), ENODEV);
        EQ(dump(fd, RTM_GETADDR, AF_INET, RTM_NEWADDR, NULL), 1);
    });
}
