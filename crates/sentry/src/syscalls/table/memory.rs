//! The `memory` lines of the table.

use super::{Arg::*, Line, full, none};
use crate::Errno;
use crate::syscalls::memory;

pub(super) const LINES: &[Line] = &[
    full(9, "mmap", &[Addr, Size, Hex, Hex, Fd, Hex], memory::mmap),
    full(10, "mprotect", &[Addr, Size, Hex], memory::mprotect),
    full(11, "munmap", &[Addr, Size], memory::munmap),
    full(12, "brk", &[Addr], memory::brk),
    none(25, "mremap", &[Addr, Size, Size, Hex, Addr], Errno::ENOSYS, ""),
    none(26, "msync", &[Addr, Size, Hex], Errno::ENOSYS, ""),
    none(27, "mincore", &[Addr, Size, Addr], Errno::ENOSYS, ""),
    none(28, "madvise", &[Addr, Size, Int], Errno::ENOSYS, ""),
    none(149, "mlock", &[Addr, Size], Errno::ENOSYS, ""),
    none(150, "munlock", &[Addr, Size], Errno::ENOSYS, ""),
    none(151, "mlockall", &[Hex], Errno::ENOSYS, ""),
    none(152, "munlockall", &[], Errno::ENOSYS, ""),
    none(154, "modify_ldt", &[Int, Addr, Uint], Errno::ENOSYS, ""),
    full(158, "arch_prctl", &[Hex, Addr], memory::arch_prctl),
    none(205, "set_thread_area", &[Addr], Errno::ENOSYS, ""),
    none(211, "get_thread_area", &[Addr], Errno::ENOSYS, ""),
    none(216, "remap_file_pages", &[Addr, Size, Hex, Size, Hex], Errno::ENOSYS, ""),
    none(237, "mbind", &[Addr, Size, Int, Addr, Uint, Hex], Errno::ENOSYS, ""),
    none(238, "set_mempolicy", &[Int, Addr, Uint], Errno::ENOSYS, ""),
    none(239, "get_mempolicy", &[Addr, Addr, Uint, Addr, Hex], Errno::ENOSYS, ""),
    none(256, "migrate_pages", &[Int, Uint, Addr, Addr], Errno::ENOSYS, ""),
    none(279, "move_pages", &[Int, Uint, Addr, Addr, Addr, Hex], Errno::ENOSYS, ""),
    none(310, "process_vm_readv", &[Int, Addr, Uint, Addr, Uint, Hex], Errno::ENOSYS, ""),
    none(311, "process_vm_writev", &[Int, Addr, Uint, Addr, Uint, Hex], Errno::ENOSYS, ""),
    none(324, "membarrier", &[Int, Hex, Int], Errno::ENOSYS, ""),
    none(325, "mlock2", &[Addr, Size, Hex], Errno::ENOSYS, ""),
    none(329, "pkey_mprotect", &[Addr, Size, Hex, Int], Errno::ENOSYS, ""),
    none(330, "pkey_alloc", &[Hex, Hex], Errno::ENOSYS, ""),
    none(331, "pkey_free", &[Int], Errno::ENOSYS, ""),
    none(440, "process_madvise", &[Fd, Addr, Size, Int, Hex], Errno::ENOSYS, ""),
    none(448, "process_mrelease", &[Fd, Hex], Errno::ENOSYS, ""),
    none(450, "set_mempolicy_home_node", &[Addr, Size, Uint, Hex], Errno::ENOSYS, ""),
    none(453, "map_shadow_stack", &[Addr, Size, Hex], Errno::ENOSYS, ""),
    none(462, "mseal", &[Addr, Size, Hex], Errno::ENOSYS, ""),
];
