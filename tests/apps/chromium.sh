#!/bin/bash
# A headless browser: a page changed by its script, a picture of it, a worker and a canvas; without its own sandbox as root, and inside
# its own sandbox (user, pid and network namespaces, seccomp) as an ordinary user.
set -eu
dir=$(mktemp -d)
trap 'rm -rf $dir' EXIT
chmod 755 $dir
cat >$dir/page.html <<'P'
<html><body><h1 id=x>as it was</h1><canvas id=c width=50 height=50></canvas><script>
const worker = new Worker(URL.createObjectURL(new Blob(["onmessage = e => postMessage(e.data * 6)"])));
worker.onmessage = e => { document.getElementById("x").textContent = "answer " + e.data; };
worker.postMessage(7);
const at = document.getElementById("c").getContext("2d");
at.fillStyle = "red"; at.fillRect(0, 0, 50, 50);
document.title = at.getImageData(5, 5, 1, 1).data.join();
</script></body></html>
P
look() {
    chromium --headless=new --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync \
        --virtual-time-budget=2000 "$@" file://$dir/page.html 2>>$dir/log
}
right() {
    grep -q "answer 42" <<<"$1" && grep -q "<title>255,0,0,255</title>" <<<"$1" || { echo "$1"; tail -5 $dir/log; exit 1; }
}
right "$(look --no-sandbox --user-data-dir=$dir/root --dump-dom)"
look --no-sandbox --user-data-dir=$dir/root --window-size=300,200 --screenshot=$dir/page.png >/dev/null
file $dir/page.png | grep -q "PNG image data, 300 x 200"
export -f look
export dir
mkdir -m 777 $dir/user
touch $dir/log && chmod 666 $dir/log
right "$(setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=$dir/user bash -c 'look --user-data-dir=$dir/user/data --dump-dom')"
echo ok
