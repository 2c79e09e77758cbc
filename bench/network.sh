#!/bin/bash
# Servers and their clients on a sandbox's own loopback interface, for `cargo xtask bench --net`: rows that say when they begin and end, and wait for
# an answer, as bench.c's do. Each row counts requests. Runs in the bundle `network`.
set -u
export LC_ALL=C
cd /tmp

# row NAME COMMAND…: runs it once; the command leaves how many requests it made in $requests.
row() {
    local name=$1 from to
    shift
    echo "begin $name"
    read -r || exit
    from=${EPOCHREALTIME/./}
    "$@" || { tail -5 /tmp/out >&2; exit 1; }
    to=${EPOCHREALTIME/./}
    echo "end $name $(((to - from) * 1000 / requests)) $requests"
    read -r || exit
}

redis() { # REQUESTS PIPELINE TEST
    requests=$1
    redis-benchmark -h 127.0.0.1 -p 6380 -n "$1" -c 20 -P "$2" -q -t "$3" >/tmp/out 2>&1
}
wrk_row() { # FILE
    wrk -t 1 -c 8 -d 3s "http://127.0.0.1:8088/$1" >/tmp/out 2>&1 || return
    requests=$(awk '/requests in/ { print $1 }' /tmp/out)
    [ "${requests:-0}" -gt 0 ]
}
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups env HOME=/tmp/pg PGHOST=127.0.0.1 PGPORT=5433 PGDATABASE=postgres "$@"; }
pgbench_row() {
    requests=2000
    as_postgres "$bin/pgbench" -c 4 -j 2 -t 500 postgres >/tmp/out 2>&1
}

start_redis() {
    redis-server --port 6380 --bind 127.0.0.1 --dir /tmp --daemonize yes --save '' --logfile /tmp/redis.log >/dev/null
    for _ in $(seq 100); do redis-cli -p 6380 ping 2>/dev/null | grep -q PONG && return; sleep 0.1; done
}
start_nginx() {
    mkdir -p /tmp/www
    echo small >/tmp/www/small
    head -c 1048576 /dev/zero >/tmp/www/large
    cat >/tmp/nginx.conf <<C
worker_processes 1;
pid /tmp/nginx.pid;
error_log /tmp/nginx.log;
events { worker_connections 256; }
http { access_log off; keepalive_requests 10000000; server { listen 127.0.0.1:8088; root /tmp/www; } }
C
    nginx -c /tmp/nginx.conf
    for _ in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/8088) 2>/dev/null && return; sleep 0.1; done
}
start_postgres() {
    bin=$(echo /usr/lib/postgresql/*/bin)
    mkdir -p /tmp/pg && chown postgres /tmp/pg && cd /tmp/pg
    as_postgres "$bin/initdb" -D /tmp/pg/data --no-sync -A trust
    as_postgres "$bin/pg_ctl" -D /tmp/pg/data -w -l /tmp/pg/log -o "-k /tmp/pg -p 5433 -c listen_addresses=127.0.0.1 -c fsync=off" start
    as_postgres "$bin/pgbench" -i -q -s 1 postgres
    cd /tmp
}

for name in "$@"; do
    case $name in
    redis-set | redis-get | redis-set-16 | redis-get-16)
        start_redis
        test=${name#redis-}
        case $test in *-16) row "$name" redis 100000 16 "${test%-16}" ;; *) row "$name" redis 20000 1 "$test" ;; esac
        redis-cli -p 6380 shutdown nosave 2>/dev/null ;;
    wrk-small | wrk-1MiB)
        start_nginx
        [ $name = wrk-small ] && row "$name" wrk_row small || row "$name" wrk_row large
        nginx -c /tmp/nginx.conf -s stop ;;
    pgbench-tcp)
        start_postgres >/tmp/prepare 2>&1 || tail -5 /tmp/prepare >&2
        row "$name" pgbench_row
        as_postgres "$bin/pg_ctl" -D /tmp/pg/data -m immediate stop >/dev/null ;;
    esac
done
