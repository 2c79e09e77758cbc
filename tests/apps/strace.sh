# strace: from the start, over forks and threads, counting, attached, with a filter in the kernel, injecting faults.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
fail() { echo "FAILED: $1"; shift; tail -20 "$@"; exit 1; }
has() { grep -qE -- "$1" "$2" || fail "no $1 in $2" "$2"; }

strace -o log ls / >out
has '^execve\(".*/ls", \["ls", "/"\]' log
has '^getdents64\(' log
has '^\+\+\+ exited with 0 \+\+\+$' log

strace -f -o log sh -c 'ls / >/dev/null; sleep 0.05 & wait; exit 3' && exit 1 || test $? = 3
has '(clone|fork|vfork)\(' log
has 'exited with 3 \+\+\+$' log
has 'SIGCHLD' log
test "$(grep -c 'execve(' log)" -ge 2

strace -c -o counts ls / >out
has '^100\.00 .*total$' counts

sh -c 'while :; do sleep 0.02; done' &
victim=$!
sleep 0.2
timeout -s INT 1 strace -f -o log -p $victim || true
has '(clone|fork|vfork|wait4)\(' log
kill -0 $victim
kill $victim
wait $victim || true

sleep 0.6 &
sleeper=$!
sleep 0.1
timeout -s INT 0.2 strace -o log -p $sleeper || true
has 'nanosleep|restart_syscall' log
wait $sleeper # its sleep has gone on

strace -f --seccomp-bpf -e trace=mkdir -o log sh -c 'mkdir a; mkdir b' || fail "seccomp-bpf" log
test "$(grep -c 'mkdir(' log)" = 2
test -d a && test -d b

strace -o log -e inject=mkdir:error=EXDEV mkdir c 2>err && exit 1
has 'mkdir\("c", 0777\) += -1 EXDEV .*\(INJECTED\)' log
test ! -e c

strace -k -o log true 2>/dev/null || strace -o log true
has 'exited with 0' log
echo ok
