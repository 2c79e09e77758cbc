#!/bin/bash
# A PostgreSQL cluster on a unix socket: initdb, start, SQL from several clients, pgbench, a crash and its recovery.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
dir=$(mktemp -d)
chown postgres $dir
run() { setpriv --reuid postgres --regid postgres --clear-groups env HOME=$dir PATH=$bin:$PATH PGHOST=$dir PGDATABASE=postgres "$@"; }
trap 'run pg_ctl -D $dir/data -m immediate stop >/dev/null 2>&1 || true; rm -rf $dir' EXIT
cd $dir
run initdb -D $dir/data --no-sync -A trust >/dev/null
start() { run pg_ctl -D $dir/data -w -l $dir/log -o "-k $dir -c listen_addresses='' -c fsync=off" start >/dev/null || { cat $dir/log; exit 1; }; }
start
run psql -qc "create table t(i int primary key, s text); insert into t select i, repeat('x', i % 100) from generate_series(1, 20000) i; create index on t(s)"
[ "$(run psql -Atc 'select count(*), sum(length(s)) from t')" = '20000|990000' ]
run pgbench -i -q -s 1 postgres >/dev/null 2>&1
run pgbench -c 4 -j 2 -t ${PG_TRANSACTIONS:-100} postgres | grep -q 'number of failed transactions: 0'
[ "$(run psql -Atc 'select sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts')" = t ]
kill -9 $(head -1 $dir/data/postmaster.pid)
for _ in $(seq 100); do run pg_ctl -D $dir/data status >/dev/null || break; sleep 0.1; done
sleep 1
rm -f $dir/data/postmaster.pid
start
[ "$(run psql -Atc 'select count(*) from t')" = 20000 ]
run pg_ctl -D $dir/data -w -m fast stop >/dev/null
