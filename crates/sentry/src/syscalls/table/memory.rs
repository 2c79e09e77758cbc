//! The `memory` lines of the table.

use super::{Arg::*, Line, full, none, partial};
use crate::Errno;
use crate::syscalls::{membarrier, memory, memory_advice, mempolicy, process_vm};

pub(super) const LINES: &[Line] = &[
    full(9, "mmap", &[Addr, Size, Hex, Hex, Fd, Hex], memory::mmap),
    full(10, "mprotect", &[Addr, Size, Hex], memory::mprotect),
    full(11, "munmap", &[Addr, Size], memory::munmap),
    full(12, "brk", &[Addr], memory::brk),
    full(25, "mremap", &[Addr, Size, Size, Hex, Addr], memory_advice::mremap),
    full(26, "msync", &[Addr, Size, Hex], memory_advice::msync),
    full(27, "mincore", &[Addr, Size, Addr], memory_advice::mincore),
    partial(28, "madvise", &[Addr, Size, Int], memory_advice::madvise, "no MADV_REMOVE, guard pages, poisoning and merging"),
    partial(149, "mlock", &[Addr, Size], memory_advice::mlock, "counted and limited; host memory is not locked"),
    partial(150, "munlock", &[Addr, Size], memory_advice::munlock, "counted and limited; host memory is not locked"),
    partial(151, "mlockall", &[Hex], memory_advice::mlockall, "counted and limited; host memory is not locked"),
    partial(152, "munlockall", &[], memory_advice::munlockall, "counted and limited; host memory is not locked"),
    none(154, "modify_ldt", &[Int, Addr, Uint], Errno::ENOSYS, "as Linux without CONFIG_MODIFY_LDT_SYSCALL"),
    full(158, "arch_prctl", &[Hex, Addr], memory::arch_prctl),
    none(205, "set_thread_area", &[Addr], Errno::ENOSYS, "32-bit only"),
    none(211, "get_thread_area", &[Addr], Errno::ENOSYS, "32-bit only"),
    none(216, "remap_file_pages", &[Addr, Size, Hex, Size, Hex], Errno::ENOSYS, ""),
    partial(237, "mbind", &[Addr, Size, Int, Addr, Uint, Hex], mempolicy::mbind, "one node; checked, not kept for a range"),
    full(238, "set_mempolicy", &[Int, Addr, Uint], mempolicy::set_mempolicy),
    partial(239, "get_mempolicy", &[Addr, Addr, Uint, Addr, Hex], mempolicy::get_mempolicy, "ranges have the task's policy"),
    full(256, "migrate_pages", &[Int, Uint, Addr, Addr], mempolicy::migrate_pages),
    none(279, "move_pages", &[Int, Uint, Addr, Addr, Addr, Hex], Errno::ENOSYS, "as Linux without CONFIG_NUMA"),
    full(310, "process_vm_readv", &[Int, Addr, Uint, Addr, Uint, Hex], process_vm::process_vm_readv),
    full(311, "process_vm_writev", &[Int, Addr, Uint, Addr, Uint, Hex], process_vm::process_vm_writev),
    full(324, "membarrier", &[Int, Hex, Int], membarrier::membarrier),
    partial(325, "mlock2", &[Addr, Size, Hex], memory_advice::mlock2, "counted and limited; host memory is not locked"),
    partial(
        329,
        "pkey_mprotect",
        &[Addr, Size, Hex, Int],
        memory_advice::pkey_mprotect,
        "as on a processor without protection keys",
    ),
    none(330, "pkey_alloc", &[Hex, Hex], Errno::ENOSPC, "as on a processor without protection keys"),
    none(331, "pkey_free", &[Int], Errno::EINVAL, "as on a processor without protection keys"),
    none(440, "process_madvise", &[Fd, Addr, Size, Int, Hex], Errno::ENOSYS, ""),
    none(448, "process_mrelease", &[Fd, Hex], Errno::ENOSYS, ""),
    none(450, "set_mempolicy_home_node", &[Addr, Size, Uint, Hex], Errno::ENOSYS, "as Linux without CONFIG_NUMA"),
    none(453, "map_shadow_stack", &[Addr, Size, Hex], Errno::EOPNOTSUPP, "no shadow stacks"),
    none(462, "mseal", &[Addr, Size, Hex], Errno::ENOSYS, ""),
];
