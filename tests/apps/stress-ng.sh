#!/bin/bash
# stress-ng --verify, one stressor after another, of all there are; $STRESS_SECONDS each (1). Those of suite-exceptions are left out. What ends with 0 natively must do
# so in a sandbox too; "not implemented" and "no resources" (4 and 3) are good where they were natively: the codes are kept beside the sources.
set -u
here=$(dirname "$(readlink -f "$0")")
place=${APPS_PLACE:-native}
codes=$APPS_SOURCES/stress-ng
[ "$place" = native ] && mkdir -p "$codes"
stressors=$(stress-ng --stressors) && [ -n "$stressors" ] || exit 1
[ $# -gt 0 ] && stressors=$*
known=$(awk -v place="$place" '$1 == "stress-ng" && ($2 == "any" || $2 == place || $2 == "sandbox" && place != "native") { print $3 }' "$here/suite-exceptions")
dir=$(mktemp -d)
trap 'rm -rf $dir' EXIT
cd "$dir" || exit 1
failed=0
for name in $stressors; do
    grep -qxF "$name" <<<"$known" && continue
    timeout -k 2 60 stress-ng --"$name" 2 --verify -t "${STRESS_SECONDS:-1}" --temp-path "$dir" >log 2>&1 </dev/null
    code=$?
    if [ "$place" = native ]; then
        echo $code >"$codes/$name"
        good='0 3 4'
    else
        case $(cat "$codes/$name" 2>/dev/null || echo none) in
            3 | 4) good='0 3 4' ;;
            none) good='run natively yet' ;;
            *) good=0 ;;
        esac
    fi
    case " $good " in *" $code "*) ;; *) failed=1 && echo "FAILED $name: $code, not $good: $(grep -E 'fail:|error:|skip' log | head -1)" ;; esac
done
exit $failed
