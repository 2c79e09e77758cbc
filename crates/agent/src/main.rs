//! PID 1 of a VM: serves the Agent protocol over vsock.

fn main() {}
