// Network namespaces: what is apart in a new one, what stays with a socket, and whose capabilities count.
#include "abi.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_in local(int port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}
static int listening(int port) {
    struct sockaddr_in at = local(port);
    int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), on = 1;
    OK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    OK(bind(fd, (void *)&at, sizeof at));
    OK(listen(fd, 5));
    return fd;
}
static int connecting(int port) {
    struct sockaddr_in to = local(port);
    int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int r = connect(fd, (void *)&to, sizeof to), e = errno;
    close(fd);
    errno = e;
    return r;
}
static int lo_flags(void) {
    struct ifreq r = {.ifr_name = "lo"};
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(ioctl(fd, SIOCGIFFLAGS, &r));
    close(fd);
    return r.ifr_flags;
}
static int lo_up(void) {
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0)), got = ioctl(fd, SIOCSIFFLAGS, &r), e = errno;
    close(fd);
    errno = e;
    return got;
}
static struct sockaddr_un abstract(const char *name, socklen_t *len) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strcpy(at.sun_path + 1, name);
    *len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    return at;
}
static unsigned long net_of(const char *who) {
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%s/ns/net", who);
    OK(stat(path, &st));
    return st.st_ino;
}

CASE(a_new_one_has_lo_which_is_down) {
    unsigned long old = net_of("self");
    IN_CHILD(OK(unshare(CLONE_NEWNET)); CHECK(net_of("self") != old); EQ(lo_flags() & IFF_UP, 0); ERR(connecting(1), ENETUNREACH);
             OK(lo_up()); CHECK(lo_flags() & IFF_UP); ERR(connecting(1), ECONNREFUSED));
    EQ(net_of("self"), old);
}
CASE(ports_are_apart) {
    int outer = listening(18471);
    IN_CHILD(OK(unshare(CLONE_NEWNET)); OK(lo_up()); ERR(connecting(18471), ECONNREFUSED); listening(18471); OK(connecting(18471)));
    OK(connecting(18471));
    close(outer);
}
CASE(a_socket_stays_where_it_was_made) {
    int outer = listening(18472);
    IN_CHILD(int fd = OK(socket(AF_INET, SOCK_STREAM, 0)); OK(unshare(CLONE_NEWNET)); struct sockaddr_in to = local(18472);
             OK(connect(fd, (void *)&to, sizeof to)); int got = OK(accept(outer, NULL, NULL)); EQ(write(fd, "x", 1), 1); char c;
             EQ(read(got, &c, 1), 1); ERR(connecting(18472), ENETUNREACH));
    close(outer);
}
CASE(abstract_names_are_apart_and_paths_are_not) {
    socklen_t len;
    struct sockaddr_un name = abstract("netns-test", &len), path = {.sun_family = AF_UNIX, .sun_path = "netns.sock"};
    int a = OK(socket(AF_UNIX, SOCK_STREAM, 0)), b = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    OK(bind(a, (void *)&name, len));
    OK(listen(a, 5));
    OK(bind(b, (void *)&path, sizeof path));
    OK(listen(b, 5));
    IN_CHILD(OK(unshare(CLONE_NEWNET)); int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
             ERR(connect(fd, (void *)&name, len), ECONNREFUSED); OK(connect(fd, (void *)&path, sizeof path));
             fd = OK(socket(AF_UNIX, SOCK_STREAM, 0)); OK(bind(fd, (void *)&name, len)));
    close(a), close(b);
}
CASE(setns_goes_back) {
    int home = OK(open("/proc/self/ns/net", O_RDONLY));
    unsigned long old = net_of("self");
    IN_CHILD(OK(unshare(CLONE_NEWNET)); CHECK(net_of("self") != old); OK(setns(home, CLONE_NEWNET)); EQ(net_of("self"), old);
             OK(unshare(CLONE_NEWNET)); OK(setns(home, 0)); EQ(net_of("self"), old); ERR(setns(home, CLONE_NEWUTS), EINVAL));
    IN_CHILD(OK(setresuid(1000, 1000, 1000)); ERR(unshare(CLONE_NEWNET), EPERM); ERR(setns(home, CLONE_NEWNET), EPERM));
    close(home);
}
CASE(clone_makes_one) {
    unsigned long old = net_of("self");
    pid_t pid = OK(syscall(SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0));
    if (!pid) _exit(net_of("self") != old && !(lo_flags() & IFF_UP) ? 0 : 1);
    EXITS(pid, 0);
}
CASE(who_made_it_rules_it) {
    // An ordinary user is root over a network of its own, and over no other.
    IN_CHILD(OK(setresgid(1000, 1000, 1000)); OK(setresuid(1000, 1000, 1000)); OK(unshare(CLONE_NEWUSER)); ERR(lo_up(), EPERM);
             ERR(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM); struct sockaddr_in at = local(80);
             int fd = OK(socket(AF_INET, SOCK_STREAM, 0)); ERR(bind(fd, (void *)&at, sizeof at), EACCES); OK(unshare(CLONE_NEWNET));
             OK(lo_up()); OK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); listening(80); OK(connecting(80));
             ERR(bind(fd, (void *)&at, sizeof at), EACCES));
}
static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }
// Options that are for who rules the network, as this capability in the socket's namespace allows or does not.
#define RULED(fd, WANT)                                                                                                \
    do {                                                                                                               \
        WANT(set(fd, SOL_SOCKET, SO_MARK, 7));                                                                         \
        WANT(set(fd, SOL_SOCKET, SO_PRIORITY, 7));                                                                     \
        WANT(set(fd, IPPROTO_IP, IP_TRANSPARENT, 1));                                                                  \
        WANT(set(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1));                                                              \
    } while (0)
#define DENIED(call) ERR(call, EPERM)
CASE(options_are_for_who_rules_the_sockets_network) {
    int kinds[] = {SOCK_STREAM, SOCK_DGRAM};
    for (int i = 0; i < 2; i++)
        IN_CHILD(int old = OK(socket(AF_INET6, kinds[i], 0)); RULED(old, OK); OK(set(old, SOL_SOCKET, SO_MARK, 0));
                 OK(setresgid(1000, 1000, 1000)); OK(setresuid(1000, 1000, 1000)); RULED(old, DENIED);
                 OK(unshare(CLONE_NEWUSER | CLONE_NEWNET)); RULED(old, DENIED); OK(set(old, SOL_SOCKET, SO_PRIORITY, 6));
                 OK(set(old, IPPROTO_IP, IP_TRANSPARENT, 0)); int new = OK(socket(AF_INET6, kinds[i], 0)); RULED(new, OK));
    // A netlink socket is marked like any other.
    IN_CHILD(int old = OK(socket(AF_NETLINK, SOCK_RAW, 0)); OK(set(old, SOL_SOCKET, SO_MARK, 7));
             OK(setresgid(1000, 1000, 1000)); OK(setresuid(1000, 1000, 1000)); OK(unshare(CLONE_NEWUSER | CLONE_NEWNET));
             ERR(set(old, SOL_SOCKET, SO_MARK, 7), EPERM));
}
CASE(proc_net_is_the_readers) {
    int outer = listening(18473);
    CHECK(strstr(slurp("/proc/net/tcp"), ":4829 "));
    IN_CHILD(OK(unshare(CLONE_NEWNET)); CHECK(!strstr(slurp("/proc/net/tcp"), ":4829 ")); char path[64];
             snprintf(path, sizeof path, "/proc/%d/net/tcp", getppid()); CHECK(strstr(slurp(path), ":4829 ")));
    close(outer);
}
CASE(it_ends_with_its_last_user) {
    for (int i = 0; i < 40; i++) IN_CHILD(OK(unshare(CLONE_NEWNET)); OK(lo_up()); listening(18474); OK(connecting(18474)));
}

// Writes a sysctl of the network; 0 or the error.
static int sysctl_error(const char *name, const char *value) {
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/net/%s", name);
    int fd = open(path, O_WRONLY | O_CLOEXEC), e;
    if (fd < 0) return errno;
    e = write(fd, value, strlen(value)) < 0 ? errno : 0;
    close(fd);
    return e;
}
static int tcp_option(int level, int name) {
    int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), v = -1;
    socklen_t n = sizeof v;
    OK(getsockopt(fd, level, name, &v, &n));
    close(fd);
    return v;
}

CASE(tcp_s_sysctls_are_each_network_s) {
    OK(unshare(CLONE_NEWNET));
    int before = OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), v;
    socklen_t n = sizeof v;
    struct { const char *sysctl; int option; const char *value; int shown; } t[] = {
        {"ipv4/tcp_keepalive_time", TCP_KEEPIDLE, "600\n", 600}, {"ipv4/tcp_keepalive_intvl", TCP_KEEPINTVL, "11", 11},
        {"ipv4/tcp_keepalive_probes", TCP_KEEPCNT, "3", 3}, {"ipv4/tcp_syn_retries", TCP_SYNCNT, "2", 2}, {"ipv4/tcp_fin_timeout", TCP_LINGER2, "30", 30},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        EQ(sysctl_error(t[i].sysctl, t[i].value), 0);
        char path[128];
        snprintf(path, sizeof path, "/proc/sys/net/%s", t[i].sysctl);
        EQ(atoi(slurp(path)), t[i].shown);
        EQ(tcp_option(IPPROTO_TCP, t[i].option), t[i].shown);
        OK(getsockopt(before, IPPROTO_TCP, t[i].option, &v, &n)); // whoever has not set it himself follows
        EQ(v, t[i].shown);
        EQ(sysctl_error(t[i].sysctl, "x"), EINVAL);
    }
    OK(setsockopt(before, IPPROTO_TCP, TCP_KEEPIDLE, &(int){77}, sizeof(int)));
    EQ(sysctl_error("ipv4/tcp_keepalive_time", "500"), 0);
    OK(getsockopt(before, IPPROTO_TCP, TCP_KEEPIDLE, &v, &n));
    EQ(v, 77);
    EQ(sysctl_error("ipv4/tcp_keepalive_probes", "256"), EINVAL);
    EQ(sysctl_error("ipv4/tcp_syn_retries", "0"), EINVAL);
    EQ(sysctl_error("ipv4/tcp_rmem", "0 1 2"), EINVAL);
    EQ(sysctl_error("ipv4/tcp_rmem", "4096 100000 200000"), 0);
    EQ(strcmp(slurp("/proc/sys/net/ipv4/tcp_rmem"), "4096\t100000\t200000\n"), 0);
    EQ(sysctl_error("ipv4/tcp_wmem", "4096 30000"), 0);
    EQ(tcp_option(SOL_SOCKET, SO_RCVBUF), 100000);
    EQ(tcp_option(SOL_SOCKET, SO_SNDBUF), 30000);
    IN_CHILD(OK(unshare(CLONE_NEWNET)); EQ(tcp_option(IPPROTO_TCP, TCP_LINGER2), 60));
    IN_CHILD(OK(setresuid(1000, 1000, 1000)); EQ(sysctl_error("ipv4/tcp_fin_timeout", "9"), EACCES));
}
