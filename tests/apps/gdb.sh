# gdb: breakpoints, stepping, printing, calling, watching, threads, attaching, core files.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export DEBUGINFOD_URLS=
cat >p.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int counter;
struct point { int x, y; double z; } where = {1, 2, 3.5};
int twice(int n) {
    int r = 2 * n;
    return r;
}
void *work(void *arg) {
    for (int i = 0; i < 3; i++) { counter += twice(i); usleep(1000); }
    return arg;
}
int main(int argc, char **argv) {
    pthread_t t[2];
    if (argc > 1 && argv[1][0] == 'a') { counter = 7; abort(); }
    if (argc > 1 && argv[1][0] == 's') for (;;) { counter++; usleep(1000); }
    for (int i = 0; i < 2; i++) pthread_create(&t[i], NULL, work, NULL);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    printf("counter %d\n", counter);
    return counter == 12 ? 5 : 1;
}
END
gcc -g -O0 -o p p.c -lpthread
run() { gdb -q -batch -nx "$@" >log 2>&1 || { echo "gdb failed"; tail -30 log; exit 1; }; }
has() { grep -qE -- "$1" log || { echo "FAILED: no $1"; tail -40 log; exit 1; }; }

run -ex 'break twice if n == 2' -ex run -ex 'set scheduler-locking on' -ex bt -ex 'print n' -ex 'print where' -ex next -ex 'print r' -ex 'info threads' \
    -ex delete -ex 'print twice(21)' -ex 'set scheduler-locking off' -ex continue ./p
has 'Breakpoint 1, twice \(n=2\)'
has '#1 .* in work'
has '\$1 = 2$'
has '\$2 = \{x = 1, y = 2, z = 3.5\}'
has '\$3 = 4$'
has 'Thread .*\(LWP [0-9]+\)'
has '\$4 = 42$'
has 'exited with code 05'

run -ex 'break main' -ex run -ex step -ex 'next' -ex 'stepi' -ex 'info registers rip' -ex finish -ex kill ./p
has 'Temporary breakpoint|Breakpoint 1, main'
has 'rip +0x'

run -ex 'set can-use-hw-watchpoints 0' -ex 'set args a' -ex 'break main' -ex run -ex 'watch counter' -ex continue -ex 'bt 1' -ex kill ./p
has 'Old value = 0'
has 'New value = 7'

./p s &
victim=$!
sleep 0.3
run -p $victim -ex 'bt' -ex 'print counter > 0' -ex 'set var counter = -1000000' -ex detach
has 'in main'
has '= 1$'
kill -0 $victim
run -p $victim -ex 'print counter < 0' -ex 'break usleep' -ex continue -ex 'bt 2' -ex detach
has '= 1$'
has 'Breakpoint 1'
kill $victim
wait $victim || true

if [ "$(cat /proc/sys/kernel/core_pattern)" = core ]; then
    ulimit -c unlimited
    ./p a || test $? = 134
    test -s core
    run -ex bt -ex 'print counter' -ex 'info registers rip' -ex 'info sharedlibrary' ./p core
    has 'Program terminated with signal SIGABRT'
    has 'in main'
    has '\$1 = 7$'
fi
echo ok
