/* A system-call fuzzer: every number, boundary and random arguments, several threads.
 *
 *     syscalls SEED SECONDS
 *
 * It is the sandbox's init (pid 1), so nothing its children do may end it; it starts one child per round, which makes descriptors and memory of
 * many kinds and then calls at random from several threads until it dies or its time is over. Odd rounds run as an ordinary user. What is
 * looked for is not here but outside: a sandbox that breaks (`cargo xtask fuzz`). A round with one thread is the same for the same seed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 3
#define ROUND_SECONDS 3
#define LAST_NUMBER 470
#define AREA (1 << 20)

static char *area, *read_only, *hole;
static volatile int filler;

struct rng {
    uint64_t state;
};

static uint64_t next(struct rng *r)
{
    /* splitmix64 */
    uint64_t z = (r->state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t below(struct rng *r, uint64_t n)
{
    return next(r) % n;
}

static const uint64_t edges[] = {
    0, 1, 2, 3, 7, 8, 16, 63, 64, 127, 128, 255, 256, 511, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 0x1000000,
    0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffff, 0x7ffffffff000, 0x800000000000, 0x7fffffffffffffff,
    0x8000000000000000, 0xffff800000000000, 0xfffffffffffff000, 0xfffffffffffffffe, 0xffffffffffffffff, 0xffffffffffffff9c,
    0xffffffff80000000, 0x7e0000000000, 0x7e0000002000, 0x7e0000100000, 0xffffffffff600000, 1000000000, 999999999, 1000000,
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *const paths[] = {
    "/", ".", "..", "/tmp", "/tmp/f", "/tmp/d", "/tmp/l", "/proc", "/proc/self/exe", "/proc/self/fd/0", "/proc/self/maps", "/proc/self/mem",
    "/proc/self/status", "/proc/1/root", "/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts/0", "/sys", "/etc/passwd",
    "/nowhere/x", "", "/tmp/a/b/c/../../..", "/proc/self/task", "/dev/random", "/tmp/fifo", "/tmp/sock", "/proc/sys/kernel/hostname",
};

static uint64_t number(struct rng *r)
{
    switch (below(r, 4)) {
    case 0: return edges[below(r, COUNT(edges))];
    case 1: return below(r, 64);
    case 2: return 1ull << below(r, 64);
    default: return next(r) >> below(r, 64);
    }
}

static uint64_t pointer(struct rng *r)
{
    switch (below(r, 12)) {
    case 0: return 0;
    case 1: return (uint64_t)read_only + below(r, 4096);
    case 2: return (uint64_t)hole - below(r, 64);
    case 3: return edges[below(r, COUNT(edges))];
    case 4: return (uint64_t)area + AREA - below(r, 4096);
    default: return (uint64_t)area + (below(r, AREA - 65536) & ~7ull);
    }
}

/* A path, a number of words, an iovec, a msghdr, a sockaddr or nothing sensible, somewhere in the area. */
static uint64_t object(struct rng *r)
{
    uint64_t at = (uint64_t)area + (below(r, AREA / 2) & ~15ull);
    uint64_t *words = (uint64_t *)at;
    switch (below(r, 6)) {
    case 0:
        strcpy((char *)at, paths[below(r, COUNT(paths))]);
        break;
    case 1:
        for (int i = 0; i < 8; i++)
            words[i] = number(r);
        break;
    case 2: /* iovecs */
        for (int i = 0; i < 8; i++) {
            words[2 * i] = pointer(r);
            words[2 * i + 1] = below(r, 4) ? below(r, 70000) : number(r);
        }
        break;
    case 3: /* a msghdr with everything */
        words[0] = below(r, 2) ? 0 : pointer(r);
        words[1] = number(r) & 0xff;
        words[2] = at + 128;
        words[3] = below(r, 3);
        words[4] = at + 256;
        words[5] = below(r, 3) ? 64 : number(r);
        words[6] = 0;
        words[16] = pointer(r), words[17] = below(r, 5000);
        words[18] = pointer(r), words[19] = below(r, 5000);
        words[32] = below(r, 3) ? 16 + 4 * below(r, 8) : number(r);
        ((uint32_t *)at)[66] = below(r, 4) ? SOL_SOCKET : (uint32_t)number(r);
        ((uint32_t *)at)[67] = 1 + below(r, 3);
        for (int i = 0; i < 8; i++)
            ((uint32_t *)at)[68 + i] = below(r, 30);
        break;
    case 4: /* an address */
        ((uint16_t *)at)[0] = (uint16_t[]){AF_UNIX, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET}[below(r, 6)];
        strcpy((char *)at + 2, below(r, 2) ? "/tmp/sock" : "");
        break;
    default: /* times */
        for (int i = 0; i < 8; i += 2) {
            words[i] = below(r, 3) ? 0 : number(r);
            words[i + 1] = below(r, 3) ? below(r, 3000000) : number(r);
        }
    }
    return at;
}

static uint64_t argument(struct rng *r)
{
    switch (below(r, 5)) {
    case 0: return below(r, 40); /* a descriptor */
    case 1: return number(r);
    case 2: return pointer(r);
    default: return object(r);
    }
}

static uint64_t some_pid(struct rng *r)
{
    switch (below(r, 6)) {
    case 0: return getpid();
    case 1: return syscall(SYS_gettid);
    case 2: return (uint64_t)-(int64_t)getpid();
    case 3: return 0x7fffffff;
    case 4: return 99999;
    default: return 0;
    }
}

static void one_call(struct rng *r)
{
    uint64_t a[6];
    long nr = below(r, 64) ? (long)below(r, LAST_NUMBER) : (long)number(r);
    for (int i = 0; i < 6; i++)
        a[i] = argument(r);
    switch (nr) {
    case SYS_exit:
    case SYS_exit_group:
        if (below(r, 200))
            return;
        break;
    case SYS_fork:
    case SYS_vfork:
    case SYS_clone:
    case SYS_clone3:
        /* Children run on as fuzzers too: few of them. */
        if (below(r, 40))
            return;
        if (nr == SYS_clone)
            a[1] = below(r, 2) ? 0 : pointer(r);
        break;
    case SYS_execve:
    case SYS_execveat:
        if (below(r, 20))
            return;
        break;
    case SYS_pause:
    case SYS_rt_sigsuspend:
        if (below(r, 50))
            return;
        break;
    case SYS_kill:
    case SYS_tkill:
    case SYS_tgkill:
    case SYS_rt_sigqueueinfo:
    case SYS_rt_tgsigqueueinfo:
        a[1] = nr == SYS_kill && below(r, 4) ? below(r, 70) : a[1];
        /* fallthrough */
    case SYS_ptrace:
    case SYS_process_vm_readv:
    case SYS_process_vm_writev:
    case SYS_prlimit64:
    case SYS_setpgid:
    case SYS_pidfd_open:
    case SYS_kcmp:
    case SYS_migrate_pages:
    case SYS_move_pages:
        a[nr == SYS_ptrace ? 1 : 0] = some_pid(r);
        break;
    case SYS_reboot:
        return;
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_mremap:
    case SYS_madvise:
        /* Mostly its own. */
        if (below(r, 8))
            a[0] = ((uint64_t)area + AREA / 2 + (below(r, AREA / 2) & ~4095ull)), a[1] = below(r, 65536);
        break;
    case SYS_mmap:
        if (below(r, 4))
            a[0] = 0, a[1] = below(r, 1 << 20), a[3] = below(r, 2) ? MAP_PRIVATE | MAP_ANONYMOUS : a[3];
        break;
    }
    filler = (int)syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void *fuzz(void *seed)
{
    struct rng r = {(uint64_t)seed};
    for (;;)
        one_call(&r);
    return NULL;
}

static void descriptors(void)
{
    int pair[2];
    mkdir("/tmp/d", 0777);
    mkfifo("/tmp/fifo", 0666);
    (void)!symlink("/tmp/f", "/tmp/l");
    open("/tmp/f", O_RDWR | O_CREAT, 0666);
    open("/tmp/d", O_RDONLY | O_DIRECTORY);
    open("/etc/passwd", O_RDONLY);
    open("/tmp", O_PATH);
    open("/proc/self/status", O_RDONLY);
    open("/dev/zero", O_RDWR);
    open("/dev/ptmx", O_RDWR | O_NOCTTY);
    open("/tmp/fifo", O_RDWR | O_NONBLOCK);
    (void)!pipe2(pair, O_NONBLOCK);
    (void)!pipe2(pair, 0);
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair);
    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair);
    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair);
    socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, 0);
    eventfd(3, EFD_NONBLOCK);
    epoll_create1(0);
    timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    sigset_t set;
    sigfillset(&set);
    signalfd(-1, &set, SFD_NONBLOCK);
    memfd_create("fuzz", MFD_ALLOW_SEALING);
    syscall(SYS_inotify_init1, O_NONBLOCK);
    syscall(SYS_pidfd_open, getpid(), 0);
}

static void on_signal(int signal)
{
    (void)signal;
}

static void round_of(uint64_t seed)
{
    struct rng r = {seed};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_NODEFER};
    setsid();
    for (int signal = 1; signal < 65; signal++)
        if (signal != SIGSEGV && signal != SIGBUS && signal != SIGILL && signal != SIGALRM && signal != SIGTRAP)
            sigaction(signal, &action, NULL);
    struct rlimit files = {256, 256};
    setrlimit(RLIMIT_NOFILE, &files);
    area = mmap(NULL, AREA + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    hole = area + AREA;
    munmap(hole, 4096);
    read_only = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    descriptors();
    if (seed & 1) {
        (void)!setgid(1000);
        (void)!setuid(1000);
    }
    /* Whoever it starts dies with it. */
    alarm(ROUND_SECONDS);
    int threads = 1 + below(&r, THREADS);
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, fuzz, (void *)next(&r));
    }
    fuzz((void *)next(&r));
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    long seconds = argc > 2 ? atol(argv[2]) : 10;
    time_t end = time(NULL) + seconds;
    long rounds = 0;
    signal(SIGCHLD, SIG_DFL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (; time(NULL) < end; rounds++) {
        printf("round %llu\n", (unsigned long long)(seed + rounds));
        pid_t child = fork();
        if (child == 0) {
            int null = open("/dev/null", O_RDWR);
            dup2(null, 0), dup2(null, 1), dup2(null, 2);
            round_of(seed + rounds);
            _exit(0);
        }
        if (child < 0) {
            printf("cannot fork: %s\n", strerror(errno));
            usleep(100000);
        }
        time_t late = time(NULL) + ROUND_SECONDS + 2;
        int gone = child < 0;
        while (!gone && time(NULL) < late) {
            pid_t found = waitpid(-1, NULL, WNOHANG);
            gone = found == child;
            if (found <= 0)
                usleep(2000);
        }
        /* Nothing but init outlives a round. */
        kill(-1, SIGKILL);
        for (int i = 0; i < 1000 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
            usleep(1000);
    }
    printf("done %ld rounds\n", rounds);
    return 0;
}
