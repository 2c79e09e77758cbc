#!/bin/bash
# Whole programs, for `cargo xtask bench --programs`: rows that say when they begin and end, and wait for an answer, as bench.c's do. Runs in the
# bundle `programs`; /bench is made by xtask. What a row needs is prepared before it begins.
set -u
export LC_ALL=C
cd /tmp

# row NAME COMMAND…: runs it once, by the clock.
row() {
    local name=$1 from to
    shift
    echo "begin $name"
    read -r || exit
    from=${EPOCHREALTIME/./}
    "$@" >/tmp/out 2>&1 || { tail -5 /tmp/out >&2; exit 1; }
    to=${EPOCHREALTIME/./}
    echo "end $name $(((to - from) * 1000)) 1"
    read -r || exit
}

thread_pool() { python3 -c '
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool: assert sum(pool.map(lambda n: sum(range(2000)) * 0 + 1, range(1000))) == 1000'; }
forks() { for ((i = 0; i < 1000; i++)); do /bin/true; done; }
git_status() { git -c safe.directory='*' -C /bench/repo status --short; }
find_usr() { find /usr -name none; }
find_newer() { find /usr -newer /bench/programs.sh; }
tar_small() { tar cf - /bench/small | cat >/dev/null; }
python_start() { for _ in 1 2 3 4 5; do python3 -c pass || return; done; }
gcc_large() { gcc -O2 -c /bench/large.c -o /tmp/large.o; }
make_lua() { make -s -j2 -C /tmp/lua/src -f /bench/lua.mk; }
redis() { redis-benchmark -s /tmp/redis.sock -n 20000 -c 20 -q -t ping,set,get,lpush; }
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups env HOME=/tmp/pg PGHOST=/tmp/pg PGDATABASE=postgres "$@"; }
pgbench_row() { as_postgres "$bin/pgbench" -c 4 -j 2 -t 500 postgres; }
sqlite() { rm -f /tmp/db; sqlite3 /tmp/db <<<"pragma journal_mode=wal; create table t(i integer primary key, s text);
with recursive n(i) as (select 1 union all select i+1 from n where i < 100000) insert into t select i, hex(i * 7919) from n;
create index x on t(s); select count(*) from t where s > '5'; update t set s = s || 'x' where i % 3 = 0; delete from t where i % 5 = 0; vacuum;"; }

prepare_redis() {
    redis-server --port 0 --unixsocket /tmp/redis.sock --dir /tmp --daemonize yes --save '' --logfile /tmp/redis.log >/dev/null
    for _ in $(seq 100); do redis-cli -s /tmp/redis.sock ping 2>/dev/null | grep -q PONG && return; sleep 0.1; done
}
prepare_pgbench() {
    bin=$(echo /usr/lib/postgresql/*/bin)
    mkdir -p /tmp/pg && chown postgres /tmp/pg && cd /tmp/pg
    as_postgres "$bin/initdb" -D /tmp/pg/data --no-sync -A trust
    as_postgres "$bin/pg_ctl" -D /tmp/pg/data -w -l /tmp/pg/log -o "-k /tmp/pg -c listen_addresses= -c fsync=off" start
    as_postgres "$bin/pgbench" -i -q -s 1 postgres
    cd /tmp
}

for name in "$@"; do
    case $name in
    thread-pool) row "$name" thread_pool ;;
    forks-1000) row "$name" forks ;;
    git-status-50k) row "$name" git_status ;;
    find-usr) row "$name" find_usr ;;
    find-usr-newer) row "$name" find_newer ;;
    tar-100MiB) row "$name" tar_small ;;
    python-start-5) row "$name" python_start ;;
    gcc-5000-lines) row "$name" gcc_large ;;
    make-j2-lua) cp -r /bench/lua /tmp/lua; row "$name" make_lua ;;
    redis-benchmark) prepare_redis; row "$name" redis; redis-cli -s /tmp/redis.sock shutdown nosave 2>/dev/null ;;
    pgbench) prepare_pgbench >/tmp/prepare 2>&1 || tail -5 /tmp/prepare >&2
        row "$name" pgbench_row
        as_postgres "$bin/pg_ctl" -D /tmp/pg/data -m immediate stop >/dev/null ;;
    sqlite) row "$name" sqlite ;;
    esac
done
