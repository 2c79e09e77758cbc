// system: uname, sysinfo, random, cpu, scheduling, and calls that must say no.
#include "abi.h"
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/io.h>
#include <sys/mount.h>

CASE(uname) {
    struct utsname u;
    OK(uname(&u));
    CHECK(!strcmp(u.sysname, "Linux") && !strcmp(u.machine, "x86_64"));
    CHECK(atoi(u.release) >= 6);
    ERR(syscall(SYS_uname, BAD), EFAULT);
}
CASE(sysinfo) {
    struct sysinfo s;
    OK(sysinfo(&s));
    CHECK(s.uptime > 0 && s.totalram > 0 && s.freeram <= s.totalram && s.procs > 0 && s.mem_unit >= 1);
    ERR(syscall(SYS_sysinfo, BAD), EFAULT);
}
CASE(getrandom) {
    unsigned char a[64] = {0}, b[64] = {0};
    EQ(getrandom(a, 64, 0), 64);
    EQ(getrandom(b, 64, GRND_NONBLOCK), 64);
    CHECK(memcmp(a, b, 64));
    ERR(getrandom(a, 1, 0x100), EINVAL);
    ERR(syscall(SYS_getrandom, BAD, 10L, 0L), EFAULT);
    static char big[1 << 16];
    EQ(getrandom(big, sizeof big, 0), (long)sizeof big);
}
CASE(getcpu) {
    unsigned cpu = 999, node = 999;
    OK(syscall(SYS_getcpu, &cpu, &node, NULL));
    CHECK(cpu < 4096 && node < 1024);
    CHECK(sched_getcpu() >= 0);
    ERR(syscall(SYS_getcpu, BAD, NULL, NULL), EFAULT);
    OK(syscall(SYS_getcpu, NULL, NULL, NULL));
}
CASE(sched_affinity) {
    cpu_set_t s;
    OK(sched_getaffinity(0, sizeof s, &s));
    CHECK(CPU_COUNT(&s) >= 1);
    OK(sched_setaffinity(0, sizeof s, &s));
    ERR(sched_getaffinity(99999999, sizeof s, &s), ESRCH);
    ERR(syscall(SYS_sched_getaffinity, 0L, 3L, &s), EINVAL);
    ERR(syscall(SYS_sched_getaffinity, 0L, (long)sizeof s, BAD), EFAULT);
    CPU_ZERO(&s);
    ERR(sched_setaffinity(0, sizeof s, &s), EINVAL);
}
CASE(sched_policy) {
    struct sched_param p = {0};
    EQ(sched_getscheduler(0), SCHED_OTHER);
    OK(sched_getparam(0, &p));
    EQ(p.sched_priority, 0);
    OK(sched_setscheduler(0, SCHED_BATCH, &p));
    EQ(sched_getscheduler(0), SCHED_BATCH);
    EQ(sched_get_priority_max(SCHED_FIFO), 99);
    EQ(sched_get_priority_min(SCHED_FIFO), 1);
    EQ(sched_get_priority_max(SCHED_OTHER), 0);
    ERR(sched_get_priority_max(77), EINVAL);
    p.sched_priority = 5;
    ERR(sched_setscheduler(0, SCHED_OTHER, &p), EINVAL);
    ERR(sched_setscheduler(0, 77, &p), EINVAL);
    ERR(sched_getscheduler(99999999), ESRCH);
    ERR(syscall(SYS_sched_getparam, 0L, BAD), EFAULT);
}
CASE(sched_yield) { for (int i = 0; i < 100; i++) OK(sched_yield()); }
CASE(sched_rr_interval) {
    struct timespec t;
    OK(sched_rr_get_interval(0, &t));
    ERR(sched_rr_get_interval(99999999, &t), ESRCH);
}
CASE(nice_and_priority) {
    errno = 0;
    EQ(getpriority(PRIO_PROCESS, 0), 0);
    OK(setpriority(PRIO_PROCESS, 0, 5));
    EQ(getpriority(PRIO_PROCESS, 0), 5);
    IN_CHILD(EQ(getpriority(PRIO_PROCESS, 0), 5); EQ(nice(3), 8));
    ERR(setpriority(77, 0, 5), EINVAL);
    ERR(setpriority(PRIO_PROCESS, 99999999, 5), ESRCH);
    IN_CHILD(OK(setuid(65534)); ERR(setpriority(PRIO_PROCESS, 0, 0), EACCES));
    OK(setpriority(PRIO_PROCESS, 0, 100));
    EQ(getpriority(PRIO_PROCESS, 0), 19);
}
CASE(no_such_syscall) {
    ERR(syscall(9999), ENOSYS);
    ERR(syscall(-1L), ENOSYS);
    ERR(syscall(180), ENOSYS); // nfsservctl
    ERR(syscall(SYS_uselib, "x"), ENOSYS);
}
CASE(raw_syscall_keeps_registers) {
    unsigned long rbx = 0, rbp_like = 0, r8 = 0, r9 = 0, r10 = 0, rdi = 0, rsi = 0, rdx = 0;
    __asm__ volatile("mov $1,%%rbx; mov $2,%%r12; mov $3,%%r8; mov $4,%%r9; mov $5,%%r10; mov $6,%%rdi; mov $7,%%rsi; mov $8,%%rdx\n"
                     "mov $39,%%eax; syscall\n"
                     "mov %%rbx,%0; mov %%r12,%1; mov %%r8,%2; mov %%r9,%3; mov %%r10,%4; mov %%rdi,%5; mov %%rsi,%6; mov %%rdx,%7"
                     : "=m"(rbx), "=m"(rbp_like), "=m"(r8), "=m"(r9), "=m"(r10), "=m"(rdi), "=m"(rsi), "=m"(rdx)::"rax", "rbx", "r12", "r8",
                       "r9", "r10", "rdi", "rsi", "rdx", "rcx", "r11", "memory");
    CHECK(rbx == 1 && rbp_like == 2 && r8 == 3 && r9 == 4 && r10 == 5 && rdi == 6 && rsi == 7 && rdx == 8);
}
CASE(syscall_sets_rcx_and_r11) {
    unsigned long rcx, r11, flags, here;
    __asm__ volatile("pushfq; pop %2; mov $39,%%eax; syscall; 1: mov %%rcx,%0; mov %%r11,%1; lea 1b(%%rip),%3"
                     : "=&r"(rcx), "=&r"(r11), "=&r"(flags), "=&r"(here)::"rax", "rcx", "r11", "memory");
    CHECK(rcx == here);
    CHECK((r11 & 0xcd5) == (flags & 0xcd5) || r11);
}
CASE(direction_flag_does_not_matter) {
    long pid;
    __asm__ volatile("std; mov $39,%%eax; syscall; cld" : "=a"(pid)::"rcx", "r11", "memory");
    EQ(pid, getpid());
}
CASE(red_zone_is_not_touched) {
    long ok = 0;
    __asm__ volatile("movq $0x77,-8(%%rsp); movq $0x88,-120(%%rsp); mov $39,%%eax; syscall\n"
                     "xor %%eax,%%eax; cmpq $0x77,-8(%%rsp); jne 1f; cmpq $0x88,-120(%%rsp); jne 1f; mov $1,%%eax; 1:"
                     : "=a"(ok)::"rcx", "r11", "memory", "cc");
    EQ(ok, 1);
}
CASE(arch_prctl_fs) {
    unsigned long fs;
    OK(syscall(SYS_arch_prctl, 0x1003L, &fs)); // ARCH_GET_FS
    CHECK(fs != 0);
    ERR(syscall(SYS_arch_prctl, 0x1002L, 0xffff800000000000ul), EPERM);
    ERR(syscall(SYS_arch_prctl, 0x99L, 0L), EINVAL);
    ERR(syscall(SYS_arch_prctl, 0x1003L, BAD), EFAULT);
}
CASE(hostname) {
    char a[65];
    OK(gethostname(a, sizeof a));
    IN_CHILD(OK(setuid(65534)); ERR(sethostname("x", 1), EPERM));
    ERR(syscall(SYS_sethostname, "x", 65L), EINVAL);
    ERR(syscall(SYS_sethostname, BAD, 5L), EFAULT);
}
CASE(unprivileged_must_not) {
    IN_CHILD(OK(setuid(65534)); ERR(mount("a", "/", "tmpfs", 0, NULL), EPERM); ERR(umount("/"), EPERM); ERR(syscall(SYS_reboot, 0xfee1deadL, 672274793L, 0L), EPERM);
             ERR(syscall(SYS_swapon, "x", 0L), EPERM); ERR(syscall(SYS_pivot_root, ".", "."), EPERM);
             ERR(syscall(SYS_vhangup), EPERM));
}
CASE(membarrier) {
    long r = OK(syscall(SYS_membarrier, 0L, 0L));
    CHECK(r > 0);
    ERR(syscall(SYS_membarrier, 0x10000L, 0L), EINVAL);
}
CASE(rseq_registration_rules) {
    ERR(syscall(SYS_rseq, BAD, 32L, 0x40L, 0L), EINVAL);
}
CASE(kcmp_or_enosys_never_lies) {
    long r = syscall(SYS_kcmp, getpid(), getpid(), 0L, 0L, 0L);
    CHECK(r == 0 || errno == ENOSYS);
}
CASE(kcmp_of_an_epoll_target) {
    int p[2], ep = OK(epoll_create1(0)), me = getpid();
    OK(pipe(p));
    struct epoll_event e = {.events = EPOLLIN};
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e));
    unsigned slot[3] = {ep, p[0], 0};
    EQ(syscall(SYS_kcmp, me, me, 7L, (long)p[0], slot), 0);
    EQ(syscall(SYS_kcmp, me, me, 7L, (long)dup(p[0]), slot), 0);
    CHECK(syscall(SYS_kcmp, me, me, 7L, (long)p[1], slot) > 0);
    ERR(syscall(SYS_kcmp, me, me, 7L, 999L, slot), EBADF);
    ERR(syscall(SYS_kcmp, me, me, 7L, (long)p[0], BAD), EFAULT);
    slot[2] = 1;
    ERR(syscall(SYS_kcmp, me, me, 7L, (long)p[0], slot), ENOENT);
    slot[0] = p[0];
    ERR(syscall(SYS_kcmp, me, me, 7L, (long)p[0], slot), EINVAL);
    slot[0] = 999;
    ERR(syscall(SYS_kcmp, me, me, 7L, (long)p[0], slot), EBADF);
}
CASE(inotify_sees_creation) {
    int fd = OK(inotify_init1(IN_NONBLOCK));
    OK(inotify_add_watch(fd, ".", IN_CREATE | IN_DELETE));
    close(file_with("new", ""));
    char b[512];
    ssize_t n = OK(read(fd, b, sizeof b));
    struct inotify_event *e = (void *)b;
    CHECK(n >= (ssize_t)sizeof *e && e->mask & IN_CREATE && !strcmp(e->name, "new"));
    ERR(inotify_rm_watch(fd, 77), EINVAL);
    ERR(inotify_init1(7), EINVAL);
}
CASE(ptrace_traceme_stops_on_exec) {
    pid_t pid = OK(fork());
    if (!pid) { ptrace(PTRACE_TRACEME, 0, 0, 0); raise(SIGSTOP); _exit(7); }
    int st;
    EQ(waitpid(pid, &st, 0), pid);
    CHECK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP);
    OK(ptrace(PTRACE_CONT, pid, 0, 0));
    EXITS(pid, 7);
    ERR(ptrace(PTRACE_CONT, 99999999, 0, 0), ESRCH);
}
CASE(seccomp_filter_kills_or_says_no) {
    EQ(prctl(PR_GET_SECCOMP), 0);
    pid_t pid = OK(fork());
    if (!pid) { prctl(PR_SET_SECCOMP, 1 /* strict */); syscall(SYS_getpid); syscall(SYS_exit, 0); }
    DIES(pid, SIGKILL);
}
