#!/bin/bash
# A MariaDB server on a unix socket: InnoDB tables, transactions, many clients, a crash and its recovery.
set -eu
dir=$(mktemp -d)
server=
trap 'kill -9 $server 2>/dev/null || :; rm -rf $dir' EXIT
chown mysql $dir
mysql_install_db --no-defaults --user=mysql --datadir=$dir/data --auth-root-authentication-method=normal >$dir/install 2>&1
start() {
    mariadbd --no-defaults --user=mysql --datadir=$dir/data --socket=$dir/s --pid-file=$dir/pid --skip-networking >>$dir/log 2>&1 &
    server=$!
    for _ in $(seq 300); do mysqladmin -uroot -S $dir/s ping >/dev/null 2>&1 && return; sleep 0.1; done
    tail $dir/log; exit 1
}
q() { mysql -uroot -S $dir/s -N -e "$1"; }
start
q 'create database t; create table t.a (i int primary key, s varchar(99)) engine=innodb; insert into t.a values (1,"x"),(2,"y")'
q 'use t; begin; update a set s="z" where i=2; commit; begin; delete from a; rollback'
[ "$(q 'select group_concat(s order by i) from t.a')" = x,z ]
mysqlslap -uroot -S $dir/s --concurrency=8 --iterations=1 --auto-generate-sql --auto-generate-sql-load-type=mixed --number-of-queries=2000 | grep -q "Average number of queries per client: 250"
kill -9 $server
wait $server || true
start
[ "$(q 'select group_concat(s order by i) from t.a')" = x,z ]
mysqladmin -uroot -S $dir/s shutdown
wait $server
grep -q "Shutdown complete" $dir/log
echo ok
