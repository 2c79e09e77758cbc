//! `containerd-shim-nacre-v2`: containerd's side of a pod.
//!
//! One process per pod. containerd runs the program with a verb (`start`, `delete`; [`launch`]) and from then on talks to the process that `start` has
//! left: the Task service ([`service`]), and the Sandbox service of containerd 2 ([`sandbox`]), over ttrpc ([`server`]). What a task is stands on disk, in the runtime's state, so a shim that was killed
//! is replaced by another that finds everything again ([`tasks`]).
//!
//! Containers are made by `nacre create` in a process of its own: making a sandbox clones processes, which a program with threads
//! must not. All else goes from here to the sandbox's agent. The sandbox gets the FIFOs of containerd themselves ([`stdio`]); only a
//! terminal's bytes pass through here.
//!
//! Locking: `Tasks::state` is the only lock that is held over no call; `Tasks::children` is held while this process waits for a child of its own.

#![forbid(unsafe_code)]

mod args;
mod confine;
mod launch;
mod layers;
mod options;
mod proto;
mod publish;
mod rootfs;
mod sandbox;
mod server;
mod service;
mod stdio;
mod tasks;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

pub use args::Args;
pub use launch::states;
use runtime::sandbox::Kind;

/// The names this program has as a shim, and what their containers run in.
const NAMES: [(&str, Kind); 2] = [("containerd-shim-nacre-v2", Kind::Sentry), ("containerd-shim-nacre-vm-v2", Kind::Vm)];

/// What a shim of this name makes, if it is a shim's.
pub fn kind_of(argv0: &OsStr) -> Option<Kind> {
    let name = Path::new(argv0).file_name()?;
    NAMES.iter().find(|(known, _)| name == *known).map(|(_, kind)| *kind)
}

/// A shim's life, or one verb of it.
pub fn main(kind: Kind) -> ExitCode {
    match args::Args::parse(std::env::args().skip(1)).map_err(|what| what.to_string()).and_then(|args| launch::run(kind, &args))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{}: {what}", name_of(kind));
            ExitCode::FAILURE
        }
    }
}

fn name_of(kind: Kind) -> &'static str {
    NAMES.iter().find(|(_, of)| *of == kind).map_or("containerd-shim-nacre-v2", |(name, _)| name)
}
