//! `vm`: the tests of sandboxes again, with virtual machines as sandboxes: those that fit in ten minutes of an emulated machine, or in two; `--full` has
//! all real programs too, which takes hours there.
//!
//! They are the same commands, started again with `NACRE_SANDBOX=vm`, which nacre reads too.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::{agent, nested, packages, sh};

/// Command-line tests that say what only a sentry does, and why a VM does otherwise.
const NOT_IN_VMS: &[(&str, &str)] = &[(
    "lifecycle::memory_is_what_the_limit_is",
    "a VM's /proc/meminfo shows the machine, and its kernel kills who writes more to a root in memory than fits",
)];

/// How much is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    Small,
    All,
    Full,
}

impl Tier {
    /// Some seconds each.
    fn command_line_limit(self) -> Duration {
        Duration::from_secs(match self {
            Tier::Small => 180,
            Tier::All | Tier::Full => 900,
        })
    }
}

/// What is run: a command of ours, and its arguments.
type Runs = &'static [&'static [&'static str]];

const SMALL: Runs = &[
    &["abi", "--sandbox", "files", "mounts", "namespaces", "pipes", "process", "sockdiag", "unix"],
    &["robust", "exit-codes", "stdin-and-stdout", "signals-are-forwarded", "memory-hog", "kill-each-process", "life-cycle"],
    &["apps", "--do", "python"],
];
const ALL: Runs = &[
    &["abi", "--sandbox"],
    &["robust"],
    &["apps", "--do", "--within", "600", "everyday", "python", "git", "gcc", "perl", "sqlite", "tmux"],
    &["net", "--small"],
];
const FULL: Runs = &[&["abi", "--sandbox"], &["robust"], &["apps", "--do", "--full"], &["net"]];

/// Sandboxes on KVM, of root and of an ordinary user: their guests have the clock that only KVM gives, and there is no word of emulation. On a pod's
/// network root's has a queue for each CPU, and the host's kernel moves the frames: a thread of its own does (`vhost-` and a pid). A pod's machine grows and
/// shrinks by a CPU (only KVM's can), as its first container's limit does, and as a member comes and goes.
const KVM: &str = r#"
set -e
[ -c /dev/kvm ] || { echo "this machine has no /dev/kvm"; exit 1; }
check() {
    "$@" PROGRAM --root $DIR/nacre --log $DIR/log --sandbox vm do -- /bin/sh -c '
        uname -r; cat /sys/devices/system/clocksource/clocksource0/available_clocksource' > $DIR/out ||
        { cat $DIR/log; dmesg | tail -n 3; return 1; }
    cat $DIR/out $DIR/log
    grep -q kvm-clock $DIR/out
    if grep emulated $DIR/log; then return 1; fi
}
export HOME=/run DIR=/run/root XDG_CACHE_HOME=/run/cache
mkdir $DIR
check env
ip netns add pod
ip link add veth0 type veth peer name eth0 netns pod
ip addr add 10.99.0.1/24 dev veth0
ip link set veth0 up
ip -n pod addr add 10.99.0.2/24 dev eth0
ip -n pod link set eth0 up
PROGRAM --root $DIR/nacre --sandbox vm do --net /run/netns/pod -- /bin/sh -c '
    echo $(nproc) CPUs, $(ls /sys/class/net/eth0/queues | grep -c rx) queues
    busybox ping -c 3 10.99.0.1; echo done; cat' < /dev/console > $DIR/out &
until grep -q done $DIR/out; do sleep 0.5; kill -0 $! || exit 1; done
cat $DIR/out
grep '2 CPUs, 2 queues' $DIR/out
grep '[123] packets received' $DIR/out
grep -h '^vhost-' /proc/[0-9]*/comm
kill $!
wait $! || true
nacre() { PROGRAM --root $DIR/nacre --sandbox vm "$@" < /dev/null; }
config() {
    cat > $DIR/bundle/config.json << END
{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}], "annotations": {$1},
"process": {"args": ["/bin/busybox", "sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
"linux": {"namespaces": [{"type": "network"}], "resources": {"cpu": {"quota": 100000, "period": 100000}, "memory": {"limit": 67108864}}}}
END
}
cpus() {
    for i in 1 2 3 4 5 6 7 8 9 10; do
        found=$(nacre exec $1 busybox nproc)
        [ "$found" = $2 ] && echo "$1: $found CPUs" && return
        sleep 0.5
    done
    echo "$1: $found CPUs instead of $2"
    return 1
}
run() { nacre run -d --bundle $DIR/bundle $1 > $DIR/err 2>&1 || { cat $DIR/err; return 1; }; }
mkdir -p $DIR/bundle/rootfs/bin
cp /bin/busybox $DIR/bundle/rootfs/bin
config '"io.kubernetes.cri.container-type": "sandbox"'
run first
cpus first 1
nacre update --cpu-quota 200000 first
cpus first 2
nacre update --cpu-quota 100000 first
cpus first 1
config '"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "first"'
run member
cpus member 2
nacre exec member busybox uname -r
nacre events --stats member | grep '"limit":67108864'
nacre delete --force member
cpus first 1
nacre delete --force first
export DIR=/run/user
mkdir $DIR
chown -R 1000:1000 $DIR /run/cache
chmod 666 /dev/kvm
check setpriv --reuid 1000 --regid 1000 --clear-groups
"#;

pub fn run(args: &[String]) -> Result<Tally> {
    let (runs, tier) = match args {
        [] => (ALL, Some(Tier::All)),
        [flag] if flag == "--small" => (SMALL, Some(Tier::Small)),
        [flag] if flag == "--full" => (FULL, Some(Tier::Full)),
        [flag] if flag == "--kvm" => (&[][..], None),
        _ => bail!("vm: unknown arguments {args:?}"),
    };
    packages::ensure(packages::TEST)?;
    sh::build_nacre()?;
    agent::build()?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut tally = Tally::default();
    for command in runs.iter().copied() {
        let mut run = Command::new(&program);
        run.args(command).env("NACRE_SANDBOX", "vm").current_dir(sh::top());
        tally.step(&format!("in VMs: {}", command.join(" ")), sh::run(&mut run));
    }
    if let Some(tier) = tier {
        tally.step("in VMs: the command line", command_line(tier));
    }
    let nacre = std::fs::canonicalize(sh::nacre()).with_context(|| format!("cannot find {}", sh::nacre().display()))?;
    let directory = nacre.parent().context("a program without a directory")?;
    let inside = Path::new(nested::PROGRAM).join(nacre.file_name().unwrap_or_default());
    let on_kvm = nested::run(directory, &KVM.replace("PROGRAM", &inside.display().to_string()));
    tally.step("in a VM on KVM, in an emulated machine", on_kvm);
    Ok(tally)
}

/// The command-line tests, in the debug build: all, or in the small tier those of VMs alone and of pods.
fn command_line(tier: Tier) -> Result<()> {
    let test = |more: &[&str]| {
        let mut test = Command::new("cargo");
        test.args(["test", "-q", "--workspace", "--test", "cli"]).args(more).current_dir(sh::top());
        test
    };
    sh::run(&mut test(&["--no-run"]))?;
    agent::build()?;
    let (mut args, limit) = (vec!["--", "--test-threads=2"], tier.command_line_limit());
    match tier {
        Tier::Small => args.extend(["pod::", "vm::", "disks::"]),
        Tier::All | Tier::Full => {
            for (name, why) in NOT_IN_VMS {
                println!("not in VMs: {name}: {why}");
                args.extend(["--skip", name]);
            }
        }
    }
    sh::run_within(test(&args).env("NACRE_SANDBOX", "vm"), limit)
}
