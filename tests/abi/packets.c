// packets: packet sockets on the loopback interface, their rings, and socket filters of every family that has them.
#include "inet.h"
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/un.h>

#define ADDR(...) (struct sockaddr *)&(struct sockaddr_ll){.sll_family = AF_PACKET, __VA_ARGS__}, sizeof(struct sockaddr_ll)
#define FILTER(fd, ...)                                                                                                \
    ({                                                                                                                 \
        struct sock_filter abi_code[] = {__VA_ARGS__};                                                                 \
        struct sock_fprog abi_prog = {sizeof abi_code / sizeof *abi_code, abi_code};                                   \
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &abi_prog, sizeof abi_prog);                                      \
    })
#define RET(k) BPF_STMT(BPF_RET | BPF_K, k)
static char in[70000];

static int packet(int type, int protocol) {
    int fd = OK(socket(AF_PACKET, type | SOCK_CLOEXEC, htons(protocol)));
    return fd;
}
static void send_udp(in4 to, const char *text) {
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(sendto(fd, text, strlen(text), 0, SA(to), sizeof to), strlen(text));
    OK(close(fd));
}
// The next packet that is not on its way out.
static int incoming(int fd, struct sockaddr_ll *from) {
    for (;;) {
        socklen_t n = sizeof *from;
        int got = recvfrom(fd, in, sizeof in, MSG_DONTWAIT, (void *)from, &n);
        if (got < 0) return -1;
        EQ(n, sizeof *from);
        if (from->sll_pkttype != PACKET_OUTGOING) return got;
    }
}

CASE(arguments) {
    ERR(socket(AF_PACKET, SOCK_STREAM, 0), ESOCKTNOSUPPORT);
    ERR(socket(AF_PACKET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
    int fd = packet(SOCK_RAW, ETH_P_ALL);
    EQ(get_int(fd, SOL_SOCKET, SO_TYPE), SOCK_RAW);
    EQ(get_int(fd, SOL_SOCKET, SO_DOMAIN), AF_PACKET);
    ERR(listen(fd, 1), EOPNOTSUPP);
    ERR(accept(fd, NULL, NULL), EOPNOTSUPP);
    ERR(shutdown(fd, SHUT_RDWR), EOPNOTSUPP);
    ERR(connect(fd, ADDR(.sll_ifindex = 1)), EOPNOTSUPP);
    struct sockaddr_ll a;
    socklen_t n = sizeof a;
    ERR(getpeername(fd, SA(a), &n), EOPNOTSUPP);
}

CASE(no_pairs) {
    int p[2];
    ERR(socketpair(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL), p), EOPNOTSUPP);
    ERR(socketpair(AF_PACKET, SOCK_STREAM, 0, p), ESOCKTNOSUPPORT);
}

CASE(privilege) {
    IN_CHILD({
        OK(setresuid(1234, 1234, 1234));
        ERR(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), EPERM);
        ERR(socket(AF_PACKET, SOCK_STREAM, 0), EPERM);
    });
}

CASE(names) {
    alone();
    int fd = packet(SOCK_RAW, ETH_P_IP);
    struct sockaddr_ll a;
    socklen_t n = sizeof a;
    OK(getsockname(fd, SA(a), &n));
    EQ(n, 12);
    EQ(a.sll_family, AF_PACKET);
    EQ(a.sll_protocol, htons(ETH_P_IP));
    EQ(a.sll_ifindex, 0);
    EQ(a.sll_halen, 0);
    OK(bind(fd, ADDR(.sll_ifindex = if_nametoindex("lo"), .sll_protocol = htons(ETH_P_ARP))));
    n = sizeof a;
    OK(getsockname(fd, SA(a), &n));
    EQ(n, 18);
    EQ(a.sll_protocol, htons(ETH_P_ARP));
    EQ(a.sll_ifindex, if_nametoindex("lo"));
    EQ(a.sll_hatype, 772);
    EQ(a.sll_halen, 6);
    EQ(a.sll_pkttype, 0);
    OK(bind(fd, ADDR(.sll_ifindex = 1))); // keeps its protocol
    OK(getsockname(fd, SA(a), &n));
    EQ(a.sll_protocol, htons(ETH_P_ARP));
    ERR(bind(fd, ADDR(.sll_ifindex = 999)), ENODEV);
    ERR(bind(fd, (struct sockaddr *)&a, 11), EINVAL);
    a.sll_family = AF_INET;
    ERR(bind(fd, SA(a), sizeof a), EINVAL);
}

CASE(sees_udp_on_loopback) {
    alone();
    in4 to;
    int sink = bound(SOCK_DGRAM, &to), fd = packet(SOCK_RAW, ETH_P_ALL);
    EQ(events(fd, ALL_EVENTS), POLLOUT);
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    send_udp(to, "hello");
    EQ(events_within(fd, POLLIN, 5000), POLLIN);
    struct sockaddr_ll from;
    socklen_t n = sizeof from;
    EQ(recvfrom(fd, in, sizeof in, 0, SA(from), &n), 14 + 20 + 8 + 5); // it goes
    EQ(from.sll_pkttype, PACKET_OUTGOING);
    EQ(incoming(fd, &from), 47); // and comes
    EQ(from.sll_family, AF_PACKET);
    EQ(from.sll_protocol, htons(ETH_P_IP));
    EQ(from.sll_ifindex, if_nametoindex("lo"));
    EQ(from.sll_hatype, 772);
    EQ(from.sll_pkttype, PACKET_HOST);
    EQ(from.sll_halen, 6);
    struct ethhdr *e = (void *)in;
    EQ(e->h_proto, htons(ETH_P_IP));
    struct iphdr *ip = (void *)(in + 14);
    EQ(ip->version, 4);
    EQ(ip->ihl, 5);
    EQ(ip->protocol, IPPROTO_UDP);
    EQ(ip->saddr, htonl(INADDR_LOOPBACK));
    EQ(ntohs(ip->tot_len), 33);
    struct udphdr *u = (void *)(in + 34);
    EQ(u->dest, to.sin_port);
    EQ(ntohs(u->len), 13);
    CHECK(!memcmp(in + 42, "hello", 5));
    EQ(recv(sink, in, sizeof in, 0), 5);
}

CASE(datagram_sockets_get_no_link_header) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_DGRAM, ETH_P_ALL);
    send_udp(to, "abc");
    struct sockaddr_ll from;
    EQ(incoming(fd, &from), 20 + 8 + 3);
    EQ(in[0], 0x45);
    EQ(from.sll_protocol, htons(ETH_P_IP));
}

CASE(by_protocol) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int four = packet(SOCK_RAW, ETH_P_IP), six = packet(SOCK_RAW, ETH_P_IPV6), none = packet(SOCK_RAW, 0);
    send_udp(to, "x");
    struct sockaddr_ll from;
    socklen_t n = sizeof from;
    EQ(recvfrom(four, in, sizeof in, 0, SA(from), &n), 43); // only those of ETH_P_ALL see what goes
    EQ(from.sll_pkttype, PACKET_HOST);
    ERR(recv(four, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    ERR(recv(six, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    ERR(recv(none, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    int s = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    in6 there = v6("::1", 9);
    OK(sendto(s, "y", 1, 0, SA(there), sizeof there));
    // What comes back of it (port unreachable) is seen too.
    EQ(recv(six, in, sizeof in, 0), 14 + 40 + 8 + 1);
    EQ(in[14] >> 4, 6);
}

CASE(sees_pings) {
    alone();
    int fd = packet(SOCK_DGRAM, ETH_P_IP), raw = OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    in4 to = v4("127.0.0.1", 0);
    struct icmphdr echo = {.type = ICMP_ECHO, .un.echo.id = htons(77), .checksum = 0};
    echo.checksum = ~(htons(77) + ICMP_ECHO); // one's complement of its only words
    OK(sendto(raw, &echo, sizeof echo, 0, SA(to), sizeof to));
    EQ(recv(fd, in, sizeof in, 0), 28);
    EQ(((struct icmphdr *)(in + 20))->type, ICMP_ECHO);
    EQ(recv(fd, in, sizeof in, 0), 28);
    EQ(((struct icmphdr *)(in + 20))->type, ICMP_ECHOREPLY);
}

CASE(peek_cut_and_length) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_DGRAM, ETH_P_IP), n = -1;
    send_udp(to, "0123456789");
    EQ(recv(fd, in, 10, MSG_PEEK), 10);
    EQ(recv(fd, in, 10, MSG_PEEK | MSG_TRUNC), 38);
    OK(ioctl(fd, FIONREAD, &n));
    EQ(n, 38);
    struct iovec v = {in, 5};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    EQ(recvmsg(fd, &m, 0), 5);
    EQ(m.msg_flags, MSG_TRUNC);
    ERR(recv(fd, in, 10, MSG_DONTWAIT), EAGAIN);
}

CASE(auxiliary_data) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_RAW, ETH_P_IP);
    EQ(get_int(fd, SOL_PACKET, PACKET_AUXDATA), 0);
    set_int(fd, SOL_PACKET, PACKET_AUXDATA, 1);
    EQ(get_int(fd, SOL_PACKET, PACKET_AUXDATA), 1);
    send_udp(to, "abc");
    char control[200];
    struct iovec v = {in, sizeof in};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    EQ(recvmsg(fd, &m, 0), 45);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    CHECK(c);
    EQ(c->cmsg_level, SOL_PACKET);
    EQ(c->cmsg_type, PACKET_AUXDATA);
    struct tpacket_auxdata *aux = (void *)CMSG_DATA(c);
    EQ(aux->tp_len, 45);
    EQ(aux->tp_snaplen, 45);
    EQ(aux->tp_mac, 0);
    EQ(aux->tp_net, 14);
    CHECK(aux->tp_status & TP_STATUS_USER);
}

CASE(statistics) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_RAW, ETH_P_IP);
    for (int i = 0; i < 3; i++) send_udp(to, "abc");
    struct tpacket_stats s;
    socklen_t n = sizeof s;
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &s, &n));
    EQ(n, 8);
    EQ(s.tp_packets, 3);
    EQ(s.tp_drops, 0);
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &s, &n));
    EQ(s.tp_packets, 0); // counted since they were last asked for
}

CASE(full_sockets_drop) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_RAW, ETH_P_IP);
    set_int(fd, SOL_SOCKET, SO_RCVBUF, 4096);
    for (int i = 0; i < 100; i++) send_udp(to, "abc");
    struct tpacket_stats s;
    socklen_t n = sizeof s;
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &s, &n));
    EQ(s.tp_packets, 100);
    CHECK(s.tp_drops > 50 && s.tp_drops < 100);
}

CASE(ignore_outgoing) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_RAW, ETH_P_ALL);
    ERR(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &(int){2}, 4), EINVAL);
    set_int(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
    EQ(get_int(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING), 1);
    send_udp(to, "abc");
    struct sockaddr_ll from;
    socklen_t n = sizeof from;
    EQ(recvfrom(fd, in, sizeof in, 0, SA(from), &n), 45);
    EQ(from.sll_pkttype, PACKET_HOST);
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
}

CASE(memberships) {
    alone();
    int fd = packet(SOCK_RAW, ETH_P_ALL);
    struct packet_mreq m = {.mr_ifindex = if_nametoindex("lo"), .mr_type = PACKET_MR_PROMISC};
    OK(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m));
    OK(setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &m, sizeof m));
    ERR(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, 8), EINVAL);
    m.mr_ifindex = 999;
    ERR(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m), ENODEV);
}

CASE(options_by_name) {
    int fd = packet(SOCK_RAW, ETH_P_ALL), v = 1;
    socklen_t n = sizeof v;
    ERR(getsockopt(fd, SOL_PACKET, 999, &v, &n), ENOPROTOOPT);
    ERR(setsockopt(fd, SOL_PACKET, 999, &v, n), ENOPROTOOPT);
    ERR(setsockopt(fd, IPPROTO_IP, IP_TTL, &v, n), ENOPROTOOPT);
    EQ(get_int(fd, SOL_PACKET, PACKET_VERSION), TPACKET_V1);
    v = 99;
    ERR(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &v, n), EINVAL);
    v = TPACKET_V2;
    OK(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &v, n));
    EQ(get_int(fd, SOL_PACKET, PACKET_VERSION), TPACKET_V2);
    v = TPACKET_V2;
    OK(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &v, &n)); // a version in, its header's length out
    EQ(v, (int)sizeof(struct tpacket2_hdr));
    v = 99;
    ERR(getsockopt(fd, SOL_PACKET, PACKET_HDRLEN, &v, &n), EINVAL);
    EQ(get_int(fd, SOL_PACKET, PACKET_RESERVE), 0);
    set_int(fd, SOL_PACKET, PACKET_RESERVE, 4);
    EQ(get_int(fd, SOL_PACKET, PACKET_RESERVE), 4);
    ERR(setsockopt(fd, SOL_PACKET, PACKET_RESERVE, &(int){-1}, 4), EINVAL);
}

CASE(sending_needs_an_interface) {
    alone();
    int fd = packet(SOCK_RAW, 0);
    memset(in, 0, 100);
    ERR(send(fd, in, 60, 0), ENXIO);
    ERR(sendto(fd, in, 60, 0, ADDR(.sll_ifindex = 999)), ENXIO);
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_ifindex = 1};
    ERR(sendto(fd, in, 60, 0, SA(a), 10), EINVAL);
}

static int ring(int fd, struct tpacket_req *r, char **at) {
    set_int(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2);
    if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, r, sizeof *r) < 0) return -1;
    *at = mmap(NULL, (size_t)r->tp_block_size * r->tp_block_nr, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(*at != MAP_FAILED);
    return 0;
}

CASE(rings) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_RAW, ETH_P_IP);
    struct tpacket_req r = {.tp_block_size = 8192, .tp_block_nr = 2, .tp_frame_size = 2048, .tp_frame_nr = 8};
    char *at;
    OK(ring(fd, &r, &at));
    EQ(events(fd, POLLIN), 0);
    for (int i = 0; i < 10; i++) send_udp(to, "hello");
    EQ(events_within(fd, POLLIN, 5000), POLLIN);
    for (int i = 0; i < 8; i++) {
        struct tpacket2_hdr *h = (void *)(at + i * 2048);
        CHECK(h->tp_status & TP_STATUS_USER);
        EQ(h->tp_len, 47);
        EQ(h->tp_snaplen, 47);
        EQ(h->tp_net, 80);
        EQ(h->tp_mac, 66);
        CHECK(!memcmp((char *)h + h->tp_mac + 42, "hello", 5));
        struct sockaddr_ll *a = (void *)((char *)h + TPACKET_ALIGN(sizeof *h));
        EQ(a->sll_protocol, htons(ETH_P_IP));
        EQ(a->sll_ifindex, if_nametoindex("lo"));
        h->tp_status = TP_STATUS_KERNEL;
    }
    EQ(events(fd, POLLIN), 0);
    struct tpacket_stats s;
    socklen_t n = sizeof s;
    OK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &s, &n));
    EQ(s.tp_packets, 10);
    EQ(s.tp_drops, 2);
    send_udp(to, "again");
    struct tpacket2_hdr *h = (void *)at;
    CHECK(h->tp_status & TP_STATUS_USER);
    CHECK(!memcmp(at + h->tp_mac + 42, "again", 5));
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
}

CASE(ring_cuts_long_frames) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_DGRAM, ETH_P_IP);
    struct tpacket_req r = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 128, .tp_frame_nr = 32};
    char *at;
    OK(ring(fd, &r, &at));
    char text[201];
    memset(text, 'x', 200);
    text[200] = 0;
    send_udp(to, text);
    struct tpacket2_hdr *h = (void *)at;
    EQ(h->tp_len, 228);
    EQ(h->tp_snaplen, 128 - 80);
    EQ(h->tp_mac, 80);
    EQ(h->tp_net, 80);
    CHECK(h->tp_status & TP_STATUS_USER);
}

CASE(ring_with_room_before_the_frame) { // as libpcap wants it
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_RAW, ETH_P_IP);
    set_int(fd, SOL_PACKET, PACKET_RESERVE, 4);
    struct tpacket_req r = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
    char *at;
    OK(ring(fd, &r, &at));
    send_udp(to, "abc");
    struct tpacket2_hdr *h = (void *)at;
    CHECK(h->tp_status & TP_STATUS_USER);
    EQ(h->tp_mac, 70);
    EQ(h->tp_net, 84);
    CHECK(!memcmp(at + h->tp_mac + 42, "abc", 3));
    ERR(setsockopt(fd, SOL_PACKET, PACKET_RESERVE, &(int){8}, 4), EBUSY);
}

CASE(ring_arguments) {
    alone();
    int fd = packet(SOCK_RAW, ETH_P_ALL);
    set_int(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2);
    struct tpacket_req bad[] = {
        {1000, 1, 128, 7}, {4096, 1, 16, 256}, {4096, 1, 130, 31}, {4096, 2, 2048, 3}, {4096, 1, 8192, 1}, {0, 1, 128, 1},
    };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        ERR(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &bad[i], sizeof *bad), EINVAL);
    ERR(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &bad[0], 8), EINVAL);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED);
    EQ(errno, EINVAL);
    struct tpacket_req good = {4096, 1, 2048, 2}, none = {0};
    OK(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &good, sizeof good));
    ERR(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &good, sizeof good), EBUSY);
    ERR(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &(int){TPACKET_V1}, 4), EBUSY);
    OK(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &none, sizeof none));
}

CASE(listed_in_proc) {
    alone();
    char *line = NULL, found = 0;
    size_t size = 0;
    packet(SOCK_RAW, ETH_P_ARP);
    FILE *f = fopen("/proc/thread-self/net/packet", "r");
    CHECK(f);
    while (getline(&line, &size, f) > 0) found |= strstr(line, " 3    0806 ") != NULL;
    CHECK(found);
}

// Filters.

CASE(filter_arguments) {
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sock_filter code[] = {RET(~0u)};
    struct sock_fprog p = {1, code};
    ERR(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, 8), EINVAL);
    ERR(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, BAD, sizeof p), EFAULT);
    p.len = 0;
    ERR(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), EINVAL);
    p.len = 4097;
    ERR(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), EINVAL);
    p = (struct sock_fprog){1, BAD};
    ERR(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), EFAULT);
    ERR(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4), ENOENT);
    OK(FILTER(fd, RET(0)));
    OK(FILTER(fd, RET(1))); // another takes its place
    OK(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4));
    ERR(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4), ENOENT);
}

CASE(filter_programs_are_checked) {
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    ERR(FILTER(fd, BPF_STMT(BPF_LD | BPF_IMM, 1)), EINVAL);                                                // no return
    ERR(FILTER(fd, BPF_JUMP(BPF_JMP | BPF_JEQ, 1, 1, 0), RET(0)), EINVAL);                                 // past the end
    ERR(FILTER(fd, BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), RET(0)), EINVAL);
    ERR(FILTER(fd, BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 0), RET(0)), EINVAL);
    ERR(FILTER(fd, BPF_STMT(BPF_LD | BPF_MEM, 16), RET(0)), EINVAL);
    ERR(FILTER(fd, BPF_STMT(BPF_LD | BPF_MEM, 0), RET(0)), EINVAL);                                        // not stored
    ERR(FILTER(fd, BPF_STMT(0xffff, 0), RET(0)), EINVAL);
    ERR(FILTER(fd, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + 1), RET(0)), EINVAL);                   // no such fact
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_IFINDEX), BPF_STMT(BPF_RET | BPF_A, 0)));
    OK(FILTER(fd, BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), BPF_STMT(BPF_LD | BPF_H | BPF_IND, 2), RET(0)));
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 7), BPF_STMT(BPF_RET | BPF_A, 0)));
}

CASE(filter_lock) {
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(FILTER(fd, RET(~0u)));
    set_int(fd, SOL_SOCKET, SO_LOCK_FILTER, 1);
    EQ(get_int(fd, SOL_SOCKET, SO_LOCK_FILTER), 1);
    ERR(FILTER(fd, RET(0)), EPERM);
    ERR(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4), EPERM);
    ERR(setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &(int){0}, 4), EPERM);
}

CASE(filter_of_udp_sees_the_header) {
    in4 to;
    int fd = bound(SOCK_DGRAM, &to);
    // The first byte behind the header must be 'y'.
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8), BPF_JUMP(BPF_JMP | BPF_JEQ, 'y', 0, 1), RET(~0u), RET(0)));
    send_udp(to, "no");
    send_udp(to, "yes");
    EQ(recv(fd, in, sizeof in, 0), 3);
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    // By destination and length.
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 2), BPF_JUMP(BPF_JMP | BPF_JEQ, ntohs(to.sin_port), 0, 3),
              BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_JUMP(BPF_JMP | BPF_JGT, 12, 0, 1), RET(~0u), RET(0)));
    send_udp(to, "1234");
    send_udp(to, "12345");
    EQ(recv(fd, in, sizeof in, 0), 5);
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
}

CASE(filter_cuts) {
    in4 to;
    int fd = bound(SOCK_DGRAM, &to);
    OK(FILTER(fd, RET(10)));
    send_udp(to, "12345");
    EQ(recv(fd, in, sizeof in, 0), 2); // without the header
    OK(FILTER(fd, RET(1)));            // never into the header
    send_udp(to, "12345");
    EQ(recv(fd, in, sizeof in, 0), 0);
}

CASE(filter_reads_beyond_the_end_drop) {
    in4 to;
    int fd = bound(SOCK_DGRAM, &to);
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 100), RET(~0u)));
    send_udp(to, "short");
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_IMM, 1), BPF_STMT(BPF_LDX | BPF_IMM, 0), BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0), RET(~0u)));
    send_udp(to, "division");
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
}

CASE(filter_facts) {
    in4 to;
    int fd = bound(SOCK_DGRAM, &to);
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PROTOCOL), BPF_JUMP(BPF_JMP | BPF_JEQ, ETH_P_IP, 0, 1),
              RET(~0u), RET(0)));
    send_udp(to, "a");
    EQ(recv(fd, in, sizeof in, 0), 1);
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_IFINDEX),
              BPF_JUMP(BPF_JMP | BPF_JEQ, if_nametoindex("lo"), 0, 1), RET(~0u), RET(0)));
    send_udp(to, "b");
    EQ(recv(fd, in, sizeof in, 0), 1);
}

CASE(filter_of_unix_datagrams) {
    int p[2];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, p));
    OK(FILTER(p[1], BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ, 'y', 0, 1), RET(2), RET(0)));
    EQ(send(p[0], "no", 2, 0), 2); // tossed, and nobody is told
    EQ(send(p[0], "yes", 3, 0), 3);
    EQ(recv(p[1], in, sizeof in, 0), 2);
    ERR(recv(p[1], in, sizeof in, MSG_DONTWAIT), EAGAIN);
    EQ(send(p[1], "no", 2, 0), 2); // the other has none
    EQ(recv(p[0], in, sizeof in, 0), 2);
}

CASE(filter_of_raw_sockets_sees_the_ip_header) {
    alone();
    int fd = OK(socket(AF_INET, SOCK_RAW, IPPROTO_UDP));
    OK(FILTER(fd, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9), BPF_JUMP(BPF_JMP | BPF_JEQ, IPPROTO_UDP, 0, 1), RET(~0u), RET(0)));
    int s = OK(socket(AF_INET, SOCK_RAW, IPPROTO_UDP));
    in4 to = v4("127.0.0.1", 0);
    EQ(sendto(s, "12345678", 8, 0, SA(to), sizeof to), 8);
    EQ(recv(fd, in, sizeof in, 0), 28);
}

CASE(filter_of_packet_sockets) {
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int raw = packet(SOCK_RAW, ETH_P_IP), cooked = packet(SOCK_DGRAM, ETH_P_IP);
    OK(FILTER(raw, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ, ETH_P_IP, 0, 1), RET(20), RET(0)));
    OK(FILTER(cooked, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9), BPF_JUMP(BPF_JMP | BPF_JEQ, IPPROTO_UDP, 0, 1), RET(~0u), RET(0)));
    send_udp(to, "abc");
    EQ(recv(raw, in, sizeof in, MSG_TRUNC), 20);
    EQ(recv(cooked, in, sizeof in, 0), 31);
    // From the network's header on, and from the link's.
    OK(FILTER(raw, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, SKF_NET_OFF + 9), BPF_JUMP(BPF_JMP | BPF_JEQ, IPPROTO_UDP, 0, 1), RET(~0u),
              RET(0)));
    OK(FILTER(cooked, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, SKF_LL_OFF + 12), BPF_JUMP(BPF_JMP | BPF_JEQ, ETH_P_IP, 0, 1), RET(~0u),
              RET(0)));
    send_udp(to, "abc");
    EQ(recv(raw, in, sizeof in, 0), 45);
    EQ(recv(cooked, in, sizeof in, 0), 31);
}

CASE(filter_before_bind_keeps_a_socket_quiet) { // as dhclient does
    alone();
    in4 to;
    bound(SOCK_DGRAM, &to);
    int fd = packet(SOCK_RAW, 0);
    OK(FILTER(fd, RET(0)));
    OK(bind(fd, ADDR(.sll_ifindex = if_nametoindex("lo"), .sll_protocol = htons(ETH_P_ALL))));
    send_udp(to, "abc");
    ERR(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    OK(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4));
    send_udp(to, "abc");
    EQ(recv(fd, in, sizeof in, 0), 45);
}
