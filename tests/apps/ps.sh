#!/bin/bash
# What reads /proc and /sys: ps, top, free, uptime, vmstat, pstree, lsof, pgrep, kill by name, lscpu, nproc, mount, df, w.
set -u
export LC_ALL=C TERM=dumb
dir=$(mktemp -d)
failed=0
bad() { echo "FAIL $*"; failed=1; }
sleep 1000 >$dir/held 2>/dev/null &
sleeper=$!
trap 'kill $sleeper 2>/dev/null; rm -rf $dir' EXIT
ps -o pid=,ppid=,stat=,comm= -p $sleeper | grep -qE "^ *$sleeper +$$ +S[^ ]* +sleep$" || bad "ps -o: $(ps -o pid=,ppid=,stat=,comm= -p $sleeper)"
ps -ef | grep -q 'sleep 1000' || bad 'ps -ef'
ps aux | awk 'NR > 1 && $6 > 0 { n++ } END { exit n < 2 }' || bad 'ps aux shows no resident memory'
ps -eLf | grep -q 'sleep 1000' || bad 'ps -eLf'
ps axjf | grep -q 'sleep 1000' || bad 'ps axjf'
top -b -n 1 | grep -q '^MiB Mem' || bad 'top'
top -b -n 1 -p $sleeper | grep -q sleep || bad 'top -p'
free -k | awk '/^Mem:/ { exit !($2 > 0 && $2 >= $3 + 0 && $7 > 0) }' || bad "free: $(free -k)"
uptime | grep -q 'load average' || bad uptime
vmstat 1 2 | tail -1 | awk '{ exit NF < 17 }' || bad vmstat
vmstat -s | grep -q 'total memory' || bad 'vmstat -s'
pstree -p $$ | grep -q "sleep($sleeper)" || bad pstree
pgrep -x sleep | grep -qx $sleeper || bad pgrep
lsof -p $sleeper 2>/dev/null | grep -q "$dir/held" || bad "lsof: $(lsof -p $sleeper 2>&1 | tail -5)"
fuser $dir/held 2>/dev/null | grep -qw $sleeper || bad fuser
[ "$(lscpu | awk '/^CPU\(s\):/ { print $2 }')" = "$(nproc --all)" ] || bad "lscpu: $(lscpu | head -5)"
lscpu -e >/dev/null || bad 'lscpu -e'
[ "$(grep -c ^processor /proc/cpuinfo)" -ge "$(nproc)" ] || bad cpuinfo
mount | grep -q ' on /proc type proc ' || bad mount
df / | tail -1 | grep -q ' /$' || bad df
pwdx $sleeper | grep -q "^$sleeper: /" || bad pwdx
pmap $sleeper | tail -1 | grep -q total || bad pmap
pmap -x $sleeper | tail -1 | grep -q '^total' || bad 'pmap -x'
sysctl -n kernel.ostype | grep -qx Linux || bad sysctl
sysctl -a 2>/dev/null | grep -q '^vm.swappiness' || bad 'sysctl -a'
w -h >/dev/null || bad w
pkill -f 'sleep 1000' || bad pkill
wait $sleeper
[ $? = 143 ] || bad 'the end of the sleeper'
exit $failed
