// procfs: what /proc tells about oneself and others.
#define ABI_PROGRAM
#include "abi.h"
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
