//! Virtual machine monitors and the devices we serve them: `trait Vmm`, its drivers, and the vhost-user vsock backend.
