// ptrace: attaching, stops, registers, memory, events, and what waits see.
#include "abi.h"
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#ifndef PTRACE_SYSEMU
#define PTRACE_SYSEMU 31
#endif
#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

#define STOPSIG(st) ((st) >> 8 & 0xff)
#define EVENT(st) ((st) >> 16)

static long trace(long request, pid_t pid, unsigned long addr, unsigned long data) {
    return syscall(SYS_ptrace, request, pid, addr, data);
}
// Waits for a tracee to stop; its whole status.
static int stopped(pid_t pid) {
    int st;
    EQ(waitpid(pid, &st, __WALL), pid);
    if (!WIFSTOPPED(st)) FAILED("status 0x%x is no stop", st);
    return st;
}
static void stops_by(pid_t pid, int sig) { EQ(stopped(pid) >> 8, sig); }
// A child that asks to be traced, stops, and then runs a block.
#define TRACED(...)                                                                                                    \
    ({                                                                                                                 \
        pid_t abi_pid = OK(fork());                                                                                    \
        if (!abi_pid) {                                                                                                \
            if (trace(PTRACE_TRACEME, 0, 0, 0)) _exit(90);                                                             \
            raise(SIGSTOP);                                                                                            \
            __VA_ARGS__;                                                                                               \
            _exit(0);                                                                                                  \
        }                                                                                                              \
        stops_by(abi_pid, SIGSTOP);                                                                                    \
        abi_pid;                                                                                                       \
    })
// A child that does nothing until it is killed.
static pid_t idler(void) {
    pid_t pid = OK(fork());
    if (!pid) for (;;) pause();
    return pid;
}
static void finish(pid_t pid) {
    kill(pid, SIGKILL);
    int st;
    while (waitpid(pid, &st, __WALL) == pid && !WIFSIGNALED(st) && !WIFEXITED(st)) {}
}
static struct user_regs_struct regs(pid_t pid) {
    struct user_regs_struct r;
    OK(trace(PTRACE_GETREGS, pid, 0, (long)&r));
    return r;
}
static siginfo_t info_of(pid_t pid) {
    siginfo_t i;
    OK(trace(PTRACE_GETSIGINFO, pid, 0, (long)&i));
    return i;
}
static unsigned long message(pid_t pid) {
    unsigned long m = 0;
    OK(trace(PTRACE_GETEVENTMSG, pid, 0, (long)&m));
    return m;
}
static long status_field(pid_t pid, const char *name) {
    char path[64], line[256], want[64];
    long value = -1;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    snprintf(want, sizeof want, "%s:\t%%ld", name);
    FILE *f = fopen(path, "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, want, &value) == 1) break;
    fclose(f);
    return value;
}

CASE(ptrace_traceme_and_cont) {
    pid_t pid = TRACED(_exit(7));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 7);
}
CASE(ptrace_traceme_twice) {
    pid_t pid = TRACED(errno = 0; _exit(trace(PTRACE_TRACEME, 0, 0, 0) == -1 && errno == EPERM ? 0 : 1));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_errors) {
    ERR(trace(PTRACE_CONT, getppid(), 0, 0), ESRCH);
    ERR(trace(PTRACE_CONT, 99999999, 0, 0), ESRCH);
    ERR(trace(PTRACE_ATTACH, 99999999, 0, 0), ESRCH);
    ERR(trace(PTRACE_ATTACH, getpid(), 0, 0), EPERM);
    ERR(trace(PTRACE_PEEKDATA, getpid(), 0, 0), ESRCH);
    pid_t pid = TRACED(pause());
    ERR(trace(0x7777, pid, 0, 0), EIO);
    ERR(trace(PTRACE_CONT, pid, 0, 65), EIO);
    ERR(trace(PTRACE_ATTACH, pid, 0, 0), EPERM);
    ERR(trace(PTRACE_SEIZE, pid, 0, 0), EPERM);
    ERR(trace(PTRACE_INTERRUPT, pid, 0, 0), EIO);
    ERR(trace(PTRACE_LISTEN, pid, 0, 0), EIO);
    ERR(trace(PTRACE_SETOPTIONS, pid, 0, 1 << 15), EINVAL);
    ERR(trace(PTRACE_GETSIGINFO, pid, 0, (long)BAD), EFAULT);
    ERR(trace(PTRACE_GETREGS, pid, 0, (long)BAD), EFAULT);
    ERR(trace(PTRACE_GETEVENTMSG, pid, 0, (long)BAD), EFAULT);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    // It runs: nothing can be asked of it.
    ERR(trace(PTRACE_GETREGS, pid, 0, (long)BAD), ESRCH);
    ERR(trace(PTRACE_CONT, pid, 0, 0), ESRCH);
    finish(pid);
}
CASE(ptrace_seize_errors) {
    pid_t pid = idler();
    ERR(trace(PTRACE_SEIZE, pid, 1, 0), EIO);
    ERR(trace(PTRACE_SEIZE, pid, 0, 1 << 15), EIO);
    OK(trace(PTRACE_SEIZE, pid, 0, 0));
    ERR(trace(PTRACE_GETEVENTMSG, pid, 0, (long)BAD), ESRCH);
    ERR(trace(PTRACE_LISTEN, pid, 0, 0), ESRCH);
    finish(pid);
}
CASE(ptrace_zombie_cannot_be_attached) {
    pid_t pid = OK(fork());
    if (!pid) _exit(0);
    siginfo_t i;
    OK(waitid(P_PID, pid, &i, WEXITED | WNOWAIT));
    ERR(trace(PTRACE_ATTACH, pid, 0, 0), EPERM);
    ERR(trace(PTRACE_CONT, pid, 0, 0), ESRCH);
    EXITS(pid, 0);
}
CASE(ptrace_needs_permission) {
    if (getuid()) return;
    pid_t root = idler(), pid = OK(fork());
    if (!pid) {
        OK(setresgid(1000, 1000, 1000));
        OK(setresuid(1000, 1000, 1000));
        ERR(trace(PTRACE_ATTACH, root, 0, 0), EPERM);
        ERR(trace(PTRACE_SEIZE, root, 0, 0), EPERM);
        _exit(0);
    }
    EXITS(pid, 0);
    finish(root);
}
CASE(ptrace_undumpable_needs_capability) {
    if (getuid()) return;
    IN_CHILD(
        OK(setresgid(1000, 1000, 1000)); OK(setresuid(1000, 1000, 1000)); int fds[2]; char byte = 'x'; OK(pipe(fds)); pid_t pid = OK(fork());
        if (!pid) { prctl(PR_SET_DUMPABLE, 0); if (write(fds[1], &byte, 1)) {} for (;;) pause(); }
        OK(read(fds[0], &byte, 1));
        ERR(trace(PTRACE_ATTACH, pid, 0, 0), EPERM); kill(pid, SIGKILL); wait_status(pid););
}
CASE(ptrace_attach_and_detach) {
    pid_t pid = idler();
    OK(trace(PTRACE_ATTACH, pid, 0, 0));
    stops_by(pid, SIGSTOP);
    EQ(status_field(pid, "TracerPid"), getpid());
    EQ(info_of(pid).si_signo, SIGSTOP);
    OK(trace(PTRACE_DETACH, pid, 0, 0));
    EQ(status_field(pid, "TracerPid"), 0);
    ERR(trace(PTRACE_DETACH, pid, 0, 0), ESRCH);
    EQ(waitpid(pid, NULL, WNOHANG | WUNTRACED), 0);
    finish(pid);
}
CASE(ptrace_detach_with_signal) {
    pid_t pid = idler();
    OK(trace(PTRACE_ATTACH, pid, 0, 0));
    stops_by(pid, SIGSTOP);
    OK(trace(PTRACE_DETACH, pid, 0, SIGTERM));
    DIES(pid, SIGTERM);
}
CASE(ptrace_attach_interrupts_sleep_which_goes_on) {
    pid_t pid = OK(fork());
    if (!pid) {
        long long t = mono_ms();
        struct timespec ts = {0, 300000000}, left = {0, 0};
        int r = nanosleep(&ts, &left);
        long long took = mono_ms() - t;
        _exit(r == 0 && took >= 299 && took < 3000 ? 0 : 1);
    }
    nap_ms(60);
    OK(trace(PTRACE_ATTACH, pid, 0, 0));
    stops_by(pid, SIGSTOP);
    struct user_regs_struct r = regs(pid);
    CHECK((long)r.orig_rax == SYS_nanosleep || (long)r.orig_rax == SYS_clock_nanosleep);
    EQ((long)r.rax, -516); // ERESTART_RESTARTBLOCK
    nap_ms(30);
    OK(trace(PTRACE_DETACH, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_wait_options) {
    pid_t pid = OK(fork());
    if (!pid) {
        trace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGUSR1);
        _exit(0);
    }
    // A stop is seen without WUNTRACED; WNOWAIT leaves it; then it is reported once.
    siginfo_t i;
    OK(waitid(P_PID, pid, &i, WSTOPPED | WNOWAIT));
    EQ(i.si_code, CLD_TRAPPED);
    EQ(i.si_status, SIGUSR1);
    EQ(i.si_pid, pid);
    stops_by(pid, SIGUSR1);
    EQ(waitpid(pid, NULL, WNOHANG), 0);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
    ERR(waitpid(pid, NULL, 0), ECHILD);
}
CASE(ptrace_sigchld_for_stops) {
    handle(SIGCHLD, 0);
    pid_t pid = TRACED(pause());
    CHECK(hits >= 1);
    EQ(last_info.si_code, CLD_TRAPPED);
    EQ(last_info.si_status, SIGSTOP);
    EQ(last_info.si_pid, pid);
    finish(pid);
}
CASE(ptrace_signal_suppressed_changed_injected) {
    pid_t pid = TRACED(
        handle(SIGUSR1, 0); handle(SIGUSR2, 0); kill(getpid(), SIGUSR1); if (hits) _exit(1); kill(getpid(), SIGUSR1);
        if (hits != 1 || last_sig != SIGUSR2 || last_info.si_code != SI_USER || last_info.si_pid != getppid()) _exit(2);
        kill(getpid(), SIGUSR1); if (hits != 2 || last_sig != SIGUSR1 || last_info.si_pid != getpid()) _exit(3));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR1);
    EQ(info_of(pid).si_pid, pid);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR1);
    OK(trace(PTRACE_CONT, pid, 0, SIGUSR2));
    stops_by(pid, SIGUSR1);
    OK(trace(PTRACE_CONT, pid, 0, SIGUSR1));
    EXITS(pid, 0);
}
CASE(ptrace_ignored_signals_are_seen) {
    pid_t pid = TRACED(signal(SIGUSR1, SIG_IGN); kill(getpid(), SIGUSR1); kill(getpid(), SIGCHLD));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR1);
    OK(trace(PTRACE_CONT, pid, 0, SIGUSR1));
    stops_by(pid, SIGCHLD);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_fatal_signal_is_seen_first) {
    pid_t pid = TRACED(kill(getpid(), SIGTERM));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGTERM);
    OK(trace(PTRACE_CONT, pid, 0, SIGTERM));
    DIES(pid, SIGTERM);
}
CASE(ptrace_setsiginfo) {
    pid_t pid = TRACED(handle(SIGUSR1, 0); kill(getpid(), SIGUSR1); _exit(last_info.si_value.sival_int == 4711 && last_info.si_code == SI_QUEUE ? 0 : 1));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR1);
    siginfo_t i = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    i.si_value.sival_int = 4711;
    OK(trace(PTRACE_SETSIGINFO, pid, 0, (long)&i));
    EQ(info_of(pid).si_value.sival_int, 4711);
    ERR(trace(PTRACE_SETSIGINFO, pid, 0, (long)BAD), EFAULT);
    OK(trace(PTRACE_CONT, pid, 0, SIGUSR1));
    EXITS(pid, 0);
}
CASE(ptrace_kill_stopped) {
    pid_t pid = TRACED(pause());
    OK(trace(PTRACE_KILL, pid, 0, 0));
    DIES(pid, SIGKILL);
    pid = TRACED(pause());
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}
static volatile long poked = 11;
CASE(ptrace_peek_and_poke) {
    static const long constant = 77; // in read-only memory
    pid_t pid = TRACED(_exit(poked == 12 && *(volatile const long *)&constant == 78 ? 0 : 1));
    long word = 0;
    EQ(trace(PTRACE_PEEKDATA, pid, (long)&poked, (long)&word), 0);
    EQ(word, 11);
    OK(trace(PTRACE_POKEDATA, pid, (long)&poked, 12));
    EQ(trace(PTRACE_PEEKTEXT, pid, (long)&poked, (long)&word), 0);
    EQ(word, 12);
    EQ(poked, 11); // ours is another page
    OK(trace(PTRACE_POKETEXT, pid, (long)&constant, 78));
    ERR(trace(PTRACE_PEEKDATA, pid, 16, (long)&word), EIO);
    ERR(trace(PTRACE_POKEDATA, pid, 16, 1), EIO);
    ERR(trace(PTRACE_PEEKDATA, pid, (long)&poked, (long)BAD), EFAULT);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_poke_prot_none_and_shared) {
    char *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = TRACED(mprotect(none, 4096, PROT_READ); _exit(none[0] == 5 ? 0 : 1));
    OK(trace(PTRACE_POKEDATA, pid, (long)none, 5));
    ERR(trace(PTRACE_POKEDATA, pid, (long)shared, 5), EIO);
    long word;
    OK(trace(PTRACE_PEEKDATA, pid, (long)shared, (long)&word));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_peekuser_is_getregs) {
    pid_t pid = TRACED(pause());
    struct user_regs_struct r = regs(pid);
    for (size_t at = 0; at < sizeof r; at += 8) {
        unsigned long word;
        OK(trace(PTRACE_PEEKUSER, pid, at, (long)&word));
        if (word != *(unsigned long *)((char *)&r + at)) FAILED("offset %zu: %#lx", at, word);
    }
    EQ(r.cs, 0x33);
    EQ(r.ss, 0x2b);
    unsigned long word;
    ERR(trace(PTRACE_PEEKUSER, pid, 4, (long)&word), EIO);
    ERR(trace(PTRACE_PEEKUSER, pid, 1 << 20, (long)&word), EIO);
    ERR(trace(PTRACE_POKEUSER, pid, 12, 0), EIO);
    ERR(trace(PTRACE_POKEUSER, pid, offsetof(struct user, u_comm), 0), EIO);
    OK(trace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg), (long)&word));
    EQ(word, 0);
    finish(pid);
}
static long __attribute__((naked, noinline)) adds_registers(long a, long b) {
    (void)a, (void)b;
    __asm__("int3\n lea (%rdi,%rsi), %rax\n ret");
}
CASE(ptrace_breakpoint_and_setregs) {
    pid_t pid = TRACED(_exit(adds_registers(1, 2) == 42 ? 0 : 1));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGTRAP);
    EQ(info_of(pid).si_code, 0x80); // SI_KERNEL
    struct user_regs_struct r = regs(pid);
    EQ(r.rip, (long)adds_registers + 1);
    EQ(r.rdi, 1);
    EQ(r.rsi, 2);
    EQ((long)r.orig_rax, -1);
    r.rdi = 40;
    OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_setregs_hostile) {
    pid_t pid = TRACED(pause());
    struct user_regs_struct r = regs(pid), bad = r;
    bad.fs_base = 1UL << 63;
    ERR(trace(PTRACE_SETREGS, pid, 0, (long)&bad), EIO);
    bad = r;
    bad.cs = 0x10;
    ERR(trace(PTRACE_SETREGS, pid, 0, (long)&bad), EIO);
    bad = r;
    bad.eflags = ~0UL;
    OK(trace(PTRACE_SETREGS, pid, 0, (long)&bad));
    CHECK(!(regs(pid).eflags & 0x3000)); // no I/O privilege
    OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
    finish(pid);
}
CASE(ptrace_jump_elsewhere) {
    pid_t pid = TRACED(raise(SIGUSR1); _exit(1));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR1);
    struct user_regs_struct r = regs(pid);
    r.rip = (long)_exit;
    r.rdi = 33;
    r.orig_rax = -1;
    r.rsp = (r.rsp - 1024) & ~15UL;
    OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 33);
}
CASE(ptrace_regsets) {
    pid_t pid = TRACED(pause());
    struct user_regs_struct r = regs(pid), s = {0};
    struct iovec iov = {&s, sizeof s + 800};
    OK(trace(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&iov));
    EQ(iov.iov_len, sizeof s);
    CHECK(!memcmp(&r, &s, sizeof r));
    iov.iov_len = 16;
    OK(trace(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&iov));
    EQ(iov.iov_len, 16);
    iov.iov_len = 13;
    ERR(trace(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&iov), EINVAL);
    iov.iov_len = 16;
    ERR(trace(PTRACE_GETREGSET, pid, 0x7777, (long)&iov), EINVAL);
    ERR(trace(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)BAD), EFAULT);
    struct user_fpregs_struct fp, fp2;
    OK(trace(PTRACE_GETFPREGS, pid, 0, (long)&fp));
    iov = (struct iovec){&fp2, sizeof fp2};
    OK(trace(PTRACE_GETREGSET, pid, NT_PRFPREG, (long)&iov));
    EQ(iov.iov_len, 512);
    CHECK(!memcmp(&fp, &fp2, 416));
    EQ(fp.mxcsr & 0x1f80, 0x1f80);
    static char x[16384];
    iov = (struct iovec){x, sizeof x};
    OK(trace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (long)&iov));
    CHECK(iov.iov_len >= 576);
    CHECK((*(unsigned long *)(x + 464) & 3) == 3);
    OK(trace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (long)&iov));
    iov.iov_len = 64;
    ERR(trace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (long)&iov), EFAULT);
    finish(pid);
}
static double __attribute__((noinline)) stops_with(double x) {
    __asm__ volatile("int3" : "+x"(x));
    return x;
}
CASE(ptrace_fpregs_change_xmm) {
    pid_t pid = TRACED(_exit(stops_with(1.5) == 2.5 ? 0 : 1));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGTRAP);
    struct user_fpregs_struct fp;
    OK(trace(PTRACE_GETFPREGS, pid, 0, (long)&fp));
    double *xmm = NULL;
    for (int i = 0; i < 16; i++)
        if (*(double *)(fp.xmm_space + 4 * i) == 1.5) xmm = (double *)(fp.xmm_space + 4 * i), *xmm = 2.5;
    CHECK(xmm != NULL);
    OK(trace(PTRACE_SETFPREGS, pid, 0, (long)&fp));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
    (void)xmm;
}
CASE(ptrace_syscall_stops) {
    pid_t pid = TRACED(syscall(SYS_getppid); _exit(3));
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    // The end of the call that raised SIGSTOP comes first.
    int seen = 0;
    for (;;) {
        OK(trace(PTRACE_SYSCALL, pid, 0, 0));
        int st = stopped(pid);
        EQ(st >> 8, SIGTRAP | 0x80);
        struct user_regs_struct r = regs(pid);
        unsigned long side = message(pid);
        if (r.orig_rax == SYS_getppid) {
            EQ(side, 1 + seen);
            EQ(info_of(pid).si_code, SIGTRAP | 0x80);
            if (!seen) EQ((long)r.rax, -ENOSYS);
            else EQ((long)r.rax, getpid());
            seen++;
        }
        if (r.orig_rax == SYS_exit_group) {
            EQ(r.rdi, 3);
            break;
        }
    }
    EQ(seen, 2);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 3);
}
// Runs to the next entry of this call.
static void to_entry(pid_t pid, long nr) {
    for (;;) {
        OK(trace(PTRACE_SYSCALL, pid, 0, 0));
        EQ(stopped(pid) >> 8, SIGTRAP | 0x80);
        if (message(pid) == 1 && (long)regs(pid).orig_rax == nr) return;
    }
}
CASE(ptrace_change_and_skip_calls) {
    pid_t pid = TRACED(
        if (syscall(SYS_getppid) != 77) _exit(1); if (syscall(SYS_getppid) != getpid()) _exit(2);
        errno = 0; if (syscall(SYS_getppid) != -1 || errno != EXDEV) _exit(3); errno = 0;
        if (syscall(SYS_getppid) != -1 || errno != ENOSYS) _exit(4));
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    struct user_regs_struct r;
    // Another result.
    to_entry(pid, SYS_getppid);
    OK(trace(PTRACE_SYSCALL, pid, 0, 0));
    stopped(pid);
    r = regs(pid);
    r.rax = 77;
    OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
    // Another call.
    to_entry(pid, SYS_getppid);
    OK(trace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, orig_rax), SYS_getpid));
    // None, with a result of the tracer's.
    to_entry(pid, SYS_getppid);
    r = regs(pid);
    r.orig_rax = -1;
    r.rax = -EXDEV;
    OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
    // None.
    to_entry(pid, SYS_getppid);
    OK(trace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, orig_rax), -1));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
struct syscall_info { // struct ptrace_syscall_info
    uint8_t op, pad[3];
    uint32_t arch;
    uint64_t ip, sp;
    union {
        struct { uint64_t nr, args[6]; } entry;
        struct { int64_t rval; uint8_t is_error; } exit;
        struct { uint64_t nr, args[6]; uint32_t ret_data; } seccomp;
    };
};
CASE(ptrace_get_syscall_info) {
    pid_t pid = TRACED(syscall(SYS_dup, 4242, 2, 3, 4, 5, 6));
    struct syscall_info i = {0};
    EQ(trace(0x420e, pid, sizeof i, (long)&i), 24);
    EQ(i.op, 0);
    EQ(i.arch, 0xc000003e);
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    to_entry(pid, SYS_dup);
    EQ(trace(0x420e, pid, sizeof i, (long)&i), 80);
    EQ(i.op, 1);
    EQ(i.entry.nr, SYS_dup);
    EQ(i.entry.args[0], 4242);
    EQ(i.entry.args[5], 6);
    EQ(i.ip, regs(pid).rip);
    EQ(i.sp, regs(pid).rsp);
    OK(trace(PTRACE_SYSCALL, pid, 0, 0));
    stopped(pid);
    EQ(trace(0x420e, pid, sizeof i, (long)&i), 33);
    EQ(i.op, 2);
    EQ(i.exit.rval, -EBADF);
    EQ(i.exit.is_error, 1);
    memset(&i, 0, sizeof i);
    EQ(trace(0x420e, pid, 8, (long)&i), 33);
    EQ(i.op, 2);
    EQ(i.sp, 0);
    ERR(trace(0x420e, pid, 88, (long)BAD), EFAULT);
    finish(pid);
}
CASE(ptrace_sysemu) {
    pid_t pid = TRACED(if (syscall(SYS_getppid) != 4711) _exit(1));
    for (;;) {
        OK(trace(PTRACE_SYSEMU, pid, 0, 0));
        EQ(stopped(pid) >> 8, SIGTRAP);
        struct user_regs_struct r = regs(pid);
        if (r.orig_rax == SYS_getppid) {
            r.rax = 4711;
            OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
            break;
        }
        // Whatever libc does before: let it have a result.
        r.rax = 0;
        OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
    }
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
static void __attribute__((naked, noinline)) four_instructions(void) { __asm__("int3\n nop\n nop\n nop\n ret"); }
CASE(ptrace_singlestep) {
    pid_t pid = TRACED(four_instructions());
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGTRAP);
    long rip = regs(pid).rip;
    EQ(rip, (long)four_instructions + 1);
    for (int i = 1; i <= 3; i++) {
        OK(trace(PTRACE_SINGLESTEP, pid, 0, 0));
        stops_by(pid, SIGTRAP);
        EQ(info_of(pid).si_code, TRAP_TRACE);
        struct user_regs_struct r = regs(pid);
        EQ(r.rip, rip + i);
        CHECK(!(r.eflags & 0x100));
    }
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
static long __attribute__((naked, noinline)) stops_and_calls(void) { __asm__("int3\n mov $110, %eax\n syscall\n ret"); }
CASE(ptrace_singlestep_over_syscall) {
    pid_t pid = TRACED(_exit(stops_and_calls() == getppid() ? 0 : 1));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGTRAP);
    for (int i = 0; i < 2; i++) {
        OK(trace(PTRACE_SINGLESTEP, pid, 0, 0));
        stops_by(pid, SIGTRAP);
    }
    struct user_regs_struct r = regs(pid);
    EQ(r.rip, (long)stops_and_calls + 8);
    EQ((long)r.rax, getpid());
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_singlestep_into_handler) {
    pid_t pid = TRACED(handle(SIGUSR1, 0); raise(SIGUSR1));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR1);
    OK(trace(PTRACE_SINGLESTEP, pid, 0, SIGUSR1));
    stops_by(pid, SIGTRAP);
    EQ(regs(pid).rip, (long)on_signal);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
static long count_steps(pid_t pid, long most) {
    long n = 0;
    while (n < most) {
        OK(trace(PTRACE_SINGLESTEP, pid, 0, 0));
        int st;
        EQ(waitpid(pid, &st, 0), pid);
        if (!WIFSTOPPED(st)) return n;
        EQ(STOPSIG(st), SIGTRAP);
        n++;
    }
    return n;
}
CASE(ptrace_many_steps) {
    pid_t pid = TRACED(volatile int sum = 0; for (int i = 0; i < 100; i++) sum += i; _exit(0));
    CHECK(count_steps(pid, 100000) > 300);
}
CASE(ptrace_fork_event) {
    pid_t pid = TRACED(pid_t c = fork(); if (!c) _exit(5); int st; waitpid(c, &st, 0); _exit(WEXITSTATUS(st)));
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEFORK));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    int st = stopped(pid);
    EQ(st >> 8, SIGTRAP | PTRACE_EVENT_FORK << 8);
    pid_t child = message(pid);
    CHECK(child > 0);
    stops_by(child, SIGSTOP);
    EQ(status_field(child, "TracerPid"), getpid());
    OK(trace(PTRACE_CONT, pid, 0, 0));
    OK(trace(PTRACE_CONT, child, 0, 0));
    // We wait for the grandchild first; then its parent can.
    EXITS(child, 5);
    st = stopped(pid); // its SIGCHLD
    EQ(STOPSIG(st), SIGCHLD);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 5);
}
CASE(ptrace_vfork_events) {
    pid_t pid = TRACED(pid_t c = vfork(); if (!c) _exit(0); waitpid(c, NULL, 0));
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_VFORK << 8);
    pid_t child = message(pid);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(child, SIGSTOP);
    OK(trace(PTRACE_CONT, child, 0, 0));
    EXITS(child, 0);
    // VFORK_DONE, and the SIGCHLD, in this order.
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_VFORK_DONE << 8);
    EQ(message(pid), child);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGCHLD);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
static void *returns(void *arg) { return arg; }
static void make_thread(void) {
    pthread_t t;
    pthread_create(&t, NULL, returns, NULL);
    pthread_join(t, NULL);
}
CASE(ptrace_clone_event_and_thread_end) {
    pid_t pid = TRACED(make_thread());
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_CLONE << 8);
    pid_t tid = message(pid);
    stops_by(tid, SIGSTOP);
    OK(trace(PTRACE_CONT, tid, 0, 0));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    // The thread is waited for like a process.
    int st;
    EQ(waitpid(tid, &st, __WALL), tid);
    CHECK(WIFEXITED(st));
    EQ(WEXITSTATUS(st), 0);
    EXITS(pid, 0);
}
CASE(ptrace_seized_children_report_event_stop) {
    pid_t pid = OK(fork());
    if (!pid) {
        pause();
        pid_t c = fork();
        if (!c) _exit(0);
        waitpid(c, NULL, 0);
        _exit(0);
    }
    nap_ms(20);
    OK(trace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACESYSGOOD));
    OK(trace(PTRACE_INTERRUPT, pid, 0, 0));
    int st = stopped(pid);
    EQ(st >> 8, SIGTRAP | PTRACE_EVENT_STOP << 8);
    EQ(info_of(pid).si_code, SIGTRAP | PTRACE_EVENT_STOP << 8);
    // Out of pause().
    struct user_regs_struct r = regs(pid);
    EQ(r.orig_rax, SYS_pause);
    r.orig_rax = -1;
    r.rax = -EINTR;
    OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_FORK << 8);
    pid_t child = message(pid);
    EQ(stopped(child) >> 8, SIGTRAP | PTRACE_EVENT_STOP << 8);
    OK(trace(PTRACE_CONT, child, 0, 0));
    EXITS(child, 0);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGCHLD);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_exec_without_option_is_sigtrap) {
    pid_t pid = TRACED(char *argv[] = {"true", NULL}; execv("/bin/true", argv));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGTRAP);
    EQ(info_of(pid).si_code, SI_USER);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_exec_event) {
    pid_t pid = TRACED(char *argv[] = {"true", NULL}; execv("/bin/true", argv));
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXEC));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_EXEC << 8);
    EQ(message(pid), pid);
    struct user_regs_struct r = regs(pid);
    EQ(r.orig_rax, SYS_execve);
    EQ((long)r.rax, -ENOSYS); // no result yet
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
static void *execs(void *arg) {
    char *argv[] = {"true", NULL};
    execv("/bin/true", argv);
    return arg;
}
static void exec_in_thread(void) {
    pthread_t t;
    pthread_create(&t, NULL, execs, NULL);
    for (;;) pause();
}
CASE(ptrace_exec_by_a_thread) {
    pid_t pid = TRACED(exec_in_thread());
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_TRACECLONE));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_CLONE << 8);
    pid_t tid = message(pid);
    stops_by(tid, SIGSTOP);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    OK(trace(PTRACE_CONT, tid, 0, 0));
    // The thread takes the first one's number; its own is the message.
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_EXEC << 8);
    EQ(message(pid), tid);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_exit_event) {
    pid_t pid = TRACED(_exit(9));
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXIT));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_EXIT << 8);
    EQ(message(pid), 9 << 8);
    long word;
    OK(trace(PTRACE_PEEKDATA, pid, (long)&poked, (long)&word)); // its memory is still there
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 9);
}
CASE(ptrace_exit_event_after_kill) {
    pid_t pid = TRACED(pause());
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXIT));
    kill(pid, SIGKILL);
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_EXIT << 8);
    EQ(message(pid), SIGKILL);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    DIES(pid, SIGKILL);
}
CASE(ptrace_group_stop_classic) {
    pid_t pid = TRACED(raise(SIGSTOP); _exit(0));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGSTOP); // signal delivery
    EQ(info_of(pid).si_signo, SIGSTOP);
    OK(trace(PTRACE_CONT, pid, 0, SIGSTOP));
    stops_by(pid, SIGSTOP); // the group stop
    siginfo_t i;
    ERR(trace(PTRACE_GETSIGINFO, pid, 0, (long)&i), EINVAL);
    OK(trace(PTRACE_CONT, pid, 0, 0)); // runs although stopped
    EXITS(pid, 0);
}
CASE(ptrace_group_stop_seized_and_listen) {
    pid_t pid = idler();
    OK(trace(PTRACE_SEIZE, pid, 0, 0));
    kill(pid, SIGSTOP);
    stops_by(pid, SIGSTOP);
    OK(trace(PTRACE_CONT, pid, 0, SIGSTOP));
    EQ(stopped(pid) >> 8, SIGSTOP | PTRACE_EVENT_STOP << 8);
    OK(trace(PTRACE_LISTEN, pid, 0, 0));
    EQ(waitpid(pid, NULL, WNOHANG), 0);
    ERR(trace(PTRACE_CONT, pid, 0, 0), ESRCH);
    kill(pid, SIGCONT);
    // First that the stop has ended, then the signal.
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_STOP << 8);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGCONT);
    OK(trace(PTRACE_CONT, pid, 0, SIGCONT));
    finish(pid);
}
CASE(ptrace_attach_to_stopped) {
    pid_t pid = idler();
    kill(pid, SIGSTOP);
    int st;
    EQ(waitpid(pid, &st, WUNTRACED), pid);
    OK(trace(PTRACE_ATTACH, pid, 0, 0));
    EQ(STOPSIG(stopped(pid)), SIGSTOP);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EQ(STOPSIG(stopped(pid)), SIGSTOP); // the one that attach sends
    finish(pid);
}
CASE(ptrace_interrupt_a_running_one) {
    pid_t pid = OK(fork());
    if (!pid) for (volatile long i = 0;; i++) {}
    OK(trace(PTRACE_SEIZE, pid, 0, 0));
    OK(trace(PTRACE_INTERRUPT, pid, 0, 0));
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_STOP << 8);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EQ(waitpid(pid, NULL, WNOHANG), 0);
    OK(trace(PTRACE_INTERRUPT, pid, 0, 0));
    stopped(pid);
    OK(trace(PTRACE_DETACH, pid, 0, 0));
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}
CASE(ptrace_death_of_tracer) {
    for (int exitkill = 0; exitkill < 2; exitkill++) {
        pid_t target = idler(), tracer = OK(fork());
        if (!tracer) {
            if (trace(PTRACE_SEIZE, target, 0, exitkill ? PTRACE_O_EXITKILL : 0)) _exit(1);
            trace(PTRACE_INTERRUPT, target, 0, 0);
            int st;
            if (waitpid(target, &st, __WALL) != target) _exit(2);
            _exit(0);
        }
        EXITS(tracer, 0);
        if (exitkill) DIES(target, SIGKILL);
        else {
            EQ(status_field(target, "TracerPid"), 0);
            EQ(waitpid(target, NULL, WNOHANG), 0);
            kill(target, SIGTERM);
            DIES(target, SIGTERM);
        }
    }
}
CASE(ptrace_zombie_goes_to_tracer_then_parent) {
    int fds[2], go[2];
    char byte = 'x';
    OK(pipe(fds));
    OK(pipe(go));
    pid_t target = OK(fork());
    if (!target) {
        if (read(go[0], &byte, 1)) {}
        _exit(6);
    }
    pid_t tracer = OK(fork());
    if (!tracer) {
        if (trace(PTRACE_SEIZE, target, 0, 0)) _exit(1);
        if (write(fds[1], &byte, 1) != 1) _exit(2);
        nap_ms(100);
        int st;
        if (waitpid(target, &st, __WALL) != target || !WIFEXITED(st) || WEXITSTATUS(st) != 6) _exit(3);
        _exit(0);
    }
    EQ(read(fds[0], &byte, 1), 1);
    EQ(write(go[1], &byte, 1), 1);
    nap_ms(30);
    EQ(waitpid(target, NULL, WNOHANG), 0); // the tracer's first
    EXITS(tracer, 0);
    EXITS(target, 6);
}
CASE(ptrace_signal_masks_and_queue) {
    pid_t pid = TRACED(
        sigset_t s; sigemptyset(&s); sigaddset(&s, SIGUSR1); sigaddset(&s, SIGUSR2); sigprocmask(SIG_BLOCK, &s, NULL); syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1);
        kill(getpid(), SIGUSR2); raise(SIGSTOP); pause());
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGSTOP);
    unsigned long mask = 0;
    OK(trace(PTRACE_GETSIGMASK, pid, 8, (long)&mask));
    EQ(mask, 1 << (SIGUSR1 - 1) | 1 << (SIGUSR2 - 1));
    ERR(trace(PTRACE_GETSIGMASK, pid, 4, (long)&mask), EINVAL);
    struct { uint64_t off; uint32_t flags; int32_t nr; } args = {0, 0, 10};
    siginfo_t infos[10];
    EQ(trace(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos), 1);
    EQ(infos[0].si_signo, SIGUSR1);
    args.flags = 1;
    EQ(trace(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos), 1);
    EQ(infos[0].si_signo, SIGUSR2);
    args.off = 1;
    EQ(trace(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos), 0);
    args.flags = 6;
    ERR(trace(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos), EINVAL);
    mask = 0;
    OK(trace(PTRACE_SETSIGMASK, pid, 8, (long)&mask));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR1);
    finish(pid);
}
#include <linux/filter.h>
#include <linux/seccomp.h>
CASE(ptrace_seccomp_event) {
    pid_t pid = TRACED(
        struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
                                     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | 99), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        struct sock_fprog prog = {4, code}; prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); if (prctl(PR_SET_SECCOMP, 2, &prog)) _exit(1);
        if (syscall(SYS_getppid) != getpid()) _exit(2); errno = 0; if (syscall(SYS_getppid) != -1 || errno != EXDEV) _exit(3);
        if (syscall(SYS_getppid) != getppid()) _exit(4));
    OK(trace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP));
    for (int i = 0; i < 4; i++) {
        OK(trace(PTRACE_CONT, pid, 0, 0));
        EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
        EQ(message(pid), 99);
        struct syscall_info info;
        EQ(trace(0x420e, pid, sizeof info, (long)&info), 84);
        EQ(info.op, 3);
        EQ(info.seccomp.nr, SYS_getppid);
        EQ(info.seccomp.ret_data, 99);
        struct user_regs_struct r = regs(pid);
        EQ(r.orig_rax, SYS_getppid);
        if (i == 0) r.orig_rax = SYS_getpid;
        if (i == 1) r.orig_rax = -1, r.rax = -EXDEV;
        OK(trace(PTRACE_SETREGS, pid, 0, (long)&r));
        if (i == 2) break;
    }
    OK(trace(PTRACE_CONT, pid, 0, 0));
    // The last getppid() is the fourth event.
    EQ(stopped(pid) >> 8, SIGTRAP | PTRACE_EVENT_SECCOMP << 8);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_proc_files) {
    pid_t pid = TRACED(pause());
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = OK(open(path, O_RDWR));
    long value = 0;
    EQ(pread(fd, &value, 8, (long)&poked), 8);
    EQ(value, 11);
    value = 99;
    EQ(pwrite(fd, &value, 8, (long)&poked), 8);
    long word;
    OK(trace(PTRACE_PEEKDATA, pid, (long)&poked, (long)&word));
    EQ(word, 99);
    ERR(pread(fd, &value, 8, 16), EIO);
    // Text, against its rights.
    unsigned char byte = 0xcc, old;
    EQ(pread(fd, &old, 1, (long)finish), 1);
    EQ(old, *(unsigned char *)finish);
    EQ(pwrite(fd, &byte, 1, (long)finish), 1);
    EQ(pread(fd, &old, 1, (long)finish), 1);
    EQ(old, 0xcc);
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    CHECK(strstr(slurp(path), "State:\tt (tracing stop)") != NULL);
    finish(pid);
    EQ(pread(fd, &value, 8, (long)&poked), 0);
}
CASE(ptrace_wait_is_interrupted_and_restarted) {
    pid_t pid = TRACED(pause());
    OK(trace(PTRACE_CONT, pid, 0, 0));
    INTERRUPTED(waitpid(pid, NULL, __WALL));
    finish(pid);
}
CASE(ptrace_threads_are_traced_alone) {
    // Only the first thread is attached; the other runs on.
    int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = OK(fork());
    if (!pid) {
        pthread_t t;
        pthread_create(&t, NULL, (void *(*)(void *))(void *)nap_ms, NULL);
        pthread_join(t, NULL);
        pid_t twin = fork();
        if (!twin) for (;;) { shared[0]++; nap_ms(1); }
        for (;;) pause();
    }
    nap_ms(50);
    OK(trace(PTRACE_ATTACH, pid, 0, 0));
    stops_by(pid, SIGSTOP);
    int before = shared[0];
    nap_ms(50);
    CHECK(shared[0] > before);
    OK(trace(PTRACE_DETACH, pid, 0, 0));
    finish(pid);
}
CASE(ptrace_blocked_signal_stop_waits) {
    // A blocked signal is no stop until it is let through.
    pid_t pid = TRACED(sigset_t s; sigemptyset(&s); sigaddset(&s, SIGUSR1); sigprocmask(SIG_BLOCK, &s, NULL); raise(SIGUSR1); raise(SIGUSR2); sigprocmask(SIG_UNBLOCK, &s, NULL));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR2);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGUSR1);
    OK(trace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 0);
}
CASE(ptrace_fault_is_seen_and_repaired) {
    long *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_t pid = TRACED(*(volatile long *)page = 5; _exit(0));
    OK(trace(PTRACE_CONT, pid, 0, 0));
    stops_by(pid, SIGSEGV);
    siginfo_t i = info_of(pid);
    EQ(i.si_code, SEGV_ACCERR);
    EQ((long)i.si_addr, (long)page);
    OK(trace(PTRACE_CONT, pid, 0, SIGSEGV));
    DIES(pid, SIGSEGV);
}
