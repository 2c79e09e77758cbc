// POSIX message queues.
#include "abi.h"
#include <sys/socket.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/mount.h>
#define AS_NOBODY(...) IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); __VA_ARGS__)

static char name[32];
static mqd_t make(long max, long size, int flags) {
    struct mq_attr attr = {0, max, size, 0};
    snprintf(name, sizeof name, "/abi.%d", getpid());
    mq_unlink(name);
    return OK(mq_open(name, O_CREAT | O_EXCL | flags, 0600, &attr));
}

CASE(open_and_unlink) {
    snprintf(name, sizeof name, "/abi.%d", getpid());
    ERR(mq_open(name, O_RDWR), ENOENT);
    mqd_t q = OK(mq_open(name, O_CREAT | O_RDWR, 0600, NULL));
    EQ(fcntl(q, F_GETFD), FD_CLOEXEC);
    EQ(fcntl(q, F_GETFL) & O_ACCMODE, O_RDWR);
    ERR(mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, NULL), EEXIST);
    OK(mq_open(name, O_CREAT | O_RDONLY, 0600, NULL));
    AS_NOBODY(ERR(mq_open(name, O_RDONLY), EACCES); ERR(syscall(SYS_mq_unlink, name + 1), EPERM));
    ERR(mq_open(name, 3), EINVAL);
    OK(mq_unlink(name));
    ERR(mq_unlink(name), ENOENT);
    ERR(mq_open(name, O_RDWR), ENOENT);
    struct mq_attr attr;
    OK(mq_getattr(q, &attr)); // open queues stay
    OK(mq_close(q));
    ERR(mq_getattr(q, &attr), EBADF);
}

CASE(names) {
    ERR(syscall(SYS_mq_open, "", O_CREAT | O_RDWR, 0600, NULL), ENOENT);
    ERR(syscall(SYS_mq_open, "a/b", O_CREAT | O_RDWR, 0600, NULL), EACCES);
    ERR(syscall(SYS_mq_open, ".", O_RDWR, 0600, NULL), EACCES);
    ERR(syscall(SYS_mq_open, BAD, O_CREAT | O_RDWR, 0600, NULL), EFAULT);
    ERR(syscall(SYS_mq_open, "x", O_CREAT | O_RDWR, 0600, BAD), EFAULT);
    static char longname[300];
    memset(longname, 'n', 256);
    ERR(syscall(SYS_mq_open, longname, O_CREAT | O_RDWR, 0600, NULL), ENAMETOOLONG);
    ERR(syscall(SYS_mq_unlink, longname), ENAMETOOLONG);
    ERR(syscall(SYS_mq_unlink, BAD), EFAULT);
    ERR(syscall(SYS_mq_unlink, ""), ENOENT);
}

CASE(attributes) {
    mqd_t q = make(3, 100, O_RDWR);
    struct mq_attr attr, old;
    OK(mq_getattr(q, &attr));
    EQ(attr.mq_maxmsg, 3);
    EQ(attr.mq_msgsize, 100);
    EQ(attr.mq_curmsgs + attr.mq_flags, 0);
    OK(mq_send(q, "x", 1, 0));
    attr.mq_flags = O_NONBLOCK;
    attr.mq_maxmsg = 99;
    OK(mq_setattr(q, &attr, &old));
    EQ(old.mq_flags, 0);
    OK(mq_getattr(q, &attr));
    EQ(attr.mq_flags, O_NONBLOCK);
    EQ(attr.mq_maxmsg, 3);
    EQ(attr.mq_curmsgs, 1);
    CHECK(fcntl(q, F_GETFL) & O_NONBLOCK);
    attr.mq_flags = O_APPEND;
    ERR(mq_setattr(q, &attr, NULL), EINVAL);
    ERR(syscall(SYS_mq_getsetattr, q, BAD, NULL), EFAULT);
    ERR(syscall(SYS_mq_getsetattr, q, NULL, BAD), EFAULT);
    ERR(mq_getattr(1, &attr), EBADF);
    OK(mq_unlink(name));
    struct mq_attr bad = {0, 0, 10, 0};
    ERR(mq_open(name, O_CREAT | O_RDWR, 0600, &bad), EINVAL);
    bad = (struct mq_attr){0, 10, 0, 0};
    ERR(mq_open(name, O_CREAT | O_RDWR, 0600, &bad), EINVAL);
    bad = (struct mq_attr){0, -1, 10, 0};
    ERR(mq_open(name, O_CREAT | O_RDWR, 0600, &bad), EINVAL);
    bad = (struct mq_attr){0, 70000, 10, 0};
    ERR(mq_open(name, O_CREAT | O_RDWR, 0600, &bad), EINVAL);
    AS_NOBODY(bad = (struct mq_attr){0, 11, 10, 0}; ERR(mq_open("/abi.none", O_CREAT | O_RDWR, 0600, &bad), EINVAL);
              bad = (struct mq_attr){0, 10, 8193, 0}; ERR(mq_open("/abi.none", O_CREAT | O_RDWR, 0600, &bad), EINVAL));
}

CASE(priorities) {
    mqd_t q = make(10, 20, O_RDWR);
    OK(mq_send(q, "low", 3, 1));
    OK(mq_send(q, "high", 4, 9));
    OK(mq_send(q, "low again", 9, 1));
    OK(mq_send(q, "", 0, 32767));
    char b[20];
    unsigned prio;
    EQ(mq_receive(q, b, 20, &prio), 0);
    EQ(prio, 32767);
    EQ(mq_receive(q, b, 20, &prio), 4);
    EQ(prio, 9);
    EQ(mq_receive(q, b, 20, NULL), 3);
    EQ(mq_receive(q, b, 20, &prio), 9);
    EQ(prio, 1);
    CHECK(!memcmp(b, "low again", 9));
    ERR(mq_send(q, "x", 1, 32768), EINVAL);
    ERR(mq_send(q, b, 21, 0), EMSGSIZE);
    ERR(mq_receive(q, b, 19, NULL), EMSGSIZE);
    ERR(mq_send(q, BAD, 5, 0), EFAULT);
    OK(mq_send(q, "x", 1, 0));
    ERR(mq_receive(q, BAD, 20, NULL), EFAULT);
    ERR(mq_send(-1, "x", 1, 0), EBADF);
    ERR(mq_send(OK(open("/dev/null", O_RDWR)), "x", 1, 0), EBADF);
    mqd_t r = OK(mq_open(name, O_RDONLY)), w = OK(mq_open(name, O_WRONLY));
    ERR(mq_send(r, "x", 1, 0), EBADF);
    ERR(mq_receive(w, b, 20, NULL), EBADF);
    OK(mq_unlink(name));
}

CASE(full_and_empty) {
    mqd_t q = make(2, 8, O_RDWR | O_NONBLOCK);
    char b[8];
    struct pollfd p = {q, POLLIN | POLLOUT, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLOUT);
    ERR(mq_receive(q, b, 8, NULL), EAGAIN);
    OK(mq_send(q, "1", 1, 0));
    OK(mq_send(q, "2", 1, 0));
    ERR(mq_send(q, "3", 1, 0), EAGAIN);
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLIN);
    OK(mq_unlink(name));
}

CASE(waiting) {
    mqd_t q = make(1, 8, O_RDWR);
    char b[8];
    INTERRUPTED(mq_receive(q, b, 8, NULL));
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    ERR(mq_timedreceive(q, b, 8, NULL, &t), ETIMEDOUT);
    t.tv_nsec = -1;
    ERR(mq_timedreceive(q, b, 8, NULL, &t), EINVAL);
    ERR(syscall(SYS_mq_timedreceive, q, b, 8, NULL, BAD), EFAULT);
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 30000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    long long start = mono_ms();
    ERR(mq_timedreceive(q, b, 8, NULL, &t), ETIMEDOUT);
    CHECK(mono_ms() - start >= 25);
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(40); OK(mq_send(q, "late", 4, 0)); _exit(0); }
    EQ(mq_receive(q, b, 8, NULL), 4);
    EXITS(pid, 0);
    OK(mq_send(q, "1", 1, 0));
    INTERRUPTED(mq_send(q, "2", 1, 0));
    clock_gettime(CLOCK_REALTIME, &t);
    ERR(mq_timedsend(q, "2", 1, 0, &t), ETIMEDOUT);
    pid = OK(fork());
    if (!pid) { nap_ms(40); EQ(mq_receive(q, b, 8, NULL), 1); _exit(0); }
    OK(mq_send(q, "2", 1, 0));
    EXITS(pid, 0);
    OK(mq_unlink(name));
}

CASE(notification_by_signal) {
    mqd_t q = make(4, 8, O_RDWR);
    char b[8];
    handle(SIGUSR2, 0);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 77};
    OK(mq_notify(q, &ev));
    ERR(mq_notify(q, &ev), EBUSY);
    IN_CHILD(ERR(mq_notify(q, &ev), EBUSY); OK(mq_notify(q, NULL)); ERR(mq_notify(q, &ev), EBUSY); OK(mq_send(q, "x", 1, 0)));
    while (!hits) nap_ms(1);
    EQ(last_sig, SIGUSR2);
    EQ(last_info.si_code, SI_MESGQ);
    EQ(last_info.si_value.sival_int, 77);
    CHECK(last_info.si_pid > 0 && last_info.si_pid != getpid());
    OK(mq_send(q, "y", 1, 0)); // only once, and only from empty
    EQ(hits, 1);
    OK(mq_notify(q, &ev));
    OK(mq_send(q, "z", 1, 0));
    EQ(hits, 1);
    for (int i = 0; i < 3; i++) EQ(mq_receive(q, b, 8, NULL), 1);
    OK(mq_notify(q, NULL));
    OK(mq_send(q, "z", 1, 0));
    EQ(hits, 1);
    ev.sigev_notify = 99;
    ERR(mq_notify(q, &ev), EINVAL);
    ev.sigev_notify = SIGEV_SIGNAL;
    ev.sigev_signo = 65;
    ERR(mq_notify(q, &ev), EINVAL);
    ERR(syscall(SYS_mq_notify, q, BAD), EFAULT);
    ev.sigev_signo = SIGUSR2;
    ERR(mq_notify(-1, &ev), EBADF);
    ERR(mq_notify(1, &ev), EBADF);
    ev.sigev_notify = SIGEV_NONE;
    OK(mq_notify(q, &ev));
    OK(mq_unlink(name));
}

CASE(closing_ends_a_notification) {
    mqd_t q = make(4, 8, O_RDWR), other = OK(mq_open(name, O_RDWR));
    struct sigevent ev = {.sigev_notify = SIGEV_NONE};
    OK(mq_notify(q, &ev));
    ERR(mq_notify(other, &ev), EBUSY);
    OK(mq_close(q));
    OK(mq_notify(other, &ev));
    OK(mq_unlink(name));
}

CASE(queues_are_files) {
    mqd_t q = make(4, 8, O_RDWR);
    OK(mq_send(q, "12345", 5, 0));
    OK(mkdir("m", 0755));
    if (mount("none", "m", "mqueue", 0, "") < 0) return;
    char path[64], text[128];
    snprintf(path, sizeof path, "m%s", name);
    snprintf(text, sizeof text, "QSIZE:%-10d NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n", 5, 0, 0, 0);
    CHECK(!strcmp(slurp(path), text));
    struct stat st;
    OK(stat(path, &st));
    EQ(st.st_mode, S_IFREG | 0600);
    EQ(st.st_size, 80);
    close(OK(open("m/made", O_CREAT | O_RDWR, 0600)));
    struct mq_attr attr;
    OK(mq_getattr(OK(mq_open("/made", O_RDWR)), &attr));
    EQ(attr.mq_maxmsg, 10);
    EQ(attr.mq_msgsize, 8192);
    OK(unlink("m/made"));
    ERR(mq_open("/made", O_RDWR), ENOENT);
    ERR(mkdir("m/d", 0700), EPERM);
    OK(unlink(path));
    ERR(mq_open(name, O_RDWR), ENOENT);
    OK(umount("m"));
}

CASE(bytes_are_limited) {
    struct rlimit rl = {1000, 1000};
    OK(setrlimit(RLIMIT_MSGQUEUE, &rl));
    struct mq_attr attr = {0, 10, 100, 0};
    snprintf(name, sizeof name, "/abi.%d", getpid());
    ERR(mq_open(name, O_CREAT | O_RDWR, 0600, &attr), EMFILE);
    attr.mq_maxmsg = 1;
    OK(mq_open(name, O_CREAT | O_RDWR, 0600, &attr));
    OK(mq_unlink(name));
}

static volatile int told;
static void tell(union sigval value) { told = value.sival_int; }
CASE(notification_by_thread) {
    mqd_t q = make(4, 8, O_RDWR);
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = tell, .sigev_value.sival_int = 42};
    OK(mq_notify(q, &ev));
    OK(mq_send(q, "x", 1, 0));
    while (!told) nap_ms(1);
    EQ(told, 42);
    OK(mq_unlink(name));
}
CASE(notification_by_netlink) {
    mqd_t q = make(4, 8, O_RDWR);
    int netlink = OK(socket(AF_NETLINK, SOCK_RAW, 0));
    char cookie[32] = "a cookie of exactly 32 bytes...", got[64];
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD, .sigev_signo = netlink, .sigev_value.sival_ptr = cookie};
    OK(syscall(SYS_mq_notify, q, &ev));
    ERR(syscall(SYS_mq_notify, q, &ev), EBUSY);
    OK(mq_send(q, "x", 1, 0));
    EQ(recv(netlink, got, sizeof got, 0), 32);
    CHECK(!memcmp(got, cookie, 31) && got[31] == 1);
    OK(syscall(SYS_mq_notify, q, &ev));
    OK(mq_notify(q, NULL));
    EQ(recv(netlink, got, sizeof got, 0), 32);
    EQ(got[31], 2);
    ev.sigev_value.sival_ptr = BAD;
    ERR(syscall(SYS_mq_notify, q, &ev), EFAULT);
    ev.sigev_value.sival_ptr = cookie;
    ev.sigev_signo = -1;
    ERR(syscall(SYS_mq_notify, q, &ev), EBADF);
    ev.sigev_signo = 1;
    ERR(syscall(SYS_mq_notify, q, &ev), ENOTSOCK);
    ev.sigev_signo = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ERR(syscall(SYS_mq_notify, q, &ev), EINVAL);
    OK(mq_unlink(name));
}
