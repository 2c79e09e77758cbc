// inotify: each kind of event, the rules of watches, and how events are read.
#include "abi.h"
#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/xattr.h>

static int in;
static void start(void) { in = OK(inotify_init1(IN_NONBLOCK)); }
static void touch(const char *path) { close(file_with(path, "")); }

// The next event must be this one.
static struct inotify_event *next(int line) {
    static char buf[65536];
    static size_t at, have;
    if (at >= have) {
        ssize_t n = read(in, buf, sizeof buf);
        if (n <= 0) abi_fail(line, "no event (errno %d)", errno);
        at = 0, have = n;
    }
    struct inotify_event *e = (void *)(buf + at);
    at += sizeof *e + e->len;
    return e;
}
static unsigned last_cookie;
static void want(int line, int wd, unsigned mask, const char *name) {
    struct inotify_event *e = next(line);
    if (e->wd != wd || e->mask != mask || (name ? !e->len || strcmp(e->name, name) : e->len != 0))
        abi_fail(line, "got wd %d mask 0x%x name '%s' instead of wd %d mask 0x%x name '%s'", e->wd, e->mask, e->len ? e->name : "", wd, mask, name ? name : "");
    last_cookie = e->cookie;
}
#define WANT(wd, mask, name) want(__LINE__, wd, mask, name)
#define NONE()                                                                                                         \
    do {                                                                                                               \
        char abi_none[4096];                                                                                           \
        ERR(read(in, abi_none, sizeof abi_none), EAGAIN);                                                              \
    } while (0)

CASE(creation_and_removal) {
    start();
    OK(mkdir("d", 0755));
    int wd = OK(inotify_add_watch(in, "d", IN_CREATE | IN_DELETE));
    EQ(wd, 1);
    touch("d/f");
    OK(mkdir("d/s", 0755));
    OK(symlink("x", "d/l"));
    OK(link("d/f", "d/h"));
    OK(mkfifo("d/p", 0600));
    OK(unlink("d/h"));
    OK(rmdir("d/s"));
    WANT(wd, IN_CREATE, "f");
    WANT(wd, IN_CREATE | IN_ISDIR, "s");
    WANT(wd, IN_CREATE, "l");
    WANT(wd, IN_CREATE, "h");
    WANT(wd, IN_CREATE, "p");
    WANT(wd, IN_DELETE, "h");
    WANT(wd, IN_DELETE | IN_ISDIR, "s");
    NONE();
}

CASE(open_read_write_close) {
    start();
    OK(mkdir("d", 0755));
    close(file_with("d/f", "abc"));
    int wd = OK(inotify_add_watch(in, "d", IN_ALL_EVENTS)), own = OK(inotify_add_watch(in, "d/f", IN_ALL_EVENTS));
    char c;
    int fd = OK(open("d/f", O_RDONLY));
    EQ(read(fd, &c, 1), 1);
    close(fd);
    fd = OK(open("d/f", O_RDWR));
    EQ(write(fd, "x", 1), 1);
    OK(ftruncate(fd, 1));
    close(fd);
    WANT(wd, IN_OPEN, "f");
    WANT(own, IN_OPEN, NULL);
    WANT(wd, IN_ACCESS, "f");
    WANT(own, IN_ACCESS, NULL);
    WANT(wd, IN_CLOSE_NOWRITE, "f");
    WANT(own, IN_CLOSE_NOWRITE, NULL);
    WANT(wd, IN_OPEN, "f");
    WANT(own, IN_OPEN, NULL);
    WANT(wd, IN_MODIFY, "f");
    WANT(own, IN_MODIFY, NULL);
    WANT(wd, IN_MODIFY, "f"); // ftruncate
    WANT(own, IN_MODIFY, NULL);
    WANT(wd, IN_CLOSE_WRITE, "f");
    WANT(own, IN_CLOSE_WRITE, NULL);
    NONE();
}

CASE(attributes_change) {
    start();
    touch("f");
    int wd = OK(inotify_add_watch(in, "f", IN_ALL_EVENTS));
    OK(chmod("f", 0600));
    WANT(wd, IN_ATTRIB, NULL);
    OK(chown("f", getuid(), getgid()));
    WANT(wd, IN_ATTRIB, NULL);
    OK(utimensat(AT_FDCWD, "f", NULL, 0));
    WANT(wd, IN_ATTRIB, NULL);
    struct timespec only_m[2] = {{0, UTIME_OMIT}, {5, 0}}, only_a[2] = {{5, 0}, {0, UTIME_OMIT}};
    OK(utimensat(AT_FDCWD, "f", only_m, 0));
    WANT(wd, IN_MODIFY, NULL);
    OK(utimensat(AT_FDCWD, "f", only_a, 0));
    WANT(wd, IN_ACCESS, NULL);
    OK(link("f", "g"));
    WANT(wd, IN_ATTRIB, NULL);
    OK(unlink("g"));
    WANT(wd, IN_ATTRIB, NULL);
    OK(truncate("f", 10));
    WANT(wd, IN_MODIFY, NULL);
    if (setxattr("f", "user.a", "1", 1, 0) == 0) WANT(wd, IN_ATTRIB, NULL);
    NONE();
}

CASE(moves_have_cookies) {
    start();
    OK(mkdir("a", 0755));
    OK(mkdir("b", 0755));
    touch("a/f");
    int a = OK(inotify_add_watch(in, "a", IN_MOVE)), b = OK(inotify_add_watch(in, "b", IN_MOVE)), f = OK(inotify_add_watch(in, "a/f", IN_MOVE_SELF));
    OK(rename("a/f", "b/g"));
    WANT(a, IN_MOVED_FROM, "f");
    unsigned cookie = last_cookie;
    CHECK(cookie != 0);
    WANT(b, IN_MOVED_TO, "g");
    EQ(last_cookie, cookie);
    WANT(f, IN_MOVE_SELF, NULL);
    EQ(last_cookie, 0);
    OK(mkdir("a/s", 0755));
    OK(rename("a/s", "a/t"));
    WANT(a, IN_MOVED_FROM | IN_ISDIR, "s");
    CHECK(last_cookie != cookie);
    WANT(a, IN_MOVED_TO | IN_ISDIR, "t");
    NONE();
}

CASE(exchange_moves_both) {
    start();
    touch("x");
    touch("y");
    int wd = OK(inotify_add_watch(in, ".", IN_MOVE));
    if (syscall(SYS_renameat2, AT_FDCWD, "x", AT_FDCWD, "y", 2) < 0) return;
    WANT(wd, IN_MOVED_FROM, "x");
    unsigned cookie = last_cookie;
    WANT(wd, IN_MOVED_TO, "y");
    EQ(last_cookie, cookie);
    WANT(wd, IN_MOVED_FROM, "y");
    CHECK(last_cookie != cookie);
    WANT(wd, IN_MOVED_TO, "x");
    NONE();
}

CASE(the_end_of_a_file) {
    start();
    touch("f");
    int wd = OK(inotify_add_watch(in, "f", IN_ALL_EVENTS));
    OK(unlink("f"));
    WANT(wd, IN_ATTRIB, NULL);
    WANT(wd, IN_DELETE_SELF, NULL);
    WANT(wd, IN_IGNORED, NULL);
    NONE();
    ERR(inotify_rm_watch(in, wd), EINVAL);
}

CASE(the_end_waits_for_the_last_user) {
    start();
    int fd = file_with("f", "abc");
    int wd = OK(inotify_add_watch(in, "f", IN_ATTRIB | IN_DELETE_SELF | IN_MODIFY));
    OK(unlink("f"));
    WANT(wd, IN_ATTRIB, NULL);
    NONE();
    EQ(write(fd, "x", 1), 1);
    WANT(wd, IN_MODIFY, NULL);
    close(fd);
    WANT(wd, IN_DELETE_SELF, NULL);
    WANT(wd, IN_IGNORED, NULL);
    NONE();
}

CASE(the_end_of_a_directory) {
    start();
    OK(mkdir("d", 0755));
    int top = OK(inotify_add_watch(in, ".", IN_DELETE)), wd = OK(inotify_add_watch(in, "d", IN_ALL_EVENTS));
    OK(rmdir("d"));
    WANT(wd, IN_DELETE_SELF, NULL);
    WANT(wd, IN_IGNORED, NULL);
    WANT(top, IN_DELETE | IN_ISDIR, "d");
    NONE();
}

CASE(a_replaced_file_ends) {
    start();
    touch("old");
    touch("new");
    int wd = OK(inotify_add_watch(in, "old", IN_ALL_EVENTS));
    OK(rename("new", "old"));
    WANT(wd, IN_ATTRIB, NULL);
    WANT(wd, IN_DELETE_SELF, NULL);
    WANT(wd, IN_IGNORED, NULL);
    NONE();
}

CASE(opening_for_truncation) {
    start();
    close(file_with("f", "abc"));
    int wd = OK(inotify_add_watch(in, "f", IN_MODIFY | IN_CLOSE_WRITE));
    close(OK(open("f", O_WRONLY | O_TRUNC)));
    WANT(wd, IN_MODIFY, NULL);
    WANT(wd, IN_CLOSE_WRITE, NULL);
    NONE();
}

CASE(listing_a_directory) {
    start();
    OK(mkdir("d", 0755));
    int wd = OK(inotify_add_watch(in, "d", IN_OPEN | IN_ACCESS | IN_CLOSE));
    DIR *d = opendir("d");
    CHECK(d && readdir(d));
    closedir(d);
    WANT(wd, IN_OPEN | IN_ISDIR, NULL);
    WANT(wd, IN_ACCESS | IN_ISDIR, NULL);
    WANT(wd, IN_CLOSE_NOWRITE | IN_ISDIR, NULL);
    NONE();
}

CASE(equal_events_are_one) {
    start();
    int fd = file_with("f", "");
    int wd = OK(inotify_add_watch(in, "f", IN_MODIFY | IN_ATTRIB));
    for (int i = 0; i < 5; i++) EQ(write(fd, "x", 1), 1);
    OK(fchmod(fd, 0600));
    EQ(write(fd, "x", 1), 1);
    WANT(wd, IN_MODIFY, NULL);
    WANT(wd, IN_ATTRIB, NULL);
    WANT(wd, IN_MODIFY, NULL);
    NONE();
}

CASE(masks_are_replaced_or_added_to) {
    start();
    int fd = file_with("f", "");
    int wd = OK(inotify_add_watch(in, "f", IN_MODIFY));
    EQ(inotify_add_watch(in, "f", IN_ATTRIB), wd);
    EQ(write(fd, "x", 1), 1);
    NONE();
    EQ(inotify_add_watch(in, "f", IN_MODIFY | IN_MASK_ADD), wd);
    EQ(write(fd, "x", 1), 1);
    OK(fchmod(fd, 0600));
    WANT(wd, IN_MODIFY, NULL);
    WANT(wd, IN_ATTRIB, NULL);
    ERR(inotify_add_watch(in, "f", IN_MODIFY | IN_MASK_CREATE), EEXIST);
    ERR(inotify_add_watch(in, "f", IN_MODIFY | IN_MASK_CREATE | IN_MASK_ADD), EINVAL);
    touch("g");
    OK(inotify_add_watch(in, "g", IN_MODIFY | IN_MASK_CREATE));
}

CASE(oneshot_ends_itself) {
    start();
    int fd = file_with("f", "");
    int wd = OK(inotify_add_watch(in, "f", IN_MODIFY | IN_ONESHOT));
    EQ(write(fd, "x", 1), 1);
    EQ(write(fd, "x", 1), 1);
    WANT(wd, IN_MODIFY, NULL);
    WANT(wd, IN_IGNORED, NULL);
    NONE();
    ERR(inotify_rm_watch(in, wd), EINVAL);
    CHECK(OK(inotify_add_watch(in, "f", IN_MODIFY)) > wd);
}

CASE(unlinked_files_can_be_left_out) {
    start();
    OK(mkdir("d", 0755));
    int fd = file_with("d/f", ""), gone = file_with("d/g", "");
    int wd = OK(inotify_add_watch(in, "d", IN_MODIFY | IN_EXCL_UNLINK));
    OK(unlink("d/g"));
    EQ(write(gone, "x", 1), 1);
    NONE();
    EQ(write(fd, "x", 1), 1);
    WANT(wd, IN_MODIFY, "f");
    EQ(inotify_add_watch(in, "d", IN_MODIFY), wd);
    EQ(write(gone, "x", 1), 1);
    WANT(wd, IN_MODIFY, "g");
}

CASE(links_and_directories_only) {
    start();
    touch("f");
    OK(symlink("f", "l"));
    ERR(inotify_add_watch(in, "f", IN_OPEN | IN_ONLYDIR), ENOTDIR);
    int link = OK(inotify_add_watch(in, "l", IN_ATTRIB | IN_DELETE_SELF | IN_DONT_FOLLOW)), file = OK(inotify_add_watch(in, "l", IN_ATTRIB));
    CHECK(link != file);
    OK(chmod("l", 0600));
    WANT(file, IN_ATTRIB, NULL);
    OK(unlink("l"));
    WANT(link, IN_ATTRIB, NULL);
    WANT(link, IN_DELETE_SELF, NULL);
    WANT(link, IN_IGNORED, NULL);
    OK(inotify_add_watch(in, ".", IN_OPEN | IN_ONLYDIR));
}

CASE(removing_a_watch) {
    start();
    int fd = file_with("f", "");
    int wd = OK(inotify_add_watch(in, "f", IN_MODIFY));
    OK(inotify_rm_watch(in, wd));
    WANT(wd, IN_IGNORED, NULL);
    EQ(write(fd, "x", 1), 1);
    NONE();
    ERR(inotify_rm_watch(in, wd), EINVAL);
    EQ(inotify_add_watch(in, "f", IN_MODIFY), wd + 1);
}

CASE(reading_rules) {
    start();
    OK(mkdir("d", 0755));
    int wd = OK(inotify_add_watch(in, "d", IN_CREATE));
    char buf[512];
    ERR(read(in, buf, sizeof buf), EAGAIN);
    touch("d/file-of-16-bytes");
    touch("d/b");
    struct pollfd p = {in, POLLIN, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLIN);
    int n = 0;
    OK(ioctl(in, FIONREAD, &n));
    EQ(n, 16 + 32 + 16 + 16);
    ERR(read(in, buf, 16), EINVAL);
    ERR(read(in, buf, 47), EINVAL);
    EQ(read(in, buf, 79), 48);
    struct inotify_event *e = (void *)buf;
    EQ(e->wd, wd);
    EQ(e->len, 32);
    ERR(read(in, BAD, 512), EFAULT); // the event is lost
    ERR(read(in, buf, 512), EAGAIN);
    ERR(write(in, buf, 16), EBADF);
    EQ(lseek(in, 5, SEEK_SET), 0); // does nothing
    EQ(poll(&p, 1, 0), 0);
}

CASE(arguments) {
    touch("f");
    ERR(inotify_init1(1), EINVAL);
    int fd = OK(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    ERR(inotify_add_watch(fd, "f", 0), EINVAL);
    ERR(inotify_add_watch(-1, "f", 0), EINVAL);
    ERR(inotify_add_watch(-1, "f", IN_OPEN), EBADF);
    ERR(inotify_add_watch(0, "f", IN_OPEN | IN_MASK_ADD | IN_MASK_CREATE), EINVAL);
    ERR(inotify_add_watch(OK(open("f", O_RDONLY)), "f", IN_OPEN), EINVAL);
    ERR(inotify_add_watch(fd, "none", IN_OPEN), ENOENT);
    ERR(inotify_add_watch(fd, "", IN_OPEN), ENOENT);
    ERR(inotify_add_watch(fd, BAD, IN_OPEN), EFAULT);
    ERR(inotify_rm_watch(fd, 1), EINVAL);
    ERR(inotify_rm_watch(-1, 1), EBADF);
    ERR(inotify_rm_watch(OK(open("f", O_RDONLY)), 1), EINVAL);
    OK(chmod("f", 0));
    IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); ERR(inotify_add_watch(fd, "f", IN_OPEN), EACCES));
}

CASE(a_read_waits) {
    in = OK(inotify_init());
    OK(inotify_add_watch(in, ".", IN_CREATE));
    char buf[512];
    INTERRUPTED(read(in, buf, sizeof buf));
    pid_t pid = OK(fork());
    if (!pid) {
        nap_ms(50);
        touch("f");
        _exit(0);
    }
    EQ(read(in, buf, sizeof buf), 32);
    EXITS(pid, 0);
}

CASE(instances_are_limited) {
    int n = 0;
    while (inotify_init() >= 0) n++;
    EQ(errno, EMFILE);
    CHECK(n >= 100);
}

CASE(unmounting_ends_watches) {
    start();
    OK(mkdir("m", 0755));
    if (mount("none", "m", "tmpfs", 0, "") < 0) return;
    touch("m/f");
    int wd = OK(inotify_add_watch(in, "m/f", IN_OPEN));
    OK(umount("m"));
    WANT(wd, IN_UNMOUNT, NULL);
    WANT(wd, IN_IGNORED, NULL);
    NONE();
}

CASE(too_many_events_overflow) {
    start();
    OK(mkdir("d", 0755));
    int wd = OK(inotify_add_watch(in, "d", IN_ATTRIB | IN_MODIFY));
    int fd = file_with("d/f", ""), limit = atoi(slurp("/proc/sys/fs/inotify/max_queued_events"));
    CHECK(limit > 0);
    for (int i = 0; i < limit; i++) {
        OK(fchmod(fd, 0600));
        EQ(write(fd, "x", 1), 1);
    }
    int n = 0;
    struct inotify_event *e;
    do e = next(__LINE__), n++;
    while (e->mask != IN_Q_OVERFLOW);
    EQ(e->wd, -1);
    EQ(n, limit + 1);
    NONE();
    OK(fchmod(fd, 0600));
    WANT(wd, IN_ATTRIB, "f");
}
