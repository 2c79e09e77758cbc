// Moving data in the kernel: sendfile, splice, tee, vmsplice, copy_file_range; reads and writes with flags.
#include "abi.h"
#include <sys/sendfile.h>
#include <sys/socket.h>
#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x20
#endif

static int p[2], q[2];
static char buf[1 << 17] __attribute__((aligned(4096)));
static void pipes(void) { OK(pipe(p)); OK(pipe(q)); }

CASE(splice_file_to_pipe_and_back) {
    pipes();
    int in = file_with("in", "0123456789"), out = OK(open("out", O_RDWR | O_CREAT, 0600));
    loff_t at = 3;
    EQ(splice(in, &at, p[1], NULL, 4, 0), 4);
    EQ(at, 7);
    EQ(lseek(in, 0, SEEK_CUR), 0);
    EQ(splice(in, NULL, p[1], NULL, 2, 0), 2);
    EQ(lseek(in, 0, SEEK_CUR), 2);
    loff_t to = 5;
    EQ(splice(p[0], NULL, out, &to, 100, 0), 6);
    EQ(to, 11);
    EQ(pread(out, buf, 20, 0), 11);
    CHECK(!memcmp(buf, "\0\0\0\0\0" "345601", 11));
    EQ(splice(in, &(loff_t){100}, p[1], NULL, 4, 0), 0); // past the end
    EQ(splice(in, NULL, p[1], NULL, 0, 0), 0);
}

CASE(splice_errors) {
    pipes();
    int f = file_with("f", "abc"), g = file_with("g", "abc");
    loff_t at = 0, neg = -1;
    ERR(splice(f, NULL, g, NULL, 1, 0), EINVAL); // no pipe
    ERR(splice(p[0], &at, f, NULL, 1, 0), ESPIPE);
    ERR(splice(f, NULL, p[1], &at, 1, 0), ESPIPE);
    ERR(splice(p[0], NULL, p[1], NULL, 1, 0), EINVAL); // the same pipe
    ERR(splice(-1, NULL, p[1], NULL, 1, 0), EBADF);
    ERR(splice(f, NULL, -1, NULL, 1, 0), EBADF);
    ERR(splice(p[1], NULL, f, NULL, 1, 0), EBADF);
    ERR(splice(f, NULL, p[0], NULL, 1, 0), EBADF);
    ERR(splice(f, NULL, p[1], NULL, 1, 0x100), EINVAL);
    ERR(splice(f, &neg, p[1], NULL, 1, 0), EINVAL);
    ERR(syscall(SYS_splice, f, BAD, p[1], NULL, 1, 0), EFAULT);
    ERR(splice(p[0], NULL, q[1], NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
    int a = OK(open("f", O_WRONLY | O_APPEND));
    EQ(write(p[1], "x", 1), 1);
    ERR(splice(p[0], NULL, a, NULL, 1, 0), EINVAL);
    close(q[0]);
    handle(SIGPIPE, 0);
    ERR(splice(p[0], NULL, q[1], NULL, 1, 0), EPIPE);
    EQ(hits, 1);
    close(p[1]);
    EQ(read(p[0], buf, 2), 1);
    int o = OK(open("f", O_RDWR));
    EQ(splice(p[0], NULL, o, NULL, 1, 0), 0); // no writer left
}

CASE(splice_waits) {
    pipes();
    INTERRUPTED(splice(p[0], NULL, q[1], NULL, 1, 0));
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(30); EQ(write(p[1], "late", 4), 4); _exit(0); }
    EQ(splice(p[0], NULL, q[1], NULL, 100, 0), 4);
    EXITS(pid, 0);
    EQ(read(q[0], buf, 100), 4);
}

// Whoever reads while the last bytes are on their way to a file gets what is left, and both come to an end.
CASE(splice_and_a_reader_share_the_last_bytes) {
    for (int i = 0; i < 20; i++) {
        pipes();
        EQ(write(p[1], buf, 65536), 65536);
        pid_t pid = OK(fork());
        close(p[1]);
        if (!pid) {
            close(q[0]);
            int out = OK(open("out", O_WRONLY | O_CREAT | O_TRUNC | O_DSYNC, 0600));
            loff_t sum = 0;
            ssize_t n;
            while ((n = splice(p[0], NULL, out, NULL, 20000, 0)) > 0) sum += n;
            EQ(n, 0);
            EQ(write(q[1], &sum, sizeof sum), sizeof sum);
            _exit(0);
        }
        loff_t sum = 0, theirs;
        ssize_t n;
        while ((n = read(p[0], buf, 5000)) > 0) sum += n;
        EQ(n, 0);
        EQ(read(q[0], &theirs, sizeof theirs), sizeof theirs);
        EQ(sum + theirs, 65536);
        EXITS(pid, 0);
        close(p[0]); close(q[0]); close(q[1]);
    }
}

CASE(splice_sockets) {
    pipes();
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    EQ(write(p[1], "to socket", 9), 9);
    EQ(splice(p[0], NULL, s[0], NULL, 100, 0), 9);
    EQ(splice(s[1], NULL, q[1], NULL, 100, 0), 9);
    EQ(read(q[0], buf, 100), 9);
    CHECK(!memcmp(buf, "to socket", 9));
}

CASE(tee_keeps) {
    pipes();
    EQ(write(p[1], "tee", 3), 3);
    EQ(tee(p[0], q[1], 100, 0), 3);
    EQ(tee(p[0], q[1], 2, 0), 2);
    EQ(read(q[0], buf, 100), 5);
    CHECK(!memcmp(buf, "teete", 5));
    EQ(read(p[0], buf, 100), 3);
    ERR(tee(p[0], q[1], 1, SPLICE_F_NONBLOCK), EAGAIN);
    ERR(tee(p[0], p[1], 1, 0), EINVAL);
    int f = file_with("f", "abc");
    ERR(tee(f, q[1], 1, 0), EINVAL);
    ERR(tee(p[0], f, 1, 0), EINVAL);
    ERR(tee(-1, q[1], 1, 0), EBADF);
    ERR(tee(p[1], q[1], 1, 0), EBADF);
    ERR(tee(p[0], q[1], 1, 0x100), EINVAL);
    EQ(tee(p[0], q[1], 0, 0), 0);
}

CASE(vmsplice_both_ways) {
    pipes();
    struct iovec v[2] = {{"ab", 2}, {"cde", 3}};
    EQ(vmsplice(p[1], v, 2, 0), 5);
    char a[2], b[9];
    struct iovec r[2] = {{a, 2}, {b, 9}};
    EQ(vmsplice(p[0], r, 2, 0), 5);
    CHECK(!memcmp(a, "ab", 2) && !memcmp(b, "cde", 3));
    ERR(vmsplice(file_with("f", "x"), v, 1, 0), EBADF);
    ERR(vmsplice(-1, v, 1, 0), EBADF);
    ERR(vmsplice(p[1], v, 1, 0x100), EINVAL);
    ERR(vmsplice(p[1], BAD, 1, 0), EFAULT);
    ERR(vmsplice(p[1], v, 1025, 0), EINVAL);
    EQ(vmsplice(p[1], v, 0, 0), 0);
    fcntl(p[1], F_SETPIPE_SZ, 4096);
    struct iovec big = {buf, 4096};
    EQ(vmsplice(p[1], &big, 1, 0), 4096);
    ERR(vmsplice(p[1], &big, 1, SPLICE_F_NONBLOCK), EAGAIN);
    // Not more than has room, though it may wait.
    struct iovec more = {buf, sizeof buf};
    EQ(vmsplice(q[1], &more, 1, 0), 65536);
}

CASE(sendfile_rules) {
    pipes();
    int in = file_with("in", "0123456789"), out = OK(open("out", O_RDWR | O_CREAT, 0600));
    off_t at = 2;
    EQ(sendfile(out, in, &at, 5), 5);
    EQ(at, 7);
    EQ(lseek(in, 0, SEEK_CUR), 0);
    EQ(sendfile(out, in, NULL, 100), 10);
    EQ(lseek(in, 0, SEEK_CUR), 10);
    EQ(lseek(out, 0, SEEK_CUR), 15);
    EQ(sendfile(p[1], in, &(off_t){8}, 100), 2);
    EQ(sendfile(out, in, &(off_t){100}, 1), 0);
    ERR(sendfile(out, p[0], NULL, 1), EINVAL);
    ERR(sendfile(-1, in, NULL, 1), EBADF);
    ERR(sendfile(out, -1, NULL, 1), EBADF);
    ERR(sendfile(OK(open("out", O_RDONLY)), in, NULL, 1), EBADF);
    ERR(sendfile(out, OK(open("in", O_WRONLY)), NULL, 1), EBADF);
    ERR(sendfile(out, in, &(off_t){-1}, 1), EINVAL);
    ERR(syscall(SYS_sendfile, out, in, BAD, 1), EFAULT);
    ERR(sendfile(OK(open("out", O_WRONLY | O_APPEND)), in, &(off_t){0}, 1), EINVAL);
}

CASE(copy_file_range_rules) {
    int in = file_with("in", "0123456789"), out = OK(open("out", O_RDWR | O_CREAT, 0600));
    loff_t a = 2, b = 4;
    EQ(copy_file_range(in, &a, out, &b, 3, 0), 3);
    EQ(a, 5);
    EQ(b, 7);
    EQ(copy_file_range(in, NULL, out, NULL, 100, 0), 10);
    EQ(lseek(in, 0, SEEK_CUR), 10);
    EQ(copy_file_range(in, NULL, out, NULL, 100, 0), 0);
    EQ(pread(out, buf, 100, 0), 10);
    CHECK(!memcmp(buf, "0123456789", 10));
    ERR(copy_file_range(in, NULL, out, NULL, 1, 1), EINVAL);
    ERR(copy_file_range(in, &(loff_t){0}, in, &(loff_t){2}, 5, 0), EINVAL); // overlaps
    EQ(copy_file_range(in, &(loff_t){0}, in, &(loff_t){5}, 5, 0), 5);
    ERR(copy_file_range(in, NULL, OK(open("out", O_WRONLY | O_APPEND)), NULL, 1, 0), EBADF);
    ERR(copy_file_range(in, NULL, OK(open("out", O_RDONLY)), NULL, 1, 0), EBADF);
    ERR(copy_file_range(OK(open("in", O_WRONLY)), NULL, out, NULL, 1, 0), EBADF);
    ERR(copy_file_range(OK(open(".", O_RDONLY)), NULL, out, NULL, 1, 0), EISDIR);
    pipes();
    ERR(copy_file_range(p[0], NULL, out, NULL, 1, 0), EINVAL);
    ERR(syscall(SYS_copy_file_range, in, BAD, out, NULL, 1, 0), EFAULT);
}

CASE(preadv2_and_pwritev2) {
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    struct iovec w = {"abc", 3}, r = {buf, 10};
    EQ(pwritev2(fd, &w, 1, 0, RWF_DSYNC), 3);
    EQ(pwritev2(fd, &w, 1, 3, RWF_SYNC), 3);
    EQ(preadv2(fd, &r, 1, 0, RWF_HIPRI), 6);
    EQ(preadv2(fd, &r, 1, -1, 0), 6);
    EQ(lseek(fd, 0, SEEK_CUR), 6);
    ERR(preadv2(fd, &r, 1, 0, 0x40000000), EOPNOTSUPP);
    ERR(preadv2(fd, &r, 1, -2, 0), EINVAL);
    ERR(preadv2(-1, &r, 1, 0, 0), EBADF);
    pipes();
    ERR(preadv2(p[0], &r, 1, 0, 0), ESPIPE);
}
CASE(rwf_append) {
    needs(6, 7); // before, an overlay did not pass it on
    int fd = file_with("f", "abcdef");
    struct iovec w = {"ghi", 3};
    EQ(pwritev2(fd, &w, 1, 0, RWF_APPEND), 3);
    EQ(pread(fd, buf, 10, 0), 9);
    CHECK(!memcmp(buf, "abcdefghi", 9));
}
CASE(rwf_nowait_on_pipes) {
    needs(6, 4);
    pipes();
    struct iovec r = {buf, 10};
    ERR(preadv2(p[0], &r, 1, -1, RWF_NOWAIT), EAGAIN);
    EQ(write(p[1], "abc", 3), 3);
    EQ(preadv2(p[0], &r, 1, -1, RWF_NOWAIT), 3);
}
CASE(rwf_noappend) {
    needs(6, 9);
    int fd = file_with("f", "abcabcabc"), app = OK(open("f", O_WRONLY | O_APPEND));
    struct iovec w = {"X", 1};
    EQ(pwritev2(app, &w, 1, 1, RWF_NOAPPEND), 1);
    EQ(pread(fd, buf, 10, 0), 9);
    EQ(buf[1], 'X');
    ERR(pwritev2(app, &w, 1, 1, RWF_NOAPPEND | RWF_APPEND), EINVAL);
}

#include <sys/timerfd.h>
CASE(what_cannot_be_spliced) {
    pipes();
    int t = OK(timerfd_create(CLOCK_MONOTONIC, 0)), d = OK(open(".", O_RDONLY)), f = file_with("f", "abc");
    ERR(splice(t, NULL, p[1], NULL, 8, 0), EINVAL);
    ERR(splice(d, NULL, p[1], NULL, 8, 0), EINVAL);
    EQ(write(p[1], "abc", 3), 3);
    ERR(sendfile(p[1], t, NULL, 1), EINVAL);
    ERR(sendfile(p[1], q[0], &(off_t){0}, 1), ESPIPE);
    int null = OK(open("/dev/null", O_RDWR));
    EQ(splice(p[0], NULL, null, NULL, 3, 0), 3);
    EQ(sendfile(null, f, NULL, 3), 3);
}
CASE(zeroes_can_be_spliced) {
    needs(6, 5);
    pipes();
    int zero = OK(open("/dev/zero", O_RDONLY));
    EQ(splice(zero, NULL, p[1], NULL, 100, 0), 100);
    EQ(read(p[0], buf, 100), 100);
    for (int i = 0; i < 100; i++) EQ(buf[i], 0);
}

static void limited_to(rlim_t bytes) {
    soft_limit(RLIMIT_FSIZE, bytes);
    handle(SIGXFSZ, 0);
}
CASE(files_do_not_grow_past_the_limit) {
    pipes();
    int in = file_with("in", "0123456789");
    struct stat st;
    for (int how = 0; how < 3; how++) {
        int out = OK(open("out", O_RDWR | O_CREAT | O_TRUNC, 0600));
        limited_to(4);
        hits = 0;
        lseek(in, 0, SEEK_SET);
        if (how == 1) EQ(write(p[1], "0123456789", 10), 10);
        ssize_t n = how == 0 ? sendfile(out, in, NULL, 10) : how == 1 ? splice(p[0], NULL, out, NULL, 10, 0) : copy_file_range(in, NULL, out, NULL, 10, 0);
        EQ(n, 4);
        OK(fstat(out, &st));
        EQ(st.st_size, 4);
        hits = 0;
        if (how == 0) ERR(sendfile(out, in, NULL, 1), EFBIG);
        if (how == 1) ERR(splice(p[0], NULL, out, NULL, 10, 0), EFBIG);
        if (how == 2) ERR(copy_file_range(in, NULL, out, NULL, 1, 0), EFBIG);
        EQ(hits, 1);
        EQ(last_sig, SIGXFSZ);
        limited_to(RLIM_INFINITY);
        close(out);
    }
}

// Two that take from one pipe: each byte goes to one of them.
enum { TOKENS = 40000 };
static unsigned char seen[TOKENS];
static int files[2];
static void *splices(void *arg) {
    int out = *(int *)arg;
    while (splice(p[0], NULL, out, NULL, 400, 0) > 0) {}
    return NULL;
}
CASE(a_shared_pipe_is_split_without_loss) {
    pipes();
    pthread_t t[2];
    for (int i = 0; i < 2; i++) {
        files[i] = OK(open(i ? "b" : "a", O_RDWR | O_CREAT, 0600));
        pthread_create(&t[i], NULL, splices, &files[i]);
    }
    for (uint32_t i = 0; i < TOKENS; i++) EQ(write(p[1], &i, 4), 4);
    close(p[1]);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < 2; i++) {
        uint32_t token;
        for (off_t at = 0; pread(files[i], &token, 4, at) == 4; at += 4) {
            CHECK(token < TOKENS);
            EQ(seen[token]++, 0);
        }
    }
    for (int i = 0; i < TOKENS; i++) EQ(seen[i], 1);
}
