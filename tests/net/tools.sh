#!/bin/bash
# What people look at a network with, and what they use it for, in a sandbox on a pod's network with the servers of servers.sh:
# `tools.sh FOLDER HOST_V4 HOST_V6 OWN_V4`. Says `ok NAME`, or `FAIL NAME: why`.
dir=$1 v4=$2 v6=$3 own=$4
check() { # NAME COMMAND
    local name=$1 out
    shift
    if out=$(timeout 60 bash -c "$*" 2>&1); then echo "ok $name"; else echo "FAIL $name: $(echo "$out" | tail -2 | tr '\n' ' ' | cut -c1-200)"; fi
}
options="-F none -i $dir/key -o Port=2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
ssh="ssh $options"

check curl "curl -sf http://$v4:8081/million | sha256sum | cmp - $dir/www/sum"
check curl_v6 "curl -sf 'http://[$v6]:8081/million' | sha256sum | cmp - $dir/www/sum"
check dig "dig +time=5 @$v4 web.nacre.test A +short | grep -qx $v4"
check dig_v6_record "dig +time=5 @$v4 web.nacre.test AAAA +short | grep -qx $v6"
check dig_by_tcp "dig +time=5 +tcp @$v4 txt.nacre.test TXT +short | grep -q hello"
check ssh "[ \"\$($ssh root@$v4 'echo \$((6*7))')\" = 42 ]"
check ssh_much "$ssh root@$v4 'cat $dir/www/million' | sha256sum | cmp - $dir/www/sum"
check scp "scp -O -q $options root@$v4:$dir/www/million /tmp/million && sha256sum </tmp/million | cmp - $dir/www/sum"
check ping "ping -c 2 -W 5 $v4"
check ping_nobody "! ping -c 1 -W 2 ${v4%.*}.250"
check arping "arping -c 2 -w 5 -I eth0 $v4"
check tcpdump "tcpdump -n -c 2 -i eth0 icmp >/tmp/dump 2>&1 & sleep 2; ping -c 2 $v4 >/dev/null; wait; grep -q 'ICMP echo reply' /tmp/dump || { cat /tmp/dump; false; }"
check tcpdump_lo "tcpdump -n -c 1 -i lo udp port 4242 >/tmp/dump 2>&1 & sleep 2; for i in 1 2 3; do echo x >/dev/udp/127.0.0.1/4242; sleep 1; done; wait; grep -q 4242 /tmp/dump || { cat /tmp/dump; false; }"
check ss "exec 9<>/dev/tcp/$v4/8081; ss -Htn state established | grep -q $v4:8081"
check ss_filter "exec 9<>/dev/tcp/$v4/8081; ss -Htn dport = :8081 | grep -q :8081 && [ -z \"\$(ss -Htn dport = :1)\" ]"
check ss_info "exec 9<>/dev/tcp/$v4/8081; ss -Htni | grep -q 'cubic.*mss:'"
check ss_unix "ss -xa"
check igmp "python3 $(dirname "$0")/groups.py hear 239.77.1.1"
check mld "python3 $(dirname "$0")/groups.py hear ff05::77"
check apt "mkdir -p /tmp/apt/lists/partial /tmp/apt/cache/archives/partial && echo 'deb [trusted=yes] http://$v4:8081/repo ./' >/tmp/apt/sources &&
    o='-o Dir::Etc::SourceList=/tmp/apt/sources -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=/tmp/apt/lists -o Dir::Cache=/tmp/apt/cache -o APT::Sandbox::User=root' &&
    apt-get -q \$o update && cd /tmp && apt-get -q \$o download nacre-hello && dpkg-deb -c nacre-hello_1.0_all.deb | grep -q usr/share/nacre-hello/text"
check addr_add "ip addr add ${own%.*}.77/24 dev eth0 && ip -o addr show eth0 | grep -q ${own%.*}.77/24 && curl -sf --interface ${own%.*}.77 http://$v4:8081/sum"
check addr_twice "! ip addr add ${own%.*}.77/24 dev eth0"
check addr_del "ip addr del ${own%.*}.77/24 dev eth0 && ! ip -o addr show eth0 | grep -q ${own%.*}.77 && ping -c 1 -W 5 $v4"
check route_add "ip route add 10.99.0.0/16 via $v4 && ip route get 10.99.1.1 | grep -q 'via $v4' && ip route | grep -q '10.99.0.0/16 via $v4'"
check route_del "ip route del 10.99.0.0/16 && ! ip route | grep -q 10.99"
check route_v6 "ip -6 route add fd99::/64 via $v6 && ip -6 route | grep -q 'fd99::/64 via $v6' && ip -6 route del fd99::/64"
check route_nowhere "! ip route add 10.99.0.0/16 via 10.1.2.3"
check mtu "ip link set eth0 mtu 1300 && [ \$(cat /sys/class/net/eth0/mtu) = 1300 ] && curl -sf http://$v4:8081/million | sha256sum | cmp - $dir/www/sum && ip link set eth0 mtu 1500"
check mtu_too_large "! ip link set eth0 mtu 9000"
check monitor "timeout 10 ip monitor address >/tmp/monitor & sleep 1; ip addr add ${own%.*}.78/24 dev eth0; ip addr del ${own%.*}.78/24 dev eth0; sleep 1; kill %1; grep -q Deleted /tmp/monitor"
check down_and_up "ip link set eth0 down && ! ping -c 1 -W 2 $v4 && ip link set eth0 up && ping -c 1 -W 5 $v4"
link=$(ip -o -6 addr show dev eth0 scope link | sed 's|.*inet6 ||; s|/.*||')
[ -n "$link" ] || { ip addr add fe80::4d4d/64 dev eth0; link=fe80::4d4d; }
check link_local "curl -sf http://[$(cat $dir/www/link)%25eth0]:8081/sum"
check link_local_needs_it "! curl -sf http://[$(cat $dir/www/link)]:8081/sum"
check not_without_privilege "! setpriv --reuid 1000 --clear-groups --inh-caps=-all ip addr add ${own%.*}.77/24 dev eth0"
