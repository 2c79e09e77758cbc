// escape.h: for programs that attack their sandbox. A case passes if nothing outside was reached; see xtask's escape.rs.
#ifndef ESCAPE_H
#define ESCAPE_H
#include "../abi/abi.h"
#include <setjmp.h>

// What the host's secrets contain. Nothing inside the container does.
#define MARKER "NACRE-HOST-SECRET"
// Split here, so that this program's own text does not contain it.
static const char *marker(void) {
    static char m[32];
    snprintf(m, sizeof m, "%s%s", "NACRE-HOST", "-SECRET");
    return m;
}
enum { ESCAPE_CODE = 99 };
#define ESCAPED(...)                                                                                                   \
    do {                                                                                                               \
        printf("FAIL %s: ESCAPED: ", abi_name);                                                                        \
        printf(__VA_ARGS__);                                                                                           \
        printf("\n");                                                                                                  \
        fflush(stdout);                                                                                                \
        _exit(ESCAPE_CODE);                                                                                            \
    } while (0)

static inline void inspect(const void *p, size_t n, const char *where) {
    if (memmem(p, n, marker(), strlen(marker()))) ESCAPED("the host's secret was read through %s", where);
}
// Reads the start of whatever this is.
static inline void try_read(int dir, const char *path) {
    static char text[65536];
    int fd = openat(dir, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return;
    ssize_t n = read(fd, text, sizeof text);
    if (n > 0) inspect(text, n, path);
    n = pread(fd, text, sizeof text, 0);
    if (n > 0) inspect(text, n, path);
    close(fd);
}
// The host's secret file, an absolute path there.
static inline const char *secret(void) {
    const char *s = getenv("SECRET");
    return s ? s : "/nonexistent";
}

// Runs a block in a child. It may end in any way, but not with ESCAPE_CODE, and SIGKILL must end it.
#define EVIL(...)                                                                                                      \
    do {                                                                                                               \
        fflush(stdout);                                                                                                \
        pid_t evil_pid = OK(fork());                                                                                   \
        if (!evil_pid) { __VA_ARGS__; _exit(0); }                                                                      \
        watch_evil(evil_pid);                                                                                          \
    } while (0)
// Set by who has written to control pages of its own: its children may be ended for it, rightly.
static int polluted;
static inline void watch_evil(pid_t pid) {
    int st;
    long long end = mono_ms() + 100;
    while (waitpid(pid, &st, WNOHANG) == 0) {
        if (mono_ms() > end) {
            OK(kill(pid, SIGKILL));
            end = mono_ms() + 10000;
            while (waitpid(pid, &st, WNOHANG) == 0) {
                if (mono_ms() > end) FAILED("SIGKILL does not end it");
                usleep(1000);
            }
            break;
        }
        usleep(1000);
    }
    if (WIFEXITED(st) && WEXITSTATUS(st) == ESCAPE_CODE) _exit(ESCAPE_CODE);
    if (polluted) return;
    // And everybody else goes on.
    pid_t check = OK(fork());
    if (!check) _exit(5);
    EXITS(check, 5);
}
#endif
