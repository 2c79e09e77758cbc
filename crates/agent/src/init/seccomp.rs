//! A container's seccomp profile as a program of the guest's kernel.

use agent_api::seccomp::{self, Instruction};
use agent_api::{Code, SeccompProfile, Status};
use syscalls::Sysno;

/// Compiles a profile; also the flags of seccomp(2).
///
/// # Errors
/// What is wrong with the profile.
pub fn compile(profile: &SeccompProfile) -> Result<(Vec<libc::sock_filter>, u32), Status> {
    let number = |name: &str| name.parse::<Sysno>().ok().map(|call| call.id() as u64);
    let code = seccomp::compile(profile, number).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
    let filter = |Instruction { code, jt, jf, k }: Instruction| libc::sock_filter { code, jt, jf, k };
    let flags = if profile.log { libc::SECCOMP_FILTER_FLAG_LOG as u32 } else { 0 };
    Ok((code.into_iter().map(filter).collect(), flags))
}

#[cfg(test)]
mod tests {
    use agent_api::SeccompRule;

    use super::*;

    /// `SECCOMP_RET_ALLOW`, and `SECCOMP_RET_ERRNO` with `EPERM`.
    const ALLOW: u32 = 0x7fff_0000;
    const REFUSE: u32 = 0x0005_0001;

    fn profile(names: &[&str]) -> SeccompProfile {
        let names = names.iter().map(|name| name.to_string()).collect();
        let rules = vec![SeccompRule { names, action: REFUSE, args: Vec::new() }];
        SeccompProfile { default_action: ALLOW, rules, log: true }
    }

    #[test]
    fn the_kernel_takes_the_program_and_does_as_it_says() {
        let (program, _) = compile(&profile(&["getppid", "no_such_call"])).expect("compiled");
        let refused = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("set");
            crate::sys::install_filter(&program, 0).expect("installed");
            // SAFETY: a system call without arguments.
            let answer = unsafe { libc::syscall(libc::SYS_getppid) };
            (answer, std::io::Error::last_os_error().raw_os_error())
        });
        assert_eq!(refused.join().expect("joined"), (-1, Some(libc::EPERM)));
    }

    #[test]
    fn what_a_name_is_not_known_for_is_skipped() {
        let with = compile(&profile(&["read"])).expect("compiled");
        let without = compile(&profile(&["no_such_call"])).expect("compiled");
        assert!(with.0.len() > without.0.len());
        assert_eq!(with.1, libc::SECCOMP_FILTER_FLAG_LOG as u32);
    }
}
