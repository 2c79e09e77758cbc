// bench: what basic things cost, in nanoseconds per operation. Static; build with -O2 -fno-ipa-icf -pthread.
//
// `bench [--ms N] [--hold] [ROW...]` prints `ROW NS OPERATIONS` for each row. With --hold it prints `begin ROW` before and
// `end ROW NS OPERATIONS` after each measured loop and waits for a line on standard input both times, so that a program
// outside can read the CPU time of everything that took part (see xtask's bench).
// It needs /bench-data (1 MiB), /deep/a/b/c/d/e/f/g/file and a folder /scratch it may write to.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long started, elapsed;
static int hold, measuring;
static const char *row_name;

static void die(const char *what) {
    fprintf(stderr, "bench: %s: %s: %s\n", row_name ? row_name : "", what, strerror(errno));
    exit(1);
}
#define MUST(e) ({ long r_ = (long)(e); if (r_ < 0) die(#e); r_; })

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void await_line(void) {
    char c;
    while (read(0, &c, 1) == 1 && c != '\n') {}
}
static void begin(void) {
    if (measuring && hold) {
        dprintf(1, "begin %s\n", row_name);
        await_line();
    }
    started = now();
}
static void end(void) { elapsed = now() - started; }

// The rows: each sets up, then loops n times between begin() and end(), then clears up.

static void getppid_row(long n) { begin(); while (n--) getppid(); end(); }
static void gettid_row(long n) { begin(); while (n--) gettid(); end(); }
static void clock_row(long n) { struct timespec t; begin(); while (n--) clock_gettime(CLOCK_MONOTONIC, &t); end(); }
static void sigprocmask_row(long n) {
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGUSR2);
    begin();
    while (n--) sigprocmask(n & 1 ? SIG_BLOCK : SIG_UNBLOCK, &s, NULL);
    end();
}
static void fstat_row(long n) {
    struct stat st;
    int fd = MUST(open("/bench-data", O_RDONLY));
    begin();
    while (n--) MUST(fstat(fd, &st));
    end();
    close(fd);
}
static void stat_deep_row(long n) {
    struct stat st;
    begin();
    while (n--) MUST(stat("/deep/a/b/c/d/e/f/g/file", &st));
    end();
}
static void stat_missing_row(long n) {
    struct stat st;
    begin();
    while (n--) if (stat("/deep/a/b/c/d/e/f/g/none", &st) == 0) die("it exists");
    end();
}
static void open_close_row(long n) {
    begin();
    while (n--) close(MUST(open("/bench-data", O_RDONLY)));
    end();
}
static char buffer[65536];
static void pread_rows(long n, size_t len) {
    int fd = MUST(open("/bench-data", O_RDONLY));
    begin();
    while (n--) MUST(pread(fd, buffer, len, (n & 7) * 65536));
    end();
    close(fd);
}
static void pread_1_row(long n) { pread_rows(n, 1); }
static void pread_4k_row(long n) { pread_rows(n, 4096); }
static void pread_64k_row(long n) { pread_rows(n, 65536); }
static void pwrite_4k_row(long n) {
    int fd = MUST(open("/scratch/written", O_RDWR | O_CREAT | O_TRUNC, 0600));
    begin();
    while (n--) MUST(pwrite(fd, buffer, 4096, (n & 63) * 4096));
    end();
    close(fd);
    unlink("/scratch/written");
}
static void creat_unlink_row(long n) {
    begin();
    while (n--) {
        close(MUST(open("/scratch/new", O_WRONLY | O_CREAT | O_EXCL, 0600)));
        MUST(unlink("/scratch/new"));
    }
    end();
}
static char *map(size_t len) {
    char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    return p;
}
static void mmap_munmap_row(long n) { begin(); while (n--) munmap(map(65536), 65536); end(); }
static void mmap_touch_row(long n) {
    begin();
    while (n--) {
        volatile char *p = map(65536);
        for (int i = 0; i < 65536; i += 4096) p[i] = 1;
        munmap((void *)p, 65536);
    }
    end();
}
static void file_mmap_row(long n) {
    int fd = MUST(open("/bench-data", O_RDONLY));
    begin();
    while (n--) {
        volatile char *p = mmap(NULL, 65536, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) die("mmap");
        for (int i = 0; i < 65536; i += 4096) (void)p[i];
        munmap((void *)p, 65536);
    }
    end();
    close(fd);
}
static void mprotect_row(long n) {
    volatile char *p = map(65536);
    for (int i = 0; i < 65536; i += 4096) p[i] = 1;
    begin();
    while (n--) {
        MUST(mprotect((void *)p, 4096, PROT_READ));
        MUST(mprotect((void *)p, 4096, PROT_READ | PROT_WRITE));
    }
    end();
    munmap((void *)p, 65536);
}
static void dontneed_row(long n) {
    volatile char *p = map(65536);
    begin();
    while (n--) {
        for (int i = 0; i < 65536; i += 4096) p[i] = 1;
        MUST(madvise((void *)p, 65536, MADV_DONTNEED));
    }
    end();
    munmap((void *)p, 65536);
}
static void pipe_self_row(long n) {
    int p[2];
    char c = 0;
    MUST(pipe(p));
    begin();
    while (n--) { MUST(write(p[1], &c, 1)); MUST(read(p[0], &c, 1)); }
    end();
    close(p[0]);
    close(p[1]);
}

static int there[2], back[2];
static void echo(long n) {
    char c;
    while (n--) { if (read(there[0], &c, 1) != 1 || write(back[1], &c, 1) != 1) _exit(1); }
}
static void *echo_thread(void *n) { echo((long)n); return NULL; }
static void ping(long n) {
    char c = 0;
    while (n--) { MUST(write(there[1], &c, 1)); MUST(read(back[0], &c, 1)); }
}
static void close_pair(void) {
    close(there[0]);
    close(there[1]);
    close(back[0]);
    close(back[1]);
}
static void pipe_threads_row(long n) {
    pthread_t t;
    MUST(pipe(there));
    MUST(pipe(back));
    pthread_create(&t, NULL, echo_thread, (void *)n);
    begin();
    ping(n);
    end();
    pthread_join(t, NULL);
    close_pair();
}
static void reap(pid_t pid) {
    int st;
    if (waitpid(pid, &st, 0) != pid || st) die("child");
}
static void pipe_processes_row(long n) {
    MUST(pipe(there));
    MUST(pipe(back));
    pid_t pid = MUST(fork());
    if (!pid) { echo(n); _exit(0); }
    begin();
    ping(n);
    end();
    reap(pid);
    close_pair();
}
static void unix_row(long n) {
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, there));
    back[0] = MUST(dup(there[1]));
    back[1] = MUST(dup(there[0]));
    pid_t pid = MUST(fork());
    if (!pid) { echo(n); _exit(0); }
    begin();
    ping(n);
    end();
    reap(pid);
    close_pair();
}

static int tcp_listener(struct sockaddr_in *a) {
    socklen_t len = sizeof *a;
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    MUST(bind(fd, (void *)a, sizeof *a));
    MUST(listen(fd, 16));
    MUST(getsockname(fd, (void *)a, &len));
    return fd;
}
static void tcp_row(long n) {
    struct sockaddr_in a;
    int l = tcp_listener(&a), one = 1;
    there[0] = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(there[0], (void *)&a, sizeof a));
    there[1] = MUST(accept(l, NULL, NULL));
    for (int i = 0; i < 2; i++) MUST(setsockopt(there[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    back[0] = MUST(dup(there[1]));
    back[1] = MUST(dup(there[0]));
    pid_t pid = MUST(fork());
    if (!pid) { echo(n); _exit(0); }
    begin();
    ping(n);
    end();
    reap(pid);
    close_pair();
    close(l);
}
// A stream over loopback, 16 KiB a write and at most as much a read: per 16 KiB.
static void tcp_stream_row(long n) {
    enum { PIECE = 16 << 10 };
    struct sockaddr_in a;
    int l = tcp_listener(&a), c = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(c, (void *)&a, sizeof a));
    int s = MUST(accept(l, NULL, NULL));
    pid_t pid = MUST(fork());
    if (!pid) {
        close(c);
        long left = n * PIECE;
        while (left > 0) left -= MUST(read(s, buffer, PIECE));
        MUST(write(s, buffer, 1)); // it has all come
        _exit(0);
    }
    begin();
    for (long i = 0; i < n; i++)
        for (long done = 0; done < PIECE;) done += MUST(write(c, buffer, PIECE - done));
    MUST(read(c, buffer, 1));
    end();
    reap(pid);
    close(c);
    close(s);
    close(l);
}
static void tcp_accept_row(long n) {
    struct sockaddr_in a;
    int l = tcp_listener(&a);
    struct linger off = {1, 0}; // closing by reset leaves nothing in TIME_WAIT
    begin();
    while (n--) {
        int c = MUST(socket(AF_INET, SOCK_STREAM, 0));
        MUST(connect(c, (void *)&a, sizeof a));
        int s = MUST(accept(l, NULL, NULL));
        MUST(setsockopt(c, SOL_SOCKET, SO_LINGER, &off, sizeof off));
        close(c);
        close(s);
    }
    end();
    close(l);
}

static volatile uint32_t *word;
static void futex_turns(uint32_t mine, long n) {
    while (n--) {
        while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != mine) syscall(SYS_futex, word, FUTEX_WAIT, !mine, NULL, NULL, 0);
        __atomic_store_n(word, !mine, __ATOMIC_RELEASE);
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
}
static void *futex_thread(void *n) { futex_turns(1, (long)n); return NULL; }
static void share_word(void) {
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (word == MAP_FAILED) die("mmap");
}
static void futex_threads_row(long n) {
    pthread_t t;
    share_word();
    pthread_create(&t, NULL, futex_thread, (void *)n);
    begin();
    futex_turns(0, n);
    end();
    pthread_join(t, NULL);
    munmap((void *)word, 4096);
}
static void futex_processes_row(long n) {
    share_word();
    pid_t pid = MUST(fork());
    if (!pid) { futex_turns(1, n); _exit(0); }
    begin();
    futex_turns(0, n);
    end();
    reap(pid);
    munmap((void *)word, 4096);
}
static void epoll_eventfd_row(long n) {
    int e = MUST(epoll_create1(0)), fd = MUST(eventfd(0, 0));
    struct epoll_event ev = {.events = EPOLLIN};
    uint64_t v = 1;
    MUST(epoll_ctl(e, EPOLL_CTL_ADD, fd, &ev));
    begin();
    while (n--) {
        v = 1;
        MUST(write(fd, &v, 8));
        if (epoll_wait(e, &ev, 1, -1) != 1) die("epoll_wait");
        MUST(read(fd, &v, 8));
    }
    end();
    close(e);
    close(fd);
}
static volatile int caught;
static void on_signal(int sig) { (void)sig; caught++; }
static void signal_row(long n) {
    signal(SIGUSR1, on_signal);
    pid_t pid = getpid();
    begin();
    while (n--) MUST(kill(pid, SIGUSR1));
    end();
}
static void *nothing(void *a) { return a; }
static void thread_row(long n) {
    begin();
    while (n--) {
        pthread_t t;
        if (pthread_create(&t, NULL, nothing, NULL)) die("pthread_create");
        pthread_join(t, NULL);
    }
    end();
}
static void fork_loop(long n) {
    while (n--) {
        pid_t pid = MUST(fork());
        if (!pid) _exit(0);
        reap(pid);
    }
}
static void fork_row(long n) { begin(); fork_loop(n); end(); }
static void fork_dirty_row(long n) {
    size_t len = 16 << 20;
    char *p = map(len);
    memset(p, 1, len);
    begin();
    fork_loop(n);
    end();
    munmap(p, len);
}
static char self_path[256];
static void vfork_exec_row(long n) {
    char *argv[] = {self_path, "--nothing", NULL}, *envp[] = {NULL};
    begin();
    while (n--) {
        pid_t pid = MUST(vfork());
        if (!pid) { execve(self_path, argv, envp); _exit(1); }
        reap(pid);
    }
    end();
}
static void yield_row(long n) { begin(); while (n--) sched_yield(); end(); }
static void nanosleep_row(long n) {
    struct timespec t = {0, 1000};
    begin();
    while (n--) nanosleep(&t, NULL);
    end();
}

static const struct { const char *name; void (*run)(long); } rows[] = {
    {"getppid", getppid_row}, {"gettid", gettid_row}, {"clock_gettime", clock_row}, {"sigprocmask", sigprocmask_row},
    {"fstat", fstat_row}, {"stat-deep", stat_deep_row}, {"stat-missing", stat_missing_row}, {"open-close", open_close_row},
    {"pread-1", pread_1_row}, {"pread-4k", pread_4k_row}, {"pread-64k", pread_64k_row}, {"pwrite-4k", pwrite_4k_row},
    {"creat-unlink", creat_unlink_row}, {"mmap-munmap", mmap_munmap_row}, {"mmap-touch-16", mmap_touch_row},
    {"file-mmap-touch", file_mmap_row}, {"mprotect-pair", mprotect_row}, {"madvise-dontneed", dontneed_row},
    {"pipe-self", pipe_self_row}, {"pipe-threads", pipe_threads_row}, {"pipe-processes", pipe_processes_row},
    {"futex-threads", futex_threads_row}, {"futex-processes", futex_processes_row}, {"unix-socket", unix_row},
    {"tcp-pingpong", tcp_row}, {"tcp-connect-accept", tcp_accept_row}, {"tcp-stream-16k", tcp_stream_row},
    {"epoll-eventfd", epoll_eventfd_row}, {"signal-self", signal_row}, {"thread-create-join", thread_row}, {"fork-wait", fork_row},
    {"fork-16MiB-dirty", fork_dirty_row}, {"vfork-exec-wait", vfork_exec_row}, {"sched_yield", yield_row}, {"nanosleep-1us", nanosleep_row},
};

int main(int argc, char **argv) {
    long long target = 40000000; // ns of a measured loop
    int first = 1;
    if (argc > 1 && !strcmp(argv[1], "--nothing")) return 0;
    snprintf(self_path, sizeof self_path, "%s", argv[0]);
    for (; first < argc && argv[first][0] == '-'; first++) {
        if (!strcmp(argv[first], "--hold")) hold = 1;
        else if (!strcmp(argv[first], "--ms") && first + 1 < argc) target = atoll(argv[++first]) * 1000000;
        else { fprintf(stderr, "bench: unknown option %s\n", argv[first]); return 2; }
    }
    memset(buffer, 'b', sizeof buffer);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int named = first == argc;
        for (int j = first; j < argc; j++) named |= !strcmp(argv[j], rows[i].name);
        if (!named) continue;
        row_name = rows[i].name;
        long n = 1;
        measuring = 0;
        for (;;) { // how many operations take about as long as wanted
            rows[i].run(n);
            if (elapsed * 4 >= target || n >= 1L << 30) break;
            n = elapsed * 100 < target ? n * 10 : n * 3;
        }
        n = (long)((double)n * target / (elapsed > 0 ? elapsed : 1));
        if (n < 1) n = 1;
        measuring = 1;
        rows[i].run(n);
        dprintf(1, "%s%s %.1f %ld\n", hold ? "end " : "", row_name, (double)elapsed / n, n);
        if (hold) await_line();
    }
    return 0;
}
