//! A seccomp profile: which system calls a container's processes may make.

use prost::{Enumeration, Message};

/// OCI's `linux.seccomp`, checked and with actions as numbers.
#[derive(Clone, PartialEq, Message)]
pub struct SeccompProfile {
    /// `SECCOMP_RET_*` with its data: what calls without a rule get.
    #[prost(uint32, tag = "1")]
    pub default_action: u32,
    #[prost(message, repeated, tag = "2")]
    pub rules: Vec<SeccompRule>,
    /// `SECCOMP_FILTER_FLAG_LOG`.
    #[prost(bool, tag = "3")]
    pub log: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct SeccompRule {
    /// System calls by name; unknown ones are skipped.
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
    /// `SECCOMP_RET_*` with its data.
    #[prost(uint32, tag = "2")]
    pub action: u32,
    /// All must hold; none: always.
    #[prost(message, repeated, tag = "3")]
    pub args: Vec<SeccompArg>,
}

/// A condition on one argument.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SeccompArg {
    /// 0 to 5.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(enumeration = "SeccompOperator", tag = "2")]
    pub operator: i32,
    /// What the argument is compared with; with `MaskedEqual`, the mask.
    #[prost(uint64, tag = "3")]
    pub value: u64,
    /// With `MaskedEqual`, what the masked argument must be.
    #[prost(uint64, tag = "4")]
    pub value_two: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum SeccompOperator {
    NotEqual = 0,
    Less = 1,
    LessEqual = 2,
    Equal = 3,
    GreaterEqual = 4,
    Greater = 5,
    MaskedEqual = 6,
}
