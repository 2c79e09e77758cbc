// futex2: priority inheritance, requeueing to it, futex_waitv and the calls of Linux 6.7; membarrier.
#include "abi.h"
#include <linux/futex.h>
#include <linux/membarrier.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define SYS_futex_wake_ 454
#define SYS_futex_wait_ 455
#define SYS_futex_requeue_ 456
#ifndef FUTEX_LOCK_PI2
#define FUTEX_LOCK_PI2 13
#endif
struct wv { uint64_t val, uaddr; uint32_t flags, reserved; };
static long futex(volatile uint32_t *w, int op, uint32_t val, const void *t, volatile uint32_t *w2, uint32_t val3) {
    return syscall(SYS_futex, w, (long)op, (long)val, t, w2, (long)val3);
}
static volatile uint32_t word, word2, ready;
static struct timespec in_ms(clockid_t c, long ms) {
    struct timespec t;
    clock_gettime(c, &t);
    t.tv_nsec += ms % 1000 * 1000000;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}
static void spawn(pthread_t *t, void *(*run)(void *), void *arg) { if (pthread_create(t, NULL, run, arg)) FAILED("no thread"); }

CASE(pi_lock_free) {
    word = 0;
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    EQ(word, (uint32_t)gettid());
    ERR(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
    ERR(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    EQ(word, 0);
    ERR(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EPERM);
}

CASE(pi_errors) {
    ERR(futex(BAD, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), EFAULT);
    ERR(futex((void *)((char *)&word + 1), FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), EINVAL);
    ERR(futex(BAD, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EFAULT);
    word = 4000000; // nobody
    ERR(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), ESRCH);
    word = 0;
    struct timespec wrong = {0, 1000000000};
    ERR(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, &wrong, NULL, 0), EINVAL);
    ERR(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, BAD, NULL, 0), EFAULT);
    ERR(futex(&word, FUTEX_LOCK_PI_PRIVATE | FUTEX_CLOCK_REALTIME, 0, NULL, NULL, 0), ENOSYS);
    ERR(futex(&word, FUTEX_WAIT_PRIVATE | FUTEX_CLOCK_REALTIME, 1, NULL, NULL, 0), ENOSYS);
}

static void *hold(void *ms) {
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    ready = 1;
    nap_ms((long)ms);
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    return NULL;
}
CASE(pi_handed_over) {
    pthread_t t;
    word = ready = 0;
    spawn(&t, hold, (void *)60);
    while (!ready) usleep(1000);
    ERR(futex(&word, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EAGAIN);
    CHECK(word & FUTEX_WAITERS);
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    EQ(word & FUTEX_TID_MASK, (uint32_t)gettid());
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    EQ(word, 0);
    pthread_join(t, NULL);
}

CASE(pi_timeouts) {
    pthread_t t;
    word = ready = 0;
    spawn(&t, hold, (void *)300);
    while (!ready) usleep(1000);
    struct timespec real = in_ms(CLOCK_REALTIME, 40), mono = in_ms(CLOCK_MONOTONIC, 80);
    ERR(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, &real, NULL, 0), ETIMEDOUT);
    ERR(futex(&word, FUTEX_LOCK_PI2 | FUTEX_PRIVATE_FLAG, 0, &mono, NULL, 0), ETIMEDOUT);
    real = in_ms(CLOCK_REALTIME, 5000);
    OK(futex(&word, FUTEX_LOCK_PI2 | FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME, 0, &real, NULL, 0));
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    pthread_join(t, NULL);
}

CASE(pi_wait_is_restarted_by_signals) {
    pthread_t t;
    word = ready = 0;
    handle(SIGUSR1, 0);
    spawn(&t, hold, (void *)200);
    while (!ready) usleep(1000);
    pid_t poker = poke_forever();
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    CHECK(hits > 0);
    poke_stop(poker);
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    pthread_join(t, NULL);
}

static void *lock_and_end(void *a) { OK(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0)); ready = 1; nap_ms(60); return a; }
CASE(pi_owner_ends) {
    pthread_t t;
    word = ready = 0;
    spawn(&t, lock_and_end, NULL);
    while (!ready) usleep(1000);
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    EQ(word & FUTEX_TID_MASK, (uint32_t)gettid());
    CHECK(word & FUTEX_OWNER_DIED);
    pthread_join(t, NULL);
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
}

static volatile uint32_t a_word, b_word;
static void *other_order(void *r) {
    OK(futex(&b_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    ready = 1;
    *(long *)r = futex(&a_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
    futex(&b_word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0);
    return NULL;
}
CASE(pi_deadlock_is_found) {
    pthread_t t;
    long r = 7;
    OK(futex(&a_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    spawn(&t, other_order, &r);
    while (!ready) usleep(1000);
    nap_ms(50);
    ERR(futex(&b_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
    OK(futex(&a_word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    pthread_join(t, NULL);
    EQ(r, 0);
}

static pthread_mutex_t pi_mutex;
static int counter;
static void *count(void *a) { for (int i = 0; i < 1000; i++) { pthread_mutex_lock(&pi_mutex); counter++; pthread_mutex_unlock(&pi_mutex); } return a; }
CASE(pi_mutex_contention) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    EQ(pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT), 0);
    EQ(pthread_mutex_init(&pi_mutex, &a), 0);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) spawn(&t[i], count, NULL);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    EQ(counter, 4000);
}

CASE(pi_robust_mutex_between_processes) {
    pthread_mutexattr_t a;
    pthread_mutex_t *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    volatile int *locked = (int *)(m + 1);
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    EQ(pthread_mutex_init(m, &a), 0);
    pid_t pid = OK(fork());
    if (!pid) { pthread_mutex_lock(m); *locked = 1; for (;;) pause(); }
    while (!*locked) usleep(1000);
    pid_t killer = OK(fork());
    if (!killer) { nap_ms(60); kill(pid, SIGKILL); _exit(0); }
    EQ(pthread_mutex_lock(m), EOWNERDEAD);
    EQ(pthread_mutex_consistent(m), 0);
    EQ(pthread_mutex_unlock(m), 0);
    DIES(pid, SIGKILL);
    EXITS(killer, 0);
}

CASE(pi_plain_wake_is_refused) {
    pthread_t t;
    word = ready = 0;
    OK(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    spawn(&t, hold, (void *)0);
    nap_ms(60);
    ERR(futex(&word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), EINVAL);
    OK(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    pthread_join(t, NULL);
}

static volatile uint32_t cond, mutex;
static void *cond_waiter(void *r) {
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    *(long *)r = futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, NULL, &mutex, 0);
    if (*(long *)r == 0) {
        if ((mutex & FUTEX_TID_MASK) != (uint32_t)gettid()) *(long *)r = -99;
        OK(futex(&mutex, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    }
    return NULL;
}
CASE(requeue_pi) {
    pthread_t t[3];
    long r[3] = {9, 9, 9};
    OK(futex(&mutex, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    for (int i = 0; i < 3; i++) spawn(&t[i], cond_waiter, &r[i]);
    int moved = 0;
    for (int i = 0; moved < 3 && i < 2000; i++) { moved += OK(futex(&cond, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)(long)INT_MAX, &mutex, 0)); usleep(1000); }
    EQ(moved, 3);
    OK(futex(&mutex, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    for (int i = 0; i < 3; i++) { pthread_join(t[i], NULL); EQ(r[i], 0); }
    EQ(mutex & FUTEX_TID_MASK, 0);
}
CASE(requeue_pi_of_a_free_mutex) {
    pthread_t t;
    long r = 9;
    spawn(&t, cond_waiter, &r);
    for (int i = 0; i < 2000 && !OK(futex(&cond, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, (void *)0, &mutex, 0)); i++) usleep(1000);
    pthread_join(t, NULL);
    EQ(r, 0);
}
CASE(requeue_pi_errors) {
    ERR(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 1, NULL, &mutex, 0), EAGAIN);
    ERR(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, NULL, &cond, 0), EINVAL);
    ERR(futex(&cond, FUTEX_CMP_REQUEUE_PI_PRIVATE, 2, NULL, &mutex, 0), EINVAL);
    ERR(futex(&cond, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, NULL, &mutex, 5), EAGAIN);
    ERR(futex(&cond, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, NULL, &cond, 0), EINVAL);
    struct timespec t = in_ms(CLOCK_MONOTONIC, 30);
    ERR(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, &t, &mutex, 0), ETIMEDOUT);
}

static void *wait_two(void *r) {
    struct wv v[2] = {{0, (uintptr_t)&word, FUTEX_32 | FUTEX_PRIVATE_FLAG, 0}, {0, (uintptr_t)&word2, FUTEX_32 | FUTEX_PRIVATE_FLAG, 0}};
    ready = 1;
    *(long *)r = syscall(SYS_futex_waitv, v, 2L, 0L, NULL, 0L);
    return NULL;
}
CASE(waitv_wakes_by_either) {
    volatile uint32_t *words[2] = {&word, &word2};
    for (int i = 0; i < 2; i++) {
        pthread_t t;
        long r = 9;
        spawn(&t, wait_two, &r);
        for (int n = 0; n < 2000 && !OK(futex(words[i], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0)); n++) usleep(1000);
        pthread_join(t, NULL);
        EQ(r, i);
    }
    EQ(futex(&word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 0);
}
CASE(waitv_errors) {
    struct wv v[2] = {{0, (uintptr_t)&word, FUTEX_32, 0}, {0, (uintptr_t)&word2, FUTEX_32, 0}};
    struct timespec t = in_ms(CLOCK_MONOTONIC, 30), wrong = {-1, 0};
    ERR(syscall(SYS_futex_waitv, v, 2L, 1L, NULL, 0L), EINVAL);
    ERR(syscall(SYS_futex_waitv, v, 129L, 0L, NULL, 0L), EINVAL);
    ERR(syscall(SYS_futex_waitv, NULL, 1L, 0L, NULL, 0L), EINVAL);
    ERR(syscall(SYS_futex_waitv, v, 2L, 0L, &t, 9L), EINVAL);
    ERR(syscall(SYS_futex_waitv, v, 2L, 0L, &wrong, (long)CLOCK_MONOTONIC), EINVAL);
    ERR(syscall(SYS_futex_waitv, v, 2L, 0L, BAD, (long)CLOCK_MONOTONIC), EFAULT);
    ERR(syscall(SYS_futex_waitv, v, 2L, 0L, &t, (long)CLOCK_MONOTONIC), ETIMEDOUT);
    v[1].reserved = 1;
    ERR(syscall(SYS_futex_waitv, v, 2L, 0L, NULL, 0L), EINVAL);
    v[1].reserved = 0, v[1].flags = 0;
    ERR(syscall(SYS_futex_waitv, v, 2L, 0L, NULL, 0L), EINVAL);
    v[1].flags = FUTEX_32, v[1].uaddr = 2;
    ERR(syscall(SYS_futex_waitv, v, 2L, 0L, NULL, 0L), EINVAL);
    v[1].uaddr = (uintptr_t)BAD;
    ERR(syscall(SYS_futex_waitv, v, 2L, 0L, NULL, 0L), EFAULT);
    v[1].uaddr = (uintptr_t)&word2;
    INTERRUPTED(syscall(SYS_futex_waitv, v, 2L, 0L, NULL, 0L));
}

static void *new_waiter(void *r) {
    ready = 1;
    *(long *)r = syscall(SYS_futex_wait_, &word, 0L, 6L, (long)(FUTEX_32 | FUTEX_PRIVATE_FLAG), NULL, 0L);
    return NULL;
}
CASE(new_wake_and_wait) {
    needs(6, 7);
    pthread_t t;
    long r = 9;
    spawn(&t, new_waiter, &r);
    while (!ready) usleep(1000);
    nap_ms(30);
    EQ(syscall(SYS_futex_wake_, &word, 1L, 1L, (long)(FUTEX_32 | FUTEX_PRIVATE_FLAG)), 0); // other bits
    EQ(syscall(SYS_futex_wake_, &word, 6L, 0L, (long)(FUTEX_32 | FUTEX_PRIVATE_FLAG)), 0); // nobody is asked for
    for (int i = 0; i < 2000 && !OK(syscall(SYS_futex_wake_, &word, 4L, 1L, (long)(FUTEX_32 | FUTEX_PRIVATE_FLAG))); i++) usleep(1000);
    pthread_join(t, NULL);
    EQ(r, 0);
    ERR(syscall(SYS_futex_wake_, &word, 0L, 1L, (long)FUTEX_32), EINVAL);
    ERR(syscall(SYS_futex_wake_, &word, 1L, 1L, 0x1000L), EINVAL);
    ERR(syscall(SYS_futex_wait_, &word, 1L, 1L, (long)FUTEX_32, NULL, 0L), EAGAIN);
    ERR(syscall(SYS_futex_wait_, &word, 0L, 0L, (long)FUTEX_32, NULL, 0L), EINVAL);
    ERR(syscall(SYS_futex_wait_, &word, 1L << 32, 1L, (long)FUTEX_32, NULL, 0L), EINVAL);
    struct timespec ts = in_ms(CLOCK_REALTIME, 20);
    ERR(syscall(SYS_futex_wait_, &word, 0L, 1L, (long)FUTEX_32, &ts, (long)CLOCK_REALTIME), ETIMEDOUT);
}
CASE(new_requeue) {
    needs(6, 7);
    pthread_t t;
    long r = 9;
    struct wv v[2] = {{0, (uintptr_t)&word, FUTEX_32 | FUTEX_PRIVATE_FLAG, 0}, {0, (uintptr_t)&word2, FUTEX_32 | FUTEX_PRIVATE_FLAG, 0}};
    spawn(&t, new_waiter, &r);
    int moved = 0;
    for (int i = 0; !moved && i < 2000; i++) { moved = OK(syscall(SYS_futex_requeue_, v, 0L, 0L, 1L)); usleep(1000); }
    EQ(moved, 1);
    EQ(futex(&word2, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 1);
    pthread_join(t, NULL);
    EQ(r, 0);
    ERR(syscall(SYS_futex_requeue_, v, 1L, 0L, 1L), EINVAL);
    ERR(syscall(SYS_futex_requeue_, NULL, 0L, 0L, 1L), EINVAL);
    v[0].val = 5;
    ERR(syscall(SYS_futex_requeue_, v, 0L, 0L, 1L), EAGAIN);
}

static long membarrier_(int cmd, unsigned flags) { return syscall(SYS_membarrier, cmd, flags, 0); }
static void *spin(void *a) { while (!ready) {} return a; }
CASE(membarrier_rules) {
    long all = OK(membarrier_(MEMBARRIER_CMD_QUERY, 0));
    CHECK(all & MEMBARRIER_CMD_GLOBAL);
    CHECK(all & MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    ERR(membarrier_(MEMBARRIER_CMD_QUERY, 1), EINVAL);
    ERR(membarrier_(1 << 30, 0), EINVAL);
    ERR(membarrier_(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0), EPERM);
    ERR(membarrier_(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0), EPERM);
    OK(membarrier_(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0));
    OK(membarrier_(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0));
    OK(membarrier_(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0));
    OK(membarrier_(MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0));
    OK(membarrier_(MEMBARRIER_CMD_GLOBAL, 0));
    IN_CHILD(OK(membarrier_(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0))); // a child of a registered process is
}
CASE(membarrier_reaches_running_threads) {
    pthread_t t;
    OK(membarrier_(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0));
    spawn(&t, spin, NULL);
    for (int i = 0; i < 200; i++) OK(membarrier_(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0));
    ready = 1;
    pthread_join(t, NULL);
}
