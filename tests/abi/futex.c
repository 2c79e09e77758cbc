// futex: wait and wake, timeouts, requeue, bitsets, private and shared, robust lists, and what is built on them.
#include "abi.h"
#include <linux/futex.h>

static long futex(volatile int *w, int op, int val, const void *timeout_or_val2, volatile int *w2, int val3) {
    return syscall(SYS_futex, w, (long)op, (long)val, timeout_or_val2, w2, (long)val3);
}
static volatile int *shared_words(void) {
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}
// Wakes until somebody was there to be woken.
static void wake_one(volatile int *w, int op) {
    for (int i = 0; i < 2000; i++) {
        if (futex(w, op, 1, NULL, NULL, 0) == 1) return;
        usleep(2000);
    }
    FAILED("nobody to wake");
}
static volatile int word, word2, ready;

CASE(wait_value_differs) {
    word = 1;
    ERR(futex(&word, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0), EAGAIN);
    ERR(futex(&word, FUTEX_WAIT, 2, NULL, NULL, 0), EAGAIN);
}

CASE(wait_timeout) {
    struct timespec t = {0, 30000000}, wrong = {0, 1000000000}, neg = {-1, 0};
    long long s = mono_ms();
    ERR(futex(&word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0), ETIMEDOUT);
    CHECK(mono_ms() - s >= 29);
    ERR(futex(&word, FUTEX_WAIT_PRIVATE, 0, &wrong, NULL, 0), EINVAL);
    ERR(futex(&word, FUTEX_WAIT_PRIVATE, 0, &neg, NULL, 0), EINVAL);
}

CASE(wait_absolute_timeouts) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 30000000;
    if (t.tv_nsec >= 1000000000) { t.tv_nsec -= 1000000000; t.tv_sec++; }
    long long s = mono_ms();
    ERR(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
    CHECK(mono_ms() - s >= 28);
    clock_gettime(CLOCK_REALTIME, &t);
    ERR(futex(&word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
}

CASE(errors) {
    ERR(futex(BAD, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0), EFAULT);
    ERR(futex((int *)((char *)&word + 1), FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0), EINVAL);
    ERR(futex((int *)((char *)&word + 1), FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), EINVAL);
    ERR(futex(&word, FUTEX_WAIT_PRIVATE, 0, BAD, NULL, 0), EFAULT);
    ERR(futex(&word, 99, 0, NULL, NULL, 0), ENOSYS);
    ERR(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 0), EINVAL);
    ERR(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 0, NULL, NULL, 0), EINVAL);
    ERR(futex(BAD, FUTEX_WAKE, 1, NULL, NULL, 0), EFAULT);
    EQ(futex(&word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 0);
}

static void *waiter(void *op) {
    ready++;
    return (void *)futex(&word, (int)(long)op, 0, NULL, NULL, FUTEX_BITSET_MATCH_ANY);
}
CASE(wake_thread) {
    pthread_t t;
    void *r;
    pthread_create(&t, NULL, waiter, (void *)FUTEX_WAIT_PRIVATE);
    wake_one(&word, FUTEX_WAKE_PRIVATE);
    pthread_join(t, &r);
    EQ((long)r, 0);
}

CASE(wake_counts) {
    pthread_t t[5];
    for (int i = 0; i < 5; i++) pthread_create(&t[i], NULL, waiter, (void *)FUTEX_WAIT_PRIVATE);
    int woken = 0;
    for (int i = 0; woken < 2 && i < 2000; i++) { woken += OK(futex(&word, FUTEX_WAKE_PRIVATE, 2 - woken, NULL, NULL, 0)); usleep(1000); }
    EQ(woken, 2);
    for (int i = 0; woken < 5 && i < 2000; i++) { woken += OK(futex(&word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0)); usleep(1000); }
    EQ(woken, 5);
    for (int i = 0; i < 5; i++) pthread_join(t[i], NULL);
}

CASE(shared_between_processes) {
    volatile int *w = shared_words();
    pid_t pid = OK(fork());
    if (!pid) _exit(futex(w, FUTEX_WAIT, 0, NULL, NULL, 0) == 0 ? 0 : 1);
    wake_one(w, FUTEX_WAKE);
    EXITS(pid, 0);
}

CASE(shared_by_file_at_another_address) {
    int fd = file_with("f", "");
    OK(ftruncate(fd, 4096));
    volatile int *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    pid_t pid = OK(fork());
    if (!pid) {
        volatile int *v = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        _exit(v != w && futex(v, FUTEX_WAIT, 0, NULL, NULL, 0) == 0 ? 0 : 1);
    }
    wake_one(w, FUTEX_WAKE);
    EXITS(pid, 0);
}

CASE(private_memory_is_not_shared_by_fork) {
    volatile int *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *w = 0;
    pid_t pid = OK(fork());
    if (!pid) {
        struct timespec t = {0, 80000000};
        _exit(futex(w, FUTEX_WAIT, 0, &t, NULL, 0) == -1 && errno == ETIMEDOUT ? 0 : 1);
    }
    for (int i = 0; i < 5; i++) { EQ(futex(w, FUTEX_WAKE, 10, NULL, NULL, 0), 0); nap_ms(10); }
    EXITS(pid, 0);
}

static void *bit_waiter(void *bits) { ready++; return (void *)futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, (int)(long)bits); }
CASE(bitset_selects) {
    pthread_t t;
    void *r;
    pthread_create(&t, NULL, bit_waiter, (void *)4);
    while (!ready) usleep(1000);
    nap_ms(20);
    EQ(futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 3), 0);
    int n = 0;
    for (int i = 0; !n && i < 2000; i++) { n = futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 6); usleep(1000); }
    EQ(n, 1);
    pthread_join(t, &r);
    EQ((long)r, 0);
}

CASE(requeue_moves_waiters) {
    pthread_t t[3];
    for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, waiter, (void *)FUTEX_WAIT_PRIVATE);
    int moved = 0, woken = 0;
    for (int i = 0; woken + moved < 3 && i < 2000; i++) {
        long r = OK(futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, woken ? 0 : 1, (void *)10, &word2, 0));
        if (r && !woken) { woken = 1; r--; }
        moved += r;
        usleep(1000);
    }
    EQ(woken, 1);
    EQ(moved, 2);
    EQ(futex(&word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 0);
    EQ(futex(&word2, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 2);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    ERR(futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1, &word2, 77), EAGAIN);
    ERR(futex(BAD, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1, &word2, 0), EFAULT);
}

CASE(wake_op) {
    pthread_t t;
    pthread_create(&t, NULL, waiter, (void *)FUTEX_WAIT_PRIVATE);
    word2 = 5;
    long n = 0;
    for (int i = 0; !n && i < 2000; i++) { // wakes one on word; word2 += 1; old word2 > 1000 would wake there too
        n = OK(futex(&word, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &word2, FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_GT, 1000)));
        usleep(1000);
    }
    EQ(n, 1);
    CHECK(word2 > 5);
    pthread_join(t, NULL);
}

CASE(clear_child_tid_wakes) {
    static char stack[65536] __attribute__((aligned(16)));
    int fn(void *a) { (void)a; usleep(20000); return 0; }
    static volatile int tid = 1;
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID;
    static int ptid;
    OK(clone(fn, stack + sizeof stack, flags, NULL, &ptid, NULL, &tid));
    while (tid) { int v = tid; if (v) futex(&tid, FUTEX_WAIT, v, NULL, NULL, 0); }
    EQ(tid, 0);
}

static void *lock_and_die(void *m) { pthread_mutex_lock(m); return NULL; }
CASE(robust_mutex_of_dead_thread) {
    pthread_mutexattr_t a;
    pthread_mutex_t m;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&m, &a);
    pthread_t t;
    pthread_create(&t, NULL, lock_and_die, &m);
    pthread_join(t, NULL);
    EQ(pthread_mutex_lock(&m), EOWNERDEAD);
    EQ(pthread_mutex_consistent(&m), 0);
    EQ(pthread_mutex_unlock(&m), 0);
}

CASE(robust_mutex_of_killed_process) {
    pthread_mutexattr_t a;
    pthread_mutex_t *m = (void *)shared_words();
    volatile int *locked = (int *)(m + 1);
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(m, &a);
    pid_t pid = OK(fork());
    if (!pid) { pthread_mutex_lock(m); *locked = 1; for (;;) pause(); }
    while (!*locked) usleep(1000);
    kill(pid, SIGKILL);
    EQ(pthread_mutex_lock(m), EOWNERDEAD);
    DIES(pid, SIGKILL);
}

CASE(robust_list_syscalls) {
    void *head;
    size_t len;
    OK(syscall(SYS_get_robust_list, 0, &head, &len));
    EQ(len, 24);
    ERR(syscall(SYS_set_robust_list, head, 5), EINVAL);
    ERR(syscall(SYS_get_robust_list, 99999999, &head, &len), ESRCH);
    ERR(syscall(SYS_get_robust_list, 0, BAD, &len), EFAULT);
}

CASE(robust_list_loop_is_bounded) {
    pid_t pid = OK(fork());
    if (!pid) {
        static struct robust_list a, b;
        static struct robust_list_head head = {{&a}, 0, NULL};
        a.next = &b;
        b.next = &a;
        syscall(SYS_set_robust_list, &head, sizeof head);
        syscall(SYS_exit_group, 0);
    }
    EXITS(pid, 0);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int counter, turn;
static void *count_up(void *arg) {
    for (int i = 0; i < 2000; i++) { pthread_mutex_lock(&mutex); counter++; pthread_mutex_unlock(&mutex); }
    return arg;
}
CASE(mutex_contention) {
    pthread_t t[6];
    for (int i = 0; i < 6; i++) pthread_create(&t[i], NULL, count_up, NULL);
    for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
    EQ(counter, 12000);
}

static void *take_turns(void *arg) {
    for (int i = 0; i < 500; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != (int)(long)arg) pthread_cond_wait(&cond, &mutex);
        turn = !turn;
        pthread_cond_broadcast(&cond);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}
CASE(condition_variable_ping_pong) {
    pthread_t t;
    pthread_create(&t, NULL, take_turns, (void *)1);
    take_turns((void *)0);
    pthread_join(t, NULL);
    EQ(turn, 0);
}

CASE(process_shared_barrier) {
    pthread_barrier_t *b = (void *)shared_words();
    volatile int *n = (int *)(b + 1);
    pthread_barrierattr_t a;
    pthread_barrierattr_init(&a);
    pthread_barrierattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    EQ(pthread_barrier_init(b, &a, 4), 0);
    pid_t p[3];
    for (int i = 0; i < 3; i++) {
        p[i] = OK(fork());
        if (!p[i]) { __atomic_add_fetch(n, 1, __ATOMIC_SEQ_CST); pthread_barrier_wait(b); _exit(*n == 3 ? 0 : 1); }
    }
    pthread_barrier_wait(b);
    for (int i = 0; i < 3; i++) EXITS(p[i], 0);
}

static void *pi_holder(void *m) { pthread_mutex_lock(m); ready = 1; nap_ms(40); pthread_mutex_unlock(m); return NULL; }
CASE(pi_mutex) {
    pthread_mutexattr_t a;
    pthread_mutex_t m;
    pthread_mutexattr_init(&a);
    EQ(pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT), 0);
    EQ(pthread_mutex_init(&m, &a), 0);
    pthread_t t;
    pthread_create(&t, NULL, pi_holder, &m);
    while (!ready) usleep(1000);
    EQ(pthread_mutex_lock(&m), 0);
    EQ(pthread_mutex_unlock(&m), 0);
    pthread_join(t, NULL);
}

CASE(killed_while_waiting) {
    volatile int *w = shared_words();
    pid_t pid = OK(fork());
    if (!pid) { futex(w, FUTEX_WAIT, 0, NULL, NULL, 0); _exit(0); }
    nap_ms(30);
    OK(kill(pid, SIGKILL));
    DIES(pid, SIGKILL);
    EQ(futex(w, FUTEX_WAKE, 10, NULL, NULL, 0), 0);
}

CASE(futex_waitv) {
    struct { uint64_t val, uaddr; uint32_t flags, reserved; } v[2] = {{0, (uintptr_t)&word, 2 | 128, 0}, {7, (uintptr_t)&word2, 2 | 128, 0}};
    ERR(syscall(449, v, 2L, 0L, NULL, 1L), EAGAIN); // word2 is not 7
    ERR(syscall(449, v, 0L, 0L, NULL, 1L), EINVAL);
    ERR(syscall(449, BAD, 1L, 0L, NULL, 1L), EFAULT);
}
