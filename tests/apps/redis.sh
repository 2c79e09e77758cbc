#!/bin/bash
# A redis server on a unix socket: commands, benchmark, a snapshot made by fork, append-only file, restart.
set -eu
dir=$(mktemp -d)
trap 'kill $(cat $dir/pid 2>/dev/null) 2>/dev/null || :; rm -rf $dir' EXIT
cd $dir
start() {
    redis-server --port 0 --unixsocket $dir/s --dir $dir --daemonize yes --pidfile $dir/pid --logfile $dir/log --appendonly yes --save "" >/dev/null
    for _ in $(seq 100); do redis-cli -s $dir/s ping 2>/dev/null | grep -q PONG && return; sleep 0.1; done
    cat $dir/log; exit 1
}
c() { redis-cli -s $dir/s "$@"; }
start
[ "$(c set k v)" = OK ] && [ "$(c get k)" = v ]
[ "$(c eval 'return redis.call("incrby", KEYS[1], 41) + 1' 1 n)" = 42 ]
for i in $(seq 1 200); do echo "RPUSH l $i"; done | c >/dev/null
[ "$(c llen l)" = 200 ]
redis-benchmark -s $dir/s -n ${REDIS_REQUESTS:-5000} -c 20 -q -t ping,set,get,incr,lpush,mset
c bgsave >/dev/null
for _ in $(seq 100); do [ "$(c info persistence | tr -d '\r' | grep rdb_bgsave_in_progress)" = rdb_bgsave_in_progress:0 ] && break; sleep 0.1; done
c info persistence | grep -q 'rdb_last_bgsave_status:ok'
[ -s dump.rdb ]
c bgrewriteaof >/dev/null
sleep 0.5
c shutdown save || true
for _ in $(seq 50); do [ -e pid ] || break; sleep 0.1; done
start
[ "$(c llen l)" = 200 ] && [ "$(c get k)" = v ]
c shutdown nosave || true
