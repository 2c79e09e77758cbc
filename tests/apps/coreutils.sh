#!/bin/bash
# coreutils' own tests, from Debian's source (built beside it the first time), the expensive ones too: as root, and those that want no root as nobody. What
# passes natively must pass in a sandbox, or be in suite-exceptions: what came of each natively is kept beside the source. With arguments (`tests/rm/r-1`),
# only those.
set -eu
here=$(dirname "$(readlink -f "$0")")
place=${APPS_PLACE:-native}
source=$(echo "$APPS_SOURCES"/coreutils-[0-9]*/)
natives=$APPS_SOURCES/coreutils-natively
cd "$source"
# Programs only: no manuals, no translations.
make=(make -k SUBDIRS=. MANS= INFO_DEPS=)
if [ ! -e built ]; then
    ./configure FORCE_UNSAFE_CONFIGURE=1 CFLAGS=-O1 --disable-nls >log 2>&1 || { tail log; exit 1; }
    "${make[@]}" -j2 >log 2>&1 || { tail log; exit 1; }
    touch built
fi
out=$(mktemp)
trap 'rm -f $out' EXIT
export LC_ALL=C RUN_EXPENSIVE_TESTS=yes VERBOSE=no
# Whatever they mount goes with them.
run() { unshare --mount "$@" </dev/null >"$out" 2>&1 || true; }
results() { grep -rH '^:test-result:' --include='*.trs' tests | sed -E 's/\.trs::test-result: (\w+).*/ \1/'; }
those() { results | awk -v which="^($1)\$" '$2 ~ which { print $1 }'; }
logs() { sed 's/$/.log/' | paste -sd ' '; }
skipped() { those SKIP | logs | xargs -r grep -lE "$1" | paste -sd ' '; }
find tests -name '*.trs' -delete
# Some want a second group.
as_root=(setpriv --groups 0,1 "${make[@]}")
run "${as_root[@]}" -j2 check-TESTS ${1+TEST_LOGS="$(printf '%s\n' "$@" | logs)"}
[ -n "$(results)" ] || { tail "$out"; exit 1; }
# On a busy machine some have too little time: those once more, one after another.
again=$(those 'FAIL|ERROR' | logs)
[ -z "$again" ] || run "${as_root[@]}" check-TESTS TEST_LOGS="$again"
with_terminal=$(skipped 'requires controlling input terminal')
[ -z "$with_terminal" ] || run script -qec "${as_root[*]} check-TESTS TEST_LOGS='$with_terminal'" /dev/null
as_nobody=$(skipped "must be run as non-root|can't run this test as root")
if [ -n "$as_nobody" ]; then
    chown nobody . tests tests/*/
    run setpriv --reuid nobody --regid nogroup --groups nogroup,users "${make[@]}" -j2 check-TESTS TEST_LOGS="$as_nobody"
    chown root . tests tests/*/
fi
known=$(awk -v place="$place" '$1 == "coreutils" && ($2 == "any" || place != "native") { print $3 }' "$here/suite-exceptions")
if [ "$place" = native ]; then
    if [ $# = 0 ]; then
        [ "$(those PASS | wc -l)" -gt 450 ] || { echo "only $(those PASS | wc -l) tests pass"; exit 1; }
        results >"$natives"
    fi
    ! those 'FAIL|ERROR' | grep -vxF "${known:-none}"
    exit
fi
[ -e "$natives" ] || { echo 'what passes natively is not known: run it natively first'; exit 1; }
[ $# = 0 ] || known+=$'\n'$(awk '{ print $1 }' "$natives" | grep -vxF "$(printf '%s\n' "$@")" || true)
# Those that pass natively and do not pass here.
! grep ' PASS$' "$natives" | grep -vxF "$(results)" | sed 's/ PASS$//' | grep -vxF "${known:-none}"
