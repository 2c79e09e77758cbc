// inet.h: what the families about internet sockets share.
#ifndef INET_H
#define INET_H
#include "abi.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#define SA(a) ((struct sockaddr *)&(a))
typedef struct sockaddr_in in4;
typedef struct sockaddr_in6 in6;

static inline in4 v4(const char *ip, int port) {
    in4 a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, ip, &a.sin_addr);
    return a;
}
static inline in6 v6(const char *ip, int port) {
    in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    inet_pton(AF_INET6, ip, &a.sin6_addr);
    return a;
}
// A network of one's own, in which nobody else sends.
static inline void alone(void) {
    OK(unshare(CLONE_NEWNET));
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(ioctl(fd, SIOCSIFFLAGS, &r));
    OK(close(fd));
}
// The address a socket is bound to.
static inline in4 name4(int fd) {
    in4 a;
    socklen_t n = sizeof a;
    OK(getsockname(fd, SA(a), &n));
    return a;
}
static inline in6 name6(int fd) {
    in6 a;
    socklen_t n = sizeof a;
    OK(getsockname(fd, SA(a), &n));
    return a;
}
static inline int get_int(int fd, int level, int name) {
    int v = -12345;
    socklen_t n = sizeof v;
    OK(getsockopt(fd, level, name, &v, &n));
    return v;
}
static inline void set_int(int fd, int level, int name, int v) { OK(setsockopt(fd, level, name, &v, sizeof v)); }
// A socket bound to 127.0.0.1, any port; *a is its address.
static inline int bound(int type, in4 *a) {
    int fd = OK(socket(AF_INET, type, 0));
    *a = v4("127.0.0.1", 0);
    OK(bind(fd, SA(*a), sizeof *a));
    *a = name4(fd);
    return fd;
}
static inline int listener(in4 *a, int backlog) {
    int fd = bound(SOCK_STREAM, a);
    OK(listen(fd, backlog));
    return fd;
}
static inline int connected_to(in4 a) {
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(connect(fd, SA(a), sizeof a));
    return fd;
}
// Two ends of a TCP connection.
static int C, S;
static inline void tcp_pair(void) {
    in4 a;
    int l = listener(&a, 5);
    C = connected_to(a);
    S = OK(accept(l, NULL, NULL));
    OK(close(l));
}
static inline int events(int fd, int wanted) {
    struct pollfd p = {fd, wanted, 0};
    OK(poll(&p, 1, 0));
    return p.revents;
}
static inline int events_within(int fd, int wanted, int ms) {
    struct pollfd p = {fd, wanted, 0};
    OK(poll(&p, 1, ms));
    return p.revents;
}
#define ALL_EVENTS (POLLIN | POLLOUT | POLLRDHUP | POLLPRI)
#endif
