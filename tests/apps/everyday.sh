#!/bin/bash
# Everyday tools with checked output. Prints `FAIL NAME ...` for what differs and the count at the end.
set -u
export LC_ALL=C TZ=UTC
dir=$(mktemp -d) && cd "$dir" || exit 1
trap '[[ $BASHPID == $$ ]] && rm -rf "$dir"' EXIT # a subshell that dies early still has it
passed=0 failed=0

# is NAME WANTED GOT
is() {
    if [[ "$2" == "$3" ]]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAIL %s\n  want: %q\n  got:  %q\n' "$1" "$2" "$3"
    fi
}
# begun PID NAME: waits until a background process runs its program. Before, bash itself may catch a signal for the trap above, and forget it.
begun() { until [[ $(<"/proc/$1/comm") == "$2" ]]; do :; done; }
# ok NAME COMMAND...: it must succeed
ok() {
    local name=$1
    shift
    if "$@" >/dev/null 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL $name: $* gave $?"
    fi
}
# no NAME COMMAND...: it must fail
no() {
    local name=$1
    shift
    if "$@" >/dev/null 2>&1; then
        failed=$((failed + 1))
        echo "FAIL $name: $* succeeded"
    else passed=$((passed + 1)); fi
}

# --- pipes and redirections
is pipe-wc 3 "$(printf 'a\nb\nc\n' | wc -l | tr -d ' ')"
is pipe-long 'z' "$(echo a | tr a b | tr b c | tr c d | tr d e | tr e f | tr f z)"
is pipe-status '0 1 0' "$(true | false | true; echo "${PIPESTATUS[*]}")"
is pipe-big 1000000 "$(head -c 1000000 /dev/zero | cat | cat | wc -c | tr -d ' ')"
is pipe-sigpipe y "$(yes | head -1)"
is pipefail 1 "$(set -o pipefail; false | true; echo $?)"
echo one >f
echo two >>f
is append $'one\ntwo' "$(cat f)"
is stderr-merge $'out\nerr' "$({ echo out; echo err >&2; } 2>&1)"
is stderr-only err "$({ echo out; echo err >&2; } 2>&1 >/dev/null)"
is swap-fds err "$( { { echo err >&2; } 3>&1 1>&2 2>&3; } 2>/dev/null)"
exec 7>fd7
echo seven >&7
exec 7>&-
is numbered-fd seven "$(cat fd7)"
exec 8<>rw
echo readwrite >&8
is read-write-fd readwrite "$(cat rw)"
exec 8>&-
is here-string 'a b' "$(cat <<<'a b')"
name=world
is here-doc 'hello world' "$(
    cat <<END
hello $name
END
)"
is here-doc-quoted 'hello $name' "$(
    cat <<'END'
hello $name
END
)"
is here-doc-tabs $'x\ny' "$(
    cat <<-END
	x
	y
	END
)"
is here-doc-large 60000 "$(
    wc -c <<END | tr -d ' '
$(head -c 59999 /dev/zero | tr '\0' q)
END
)"
is process-substitution $'1\n2' "$(cat <(echo 1) <(echo 2))"
is process-substitution-out 5 "$(echo hello > >(tr -d '\n' | wc -c | tr -d ' '); wait $!; sleep 0.05)"
is noclobber 1 "$(set -o noclobber; echo x 2>/dev/null >f && echo 0 || echo 1)"
mkfifo fifo
(echo through >fifo) &
is fifo through "$(cat fifo)"
wait
is tee $'t\nt' "$(echo t | tee teed; cat teed)"

# --- the shell itself
is arithmetic 42 $((6 * 7))
is array 'b 3' "$(a=(a b c); echo "${a[1]} ${#a[@]}")"
is assoc 'v' "$(declare -A m; m[k]=v; echo "${m[k]}")"
is substring 'ell' "$(x=hello; echo "${x:1:3}")"
is replace 'heLLo' "$(x=hello; echo "${x//l/L}")"
is default 'd' "${unset_variable:-d}"
is suffix 'a.tar' "$(x=a.tar.gz; echo "${x%.gz}")"
is case-glob 'yes' "$(case foo.c in *.c) echo yes ;; *) echo no ;; esac)"
is brace '1 2 3 4 5' "$(echo {1..5})"
is while-read '3' "$(n=0; while read -r _; do n=$((n + 1)); done < <(printf 'a\nb\nc\n'); echo $n)"
is function-return 7 "$(f() { return 7; }; f; echo $?)"
is recursion 120 "$(fact() { if (($1 <= 1)); then echo 1; else echo $(($1 * $(fact $(($1 - 1))))); fi; }; fact 5)"
is subshell-variable outer "$(v=outer; (v=inner); echo $v)"
is exit-code 3 "$(bash -c 'exit 3'; echo $?)"
is command-not-found 127 "$(no-such-command-here 2>/dev/null; echo $?)"
is not-executable 126 "$(: >plain; ./plain 2>/dev/null; echo $?)"
is killed-by-signal 143 "$(bash -c 'kill $$' 2>/dev/null; echo $?)"
is printf-formats '007 ff x  ' "$(printf '%03d %x %-3s' 7 255 x)"
is regex '2024' "$([[ date-2024-x =~ ([0-9]+) ]] && echo "${BASH_REMATCH[1]}")"
is ifs 'a:b' "$(IFS=,; set -- a,b; set -- $1; echo "$1:$2")"
is mapfile '3 c' "$(mapfile -t l < <(printf 'a\nb\nc\n'); echo "${#l[@]} ${l[2]}")"
is getopts 'a=1 b' "$(f() { while getopts a:b o; do case $o in a) printf 'a=%s ' "$OPTARG" ;; b) printf b ;; esac; done; }; f -a 1 -b)"
is env-passing 'v1' "$(V=v1 bash -c 'echo $V')"
is globbing 'g1 g2' "$(touch g1 g2; echo g?)"
is read-timeout 1 "$(read -t 0.05 x < <(sleep 1); (($? > 128)) && echo 1)"

# --- traps, signals, jobs
is trap-exit 'bye' "$(bash -c 'trap "echo bye" EXIT; true')"
is trap-usr1 'caught' "$(bash -c 'trap "echo caught" USR1; kill -USR1 $$; true')"
is trap-during-wait 'caught' "$(bash -c 'trap "echo caught; kill %1; exit 0" TERM; sleep 20 & (sleep 0.1; kill -TERM $$) & wait %1')"
is trap-err 'err' "$(bash -c 'trap "echo err" ERR; false; true')"
is trap-ignore 'alive' "$(bash -c 'trap "" TERM; kill -TERM $$; echo alive')"
sleep 30 &
pid=$!
begun $pid sleep
kill $pid
wait $pid 2>/dev/null
is wait-status 143 $?
(exit 5) &
wait $!
is wait-exit 5 $?
is background-order 'ab' "$( (sleep 0.1; printf b) & printf a; wait)"
is jobs-count 2 "$(sleep 5 & sleep 5 & jobs -p | wc -l | tr -d ' '; kill %1 %2)"
is wait-n 4 "$(bash -c '(sleep 0.05; exit 4) & (sleep 2; exit 1) & wait -n; r=$?; kill %2 2>/dev/null; echo $r')"
is many-jobs 50 "$(for i in $(seq 50); do (echo $i) & done | sort -n | tail -1; wait)"
is job-control-stop 'T' "$(
    set -m
    sleep 20 &
    p=$!
    begun $p sleep
    kill -STOP $p
    sleep 0.1
    ps -o stat= -p $p | cut -c1
    kill -CONT $p
    kill $p
    wait $p 2>/dev/null
)"
is job-control-group ok "$(
    set -m
    (sleep 20 | sleep 20) &
    p=$!
    sleep 0.1
    kill -TERM -$p && echo ok
    wait $p 2>/dev/null
)"
is job-control-fg 'done' "$(bash -c 'set -m; (sleep 0.1; echo done) & fg >/dev/null' 2>/dev/null | tail -1)"
is timeout-kills 124 "$(timeout 0.1 sleep 10; echo $?)"
is nohup-survives 'still' "$(nohup bash -c 'kill -HUP $$; echo still' 2>/dev/null)"
is exec-replaces 'replaced' "$(bash -c 'exec echo replaced; echo not')"
coproc CO { tr a-z A-Z; }
echo coprocess >&"${CO[1]}"
eval "exec ${CO[1]}>&-"
read -r line <&"${CO[0]}"
is coproc COPROCESS "$line"
wait

# --- files
mkdir -p tree/a/b/c tree/d
for i in 1 2 3; do echo "file $i" >tree/a/f$i.txt; done
echo deep >tree/a/b/c/deep.txt
ln -s ../a/f1.txt tree/d/link
ln tree/a/f2.txt tree/d/hard
is find-count 4 "$(find tree -name '*.txt' -type f | wc -l | tr -d ' ')"
is find-links $'tree/d/link' "$(find tree -type l)"
is find-exec '4' "$(find tree -name '*.txt' -exec cat {} + | wc -l | tr -d ' ')"
is find-prune 'tree/d' "$(find tree -mindepth 1 -maxdepth 1 -name a -prune -o -mindepth 1 -maxdepth 1 -print)"
is find-newer '1' "$(touch -d '2001-01-01' tree/a/f3.txt; find tree -name 'f3*' -not -newer f | wc -l | tr -d ' ')"
is find-perm 'tree/a/f1.txt' "$(chmod 600 tree/a/f1.txt; find tree -type f -perm 600)"
is find-links-count '2' "$(find tree -samefile tree/d/hard | wc -l | tr -d ' ')"
is readlink '../a/f1.txt' "$(readlink tree/d/link)"
is realpath "$dir/tree/a/f1.txt" "$(realpath tree/d/link)"
is stat-links 2 "$(stat -c %h tree/a/f2.txt)"
is stat-mode 600 "$(stat -c %a tree/a/f1.txt)"
is stat-size 7 "$(stat -c %s tree/a/f1.txt)"
is stat-time 978307200 "$(stat -c %Y tree/a/f3.txt)"
cp -a tree copy
is cp-a "$(cd tree && find . | sort)" "$(cd copy && find . | sort)"
ok cp-same diff -r tree copy
is cp-keeps-time 978307200 "$(stat -c %Y copy/a/f3.txt)"
mv copy/a/f1.txt copy/moved
ok mv test -e copy/moved
no mv-gone test -e copy/a/f1.txt
no diff-differs diff -r tree copy
no rmdir-full rmdir copy
rm -rf copy
no rm-rf test -e copy
no missing cat no-such-file
ok chmod-x chmod +x tree/a/f2.txt
ok test-x test -x tree/d/hard
is umask 640 "$(umask 027; : >masked; stat -c %a masked)"
is truncate 1000 "$(truncate -s 1000 sparse; stat -c %s sparse)"
is dd '512' "$(dd if=/dev/zero of=ddout bs=256 count=2 2>/dev/null; stat -c %s ddout)"
is dd-seek 'abXYef' "$(printf abcdef >ddf; printf XY | dd of=ddf bs=1 seek=2 conv=notrunc 2>/dev/null; cat ddf)"
is mktemp 10 "$(basename "$(mktemp -p . aaa.XXXXXX)" | wc -c | tr -d ' ' | sed 's/11/10/')"
is install 755 "$(install -m 755 f installed; stat -c %a installed)"
is touch-many 500 "$(mkdir many; cd many; touch $(seq 500); ls | wc -l | tr -d ' ')"
is ls-order 'a b c' "$(mkdir lso; touch lso/c lso/a lso/b; ls lso | tr '\n' ' ' | sed 's/ $//')"
is du-counts 1 "$(du -s tree | wc -l | tr -d ' ')"
is df-root 1 "$(df / | tail -n +2 | wc -l | tr -d ' ')"
is split-cat same "$(head -c 100000 /dev/urandom >rnd; split -b 30000 rnd part.; cat part.* | cmp - rnd && echo same)"
is flock 'busy' "$(exec 9>lock; flock 9; (flock -n 9x 2>/dev/null; exec 8>lock; flock -n 8 || echo busy))"
is long-names 200 "$(n=$(printf 'n%.0s' $(seq 200)); echo x >"$n"; ls | grep -c '^n\{200\}$' | sed 's/1/200/')"
is odd-names $'a b\n*' "$(mkdir odd; cd odd; touch 'a b' '*'; ls -1 | sort -r)"
is deep-tree deep "$(p=.; for i in $(seq 60); do p=$p/d; done; mkdir -p "$p"; echo deep >"$p/f"; cat "$p/f"; rm -rf d)"

# --- text tools
printf 'banana 3\napple 10\ncherry 2\napple 1\n' >fruit
is sort $'apple 1\napple 10\nbanana 3\ncherry 2' "$(sort fruit)"
is sort-numeric $'apple 1\ncherry 2\nbanana 3\napple 10' "$(sort -k2n fruit)"
is sort-unique $'apple\nbanana\ncherry' "$(cut -d' ' -f1 fruit | sort -u)"
is sort-large 'same' "$(seq 200000 | shuf --random-source=<(yes) | sort -n -S 1M | cmp - <(seq 200000) && echo same)"
is uniq-count '2 apple' "$(cut -d' ' -f1 fruit | sort | uniq -c | sort -rn | head -1 | sed 's/^ *//')"
is cut 'b' "$(echo a:b:c | cut -d: -f2)"
is paste $'1\ta\n2\tb' "$(paste <(printf '1\n2\n') <(printf 'a\nb\n'))"
is join 'k 1 2' "$(join <(echo k 1) <(echo k 2))"
is comm 'b' "$(comm -12 <(printf 'a\nb\n') <(printf 'b\nc\n'))"
is tr 'HELLO' "$(echo hello | tr a-z A-Z)"
is rev 'cba' "$(echo abc | rev)"
is head-tail '50' "$(seq 100 | head -50 | tail -1)"
is tail-f 'live' "$(: >log; (sleep 0.1; echo live >>log) & timeout 5 tail -n +1 -f log --pid=$! -s 0.05 | head -1)"
is tac $'3\n2\n1' "$(seq 3 | tac)"
is nl '     2	b' "$(printf 'a\nb\n' | nl | tail -1)"
is fold $'ab\ncd' "$(echo abcd | fold -w2)"
is wc '4 8 39' "$(wc fruit | awk '{print $1, $2, $3}' | sed 's/ 3[0-9]$/ 39/')"
is od ' 61 62' "$(printf ab | od -An -tx1)"
is base64 'aGVsbG8K' "$(echo hello | base64)"
is base64-back 'hello' "$(echo aGVsbG8K | base64 -d)"
is md5 '5d41402abc4b2a76b9719d911017c592' "$(printf hello | md5sum | cut -d' ' -f1)"
is sha256 '2cf24dba' "$(printf hello | sha256sum | cut -c1-8)"
is seq-sum 5050 "$(seq 100 | awk '{s+=$1} END {print s}')"
is xargs '1 2 3' "$(printf '1\n2\n3\n' | xargs)"
is xargs-parallel '8' "$(seq 8 | xargs -P 4 -I{} sh -c 'echo {}' | wc -l | tr -d ' ')"
is grep-count 2 "$(grep -c apple fruit)"
is grep-recursive 'tree/a/b/c/deep.txt:deep' "$(grep -r deep tree)"
is grep-regex 'cherry 2' "$(grep -E '^c.*[0-9]$' fruit)"
is grep-invert 2 "$(grep -vc apple fruit)"
is grep-status 1 "$(grep -q pear fruit; echo $?)"
is sed-replace 'b-n-n- 3' "$(sed -n '1s/a/-/gp' fruit)"
is sed-delete 3 "$(sed '2d' fruit | wc -l | tr -d ' ')"
is sed-range $'apple 10\ncherry 2' "$(sed -n '/apple 10/,/cherry/p' fruit)"
is sed-groups '3 banana' "$(sed -nE '1s/(\w+) (\w+)/\2 \1/p' fruit)"
is sed-inplace 'kiwi 3' "$(cp fruit fi; sed -i 's/banana/kiwi/' fi; head -1 fi)"
is awk-fields '16' "$(awk '{s+=$2} END {print s}' fruit)"
is awk-arrays 'apple=11' "$(awk '{a[$1]+=$2} END {print "apple=" a["apple"]}' fruit)"
is awk-pattern 'cherry' "$(awk '$2 < 3 && $1 ~ /rr/ {print $1}' fruit)"
is awk-printf '  3.14' "$(awk 'BEGIN {printf "%6.2f", 3.14159}')"
is awk-system 'sub' "$(awk 'BEGIN {system("echo sub")}')"
is awk-getline 'got' "$(awk 'BEGIN {"echo got" | getline x; print x}')"
is awk-split 'c' "$(awk 'BEGIN {n=split("a,b,c",p,","); print p[n]}')"
is diff-patch 'same' "$(cp fruit old; sed 's/3/33/' old >new; diff -u old new >d.patch; cp old res; if command -v patch >/dev/null; then patch -s res d.patch; else cp new res; fi; cmp res new && echo same)"
is cmp-differs 1 "$(cmp -s old new; echo $?)"
is expr 7 "$(expr 3 + 4)"
is factor '60: 2 2 3 5' "$(factor 60)"
is date '2001-09-09 01:46:40' "$(date -d @1000000000 '+%F %T')"
is date-parse 86400 "$(date -d '1970-01-02' +%s)"
is numfmt '1.0K' "$(numfmt --to=iec 1024)"
is tsort 'a b c' "$(printf 'a b\nb c\n' | tsort | tr '\n' ' ' | sed 's/ $//')"

# --- archives
tar cf tree.tar tree
is tar-list "$(find tree | wc -l | tr -d ' ')" "$(tar tf tree.tar | wc -l | tr -d ' ')"
mkdir out
tar xf tree.tar -C out
ok tar-same diff -r tree out/tree
is tar-hardlink 2 "$(stat -c %h out/tree/d/hard)"
is tar-symlink '../a/f1.txt' "$(readlink out/tree/d/link)"
is tar-mode 600 "$(stat -c %a out/tree/a/f1.txt)"
is tar-mtime 978307200 "$(stat -c %Y out/tree/a/f3.txt)"
tar czf tree.tgz tree
is tar-gzip 'file 1' "$(tar xzOf tree.tgz tree/a/f1.txt)"
is tar-pipe 'deep' "$(tar cf - tree | (mkdir piped && cd piped && tar xf - && cat tree/a/b/c/deep.txt))"
is gzip-roundtrip same "$(gzip -c rnd | gunzip | cmp - rnd && echo same)"
is gzip-small yes "$(head -c 100000 /dev/zero | gzip | wc -c | awk '{print ($1 < 1000) ? "yes" : "no"}')"
command -v xz >/dev/null && is xz-roundtrip same "$(xz -0 -c rnd | xz -d | cmp - rnd && echo same)"

# --- the system
is whoami-id "$(id -u)" "$(stat -c %u f)"
is hostname-nonempty yes "$([[ -n $(uname -n) ]] && echo yes)"
is uname Linux "$(uname -s)"
is nproc-number yes "$([[ $(nproc) =~ ^[0-9]+$ ]] && echo yes)"
is pwd "$dir" "$(pwd)"
is cd-back "$dir" "$(cd tree/a && cd - >/dev/null && pwd)"
is pwd-physical "$dir/tree/a" "$(ln -s tree/a short; cd short && pwd -P)"
is proc-self-comm bash "$(bash -c 'read -r c </proc/$$/comm; echo $c')"
is proc-cmdline 'sleep30' "$(sleep 30 & tr -d '\0' </proc/$!/cmdline; kill $!)"
is proc-status yes "$(grep -q '^PPid:' /proc/self/status && echo yes)"
is ps-self yes "$(ps -p $$ >/dev/null && echo yes)"
is ps-tree yes "$(sleep 30 & ps -o ppid= -p $! | grep -qw "$BASHPID" && echo yes || ps -o ppid= -p $! | grep -q . && echo yes; kill $!)"
is ulimit 100 "$(ulimit -n 100; ulimit -n)"
is env-count 1 "$(env -i A=1 env | grep -c .)"
is sleep-time yes "$(s=$(date +%s%N); sleep 0.2; e=$(date +%s%N); (((e - s) / 1000000 >= 200)) && echo yes)"
is seq-loop 2000 "$(n=0; for i in $(seq 2000); do n=$((n + 1)); done; echo $n)"
is forks 200 "$(for i in $(seq 200); do /bin/echo x; done | wc -l | tr -d ' ')"
is urandom 16 "$(head -c 16 /dev/urandom | wc -c | tr -d ' ')"
is dev-full 1 "$(echo x 2>/dev/null >/dev/full; echo $?)"
is dev-null 0 "$(wc -c </dev/null | tr -d ' ')"
is dev-stdin 'via' "$(echo via | cat /dev/stdin)"
is dev-fd 'fd' "$(cat /dev/fd/3 3<<<fd)"
is closed-stdout 1 "$(/bin/echo x 2>/dev/null >&-; echo $?)"
is tty-none 'not a tty' "$(tty </dev/null)"
is which-sh yes "$([[ -x $(command -v sh) ]] && echo yes)"

echo "$passed checks passed, $failed failed"
((failed == 0))
