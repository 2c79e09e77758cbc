#!/bin/bash
# nginx with workers on a unix socket: files, a large one by sendfile, a missing one, reload, graceful end.
set -eu
dir=$(mktemp -d)
trap 'kill $(cat $dir/pid 2>/dev/null) 2>/dev/null || true; sleep 0.2; rm -rf $dir' EXIT
chmod 755 $dir
mkdir $dir/www
echo hello >$dir/www/index.html
head -c 3000000 /dev/urandom >$dir/www/big
cat >$dir/conf <<C
user root;
worker_processes 2;
pid $dir/pid;
error_log $dir/error;
events { worker_connections 64; }
http { access_log $dir/access; sendfile on; client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3; uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
  server { listen unix:$dir/s; root $dir/www; } }
C
nginx -c $dir/conf
get() { curl -s --max-time 20 --unix-socket $dir/s "$@"; }
for _ in $(seq 50); do get http://x/ >/dev/null && break; sleep 0.1; done
[ "$(get http://x/)" = hello ]
[ "$(get http://x/big | sha256sum)" = "$(sha256sum <$dir/www/big)" ]
[ "$(get -r 100-199 http://x/big | wc -c)" = 100 ]
[ "$(get -o /dev/null -w '%{http_code}' http://x/none)" = 404 ]
for i in $(seq 8); do (for j in $(seq 10); do get http://x/; done) >$dir/o$i & done
wait
[ "$(cat $dir/o? | grep -c hello)" = 80 ]
nginx -c $dir/conf -s reload
sleep 0.5
[ "$(get http://x/)" = hello ]
nginx -c $dir/conf -s quit
for _ in $(seq 50); do [ -e $dir/pid ] || break; sleep 0.1; done
[ ! -e $dir/pid ]
