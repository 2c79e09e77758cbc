// races: links and renames against path walks on /shared, from inside; xtask swaps /shared/swap between a folder and a link to
// the folder of the secret meanwhile, from outside.
#include "escape.h"
#include <sys/stat.h>

enum { RACE_MS = 1500 };
static const char *name_of_secret(void) { return strrchr(secret(), '/') + 1; }

CASE(host_swaps_folder_and_link) {
    char path[PATH_MAX], up[PATH_MAX];
    snprintf(path, sizeof path, "/shared/swap/%s", name_of_secret());
    snprintf(up, sizeof up, "/shared/swap/../swap/./%s", name_of_secret());
    for (long long end = mono_ms() + RACE_MS; mono_ms() < end;) {
        try_read(AT_FDCWD, path);
        try_read(AT_FDCWD, up);
        int dir = open("/shared/swap", O_RDONLY | O_DIRECTORY);
        if (dir >= 0) { try_read(dir, name_of_secret()); try_read(dir, ".."); close(dir); }
    }
}
CASE(host_swaps_while_we_create_and_remove) { // xtask checks that the secret's folder is untouched
    for (long long end = mono_ms() + RACE_MS; mono_ms() < end;) {
        int fd = open("/shared/swap/made", O_CREAT | O_RDWR | O_TRUNC, 0666);
        if (fd >= 0) { if (write(fd, "x", 1) < 0) {} close(fd); }
        char victim[PATH_MAX];
        snprintf(victim, sizeof victim, "/shared/swap/%s", name_of_secret());
        unlink(victim);
        int done = truncate(victim, 0) + chmod(victim, 0777) + rename(victim, "/shared/stolen") + link(victim, "/shared/linked");
        done += mkdir("/shared/swap/dir", 0777) + symlink("x", "/shared/swap/sym");
        (void)done;
        try_read(AT_FDCWD, "/shared/stolen");
        try_read(AT_FDCWD, "/shared/linked");
        unlink("/shared/swap/made");
        rmdir("/shared/swap/dir");
        unlink("/shared/swap/sym");
    }
}
static void swapper(const char *a, const char *b) {
    for (;;) { renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE); }
}
CASE(our_own_exchange) {
    char to[PATH_MAX];
    snprintf(to, sizeof to, "../../../../../../../..%.*s", (int)(strrchr(secret(), '/') - secret()), secret());
    mkdir("/shared/ours", 0755);
    unlink("/shared/ours-link");
    OK(symlink(to, "/shared/ours-link"));
    pid_t pid = OK(fork());
    if (!pid) swapper("/shared/ours", "/shared/ours-link");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "/shared/ours/%s", name_of_secret());
    for (long long end = mono_ms() + RACE_MS; mono_ms() < end;) try_read(AT_FDCWD, path);
    kill(pid, SIGKILL);
    wait_status(pid);
    unlink("/shared/ours-link");
    unlink("/shared/ours");
    rmdir("/shared/ours");
    rmdir("/shared/ours-link");
}
CASE(moving_a_folder_up_while_walking_down) {
    mkdir("/shared/d1", 0755); mkdir("/shared/d1/d2", 0755); mkdir("/shared/d1/d2/d3", 0755); mkdir("/shared/d1/d2/d3/d4", 0755); mkdir("/shared/e", 0755);
    pid_t pid = OK(fork());
    if (!pid) for (;;) { rename("/shared/d1/d2/d3", "/shared/e/d3"); rename("/shared/e/d3", "/shared/d1/d2/d3"); }
    char path[PATH_MAX];
    snprintf(path, sizeof path, "/shared/d1/d2/d3/d4/../../../../..%s", secret());
    char path2[PATH_MAX];
    snprintf(path2, sizeof path2, "/shared/d1/d2/d3/d4/../../../../../../../..%s", secret());
    for (long long end = mono_ms() + RACE_MS; mono_ms() < end;) { try_read(AT_FDCWD, path); try_read(AT_FDCWD, path2); }
    kill(pid, SIGKILL);
    wait_status(pid);
}
