// Opening: openat2's rules, O_TMPFILE, O_PATH, and flags of all kinds.
#include "abi.h"
#include <linux/openat2.h>
#include <sys/ioctl.h>
#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20
#endif

static long open2(int dir, const char *path, unsigned long long flags, unsigned long long mode, unsigned long long resolve) {
    struct open_how how = {flags, mode, resolve};
    return syscall(SYS_openat2, dir, path, &how, sizeof how);
}
#define AS_NOBODY(...) IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); __VA_ARGS__)

CASE(openat2_sizes) {
    close(file_with("f", "abc"));
    struct { struct open_how how; unsigned long more[4]; } big = {{O_RDONLY}};
    OK(syscall(SYS_openat2, AT_FDCWD, "f", &big, sizeof big));
    big.more[2] = 1;
    ERR(syscall(SYS_openat2, AT_FDCWD, "f", &big, sizeof big), E2BIG);
    ERR(syscall(SYS_openat2, AT_FDCWD, "f", &big, sizeof(struct open_how) - 1), EINVAL);
    ERR(syscall(SYS_openat2, AT_FDCWD, "f", &big, 0), EINVAL);
    ERR(syscall(SYS_openat2, AT_FDCWD, "f", &big, 5000), E2BIG);
    ERR(syscall(SYS_openat2, AT_FDCWD, "f", BAD, sizeof(struct open_how)), EFAULT);
    ERR(syscall(SYS_openat2, AT_FDCWD, BAD, &(struct open_how){0}, sizeof(struct open_how)), EFAULT);
}

CASE(openat2_flags) {
    close(file_with("f", "abc"));
    ERR(open2(AT_FDCWD, "f", 1ull << 40, 0, 0), EINVAL);
    ERR(open2(AT_FDCWD, "f", O_RDONLY, 0600, 0), EINVAL); // a mode without O_CREAT
    ERR(open2(AT_FDCWD, "g", O_CREAT | O_RDWR, 010000, 0), EINVAL);
    ERR(open2(AT_FDCWD, "f", O_PATH | O_RDWR, 0, 0), EINVAL);
    ERR(open2(AT_FDCWD, "f", O_RDONLY, 0, 0x1000), EINVAL);
    ERR(open2(AT_FDCWD, "f", O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT), EINVAL);
    OK(open2(AT_FDCWD, "g", O_CREAT | O_RDWR, 0600, 0));
    OK(open2(AT_FDCWD, "f", O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, 0));
}

CASE(openat2_confined) {
    OK(mkdir("d", 0755));
    OK(mkdir("d/e", 0755));
    close(file_with("d/f", "in"));
    close(file_with("out", "out"));
    OK(symlink("../out", "d/up"));
    OK(symlink("/f", "d/abs"));
    OK(symlink("f", "d/rel"));
    OK(symlink("e/../f", "d/round"));
    int d = OK(open("d", O_RDONLY));
    ERR(open2(d, "../out", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
    ERR(open2(d, "up", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
    ERR(open2(d, "abs", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
    ERR(open2(d, "/f", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
    OK(open2(d, "round", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(open2(d, "e/../rel", O_RDONLY, 0, RESOLVE_BENEATH));
    OK(open2(d, "abs", O_RDONLY, 0, RESOLVE_IN_ROOT));
    OK(open2(d, "/../../f", O_RDONLY, 0, RESOLVE_IN_ROOT));
    ERR(open2(d, "up", O_RDONLY, 0, RESOLVE_IN_ROOT), ENOENT);
    ERR(open2(d, "rel", O_RDONLY, 0, RESOLVE_NO_SYMLINKS), ELOOP);
    OK(open2(d, "rel", O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_SYMLINKS));
    OK(open2(d, "rel", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS));
    char self[32];
    snprintf(self, sizeof self, "/proc/self/fd/%d", d);
    ERR(open2(AT_FDCWD, self, O_RDONLY, 0, RESOLVE_NO_MAGICLINKS), ELOOP);
    OK(open2(AT_FDCWD, self, O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_MAGICLINKS));
    ERR(open2(AT_FDCWD, "/proc/version", O_RDONLY, 0, RESOLVE_NO_XDEV), EXDEV);
    ERR(open2(d, "new/x", O_CREAT | O_RDWR, 0600, RESOLVE_BENEATH), ENOENT);
    OK(open2(d, "new", O_CREAT | O_RDWR, 0600, RESOLVE_BENEATH));
}

CASE(openat2_cached) {
    close(file_with("f", "abc"));
    close(OK(open("f", O_RDONLY)));
    long fd = open2(AT_FDCWD, "f", O_RDONLY, 0, RESOLVE_CACHED);
    CHECK(fd >= 0 || errno == EAGAIN);
    ERR(open2(AT_FDCWD, "g", O_RDWR | O_CREAT, 0600, RESOLVE_CACHED), EAGAIN);
    ERR(open2(AT_FDCWD, "f", O_RDWR | O_TRUNC, 0, RESOLVE_CACHED), EAGAIN);
}

CASE(tmpfile_gets_a_name) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0640);
    if (fd < 0 && errno == EOPNOTSUPP) skip("a file system without O_TMPFILE");
    OK(fd);
    EQ(write(fd, "abc", 3), 3);
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_mode, S_IFREG | 0640);
    EQ(st.st_nlink, 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    OK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    CHECK(!strcmp(slurp("named"), "abc"));
    OK(fstat(fd, &st));
    EQ(st.st_nlink, 1);
    OK(linkat(fd, "", AT_FDCWD, "again", AT_EMPTY_PATH));
    fd = OK(open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ERR(linkat(AT_FDCWD, path, AT_FDCWD, "never", AT_SYMLINK_FOLLOW), ENOENT);
    ERR(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);
    ERR(open("named", O_TMPFILE | O_RDWR, 0600), ENOTDIR);
    ERR(open("none", O_TMPFILE | O_RDWR, 0600), ENOENT);
    ERR(open(".", O_TMPFILE | O_RDWR | O_CREAT, 0600), EINVAL);
}

CASE(path_descriptors) {
    OK(mkdir("d", 0755));
    close(file_with("d/f", "abc"));
    OK(symlink("d/f", "l"));
    int fd = OK(open("d/f", O_PATH | O_RDWR | O_TRUNC | O_APPEND)); // the rest is ignored
    EQ(fcntl(fd, F_GETFL) & ~0100000, O_PATH);
    char c, b[32];
    struct iovec v = {b, 1};
    ERR(read(fd, &c, 1), EBADF);
    ERR(write(fd, &c, 1), EBADF);
    ERR(readv(fd, &v, 1), EBADF);
    ERR(pread(fd, &c, 1, 0), EBADF);
    ERR(lseek(fd, 0, SEEK_SET), EBADF);
    ERR(fchmod(fd, 0600), EBADF);
    ERR(fchown(fd, 0, 0), EBADF);
    ERR(ftruncate(fd, 0), EBADF);
    ERR(fsync(fd), EBADF);
    ERR(fallocate(fd, 0, 0, 1), EBADF);
    ERR(ioctl(fd, FIONREAD, b), EBADF);
    ERR((long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0), EBADF);
    ERR(fcntl(fd, F_SETFL, 0), EBADF);
    ERR(fcntl(fd, F_GETLK, &(struct flock){.l_type = F_RDLCK}), EBADF);
    ERR(futimens(fd, NULL), EBADF);
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_size, 3);
    OK(fcntl(OK(dup(fd)), F_SETFD, FD_CLOEXEC));
    int link = OK(open("l", O_PATH | O_NOFOLLOW));
    EQ(readlinkat(link, "", b, sizeof b), 3);
    int dir = OK(open("d", O_PATH | O_DIRECTORY));
    OK(openat(dir, "f", O_RDONLY));
    OK(fchdir(dir));
    OK(access("f", F_OK));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    EQ(read(OK(open(path, O_RDONLY)), b, 3), 3);
    AS_NOBODY(OK(open("f", O_PATH)));
}

CASE(flags_of_all_kinds) {
    close(file_with("f", "abc"));
    EQ(fcntl(OK(open("f", O_RDONLY | O_SYNC)), F_GETFL) & O_SYNC, O_SYNC);
    EQ(fcntl(OK(open("f", O_RDONLY | O_DSYNC)), F_GETFL) & O_SYNC, O_DSYNC);
    OK(open("f", O_RDONLY | O_NOATIME));
    AS_NOBODY(ERR(open("f", O_RDONLY | O_NOATIME), EPERM));
    int fd = OK(open("f", O_RDONLY));
    AS_NOBODY(ERR(fcntl(fd, F_SETFL, O_NOATIME), EPERM));
    OK(symlink("f", "l"));
    ERR(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
    ERR(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    ERR(open("d", O_RDONLY | O_DIRECTORY | O_CREAT, 0600), EINVAL);
    ERR(open(".", O_RDWR), EISDIR);
    ERR(open("l/", O_RDONLY), ENOTDIR);
    ERR(open("new/", O_RDWR | O_CREAT, 0600), EISDIR);
    fd = OK(open("f", 3)); // neither reading nor writing, but ioctl
    char c;
    ERR(read(fd, &c, 1), EBADF);
    ERR(write(fd, &c, 1), EBADF);
    int pfd[2];
    OK(pipe(pfd));
    ERR(open("/proc/version", O_RDONLY | O_DIRECT), EINVAL);
    ERR(fcntl(OK(open("/proc/version", O_RDONLY)), F_SETFL, O_DIRECT), EINVAL);
    EQ(fcntl(OK(open("f", O_RDONLY | O_CREAT | O_NONBLOCK, 0)), F_GETFL) & (O_CREAT | O_NONBLOCK), O_NONBLOCK);
}

CASE(fcntl_odds_and_ends) {
    int fd = file_with("f", "abc");
    ERR(fcntl(fd, 9999), EINVAL);
    ERR(fcntl(-1, F_GETFD), EBADF);
    ERR(fcntl(fd, F_DUPFD, -1), EINVAL);
    uint64_t hint = 3;
    OK(fcntl(fd, F_SET_RW_HINT, &hint));
    hint = 0;
    OK(fcntl(fd, F_GET_RW_HINT, &hint));
    EQ(hint, 3);
    hint = 9;
    ERR(fcntl(fd, F_SET_RW_HINT, &hint), EINVAL);
    ERR(fcntl(fd, F_GET_RW_HINT, BAD), EFAULT);
}
CASE(dupfd_query) {
    needs(6, 10);
    int fd = file_with("f", "abc"), other = OK(open("f", O_RDONLY));
    EQ(fcntl(fd, 1027, OK(dup(fd))), 1);
    EQ(fcntl(fd, 1027, other), 0);
    ERR(fcntl(fd, 1027, -1), EBADF);
}

CASE(readahead_and_advice) {
    int fd = file_with("f", "abc"), p[2];
    OK(readahead(fd, 0, 100));
    ERR(readahead(-1, 0, 100), EBADF);
    ERR(readahead(OK(open("f", O_WRONLY)), 0, 100), EBADF);
    OK(pipe(p));
    ERR(readahead(p[0], 0, 100), EINVAL);
    ERR(readahead(OK(open(".", O_RDONLY)), 0, 100), EINVAL);
    EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    EQ(posix_fadvise(fd, 0, 0, 99), EINVAL);
    EQ(posix_fadvise(fd, 0, -1, POSIX_FADV_NORMAL), EINVAL);
    EQ(posix_fadvise(p[0], 0, 0, POSIX_FADV_NORMAL), ESPIPE);
    EQ(posix_fadvise(-1, 0, 0, POSIX_FADV_NORMAL), EBADF);
    OK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
    ERR(sync_file_range(fd, -1, 0, 0), EINVAL);
    ERR(sync_file_range(fd, 0, 0, 8), EINVAL);
    ERR(sync_file_range(p[0], 0, 0, 0), ESPIPE);
    ERR(syncfs(-1), EBADF);
    OK(syncfs(fd));
}

static void copy_of(const char *from, const char *to) {
    static char b[1 << 16];
    int in = OK(open(from, O_RDONLY)), out = OK(open(to, O_WRONLY | O_CREAT, 0755));
    ssize_t n;
    while ((n = OK(read(in, b, sizeof b))) > 0) EQ(write(out, b, n), n);
    close(in);
    close(out);
}

CASE(running_files_are_not_written) {
    copy_of("/bin/sleep", "prog");
    int w = OK(open("prog", O_RDWR));
    pid_t pid = OK(fork());
    if (!pid) { execl("./prog", "prog", "5", NULL); _exit(errno == ETXTBSY ? 7 : 1); }
    EXITS(pid, 7);
    close(w);
    int p[2];
    OK(pipe2(p, O_CLOEXEC));
    pid = OK(fork());
    if (!pid) { execl("./prog", "prog", "5", NULL); _exit(1); }
    close(p[1]);
    char c;
    EQ(read(p[0], &c, 1), 0); // it runs
    ERR(open("prog", O_WRONLY), ETXTBSY);
    ERR(open("prog", O_RDWR | O_TRUNC), ETXTBSY);
    ERR(truncate("prog", 0), ETXTBSY);
    OK(open("prog", O_RDONLY));
    OK(rename("prog", "other"));
    OK(unlink("other"));
    kill(pid, SIGKILL);
    wait_status(pid);
}
