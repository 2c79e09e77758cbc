#!/bin/bash
# A C library and its programs with autotools: configure, make -j2, make check, make install.
set -eu
dir=$(mktemp -d)
trap 'rm -rf $dir' EXIT
cd $dir
cat >configure.ac <<'C'
AC_INIT([sums], [1.0])
AM_INIT_AUTOMAKE([foreign subdir-objects])
AC_PROG_CC
AC_PROG_RANLIB
AC_CONFIG_HEADERS([config.h])
AC_CHECK_HEADERS([sys/epoll.h sys/mman.h pthread.h])
AC_CHECK_FUNCS([mmap fork epoll_wait memfd_create])
AC_CHECK_SIZEOF([long])
AC_CONFIG_FILES([Makefile])
AC_OUTPUT
C
sources=
for i in $(seq 30); do
    sources="$sources src/f$i.c"
    mkdir -p src
    printf '#include "config.h"\nlong f%d(long n) { long s = 0; for (long i = 0; i <= n; i++) s += i * %d; return s; }\n' $i $i >src/f$i.c
done
cat >Makefile.am <<C
noinst_LIBRARIES = libsums.a
libsums_a_SOURCES =$sources
bin_PROGRAMS = sums
sums_SOURCES = main.c
sums_LDADD = libsums.a
check_PROGRAMS = t1 t2
t1_SOURCES = t1.c
t1_LDADD = libsums.a
t2_SOURCES = t2.c
t2_LDADD = libsums.a
TESTS = t1 t2 t3.sh
EXTRA_DIST = t3.sh
C
printf '#include <stdio.h>\nlong f3(long);\nint main(void) { printf("%%ld\\n", f3(10)); }\n' >main.c
printf 'long f1(long);\nint main(void) { return f1(100) != 5050; }\n' >t1.c
printf 'long f30(long);\nint main(void) { return f30(2) != 90; }\n' >t2.c
printf '#!/bin/sh\n[ "$(./sums)" = 165 ]\n' >t3.sh
chmod +x t3.sh
autoreconf -i >log 2>&1 || { cat log; exit 1; }
./configure --prefix=$dir/inst >log 2>&1 || { tail log; exit 1; }
grep -q 'define HAVE_EPOLL_WAIT 1' config.h
grep -q 'define SIZEOF_LONG 8' config.h
make -j2 >log 2>&1 || { tail log; exit 1; }
make -j2 check >log 2>&1 || { tail -30 log; exit 1; }
grep -q '# PASS:  3' log
make install >log 2>&1
[ "$(inst/bin/sums)" = 165 ]
make distclean >log 2>&1
