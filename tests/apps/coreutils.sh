#!/bin/bash
# coreutils' own tests and those of its library, from Debian's source (built beside it the first time), the expensive ones too: as root, and those that want no
# root as nobody. What passes natively must pass in a sandbox, or be in suite-exceptions: what came of each natively is kept beside the source. With arguments
# (`tests/rm/r-1`, `gnulib-tests/test-poll`), only those.
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
    make -j2 -C gnulib-tests check TESTS= >log 2>&1 || { tail log; exit 1; }
    touch built
fi
out=$(mktemp)
trap 'rm -f $out' EXIT
export LC_ALL=C RUN_EXPENSIVE_TESTS=yes VERBOSE=no
# Whatever they mount goes with them.
run() { unshare --mount "$@" </dev/null >"$out" 2>&1 || true; }
results() { grep -rH '^:test-result:' --include='*.trs' tests gnulib-tests | sed -E 's/\.trs::test-result: (\w+).*/ \1/'; }
those() { results | awk -v which="^($1)\$" '$2 ~ which { print $1 }'; }
# The logs, as make calls them, of the tests in a folder among those named.
logs() { sed -nE "s#^($1/.*)#\1.log#; s#^gnulib-tests/##; /\.log\$/p" | paste -sd ' '; }
skipped() { those SKIP | logs tests | xargs -r grep -lE "$1" | paste -sd ' '; }
# Some want a second group.
as_root=(setpriv --groups 0,1 "${make[@]}")
# All of a folder, or those named.
check() {
    local jobs=$1 in=$2 names=${3-}
    [ "$in" = tests ] && in=.
    run "${as_root[@]}" "$jobs" -C "$in" check-TESTS ${names:+TEST_LOGS="$names"}
}
find tests gnulib-tests -name '*.trs' -delete
for folder in tests gnulib-tests; do
    named=$(printf '%s\n' "$@" | logs $folder)
    [ $# -gt 0 ] && [ -z "$named" ] || check -j2 $folder "$named"
done
[ "$(results | wc -l)" -ge $(($# ? $# : 1)) ] || { tail "$out"; exit 1; }
# On a busy machine some have too little time: those once more, one after another. Which may need that is listed (`flaky`).
first=$(those 'FAIL|ERROR')
for folder in tests gnulib-tests; do
    again=$(logs $folder <<<"$first")
    [ -z "$again" ] || check -j1 $folder "$again"
done
twice=$(comm -12 <(sort <<<"$first") <(those PASS | sort))
with_terminal=$(skipped 'requires controlling input terminal')
[ -z "$with_terminal" ] || run script -qec "${as_root[*]} check-TESTS TEST_LOGS='$with_terminal'" /dev/null
as_nobody=$(skipped "must be run as non-root|can't run this test as root")
if [ -n "$as_nobody" ]; then
    chown nobody . tests tests/*/
    run setpriv --reuid nobody --regid nogroup --groups nogroup,users "${make[@]}" -j2 check-TESTS TEST_LOGS="$as_nobody"
    chown root . tests tests/*/
fi
listed() { awk -v places="^($1)\$" '$1 == "coreutils" && $2 ~ places { print $3 }' "$here/suite-exceptions"; }
bad=0
# Something wrong with these, one a line; none, nothing wrong.
wrong() {
    [ -n "$2" ] || return 0
    printf '%s: %s\n%s\n' "$(wc -l <<<"$2")" "$1" "$2"
    bad=1
}
case $place in
    native) known=$(listed any) ;;
    *) known=$(listed "any|sandbox|$place") ;;
esac
[ -z "$twice" ] || echo "$(wc -l <<<"$twice") passed the second time only: $(paste -sd ' ' <<<"$twice")"
wrong 'need a second time and are not listed as flaky' "$(echo -n "$twice" | grep -vxF "$(listed flaky)" || true)"
wrong 'are exceptions and pass' "$(those PASS | grep -xF "$known" || true)"
if [ "$place" = native ]; then
    if [ $# = 0 ]; then
        [ "$(those PASS | wc -l)" -gt 800 ] || { echo "only $(those PASS | wc -l) tests pass"; exit 1; }
        results >"$natives"
    fi
    wrong fail "$(those 'FAIL|ERROR' | grep -vxF "$known" || true)"
    exit $bad
fi
[ -e "$natives" ] || { echo 'what passes natively is not known: run it natively first'; exit 1; }
# Those that pass natively and do not pass here.
[ $# = 0 ] || known+=$'\n'$(awk '{ print $1 }' "$natives" | grep -vxF "$(printf '%s\n' "$@")" || true)
wrong 'pass natively only' "$(grep ' PASS$' "$natives" | grep -vxF "$(results)" | sed 's/ PASS$//' | grep -vxF "$known" || true)"
exit $bad
