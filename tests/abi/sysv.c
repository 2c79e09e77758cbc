// System V IPC: shared memory, semaphores, message queues.
#include "abi.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
#define AS_NOBODY(...) IN_CHILD(OK(setgid(65534)); OK(setuid(65534)); __VA_ARGS__)

union semun { int val; struct semid_ds *buf; unsigned short *array; struct seminfo *info; };
static key_t key(void) { return 0x4e000000 | (getpid() & 0xffff) << 4; }

// Shared memory.

static int shm_with(size_t size, int mode) { return OK(shmget(IPC_PRIVATE, size, IPC_CREAT | mode)); }
static long nattch(int id) {
    struct shmid_ds ds;
    OK(shmctl(id, IPC_STAT, &ds));
    return ds.shm_nattch;
}

CASE(shm_get) {
    key_t k = key();
    ERR(shmget(k, 4096, 0600), ENOENT);
    int id = OK(shmget(k, 5000, IPC_CREAT | 0600));
    EQ(shmget(k, 5000, 0600), id);
    EQ(shmget(k, 0, 0), id);
    EQ(shmget(k, 100, IPC_CREAT), id);
    ERR(shmget(k, 100, IPC_CREAT | IPC_EXCL), EEXIST);
    ERR(shmget(k, 5001, 0600), EINVAL);
    ERR(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
    AS_NOBODY(ERR(shmget(k, 100, 0600), EACCES); EQ(shmget(k, 100, 0), id));
    OK(shmctl(id, IPC_RMID, NULL));
    ERR(shmget(k, 100, 0600), ENOENT);
}

CASE(shm_attach_shares) {
    int id = shm_with(10000, 0600);
    char *p = shmat(id, NULL, 0), *q = shmat(id, NULL, SHM_RDONLY);
    CHECK(p != (void *)-1 && q != (void *)-1 && p != q);
    EQ(nattch(id), 2);
    for (int i = 0; i < 10000; i++) EQ(p[i], 0);
    strcpy(p + 5000, "shared");
    CHECK(!strcmp(q + 5000, "shared"));
    IN_CHILD(CHECK(!strcmp(q + 5000, "shared")); EQ(nattch(id), 4); strcpy(p, "child"); OK(shmdt(p)); EQ(nattch(id), 3));
    CHECK(!strcmp(q, "child"));
    EQ(nattch(id), 2);
    pid_t pid = OK(fork());
    if (!pid) { q[0] = 1; _exit(0); }
    DIES(pid, SIGSEGV);
    OK(shmdt(p));
    OK(shmdt(q));
    ERR(shmdt(q), EINVAL);
    EQ(nattch(id), 0);
    OK(shmctl(id, IPC_RMID, NULL));
    ERR(shmctl(id, IPC_RMID, NULL), EINVAL);
}

CASE(shm_removed_lives_until_detached) {
    key_t k = key();
    int id = OK(shmget(k, 4096, IPC_CREAT | 0600));
    char *p = shmat(id, NULL, 0);
    CHECK(p != (void *)-1);
    OK(shmctl(id, IPC_RMID, NULL));
    ERR(shmget(k, 4096, 0600), ENOENT);
    struct shmid_ds ds;
    OK(shmctl(id, IPC_STAT, &ds));
    EQ(ds.shm_perm.mode & SHM_DEST, SHM_DEST);
    EQ(ds.shm_perm.__key, 0);
    EQ(ds.shm_nattch, 1);
    strcpy(p, "x");
    char *q = shmat(id, NULL, 0); // still possible in Linux
    CHECK(q != (void *)-1 && q[0] == 'x');
    OK(shmdt(p));
    OK(shmdt(q));
    ERR(shmctl(id, IPC_STAT, &ds), EINVAL);
}

CASE(shm_addresses) {
    int id = shm_with(8192, 0600);
    ERR((long)shmat(id, (void *)0x12345001, 0), EINVAL);
    ERR((long)shmat(id, NULL, SHM_REMAP), EINVAL);
    char *hole = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ERR((long)shmat(id, hole, 0), EINVAL);
    EQ((long)shmat(id, hole + 100, SHM_RND | SHM_REMAP), (long)hole);
    strcpy(hole, "at");
    OK(shmdt(hole));
    OK(munmap(hole + 8192, 8192));
    EQ((long)shmat(id, hole, 0), (long)hole);
    CHECK(!strcmp(hole, "at"));
    ERR(shmdt(hole + 4096), EINVAL);
    ERR(shmdt(hole + 1), EINVAL);
    OK(munmap(hole, 4096)); // shmdt takes what is left
    OK(shmdt(hole));
    EQ(nattch(id), 0);
    ERR((long)shmat(-1, NULL, 0), EINVAL);
    ERR((long)shmat(id + 1, NULL, 0), EINVAL);
    OK(shmctl(id, IPC_RMID, NULL));
    ERR((long)shmat(id, NULL, 0), EINVAL);
}

CASE(shm_control) {
    int id = shm_with(4000, 0640);
    struct shmid_ds ds;
    OK(shmctl(id, IPC_STAT, &ds));
    EQ(ds.shm_segsz, 4000);
    EQ(ds.shm_perm.mode, 0640);
    EQ(ds.shm_perm.uid, geteuid());
    EQ(ds.shm_cpid, getpid());
    EQ(ds.shm_lpid, 0);
    EQ(ds.shm_atime, 0);
    CHECK(ds.shm_ctime > 1600000000);
    char *p = shmat(id, NULL, 0);
    CHECK(p != (void *)-1);
    OK(shmctl(id, IPC_STAT, &ds));
    EQ(ds.shm_lpid, getpid());
    CHECK(ds.shm_atime > 1600000000 && ds.shm_dtime == 0);
    ds.shm_perm.uid = 65534;
    ds.shm_perm.mode = 07600;
    OK(shmctl(id, IPC_SET, &ds));
    OK(shmctl(id, IPC_STAT, &ds));
    EQ(ds.shm_perm.mode, 0600);
    EQ(ds.shm_perm.uid, 65534);
    AS_NOBODY(OK(shmctl(id, IPC_STAT, &ds)); CHECK(shmat(id, NULL, 0) != (void *)-1));
    OK(shmctl(id, SHM_LOCK, NULL));
    OK(shmctl(id, IPC_STAT, &ds));
    EQ(ds.shm_perm.mode, 0600 | SHM_LOCKED);
    OK(shmctl(id, SHM_UNLOCK, NULL));
    ERR(shmctl(id, IPC_STAT, BAD), EFAULT);
    ERR(shmctl(id, IPC_SET, BAD), EFAULT);
    ERR(shmctl(id, 99, &ds), EINVAL);
    ERR(shmctl(-1, IPC_STAT, &ds), EINVAL);
    OK(shmdt(p));
    OK(shmctl(id, IPC_STAT, &ds));
    CHECK(ds.shm_dtime > 1600000000);
    OK(shmctl(id, IPC_RMID, NULL));
}

CASE(shm_permissions) {
    int id = shm_with(4096, 0604);
    AS_NOBODY(CHECK(shmat(id, NULL, SHM_RDONLY) != (void *)-1); ERR((long)shmat(id, NULL, 0), EACCES);
              struct shmid_ds ds; OK(shmctl(id, IPC_STAT, &ds)); ERR(shmctl(id, IPC_SET, &ds), EPERM); ERR(shmctl(id, IPC_RMID, NULL), EPERM));
    struct shmid_ds ds;
    OK(shmctl(id, IPC_STAT, &ds));
    ds.shm_perm.mode = 0600;
    OK(shmctl(id, IPC_SET, &ds));
    AS_NOBODY(ERR(shmctl(id, IPC_STAT, &ds), EACCES); ERR((long)shmat(id, NULL, SHM_RDONLY), EACCES));
    OK(shmctl(id, IPC_RMID, NULL));
}

CASE(shm_info) {
    int id = shm_with(8192, 0600);
    struct shminfo limits;
    struct shm_info info;
    struct shmid_ds ds;
    int max = OK(shmctl(0, IPC_INFO, (void *)&limits));
    EQ(limits.shmmni, 4096);
    EQ(limits.shmmin, 1);
    EQ(shmctl(0, SHM_INFO, (void *)&info), max);
    CHECK(info.used_ids >= 1 && info.shm_tot >= 2);
    int found = 0;
    for (int i = 0; i <= max; i++) found |= shmctl(i, SHM_STAT, &ds) == id && ds.shm_segsz == 8192;
    CHECK(found);
    char line[64];
    snprintf(line, sizeof line, " %10d   600 %21d", id, 8192);
    CHECK(strstr(slurp("/proc/sysvipc/shm"), line));
    OK(shmctl(id, IPC_RMID, NULL));
}

CASE(shm_exec_and_exit_detach) {
    int id = shm_with(4096, 0600);
    CHECK(shmat(id, NULL, 0) != (void *)-1);
    IN_CHILD(EQ(nattch(id), 2));
    EQ(nattch(id), 1);
    pid_t pid = OK(fork());
    if (!pid) { execl("/bin/true", "true", NULL); _exit(1); }
    EXITS(pid, 0);
    EQ(nattch(id), 1);
    OK(shmctl(id, IPC_RMID, NULL));
}

CASE(shm_is_in_maps) {
    int id = shm_with(4096, 0600);
    char *p = shmat(id, NULL, 0), want[64];
    CHECK(p != (void *)-1);
    snprintf(want, sizeof want, "%lx-%lx rw-s", (long)p, (long)p + 4096);
    char *at = strstr(slurp("/proc/self/maps"), want);
    CHECK(at && strstr(at, "/SYSV00000000 (deleted)"));
    OK(shmctl(id, IPC_RMID, NULL));
}

// Semaphores.

static int sem_with(int n) { return OK(semget(IPC_PRIVATE, n, IPC_CREAT | 0600)); }
static int sem_do(int id, int num, int op, int flags) {
    struct sembuf b = {num, op, flags};
    return semop(id, &b, 1);
}
static int value(int id, int num) { return OK(semctl(id, num, GETVAL)); }

CASE(sem_get) {
    key_t k = key() + 1;
    ERR(semget(k, 1, 0600), ENOENT);
    ERR(semget(k, 0, IPC_CREAT | 0600), EINVAL);
    ERR(semget(k, -1, IPC_CREAT | 0600), EINVAL);
    ERR(semget(k, 32001, IPC_CREAT | 0600), EINVAL);
    int id = OK(semget(k, 3, IPC_CREAT | 0600));
    EQ(semget(k, 3, 0), id);
    EQ(semget(k, 0, 0), id);
    ERR(semget(k, 4, 0), EINVAL);
    ERR(semget(k, 3, IPC_CREAT | IPC_EXCL), EEXIST);
    AS_NOBODY(ERR(semget(k, 3, 0600), EACCES));
    OK(semctl(id, 0, IPC_RMID));
    ERR(semctl(id, 0, IPC_RMID), EINVAL);
}

CASE(sem_values) {
    int id = sem_with(3);
    union semun arg = {.val = 7};
    OK(semctl(id, 1, SETVAL, arg));
    EQ(value(id, 0), 0);
    EQ(value(id, 1), 7);
    EQ(semctl(id, 1, GETPID), getpid());
    EQ(semctl(id, 0, GETPID), 0);
    unsigned short all[3] = {1, 2, 3}, got[3];
    arg.array = all;
    OK(semctl(id, 0, SETALL, arg));
    arg.array = got;
    OK(semctl(id, 0, GETALL, arg));
    CHECK(!memcmp(all, got, sizeof all));
    arg.val = 32768;
    ERR(semctl(id, 0, SETVAL, arg), ERANGE);
    arg.val = -1;
    ERR(semctl(id, 0, SETVAL, arg), ERANGE);
    all[1] = 40000;
    arg.array = all;
    ERR(semctl(id, 0, SETALL, arg), ERANGE);
    EQ(value(id, 0), 1);
    arg.val = 1;
    ERR(semctl(id, 3, SETVAL, arg), EINVAL);
    ERR(semctl(id, -1, GETVAL), EINVAL);
    ERR(semctl(id, 0, 99), EINVAL);
    arg.array = BAD;
    ERR(semctl(id, 0, GETALL, arg), EFAULT);
    ERR(semctl(id, 0, SETALL, arg), EFAULT);
    OK(semctl(id, 0, IPC_RMID));
}

CASE(sem_operations) {
    int id = sem_with(2);
    OK(sem_do(id, 0, 5, 0));
    EQ(value(id, 0), 5);
    OK(sem_do(id, 0, -5, 0));
    OK(sem_do(id, 0, 0, 0));
    ERR(sem_do(id, 0, -1, IPC_NOWAIT), EAGAIN);
    OK(sem_do(id, 0, 1, 0));
    ERR(sem_do(id, 0, 0, IPC_NOWAIT), EAGAIN);
    // All or none.
    struct sembuf two[2] = {{0, -1, IPC_NOWAIT}, {1, -1, IPC_NOWAIT}};
    ERR(semop(id, two, 2), EAGAIN);
    EQ(value(id, 0), 1);
    struct sembuf same[2] = {{1, 2, 0}, {1, -1, IPC_NOWAIT}};
    OK(semop(id, same, 2));
    EQ(value(id, 1), 1);
    OK(semop(id, two, 2));
    EQ(value(id, 0) + value(id, 1), 0);
    OK(sem_do(id, 0, 32767, 0));
    ERR(sem_do(id, 0, 1, 0), ERANGE);
    ERR(sem_do(id, 2, 1, 0), EFBIG);
    ERR(semop(id, two, 0), EINVAL);
    ERR(semop(-1, two, 1), EINVAL);
    ERR(semop(id + 1, two, 1), EINVAL);
    ERR(semop(id, BAD, 1), EFAULT);
    struct sembuf many[501] = {{0, 0, 0}};
    ERR(semop(id, many, 501), E2BIG);
    OK(semctl(id, 0, IPC_RMID));
}

CASE(sem_waits_in_order) {
    int id = sem_with(1);
    pid_t a = OK(fork());
    if (!a) _exit(sem_do(id, 0, -2, 0) != 0);
    while (semctl(id, 0, GETNCNT) != 1) nap_ms(2);
    pid_t b = OK(fork());
    if (!b) _exit(sem_do(id, 0, 0, 0) != 0);
    nap_ms(30);
    EQ(waitpid(b, NULL, 0), b); // it is 0
    OK(sem_do(id, 0, 1, 0));
    b = OK(fork());
    if (!b) _exit(sem_do(id, 0, 0, 0) != 0);
    while (semctl(id, 0, GETZCNT) != 1) nap_ms(2);
    EQ(semctl(id, 0, GETNCNT), 1);
    EQ(waitpid(a, NULL, WNOHANG), 0);
    OK(sem_do(id, 0, 1, 0)); // a takes two, and b sees 0
    EXITS(a, 0);
    EXITS(b, 0);
    EQ(value(id, 0), 0);
    OK(semctl(id, 0, IPC_RMID));
}

CASE(sem_timeouts_and_signals) {
    int id = sem_with(1);
    struct sembuf b = {0, -1, 0};
    struct timespec t = {0, 30000000};
    long long start = mono_ms();
    ERR(semtimedop(id, &b, 1, &t), EAGAIN);
    CHECK(mono_ms() - start >= 25);
    t.tv_nsec = 1000000000;
    ERR(semtimedop(id, &b, 1, &t), EINVAL);
    t = (struct timespec){-1, 0};
    ERR(semtimedop(id, &b, 1, &t), EINVAL);
    ERR(syscall(SYS_semtimedop, id, &b, 1, BAD), EFAULT);
    INTERRUPTED_EVEN_WITH_RESTART(semop(id, &b, 1));
    EQ(semctl(id, 0, GETNCNT), 0);
    OK(semctl(id, 0, IPC_RMID));
}

CASE(sem_removal_wakes) {
    int id = sem_with(1);
    pid_t pid = OK(fork());
    if (!pid) _exit(sem_do(id, 0, -1, 0) == -1 && errno == EIDRM ? 0 : 1);
    while (semctl(id, 0, GETNCNT) != 1) nap_ms(2);
    OK(semctl(id, 0, IPC_RMID));
    EXITS(pid, 0);
}

CASE(sem_undo_at_exit) {
    int id = sem_with(2);
    OK(sem_do(id, 0, 5, 0));
    IN_CHILD(OK(sem_do(id, 0, -3, SEM_UNDO)); OK(sem_do(id, 1, 2, SEM_UNDO)); OK(sem_do(id, 0, -1, 0)); EQ(value(id, 0), 1));
    EQ(value(id, 0), 4);
    EQ(value(id, 1), 0);
    // A killed holder lets go; SETVAL forgets adjustments.
    pid_t pid = OK(fork());
    if (!pid) { OK(sem_do(id, 0, -4, SEM_UNDO)); for (;;) pause(); }
    while (value(id, 0)) nap_ms(2);
    kill(pid, SIGKILL);
    wait_status(pid);
    EQ(value(id, 0), 4);
    pid = OK(fork());
    if (!pid) { OK(sem_do(id, 0, -4, SEM_UNDO)); for (;;) pause(); }
    while (value(id, 0)) nap_ms(2);
    union semun arg = {.val = 9};
    OK(semctl(id, 0, SETVAL, arg));
    kill(pid, SIGKILL);
    wait_status(pid);
    EQ(value(id, 0), 9);
    IN_CHILD(OK(sem_do(id, 0, -1, SEM_UNDO)); IN_CHILD(_exit(0)); EQ(value(id, 0), 8)); // a fork does not inherit them
    EQ(value(id, 0), 9);
    OK(semctl(id, 0, IPC_RMID));
}

static void *undo_thread(void *id) {
    OK(sem_do((long)id, 0, 3, SEM_UNDO));
    return NULL;
}
CASE(sem_undo_is_the_process_s) {
    int id = sem_with(1);
    IN_CHILD(pthread_t t; pthread_create(&t, NULL, undo_thread, (void *)(long)id); pthread_join(t, NULL); EQ(value(id, 0), 3));
    EQ(value(id, 0), 0);
    OK(semctl(id, 0, IPC_RMID));
}

CASE(sem_control) {
    int id = sem_with(4);
    struct semid_ds ds;
    union semun arg = {.buf = &ds};
    OK(semctl(id, 0, IPC_STAT, arg));
    EQ(ds.sem_nsems, 4);
    EQ(ds.sem_perm.mode, 0600);
    EQ(ds.sem_otime, 0);
    OK(sem_do(id, 0, 1, 0));
    OK(semctl(id, 0, IPC_STAT, arg));
    CHECK(ds.sem_otime > 1600000000);
    ds.sem_perm.mode = 0644;
    OK(semctl(id, 0, IPC_SET, arg));
    AS_NOBODY(EQ(value(id, 0), 1); ERR(sem_do(id, 0, 1, 0), EACCES); OK(sem_do(id, 1, 0, 0)); ERR(semctl(id, 0, IPC_RMID), EPERM); ERR(semctl(id, 0, IPC_SET, arg), EPERM));
    struct seminfo info;
    arg.info = &info;
    int max = OK(semctl(0, 0, IPC_INFO, arg));
    EQ(info.semmsl, 32000);
    EQ(info.semopm, 500);
    EQ(info.semvmx, 32767);
    EQ(semctl(0, 0, SEM_INFO, arg), max);
    CHECK(info.semusz >= 1 && info.semaem >= 4);
    int found = 0;
    arg.buf = &ds;
    for (int i = 0; i <= max; i++) found |= semctl(i, 0, SEM_STAT, arg) == id && ds.sem_nsems == 4;
    CHECK(found);
    char line[64];
    snprintf(line, sizeof line, "%10d   644          4", id);
    CHECK(strstr(slurp("/proc/sysvipc/sem"), line));
    OK(semctl(id, 0, IPC_RMID));
}

// Message queues.

struct msg { long type; char text[64]; };
static int queue(void) { return OK(msgget(IPC_PRIVATE, IPC_CREAT | 0600)); }
static void put(int id, long type, const char *text) {
    struct msg m = {type, ""};
    strcpy(m.text, text);
    OK(msgsnd(id, &m, strlen(text), IPC_NOWAIT));
}
static const char *get(int id, long type, int flags) {
    static struct msg m;
    long n = msgrcv(id, &m, sizeof m.text - 1, type, flags | IPC_NOWAIT);
    if (n < 0) return NULL;
    m.text[n] = 0;
    return m.text;
}
#define GETS(id, type, flags, want)                                                                                    \
    do {                                                                                                               \
        const char *abi_got = get(id, type, flags);                                                                    \
        if (!abi_got || strcmp(abi_got, want)) FAILED("got '%s', not '%s' (errno %d)", abi_got ? abi_got : "-", want, errno); \
    } while (0)

CASE(msg_get_and_remove) {
    key_t k = key() + 2;
    ERR(msgget(k, 0600), ENOENT);
    int id = OK(msgget(k, IPC_CREAT | 0600));
    EQ(msgget(k, 0600), id);
    ERR(msgget(k, IPC_CREAT | IPC_EXCL), EEXIST);
    AS_NOBODY(ERR(msgget(k, 0600), EACCES));
    OK(msgctl(id, IPC_RMID, NULL));
    ERR(msgctl(id, IPC_RMID, NULL), EINVAL);
}

CASE(msg_types) {
    int id = queue();
    put(id, 5, "five");
    put(id, 3, "three");
    put(id, 9, "nine");
    put(id, 3, "three again");
    GETS(id, 3, 0, "three");
    GETS(id, -4, 0, "three again");
    CHECK(!get(id, -4, 0) && errno == ENOMSG);
    GETS(id, 5, MSG_EXCEPT, "nine");
    GETS(id, 0, 0, "five");
    CHECK(!get(id, 0, 0) && errno == ENOMSG);
    put(id, 7, "");
    struct msg m;
    EQ(msgrcv(id, &m, 0, 0, 0), 0);
    EQ(m.type, 7);
    OK(msgctl(id, IPC_RMID, NULL));
}

CASE(msg_sizes) {
    int id = queue();
    put(id, 1, "0123456789");
    struct msg m;
    ERR(msgrcv(id, &m, 4, 0, 0), E2BIG);
    EQ(msgrcv(id, &m, 4, 0, MSG_NOERROR), 4);
    CHECK(!memcmp(m.text, "0123", 4));
    ERR(msgrcv(id, &m, 4, 0, IPC_NOWAIT), ENOMSG);
    static struct { long type; char text[9000]; } big = {1, ""};
    ERR(msgsnd(id, &big, 8193, 0), EINVAL);
    ERR(msgsnd(id, &big, -1, 0), EINVAL);
    OK(msgsnd(id, &big, 8192, 0));
    OK(msgsnd(id, &big, 8192, 0));
    ERR(msgsnd(id, &big, 1, IPC_NOWAIT), EAGAIN);
    big.type = 0;
    ERR(msgsnd(id, &big, 1, 0), EINVAL);
    ERR(msgsnd(id, BAD, 1, 0), EFAULT);
    ERR(msgsnd(-1, &m, 1, 0), EINVAL);
    ERR(msgrcv(id, &m, -1, 0, 0), EINVAL);
    ERR(msgrcv(-1, &m, 1, 0, 0), EINVAL);
    ERR(msgrcv(id, BAD, 8192, 0, 0), EFAULT);
    OK(msgctl(id, IPC_RMID, NULL));
    ERR(msgsnd(id, &m, 1, 0), EINVAL);
}

CASE(msg_copy) {
    int id = queue();
    put(id, 4, "first");
    put(id, 5, "second");
    const char *got = get(id, 1, MSG_COPY);
    if (!got && errno == ENOSYS) skip("a kernel without MSG_COPY");
    CHECK(got && !strcmp(got, "second"));
    CHECK(!get(id, 2, MSG_COPY) && errno == ENOMSG);
    GETS(id, 0, MSG_COPY, "first");
    struct msg m;
    ERR(msgrcv(id, &m, 64, 0, MSG_COPY), EINVAL);
    ERR(msgrcv(id, &m, 64, 0, MSG_COPY | IPC_NOWAIT | MSG_EXCEPT), EINVAL);
    GETS(id, 0, 0, "first");
    OK(msgctl(id, IPC_RMID, NULL));
}

CASE(msg_waits) {
    int id = queue();
    struct msg m = {1, "x"};
    INTERRUPTED(msgrcv(id, &m, 64, 0, 0));
    pid_t pid = OK(fork());
    if (!pid) { nap_ms(40); put(id, 2, "late"); _exit(0); }
    EQ(msgrcv(id, &m, 64, 2, 0), 4);
    EXITS(pid, 0);
    struct msqid_ds ds;
    OK(msgctl(id, IPC_STAT, &ds));
    ds.msg_qbytes = 10;
    OK(msgctl(id, IPC_SET, &ds));
    OK(msgsnd(id, &m, 10, 0));
    INTERRUPTED(msgsnd(id, &m, 1, 0));
    pid = OK(fork());
    if (!pid) { nap_ms(40); _exit(get(id, 0, 0) == NULL); }
    OK(msgsnd(id, &m, 1, 0));
    EXITS(pid, 0);
    GETS(id, 0, 0, "l");
    pid = OK(fork());
    if (!pid) _exit(msgrcv(id, &m, 64, 0, 0) == -1 && errno == EIDRM ? 0 : 1);
    nap_ms(40);
    OK(msgctl(id, IPC_RMID, NULL));
    EXITS(pid, 0);
}

CASE(msg_control) {
    int id = queue();
    struct msqid_ds ds;
    OK(msgctl(id, IPC_STAT, &ds));
    EQ(ds.msg_qbytes, 16384);
    EQ(ds.msg_qnum + ds.msg_lspid + ds.msg_lrpid + ds.msg_stime, 0);
    put(id, 1, "abc");
    OK(msgctl(id, IPC_STAT, &ds));
    EQ(ds.msg_qnum, 1);
    EQ(ds.__msg_cbytes, 3);
    EQ(ds.msg_lspid, getpid());
    CHECK(ds.msg_stime > 1600000000 && ds.msg_rtime == 0);
    ds.msg_perm.mode = 0604;
    OK(msgctl(id, IPC_SET, &ds));
    AS_NOBODY(OK(msgctl(id, IPC_STAT, &ds)); EQ(ds.msg_perm.mode, 0604); struct msg m = {1, "x"}; ERR(msgsnd(id, &m, 1, 0), EACCES); ERR(msgctl(id, IPC_SET, &ds), EPERM));
    struct msginfo info;
    int max = OK(msgctl(0, IPC_INFO, (void *)&info));
    EQ(info.msgmax, 8192);
    EQ(info.msgmnb, 16384);
    EQ(msgctl(0, MSG_INFO, (void *)&info), max);
    CHECK(info.msgpool >= 1 && info.msgmap >= 1 && info.msgtql >= 3);
    int found = 0;
    for (int i = 0; i <= max; i++) found |= msgctl(i, MSG_STAT, &ds) == id;
    CHECK(found);
    char line[80];
    snprintf(line, sizeof line, "%10d   604           3          1", id);
    CHECK(strstr(slurp("/proc/sysvipc/msg"), line));
    ERR(msgctl(id, IPC_STAT, BAD), EFAULT);
    ERR(msgctl(id, 99, &ds), EINVAL);
    OK(msgctl(id, IPC_RMID, NULL));
}
