// tty: pseudo-terminals, line discipline, job control, window size, hang-up.
#include "abi.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static int M, S; // master, slave
static void open_pty(void) {
    M = OK(posix_openpt(O_RDWR | O_NOCTTY));
    OK(grantpt(M));
    OK(unlockpt(M));
    char name[64];
    CHECK(!ptsname_r(M, name, sizeof name));
    S = OK(open(name, O_RDWR | O_NOCTTY));
}
static void lflags(tcflag_t set, tcflag_t clear) {
    struct termios t;
    OK(tcgetattr(S, &t));
    t.c_lflag = (t.c_lflag | set) & ~clear;
    OK(tcsetattr(S, TCSANOW, &t));
}
static void type(const char *s) { EQ(write(M, s, strlen(s)), (long)strlen(s)); }
#define READS(fd, want)                                                                                                \
    do {                                                                                                               \
        char abi_b[256] = {0};                                                                                         \
        ssize_t abi_n = OK(read(fd, abi_b, sizeof abi_b - 1));                                                         \
        if (abi_n != (ssize_t)strlen(want) || memcmp(abi_b, want, abi_n)) FAILED("read \"%s\", not \"%s\"", abi_b, want); \
    } while (0)
static int readable(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, 50) == 1 && p.revents & POLLIN;
}

CASE(openpt_names_and_lock) {
    int m = OK(open("/dev/ptmx", O_RDWR | O_NOCTTY)), n;
    OK(ioctl(m, TIOCGPTN, &n));
    char name[64], want[64];
    CHECK(!ptsname_r(m, name, sizeof name));
    snprintf(want, sizeof want, "/dev/pts/%d", n);
    CHECK(!strcmp(name, want));
    ERR(open(name, O_RDWR | O_NOCTTY), EIO); // still locked
    OK(unlockpt(m));
    int s = OK(open(name, O_RDWR | O_NOCTTY));
    CHECK(isatty(s));
    CHECK(isatty(m));
    struct stat st;
    OK(fstat(s, &st));
    CHECK(S_ISCHR(st.st_mode) && st.st_rdev >> 8 == 136);
    OK(close(s));
    OK(close(m));
    ERR(open(name, O_RDWR | O_NOCTTY), ENOENT);
}
CASE(canonical_line_and_echo) {
    open_pty();
    type("hel");
    CHECK(!readable(S));
    type("lo\n");
    READS(S, "hello\n");
    READS(M, "hello\r\n");
}
CASE(canonical_reads_one_line) {
    open_pty();
    type("one\ntwo\n");
    char b[2];
    EQ(read(S, b, 2), 2);
    READS(S, "e\n");
    READS(S, "two\n");
}
CASE(erase_kill_word_and_eof) {
    open_pty();
    lflags(0, ECHO);
    type("abc\177d\n");
    READS(S, "abd\n");
    type("junk\025good\n");
    READS(S, "good\n");
    type("two words\027x\n");
    READS(S, "two x\n");
    type("part\004");
    READS(S, "part");
    type("\004");
    char c;
    EQ(read(S, &c, 1), 0);
}
CASE(echo_of_erase_and_control) {
    open_pty();
    type("a\177");
    READS(M, "a\b \b");
    type("\001\n");
    READS(M, "^A\r\n");
}
CASE(raw_mode) {
    open_pty();
    struct termios t;
    OK(tcgetattr(S, &t));
    cfmakeraw(&t);
    OK(tcsetattr(S, TCSANOW, &t));
    type("x\r\003");
    READS(S, "x\r\003");
    EQ(write(S, "a\nb", 3), 3);
    READS(M, "a\nb");
    CHECK(!readable(M));
}
CASE(output_and_input_mapping) {
    open_pty();
    EQ(write(S, "a\nb", 3), 3);
    READS(M, "a\r\nb");
    lflags(0, ECHO);
    type("x\r"); // ICRNL
    READS(S, "x\n");
}
CASE(vmin_vtime) {
    open_pty();
    struct termios t;
    OK(tcgetattr(S, &t));
    t.c_lflag &= ~(ICANON | ECHO);
    t.c_cc[VMIN] = 0;
    t.c_cc[VTIME] = 0;
    OK(tcsetattr(S, TCSANOW, &t));
    char b[8];
    EQ(read(S, b, 8), 0);
    t.c_cc[VTIME] = 1;
    OK(tcsetattr(S, TCSANOW, &t));
    long long s = mono_ms();
    EQ(read(S, b, 8), 0);
    CHECK(mono_ms() - s >= 90);
    t.c_cc[VMIN] = 3;
    t.c_cc[VTIME] = 0;
    OK(tcsetattr(S, TCSANOW, &t));
    pid_t pid = OK(fork());
    if (!pid) { type("a"); nap_ms(20); type("b"); nap_ms(20); type("c"); _exit(0); }
    EQ(read(S, b, 8), 3);
    EXITS(pid, 0);
}
CASE(nonblocking_and_poll) {
    open_pty();
    char c;
    OK(fcntl(S, F_SETFL, O_NONBLOCK));
    ERR(read(S, &c, 1), EAGAIN);
    struct pollfd p = {S, POLLIN | POLLOUT, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLOUT);
    type("x\n");
    EQ(poll(&p, 1, 1000), 1);
    EQ(p.revents & POLLIN, POLLIN);
    int n;
    OK(ioctl(S, FIONREAD, &n));
    EQ(n, 2);
}
CASE(window_size_signals_foreground) {
    open_pty();
    pid_t pid = OK(fork());
    if (!pid) {
        OK(setsid());
        OK(ioctl(S, TIOCSCTTY, 0));
        handle(SIGWINCH, 0);
        type("r\n");
        while (!hits) usleep(1000);
        struct winsize w;
        OK(ioctl(S, TIOCGWINSZ, &w));
        _exit(w.ws_row == 40 && w.ws_col == 100 ? 0 : 1);
    }
    char b[8];
    CHECK(read(M, b, 8) > 0);
    struct winsize w = {40, 100, 0, 0};
    OK(ioctl(M, TIOCSWINSZ, &w));
    EXITS(pid, 0);
    ERR(syscall(SYS_ioctl, M, TIOCGWINSZ, BAD), EFAULT);
}
// Runs a block as leader of a new session whose terminal is the slave.
#define IN_SESSION(...)                                                                                                \
    do {                                                                                                               \
        open_pty();                                                                                                    \
        pid_t abi_s = OK(fork());                                                                                      \
        if (!abi_s) { prctl(PR_SET_PDEATHSIG, SIGKILL); OK(setsid()); OK(ioctl(S, TIOCSCTTY, 0)); __VA_ARGS__; _exit(0); }                               \
        EXITS(abi_s, 0);                                                                                               \
    } while (0)

CASE(interrupt_goes_to_foreground_group) {
    IN_SESSION(signal(SIGTTOU, SIG_IGN); pid_t fg = OK(fork());
               if (!fg) { setpgid(0, 0); for (;;) pause(); }
               setpgid(fg, fg); handle(SIGINT, SA_RESTART); OK(tcsetpgrp(S, fg)); EQ(tcgetpgrp(S), fg); type("\003"); int st; EQ(waitpid(fg, &st, 0), fg);
               CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGINT); EQ(hits, 0));
}
CASE(quit_and_suspend_characters) {
    IN_SESSION(signal(SIGTTOU, SIG_IGN); pid_t fg = OK(fork());
               if (!fg) { setpgid(0, 0); signal(SIGTSTP, SIG_DFL); for (;;) pause(); }
               setpgid(fg, fg); OK(tcsetpgrp(S, fg)); type("\032"); int st; EQ(waitpid(fg, &st, WUNTRACED), fg);
               CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTSTP); OK(kill(fg, SIGCONT)); struct rlimit rl = {0}; OK(prlimit(fg, RLIMIT_CORE, &rl, NULL));
               type("\034"); EQ(waitpid(fg, &st, 0), fg); CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGQUIT));
}
CASE(background_read_stops) {
    IN_SESSION(pid_t bg = OK(fork());
               if (!bg) { setpgid(0, 0); char c; _exit(read(S, &c, 1) == 1 ? 0 : 1); }
               setpgid(bg, bg); int st; EQ(waitpid(bg, &st, WUNTRACED), bg); CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTIN);
               signal(SIGTTOU, SIG_IGN); OK(tcsetpgrp(S, bg)); OK(kill(-bg, SIGCONT)); type("k\n"); EXITS(bg, 0));
}
CASE(background_read_ignored_is_eio) {
    IN_SESSION(pid_t bg = OK(fork());
               if (!bg) { setpgid(0, 0); signal(SIGTTIN, SIG_IGN); char c; _exit(read(S, &c, 1) == -1 && errno == EIO ? 0 : 1); }
               setpgid(bg, bg); EXITS(bg, 0));
}
CASE(background_write_with_tostop) {
    IN_SESSION(lflags(TOSTOP, 0); pid_t bg = OK(fork());
               if (!bg) { setpgid(0, 0); _exit(write(S, "x", 1) == 1 ? 0 : 1); }
               setpgid(bg, bg); int st; EQ(waitpid(bg, &st, WUNTRACED), bg); CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTOU);
               lflags(0, TOSTOP); OK(kill(bg, SIGCONT)); EXITS(bg, 0));
}
CASE(background_tcsetpgrp_stops) {
    IN_SESSION(pid_t bg = OK(fork());
               if (!bg) { setpgid(0, 0); tcsetpgrp(S, getpgrp()); _exit(0); }
               setpgid(bg, bg); int st; EQ(waitpid(bg, &st, WUNTRACED), bg); CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTOU);
               kill(bg, SIGKILL); DIES(bg, SIGKILL));
}
CASE(orphaned_group_reads_eio) {
    IN_SESSION(int p[2]; OK(pipe(p)); pid_t mid = OK(fork());
               if (!mid) {
                   if (!fork()) { // its parent leaves: its group is orphaned
                       setpgid(0, 0);
                       pid_t was = getppid();
                       kill(was, SIGKILL);
                       while (getppid() == was) usleep(1000);
                       char c;
                       char r = read(S, &c, 1) == -1 && errno == EIO ? 'y' : 'n';
                       if (write(p[1], &r, 1) != 1) _exit(1);
                       _exit(0);
                   }
                   for (;;) pause();
               }
               DIES(mid, SIGKILL); char r; EQ(read(p[0], &r, 1), 1); EQ(r, 'y'));
}
CASE(hangup_on_master_close) {
    int p[2];
    OK(pipe(p));
    open_pty();
    pid_t pid = OK(fork());
    if (!pid) {
        close(M);
        handle(SIGHUP, 0);
        handle(SIGCONT, 0);
        OK(setsid());
        OK(ioctl(S, TIOCSCTTY, 0));
        if (write(p[1], "r", 1) != 1) _exit(9);
        while (hits < 2) usleep(1000); // SIGHUP and SIGCONT
        char c;
        if (read(S, &c, 1) != 0) _exit(2);
        if (write(S, "x", 1) != -1 || errno != EIO) _exit(3);
        _exit(0);
    }
    char c;
    EQ(read(p[0], &c, 1), 1);
    OK(close(S));
    OK(close(M));
    EXITS(pid, 0);
}
CASE(uncaught_hangup_kills) {
    int p[2];
    OK(pipe(p));
    open_pty();
    pid_t pid = OK(fork());
    if (!pid) { close(M); setsid(); ioctl(S, TIOCSCTTY, 0); if (write(p[1], "r", 1) != 1) _exit(9); for (;;) pause(); }
    char c;
    EQ(read(p[0], &c, 1), 1);
    OK(close(M));
    DIES(pid, SIGHUP);
}
CASE(leader_exit_hangs_up_foreground) {
    int p[2];
    OK(pipe(p));
    open_pty();
    pid_t pid = OK(fork());
    if (!pid) {
        setsid();
        ioctl(S, TIOCSCTTY, 0);
        if (!fork()) { handle(SIGHUP, 0); if (write(p[1], "r", 1) != 1) _exit(9); while (!hits) usleep(1000); if (write(p[1], "h", 1) != 1) _exit(9); _exit(0); }
        char c;
        if (read(p[0], &c, 1) != 1) _exit(1);
        _exit(0);
    }
    EXITS(pid, 0);
    char c;
    EQ(read(p[0], &c, 1), 1);
    EQ(c, 'h');
}
CASE(master_reads_eio_after_last_slave) {
    open_pty();
    EQ(write(S, "bye", 3), 3);
    OK(close(S));
    READS(M, "bye");
    char c;
    ERR(read(M, &c, 1), EIO);
    struct pollfd f = {M, POLLIN, 0};
    EQ(poll(&f, 1, 0), 1);
    CHECK(f.revents & POLLHUP);
}
CASE(dev_tty_is_the_controlling_terminal) {
    IN_SESSION(int t = OK(open("/dev/tty", O_RDWR)); EQ(write(t, "x", 1), 1); READS(M, "x"); EQ(tcgetsid(t), getpid());
               signal(SIGHUP, SIG_IGN); OK(ioctl(t, TIOCNOTTY)); ERR(open("/dev/tty", O_RDWR), ENXIO));
}
CASE(open_gives_controlling_terminal) {
    open_pty();
    char name[64];
    CHECK(!ptsname_r(M, name, sizeof name));
    IN_CHILD(OK(setsid()); ERR(open("/dev/tty", O_RDWR), ENXIO); OK(open(name, O_RDWR)); OK(open("/dev/tty", O_RDWR)));
}
CASE(job_control_errors) {
    open_pty();
    ERR(tcgetpgrp(S), ENOTTY);
    ERR(tcsetpgrp(S, getpgrp()), ENOTTY);
    int p[2];
    OK(pipe(p));
    ERR(tcgetattr(p[0], &(struct termios){0}), ENOTTY);
    ERR(ioctl(p[0], TIOCGWINSZ, &(struct winsize){0}), ENOTTY);
    IN_SESSION(ERR(tcsetpgrp(S, 99999999), ESRCH); ERR(tcsetpgrp(S, -5), EINVAL));
}
CASE(flush_and_drain) {
    open_pty();
    lflags(0, ECHO);
    type("gone\n");
    OK(tcflush(S, TCIFLUSH));
    CHECK(!readable(S));
    EQ(write(S, "x", 1), 1);
    OK(tcdrain(M));
    ERR(tcflush(S, 77), EINVAL);
}
CASE(packet_mode) {
    open_pty();
    int on = 1;
    OK(ioctl(M, TIOCPKT, &on));
    EQ(write(S, "ab", 2), 2);
    char b[8];
    EQ(read(M, b, 8), 3);
    CHECK(b[0] == 0 && b[1] == 'a');
    OK(tcflush(S, TCOFLUSH));
    EQ(read(M, b, 8), 1);
    CHECK(b[0] & TIOCPKT_FLUSHWRITE);
}
CASE(read_eintr_and_restart) {
    open_pty();
    lflags(0, ECHO);
    char b[8];
    INTERRUPTED(read(S, b, 8));
    handle(SIGUSR1, SA_RESTART);
    pid_t pid = POKE_THEN(type("k\n"));
    EQ(read(S, b, 8), 2);
    EXITS(pid, 0);
}
CASE(isig_off_passes_control_c) {
    open_pty();
    lflags(0, ISIG | ECHO);
    type("a\003\n");
    READS(S, "a\003\n");
}
CASE(the_peer_has_its_name) {
    int m = OK(open("/dev/ptmx", O_RDWR | O_NOCTTY)), unlock = 0, n;
    OK(ioctl(m, TIOCSPTLCK, &unlock));
    OK(ioctl(m, TIOCGPTN, &n));
    int s = OK(ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    char want[32], link[64], got[64] = {0};
    snprintf(want, sizeof want, "/dev/pts/%d", n);
    snprintf(link, sizeof link, "/proc/self/fd/%d", s);
    OK(readlink(link, got, sizeof got - 1));
    CHECK(!strcmp(got, want));
    struct stat a, b;
    OK(fstat(s, &a));
    OK(stat(want, &b));
    CHECK(a.st_ino == b.st_ino && a.st_dev == b.st_dev && a.st_rdev == b.st_rdev && S_ISCHR(a.st_mode));
    CHECK(ttyname(s) && !strcmp(ttyname(s), want));
    EQ(fcntl(s, F_GETFD), FD_CLOEXEC);
}
// A change to raw and back leaves no end of file behind, and what waits is read at once.
CASE(raw_and_back_is_no_end_of_file) {
    open_pty();
    struct termios was, raw;
    OK(tcgetattr(S, &was));
    was.c_lflag &= ~ECHO;
    OK(tcsetattr(S, TCSANOW, &was));
    raw = was;
    cfmakeraw(&raw);
    OK(tcsetattr(S, TCSANOW, &raw));
    OK(tcsetattr(S, TCSANOW, &was));
    CHECK(!readable(S));
    type("a\nb\nc");
    // Natively a work queue brings it.
    struct pollfd lines = {S, POLLIN, 0};
    EQ(poll(&lines, 1, 10000), 1);
    OK(tcsetattr(S, TCSANOW, &raw));
    OK(tcsetattr(S, TCSANOW, &was));
    READS(S, "a\nb\nc");
    CHECK(!readable(S));
}
// Ends of file take room too.
CASE(ends_of_file_nobody_reads) {
    open_pty();
    static char eofs[1 << 16];
    memset(eofs, 4, sizeof eofs);
    OK(fcntl(M, F_SETFL, O_NONBLOCK));
    // (Natively a work queue passes them on from a buffer of its own.)
    for (int i = 0; i < 200; i++) {
        ssize_t n = write(M, eofs, sizeof eofs);
        if (n < 0) {
            EQ(errno, EAGAIN);
            return;
        }
    }
    FAILED("taken for ever");
}
