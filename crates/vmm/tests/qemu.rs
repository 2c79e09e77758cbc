//! A real machine under QEMU, with the Debian kernel and the guest half in `guest/init.c`.

#[path = "qemu/boot.rs"]
mod boot;
#[path = "qemu/guest.rs"]
mod guest;
#[path = "qemu/run.rs"]
mod run;
