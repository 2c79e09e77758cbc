// procfs: what /proc tells about oneself and others.
#define ABI_PROGRAM
#include "abi.h"
#include <grp.h>
#include <sys/mount.h>
#include <sys/statfs.h>

int special(int argc, char **argv) {
    const char *what = argv[1] + 1;
    if (!strcmp(what, "cmdline")) { // @cmdline with two more arguments
        char want[PATH_MAX + 64];
        size_t n = 0;
        for (int i = 0; i < argc; i++) { strcpy(want + n, argv[i]); n += strlen(argv[i]) + 1; }
        int fd = open("/proc/self/cmdline", O_RDONLY);
        char got[PATH_MAX + 64];
        ssize_t g = read(fd, got, sizeof got);
        _exit(g == (ssize_t)n && !memcmp(got, want, n) ? 0 : 10);
    }
    if (!strcmp(what, "environ")) {
        char got[64];
        ssize_t g = read(open("/proc/self/environ", O_RDONLY), got, sizeof got);
        _exit(g == 8 && !memcmp(got, "A=1\0B=2", 8) ? 0 : 10);
    }
    _exit(99);
}

CASE(self_and_thread_self) {
    char b[64], want[64];
    EQ(readlink("/proc/self", b, sizeof b), snprintf(want, sizeof want, "%d", getpid()));
    CHECK(!memcmp(b, want, strlen(want)));
    EQ(readlink("/proc/thread-self", b, sizeof b), snprintf(want, sizeof want, "%d/task/%d", getpid(), gettid()));
    struct statfs s;
    OK(statfs("/proc/self", &s));
    EQ(s.f_type, 0x9fa0);
}
CASE(exe_is_this_program) {
    char b[PATH_MAX] = {0};
    OK(readlink("/proc/self/exe", b, sizeof b - 1));
    CHECK(!strcmp(b, abi_self));
    pid_t pid = OK(fork());
    if (!pid) { execl("/proc/self/exe", "x", "@cmdline", NULL); _exit(98); }
    EXITS(pid, 0);
}
CASE(cwd_and_root) {
    char a[PATH_MAX] = {0}, b[PATH_MAX];
    OK(readlink("/proc/self/cwd", a, sizeof a - 1));
    CHECK(getcwd(b, sizeof b) && !strcmp(a, b));
    EQ(readlink("/proc/self/root", a, sizeof a), 1);
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(rmdir("../d"));
    ssize_t n = OK(readlink("/proc/self/cwd", a, sizeof a - 1));
    a[n] = 0;
    CHECK(strstr(a, "/d (deleted)"));
}
CASE(cmdline) {
    pid_t pid = OK(fork());
    if (!pid) { execl(abi_self, abi_self, "@cmdline", "two words", "", NULL); _exit(98); }
    EXITS(pid, 0);
}
CASE(environ) {
    pid_t pid = OK(fork());
    char *e[] = {"A=1", "B=2", NULL}, *a[] = {abi_self, "@environ", NULL};
    if (!pid) { execve(abi_self, a, e); _exit(98); }
    EXITS(pid, 0);
}
CASE(comm_reads_and_writes) {
    OK(prctl(PR_SET_NAME, "newname"));
    CHECK(!strcmp(slurp("/proc/self/comm"), "newname\n"));
    int fd = OK(open("/proc/self/comm", O_WRONLY));
    EQ(write(fd, "other", 5), 5);
    char n[17] = {0};
    OK(prctl(PR_GET_NAME, n));
    CHECK(!strcmp(n, "other"));
}
CASE(stat_fields) {
    char *s = slurp("/proc/self/stat"), comm[32], state;
    int pid, ppid, pgrp, session;
    EQ(sscanf(s, "%d (%30[^)]) %c %d %d %d", &pid, comm, &state, &ppid, &pgrp, &session), 6);
    EQ(pid, getpid());
    EQ(ppid, getppid());
    EQ(pgrp, getpgrp());
    EQ(session, getsid(0));
    EQ(state, 'R');
    int fields = 1;
    for (char *p = strrchr(s, ')'); *p; p++) fields += *p == ' ';
    EQ(fields + 1, 52);
}
static long field(const char *file, const char *key) {
    char *s = slurp(file), *p = strstr(s, key);
    if (!p) FAILED("%s lacks %s", file, key);
    return strtol(p + strlen(key), NULL, 10);
}
static const char *text_field(const char *file, const char *key) {
    static char v[128];
    char *s = slurp(file), *p = strstr(s, key);
    if (!p) FAILED("%s lacks %s", file, key);
    sscanf(p + strlen(key), " %127[^\n]", v);
    return v;
}
CASE(status_fields) {
    EQ(field("/proc/self/status", "\nPid:\t"), getpid());
    EQ(field("/proc/self/status", "\nTgid:\t"), getpid());
    EQ(field("/proc/self/status", "\nPPid:\t"), getppid());
    EQ(field("/proc/self/status", "\nUid:\t"), getuid());
    EQ(field("/proc/self/status", "\nThreads:\t"), 1);
    CHECK(field("/proc/self/status", "\nVmRSS:\t") > 0);
    CHECK(field("/proc/self/status", "\nVmSize:\t") > 0);
    CHECK(!strcmp(text_field("/proc/self/status", "\nUmask:"), "0022"));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    OK(sigprocmask(SIG_BLOCK, &set, NULL));
    CHECK(!strcmp(text_field("/proc/self/status", "\nSigBlk:"), "0000000000000200"));
    OK(raise(SIGUSR1));
    CHECK(!strcmp(text_field("/proc/self/status", "\nSigPnd:"), "0000000000000200") || !strcmp(text_field("/proc/self/status", "\nShdPnd:"), "0000000000000200"));
    signal(SIGUSR2, SIG_IGN);
    handle(SIGHUP, 0);
    CHECK(strtoull(text_field("/proc/self/status", "\nSigIgn:"), NULL, 16) & 0x800);
    CHECK(strtoull(text_field("/proc/self/status", "\nSigCgt:"), NULL, 16) & 1);
    EQ(strtoull(text_field("/proc/self/status", "\nCapInh:"), NULL, 16), 0);
    EQ(field("/proc/self/status", "\nNoNewPrivs:\t"), 0);
}
CASE(states_of_a_child) {
    char f[64], c, st;
    pid_t pid = OK(fork());
    if (!pid) { raise(SIGSTOP); _exit(0); }
    int s;
    EQ(waitpid(pid, &s, WUNTRACED), pid);
    snprintf(f, sizeof f, "/proc/%d/stat", pid);
    EQ(sscanf(slurp(f), "%*d (%*[^)]) %c", &st), 1);
    EQ(st, 'T');
    OK(kill(pid, SIGCONT));
    for (int i = 0; i < 2000; i++) { sscanf(slurp(f), "%*d (%*[^)]) %c", &c); if (c == 'Z') break; usleep(1000); }
    EQ(c, 'Z');
    EXITS(pid, 0);
    ERR(open(f, O_RDONLY), ENOENT);
}
CASE(statm) {
    long size, rss;
    EQ(sscanf(slurp("/proc/self/statm"), "%ld %ld", &size, &rss), 2);
    CHECK(size > 0 && rss > 0 && rss <= size);
}
static int line_of(void *addr, char *line, size_t n) {
    FILE *f = fopen("/proc/self/maps", "r");
    unsigned long a, b;
    while (fgets(line, n, f))
        if (sscanf(line, "%lx-%lx", &a, &b) == 2 && (unsigned long)addr >= a && (unsigned long)addr < b) { fclose(f); return 1; }
    fclose(f);
    return 0;
}
CASE(maps) {
    char line[PATH_MAX + 100];
    int fd = file_with("mapped", "x");
    void *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), *q = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(line_of(p, line, sizeof line) && strstr(line, "r--s") && strstr(line, "/mapped"));
    CHECK(line_of(q, line, sizeof line) && strstr(line, "rw-p"));
    OK(mprotect(q, 4096, PROT_READ));
    CHECK(line_of(q, line, sizeof line) && strstr(line, "r--p"));
    CHECK(line_of(&line, line, sizeof line) && strstr(line, "[stack]"));
    CHECK(line_of((void *)line_of, line, sizeof line) && strstr(line, "r-xp") && strstr(line, abi_self));
    OK(munmap(q, 8192));
    CHECK(!line_of(q, line, sizeof line));
}
CASE(fd_links) {
    char path[64], b[PATH_MAX] = {0}, here[PATH_MAX];
    int fd = file_with("thing", "abc"), p[2];
    CHECK(getcwd(here, sizeof here));
    strcat(here, "/thing");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    OK(readlink(path, b, sizeof b - 1));
    CHECK(!strcmp(b, here));
    EQ(lseek(fd, 1, SEEK_SET), 1);
    int again = OK(open(path, O_RDONLY)); // a new open file, at its start
    EQ(lseek(again, 0, SEEK_CUR), 0);
    OK(unlink("thing"));
    memset(b, 0, sizeof b);
    OK(readlink(path, b, sizeof b - 1));
    strcat(here, " (deleted)");
    CHECK(!strcmp(b, here));
    OK(open(path, O_RDONLY)); // and it can still be opened
    OK(pipe(p));
    snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
    memset(b, 0, sizeof b);
    OK(readlink(path, b, sizeof b - 1));
    CHECK(!strncmp(b, "pipe:[", 6));
    int w = OK(open(path, O_WRONLY)); // a pipe's end can be opened either way
    EQ(write(w, "x", 1), 1);
    EQ(read(p[0], b, 1), 1);
}
CASE(fd_directory_lists) {
    int fd = file_with("f", ""), seen = 0, n = 0;
    OK(dup2(fd, 77));
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; (e = readdir(d));) { n++; seen |= !strcmp(e->d_name, "77"); }
    CHECK(seen && n >= 6);
    ERR(open("/proc/self/fd/78", O_RDONLY), ENOENT);
}
CASE(fdinfo) {
    int fd = file_with("f", "abcdef");
    EQ(lseek(fd, 4, SEEK_SET), 4);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    EQ(field(path, "pos:\t"), 4);
    CHECK(strstr(slurp(path), "flags:\t0100002"));
}
static void *idle(void *a) { pause(); return a; }
CASE(task_directory) {
    pthread_t t;
    pthread_create(&t, NULL, idle, NULL);
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    EQ(n, 2);
    EQ(field("/proc/self/status", "\nThreads:\t"), 2);
}
CASE(mem_reads_and_writes) {
    volatile int x = 1234;
    int y = 0, fd = OK(open("/proc/self/mem", O_RDWR));
    EQ(pread(fd, &y, 4, (off_t)(uintptr_t)&x), 4);
    EQ(y, 1234);
    y = 99;
    EQ(pwrite(fd, &y, 4, (off_t)(uintptr_t)&x), 4);
    EQ(x, 99);
    ERR(pread(fd, &y, 4, 16), EIO);
}
CASE(mounts_and_mountinfo) {
    CHECK(strstr(slurp("/proc/self/mounts"), " / "));
    CHECK(strstr(slurp("/proc/self/mounts"), "proc /proc proc "));
    CHECK(strstr(slurp("/proc/self/mountinfo"), " / / ") || strstr(slurp("/proc/self/mountinfo"), " / "));
    CHECK(strstr(slurp("/proc/mounts"), " /proc "));
    CHECK(strstr(slurp("/proc/filesystems"), "proc"));
}
CASE(limits) {
    struct rlimit rl = {123, 456};
    OK(setrlimit(RLIMIT_NOFILE, &rl));
    char *p = strstr(slurp("/proc/self/limits"), "Max open files");
    int cur, max;
    CHECK(p && sscanf(p + 14, "%d %d", &cur, &max) == 2);
    CHECK(cur == 123 && max == 456);
}
CASE(oom_score_adj) {
    OK(open("/proc/self/oom_score_adj", O_RDONLY));
    int fd = OK(open("/proc/self/oom_score_adj", O_WRONLY));
    EQ(write(fd, "500", 3), 3);
    CHECK(!strcmp(slurp("/proc/self/oom_score_adj"), "500\n"));
    ERR(pwrite(fd, "5000", 4, 0), EINVAL);
}
CASE(system_files) {
    CHECK(field("/proc/meminfo", "MemTotal:") > 0);
    CHECK(field("/proc/meminfo", "MemAvailable:") > 0);
    CHECK(strstr(slurp("/proc/cpuinfo"), "processor\t: 0"));
    CHECK(strstr(slurp("/proc/stat"), "cpu0 "));
    double up, idle;
    EQ(sscanf(slurp("/proc/uptime"), "%lf %lf", &up, &idle), 2);
    CHECK(up > 0);
    double l;
    EQ(sscanf(slurp("/proc/loadavg"), "%lf", &l), 1);
    CHECK(!strncmp(slurp("/proc/version"), "Linux version ", 14));
}
CASE(sysctls) {
    CHECK(atol(slurp("/proc/sys/kernel/pid_max")) > 1000);
    CHECK(atol(slurp("/proc/sys/vm/overcommit_memory")) >= 0);
    CHECK(strlen(slurp("/proc/sys/kernel/osrelease")) > 2);
    CHECK(strlen(slurp("/proc/sys/kernel/hostname")) > 0);
    EQ(strlen(slurp("/proc/sys/kernel/random/uuid")), 37);
    CHECK(strcmp(slurp("/proc/sys/kernel/random/boot_id"), ""));
    CHECK(atol(slurp("/proc/sys/fs/pipe-max-size")) >= 4096);
    CHECK(atol(slurp("/proc/sys/kernel/cap_last_cap")) >= 37);
}
CASE(ns_links) {
    const char *ns[] = {"pid", "mnt", "user", "net", "ipc", "uts"};
    for (int i = 0; i < 6; i++) {
        char path[64], b[64] = {0}, want[16];
        snprintf(path, sizeof path, "/proc/self/ns/%s", ns[i]);
        OK(readlink(path, b, sizeof b - 1));
        snprintf(want, sizeof want, "%s:[", ns[i]);
        CHECK(!strncmp(b, want, strlen(want)));
    }
}
CASE(errors) {
    ERR(open("/proc/99999999", O_RDONLY), ENOENT);
    ERR(mkdir("/proc/x", 0700), ENOENT);
    IN_CHILD(OK(setuid(65534)); ERR(open("/proc/self/stat", O_WRONLY), EACCES));
}
CASE(other_users_files_are_closed) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", getpid());
    IN_CHILD(OK(setuid(65534)); ERR(open(path, O_RDONLY), EACCES); char b[8]; char p2[64]; snprintf(p2, sizeof p2, "/proc/%d/exe", getppid());
             ERR(readlink(p2, b, 8), EACCES); snprintf(p2, sizeof p2, "/proc/%d/stat", getppid()); OK(open(p2, O_RDONLY)));
}
CASE(proc_lists_processes) {
    int me = 0, child = 0;
    pid_t pid = OK(fork());
    if (!pid) { for (;;) pause(); }
    DIR *d = opendir("/proc");
    for (struct dirent *e; (e = readdir(d));) { me |= atoi(e->d_name) == getpid(); child |= atoi(e->d_name) == pid; }
    CHECK(me && child);
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
}
// Files that all Linux systems have; their shape is looked at by the cases below.
static int has_line(const char *text, const char *start) {
    for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (!strncmp(p, start, strlen(start))) return 1;
    return 0;
}
CASE(state_of_a_sleeper) {
    char f[64], st;
    int p[2];
    OK(pipe(p));
    pid_t pid = OK(fork());
    if (!pid) { char c; (void)!read(p[0], &c, 1); _exit(0); }
    snprintf(f, sizeof f, "/proc/%d/stat", pid);
    for (int i = 0; i < 2000; i++) { sscanf(slurp(f), "%*d (%*[^)]) %c", &st); if (st == 'S') break; usleep(1000); }
    EQ(st, 'S');
    snprintf(f, sizeof f, "/proc/%d/status", pid);
    CHECK(has_line(slurp(f), "State:\tS (sleeping)\n"));
    OK(write(p[1], "x", 1));
    EXITS(pid, 0);
}
static void *spin(void *a) { while (!*(volatile int *)a) {} return NULL; }
CASE(state_of_a_spinner) {
    pid_t pid = OK(fork());
    if (!pid) for (;;) {}
    char f[64], st = 0;
    snprintf(f, sizeof f, "/proc/%d/stat", pid);
    for (int i = 0; i < 2000; i++) { sscanf(slurp(f), "%*d (%*[^)]) %c", &st); if (st == 'R') break; usleep(1000); }
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
    EQ(st, 'R');
}
CASE(zombie_files) {
    char f[64];
    pid_t pid = OK(fork());
    if (!pid) _exit(7);
    siginfo_t si;
    OK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT));
    snprintf(f, sizeof f, "/proc/%d/status", pid);
    CHECK(has_line(slurp(f), "State:\tZ (zombie)\n"));
    CHECK(!strstr(slurp(f), "VmRSS"));
    CHECK(has_line(slurp(f), "Threads:\t1\n"));
    snprintf(f, sizeof f, "/proc/%d/cmdline", pid);
    EQ(strlen(slurp(f)), 0);
    snprintf(f, sizeof f, "/proc/%d/exe", pid);
    char b[PATH_MAX];
    ERR(readlink(f, b, sizeof b), ENOENT);
    snprintf(f, sizeof f, "/proc/%d/statm", pid);
    CHECK(!strcmp(slurp(f), "0 0 0 0 0 0 0\n"));
    int seen = 0;
    DIR *d = opendir("/proc");
    for (struct dirent *e; (e = readdir(d));) seen |= atoi(e->d_name) == pid;
    CHECK(seen);
    snprintf(f, sizeof f, "/proc/%d/stat", pid);
    int code = -1;
    char *s = slurp(f), *p = strrchr(s, ' ');
    CHECK(sscanf(p, " %d", &code) == 1);
    EQ(code, 7 << 8);
    EXITS(pid, 7);
    ERR(access(f, F_OK), ENOENT);
}
static void *leaves_first(void *a) { (void)a; nap_ms(300); _exit(0); }
CASE(zombie_leader_keeps_its_process) {
    char f[64], st = 0;
    pid_t pid = OK(fork());
    if (!pid) {
        pthread_t t;
        pthread_create(&t, NULL, leaves_first, NULL);
        pthread_exit(NULL);
    }
    snprintf(f, sizeof f, "/proc/%d/stat", pid);
    for (int i = 0; i < 200; i++) { sscanf(slurp(f), "%*d (%*[^)]) %c", &st); if (st == 'Z') break; usleep(1000); }
    EQ(st, 'Z');
    OK(kill(pid, 0));
    int n = 0;
    snprintf(f, sizeof f, "/proc/%d/task", pid);
    DIR *d = opendir(f);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    EQ(n, 2);
    EXITS(pid, 0);
}
CASE(stat_addresses) {
    unsigned long v[53] = {0};
    char *s = strrchr(slurp("/proc/self/stat"), ')') + 4;
    for (int i = 4; i <= 52; i++) { v[i] = strtoul(s, &s, 10); }
    EQ(v[38], SIGCHLD);
    CHECK(v[26] <= (unsigned long)case_stat_addresses && (unsigned long)case_stat_addresses < v[27]); // code
    CHECK(v[28] > (unsigned long)&s); // the stack's start
    CHECK(v[48] < v[49] && v[50] <= v[51] && v[49] <= v[50]);
    CHECK(!strncmp((char *)v[48], "/", 1) || v[48]);
    EQ(v[18], 20);
    EQ(v[19], 0);
    EQ(v[20], 1);
}
CASE(stat_counts_time) {
    long long end = now_ns(CLOCK_PROCESS_CPUTIME_ID) + 60000000;
    while (now_ns(CLOCK_PROCESS_CPUTIME_ID) < end) {}
    unsigned long u, st;
    EQ(sscanf(strrchr(slurp("/proc/self/stat"), ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &st), 2);
    CHECK(u + st >= 4 && u + st < 100);
}
CASE(status_is_complete) {
    const char *names[] = {"Name:", "Umask:", "State:", "Tgid:", "Ngid:", "Pid:", "PPid:", "TracerPid:", "Uid:", "Gid:", "FDSize:", "Groups:", "NStgid:", "NSpid:", "NSpgid:", "NSsid:", "VmPeak:", "VmSize:", "VmLck:", "VmPin:", "VmHWM:", "VmRSS:", "RssAnon:", "RssFile:", "RssShmem:", "VmData:", "VmStk:", "VmExe:", "VmLib:", "VmPTE:", "VmSwap:", "HugetlbPages:", "CoreDumping:", "THP_enabled:", "Threads:", "SigQ:", "SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:", "Cpus_allowed:", "Cpus_allowed_list:", "Mems_allowed:", "Mems_allowed_list:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"};
    char *s = slurp("/proc/self/status"), *at = s;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *p = strstr(at, names[i]);
        if (!p) FAILED("no %s, or out of order", names[i]);
        at = p;
    }
}
CASE(status_groups) {
    gid_t g[] = {7, 11};
    IN_CHILD(OK(setgroups(2, g)); CHECK(has_line(slurp("/proc/self/status"), "Groups:\t7 11 \n")); OK(setgroups(0, NULL)); CHECK(has_line(slurp("/proc/self/status"), "Groups:\t \n")));
}
CASE(context_switches_are_counted) {
    long before = field("/proc/self/status", "\nvoluntary_ctxt_switches:\t");
    for (int i = 0; i < 10; i++) nap_ms(2);
    CHECK(field("/proc/self/status", "\nvoluntary_ctxt_switches:\t") >= before + 10);
}
CASE(status_sigq) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    OK(sigprocmask(SIG_BLOCK, &set, NULL));
    int before, after, limit;
    CHECK(sscanf(text_field("/proc/self/status", "\nSigQ:"), "%d/%d", &before, &limit) == 2);
    union sigval v = {0};
    OK(sigqueue(getpid(), SIGRTMIN, v));
    OK(sigqueue(getpid(), SIGRTMIN, v));
    CHECK(sscanf(text_field("/proc/self/status", "\nSigQ:"), "%d/%d", &after, &limit) == 2);
    CHECK(after >= before + 2 && limit >= after);
}
CASE(comm_keeps_what_is_written) {
    int fd = OK(open("/proc/self/comm", O_RDWR));
    EQ(write(fd, "line\n", 5), 5);
    CHECK(!strcmp(slurp("/proc/self/comm"), "line\n\n"));
    EQ(write(fd, "0123456789abcdefghi", 19), 19);
    CHECK(!strcmp(slurp("/proc/self/comm"), "0123456789abcde\n"));
    EQ(write(fd, "a\0b", 3), 3);
    CHECK(!strcmp(slurp("/proc/self/comm"), "a\n"));
    pid_t parent = getpid();
    char f[64];
    snprintf(f, sizeof f, "/proc/%d/comm", parent);
    IN_CHILD(int o = OK(open(f, O_WRONLY)); ERR(write(o, "x", 1), EINVAL));
}
CASE(thread_names_are_their_own) {
    pthread_t t;
    int stop = 0;
    pthread_create(&t, NULL, spin, &stop);
    char f[96], b[32];
    DIR *d = opendir("/proc/self/task");
    int other = 0;
    for (struct dirent *e; (e = readdir(d));) if (e->d_name[0] != '.' && atoi(e->d_name) != getpid()) other = atoi(e->d_name);
    CHECK(other);
    snprintf(f, sizeof f, "/proc/self/task/%d/comm", other);
    int fd = OK(open(f, O_RDWR));
    EQ(write(fd, "worker", 6), 6);
    CHECK(pthread_getname_np(t, b, sizeof b) == 0 && !strcmp(b, "worker"));
    CHECK(strcmp(slurp("/proc/self/comm"), "worker\n"));
    snprintf(f, sizeof f, "/proc/self/task/%d/status", other);
    EQ(field(f, "\nPid:\t"), other);
    EQ(field(f, "\nTgid:\t"), getpid());
    stop = 1;
    pthread_join(t, NULL);
    for (int i = 0; i < 200 && !access(f, F_OK); i++) nap_ms(1); // joined a moment before it is gone
    ERR(access(f, F_OK), ENOENT);
}
CASE(children_file) {
    char f[64], want[64];
    pid_t a = OK(fork());
    if (!a) for (;;) pause();
    pid_t b = OK(fork());
    if (!b) for (;;) pause();
    snprintf(f, sizeof f, "/proc/self/task/%d/children", getpid());
    snprintf(want, sizeof want, "%d %d ", a, b);
    char *got = slurp(f);
    int same = !strcmp(got, want);
    kill(a, SIGKILL);
    kill(b, SIGKILL);
    DIES(a, SIGKILL);
    DIES(b, SIGKILL);
    CHECK(same);
    EQ(strlen(slurp(f)), 0);
    ERR(access("/proc/self/children", F_OK), ENOENT);
}
CASE(auxv) {
    unsigned long a[128];
    ssize_t n = OK(read(OK(open("/proc/self/auxv", O_RDONLY)), a, sizeof a));
    int page = 0, ended = 0;
    for (ssize_t i = 0; i < n / 16; i++) { page |= a[2 * i] == 6 && a[2 * i + 1] == 4096; ended |= a[2 * i] == 0; }
    CHECK(page && ended);
}
CASE(setproctitle_shows_in_cmdline) {
    // argv and the environment lie side by side: a title that is longer than argv runs on into the environment.
    unsigned long v[53] = {0};
    char *s = strrchr(slurp("/proc/self/stat"), ')') + 4;
    for (int i = 4; i <= 52; i++) { v[i] = strtoul(s, &s, 10); }
    char *args = (char *)v[48];
    size_t n = v[49] - v[48];
    memset(args, 'x', n);
    args[n] = 'y';
    args[n + 1] = 0;
    char got[65536];
    ssize_t g = read(open("/proc/self/cmdline", O_RDONLY), got, sizeof got);
    CHECK(g >= (ssize_t)n + 1 && got[n - 1] == 'x' && got[n] == 'y');
    args[n - 1] = 0;
    g = read(open("/proc/self/cmdline", O_RDONLY), got, sizeof got);
    EQ(g, n);
}
CASE(smaps) {
    char *m = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(m, 1, 8 * 4096);
    char want[32];
    snprintf(want, sizeof want, "%lx-", (unsigned long)m);
    char *all = slurp("/proc/self/smaps");
    char *p = strstr(all, want);
    if (!p) { p = all; while (p && !((strtoul(p, NULL, 16) <= (unsigned long)m) && strchr(p, '-') && strtoul(strchr(p, '-') + 1, NULL, 16) > (unsigned long)m)) { p = strstr(p, "VmFlags"); if (p) p = strchr(p, '\n') + 1; } }
    CHECK(p && *p);
    long rss = atol(strstr(p, "\nRss:") + 5), anon = atol(strstr(p, "\nAnonymous:") + 11);
    CHECK(rss >= 32);
    CHECK(anon >= 32);
    CHECK(strstr(p, "\nVmFlags: rd wr mr mw me "));
}
CASE(smaps_rollup) {
    char *s = slurp("/proc/self/smaps_rollup");
    char *line = strchr(s, '\n');
    CHECK(line && !strncmp(line - 8, "[rollup]", 8));
    CHECK(atol(strstr(s, "\nRss:") + 5) > 0 && strstr(s, "\nPss:") && strstr(s, "\nPrivate_Dirty:") && strstr(s, "\nSwapPss:") && strstr(s, "\nLocked:"));
}
CASE(rss_grows_with_use) {
    long before = field("/proc/self/status", "\nVmRSS:\t");
    char *m = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(m, 1, 8 << 20);
    CHECK(field("/proc/self/status", "\nVmRSS:\t") >= before + 8000);
    CHECK(field("/proc/self/status", "\nVmHWM:\t") >= before + 8000);
    OK(munmap(m, 8 << 20));
    CHECK(field("/proc/self/status", "\nVmRSS:\t") < before + 4000);
}
CASE(numa_maps) { CHECK(strstr(slurp("/proc/self/numa_maps"), " default ") && strstr(slurp("/proc/self/numa_maps"), "kernelpagesize_kB=4")); }
CASE(personality_file) {
    CHECK(!strcmp(slurp("/proc/self/personality"), "00000000\n"));
    IN_CHILD(OK(syscall(SYS_personality, 0x0040000)); CHECK(!strcmp(slurp("/proc/self/personality"), "00040000\n")));
}
CASE(timerslack_ns) {
    CHECK(!strcmp(slurp("/proc/self/timerslack_ns"), "50000\n"));
    int fd = OK(open("/proc/self/timerslack_ns", O_WRONLY));
    EQ(write(fd, "70000", 5), 5);
    EQ(prctl(PR_GET_TIMERSLACK), 70000);
    EQ(write(fd, "0\n", 2), 2);
    EQ(prctl(PR_GET_TIMERSLACK), 50000);
    ERR(write(fd, "x", 1), EINVAL);
}
CASE(oom_adj_and_score) {
    int fd = OK(open("/proc/self/oom_adj", O_WRONLY));
    EQ(write(fd, "5", 1), 1);
    CHECK(!strcmp(slurp("/proc/self/oom_score_adj"), "294\n"));
    CHECK(!strcmp(slurp("/proc/self/oom_adj"), "4\n"));
    ERR(write(fd, "16", 2), EINVAL);
    EQ(write(fd, "15", 2), 2);
    CHECK(!strcmp(slurp("/proc/self/oom_score_adj"), "1000\n"));
    CHECK(atol(slurp("/proc/self/oom_score")) >= 1000);
    fd = OK(open("/proc/self/oom_score_adj", O_WRONLY));
    ERR(write(fd, "abc", 3), EINVAL);
    ERR(write(fd, "-1001", 5), EINVAL);
    EQ(write(fd, "0", 1), 1);
    IN_CHILD(CHECK(!strcmp(slurp("/proc/self/oom_score_adj"), "0\n")));
}
CASE(loginuid_and_sessionid) {
    IN_CHILD(int fd = OK(open("/proc/self/loginuid", O_WRONLY)); EQ(write(fd, "12", 2), 2); CHECK(!strcmp(slurp("/proc/self/loginuid"), "12"));
             CHECK(atol(slurp("/proc/self/sessionid")) > 0 && strcmp(slurp("/proc/self/sessionid"), "4294967295"));
             IN_CHILD(CHECK(!strcmp(slurp("/proc/self/loginuid"), "12"))); ERR(write(fd, "x", 1), EINVAL));
}
CASE(clear_refs) {
    int fd = OK(open("/proc/self/clear_refs", O_WRONLY));
    EQ(write(fd, "5", 1), 1);
    ERR(write(fd, "9", 1), EINVAL);
    ERR(write(fd, "x", 1), EINVAL);
}
// Whether the kernel has a security module that labels processes.
static int labels_processes(void) {
    OK(unshare(CLONE_NEWNS));
    OK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    OK(mkdir("security", 0755));
    if (mount("securityfs", "security", "securityfs", 0, NULL) < 0) { EQ(errno, ENODEV); return 0; }
    char *modules = slurp("security/lsm");
    return strstr(modules, "apparmor") || strstr(modules, "selinux") || strstr(modules, "smack");
}
CASE(attr_current) {
    char b[128];
    int labelled = labels_processes(), fd = OK(open("/proc/self/attr/current", O_RDWR));
    if (labelled) CHECK(OK(read(fd, b, sizeof b)) > 0);
    else ERR(read(fd, b, sizeof b), EINVAL);
    ERR(write(fd, "x", 1), EINVAL);
}
CASE(io_counts) {
    long r = field("/proc/self/io", "rchar: "), w = field("/proc/self/io", "wchar: "), n = field("/proc/self/io", "syscw: ");
    int fd = file_with("f", "");
    char b[1000] = {0};
    for (int i = 0; i < 5; i++) EQ(write(fd, b, sizeof b), 1000);
    EQ(pread(fd, b, 700, 0), 700);
    CHECK(field("/proc/self/io", "wchar: ") >= w + 5000);
    CHECK(field("/proc/self/io", "rchar: ") >= r + 700);
    CHECK(field("/proc/self/io", "syscw: ") >= n + 5);
}
CASE(sched_and_schedstat) {
    char *s = slurp("/proc/self/sched");
    CHECK(strstr(s, "#threads: 1)") && strstr(s, "nr_voluntary_switches") && strstr(s, "policy") && strstr(s, "prio"));
    unsigned long run, wait, slices;
    for (long long end = now_ns(CLOCK_PROCESS_CPUTIME_ID) + 20000000; now_ns(CLOCK_PROCESS_CPUTIME_ID) < end;) {}
    EQ(sscanf(slurp("/proc/self/schedstat"), "%lu %lu %lu", &run, &wait, &slices), 3);
    CHECK(run > 0);
}
CASE(timers_file) {
    EQ(strlen(slurp("/proc/self/timers")), 0);
    timer_t t;
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    OK(timer_create(CLOCK_MONOTONIC, &ev, &t));
    char want[64];
    snprintf(want, sizeof want, "notify: signal/pid.%d\nClockID: 1\n", getpid());
    CHECK(strstr(slurp("/proc/self/timers"), want));
    CHECK(strstr(slurp("/proc/self/timers"), "signal: 10/"));
}
CASE(limits_columns) {
    char *s = slurp("/proc/self/limits");
    CHECK(!strncmp(s, "Limit                     Soft Limit           Hard Limit           Units     \n", 79));
    CHECK(strstr(s, "\nMax address space         unlimited            unlimited            bytes     \n"));
    CHECK(strstr(s, "\nMax nice priority         0                    0                    \n"));
}
CASE(fdinfo_of_special_files) {
    char f[64];
    int e = OK(syscall(SYS_eventfd2, 5, 1));
    snprintf(f, sizeof f, "/proc/self/fdinfo/%d", e);
    CHECK(strstr(slurp(f), "eventfd-count:                5\n"));
    int t = OK(syscall(SYS_timerfd_create, 1, 0));
    snprintf(f, sizeof f, "/proc/self/fdinfo/%d", t);
    CHECK(strstr(slurp(f), "clockid: 1\nticks: 0\nsettime flags: 00\nit_value: (0, 0)\nit_interval: (0, 0)\n"));
    unsigned long mask = 1UL << (SIGUSR1 - 1);
    int s = OK(syscall(SYS_signalfd4, -1, &mask, 8, 0));
    snprintf(f, sizeof f, "/proc/self/fdinfo/%d", s);
    CHECK(strstr(slurp(f), "sigmask:\t0000000000000200\n"));
    int ep = OK(syscall(SYS_epoll_create1, 0));
    struct { unsigned events; unsigned long data; } __attribute__((packed)) ev = {1, 0xabcd};
    OK(syscall(SYS_epoll_ctl, ep, 1, e, &ev));
    snprintf(f, sizeof f, "/proc/self/fdinfo/%d", ep);
    char want[64];
    snprintf(want, sizeof want, "tfd: %8d events: %8x data: %16lx  pos:0 ino:", e, 0x19, 0xabcdUL);
    CHECK(strstr(slurp(f), want));
    CHECK(strstr(slurp(f), "flags:\t02\n"));
    ep = OK(syscall(SYS_epoll_create1, O_CLOEXEC));
    snprintf(f, sizeof f, "/proc/self/fdinfo/%d", ep);
    CHECK(strstr(slurp(f), "flags:\t02000002\n"));
}
CASE(fdinfo_names_mount_and_inode) {
    int fd = OK(open("/proc/self/status", O_RDONLY));
    struct stat st;
    OK(fstat(fd, &st));
    char f[64], want[64];
    snprintf(f, sizeof f, "/proc/self/fdinfo/%d", fd);
    EQ(field(f, "ino:\t"), (long)st.st_ino);
    long id = field(f, "mnt_id:\t");
    snprintf(want, sizeof want, "%ld ", id);
    CHECK(has_line(slurp("/proc/self/mountinfo"), want));
}
CASE(magic_links_open_the_place) {
    OK(mkdir("d", 0755));
    file_with("d/f", "inside");
    OK(chdir("d"));
    char b[16] = {0};
    int fd = OK(open("/proc/self/cwd/f", O_RDONLY));
    EQ(read(fd, b, 6), 6);
    CHECK(!strcmp(b, "inside"));
    OK(access("/proc/self/root/proc/self/stat", R_OK));
    ERR(open("/proc/self/exe/x", O_RDONLY), ENOTDIR);
    struct stat a, c;
    OK(stat("/proc/self/exe", &a));
    OK(stat(abi_self, &c));
    CHECK(a.st_ino == c.st_ino && a.st_dev == c.st_dev);
    OK(lstat("/proc/self/exe", &a));
    CHECK(S_ISLNK(a.st_mode));
}
CASE(text_files_are_not_for_writing) {
    const char *einval[] = {"/proc/self/stat", "/proc/self/status", "/proc/self/maps", "/proc/self/limits", "/proc/self/cmdline", "/proc/self/smaps", "/proc/self/auxv", "/proc/self/wchan", "/proc/self/oom_score"};
    const char *eio[] = {"/proc/meminfo", "/proc/cpuinfo", "/proc/version", "/proc/uptime", "/proc/stat", "/proc/loadavg", "/proc/filesystems"};
    for (size_t i = 0; i < sizeof einval / sizeof *einval; i++) { int fd = OK(open(einval[i], O_WRONLY)); ERR(write(fd, "x", 1), EINVAL); close(fd); }
    for (size_t i = 0; i < sizeof eio / sizeof *eio; i++) { int fd = OK(open(eio[i], O_WRONLY)); ERR(write(fd, "x", 1), EIO); close(fd); }
    ERR(open("/proc/sys/kernel/ostype", O_WRONLY), EACCES);
    ERR(open("/proc/sys/kernel/osrelease", O_RDWR), EACCES);
}
CASE(reads_in_pieces_agree) {
    char whole[8192], parts[8192];
    ssize_t n = read(OK(open("/proc/self/limits", O_RDONLY)), whole, sizeof whole);
    int fd = OK(open("/proc/self/limits", O_RDONLY));
    ssize_t m = 0, r;
    while ((r = OK(read(fd, parts + m, 7))) > 0) m += r;
    EQ(m, n);
    CHECK(!memcmp(whole, parts, n));
    EQ(pread(fd, parts, 5, 0), 5);
    CHECK(!memcmp(whole, parts, 5));
    EQ(lseek(fd, 0, SEEK_SET), 0);
    EQ(read(fd, parts, 5), 5);
    ERR(read(fd, BAD, 5), EFAULT);
}
CASE(sizes_and_modes) {
    struct stat st;
    OK(stat("/proc/self/status", &st));
    CHECK(S_ISREG(st.st_mode) && (st.st_mode & 07777) == 0444);
    EQ(st.st_size, 0);
    OK(stat("/proc/self/environ", &st));
    EQ(st.st_mode & 07777, 0400);
    OK(stat("/proc/self/fd", &st));
    CHECK(S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 0500);
    OK(stat("/proc/self/timerslack_ns", &st));
    EQ(st.st_mode & 07777, 0666);
    OK(stat("/proc", &st));
    EQ(st.st_ino, 1);
    EQ(st.st_mode & 07777, 0555);
}
CASE(hostname_by_sysctl) {
    char old[65] = {0}, now[65] = {0};
    OK(gethostname(old, sizeof old));
    char *s = slurp("/proc/sys/kernel/hostname");
    CHECK(!strncmp(s, old, strlen(old)) && s[strlen(old)] == '\n');
    IN_CHILD(if (unshare(0x04000000 /* CLONE_NEWUTS */) == 0) {
        int fd = OK(open("/proc/sys/kernel/hostname", O_WRONLY));
        EQ(write(fd, "abi-name\n", 9), 9);
        OK(gethostname(now, sizeof now));
        CHECK(!strcmp(now, "abi-name"));
        CHECK(!strcmp(slurp("/proc/sys/kernel/hostname"), "abi-name\n"));
    });
    IN_CHILD(OK(setuid(65534)); ERR(open("/proc/sys/kernel/hostname", O_WRONLY), EACCES));
}
CASE(sysctl_tree) {
    const char *files[] = {"fs/file-max", "fs/file-nr", "fs/nr_open", "fs/pipe-max-size", "fs/aio-max-nr", "fs/aio-nr", "fs/protected_hardlinks", "fs/protected_symlinks", "fs/epoll/max_user_watches", "fs/inotify/max_user_watches", "fs/inotify/max_user_instances", "fs/inotify/max_queued_events", "fs/lease-break-time", "fs/overflowuid", "fs/mqueue/msg_max", "fs/mqueue/msgsize_max", "fs/mqueue/queues_max", "kernel/cap_last_cap", "kernel/core_pattern", "kernel/core_uses_pid", "kernel/domainname", "kernel/hostname", "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/ngroups_max", "kernel/ns_last_pid", "kernel/osrelease", "kernel/ostype", "kernel/overflowgid", "kernel/overflowuid", "kernel/panic", "kernel/perf_event_paranoid", "kernel/pid_max", "kernel/printk", "kernel/pty/max", "kernel/random/boot_id", "kernel/random/entropy_avail", "kernel/random/poolsize", "kernel/random/uuid", "kernel/randomize_va_space", "kernel/sched_rr_timeslice_ms", "kernel/sched_rt_runtime_us", "kernel/seccomp/actions_avail", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/tainted", "kernel/threads-max", "kernel/version", "user/max_user_namespaces", "user/max_mnt_namespaces", "vm/dirty_ratio", "vm/dirty_background_ratio", "vm/max_map_count", "vm/min_free_kbytes", "vm/mmap_min_addr", "vm/nr_hugepages", "vm/overcommit_memory", "vm/overcommit_ratio", "vm/panic_on_oom", "vm/swappiness", "vm/vfs_cache_pressure"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char f[128];
        snprintf(f, sizeof f, "/proc/sys/%s", files[i]);
        char *s = slurp(f);
        if (!*s || s[strlen(s) - 1] != '\n') FAILED("%s holds '%s'", f, s);
    }
    ERR(open("/proc/sys/kernel/none", O_RDONLY), ENOENT);
    ERR(mkdir("/proc/sys/x", 0700), ENOENT);
}
CASE(sysctl_values_agree) {
    EQ(atol(slurp("/proc/sys/fs/nr_open")), 1 << 20);
    EQ(atol(slurp("/proc/sys/kernel/ngroups_max")), sysconf(_SC_NGROUPS_MAX));
    char *a = strdup(slurp("/proc/sys/kernel/random/boot_id")), *u = strdup(slurp("/proc/sys/kernel/random/uuid"));
    CHECK(!strcmp(a, slurp("/proc/sys/kernel/random/boot_id")));
    CHECK(strcmp(u, slurp("/proc/sys/kernel/random/uuid")));
    EQ(u[14], '4');
    EQ(strlen(a), 37);
    CHECK(atol(slurp("/proc/sys/kernel/ns_last_pid")) >= getpid());
}
CASE(open_files_are_counted) {
    // Linux counts for each CPU by itself and adds up now and then: a few files may not show.
    enum { FILES = 900, SLACK = 300 };
    struct rlimit limit;
    OK(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    OK(setrlimit(RLIMIT_NOFILE, &limit));
    long before, used, unused;
    EQ(sscanf(slurp("/proc/sys/fs/file-nr"), "%ld %ld", &before, &unused), 2);
    for (int i = 0; i < FILES; i++) OK(open("/dev/null", O_RDONLY));
    EQ(sscanf(slurp("/proc/sys/fs/file-nr"), "%ld %ld", &used, &unused), 2);
    CHECK(used >= FILES - SLACK);
    // Others may close some, on a machine that is not ours alone.
    CHECK(used > before);
}
CASE(meminfo_lines) {
    char *s = slurp("/proc/meminfo");
    const char *names[] = {"MemTotal:", "MemFree:", "MemAvailable:", "Buffers:", "Cached:", "SwapCached:", "Active:", "Inactive:", "Active(anon):", "Inactive(anon):", "Active(file):", "Inactive(file):", "Unevictable:", "Mlocked:", "SwapTotal:", "SwapFree:", "Dirty:", "Writeback:", "AnonPages:", "Mapped:", "Shmem:", "KReclaimable:", "Slab:", "SReclaimable:", "SUnreclaim:", "KernelStack:", "PageTables:", "CommitLimit:", "Committed_AS:", "VmallocTotal:", "VmallocUsed:", "AnonHugePages:", "HugePages_Total:", "HugePages_Free:", "Hugepagesize:"};
    char *at = s;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!has_line(s, names[i])) FAILED("no %s", names[i]);
        char *p = strstr(at, names[i]);
        if (!p) FAILED("%s is out of order", names[i]);
        at = p;
    }
    CHECK(strstr(s, "MemTotal:   ") == s && strstr(s, " kB\n"));
    struct { long uptime; unsigned long loads[3], total, rest[8]; char more[64]; } si;
    OK(syscall(SYS_sysinfo, &si));
    EQ(field("/proc/meminfo", "MemTotal:"), (long)(si.total / 1024));
    CHECK(field("/proc/meminfo", "MemFree:") <= field("/proc/meminfo", "MemTotal:"));
}
CASE(cpuinfo_blocks) {
    long n = sysconf(_SC_NPROCESSORS_ONLN), blocks = 0;
    for (char *p = slurp("/proc/cpuinfo"); (p = strstr(p, "processor\t: ")); p++) {
        EQ(atol(p + 12), blocks);
        blocks++;
    }
    EQ(blocks, n);
    char *s = slurp("/proc/cpuinfo");
    CHECK(strstr(s, "model name\t: ") && strstr(s, "flags\t\t: ") && strstr(s, "cpu cores\t: "));
    EQ(s[strlen(s) - 1], '\n');
    EQ(s[strlen(s) - 2], '\n');
}
CASE(stat_lines) {
    char *s = slurp("/proc/stat");
    long user = 0, idle = 0;
    EQ(sscanf(s, "cpu  %ld %*d %*d %ld", &user, &idle), 2);
    CHECK(idle > 0);
    const char *names[] = {"cpu0 ", "intr ", "ctxt ", "btime ", "processes ", "procs_running ", "procs_blocked ", "softirq "};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) if (!has_line(s, names[i])) FAILED("no %s", names[i]);
    CHECK(field("/proc/stat", "\nprocs_running ") >= 1);
    long before = field("/proc/stat", "\nprocesses ");
    IN_CHILD();
    CHECK(field("/proc/stat", "\nprocesses ") > before);
    long now = time(NULL), boot = field("/proc/stat", "\nbtime ");
    CHECK(boot <= now && boot > 1000000000);
}
CASE(stat_time_does_not_go_back) {
    // Asking for the time is mostly system time natively, so both count.
    long a, b, system;
    EQ(sscanf(slurp("/proc/stat"), "cpu  %ld %*d %ld", &a, &system), 2);
    a += system;
    pid_t pid = OK(fork());
    if (!pid) { long long end = now_ns(CLOCK_PROCESS_CPUTIME_ID) + 100000000; while (now_ns(CLOCK_PROCESS_CPUTIME_ID) < end) {} _exit(0); }
    EXITS(pid, 0);
    EQ(sscanf(slurp("/proc/stat"), "cpu  %ld %*d %ld", &b, &system), 2);
    CHECK(b + system >= a + 5);
}
CASE(loadavg_fields) {
    double a, b, c;
    int running, all, last;
    EQ(sscanf(slurp("/proc/loadavg"), "%lf %lf %lf %d/%d %d\n", &a, &b, &c, &running, &all, &last), 6);
    CHECK(a >= 0 && running >= 1 && all >= running && last >= getpid());
}
CASE(uptime_agrees) {
    double up, idle;
    EQ(sscanf(slurp("/proc/uptime"), "%lf %lf\n", &up, &idle), 2);
    nap_ms(50);
    double later;
    EQ(sscanf(slurp("/proc/uptime"), "%lf", &later), 1);
    CHECK(later >= up + 0.04 && later < up + 5 && idle >= 0);
}
CASE(tables_have_their_headings) {
    CHECK(!strncmp(slurp("/proc/swaps"), "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n", 42));
    CHECK(!strncmp(slurp("/proc/partitions"), "major minor  #blocks  name\n\n", 28));
    CHECK(strstr(slurp("/proc/devices"), "Character devices:\n  1 mem\n") && strstr(slurp("/proc/devices"), "\n\nBlock devices:\n"));
    CHECK(has_line(slurp("/proc/filesystems"), "nodev\tproc\n") && has_line(slurp("/proc/filesystems"), "nodev\ttmpfs\n") && has_line(slurp("/proc/filesystems"), "nodev\tsysfs\n"));
    CHECK(strstr(slurp("/proc/interrupts"), "CPU0"));
    CHECK(strstr(slurp("/proc/softirqs"), "TIMER:"));
    CHECK(!strncmp(slurp("/proc/buddyinfo"), "Node 0, zone ", 13));
    CHECK(!strncmp(slurp("/proc/zoneinfo"), "Node 0, zone ", 13));
    CHECK(has_line(slurp("/proc/vmstat"), "nr_free_pages ") && has_line(slurp("/proc/vmstat"), "pgfault ") && has_line(slurp("/proc/vmstat"), "pswpin "));
    CHECK(!strncmp(slurp("/proc/cgroups"), "#subsys_name\thierarchy\tnum_cgroups\tenabled\n", 43));
    CHECK(strstr(slurp("/proc/tty/drivers"), "/dev/pts      136 "));
    OK(access("/proc/diskstats", R_OK));
    CHECK(strlen(slurp("/proc/cmdline")) > 0);
    ERR(open("/proc/config", O_RDONLY), ENOENT);
}
CASE(pids_are_numbers) {
    ERR(access("/proc/0", F_OK), ENOENT);
    ERR(access("/proc/01", F_OK), ENOENT);
    ERR(access("/proc/1x", F_OK), ENOENT);
    ERR(access("/proc/-1", F_OK), ENOENT);
    ERR(access("/proc/99999999999999999999", F_OK), ENOENT);
    char f[64];
    snprintf(f, sizeof f, "/proc/self/task/%d", getppid());
    ERR(access(f, F_OK), ENOENT);
    ERR(rmdir("/proc/self"), EPERM == errno ? EPERM : ENOTDIR);
}
CASE(directory_outlives_its_process) {
    char f[64], b[8];
    pid_t pid = OK(fork());
    if (!pid) for (;;) pause();
    snprintf(f, sizeof f, "/proc/%d", pid);
    int dir = OK(open(f, O_RDONLY | O_DIRECTORY)), stat = OK(openat(dir, "stat", O_RDONLY));
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
    ERR(read(stat, b, sizeof b), ESRCH);
    ERR(openat(dir, "stat", O_RDONLY), ESRCH);
}
CASE(others_memory_is_closed) {
    char f[64];
    const char *names[] = {"maps", "smaps", "smaps_rollup", "numa_maps", "auxv", "environ", "io", "personality"};
    pid_t parent = getpid();
    IN_CHILD(OK(setuid(65534)); for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(f, sizeof f, "/proc/%d/%s", parent, names[i]);
        int fd = open(f, O_RDONLY);
        char c;
        if (fd >= 0 ? read(fd, &c, 1) >= 0 || errno != EACCES : errno != EACCES) FAILED("%s can be read (errno %d)", f, errno);
    });
}
CASE(fd_directory_while_it_changes) {
    // As closers of all descriptors do: close each as it is listed, in small pieces; none may be missed.
    for (int i = 100; i < 180; i++) OK(dup2(0, i));
    int dir = OK(open("/proc/self/fd", O_RDONLY | O_DIRECTORY)), closed = 0;
    char b[64];
    long n;
    while ((n = OK(syscall(SYS_getdents64, dir, b, sizeof b))) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(b + at + 16)) {
            int fd = atoi(b + at + 19);
            if (fd >= 100 && fd < 180) { OK(close(fd)); closed++; }
        }
    EQ(closed, 80);
    for (int i = 100; i < 180; i++) ERR(fcntl(i, F_GETFD), EBADF);
}
CASE(proc_listing_while_processes_come_and_go) {
    pid_t pids[30];
    for (int i = 0; i < 30; i++) if (!(pids[i] = OK(fork()))) for (;;) pause();
    int dir = OK(open("/proc", O_RDONLY | O_DIRECTORY)), seen = 0;
    char b[128];
    long n;
    while ((n = OK(syscall(SYS_getdents64, dir, b, sizeof b))) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(b + at + 16))
            for (int i = 0; i < 30; i++)
                if (atoi(b + at + 19) == pids[i]) { seen++; kill(pids[i], SIGKILL); DIES(pids[i], SIGKILL); }
    EQ(seen, 30);
}
CASE(fd_directory_of_a_thread) {
    char f[64];
    int fd = file_with("f", "");
    snprintf(f, sizeof f, "/proc/thread-self/fd/%d", fd);
    OK(access(f, F_OK));
    close(fd);
    ERR(access(f, F_OK), ENOENT);
    ERR(access("/proc/self/fd/x", F_OK), ENOENT);
    ERR(access("/proc/self/fd/01", F_OK), ENOENT);
    ERR(access("/proc/self/fd/-1", F_OK), ENOENT);
}
static void *until_told(void *pipe) {
    char c;
    return (void *)read(*(int *)pipe, &c, 1);
}
CASE(links_of_directories_count_threads_and_processes) {
    struct stat before, st;
    OK(stat("/proc/self/task/", &st));
    EQ(st.st_nlink, 3);
    int p[2];
    OK(pipe(p));
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) EQ(pthread_create(&threads[i], NULL, until_told, p), 0);
    OK(stat("/proc/self/task", &st));
    EQ(st.st_nlink, 7);
    EQ(write(p[1], "four", 4), 4);
    for (int i = 0; i < 4; i++) EQ(pthread_join(threads[i], NULL), 0);
    OK(stat("/proc/self", &before));
    CHECK(before.st_nlink > 2);
    OK(stat("/proc", &before));
    CHECK(before.st_nlink > 3);
}
CASE(size_of_the_fd_directory) {
    needs(6, 2);
    struct stat before, st;
    OK(stat("/proc/self/fd", &before));
    int a = OK(dup(0)), b = OK(dup(0));
    OK(stat("/proc/self/fd", &st));
    EQ(st.st_size, before.st_size + 2);
    close(a), close(b);
}
