// cgroups: control groups of version 2, in a mount of the case's own. Natively the machine may have no controllers on it.
#include "abi.h"
#include <poll.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/vfs.h>

static const char *at(const char *name);
static int put(const char *path, const char *text);

// The group whose processes become those of the case: the root itself, or where it must not have any, a child that takes them all.
static const char *home;
// No processes beside groups that controllers are passed on to (cgroups(7), "no internal processes"): as systemd does, all go into a group of their own. Only
// the first root of all may have both, which has no type. They stay there: the next case finds none at the top.
static void make_room(void) {
    home = "g";
    if (access("g/cgroup.type", F_OK) < 0) return;
    home = "g/abi-processes";
    if (mkdir(home, 0755) < 0) EQ(errno, EEXIST);
    // A list is read as it was, and some of it may be new children of those that have gone.
    for (int round = 0; round < 100; round++) {
        char *all = strdup(slurp("g/cgroup.procs")), *next;
        int none = 1;
        for (char *p = all; *p; p = next + 1) {
            // The view's process is of a name space that this one does not see.
            if (strtol(p, &next, 10) <= 0) FAILED("a process at the top that is outside of the pid name space: %s", p);
            *next = 0;
            if (put("g/abi-processes/cgroup.procs", p) < 0) EQ(errno, ESRCH);
            none = 0;
        }
        free(all);
        if (none) return;
    }
    FAILED("processes at the top: %s", slurp("g/cgroup.procs"));
}
// A view of the groups at "g", and a group "g/GROUP" of the case's own.
static char group[64];
static void own(void) {
    OK(unshare(CLONE_NEWNS));
    OK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    OK(mkdir("g", 0755));
    OK(mount("cgroup2", "g", "cgroup2", 0, NULL));
    make_room();
    snprintf(group, sizeof group, "g/abi-%d", getpid());
    OK(mkdir(group, 0755));
}
static const char *at(const char *name) {
    static char paths[4][128];
    static int n;
    n = (n + 1) % 4;
    snprintf(paths[n], sizeof paths[n], "%s/%s", group, name);
    return paths[n];
}
static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    int e = errno;
    close(fd);
    errno = e;
    return n == (ssize_t)strlen(text) ? 0 : -1;
}
// A child that waits in the group until it is killed.
static pid_t sleeper(void) {
    pid_t pid = OK(fork());
    if (!pid) for (;;) pause();
    char text[32];
    snprintf(text, sizeof text, "%d", pid);
    OK(put(at("cgroup.procs"), text));
    return pid;
}
static void end(pid_t pid) {
    kill(pid, SIGKILL);
    wait_status(pid);
}
static int has(const char *path, const char *word) { return strstr(slurp(path), word) != NULL; }
// Groups of the case go: what is left in them is moved up by the end of its processes.
static void done(void) {
    for (int i = 0; i < 100 && rmdir(group) < 0 && errno == EBUSY; i++) usleep(10000);
}

// Passes controllers on to the case's group, where version 2 has them.
static void with_controllers(const char *name, const char *which) {
    if (!has("g/cgroup.controllers", name)) {
        done();
        skip("the %s controller is not version 2's here", name);
    }
    OK(put("g/cgroup.subtree_control", which));
}

CASE(files_of_a_group) {
    own();
    struct statfs s;
    OK(statfs("g", &s));
    EQ(s.f_type, 0x63677270);
    const char *names[] = {"cgroup.procs", "cgroup.threads", "cgroup.controllers", "cgroup.subtree_control", "cgroup.events",
                           "cgroup.max.depth", "cgroup.max.descendants", "cgroup.stat", "cgroup.freeze", "cgroup.type", "cpu.stat", "cgroup.kill"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) CHECK(access(at(names[i]), F_OK) == 0);
    CHECK(!strcmp(slurp(at("cgroup.type")), "domain\n"));
    CHECK(!strcmp(slurp(at("cgroup.procs")), ""));
    CHECK(!strcmp(slurp(at("cgroup.max.depth")), "max\n"));
    CHECK(has(at("cgroup.events"), "populated 0\n") && has(at("cgroup.events"), "frozen 0\n"));
    CHECK(has(at("cgroup.stat"), "nr_descendants 0\n"));
    CHECK(has(at("cpu.stat"), "usage_usec "));
    done();
}
CASE(names_are_only_made_by_mkdir) {
    own();
    ERR(open(at("file"), O_CREAT | O_WRONLY, 0644), EACCES);
    ERR(mkdir(at("cgroup.procs"), 0755), EEXIST);
    ERR(unlink(at("cgroup.procs")), EPERM);
    ERR(rmdir(at("cgroup.procs")), ENOTDIR);
    ERR(symlink("x", at("l")), EPERM);
    ERR(mkdir(at("a\nb"), 0755), EINVAL);
    ERR(mkdir(group, 0755), EEXIST);
    ERR(rmdir("g/no-such-group"), ENOENT);
    done();
}
CASE(nested_groups) {
    own();
    OK(mkdir(at("in"), 0755));
    CHECK(has(at("cgroup.stat"), "nr_descendants 1\n"));
    ERR(rmdir(group), EBUSY);
    ERR(mkdir(at("in"), 0755), EEXIST);
    OK(put(at("cgroup.max.depth"), "1"));
    ERR(mkdir(at("in/er"), 0755), EAGAIN);
    OK(put(at("cgroup.max.depth"), "max"));
    OK(put(at("cgroup.max.descendants"), "1"));
    ERR(mkdir(at("two"), 0755), EAGAIN);
    ERR(put(at("cgroup.max.descendants"), "junk"), EINVAL);
    OK(rmdir(at("in")));
    OK(mkdir(at("two"), 0755));
    OK(rmdir(at("two")));
    done();
}
CASE(processes_move) {
    own();
    pid_t pid = sleeper();
    char want[32];
    snprintf(want, sizeof want, "%d\n", pid);
    CHECK(!strcmp(slurp(at("cgroup.procs")), want));
    CHECK(!strcmp(slurp(at("cgroup.threads")), want));
    CHECK(has(at("cgroup.events"), "populated 1\n"));
    char path[64], *text;
    snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
    text = slurp(path);
    char *line = strstr(text, "0::");
    CHECK(line && strstr(line, group + 1));
    ERR(rmdir(group), EBUSY);
    end(pid);
    for (int i = 0; i < 100 && has(at("cgroup.events"), "populated 1"); i++) usleep(10000);
    CHECK(has(at("cgroup.events"), "populated 0\n"));
    OK(rmdir(group));
}
CASE(children_are_born_in_the_group) {
    own();
    IN_CHILD(OK(put(at("cgroup.procs"), "0")); pid_t p = OK(fork()); if (!p) { char *t = slurp("/proc/self/cgroup"); _exit(strstr(t, group + 1) ? 0 : 1); }
             EXITS(p, 0));
    done();
}
CASE(bad_writes) {
    own();
    ERR(put(at("cgroup.procs"), "junk"), EINVAL);
    ERR(put(at("cgroup.procs"), "99999999"), ESRCH);
    ERR(put(at("cgroup.procs"), "-5"), EINVAL);
    ERR(put(at("cgroup.freeze"), "2"), ERANGE);
    ERR(put(at("cgroup.freeze"), "x"), EINVAL);
    ERR(put(at("cgroup.kill"), "2"), ERANGE);
    ERR(put(at("cgroup.kill"), "x"), EINVAL);
    ERR(put(at("cgroup.subtree_control"), "nonsense"), EINVAL);
    ERR(put(at("cgroup.subtree_control"), "+nonsense"), EINVAL);
    ERR(put(at("cgroup.type"), "junk"), EINVAL);
    ERR(put(at("cgroup.events"), "1"), EINVAL);
    IN_CHILD(OK(setresuid(1000, 1000, 1000)); ERR(open(at("cgroup.events"), O_WRONLY), EACCES); ERR(open(at("cgroup.kill"), O_RDONLY), EACCES));
    done();
}
CASE(kill) {
    own();
    OK(mkdir(at("in"), 0755));
    pid_t a = sleeper(), b = OK(fork());
    if (!b) for (;;) pause();
    char text[32];
    snprintf(text, sizeof text, "%d", b);
    OK(put(at("in/cgroup.procs"), text));
    OK(put(at("cgroup.kill"), "1"));
    DIES(a, SIGKILL);
    DIES(b, SIGKILL);
    OK(rmdir(at("in")));
    done();
}
CASE(freeze) {
    own();
    volatile long *count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = OK(fork());
    if (!pid) for (;;) { (*count)++; sched_yield(); }
    char text[32];
    snprintf(text, sizeof text, "%d", pid);
    OK(put(at("cgroup.procs"), text));
    nap_ms(20);
    OK(put(at("cgroup.freeze"), "1"));
    CHECK(!strcmp(slurp(at("cgroup.freeze")), "1\n"));
    for (int i = 0; i < 200 && !has(at("cgroup.events"), "frozen 1"); i++) usleep(10000);
    CHECK(has(at("cgroup.events"), "frozen 1\n"));
    nap_ms(50);
    long before = *count;
    nap_ms(60);
    EQ(*count, before);
    OK(put(at("cgroup.freeze"), "0"));
    for (int i = 0; i < 200 && *count == before; i++) usleep(10000);
    CHECK(*count > before);
    CHECK(has(at("cgroup.events"), "frozen 0\n"));
    // A frozen process can still be killed, and one that moves in stops.
    OK(put(at("cgroup.freeze"), "1"));
    end(pid);
    pid = OK(fork());
    if (!pid) for (;;) { (*count)++; sched_yield(); }
    snprintf(text, sizeof text, "%d", pid);
    OK(put(at("cgroup.procs"), text));
    nap_ms(60);
    before = *count;
    nap_ms(60);
    EQ(*count, before);
    // Moved out, it goes on.
    char out[64];
    snprintf(out, sizeof out, "%s/cgroup.procs", home);
    OK(put(out, text));
    for (int i = 0; i < 200 && *count == before; i++) usleep(10000);
    CHECK(*count > before);
    end(pid);
    done();
}
CASE(events_are_polled) {
    own();
    int fd = OK(open(at("cgroup.events"), O_RDONLY));
    char text[128];
    CHECK(OK(read(fd, text, sizeof text)) > 0);
    struct pollfd p = {fd, POLLPRI, 0};
    EQ(poll(&p, 1, 0), 0);
    pid_t pid = sleeper();
    EQ(poll(&p, 1, 5000), 1);
    CHECK(p.revents & POLLPRI);
    OK(lseek(fd, 0, SEEK_SET));
    ssize_t n = OK(read(fd, text, sizeof text - 1));
    text[n] = 0;
    CHECK(strstr(text, "populated 1"));
    EQ(poll(&p, 1, 0), 0);
    end(pid);
    EQ(poll(&p, 1, 5000), 1);
    close(fd);
    done();
}
CASE(owners) {
    own();
    struct stat s;
    OK(stat(at("cgroup.procs"), &s));
    EQ(s.st_mode & 07777, 0644);
    EQ(s.st_uid, 0);
    // A group given to somebody: they can make groups in it, but not take processes from outside.
    OK(chown(group, 1000, 1000));
    OK(chown(at("cgroup.procs"), 1000, 1000));
    OK(chown(at("cgroup.subtree_control"), 1000, 1000));
    OK(chmod("g", 0755));
    IN_CHILD(OK(setresgid(1000, 1000, 1000)); OK(setresuid(1000, 1000, 1000)); OK(mkdir(at("in"), 0755)); struct stat t;
             OK(stat(at("in/cgroup.procs"), &t)); EQ(t.st_uid, 1000); ERR(put(at("in/cgroup.procs"), "0"), EACCES);
             char out[64]; snprintf(out, sizeof out, "%s/cgroup.procs", home); ERR(put(out, "0"), EACCES); OK(rmdir(at("in"))));
    pid_t pid = OK(fork());
    if (!pid) {
        OK(put(at("cgroup.procs"), "0"));
        OK(setresgid(1000, 1000, 1000));
        OK(setresuid(1000, 1000, 1000));
        OK(mkdir(at("in"), 0755));
        // From a group of theirs to another they can.
        OK(put(at("in/cgroup.procs"), "0"));
        OK(put(at("cgroup.procs"), "0"));
        OK(rmdir(at("in")));
        _exit(0);
    }
    EXITS(pid, 0);
    done();
}
CASE(removed_group) {
    own();
    int dir = OK(open(group, O_RDONLY | O_DIRECTORY)), events = OK(open(at("cgroup.events"), O_RDONLY));
    OK(rmdir(group));
    char text[64];
    ERR(read(events, text, sizeof text), ENODEV);
    ERR(openat(dir, "cgroup.procs", O_RDONLY), ENOENT);
    ERR(mkdirat(dir, "x", 0755), ENOENT);
}
CASE(pids_max) {
    own();
    with_controllers("pids", "+pids");
    OK(put(at("pids.max"), "3"));
    CHECK(!strcmp(slurp(at("pids.max")), "3\n"));
    pid_t pid = OK(fork());
    if (!pid) {
        OK(put(at("cgroup.procs"), "0"));
        pid_t a = OK(fork());
        if (!a) for (;;) pause();
        pid_t b = OK(fork());
        if (!b) for (;;) pause();
        ERR(fork(), EAGAIN);
        CHECK(!strcmp(slurp(at("pids.current")), "3\n"));
        end(a);
        a = OK(fork());
        if (!a) for (;;) pause();
        end(a);
        end(b);
        _exit(0);
    }
    EXITS(pid, 0);
    CHECK(has(at("pids.events"), "max 1\n"));
    ERR(put(at("pids.max"), "many"), EINVAL);
    done();
}
CASE(memory_and_cpu_files) {
    own();
    if (has("g/cgroup.controllers", "memory") && !has("g/cgroup.controllers", "cpu")) {
        done();
        skip("the cpu controller is not version 2's here");
    }
    with_controllers("memory", "+memory +cpu");
    CHECK(!strcmp(slurp(at("memory.max")), "max\n"));
    OK(put(at("memory.max"), "64M"));
    CHECK(!strcmp(slurp(at("memory.max")), "67108864\n"));
    OK(put(at("cpu.max"), "50000 100000"));
    CHECK(!strcmp(slurp(at("cpu.max")), "50000 100000\n"));
    OK(put(at("cpu.weight"), "200"));
    CHECK(!strcmp(slurp(at("cpu.weight")), "200\n"));
    ERR(put(at("cpu.weight"), "0"), ERANGE);
    ERR(put(at("cpu.max"), "5"), EINVAL);
    // What a process had before it came is not the group's.
    int ready[2];
    OK(pipe(ready));
    pid_t pid = OK(fork());
    if (!pid) {
        OK(put(at("cgroup.procs"), "0"));
        char *more = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(more, 1, 1 << 20);
        EQ(write(ready[1], more, 1), 1);
        for (;;) pause();
    }
    char byte;
    EQ(read(ready[0], &byte, 1), 1);
    CHECK(atoll(slurp(at("memory.current"))) >= 1 << 20);
    CHECK(has(at("memory.stat"), "anon ") && has(at("memory.events"), "oom_kill "));
    end(pid);
    // Processes are only in leaves.
    OK(mkdir(at("in"), 0755));
    OK(put(at("cgroup.subtree_control"), "+memory"));
    ERR(put(at("cgroup.procs"), "0"), EBUSY);
    CHECK(access(at("in/memory.max"), F_OK) == 0 && access(at("in/cpu.max"), F_OK) < 0);
    OK(put(at("cgroup.subtree_control"), "-memory"));
    OK(rmdir(at("in")));
    done();
}
CASE(proc_cgroups) {
    char *text = slurp("/proc/cgroups");
    CHECK(!strncmp(text, "#subsys_name\thierarchy\tnum_cgroups\tenabled\n", 43));
    CHECK(strstr(slurp("/proc/self/cgroup"), "0::/"));
}
static long into(int dir, uint64_t flags) {
    struct { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; } args = {
        .flags = 0x200000000 | flags, .exit_signal = flags & CLONE_THREAD ? 0 : SIGCHLD, .cgroup = (uint32_t)dir};
    return syscall(SYS_clone3, &args, sizeof args);
}
CASE(clone_into_a_group) {
    own();
    int dir = OK(open(group, O_PATH | O_DIRECTORY));
    pid_t pid = OK(into(dir, 0));
    if (!pid) for (;;) pause();
    char want[32];
    snprintf(want, sizeof want, "%d\n", pid);
    CHECK(!strcmp(slurp(at("cgroup.procs")), want));
    end(pid);
    ERR(into(dir, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD), EOPNOTSUPP);
    ERR(into(OK(open(at("cgroup.procs"), O_RDWR)), 0), EBADF);
    ERR(into(OK(open(".", O_RDONLY)), 0), EBADF);
    ERR(into(999, 0), EBADF);
    ERR(into(-1, 0), EINVAL);
    pid = OK(fork());
    if (!pid) {
        OK(setresuid(1000, 1000, 1000));
        ERR(into(dir, 0), EACCES);
        _exit(0);
    }
    EXITS(pid, 0);
    done();
    ERR(into(dir, 0), ENOENT);
}
