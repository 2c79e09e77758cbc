// loops: loop devices, whose blocks are those of a file (loop(4)).
#include "abi.h"
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

// A file of `size` bytes of 'f' without a name.
static int backing(size_t size) {
    char name[] = "/tmp/loop-XXXXXX";
    int fd = OK(mkstemp(name));
    OK(unlink(name));
    char *bytes = malloc(size);
    memset(bytes, 'f', size);
    EQ(write(fd, bytes, size), (long)size);
    free(bytes);
    return fd;
}
static int open_loop(int index, int flags) {
    char name[32];
    snprintf(name, sizeof name, "/dev/loop%d", index);
    return OK(open(name, flags | O_CLOEXEC));
}
// A device with `file` behind it. Others may take the free device meanwhile: then again.
static int attach(int file, int *index) {
    int control = OK(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    for (;;) {
        *index = OK(ioctl(control, LOOP_CTL_GET_FREE));
        int fd = open_loop(*index, O_RDWR);
        if (!ioctl(fd, LOOP_SET_FD, file)) {
            close(control);
            return fd;
        }
        EQ(errno, EBUSY);
        close(fd);
    }
}
static void detach(int fd) {
    OK(ioctl(fd, LOOP_CLR_FD, 0));
    close(fd);
}

CASE(read_write) {
    int file = backing(64 << 10), index, fd = attach(file, &index);
    uint64_t size;
    unsigned long sectors;
    int sector;
    OK(ioctl(fd, BLKGETSIZE64, &size));
    EQ(size, 64 << 10);
    OK(ioctl(fd, BLKGETSIZE, &sectors));
    EQ(sectors, 128);
    OK(ioctl(fd, BLKSSZGET, &sector));
    EQ(sector, 512);
    EQ(lseek(fd, 0, SEEK_END), 64 << 10);
    char buf[512];
    EQ(pread(fd, buf, 512, 1024), 512);
    CHECK(buf[0] == 'f' && buf[511] == 'f');
    memset(buf, 'd', 512);
    EQ(pwrite(fd, buf, 512, 4096), 512);
    OK(fsync(fd));
    EQ(pread(file, buf, 512, 4096), 512);
    EQ(buf[7], 'd');
    EQ(pread(fd, buf, 512, 64 << 10), 0);
    ERR(pwrite(fd, buf, 512, 64 << 10), ENOSPC);
    EQ(pwrite(fd, buf, 512, (64 << 10) - 100), 100);
    detach(fd);
}
CASE(status) {
    int file = backing(64 << 10), index, fd = attach(file, &index);
    struct stat st, node;
    OK(fstat(file, &st));
    OK(fstat(fd, &node));
    CHECK(S_ISBLK(node.st_mode) && node.st_size == 0);
    struct loop_info64 info = {.lo_offset = 1024, .lo_sizelimit = 8192};
    strcpy((char *)info.lo_file_name, "the file");
    OK(ioctl(fd, LOOP_SET_STATUS64, &info));
    memset(&info, 0xee, sizeof info);
    OK(ioctl(fd, LOOP_GET_STATUS64, &info));
    CHECK(info.lo_offset == 1024 && info.lo_sizelimit == 8192 && !strcmp((char *)info.lo_file_name, "the file"));
    CHECK(info.lo_inode == st.st_ino && (int)info.lo_number == index && !(info.lo_flags & LO_FLAGS_READ_ONLY));
    uint64_t size;
    OK(ioctl(fd, BLKGETSIZE64, &size));
    EQ(size, 8192);
    char buf[16] = "at the offset", back[16];
    EQ(pwrite(fd, buf, 16, 0), 16);
    OK(fsync(fd));
    EQ(pread(file, back, 16, 1024), 16);
    CHECK(!memcmp(buf, back, 16));
    struct loop_info old;
    OK(ioctl(fd, LOOP_GET_STATUS, &old));
    CHECK(old.lo_offset == 1024 && !strcmp(old.lo_name, "the file"));
    ERR(ioctl(fd, LOOP_GET_STATUS64, BAD), EFAULT);
    ERR(ioctl(fd, LOOP_SET_STATUS64, BAD), EFAULT);
    detach(fd);
}
CASE(capacity) {
    int file = backing(64 << 10), index, fd = attach(file, &index);
    uint64_t size;
    OK(ftruncate(file, 128 << 10));
    OK(ioctl(fd, BLKGETSIZE64, &size));
    EQ(size, 64 << 10);
    OK(ioctl(fd, LOOP_SET_CAPACITY, 0));
    OK(ioctl(fd, BLKGETSIZE64, &size));
    EQ(size, 128 << 10);
    detach(fd);
}
CASE(configure) {
    int file = backing(64 << 10), index, fd = attach(file, &index);
    struct loop_config config = {.fd = file, .block_size = 1024, .info.lo_flags = LO_FLAGS_READ_ONLY};
    ERR(ioctl(fd, LOOP_CONFIGURE, &config), EBUSY);
    OK(ioctl(fd, LOOP_CLR_FD, 0));
    close(fd);
    int control = OK(open("/dev/loop-control", O_RDWR));
    index = OK(ioctl(control, LOOP_CTL_GET_FREE));
    fd = open_loop(index, O_RDWR);
    config.block_size = 1000;
    ERR(ioctl(fd, LOOP_CONFIGURE, &config), EINVAL);
    config.block_size = 1024;
    config.fd = 999;
    ERR(ioctl(fd, LOOP_CONFIGURE, &config), EBADF);
    ERR(ioctl(fd, LOOP_CONFIGURE, BAD), EFAULT);
    config.fd = file;
    OK(ioctl(fd, LOOP_CONFIGURE, &config));
    int size, ro;
    OK(ioctl(fd, BLKSSZGET, &size));
    EQ(size, 1024);
    OK(ioctl(fd, BLKROGET, &ro));
    EQ(ro, 1);
    detach(fd);
}
CASE(without_a_file) {
    int file = backing(4096), index, fd = attach(file, &index);
    OK(ioctl(fd, LOOP_CLR_FD, 0));
    close(fd);
    fd = open_loop(index, O_RDWR);
    struct loop_info64 info;
    char byte;
    uint64_t size;
    ERR(ioctl(fd, LOOP_GET_STATUS64, &info), ENXIO);
    ERR(ioctl(fd, LOOP_CLR_FD, 0), ENXIO);
    ERR(ioctl(fd, LOOP_SET_CAPACITY, 0), ENXIO);
    EQ(read(fd, &byte, 1), 0);
    OK(ioctl(fd, BLKGETSIZE64, &size));
    EQ(size, 0);
    ERR(ioctl(fd, LOOP_SET_FD, 999), EBADF);
    int pipes[2];
    OK(pipe(pipes));
    ERR(ioctl(fd, LOOP_SET_FD, pipes[0]), EINVAL);
}
CASE(autoclear) {
    int file = backing(4096), index, fd = attach(file, &index);
    struct loop_info64 info = {.lo_flags = LO_FLAGS_AUTOCLEAR};
    OK(ioctl(fd, LOOP_SET_STATUS64, &info));
    close(fd);
    for (int i = 0; i < 100; i++) {
        fd = open_loop(index, O_RDONLY);
        int r = ioctl(fd, LOOP_GET_STATUS64, &info);
        close(fd);
        if (r < 0) {
            EQ(errno, ENXIO);
            return;
        }
        nap_ms(20);
    }
    FAILED("the device keeps its file");
}
CASE(control) {
    int control = OK(open("/dev/loop-control", O_RDWR));
    int file = backing(4096), index, fd = attach(file, &index);
    ERR(ioctl(control, LOOP_CTL_ADD, index), EEXIST);
    ERR(ioctl(control, LOOP_CTL_REMOVE, index), EBUSY);
    ERR(ioctl(control, LOOP_CTL_REMOVE, 251), ENODEV);
    ERR(ioctl(control, 0x4c8f, 0), ENOSYS);
    detach(fd);
}
