#!/bin/bash
# gcc: compile and run a program of several files, static and dynamic, with threads, and one that fails to compile.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >main.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
int square(int);
static void *work(void *a) { *(int *)a = square(*(int *)a); return a; }
int main(int argc, char **argv) {
    int v[8], sum = 0;
    pthread_t t[8];
    for (int i = 0; i < 8; i++) { v[i] = i; pthread_create(&t[i], 0, work, &v[i]); }
    for (int i = 0; i < 8; i++) { pthread_join(t[i], 0); sum += v[i]; }
    printf("%d %s\n", sum, argc > 1 ? argv[1] : "none");
    return sum == 140 ? 0 : 1;
}
END
echo 'int square(int x) { return x * x; }' >square.c
gcc -O2 -c main.c
gcc -O2 -c square.c
gcc -pthread main.o square.o -o dynamic
[[ $(./dynamic arg) == '140 arg' ]]
gcc -pthread -static main.c square.c -o static
[[ $(./static) == '140 none' ]]
gcc -shared -fPIC square.c -o libsquare.so
gcc -pthread main.c -L. -lsquare -Wl,-rpath,"$dir" -o shared
[[ $(./shared x) == '140 x' ]]
ar rcs libs.a square.o
gcc -pthread main.c libs.a -o archive
./archive >/dev/null
echo 'int main(void) { return no_such; }' >bad.c
if gcc bad.c 2>errors; then exit 1; fi
grep -q no_such errors
echo '#include <unistd.h>
int main(void) { volatile int *p = 0; return *p; }' >crash.c
gcc crash.c -o crash
set +e
{ (ulimit -c 0; ./crash); } 2>/dev/null
[[ $? == 139 ]] || exit 1
echo "gcc: all passed"
