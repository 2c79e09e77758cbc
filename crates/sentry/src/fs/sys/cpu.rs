//! /sys/devices/system/cpu: one package of cores with one thread each, as /proc/cpuinfo says too.

use crate::fs::pseudo::{Tree, cpu_list};
use crate::kernel::Machine;

/// A mask of CPUs as kernel files write it: groups of 32 bits, the highest first.
pub(super) fn cpu_mask(mask: u64, cpus: usize) -> String {
    if cpus <= 32 { format!("{mask:x}").to_string() } else { format!("{:x},{:08x}", mask >> 32, mask & 0xffff_ffff) }
}

/// All CPUs of a machine; more than 64 are not shown.
pub(super) fn all(machine: &Machine) -> (usize, u64) {
    let cpus = machine.cpus.clamp(1, 64);
    (cpus, u64::MAX >> (64 - cpus))
}

pub(super) fn add(tree: &mut Tree, machine: &Machine) {
    let (cpus, every) = all(machine);
    let mut fixed = |path: String, value: String| tree.add(path, move || value.clone());
    let top = "devices/system/cpu";
    for name in ["online", "possible", "present"] {
        fixed(format!("{top}/{name}"), cpu_list(every));
    }
    for (name, value) in
        [("offline", ""), ("isolated", ""), ("kernel_max", "8191"), ("smt/active", "0"), ("smt/control", "notimplemented")]
    {
        fixed(format!("{top}/{name}"), value.into());
    }
    for cpu in 0..cpus {
        let own = 1 << cpu;
        let (list, mask) = (cpu_list(own), cpu_mask(own, cpus));
        let (all_list, all_mask) = (cpu_list(every), cpu_mask(every, cpus));
        let topology = format!("{top}/cpu{cpu}/topology");
        for (name, value) in [
            ("physical_package_id", "0"),
            ("die_id", "0"),
            ("cluster_id", "65535"),
            ("core_id", list.as_str()),
            ("thread_siblings", mask.as_str()),
            ("thread_siblings_list", list.as_str()),
            ("core_cpus", mask.as_str()),
            ("core_cpus_list", list.as_str()),
            ("core_siblings", all_mask.as_str()),
            ("core_siblings_list", all_list.as_str()),
            ("package_cpus", all_mask.as_str()),
            ("package_cpus_list", all_list.as_str()),
            ("die_cpus", all_mask.as_str()),
            ("die_cpus_list", all_list.as_str()),
        ] {
            fixed(format!("{topology}/{name}"), value.into());
        }
        // The first CPU cannot be taken offline, and has no such file.
        if cpu > 0 {
            fixed(format!("{top}/cpu{cpu}/online"), "1".into());
        }
    }
    for cpu in 0..cpus {
        tree.add_link(format!("{top}/cpu{cpu}/node0"), "../../node/node0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(cpu_mask(0b11, 2), "3");
        assert_eq!(cpu_mask(1 << 40, 48), "100,00000000");
    }
}
