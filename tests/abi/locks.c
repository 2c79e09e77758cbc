// File locks and leases.
#include "abi.h"
#include <sys/file.h>

static struct flock lock(int type, off_t start, off_t len) { return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len}; }
static int set(int fd, int cmd, int type, off_t start, off_t len) {
    struct flock l = lock(type, start, len);
    return fcntl(fd, cmd, &l);
}
// What is in the way, as a child sees it: its type, F_UNLCK if nothing.
static void sees(int line, int fd, int type, off_t start, off_t len, int want, off_t wstart, off_t wlen) {
    pid_t parent = getpid(), pid = OK(fork());
    if (!pid) {
        struct flock l = lock(type, start, len);
        OK(fcntl(fd, F_GETLK, &l));
        if (l.l_type != want || (want != F_UNLCK && (l.l_start != wstart || l.l_len != wlen || l.l_pid != parent))) abi_fail(line, "sees type %d at %ld+%ld", l.l_type, (long)l.l_start, (long)l.l_len);
        _exit(0);
    }
    EXITS(pid, 0);
}
#define SEES(...) sees(__LINE__, fd, __VA_ARGS__)

CASE(ranges_split_and_join) {
    int fd = file_with("f", "0123456789");
    OK(set(fd, F_SETLK, F_WRLCK, 0, 100));
    SEES(F_WRLCK, 0, 0, F_WRLCK, 0, 100);
    OK(set(fd, F_SETLK, F_UNLCK, 40, 20));
    SEES(F_WRLCK, 40, 20, F_UNLCK, 0, 0);
    SEES(F_WRLCK, 50, 0, F_WRLCK, 60, 40);
    OK(set(fd, F_SETLK, F_RDLCK, 40, 20));
    SEES(F_RDLCK, 45, 1, F_UNLCK, 0, 0);
    SEES(F_WRLCK, 45, 1, F_RDLCK, 40, 20);
    OK(set(fd, F_SETLK, F_WRLCK, 40, 20)); // joins its neighbours
    SEES(F_RDLCK, 0, 0, F_WRLCK, 0, 100);
    OK(set(fd, F_SETLK, F_UNLCK, 0, 0));
    SEES(F_WRLCK, 0, 0, F_UNLCK, 0, 0);
    OK(lseek(fd, 5, SEEK_SET));
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_CUR, .l_start = 1, .l_len = -3};
    OK(fcntl(fd, F_SETLK, &l));
    SEES(F_WRLCK, 0, 0, F_WRLCK, 3, 3);
    l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -1, .l_len = 0};
    OK(fcntl(fd, F_SETLK, &l));
    SEES(F_WRLCK, 9, 1, F_WRLCK, 9, 0);
    ERR(set(fd, F_SETLK, F_WRLCK, -1, 5), EINVAL);
    ERR(set(fd, F_SETLK, 7, 0, 5), EINVAL);
    ERR(fcntl(fd, F_SETLK, BAD), EFAULT);
    ERR(set(OK(open("f", O_RDONLY)), F_SETLK, F_WRLCK, 0, 1), EBADF);
    ERR(set(OK(open("f", O_WRONLY)), F_SETLK, F_RDLCK, 0, 1), EBADF);
    ERR(set(-1, F_SETLK, F_RDLCK, 0, 1), EBADF);
}

CASE(closing_any_descriptor_unlocks) {
    int fd = file_with("f", "abc"), other = OK(open("f", O_RDONLY));
    OK(set(fd, F_SETLK, F_WRLCK, 0, 0));
    SEES(F_RDLCK, 0, 1, F_WRLCK, 0, 0);
    close(other);
    SEES(F_RDLCK, 0, 1, F_UNLCK, 0, 0);
}

CASE(waiting_and_deadlock) {
    int fd = file_with("f", "abc");
    OK(set(fd, F_SETLK, F_WRLCK, 0, 1));
    pid_t pid = OK(fork());
    if (!pid) {
        OK(set(fd, F_SETLKW, F_WRLCK, 1, 1)); // the parent has it now and then
        ERR(set(fd, F_SETLK, F_WRLCK, 0, 1), EAGAIN);
        _exit(set(fd, F_SETLKW, F_WRLCK, 0, 1) != 0); // waits for us
    }
    while (set(fd, F_SETLK, F_WRLCK, 1, 1) == 0) { OK(set(fd, F_SETLK, F_UNLCK, 1, 1)); nap_ms(2); }
    nap_ms(50);
    ERR(set(fd, F_SETLKW, F_WRLCK, 1, 1), EDEADLK);
    OK(set(fd, F_SETLK, F_UNLCK, 0, 1));
    EXITS(pid, 0);
    OK(set(fd, F_SETLKW, F_WRLCK, 1, 1));
    pid = OK(fork());
    if (!pid) { INTERRUPTED(set(fd, F_SETLKW, F_WRLCK, 1, 1)); _exit(0); }
    EXITS(pid, 0);
}

#ifndef F_OFD_SETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif
CASE(description_locks) {
    int a = file_with("f", "abc"), b = OK(open("f", O_RDWR)), c = OK(dup(a));
    OK(set(a, F_OFD_SETLK, F_WRLCK, 0, 10));
    ERR(set(b, F_OFD_SETLK, F_RDLCK, 5, 10), EAGAIN);
    OK(set(c, F_OFD_SETLK, F_WRLCK, 5, 10));
    struct flock l = lock(F_RDLCK, 0, 0);
    OK(fcntl(b, F_OFD_GETLK, &l));
    EQ(l.l_type, F_WRLCK);
    EQ(l.l_pid, -1);
    EQ(l.l_len, 15);
    ERR(set(b, F_SETLK, F_RDLCK, 0, 1), EAGAIN); // seen by POSIX locks
    close(a);
    ERR(set(b, F_OFD_SETLK, F_RDLCK, 5, 10), EAGAIN);
    close(c);
    OK(set(b, F_OFD_SETLK, F_RDLCK, 5, 10));
    l.l_pid = 5;
    ERR(fcntl(b, F_OFD_SETLK, &l), EINVAL);
}

CASE(flock_rules) {
    int a = file_with("f", "abc"), b = OK(open("f", O_RDONLY));
    OK(flock(a, LOCK_SH));
    OK(flock(b, LOCK_SH));
    ERR(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    OK(flock(b, LOCK_UN));
    OK(flock(a, LOCK_EX | LOCK_NB));
    ERR(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    OK(set(b, F_SETLK, F_RDLCK, 0, 0)); // the two families do not see each other
    IN_CHILD(OK(flock(a, LOCK_UN))); // shared with the child
    OK(flock(b, LOCK_EX | LOCK_NB));
    ERR(flock(a, 16), EINVAL);
    ERR(flock(-1, 16), EINVAL);
    ERR(flock(-1, LOCK_SH), EBADF);
    ERR(flock(OK(open("f", O_PATH)), LOCK_SH), EBADF);
    pid_t pid = OK(fork());
    if (!pid) { INTERRUPTED(flock(a, LOCK_EX)); _exit(0); }
    EXITS(pid, 0);
}

CASE(locks_are_listed) {
    int fd = file_with("f", "abc");
    struct stat st;
    OK(fstat(fd, &st));
    OK(set(fd, F_SETLK, F_WRLCK, 3, 7));
    char want[64];
    snprintf(want, sizeof want, ":%lu 3 9", (unsigned long)st.st_ino);
    char *at = strstr(slurp("/proc/locks"), want);
    if (!at) skip("a layered file system: the kernel knows the file by another number");
    CHECK(at);
    while (at[-1] != '\n' && at > slurp("/proc/locks")) at--;
    CHECK(strstr(at, "POSIX  ADVISORY  WRITE"));
}

CASE(leases) {
    int fd = file_with("f", "abc");
    EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
    ERR(fcntl(fd, F_SETLEASE, F_RDLCK), EAGAIN); // open for writing
    ERR(fcntl(fd, F_SETLEASE, 9), EINVAL);
    OK(fcntl(fd, F_SETLEASE, F_WRLCK));
    EQ(fcntl(fd, F_GETLEASE), F_WRLCK);
    OK(fcntl(fd, F_SETLEASE, F_UNLCK));
    EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
    close(fd);
    fd = OK(open("f", O_RDONLY));
    int other = OK(open("f", O_RDONLY));
    ERR(fcntl(fd, F_SETLEASE, F_WRLCK), EAGAIN);
    OK(fcntl(fd, F_SETLEASE, F_RDLCK));
    OK(fcntl(other, F_SETLEASE, F_RDLCK));
    int p[2];
    OK(pipe(p));
    ERR(fcntl(p[0], F_SETLEASE, F_RDLCK), EINVAL);
    IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); ERR(fcntl(fd, F_SETLEASE, F_RDLCK), EACCES));
}

CASE(a_lease_is_broken) {
    close(file_with("f", "abc"));
    handle(SIGIO, 0);
    int fd = OK(open("f", O_RDONLY));
    OK(fcntl(fd, F_SETLEASE, F_RDLCK));
    IN_CHILD(OK(open("f", O_RDONLY)); ERR(open("f", O_RDWR | O_NONBLOCK), EWOULDBLOCK));
    EQ(hits, 1);
    EQ(last_sig, SIGIO);
    EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
    OK(fcntl(fd, F_SETLEASE, F_UNLCK));
    handle(SIGRTMIN, 0);
    OK(fcntl(fd, F_SETSIG, SIGRTMIN));
    OK(fcntl(fd, F_SETLEASE, F_RDLCK));
    pid_t pid = OK(fork());
    if (!pid) { OK(truncate("f", 1)); _exit(0); }
    while (hits < 2) nap_ms(1);
    EQ(last_info.si_fd, fd);
    EQ(waitpid(pid, NULL, WNOHANG), 0); // it waits for us
    OK(fcntl(fd, F_SETLEASE, F_UNLCK));
    EXITS(pid, 0);
    // A write lease may be cut down to a read lease by a reader.
    close(fd);
    fd = OK(open("f", O_RDWR));
    OK(fcntl(fd, F_SETSIG, SIGRTMIN));
    OK(fcntl(fd, F_SETLEASE, F_WRLCK));
    pid = OK(fork());
    if (!pid) { OK(open("f", O_RDONLY)); _exit(0); }
    while (hits < 3) nap_ms(1);
    EQ(fcntl(fd, F_GETLEASE), F_RDLCK);
    OK(fcntl(fd, F_SETLEASE, F_UNLCK));
    EXITS(pid, 0);
}
