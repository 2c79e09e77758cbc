#!/bin/bash
# sqlite3: 100,000 inserts, an index, a transaction rolled back, write-ahead logging, two writers.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
{
    echo 'create table t (id integer primary key, name text, value real); begin;'
    for i in $(seq 100000); do echo "insert into t values ($i, 'name $i', $i.5);"; done
    echo 'commit;'
} | sqlite3 db
[[ $(sqlite3 db 'select count(*), max(id), sum(value) from t') == '100000|100000|5000100000.0' ]]
sqlite3 db 'create index byname on t (name)'
[[ $(sqlite3 db "select id from t where name = 'name 77777'") == 77777 ]]
sqlite3 db 'begin; delete from t; rollback;'
[[ $(sqlite3 db 'select count(*) from t') == 100000 ]]
[[ $(sqlite3 db 'pragma integrity_check') == ok ]]
for i in $(seq 30); do sqlite3 db "insert into t (name) values ('single $i')"; done # a file lock and an fsync each
[[ $(sqlite3 db 'select count(*) from t') == 100030 ]]
[[ $(sqlite3 db 'pragma journal_mode=wal') == wal ]]
write() { for i in $(seq 20); do sqlite3 -cmd '.timeout 20000' db "insert into t (name) values ('$1 $i')"; done; }
write a & write b &
wait
[[ $(sqlite3 db 'select count(*) from t') == 100070 ]]
sqlite3 db .dump | sqlite3 copy
[[ $(sqlite3 copy 'select count(*) from t') == 100070 ]]
sqlite3 db vacuum
echo "sqlite: all passed"
