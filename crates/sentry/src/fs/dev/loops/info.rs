//! What programs say and are told of a loop device: `struct loop_info64`, the old `loop_info`, `loop_config`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest names.
pub const NAME: usize = 64;

/// `LO_FLAGS_*`.
pub const READ_ONLY: u32 = 1;
pub const AUTOCLEAR: u32 = 4;
pub const PARTSCAN: u32 = 8;
pub const DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Info64 {
    pub device: u64,
    pub inode: u64,
    pub rdevice: u64,
    pub offset: u64,
    pub size_limit: u64,
    pub number: u32,
    pub encrypt_type: u32,
    pub encrypt_key_size: u32,
    pub flags: u32,
    pub file_name: [u8; NAME],
    pub crypt_name: [u8; NAME],
    pub encrypt_key: [u8; 32],
    pub init: [u64; 2],
}

/// `struct loop_info`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Info {
    pub number: i32,
    pub padding: u32,
    pub device: u64,
    pub inode: u64,
    pub rdevice: u64,
    pub offset: u32,
    pub encrypt_type: u32,
    pub encrypt_key_size: u32,
    pub flags: u32,
    pub name: [u8; NAME],
    pub encrypt_key: [u8; 32],
    pub init: [u64; 2],
    pub reserved: [u8; 4],
    pub tail: [u8; 4],
}

/// `struct loop_config`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    pub fd: u32,
    pub block_size: u32,
    pub info: Info64,
    pub reserved: [u64; 8],
}

impl From<Info> for Info64 {
    fn from(old: Info) -> Info64 {
        Info64 {
            device: old.device,
            inode: old.inode,
            rdevice: old.rdevice,
            offset: u64::from(old.offset),
            size_limit: 0,
            number: old.number as u32,
            encrypt_type: old.encrypt_type,
            encrypt_key_size: old.encrypt_key_size,
            flags: old.flags,
            file_name: old.name,
            crypt_name: [0; NAME],
            encrypt_key: old.encrypt_key,
            init: old.init,
        }
    }
}

impl Info64 {
    /// The old form; None where a number does not fit (`EOVERFLOW`).
    pub fn old(&self) -> Option<Info> {
        Some(Info {
            number: self.number as i32,
            padding: 0,
            device: self.device,
            inode: self.inode,
            rdevice: self.rdevice,
            offset: i32::try_from(self.offset).ok()? as u32,
            encrypt_type: self.encrypt_type,
            encrypt_key_size: self.encrypt_key_size,
            flags: self.flags,
            name: self.file_name,
            encrypt_key: self.encrypt_key,
            init: self.init,
            reserved: [0; 4],
            tail: [0; 4],
        })
    }
}
