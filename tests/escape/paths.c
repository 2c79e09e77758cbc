// paths: host paths through /proc, `..`, mount points, device nodes, FIFOs, sockets and setuid files of a shared volume.
// The volume is at /shared; the host has put there: `fifo` (with a writer that writes the secret), `disk` (the node of its root
// disk), `kmsg`, `socket` (listening), `suid` (a setuid-root copy of this program), `abs` and `rel` (links to the secret).
#define ABI_PROGRAM
#include "escape.h"
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

int special(int argc, char **argv) { // @suid
    (void)argc; (void)argv;
    // Root of the container it may be; what lies outside stays out of reach.
    try_read(AT_FDCWD, secret());
    _exit(0);
}

static void try_under(const char *prefix) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s%s", prefix, secret());
    try_read(AT_FDCWD, path);
    snprintf(path, sizeof path, "%s/../../../../../../../../..%s", prefix, secret());
    try_read(AT_FDCWD, path);
    snprintf(path, sizeof path, "%s/etc/hostname-of-host", prefix);
    try_read(AT_FDCWD, path);
}

CASE(plain_path) { try_under(""); }
CASE(proc_roots_and_cwds) {
    char p[64];
    const char *links[] = {"root", "cwd", "exe", "fd/0", "fd/1", "fd/2", "fd/3", "map_files", "ns/mnt", "task/1/root"};
    for (int pid = 0; pid < 64; pid++)
        for (int i = 0; i < 10; i++) {
            if (pid) snprintf(p, sizeof p, "/proc/%d/%s", pid, links[i]);
            else snprintf(p, sizeof p, "/proc/self/%s", links[i]);
            try_under(p);
        }
}
CASE(every_open_descriptor) {
    char p[64];
    for (int fd = 0; fd < 1024; fd++) {
        if (fcntl(fd, F_GETFD) < 0) continue;
        try_read(fd, secret() + 1);
        try_read(fd, "..");
        snprintf(p, sizeof p, "/proc/self/fd/%d/..%s", fd, secret());
        try_read(AT_FDCWD, p);
    }
}
CASE(dot_dot_at_mount_points) {
    const char *mounts[] = {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys", "/tmp", "/shared"};
    for (int i = 0; i < 8; i++) {
        try_under(mounts[i]);
        int dir = open(mounts[i], O_RDONLY | O_DIRECTORY);
        char up[PATH_MAX];
        snprintf(up, sizeof up, "../../../../../../../../../..%s", secret());
        if (dir >= 0) try_read(dir, up);
        struct stat a, b;
        if (dir >= 0 && !fstatat(dir, "..", &a, 0) && !stat("/", &b) && (a.st_ino != b.st_ino) && !strchr(mounts[i] + 1, '/'))
            FAILED("%s/.. is not the root", mounts[i]);
    }
}
CASE(shared_folder_has_no_parent) {
    OK(chdir("/shared"));
    for (int i = 0; i < 50; i++) OK(chdir(".."));
    char b[PATH_MAX];
    CHECK(getcwd(b, sizeof b) && !strcmp(b, "/"));
    try_read(AT_FDCWD, secret() + 1);
}
CASE(moved_working_directory) { // a folder that the volume loses while we are in it
    mkdir("/shared/in", 0755);
    mkdir("/shared/in/deep", 0755);
    OK(chdir("/shared/in/deep"));
    OK(rename("/shared/in/deep", "/shared/deep"));
    char up[PATH_MAX];
    for (int i = 0; i < 12; i++) {
        memset(up, 0, sizeof up);
        for (int j = 0; j < i; j++) strcat(up, "../");
        strcat(up, secret() + 1);
        try_read(AT_FDCWD, up);
    }
    OK(chdir("/"));
    rmdir("/shared/deep");
    rmdir("/shared/in");
}
CASE(chroot_breakout) {
    IN_CHILD(if (mkdir("/tmp/jail", 0700) < 0 && errno != EEXIST) _exit(0); int out = open("/", O_RDONLY); if (chroot("/tmp/jail") < 0) _exit(0);
             if (fchdir(out) < 0) _exit(0); for (int i = 0; i < 100; i++) if (chdir("..") < 0) break; if (chroot(".") < 0) _exit(0); try_under(""));
}
CASE(links_of_the_host) {
    try_read(AT_FDCWD, "/shared/abs");
    try_read(AT_FDCWD, "/shared/rel");
    char b[PATH_MAX] = {0};
    if (readlink("/shared/abs", b, sizeof b - 1) > 0) try_under("");
    int fd = open("/shared/abs", O_RDONLY | O_CREAT, 0600);
    if (fd >= 0) { char t[64]; ssize_t n = read(fd, t, sizeof t); if (n > 0) inspect(t, n, "abs"); }
}
CASE(links_of_ours) {
    char up[PATH_MAX];
    snprintf(up, sizeof up, "../../../../../../../../../..%s", secret());
    unlink("/shared/mine");
    OK(symlink(up, "/shared/mine"));
    try_read(AT_FDCWD, "/shared/mine");
    unlink("/shared/mine");
    OK(symlink("/proc/self/root", "/shared/mine"));
    try_under("/shared/mine");
    unlink("/shared/mine");
    OK(symlink("/proc/1/cwd", "/shared/mine"));
    try_under("/shared/mine");
    OK(unlink("/shared/mine"));
}
CASE(fifo_of_the_host) { try_read(AT_FDCWD, "/shared/fifo"); usleep(50000); try_read(AT_FDCWD, "/shared/fifo"); }
CASE(device_nodes_of_the_host) {
    static char text[1 << 20];
    const char *nodes[] = {"/shared/disk", "/shared/kmsg"};
    for (int i = 0; i < 2; i++) {
        int fd = open(nodes[i], O_RDONLY | O_NONBLOCK);
        if (fd < 0) continue;
        if (read(fd, text, sizeof text) > 0) ESCAPED("%s can be read", nodes[i]);
        close(fd);
        fd = open(nodes[i], O_RDWR | O_NONBLOCK);
        if (fd >= 0 && i == 0) ESCAPED("%s can be opened for writing", nodes[i]);
    }
}
CASE(device_nodes_of_ours) {
    const int devs[][2] = {{254, 0}, {8, 0}, {259, 0}, {7, 0}, {1, 1}, {1, 2}, {1, 4}, {10, 232}, {10, 229}, {10, 200}, {1, 11}, {4, 0}, {5, 1}, {10, 183}};
    const char *folders[] = {"/shared/node", "/node", "/dev/node", "/tmp/node"};
    static char text[1 << 20];
    for (size_t i = 0; i < sizeof devs / sizeof *devs; i++)
        for (int f = 0; f < 4; f++)
            for (int type = 0; type < 2; type++) {
                unlink(folders[f]);
                if (mknod(folders[f], (type ? S_IFCHR : S_IFBLK) | 0600, makedev(devs[i][0], devs[i][1])) < 0) continue;
                int fd = open(folders[f], O_RDWR | O_NONBLOCK | O_NOCTTY);
                if (fd < 0) fd = open(folders[f], O_RDONLY | O_NONBLOCK | O_NOCTTY);
                if (fd >= 0 && !type && read(fd, text, sizeof text) > 0) ESCAPED("block device %d:%d can be read", devs[i][0], devs[i][1]);
                if (fd >= 0 && type && devs[i][0] == 1 && devs[i][1] < 5) ESCAPED("memory device 1:%d can be opened", devs[i][1]);
                if (fd >= 0 && type && devs[i][0] == 10 && devs[i][1] == 232) ESCAPED("/dev/kvm can be opened");
                if (fd >= 0) close(fd);
                unlink(folders[f]);
            }
}
CASE(socket_of_the_host) {
    struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "/shared/socket"};
    int s = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    if (!connect(s, (struct sockaddr *)&a, sizeof a)) ESCAPED("connected to a socket of the host");
    char name[64];
    for (int i = 0; i < 2; i++) { // abstract names of the host
        memset(&a.sun_path, 0, sizeof a.sun_path);
        snprintf(name, sizeof name, "%s", i ? "nacre-escape-host" : "/tmp/.X11-unix/X0");
        memcpy(a.sun_path + 1, name, strlen(name));
        if (!connect(s, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))) ESCAPED("connected to abstract %s", name);
    }
}
CASE(setuid_file_of_the_host) {
    pid_t pid = OK(fork());
    if (!pid) { if (setgid(1000) || setuid(1000)) _exit(1); execl("/shared/suid", "suid", "@suid", NULL); _exit(0); }
    int st = wait_status(pid);
    if (WIFEXITED(st) && WEXITSTATUS(st) == ESCAPE_CODE) _exit(ESCAPE_CODE);
}
CASE(setuid_file_made_for_the_host) { // what we leave on the volume must not be setuid root outside: the host looks afterwards
    int fd = open("/shared/left", O_CREAT | O_RDWR, 0755);
    if (fd >= 0) { if (fchmod(fd, 04755)) {} close(fd); }
}
CASE(mounts) {
    mkdir("/tmp/m", 0700);
    const char *sources[] = {"/dev/sda", "/dev/vda", "/dev/vda1", "/shared/disk", "none"};
    const char *types[] = {"ext4", "xfs", "overlay", "proc", "sysfs", "devtmpfs", "cgroup", "cgroup2", "debugfs", "9p", "fuse", "nfs"};
    for (int s = 0; s < 5; s++)
        for (int t = 0; t < 12; t++)
            if (!mount(sources[s], "/tmp/m", types[t], 0, NULL)) { try_under("/tmp/m"); if (t < 2) ESCAPED("mounted %s", sources[s]); umount2("/tmp/m", MNT_DETACH); }
    if (!mount("/shared/..", "/tmp/m", NULL, MS_BIND | MS_REC, NULL)) try_under("/tmp/m");
    if (!mount("/proc/1/root", "/tmp/m", NULL, MS_BIND | MS_REC, NULL)) try_under("/tmp/m");
    umount2("/", MNT_DETACH);
    try_under("");
    umount2("/shared", MNT_DETACH);
    try_under("/shared");
}
CASE(file_handles) {
    struct { struct file_handle h; unsigned char f[64]; } fh = {.h = {.handle_bytes = 8, .handle_type = 1}};
    for (int ino = 1; ino < 64; ino++) { // the well-known attack: guess inode 2 of the host's file system
        memset(fh.h.f_handle, 0, 8);
        memcpy(fh.h.f_handle, &ino, 4);
        int dir = open("/shared", O_RDONLY), fd = open_by_handle_at(dir, &fh.h, O_RDONLY);
        if (fd >= 0) { try_read(fd, secret() + 1); if (ino == 2) ESCAPED("open_by_handle_at opens inode 2"); close(fd); }
        close(dir);
    }
}
static void try_write(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0) return;
    if (write(fd, text, strlen(text)) < 0) {}
    close(fd);
}
CASE(writes_that_would_reach_the_host) { // xtask compares these outside afterwards
    try_write("/proc/sys/kernel/core_pattern", "|/nacre-escaped");
    try_write("/proc/sys/kernel/modprobe", "/nacre-escaped");
    try_write("/proc/sys/kernel/hostname", "nacre-escaped");
    try_write("/proc/sys/kernel/panic", "77");
    try_write("/proc/sysrq-trigger", "h");
    try_write("/sys/kernel/uevent_helper", "/nacre-escaped");
    try_write("/sys/fs/cgroup/release_agent", "/nacre-escaped");
    if (sethostname("nacre-escaped", 13)) {}
    struct timespec t = {1, 0};
    if (clock_settime(CLOCK_REALTIME, &t)) {}
}
CASE(kill_outside) {
    for (pid_t p = 2; p < 70000; p++) if (p != getpid() && p != getppid() && kill(p, 0) == 0) {
        char path[64], b[256] = {0};
        snprintf(path, sizeof path, "/proc/%d/cmdline", p);
        int fd = open(path, O_RDONLY);
        if (fd < 0) continue;
        if (read(fd, b, sizeof b - 1) > 0 && (strstr(b, "sshd") || strstr(b, "containerd") || strstr(b, "cargo") || strstr(b, "xtask"))) ESCAPED("process %d is the host's: %s", p, b);
        close(fd);
    }
}
CASE(leftover_environment_and_auxv) {
    extern char **environ;
    for (char **e = environ; *e; e++) if (strncmp(*e, "SECRET=", 7)) inspect(*e, strlen(*e), "environ");
    try_read(AT_FDCWD, "/proc/1/environ");
    try_read(AT_FDCWD, "/proc/1/cmdline");
}
