// abi.h: what each family of cases shares. A family is one static program: `PROGRAM` runs every case in a child of its
// own and prints `ok NAME`, `FAIL NAME: what` or `skip NAME: why`; `PROGRAM --list` names them; `PROGRAM NAME...` runs the named
// ones; `PROGRAM --bare NAME` runs one case in the process itself (for a debugger or a tracer).
#ifndef ABI_H
#define ABI_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct abi_case { const char *name; void (*run)(void); };

// The cases of a program lie side by side in a section, so that defining one registers it.
#define CASE(n)                                                                                                        \
    static void case_##n(void);                                                                                        \
    static const struct abi_case reg_##n __attribute__((used, section("abi_cases"), aligned(8))) = {#n, case_##n};     \
    static void case_##n(void)
extern const struct abi_case __start_abi_cases[], __stop_abi_cases[];

static const char *abi_name = "?";
static char abi_self[PATH_MAX]; // this program, to be executed again with "@WHAT" (see ABI_PROGRAM)

// Ends the calling process as failed.
__attribute__((noreturn, format(printf, 2, 3))) static void abi_fail(int line, const char *fmt, ...) {
    char text[512];
    int n = snprintf(text, sizeof text, "FAIL %s: line %d: ", abi_name, line);
    va_list ap;
    va_start(ap, fmt);
    n += vsnprintf(text + n, sizeof text - n - 1, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof text - 2) n = sizeof text - 2;
    text[n++] = '\n';
    if (write(1, text, n) < 0) {}
    _exit(1);
}

#define FAILED(...) abi_fail(__LINE__, __VA_ARGS__)
#define CHECK(e) ((e) ? (void)0 : FAILED("%s (errno %d)", #e, errno))
#define EQ(a, b)                                                                                                       \
    do {                                                                                                               \
        long long abi_a = (long long)(a), abi_b = (long long)(b);                                                      \
        if (abi_a != abi_b) FAILED("%s is %lld (0x%llx), not %lld (errno %d)", #a, abi_a, abi_a, abi_b, errno);        \
    } while (0)
// The call must not fail; its value is the macro's.
#define OK(e)                                                                                                          \
    ({                                                                                                                 \
        errno = 0;                                                                                                     \
        long abi_r = (long)(e);                                                                                        \
        if (abi_r == -1) FAILED("%s fails with errno %d", #e, errno);                                                  \
        abi_r;                                                                                                         \
    })
// The call must fail with this errno.
#define ERR(e, want)                                                                                                   \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        long abi_r = (long)(e);                                                                                        \
        if (abi_r != -1) FAILED("%s gives %ld instead of errno %d", #e, abi_r, want);                                  \
        if (errno != (want)) FAILED("%s fails with errno %d instead of %d", #e, errno, want);                          \
    } while (0)

// Cases for which this machine has not what it takes are skipped, and said to be. Only where ABI_MAY_SKIP is set, which is where the kernel is Linux:
// elsewhere they run, whatever the kernel calls itself.
enum { ABI_SKIPPED = 77 };
static char *abi_reason; // shared with the process that runs the cases
static int abi_bare;
__attribute__((format(printf, 1, 2))) static inline void skip(const char *fmt, ...) {
    if (!getenv("ABI_MAY_SKIP")) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(abi_reason, 200, fmt, ap);
    va_end(ap);
    if (abi_bare) { printf("skip %s: %s\n", abi_name, abi_reason); fflush(stdout); }
    _exit(ABI_SKIPPED);
}
// Whether this is Linux since that version, or what is measured against the newest (see skip).
static inline int is_linux(int major, int minor) {
    struct utsname u;
    int has[2] = {0};
    if (!getenv("ABI_MAY_SKIP")) return 1;
    if (uname(&u) < 0 || sscanf(u.release, "%d.%d", &has[0], &has[1]) != 2) FAILED("no version in '%s'", u.release);
    return has[0] > major || (has[0] == major && has[1] >= minor);
}

// For a case about what Linux has had since this version. To be called first, by the case's own process.
static inline void needs(int major, int minor) {
    struct utsname u;
    if (uname(&u) < 0) FAILED("no version");
    if (!is_linux(major, minor)) skip("needs Linux %d.%d, this is %s", major, minor, u.release);
}

// Sets the soft limit of a resource; the hard one stays.
static inline void soft_limit(int which, rlim_t to) {
    struct rlimit r;
    OK(getrlimit(which, &r));
    r.rlim_cur = to;
    OK(setrlimit(which, &r));
}

// An address where nothing is mapped; volatile, so that no compiler sees it coming.
static void *volatile abi_bad = (void *)16;
#define BAD abi_bad

static inline long long now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static inline long long mono_ms(void) { return now_ns(CLOCK_MONOTONIC) / 1000000; }
static inline void nap_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) < 0 && errno == EINTR) {}
}

// Waits for a child; its raw status.
static inline int wait_status(pid_t pid) {
    int st;
    pid_t r;
    while ((r = waitpid(pid, &st, 0)) < 0 && errno == EINTR) {}
    if (r != pid) FAILED("waitpid(%d) gives %d, errno %d", pid, r, errno);
    return st;
}
// Waits for a child that must exit with this code.
#define EXITS(pid, code)                                                                                               \
    do {                                                                                                               \
        int abi_st = wait_status(pid);                                                                                 \
        if (!WIFEXITED(abi_st) || WEXITSTATUS(abi_st) != (code)) FAILED("child status 0x%x, not exit %d", abi_st, code); \
    } while (0)
// Waits for a child that must die by this signal.
#define DIES(pid, sig)                                                                                                 \
    do {                                                                                                               \
        int abi_st = wait_status(pid);                                                                                 \
        if (!WIFSIGNALED(abi_st) || WTERMSIG(abi_st) != (sig)) FAILED("child status 0x%x, not signal %d", abi_st, sig); \
    } while (0)
// Runs a block in a child that must leave with 0.
#define IN_CHILD(...)                                                                                                  \
    do {                                                                                                               \
        pid_t abi_pid = OK(fork());                                                                                    \
        if (!abi_pid) { __VA_ARGS__; _exit(0); }                                                                       \
        EXITS(abi_pid, 0);                                                                                             \
    } while (0)

// A signal handler that counts and keeps what it was told.
static volatile sig_atomic_t hits, last_sig;
static volatile siginfo_t last_info; // volatile: glibc declares kill and others `leaf`
static inline void on_signal(int sig, siginfo_t *info, void *uc) {
    (void)uc;
    last_sig = sig;
    last_info = *info;
    hits++;
}
static inline void handle(int sig, int flags) {
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags};
    sigemptyset(&sa.sa_mask);
    OK(sigaction(sig, &sa, NULL));
}

// A child that sends SIGUSR1 to its parent every 20 ms until it is killed: whatever waits is interrupted, however late it starts.
static inline pid_t poke_forever(void) {
    pid_t parent = getpid(), pid = OK(fork());
    if (pid) return pid;
    for (;;) {
        nap_ms(20);
        if (kill(parent, SIGUSR1) < 0) _exit(0);
    }
}
static inline void poke_stop(pid_t pid) {
    kill(pid, SIGKILL);
    wait_status(pid);
}
// A waiting call must end with EINTR when a handler without SA_RESTART runs.
#define INTERRUPTED(call)                                                                                              \
    do {                                                                                                               \
        handle(SIGUSR1, 0);                                                                                            \
        pid_t abi_poker = poke_forever();                                                                              \
        ERR(call, EINTR);                                                                                              \
        CHECK(hits > 0);                                                                                               \
        poke_stop(abi_poker);                                                                                          \
    } while (0)
// The same although the handler has SA_RESTART (poll, select, sleeps, sigtimedwait: see signal(7)).
#define INTERRUPTED_EVEN_WITH_RESTART(call)                                                                            \
    do {                                                                                                               \
        handle(SIGUSR1, SA_RESTART);                                                                                   \
        pid_t abi_poker = poke_forever();                                                                              \
        ERR(call, EINTR);                                                                                              \
        CHECK(hits > 0);                                                                                               \
        poke_stop(abi_poker);                                                                                          \
    } while (0)
// A child that pokes its parent once after 60 ms, runs a block 60 ms later, and leaves. Use its pid with EXITS.
#define POKE_THEN(...)                                                                                                 \
    ({                                                                                                                 \
        pid_t abi_parent = getpid(), abi_pid = OK(fork());                                                             \
        if (!abi_pid) {                                                                                                \
            nap_ms(60);                                                                                                \
            kill(abi_parent, SIGUSR1);                                                                                 \
            nap_ms(60);                                                                                                \
            __VA_ARGS__;                                                                                               \
            _exit(0);                                                                                                  \
        }                                                                                                              \
        abi_pid;                                                                                                       \
    })

// A file in the case's own empty folder, with this text.
static inline int file_with(const char *path, const char *text) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) FAILED("cannot make %s: errno %d", path, errno);
    lseek(fd, 0, SEEK_SET);
    return fd;
}
// The text of a file, in a static buffer.
static inline char *slurp(const char *path) {
    static char text[65536];
    int fd = open(path, O_RDONLY);
    if (fd < 0) FAILED("cannot open %s: errno %d", path, errno);
    ssize_t n = 0, r;
    while ((r = read(fd, text + n, sizeof text - 1 - n)) > 0) n += r;
    close(fd);
    text[n] = 0;
    return text;
}

static inline void remove_tree(const char *path) {
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char sub[PATH_MAX + 260];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
        if (unlink(sub) < 0 && (errno == EISDIR || errno == EPERM)) remove_tree(sub);
    }
    if (d) closedir(d);
    rmdir(path);
}

// Kills what a case left behind in sessions of its own (the runner is a subreaper, so it is a child by now).
static inline void kill_leftovers(void) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    for (int i = 0; i < 20; i++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        if (fd >= 0) close(fd);
        if (n <= 0) return;
        text[n] = 0;
        for (char *p = text, *e; strtol(p, &e, 10) > 0; p = e) kill(strtol(p, NULL, 10), SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
        usleep(1000);
    }
}

enum { CASE_TIMEOUT_MS = 20000 };

// Runs one case in a child, leader of a process group of its own, in an empty folder of its own.
static inline int run_case(const struct abi_case *c) {
    char dir[200];
    const char *folder = getenv("ABI_FOLDER");
    snprintf(dir, sizeof dir, "%s/abi.XXXXXX", folder ? folder : "/tmp");
    if (!mkdtemp(dir)) { printf("FAIL %s: no folder: errno %d\n", c->name, errno); return 1; }
    chmod(dir, 0755);
    abi_name = c->name;
    abi_reason[0] = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) { printf("FAIL %s: fork: errno %d\n", c->name, errno); return 1; }
    if (!pid) {
        setpgid(0, 0);
        if (chdir(dir) < 0) FAILED("chdir: errno %d", errno);
        umask(022);
        c->run();
        _exit(0);
    }
    setpgid(pid, pid);
    int st = 0, failed = 0;
    long long end = mono_ms() + CASE_TIMEOUT_MS;
    pid_t got = 0;
    while ((got = waitpid(pid, &st, WNOHANG)) == 0 && mono_ms() < end) usleep(500);
    kill(-pid, SIGKILL);
    if (got == 0) {
        printf("FAIL %s: still running after %d ms\n", c->name, CASE_TIMEOUT_MS);
        waitpid(pid, &st, 0);
        failed = 1;
    } else if (WIFSIGNALED(st)) {
        printf("FAIL %s: died by signal %d\n", c->name, WTERMSIG(st));
        failed = 1;
    } else if (WEXITSTATUS(st) == 0) {
        printf("ok %s\n", c->name);
    } else if (WEXITSTATUS(st) == ABI_SKIPPED && abi_reason[0]) {
        printf("skip %s: %s\n", c->name, abi_reason);
    } else {
        printf("FAIL %s: exit %d\n", c->name, WEXITSTATUS(st));
        failed = 1;
    }
    fflush(stdout);
    kill_leftovers();
    remove_tree(dir);
    return failed;
}

int main(int argc, char **argv) {
    if (!realpath(argv[0], abi_self)) snprintf(abi_self, sizeof abi_self, "%s", argv[0]);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    // A shell that starts us in the background, or nohup, has these ignored.
    const int background[] = {SIGHUP, SIGINT, SIGQUIT};
    for (size_t i = 0; i < sizeof background / sizeof *background; i++) signal(background[i], SIG_DFL);
    int failed = 0;
    abi_bare = argc > 2 && !strcmp(argv[1], "--bare");
    abi_reason = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (abi_reason == MAP_FAILED) { printf("no memory: errno %d\n", errno); return 1; }
#ifdef ABI_PROGRAM
    int special(int, char **);
    if (argc > 1 && !strncmp(argv[1], "@", 1)) return special(argc, argv);
#endif
    for (const struct abi_case *c = __start_abi_cases; c < __stop_abi_cases; c++) {
        if (argc > 1 && !strcmp(argv[1], "--list")) { puts(c->name); continue; }
        int named = argc < 2;
        for (int i = 1; i < argc; i++) named |= !strcmp(argv[i], c->name);
        if (!named) continue;
        if (abi_bare) { abi_name = c->name; c->run(); printf("ok %s\n", c->name); continue; }
        failed += run_case(c);
    }
    fflush(stdout);
    return failed != 0;
}
#endif
