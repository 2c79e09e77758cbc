//! `nacre`: the command line, and (under other names) the sentry and the gofer.
//!
//! One binary of many names: when it is executed as `nacre-sentry`, `nacre-gofer` or `nacre-unpack` it lives that process's life and nothing
//! here matters; as `containerd-shim-nacre-v2` it is containerd's shim, as `nacre-cni` a CNI plugin. Otherwise it is an OCI runtime with runc's verbs, flags and exit codes, and `do`, which runs one command in a sandbox over the
//! host's own files.

#![forbid(unsafe_code)]

mod cli;
mod cmd;
mod flags;
mod gather;
mod http;
mod imaged;
mod install;
mod progress;
mod session;
mod stand_in;
mod stdio;
mod terminal;
mod user;

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if let Some(role) = runtime::process::Role::of(&name) {
        role.live();
    }
    if let Some(kind) = shim::kind_of(&name) {
        runtime::sys::small_heap();
        return shim::main(kind);
    }
    if Path::new(&name).file_name() == Some(runtime::nacre_cni::NAME.as_ref()) {
        return ExitCode::from(runtime::nacre_cni::main());
    }
    if image::unpack::helper::is_helper(&name) {
        return unpack_layer();
    }
    runtime::sys::small_heap();
    runtime::timing::mark("nacre: main");
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::usage_error(&error),
    };
    if let Err(error) = cli.global.start() {
        eprintln!("nacre: {error:#}");
        return ExitCode::FAILURE;
    }
    terminal::restore_on_panic();
    match cmd::run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            tracing::error!("{:#}", failure.error);
            cli.global.echo_error(&failure.error);
            ExitCode::from(failure.code)
        }
    }
}

/// The life of the process that unpacks an image's layer: descriptor 0 is the layer, the arguments are what to do and the number of the tree's
/// descriptor.
fn unpack_layer() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(request), Some(tree)) = (args.next(), args.next().and_then(|number| number.parse().ok())) else {
        return ExitCode::FAILURE;
    };
    let tree = runtime::sys::inherited(tree);
    if runtime::sys::dup_to(tree.as_fd(), 3).is_err() {
        return ExitCode::FAILURE;
    }
    // Closed below, by its number; with whatever else the starter of `nacre` had open.
    std::mem::forget(tree);
    runtime::sys::close_from(4);
    ExitCode::from(image::unpack::helper::main(runtime::sys::inherited(0), runtime::sys::inherited(3), &request))
}
