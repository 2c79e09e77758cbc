// namespaces: unshare, setns, clone flags, /proc/PID/ns, user and pid namespaces and what shows numbers and ids in them. Runs as root.
#include "abi.h"
#include <linux/capability.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/utsname.h>

static long pidfd_open_(pid_t p) { return syscall(SYS_pidfd_open, p, 0); }
static unsigned long ns_of(const char *who, const char *kind) {
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%s/ns/%s", who, kind);
    OK(stat(path, &st));
    return st.st_ino;
}
static int open_ns(const char *who, const char *kind) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/%s", who, kind);
    return OK(open(path, O_RDONLY | O_CLOEXEC));
}
static void write_to(const char *path, const char *text) {
    int fd = OK(open(path, O_WRONLY));
    EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}
static int write_fails(const char *path, const char *text) {
    int fd = OK(open(path, O_WRONLY));
    ssize_t n = write(fd, text, strlen(text));
    int e = errno;
    close(fd);
    return n < 0 ? e : 0;
}
// A child in new namespaces, by clone without a new stack.
static pid_t clone_into(unsigned long flags) { return OK(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0)); }
static unsigned long long effective(void) {
    char *p = strstr(slurp("/proc/self/status"), "CapEff:");
    return strtoull(p + 7, NULL, 16);
}

CASE(links_show_the_namespaces) {
    static const char *kinds[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"};
    for (int i = 0; i < 8; i++) {
        char path[64], text[64], want[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        ssize_t n = OK(readlink(path, text, sizeof text - 1));
        text[n] = 0;
        snprintf(want, sizeof want, "%s:[%lu]", i == 5 ? "pid" : kinds[i], ns_of("self", kinds[i]));
        if (strcmp(text, want)) FAILED("%s is %s, not %s", path, text, want);
        int fd = open_ns("self", kinds[i]);
        ERR(write(fd, "x", 1), EBADF);
        char c;
        ERR(read(fd, &c, 1), EINVAL);
    }
}

CASE(unshare_flag_rules) {
    ERR(unshare(CLONE_PARENT), EINVAL);
    ERR(unshare(0x1), EINVAL);
    OK(unshare(0));
    OK(unshare(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM));
    OK(unshare(CLONE_THREAD));
    IN_CHILD(OK(setresuid(1000, 1000, 1000)); ERR(unshare(CLONE_NEWUTS), EPERM); ERR(unshare(CLONE_NEWIPC), EPERM); ERR(unshare(CLONE_NEWPID), EPERM);
             ERR(unshare(CLONE_NEWCGROUP), EPERM));
}

static void *idle_thread(void *a) { for (;;) pause(); return a; }
CASE(unshare_with_threads) {
    pthread_t t;
    pthread_create(&t, NULL, idle_thread, NULL);
    ERR(unshare(CLONE_THREAD), EINVAL);
    ERR(unshare(CLONE_VM), EINVAL);
    ERR(unshare(CLONE_SIGHAND), EINVAL);
    ERR(unshare(CLONE_NEWUSER), EINVAL);
    OK(unshare(CLONE_FILES));
}

CASE(uts) {
    struct utsname before, now;
    OK(uname(&before));
    int old = open_ns("self", "uts");
    IN_CHILD(OK(unshare(CLONE_NEWUTS)); OK(sethostname("inner", 5)); OK(setdomainname("dom", 3)); OK(uname(&now)); CHECK(!strcmp(now.nodename, "inner"));
             CHECK(!strcmp(now.domainname, "dom"));
             IN_CHILD(OK(uname(&now)); CHECK(!strcmp(now.nodename, "inner")));
             OK(setns(old, CLONE_NEWUTS)); OK(uname(&now)); CHECK(!strcmp(now.nodename, before.nodename)));
    OK(uname(&now));
    CHECK(!strcmp(now.nodename, before.nodename));
    IN_CHILD(ERR(sethostname("x", -1), EINVAL); ERR(sethostname("x", 65), EINVAL); ERR(sethostname(BAD, 3), EFAULT));
}

CASE(clone_into_uts_and_ipc) {
    unsigned long uts = ns_of("self", "uts"), ipc = ns_of("self", "ipc"), cgroup = ns_of("self", "cgroup");
    pid_t pid = clone_into(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP);
    if (!pid) _exit(ns_of("self", "uts") != uts && ns_of("self", "ipc") != ipc && ns_of("self", "cgroup") != cgroup ? 0 : 1);
    EXITS(pid, 0);
    ERR(syscall(SYS_clone, CLONE_NEWIPC | CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0), EINVAL);
}

CASE(setns_errors) {
    int uts = open_ns("self", "uts"), null = OK(open("/dev/null", O_RDONLY));
    ERR(setns(999, 0), EBADF);
    ERR(setns(null, 0), EINVAL);
    ERR(setns(uts, CLONE_NEWIPC), EINVAL);
    OK(setns(uts, 0));
    OK(setns(uts, CLONE_NEWUTS));
    IN_CHILD(OK(setresuid(1000, 1000, 1000)); ERR(setns(uts, 0), EPERM));
    ERR(setns(open_ns("self", "user"), 0), EINVAL); // the one it is in
}

CASE(setns_by_pidfd) {
    int p[2];
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) {
        OK(unshare(CLONE_NEWUTS | CLONE_NEWIPC));
        OK(sethostname("theirs", 6));
        if (write(p[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char c;
    EQ(read(p[0], &c, 1), 1);
    int fd = OK(pidfd_open_(pid));
    ERR(setns(fd, 0), EINVAL);
    ERR(setns(fd, CLONE_FS), EINVAL);
    char who[16];
    snprintf(who, sizeof who, "%d", pid);
    unsigned long ipc = ns_of(who, "ipc");
    IN_CHILD(OK(setns(fd, CLONE_NEWUTS | CLONE_NEWIPC)); struct utsname u; OK(uname(&u)); CHECK(!strcmp(u.nodename, "theirs")); EQ(ns_of("self", "ipc"), ipc));
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
    ERR(setns(fd, CLONE_NEWUTS), ESRCH);
}

#define NS_USERNS _IO(0xb7, 1)
#define NS_PARENT _IO(0xb7, 2)
#define NS_TYPE _IO(0xb7, 3)
#define NS_OWNER _IO(0xb7, 4)
CASE(ioctls) {
    int uts = open_ns("self", "uts"), user = open_ns("self", "user"), pid = open_ns("self", "pid");
    EQ(ioctl(uts, NS_TYPE), CLONE_NEWUTS);
    EQ(ioctl(user, NS_TYPE), CLONE_NEWUSER);
    EQ(ioctl(pid, NS_TYPE), CLONE_NEWPID);
    ERR(ioctl(uts, NS_PARENT), EINVAL);
    ERR(ioctl(uts, NS_OWNER, &uts), EINVAL);
    ERR(ioctl(pid, NS_PARENT), EPERM);
    ERR(ioctl(uts, 0x1234), ENOTTY);
    int owner = OK(ioctl(uts, NS_USERNS));
    struct stat a, b;
    OK(fstat(owner, &a));
    OK(fstat(user, &b));
    EQ(a.st_ino, b.st_ino);
    EQ(fcntl(owner, F_GETFD), FD_CLOEXEC);
    IN_CHILD(OK(unshare(CLONE_NEWUSER)); int mine = open_ns("self", "user"); uid_t uid = 77; OK(ioctl(mine, NS_OWNER, &uid)); EQ(uid, 65534); ERR(ioctl(uts, NS_USERNS), EPERM));
}

CASE(user_unmapped_ids_overflow) {
    IN_CHILD(OK(unshare(CLONE_NEWUSER)); EQ(getuid(), 65534); EQ(geteuid(), 65534); EQ(getgid(), 65534); struct stat st; OK(stat("/", &st)); EQ(st.st_uid, 65534);
             EQ(slurp("/proc/self/uid_map")[0], 0); ERR(setuid(0), EINVAL); ERR(setgid(5), EINVAL); ERR(setgroups(0, NULL), EPERM);
             EQ(effective() & 0x1ffffffffffull, 0x1ffffffffffull));
}

// Maps a child's ids from outside.
static void map_child(pid_t pid, const char *uids, const char *gids) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    write_to(path, uids);
    snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
    write_to(path, gids);
}

CASE(user_mapped_by_root) {
    int go[2];
    OK(pipe(go));
    pid_t pid = clone_into(CLONE_NEWUSER);
    if (!pid) {
        char c;
        close(go[1]);
        EQ(read(go[0], &c, 1), 1);
        EQ(getuid(), 65534); // 0 of outside is not mapped
        OK(setresgid(0, 0, 0));
        OK(setresuid(0, 0, 0));
        EQ(getuid(), 0);
        OK(setgroups(0, NULL));
        gid_t g[2] = {1, 2};
        OK(setgroups(2, g));
        g[0] = 999999;
        ERR(setgroups(1, g), EINVAL);
        ERR(setuid(999999), EINVAL);
        int fd = file_with("inside", "");
        struct stat st;
        OK(fstat(fd, &st));
        EQ(st.st_uid, 0);
        OK(fchown(fd, 5, 6));
        OK(fstat(fd, &st));
        EQ(st.st_uid, 5);
        EQ(st.st_gid, 6);
        ERR(fchown(fd, 999999, -1), EINVAL);
        OK(stat("/", &st));
        EQ(st.st_uid, 65534);
        ERR(chown("/tmp", 1, 1), EPERM);
        int a, b, n;
        FILE *f = fopen("/proc/self/uid_map", "r");
        EQ(fscanf(f, "%d %d %d", &a, &b, &n), 3);
        EQ(a, 0);
        EQ(b, 100000);
        EQ(n, 1000);
        _exit(0);
    }
    OK(chmod(".", 0777));
    map_child(pid, "0 100000 1000", "0 100000 1000\n");
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    EQ(write_fails(path, "0 1 1"), EPERM); // once only
    EQ(write(go[1], "x", 1), 1);
    EXITS(pid, 0);
    struct stat st;
    OK(stat("inside", &st));
    EQ(st.st_uid, 100005);
    EQ(st.st_gid, 100006);
}

CASE(user_maps_that_are_refused) {
    int go[2];
    OK(pipe(go));
    pid_t pid = clone_into(CLONE_NEWUSER);
    if (!pid) { char c; close(go[1]); EQ(read(go[0], &c, 1), 0); _exit(0); }
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    EQ(write_fails(path, "0 0"), EINVAL);
    EQ(write_fails(path, "0 0 0"), EINVAL);
    EQ(write_fails(path, "a 0 1"), EINVAL);
    EQ(write_fails(path, "0 0 1 1"), EINVAL);
    EQ(write_fails(path, "0 0 10\n5 100 10"), EINVAL);
    EQ(write_fails(path, "0 0 10\n100 5 10"), EINVAL);
    EQ(write_fails(path, "4294967295 0 1"), EINVAL);
    EQ(write_fails(path, "1 0 4294967295"), EINVAL);
    snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
    EQ(write_fails(path, "maybe"), EINVAL);
    write_to(path, "deny");
    EQ(write_fails(path, "allow"), EPERM);
    close(go[1]);
    EXITS(pid, 0);
}

CASE(user_maps_itself_without_privilege) {
    IN_CHILD(OK(setresgid(1000, 1000, 1000)); OK(setgroups(0, NULL) == 0 || 1); OK(setresuid(1000, 1000, 1000)); OK(prctl(PR_SET_DUMPABLE, 1)); OK(unshare(CLONE_NEWUSER));
             EQ(write_fails("/proc/self/uid_map", "0 1001 1"), EPERM); EQ(write_fails("/proc/self/uid_map", "0 1000 2"), EPERM);
             EQ(write_fails("/proc/self/gid_map", "0 1000 1"), EPERM); // before setgroups is denied
             write_to("/proc/self/uid_map", "0 1000 1"); write_to("/proc/self/setgroups", "deny"); write_to("/proc/self/gid_map", "0 1000 1");
             EQ(getuid(), 0); EQ(getgid(), 0); ERR(setgroups(0, NULL), EPERM); CHECK(!strcmp(slurp("/proc/self/setgroups"), "deny\n"));
             OK(unshare(CLONE_NEWUTS)); OK(sethostname("mine", 4)); ERR(kill(getppid(), SIGTERM), EPERM));
}

CASE(user_capabilities_end_at_the_namespace) {
    IN_CHILD(OK(unshare(CLONE_NEWUSER)); ERR(sethostname("x", 1), EPERM); struct rlimit r; OK(getrlimit(RLIMIT_NOFILE, &r)); r.rlim_max /= 2; r.rlim_cur = 100;
             OK(setrlimit(RLIMIT_NOFILE, &r)); r.rlim_max++; ERR(setrlimit(RLIMIT_NOFILE, &r), EPERM));
}

CASE(user_needs_to_be_single_threaded_for_setns) {
    pid_t pid = clone_into(CLONE_NEWUSER);
    if (!pid) for (;;) pause();
    char who[16];
    snprintf(who, sizeof who, "%d", pid);
    int fd = open_ns(who, "user");
    IN_CHILD(OK(setns(fd, CLONE_NEWUSER)); EQ(effective() & 1, 1); EQ(getuid(), 65534); ERR(setns(fd, 0), EINVAL));
    pthread_t t;
    pthread_create(&t, NULL, idle_thread, NULL);
    ERR(setns(fd, 0), EINVAL);
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}

CASE(user_and_others_in_one_clone) {
    pid_t pid = clone_into(CLONE_NEWUSER | CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWIPC);
    if (!pid) { OK(sethostname("all", 3)); EQ(getpid(), 1); _exit(0); }
    EXITS(pid, 0);
    ERR(syscall(SYS_clone, CLONE_NEWUSER | CLONE_FS | SIGCHLD, 0, 0, 0, 0), EINVAL);
}

CASE(pid_first_process) {
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) {
        EQ(getpid(), 1);
        EQ(gettid(), 1);
        EQ(getppid(), 0);
        EQ(getpgrp(), 0); // outside
        EQ(getsid(0), 0);
        pid_t child = OK(fork());
        EQ(child == 0 ? 2 : child, 2);
        if (!child) {
            EQ(getpid(), 2);
            EQ(getppid(), 1);
            EQ(setsid(), 2);
            _exit(7);
        }
        int st;
        EQ(waitpid(-1, &st, 0), 2);
        EQ(WEXITSTATUS(st), 7);
        _exit(0);
    }
    CHECK(pid > 1);
    EXITS(pid, 0);
}

CASE(pid_unshare_moves_the_children) {
    IN_CHILD(unsigned long own = ns_of("self", "pid"); pid_t me = getpid(); OK(unshare(CLONE_NEWPID)); EQ(getpid(), me); EQ(ns_of("self", "pid"), own);
             CHECK(syscall(SYS_clone, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, 0, 0, 0, 0) == -1 && errno == EINVAL);
             ERR(unshare(CLONE_NEWPID), EINVAL);
             pid_t a = OK(fork()); if (!a) { EQ(getpid(), 1); for (;;) pause(); }
             pid_t b = OK(fork()); if (!b) { EQ(getpid(), 2); _exit(0); } EXITS(b, 0); CHECK(ns_of("self", "pid_for_children") != own);
             kill(a, SIGKILL); DIES(a, SIGKILL); ERR(fork(), ENOMEM));
}

CASE(pid_first_process_is_protected) {
    int p[2];
    OK(pipe(p));
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) {
        handle(SIGUSR1, 0);
        OK(kill(1, SIGTERM)); // nothing happens
        OK(kill(1, SIGKILL));
        pid_t child = OK(fork());
        if (!child) { OK(kill(1, SIGKILL)); OK(kill(1, SIGUSR1)); _exit(0); }
        EXITS(child, 0);
        EQ(hits, 1);
        EQ(last_info.si_pid, child);
        if (write(p[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char c;
    EQ(read(p[0], &c, 1), 1);
    OK(kill(pid, SIGTERM)); // no handler: still there
    nap_ms(50);
    EQ(waitpid(pid, NULL, WNOHANG), 0);
    OK(kill(pid, SIGKILL));
    DIES(pid, SIGKILL);
}

CASE(pid_signal_from_outside_has_no_sender) {
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) {
        sigset_t s;
        siginfo_t si;
        sigemptyset(&s);
        sigaddset(&s, SIGUSR1);
        sigprocmask(SIG_BLOCK, &s, NULL);
        EQ(sigwaitinfo(&s, &si), SIGUSR1);
        EQ(si.si_code, SI_USER);
        EQ(si.si_pid, 0);
        _exit(0);
    }
    for (int i = 0; i < 50; i++) { nap_ms(20); if (waitpid(pid, NULL, WNOHANG | WNOWAIT) == pid) break; kill(pid, SIGUSR1); }
    EXITS(pid, 0);
}

CASE(pid_end_of_the_first_kills_all) {
    int p[2];
    OK(pipe(p));
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) {
        close(p[0]);
        for (int i = 0; i < 5; i++) if (!OK(fork())) { setsid(); if (!fork()) for (;;) pause(); for (;;) pause(); }
        _exit(3);
    }
    close(p[1]);
    EXITS(pid, 3);
    char c;
    struct pollfd f = {p[0], POLLIN, 0};
    EQ(poll(&f, 1, 0), 1); // all writers are gone when it has been waited for
    EQ(read(p[0], &c, 1), 0);
}

CASE(pid_orphans_go_to_the_first) {
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) {
        pid_t middle = OK(fork());
        if (!middle) {
            if (!OK(fork())) { while (getppid() != 1) usleep(1000); _exit(9); }
            _exit(0);
        }
        EXITS(middle, 0);
        int st;
        pid_t orphan = OK(wait(&st));
        EQ(orphan, 3);
        EQ(WEXITSTATUS(st), 9);
        _exit(0);
    }
    EXITS(pid, 0);
}

CASE(pid_child_status_has_outer_number) {
    sigset_t s;
    siginfo_t si;
    sigemptyset(&s);
    sigaddset(&s, SIGCHLD);
    sigprocmask(SIG_BLOCK, &s, NULL);
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) _exit(4);
    EQ(sigwaitinfo(&s, &si), SIGCHLD);
    EQ(si.si_pid, pid);
    OK(waitid(P_PID, pid, &si, WEXITED));
    EQ(si.si_pid, pid);
}

CASE(pid_credentials_are_translated) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    int on = 1;
    OK(setsockopt(s[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) { EQ(write(s[1], "x", 1), 1); _exit(0); }
    EXITS(pid, 0);
    char c, control[128];
    struct iovec v = {&c, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    EQ(recvmsg(s[0], &m, 0), 1);
    struct ucred *u = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m));
    EQ(CMSG_FIRSTHDR(&m)->cmsg_type, SCM_CREDENTIALS);
    CHECK(u->pid == pid || u->pid == 0); // it has been waited for
}

CASE(pid_kill_all_stays_inside) {
    pid_t outside = OK(fork());
    if (!outside) for (;;) pause();
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) {
        pid_t child = OK(fork());
        if (!child) for (;;) pause();
        OK(kill(-1, SIGTERM));
        DIES(child, SIGTERM);
        ERR(kill(-1, SIGTERM), ESRCH);
        ERR(kill(outside, 0), ESRCH);
        ERR(kill(4000, 0), ESRCH);
        _exit(0);
    }
    EXITS(pid, 0);
    EQ(waitpid(outside, NULL, WNOHANG), 0);
    kill(outside, SIGKILL);
    DIES(outside, SIGKILL);
}

CASE(pid_nested_twice) {
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) {
        pid_t inner = clone_into(CLONE_NEWPID);
        if (!inner) { EQ(getpid(), 1); pid_t c = OK(fork()); if (!c) _exit(0); EQ(c, 2); EXITS(c, 0); _exit(0); }
        EQ(inner, 2);
        EXITS(inner, 0);
        pid_t next = OK(fork());
        if (!next) _exit(0);
        EQ(next, 4); // 3 was the inner child
        EXITS(next, 0);
        _exit(0);
    }
    EXITS(pid, 0);
}

CASE(pid_threads_and_tids) {
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) {
        static pid_t seen;
        void *run(void *a) { seen = gettid(); return a; }
        pthread_t t;
        pthread_create(&t, NULL, run, NULL);
        pthread_join(t, NULL);
        EQ(seen, 2);
        for (int i = 0; i < 1000 && syscall(SYS_tgkill, 1, 2, 0) == 0; i++) usleep(1000); // it is joined before it is gone
        ERR(syscall(SYS_tgkill, 1, 2, 0), ESRCH);
        OK(syscall(SYS_tgkill, 1, 1, 0));
        _exit(0);
    }
    EXITS(pid, 0);
}

CASE(pid_proc_of_the_namespace) {
    pid_t pid = clone_into(CLONE_NEWPID);
    char path[64], want[64];
    if (!pid) { for (;;) pause(); }
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    snprintf(want, sizeof want, "NSpid:\t%d\t1\n", pid);
    CHECK(strstr(slurp(path), want));
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}

CASE(pid_setns_down_only) {
    pid_t pid = clone_into(CLONE_NEWPID);
    if (!pid) for (;;) pause();
    char who[16];
    snprintf(who, sizeof who, "%d", pid);
    int down = open_ns(who, "pid"), here = open_ns("self", "pid");
    IN_CHILD(OK(setns(down, CLONE_NEWPID)); pid_t c = OK(fork()); if (!c) { EQ(getpid(), 2); EQ(getppid(), 0); ERR(setns(here, 0), EINVAL); _exit(0); } EXITS(c, 0);
             OK(setns(here, 0)); c = OK(fork()); if (!c) _exit(getpid() > 2 ? 0 : 1); EXITS(c, 0));
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}

CASE(pid_set_tid_in_each_level) {
    struct { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; } a = {.exit_signal = SIGCHLD};
    pid_t tids[3] = {1, 31234, 5};
    a.flags = CLONE_NEWPID;
    a.set_tid = (uintptr_t)tids;
    a.set_tid_size = 2;
    pid_t pid = OK(syscall(SYS_clone3, &a, sizeof a));
    if (!pid) _exit(getpid() == 1 ? 0 : 1);
    EQ(pid, 31234);
    EXITS(pid, 0);
    tids[0] = 2; // the first must be 1
    ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
    a.set_tid_size = 33;
    ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
    a.set_tid_size = 0;
    ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
    a.flags = 0;
    a.set_tid_size = 1;
    tids[0] = getpid();
    ERR(syscall(SYS_clone3, &a, sizeof a), EEXIST);
    tids[0] = 0;
    ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
    a.set_tid = (uintptr_t)BAD;
    ERR(syscall(SYS_clone3, &a, sizeof a), EFAULT);
    tids[0] = 31235;
    a.set_tid = (uintptr_t)tids;
    IN_CHILD(OK(setresuid(1000, 1000, 1000)); ERR(syscall(SYS_clone3, &a, sizeof a), EPERM));
}
CASE(tmpfs_belongs_to_who_mounts_it) {
    OK(chmod(".", 0777));
    IN_CHILD({
        OK(setresgid(1000, 1000, 1000));
        OK(setresuid(1000, 1000, 1000));
        OK(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
        OK(unshare(CLONE_NEWUSER | CLONE_NEWNS));
        write_to("/proc/self/uid_map", "7 1000 1");
        write_to("/proc/self/setgroups", "deny");
        write_to("/proc/self/gid_map", "8 1000 1");
        OK(mkdir("mine", 0700));
        OK(mount("none", "mine", "tmpfs", 0, "mode=0755"));
        struct stat st;
        OK(stat("mine", &st));
        EQ(st.st_uid, 7);
        EQ(st.st_gid, 8);
        close(OK(creat("mine/file", 0600)));
        OK(mount("none", "mine", "tmpfs", 0, "mode=0700,uid=7,gid=8"));
        close(OK(creat("mine/file", 0600)));
        ERR(mount("none", "mine", "tmpfs", 0, "uid=1000"), EINVAL);
    });
}
