// Asynchronous I/O, by the system calls (as libaio makes them).
#include "abi.h"
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/eventfd.h>

static long io_setup(unsigned n, aio_context_t *c) { return syscall(SYS_io_setup, n, c); }
static long io_destroy(aio_context_t c) { return syscall(SYS_io_destroy, c); }
static long io_submit(aio_context_t c, long n, struct iocb **l) { return syscall(SYS_io_submit, c, n, l); }
static long io_getevents(aio_context_t c, long min, long n, struct io_event *e, struct timespec *t) { return syscall(SYS_io_getevents, c, min, n, e, t); }
static long io_cancel(aio_context_t c, struct iocb *i, struct io_event *e) { return syscall(SYS_io_cancel, c, i, e); }

static aio_context_t ctx;
static void start(void) {
    ctx = 0;
    OK(io_setup(32, &ctx));
    CHECK(ctx != 0);
}
static struct iocb request(int op, int fd, void *buf, size_t n, long long off) {
    return (struct iocb){.aio_lio_opcode = op, .aio_fildes = fd, .aio_buf = (uintptr_t)buf, .aio_nbytes = n, .aio_offset = off, .aio_data = 77};
}
// Submits one request and gives its result.
static long result(struct iocb *i) {
    struct io_event e;
    EQ(io_submit(ctx, 1, &i), 1);
    EQ(io_getevents(ctx, 1, 1, &e, NULL), 1);
    EQ(e.data, 77);
    EQ(e.obj, (uintptr_t)i);
    EQ(e.res2, 0);
    return e.res;
}

CASE(setup_and_destroy) {
    aio_context_t c = 0;
    ERR(io_setup(0, &c), EINVAL);
    ERR(io_setup(1, BAD), EFAULT);
    c = 1;
    ERR(io_setup(1, &c), EINVAL);
    c = 0;
    ERR(io_setup(-1, &c), EINVAL);
    ERR(io_setup(1000000, &c), EAGAIN);
    OK(io_setup(10, &c));
    OK(io_destroy(c));
    ERR(io_destroy(c), EINVAL);
    ERR(io_destroy(0), EINVAL);
}

CASE(reads_and_writes) {
    start();
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    char b[16];
    struct iocb w = request(IOCB_CMD_PWRITE, fd, "hello world", 11, 0), r = request(IOCB_CMD_PREAD, fd, b, 16, 6);
    EQ(result(&w), 11);
    EQ(result(&r), 5);
    CHECK(!memcmp(b, "world", 5));
    EQ(lseek(fd, 0, SEEK_CUR), 0);
    struct iovec v[2] = {{"ab", 2}, {"cd", 2}}, rv[2] = {{b, 1}, {b + 4, 9}};
    w = request(IOCB_CMD_PWRITEV, fd, v, 2, 0);
    r = request(IOCB_CMD_PREADV, fd, rv, 2, 0);
    EQ(result(&w), 4);
    EQ(result(&r), 10);
    CHECK(b[0] == 'a' && !memcmp(b + 4, "bcdo worl", 9));
    struct iocb s = request(IOCB_CMD_FSYNC, fd, NULL, 0, 0), d = request(IOCB_CMD_FDSYNC, fd, NULL, 0, 0);
    EQ(result(&s), 0);
    EQ(result(&d), 0);
    r = request(IOCB_CMD_PREAD, fd, b, 16, 100);
    EQ(result(&r), 0);
}

CASE(many_at_once) {
    start();
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    struct iocb w[20], *l[20];
    struct io_event e[20];
    for (int i = 0; i < 20; i++) {
        w[i] = request(IOCB_CMD_PWRITE, fd, "0123456789" + i % 10, 1, i);
        w[i].aio_data = i;
        l[i] = &w[i];
    }
    EQ(io_submit(ctx, 20, l), 20);
    EQ(io_getevents(ctx, 5, 8, e, NULL), 8);
    EQ(io_getevents(ctx, 12, 20, e + 8, NULL), 12);
    int seen = 0;
    for (int i = 0; i < 20; i++) {
        EQ(e[i].res, 1);
        seen |= 1 << e[i].data;
    }
    EQ(seen, (1 << 20) - 1);
    CHECK(!strcmp(slurp("f"), "01234567890123456789"));
}

CASE(bad_requests) {
    start();
    int fd = file_with("f", "abc"), ro = OK(open("f", O_RDONLY)), wo = OK(open("f", O_WRONLY));
    char b[8];
    struct iocb i = request(IOCB_CMD_PREAD, 999, b, 8, 0), *l = &i;
    ERR(io_submit(ctx, 1, &l), EBADF);
    i = request(IOCB_CMD_PREAD, wo, b, 8, 0);
    ERR(io_submit(ctx, 1, &l), EBADF);
    i = request(IOCB_CMD_PWRITE, ro, b, 8, 0);
    ERR(io_submit(ctx, 1, &l), EBADF);
    i = request(99, fd, b, 8, 0);
    ERR(io_submit(ctx, 1, &l), EINVAL);
    i = request(IOCB_CMD_PREAD, fd, b, -1, 0);
    ERR(io_submit(ctx, 1, &l), EINVAL);
    i = request(IOCB_CMD_PREAD, fd, b, 8, -1);
    ERR(io_submit(ctx, 1, &l), EINVAL);
    i = request(IOCB_CMD_PREAD, fd, b, 8, 0);
    i.aio_reserved2 = 1;
    ERR(io_submit(ctx, 1, &l), EINVAL);
    i = request(IOCB_CMD_FSYNC, fd, b, 8, 0);
    ERR(io_submit(ctx, 1, &l), EINVAL);
    i = request(IOCB_CMD_PREAD, fd, b, 8, 0);
    i.aio_flags = IOCB_FLAG_RESFD;
    i.aio_resfd = fd;
    ERR(io_submit(ctx, 1, &l), EINVAL);
    ERR(io_submit(ctx, -1, &l), EINVAL);
    ERR(io_submit(0, 1, &l), EINVAL);
    ERR(io_submit(ctx, 1, BAD), EFAULT);
    l = BAD;
    ERR(io_submit(ctx, 1, &l), EFAULT);
    EQ(io_submit(ctx, 0, NULL), 0);
    // The second of two fails: one was taken.
    i = request(IOCB_CMD_PREAD, fd, b, 8, 0);
    struct iocb bad = request(99, fd, b, 8, 0), *two[2] = {&i, &bad};
    EQ(io_submit(ctx, 2, two), 1);
    i = request(IOCB_CMD_PREAD, OK(open(".", O_RDONLY)), b, 8, 0);
    l = &i;
    struct io_event e[2];
    EQ(io_getevents(ctx, 1, 2, e, NULL), 1);
    EQ(e[0].res, 3);
}

CASE(getting_events) {
    start();
    struct io_event e;
    struct timespec none = {0, 0}, some = {0, 30000000};
    EQ(io_getevents(ctx, 0, 1, &e, NULL), 0);
    EQ(io_getevents(ctx, 1, 1, &e, &none), 0);
    long long at = mono_ms();
    EQ(io_getevents(ctx, 1, 1, &e, &some), 0);
    CHECK(mono_ms() - at >= 25);
    ERR(io_getevents(ctx, 2, 1, &e, NULL), EINVAL);
    ERR(io_getevents(ctx, -1, 1, &e, NULL), EINVAL);
    ERR(io_getevents(0, 0, 1, &e, NULL), EINVAL);
    ERR(io_getevents(ctx, 1, 1, &e, BAD), EFAULT);
    INTERRUPTED(io_getevents(ctx, 1, 1, &e, NULL));
    int fd = file_with("f", "abc");
    char b[8];
    struct iocb i = request(IOCB_CMD_PREAD, fd, b, 8, 0), *l = &i;
    EQ(io_submit(ctx, 1, &l), 1);
    ERR(io_getevents(ctx, 1, 1, BAD, NULL), EFAULT);
}

CASE(the_ring_is_in_user_memory) {
    start();
    struct ring { unsigned id, nr, head, tail, magic, compat, incompat, len; struct io_event e[]; } *ring = (void *)ctx;
    EQ(ring->magic, 0xa10a10a1);
    EQ(ring->len, 32);
    CHECK(ring->nr >= 32 && ring->incompat == 0);
    int fd = file_with("f", "abc");
    char b[8];
    struct iocb i = request(IOCB_CMD_PREAD, fd, b, 8, 0), *l = &i;
    EQ(io_submit(ctx, 1, &l), 1);
    unsigned head = ring->head;
    EQ(ring->tail, (head + 1) % ring->nr);
    EQ(ring->e[head].data, 77);
    EQ(ring->e[head].res, 3);
    ring->head = (head + 1) % ring->nr; // taken without a call
    struct io_event e;
    EQ(io_getevents(ctx, 0, 1, &e, NULL), 0);
    EQ(result(&i), 3);
}

CASE(eventfd_tells) {
    start();
    int fd = file_with("f", "abc"), ev = OK(eventfd(0, EFD_NONBLOCK));
    char b[8];
    struct iocb i[3], *l[3];
    for (int n = 0; n < 3; n++) {
        i[n] = request(IOCB_CMD_PREAD, fd, b, 8, 0);
        i[n].aio_flags = IOCB_FLAG_RESFD;
        i[n].aio_resfd = ev;
        l[n] = &i[n];
    }
    EQ(io_submit(ctx, 3, l), 3);
    uint64_t n;
    EQ(read(ev, &n, 8), 8);
    EQ(n, 3);
}

CASE(poll_completes_later) {
    start();
    int p[2];
    OK(pipe(p));
    struct iocb i = request(IOCB_CMD_POLL, p[0], (void *)POLLIN, 0, 0), *l = &i;
    struct io_event e;
    EQ(io_submit(ctx, 1, &l), 1);
    EQ(io_getevents(ctx, 0, 1, &e, NULL), 0);
    EQ(write(p[1], "x", 1), 1);
    EQ(io_getevents(ctx, 1, 1, &e, NULL), 1);
    CHECK(e.res & POLLIN);
    CHECK(result(&i) & POLLIN);
}

CASE(cancel_a_poll) {
    start();
    int p[2];
    OK(pipe(p));
    struct iocb i = request(IOCB_CMD_POLL, p[0], (void *)POLLIN, 0, 0), *l = &i;
    struct io_event e;
    EQ(io_submit(ctx, 1, &l), 1);
    ERR(io_cancel(ctx, &i, &e), EINPROGRESS);
    EQ(io_getevents(ctx, 1, 1, &e, NULL), 1);
    ERR(io_cancel(ctx, &i, &e), EINVAL);
    ERR(io_cancel(0, &i, &e), EINVAL);
    ERR(io_cancel(ctx, BAD, &e), EFAULT);
}

CASE(contexts_are_not_inherited) {
    start();
    IN_CHILD(ERR(io_destroy(ctx), EINVAL));
    OK(io_destroy(ctx));
}

CASE(pgetevents_sets_a_mask) {
    start();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    OK(sigprocmask(SIG_BLOCK, &set, NULL));
    handle(SIGUSR1, 0);
    kill(getpid(), SIGUSR1);
    sigemptyset(&set);
    struct { sigset_t *set; size_t size; } arg = {&set, 8};
    struct io_event e;
    ERR(syscall(SYS_io_pgetevents, ctx, 1, 1, &e, NULL, &arg), EINTR);
    EQ(hits, 1);
    arg.size = 4;
    ERR(syscall(SYS_io_pgetevents, ctx, 1, 1, &e, NULL, &arg), EINVAL);
}

static long aio_nr(void) { return atol(slurp("/proc/sys/fs/aio-nr")); }
CASE(requests_of_all_contexts_are_limited) {
    if (atol(slurp("/proc/sys/fs/aio-max-nr")) != 65536) return; // somebody else's tuning
    aio_context_t a = 0, b = 0;
    long before = aio_nr();
    OK(io_setup(1000, &a));
    CHECK(aio_nr() >= before + 1000);
    IN_CHILD(aio_context_t other = 0; ERR(io_setup(64600, &other), EAGAIN));
    OK(io_destroy(a));
    a = 0;
    OK(io_setup(40000, &a));
    ERR(io_setup(40000, &b), EAGAIN);
    OK(io_destroy(a));
    OK(io_setup(40000, &b));
}
