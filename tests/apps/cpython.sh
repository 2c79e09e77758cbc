#!/bin/bash
# CPython's own regression tests, by name. In a sandbox those of cpython-exceptions are left out (TEST METHOD REASON).
set -eu
here=$(dirname "$(readlink -f "$0")")
cd /tmp
ignore=()
if [ "${APPS_PLACE:-}" != native ]; then
    while read -r test method _; do [ "$test" = "$1" ] && ignore+=(-i "$method"); done < <(grep -v '^#' "$here/cpython-exceptions")
fi
# Its servers are here; but without this none of it runs.
[ "$1" = test_socketserver ] && ignore+=(-u network)
exec /usr/bin/python3.11 -m test -v "$@" "${ignore[@]}"
