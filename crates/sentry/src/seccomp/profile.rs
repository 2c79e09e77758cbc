//! OCI's `linux.seccomp` for the calls of this kernel (the compiler is `agent_api::seccomp`).

use agent_api::SeccompProfile;
use agent_api::seccomp::{self, ProfileError};

use super::Data;
use crate::bpf::{Instruction, Program};
use crate::syscalls::table;

/// Compiles a profile.
///
/// # Errors
/// [`ProfileError`].
pub fn compile(profile: &SeccompProfile) -> Result<Program, ProfileError> {
    let number = |name: &str| table::lines().find(|line| line.name == name).map(|line| line.number);
    let code = seccomp::compile(profile, number)?;
    let code: Vec<Instruction> =
        code.into_iter().map(|seccomp::Instruction { code, jt, jf, k }| Instruction { code, jt, jf, k }).collect();
    Data::program(&code).map_err(|_| ProfileError::TooLong)
}
