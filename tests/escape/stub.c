// stub: attacks on the process that is our address space: its control pages, its code, its signal frames, its answers.
// Natively there is no such thing and every case passes.
#include "escape.h"
#include <sys/ucontext.h>

enum { PAGE = 4096 };
static const unsigned long REGION = 0x7e0000000000ul, REGION_END = REGION + 0x100000ul + 64ul * 1024 * 1024;

static sigjmp_buf env;
static char alt[65536];
static void jump(int sig) { siglongjmp(env, sig); }
static void catch_all(void) {
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    sigaltstack(&ss, NULL);
    struct sigaction sa = {.sa_handler = jump, .sa_flags = SA_ONSTACK | SA_NODEFER};
    int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    for (int i = 0; i < 6; i++) sigaction(sigs[i], &sa, NULL);
}
static int readable(unsigned long a) {
    if (sigsetjmp(env, 1)) return 0;
    (void)*(volatile char *)a;
    return 1;
}
static int writable(unsigned long a) {
    if (sigsetjmp(env, 1)) return 0;
    *(volatile char *)a = *(volatile char *)a;
    return 1;
}
static unsigned long pages[20000];
static int page_count;
static void scan(void) {
    catch_all();
    polluted = 1;
    page_count = 0;
    for (unsigned long a = REGION; a < REGION_END && page_count < 20000; a += PAGE)
        if (readable(a)) pages[page_count++] = a;
}

CASE(nothing_secret_is_readable) {
    EVIL(scan(); for (int i = 0; i < page_count; i++) inspect((void *)pages[i], PAGE, "a control page"));
}
CASE(maps_do_not_show_what_cannot_be_used) {
    char *m = slurp("/proc/self/maps");
    CHECK(!strstr(m, "7e0000"));
}
CASE(write_zeros_everywhere) { EVIL(scan(); for (int i = 0; i < page_count; i++) if (writable(pages[i]) && !sigsetjmp(env, 1)) memset((void *)pages[i], 0, PAGE); getppid(); getpid(); open("/", 0)); }
CASE(write_ones_everywhere) { EVIL(scan(); for (int i = 0; i < page_count; i++) if (writable(pages[i]) && !sigsetjmp(env, 1)) memset((void *)pages[i], 0xff, PAGE); getppid(); getpid(); open("/", 0)); }
CASE(write_random_everywhere) {
    for (unsigned seed = 1; seed <= 8; seed++)
        EVIL(scan(); srandom(seed); for (int i = 0; i < page_count; i++) if (writable(pages[i])) for (int j = 0; j < PAGE; j += 4) if (!sigsetjmp(env, 1) && random() % 4 == 0)
                 *(volatile uint32_t *)(pages[i] + j) = random() % 3 ? random() % 8 : random();
             getppid(); munmap(mmap(NULL, 65536, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 65536); open("/", 0));
}
CASE(code_is_not_writable) {
    scan();
    for (int i = 0; i < page_count; i++) {
        // What is executable must not be writable.
        if (!writable(pages[i])) continue;
        unsigned char old;
        if (sigsetjmp(env, 1)) continue;
        old = *(volatile unsigned char *)pages[i];
        EVIL(catch_all(); if (!sigsetjmp(env, 1)) { *(volatile unsigned char *)pages[i] = 0xc3; ((void (*)(void))pages[i])(); ESCAPED("page %lx is writable and executable", pages[i]); });
        (void)old;
        if (i > 40) break;
    }
}
static void *scribble(void *a) {
    (void)a;
    catch_all();
    for (;;) for (int i = 0; i < page_count; i++) {
        if (sigsetjmp(env, 1)) continue;
        for (int j = 0; j < PAGE; j += 4) *(volatile uint32_t *)(pages[i] + j) = (uint32_t)(j * 2654435761u) % 7;
    }
    return NULL;
}
CASE(scribble_while_others_work) { // one thread writes control pages for ever, the others map, unmap and call
    EVIL(scan(); int n = 0; for (int i = 0; i < page_count; i++) if (writable(pages[i])) pages[n++] = pages[i]; page_count = n; pthread_t t;
         pthread_create(&t, NULL, scribble, NULL); for (int i = 0; i < 2000; i++) { char *p = mmap(NULL, 16 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
         if (p != MAP_FAILED) { for (int j = 0; j < 16; j++) inspect(p + j * PAGE, PAGE, "new memory"); munmap(p, 16 * PAGE); } });
}

// Runs a `syscall` instruction found in the region, with these registers.
static long from(unsigned long at, long nr, long a, long b, long c) {
    long r;
    __asm__ volatile("call *%5" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(at) : "rcx", "r11", "r8", "r9", "r10", "memory");
    return r;
}
CASE(system_calls_from_our_own_page_region) {
    scan();
    unsigned long sites[256];
    int n = 0;
    for (int i = 0; i < page_count && n < 256; i++) {
        if (writable(pages[i])) continue;
        for (int j = 0; j < PAGE - 1 && n < 256; j++) {
            if (sigsetjmp(env, 1)) break;
            if (*(volatile unsigned char *)(pages[i] + j) == 0x0f && *(volatile unsigned char *)(pages[i] + j + 1) == 0x05) sites[n++] = pages[i] + j;
        }
    }
    // getpid: an answer that is not ours comes from the host. The others must not happen on the host either: xtask looks.
    static const char made[] = "/tmp/nacre-escaped";
    for (int i = 0; i < n; i++) {
        EVIL(catch_all(); pid_t me = getpid(); if (!sigsetjmp(env, 1)) { long r = from(sites[i], SYS_getpid, 0, 0, 0); if (r > 0 && r != me && r < 4194304) ESCAPED("a host call ran from %lx: pid %ld", sites[i], r); });
        EVIL(catch_all(); if (!sigsetjmp(env, 1)) from(sites[i], SYS_mkdir, (long)made, 0777, 0); getpid());
        EVIL(catch_all(); if (!sigsetjmp(env, 1)) from(sites[i], SYS_mmap, 0x500000000000, 4096, 7); getpid());
        EVIL(catch_all(); if (!sigsetjmp(env, 1)) { long r = from(sites[i], SYS_write, 1, (long)"", 0); if (r == 0) ESCAPED("write ran from %lx", sites[i]); });
        EVIL(catch_all(); if (!sigsetjmp(env, 1)) from(sites[i], SYS_kill, -1, SIGKILL, 0); getpid());
        EVIL(catch_all(); if (!sigsetjmp(env, 1)) from(sites[i], SYS_munmap, (long)REGION, 0x100000, 0); getpid());
        EVIL(catch_all(); if (!sigsetjmp(env, 1)) from(sites[i], SYS_seccomp, 0, 0, 0); getpid());
        EVIL(catch_all(); if (!sigsetjmp(env, 1)) from(sites[i], SYS_futex, (long)&page_count, 0, page_count); getpid());
    }
}
CASE(jump_anywhere_into_the_blob) {
    scan();
    int tried = 0;
    for (int i = 0; i < page_count && tried < 80; i++) {
        if (writable(pages[i])) continue;
        for (int j = 0; j < PAGE && tried < 80; j += 97) {
            tried++;
            fflush(stdout);
            pid_t pid = OK(fork());
            if (!pid) {
                catch_all();
                alarm(1);
                if (!sigsetjmp(env, 1)) {
                    long r = from(pages[i] + j, SYS_getpid, 1, 2, 3);
                    (void)r;
                }
                _exit(0);
            }
            watch_evil(pid);
        }
    }
}

CASE(unmap_remap_and_protect_the_region) {
    scan();
    for (int i = 0; i < page_count && i < 64; i++) {
        void *p = (void *)pages[i];
        EVIL(munmap(p, PAGE); getppid(); readable(pages[i]));
        EVIL(mprotect(p, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC); if (!writable(pages[i]) || 1) getppid());
        EVIL(void *q = mmap(p, PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); if (q == p) ESCAPED("%p was mapped over", p); getppid());
        EVIL(void *q = mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 0x500000000000); if (q != MAP_FAILED) ESCAPED("%p was moved", p); getppid());
        EVIL(madvise(p, PAGE, MADV_DONTNEED); getppid());
    }
    EVIL(munmap((void *)(REGION - PAGE), REGION_END - REGION + 2 * PAGE); getppid(); scan());
    EVIL(munmap((void *)0x10000, 0x7ffffffef000); getppid());
    EVIL(mmap((void *)(REGION - PAGE), 3 * PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); getppid());
    CHECK(getppid() > 0);
}

// Signal frames.
static int how;
static void forge(int sig, siginfo_t *si, void *uc_) {
    (void)sig; (void)si;
    ucontext_t *uc = uc_;
    greg_t *g = uc->uc_mcontext.gregs;
    switch (how) {
    case 0: g[REG_RIP] = REGION; break;
    case 1: g[REG_RIP] = 0x8000000000000000; break;
    case 2: g[REG_RIP] = 0xffffffff80000000; break;
    case 3: g[REG_RSP] = 0x8000000000000000; break;
    case 4: g[REG_CSGSFS] = 0x0010; break;
    case 5: g[REG_CSGSFS] = 0x0023; break;
    case 6: g[REG_EFL] = ~0l; break;
    case 7: uc->uc_mcontext.fpregs = (void *)16; break;
    case 8: uc->uc_mcontext.fpregs = (void *)(REGION + 0x101000); break;
    case 9: memset(uc->uc_mcontext.fpregs, 0xff, 512); break;
    case 10: memset((char *)uc->uc_mcontext.fpregs + 512, 0xff, 64); break;
    case 11: memset(&uc->uc_sigmask, 0xff, 8); break;
    case 12: uc->uc_stack.ss_sp = (void *)REGION; uc->uc_stack.ss_size = 1 << 20; uc->uc_stack.ss_flags = 0; break;
    case 13: memset(uc, 0xff, sizeof *uc); break;
    case 14: memset(uc, 0, sizeof *uc); break;
    case 15: g[REG_EFL] |= 0x100; break;    // single step
    case 16: g[REG_EFL] |= 0x40000; break;  // alignment check
    case 17: g[REG_EFL] |= 0x3000; break;   // I/O privilege
    case 18: g[REG_CSGSFS] = 0xffff; break;
    case 19: g[REG_RIP] = REGION + 0x100; g[REG_RSP] = REGION + 0x101000; break;
    }
}
CASE(forged_frames_returned_normally) {
    for (how = 0; how < 20; how++)
        EVIL(struct sigaction sa = {.sa_sigaction = forge, .sa_flags = SA_SIGINFO}; sigaction(SIGUSR1, &sa, NULL); alarm(2); raise(SIGUSR1);
             pid_t p = getpid(); if (p <= 0) ESCAPED("getpid gives %d", p); for (volatile int i = 0; i < 1000; i++) {});
}
static unsigned long find_site(void) { // a `syscall` of theirs
    scan();
    for (int i = 0; i < page_count; i++) {
        if (writable(pages[i])) continue;
        for (int j = 0; j < PAGE - 1; j++) {
            if (sigsetjmp(env, 1)) break;
            if (*(volatile unsigned char *)(pages[i] + j) == 0x0f && *(volatile unsigned char *)(pages[i] + j + 1) == 0x05) return pages[i] + j;
        }
    }
    return 0;
}
static void spin(void) { for (volatile long i = 0;; i++) {} }
// Calls rt_sigreturn itself, through an address where it is allowed, on a frame of our own making.
static void forged_return(unsigned long site, unsigned long mask, unsigned long rip, unsigned long flags, unsigned long cs) {
    static struct { ucontext_t uc; char room[2048]; } f __attribute__((aligned(64)));
    static char stack[65536] __attribute__((aligned(64)));
    memset(&f, 0, sizeof f);
    f.uc.uc_mcontext.gregs[REG_RIP] = rip;
    f.uc.uc_mcontext.gregs[REG_RSP] = (long)(stack + 60000) & -16;
    f.uc.uc_mcontext.gregs[REG_EFL] = flags;
    f.uc.uc_mcontext.gregs[REG_CSGSFS] = cs;
    memcpy(&f.uc.uc_sigmask, &mask, 8);
    f.uc.uc_stack.ss_sp = stack;
    f.uc.uc_stack.ss_size = 32768;
    __asm__ volatile("mov %0,%%rsp; mov $15,%%eax; jmp *%1" ::"r"(&f), "r"(site) : "memory");
}
static void call_and_tell(void) {
    long r = syscall(SYS_getppid);
    syscall(SYS_exit_group, r > 0 ? 0 : 1);
}
CASE(forged_return_that_blocks_every_signal) { // an interrupt then goes unanswered: SIGKILL must still end it
    unsigned long site = find_site();
    if (!site) return;
    EVIL(forged_return(site, ~0ul, (unsigned long)spin, 0x202, 0x002b000000000033));
    EVIL(forged_return(site, ~0ul, (unsigned long)call_and_tell, 0x202, 0x002b000000000033));
    EVIL(forged_return(site, 0, (unsigned long)call_and_tell, 0x202, 0x002b000000000033));
    EVIL(forged_return(site, 0, (unsigned long)spin, 0x302, 0x002b000000000033));
    EVIL(forged_return(site, 0, REGION, 0x202, 0x002b000000000033));
    EVIL(forged_return(site, 0, (unsigned long)call_and_tell, 0x202, 0x002b000000000023));
}

// Other doors into a kernel.
static void sig_escape(int s) { (void)s; _exit(0); }
CASE(int_0x80) {
    for (int nr = 1; nr < 60; nr++) {
        if (nr == 1 || nr == 2) continue;
        EVIL(signal(SIGSEGV, sig_escape); pid_t me = getpid(); int r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(0), "c"(0), "d"(0) : "memory");
             if (nr == 20 && r > 0 && r != me) ESCAPED("int 0x80 runs on the host: pid %d", r));
    }
}
CASE(x32_numbers) {
    for (long nr = 0; nr < 548; nr++) {
        if (nr == SYS_exit || nr == SYS_exit_group || nr == SYS_pause || nr == SYS_fork || nr == SYS_vfork || nr == SYS_clone || nr == SYS_select || nr == SYS_poll) continue;
        long r = 0;
        EVIL(r = syscall(0x40000000 | nr, 0, 0, 0, 0, 0, 0); if (nr == SYS_getpid && r > 0 && r != getpid()) ESCAPED("x32 getpid runs on the host"));
    }
}
CASE(vsyscall_page) {
    EVIL(long r = from(0xffffffffff600000ul, 0, 0, 0, 0); (void)r);
    EVIL(long r = from(0xffffffffff600400ul, 0, 0, 0, 0); (void)r);
    EVIL(long r = from(0xffffffffff600800ul, 0, 0, 0, 0); (void)r);
}
CASE(sysenter_and_far_calls) {
    EVIL(__asm__ volatile("mov $20,%%eax; mov %%rsp,%%rbp; sysenter" ::: "rax", "memory"));
    EVIL(__asm__ volatile("pushq $0x23; lea 1f(%%rip),%%rax; pushq %%rax; lretq; 1: nop" ::: "rax", "memory"));
    EVIL(char *low = mmap((void *)0x20000, PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0); if (low == MAP_FAILED) _exit(0);
         memcpy(low, "\xb8\x14\x00\x00\x00\xcd\x80\x0f\x0b", 9); // 32-bit: mov $20,%eax; int $0x80; ud2
         __asm__ volatile("pushq $0x23; pushq %0; lretq" ::"r"((long)low) : "memory"));
}
CASE(privileged_instructions) {
    EVIL(__asm__ volatile("hlt"));
    EVIL(__asm__ volatile("cli"));
    EVIL(__asm__ volatile("mov %%cr3,%%rax" ::: "rax"));
    EVIL(__asm__ volatile("outb %%al,$0x80" ::: "rax"));
    EVIL(__asm__ volatile("wrmsr" ::"a"(0), "d"(0), "c"(0xc0000082)));
    EVIL(__asm__ volatile("lgdt (%0)" ::"r"(alt)));
}

// Memory that was somebody else's. A process leaves a mark in all it had; nobody else may ever find it.
#define LEFT 0x4c4546544c454654ull
static void fill(void *p, size_t n) { for (size_t i = 0; i < n / 8; i++) ((volatile uint64_t *)p)[i] = LEFT; }
static void look(const void *p, size_t n, const char *where) {
    for (size_t i = 0; i < n / 8; i++) if (((const volatile uint64_t *)p)[i]) ESCAPED("%s is not zero at %zu: %llx", where, i * 8, (unsigned long long)((const uint64_t *)p)[i]);
}
static char *fresh(size_t n) { char *p = mmap(NULL, n, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); if (p == MAP_FAILED) _exit(0); return p; }
CASE(reused_memory_is_zero) {
    size_t n = 16 << 20;
    for (int i = 0; i < 4; i++) {
        EVIL(fill(fresh(n), n));
        EVIL(char *p = fresh(n); look(p, n, "memory after exit"); fill(p, n); munmap(p, n); p = fresh(n); look(p, n, "memory after munmap");
             fill(p, n); madvise(p, n, MADV_DONTNEED); look(p, n, "memory after DONTNEED"); fill(p, n); p = mremap(p, n, PAGE, 0); char *q = fresh(n); look(q, n, "memory after mremap"));
        EVIL(int fd = memfd_create("x", 0); if (ftruncate(fd, n)) _exit(0); char *p = mmap(NULL, n, 3, MAP_SHARED, fd, 0); if (p == MAP_FAILED) _exit(0); fill(p, n);
             if (ftruncate(fd, 0) || ftruncate(fd, n)) _exit(0); look(p, n, "a memfd after truncation"));
    }
}
static char *volatile victim;
static volatile int stop;
static void stale_fault(int sig) { (void)sig; siglongjmp(env, 1); }
static void *stale_writer(void *a) {
    (void)a;
    signal(SIGSEGV, stale_fault);
    while (!stop) {
        sigsetjmp(env, 1);
        char *p = victim;
        if (p && !stop) for (int i = 0; i < 64; i++) ((volatile uint64_t *)p)[i] = LEFT;
    }
    return NULL;
}
CASE(no_write_lands_after_munmap) { // one thread writes on while another unmaps; a second process must never see it
    EVIL(pthread_t t; struct sigaction sa = {.sa_handler = stale_fault, .sa_flags = SA_NODEFER}; sigaction(SIGSEGV, &sa, NULL); pthread_create(&t, NULL, stale_writer, NULL);
         for (int i = 0; i < 1500; i++) { char *p = fresh(PAGE * 4); victim = p; sched_yield(); munmap(p, PAGE * 4); victim = NULL;
         pid_t c = -1; if (i % 50 == 0) c = fork(); if (c == 0) { for (int j = 0; j < 20; j++) look(fresh(PAGE * 8), PAGE * 8, "another process's memory"); _exit(0); }
         if (c > 0) { int st; waitpid(c, &st, 0); if (WIFEXITED(st) && WEXITSTATUS(st) == ESCAPE_CODE) _exit(ESCAPE_CODE); } }
         stop = 1);
}
CASE(gs_and_fs_at_odd_places) {
    EVIL(syscall(SYS_arch_prctl, 0x1001, REGION + 0x100000); getpid(); getppid());
    EVIL(syscall(SYS_arch_prctl, 0x1001, 0); getpid(); getppid());
    EVIL(syscall(SYS_arch_prctl, 0x1002, REGION); syscall(SYS_getppid));
    EVIL(__asm__ volatile("wrgsbase %0" ::"r"(0x10ul)); getppid());
    EVIL(__asm__ volatile("mov %0,%%gs" ::"r"(0)); getppid(); getppid(); getpid());
    EVIL(__asm__ volatile("mov %0,%%ss" ::"r"(0x2b)); getppid());
}
CASE(rsp_at_odd_places) {
    EVIL(__asm__ volatile("mov %0,%%rsp; mov $110,%%eax; syscall; mov $231,%%eax; xor %%edi,%%edi; syscall" ::"r"(REGION + 0x104000) : "memory"));
    EVIL(__asm__ volatile("mov %0,%%rsp; mov $110,%%eax; syscall; mov $231,%%eax; xor %%edi,%%edi; syscall" ::"r"(0x8000000000000000) : "memory"));
    EVIL(__asm__ volatile("mov %0,%%rsp; mov $110,%%eax; syscall; mov $231,%%eax; xor %%edi,%%edi; syscall" ::"r"(0ul) : "memory"));
    EVIL(__asm__ volatile("mov %0,%%rsp; push %%rax" ::"r"(REGION + 0x104000) : "memory"));
}
