// overlays: overlay file systems mounted from inside, over directories of a tmpfs.
#include "abi.h"
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static void own(void) {
    OK(unshare(CLONE_NEWNS));
    OK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    OK(mkdir("t", 0755));
    OK(mount("t", "t", "tmpfs", 0, NULL));
    OK(chdir("t"));
    const char *dirs[] = {"l1", "l2", "u", "w", "m", "l1/d", "l2/d", "l1/d/sub"};
    for (unsigned i = 0; i < 8; i++) OK(mkdir(dirs[i], 0755));
    close(file_with("l1/file", "one"));
    close(file_with("l2/file", "two"));
    close(file_with("l2/only2", "two"));
    close(file_with("l1/d/a", "a"));
    close(file_with("l2/d/b", "b"));
}
#define WHOLE "lowerdir=l1:l2,upperdir=u,workdir=w"
static void over(const char *options) { OK(mount("overlay", "m", "overlay", 0, options)); }
static int exists(const char *path) { return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0; }
static int count(const char *path) {
    DIR *d = opendir(path);
    int n = 0;
    while (readdir(d)) n++;
    closedir(d);
    return n - 2;
}

CASE(layers_are_merged) {
    own();
    over(WHOLE);
    struct statfs s;
    OK(statfs("m", &s));
    EQ(s.f_type, 0x794c7630);
    CHECK(!strcmp(slurp("m/file"), "one"));
    CHECK(!strcmp(slurp("m/only2"), "two"));
    CHECK(exists("m/d/a") && exists("m/d/b") && exists("m/d/sub"));
    EQ(count("m/d"), 3);
    EQ(count("m"), 3);
    CHECK(strstr(slurp("/proc/self/mounts"), "upperdir="));
}
CASE(copy_up) {
    own();
    OK(chmod("l1/file", 0640));
    over(WHOLE);
    struct stat before, after;
    OK(stat("m/file", &before));
    int fd = OK(open("m/file", O_WRONLY | O_APPEND));
    EQ(write(fd, "+", 1), 1);
    close(fd);
    CHECK(!strcmp(slurp("m/file"), "one+"));
    CHECK(!strcmp(slurp("l1/file"), "one"));
    CHECK(!strcmp(slurp("u/file"), "one+"));
    OK(stat("m/file", &after));
    EQ(after.st_mode, before.st_mode);
    EQ(after.st_ino, before.st_ino);
    OK(chmod("m/d/a", 0600));
    OK(stat("u/d/a", &after));
    EQ(after.st_mode & 0777, 0600);
    CHECK(!strcmp(slurp("u/d/a"), "a"));
}
CASE(whiteouts) {
    own();
    over(WHOLE);
    OK(unlink("m/file"));
    CHECK(!exists("m/file"));
    struct stat s;
    OK(lstat("u/file", &s));
    CHECK(S_ISCHR(s.st_mode) && s.st_rdev == 0);
    EQ(count("m"), 2);
    close(file_with("m/file", "new"));
    CHECK(!strcmp(slurp("m/file"), "new"));
    OK(lstat("u/file", &s));
    CHECK(S_ISREG(s.st_mode));
    ERR(rmdir("m/d"), ENOTEMPTY);
    OK(unlink("m/d/a")); OK(unlink("m/d/b")); OK(rmdir("m/d/sub")); OK(rmdir("m/d"));
    CHECK(!exists("m/d"));
    OK(mkdir("m/d", 0755));
    EQ(count("m/d"), 0);
    char v[8];
    EQ(getxattr("u/d", "trusted.overlay.opaque", v, sizeof v), 1);
    EQ(v[0], 'y');
}
CASE(own_xattrs_are_hidden) {
    needs(6, 7); // before, they were refused
    own();
    over(WHOLE);
    OK(unlink("m/d/a")); OK(unlink("m/d/b")); OK(rmdir("m/d/sub")); OK(rmdir("m/d"));
    OK(mkdir("m/d", 0755));
    char v[8];
    EQ(getxattr("u/d", "trusted.overlay.opaque", v, sizeof v), 1);
    ERR(getxattr("m/d", "trusted.overlay.opaque", v, sizeof v), ENODATA);
}
CASE(an_upper_directory_is_read) {
    own();
    OK(mkdir("u/d", 0755));
    OK(setxattr("u/d", "trusted.overlay.opaque", "y", 1, 0));
    OK(mknod("u/file", S_IFCHR, makedev(0, 0)));
    close(file_with("u/mine", "mine"));
    over(WHOLE);
    EQ(count("m/d"), 0);
    CHECK(!exists("m/file") && exists("m/mine") && exists("m/only2"));
    // What comes back to the same directories finds the same.
    close(file_with("m/d/x", "x"));
    OK(umount("m"));
    over(WHOLE);
    EQ(count("m/d"), 1);
}
CASE(renames) {
    own();
    over(WHOLE);
    OK(rename("m/file", "m/moved"));
    CHECK(!exists("m/file") && !strcmp(slurp("m/moved"), "one"));
    ERR(rename("m/d", "m/e"), EXDEV);
    OK(mkdir("m/new", 0755));
    OK(rename("m/new", "m/newer"));
    OK(rename("m/only2", "m/d/a"));
    CHECK(!strcmp(slurp("m/d/a"), "two"));
    OK(link("m/moved", "m/hard"));
    struct stat a, b;
    OK(stat("m/moved", &a)); OK(stat("m/hard", &b));
    EQ(a.st_ino, b.st_ino);
    EQ(a.st_nlink, 2);
}
CASE(read_only_overlay) {
    own();
    ERR(mount("overlay", "m", "overlay", 0, "lowerdir=l1"), EINVAL);
    over("lowerdir=l1:l2");
    CHECK(!strcmp(slurp("m/file"), "one"));
    ERR(open("m/file", O_WRONLY), EROFS);
    ERR(mkdir("m/x", 0755), EROFS);
    ERR(unlink("m/file"), EROFS);
}
CASE(mount_options) {
    own();
    ERR(mount("overlay", "m", "overlay", 0, ""), EINVAL);
    ERR(mount("overlay", "m", "overlay", 0, "lowerdir=l1,upperdir=u"), EINVAL);
    ERR(mount("overlay", "m", "overlay", 0, "lowerdir=none,upperdir=u,workdir=w"), ENOENT);
    ERR(mount("overlay", "m", "overlay", 0, WHOLE ",bogus=1"), EINVAL);
    OK(mkdir("u/in", 0755));
    ERR(mount("overlay", "m", "overlay", 0, "lowerdir=l1,upperdir=u,workdir=u/in"), EINVAL);
    ERR(mount("overlay", "m", "overlay", 0, "lowerdir=l1/file,upperdir=u,workdir=w"), EINVAL);
}
CASE(names_on_both_sides) {
    own();
    over(WHOLE);
    // What the upper directory's own names know is kept right by changes through the overlay.
    CHECK(!exists("u/x"));
    close(file_with("m/x", "x"));
    CHECK(exists("u/x"));
    OK(unlink("m/x"));
    CHECK(!exists("u/x"));
    OK(mkdir("m/d/n", 0755));
    CHECK(exists("u/d/n"));
}
