// sysfs: what /sys tells about CPUs, memory and huge pages.
#include "abi.h"
#include <sys/statfs.h>

// A list like 0-3,5: how many CPUs it names.
static int listed(const char *s) {
    int n = 0;
    while (*s && *s != '\n') {
        char *e;
        long a = strtol(s, &e, 10), b = a;
        if (e == s) FAILED("'%s' is no list", s);
        if (*e == '-') b = strtol(e + 1, &e, 10);
        n += b - a + 1;
        s = *e == ',' ? e + 1 : e;
    }
    return n;
}
#define CPU "/sys/devices/system/cpu"
CASE(is_sysfs) {
    struct statfs s;
    OK(statfs("/sys", &s));
    EQ(s.f_type, 0x62656572);
    EQ(s.f_bsize, 4096);
}
CASE(cpus_agree) {
    int online = listed(slurp(CPU "/online"));
    EQ(online, sysconf(_SC_NPROCESSORS_ONLN));
    CHECK(listed(slurp(CPU "/possible")) >= online);
    CHECK(listed(slurp(CPU "/present")) >= online);
    int n = 0;
    DIR *d = opendir(CPU);
    CHECK(d);
    for (struct dirent *e; (e = readdir(d));) n += !strncmp(e->d_name, "cpu", 3) && e->d_name[3] >= '0' && e->d_name[3] <= '9';
    CHECK(n >= online);
    EQ(sysconf(_SC_NPROCESSORS_CONF), n);
}
CASE(kernel_max) { CHECK(atol(slurp(CPU "/kernel_max")) >= 63); }
CASE(topology) {
    EQ(atol(slurp(CPU "/cpu0/topology/core_id")), 0);
    EQ(atol(slurp(CPU "/cpu0/topology/physical_package_id")), 0);
    CHECK(listed(slurp(CPU "/cpu0/topology/thread_siblings_list")) >= 1);
    CHECK(listed(slurp(CPU "/cpu0/topology/core_cpus_list")) >= 1);
    CHECK(listed(slurp(CPU "/cpu0/topology/core_siblings_list")) >= 1);
    CHECK(listed(slurp(CPU "/cpu0/topology/package_cpus_list")) >= 1);
    CHECK(strtoul(slurp(CPU "/cpu0/topology/thread_siblings"), NULL, 16) & 1);
    CHECK(strtoul(slurp(CPU "/cpu0/topology/core_siblings"), NULL, 16) & 1);
    CHECK(strtoul(slurp(CPU "/cpu0/topology/core_cpus"), NULL, 16) & 1);
}
CASE(files_look_like_sysfs) {
    struct stat st;
    OK(stat(CPU "/online", &st));
    CHECK(S_ISREG(st.st_mode) && (st.st_mode & 07777) == 0444);
    EQ(st.st_size, 4096);
    EQ(st.st_blksize, 4096);
    OK(stat(CPU, &st));
    CHECK(S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 0755);
    char b[4096];
    ssize_t n = OK(read(OK(open(CPU "/online", O_RDONLY)), b, sizeof b));
    CHECK(n > 1 && b[n - 1] == '\n');
}
CASE(nothing_can_be_made) {
    CHECK(mkdir("/sys/x", 0755) < 0 && (errno == EPERM || errno == EROFS));
    CHECK(open(CPU "/online", O_WRONLY) < 0 && (errno == EACCES || errno == EROFS));
    CHECK(open("/sys/newfile", O_WRONLY | O_CREAT, 0644) < 0 && (errno == EACCES || errno == EROFS || errno == EPERM));
    CHECK(unlink(CPU "/online") < 0 && (errno == EPERM || errno == EROFS));
    ERR(open("/sys/none", O_RDONLY), ENOENT);
    ERR(open(CPU "/online/x", O_RDONLY), ENOTDIR);
}
CASE(node) {
    CHECK(listed(slurp("/sys/devices/system/node/online")) >= 1);
    CHECK(listed(slurp("/sys/devices/system/node/possible")) >= 1);
    CHECK(listed(slurp("/sys/devices/system/node/node0/cpulist")) >= 1);
    CHECK(strtoul(slurp("/sys/devices/system/node/node0/cpumap"), NULL, 16) & 1);
    EQ(atol(slurp("/sys/devices/system/node/node0/distance")), 10);
    CHECK(strstr(slurp("/sys/devices/system/node/node0/meminfo"), "Node 0 MemTotal: "));
}
CASE(transparent_huge_pages) {
    CHECK(strchr(slurp("/sys/kernel/mm/transparent_hugepage/enabled"), '['));
    EQ(atol(slurp("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")), 2 << 20);
    CHECK(strchr(slurp("/sys/kernel/mm/transparent_hugepage/defrag"), '['));
    CHECK(strchr(slurp("/sys/kernel/mm/transparent_hugepage/shmem_enabled"), '['));
}
CASE(classes_and_blocks_are_directories) {
    const char *dirs[] = {"/sys/class", "/sys/block", "/sys/devices", "/sys/fs", "/sys/kernel", "/sys/bus", "/sys/class/net", "/sys/class/block", "/sys/dev/block", "/sys/dev/char"};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        struct stat st;
        OK(stat(dirs[i], &st));
        CHECK(S_ISDIR(st.st_mode));
    }
}
CASE(walk_does_not_end_early) {
    // Every name that a directory lists can be looked at.
    char path[512];
    const char *dirs[] = {"/sys", CPU, CPU "/cpu0", CPU "/cpu0/topology", "/sys/kernel/mm"};
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        DIR *d = opendir(dirs[i]);
        CHECK(d);
        int n = 0;
        for (struct dirent *e; (e = readdir(d)); n++) {
            struct stat st;
            snprintf(path, sizeof path, "%s/%s", dirs[i], e->d_name);
            OK(lstat(path, &st));
            if (e->d_type != DT_UNKNOWN) EQ(e->d_type, S_ISDIR(st.st_mode) ? DT_DIR : S_ISLNK(st.st_mode) ? DT_LNK : DT_REG);
        }
        CHECK(n > 2);
        closedir(d);
    }
}
