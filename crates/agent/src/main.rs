//! `nacre-agent`: PID 1 of a VM. It brings the guest up ([`boot`]), connects to the host ([`host`]) and serves the Agent protocol
//! there ([`serve`]); [`agent`] holds the containers.
//!
//! A container is made by a helper, the same program executed once more under the name `container-init` ([`init`]): short-lived and of
//! one thread, since name spaces cannot be changed in a process of many. PID 1 only follows processes ([`reaper`]), moves bytes ([`pump`]) and keeps
//! the books.
//!
//! The whole VM is one trust domain: the layer that holds the pod back is the VM's edge, not this program.

mod agent;
mod boot;
mod cgroup;
mod container;
mod device_rules;
mod drives;
mod events;
mod fail;
mod forward;
mod helper;
mod host;
mod init;
mod log;
mod metrics;
mod modules;
mod net;
mod process;
mod pump;
mod reaper;
mod replay;
mod report;
mod serve;
mod setup;
mod stdio;
mod sys;

fn main() {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    if name == init::NAME {
        init::live();
    }
    if std::process::id() != 1 {
        modules::serve_kernel(args);
        eprintln!("nacre-agent: is the first process of a virtual machine, and does nothing elsewhere");
        std::process::exit(1);
    }
    fail::end_on_panic();
    sys::one_heap();
    // Before any thread exists, so that only the reaper gets it.
    sys::block_child_signal();
    let modules = boot::run().unwrap_or_else(|error| fail::end(&error));
    let socket = host::connect_control().unwrap_or_else(|error| fail::end(&error));
    let reason = serve::run(socket, modules);
    fail::end(&reason);
}
