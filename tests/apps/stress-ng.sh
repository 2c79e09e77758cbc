#!/bin/bash
# stress-ng --verify, one stressor after another; $STRESS_SECONDS each (1). Those of suite-exceptions may fail; not those for hardware, modules or the whole machine.
set -u
here=$(dirname "$(readlink -f "$0")")
stressors='
access aio aiol alarm atomic bad-altstack bad-ioctl bigheap bind-mount brk cap chattr chdir chmod chown chroot clock clone close context
copy-file daemon dentry dir dirdeep dirmany dnotify dup env epoll eventfd exec exit-group fallocate far-branch fault fcntl fiemap fifo
file-ioctl filename flock fork forkheavy fp-error fpunch fsize fstat full futex get getdent getrandom handle hdd icmp-flood inode-flags
inotify io iomix ioprio io-uring itimer kcmp key kill landlock lease link locka lockf lockofd madvise malloc mcontend membarrier memfd
mincore mknod mlock mlockmany mmap mmapaddr mmapfixed mmapfork mmapmany mprotect mq mremap msg msync msyncmany munmap mutex nanosleep nice
nop null
open opcode pagemove personality physpage pidfd ping-sock pipe pipeherd pkey poll prctl priv-instr procfs pthread ptrace pty readahead regs
remap rename resched revio ring-pipe rlimit rmap rseq schedpolicy seal seccomp secretmem seek sem sem-sysv sendfile session set shm
shm-sysv sigabrt sigchld sigfd sigfpe sigio signal signest sigpending sigpipe sigq sigrt sigsegv sigsuspend sigtrap sleep sock sockabuse
sockfd sockpair sockmany spawn splice stack stackmmap switch symlink sync-file syncload syscall sysinfo tee timer timerfd tlb-shootdown
tmpfs touch tree udp udp-flood umount unshare urandom utime vdso verity vfork vforkmany vm vm-addr vm-rw vm-segv vm-splice wait waitcpu
xattr yield zero zombie
'
[ $# -gt 0 ] && stressors=$*
known=$(awk -v place="${APPS_PLACE:-native}" '$1 == "stress-ng" && ($2 == "any" || $2 == place || $2 == "sandbox" && place != "native") { print $3 }' "$here/suite-exceptions")
dir=$(mktemp -d)
trap 'rm -rf $dir' EXIT
cd "$dir" || exit 1
failed=0
for name in $stressors; do
    grep -qxF "$name" <<<"$known" && continue
    timeout -k 2 60 stress-ng --"$name" 2 --verify -t "${STRESS_SECONDS:-1}" --temp-path "$dir" >log 2>&1 </dev/null
    code=$?
    # 3 and 4: not on this machine.
    case $code in 0 | 3 | 4) ;; *) failed=1 && echo "FAILED $name: $code $(grep -E 'fail:|error:' log | head -1)" ;; esac
done
exit $failed
