#!/bin/bash
# Go: a program of goroutines, processes, signals and files, built and run; with arguments, `go test` of those packages of the standard library.
set -eu
here=$(dirname "$(readlink -f "$0")")
dir=$(mktemp -d)
trap 'chmod -R u+w $dir; rm -rf $dir' EXIT
cd $dir
export GOCACHE=${GOCACHE:-$dir/cache} GOFLAGS=-mod=mod GOPATH=$dir/path GO111MODULE=on GOPROXY=off GOTOOLCHAIN=local HOME=$dir
if [ $# -gt 0 ]; then
    # Debian's Go is without its own zoneinfo.zip, which the tests of time want: the zones are built into them.
    left_out=$(awk -v place=${APPS_PLACE:-native} -v package="$1" '$1 !~ /^#/ && $2 == package && ($1 == "any" || place != "native") { print $3 }' "$here/go-exceptions")
    names=$(go test -tags timetzdata -list . "$1" | grep -E '^(Test|Example)' | grep -vxF "${left_out:-none}" | paste -sd '|')
    go test -short -tags timetzdata -run "^($names)\$" "$1"
    exit
fi
cat >go.mod <<'G'
module example.org/app
go 1.19
G
cat >main.go <<'G'
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	var wg sync.WaitGroup
	var mu sync.Mutex
	sum := 0
	for i := 0; i < 2000; i++ {
		wg.Add(1)
		go func(n int) {
			defer wg.Done()
			runtime.Gosched()
			mu.Lock()
			sum += n
			mu.Unlock()
		}(i)
	}
	wg.Wait()
	if sum != 1999000 {
		panic(sum)
	}
	keep := make([][]byte, 100)
	for i := 0; i < 20000; i++ {
		keep[i%100] = make([]byte, i%8192)
	}
	runtime.GC()
	out, err := exec.Command("sh", "-c", "echo $0 $((6*7))", "x").Output()
	must(err)
	if string(out) != "x 42\n" {
		panic(string(out))
	}
	for i := 0; i < 20; i++ {
		wg.Add(1)
		go func() { defer wg.Done(); must(exec.Command("true").Run()) }()
	}
	wg.Wait()
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	must(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		panic("no signal")
	}
	d, err := os.MkdirTemp("", "go")
	must(err)
	for i := 0; i < 100; i++ {
		must(os.WriteFile(filepath.Join(d, fmt.Sprint(i)), make([]byte, i), 0o600))
	}
	entries, err := os.ReadDir(d)
	must(err)
	if len(entries) != 100 {
		panic(len(entries))
	}
	l, err := net.Listen("unix", filepath.Join(d, "s"))
	must(err)
	go func() {
		a, err := l.Accept()
		must(err)
		b := make([]byte, 4)
		_, err = a.Read(b)
		must(err)
		a.Write(b)
		a.Close()
	}()
	k, err := net.Dial("unix", filepath.Join(d, "s"))
	must(err)
	k.Write([]byte("ping"))
	b := make([]byte, 4)
	_, err = k.Read(b)
	must(err)
	if string(b) != "ping" {
		panic(string(b))
	}
	must(os.RemoveAll(d))
	fmt.Println("go ok")
}
G
go build -o app .
[ "$(./app)" = 'go ok' ]
go vet ./...
