//! /sys/devices/system/node: all CPUs and memory on one node.

use super::cpu::{all, cpu_mask};
use crate::fs::pseudo::{Tree, cpu_list};
use crate::kernel::Machine;

pub(super) fn add(tree: &mut Tree, machine: &Machine) {
    let (cpus, every) = all(machine);
    let top = "devices/system/node";
    for name in ["online", "possible", "has_cpu", "has_memory", "has_normal_memory"] {
        tree.add(format!("{top}/{name}"), || "0".into());
    }
    let (list, mask) = (cpu_list(every), cpu_mask(every, cpus));
    tree.add(format!("{top}/node0/cpulist"), move || list.clone());
    tree.add(format!("{top}/node0/cpumap"), move || mask.clone());
    tree.add(format!("{top}/node0/distance"), || "10".into());
    tree.add(format!("{top}/node0/numastat"), || {
        "numa_hit 0\nnuma_miss 0\nnuma_foreign 0\ninterleave_hit 0\nlocal_node 0\nother_node 0".into()
    });
    let total = machine.memory_bytes / 1024;
    tree.add(format!("{top}/node0/meminfo"), move || {
        format!(
            "Node 0 MemTotal:       {total:>8} kB\nNode 0 MemFree:        {total:>8} kB\nNode 0 MemUsed:        {:>8} kB",
            0
        )
    });
    for cpu in 0..cpus {
        tree.add_link(format!("{top}/node0/cpu{cpu}"), format!("../../cpu/cpu{cpu}"));
    }
}
