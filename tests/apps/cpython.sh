#!/bin/bash
# CPython's own regression tests, by name. In a sandbox those that cpython-exceptions lists for it are left out.
set -eu
here=$(dirname "$(readlink -f "$0")")
cd /tmp
case ${APPS_PLACE:-native} in vm | native) place=${APPS_PLACE:-native} ;; *) place=sentry ;; esac
ignore=()
while read -r where test method _; do [ "$where $test" = "$place $1" ] && ignore+=(-i "$method"); done <"$here/cpython-exceptions"
# Its servers are here; but without this none of it runs.
[ "$1" = test_socketserver ] && ignore+=(-u network)
# Debian's package of tests lacks it: with the modules of the source.
[ "$1" = test_sqlite3 ] && PYTHONPATH=$(echo "$APPS_SOURCES"/python3.11-[0-9]*/Lib) && export PYTHONPATH
exec /usr/bin/python3.11 -m test -v "$@" "${ignore[@]}"
