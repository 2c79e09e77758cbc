//! The end of the VM: PID 1 must never just hang or vanish. Why goes to the console.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

use crate::log;

/// How long the host may take to store what is dirty: it may be gone, and its files with it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says why on the console and turns the VM off.
pub fn end(reason: &str) -> ! {
    log::error(format_args!("{reason}"));
    power_off()
}

/// Writes back what is dirty and turns the VM off.
pub fn power_off() -> ! {
    let (done, written) = mpsc::channel();
    let sync = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        rustix::fs::sync();
        let _ = done.send(());
    });
    if sync.is_ok() && written.recv_timeout(PATIENCE).is_err() {
        log::error(format_args!("the host does not take what was last written"));
    }
    let _ = reboot(RebootCommand::PowerOff);
    // No ACPI: the VMM is told to end on a restart, too.
    let _ = reboot(RebootCommand::Restart);
    // The kernel's panic at the end of PID 1 is the last way.
    crate::sys::leave(1)
}

/// A panic of any thread ends the VM.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        log::error(format_args!("{panic}"));
        let _ = reboot(RebootCommand::PowerOff);
        crate::sys::leave(1)
    }));
}
