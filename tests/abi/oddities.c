// oddities: small rules that only a conformance suite looks at, and that some program relies on.
#include "abi.h"
#include <linux/openat2.h>
#include <linux/random.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/xattr.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>

// A number in a file.
static long number_in(const char *path) {
    char text[64] = "";
    int fd = OK(open(path, O_RDONLY));
    OK(read(fd, text, sizeof text - 1));
    close(fd);
    return atol(text);
}
static int put_number(const char *path, long number) {
    char text[32];
    int n = snprintf(text, sizeof text, "%ld\n", number), fd = OK(open(path, O_WRONLY));
    int r = write(fd, text, n), e = errno;
    close(fd);
    errno = e;
    return r == n ? 0 : -1;
}

CASE(exec_with_an_unlimited_stack) {
    struct rlimit limit;
    OK(getrlimit(RLIMIT_STACK, &limit));
    limit.rlim_cur = limit.rlim_max = RLIM_INFINITY;
    OK(setrlimit(RLIMIT_STACK, &limit));
    pid_t pid = OK(fork());
    if (!pid) execl("/bin/true", "true", NULL);
    EXITS(pid, 0);
}
CASE(dev_zero_read_only_and_shared) {
    int fd = OK(open("/dev/zero", O_RDONLY));
    char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED && p[5] == 0);
    ERR(mprotect(p, 4096, PROT_READ | PROT_WRITE), EACCES);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    EQ(errno, EACCES);
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED);
    p[0] = 1;
}
CASE(creating_open_of_a_magic_link) {
    struct open_how how = {.flags = O_RDONLY | O_CREAT, .mode = 0400};
    close(OK(syscall(SYS_openat2, AT_FDCWD, "/proc/self/exe", &how, sizeof how)));
    how.resolve = RESOLVE_NO_MAGICLINKS;
    ERR(syscall(SYS_openat2, AT_FDCWD, "/proc/self/exe", &how, sizeof how), ELOOP);
}
CASE(objects_are_no_files) {
    char value[8];
    loff_t size;
    int event = OK(eventfd(0, 0)), sealed = OK(memfd_create("m", MFD_ALLOW_SEALING)), ends[2];
    OK(pipe(ends));
    ERR(fallocate(event, 0, 0x7ffffffffffffff0, 0x100), ENODEV);
    ERR(fallocate(event, FALLOC_FL_COLLAPSE_RANGE, 0, 1), ENODEV);
    ERR(fallocate(ends[0], FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP); // a hole that would change the size
    ERR(fallocate(ends[0], 0, 0, 1), EBADF);
    ERR(fallocate(ends[1], 0, 0, 1), ESPIPE);
    ERR(sync_file_range(event, 0, 0, 0), ESPIPE);
    ERR(ioctl(event, 0x5460, &size), ENOTTY); // FIOQSIZE
    ERR(fgetxattr(event, "user.none", value, sizeof value), ENODATA);
    ERR(fremovexattr(event, "user.none"), EPERM);
    CHECK(mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE, event, 0) == MAP_FAILED);
    EQ(errno, is_linux(6, 16) ? EPERM : ENODEV); // such objects are on a file system without programs since then
    CHECK(fcntl(sealed, F_GETFL) & 0100000); // O_LARGEFILE, which the C library hides
    ERR(fcntl(ends[0], F_ADD_SEALS, 0), EPERM);
    ERR(fcntl(ends[1], F_ADD_SEALS, 0), EINVAL);
}
CASE(copies_stay_within_a_file_system) {
    int from = OK(open("/proc/self/status", O_RDONLY)), to = OK(memfd_create("m", 0)), ends[2], dir = OK(open("/", O_RDONLY));
    OK(pipe(ends));
    ERR(copy_file_range(from, NULL, to, NULL, 1, 0), EXDEV);
    ERR(copy_file_range(ends[1], NULL, to, NULL, 1, 0), EINVAL);
    ERR(copy_file_range(to, NULL, dir, NULL, 1, 0), EISDIR);
    ERR(copy_file_range(to, NULL, to, NULL, 1, 1), EINVAL);
}
CASE(a_socket_takes_advice_and_all_bands) {
    int ends[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    EQ(posix_fadvise(ends[0], 0, 0, POSIX_FADV_NORMAL), 0);
    EQ(posix_fadvise(ends[0], 0, 0, 99), EINVAL);
    struct pollfd ready = {ends[0], POLLWRBAND | POLLWRNORM, 0};
    EQ(poll(&ready, 1, 0), 1);
    EQ(ready.revents, POLLWRBAND | POLLWRNORM);
}
CASE(a_path_comes_before_its_directory) {
    ERR(openat(999, "", O_RDONLY), ENOENT);
    ERR(unlinkat(999, "", 0), ENOENT);
    struct stat st;
    ERR(fstatat(999, "", &st, 0), ENOENT);
}
CASE(positions_come_before_modes) {
    int p[2];
    char byte = 0;
    struct iovec v = {&byte, 1};
    OK(pipe(p));
    ERR(pwrite(p[0], &byte, 1, 0), ESPIPE);
    ERR(pread(p[1], &byte, 1, 0), ESPIPE);
    ERR(pwritev(p[0], &v, 1, 0), ESPIPE);
    ERR(preadv2(p[1], &v, 1, 0, 0), ESPIPE);
    ERR(pwritev2(p[0], &v, 1, -1, 0), EBADF);
    ERR(pwrite(p[0], &byte, 1, -1), EINVAL);
    ERR(pwrite(999, &byte, 1, -1), EINVAL);
    ERR(pwrite(999, &byte, 1, 0), EBADF);
}
static volatile int got;
static void on_value(int n, siginfo_t *info, void *context) { got = info->si_value.sival_int; }
CASE(siginfo_with_garbage_at_its_end) {
    struct sigaction act = {.sa_sigaction = on_value, .sa_flags = SA_SIGINFO};
    OK(sigaction(SIGUSR1, &act, NULL));
    siginfo_t info;
    memset(&info, 0x5a, sizeof info);
    info.si_errno = 0;
    info.si_code = SI_QUEUE;
    info.si_value.sival_int = 77;
    OK(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR1, &info));
    EQ(got, 77);
    info.si_code = -30;
    ERR(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR1, &info), E2BIG);
}
CASE(created_query) {
    needs(6, 12);
    char name[] = "/tmp/created-XXXXXX";
    int fd = OK(mkstemp(name));
    EQ(OK(fcntl(fd, 1028, 0)), 1);
    int again = OK(open(name, O_RDWR | O_CREAT, 0600));
    EQ(OK(fcntl(again, 1028, 0)), 0);
    EQ(OK(fcntl(OK(dup(fd)), 1028, 0)), 1);
    OK(unlink(name));
}
CASE(sysfs) {
    int count = OK(syscall(SYS_sysfs, 3)), at = OK(syscall(SYS_sysfs, 1, "proc"));
    char name[64] = "";
    CHECK(count > 0 && at < count);
    OK(syscall(SYS_sysfs, 2, at, name));
    CHECK(!strcmp(name, "proc"));
    ERR(syscall(SYS_sysfs, 1, "no such type"), EINVAL);
    ERR(syscall(SYS_sysfs, 1, BAD), EFAULT);
    ERR(syscall(SYS_sysfs, 2, count, name), EINVAL);
    ERR(syscall(SYS_sysfs, 2, 0, BAD), EFAULT);
    ERR(syscall(SYS_sysfs, 4, 0, 0), EINVAL);
}
CASE(ustat) {
    struct stat st;
    char out[64];
    OK(stat("/proc", &st));
    OK(syscall(SYS_ustat, (unsigned)st.st_dev, out));
    ERR(syscall(SYS_ustat, (unsigned)st.st_dev, BAD), EFAULT);
    ERR(syscall(SYS_ustat, 0, out), EINVAL);
}
CASE(memory_policies) {
    int mode = 99;
    unsigned long nodes = 0, one = 1, none = 0;
    OK(syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0));
    EQ(mode, 0);
    OK(syscall(SYS_get_mempolicy, NULL, &nodes, 64, NULL, 4));
    CHECK(nodes & 1);
    OK(syscall(SYS_set_mempolicy, 3, &one, 64));
    nodes = 0;
    OK(syscall(SYS_get_mempolicy, &mode, &nodes, 64, NULL, 0));
    CHECK(mode == 3 && nodes == 1);
    OK(syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 1));
    EQ(mode, 0);
    OK(syscall(SYS_get_mempolicy, &mode, NULL, 0, &mode, 3));
    EQ(mode, 0);
    ERR(syscall(SYS_set_mempolicy, 2, &none, 64), EINVAL);
    ERR(syscall(SYS_set_mempolicy, 0, &one, 64), EINVAL);
    ERR(syscall(SYS_set_mempolicy, 9, &one, 64), EINVAL);
    ERR(syscall(SYS_set_mempolicy, 2, BAD, 64), EFAULT);
    ERR(syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 8), EINVAL);
    ERR(syscall(SYS_get_mempolicy, &mode, NULL, 0, BAD, 0), EINVAL);
    ERR(syscall(SYS_get_mempolicy, &mode, NULL, 0, BAD, 2), EFAULT);
    ERR(syscall(SYS_get_mempolicy, BAD, NULL, 0, NULL, 0), EFAULT);
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    OK(syscall(SYS_mbind, p, 8192, 2, &one, 64, 0));
    ERR(syscall(SYS_mbind, p + 1, 8192, 2, &one, 64, 0), EINVAL);
    ERR(syscall(SYS_mbind, p, 8192, 2, &one, 64, 0x80), EINVAL);
    OK(munmap(p + 4096, 4096));
    ERR(syscall(SYS_mbind, p, 8192, 2, &one, 64, 0), EFAULT);
    OK(syscall(SYS_set_mempolicy, 0, NULL, 0));
}
CASE(sleeping_by_a_threads_own_clock) {
    struct timespec t = {0, 1000};
    ERR(syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL), EOPNOTSUPP);
    ERR(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC_RAW, 0, &t, NULL), EOPNOTSUPP);
}
CASE(options_of_strange_levels) {
    int v = 0, s = OK(socket(AF_INET, SOCK_STREAM, 0)), u = OK(socket(AF_INET6, SOCK_STREAM, 0));
    socklen_t n = sizeof v;
    ERR(getsockopt(s, 500, 1, &v, &n), EOPNOTSUPP);
    ERR(getsockopt(s, IPPROTO_UDP, 10000, &v, &n), EOPNOTSUPP);
    ERR(getsockopt(s, IPPROTO_TCP, 10000, &v, &n), ENOPROTOOPT);
    ERR(getsockopt(s, IPPROTO_IP, 10000, &v, &n), ENOPROTOOPT);
    ERR(setsockopt(s, 500, 1, &v, n), ENOPROTOOPT);
    ERR(getsockopt(u, 500, 1, &v, &n), ENOPROTOOPT);
}
CASE(tunable_pipe_size) {
    const char *path = "/proc/sys/fs/pipe-max-size";
    long old = number_in(path);
    OK(put_number(path, 5000));
    EQ(number_in(path), 8192);
    OK(put_number(path, old));
    EQ(number_in(path), old);
}
CASE(tunable_instances) {
    const char *path = "/proc/sys/fs/inotify/max_user_instances";
    long old = number_in(path);
    close(OK(inotify_init()));
    OK(put_number(path, 0));
    int fd = inotify_init(), e = errno;
    OK(put_number(path, old));
    CHECK(fd == -1 && e == EMFILE);
    close(OK(inotify_init()));
}
CASE(next_message_queue) {
    const char *path = "/proc/sys/kernel/msg_next_id";
    EQ(number_in(path), -1);
    int first = OK(msgget(IPC_PRIVATE, 0600));
    OK(msgctl(first, IPC_RMID, NULL));
    OK(put_number(path, first));
    EQ(number_in(path), first);
    EQ(OK(msgget(IPC_PRIVATE, 0600)), first);
    EQ(number_in(path), -1);
    OK(put_number(path, first));
    int other = OK(msgget(IPC_PRIVATE, 0600));
    CHECK(other != first);
    OK(msgctl(first, IPC_RMID, NULL));
    OK(msgctl(other, IPC_RMID, NULL));
}
CASE(watches_in_fdinfo) {
    int fd = OK(inotify_init());
    OK(inotify_add_watch(fd, "/tmp", IN_CREATE));
    char path[64], text[1024] = "";
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = OK(open(path, O_RDONLY));
    OK(read(info, text, sizeof text - 1));
    char *line = strstr(text, "inotify wd:");
    struct stat st;
    OK(stat("/tmp", &st));
    unsigned wd, mask, dev;
    unsigned long ino;
    CHECK(line && sscanf(line, "inotify wd:%x ino:%lx sdev:%x mask:%x", &wd, &ino, &dev, &mask) == 4);
    CHECK(wd == 1 && ino == st.st_ino && mask == IN_CREATE);
}
CASE(entropy_count) {
    int fd = OK(open("/dev/urandom", O_RDONLY)), bits = 0;
    OK(ioctl(fd, RNDGETENTCNT, &bits));
    CHECK(bits > 0);
    ERR(ioctl(fd, RNDGETENTCNT, BAD), EFAULT);
}
CASE(signal_by_a_directory_of_proc) {
    pid_t pid = OK(fork());
    if (!pid) for (;;) pause();
    char path[64];
    snprintf(path, sizeof path, "/proc/%d", pid);
    int fd = OK(open(path, O_RDONLY | O_DIRECTORY));
    OK(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
    OK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
    DIES(pid, SIGTERM);
    ERR(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0), ESRCH);
    ERR(syscall(SYS_pidfd_send_signal, OK(open("/proc", O_RDONLY)), SIGTERM, NULL, 0), EBADF);
}
struct info {
    uint64_t mask, cgroup;
    uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
    uint32_t more[2];
};
CASE(pidfd_info) {
    needs(6, 13);
    pid_t pid = OK(fork());
    if (!pid) { pause(); _exit(0); }
    int fd = OK(syscall(SYS_pidfd_open, pid, 0));
    const unsigned long get = _IOWR(0xff, 11, struct info);
    struct info info = {.mask = 8};
    OK(ioctl(fd, get, &info));
    CHECK((info.mask & 7) == 7 && !(info.mask & 8));
    CHECK(info.pid == (uint32_t)pid && info.tgid == (uint32_t)pid && info.ppid == (uint32_t)getpid() && info.euid == geteuid());
    ERR(ioctl(fd, get, NULL), EINVAL);
    ERR(ioctl(fd, get, BAD), EFAULT);
    ERR(ioctl(fd, _IOWR(0xff, 11, long), &info), ENOTTY);
    OK(kill(pid, SIGKILL));
    DIES(pid, SIGKILL);
    info.mask = 8;
    OK(ioctl(fd, get, &info));
    CHECK(info.mask & 8 && WIFSIGNALED(info.exit_code) && WTERMSIG(info.exit_code) == SIGKILL);
    info.mask = 1;
    ERR(ioctl(fd, get, &info), ESRCH);
    OK(unshare(CLONE_NEWPID));
    pid = OK(fork());
    if (!pid) {
        ERR(ioctl(fd, get, &info), EREMOTE);
        _exit(0);
    }
    EXITS(pid, 0);
}
CASE(kcmp_of_nothing) {
    pid_t pid = OK(fork());
    if (!pid) { pause(); _exit(0); }
    EQ(syscall(SYS_kcmp, getpid(), pid, 5, 0, 0), 0); // KCMP_IO
    EQ(syscall(SYS_kcmp, getpid(), pid, 6, 0, 0), 0); // KCMP_SYSVSEM
    CHECK(syscall(SYS_kcmp, getpid(), pid, 1, 0, 0) > 0);
    OK(kill(pid, SIGKILL));
    DIES(pid, SIGKILL);
}
CASE(reboot_with_nonsense) {
    ERR(syscall(SYS_reboot, 1, 2, 3, NULL), EINVAL);
    ERR(syscall(SYS_reboot, 0xfee1dead, 672274793, 0x55, NULL), EINVAL);
}

CASE(sizes_by_ioctl) {
    static char bytes[8192];
    int fd = OK(memfd_create("f", 0)), block = 0, p[2]; // an overlay of Linux's answers these two with EINVAL and 0
    EQ(write(fd, bytes, sizeof bytes), sizeof bytes);
    struct stat st;
    OK(fstat(fd, &st));
    OK(ioctl(fd, 2, &block)); // FIGETBSZ
    EQ(block, st.st_blksize);
    long long taken = 0;
    OK(ioctl(fd, 0x5460, &taken)); // FIOQSIZE
    EQ(taken, st.st_blocks * 512);
    OK(pipe(p));
    ERR(ioctl(p[0], 0x5460, &taken), ENOTTY);
    ERR(ioctl(fd, 0x5460, BAD), EFAULT);
}

CASE(auxiliary_vector_by_prctl) {
    needs(6, 4);
    unsigned long v[128], size = 0;
    long n = prctl(0x41555856, v, sizeof v, 0, 0); // PR_GET_AUXV
    CHECK(n > 0 && n <= (long)sizeof v);
    for (int i = 0; i < n / 16; i++) if (v[2 * i] == 6) size = v[2 * i + 1]; // AT_PAGESZ
    EQ(size, 4096);
    v[1] = 77;
    EQ(prctl(0x41555856, v, 8, 0, 0), n);
    EQ(v[1], 77);
    ERR(prctl(0x41555856, v, 8, 1, 0), EINVAL);
    ERR(prctl(0x41555856, BAD, 8, 0, 0), EFAULT);
}
CASE(a_place_is_no_object_of_any_kind) {
    int place = OK(open("/dev/null", O_PATH)), p[2], epoll = OK(epoll_create1(0)), file = OK(memfd_create("x", 0));
    OK(pipe(p));
    struct itimerspec timer = {0};
    struct epoll_event event = {.events = EPOLLIN};
    uint64_t mask = 0;
    ERR(timerfd_settime(place, 0, &timer, NULL), EBADF);
    ERR(timerfd_gettime(place, &timer), EBADF);
    ERR(inotify_add_watch(place, ".", IN_CREATE), EBADF);
    ERR(inotify_rm_watch(place, 1), EBADF);
    ERR(syscall(SYS_signalfd4, place, &mask, 8, 0), EBADF);
    ERR(epoll_wait(place, &event, 1, 0), EBADF);
    ERR(epoll_wait(place, &event, 0, 0), is_linux(6, 15) ? EBADF : EINVAL);
    ERR(epoll_ctl(place, EPOLL_CTL_ADD, p[0], &event), EBADF);
    ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, place, &event), EBADF);
    ERR(setns(place, 0), EBADF);
    ERR(copy_file_range(file, NULL, place, NULL, 1, 1), EBADF);
    ERR(copy_file_range(file, NULL, file, NULL, 1, 1), EINVAL);
    CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, place, 0) == MAP_FAILED);
    EQ(errno, EBADF);
}
CASE(no_bytes_are_asked_for_all_the_same) {
    char none[1];
    struct iovec v = {none, 0};
    int event = OK(eventfd(1, EFD_NONBLOCK)), dir = OK(open("/", O_RDONLY)), full = OK(open("/dev/full", O_RDWR));
    ERR(read(event, none, 0), EINVAL);
    ERR(write(event, none, 0), EINVAL);
    EQ(readv(event, &v, 1), 0);
    ERR(read(OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)), none, 0), EINVAL);
    ERR(read(OK(epoll_create1(0)), none, 0), EINVAL);
    ERR(read(dir, none, 0), EISDIR);
    ERR(write(full, none, 0), ENOSPC);
    EQ(read(full, none, 0), 0);
}
CASE(nothing_lies_beyond_the_largest_offset) {
    const off_t last = INT64_MAX;
    int file = OK(memfd_create("x", 0)), null = OK(open("/dev/null", O_RDWR));
    struct iovec v = {"ab", 2};
    ERR(pwrite(file, "a", 1, last), EINVAL);
    ERR(pwritev(file, &v, 1, last - 1), EINVAL);
    ERR(pwrite(null, "a", 1, last), EINVAL);
    EQ(pwrite(null, "a", 1, last - 1), 1);
    char byte;
    ERR(pread(file, &byte, 1, last), EINVAL);
    EQ(pread(file, &byte, 1, last - 1), 0);
    EQ(pread(file, &byte, 0, last), 0);
    CHECK(mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, file, last & ~4095L) == MAP_FAILED);
    EQ(errno, EOVERFLOW);
}
CASE(modes_of_fallocate_come_before_those_of_the_file) {
    int reads = OK(open("/dev/null", O_RDONLY)), file = OK(memfd_create("x", 0)), event = OK(eventfd(0, 0));
    ERR(fallocate(reads, 0x1000, 0, 1), EOPNOTSUPP);
    ERR(fallocate(reads, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
    ERR(fallocate(reads, FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_KEEP_SIZE, 0, 1), is_linux(6, 12) ? EOPNOTSUPP : EINVAL);
    ERR(fallocate(reads, 0x1000, -1, 1), EINVAL);
    ERR(fallocate(reads, 0, 0, 1), EBADF);
    ERR(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 1), EOPNOTSUPP);
    ERR(fallocate(event, 0, 0, 1), ENODEV);
    ERR(sync_file_range(event, 0, 0, 0), ESPIPE);
    ERR(fcntl(reads, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    int socket_file = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    EQ(posix_fadvise(socket_file, 0, 0, POSIX_FADV_NORMAL), 0);
    EQ(posix_fadvise(socket_file, 0, 0, 99), EINVAL);
}
