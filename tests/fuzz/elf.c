/* A fuzzer of the program loader: small programs with headers bent at random are executed.
 *
 *     elf SEED SECONDS
 *
 * What they come to is their own affair (a bent program may even run); the sandbox must stay. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;
static uint64_t next(void)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15ull); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
static uint64_t below(uint64_t n) { return next() % n; }

static const uint64_t edges[] = {0, 1, 2, 3, 0x38, 0x40, 0xfff, 0x1000, 0x1001, 0x10000, 0x400000, 0x7fffffff, 0x80000000, 0xffffffff,
    0x7e0000000000, 0x7e0000001000, 0x7fffffffe000, 0x7ffffffff000, 0x7fffffffffff, 0x800000000000, 0x7fffffffffffffff, 0x8000000000000000,
    0xfffffffffffff000, 0xffffffffffffffff};
static uint64_t number(void)
{
    switch (below(3)) {
    case 0: return edges[below(sizeof edges / sizeof *edges)];
    case 1: return edges[below(sizeof edges / sizeof *edges)] + (int64_t)below(5) - 2;
    default: return next() >> below(64);
    }
}

/* exit(0) */
static const unsigned char code[] = {0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05};
#define SEGMENTS 6
#define SIZE 0x3000
static unsigned char image[SIZE];

static void build(void)
{
    memset(image, 0, SIZE);
    Elf64_Ehdr *e = (void *)image;
    Elf64_Phdr *p = (void *)(image + sizeof *e);
    int dynamic = below(2);
    memcpy(e->e_ident, "\177ELF\2\1\1", 7);
    e->e_type = dynamic ? ET_DYN : ET_EXEC;
    e->e_machine = EM_X86_64, e->e_version = 1, e->e_phoff = sizeof *e, e->e_ehsize = sizeof *e, e->e_phentsize = sizeof *p, e->e_phnum = SEGMENTS;
    uint64_t base = dynamic ? 0 : 0x400000;
    e->e_entry = base + 0x1000;
    p[0] = (Elf64_Phdr){PT_LOAD, PF_R | PF_X, 0, base, base, 0x2000, 0x2000, 0x1000};
    p[1] = (Elf64_Phdr){PT_LOAD, PF_R | PF_W, 0x2000, base + 0x2000, base + 0x2000, 0x800, 0x5000, 0x1000};
    p[2] = (Elf64_Phdr){PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0, 0, 16};
    p[3] = (Elf64_Phdr){PT_PHDR, PF_R, sizeof *e, base + sizeof *e, base + sizeof *e, SEGMENTS * sizeof *p, SEGMENTS * sizeof *p, 8};
    p[4] = (Elf64_Phdr){PT_NOTE, PF_R, 0x200, base + 0x200, base + 0x200, 0x20, 0x20, 4};
    p[5] = (Elf64_Phdr){below(3) ? PT_NULL : PT_INTERP, PF_R, 0x300, base + 0x300, base + 0x300, 8, 8, 1};
    memcpy(image + 0x300, "/tmp/fi", 8);
    memcpy(image + 0x1000, code, sizeof code);
}

static size_t bend(void)
{
    size_t header = sizeof(Elf64_Ehdr) + SEGMENTS * sizeof(Elf64_Phdr);
    for (int n = below(6); n > 0; n--) {
        switch (below(4)) {
        case 0: image[below(header)] ^= 1 << below(8); break;
        case 1: *(uint64_t *)(image + (below(header) & ~7ul)) = number(); break;
        case 2: *(uint32_t *)(image + (below(header) & ~3ul)) = number(); break;
        default: { /* one field of one segment */
            Elf64_Phdr *p = (void *)(image + sizeof(Elf64_Ehdr) + below(SEGMENTS) * sizeof(Elf64_Phdr));
            ((uint64_t *)p)[1 + below(6)] = number();
        }
        }
    }
    if (below(10) == 0) /* a script, its line bent too */
        return sprintf((char *)image, "#!%.*s%s %*s\n", (int)below(8), "        ", below(2) ? "/tmp/f" : "/tmp/fi", (int)below(400), "x");
    return below(4) ? SIZE : below(SIZE);
}

static void put(const char *path)
{
    unlink(path);
    build();
    size_t size = bend();
    int fd = open(path, O_WRONLY | O_CREAT, 0700);
    if (write(fd, image, size) < 0) {}
    close(fd);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    time_t end = time(NULL) + (argc > 2 ? atol(argv[2]) : 10);
    long count = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (; time(NULL) < end; count++) {
        if (count % 1000 == 0) printf("program %ld\n", count);
        state = seed + count;
        put("/tmp/fi");
        put("/tmp/f");
        pid_t pid = fork();
        if (pid == 0) {
            alarm(1);
            char *args[] = {"f", NULL};
            execv("/tmp/f", args);
            _exit(errno);
        }
        if (pid > 0) waitpid(pid, NULL, 0);
    }
    printf("done %ld programs\n", count);
    return 0;
}
