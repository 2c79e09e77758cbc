// files: open, read and write, directories, links, permissions, times, attributes.
#include "abi.h"
#include <sys/eventfd.h>
#include <grp.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

// Runs a block as another user, without capabilities.
#define AS_NOBODY(...) IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); __VA_ARGS__)
static void touch(const char *path) { close(file_with(path, "")); }
static char longname[5000];
static void make_long(size_t n) { memset(longname, 'n', n); longname[n] = 0; }

CASE(open_create_and_errors) {
    ERR(open("f", O_RDONLY), ENOENT);
    int fd = OK(open("f", O_RDWR | O_CREAT, 0640));
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_mode, S_IFREG | 0640);
    ERR(open("f", O_RDWR | O_CREAT | O_EXCL, 0640), EEXIST);
    ERR(open("f/x", O_RDONLY), ENOTDIR);
    ERR(open("f/", O_RDONLY), ENOTDIR);
    ERR(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    ERR(open(".", O_WRONLY), EISDIR);
    ERR(open(".", O_RDONLY | O_CREAT, 0600), EISDIR);
    ERR(open("", O_RDONLY), ENOENT);
    ERR(open("no/f", O_RDWR | O_CREAT, 0600), ENOENT);
    make_long(256);
    ERR(open(longname, O_RDWR | O_CREAT, 0600), ENAMETOOLONG);
    make_long(255);
    OK(open(longname, O_RDWR | O_CREAT, 0600));
    make_long(4096);
    ERR(open(longname, O_RDONLY), ENAMETOOLONG);
    ERR(syscall(SYS_open, BAD, O_RDONLY), EFAULT);
    ERR(syscall(SYS_openat, AT_FDCWD, BAD, O_RDONLY), EFAULT);
}

CASE(open_excl_does_not_follow) {
    OK(symlink("target", "l"));
    ERR(open("l", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
    OK(open("l", O_CREAT | O_RDWR, 0600)); // creates the target
    OK(access("target", F_OK));
}

CASE(open_nofollow_and_path) {
    touch("f");
    OK(symlink("f", "l"));
    ERR(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
    int fd = OK(open("l", O_PATH | O_NOFOLLOW));
    struct stat st;
    OK(fstat(fd, &st));
    CHECK(S_ISLNK(st.st_mode));
    char b[8];
    ERR(read(fd, b, 1), EBADF);
    EQ(readlinkat(fd, "", b, sizeof b), 1);
    fd = OK(open("f", O_PATH));
    ERR(read(fd, b, 1), EBADF);
    ERR(fchmod(fd, 0600), EBADF);
    ERR(ftruncate(fd, 0), EBADF);
}

CASE(open_trunc) {
    close(file_with("f", "abc"));
    close(OK(open("f", O_WRONLY | O_TRUNC)));
    struct stat st;
    OK(stat("f", &st));
    EQ(st.st_size, 0);
}

CASE(open_append) {
    close(file_with("f", "abc"));
    int fd = OK(open("f", O_RDWR | O_APPEND)), other = OK(open("f", O_WRONLY | O_APPEND));
    EQ(write(other, "123", 3), 3);
    OK(lseek(fd, 0, SEEK_SET));
    EQ(write(fd, "def", 3), 3);
    EQ(lseek(fd, 0, SEEK_CUR), 9);
    CHECK(!strcmp(slurp("f"), "abc123def"));
    EQ(pwrite(fd, "X", 1, 0), 1); // Linux: pwrite appends too
    CHECK(!strcmp(slurp("f"), "abc123defX"));
}

CASE(open_modes_are_kept) {
    close(file_with("f", "abc"));
    char c;
    int ro = OK(open("f", O_RDONLY)), wo = OK(open("f", O_WRONLY));
    ERR(write(ro, "x", 1), EBADF);
    ERR(read(wo, &c, 1), EBADF);
    EQ(fcntl(ro, F_GETFL) & O_ACCMODE, O_RDONLY);
    EQ(fcntl(wo, F_GETFL) & O_ACCMODE, O_WRONLY);
    EQ(fcntl(OK(open("f", O_RDWR | O_APPEND | O_NONBLOCK)), F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_RDWR | O_APPEND | O_NONBLOCK);
}

CASE(open_lowest_descriptor) {
    touch("f");
    int a = OK(open("f", O_RDONLY)), b = OK(open("f", O_RDONLY));
    EQ(b, a + 1);
    OK(close(a));
    EQ(open("f", O_RDONLY), a);
    OK(close(a));
    ERR(close(a), EBADF);
}

CASE(open_emfile) {
    touch("f");
    soft_limit(RLIMIT_NOFILE, 10);
    int fd, last = -1;
    while ((fd = open("f", O_RDONLY)) >= 0) last = fd;
    EQ(errno, EMFILE);
    EQ(last, 9);
}

CASE(tmpfile_and_linkat) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    if (fd < 0 && errno == EOPNOTSUPP) skip("a file system without O_TMPFILE");
    OK(fd);
    EQ(write(fd, "tmp", 3), 3);
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_nlink, 0);
}

CASE(read_write_seek) {
    int fd = file_with("f", "hello world");
    char b[32];
    EQ(read(fd, b, 5), 5);
    EQ(lseek(fd, 1, SEEK_CUR), 6);
    EQ(read(fd, b, 32), 5);
    EQ(read(fd, b, 32), 0);
    EQ(lseek(fd, -5, SEEK_END), 6);
    ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    ERR(lseek(fd, 0, 77), EINVAL);
    EQ(lseek(fd, 100, SEEK_SET), 100);
    EQ(read(fd, b, 1), 0);
    EQ(write(fd, "!", 1), 1);
    EQ(pread(fd, b, 3, 98), 3);
    CHECK(b[0] == 0 && b[1] == 0 && b[2] == '!');
}

CASE(read_write_errors) {
    char c;
    ERR(read(-1, &c, 1), EBADF);
    ERR(write(999, &c, 1), EBADF);
    int fd = file_with("f", "abc");
    ERR(read(fd, BAD, 1), EFAULT);
    ERR(write(fd, BAD, 1), EFAULT);
    ERR(pread(fd, &c, 1, -1), EINVAL);
    ERR(pwrite(fd, &c, 1, -1), EINVAL);
    ERR(read(OK(open(".", O_RDONLY)), &c, 1), EISDIR);
    int p[2];
    OK(pipe(p));
    ERR(lseek(p[0], 0, SEEK_SET), ESPIPE);
    ERR(pread(p[0], &c, 1, 0), ESPIPE);
    EQ(read(fd, BAD, 0), 0);
}

CASE(readv_writev) {
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    struct iovec w[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
    EQ(writev(fd, w, 3), 5);
    char a[3], b[3];
    struct iovec r[2] = {{a, 3}, {b, 3}};
    EQ(preadv(fd, r, 2, 1), 4);
    CHECK(!memcmp(a, "bcd", 3) && b[0] == 'e');
    ERR(syscall(SYS_writev, fd, w, -1L), EINVAL);
    ERR(syscall(SYS_writev, fd, w, 1025L), EINVAL);
    ERR(syscall(SYS_writev, fd, BAD, 1), EFAULT);
    struct iovec neg[1] = {{a, (size_t)-1}};
    ERR(readv(fd, neg, 1), EINVAL);
    EQ(pwritev(fd, w, 3, 5), 5);
    ERR(preadv2(fd, r, 2, 0, 0x1000), EOPNOTSUPP);
    EQ(preadv2(fd, r, 2, -1, 0), 5); // offset -1: the file's own position, 5 of 10
}

CASE(partial_efault_write) {
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    OK(munmap(p + 4096, 4096));
    int fd[2];
    OK(pipe(fd));
    memset(p, 'x', 4096);
    ERR(write(fd[1], p + 4096, 10), EFAULT);
    struct iovec v[2] = {{p, 10}, {p + 4096, 10}};
    ssize_t n = writev(fd[1], v, 2);
    CHECK(n == 10 || (n == -1 && errno == EFAULT));
}

CASE(truncate_forms) {
    int fd = file_with("f", "abcdef");
    OK(ftruncate(fd, 3));
    CHECK(!strcmp(slurp("f"), "abc"));
    OK(truncate("f", 5));
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_size, 5);
    char b[5];
    EQ(pread(fd, b, 5, 0), 5);
    CHECK(b[3] == 0 && b[4] == 0);
    ERR(ftruncate(fd, -1), EINVAL);
    ERR(truncate("f", -1), EINVAL);
    ERR(truncate("no", 0), ENOENT);
    ERR(truncate(".", 0), EISDIR);
    ERR(ftruncate(OK(open("f", O_RDONLY)), 0), EINVAL);
    int p[2];
    OK(pipe(p));
    ERR(ftruncate(p[1], 0), EINVAL);
    ERR(syscall(SYS_truncate, BAD, 0), EFAULT);
}

CASE(fallocate) {
    int fd = file_with("f", "abc");
    OK(syscall(SYS_fallocate, fd, 0, 0, 10000));
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_size, 10000);
    OK(syscall(SYS_fallocate, fd, 1 /* KEEP_SIZE */, 0, 20000));
    OK(fstat(fd, &st));
    EQ(st.st_size, 10000);
    OK(syscall(SYS_fallocate, fd, 3 /* KEEP_SIZE | PUNCH_HOLE */, 0, 2));
    char b[3];
    EQ(pread(fd, b, 3, 0), 3);
    CHECK(b[0] == 0 && b[1] == 0 && b[2] == 'c');
    ERR(syscall(SYS_fallocate, fd, 0, -1L, 1), EINVAL);
    ERR(syscall(SYS_fallocate, fd, 0, 0, 0), EINVAL);
    ERR(syscall(SYS_fallocate, OK(open("f", O_RDONLY)), 0, 0, 1), EBADF);
    ERR(syscall(SYS_fallocate, fd, 2, 0, 1), EOPNOTSUPP);
}

CASE(fsize_limit_sends_sigxfsz) {
    int fd = file_with("f", "");
    struct rlimit rl = {10, 10};
    OK(setrlimit(RLIMIT_FSIZE, &rl));
    handle(SIGXFSZ, 0);
    EQ(write(fd, "0123456789abc", 13), 10);
    ERR(write(fd, "x", 1), EFBIG);
    EQ(hits, 1);
    ERR(ftruncate(fd, 11), EFBIG);
    EQ(hits, 2);
}

CASE(stat_fields) {
    int fd = file_with("f", "12345");
    OK(chmod("f", 04751));
    struct stat a, b;
    OK(stat("f", &a));
    OK(fstat(fd, &b));
    EQ(a.st_size, 5);
    EQ(a.st_mode, S_IFREG | 04751);
    EQ(a.st_nlink, 1);
    EQ(a.st_uid, getuid());
    EQ(a.st_ino, b.st_ino);
    EQ(a.st_dev, b.st_dev);
    CHECK(a.st_ino != 0 && a.st_blksize > 0);
    OK(stat(".", &b));
    CHECK(S_ISDIR(b.st_mode) && b.st_ino != a.st_ino && b.st_dev == a.st_dev);
    OK(symlink("f", "l"));
    OK(lstat("l", &b));
    CHECK(S_ISLNK(b.st_mode) && b.st_size == 1);
    OK(stat("l", &b));
    EQ(b.st_ino, a.st_ino);
}

CASE(stat_errors) {
    struct stat st;
    ERR(stat("no", &st), ENOENT);
    ERR(stat("", &st), ENOENT);
    ERR(fstat(-1, &st), EBADF);
    touch("f");
    ERR(stat("f/x", &st), ENOTDIR);
    ERR(syscall(SYS_newfstatat, AT_FDCWD, "f", BAD, 0), EFAULT);
    ERR(syscall(SYS_newfstatat, AT_FDCWD, BAD, &st, 0), EFAULT);
    ERR(fstatat(AT_FDCWD, "f", &st, 0x8000), EINVAL);
    ERR(fstatat(-7, "f", &st, 0), EBADF);
    OK(fstatat(-7, "/", &st, 0));
    int fd = OK(open("f", O_RDONLY));
    ERR(fstatat(fd, "x", &st, 0), ENOTDIR);
    OK(fstatat(fd, "", &st, AT_EMPTY_PATH));
}

CASE(statx_fields) {
    file_with("f", "123");
    struct statx x;
    OK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS | STATX_BTIME, &x));
    EQ(x.stx_size, 3);
    CHECK((x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    EQ(x.stx_mode, S_IFREG | 0644);
    ERR(statx(AT_FDCWD, "no", 0, STATX_SIZE, &x), ENOENT);
    ERR(statx(AT_FDCWD, "f", 0x4000000, STATX_SIZE, &x), EINVAL);
    ERR(syscall(SYS_statx, AT_FDCWD, "f", 0, STATX_SIZE, BAD), EFAULT);
    ERR(syscall(SYS_statx, AT_FDCWD, "f", 0, 0x80000000u, &x), EINVAL);
}

CASE(link_counts_and_errors) {
    touch("a");
    OK(link("a", "b"));
    struct stat a, b;
    OK(stat("a", &a));
    OK(stat("b", &b));
    EQ(a.st_ino, b.st_ino);
    EQ(a.st_nlink, 2);
    OK(unlink("a"));
    OK(stat("b", &b));
    EQ(b.st_nlink, 1);
    ERR(link("no", "x"), ENOENT);
    touch("c");
    ERR(link("b", "c"), EEXIST);
    ERR(link(".", "d"), EPERM);
    ERR(link("b", "no/x"), ENOENT);
    OK(symlink("b", "l"));
    OK(link("l", "l2"));
    OK(lstat("l2", &b));
    CHECK(S_ISLNK(b.st_mode));
    OK(linkat(AT_FDCWD, "l", AT_FDCWD, "l3", AT_SYMLINK_FOLLOW));
    OK(lstat("l3", &b));
    CHECK(S_ISREG(b.st_mode));
    ERR(syscall(SYS_link, BAD, "z"), EFAULT);
}

CASE(unlink_keeps_open_file) {
    int fd = file_with("f", "abc");
    OK(unlink("f"));
    ERR(access("f", F_OK), ENOENT);
    char b[3];
    EQ(read(fd, b, 3), 3);
    EQ(write(fd, "d", 1), 1);
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_nlink, 0);
    EQ(st.st_size, 4);
    touch("f");
    struct stat st2;
    OK(stat("f", &st2));
    EQ(st2.st_size, 0);
}

CASE(unlink_errors) {
    ERR(unlink("no"), ENOENT);
    OK(mkdir("d", 0755));
    ERR(unlink("d"), EISDIR);
    touch("f");
    ERR(unlink("f/"), ENOTDIR);
    ERR(unlink("f/x"), ENOTDIR);
    ERR(unlinkat(AT_FDCWD, "f", 0x10), EINVAL);
    ERR(unlinkat(AT_FDCWD, "f", AT_REMOVEDIR), ENOTDIR);
    ERR(syscall(SYS_unlink, BAD), EFAULT);
    ERR(unlink(""), ENOENT);
}

CASE(mkdir_rmdir) {
    OK(mkdir("d", 0777));
    struct stat st;
    OK(stat("d", &st));
    EQ(st.st_mode, S_IFDIR | 0755);
    ERR(mkdir("d", 0777), EEXIST);
    ERR(mkdir("no/d", 0777), ENOENT);
    OK(mkdir("d/e/", 0700));
    ERR(rmdir("d"), ENOTEMPTY);
    ERR(rmdir("d/e/."), EINVAL);
    ERR(rmdir("d/e/.."), ENOTEMPTY);
    OK(rmdir("d/e"));
    OK(rmdir("d"));
    ERR(rmdir("d"), ENOENT);
    touch("f");
    ERR(rmdir("f"), ENOTDIR);
    ERR(mkdir("f", 0700), EEXIST);
    ERR(rmdir("/"), EBUSY);
    ERR(syscall(SYS_mkdir, BAD, 0700), EFAULT);
    OK(symlink("nowhere", "l"));
    ERR(mkdir("l", 0700), EEXIST);
}

CASE(directory_link_counts) {
    struct stat st;
    OK(mkdir("d", 0755));
    OK(mkdir("d/e", 0755));
    OK(stat("d/e", &st));
    CHECK(st.st_nlink == 2 || st.st_nlink == 1);
}

CASE(removed_cwd) {
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(rmdir("../d"));
    char b[PATH_MAX];
    ERR(syscall(SYS_getcwd, b, sizeof b), ENOENT);
    ERR(open("f", O_CREAT | O_RDWR, 0600), ENOENT);
    ERR(mkdir("x", 0700), ENOENT);
    OK(open(".", O_RDONLY));
}

CASE(rename_forms) {
    close(file_with("a", "A"));
    OK(rename("a", "b"));
    ERR(access("a", F_OK), ENOENT);
    close(file_with("c", "C"));
    OK(rename("c", "b"));
    CHECK(!strcmp(slurp("b"), "C"));
    OK(mkdir("d", 0755));
    OK(mkdir("e", 0755));
    OK(rename("d", "e")); // an empty directory is replaced
    touch("e/f");
    OK(mkdir("g", 0755));
    ERR(rename("g", "e"), ENOTEMPTY);
    ERR(rename("g", "b"), ENOTDIR);
    ERR(rename("b", "g"), EISDIR);
    ERR(rename("e", "e/sub"), EINVAL);
    ERR(rename("no", "x"), ENOENT);
    ERR(rename("b", "no/x"), ENOENT);
    OK(rename("e", "g/moved"));
    OK(access("g/moved/f", F_OK));
    ERR(rename("g/.", "z"), EBUSY);
    ERR(syscall(SYS_rename, BAD, "x"), EFAULT);
    OK(link("b", "b2"));
    OK(rename("b", "b2")); // the same file: nothing happens
    OK(access("b", F_OK));
}

CASE(renameat2_flags) {
    close(file_with("a", "A"));
    close(file_with("b", "B"));
    ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE));
    CHECK(!strcmp(slurp("a"), "B"));
    ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "no", RENAME_EXCHANGE), ENOENT);
    ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
    ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", 0x80), EINVAL);
    OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
}

CASE(rename_open_file_keeps_working) {
    int fd = file_with("a", "abc");
    OK(rename("a", "b"));
    EQ(write(fd, "X", 1), 1);
    CHECK(!strcmp(slurp("b"), "Xbc"));
}

CASE(symlink_readlink) {
    char b[64];
    OK(symlink("some/where", "l"));
    EQ(readlink("l", b, sizeof b), 10);
    EQ(readlink("l", b, 4), 4);
    CHECK(!memcmp(b, "some", 4));
    ERR(symlink("x", "l"), EEXIST);
    ERR(symlink("", "m"), ENOENT);
    ERR(readlink("no", b, 4), ENOENT);
    touch("f");
    ERR(readlink("f", b, 4), EINVAL);
    ERR(readlink("l", b, 0), EINVAL);
    ERR(syscall(SYS_readlink, "l", BAD, 10), EFAULT);
    ERR(syscall(SYS_symlink, BAD, "z"), EFAULT);
    ERR(open("l", O_RDONLY), ENOENT);
}

CASE(symlink_loops) {
    OK(symlink("b", "a"));
    OK(symlink("a", "b"));
    ERR(open("a", O_RDONLY), ELOOP);
    struct stat st;
    ERR(stat("a/x", &st), ELOOP);
    OK(lstat("a", &st));
    char from[16], to[16] = "end";
    close(file_with("end", "E"));
    for (int i = 0; i < 41; i++) {
        sprintf(from, "c%d", i);
        OK(symlink(to, from));
        strcpy(to, from);
    }
    OK(stat("c39", &st)); // 40 links are followed
    ERR(stat("c40", &st), ELOOP);
}

CASE(symlinks_in_the_middle) {
    OK(mkdir("d", 0755));
    OK(symlink("d", "l"));
    touch("l/f");
    OK(access("d/f", F_OK));
    OK(symlink("../d/f", "d/up"));
    OK(access("l/up", F_OK));
    OK(access("l/../d/f", F_OK));
    char here[PATH_MAX], link[PATH_MAX + 8];
    CHECK(getcwd(here, sizeof here));
    snprintf(link, sizeof link, "%s/d", here);
    OK(symlink(link, "abs"));
    OK(access("abs/f", F_OK));
    struct stat st;
    OK(lstat("l/", &st));
    CHECK(S_ISDIR(st.st_mode));
}

CASE(dot_dot_at_the_root) {
    struct stat a, b;
    OK(stat("/", &a));
    OK(stat("/../../..", &b));
    CHECK(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
}

CASE(getdents) {
    for (int i = 0; i < 100; i++) { char n[8]; sprintf(n, "f%d", i); touch(n); }
    OK(mkdir("sub", 0755));
    OK(symlink("x", "sl"));
    int seen = 0, types = 0;
    DIR *d = opendir(".");
    for (struct dirent *e; (e = readdir(d));) {
        seen++;
        struct stat st;
        OK(fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW));
        if (strcmp(e->d_name, "..")) EQ(e->d_ino, st.st_ino);
        if (e->d_type == DT_UNKNOWN || e->d_type == (st.st_mode & S_IFMT) >> 12) types++;
    }
    EQ(seen, 104);
    EQ(types, 104);
    rewinddir(d);
    seen = 0;
    while (readdir(d)) seen++;
    EQ(seen, 104);
}

CASE(getdents_errors) {
    char b[1024];
    int dir = OK(open(".", O_RDONLY));
    touch("f");
    ERR(syscall(SYS_getdents64, OK(open("f", O_RDONLY)), b, sizeof b), ENOTDIR);
    ERR(syscall(SYS_getdents64, -1, b, sizeof b), EBADF);
    ERR(syscall(SYS_getdents64, dir, b, 8), EINVAL);
    ERR(syscall(SYS_getdents64, dir, BAD, 1024), EFAULT);
    CHECK(OK(syscall(SYS_getdents64, dir, b, sizeof b)) > 0);
    EQ(syscall(SYS_getdents64, dir, b, sizeof b), 0);
    OK(mkdir("gone", 0700));
    int gone = OK(open("gone", O_RDONLY));
    OK(rmdir("gone"));
    ERR(syscall(SYS_getdents64, gone, b, sizeof b), ENOENT);
}

CASE(telldir_small_buffers) {
    for (int i = 0; i < 40; i++) { char n[8]; sprintf(n, "f%d", i); touch(n); }
    int dir = OK(open(".", O_RDONLY)), seen = 0;
    char b[64];
    long n;
    while ((n = OK(syscall(SYS_getdents64, dir, b, sizeof b))) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(b + at + 16)) seen++;
    EQ(seen, 42);
}

CASE(chdir_fchdir_getcwd) {
    OK(mkdir("d", 0755));
    int dir = OK(open(".", O_RDONLY)), f = file_with("f", "");
    OK(chdir("d"));
    char b[PATH_MAX];
    long n = OK(syscall(SYS_getcwd, b, sizeof b));
    EQ(n, (long)strlen(b) + 1);
    CHECK(!strcmp(b + n - 3, "/d"));
    ERR(syscall(SYS_getcwd, b, 3), ERANGE);
    ERR(syscall(SYS_getcwd, BAD, 1000), EFAULT);
    OK(fchdir(dir));
    ERR(chdir("f"), ENOTDIR);
    ERR(chdir("no"), ENOENT);
    ERR(fchdir(f), ENOTDIR);
    ERR(fchdir(-1), EBADF);
}

CASE(deeper_than_a_name_can_tell) {
    char name[201], b[2 * PATH_MAX], here[PATH_MAX];
    memset(name, 'z', 200);
    name[200] = 0;
    CHECK(getcwd(here, sizeof here));
    for (int i = 0; i < 25; i++) { OK(mkdir(name, 0755)); OK(chdir(name)); }
    ERR(syscall(SYS_getcwd, b, sizeof b), ENAMETOOLONG);
    ERR(syscall(SYS_getcwd, b, 3), ENAMETOOLONG);
    ERR(readlink("/proc/self/cwd", b, sizeof b), ENAMETOOLONG);
    char link[40];
    sprintf(link, "/proc/self/fd/%d", OK(open(".", O_RDONLY)));
    ERR(readlink(link, b, sizeof b), ENAMETOOLONG);
    CHECK(getcwd(b, sizeof b)); // libc asks the directories above
    EQ(strlen(b), strlen(here) + 25 * 201);
    struct stat from, to;
    OK(stat(link, &to)); // the link leads there all the same
    OK(stat(".", &from));
    EQ(from.st_ino, to.st_ino);
    for (int i = 0; i < 25; i++) { OK(chdir("..")); OK(rmdir(name)); }
}

CASE(chroot_confines) {
    OK(mkdir("r", 0755));
    OK(mkdir("r/in", 0755));
    IN_CHILD(OK(chroot("r")); OK(chdir("/")); OK(access("/in", F_OK)); OK(access("/../../in", F_OK)); ERR(access("/etc", F_OK), ENOENT));
    AS_NOBODY(ERR(chroot("r"), EPERM));
}
CASE(above_ones_root_is_the_outermost) {
    struct stat root, st;
    OK(stat("/", &root));
    OK(mkdir("r", 0755));
    IN_CHILD(
        OK(chroot("r"));
        int fd = OK(open(".", O_RDONLY | O_DIRECTORY));
        for (int i = 0; i < 20; i++) fd = OK(openat(fd, "..", O_RDONLY | O_DIRECTORY));
        OK(fstat(fd, &st));
        CHECK(st.st_ino == root.st_ino && st.st_dev == root.st_dev));
}

CASE(at_calls) {
    OK(mkdir("d", 0755));
    int d = OK(open("d", O_RDONLY | O_DIRECTORY));
    close(OK(openat(d, "f", O_CREAT | O_RDWR, 0600)));
    OK(access("d/f", F_OK));
    OK(mkdirat(d, "sub", 0700));
    OK(symlinkat("f", d, "l"));
    char b[8];
    EQ(readlinkat(d, "l", b, 8), 1);
    OK(linkat(d, "f", AT_FDCWD, "g", 0));
    OK(renameat(d, "f", d, "h"));
    OK(faccessat(d, "h", R_OK, 0));
    OK(fchmodat(d, "h", 0640, 0));
    OK(fchownat(d, "h", 1, 2, 0));
    struct stat st;
    OK(fstatat(d, "h", &st, 0));
    CHECK(st.st_uid == 1 && st.st_gid == 2 && st.st_mode == (S_IFREG | 0640));
    OK(unlinkat(d, "sub", AT_REMOVEDIR));
    OK(unlinkat(d, "l", 0));
    ERR(openat(77, "f", O_RDONLY), EBADF);
    OK(openat(77, "/", O_RDONLY));
}

CASE(openat2_resolve) {
    struct { uint64_t flags, mode, resolve; } how = {O_RDONLY, 0, 8 /* BENEATH */}, none = {O_RDONLY, 0, 4 /* NO_SYMLINKS */};
    OK(mkdir("d", 0755));
    touch("d/f");
    touch("out");
    OK(symlink("../out", "d/esc"));
    OK(symlink("f", "d/l"));
    int d = OK(open("d", O_RDONLY));
    OK(syscall(SYS_openat2, d, "f", &how, sizeof how));
    OK(syscall(SYS_openat2, d, "l", &how, sizeof how));
    ERR(syscall(SYS_openat2, d, "esc", &how, sizeof how), EXDEV);
    ERR(syscall(SYS_openat2, d, "/etc", &how, sizeof how), EXDEV);
    ERR(syscall(SYS_openat2, d, "l", &none, sizeof none), ELOOP);
    ERR(syscall(SYS_openat2, d, "f", &how, 8), EINVAL);
    ERR(syscall(SYS_openat2, d, "f", BAD, sizeof how), EFAULT);
    how.resolve = 1 << 20;
    ERR(syscall(SYS_openat2, d, "f", &how, sizeof how), EINVAL);
}

CASE(access_as_root_and_other) {
    touch("secret");
    OK(chmod("secret", 0600));
    OK(access("secret", R_OK | W_OK));
    ERR(access("secret", X_OK), EACCES); // root too: no x bit at all
    ERR(access("no", F_OK), ENOENT);
    ERR(access("secret", 0x10), EINVAL);
    ERR(syscall(SYS_access, BAD, F_OK), EFAULT);
    AS_NOBODY(OK(access("secret", F_OK)); ERR(access("secret", R_OK), EACCES));
    IN_CHILD(OK(seteuid(65534)); OK(access("secret", R_OK)); ERR(open("secret", O_RDONLY), EACCES);
             ERR(faccessat(AT_FDCWD, "secret", R_OK, AT_EACCESS), EACCES));
}

CASE(permissions_of_another_user) {
    close(file_with("f", "abc"));
    OK(mkdir("d", 0700));
    touch("d/x");
    OK(chmod("f", 0604));
    AS_NOBODY(OK(open("f", O_RDONLY)); ERR(open("f", O_WRONLY), EACCES); ERR(open("d/x", O_RDONLY), EACCES);
              ERR(open("new", O_CREAT | O_RDWR, 0600), EACCES); ERR(unlink("f"), EACCES); ERR(rename("f", "g"), EACCES);
              ERR(mkdir("e", 0700), EACCES); ERR(chmod("f", 0777), EPERM); ERR(chown("f", 65534, 65534), EPERM);
              ERR(truncate("f", 0), EACCES); ERR(utimensat(AT_FDCWD, "f", NULL, 0), EACCES);
              ERR(chdir("d"), EACCES); ERR(opendir("d") ? 0 : -1, EACCES));
}

CASE(group_permissions) {
    close(file_with("f", "abc"));
    OK(chown("f", 0, 777));
    OK(chmod("f", 0640));
    gid_t g = 777;
    IN_CHILD(OK(setgroups(1, &g)); OK(setgid(65534)); OK(setuid(65534)); OK(open("f", O_RDONLY)); ERR(open("f", O_WRONLY), EACCES));
    AS_NOBODY(ERR(open("f", O_RDONLY), EACCES));
}

CASE(owner_class_comes_first) {
    touch("f");
    OK(chown("f", 65534, 65534));
    OK(chmod("f", 0077)); // the owner has less than everybody
    AS_NOBODY(ERR(open("f", O_RDONLY), EACCES));
}

CASE(sticky_directory) {
    OK(mkdir("s", 0777));
    OK(chmod("s", 01777));
    touch("s/root");
    AS_NOBODY(ERR(unlink("s/root"), EPERM); close(OK(open("s/mine", O_CREAT | O_RDWR, 0600))); ERR(rename("s/mine", "s/root"), EPERM); OK(unlink("s/mine")));
}

CASE(setgid_directory_gives_group) {
    OK(mkdir("d", 0755));
    OK(chown("d", 0, 555));
    OK(chmod("d", 02755));
    touch("d/f");
    OK(mkdir("d/e", 0700));
    struct stat st;
    OK(stat("d/f", &st));
    EQ(st.st_gid, 555);
    OK(stat("d/e", &st));
    EQ(st.st_gid, 555);
    CHECK(st.st_mode & S_ISGID);
}

CASE(setgid_is_not_for_other_groups) {
    OK(mkdir("d", 0755));
    OK(chown("d", 1000, 555));
    OK(chmod("d", 02777));
    pid_t pid = OK(fork());
    if (!pid) {
        OK(setresgid(1000, 1000, 1000));
        OK(setgroups(0, NULL));
        OK(setresuid(1000, 1000, 1000));
        struct stat st;
        // The umask does not hide the bit for executing that takes set-group-id away.
        const mode_t masks[] = {0, 010}, modes[] = {0777, 0767};
        for (int i = 0; i < 2; i++) {
            umask(masks[i]);
            OK(fstat(OK(open(i ? "d/b" : "d/a", O_CREAT | O_EXCL | O_RDWR, 02777)), &st));
            EQ(st.st_mode & 07777, modes[i]);
            EQ(st.st_gid, 555);
        }
        _exit(0);
    }
    EXITS(pid, 0);
}

CASE(chmod_chown) {
    struct stat st;
    int fd = file_with("f", "");
    OK(fchmod(fd, 0111));
    OK(stat("f", &st));
    EQ(st.st_mode & 07777, 0111);
    OK(chown("f", 5, -1));
    OK(fchown(fd, -1, 6));
    OK(stat("f", &st));
    CHECK(st.st_uid == 5 && st.st_gid == 6);
    OK(symlink("f", "l"));
    OK(lchown("l", 9, 9));
    OK(stat("f", &st));
    EQ(st.st_uid, 5);
    OK(lstat("l", &st));
    EQ(st.st_uid, 9);
    ERR(chmod("no", 0), ENOENT);
    ERR(chown("no", 0, 0), ENOENT);
    ERR(syscall(SYS_chmod, BAD, 0), EFAULT);
    ERR(fchmod(-1, 0), EBADF);
}

CASE(chown_clears_setuid) {
    struct stat st;
    touch("f");
    OK(chmod("f", 06755));
    OK(chown("f", 5, 5));
    OK(stat("f", &st));
    EQ(st.st_mode & 07777, 0755);
}

CASE(write_clears_setuid) {
    struct stat st;
    touch("f");
    OK(chown("f", 65534, 65534));
    OK(chmod("f", 04777));
    AS_NOBODY(EQ(write(OK(open("f", O_WRONLY)), "x", 1), 1));
    OK(stat("f", &st));
    EQ(st.st_mode & 07777, 0777);
}

CASE(umask_applies) {
    EQ(umask(027), 022);
    close(OK(open("f", O_CREAT | O_RDWR, 0777)));
    OK(mkdir("d", 0777));
    struct stat st;
    OK(stat("f", &st));
    EQ(st.st_mode & 0777, 0750);
    OK(stat("d", &st));
    EQ(st.st_mode & 0777, 0750);
    EQ(umask(0777), 027);
    EQ(umask(01234567), 0777);
    EQ(umask(0), 0567);
}

CASE(utimensat) {
    int fd = file_with("f", "");
    struct timespec t[2] = {{100, 5}, {200, 7}};
    struct stat st;
    OK(utimensat(AT_FDCWD, "f", t, 0));
    OK(stat("f", &st));
    CHECK(st.st_atim.tv_sec == 100 && st.st_mtim.tv_sec == 200 && st.st_mtim.tv_nsec == 7);
    t[0].tv_nsec = UTIME_OMIT;
    t[1].tv_nsec = UTIME_NOW;
    OK(futimens(fd, t));
    OK(stat("f", &st));
    EQ(st.st_atim.tv_sec, 100);
    CHECK(st.st_mtim.tv_sec > 1000000000);
    t[0].tv_nsec = 2000000000;
    ERR(utimensat(AT_FDCWD, "f", t, 0), EINVAL);
    ERR(utimensat(AT_FDCWD, "no", NULL, 0), ENOENT);
    ERR(syscall(SYS_utimensat, AT_FDCWD, "f", BAD, 0), EFAULT);
    OK(symlink("f", "l"));
    t[0] = t[1] = (struct timespec){50, 0};
    OK(utimensat(AT_FDCWD, "l", t, AT_SYMLINK_NOFOLLOW));
    OK(lstat("l", &st));
    EQ(st.st_mtim.tv_sec, 50);
    OK(stat("f", &st));
    CHECK(st.st_mtim.tv_sec != 50);
}

CASE(times_change) {
    int fd = file_with("f", "a");
    struct timespec old[2] = {{100, 0}, {100, 0}};
    struct stat st;
    OK(futimens(fd, old));
    EQ(write(fd, "b", 1), 1);
    OK(fstat(fd, &st));
    CHECK(st.st_mtim.tv_sec > 100 && st.st_ctim.tv_sec > 100);
    OK(mkdir("d", 0755));
    OK(utimensat(AT_FDCWD, "d", old, 0));
    touch("d/x");
    OK(stat("d", &st));
    CHECK(st.st_mtim.tv_sec > 100);
}

CASE(xattr) {
    needs(6, 6); // user xattrs on tmpfs
    char b[64];
    int fd = file_with("f", "");
    if (setxattr("f", "user.a", "val", 3, 0) < 0) { EQ(errno, EOPNOTSUPP); FAILED("no user xattrs here"); }
    EQ(getxattr("f", "user.a", b, sizeof b), 3);
    CHECK(!memcmp(b, "val", 3));
    EQ(getxattr("f", "user.a", NULL, 0), 3);
    ERR(getxattr("f", "user.a", b, 2), ERANGE);
    ERR(getxattr("f", "user.no", b, 2), ENODATA);
    ERR(setxattr("f", "user.a", "x", 1, XATTR_CREATE), EEXIST);
    ERR(setxattr("f", "user.b", "x", 1, XATTR_REPLACE), ENODATA);
    OK(fsetxattr(fd, "user.b", "", 0, 0));
    ssize_t n = OK(listxattr("f", b, sizeof b));
    CHECK(n >= 14 && memmem(b, n, "user.a", 7) && memmem(b, n, "user.b", 7));
    OK(removexattr("f", "user.a"));
    ERR(fremovexattr(fd, "user.a"), ENODATA);
    ERR(setxattr("f", "nonsense", "x", 1, 0), EOPNOTSUPP);
    ERR(getxattr("no", "user.a", b, 2), ENOENT);
    ERR(syscall(SYS_setxattr, "f", "user.c", BAD, 10, 0), EFAULT);
    ERR(syscall(SYS_getxattr, "f", BAD, b, 10), EFAULT);
    OK(symlink("f", "l"));
    ERR(lsetxattr("l", "user.a", "x", 1, 0), EPERM);
    AS_NOBODY(ERR(setxattr("f", "user.z", "x", 1, 0), EACCES));
}

CASE(statfs) {
    struct statfs s;
    OK(statfs(".", &s));
    CHECK(s.f_bsize > 0 && s.f_namelen >= 255);
    OK(fstatfs(OK(open(".", O_RDONLY)), &s));
    ERR(statfs("no", &s), ENOENT);
    ERR(fstatfs(-1, &s), EBADF);
    ERR(syscall(SYS_statfs, ".", BAD), EFAULT);
    OK(statfs("/proc", &s));
    EQ(s.f_type, 0x9fa0);
}

CASE(sendfile) {
    int in = file_with("in", "0123456789"), out = OK(open("out", O_RDWR | O_CREAT, 0600));
    off_t off = 2;
    EQ(sendfile(out, in, &off, 5), 5);
    EQ(off, 7);
    EQ(lseek(in, 0, SEEK_CUR), 0);
    EQ(sendfile(out, in, NULL, 100), 10);
    CHECK(!strcmp(slurp("out"), "234560123456789"));
    ERR(sendfile(out, -1, NULL, 1), EBADF);
    ERR(sendfile(in, OK(open("out", O_WRONLY)), NULL, 1), EBADF);
    ERR(syscall(SYS_sendfile, out, in, BAD, 1), EFAULT);
    int p[2];
    OK(pipe(p));
    EQ(lseek(in, 0, SEEK_SET), 0);
    EQ(sendfile(p[1], in, NULL, 4), 4);
    char b[8];
    EQ(read(p[0], b, 8), 4);
}

CASE(copy_file_range) {
    int in = file_with("in", "0123456789"), out = OK(open("out", O_RDWR | O_CREAT, 0600));
    loff_t off = 3;
    EQ(copy_file_range(in, &off, out, NULL, 4, 0), 4);
    EQ(off, 7);
    CHECK(!strcmp(slurp("out"), "3456"));
    ERR(copy_file_range(in, NULL, out, NULL, 1, 1), EINVAL);
}

CASE(splice_and_tee) {
    int in = file_with("in", "0123456789"), p[2], q[2];
    OK(pipe(p));
    OK(pipe(q));
    EQ(splice(in, NULL, p[1], NULL, 6, 0), 6);
    EQ(tee(p[0], q[1], 6, 0), 6);
    char b[8];
    EQ(read(p[0], b, 8), 6);
    EQ(read(q[0], b, 8), 6);
    CHECK(!memcmp(b, "012345", 6));
    ERR(splice(in, NULL, in, NULL, 1, 0), EINVAL);
}

CASE(fcntl_dup_and_flags) {
    int fd = file_with("f", "abc"), d = OK(fcntl(fd, F_DUPFD, 50));
    EQ(d, 50);
    EQ(fcntl(d, F_GETFD), 0);
    int e = OK(fcntl(fd, F_DUPFD_CLOEXEC, 50));
    EQ(e, 51);
    EQ(fcntl(e, F_GETFD), FD_CLOEXEC);
    OK(fcntl(e, F_SETFD, 0));
    EQ(fcntl(e, F_GETFD), 0);
    OK(lseek(fd, 2, SEEK_SET));
    EQ(lseek(d, 0, SEEK_CUR), 2);
    OK(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
    EQ(fcntl(d, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE), O_APPEND | O_NONBLOCK | O_RDWR);
    OK(fcntl(fd, F_SETFL, 0));
    EQ(fcntl(d, F_GETFL) & (O_APPEND | O_NONBLOCK), 0);
    ERR(fcntl(fd, F_DUPFD, -1), EINVAL);
    ERR(fcntl(fd, F_DUPFD, 1 << 30), EINVAL);
    ERR(fcntl(fd, 9999, 0), EINVAL);
    ERR(fcntl(-1, F_GETFD), EBADF);
}

CASE(record_locks) {
    int fd = file_with("f", "0123456789");
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 4};
    OK(fcntl(fd, F_SETLK, &l));
    IN_CHILD(struct flock m = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 4, .l_len = 1};
             ERR(fcntl(fd, F_SETLK, &m), EAGAIN); OK(fcntl(fd, F_GETLK, &m)); EQ(m.l_type, F_WRLCK); EQ(m.l_pid, getppid());
             EQ(m.l_start, 2); EQ(m.l_len, 4); m = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 6, .l_len = 1};
             OK(fcntl(fd, F_SETLK, &m)));
    l.l_type = F_UNLCK;
    OK(fcntl(fd, F_SETLK, &l));
    IN_CHILD(struct flock m = {.l_type = F_WRLCK, .l_whence = SEEK_SET}; OK(fcntl(fd, F_SETLK, &m)));
    ERR(fcntl(fd, F_SETLK, BAD), EFAULT);
    l.l_type = 77;
    ERR(fcntl(fd, F_SETLK, &l), EINVAL);
}

CASE(record_lock_waits_eintr_and_deadlock) {
    int fd = file_with("f", "0123456789");
    int p[2];
    char c;
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) {
        struct flock m = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
        if (fcntl(fd, F_SETLK, &m) < 0 || write(p[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    EQ(read(p[0], &c, 1), 1);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    INTERRUPTED(fcntl(fd, F_SETLKW, &l));
    kill(pid, SIGKILL);
    OK(fcntl(fd, F_SETLKW, &l)); // death releases
    DIES(pid, SIGKILL);
}

CASE(flock) {
    int fd = file_with("f", ""), other = OK(open("f", O_RDWR)), d = OK(dup(fd));
    OK(flock(fd, LOCK_EX));
    ERR(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    OK(flock(d, LOCK_SH)); // the same open file: converts
    OK(flock(other, LOCK_SH | LOCK_NB));
    OK(flock(fd, LOCK_UN));
    OK(flock(other, LOCK_EX | LOCK_NB));
    OK(close(other));
    OK(flock(fd, LOCK_EX | LOCK_NB));
    ERR(flock(fd, 16), EINVAL);
    ERR(flock(-1, LOCK_EX), EBADF);
}

CASE(mknod_fifo_and_device) {
    OK(mkfifo("p", 0600));
    struct stat st;
    OK(stat("p", &st));
    CHECK(S_ISFIFO(st.st_mode));
    ERR(mkfifo("p", 0600), EEXIST);
    ERR(open("p", O_WRONLY | O_NONBLOCK), ENXIO);
    int r = OK(open("p", O_RDONLY | O_NONBLOCK)), w = OK(open("p", O_WRONLY | O_NONBLOCK));
    char c;
    EQ(write(w, "x", 1), 1);
    EQ(read(r, &c, 1), 1);
    ERR(read(r, &c, 1), EAGAIN);
    OK(close(w));
    EQ(read(r, &c, 1), 0);
    OK(mknod("reg", S_IFREG | 0600, 0));
    AS_NOBODY(OK(chdir("/tmp")); ERR(mknod("dev", S_IFCHR | 0600, 0x103), EPERM));
}

CASE(fifo_open_waits_for_the_other_side) {
    OK(mkfifo("p", 0600));
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(30); int w = open("p", O_WRONLY); _exit(write(w, "k", 1) == 1 ? 0 : 1); }
    int r = OK(open("p", O_RDONLY));
    char c;
    EQ(read(r, &c, 1), 1);
    EXITS(pid, 0);
    OK(close(r));
    INTERRUPTED(open("p", O_RDONLY));
}

CASE(special_devices) {
    char b[16];
    int fd = OK(open("/dev/null", O_RDWR));
    EQ(read(fd, b, 16), 0);
    EQ(write(fd, b, 16), 16);
    fd = OK(open("/dev/zero", O_RDWR));
    memset(b, 1, 16);
    EQ(read(fd, b, 16), 16);
    CHECK(b[0] == 0 && b[15] == 0);
    fd = OK(open("/dev/full", O_RDWR));
    ERR(write(fd, b, 1), ENOSPC);
    EQ(lseek(fd, 77, SEEK_SET), 0); // whatever is asked
    EQ(lseek(fd, -7396559417396527272, SEEK_CUR), 0);
    ERR(lseek(fd, 5, 99), EINVAL);
    ERR(lseek(OK(eventfd(0, 0)), 0, 99), EINVAL);
    EQ(read(OK(open("/dev/urandom", O_RDONLY)), b, 16), 16);
    volatile char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, OK(open("/dev/zero", O_RDWR)), 0);
    EQ(p[5], 0);
}

CASE(fsync_family) {
    int fd = file_with("f", "x"), p[2];
    OK(fsync(fd));
    OK(fdatasync(fd));
    OK(syncfs(fd));
    sync();
    OK(pipe(p));
    ERR(fsync(p[0]), EINVAL);
    ERR(fsync(-1), EBADF);
}

CASE(posix_fadvise_and_readahead) {
    int fd = file_with("f", "x"), p[2];
    EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL), 0);
    EQ(posix_fadvise(fd, 0, 0, 99), EINVAL);
    OK(pipe(p));
    EQ(posix_fadvise(p[0], 0, 0, 0), ESPIPE);
}

CASE(seek_data_and_hole) {
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    EQ(pwrite(fd, "x", 1, 1 << 20), 1);
    EQ(lseek(fd, 1 << 20, SEEK_DATA), 1 << 20);
    EQ(lseek(fd, (1 << 20) + 1, SEEK_HOLE) >= (1 << 20) + 1 || errno == ENXIO, 1);
    ERR(lseek(fd, 2 << 20, SEEK_DATA), ENXIO);
}

CASE(sparse_blocks) {
    struct stat st;
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    OK(ftruncate(fd, 100 << 20));
    OK(fstat(fd, &st));
    CHECK(st.st_blocks < 1000);
    char b[4096];
    EQ(pread(fd, b, 4096, 50 << 20), 4096);
    CHECK(b[0] == 0 && b[4095] == 0);
}

CASE(large_file_io) {
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    size_t n = 3 << 20;
    unsigned char *a = malloc(n), *b = malloc(n);
    for (size_t i = 0; i < n; i++) a[i] = i * 7 + i / 251;
    EQ(write(fd, a, n), (long)n);
    EQ(pread(fd, b, n, 0), (long)n);
    CHECK(!memcmp(a, b, n));
}

CASE(many_files_in_a_directory) {
    char n[16];
    for (int i = 0; i < 1000; i++) { sprintf(n, "x%d", i); touch(n); }
    for (int i = 0; i < 1000; i++) { sprintf(n, "x%d", i); OK(unlink(n)); }
    int seen = 0;
    DIR *d = opendir(".");
    while (readdir(d)) seen++;
    EQ(seen, 2);
}

CASE(file_of_the_root_can_be_changed) { // copied up where the root is an overlay
    OK(mkdir("/etc/abi-test-dir", 0755));
    touch("/etc/abi-test-dir/f");
    OK(unlink("/etc/abi-test-dir/f"));
    OK(rmdir("/etc/abi-test-dir"));
}

CASE(concurrent_appends_do_not_overwrite) {
    touch("log");
    for (int i = 0; i < 4; i++) {
        pid_t pid = OK(fork());
        if (!pid) {
            int fd = open("log", O_WRONLY | O_APPEND);
            for (int j = 0; j < 100; j++) if (write(fd, "0123456789", 10) != 10) _exit(1);
            _exit(0);
        }
    }
    for (int i = 0; i < 4; i++) { int st; CHECK(wait(&st) > 0); EQ(st, 0); }
    struct stat st;
    OK(stat("log", &st));
    EQ(st.st_size, 4000);
}

CASE(large_appends_are_in_one_piece) {
    enum { N = 1 << 20, TIMES = 8 };
    static char b[N];
    OK(chdir(access("/dev/shm", W_OK) ? "." : "/dev/shm")); // tmpfs, and elsewhere
    char name[] = "appends.XXXXXX";
    close(OK(mkstemp(name)));
    for (int i = 0; i < 2; i++) {
        pid_t pid = OK(fork());
        if (!pid) {
            int fd = open(name, O_WRONLY | O_APPEND);
            memset(b, 'a' + i, N);
            for (int j = 0; j < TIMES; j++) if (write(fd, b, N) != N) _exit(1);
            _exit(0);
        }
    }
    for (int i = 0; i < 2; i++) { int st; CHECK(wait(&st) > 0); EQ(st, 0); }
    int fd = OK(open(name, O_RDONLY));
    OK(unlink(name));
    for (int i = 0; i < 2 * TIMES; i++) {
        EQ(read(fd, b, N), N);
        for (int j = 1; j < N; j++) if (b[j] != b[0]) FAILED("piece %d changes at %d", i, j);
    }
    EQ(read(fd, b, 1), 0);
}
