// credentials: user and group ids, capabilities, no_new_privs, resource limits, prctl.
#define ABI_PROGRAM
#include "abi.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>

int special(int argc, char **argv) {
    const char *what = argv[1] + 1;
    (void)argc;
    if (!strcmp(what, "ids")) { // @ids UID EUID
        uid_t r, e, s;
        getresuid(&r, &e, &s);
        if (r != (uid_t)atoi(argv[2])) _exit(10);
        if (e != (uid_t)atoi(argv[3]) || s != e) _exit(11);
        _exit(getauxval(AT_SECURE) == (r != e) ? 0 : 12);
    }
    if (!strcmp(what, "nocaps")) {
        struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct d[2];
        if (syscall(SYS_capget, &h, d) < 0) _exit(10);
        _exit(d[0].effective || d[0].permitted ? 11 : 0);
    }
    if (!strcmp(what, "hascap")) { // @hascap N: N effective
        struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct d[2];
        syscall(SYS_capget, &h, d);
        _exit(d[0].effective & (1u << atoi(argv[2])) ? 0 : 11);
    }
    if (!strcmp(what, "nnp")) _exit(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 10);
    if (!strcmp(what, "dumpable")) _exit(prctl(PR_GET_DUMPABLE) == 1 ? 0 : 10);
    _exit(99);
}
static void exec_self(const char *path, const char *a, const char *b, const char *c) {
    execl(path, path, a, b, c, NULL);
    FAILED("exec %s: errno %d", path, errno);
}
static void copy_self(const char *to, mode_t mode) {
    int in = OK(open(abi_self, O_RDONLY)), out = OK(open(to, O_WRONLY | O_CREAT, 0755));
    static char b[65536];
    ssize_t n;
    while ((n = read(in, b, sizeof b)) > 0) EQ(write(out, b, n), n);
    close(in);
    OK(fchown(out, 0, 0));
    OK(fchmod(out, mode));
    close(out);
}
static struct __user_cap_data_struct caps[2];
static void read_caps(void) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    OK(syscall(SYS_capget, &h, caps));
}
static int write_caps(void) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    return syscall(SYS_capset, &h, caps);
}
#define IDS(r, e, s)                                                                                                   \
    do {                                                                                                               \
        uid_t abi_u[3];                                                                                                \
        OK(getresuid(&abi_u[0], &abi_u[1], &abi_u[2]));                                                                \
        EQ(abi_u[0], r);                                                                                               \
        EQ(abi_u[1], e);                                                                                               \
        EQ(abi_u[2], s);                                                                                               \
    } while (0)

CASE(setuid_of_root_sets_all) { IN_CHILD(OK(setuid(1000)); IDS(1000, 1000, 1000); ERR(setuid(0), EPERM); ERR(setuid(1001), EPERM); OK(setuid(1000))); }
CASE(seteuid_and_back) { IN_CHILD(OK(seteuid(1000)); IDS(0, 1000, 0); ERR(seteuid(5), EPERM); OK(seteuid(0)); IDS(0, 0, 0)); }
CASE(setreuid_rules) { IN_CHILD(OK(setreuid(1000, 2000)); IDS(1000, 2000, 2000); ERR(setreuid(-1, 3000), EPERM); OK(setreuid(2000, 1000)); IDS(2000, 1000, 1000)); }
CASE(setresuid_rules) {
    IN_CHILD(OK(setresuid(1, 2, 3)); IDS(1, 2, 3); OK(setresuid(-1, 3, -1)); IDS(1, 3, 3); ERR(setresuid(2, -1, -1), EPERM);
             OK(setresuid(3, 1, 3)); IDS(3, 1, 3));
    ERR(syscall(SYS_getresuid, BAD, BAD, BAD), EFAULT);
}
CASE(setgid_rules) {
    IN_CHILD(OK(setresgid(1, 2, 3)); gid_t a; gid_t b; gid_t c; OK(getresgid(&a, &b, &c)); CHECK(a == 1 && b == 2 && c == 3);
             OK(setuid(1000)); ERR(setgid(77), EPERM); OK(setgid(3)); EQ(getegid(), 3); ERR(setregid(9, 9), EPERM));
}
CASE(setgroups_getgroups) {
    gid_t g[3] = {5, 6, 7}, got[8];
    IN_CHILD(OK(setgroups(3, g)); EQ(getgroups(0, NULL), 3); EQ(getgroups(8, got), 3); CHECK(got[0] == 5 && got[2] == 7);
             ERR(getgroups(2, got), EINVAL); ERR(syscall(SYS_setgroups, 70000L, g), EINVAL); ERR(syscall(SYS_setgroups, 3L, BAD), EFAULT);
             ERR(syscall(SYS_getgroups, 3L, BAD), EFAULT); OK(setuid(1000)); ERR(setgroups(3, g), EPERM); EQ(getgroups(8, got), 3));
}
CASE(setfsuid_returns_old) { IN_CHILD(EQ(setfsuid(1000), 0); EQ(setfsuid(-1), 1000); OK(setuid(5)); EQ(setfsuid(-1), 5); EQ(setfsuid(1000), 5); EQ(setfsuid(-1), 5)); }
CASE(ids_are_inherited_by_fork_and_exec) { IN_CHILD(OK(setresuid(1, 2, 3)); OK(access(abi_self, F_OK)); exec_self(abi_self, "@ids", "1", "2")); }

CASE(setuid_to_user_drops_capabilities) {
    IN_CHILD(OK(setuid(1000)); read_caps(); EQ(caps[0].effective | caps[0].permitted | caps[1].effective, 0));
    IN_CHILD(OK(seteuid(1000)); read_caps(); EQ(caps[0].effective, 0); CHECK(caps[0].permitted); OK(seteuid(0)); read_caps(); CHECK(caps[0].effective));
    IN_CHILD(OK(prctl(PR_SET_KEEPCAPS, 1)); OK(setuid(1000)); read_caps(); EQ(caps[0].effective, 0); CHECK(caps[0].permitted);
             exec_self(abi_self, "@nocaps", NULL, NULL));
}
CASE(capset_only_drops) {
    IN_CHILD(read_caps(); caps[0].effective &= ~(1u << CAP_CHOWN); OK(write_caps()); read_caps(); CHECK(!(caps[0].effective & (1u << CAP_CHOWN)));
             close(file_with("f", "")); ERR(chown("f", 5, 5), EPERM); caps[0].effective |= 1u << CAP_CHOWN; OK(write_caps()); OK(chown("f", 5, 5));
             caps[0].effective &= ~(1u << CAP_CHOWN); caps[0].permitted &= ~(1u << CAP_CHOWN); OK(write_caps());
             caps[0].permitted |= 1u << CAP_CHOWN; ERR(write_caps(), EPERM));
}
CASE(capget_versions_and_errors) {
    struct __user_cap_header_struct h = {0, 0};
    ERR(syscall(SYS_capget, &h, caps), EINVAL);
    EQ(h.version, _LINUX_CAPABILITY_VERSION_3);
    h.version = _LINUX_CAPABILITY_VERSION_3;
    h.pid = 99999999;
    ERR(syscall(SYS_capget, &h, caps), ESRCH);
    h.pid = -1;
    ERR(syscall(SYS_capget, &h, caps), EINVAL);
    h.pid = 0;
    ERR(syscall(SYS_capget, &h, BAD), EFAULT);
    ERR(syscall(SYS_capget, BAD, caps), EFAULT);
    IN_CHILD(h.pid = getppid(); ERR(syscall(SYS_capset, &h, caps), EPERM));
}
CASE(bounding_set) {
    EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
    ERR(prctl(PR_CAPBSET_READ, 200), EINVAL);
    IN_CHILD(OK(prctl(PR_CAPBSET_DROP, CAP_CHOWN)); EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 0));
    pid_t pid = OK(fork());
    if (!pid) { OK(prctl(PR_CAPBSET_DROP, CAP_CHOWN)); exec_self(abi_self, "@hascap", "0", NULL); }
    EXITS(pid, 11); // CAP_CHOWN is 0: gone over exec
    IN_CHILD(OK(setuid(1000)); ERR(prctl(PR_CAPBSET_DROP, CAP_CHOWN), EPERM));
}
CASE(ambient_capabilities) {
    IN_CHILD(read_caps(); caps[0].inheritable |= 1u << CAP_CHOWN; OK(write_caps()); OK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
             EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 1); OK(prctl(PR_SET_KEEPCAPS, 1)); OK(setuid(1000));
             exec_self(abi_self, "@nocaps", NULL, NULL)); // leaving root clears ambient
    IN_CHILD(OK(prctl(PR_SET_KEEPCAPS, 1)); OK(setuid(1000)); read_caps(); caps[0].inheritable |= 1u << CAP_CHOWN; OK(write_caps());
             OK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0)); exec_self(abi_self, "@hascap", "0", NULL));
    ERR(prctl(PR_CAP_AMBIENT, 99, 0, 0, 0), EINVAL);
    ERR(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0), EPERM); // not inheritable
}
CASE(securebits) {
    EQ(prctl(PR_GET_SECUREBITS), 0);
    IN_CHILD(OK(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)); OK(setuid(1000)); read_caps(); CHECK(caps[0].effective));
    IN_CHILD(OK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT)); exec_self(abi_self, "@nocaps", NULL, NULL));
}

CASE(setuid_program) {
    copy_self("su", 04755);
    pid_t pid = OK(fork());
    if (!pid) { OK(setgid(1000)); OK(setuid(1000)); exec_self("./su", "@ids", "1000", "0"); }
    EXITS(pid, 0);
}
CASE(no_new_privs) {
    EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
    copy_self("su", 04755);
    IN_CHILD(OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); OK(setuid(1000)); exec_self("./su", "@ids", "1000", "1000"));
    IN_CHILD(OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); ERR(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL); exec_self(abi_self, "@nnp", NULL, NULL));
    ERR(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0), EINVAL);
}
CASE(setuid_script_is_not_honoured) {
    char text[PATH_MAX + 32];
    snprintf(text, sizeof text, "#!%s @nocaps\n", abi_self);
    close(file_with("s", text));
    OK(chmod("s", 04755));
    IN_CHILD(OK(setuid(1000)); exec_self("./s", NULL, NULL, NULL));
}

CASE(rlimits) {
    struct rlimit rl, old;
    OK(getrlimit(RLIMIT_NOFILE, &old));
    rl = (struct rlimit){100, old.rlim_max};
    OK(setrlimit(RLIMIT_NOFILE, &rl));
    OK(getrlimit(RLIMIT_NOFILE, &rl));
    EQ(rl.rlim_cur, 100);
    rl = (struct rlimit){200, 100};
    ERR(setrlimit(RLIMIT_NOFILE, &rl), EINVAL);
    ERR(getrlimit((__rlimit_resource_t)99, &rl), EINVAL);
    ERR(syscall(SYS_getrlimit, RLIMIT_NOFILE, BAD), EFAULT);
    ERR(syscall(SYS_setrlimit, RLIMIT_NOFILE, BAD), EFAULT);
    IN_CHILD(OK(setuid(1000)); rl = (struct rlimit){50, 50}; OK(setrlimit(RLIMIT_NOFILE, &rl)); rl = (struct rlimit){50, 51}; ERR(setrlimit(RLIMIT_NOFILE, &rl), EPERM));
    IN_CHILD(OK(getrlimit(RLIMIT_NOFILE, &rl)); EQ(rl.rlim_cur, 100));
}
CASE(prlimit_of_child) {
    pid_t pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    struct rlimit rl = {7, 8}, old;
    OK(prlimit(pid, RLIMIT_CORE, &rl, &old));
    OK(prlimit(pid, RLIMIT_CORE, NULL, &old));
    CHECK(old.rlim_cur == 7 && old.rlim_max == 8);
    ERR(prlimit(99999999, RLIMIT_CORE, NULL, &old), ESRCH);
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
    IN_CHILD(OK(setuid(1000)); ERR(prlimit(getppid(), RLIMIT_CORE, NULL, &old), EPERM));
}
CASE(rlimit_nproc) {
    IN_CHILD(struct rlimit rl = {3, 3}; OK(setrlimit(RLIMIT_NPROC, &rl)); OK(setuid(54321)); int n = 0;
             for (; n < 10; n++) { pid_t p = fork(); if (p < 0) break; if (!p) { pause(); _exit(0); } } EQ(errno, EAGAIN); EQ(n, 2));
}

CASE(prctl_name) {
    char n[17] = {0};
    OK(prctl(PR_SET_NAME, "a-much-longer-name-than-fits"));
    OK(prctl(PR_GET_NAME, n));
    CHECK(!strcmp(n, "a-much-longer-n"));
    ERR(prctl(PR_SET_NAME, BAD), EFAULT);
    ERR(prctl(PR_GET_NAME, BAD), EFAULT);
}
CASE(prctl_misc) {
    EQ(prctl(PR_GET_DUMPABLE), 1);
    OK(prctl(PR_SET_DUMPABLE, 0));
    EQ(prctl(PR_GET_DUMPABLE), 0);
    ERR(prctl(PR_SET_DUMPABLE, 7), EINVAL);
    ERR(prctl(PR_SET_PDEATHSIG, 999), EINVAL);
    ERR(prctl(12345), EINVAL);
    EQ(prctl(PR_GET_KEEPCAPS), 0);
    ERR(prctl(PR_SET_KEEPCAPS, 5), EINVAL);
    EQ(prctl(PR_GET_TIMERSLACK), 50000);
    OK(prctl(PR_SET_TIMERSLACK, 1000));
    EQ(prctl(PR_GET_TIMERSLACK), 1000);
    EQ(prctl(PR_GET_SECCOMP), 0);
    EQ(prctl(PR_GET_TSC, &(int){0}), 0);
    IN_CHILD(exec_self(abi_self, "@dumpable", NULL, NULL));
}
CASE(kill_permission_follows_real_and_saved_ids) {
    pid_t pid = OK(fork());
    if (!pid) { OK(setuid(1000)); for (;;) pause(); }
    nap_ms(30);
    IN_CHILD(OK(setuid(1001)); ERR(kill(pid, SIGTERM), EPERM));
    IN_CHILD(OK(setresuid(1000, 1001, 1001)); OK(kill(pid, SIGTERM)));
    DIES(pid, SIGTERM);
}
CASE(personality) {
    EQ(syscall(SYS_personality, 0xffffffffL), 0);
}
