//! The one BPF program of the runtime: it gives connections to the loopback interface of a network namespace to a listener, whatever
//! their port is (`BPF_PROG_TYPE_SK_LOOKUP`, Linux 5.9). With `sys` the crate's only unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: u32 = 0;
const MAP_UPDATE_ELEM: u32 = 2;
const PROG_LOAD: u32 = 5;
const LINK_CREATE: u32 = 28;

const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    /// The destination register below, the source register above.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

// Opcodes.
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x62;
const LOAD_CONSTANT: u8 = 0x18;
const MOVE: u8 = 0xbf;
const MOVE_CONSTANT: u8 = 0xb7;
const ADD_CONSTANT: u8 = 0x07;
const AND_CONSTANT: u8 = 0x57;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

// Helpers of the kernel.
const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

// Fields of `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;

/// As a register says that the number is a map's descriptor.
const PSEUDO_MAP: u8 = 1;
const SK_PASS: i32 = 1;

/// TCP to 127.0.0.0/8 and ::1 goes to the socket in the map, everything else where it would go anyway.
fn program(map: i32) -> [Instruction; 33] {
    // How far a jump at `at` goes to the last two instructions.
    const fn to_end(at: i16) -> i16 {
        30 - at
    }
    [
        instruction(MOVE, 6, 1, 0, 0),
        instruction(LOAD_WORD, 2, 6, PROTOCOL, 0),
        instruction(JUMP_NOT_EQUAL, 2, 0, to_end(2), libc::IPPROTO_TCP),
        instruction(LOAD_WORD, 2, 6, FAMILY, 0),
        instruction(JUMP_EQUAL, 2, 0, 4, libc::AF_INET6),
        instruction(LOAD_WORD, 2, 6, LOCAL_IP4, 0),
        instruction(AND_CONSTANT, 2, 0, 0, 0xff),
        instruction(JUMP_NOT_EQUAL, 2, 0, to_end(7), 127),
        instruction(JUMP, 0, 0, 8, 0),
        instruction(LOAD_WORD, 2, 6, LOCAL_IP6, 0),
        instruction(JUMP_NOT_EQUAL, 2, 0, to_end(10), 0),
        instruction(LOAD_WORD, 2, 6, LOCAL_IP6 + 4, 0),
        instruction(JUMP_NOT_EQUAL, 2, 0, to_end(12), 0),
        instruction(LOAD_WORD, 2, 6, LOCAL_IP6 + 8, 0),
        instruction(JUMP_NOT_EQUAL, 2, 0, to_end(14), 0),
        instruction(LOAD_WORD, 2, 6, LOCAL_IP6 + 12, 0),
        instruction(JUMP_NOT_EQUAL, 2, 0, to_end(16), 1_i32.to_be()),
        instruction(STORE_WORD, 10, 0, -4, 0),
        instruction(LOAD_CONSTANT, 1, PSEUDO_MAP, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE, 2, 10, 0, 0),
        instruction(ADD_CONSTANT, 2, 0, 0, -4),
        instruction(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        instruction(JUMP_EQUAL, 0, 0, to_end(23), 0),
        instruction(MOVE, 7, 0, 0, 0),
        instruction(MOVE, 1, 6, 0, 0),
        instruction(MOVE, 2, 7, 0, 0),
        instruction(MOVE_CONSTANT, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, SK_ASSIGN),
        instruction(MOVE, 1, 7, 0, 0),
        instruction(CALL, 0, 0, 0, SK_RELEASE),
        instruction(MOVE_CONSTANT, 0, 0, 0, SK_PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// Calls `bpf(2)` with an attribute of the kernel's layout for `command`.
///
/// # Safety
/// All pointers in the attribute must be valid for what the command does with them.
unsafe fn bpf<A>(command: u32, attribute: &A) -> io::Result<i32> {
    // SAFETY: the attribute is live data of the size given; what it points to, the caller vouches for.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<A>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}

/// # Safety
/// As [`bpf`]; and the command returns a new descriptor.
unsafe fn bpf_descriptor<A>(command: u32, attribute: &A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's.
    let number = unsafe { bpf(command, attribute) }?;
    // SAFETY: the kernel has made it, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Gives all TCP connections to the loopback addresses of the network namespace to `listener`, for as long as what is returned is open.
///
/// # Errors
/// The host's: no BPF, no right to it.
pub fn take_loopback(namespace: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct MapCreate {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    #[repr(C)]
    struct MapUpdate {
        map: u32,
        unused: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    #[repr(C)]
    struct ProgLoad {
        kind: u32,
        instructions: u32,
        first: u64,
        license: u64,
        log: [u32; 2],
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach: u32,
    }
    #[repr(C)]
    struct LinkCreate {
        program: u32,
        target: u32,
        attach: u32,
        flags: u32,
    }
    let create = MapCreate { kind: MAP_TYPE_SOCKMAP, key_size: 4, value_size: 4, max_entries: 1 };
    // SAFETY: the attribute has no pointers.
    let map = unsafe { bpf_descriptor(MAP_CREATE, &create) }?;
    let (key, value) = (0_u32, listener.as_raw_fd() as u32);
    let update = MapUpdate {
        map: map.as_raw_fd() as u32,
        unused: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: key and value are live, and of the sizes the map was made with.
    unsafe { bpf(MAP_UPDATE_ELEM, &update) }?;
    let program = program(map.as_raw_fd());
    let load = ProgLoad {
        kind: PROG_TYPE_SK_LOOKUP,
        instructions: program.len() as u32,
        first: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"nacre_forward\0\0\0",
        interface: 0,
        attach: ATTACH_SK_LOOKUP,
    };
    // SAFETY: the instructions and the text are live; the kernel verifies the program and copies it.
    let program = unsafe { bpf_descriptor(PROG_LOAD, &load) }?;
    let link = LinkCreate {
        program: program.as_raw_fd() as u32,
        target: namespace.as_raw_fd() as u32,
        attach: ATTACH_SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: the attribute has no pointers. The link holds the program, and that the map.
    unsafe { bpf_descriptor(LINK_CREATE, &link) }
}
