// memfd_create and its seals.
#include "abi.h"
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#define MFD_EXEC 0x10U
#endif

static int sealing(size_t size) {
    int fd = OK(memfd_create("m", MFD_ALLOW_SEALING));
    OK(ftruncate(fd, size));
    return fd;
}

CASE(create) {
    int fd = OK(memfd_create("name", MFD_CLOEXEC));
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL);
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    char link[64], path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = OK(readlink(path, link, sizeof link - 1));
    link[n] = 0;
    CHECK(!strcmp(link, "/memfd:name (deleted)"));
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_mode, S_IFREG | 0777);
    EQ(st.st_nlink, 0);
    static char longname[260];
    memset(longname, 'n', 249);
    OK(memfd_create(longname, 0));
    longname[249] = 'n';
    ERR(memfd_create(longname, 0), EINVAL);
    ERR(memfd_create("x", 0x8000), EINVAL);
    ERR(syscall(SYS_memfd_create, BAD, 0), EFAULT);
}

CASE(size_seals) {
    int fd = sealing(8192);
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    ERR(ftruncate(fd, 4096), EPERM);
    OK(ftruncate(fd, 12288));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    ERR(ftruncate(fd, 16384), EPERM);
    ERR(pwrite(fd, "x", 1, 12288), EPERM);
    EQ(pwrite(fd, "x", 1, 12287), 1);
    ERR(fallocate(fd, 0, 0, 16384), EPERM);
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    ERR(fcntl(OK(open("f", O_RDWR | O_CREAT, 0600)), F_ADD_SEALS, 0x1000), EINVAL);
}

CASE(write_seal_and_mappings) {
    int fd = sealing(4096);
    char *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    OK(mprotect(w, 4096, PROT_READ));
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY); // it could be made writable again
    strcpy((OK(mprotect(w, 4096, PROT_READ | PROT_WRITE)), w), "text");
    char *priv = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    OK(munmap(w, 4096));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    priv[0] = 'T';
    ERR(write(fd, "x", 1), EPERM);
    ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), EPERM);
    ERR((long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED && !strcmp(p, "text"));
    p[0] = 'X';
    char b[4];
    EQ(pread(fd, b, 4, 0), 4);
    CHECK(!memcmp(b, "text", 4));
}

CASE(future_write_seal) {
    int fd = sealing(4096);
    char *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    strcpy(w, "still");
    ERR(write(fd, "x", 1), EPERM);
    ERR((long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    char *r = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(r != MAP_FAILED && !strcmp(r, "still"));
    ERR(mprotect(r, 4096, PROT_READ | PROT_WRITE), EACCES);
}

CASE(exec_seal) {
    needs(6, 3);
    int fd = OK(memfd_create("m", MFD_NOEXEC_SEAL));
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_EXEC);
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_mode, S_IFREG | 0666);
    ERR(fchmod(fd, 0777), EPERM);
    OK(fchmod(fd, 0600));
    ERR(memfd_create("m", MFD_NOEXEC_SEAL | MFD_EXEC), EINVAL);
    fd = OK(memfd_create("m", MFD_EXEC | MFD_ALLOW_SEALING));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_EXEC));
    EQ(fcntl(fd, F_GET_SEALS), F_SEAL_EXEC | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE);
}

CASE(needs_a_writable_description) {
    int fd = sealing(4096);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int ro = OK(open(path, O_RDONLY));
    ERR(fcntl(ro, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    EQ(fcntl(ro, F_GET_SEALS), 0);
    ERR(fcntl(fd, F_ADD_SEALS, 0x1000), EINVAL);
    int p[2];
    OK(pipe(p));
    ERR(fcntl(p[1], F_ADD_SEALS, F_SEAL_WRITE), EINVAL);
    ERR(fcntl(p[0], F_GET_SEALS), EINVAL);
}

// A seal would have to know every way in: shmem has no FALLOC_FL_ZERO_RANGE.
CASE(no_way_around_the_write_seal) {
    int fd = sealing(4096);
    EQ(pwrite(fd, "text", 4, 0), 4);
    ERR(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096), EOPNOTSUPP);
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    ERR(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096), EOPNOTSUPP);
    ERR(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096), EOPNOTSUPP);
    char b[4];
    EQ(pread(fd, b, 4, 0), 4);
    CHECK(!memcmp(b, "text", 4));
}

static void *writes(void *arg) {
    int fd = *(int *)arg;
    static char page[4096];
    memset(page, 'x', sizeof page);
    while (pwrite(fd, page, sizeof page, 0) > 0) page[0]++;
    return NULL;
}
// What is there when F_SEAL_WRITE is set stays.
CASE(a_seal_is_a_seal_against_writes_under_way) {
    for (int i = 0; i < 200; i++) {
        int fd = sealing(4096);
        pthread_t t;
        pthread_create(&t, NULL, writes, &fd);
        OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
        char a[64], b[64];
        EQ(pread(fd, a, 64, 0), 64);
        pthread_join(t, NULL);
        EQ(pread(fd, b, 64, 0), 64);
        CHECK(!memcmp(a, b, 64));
        close(fd);
    }
}
