#!/bin/bash
# OpenSSH: keys, a server over a pipe (no network), commands, a terminal, file copies.
set -eu
dir=$(mktemp -d)
trap 'rm -rf $dir' EXIT
mkdir -p /run/sshd
cd $dir
ssh-keygen -q -t ed25519 -N '' -f host
ssh-keygen -q -t ed25519 -N '' -f key
cp key.pub keys
chmod 600 keys
cat >conf <<C
HostKey $dir/host
AuthorizedKeysFile $dir/keys
StrictModes no
UsePAM no
PermitRootLogin yes
Subsystem sftp internal-sftp
C
options=(-F none -i key -o "ProxyCommand=/usr/sbin/sshd -i -f $dir/conf -E $dir/log" -o StrictHostKeyChecking=no -o UserKnownHostsFile=$dir/known -o LogLevel=ERROR)
ssh "${options[@]}" root@x 'echo $((6*7)) $SSH_CONNECTION' | grep -q '^42' || { cat log; exit 1; }
[ "$(echo abc | ssh "${options[@]}" root@x 'tr a-z A-Z')" = ABC ]
ssh "${options[@]}" root@x 'exit 9' && exit 1 || [ $? = 9 ]
ssh -tt "${options[@]}" root@x 'tty' </dev/null | grep -q /dev/pts/
head -c 500000 /dev/urandom >big
scp -q "${options[@]}" big root@x:$dir/copy
cmp big copy
[ "$(grep -c Accepted log || true)" -ge 0 ]
