// memory: mmap and its relatives, faults and what their signals say, copy-on-write, brk, stack.
#include "abi.h"
#include <setjmp.h>

enum { PAGE = 4096 };

static sigjmp_buf env;
static void on_fault(int sig, siginfo_t *si, void *uc) {
    (void)uc;
    last_sig = sig;
    last_info = *si;
    siglongjmp(env, 1);
}
static void catch_faults(void) {
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    for (int i = 0; i < 5; i++) OK(sigaction(sigs[i], &sa, NULL));
}
// The statement must fault with this signal and code, at this address.
#define FAULTS(statement, sig, code, addr)                                                                             \
    do {                                                                                                               \
        catch_faults();                                                                                                \
        if (!sigsetjmp(env, 1)) {                                                                                      \
            statement;                                                                                                 \
            FAILED("no fault: %s", #statement);                                                                        \
        }                                                                                                              \
        EQ(last_sig, sig);                                                                                             \
        EQ(last_info.si_code, code);                                                                                   \
        if ((void *)(addr) != last_info.si_addr) FAILED("si_addr %p, not %p", last_info.si_addr, (void *)(addr));      \
    } while (0)

static char *anon(size_t pages, int prot) {
    char *p = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) FAILED("mmap: %d", errno);
    return p;
}
enum { RW = PROT_READ | PROT_WRITE };
static int file_of_pages(const char *name, int pages) {
    int fd = OK(open(name, O_RDWR | O_CREAT, 0644));
    for (int i = 0; i < pages; i++) {
        char page[PAGE];
        memset(page, 'a' + i, PAGE);
        EQ(write(fd, page, PAGE), PAGE);
    }
    return fd;
}

CASE(calls_on_a_mapping_of_a_file_cut_short) {
    char path[] = "/tmp/cut.XXXXXX";
    int fd = OK(mkstemp(path)), ends[2];
    unlink(path);
    OK(ftruncate(fd, 65536));
    char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    OK(pipe(ends));
    EQ(write(ends[1], p + 8192, 10), 10);
    OK(ftruncate(fd, 4096));
    ERR(write(ends[1], p + 8192, 10), EFAULT);
    EQ(read(ends[0], p, 4), 4);
    ERR(read(ends[0], p + 8192, 4), EFAULT);
    ERR(getcwd(p + 8192, 100) ? 0 : -1, EFAULT);
}
CASE(anonymous_is_zero) {
    volatile char *p = anon(16, RW);
    for (int i = 0; i < 16; i++) { EQ(p[i * PAGE], 0); p[i * PAGE + 5] = i; }
    for (int i = 0; i < 16; i++) EQ(p[i * PAGE + 5], i);
}

CASE(munmap_then_fault) {
    volatile char *p = anon(1, RW);
    *p = 1;
    OK(munmap((void *)p, PAGE));
    FAULTS(*p = 2, SIGSEGV, SEGV_MAPERR, p);
}

CASE(munmap_middle) {
    volatile char *p = anon(5, RW);
    memset((void *)p, 7, 5 * PAGE);
    OK(munmap((void *)(p + 2 * PAGE), PAGE));
    EQ(p[2 * PAGE - 1], 7);
    EQ(p[3 * PAGE], 7);
    FAULTS(p[2 * PAGE + 3] = 0, SIGSEGV, SEGV_MAPERR, p + 2 * PAGE + 3);
    OK(munmap((void *)(p + 2 * PAGE), PAGE)); // nothing there: still fine
}

CASE(munmap_errors) {
    char *p = anon(1, RW);
    ERR(munmap(p + 1, PAGE), EINVAL);
    ERR(munmap(p, 0), EINVAL);
    ERR(munmap((void *)-4096ul, PAGE), EINVAL);
}

CASE(mmap_errors) {
    ERR(mmap(NULL, 0, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    ERR(mmap(NULL, PAGE, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
    ERR(mmap(NULL, PAGE, RW, MAP_PRIVATE, -1, 0), EBADF);
    ERR(syscall(SYS_mmap, NULL, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 5), EINVAL);
    ERR(mmap((void *)1234, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
    ERR(mmap(NULL, 1ul << 60, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    int fd = file_with("f", "x"), ro = OK(open("f", O_RDONLY)), wo = OK(open("f", O_WRONLY)), p[2];
    ERR(mmap(NULL, PAGE, RW, MAP_SHARED, ro, 0), EACCES);
    ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, wo, 0), EACCES);
    OK(mmap(NULL, PAGE, RW, MAP_PRIVATE, ro, 0));
    OK(pipe(p));
    ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, p[0], 0), ENODEV);
    ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, OK(open(".", O_RDONLY)), 0), ENODEV);
    (void)fd;
}

CASE(mmap_fixed_replaces) {
    volatile char *p = anon(3, RW);
    memset((void *)p, 1, 3 * PAGE);
    CHECK(mmap((void *)(p + PAGE), PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + PAGE);
    EQ(p[0], 1);
    EQ(p[PAGE], 0);
    EQ(p[2 * PAGE], 1);
}

CASE(mmap_fixed_noreplace) {
    char *p = anon(2, RW);
    ERR(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    OK(munmap(p, PAGE));
    CHECK(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p);
}

CASE(mmap_hint_is_taken_if_free) {
    char *p = anon(4, RW);
    OK(munmap(p, 4 * PAGE));
    CHECK(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == p);
    CHECK(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != p);
}

CASE(file_private_does_not_write_through) {
    int fd = file_of_pages("f", 2);
    volatile char *p = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED);
    EQ(p[0], 'a');
    EQ(p[PAGE], 'b');
    p[0] = 'Z';
    char c;
    EQ(pread(fd, &c, 1, 0), 1);
    EQ(c, 'a');
    EQ(pwrite(fd, "Q", 1, PAGE), 1);
    EQ(p[0], 'Z');
}

CASE(file_shared_is_coherent_with_read_and_write) {
    int fd = file_of_pages("f", 1);
    volatile char *p = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    p[10] = 'X';
    char c;
    EQ(pread(fd, &c, 1, 10), 1);
    EQ(c, 'X');
    EQ(pwrite(fd, "Y", 1, 11), 1);
    EQ(p[11], 'Y');
    OK(msync((void *)p, PAGE, MS_SYNC));
    ERR(msync((void *)p, PAGE, MS_SYNC | MS_ASYNC), EINVAL);
    ERR(msync((void *)(p + 1), PAGE, MS_SYNC), EINVAL);
}

CASE(file_mapping_survives_close_and_unlink) {
    int fd = file_of_pages("f", 1);
    volatile char *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    OK(close(fd));
    OK(unlink("f"));
    EQ(p[100], 'a');
}

CASE(file_offset_mapping) {
    int fd = file_of_pages("f", 3);
    volatile char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 2 * PAGE);
    EQ(p[0], 'c');
    ERR(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 2048), EINVAL);
}

CASE(bytes_after_file_end_are_zero) {
    int fd = file_with("f", "abc");
    volatile char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    EQ(p[2], 'c');
    EQ(p[3], 0);
    EQ(p[PAGE - 1], 0);
}

CASE(sigbus_past_file_end) {
    int fd = file_of_pages("f", 1);
    volatile char *p = mmap(NULL, 3 * PAGE, RW, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    FAULTS(p[PAGE + 8] = 1, SIGBUS, BUS_ADRERR, p + PAGE + 8);
    volatile char *q = mmap(NULL, 3 * PAGE, RW, MAP_PRIVATE, fd, 0);
    FAULTS((void)q[2 * PAGE], SIGBUS, BUS_ADRERR, q + 2 * PAGE);
}

CASE(sigbus_after_truncate) {
    int fd = file_of_pages("f", 2);
    volatile char *p = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    EQ(p[PAGE], 'b');
    OK(ftruncate(fd, PAGE));
    FAULTS((void)p[PAGE + 1], SIGBUS, BUS_ADRERR, p + PAGE + 1);
    OK(ftruncate(fd, 2 * PAGE));
    EQ(p[PAGE], 0);
}

CASE(syscall_on_page_past_file_end_is_efault) {
    int fd = file_of_pages("f", 1), p[2];
    char *m = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    OK(pipe(p));
    ERR(write(p[1], m + PAGE, 1), EFAULT);
    EQ(write(p[1], "ab", 2), 2);
    ERR(read(p[0], m + PAGE, 1), EFAULT);
}

CASE(mprotect_none_read_write) {
    volatile char *p = anon(3, RW);
    p[PAGE] = 3;
    OK(mprotect((void *)(p + PAGE), PAGE, PROT_NONE));
    FAULTS((void)p[PAGE], SIGSEGV, SEGV_ACCERR, p + PAGE);
    OK(mprotect((void *)(p + PAGE), PAGE, PROT_READ));
    EQ(p[PAGE], 3);
    FAULTS(p[PAGE] = 4, SIGSEGV, SEGV_ACCERR, p + PAGE);
    p[0] = p[2 * PAGE] = 1;
    OK(mprotect((void *)p, 3 * PAGE, RW));
    p[PAGE] = 4;
    EQ(p[PAGE], 4);
}

CASE(mprotect_errors) {
    char *p = anon(3, RW);
    ERR(mprotect(p + 1, PAGE, RW), EINVAL);
    OK(munmap(p + PAGE, PAGE));
    ERR(mprotect(p, 3 * PAGE, PROT_READ), ENOMEM);
    int fd = file_of_pages("f", 1), ro = OK(open("f", O_RDONLY));
    char *m = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, ro, 0);
    ERR(mprotect(m, PAGE, RW), EACCES);
    OK(mprotect(p, 0, RW));
    (void)fd;
}

CASE(mprotect_exec_runs_code) {
    unsigned char *p = (void *)anon(1, RW), code[] = {0xb8, 42, 0, 0, 0, 0xc3};
    memcpy(p, code, sizeof code);
    catch_faults();
    if (!sigsetjmp(env, 1)) { ((int (*)(void))p)(); FAILED("no fault"); }
    EQ(last_sig, SIGSEGV);
    EQ(last_info.si_code, SEGV_ACCERR);
    OK(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
    EQ(((int (*)(void))p)(), 42);
    OK(mprotect(p, PAGE, RW));
    p[1] = 43;
    OK(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
    EQ(((int (*)(void))p)(), 43);
}

CASE(syscall_respects_protection) {
    char *p = anon(2, RW);
    int fd[2];
    OK(pipe(fd));
    OK(mprotect(p + PAGE, PAGE, PROT_READ));
    EQ(write(fd[1], "abcd", 4), 4);
    ERR(read(fd[0], p + PAGE, 4), EFAULT);
    OK(mprotect(p + PAGE, PAGE, PROT_NONE));
    ERR(write(fd[1], p + PAGE, 1), EFAULT);
}

CASE(null_and_kernel_addresses_fault) {
    volatile char *null = (char *)BAD;
    FAULTS(*null = 1, SIGSEGV, SEGV_MAPERR, null);
    ERR(write(1, (void *)0xffff800000000000ul, 1), EFAULT);
    ERR(write(1, (void *)0x7ffffffff000ul, 1), EFAULT);
    catch_faults();
    if (!sigsetjmp(env, 1)) { *(volatile char *)0xffffffff80000000ul = 1; FAILED("no fault"); }
    EQ(last_sig, SIGSEGV);
}

CASE(non_canonical_address_is_si_kernel) {
    FAULTS(*(volatile char *)0x8000000000000000ul = 1, SIGSEGV, SI_KERNEL, NULL);
}

CASE(illegal_instruction) {
    catch_faults();
    if (!sigsetjmp(env, 1)) { __asm__ volatile("ud2"); FAILED("no fault"); }
    EQ(last_sig, SIGILL);
    EQ(last_info.si_code, ILL_ILLOPN);
}

CASE(divide_by_zero) {
    catch_faults();
    if (!sigsetjmp(env, 1)) { __asm__ volatile("xor %%edx,%%edx; xor %%ecx,%%ecx; mov $1,%%eax; div %%ecx" ::: "eax", "ecx", "edx"); FAILED("no fault"); }
    EQ(last_sig, SIGFPE);
    EQ(last_info.si_code, FPE_INTDIV);
}

CASE(breakpoint) {
    catch_faults();
    if (!sigsetjmp(env, 1)) { __asm__ volatile("int3"); FAILED("no trap"); }
    EQ(last_sig, SIGTRAP);
    EQ(last_info.si_code, SI_KERNEL);
}

CASE(uncaught_fault_kills) {
    pid_t pid = OK(fork());
    if (!pid) { *(volatile char *)BAD = 1; _exit(0); }
    DIES(pid, SIGSEGV);
    pid = OK(fork());
    if (!pid) { signal(SIGSEGV, SIG_IGN); *(volatile char *)BAD = 1; _exit(0); }
    DIES(pid, SIGSEGV); // a fault cannot be ignored
    pid = OK(fork());
    if (!pid) { sigset_t s; sigfillset(&s); sigprocmask(SIG_BLOCK, &s, NULL); handle(SIGSEGV, 0); *(volatile char *)BAD = 1; _exit(0); }
    DIES(pid, SIGSEGV);
}

CASE(cow_after_fork) {
    volatile char *p = anon(64, RW);
    for (int i = 0; i < 64; i++) p[i * PAGE] = 1;
    pid_t pid = OK(fork());
    if (!pid) {
        for (int i = 0; i < 64; i++) { if (p[i * PAGE] != 1) _exit(1); p[i * PAGE] = 2; }
        nap_ms(20);
        for (int i = 0; i < 64; i++) if (p[i * PAGE] != 2) _exit(2);
        _exit(0);
    }
    for (int i = 0; i < 64; i++) p[i * PAGE] = 3;
    EXITS(pid, 0);
    for (int i = 0; i < 64; i++) EQ(p[i * PAGE], 3);
}

CASE(cow_break_by_syscall) {
    char *p = anon(1, RW);
    int fd[2];
    OK(pipe(fd));
    strcpy(p, "parent");
    pid_t pid = OK(fork());
    if (!pid) {
        if (write(fd[1], "child!", 6) != 6 || read(fd[0], p, 6) != 6) _exit(1);
        _exit(memcmp(p, "child!", 6) != 0);
    }
    EXITS(pid, 0);
    CHECK(!strcmp(p, "parent"));
}

CASE(cow_through_generations) {
    volatile int *p = (int *)anon(4, RW);
    for (int i = 0; i < 4; i++) p[i * 1024] = i;
    IN_CHILD(p[0] = 100; IN_CHILD(EQ(p[0], 100); p[1024] = 200; IN_CHILD(EQ(p[1024], 200); EQ(p[2048], 2); p[0] = 5);
             EQ(p[0], 100)); EQ(p[1024], 1));
    for (int i = 0; i < 4; i++) EQ(p[i * 1024], i);
}

CASE(shared_anonymous_is_shared_by_fork) {
    volatile int *p = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    IN_CHILD(p[0] = 5);
    EQ(p[0], 5);
}

CASE(shared_file_mapping_between_processes) {
    int fd = file_of_pages("f", 1);
    IN_CHILD(volatile char *p = mmap(NULL, PAGE, RW, MAP_SHARED, OK(open("f", O_RDWR)), 0); p[7] = '7');
    volatile char *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    EQ(p[7], '7');
}

CASE(mprotect_after_fork_keeps_privacy) {
    volatile char *p = anon(2, RW);
    p[0] = 1;
    OK(mprotect((void *)p, PAGE, PROT_READ));
    IN_CHILD(OK(mprotect((void *)p, PAGE, RW)); p[0] = 2);
    EQ(p[0], 1);
}

CASE(madvise_dontneed_zeroes_anonymous) {
    volatile char *p = anon(4, RW);
    memset((void *)p, 9, 4 * PAGE);
    OK(madvise((void *)(p + PAGE), 2 * PAGE, MADV_DONTNEED));
    EQ(p[0], 9);
    EQ(p[PAGE], 0);
    EQ(p[2 * PAGE + 5], 0);
    EQ(p[3 * PAGE], 9);
    p[PAGE] = 4;
    EQ(p[PAGE], 4);
}

CASE(madvise_dontneed_of_child_leaves_parent) {
    volatile char *p = anon(1, RW);
    p[0] = 9;
    IN_CHILD(OK(madvise((void *)p, PAGE, MADV_DONTNEED)); EQ(p[0], 0));
    EQ(p[0], 9);
}

CASE(madvise_dontneed_rereads_private_file) {
    int fd = file_of_pages("f", 1);
    volatile char *p = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);
    p[0] = 'Z';
    OK(madvise((void *)p, PAGE, MADV_DONTNEED));
    EQ(p[0], 'a');
}

CASE(madvise_dontneed_keeps_shared_anonymous) {
    volatile char *p = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    p[0] = 9;
    OK(madvise((void *)p, PAGE, MADV_DONTNEED));
    EQ(p[0], 9);
}

CASE(madvise_errors) {
    char *p = anon(3, RW);
    ERR(madvise(p + 1, PAGE, MADV_DONTNEED), EINVAL);
    ERR(madvise(p, PAGE, 999), EINVAL);
    OK(munmap(p + PAGE, PAGE));
    ERR(madvise(p, 3 * PAGE, MADV_DONTNEED), ENOMEM);
    OK(madvise(p, 0, MADV_DONTNEED));
}

CASE(brk_grows_and_shrinks) {
    char *start = (char *)syscall(SYS_brk, 0), *up = start + 5 * PAGE;
    CHECK((char *)syscall(SYS_brk, up) == up);
    memset(start, 1, 5 * PAGE);
    CHECK((char *)syscall(SYS_brk, start + PAGE) == start + PAGE);
    char *page = (char *)(((uintptr_t)start + 3 * PAGE) & -PAGE);
    FAULTS(*(volatile char *)page = 1, SIGSEGV, SEGV_MAPERR, page);
    CHECK((char *)syscall(SYS_brk, up) == up);
    EQ(*page, 0);
    CHECK((char *)syscall(SYS_brk, (void *)1) == up); // a refusal tells the present end
}

CASE(brk_respects_rlimit_data) {
    struct rlimit rl = {1 << 20, 1 << 20};
    OK(setrlimit(RLIMIT_DATA, &rl));
    char *start = (char *)syscall(SYS_brk, 0);
    CHECK((char *)syscall(SYS_brk, start + (8 << 20)) == start);
    ERR(mmap(NULL, 8 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
}

CASE(rlimit_as) {
    struct rlimit rl = {256 << 20, 256 << 20};
    OK(setrlimit(RLIMIT_AS, &rl));
    ERR(mmap(NULL, 512 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    OK(mmap(NULL, 16 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

__attribute__((noinline)) static int deep(int n) {
    volatile char page[4096];
    page[0] = n;
    return n == 0 ? page[0] : deep(n - 1) + page[0];
}
CASE(stack_grows) {
    CHECK(deep(1500) != 1); // 6 MiB of the usual 8
}

CASE(growsdown_mapping) {
    char *p = mmap(NULL, 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    OK(munmap(p, 64 * PAGE));
    volatile char *top = mmap(p + 60 * PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    CHECK(top == p + 60 * PAGE);
    top[0] = 1;
    top[-1] = 2; // grows
    EQ(top[-1], 2);
}

CASE(mremap_grow_moves_content) {
    volatile char *p = anon(2, RW);
    p[0] = 1;
    p[PAGE] = 2;
    volatile char *q = mremap((void *)p, 2 * PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED);
    EQ(q[0], 1);
    EQ(q[PAGE], 2);
    EQ(q[63 * PAGE], 0);
    q[63 * PAGE] = 1;
}

CASE(mremap_shrink) {
    volatile char *p = anon(4, RW);
    p[0] = 1;
    CHECK(mremap((void *)p, 4 * PAGE, PAGE, 0) == p);
    EQ(p[0], 1);
    FAULTS(p[2 * PAGE] = 0, SIGSEGV, SEGV_MAPERR, p + 2 * PAGE);
}

CASE(mremap_fixed) {
    volatile char *p = anon(2, RW), *to = anon(4, RW);
    p[0] = 5;
    memset((void *)to, 9, 4 * PAGE);
    CHECK(mremap((void *)p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + PAGE) == to + PAGE);
    EQ(to[PAGE], 5);
    EQ(to[0], 9);
    EQ(to[2 * PAGE], 9);
    FAULTS((void)p[0], SIGSEGV, SEGV_MAPERR, p);
}

CASE(mremap_dontunmap) {
    volatile char *p = anon(1, RW);
    p[0] = 5;
    volatile char *q = mremap((void *)p, PAGE, PAGE, MREMAP_MAYMOVE | 4, NULL); // MREMAP_DONTUNMAP
    CHECK(q != MAP_FAILED && q != p);
    EQ(q[0], 5);
    EQ(p[0], 0);
}

CASE(mremap_errors) {
    char *p = anon(2, RW);
    ERR(mremap(p + 1, PAGE, PAGE, 0), EINVAL);
    ERR(mremap(p, PAGE, 0, 0), EINVAL);
    ERR(mremap(p, PAGE, PAGE, 64), EINVAL);
    ERR(mremap(p, PAGE, PAGE, MREMAP_FIXED, p), EINVAL);
    ERR(mremap(p, PAGE, 2 * PAGE, 0), ENOMEM); // the next page is taken
    OK(munmap(p, PAGE));
    ERR(mremap(p, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT);
}

CASE(mremap_keeps_sharing_of_file) {
    int fd = file_of_pages("f", 3);
    volatile char *p = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
    volatile char *q = mremap((void *)p, PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    EQ(q[2 * PAGE], 'c');
    q[0] = 'N';
    char c;
    EQ(pread(fd, &c, 1, 0), 1);
    EQ(c, 'N');
}

CASE(mincore) {
    unsigned char vec[4];
    char *p = anon(4, RW);
    memset(p, 1, 2 * PAGE);
    OK(mincore(p, 4 * PAGE, vec));
    CHECK(vec[0] & 1 && vec[1] & 1);
    ERR(mincore(p + 1, PAGE, vec), EINVAL);
    ERR(syscall(SYS_mincore, p, PAGE, BAD), EFAULT);
    OK(munmap(p, PAGE));
    ERR(mincore(p, PAGE, vec), ENOMEM);
}

CASE(mlock_family) {
    char *p = anon(2, RW);
    OK(mlock(p, PAGE));
    OK(munlock(p, PAGE));
    OK(mlockall(MCL_CURRENT));
    OK(munlockall());
    ERR(mlockall(0), EINVAL);
    OK(munmap(p, PAGE));
    ERR(mlock(p, PAGE), ENOMEM);
}

CASE(populate_and_noreserve) {
    char *p = mmap(NULL, 16 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    CHECK(p != MAP_FAILED);
    EQ(p[15 * PAGE], 0);
    char *big = mmap(NULL, 1ul << 38, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(big != MAP_FAILED);
    OK(mprotect(big + (1ul << 37), PAGE, RW));
    big[1ul << 37] = 1;
    OK(munmap(big, 1ul << 38));
}

CASE(many_mappings) {
    enum { N = 2000 };
    static char *p[N];
    for (int i = 0; i < N; i++) { p[i] = anon(1, i & 1 ? RW : PROT_READ | PROT_WRITE | PROT_EXEC); *p[i] = i; }
    for (int i = 0; i < N; i += 2) OK(munmap(p[i], PAGE));
    for (int i = 1; i < N; i += 2) EQ(*p[i], (char)i);
}

static void *mapper(void *arg) {
    for (int i = 0; i < 300; i++) {
        volatile char *p = anon(4, RW);
        for (int j = 0; j < 4; j++) { if (p[j * PAGE]) return (void *)1; p[j * PAGE] = (char)(long)arg; }
        for (int j = 0; j < 4; j++) if (p[j * PAGE] != (char)(long)arg) return (void *)2;
        munmap((void *)p, 4 * PAGE);
    }
    return NULL;
}
CASE(threads_map_and_unmap) {
    pthread_t t[4];
    for (long i = 0; i < 4; i++) EQ(pthread_create(&t[i], NULL, mapper, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++) { void *r; pthread_join(t[i], &r); EQ((long)r, 0); }
}

CASE(memfd) {
    int fd = OK(memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    OK(ftruncate(fd, 2 * PAGE));
    volatile char *p = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    p[5] = 'm';
    char c;
    EQ(pread(fd, &c, 1, 5), 1);
    EQ(c, 'm');
    OK(munmap((void *)p, 2 * PAGE));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK));
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_SHRINK);
    ERR(write(fd, "x", 1), EPERM);
    ERR(ftruncate(fd, 0), EPERM);
    ERR(memfd_create("x", 0x8000), EINVAL);
    ERR(syscall(SYS_memfd_create, BAD, 0), EFAULT);
}

CASE(process_vm_readv_of_child) {
    char *p = anon(1, RW), got[16] = {0};
    strcpy(p, "here");
    pid_t pid = OK(fork());
    if (!pid) { strcpy(p, "there"); for (;;) pause(); }
    struct iovec l = {got, 6}, r = {p, 6};
    for (int i = 0; i < 1000 && strcmp(got, "there"); i++) { EQ(process_vm_readv(pid, &l, 1, &r, 1, 0), 6); usleep(1000); }
    CHECK(!strcmp(got, "there"));
    kill(pid, SIGKILL);
    DIES(pid, SIGKILL);
    CHECK(!strcmp(p, "here"));
}

CASE(big_allocation_and_random_touch) {
    size_t n = 64 << 20;
    char *p = mmap(NULL, n, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t x = 1;
    for (int i = 0; i < 2000; i++) { x = x * 1664525 + 1013904223; p[x % n] = 1; }
    IN_CHILD(uint32_t y = 1; for (int i = 0; i < 2000; i++) { y = y * 1664525 + 1013904223; EQ(p[y % n], 1); p[y % n] = 2; });
    x = 1;
    for (int i = 0; i < 2000; i++) { x = x * 1664525 + 1013904223; EQ(p[x % n], 1); }
}

// Not more than the machine has is promised at once, but for what says that it need not be there; all is, where vm.overcommit_memory is 1, as on a
// kubelet's node and in our guests.
CASE(more_than_there_is) {
    const size_t huge = 1UL << 45, page = 4096;
    const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS, all = slurp("/proc/sys/vm/overcommit_memory")[0] == '1';
    const int promised[] = {anonymous, MAP_SHARED | MAP_ANONYMOUS, anonymous | MAP_NORESERVE};
    for (int i = 0; i < 3; i++) {
        void *p = mmap(NULL, huge, PROT_READ | PROT_WRITE, promised[i], -1, 0);
        if (p == MAP_FAILED) EQ(errno, ENOMEM);
        EQ(p != MAP_FAILED, all || i == 2);
        if (p != MAP_FAILED) OK(munmap(p, huge));
    }
    void *p = mmap(NULL, huge, PROT_NONE, anonymous, -1, 0);
    CHECK(p != MAP_FAILED);
    OK(munmap(p, huge));
    p = mmap(NULL, page, PROT_READ | PROT_WRITE, anonymous, -1, 0);
    void *longer = mremap(p, page, huge, MREMAP_MAYMOVE);
    if (longer == MAP_FAILED) EQ(errno, ENOMEM);
    EQ(longer != MAP_FAILED, all);
    if (all) return;
    CHECK(sbrk(huge) == (void *)-1);
    CHECK(malloc(huge) == NULL);
}

CASE(locked_memory_is_not_emptied) {
    char *p = anon(3, RW);
    memset(p, 7, 3 * PAGE);
    OK(mlock(p + PAGE, PAGE));
    ERR(madvise(p, 3 * PAGE, MADV_DONTNEED), EINVAL);
    EQ(p[0], 0); // what comes before it is done
    EQ(p[PAGE], 7);
    EQ(p[2 * PAGE], 7);
    ERR(madvise(p + PAGE, PAGE, MADV_FREE), EINVAL);
    ERR(madvise(p + PAGE, PAGE, 20), EINVAL); // MADV_COLD
    OK(madvise(p + PAGE, PAGE, 24)); // MADV_DONTNEED_LOCKED
    EQ(p[PAGE], 0);
    OK(munlock(p + PAGE, PAGE));
    OK(madvise(p, 3 * PAGE, MADV_DONTNEED));
    EQ(p[2 * PAGE], 0);
}

CASE(future_mappings_keep_the_limit_of_locked_memory) {
    struct rlimit r = {1 << 16, 1 << 16};
    OK(setrlimit(RLIMIT_MEMLOCK, &r));
    OK(setresuid(65534, 65534, 65534));
    OK(mlockall(MCL_FUTURE));
    ERR((long)mmap(NULL, 1 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EAGAIN);
    char *p = mmap(NULL, 1 << 14, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    ERR((long)mremap(p, 1 << 14, 1 << 20, MREMAP_MAYMOVE), EAGAIN);
    unsigned long brk = syscall(SYS_brk, 0);
    EQ(syscall(SYS_brk, brk + (1 << 20)), brk);
    OK(munlockall());
    EQ(syscall(SYS_brk, brk + (1 << 20)), brk + (1 << 20));
}

CASE(mmap_32bit) {
    for (int i = 0; i < 3; i++) {
        char *p = mmap(NULL, 4 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        CHECK(p != MAP_FAILED);
        CHECK((unsigned long)p + 4 * PAGE <= 1ul << 31);
        p[0] = p[4 * PAGE - 1] = 1;
    }
    ERR((long)mmap(NULL, 1ul << 31, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT | MAP_NORESERVE, -1, 0), ENOMEM);
}

CASE(mremap_of_nothing_maps_shared_memory_again) {
    volatile char *p = mmap(NULL, 2 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    p[PAGE] = 5;
    volatile char *q = mremap((void *)p, 0, 2 * PAGE, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED && q != p);
    EQ(q[PAGE], 5);
    q[0] = 6;
    EQ(p[0], 6);
    OK(munmap((void *)p, 2 * PAGE));
    EQ(q[0], 6);
    ERR((long)mremap(anon(1, RW), 0, PAGE, MREMAP_MAYMOVE), EINVAL);
}

CASE(protection_that_flips_at_each_write) {
    volatile char *p = anon(2, RW | PROT_EXEC);
    for (int i = 0; i < 2000; i++) {
        OK(mprotect((void *)p, PAGE, PROT_READ | PROT_EXEC));
        OK(mprotect((void *)p, PAGE, RW | PROT_EXEC));
        p[64] = i;
    }
    EQ(p[64], (char)1999);
}

static long rss_kb(void) { return atol(strstr(slurp("/proc/self/status"), "VmRSS:") + 6); }
CASE(resident_pages_are_those_touched) {
    long before = rss_kb(), large = 100 << 20;
    char *p = anon(large / PAGE, RW), *q = anon(large / PAGE, RW);
    OK(madvise(q, large, MADV_NOHUGEPAGE));
    memset(p, 1, large);
    q[0] = q[large / 2] = 1;
    long more = rss_kb() - before;
    CHECK(more >= large / 1024 - 1024);
    CHECK(more <= large / 1024 + 8192);
}
