// pidfd: opening, signals, poll and epoll, waitid, getfd, clone with CLONE_PIDFD, fdinfo.
#include "abi.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#define PIDFD_THREAD_ O_EXCL
static int pidfd_open_(pid_t pid, unsigned flags) { return syscall(SYS_pidfd_open, pid, flags); }
static int pidfd_send(int fd, int sig, siginfo_t *info, unsigned flags) { return syscall(SYS_pidfd_send_signal, fd, sig, info, flags); }
static int pidfd_getfd_(int fd, int target, unsigned flags) { return syscall(SYS_pidfd_getfd, fd, target, flags); }
static pid_t sleeper(void) {
    pid_t pid = OK(fork());
    if (!pid) for (;;) pause();
    return pid;
}
static void end(pid_t pid) { kill(pid, SIGKILL); wait_status(pid); }
static short ready_for(int fd, int timeout) {
    struct pollfd p = {fd, POLLIN, 0};
    OK(poll(&p, 1, timeout));
    return p.revents;
}

CASE(open_rules) {
    ERR(pidfd_open_(0, 0), EINVAL);
    ERR(pidfd_open_(-1, 0), EINVAL);
    ERR(pidfd_open_(getpid(), 1), EINVAL);
    ERR(pidfd_open_(4000000, 0), ESRCH);
    int fd = OK(pidfd_open_(getpid(), 0));
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    int nb = OK(pidfd_open_(getpid(), O_NONBLOCK));
    EQ(fcntl(nb, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}

CASE(reading_and_writing_is_refused) {
    char c;
    int fd = OK(pidfd_open_(getpid(), 0));
    ERR(read(fd, &c, 1), EINVAL);
    ERR(write(fd, "x", 1), EINVAL);
    ERR(lseek(fd, 0, SEEK_SET), ESPIPE);
}

CASE(limit_of_descriptors) {
    soft_limit(RLIMIT_NOFILE, 3);
    ERR(pidfd_open_(getpid(), 0), EMFILE);
}

CASE(zombie_can_be_opened) {
    pid_t pid = OK(fork());
    if (!pid) _exit(3);
    siginfo_t si;
    OK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT));
    int fd = OK(pidfd_open_(pid, 0));
    EQ(ready_for(fd, 0), POLLIN);
    OK(pidfd_send(fd, SIGTERM, NULL, 0));
    OK(waitid(P_PIDFD, fd, &si, WEXITED));
    EQ(si.si_pid, pid);
    EQ(si.si_status, 3);
    ERR(pidfd_send(fd, 0, NULL, 0), ESRCH);
    ERR(pidfd_open_(pid, 0), ESRCH);
}

CASE(poll_until_exit) {
    pid_t pid = sleeper();
    int fd = OK(pidfd_open_(pid, 0));
    EQ(ready_for(fd, 30), 0);
    OK(pidfd_send(fd, SIGKILL, NULL, 0));
    EQ(ready_for(fd, 5000), POLLIN);
    DIES(pid, SIGKILL);
    EQ(ready_for(fd, 0) & POLLIN, POLLIN);
}

CASE(poll_is_interrupted) {
    pid_t pid = sleeper();
    struct pollfd p = {OK(pidfd_open_(pid, 0)), POLLIN, 0};
    INTERRUPTED_EVEN_WITH_RESTART(poll(&p, 1, -1));
    end(pid);
}

CASE(epoll) {
    pid_t pid = sleeper();
    int fd = OK(pidfd_open_(pid, 0)), ep = OK(epoll_create1(0));
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 7}, got;
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
    EQ(epoll_wait(ep, &got, 1, 20), 0);
    kill(pid, SIGTERM);
    EQ(epoll_wait(ep, &got, 1, 5000), 1);
    EQ(got.data.u32, 7);
    CHECK(got.events & EPOLLIN);
    DIES(pid, SIGTERM);
}

CASE(send_signal_by_directory_of_procfs) {
    char path[40];
    pid_t pid = sleeper();
    snprintf(path, sizeof path, "/proc/%d", pid);
    int fd = OK(open(path, O_DIRECTORY | O_RDONLY)), opath = OK(open(path, O_PATH));
    snprintf(path, sizeof path, "/proc/%d/task/%d", pid, pid);
    int thread = OK(open(path, O_DIRECTORY | O_RDONLY)), root = OK(open("/proc", O_DIRECTORY | O_RDONLY));
    OK(pidfd_send(fd, 0, NULL, 0));
    ERR(pidfd_send(opath, 0, NULL, 0), EBADF);
    ERR(pidfd_send(thread, 0, NULL, 0), EBADF);
    ERR(pidfd_send(root, 0, NULL, 0), EBADF);
    ERR(pidfd_getfd_(fd, 0, 0), EBADF);
    OK(pidfd_send(fd, SIGTERM, NULL, 0));
    DIES(pid, SIGTERM);
    ERR(pidfd_send(fd, 0, NULL, 0), ESRCH);
}

CASE(send_signal_errors) {
    int fd = OK(pidfd_open_(getpid(), 0)), other = OK(open("/dev/null", O_RDONLY));
    ERR(pidfd_send(fd, 0, NULL, 8), EINVAL);
    ERR(pidfd_send(fd, 0, NULL, 3), EINVAL);
    ERR(pidfd_send(other, 0, NULL, 0), EBADF);
    ERR(pidfd_send(999, 0, NULL, 0), EBADF);
    ERR(pidfd_send(fd, 65, NULL, 0), EINVAL);
    ERR(pidfd_send(fd, -1, NULL, 0), EINVAL);
    ERR(pidfd_send(fd, SIGUSR1, BAD, 0), EFAULT);
    OK(pidfd_send(fd, 0, NULL, 0));
}

CASE(send_signal_info) {
    handle(SIGUSR1, 0);
    int fd = OK(pidfd_open_(getpid(), 0));
    siginfo_t si = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    si.si_value.sival_int = 77;
    OK(pidfd_send(fd, SIGUSR1, &si, 0));
    EQ(hits, 1);
    EQ(last_info.si_code, SI_QUEUE);
    EQ(last_info.si_value.sival_int, 77);
    si.si_signo = SIGUSR2;
    ERR(pidfd_send(fd, SIGUSR1, &si, 0), EINVAL);
    OK(pidfd_send(fd, SIGUSR1, NULL, 0));
    EQ(last_info.si_code, SI_USER);
    EQ(last_info.si_pid, getpid());
    pid_t pid = sleeper();
    int child = OK(pidfd_open_(pid, 0));
    si = (siginfo_t){.si_signo = SIGUSR1, .si_code = SI_USER};
    ERR(pidfd_send(child, SIGUSR1, &si, 0), EPERM);
    si.si_code = SI_TKILL;
    ERR(pidfd_send(child, SIGUSR1, &si, 0), EPERM);
    si.si_code = SI_QUEUE;
    si.si_signo = SIGTERM;
    OK(pidfd_send(child, SIGTERM, &si, 0));
    DIES(pid, SIGTERM);
}

CASE(send_signal_needs_permission) {
    pid_t pid = sleeper();
    int fd = OK(pidfd_open_(pid, 0));
    IN_CHILD(OK(setresuid(1000, 1000, 1000)); ERR(pidfd_send(fd, SIGTERM, NULL, 0), EPERM));
    end(pid);
}

CASE(waitid_by_pidfd) {
    siginfo_t si;
    pid_t pid = sleeper();
    int fd = OK(pidfd_open_(pid, 0)), null = OK(open("/dev/null", O_RDONLY)), self = OK(pidfd_open_(getpid(), 0));
    memset(&si, 1, sizeof si);
    OK(waitid(P_PIDFD, fd, &si, WEXITED | WNOHANG));
    EQ(si.si_pid, 0);
    ERR(waitid(P_PIDFD, self, &si, WEXITED | WNOHANG), ECHILD);
    ERR(waitid(P_PIDFD, null, &si, WEXITED), EBADF);
    ERR(waitid(P_PIDFD, 999, &si, WEXITED), EBADF);
    ERR(waitid(P_PIDFD, -1, &si, WEXITED), EINVAL);
    kill(pid, SIGKILL);
    OK(waitid(P_PIDFD, fd, &si, WEXITED));
    EQ(si.si_pid, pid);
    EQ(si.si_code, CLD_KILLED);
    ERR(waitid(P_PIDFD, fd, &si, WEXITED), ECHILD);
}

CASE(waitid_nonblocking_pidfd) {
    siginfo_t si;
    pid_t pid = sleeper();
    int fd = OK(pidfd_open_(pid, O_NONBLOCK));
    ERR(waitid(P_PIDFD, fd, &si, WEXITED), EAGAIN);
    OK(waitid(P_PIDFD, fd, &si, WEXITED | WNOHANG));
    OK(pidfd_send(fd, SIGKILL, NULL, 0));
    EQ(ready_for(fd, 5000), POLLIN);
    OK(waitid(P_PIDFD, fd, &si, WEXITED));
    EQ(si.si_pid, pid);
}

CASE(getfd) {
    int p[2], sync[2];
    OK(pipe(p));
    OK(pipe(sync));
    pid_t pid = OK(fork());
    if (!pid) {
        int fd = open("f", O_RDWR | O_CREAT, 0600);
        if (write(fd, "hello", 5) != 5) _exit(1);
        if (write(sync[1], &fd, sizeof fd) != sizeof fd) _exit(1);
        for (;;) pause();
    }
    int theirs, fd = OK(pidfd_open_(pid, 0));
    EQ(read(sync[0], &theirs, sizeof theirs), sizeof theirs);
    int mine = OK(pidfd_getfd_(fd, theirs, 0));
    EQ(fcntl(mine, F_GETFD), FD_CLOEXEC);
    EQ(lseek(mine, 0, SEEK_CUR), 5); // one description
    ERR(pidfd_getfd_(fd, 555, 0), EBADF);
    ERR(pidfd_getfd_(fd, theirs, 1), EINVAL);
    ERR(pidfd_getfd_(mine, theirs, 0), EBADF);
    IN_CHILD(OK(setresgid(1000, 1000, 1000)); OK(setresuid(1000, 1000, 1000)); ERR(pidfd_getfd_(fd, theirs, 0), EPERM));
    end(pid);
    ERR(pidfd_getfd_(fd, theirs, 0), ESRCH);
}

static long clone3_(void *a, size_t n) { return syscall(SYS_clone3, a, n); }
struct cl3 { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; };

CASE(clone3_with_pidfd) {
    int fd = -1;
    struct cl3 a = {.flags = CLONE_PIDFD, .pidfd = (uintptr_t)&fd, .exit_signal = SIGCHLD};
    pid_t pid = OK(clone3_(&a, sizeof a));
    if (!pid) _exit(5);
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    siginfo_t si;
    OK(waitid(P_PIDFD, fd, &si, WEXITED));
    EQ(si.si_status, 5);
    EQ(si.si_pid, pid);
    a.pidfd = (uintptr_t)BAD;
    ERR(clone3_(&a, sizeof a), EFAULT);
    ERR(waitpid(-1, NULL, WNOHANG), ECHILD);
}

CASE(clone_with_pidfd) {
    int fd = -1;
    pid_t pid = OK(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &fd, 0, 0));
    if (!pid) _exit(6);
    siginfo_t si;
    OK(waitid(P_PIDFD, fd, &si, WEXITED));
    EQ(si.si_status, 6);
    ERR(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, 0, &fd, 0, 0), EINVAL);
    ERR(syscall(SYS_clone, CLONE_PIDFD | CLONE_DETACHED | SIGCHLD, 0, &fd, 0, 0), EINVAL);
}

CASE(fdinfo_names_the_process) {
    char path[64], want[64];
    pid_t pid = sleeper();
    int fd = OK(pidfd_open_(pid, 0));
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    snprintf(want, sizeof want, "Pid:\t%d\nNSpid:\t%d", pid, pid);
    CHECK(strstr(slurp(path), want));
    end(pid);
    CHECK(strstr(slurp(path), "Pid:\t-1\nNSpid:\t-1"));
    char link[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = OK(readlink(path, link, sizeof link - 1));
    link[n] = 0;
    CHECK(strstr(link, "pidfd"));
}

static int thread_pipe[2];
static volatile pid_t thread_tid;
static void *waiting_thread(void *a) {
    char c;
    thread_tid = gettid();
    while (read(thread_pipe[0], &c, 1) < 0) {}
    return a;
}
CASE(thread_pidfd) {
    needs(6, 9);
    pthread_t t;
    OK(pipe(thread_pipe));
    pthread_create(&t, NULL, waiting_thread, NULL);
    while (!thread_tid) usleep(1000);
    CHECK(pidfd_open_(thread_tid, 0) == -1 && (errno == EINVAL || errno == ENOENT));
    int fd = OK(pidfd_open_(thread_tid, PIDFD_THREAD_));
    EQ(ready_for(fd, 20), 0);
    OK(pidfd_send(fd, 0, NULL, 0));
    EQ(write(thread_pipe[1], "x", 1), 1);
    pthread_join(t, NULL);
    CHECK(ready_for(fd, 5000) & (POLLIN | POLLHUP));
    ERR(pidfd_send(fd, 0, NULL, 0), ESRCH);
}

static volatile pid_t handled_by;
static void note_thread(int s) { (void)s; handled_by = gettid(); }
CASE(signal_to_a_thread) {
    needs(6, 9);
    pthread_t t;
    OK(pipe(thread_pipe));
    signal(SIGUSR2, note_thread);
    pthread_create(&t, NULL, waiting_thread, NULL);
    while (!thread_tid) usleep(1000);
    int fd = OK(pidfd_open_(thread_tid, PIDFD_THREAD_));
    OK(pidfd_send(fd, SIGUSR2, NULL, 0));
    for (int i = 0; i < 1000 && !handled_by; i++) usleep(1000);
    EQ(handled_by, thread_tid);
    EQ(write(thread_pipe[1], "x", 1), 1);
    pthread_join(t, NULL);
}

CASE(signal_to_a_process_group) {
    needs(6, 9);
    pid_t a = sleeper();
    OK(setpgid(a, a));
    pid_t b = sleeper();
    OK(setpgid(b, a));
    int fd = OK(pidfd_open_(a, 0));
    OK(pidfd_send(fd, SIGTERM, NULL, 4));
    DIES(a, SIGTERM);
    DIES(b, SIGTERM);
}

CASE(passed_over_a_socket) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    pid_t pid = sleeper();
    int fd = OK(pidfd_open_(pid, 0));
    char c = 'x', control[CMSG_SPACE(sizeof(int))];
    struct iovec v = {&c, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    EQ(sendmsg(s[0], &m, 0), 1);
    close(fd);
    EQ(recvmsg(s[1], &m, 0), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    OK(pidfd_send(fd, SIGTERM, NULL, 0));
    DIES(pid, SIGTERM);
}
