//! `linux.seccomp` of config.json.

use agent_api::{SeccompArg, SeccompOperator, SeccompProfile, SeccompRule};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};

use super::{ConfigError, unsupported, wrong};

/// The largest data of an action.
const DATA_MAX: u32 = 0xffff;

/// As the agent takes it. Architectures other than the sentry's are no matter: it serves none of their calls.
///
/// # Errors
/// Names the key.
pub fn profile(seccomp: &LinuxSeccomp) -> Result<SeccompProfile, ConfigError> {
    let default_action = action(seccomp.default_action(), seccomp.default_errno_ret(), "linux.seccomp.defaultAction")?;
    let rules = seccomp.syscalls().iter().flatten().enumerate();
    let rules = rules.map(|(at, syscall)| rule(syscall, &format!("linux.seccomp.syscalls[{at}]"))).collect::<Result<_, _>>()?;
    let log = seccomp.flags().iter().flatten().any(|flag| matches!(flag, LinuxSeccompFilterFlag::SeccompFilterFlagLog));
    Ok(SeccompProfile { default_action, rules, log })
}

fn action(action: LinuxSeccompAction, data: Option<u32>, key: &str) -> Result<u32, ConfigError> {
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(unsupported(key, "SCMP_ACT_NOTIFY"));
    }
    match data {
        Some(data) if data > DATA_MAX => Err(wrong(key, format!("{data} is no errno"))),
        data => Ok(action.as_u32(data)),
    }
}

fn rule(syscall: &LinuxSyscall, key: &str) -> Result<SeccompRule, ConfigError> {
    if syscall.names().is_empty() {
        return Err(wrong(format!("{key}.names"), "is empty"));
    }
    Ok(SeccompRule {
        names: syscall.names().clone(),
        action: action(syscall.action(), syscall.errno_ret(), key)?,
        args: syscall.args().iter().flatten().map(|one| arg(one, key)).collect::<Result<_, _>>()?,
    })
}

fn arg(arg: &LinuxSeccompArg, key: &str) -> Result<SeccompArg, ConfigError> {
    let index = u32::try_from(arg.index()).ok().filter(|&index| index < 6);
    let index = index.ok_or_else(|| wrong(format!("{key}.args"), format!("there is no argument {}", arg.index())))?;
    let operator = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => SeccompOperator::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => SeccompOperator::Less,
        LinuxSeccompOperator::ScmpCmpLe => SeccompOperator::LessEqual,
        LinuxSeccompOperator::ScmpCmpEq => SeccompOperator::Equal,
        LinuxSeccompOperator::ScmpCmpGe => SeccompOperator::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => SeccompOperator::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => SeccompOperator::MaskedEqual,
    };
    Ok(SeccompArg { index, operator: operator.into(), value: arg.value(), value_two: arg.value_two().unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_and_conditions() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":7,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}]},
                        {"names":["mount"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
        let made = profile(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((made.default_action, made.rules[0].action, made.rules[1].action), (0x5_0026, 0x7fff_0000, 0x5_0001));
        assert_eq!(made.rules[0].args, [SeccompArg { index: 0, operator: 6, value: 7, value_two: 1 }]);
        let notify = text.replace("SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY");
        assert!(profile(&serde_json::from_str(&notify).unwrap()).is_err());
    }
}
