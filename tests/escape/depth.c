// depth: things within things within things, and many of them. A kernel that follows such a chain by recursion, or clears it up so,
// runs out of stack; the cases pass if the sandbox is still there afterwards.
#define _GNU_SOURCE
#include "escape.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

static void alive(void) {
    pid_t pid = fork();
    // What a case has left behind may still be on its way out.
    for (int i = 0; pid < 0 && i < 500; i++) usleep(10000), pid = fork();
    OK(pid);
    if (!pid) {
        char *p = mmap(NULL, 1 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(p, 1, 1 << 20);
        _exit(open("/", O_RDONLY) < 0);
    }
    EXITS(pid, 0);
}
static int down(int levels) {
    int i;
    for (i = 0; i < levels; i++)
        if (mkdir("d", 0777) || chdir("d")) break;
    return i;
}
// Waits for the child however it ends.
#define WITHIN(...)                                                                                                    \
    do {                                                                                                               \
        fflush(stdout);                                                                                                \
        pid_t within = OK(fork());                                                                                     \
        if (!within) { __VA_ARGS__; _exit(0); }                                                                        \
        int st;                                                                                                        \
        OK(waitpid(within, &st, 0));                                                                                   \
        alive();                                                                                                       \
    } while (0)

CASE(directories) {
    OK(mkdir("/tmp/deep", 0777));
    WITHIN(OK(chdir("/tmp/deep")); down(20000));
    // And up again, taking each away.
    WITHIN(OK(chdir("/tmp/deep")); int n = 0; while (chdir("d") == 0) n++; while (n-- > 0) { if (chdir("..") || rmdir("d")) break; });
    rmdir("/tmp/deep");
}
CASE(directories_of_a_file_system_that_goes) {
    mkdir("/tmp/m", 0777);
    if (mount("none", "/tmp/m", "tmpfs", 0, "")) return;
    WITHIN(OK(chdir("/tmp/m")); down(20000));
    WITHIN(umount2("/tmp/m", MNT_DETACH));
    rmdir("/tmp/m");
}
CASE(directories_removed_from_below) {
    OK(mkdir("/tmp/gone", 0777));
    // Each is removed while its child is where we are: only the chain of parents is left.
    WITHIN(OK(chdir("/tmp/gone")); for (int i = 0; i < 20000; i++) { if (mkdir("d", 0777) || chdir("d")) break; if (i % 2) { char up[32]; snprintf(up, sizeof up, "../../e%d", i); rename("../../d", up); } });
}
// A socket whose queue holds a socket whose queue holds a socket …
static void pass(int through, int fd) {
    char byte = 0, room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    sendmsg(through, &m, MSG_DONTWAIT);
}
CASE(descriptors_in_descriptors) {
    WITHIN(int inner = open("/dev/null", O_RDONLY); for (int i = 0; i < 20000; i++) { int s[2]; if (socketpair(AF_UNIX, SOCK_STREAM, 0, s)) break; pass(s[0], inner); close(inner); close(s[0]); inner = s[1]; } close(inner));
    // A ring, which only a collector ends.
    WITHIN(for (int i = 0; i < 2000; i++) { int s[2], t[2]; if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) || socketpair(AF_UNIX, SOCK_STREAM, 0, t)) break; pass(s[0], t[1]); pass(t[0], s[1]); for (int j = 0; j < 2; j++) close(s[j]), close(t[j]); });
}
CASE(epolls_in_epolls) {
    WITHIN(int inner = eventfd(1, 0); for (int i = 0; i < 5000; i++) { int e = epoll_create1(0); struct epoll_event ev = {.events = EPOLLIN}; if (e < 0 || epoll_ctl(e, EPOLL_CTL_ADD, inner, &ev)) { if (e >= 0) close(e); break; } inner = e; if (i > 900) break; } struct epoll_event ev; epoll_wait(inner, &ev, 1, 0));
    // The long way round: the middle last.
    WITHIN(int e[64]; struct epoll_event ev = {.events = EPOLLIN}; for (int i = 0; i < 64; i++) e[i] = epoll_create1(0); for (int i = 0; i < 63; i += 2) epoll_ctl(e[i], EPOLL_CTL_ADD, e[i + 1], &ev); for (int i = 1; i < 63; i += 2) epoll_ctl(e[i], EPOLL_CTL_ADD, e[i + 1], &ev);
           epoll_ctl(e[63], EPOLL_CTL_ADD, e[0], &ev); int v = eventfd(1, 0); epoll_ctl(e[63], EPOLL_CTL_ADD, v, &ev); epoll_wait(e[0], &ev, 1, 0));
}
CASE(mounts_on_mounts) {
    mkdir("/tmp/mm", 0777);
    WITHIN(for (int i = 0; i < 5000; i++) if (mount("none", "/tmp/mm", "tmpfs", 0, "")) break; struct stat st; stat("/tmp/mm", &st); slurp("/proc/self/mounts"); while (!umount2("/tmp/mm", MNT_DETACH)) {});
    WITHIN(char path[8192] = "/tmp/mm"; for (int i = 0; i < 1500; i++) { if (mount("none", path, "tmpfs", 0, "")) break; strcat(path, "/d"); if (mkdir(path, 0777)) break; } umount2("/tmp/mm", MNT_DETACH));
}
CASE(processes_of_processes) {
    WITHIN(struct rlimit l = {2000, 2000}; setrlimit(RLIMIT_NPROC, &l); for (int i = 0; i < 1000; i++) { pid_t p = fork(); if (p < 0) break; if (p) { int st; waitpid(p, &st, 0); _exit(0); } });
}
CASE(links_to_links) {
    mkdir("/tmp/links", 0777);
    WITHIN(OK(chdir("/tmp/links")); OK(symlink("/", "l0")); for (int i = 1; i < 2000; i++) { char a[32], b[32]; snprintf(a, 32, "l%d", i - 1); snprintf(b, 32, "l%d", i); if (symlink(a, b)) break; struct stat st; stat(b, &st); });
}
CASE(signals_without_end) {
    WITHIN(sigset_t all; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, NULL); union sigval v = {0}; for (int i = 0; i < 200000; i++) if (sigqueue(getpid(), SIGRTMIN + i % 20, v)) break; for (int i = 0; i < 200000; i++) kill(getpid(), SIGUSR1));
}
CASE(one_huge_request_each) { // counts and lengths at the edge of what the call takes
    WITHIN(struct iovec *v = calloc(1024, sizeof *v); char *p = mmap(NULL, 1 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); for (int i = 0; i < 1024; i++) v[i].iov_base = p, v[i].iov_len = 1 << 20; int z = open("/dev/zero", O_RDWR); if (readv(z, v, 1024) < 0) {} if (writev(z, v, 1024) < 0) {} if (preadv(z, v, 1024, 0) < 0) {});
    WITHIN(char *p = mmap(NULL, 1ul << 40, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); if (p == MAP_FAILED) _exit(0); int z = open("/dev/zero", O_RDWR), n = open("/dev/null", O_RDWR); if (write(n, p, 0x7ffff000) < 0) {} alarm(3); if (read(z, p, 0x7ffff000) < 0) {} mincore(p, 1ul << 40, (void *)p); madvise(p, 1ul << 40, MADV_DONTNEED); mprotect(p, 1ul << 40, PROT_READ); slurp("/proc/self/status"); slurp("/proc/self/smaps"); slurp("/proc/self/statm"));
    WITHIN(struct rlimit l = {1048576, 1048576}; setrlimit(RLIMIT_NOFILE, &l); dup2(0, 1048575); char *p = mmap(NULL, 16 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); syscall(SYS_poll, p, 1048576, 0); syscall(SYS_select, 1048576, p, p, p, &(struct timeval){0, 0}); struct epoll_event *e = (void *)p; int ep = epoll_create1(0); epoll_wait(ep, e, 178956970, 0); for (int i = 0; i < 6; i++) fork());
    WITHIN(char *p = mmap(NULL, 64 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); int s[2]; OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s)); struct iovec v = {p, 64 << 20}; struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = p, .msg_controllen = 64 << 20}; sendmsg(s[0], &m, MSG_DONTWAIT); recvmsg(s[1], &m, MSG_DONTWAIT); setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, p, 64 << 20); getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, p, (socklen_t *)p));
    WITHIN(char *p = mmap(NULL, 64 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); memset(p, 'a', (64 << 20) - 1); open(p, O_RDONLY); mkdir(p, 0777); syscall(SYS_setxattr, "/tmp", "user.x", p, 64 << 20, 0); syscall(SYS_getdents64, open("/", O_RDONLY), p, 64 << 20); char *a[2] = {p, NULL}; execve("/bin/true", a, a); syscall(SYS_sched_setaffinity, 0, 64 << 20, p); syscall(SYS_setgroups, 1 << 24, p); syscall(SYS_add_key, "user", p, p, 64 << 20, 0));
    WITHIN(char *p = mmap(NULL, 1 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); for (unsigned long n = 1; n; n <<= 1) { syscall(SYS_clone3, p, n); syscall(SYS_openat2, AT_FDCWD, "/", p, n); syscall(SYS_sched_setattr, 0, p, 0); syscall(SYS_process_vm_readv, getpid(), p, n, p, n, 0); syscall(449, p, n, 0, 0, 0); syscall(457, p, p, n, 0); syscall(458, p, p, n, 0); syscall(SYS_seccomp, 1, 0, p); syscall(SYS_io_setup, n, p); syscall(SYS_semget, 0, n, 01777); syscall(SYS_msgget, 0, 01777); syscall(SYS_shmget, 0, n, 01777); syscall(SYS_mq_open, "q", O_CREAT, 0600, p); });
}
CASE(files_without_end) { // offsets at the far end of what a file may be
    WITHIN(int fd = open("/tmp/far", O_RDWR | O_CREAT, 0600); char c = 1; long at[] = {0x7fffffffffffffff, 0x7ffffffffffff000, 0x7fffffffffffeffe, 1l << 44, 1l << 62}; for (int i = 0; i < 5; i++) { if (pwrite(fd, &c, 1, at[i]) < 0) {} if (ftruncate(fd, at[i]) < 0) {} lseek(fd, at[i], SEEK_SET); if (write(fd, &c, 1) < 0) {} lseek(fd, 0x7fffffffffffffff, SEEK_CUR); syscall(SYS_fallocate, fd, 0, at[i], at[i]); syscall(SYS_copy_file_range, fd, &at[i], fd, &at[(i + 1) % 5], 1l << 62, 0);
           mmap(NULL, 1 << 20, 3, MAP_SHARED, fd, at[i] & -4096); lseek(fd, at[i], SEEK_DATA); lseek(fd, at[i], SEEK_HOLE); } unlink("/tmp/far"));
}
