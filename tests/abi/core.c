// Core files: when there is one, the core bit of the status, and what stands in it.
#include "abi.h"
#include <elf.h>
#include <sys/procfs.h>

// Natively the pattern may be something else; then there is nothing to look at.
static int plain_pattern(void) { return !strcmp(slurp("/proc/sys/kernel/core_pattern"), "core\n"); }
static void core_limit(rlim_t bytes) { soft_limit(RLIMIT_CORE, bytes); }
// A child that dies by this signal after a block; its status.
#define DYING(sig, ...)                                                                                                \
    ({                                                                                                                 \
        pid_t abi_pid = OK(fork());                                                                                    \
        if (!abi_pid) {                                                                                                \
            __VA_ARGS__;                                                                                               \
            raise(sig);                                                                                                \
            _exit(1);                                                                                                  \
        }                                                                                                              \
        int abi_st = wait_status(abi_pid);                                                                             \
        if (!WIFSIGNALED(abi_st) || WTERMSIG(abi_st) != (sig)) FAILED("status 0x%x", abi_st);                          \
        abi_st;                                                                                                        \
    })

CASE(core_not_with_limit_0) {
    int st = DYING(SIGABRT, core_limit(0));
    CHECK(!WCOREDUMP(st));
    ERR(access("core", F_OK), ENOENT);
}
CASE(core_not_for_other_signals) {
    int st = DYING(SIGTERM, core_limit(RLIM_INFINITY));
    CHECK(!WCOREDUMP(st));
    ERR(access("core", F_OK), ENOENT);
}
CASE(core_not_when_undumpable) {
    int st = DYING(SIGABRT, core_limit(RLIM_INFINITY); prctl(PR_SET_DUMPABLE, 0));
    CHECK(!WCOREDUMP(st));
    ERR(access("core", F_OK), ENOENT);
}
CASE(core_bit_and_siginfo) {
    if (!plain_pattern()) return;
    pid_t pid = OK(fork());
    if (!pid) {
        core_limit(RLIM_INFINITY);
        abort();
    }
    siginfo_t i;
    OK(waitid(P_PID, pid, &i, WEXITED | WNOWAIT));
    EQ(i.si_code, CLD_DUMPED);
    EQ(i.si_status, SIGABRT);
    CHECK(WCOREDUMP(wait_status(pid)));
    struct stat s;
    OK(stat("core", &s));
    EQ(s.st_mode & 07777, 0600);
}
// A child that has faulted and left its core.
static pid_t faulted(void) {
    pid_t pid = OK(fork());
    if (!pid) {
        core_limit(RLIM_INFINITY);
        raise(SIGSEGV);
        _exit(1);
    }
    CHECK(WCOREDUMP(wait_status(pid)));
    return pid;
}
static volatile unsigned long marker = 0x1122334455667788;
CASE(core_file_has_notes_and_memory) {
    if (!plain_pattern()) return;
    marker++;
    pid_t pid = faulted();
    int fd = OK(open("core", O_RDONLY));
    struct stat s;
    OK(fstat(fd, &s));
    char *core = mmap(NULL, s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(core != MAP_FAILED);
    Elf64_Ehdr *e = (void *)core;
    CHECK(!memcmp(e->e_ident, ELFMAG, 4));
    EQ(e->e_type, ET_CORE);
    EQ(e->e_machine, EM_X86_64);
    Elf64_Phdr *p = (void *)(core + e->e_phoff);
    EQ(p[0].p_type, PT_NOTE);
    int seen = 0, memory = 0;
    for (char *n = core + p[0].p_offset; n < core + p[0].p_offset + p[0].p_filesz;) {
        Elf64_Nhdr *h = (void *)n;
        char *content = n + sizeof *h + ((h->n_namesz + 3) & ~3);
        if (h->n_type == NT_PRSTATUS) {
            struct elf_prstatus *status = (void *)content;
            EQ(h->n_descsz, sizeof *status);
            EQ(status->pr_pid, pid);
            EQ(status->pr_ppid, getpid());
            EQ(status->pr_cursig, SIGSEGV);
            seen |= 1;
        } else if (h->n_type == NT_PRPSINFO) {
            struct elf_prpsinfo *info = (void *)content;
            EQ(h->n_descsz, sizeof *info);
            EQ(info->pr_pid, pid);
            CHECK(strlen(info->pr_fname) > 0);
            seen |= 2;
        } else if (h->n_type == NT_SIGINFO) { EQ(((siginfo_t *)content)->si_signo, SIGSEGV); seen |= 4; }
        else if (h->n_type == NT_AUXV) {
            for (Elf64_auxv_t *a = (void *)content; a->a_type; a++)
                if (a->a_type == AT_PAGESZ) { EQ(a->a_un.a_val, 4096); seen |= 8; }
        } else if (h->n_type == NT_FILE) seen |= 16;
        else if (h->n_type == NT_FPREGSET) { EQ(h->n_descsz, 512); seen |= 32; }
        else if (h->n_type == NT_X86_XSTATE) seen |= 64;
        n = content + ((h->n_descsz + 3) & ~3);
    }
    EQ(seen, 127);
    for (int i = 1; i < e->e_phnum; i++) {
        EQ(p[i].p_type, PT_LOAD);
        unsigned long at = (unsigned long)&marker;
        if (p[i].p_vaddr <= at && at < p[i].p_vaddr + p[i].p_filesz)
            memory = *(unsigned long *)(core + p[i].p_offset + (at - p[i].p_vaddr)) == marker;
    }
    CHECK(memory);
}
CASE(core_is_cut_at_the_limit) {
    if (!plain_pattern()) return;
    int st = DYING(SIGQUIT, core_limit(8192));
    (void)st;
    struct stat s;
    if (stat("core", &s) == 0) CHECK(s.st_size <= 8192);
}
static void *sleeps(void *arg) {
    for (;;) pause();
    return arg;
}
CASE(core_of_threads) {
    if (!plain_pattern()) return;
    pid_t pid = OK(fork());
    if (!pid) {
        core_limit(RLIM_INFINITY);
        pthread_t t[3];
        for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, sleeps, NULL);
        nap_ms(30);
        abort();
    }
    CHECK(WCOREDUMP(wait_status(pid)));
    int fd = OK(open("core", O_RDONLY));
    static char head[1 << 20];
    ssize_t n = read(fd, head, sizeof head);
    Elf64_Phdr *p = (void *)(head + ((Elf64_Ehdr *)head)->e_phoff);
    CHECK(n > (ssize_t)(p[0].p_offset + p[0].p_filesz));
    int threads = 0;
    for (char *c = head + p[0].p_offset; c < head + p[0].p_offset + p[0].p_filesz;) {
        Elf64_Nhdr *h = (void *)c;
        threads += h->n_type == NT_PRSTATUS;
        c += sizeof *h + ((h->n_namesz + 3) & ~3) + ((h->n_descsz + 3) & ~3);
    }
    EQ(threads, 4);
}
CASE(core_filter_file) {
    char *text = slurp("/proc/self/coredump_filter");
    EQ(strtol(text, NULL, 16), 0x33);
    int fd = OK(open("/proc/self/coredump_filter", O_WRONLY));
    OK(write(fd, "0x7f", 4));
    EQ(strtol(slurp("/proc/self/coredump_filter"), NULL, 16), 0x7f);
    IN_CHILD(EQ(strtol(slurp("/proc/self/coredump_filter"), NULL, 16), 0x7f));
}
// What the program does not want in it is not.
CASE(core_without_what_was_advised_against) {
    if (!plain_pattern()) return;
    char *secret = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(secret != MAP_FAILED);
    strcpy(secret, "secret");
    OK(madvise(secret, 4096, MADV_DONTDUMP));
    for (int again = 0; again < 2; again++) {
        faulted();
        int fd = OK(open("core", O_RDONLY));
        Elf64_Ehdr e;
        Elf64_Phdr p;
        EQ(read(fd, &e, sizeof e), sizeof e);
        unsigned long at = (unsigned long)secret, size = 0;
        for (int i = 0; i < e.e_phnum; i++) {
            EQ(pread(fd, &p, sizeof p, e.e_phoff + i * sizeof p), sizeof p);
            if (p.p_type == PT_LOAD && p.p_vaddr <= at && at < p.p_vaddr + p.p_memsz) size = p.p_filesz;
        }
        CHECK(again ? size > 0 : size == 0);
        OK(unlink("core"));
        OK(madvise(secret, 4096, MADV_DODUMP));
    }
}
