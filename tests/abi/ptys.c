// Pseudo-terminals, the rarer parts: peers, exclusive use, special characters, queues, ioctls of all kinds.
#include "abi.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

static int M, S;
static void open_pty(void) {
    M = OK(posix_openpt(O_RDWR | O_NOCTTY));
    OK(unlockpt(M));
    char name[64];
    CHECK(!ptsname_r(M, name, sizeof name));
    S = OK(open(name, O_RDWR | O_NOCTTY));
}
static struct termios get(void) {
    struct termios t;
    OK(tcgetattr(S, &t));
    return t;
}
static void put(struct termios t) { OK(tcsetattr(S, TCSANOW, &t)); }
static void type(const char *s) { EQ(write(M, s, strlen(s)), (long)strlen(s)); }
#define READS(fd, want)                                                                                                \
    do {                                                                                                               \
        char abi_b[256] = {0};                                                                                         \
        ssize_t abi_n = OK(read(fd, abi_b, sizeof abi_b - 1));                                                         \
        if (abi_n != (ssize_t)sizeof want - 1 || memcmp(abi_b, want, abi_n)) FAILED("read \"%s\" (%ld), not \"%s\"", abi_b, (long)abi_n, want); \
    } while (0)

CASE(peer_by_ioctl) {
    M = OK(posix_openpt(O_RDWR | O_NOCTTY));
    OK(unlockpt(M));
    S = OK(ioctl(M, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    EQ(fcntl(S, F_GETFD), FD_CLOEXEC);
    type("x\n");
    READS(S, "x\n");
    ERR(ioctl(S, TIOCGPTPEER, O_RDWR), EIO);
}

CASE(lock_is_shown) {
    M = OK(posix_openpt(O_RDWR | O_NOCTTY));
    int on = 0;
    OK(ioctl(M, TIOCGPTLCK, &on));
    EQ(on, 1);
    on = 0;
    OK(ioctl(M, TIOCSPTLCK, &on));
    OK(ioctl(M, TIOCGPTLCK, &on));
    EQ(on, 0);
    unsigned n;
    ERR(ioctl(M, TIOCGPTN, BAD), EFAULT);
    OK(ioctl(M, TIOCGPTN, &n));
}

CASE(exclusive_use) {
    open_pty();
    char name[64];
    CHECK(!ptsname_r(M, name, sizeof name));
    int on = -1;
    OK(ioctl(S, TIOCGEXCL, &on));
    EQ(on, 0);
    OK(ioctl(S, TIOCEXCL));
    OK(ioctl(S, TIOCGEXCL, &on));
    EQ(on, 1);
    IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); int fd = open(name, O_RDWR | O_NOCTTY); CHECK(fd == -1 && (errno == EBUSY || errno == EACCES)));
    OK(ioctl(S, TIOCNXCL));
    OK(open(name, O_RDWR | O_NOCTTY));
}

CASE(second_end_of_line) {
    open_pty();
    struct termios t = get();
    t.c_cc[VEOL] = ';';
    t.c_cc[VEOL2] = '!';
    put(t);
    type("a;bc!d\n");
    READS(S, "a;");
    READS(S, "bc!");
    READS(S, "d\n");
}

CASE(literal_next) {
    open_pty();
    type("a\x16\x15" "b\n"); // ^V ^U: the kill character itself
    READS(S, "a\x15" "b\n");
    type("x\x16\x04y\n");
    READS(S, "x\x04y\n");
}

CASE(word_erase_and_reprint) {
    open_pty();
    type("one two\x17three\n");
    READS(S, "one three\n");
    char b[256];
    CHECK(read(M, b, sizeof b) > 0);
    type("ab\x12" "c\n");
    READS(S, "abc\n");
}

CASE(eof_in_the_middle) {
    open_pty();
    type("part\x04rest\n");
    READS(S, "part");
    READS(S, "rest\n");
    type("\x04");
    char c;
    EQ(read(S, &c, 1), 0);
    type("after\n");
    READS(S, "after\n");
}

CASE(case_and_carriage_return) {
    open_pty();
    struct termios t = get();
    t.c_iflag = (t.c_iflag & ~ICRNL) | IGNCR | ISTRIP;
    t.c_lflag &= ~ECHO;
    put(t);
    type("a\rb\xe1\n");
    READS(S, "ab\x61\n");
    t.c_iflag = INLCR;
    put(t);
    type("c\n\x04");
    READS(S, "c\r");
    t = get();
    t.c_oflag = OPOST | OCRNL | ONOCR;
    put(t);
    EQ(write(S, "x\ry", 3), 3);
    READS(M, "x\ny");
}

CASE(tabs_are_expanded) {
    open_pty();
    struct termios t = get();
    t.c_oflag = OPOST | XTABS;
    put(t);
    EQ(write(S, "ab\tc", 4), 4);
    READS(M, "ab      c");
}

// Natively what is typed arrives a little later: by a kernel thread.
static int queued(int fd, int wanted) {
    int n = -1;
    for (int i = 0; i < 400; i++) {
        OK(ioctl(fd, FIONREAD, &n));
        if (n == wanted) break;
        usleep(5000);
    }
    return n;
}

CASE(queues_are_counted_and_flushed) {
    open_pty();
    struct termios t = get();
    t.c_lflag &= ~ECHO;
    put(t);
    int n = -1;
    type("abc");
    OK(ioctl(S, FIONREAD, &n));
    EQ(n, 0); // no line yet
    type("\nde");
    EQ(queued(S, 4), 4);
    OK(ioctl(S, TIOCOUTQ, &n));
    EQ(n, 0);
    OK(tcflush(S, TCIFLUSH));
    OK(ioctl(S, FIONREAD, &n));
    EQ(n, 0);
    type("new\n");
    READS(S, "new\n");
    EQ(write(S, "out", 3), 3);
    EQ(queued(M, 3), 3);
    ERR(tcflush(S, 9), EINVAL);
    ERR(tcflow(S, 9), EINVAL);
    OK(tcdrain(S));
    OK(tcsendbreak(S, 0));
}

CASE(flow_control) {
    open_pty();
    OK(tcflow(S, TCOOFF));
    IN_CHILD(fcntl(S, F_SETFL, O_NONBLOCK); ERR(write(S, "x", 1), EAGAIN); fcntl(S, F_SETFL, 0));
    OK(tcflow(S, TCOON));
    EQ(write(S, "y", 1), 1);
    READS(M, "y");
    struct termios t = get();
    t.c_lflag &= ~ECHO;
    put(t);
    type("\x13"); // ^S
    usleep(100000);
    IN_CHILD(fcntl(S, F_SETFL, O_NONBLOCK); ERR(write(S, "x", 1), EAGAIN); fcntl(S, F_SETFL, 0));
    type("\x11"); // ^Q
    EQ(write(S, "z", 1), 1);
    READS(M, "z");
}

CASE(packet_mode_tells) {
    open_pty();
    int on = 1;
    OK(ioctl(M, TIOCPKT, &on));
    on = 0;
    OK(ioctl(M, TIOCGPKT, &on));
    EQ(on, 1);
    EQ(write(S, "data", 4), 4);
    READS(M, "\0data");
    OK(tcflush(S, TCIFLUSH));
    struct pollfd p = {M, POLLIN | POLLPRI, 0};
    EQ(poll(&p, 1, 100), 1);
    CHECK(p.revents & POLLPRI);
    READS(M, "\x01"); // TIOCPKT_FLUSHREAD
    OK(tcflow(S, TCOOFF));
    READS(M, "\x04"); // TIOCPKT_STOP
    OK(tcflow(S, TCOON));
    READS(M, "\x08");
}

CASE(settings_of_all_forms) {
    open_pty();
    struct termios t = get();
    EQ(t.c_cflag & CSIZE, CS8);
    EQ(cfgetospeed(&t), B38400);
    CHECK(t.c_lflag & ICANON && t.c_iflag & ICRNL && t.c_oflag & OPOST);
    EQ(t.c_cc[VINTR], 3);
    EQ(t.c_cc[VMIN], 1);
    cfsetspeed(&t, B9600);
    put(t);
    t = get();
    EQ(cfgetospeed(&t), B9600);
    OK(tcsetattr(S, TCSADRAIN, &t));
    type("lost\n");
    struct pollfd there = {S, POLLIN, 0};
    EQ(poll(&there, 1, 5000), 1); // Linux carries it over by itself, a moment later
    OK(tcsetattr(S, TCSAFLUSH, &t));
    int n = -1;
    OK(ioctl(S, FIONREAD, &n));
    EQ(n, 0);
    ERR(ioctl(S, TCGETS, BAD), EFAULT);
    ERR(ioctl(S, TCSETS, BAD), EFAULT);
    ERR(ioctl(OK(open("/dev/null", O_RDWR)), TCGETS, &t), ENOTTY);
    struct winsize w = {24, 80, 1, 2}, got;
    OK(ioctl(M, TIOCSWINSZ, &w));
    OK(ioctl(S, TIOCGWINSZ, &got));
    CHECK(!memcmp(&w, &got, sizeof w));
    ERR(ioctl(S, TIOCGWINSZ, BAD), EFAULT);
    OK(tcgetattr(M, &t)); // the master shows the slave's
    EQ(cfgetospeed(&t), B9600);
}

CASE(sessions_and_groups) {
    open_pty();
    IN_CHILD(OK(setsid()); ERR(ioctl(S, TIOCGSID, &(int){0}), ENOTTY); OK(ioctl(S, TIOCSCTTY, 0)); pid_t sid; OK(ioctl(S, TIOCGSID, &sid)); EQ(sid, getpid());
             EQ(tcgetpgrp(S), getpid()); EQ(tcgetsid(S), getpid()); ERR(tcsetpgrp(S, 999999), ESRCH); ERR(tcsetpgrp(S, -1), EINVAL);
             OK(ioctl(S, TIOCSCTTY, 0)); signal(SIGHUP, SIG_IGN); OK(ioctl(S, TIOCNOTTY)); ERR(open("/dev/tty", O_RDWR), ENXIO));
    ERR(ioctl(S, TIOCNOTTY), ENOTTY);
}
