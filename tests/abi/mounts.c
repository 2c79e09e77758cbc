// mounts: mount, umount2, propagation, namespaces of mounts, pivot_root, the mount calls on descriptors, mount tables.
#include "abi.h"
#include <linux/mount.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#undef statmount

#ifndef MOVE_MOUNT_SET_GROUP
#define MOVE_MOUNT_SET_GROUP 0x100
#endif
#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x200
#endif
#ifndef SYS_statmount
#define SYS_statmount 457
#define SYS_listmount 458
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef ST_NOSYMFOLLOW
#define ST_NOSYMFOLLOW 0x2000
#endif

struct attr { uint64_t set, clr, propagation, userns; };
#define open_tree(d, p, f) syscall(SYS_open_tree, (long)(d), p, (long)(f))
#define move_mount(d, p, e, q, f) syscall(SYS_move_mount, (long)(d), p, (long)(e), q, (long)(f))
#define fsopen(n, f) syscall(SYS_fsopen, n, (long)(f))
#define fsconfig(d, c, k, v, a) syscall(SYS_fsconfig, (long)(d), (long)(c), k, v, (long)(a))
#define fsmount(d, f, a) syscall(SYS_fsmount, (long)(d), (long)(f), (long)(a))
#define fspick(d, p, f) syscall(SYS_fspick, (long)(d), p, (long)(f))
#define mount_setattr(d, p, f, a, s) syscall(SYS_mount_setattr, (long)(d), p, (long)(f), a, (long)(s))

// A namespace of mounts of the case's own, where nothing propagates to others; "m" is an empty tmpfs in it.
static void own(void) {
    OK(unshare(CLONE_NEWNS));
    OK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    OK(mkdir("m", 0755));
    OK(mount("mem", "m", "tmpfs", 0, NULL));
}
static void dir(const char *path) { OK(mkdir(path, 0755)); }
static void tmp(const char *path) { OK(mount("t", path, "tmpfs", 0, NULL)); }
static int exists(const char *path) { return access(path, F_OK) == 0; }
static void touch(const char *path) { close(file_with(path, "")); }

// The line of /proc/self/mountinfo whose mount point ends in this name; NULL if there is none (the last of several).
static char *line_of(const char *name) {
    static char line[4096];
    char *found = NULL, *at = slurp("/proc/self/mountinfo"), *save;
    for (char *l = strtok_r(at, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        char point[2048];
        if (sscanf(l, "%*d %*d %*s %*s %2047s", point) != 1) continue;
        size_t n = strlen(point), k = strlen(name);
        if (n > k && point[n - k - 1] == '/' && !strcmp(point + n - k, name)) {
            snprintf(line, sizeof line, "%s", l);
            found = line;
        }
    }
    return found;
}
// A number after this word in a mountinfo line's optional fields; 0 if it is not there.
static int tag(const char *name, const char *word) {
    char *line = line_of(name), *at;
    if (!line) FAILED("no mount %s", name);
    at = strstr(line, " - ");
    if (at) *at = 0;
    at = strstr(line, word);
    return at ? atoi(at + strlen(word)) : 0;
}
// A case that must be run with fewer rights.
static void become(int uid) {
    OK(setresgid(uid, uid, uid));
    OK(setresuid(uid, uid, uid));
}

CASE(mount_errors) {
    own();
    dir("m/d");
    touch("m/f");
    ERR(mount("x", "m/missing", "tmpfs", 0, NULL), ENOENT);
    ERR(mount("x", "m/d", "nosuchfs", 0, NULL), ENODEV);
    ERR(mount("x", "m/d", NULL, 0, NULL), EINVAL);
    ERR(mount("x", "m/d", "tmpfs", 0, "bogus"), EINVAL);
    ERR(mount("x", "m/d", "tmpfs", 0, "size=abc"), EINVAL);
    ERR(mount("x", "m/f", "tmpfs", 0, NULL), ENOTDIR);
    ERR(mount(NULL, "m/d", NULL, MS_BIND, NULL), EINVAL);
    ERR(mount("", "m/d", NULL, MS_BIND, NULL), EINVAL);
    ERR(mount("m/missing", "m/d", NULL, MS_BIND, NULL), ENOENT);
    ERR(mount("m/f", "m/d", NULL, MS_BIND, NULL), ENOTDIR);
    ERR(mount("m/d", "m/f", NULL, MS_BIND, NULL), ENOTDIR);
    ERR(mount("x", "m/d", "tmpfs", MS_NOUSER, NULL), EINVAL);
    ERR(syscall(SYS_mount, "x", BAD, "tmpfs", 0L, NULL), EFAULT);
    ERR(syscall(SYS_mount, "x", "m/d", BAD, 0L, NULL), EFAULT);
    ERR(syscall(SYS_mount, BAD, "m/d", "tmpfs", 0L, NULL), EFAULT);
    ERR(syscall(SYS_mount, "x", "m/d", "tmpfs", 0L, BAD), EFAULT);
    IN_CHILD(become(1000); ERR(mount("x", "m/d", "tmpfs", 0, NULL), EPERM); ERR(mount("x", "m/none", "tmpfs", 0, NULL), ENOENT);
             ERR(umount2("m", 0), EPERM));
    // The old magic number in the upper half counts for nothing.
    OK(mount("x", "m/d", "tmpfs", MS_MGC_VAL, NULL));
}
CASE(bind_file_and_directory) {
    own();
    dir("m/a"); dir("m/b");
    touch("m/a/in"); touch("m/f");
    close(file_with("m/g", "other"));
    OK(mount("m/a", "m/b", NULL, MS_BIND, NULL));
    CHECK(exists("m/b/in"));
    OK(mount("m/g", "m/f", NULL, MS_BIND, NULL));
    CHECK(!strcmp(slurp("m/f"), "other"));
    struct stat s, t;
    OK(stat("m/f", &s)); OK(stat("m/g", &t));
    CHECK(s.st_ino == t.st_ino && s.st_dev == t.st_dev);
    CHECK(strstr(line_of("m/b"), " /a "));
    ERR(unlink("m/f"), EBUSY);
    ERR(rmdir("m/b"), EBUSY);
    ERR(rename("m/b", "m/c"), EBUSY);
    ERR(rename("m/a", "m/b"), EBUSY);
    ERR(link("m/a/in", "m/b/other"), EXDEV);
    OK(umount("m/f"));
    CHECK(!strcmp(slurp("m/f"), ""));
    OK(umount("m/b"));
    CHECK(!exists("m/b/in"));
    ERR(umount("m/b"), EINVAL);
}
CASE(bind_is_of_one_mount_unless_recursive) {
    own();
    dir("m/a"); dir("m/b"); dir("m/c"); dir("m/a/in");
    tmp("m/a/in");
    touch("m/a/in/x");
    OK(mount("m/a", "m/b", NULL, MS_BIND, NULL));
    CHECK(!exists("m/b/in/x"));
    OK(mount("m/a", "m/c", NULL, MS_BIND | MS_REC, NULL));
    CHECK(exists("m/c/in/x"));
    ERR(umount("m/c"), EBUSY);
    OK(umount2("m/c", MNT_DETACH));
    CHECK(!exists("m/c/in"));
    CHECK(exists("m/a/in/x"));
}
CASE(move) {
    own();
    dir("m/a"); dir("m/b"); dir("m/d");
    tmp("m/a");
    dir("m/a/in");
    touch("m/a/x");
    ERR(mount("m/d", "m/b", NULL, MS_MOVE, NULL), EINVAL);
    ERR(mount("m/a", "m/a/in", NULL, MS_MOVE, NULL), ELOOP);
    ERR(mount(NULL, "m/b", NULL, MS_MOVE, NULL), EINVAL);
    OK(mount("m/a", "m/b", NULL, MS_MOVE, NULL));
    CHECK(exists("m/b/x") && !exists("m/a/x"));
    // What has a shared parent stays where it is.
    OK(mount(NULL, "m", NULL, MS_SHARED, NULL));
    ERR(mount("m/b", "m/a", NULL, MS_MOVE, NULL), EINVAL);
}
CASE(mounts_stack) {
    own();
    dir("m/a");
    tmp("m/a"); touch("m/a/one");
    tmp("m/a"); touch("m/a/two");
    CHECK(exists("m/a/two") && !exists("m/a/one"));
    OK(umount("m/a"));
    CHECK(exists("m/a/one"));
}
CASE(per_mount_read_only) {
    own();
    dir("m/b");
    touch("m/f");
    OK(mount("m", "m/b", NULL, MS_BIND, NULL));
    OK(mount(NULL, "m/b", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
    ERR(open("m/b/f", O_WRONLY), EROFS);
    ERR(open("m/b/new", O_WRONLY | O_CREAT, 0644), EROFS);
    ERR(mkdir("m/b/d", 0755), EROFS);
    ERR(unlink("m/b/f"), EROFS);
    ERR(chmod("m/b/f", 0600), EROFS);
    ERR(truncate("m/b/f", 0), EROFS);
    ERR(rename("m/b/f", "m/b/g"), EROFS);
    ERR(symlink("x", "m/b/l"), EROFS);
    ERR(access("m/b/f", W_OK), EROFS);
    ERR(utimensat(AT_FDCWD, "m/b/f", NULL, 0), EROFS);
    touch("m/g");
    struct statfs s;
    OK(statfs("m/b", &s));
    CHECK(s.f_flags & ST_RDONLY);
    OK(statfs("m", &s));
    CHECK(!(s.f_flags & ST_RDONLY));
    CHECK(strstr(line_of("m/b"), " ro,"));
}
CASE(read_only_while_open_for_writing) {
    own();
    dir("m/b");
    int fd = file_with("m/f", "");
    ERR(mount(NULL, "m", NULL, MS_REMOUNT | MS_RDONLY, NULL), EBUSY);
    ERR(mount(NULL, "m", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), EBUSY);
    close(fd);
    OK(mount(NULL, "m", NULL, MS_REMOUNT | MS_RDONLY, NULL));
    ERR(open("m/f", O_WRONLY), EROFS);
    OK(mount(NULL, "m", NULL, MS_REMOUNT, NULL));
    fd = OK(open("m/f", O_WRONLY));
}
CASE(nosuid_nodev_noexec) {
    own();
    OK(mknod("m/null", S_IFCHR | 0666, makedev(1, 3)));
    int fd = OK(open("m/null", O_RDWR));
    close(fd);
    int in = OK(open(abi_self, O_RDONLY)), out = OK(open("m/prog", O_WRONLY | O_CREAT, 0755));
    static char buf[65536];
    ssize_t n;
    while ((n = read(in, buf, sizeof buf)) > 0) EQ(write(out, buf, n), n);
    close(in); close(out);
    OK(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOEXEC | MS_NOSUID, NULL));
    ERR(open("m/null", O_RDWR), EACCES);
    char *argv[] = {"prog", "--list", NULL};
    ERR(execv("m/prog", argv), EACCES);
    ERR(access("m/prog", X_OK), EACCES);
    fd = OK(open("m/prog", O_RDONLY));
    EQ((long)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0), -1);
    EQ(errno, EPERM);
    void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED);
    ERR(mprotect(p, 4096, PROT_READ | PROT_EXEC), EACCES);
    struct statfs s;
    OK(statfs("m", &s));
    EQ(s.f_flags & (ST_NOSUID | ST_NODEV | ST_NOEXEC), ST_NOSUID | ST_NODEV | ST_NOEXEC);
}
CASE(atime_flags) {
    own();
    struct statfs s;
    OK(statfs("m", &s));
    CHECK(s.f_flags & ST_RELATIME);
    OK(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | MS_NOATIME | MS_NODIRATIME, NULL));
    OK(statfs("m", &s));
    EQ(s.f_flags & (ST_NOATIME | ST_NODIRATIME | ST_RELATIME), ST_NOATIME | ST_NODIRATIME);
    // Without a word on it, it stays.
    OK(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID, NULL));
    OK(statfs("m", &s));
    EQ(s.f_flags & (ST_NOATIME | ST_NOSUID | ST_RELATIME), ST_NOATIME | ST_NOSUID);
    OK(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | MS_STRICTATIME, NULL));
    OK(statfs("m", &s));
    EQ(s.f_flags & (ST_NOATIME | ST_RELATIME | ST_NOSUID), 0);
    CHECK(!strstr(line_of("/m") ? line_of("/m") : line_of("m"), "atime"));
}
CASE(nosymfollow) {
    own();
    touch("m/f");
    OK(symlink("f", "m/l"));
    OK(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | 256, NULL));
    ERR(open("m/l", O_RDONLY), ELOOP);
    char text[8];
    EQ(readlink("m/l", text, sizeof text), 1);
    struct statfs s;
    OK(statfs("m", &s));
    CHECK(s.f_flags & ST_NOSYMFOLLOW);
}
CASE(remount_errors) {
    own();
    dir("m/d");
    ERR(mount(NULL, "m/d", NULL, MS_REMOUNT, NULL), EINVAL);
    ERR(mount(NULL, "m/d", NULL, MS_REMOUNT | MS_BIND, NULL), EINVAL);
    ERR(mount(NULL, "m", NULL, MS_REMOUNT, "bogus=1"), EINVAL);
}
CASE(tmpfs_options) {
    own();
    dir("m/a");
    OK(mount("name", "m/a", "tmpfs", 0, "size=64k,nr_inodes=5,mode=751,uid=7,gid=8"));
    struct stat s;
    OK(stat("m/a", &s));
    EQ(s.st_mode, S_IFDIR | 0751);
    EQ(s.st_uid, 7); EQ(s.st_gid, 8);
    struct statfs f;
    OK(statfs("m/a", &f));
    EQ(f.f_type, 0x01021994);
    EQ(f.f_blocks * f.f_bsize, 65536);
    EQ(f.f_files, 5);
    EQ(f.f_ffree, 4);
    int fd = file_with("m/a/x", "");
    static char big[65536];
    EQ(write(fd, big, sizeof big), 65536);
    ERR(write(fd, big, 1), ENOSPC);
    for (int i = 0; i < 3; i++) { char n[16]; sprintf(n, "m/a/%d", i); touch(n); }
    ERR(open("m/a/last", O_CREAT | O_WRONLY, 0644), ENOSPC);
    ERR(mount(NULL, "m/a", NULL, MS_REMOUNT, "size=4k"), EINVAL);
    close(fd);
    OK(mount(NULL, "m/a", NULL, MS_REMOUNT, "size=128k"));
    OK(statfs("m/a", &f));
    EQ(f.f_blocks * f.f_bsize, 131072);
    char *line = line_of("m/a");
    CHECK(strstr(line, " - tmpfs name "));
    CHECK(strstr(line, "size=128k") && strstr(line, "nr_inodes=5") && strstr(line, "mode=751"));
}
CASE(other_types) {
    own();
    dir("m/p"); dir("m/s"); dir("m/d"); dir("m/r");
    OK(mount("proc", "m/p", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    CHECK(exists("m/p/self/status"));
    OK(mount("sysfs", "m/s", "sysfs", 0, NULL));
    CHECK(exists("m/s/kernel"));
    OK(mount("ramfs", "m/r", "ramfs", 0, "mode=700"));
    struct statfs f;
    OK(statfs("m/r", &f));
    EQ(f.f_type, 0x858458f6);
    struct stat s;
    OK(stat("m/r", &s));
    EQ(s.st_mode & 07777, 0700);
    OK(statfs("m/p", &f));
    EQ(f.f_type, 0x9fa0);
    ERR(mount("devpts", "m/d", "devpts", 0, "nonsense=3"), EINVAL);
    ERR(mount("proc", "m/d", "proc", 0, "hidepid=9"), EINVAL);
}
CASE(proc_subset_pid) {
    own();
    dir("m/p");
    OK(mount("proc", "m/p", "proc", 0, "subset=pid"));
    CHECK(exists("m/p/self/stat") && exists("m/p/1"));
    CHECK(!exists("m/p/meminfo") && !exists("m/p/sys"));
}
CASE(devpts_instances) {
    own();
    dir("m/d");
    OK(mount("devpts", "m/d", "devpts", 0, "newinstance,ptmxmode=0666,mode=600,gid=0"));
    int fd = OK(open("m/d/ptmx", O_RDWR | O_NOCTTY));
    int zero = 0;
    OK(ioctl(fd, 0x40045431, &zero)); // TIOCSPTLCK
    int n = -1;
    OK(ioctl(fd, 0x80045430, &n)); // TIOCGPTN
    EQ(n, 0);
    struct stat s;
    OK(stat("m/d/0", &s));
    EQ(s.st_mode, S_IFCHR | 0600);
    EQ(s.st_gid, 0);
    int slave = OK(open("m/d/0", O_RDWR | O_NOCTTY));
    EQ(write(fd, "x\n", 2), 2);
    char got[8];
    EQ(read(slave, got, 8), 2);
    close(slave); close(fd);
    CHECK(!exists("m/d/0"));
}
CASE(umount_rules) {
    own();
    dir("m/a");
    ERR(umount2("m", 0x80), EINVAL);
    ERR(umount("m/a"), EINVAL);
    ERR(umount("m/missing"), ENOENT);
    ERR(umount2((char *)BAD, 0), EFAULT);
    tmp("m/a");
    ERR(umount("m"), EBUSY);
    int fd = file_with("m/a/f", "text");
    ERR(umount("m/a"), EBUSY);
    // Lazily, it goes at once for those who come, and stays for those who are there.
    OK(umount2("m/a", MNT_DETACH));
    CHECK(!exists("m/a/f"));
    char got[8];
    EQ(read(fd, got, 8), 4);
    close(fd);
    tmp("m/a");
    IN_CHILD(OK(chdir("m/a")); ERR(umount("."), EBUSY); OK(umount2(".", MNT_DETACH)); char b[PATH_MAX];
             // The working directory is nowhere now.
             long n = syscall(SYS_getcwd, b, sizeof b); CHECK(n > 0 && b[0] != '/' ? strncmp(b, "(unreachable)", 13) == 0 : 1);
             CHECK(access("..", F_OK) == 0));
    OK(symlink("a", "m/l"));
    tmp("m/a");
    ERR(umount2("m/l", UMOUNT_NOFOLLOW), EINVAL);
    OK(umount2("m/l", 0));
}
CASE(umount_expire) {
    own();
    dir("m/a");
    tmp("m/a");
    touch("m/a/f");
    ERR(umount2("m/a", MNT_EXPIRE | MNT_DETACH), EINVAL);
    ERR(umount2("m/a", MNT_EXPIRE | MNT_FORCE), EINVAL);
    ERR(umount2("m/a", MNT_EXPIRE), EAGAIN);
    CHECK(exists("m/a/f"));
    // It was used in between.
    ERR(umount2("m/a", MNT_EXPIRE), EAGAIN);
    OK(umount2("m/a", MNT_EXPIRE));
    CHECK(!exists("m/a/f"));
    tmp("m/a");
    int fd = file_with("m/a/f", "");
    ERR(umount2("m/a", MNT_EXPIRE), EBUSY);
    close(fd);
}
CASE(lazy_umount_takes_mounts_below) {
    own();
    dir("m/a");
    tmp("m/a");
    dir("m/a/b");
    tmp("m/a/b");
    touch("m/a/b/x");
    int fd = OK(open("m/a", O_RDONLY | O_DIRECTORY));
    OK(umount2("m/a", MNT_DETACH));
    CHECK(faccessat(fd, "b", F_OK, 0) == 0);
    CHECK(faccessat(fd, "b/x", F_OK, 0) < 0);
    CHECK(!line_of("a/b"));
}
CASE(propagation_errors) {
    own();
    dir("m/d");
    ERR(mount(NULL, "m/d", NULL, MS_SHARED, NULL), EINVAL);
    ERR(mount(NULL, "m", NULL, MS_SHARED | MS_PRIVATE, NULL), EINVAL);
    ERR(mount(NULL, "m", NULL, MS_SHARED | MS_RDONLY, NULL), EINVAL);
    ERR(mount(NULL, "m/none", NULL, MS_SHARED, NULL), ENOENT);
    IN_CHILD(become(1000); ERR(mount(NULL, "m", NULL, MS_SHARED, NULL), EPERM));
}
CASE(shared_peers) {
    own();
    dir("m/a"); dir("m/b");
    tmp("m/a");
    OK(mount(NULL, "m/a", NULL, MS_SHARED, NULL));
    CHECK(tag("m/a", "shared:") > 0);
    OK(mount("m/a", "m/b", NULL, MS_BIND, NULL));
    EQ(tag("m/a", "shared:"), tag("m/b", "shared:"));
    dir("m/a/x");
    tmp("m/a/x");
    touch("m/a/x/f");
    CHECK(exists("m/b/x/f"));
    EQ(tag("a/x", "shared:"), tag("b/x", "shared:"));
    CHECK(tag("a/x", "shared:") != tag("m/a", "shared:"));
    OK(umount("m/b/x"));
    CHECK(!exists("m/a/x/f"));
    // A private one takes no part any more.
    OK(mount(NULL, "m/b", NULL, MS_PRIVATE, NULL));
    tmp("m/a/x");
    touch("m/a/x/f");
    CHECK(!exists("m/b/x/f"));
    EQ(tag("m/b", "shared:"), 0);
}
CASE(slaves) {
    own();
    dir("m/a"); dir("m/b"); dir("m/c");
    tmp("m/a");
    OK(mount(NULL, "m/a", NULL, MS_SHARED, NULL));
    OK(mount("m/a", "m/b", NULL, MS_BIND, NULL));
    OK(mount(NULL, "m/b", NULL, MS_SLAVE, NULL));
    EQ(tag("m/b", "master:"), tag("m/a", "shared:"));
    EQ(tag("m/b", "shared:"), 0);
    dir("m/a/x"); dir("m/a/y");
    tmp("m/a/x"); touch("m/a/x/f");
    tmp("m/b/y"); touch("m/b/y/f");
    CHECK(exists("m/b/x/f") && !exists("m/a/y/f"));
    EQ(tag("b/x", "master:"), tag("a/x", "shared:"));
    // A slave that shares.
    OK(mount(NULL, "m/b", NULL, MS_SHARED, NULL));
    CHECK(tag("m/b", "shared:") > 0 && tag("m/b", "shared:") != tag("m/a", "shared:"));
    OK(mount("m/b", "m/c", NULL, MS_BIND, NULL));
    EQ(tag("m/c", "master:"), tag("m/a", "shared:"));
    EQ(tag("m/c", "shared:"), tag("m/b", "shared:"));
    dir("m/a/z");
    tmp("m/a/z"); touch("m/a/z/f");
    CHECK(exists("m/b/z/f") && exists("m/c/z/f"));
    OK(umount("m/a/z"));
    CHECK(!exists("m/b/z/f") && !exists("m/c/z/f"));
    // The slave of a slave, seen where the middle is not.
    OK(mount(NULL, "m/c", NULL, MS_SLAVE, NULL));
    EQ(tag("m/c", "master:"), tag("m/b", "shared:"));
    // When the group ends, its slaves are private.
    OK(mount(NULL, "m/b", NULL, MS_PRIVATE, NULL));
    EQ(tag("m/b", "master:"), 0);
    EQ(tag("m/c", "master:"), tag("m/a", "shared:"));
    OK(mount(NULL, "m/a", NULL, MS_PRIVATE, NULL));
    EQ(tag("m/c", "master:"), 0);
}
CASE(unbindable) {
    own();
    dir("m/a"); dir("m/b"); dir("m/c");
    tmp("m/a");
    dir("m/a/in");
    tmp("m/a/in"); touch("m/a/in/f");
    OK(mount(NULL, "m/a/in", NULL, MS_UNBINDABLE, NULL));
    CHECK(strstr(line_of("a/in"), "unbindable"));
    ERR(mount("m/a/in", "m/b", NULL, MS_BIND, NULL), EINVAL);
    OK(mount("m/a", "m/b", NULL, MS_BIND | MS_REC, NULL));
    CHECK(exists("m/b/in") && !exists("m/b/in/f"));
    // Into a shared place it cannot go.
    OK(mount(NULL, "m/b", NULL, MS_SHARED, NULL));
    dir("m/b/to");
    ERR(mount("m/a/in", "m/b/to", NULL, MS_MOVE, NULL), EINVAL);
    OK(mount("m/a/in", "m/c", NULL, MS_MOVE, NULL));
}
CASE(recursive_propagation) {
    own();
    dir("m/a");
    tmp("m/a");
    dir("m/a/x");
    tmp("m/a/x");
    OK(mount(NULL, "m/a", NULL, MS_SHARED, NULL));
    EQ(tag("a/x", "shared:"), 0);
    OK(mount(NULL, "m/a", NULL, MS_SHARED | MS_REC, NULL));
    CHECK(tag("a/x", "shared:") > 0);
    OK(mount(NULL, "m/a", NULL, MS_PRIVATE | MS_REC, NULL));
    EQ(tag("a/x", "shared:"), 0);
}
CASE(a_namespace_of_its_own) {
    own();
    dir("m/a"); dir("m/s");
    tmp("m/s");
    OK(mount(NULL, "m/s", NULL, MS_SHARED, NULL));
    dir("m/s/x");
    int to[2], from[2];
    OK(pipe(to)); OK(pipe(from));
    pid_t pid = OK(fork());
    char c;
    if (!pid) {
        OK(unshare(CLONE_NEWNS));
        tmp("m/a"); touch("m/a/f");
        tmp("m/s/x"); touch("m/s/x/f");
        EQ(write(from[1], "x", 1), 1);
        EQ(read(to[0], &c, 1), 1);
        _exit(0);
    }
    EQ(read(from[0], &c, 1), 1);
    CHECK(!exists("m/a/f"));
    CHECK(exists("m/s/x/f"));
    // The private one is a mount point only there: here the name can go, and the mount goes with it.
    OK(rmdir("m/a"));
    EQ(write(to[1], "x", 1), 1);
    EXITS(pid, 0);
}
CASE(clone_newns) {
    own();
    dir("m/a");
    pid_t pid = OK(syscall(SYS_clone, (long)(CLONE_NEWNS | SIGCHLD), 0L, 0L, 0L, 0L));
    if (!pid) {
        tmp("m/a");
        touch("m/a/f");
        _exit(exists("m/a/f") ? 0 : 1);
    }
    EXITS(pid, 0);
    CHECK(!exists("m/a/f"));
    ERR(syscall(SYS_clone, (long)(CLONE_NEWNS | CLONE_FS | SIGCHLD), 0L, 0L, 0L, 0L), EINVAL);
    IN_CHILD(become(1000); ERR(unshare(CLONE_NEWNS), EPERM));
}
CASE(setns_mnt) {
    own();
    dir("m/a");
    int old = OK(open("/proc/self/ns/mnt", O_RDONLY));
    char here[PATH_MAX];
    CHECK(getcwd(here, sizeof here));
    OK(unshare(CLONE_NEWNS));
    tmp("m/a"); touch("m/a/f");
    char a[64] = "", b[64] = "";
    OK(readlink("/proc/self/ns/mnt", a, 63));
    OK(setns(old, CLONE_NEWNS));
    OK(readlink("/proc/self/ns/mnt", b, 63));
    CHECK(strcmp(a, b));
    // Root and working directory are the namespace's root.
    char cwd[PATH_MAX];
    CHECK(getcwd(cwd, sizeof cwd));
    CHECK(!strcmp(cwd, "/"));
    OK(chdir(here));
    CHECK(!exists("m/a/f"));
    ERR(setns(old, CLONE_NEWUTS), EINVAL);
}
CASE(pivot_root) {
    own();
    dir("m/new");
    ERR(syscall(SYS_pivot_root, "m/new", "m/new"), EINVAL);
    tmp("m/new");
    dir("m/new/old"); dir("m/other");
    touch("m/new/mark");
    ERR(syscall(SYS_pivot_root, "m/none", "m/new"), ENOENT);
    ERR(syscall(SYS_pivot_root, "m/new/mark", "m/new"), ENOTDIR);
    ERR(syscall(SYS_pivot_root, "m/new", "m/other"), EINVAL);
    ERR(syscall(SYS_pivot_root, "/", "/"), EBUSY);
    ERR(syscall(SYS_pivot_root, BAD, "m/new"), EFAULT);
    IN_CHILD(become(1000); ERR(syscall(SYS_pivot_root, "m/new", "m/new/old"), EPERM));
    OK(mount(NULL, "m", NULL, MS_SHARED, NULL));
    ERR(syscall(SYS_pivot_root, "m/new", "m/new/old"), EINVAL);
    OK(mount(NULL, "m", NULL, MS_PRIVATE, NULL));
    OK(syscall(SYS_pivot_root, "m/new", "m/new/old"));
    CHECK(exists("/mark") && exists("/old/tmp"));
    OK(chdir("/"));
    OK(umount2("/old", MNT_DETACH));
    CHECK(!exists("/old/tmp"));
    OK(mkdir("/proc", 0755));
    OK(mount("proc", "/proc", "proc", 0, NULL));
    CHECK(strstr(slurp("/proc/self/mounts"), "t / tmpfs "));
}
CASE(pivot_root_dot_dot) {
    own();
    dir("m/new");
    tmp("m/new");
    touch("m/new/mark");
    OK(chdir("m/new"));
    OK(syscall(SYS_pivot_root, ".", "."));
    OK(umount2(".", MNT_DETACH));
    CHECK(exists("/mark"));
    CHECK(!exists("/tmp"));
}
CASE(chroot_and_mounts) {
    own();
    dir("m/r"); dir("m/r/proc"); dir("m/r/d"); dir("m/out");
    tmp("m/out");
    OK(mount("proc", "m/r/proc", "proc", 0, NULL));
    OK(mount("m/r", "m/r", NULL, MS_BIND | MS_REC, NULL));
    OK(chdir("m/r"));
    OK(chroot("."));
    tmp("/d");
    // Only what can be reached is shown.
    char *info = slurp("/proc/self/mountinfo");
    CHECK(strstr(info, " /d rw") && strstr(info, " /proc rw") && !strstr(info, "/out"));
}
CASE(mountinfo_fields) {
    own();
    dir("m/with blank"); dir("m/with blank/d");
    OK(mount("so urce", "m/with blank/d", "tmpfs", MS_NOSUID | MS_NOEXEC, NULL));
    char *line = line_of("with\\040blank/d");
    CHECK(line);
    int id, parent, major, minor, used = 0;
    char root[64], options[128];
    EQ(sscanf(line, "%d %d %d:%d %63s %*s %127s%n", &id, &parent, &major, &minor, root, options, &used), 6);
    CHECK(!strcmp(root, "/") && !strcmp(options, "rw,nosuid,noexec,relatime"));
    struct stat s;
    OK(stat("m/with blank/d", &s));
    EQ(s.st_dev, makedev(major, minor));
    CHECK(strstr(line + used, " - tmpfs so\\040urce rw"));
    EQ(sscanf(line_of("m"), "%d", &id), 1);
    EQ(parent, id);
    struct statx x;
    OK(syscall(SYS_statx, AT_FDCWD, "m", 0L, 0x1000L, &x));
    uint64_t mnt_id;
    memcpy(&mnt_id, (char *)&x + 144, 8);
    EQ(mnt_id, id);
    char *mounts = slurp("/proc/self/mounts");
    CHECK(strstr(mounts, "so\\040urce ") && strstr(mounts, " tmpfs rw,nosuid,noexec,relatime"));
    CHECK(strstr(slurp("/proc/self/mountstats"), "device so\\040urce mounted on "));
}
CASE(mounts_poll) {
    own();
    dir("m/a");
    int fd = OK(open("/proc/self/mounts", O_RDONLY));
    struct pollfd p = {fd, POLLIN | POLLPRI, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents & (POLLPRI | POLLERR), 0);
    tmp("m/a");
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents & (POLLPRI | POLLERR), POLLPRI | POLLERR);
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents & (POLLPRI | POLLERR), 0);
    int info = OK(open("/proc/self/mountinfo", O_RDONLY)), ep = OK(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLPRI}, got;
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, info, &e));
    EQ(epoll_wait(ep, &got, 1, 0), 0);
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(50); OK(umount("m/a")); _exit(0); }
    EQ(epoll_wait(ep, &got, 1, 5000), 1);
    EQ(got.events & EPOLLPRI, EPOLLPRI);
    EXITS(pid, 0);
}
CASE(open_tree_plain) {
    own();
    dir("m/a");
    tmp("m/a");
    touch("m/a/f");
    int fd = OK(open_tree(AT_FDCWD, "m/a", OPEN_TREE_CLOEXEC));
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK(fcntl(fd, F_GETFL) & O_PATH);
    CHECK(faccessat(fd, "f", F_OK, 0) == 0);
    char c;
    ERR(read(fd, &c, 1), EBADF);
    ERR(open_tree(AT_FDCWD, "m/none", 0), ENOENT);
    ERR(open_tree(AT_FDCWD, "m/a", AT_RECURSIVE), EINVAL);
    ERR(open_tree(AT_FDCWD, "m/a", 0x4), EINVAL);
    ERR(open_tree(AT_FDCWD, BAD, 0), EFAULT);
    ERR(open_tree(-7, "x", 0), EBADF);
    IN_CHILD(become(1000); ERR(open_tree(AT_FDCWD, "m/a", OPEN_TREE_CLONE), EPERM));
}
CASE(open_tree_clone_and_move_mount) {
    own();
    dir("m/a"); dir("m/b"); dir("m/c");
    tmp("m/a");
    dir("m/a/in");
    tmp("m/a/in"); touch("m/a/in/f");
    int fd = OK(open_tree(AT_FDCWD, "m/a", OPEN_TREE_CLONE | AT_RECURSIVE));
    CHECK(faccessat(fd, "in/f", F_OK, 0) == 0);
    CHECK(!line_of("m/b"));
    OK(move_mount(fd, "", AT_FDCWD, "m/b", MOVE_MOUNT_F_EMPTY_PATH));
    CHECK(exists("m/b/in/f"));
    // It is mounted now; the descriptor is still good, and it can be moved again as any mount.
    OK(move_mount(fd, "", AT_FDCWD, "m/c", MOVE_MOUNT_F_EMPTY_PATH));
    CHECK(exists("m/c/in/f") && !exists("m/b/in"));
    int one = OK(open_tree(AT_FDCWD, "m/a", OPEN_TREE_CLONE));
    CHECK(faccessat(one, "in/f", F_OK, 0) < 0);
    // What is not the root of a mount cannot be moved.
    ERR(move_mount(one, "in", AT_FDCWD, "m/b", 0), EINVAL);
    ERR(move_mount(one, "", AT_FDCWD, "m/b", 0), ENOENT);
    ERR(move_mount(one, "", AT_FDCWD, "m/b", 0x1000), EINVAL);
    ERR(move_mount(one, "", AT_FDCWD, "m/none", MOVE_MOUNT_F_EMPTY_PATH), ENOENT);
    close(one);
    // A plain path, as MS_MOVE.
    OK(move_mount(AT_FDCWD, "m/c", AT_FDCWD, "m/b", 0));
    CHECK(exists("m/b/in/f"));
    int f = file_with("m/file", "");
    close(f);
    int again = OK(open_tree(AT_FDCWD, "m/a", OPEN_TREE_CLONE));
    ERR(move_mount(again, "", AT_FDCWD, "m/file", MOVE_MOUNT_F_EMPTY_PATH), EINVAL);
}
CASE(a_cloned_tree_goes_with_its_descriptor) {
    own();
    dir("m/a");
    tmp("m/a");
    touch("m/a/f");
    int fd = OK(open_tree(AT_FDCWD, "m/a", OPEN_TREE_CLONE));
    // It holds the file system, not the mount.
    OK(umount("m/a"));
    CHECK(faccessat(fd, "f", F_OK, 0) == 0);
    int keep = OK(openat(fd, "f", O_RDONLY));
    close(fd);
    struct stat s;
    OK(fstat(keep, &s));
}
CASE(fsopen_fsmount) {
    own();
    dir("m/a");
    int fs = OK(fsopen("tmpfs", FSOPEN_CLOEXEC));
    EQ(fcntl(fs, F_GETFD), FD_CLOEXEC);
    ERR(fsmount(fs, 0, 0), EINVAL);
    OK(fsconfig(fs, FSCONFIG_SET_STRING, "source", "mine", 0));
    OK(fsconfig(fs, FSCONFIG_SET_STRING, "size", "64k", 0));
    OK(fsconfig(fs, FSCONFIG_SET_STRING, "mode", "711", 0));
    OK(fsconfig(fs, FSCONFIG_SET_STRING, "sync", "whatever", 0));
    OK(fsconfig(fs, FSCONFIG_SET_PATH, "rw", "/", AT_FDCWD));
    OK(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    ERR(fsconfig(fs, FSCONFIG_SET_STRING, "size", "64k", 0), EBUSY);
    int mnt = OK(fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME));
    EQ(fcntl(mnt, F_GETFD), FD_CLOEXEC);
    ERR(fsmount(fs, 0, 0), EBUSY);
    int f = OK(openat(mnt, "f", O_CREAT | O_WRONLY, 0644));
    close(f);
    OK(move_mount(mnt, "", AT_FDCWD, "m/a", MOVE_MOUNT_F_EMPTY_PATH));
    CHECK(exists("m/a/f"));
    char *line = line_of("m/a");
    CHECK(strstr(line, " rw,noexec,noatime ") && strstr(line, " - tmpfs mine rw") && strstr(line, "size=64k"));
}
CASE(fsopen_errors) {
    own();
    ERR(fsopen("nosuchfs", 0), ENODEV);
    ERR(fsopen("tmpfs", 8), EINVAL);
    ERR(fsopen(BAD, 0), EFAULT);
    IN_CHILD(become(1000); ERR(fsopen("tmpfs", 0), EPERM));
    int fs = OK(fsopen("tmpfs", 0));
    char text[256];
    ERR(read(fs, text, sizeof text), ENODATA);
    ERR(fsconfig(fs, 99, NULL, NULL, 0), EOPNOTSUPP);
    ERR(fsconfig(fs, FSCONFIG_SET_FLAG, NULL, NULL, 0), EINVAL);
    ERR(fsconfig(fs, FSCONFIG_SET_FLAG, "ro", "x", 0), EINVAL);
    ERR(fsconfig(fs, FSCONFIG_SET_STRING, "bogus", "x", 0), EINVAL);
    ssize_t n = read(fs, text, sizeof text - 1);
    CHECK(n > 2 && text[0] == 'e');
    ERR(fsconfig(fs, FSCONFIG_SET_STRING, BAD, "x", 0), EFAULT);
    ERR(fsconfig(fs, FSCONFIG_SET_STRING, "size", "junk", 0), EINVAL);
    ERR(fsconfig(-1, FSCONFIG_CMD_CREATE, NULL, NULL, 0), EINVAL);
    ERR(fsconfig(999, FSCONFIG_CMD_CREATE, NULL, NULL, 0), EBADF);
    ERR(fsconfig(0, FSCONFIG_CMD_CREATE, NULL, NULL, 0), EINVAL);
    ERR(fsmount(999, 0, 0), EBADF);
    ERR(fsmount(fs, 8, 0), EINVAL);
    ERR(fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0), EBUSY);
    OK(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    ERR(fsmount(fs, 0, 1 << 30), EINVAL);
    ERR(fsmount(fs, 0, MOUNT_ATTR_NOATIME | MOUNT_ATTR_STRICTATIME), EINVAL);
}
CASE(fspick_reconfigure) {
    own();
    dir("m/a");
    OK(mount("t", "m/a", "tmpfs", 0, "size=64k"));
    ERR(fspick(AT_FDCWD, "m/none", 0), ENOENT);
    ERR(fspick(AT_FDCWD, "m/a", 0x100), EINVAL);
    int fd = OK(fspick(AT_FDCWD, "m/a", FSPICK_CLOEXEC));
    OK(fsconfig(fd, FSCONFIG_SET_FLAG, "ro", NULL, 0));
    OK(fsconfig(fd, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0));
    ERR(open("m/a/f", O_CREAT | O_WRONLY, 0644), EROFS);
    // The mount itself is still writable.
    CHECK(strstr(line_of("m/a"), " rw,relatime ") && strstr(line_of("m/a"), " t ro"));
    ERR(fsconfig(fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0), EBUSY);
}
CASE(mount_setattr) {
    own();
    dir("m/a");
    tmp("m/a");
    dir("m/a/in");
    tmp("m/a/in");
    struct attr a = {.set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID};
    OK(mount_setattr(AT_FDCWD, "m/a", 0, &a, sizeof a));
    CHECK(strstr(line_of("m/a"), " ro,nosuid,"));
    CHECK(strstr(line_of("a/in"), " rw,relatime"));
    a = (struct attr){.clr = MOUNT_ATTR_RDONLY, .set = MOUNT_ATTR_NODEV};
    OK(mount_setattr(AT_FDCWD, "m/a", AT_RECURSIVE, &a, sizeof a));
    CHECK(strstr(line_of("m/a"), " rw,nosuid,nodev,"));
    CHECK(strstr(line_of("a/in"), " rw,nodev,"));
    a = (struct attr){.clr = MOUNT_ATTR__ATIME, .set = MOUNT_ATTR_NOATIME};
    OK(mount_setattr(AT_FDCWD, "m/a", 0, &a, sizeof a));
    CHECK(strstr(line_of("m/a"), "noatime"));
    a = (struct attr){.propagation = MS_SHARED};
    OK(mount_setattr(AT_FDCWD, "m/a", AT_RECURSIVE, &a, sizeof a));
    CHECK(tag("m/a", "shared:") && tag("a/in", "shared:"));
}
CASE(mount_setattr_errors) {
    own();
    dir("m/d");
    struct attr a = {.set = MOUNT_ATTR_RDONLY};
    ERR(mount_setattr(AT_FDCWD, "m/d", 0, &a, sizeof a), EINVAL);
    ERR(mount_setattr(AT_FDCWD, "m/none", 0, &a, sizeof a), ENOENT);
    ERR(mount_setattr(AT_FDCWD, "m", 0, &a, 8), EINVAL);
    ERR(mount_setattr(AT_FDCWD, "m", 0, &a, 1 << 20), E2BIG);
    ERR(mount_setattr(AT_FDCWD, "m", 2, &a, sizeof a), EINVAL);
    ERR(mount_setattr(AT_FDCWD, "m", 0, BAD, sizeof a), EFAULT);
    struct { struct attr a; uint64_t more; } big = {.a = a, .more = 1};
    ERR(mount_setattr(AT_FDCWD, "m", 0, &big, sizeof big), E2BIG);
    a = (struct attr){.set = MOUNT_ATTR_NOATIME};
    ERR(mount_setattr(AT_FDCWD, "m", 0, &a, sizeof a), EINVAL);
    a = (struct attr){.clr = MOUNT_ATTR_NOATIME};
    ERR(mount_setattr(AT_FDCWD, "m", 0, &a, sizeof a), EINVAL);
    a = (struct attr){.propagation = MS_SHARED | MS_SLAVE};
    ERR(mount_setattr(AT_FDCWD, "m", 0, &a, sizeof a), EINVAL);
    a = (struct attr){.set = 1ULL << 40};
    ERR(mount_setattr(AT_FDCWD, "m", 0, &a, sizeof a), EINVAL);
    a = (struct attr){0};
    OK(mount_setattr(AT_FDCWD, "m", 0, &a, sizeof a));
    int fd = file_with("m/f", "");
    a = (struct attr){.set = MOUNT_ATTR_RDONLY};
    ERR(mount_setattr(AT_FDCWD, "m", 0, &a, sizeof a), EBUSY);
    close(fd);
    IN_CHILD(become(1000); ERR(mount_setattr(AT_FDCWD, "m", 0, &a, sizeof a), EPERM));
}
CASE(mount_setattr_on_a_detached_tree) {
    own();
    dir("m/a"); dir("m/b");
    tmp("m/a");
    int fd = OK(open_tree(AT_FDCWD, "m/a", OPEN_TREE_CLONE));
    struct attr a = {.set = MOUNT_ATTR_RDONLY};
    OK(mount_setattr(fd, "", AT_EMPTY_PATH, &a, sizeof a));
    OK(move_mount(fd, "", AT_FDCWD, "m/b", MOVE_MOUNT_F_EMPTY_PATH));
    ERR(open("m/b/f", O_CREAT | O_WRONLY, 0644), EROFS);
    touch("m/a/f");
}
CASE(move_mount_set_group) {
    own();
    dir("m/a"); dir("m/b");
    tmp("m/a");
    OK(mount("m/a", "m/b", NULL, MS_BIND, NULL));
    OK(mount(NULL, "m/a", NULL, MS_SHARED, NULL));
    EQ(tag("m/b", "shared:"), 0);
    ERR(move_mount(AT_FDCWD, "m/b", AT_FDCWD, "m/a", MOVE_MOUNT_SET_GROUP), EINVAL);
    OK(move_mount(AT_FDCWD, "m/a", AT_FDCWD, "m/b", MOVE_MOUNT_SET_GROUP));
    EQ(tag("m/b", "shared:"), tag("m/a", "shared:"));
    dir("m/a/x");
    tmp("m/a/x"); touch("m/a/x/f");
    CHECK(exists("m/b/x/f"));
}
CASE(move_mount_beneath) {
    needs(6, 5);
    own();
    dir("m/a");
    tmp("m/a"); touch("m/a/top");
    int fs = OK(fsopen("tmpfs", 0));
    OK(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    int mnt = OK(fsmount(fs, 0, 0));
    int f = OK(openat(mnt, "under", O_CREAT | O_WRONLY, 0644));
    close(f);
    ERR(move_mount(mnt, "", AT_FDCWD, "m/a", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH | MOVE_MOUNT_SET_GROUP), EINVAL);
    OK(move_mount(mnt, "", AT_FDCWD, "m/a", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH));
    CHECK(exists("m/a/top"));
    OK(umount("m/a"));
    CHECK(exists("m/a/under"));
}
CASE(listmount_statmount) {
    needs(6, 8);
    own();
    dir("m/a");
    OK(mount("src", "m/a", "tmpfs", MS_NOSUID, NULL));
    struct statx x;
    memset(&x, 0, sizeof x);
    OK(syscall(SYS_statx, AT_FDCWD, "m", 0L, 0x4000L, &x));
    CHECK(x.stx_mask & 0x4000);
    uint64_t parent, id;
    memcpy(&parent, (char *)&x + 144, 8);
    OK(syscall(SYS_statx, AT_FDCWD, "m/a", 0L, 0x4000L, &x));
    memcpy(&id, (char *)&x + 144, 8);
    CHECK(parent > 1ULL << 31 && id > parent);
    struct { uint32_t size, spare; uint64_t id, param; } req = {24, 0, parent, 0};
    uint64_t list[64];
    EQ(syscall(SYS_listmount, &req, list, 64L, 0L), 1);
    EQ(list[0], id);
    req.id = ~0ULL;
    long n = OK(syscall(SYS_listmount, &req, list, 64L, 0L));
    CHECK(n >= 2);
    int found = 0;
    for (long i = 0; i < n && i < 64; i++) found += list[i] == id || list[i] == parent;
    EQ(found, 2);
    EQ(syscall(SYS_listmount, &req, list, 1L, 0L), 1);
    req.param = list[0];
    CHECK(OK(syscall(SYS_listmount, &req, list, 64L, 0L)) == n - 1);
    ERR(syscall(SYS_listmount, &req, list, 64L, 8L), EINVAL);
    ERR(syscall(SYS_listmount, BAD, list, 64L, 0L), EFAULT);
    req.size = 8;
    ERR(syscall(SYS_listmount, &req, list, 64L, 0L), EINVAL);
    static union { struct { uint32_t size, opts; uint64_t mask; uint32_t major, minor; uint64_t magic; uint32_t flags, type;
        uint64_t id, parent; uint32_t old, old_parent; uint64_t attr, propagation, group, master, from; uint32_t root, point; } s;
        char bytes[4096]; } u;
    req.size = 24; req.id = id; req.param = 1 | 2 | 8 | 16 | 32;
    OK(syscall(SYS_statmount, &req, &u, (long)sizeof u, 0L));
    EQ(u.s.mask & req.param, req.param);
    EQ(u.s.id, id); EQ(u.s.parent, parent); EQ(u.s.magic, 0x01021994);
    EQ(u.s.attr & MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSUID);
    EQ(u.s.propagation, MS_PRIVATE);
    CHECK(!strcmp(u.bytes + 512 + u.s.type, "tmpfs") && !strcmp(u.bytes + 512 + u.s.root, "/"));
    char *point = u.bytes + 512 + u.s.point;
    CHECK(strlen(point) > 4 && !strcmp(point + strlen(point) - 4, "/m/a"));
    ERR(syscall(SYS_statmount, &req, &u, 512L, 0L), EOVERFLOW);
    ERR(syscall(SYS_statmount, &req, &u, (long)sizeof u, 1L), EINVAL);
    ERR(syscall(SYS_statmount, &req, BAD, 4096L, 0L), EFAULT);
    req.id = id + 100000;
    ERR(syscall(SYS_statmount, &req, &u, (long)sizeof u, 0L), ENOENT);
    req.id = 1;
    ERR(syscall(SYS_statmount, &req, &u, (long)sizeof u, 0L), EINVAL);
}
CASE(root_is_not_unmounted) {
    own();
    ERR(umount2("/", MNT_EXPIRE), EINVAL);
    ERR(mount("/", "m", NULL, MS_MOVE, NULL), ELOOP);
}
