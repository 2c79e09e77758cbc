//! Whether the CPU runs the guest itself.

use std::fs::{self, OpenOptions};

/// What executes a guest's instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accelerator {
    /// The CPU, by way of /dev/kvm, which the VMM opens itself.
    Kvm,
    /// A translator in the VMM: many times slower. Why it is not KVM.
    Emulation { because: String },
}

impl Accelerator {
    /// KVM where it really is hardware's: a /dev/kvm of a CPU without virtualisation (there are such: software that emulates) boots no ordinary kernel.
    pub fn choose() -> Accelerator {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        match why_not_kvm(&cpuinfo, device.err().map(|e| e.to_string())) {
            None => Accelerator::Kvm,
            Some(because) => Accelerator::Emulation { because },
        }
    }
}

fn why_not_kvm(cpuinfo: &str, device_error: Option<String>) -> Option<String> {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.trim_start().strip_prefix(':')).unwrap_or_default();
    if !flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm") {
        return Some("the CPU has no virtualisation (neither vmx nor svm in /proc/cpuinfo)".into());
    }
    device_error.map(|e| format!("/dev/kvm cannot be opened: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_the_cpus_help_does_not_count() {
        let plain = "processor\t: 0\nflags\t\t: fpu vme svme vmx_not\n";
        let amd = "processor\t: 0\nflags\t\t: fpu svm vme\n";
        let intel = "flags\t\t: vmx\n";
        assert!(why_not_kvm(plain, None).is_some_and(|why| why.contains("vmx")));
        assert!(why_not_kvm("", None).is_some());
        assert_eq!(why_not_kvm(amd, None), None);
        assert_eq!(why_not_kvm(intel, None), None);
        assert!(why_not_kvm(intel, Some("permission denied".into())).is_some_and(|why| why.contains("/dev/kvm")));
    }
}
