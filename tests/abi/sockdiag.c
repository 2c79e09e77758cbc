// sockdiag: NETLINK_SOCK_DIAG (sock_diag(7)): internet and unix sockets as `ss` asks for them.
#include "inet.h"
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/ip.h>
#include <sys/un.h>

enum { ESTABLISHED = 1, CLOSE_ = 7, LISTEN_ = 10, ALL = -1 };
static char in[65536];
static int diag(void) { return OK(socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)); }

static void ask(int fd, int type, int flags, const void *body, int len) {
    char out[1024] = {0};
    struct nlmsghdr h = {.nlmsg_len = NLMSG_LENGTH(len), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = 7};
    memcpy(out, &h, sizeof h);
    memcpy(out + NLMSG_HDRLEN, body, len);
    EQ(send(fd, out, h.nlmsg_len, 0), h.nlmsg_len);
}
static int error_of(int type, int flags, const void *body, int len) {
    int fd = diag();
    ask(fd, type, flags, body, len);
    OK(recv(fd, in, sizeof in, 0));
    struct nlmsghdr *h = (void *)in;
    EQ(h->nlmsg_type, NLMSG_ERROR);
    OK(close(fd));
    return -((struct nlmsgerr *)NLMSG_DATA(h))->error;
}
static void *attribute(struct nlmsghdr *h, int header, int type, int *len) {
    struct nlattr *a = (void *)((char *)NLMSG_DATA(h) + NLMSG_ALIGN(header));
    char *end = (char *)h + h->nlmsg_len;
    for (; (char *)a + sizeof *a <= end && a->nla_len >= sizeof *a; a = (void *)((char *)a + NLA_ALIGN(a->nla_len)))
        if ((a->nla_type & NLA_TYPE_MASK) == type) {
            if (len) *len = a->nla_len - NLA_HDRLEN;
            return (char *)a + NLA_HDRLEN;
        }
    return NULL;
}
static unsigned inode_of(int fd) {
    struct stat st;
    OK(fstat(fd, &st));
    return st.st_ino;
}
// The message about a socket in a dump, copied; NULL: it is not in it.
static struct nlmsghdr *found(const void *body, int len, int type, unsigned offset, unsigned ino) {
    static char copy[4096];
    struct nlmsghdr *result = NULL;
    int fd = diag();
    ask(fd, type, NLM_F_DUMP, body, len);
    for (;;) {
        int n = OK(recv(fd, in, sizeof in, 0));
        for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            EQ(h->nlmsg_seq, 7);
            if (h->nlmsg_type == NLMSG_DONE) {
                OK(close(fd));
                return result;
            }
            EQ(h->nlmsg_type, SOCK_DIAG_BY_FAMILY);
            CHECK(h->nlmsg_flags & NLM_F_MULTI);
            if (*(unsigned *)((char *)NLMSG_DATA(h) + offset) != ino) continue;
            CHECK(!result && h->nlmsg_len < sizeof copy);
            result = memcpy(copy, h, h->nlmsg_len);
        }
    }
}
static struct nlmsghdr *inet_found(int family, int protocol, int states, int ext, int fd) {
    struct inet_diag_req_v2 r = {.sdiag_family = family, .sdiag_protocol = protocol, .idiag_ext = ext, .idiag_states = states};
    return found(&r, sizeof r, SOCK_DIAG_BY_FAMILY, offsetof(struct inet_diag_msg, idiag_inode), inode_of(fd));
}
static struct inet_diag_msg *inet_msg(struct nlmsghdr *h) {
    CHECK(h);
    return NLMSG_DATA(h);
}

CASE(arguments) {
    ERR(socket(AF_NETLINK, SOCK_STREAM, NETLINK_SOCK_DIAG), ESOCKTNOSUPPORT);
    struct inet_diag_req_v2 r = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ALL};
    EQ(error_of(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &r, 1), EINVAL);
    EQ(error_of(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &r, 20), EINVAL);
    EQ(error_of(99, NLM_F_DUMP, &r, sizeof r), EINVAL);
    r.sdiag_family = 77;
    EQ(error_of(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &r, sizeof r), EINVAL);
    r.sdiag_family = AF_APPLETALK;
    EQ(error_of(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &r, sizeof r), ENOENT);
}

CASE(a_listener) {
    in4 a;
    int fd = listener(&a, 7);
    struct inet_diag_msg *m = inet_msg(inet_found(AF_INET, IPPROTO_TCP, ALL, 0, fd));
    EQ(m->idiag_family, AF_INET);
    EQ(m->idiag_state, LISTEN_);
    EQ(m->id.idiag_sport, a.sin_port);
    EQ(m->id.idiag_dport, 0);
    EQ(m->id.idiag_src[0], htonl(INADDR_LOOPBACK));
    EQ(m->id.idiag_dst[0], 0);
    EQ(m->idiag_rqueue, 0);
    EQ(m->idiag_wqueue, 7);
    EQ(m->idiag_uid, getuid());
    connected_to(a);
    m = inet_msg(inet_found(AF_INET, IPPROTO_TCP, 1 << LISTEN_, 0, fd));
    EQ(m->idiag_rqueue, 1); // waits to be accepted
}

CASE(a_connection) {
    tcp_pair();
    EQ(send(C, "hello", 5, 0), 5);
    EQ(events_within(S, POLLIN, 5000), POLLIN);
    struct inet_diag_msg *m = inet_msg(inet_found(AF_INET, IPPROTO_TCP, ALL, 0, S));
    EQ(m->idiag_state, ESTABLISHED);
    EQ(m->id.idiag_sport, name4(S).sin_port);
    EQ(m->id.idiag_dport, name4(C).sin_port);
    EQ(m->id.idiag_dst[0], htonl(INADDR_LOOPBACK));
    EQ(m->idiag_rqueue, 5);
    EQ(m->idiag_wqueue, 0);
}

CASE(states_choose) {
    in4 a;
    int l = listener(&a, 1);
    CHECK(!inet_found(AF_INET, IPPROTO_TCP, 1 << ESTABLISHED, 0, l));
    CHECK(inet_found(AF_INET, IPPROTO_TCP, 1 << LISTEN_, 0, l));
    CHECK(!inet_found(AF_INET, IPPROTO_TCP, 0, 0, l));
    CHECK(!inet_found(AF_INET6, IPPROTO_TCP, ALL, 0, l));
    CHECK(!inet_found(AF_INET, IPPROTO_UDP, ALL, 0, l));
}

CASE(closed_sockets_are_not_there) {
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(!inet_found(AF_INET, IPPROTO_TCP, ALL, 0, fd));
    int u = OK(socket(AF_INET, SOCK_DGRAM, 0));
    CHECK(!inet_found(AF_INET, IPPROTO_UDP, ALL, 0, u));
}

CASE(udp) {
    in4 a;
    int fd = bound(SOCK_DGRAM, &a), other = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct inet_diag_msg *m = inet_msg(inet_found(AF_INET, IPPROTO_UDP, ALL, 0, fd));
    EQ(m->idiag_state, CLOSE_);
    EQ(m->id.idiag_sport, a.sin_port);
    OK(connect(other, SA(a), sizeof a));
    EQ(send(other, "abc", 3, 0), 3);
    m = inet_msg(inet_found(AF_INET, IPPROTO_UDP, ALL, 0, other));
    EQ(m->idiag_state, ESTABLISHED);
    EQ(m->id.idiag_dport, a.sin_port);
    m = inet_msg(inet_found(AF_INET, IPPROTO_UDP, ALL, 0, fd));
    CHECK(m->idiag_rqueue >= 3);
}

CASE(six) {
    int fd = OK(socket(AF_INET6, SOCK_STREAM, 0));
    in6 a = v6("::1", 0);
    OK(bind(fd, SA(a), sizeof a));
    OK(listen(fd, 3));
    struct nlmsghdr *h = inet_found(AF_INET6, IPPROTO_TCP, ALL, 0, fd);
    struct inet_diag_msg *m = inet_msg(h);
    EQ(m->idiag_family, AF_INET6);
    EQ(m->id.idiag_sport, name6(fd).sin6_port);
    EQ(m->id.idiag_src[3], htonl(1));
    unsigned char *only = attribute(h, sizeof *m, INET_DIAG_SKV6ONLY, NULL);
    CHECK(only);
    EQ(*only, 1); // who has bound to such an address takes no IPv4
    EQ(get_int(fd, IPPROTO_IPV6, IPV6_V6ONLY), 1);
}

CASE(mapped_addresses) {
    int l = OK(socket(AF_INET6, SOCK_STREAM, 0)), c = OK(socket(AF_INET, SOCK_STREAM, 0));
    in6 any = v6("::", 0);
    OK(bind(l, SA(any), sizeof any));
    OK(listen(l, 3));
    in4 to = v4("127.0.0.1", ntohs(name6(l).sin6_port));
    OK(connect(c, SA(to), sizeof to));
    int s = OK(accept(l, NULL, NULL));
    struct inet_diag_msg *m = inet_msg(inet_found(AF_INET6, IPPROTO_TCP, ALL, 0, s));
    EQ(m->id.idiag_src[2], htonl(0xffff));
    EQ(m->id.idiag_src[3], htonl(INADDR_LOOPBACK));
}

CASE(extensions) {
    tcp_pair();
    struct nlmsghdr *h = inet_found(AF_INET, IPPROTO_TCP, ALL, 0, C);
    CHECK(inet_msg(h) && !attribute(h, sizeof(struct inet_diag_msg), INET_DIAG_INFO, NULL));
    int ext = 1 << (INET_DIAG_INFO - 1) | 1 << (INET_DIAG_CONG - 1) | 1 << (INET_DIAG_SKMEMINFO - 1) | 1 << (INET_DIAG_MEMINFO - 1), n;
    h = inet_found(AF_INET, IPPROTO_TCP, ALL, ext, C);
    CHECK(h);
    struct tcp_info *info = attribute(h, sizeof(struct inet_diag_msg), INET_DIAG_INFO, &n);
    CHECK(info && n >= (int)sizeof *info);
    EQ(info->tcpi_state, ESTABLISHED);
    char *cong = attribute(h, sizeof(struct inet_diag_msg), INET_DIAG_CONG, &n);
    CHECK(cong && strlen(cong) == (size_t)n - 1);
    unsigned *mem = attribute(h, sizeof(struct inet_diag_msg), INET_DIAG_SKMEMINFO, &n);
    CHECK(mem);
    EQ(n, 36);
    EQ(mem[SK_MEMINFO_RCVBUF], get_int(C, SOL_SOCKET, SO_RCVBUF));
    EQ(mem[SK_MEMINFO_SNDBUF], get_int(C, SOL_SOCKET, SO_SNDBUF));
    CHECK(attribute(h, sizeof(struct inet_diag_msg), INET_DIAG_MEMINFO, NULL));
}

CASE(shut_sides) {
    tcp_pair();
    struct nlmsghdr *h = inet_found(AF_INET, IPPROTO_TCP, ALL, 0, C);
    EQ(*(char *)attribute(h, sizeof(struct inet_diag_msg), INET_DIAG_SHUTDOWN, NULL), 0);
    OK(shutdown(C, SHUT_WR));
    h = inet_found(AF_INET, IPPROTO_TCP, ALL, 0, C);
    EQ(*(char *)attribute(h, sizeof(struct inet_diag_msg), INET_DIAG_SHUTDOWN, NULL), 2);
    int state = inet_msg(inet_found(AF_INET, IPPROTO_TCP, ALL, 0, C))->idiag_state;
    CHECK(state == 4 || state == 5); // the FIN may not be acknowledged yet
    EQ(inet_msg(inet_found(AF_INET, IPPROTO_TCP, ALL, 0, S))->idiag_state, 8);
}

CASE(the_cookie_is_the_sockets) {
    tcp_pair();
    struct inet_diag_msg *m = inet_msg(inet_found(AF_INET, IPPROTO_TCP, ALL, 0, C));
    unsigned long long cookie = m->id.idiag_cookie[0] | (unsigned long long)m->id.idiag_cookie[1] << 32, own = 0;
    socklen_t n = sizeof own;
    OK(getsockopt(C, SOL_SOCKET, SO_COOKIE, &own, &n));
    EQ(cookie, own);
}

CASE(one_by_its_addresses) {
    tcp_pair();
    in4 a = name4(C), b = name4(S);
    struct inet_diag_req_v2 r = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ALL,
                                 .id = {.idiag_sport = a.sin_port, .idiag_dport = b.sin_port, .idiag_src = {a.sin_addr.s_addr},
                                        .idiag_dst = {b.sin_addr.s_addr}, .idiag_cookie = {-1, -1}}};
    int fd = diag();
    ask(fd, SOCK_DIAG_BY_FAMILY, 0, &r, sizeof r);
    OK(recv(fd, in, sizeof in, 0));
    struct nlmsghdr *h = (void *)in;
    EQ(h->nlmsg_type, SOCK_DIAG_BY_FAMILY);
    EQ(h->nlmsg_flags & NLM_F_MULTI, 0);
    EQ(((struct inet_diag_msg *)NLMSG_DATA(h))->idiag_inode, inode_of(C));
    r.id.idiag_cookie[0] = 0x12345678;
    r.id.idiag_cookie[1] = 0;
    CHECK(error_of(SOCK_DIAG_BY_FAMILY, 0, &r, sizeof r) != 0); // another's
    r.id = (struct inet_diag_sockid){.idiag_sport = htons(1), .idiag_dport = htons(1), .idiag_cookie = {-1, -1}};
    EQ(error_of(SOCK_DIAG_BY_FAMILY, 0, &r, sizeof r), ENOENT);
}

struct coded {
    struct inet_diag_req_v2 r;
    struct nlattr a;
    struct inet_diag_bc_op code[8];
};
static struct coded coded(int ops, const struct inet_diag_bc_op *code) {
    struct coded c = {.r = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ALL},
                      .a = {.nla_len = NLA_HDRLEN + 4 * ops, .nla_type = INET_DIAG_REQ_BYTECODE}};
    memcpy(c.code, code, 4 * ops);
    return c;
}
static int passes(int ops, const struct inet_diag_bc_op *code, int fd) {
    struct coded c = coded(ops, code);
    return found(&c, sizeof c.r + c.a.nla_len, SOCK_DIAG_BY_FAMILY, offsetof(struct inet_diag_msg, idiag_inode), inode_of(fd)) != NULL;
}

CASE(conditions_on_ports) { // as `ss sport = :PORT` asks
    in4 a;
    int fd = listener(&a, 1), port = ntohs(a.sin_port);
    struct inet_diag_bc_op at_least[] = {{INET_DIAG_BC_S_GE, 8, 12}, {0, 0, port}};
    CHECK(passes(2, at_least, fd));
    at_least[1].no = port + 1;
    CHECK(!passes(2, at_least, fd));
    struct inet_diag_bc_op at_most[] = {{INET_DIAG_BC_S_LE, 8, 12}, {0, 0, port}};
    CHECK(passes(2, at_most, fd));
    struct inet_diag_bc_op both[] = {{INET_DIAG_BC_S_GE, 8, 20}, {0, 0, port}, {INET_DIAG_BC_S_LE, 8, 12}, {0, 0, port}};
    CHECK(passes(4, both, fd));
    both[3].no = port - 1;
    CHECK(!passes(4, both, fd));
    struct inet_diag_bc_op far[] = {{INET_DIAG_BC_D_LE, 8, 12}, {0, 0, 0}};
    CHECK(passes(2, far, fd));
}

CASE(conditions_on_addresses) {
    in4 a;
    int fd = listener(&a, 1);
    struct { struct inet_diag_bc_op op; struct inet_diag_hostcond h; unsigned ip; } host = {
        {INET_DIAG_BC_S_COND, 16, 20}, {.family = AF_INET, .prefix_len = 8, .port = -1}, htonl(0x7f090909)};
    CHECK(passes(4, (void *)&host, fd));
    host.h.prefix_len = 32;
    CHECK(!passes(4, (void *)&host, fd));
    host.ip = htonl(INADDR_LOOPBACK);
    CHECK(passes(4, (void *)&host, fd));
    host.h.port = ntohs(a.sin_port);
    CHECK(passes(4, (void *)&host, fd));
    host.h.port++;
    CHECK(!passes(4, (void *)&host, fd));
}

CASE(broken_conditions) {
    struct inet_diag_bc_op bad[][2] = {{{99, 4, 8}}, {{INET_DIAG_BC_S_GE, 4, 8}}, {{INET_DIAG_BC_NOP, 3, 4}}, {{INET_DIAG_BC_AUTO, 4, 0}}};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct coded c = coded(1, bad[i]);
        EQ(error_of(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &c, sizeof c.r + c.a.nla_len), EINVAL);
    }
}

CASE(many_come_in_several_datagrams) {
    enum { MANY = 300 };
    int fds[MANY], count = 0, datagrams = 0, done = 0, fd = diag();
    for (int i = 0; i < MANY; i++) {
        in4 a;
        fds[i] = listener(&a, 1);
    }
    struct inet_diag_req_v2 r = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1 << LISTEN_};
    ask(fd, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &r, sizeof r);
    while (!done) {
        int n = OK(recv(fd, in, sizeof in, 0));
        datagrams++;
        CHECK(n <= 32768);
        for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            if (h->nlmsg_type == NLMSG_DONE) done = 1;
            else count++;
        }
    }
    CHECK(count >= MANY && datagrams > 1);
    CHECK(fds[0] >= 0);
}

static struct nlmsghdr *unix_found(int states, int show, int fd) {
    struct unix_diag_req r = {.sdiag_family = AF_UNIX, .udiag_states = states, .udiag_show = show};
    return found(&r, sizeof r, SOCK_DIAG_BY_FAMILY, offsetof(struct unix_diag_msg, udiag_ino), inode_of(fd));
}
CASE(unix_pairs) {
    int p[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    EQ(write(p[0], "hello", 5), 5);
    struct nlmsghdr *h = unix_found(ALL, UDIAG_SHOW_PEER | UDIAG_SHOW_NAME | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID, p[1]);
    CHECK(h);
    struct unix_diag_msg *m = NLMSG_DATA(h);
    EQ(m->udiag_family, AF_UNIX);
    EQ(m->udiag_type, SOCK_STREAM);
    EQ(m->udiag_state, ESTABLISHED);
    unsigned *peer = attribute(h, sizeof *m, UNIX_DIAG_PEER, NULL);
    CHECK(peer);
    EQ(*peer, inode_of(p[0]));
    CHECK(!attribute(h, sizeof *m, UNIX_DIAG_NAME, NULL));
    struct unix_diag_rqlen *q = attribute(h, sizeof *m, UNIX_DIAG_RQLEN, NULL);
    CHECK(q);
    EQ(q->udiag_rqueue, 5);
    CHECK(!unix_found(1 << LISTEN_, 0, p[1]));
}

CASE(unix_listeners_and_names) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int len = snprintf(a.sun_path, sizeof a.sun_path, "/tmp/sockdiag-%d", getpid()), n;
    int fd = OK(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    OK(bind(fd, SA(a), offsetof(struct sockaddr_un, sun_path) + len + 1));
    OK(listen(fd, 9));
    struct nlmsghdr *h = unix_found(1 << LISTEN_, UDIAG_SHOW_NAME | UDIAG_SHOW_RQLEN, fd);
    CHECK(h);
    EQ(((struct unix_diag_msg *)NLMSG_DATA(h))->udiag_type, SOCK_SEQPACKET);
    char *name = attribute(h, sizeof(struct unix_diag_msg), UNIX_DIAG_NAME, &n);
    CHECK(name);
    EQ(n, len + 1);
    CHECK(!memcmp(name, a.sun_path, n));
    struct unix_diag_rqlen *q = attribute(h, sizeof(struct unix_diag_msg), UNIX_DIAG_RQLEN, NULL);
    EQ(q->udiag_rqueue, 0);
    EQ(q->udiag_wqueue, 9);
    OK(unlink(a.sun_path));
    int abstract = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    a.sun_path[0] = 0;
    OK(bind(abstract, SA(a), offsetof(struct sockaddr_un, sun_path) + 9));
    h = unix_found(ALL, UDIAG_SHOW_NAME, abstract);
    name = attribute(h, sizeof(struct unix_diag_msg), UNIX_DIAG_NAME, &n);
    EQ(n, 9);
    CHECK(name[0] == 0 && !memcmp(name + 1, a.sun_path + 1, 8));
    EQ(((struct unix_diag_msg *)NLMSG_DATA(h))->udiag_state, CLOSE_);
}

CASE(one_unix_socket) {
    int p[2], fd = diag();
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, p));
    struct unix_diag_req r = {.sdiag_family = AF_UNIX, .udiag_ino = inode_of(p[0]), .udiag_cookie = {-1, -1}};
    ask(fd, SOCK_DIAG_BY_FAMILY, 0, &r, sizeof r);
    OK(recv(fd, in, sizeof in, 0));
    struct nlmsghdr *h = (void *)in;
    EQ(h->nlmsg_type, SOCK_DIAG_BY_FAMILY);
    EQ(((struct unix_diag_msg *)NLMSG_DATA(h))->udiag_ino, inode_of(p[0]));
    r.udiag_ino = 0;
    EQ(error_of(SOCK_DIAG_BY_FAMILY, 0, &r, sizeof r), EINVAL);
    r.udiag_ino = 0x7fffffff;
    EQ(error_of(SOCK_DIAG_BY_FAMILY, 0, &r, sizeof r), ENOENT);
    EQ(error_of(SOCK_DIAG_BY_FAMILY, 0, &r, 10), EINVAL);
}
