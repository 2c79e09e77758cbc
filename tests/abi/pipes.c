// Pipes and fifos: packets, sizes, opening rules, readiness.
#include "abi.h"
#include <poll.h>
#include <sys/ioctl.h>

static int p[2];
static char buf[1 << 20];
static int events(int fd) {
    struct pollfd f = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&f, 1, 0);
    return f.revents;
}

CASE(packets_stay_apart) {
    OK(pipe2(p, O_DIRECT | O_NONBLOCK));
    CHECK(fcntl(p[1], F_GETFL) & O_DIRECT);
    EQ(write(p[1], "one", 3), 3);
    EQ(write(p[1], "second", 6), 6);
    EQ(write(p[1], "third", 5), 5);
    int n;
    OK(ioctl(p[0], FIONREAD, &n));
    EQ(n, 14);
    EQ(read(p[0], buf, 100), 3);
    CHECK(!memcmp(buf, "one", 3));
    EQ(read(p[0], buf, 2), 2); // the rest of the packet is lost
    EQ(read(p[0], buf, 100), 5);
    CHECK(!memcmp(buf, "third", 5));
    ERR(read(p[0], buf, 1), EAGAIN);
    // Large writes are cut into packets of a page.
    EQ(write(p[1], buf, 5000), 5000);
    EQ(read(p[0], buf, 10000), 4096);
    EQ(read(p[0], buf, 10000), 904);
}

CASE(packets_take_a_page_each) {
    OK(pipe2(p, O_DIRECT | O_NONBLOCK));
    int n = 0;
    while (write(p[1], "x", 1) == 1) n++;
    EQ(errno, EAGAIN);
    EQ(n, fcntl(p[1], F_GETPIPE_SZ) / 4096);
    EQ(read(p[0], buf, 10), 1);
    EQ(write(p[1], "y", 1), 1);
}

CASE(packet_mode_can_be_set) {
    OK(pipe2(p, O_NONBLOCK));
    OK(fcntl(p[1], F_SETFL, O_NONBLOCK | O_DIRECT));
    EQ(write(p[1], "ab", 2), 2);
    EQ(write(p[1], "cd", 2), 2);
    OK(fcntl(p[1], F_SETFL, O_NONBLOCK));
    EQ(write(p[1], "ef", 2), 2);
    EQ(write(p[1], "gh", 2), 2);
    EQ(read(p[0], buf, 100), 2);
    EQ(read(p[0], buf, 100), 2);
    EQ(read(p[0], buf, 100), 4);
}

CASE(sizes) {
    OK(pipe(p));
    EQ(fcntl(p[0], F_GETPIPE_SZ), 65536);
    EQ(fcntl(p[0], F_SETPIPE_SZ, 1), 4096);
    EQ(fcntl(p[1], F_SETPIPE_SZ, 5000), 8192);
    EQ(fcntl(p[1], F_SETPIPE_SZ, 70000), 131072);
    EQ(write(p[1], buf, 100000), 100000);
    ERR(fcntl(p[1], F_SETPIPE_SZ, 65536), EBUSY);
    EQ(fcntl(p[0], F_GETPIPE_SZ), 131072);
    ERR(fcntl(p[1], F_SETPIPE_SZ, 0x80000001u), EINVAL);
    IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); ERR(fcntl(p[1], F_SETPIPE_SZ, (1 << 20) + 1), EPERM); EQ(fcntl(p[1], F_SETPIPE_SZ, 1 << 20), 1 << 20));
    ERR(fcntl(OK(open("/dev/null", O_RDWR)), F_GETPIPE_SZ), EBADF);
    ERR(pipe2(p, 0x1), EINVAL);
    ERR(syscall(SYS_pipe2, BAD, 0), EFAULT);
}

CASE(readiness) {
    OK(pipe2(p, O_NONBLOCK));
    EQ(events(p[0]), 0);
    EQ(events(p[1]), POLLOUT);
    EQ(write(p[1], buf, 65536), 65536);
    EQ(events(p[0]), POLLIN);
    EQ(events(p[1]), 0);
    EQ(read(p[0], buf, 4096), 4096);
    EQ(events(p[1]), POLLOUT);
    close(p[1]);
    EQ(events(p[0]), POLLIN | POLLHUP);
    while (read(p[0], buf, sizeof buf) > 0) {}
    EQ(events(p[0]), POLLHUP);
    OK(pipe(p));
    close(p[0]);
    EQ(events(p[1]), POLLOUT | POLLERR);
}

CASE(a_large_write_is_whole_in_the_end) {
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) {
        close(p[1]);
        size_t sum = 0;
        ssize_t n;
        while ((n = read(p[0], buf, 7777)) > 0) sum += n;
        _exit(sum != 300000);
    }
    close(p[0]);
    EQ(write(p[1], buf, 300000), 300000);
    close(p[1]);
    EXITS(pid, 0);
}

// A writer that waits for a reader may be gone again before the reader's open ends, and the other way round.
CASE(fifo_partners_that_leave_at_once) {
    OK(mkfifo("f", 0600));
    for (int i = 0; i < 300; i++) {
        pid_t pid = OK(fork());
        int mode = i % 2 ? O_WRONLY : O_RDONLY;
        if (!pid) _exit(close(open("f", mode)));
        alarm(20);
        OK(close(OK(open("f", mode == O_RDONLY ? O_WRONLY : O_RDONLY))));
        EXITS(pid, 0);
    }
    alarm(0);
}

CASE(fifo_opening) {
    OK(mkfifo("f", 0600));
    ERR(open("f", O_WRONLY | O_NONBLOCK), ENXIO);
    int r = OK(open("f", O_RDONLY | O_NONBLOCK));
    EQ(events(r), 0); // no writer yet: not hung up
    EQ(read(r, buf, 1), 0);
    int w = OK(open("f", O_WRONLY | O_NONBLOCK));
    EQ(write(w, "x", 1), 1);
    EQ(events(r), POLLIN);
    close(w);
    EQ(read(r, buf, 2), 1);
    EQ(read(r, buf, 1), 0);
    EQ(events(r), POLLHUP);
    close(r);
    int both = OK(open("f", O_RDWR));
    EQ(write(both, "ab", 2), 2);
    EQ(read(both, buf, 2), 2);
    close(both);
    INTERRUPTED(open("f", O_RDONLY));
    INTERRUPTED(open("f", O_WRONLY));
    pid_t pid = OK(fork());
    if (!pid) _exit(read(OK(open("f", O_RDONLY)), buf, 3) != 3);
    EQ(write(OK(open("f", O_WRONLY)), "abc", 3), 3);
    EXITS(pid, 0);
    ERR(lseek(OK(open("f", O_RDWR)), 0, SEEK_SET), ESPIPE);
    struct stat st;
    OK(stat("f", &st));
    CHECK(S_ISFIFO(st.st_mode));
}

CASE(wrong_ends) {
    OK(pipe(p));
    ERR(read(p[1], buf, 1), EBADF);
    ERR(write(p[0], "x", 1), EBADF);
    close(p[0]);
    handle(SIGPIPE, 0);
    ERR(write(p[1], "x", 1), EPIPE);
    EQ(hits, 1);
    ERR(ioctl(p[1], TCGETS, buf), ENOTTY);
}

CASE(sigio_tells_of_data) {
    OK(pipe(p));
    handle(SIGIO, 0);
    OK(fcntl(p[0], F_SETOWN, getpid()));
    EQ(fcntl(p[0], F_GETOWN), getpid());
    OK(fcntl(p[0], F_SETFL, O_ASYNC));
    CHECK(fcntl(p[0], F_GETFL) & O_ASYNC);
    EQ(write(p[1], "x", 1), 1);
    EQ(hits, 1);
    OK(fcntl(p[0], F_SETFL, 0));
    EQ(write(p[1], "x", 1), 1);
    EQ(hits, 1);
    int sig = SIGRTMIN + 3;
    handle(sig, 0);
    OK(fcntl(p[0], F_SETSIG, sig));
    EQ(fcntl(p[0], F_GETSIG), sig);
    int on = 1;
    OK(ioctl(p[0], FIOASYNC, &on));
    EQ(write(p[1], "x", 1), 1);
    EQ(hits, 2);
    EQ(last_sig, sig);
    EQ(last_info.si_fd, p[0]);
    EQ(last_info.si_code, POLL_IN);
    CHECK(last_info.si_band & POLLIN);
    ERR(fcntl(p[0], F_SETSIG, 65), EINVAL);
    ERR(fcntl(p[0], F_SETOWN, 0x7fffffff), ESRCH);
    ERR(fcntl(p[0], F_SETOWN, INT_MIN), EINVAL);
    OK(fcntl(p[0], F_SETOWN, -getpgrp()));
    EQ(fcntl(p[0], F_GETOWN), -getpgrp());
    struct f_owner_ex ex = {F_OWNER_TID, syscall(SYS_gettid)};
    OK(fcntl(p[0], F_SETOWN_EX, &ex));
    ex = (struct f_owner_ex){9, 9};
    OK(fcntl(p[0], F_GETOWN_EX, &ex));
    EQ(ex.type, F_OWNER_TID);
    EQ(ex.pid, syscall(SYS_gettid));
    ex.type = 7;
    ERR(fcntl(p[0], F_SETOWN_EX, &ex), EINVAL);
    ERR(fcntl(p[0], F_SETOWN_EX, BAD), EFAULT);
}
