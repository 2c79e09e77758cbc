#!/bin/bash
# javac and java: a JIT-compiled loop, a thread pool, processes, NIO, implicit null checks and stack overflow, under each collector.
set -eu
here=$(dirname "$(readlink -f "$0")")
dir=$(mktemp -d)
trap 'rm -rf $dir' EXIT
cd $dir
javac -d . $here/App.java
for gc in Serial Parallel G1 Z; do
    java -XX:+Use${gc}GC -Xmx96m App >out 2>&1 || { cat out; exit 1; }
    grep -q '^java ok' out || { cat out; exit 1; }
done
