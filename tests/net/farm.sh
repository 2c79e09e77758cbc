#!/bin/bash
# Servers that people run, and their own clients, over IPv4 and IPv6, in a sandbox or on a host:
#   farm.sh serve FOLDER PORT      nine servers on all addresses, from PORT on; says `ready`
#   farm.sh check ADDRESS PORT FOLDER [datagrams]   says `ok NAME` or `FAIL NAME: why` for each; DNS only so, if it is said
# In FOLDER: `web`, the program of web.go, and `key`, with which ssh lets one in; the rest is made here.
set -u
export LC_ALL=C
bin=$(echo /usr/lib/postgresql/*/bin)

serve() { # FOLDER PORT
    local keys=$1 port=$2 dir die="setpriv --pdeathsig KILL"
    dir=$(mktemp -d /tmp/farm.XXXXXX)
    trap 'rm -rf "$dir"' EXIT
    trap exit TERM INT
    chmod 755 "$dir"
    mkdir -p "$dir/www" "$dir/pg" /run/sshd
    cd "$dir" || exit
    seq 200000 >www/numbers
    printf 'daemon off; pid nginx.pid; error_log stderr; worker_processes 1; events {}\nhttp { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s; server { listen %s; listen [::]:%s ipv6only=on; root %s/www; } }\n' "$port" "$port" "$dir" >nginx.conf
    $die nginx -p "$dir" -c "$dir/nginx.conf" 2>/dev/null &
    $die redis-server --port $((port + 1)) --bind 0.0.0.0 :: --protected-mode no --save '' --dir "$dir" >/dev/null &
    chown postgres pg
    # Its own user, as it insists on one.
    local postgres="setpriv --reuid postgres --regid postgres --clear-groups --pdeathsig KILL env HOME=$dir/pg"
    (cd pg && $postgres "$bin/initdb" -D "$dir/pg/data" --no-sync -A trust >/dev/null 2>&1)
    printf 'host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n' >>pg/data/pg_hba.conf
    (cd pg && exec $postgres "$bin/postgres" -D "$dir/pg/data" -k "$dir/pg" -p $((port + 2)) -c listen_addresses='*' -c fsync=off >/dev/null 2>&1) &
    $die memcached -u nobody -p $((port + 3)) -U 0 &
    $die dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --port=$((port + 4)) \
        --address=/web.nacre.test/192.0.2.1 --txt-record=txt.nacre.test,hello >/dev/null 2>&1 &
    cp "$keys/key" host
    chmod 600 host
    ssh-keygen -y -f host >keys
    chmod 600 keys
    printf 'HostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n' "$dir/host" "$dir/keys" >sshd
    $die /usr/sbin/sshd -D -e -f "$dir/sshd" -p $((port + 5)) 2>/dev/null &
    $die python3 -m http.server --bind :: --directory www $((port + 6)) >/dev/null 2>&1 &
    $die node -e "const fs = require('fs'); require('http').createServer((q, a) => fs.createReadStream('www' + q.url).pipe(a)).listen($((port + 7)), '::')" &
    $die "$keys/web" $((port + 8)) www &
    local at
    for at in $(seq 0 8); do
        for _ in $(seq 1200); do
            (exec 9<>/dev/tcp/127.0.0.1/$((port + at))) 2>/dev/null && break
            sleep 0.1
        done
    done
    echo ready
    wait
}

one() { # NAME COMMAND
    local name=$1 out
    shift
    if out=$(timeout 100 bash -c "$*" 2>&1); then echo "ok $name"; else echo "FAIL $name: $(echo "$out" | tail -2 | tr '\n' ' ' | cut -c1-200)"; fi
}

check() { # ADDRESS PORT FOLDER DNS
    local address=$1 port=$2 url=$1 keys=$3
    case $address in *:*) url="[$address]" ;; esac
    local sum
    sum=$(seq 200000 | sha256sum)
    web() { one "$1" "[ \"\$(curl -sf http://$url:$2/numbers | sha256sum)\" = '$sum' ]"; }
    web nginx "$port"
    one redis "[ \"\$(redis-cli -h $address -p $((port + 1)) set key-$$ value)\" = OK ] && [ \"\$(redis-cli -h $address -p $((port + 1)) get key-$$)\" = value ]"
    one postgresql "[ \"\$(psql -h $address -p $((port + 2)) -U postgres -Atc 'select sum(n) from generate_series(1, 1000) n')\" = 500500 ]"
    one memcached "exec 9<>/dev/tcp/$address/$((port + 3)) && printf 'set key 0 0 5\r\nhello\r\nget key\r\nquit\r\n' >&9 && grep -q hello <&9"
    local tcp="&& dig +time=10 +tcp -p $((port + 4)) @$address txt.nacre.test TXT +short | grep -q hello"
    [ "$4" = datagrams ] && tcp=
    one dnsmasq "[ \"\$(dig +time=10 -p $((port + 4)) @$address web.nacre.test A +short)\" = 192.0.2.1 ] $tcp"
    one sshd "[ \"\$(ssh -F none -i $keys/key -p $((port + 5)) -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@$address 'echo \$((6 * 7))')\" = 42 ]"
    web python $((port + 6))
    web node $((port + 7))
    web go $((port + 8))
}

case $1 in
serve) serve "$2" "$3" ;;
check) check "$2" "$3" "$4" "${5-}" ;;
esac
