//! The end of the VM: PID 1 must never just hang or vanish. Why goes to the console.

use rustix::system::{RebootCommand, reboot};

/// Says why on the console and turns the VM off.
pub fn end(reason: &str) -> ! {
    eprintln!("nacre-agent: {reason}");
    power_off()
}

/// Writes back what is dirty and turns the VM off.
pub fn power_off() -> ! {
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    // No ACPI: the VMM is told to end on a restart, too.
    let _ = reboot(RebootCommand::Restart);
    // The kernel's panic at the end of PID 1 is the last way.
    crate::sys::leave(1)
}

/// A panic of any thread ends the VM.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("nacre-agent: {panic}");
        let _ = reboot(RebootCommand::PowerOff);
        crate::sys::leave(1)
    }));
}
