// process: fork, vfork, clone, clone3, exec, exit, wait, process groups, sessions.
#define ABI_PROGRAM
#include "abi.h"
#include <linux/sched.h>
#include <sys/auxv.h>
#include <sys/personality.h>

// What this program does when a case executes it again.
int special(int argc, char **argv) {
    const char *what = argv[1] + 1;
    if (!strncmp(what, "exit", 4)) _exit(atoi(what + 4));
    if (!strcmp(what, "args")) { // @args N: exits with 0 if argc is N and the environment is exactly A=1 B=2
        extern char **environ;
        if (argc != atoi(argv[2])) _exit(10);
        if (!environ[0] || strcmp(environ[0], "A=1") || !environ[1] || strcmp(environ[1], "B=2") || environ[2]) _exit(11);
        _exit(0);
    }
    if (!strcmp(what, "signals")) { // caught signals are reset, ignored ones and the mask stay
        struct sigaction sa;
        sigset_t mask;
        sigaction(SIGUSR1, NULL, &sa);
        if (sa.sa_handler != SIG_DFL) _exit(10);
        sigaction(SIGUSR2, NULL, &sa);
        if (sa.sa_handler != SIG_IGN) _exit(11);
        sigprocmask(SIG_BLOCK, NULL, &mask);
        if (!sigismember(&mask, SIGHUP) || sigismember(&mask, SIGTERM)) _exit(12);
        stack_t ss;
        sigaltstack(NULL, &ss);
        if (!(ss.ss_flags & SS_DISABLE)) _exit(13);
        sigset_t pending;
        sigpending(&pending);
        _exit(sigismember(&pending, SIGHUP) ? 0 : 14);
    }
    if (!strcmp(what, "fds")) { // @fds OPEN CLOSED
        if (fcntl(atoi(argv[2]), F_GETFD) != 0) _exit(10);
        if (fcntl(atoi(argv[3]), F_GETFD) != -1 || errno != EBADF) _exit(11);
        _exit(0);
    }
    if (!strcmp(what, "pid")) _exit(getpid() == atoi(argv[2]) && gettid() == getpid() ? 0 : 10); // @pid PID
    if (!strcmp(what, "name")) { // @name COMM
        char comm[16];
        prctl(PR_GET_NAME, comm);
        _exit(strcmp(comm, argv[2]) ? 10 : 0);
    }
    if (!strcmp(what, "cat")) { // @cat PATH
        char b[64];
        int fd = open(argv[2], O_RDONLY);
        ssize_t n = read(fd, b, sizeof b);
        _exit(write(1, b, n) == n ? 0 : 10);
    }
    if (!strcmp(what, "places")) { // writes where stack, heap and mappings are
        unsigned long here[3] = {(unsigned long)&argc, (unsigned long)sbrk(0), (unsigned long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
        _exit(write(1, here, sizeof here) == sizeof here ? 0 : 10);
    }
    if (!strcmp(what, "auxv")) {
        if (getauxval(AT_PAGESZ) != 4096) _exit(10);
        if (!getauxval(AT_RANDOM) || !getauxval(AT_PHDR) || !getauxval(AT_ENTRY)) _exit(11);
        if (getauxval(AT_UID) != getuid() || getauxval(AT_SECURE)) _exit(12);
        if (!getauxval(AT_EXECFN) || strcmp((char *)getauxval(AT_EXECFN), argv[2])) _exit(13);
        if (getauxval(AT_CLKTCK) != 100) _exit(14);
        _exit(0);
    }
    _exit(99);
}

static void self(char *const argv[]) {
    execv(abi_self, argv);
    FAILED("execv %s: errno %d", abi_self, errno);
}
#define SELF(...) self((char *[]){abi_self, __VA_ARGS__, NULL})
#define SELF_IN_CHILD(code, ...)                                                                                       \
    do {                                                                                                               \
        pid_t abi_p = OK(fork());                                                                                      \
        if (!abi_p) SELF(__VA_ARGS__);                                                                                 \
        EXITS(abi_p, code);                                                                                            \
    } while (0)

CASE(fork_returns_twice) {
    pid_t me = getpid(), pid = OK(fork());
    if (!pid) _exit(getppid() == me && getpid() != me ? 7 : 1);
    EXITS(pid, 7);
}

CASE(fork_memory_is_private) {
    volatile int x = 1;
    IN_CHILD(x = 2; CHECK(x == 2));
    EQ(x, 1);
}

CASE(fork_shares_file_offset) {
    int fd = file_with("f", "abcdef");
    IN_CHILD(char b[2]; EQ(read(fd, b, 2), 2));
    EQ(lseek(fd, 0, SEEK_CUR), 2);
}

CASE(fork_closes_independently) {
    int fd = file_with("f", "a");
    IN_CHILD(OK(close(fd)));
    OK(fcntl(fd, F_GETFD));
}

CASE(fork_clears_pending_and_timers) {
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    OK(sigprocmask(SIG_BLOCK, &set, NULL));
    OK(raise(SIGUSR1));
    alarm(100);
    IN_CHILD(OK(sigpending(&pending)); CHECK(!sigismember(&pending, SIGUSR1)); EQ(alarm(0), 0));
    OK(sigpending(&pending));
    CHECK(sigismember(&pending, SIGUSR1));
    CHECK(alarm(0) > 90);
}

CASE(fork_many) {
    for (int i = 0; i < 50; i++) {
        pid_t pid = OK(fork());
        if (!pid) _exit(i);
        EXITS(pid, i);
    }
}

CASE(fork_tree) {
    IN_CHILD(IN_CHILD(IN_CHILD(CHECK(1))));
}

CASE(vfork_shares_memory_and_blocks) {
    volatile int x = 0;
    pid_t pid = vfork();
    if (!pid) {
        usleep(20000);
        x = 5;
        _exit(3);
    }
    EQ(x, 5);
    EXITS(pid, 3);
}

CASE(vfork_exec) {
    char *argv[] = {abi_self, "@exit9", NULL};
    pid_t pid = vfork();
    if (!pid) {
        execv(abi_self, argv);
        _exit(1);
    }
    EXITS(pid, 9);
}

CASE(vfork_child_killed_releases_parent) {
    pid_t pid = vfork();
    if (!pid) {
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        _exit(1);
    }
    DIES(pid, SIGKILL);
}

static int clone_fn(void *arg) {
    *(volatile int *)arg = getpid();
    return 4;
}
static char clone_stack[65536] __attribute__((aligned(16)));

CASE(clone_vm_child_is_a_process) {
    volatile int pid_seen = 0;
    pid_t pid = OK(clone(clone_fn, clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, (void *)&pid_seen));
    EXITS(pid, 4);
    EQ(pid_seen, pid);
}

CASE(clone_parent_and_child_tid) {
    int ptid = 0;
    static volatile int ctid;
    pid_t pid = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &ptid, &ctid, 0);
    if (!pid) _exit(ctid == getpid() ? 0 : 1);
    EQ(ptid, pid);
    EXITS(pid, 0);
    EQ(ctid, 0);
}

CASE(clone_files_shares_table) {
    int fd = file_with("f", "a");
    pid_t pid = OK(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0));
    if (!pid) { close(fd); _exit(0); }
    EXITS(pid, 0);
    ERR(fcntl(fd, F_GETFD), EBADF);
}

CASE(clone_fs_shares_cwd_and_umask) {
    OK(mkdir("sub", 0755));
    char before[PATH_MAX], after[PATH_MAX];
    CHECK(getcwd(before, sizeof before));
    pid_t pid = OK(syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0));
    if (!pid) { umask(077); _exit(chdir("sub") ? 1 : 0); }
    EXITS(pid, 0);
    CHECK(getcwd(after, sizeof after));
    strcat(before, "/sub");
    CHECK(!strcmp(before, after));
    EQ(umask(0), 077);
}

CASE(clone_no_exit_signal_needs_wclone) {
    pid_t pid = OK(syscall(SYS_clone, 0, 0, 0, 0, 0));
    if (!pid) _exit(6);
    ERR(waitpid(pid, NULL, 0), ECHILD);
    int st;
    EQ(waitpid(pid, &st, __WCLONE), pid);
    EQ(WEXITSTATUS(st), 6);
}

CASE(clone_flags_einval) {
    ERR(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0), EINVAL);
    ERR(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0), EINVAL);
    ERR(syscall(SYS_clone, CLONE_FS | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0), EINVAL);
}

CASE(clone_parent_makes_sibling) {
    pid_t grand = getppid();
    IN_CHILD(pid_t me = getpid(); pid_t sib = OK(syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0));
             if (!sib) _exit(getppid() == me ? 1 : 5);
             ERR(waitpid(sib, NULL, 0), ECHILD));
    int st;
    CHECK(wait(&st) > 0);
    EQ(WEXITSTATUS(st), 5);
    (void)grand;
}

CASE(clone3_basic) {
    struct clone_args a = {.exit_signal = SIGCHLD};
    pid_t pid = OK(syscall(SYS_clone3, &a, sizeof a));
    if (!pid) _exit(8);
    EXITS(pid, 8);
}

CASE(clone3_pidfd) {
    int fd = -1;
    struct clone_args a = {.exit_signal = SIGCHLD, .flags = CLONE_PIDFD, .pidfd = (uintptr_t)&fd};
    pid_t pid = OK(syscall(SYS_clone3, &a, sizeof a));
    if (!pid) _exit(2);
    CHECK(fd >= 0);
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    siginfo_t si;
    OK(waitid(P_PIDFD, fd, &si, WEXITED));
    EQ(si.si_pid, pid);
    EQ(si.si_status, 2);
}

CASE(clone3_errors) {
    struct clone_args a = {.exit_signal = SIGCHLD};
    ERR(syscall(SYS_clone3, &a, 8), EINVAL);
    ERR(syscall(SYS_clone3, BAD, sizeof a), EFAULT);
    a.exit_signal = 200;
    ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
    struct { struct clone_args a; uint64_t more; } big = {.a = {.exit_signal = SIGCHLD}, .more = 1};
    ERR(syscall(SYS_clone3, &big, sizeof big), E2BIG);
}

CASE(execve_args_env) {
    char *argv[] = {abi_self, "@args", "3", NULL}, *envp[] = {"A=1", "B=2", NULL};
    pid_t pid = OK(fork());
    if (!pid) { execve(abi_self, argv, envp); FAILED("execve: %d", errno); }
    EXITS(pid, 0);
}

CASE(execve_signals_kept_and_reset) {
    IN_CHILD(handle(SIGUSR1, 0); signal(SIGUSR2, SIG_IGN); sigset_t s; sigemptyset(&s); sigaddset(&s, SIGHUP);
             OK(sigprocmask(SIG_BLOCK, &s, NULL)); OK(raise(SIGHUP)); SELF("@signals"));
}

CASE(execve_cloexec) {
    int keep = file_with("a", ""), shut = OK(open("a", O_RDONLY | O_CLOEXEC));
    char k[12], s[12];
    sprintf(k, "%d", keep);
    sprintf(s, "%d", shut);
    SELF_IN_CHILD(0, "@fds", k, s);
}

CASE(execve_keeps_pid) {
    IN_CHILD(char pid[12]; sprintf(pid, "%d", getpid()); SELF("@pid", pid));
}

static char exec_pid[12];
static void *exec_thread(void *arg) {
    (void)arg;
    SELF("@pid", exec_pid);
    return NULL;
}
CASE(execve_from_thread_takes_leaders_pid) {
    IN_CHILD(sprintf(exec_pid, "%d", getpid()); pthread_t t; pthread_create(&t, NULL, exec_thread, NULL); pause());
}

CASE(execve_sets_name) {
    OK(symlink(abi_self, "a-name-longer-than-fifteen"));
    pid_t pid = OK(fork());
    char *argv[] = {"x", "@name", "a-name-longer-t", NULL};
    if (!pid) { execv("a-name-longer-than-fifteen", argv); FAILED("execv: %d", errno); }
    EXITS(pid, 0);
}

CASE(execve_auxv) {
    SELF_IN_CHILD(0, "@auxv", abi_self);
}

CASE(execve_script) {
    char script[PATH_MAX + 32], buf[64];
    snprintf(script, sizeof script, "#! %s @cat\nhello\n", abi_self);
    int p[2];
    close(file_with("script", script));
    OK(chmod("script", 0755));
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) { dup2(p[1], 1); execl("./script", "ignored", "extra", NULL); _exit(1); }
    EXITS(pid, 0);
    ssize_t n = read(p[0], buf, sizeof buf);
    CHECK(n > 3 && !memcmp(buf, "#! ", 3));
}

CASE(execve_script_loop) {
    char script[64];
    for (int i = 0; i < 7; i++) { // s0 <- s1 <- ...: too deep in the end
        char name[8];
        sprintf(name, "s%d", i);
        if (i == 0) snprintf(script, sizeof script, "#!./s0\n");
        else snprintf(script, sizeof script, "#!./s%d\n", i - 1);
        close(file_with(name, script));
        OK(chmod(name, 0755));
    }
    ERR(execl("./s0", "s0", NULL), ELOOP);
    ERR(execl("./s6", "s6", NULL), ELOOP);
}

CASE(execve_errors) {
    char *argv[] = {"x", NULL}, *envp[] = {NULL};
    close(file_with("text", "not a program"));
    ERR(execve("text", argv, envp), EACCES);
    OK(chmod("text", 0755));
    ERR(execve("text", argv, envp), ENOEXEC);
    ERR(execve("missing", argv, envp), ENOENT);
    ERR(execve("text/x", argv, envp), ENOTDIR);
    ERR(execve("/", argv, envp), EACCES);
    close(file_with("script", "#!/no/such/interpreter\n"));
    OK(chmod("script", 0755));
    ERR(execve("script", argv, envp), ENOENT);
    close(file_with("empty", ""));
    OK(chmod("empty", 0755));
    ERR(execve("empty", argv, envp), ENOEXEC);
    char name[5000];
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = 0;
    ERR(execve(name, argv, envp), ENAMETOOLONG);
    name[300] = 0;
    ERR(execve(name, argv, envp), ENAMETOOLONG);
}

CASE(execve_efault) {
    char *argv[] = {"x", NULL}, *badv[] = {BAD, NULL};
    ERR(syscall(SYS_execve, BAD, argv, argv), EFAULT);
    ERR(syscall(SYS_execve, abi_self, BAD, argv), EFAULT);
    ERR(syscall(SYS_execve, abi_self, badv, argv), EFAULT);
    ERR(syscall(SYS_execve, abi_self, argv, badv), EFAULT);
}

CASE(execve_e2big) {
    size_t n = 200000; // one string may have 128 KiB
    char *big = malloc(n);
    memset(big, 'x', n);
    big[n - 1] = 0;
    char *argv[] = {"x", big, NULL}, *envp[] = {NULL};
    ERR(execve(abi_self, argv, envp), E2BIG);
}

CASE(execve_large_args) {
    enum { N = 1000 };
    static char *argv[N + 4];
    char *s = malloc(1001);
    memset(s, 'y', 1000);
    s[1000] = 0;
    argv[0] = abi_self;
    argv[1] = "@exit42";
    for (int i = 2; i < N; i++) argv[i] = s;
    pid_t pid = OK(fork());
    if (!pid) { execv(abi_self, argv); FAILED("execv: %d", errno); }
    EXITS(pid, 42);
}

CASE(execveat_forms) {
    int fd = OK(open(abi_self, O_PATH));
    char *argv[] = {"x", "@exit5", NULL}, *envp[] = {NULL};
    pid_t pid = OK(fork());
    if (!pid) { syscall(SYS_execveat, fd, "", argv, envp, AT_EMPTY_PATH); FAILED("execveat: %d", errno); }
    EXITS(pid, 5);
    OK(symlink(abi_self, "l"));
    int dir = OK(open(".", O_RDONLY | O_DIRECTORY));
    pid = OK(fork());
    if (!pid) { syscall(SYS_execveat, dir, "l", argv, envp, 0); FAILED("execveat: %d", errno); }
    EXITS(pid, 5);
    ERR(syscall(SYS_execveat, dir, "l", argv, envp, AT_SYMLINK_NOFOLLOW), ELOOP);
    ERR(syscall(SYS_execveat, -5, "l", argv, envp, 0), EBADF);
    ERR(syscall(SYS_execveat, dir, "l", argv, envp, 0x10), EINVAL);
}

CASE(exit_code_is_a_byte) {
    pid_t pid = OK(fork());
    if (!pid) _exit(0x1ff);
    EXITS(pid, 255);
}

static void *sleeping_thread(void *arg) { pause(); return arg; }
static void *exiting_thread(void *arg) { syscall(SYS_exit_group, 17); return arg; }
CASE(exit_group_ends_all_threads) {
    pid_t pid = OK(fork());
    if (!pid) {
        pthread_t t;
        pthread_create(&t, NULL, sleeping_thread, NULL);
        pthread_create(&t, NULL, exiting_thread, NULL);
        for (;;) pause();
    }
    EXITS(pid, 17);
}

static void *late_exit(void *arg) { nap_ms(50); syscall(SYS_exit_group, 23); return arg; }
CASE(exit_of_leader_leaves_threads) {
    pid_t pid = OK(fork());
    if (!pid) {
        pthread_t t;
        pthread_create(&t, NULL, late_exit, NULL);
        syscall(SYS_exit, 0);
    }
    EXITS(pid, 23);
}

CASE(wait_errors) {
    ERR(wait(NULL), ECHILD);
    ERR(waitpid(getpid(), NULL, 0), ECHILD);
    ERR(waitpid(-1, NULL, 0x40000), EINVAL);
    ERR(waitpid(INT_MIN, NULL, 0), ESRCH);
    siginfo_t si;
    ERR(waitid(P_ALL, 0, &si, 0), EINVAL);
    ERR(waitid(P_PID, 0, &si, WEXITED), EINVAL);
    ERR(waitid(99, 0, &si, WEXITED), EINVAL);
}

CASE(wait_efault) {
    pid_t pid = OK(fork());
    if (!pid) _exit(0);
    ERR(syscall(SYS_wait4, pid, BAD, 0, NULL), EFAULT);
    ERR(waitpid(pid, NULL, 0), ECHILD); // it was reaped before the copy failed
}

CASE(wait_nohang) {
    pid_t pid = OK(fork());
    if (!pid) { pause(); _exit(0); }
    EQ(waitpid(pid, NULL, WNOHANG), 0);
    OK(kill(pid, SIGTERM));
    DIES(pid, SIGTERM);
}

CASE(wait_eintr) {
    pid_t pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    INTERRUPTED(waitpid(pid, NULL, 0));
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}

CASE(wait_restarts) {
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN((void)0);
    int st;
    EQ(waitpid(pid, &st, 0), pid);
    EQ(st, 0);
    EQ(hits, 1);
}

CASE(wait_stopped_and_continued) {
    pid_t pid = OK(fork());
    int st;
    if (!pid) { for (;;) pause(); }
    OK(kill(pid, SIGSTOP));
    EQ(waitpid(pid, &st, WUNTRACED), pid);
    CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP);
    EQ(waitpid(pid, &st, WUNTRACED | WNOHANG), 0);
    OK(kill(pid, SIGCONT));
    EQ(waitpid(pid, &st, WCONTINUED), pid);
    CHECK(WIFCONTINUED(st));
    OK(kill(pid, SIGKILL));
    DIES(pid, SIGKILL);
}

CASE(waitid_fields) {
    siginfo_t si;
    memset(&si, 0, sizeof si);
    pid_t pid = OK(fork());
    if (!pid) _exit(33);
    OK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT));
    EQ(si.si_signo, SIGCHLD);
    EQ(si.si_code, CLD_EXITED);
    EQ(si.si_pid, pid);
    EQ(si.si_status, 33);
    OK(waitid(P_PID, pid, &si, WEXITED));
    ERR(waitid(P_PID, pid, &si, WEXITED), ECHILD);
    pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    memset(&si, 0xff, sizeof si);
    OK(waitid(P_PID, pid, &si, WEXITED | WNOHANG));
    EQ(si.si_pid, 0);
    EQ(si.si_signo, 0);
    OK(kill(pid, SIGTERM));
    OK(waitid(P_ALL, 0, &si, WEXITED));
    EQ(si.si_code, CLD_KILLED);
    EQ(si.si_status, SIGTERM);
}

CASE(wait_rusage) {
    struct rusage ru;
    pid_t pid = OK(fork());
    if (!pid) { long long end = now_ns(CLOCK_PROCESS_CPUTIME_ID) + 60000000; while (now_ns(CLOCK_PROCESS_CPUTIME_ID) < end) {} _exit(0); }
    EQ(wait4(pid, NULL, 0, &ru), pid);
    long us = (ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000L + ru.ru_utime.tv_usec + ru.ru_stime.tv_usec;
    CHECK(us >= 30000 && us < 5000000);
}

CASE(wait_by_group) {
    pid_t a = OK(fork());
    if (!a) { setpgid(0, 0); _exit(1); }
    setpgid(a, a);
    pid_t b = OK(fork());
    if (!b) _exit(2);
    int st;
    EQ(waitpid(-a, &st, 0), a);
    EQ(waitpid(0, &st, 0), b);
    ERR(waitpid(0, &st, 0), ECHILD);
}

CASE(wait_ignored_sigchld_reaps) {
    signal(SIGCHLD, SIG_IGN);
    pid_t pid = OK(fork());
    if (!pid) _exit(1);
    ERR(waitpid(pid, NULL, 0), ECHILD);
    // Whoever waits is woken before the number is free (kernel/exit.c, exit_notify).
    while (kill(pid, 0) == 0) sched_yield();
    ERR(kill(pid, 0), ESRCH);
}

CASE(wait_nocldwait) {
    struct sigaction sa = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    OK(sigaction(SIGCHLD, &sa, NULL));
    pid_t pid = OK(fork());
    if (!pid) _exit(1);
    ERR(wait(NULL), ECHILD);
}

static pid_t thread_child;
static void *forking_thread(void *arg) {
    thread_child = fork();
    if (!thread_child) _exit(12);
    return arg;
}
CASE(wait_for_child_of_other_thread) {
    pthread_t t;
    pthread_create(&t, NULL, forking_thread, NULL);
    pthread_join(t, NULL);
    int st;
    EQ(waitpid(thread_child, &st, 0), thread_child);
    EQ(WEXITSTATUS(st), 12);
}

CASE(orphan_gets_new_parent) {
    int p[2];
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) {
        pid_t me = getpid();
        if (!fork()) {
            while (getppid() == me) usleep(1000);
            char c = getppid() > 0 ? 'y' : 'n';
            if (write(p[1], &c, 1) != 1) _exit(1);
            _exit(0);
        }
        _exit(0);
    }
    EXITS(pid, 0);
    char c;
    EQ(read(p[0], &c, 1), 1);
    EQ(c, 'y');
}

CASE(subreaper) {
    OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t pid = OK(fork());
    if (!pid) { if (!fork()) { nap_ms(30); _exit(44); } _exit(0); }
    EXITS(pid, 0);
    int st;
    CHECK(wait(&st) > 0);
    EQ(WEXITSTATUS(st), 44);
}

CASE(pdeathsig) {
    int p[2], sig = 0;
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) {
        pid_t me = getpid();
        if (!fork()) {
            handle(SIGUSR2, 0);
            OK(prctl(PR_SET_PDEATHSIG, SIGUSR2));
            OK(prctl(PR_GET_PDEATHSIG, &sig));
            if (sig != SIGUSR2 || getppid() != me) _exit(1);
            if (write(p[1], "r", 1) != 1) _exit(1);
            for (int i = 0; i < 1000 && !hits; i++) usleep(5000);
            if (write(p[1], hits ? "y" : "n", 1) != 1) _exit(1);
            _exit(0);
        }
        char c;
        if (read(p[0], &c, 1) != 1) _exit(2);
        _exit(0);
    }
    EXITS(pid, 0);
    char c;
    EQ(read(p[0], &c, 1), 1);
    EQ(c, 'y');
}

CASE(setpgid_and_getpgid) {
    pid_t pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    EQ(getpgid(pid), getpgrp());
    OK(setpgid(pid, 0));
    EQ(getpgid(pid), pid);
    OK(setpgid(pid, getpgrp()));
    EQ(getpgid(pid), getpgrp());
    ERR(setpgid(pid, 99999999), EPERM);
    ERR(setpgid(pid, -1), EINVAL);
    ERR(setpgid(99999999, 0), ESRCH);
    ERR(getpgid(99999999), ESRCH);
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}

CASE(setpgid_after_exec_eacces) {
    int p[2];
    OK(pipe2(p, O_CLOEXEC));
    pid_t pid = OK(fork());
    if (!pid) { close(p[0]); execl("/bin/sleep", "sleep", "100", NULL); _exit(1); }
    close(p[1]);
    char c;
    EQ(read(p[0], &c, 1), 0); // closed by exec
    ERR(setpgid(pid, 0), EACCES);
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}

CASE(setsid) {
    ERR(setsid(), EPERM); // a case leads its group
    IN_CHILD(pid_t me = getpid(); EQ(setsid(), me); EQ(getsid(0), me); EQ(getpgrp(), me); ERR(setsid(), EPERM);
             ERR(setpgid(0, 0), EPERM));
    pid_t pid = OK(fork());
    if (!pid) { setsid(); for (;;) pause(); }
    while (getsid(pid) != pid) usleep(1000);
    ERR(setpgid(pid, 0), EPERM);
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
    ERR(getsid(99999999), ESRCH);
}

CASE(kill_group) {
    int p[2];
    OK(pipe(p));
    pid_t leader = 0, pids[3];
    for (int i = 0; i < 3; i++) {
        pid_t pid = OK(fork());
        if (!pid) { for (;;) pause(); }
        if (!i) leader = pid;
        OK(setpgid(pid, leader));
        pids[i] = pid;
    }
    OK(kill(-leader, SIGTERM));
    for (int i = 0; i < 3; i++) DIES(pids[i], SIGTERM);
    ERR(kill(-leader, 0), ESRCH);
}

CASE(pidfd_open_and_send) {
    pid_t pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    int fd = OK(syscall(SYS_pidfd_open, pid, 0));
    OK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
    DIES(pid, SIGTERM);
    ERR(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0), ESRCH);
    ERR(syscall(SYS_pidfd_open, 99999999, 0), ESRCH);
    ERR(syscall(SYS_pidfd_open, getpid(), 0x1234), EINVAL);
}

CASE(getpid_in_thread) {
    CHECK(getpid() == gettid());
    IN_CHILD(CHECK(getpid() == gettid()));
}

CASE(set_tid_address) {
    int x;
    EQ(syscall(SYS_set_tid_address, &x), gettid());
}
CASE(exec_with_an_unlimited_stack) {
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    OK(setrlimit(RLIMIT_STACK, &limit));
    pid_t pid = OK(fork());
    if (!pid) execl("/bin/true", "true", NULL);
    EXITS(pid, 0);
}

static void places(unsigned long at[3]) {
    int p[2];
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) {
        dup2(p[1], 1);
        self((char *[]){abi_self, "@places", NULL});
    }
    EQ(read(p[0], at, 3 * sizeof *at), 3 * sizeof *at);
    EXITS(pid, 0);
    close(p[0]);
    close(p[1]);
}
CASE(no_randomisation_by_personality) {
    unsigned long a[3], b[3];
    OK(personality(0x0040000)); // ADDR_NO_RANDOMIZE
    places(a);
    places(b);
    for (int i = 0; i < 3; i++) EQ(a[i], b[i]);
    OK(personality(0));
    // With it, three numbers do not all fall the same.
    places(b);
    CHECK(memcmp(a, b, sizeof a));
}

static pthread_barrier_t all_there;
static void *meeting_thread(void *arg) {
    pthread_barrier_wait(&all_there);
    return arg;
}
CASE(a_thousand_threads_at_once) {
    enum { N = 1000 };
    static pthread_t t[N];
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 65536);
    pthread_barrier_init(&all_there, NULL, N + 1);
    for (long i = 0; i < N; i++) {
        int error = pthread_create(&t[i], &attr, meeting_thread, (void *)i);
        if (error) FAILED("thread %ld: errno %d", i, error);
    }
    pthread_barrier_wait(&all_there);
    for (long i = 0; i < N; i++) {
        void *end;
        EQ(pthread_join(t[i], &end), 0);
        EQ(end, i);
    }
}
