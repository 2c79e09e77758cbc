#!/bin/bash
# Sandboxes inside: bubblewrap (what Flatpak is made of) and unshare, as root and as an ordinary user.
set -eu
jail() {
    bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-all --die-with-parent "$@"
}
look='[ $$ = 2 ] && echo hi >/tmp/x && [ $(cat /tmp/x) = hi ] && ! touch /usr/x 2>/dev/null && echo to null >/dev/null && ip -o addr show lo | grep -q 127.0.0.1'
jail sh -c "$look"
export -f jail
user() { setpriv --reuid 1000 --regid 1000 --clear-groups "$@"; }
user bash -c 'jail sh -c "$1" && [ $(jail id -u) = 1000 ] && [ $(jail --uid 0 --hostname inner sh -c "id -u; uname -n" | paste -sd,) = 0,inner ]' - "$look"
[ "$(user unshare -Urpfn --mount-proc sh -c 'id -u; set -- /proc/[0-9]*; echo $#; ip -o link | wc -l' | paste -sd,)" = 0,1,1 ]
echo ok
