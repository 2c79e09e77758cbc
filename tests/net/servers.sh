#!/bin/bash
# Servers of the host's for tools.sh: web (with a repository of one package for apt), names, ssh, and one who talks to groups. `servers.sh FOLDER V4 V6`;
# says `ready`.
set -eu
here=$(realpath "$(dirname "$0")")
dir=$1 v4=$2 v6=$3
# They end with this program, however it does.
die="setpriv --pdeathsig KILL"
mkdir -p $dir/www/repo $dir/package/DEBIAN $dir/package/usr/share/nacre-hello /run/sshd
cd $dir
printf 'Package: nacre-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: Test <t@example.org>\nDescription: test\n' >package/DEBIAN/control
echo hello >package/usr/share/nacre-hello/text
dpkg-deb --root-owner-group -b package www/repo/nacre-hello_1.0_all.deb >/dev/null
(cd www/repo && dpkg-scanpackages -m . 2>/dev/null | gzip >Packages.gz)
head -c 1000000 /dev/urandom >www/million
sha256sum <www/million >www/sum
ip -o -6 addr show dev br0 scope link | sed 's|.*inet6 ||; s|/.*||' >www/link
ssh-keygen -q -t ed25519 -N '' -f host
ssh-keygen -q -t ed25519 -N '' -f key
cp key.pub keys
chmod 600 keys
printf 'HostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\n' $dir/host $dir/keys >sshd
$die python3 -m http.server --bind :: --directory www 8081 >/dev/null 2>&1 &
$die dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --bind-interfaces --listen-address=$v4 \
    --address=/web.nacre.test/$v4 --address=/web.nacre.test/$v6 --txt-record=txt.nacre.test,hello >/dev/null 2>&1 &
$die /usr/sbin/sshd -D -e -f $dir/sshd -p 2222 2>/dev/null &
$die python3 $here/groups.py say $v4 >/dev/null 2>&1 &
for i in $(seq 100); do
    curl -s -o /dev/null http://$v4:8081/sum && break
    sleep 0.1
done
echo ready
wait
