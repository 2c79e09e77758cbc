//! Drives the command line as an engine or a person does.
//!
//! Each test has its own state root and bundle. What runs guests needs user namespaces and a static busybox; without them those tests say so
//! and pass nothing off as tested.

mod bad_input;
mod disks;
mod image;
mod layers;
mod lifecycle;
mod metrics;
mod network;
mod pod;
mod shim;
mod support;
mod vm;
mod vm_faults;
mod watch;
