//! Allow-lists of system calls: as data (the security test prints and probes them), and as installed filters.
//!
//! Each confined process has a file here with its list. Whatever is not on it ends the process.

pub mod gofer;
pub mod keeper;
pub mod sentry;
pub mod virtiofs;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// A condition on one argument, of which the low 32 bits count (as they do for the kernel's own `int` arguments).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// Argument `.0` equals `.1`.
    Is(u8, u32),
    /// Argument `.0` has none of the bits `.1`.
    Without(u8, u32),
    /// Argument `.0`, masked by `.1`, equals `.2`.
    Masked(u8, u32, u32),
}

impl Arg {
    /// Whether the arguments of a call meet it.
    pub fn holds(self, args: &[u64; 6]) -> bool {
        let low = |index: u8| args.get(usize::from(index)).map_or(0, |arg| *arg as u32);
        match self {
            Arg::Is(index, value) => low(index) == value,
            Arg::Without(index, bits) => low(index) & bits == 0,
            Arg::Masked(index, mask, value) => low(index) & mask == value,
        }
    }
}

impl std::fmt::Display for Arg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Arg::Is(index, value) => write!(f, "arg{index} = {value:#x}"),
            Arg::Without(index, bits) => write!(f, "arg{index} & {bits:#x} = 0"),
            Arg::Masked(index, mask, value) => write!(f, "arg{index} & {mask:#x} = {value:#x}"),
        }
    }
}

/// One allowed system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub number: i64,
    pub name: &'static str,
    /// The ways in which it may be called: all conditions of at least one must hold. None: any way.
    pub ways: Vec<Vec<Arg>>,
    /// What it is needed for.
    pub why: &'static str,
}

impl Call {
    /// A call allowed with any arguments.
    pub const fn any(number: i64, name: &'static str, why: &'static str) -> Call {
        Call { number, name, ways: Vec::new(), why }
    }

    /// A call allowed in the given ways.
    pub fn only(number: i64, name: &'static str, ways: &[&[Arg]], why: &'static str) -> Call {
        Call { number, name, ways: ways.iter().map(|way| way.to_vec()).collect(), why }
    }
}

/// What the C library asks for in a new thread's first steps, and for its name.
fn thread_steps() -> Vec<Call> {
    vec![
        Call::any(libc::SYS_rseq, "rseq", "a thread's first steps"),
        Call::any(libc::SYS_set_robust_list, "set_robust_list", "a thread's first steps"),
        Call::any(libc::SYS_gettid, "gettid", "a thread's first steps"),
        Call::any(libc::SYS_sched_getaffinity, "sched_getaffinity", "a thread's first steps"),
        Call::only(libc::SYS_prctl, "prctl", &[&[Arg::Is(0, libc::PR_SET_NAME as u32)]], "a thread's name"),
    ]
}

/// All system calls a process may make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowList {
    pub process: &'static str,
    pub calls: Vec<Call>,
}

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("cannot compile the seccomp list of the {process}: {reason}")]
    Compile { process: &'static str, reason: String },
    #[error("cannot install the seccomp list of the {process}: {reason}")]
    Install { process: &'static str, reason: String },
}

impl AllowList {
    /// Whether a call is on the list: what the compiled filter must say too.
    pub fn allows(&self, number: i64, args: &[u64; 6]) -> bool {
        let way_holds = |way: &Vec<Arg>| way.iter().all(|arg| arg.holds(args));
        self.calls.iter().any(|call| call.number == number && (call.ways.is_empty() || call.ways.iter().any(way_holds)))
    }

    /// The filter's program. Anything not on the list, and any other architecture's numbers, kill the process.
    ///
    /// # Errors
    /// The list is too long or contradicts itself.
    pub fn compile(&self) -> Result<BpfProgram, SeccompError> {
        let error = |e: &dyn std::fmt::Display| SeccompError::Compile { process: self.process, reason: e.to_string() };
        let mut rules = BTreeMap::new();
        for call in &self.calls {
            let ways = call.ways.iter().map(|way| rule(way)).collect::<Result<Vec<_>, _>>().map_err(|e| error(&e))?;
            if rules.insert(call.number, ways).is_some() {
                return Err(error(&format_args!("{} is listed twice", call.name)));
            }
        }
        let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)
            .map_err(|e| error(&e))?;
        filter.try_into().map_err(|e: seccompiler::BackendError| error(&e))
    }

    /// Confines the calling thread and those it makes later, for good. Sets `no_new_privs`.
    ///
    /// # Errors
    /// See [`AllowList::compile`]; the host refuses the filter.
    pub fn install(&self) -> Result<(), SeccompError> {
        let program = self.compile()?;
        seccompiler::apply_filter(&program).map_err(|e| SeccompError::Install { process: self.process, reason: e.to_string() })
    }
}

impl AllowList {
    /// Confines all threads of the process (`SECCOMP_FILTER_FLAG_TSYNC`), for good.
    ///
    /// # Errors
    /// See [`AllowList::compile`]; the host refuses the filter.
    pub fn install_on_all_threads(&self) -> Result<(), SeccompError> {
        let program = self.compile()?;
        seccompiler::apply_filter_all_threads(&program)
            .map_err(|e| SeccompError::Install { process: self.process, reason: e.to_string() })
    }
}

fn rule(way: &[Arg]) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = |arg: &Arg| match *arg {
        Arg::Is(index, value) => SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into()),
        Arg::Without(index, bits) => {
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits.into()), 0)
        }
        Arg::Masked(index, mask, value) => {
            SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask.into()), value.into())
        }
    };
    SeccompRule::new(way.iter().map(condition).collect::<Result<_, _>>()?)
}
