//! `cargo xtask`: the one developer command; CI runs the same (`.ci/run` is `cargo xtask test`).
//!
//! One file per command. What they share: [`sh`] starts programs, [`packages`] installs what Debian has, [`bundle`] makes
//! OCI bundles, [`tally`] counts cases and prints the closing line.

mod abi;
mod agent;
mod apps;
mod backend;
mod bench;
mod bench_vm;
mod bundle;
mod cri;
mod escape;
mod fuzz;
mod hostcalls;
mod lint;
mod nested;
mod net;
mod network;
mod packages;
mod page;
mod plug;
mod programs;
mod robust;
mod sh;
mod startup;
mod tally;
mod test;
mod user;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask COMMAND
  test [--fast|--full]                   install what is missing, then every test (--fast: those that need no sandbox; --full: all programs)
  abi [--native|--sandbox] [FAMILY...]   Linux's ABI: natively, in a sandbox, or both and compared
  apps [--full] [--native|--do|--bundle] [--within SECONDS] [NAME...]  real programs: the small ones, or all
  escape [NAME...]                       the known ways out of a sandbox
  fuzz [--minutes N] [--seed N]          system calls at random in sandboxes, which must not break
  hostcalls [--update]                   the host calls of each process, and all others tried; --update writes docs/host-calls.md
  net [--small|--full] [veth|tap|servers]  sandboxes on a pod network, by veth pairs and by nacre-cni's taps: host, sandbox and sandbox to sandbox, IPv4 and
                                         IPv6; bad frames
  robust [NAME...]                       hogs, full disks, killed processes: nothing is left behind
  cri [--full|--bench] [--containerd 1|2] [NAME...]  under a real containerd: tasks of ctr, pods of its CRI, killed processes; under podman; --full: under
                                         containerd 2 (of Debian unstable) and its Sandbox API, too; --containerd 2 --snapshotter erofs: layers as
                                         images; --bench: beside runc, its section of docs/performance.md
  vm [--small|--full|--kvm]              abi, robust and the small programs again, in virtual machines; --full: all programs, which takes hours emulated;
                                         --kvm: one on KVM, in an emulated machine
  bench [--quick] [--one-cpu] [--native-only] [ROW...]   beside runsc and the native kernel; writes docs/performance.md
  bench --programs [--rounds N] [ROW...]  whole programs beside them; its section of docs/performance.md
  bench --net [--rounds N] [ROW...|pod]  servers and clients on loopback, and a pod's network beside a plain namespace; its sections
  bench --vm [--rounds N] [start|idle|files...]  virtual machines beside bare QEMU, virtiofsd and socat; its section of docs/performance.md
  agent                                  PID 1 of VMs as a static program, beside every nacre that is built
  bundle busybox|debian|programs                  make an OCI bundle under target/bundles
  lint                                   rustfmt and clippy, warnings denied";

fn main() -> ExitCode {
    // Without the backtrace that a set RUST_BACKTRACE would bring: it says nothing here, and hides what was printed before.
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => bail!("no command\n{USAGE}"),
    };
    match command {
        "test" => test::run(rest),
        "abi" => abi::run(rest)?.finish(),
        "apps" => apps::run(rest)?.finish(),
        "escape" => escape::run(rest)?.finish(),
        "fuzz" => fuzz::run(rest)?.finish(),
        "hostcalls" => hostcalls::run(rest),
        "cri" => cri::run(rest)?.finish(),
        "net" => net::run(rest)?.finish(),
        "robust" => robust::run(rest)?.finish(),
        "vm" => vm::run(rest)?.finish(),
        "bench" => bench::run(rest),
        "agent" => agent::run(rest),
        "bundle" => bundle::run(rest),
        "lint" => lint::run(rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command '{other}'\n{USAGE}"),
    }
}
