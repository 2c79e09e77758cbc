//! Landlock for a sandbox's main process.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};

use super::Network;

/// What may still be done with the files below a directory.
pub type Allowed<'a> = (BorrowedFd<'a>, BitFlags<AccessFs>);

/// No file of the host may be opened or made any more by this process and its children to come, but what is `allowed`; no TCP port used (unless the
/// network is the host's), no abstract socket outside reached.
///
/// # Errors
/// The host has no Landlock.
pub fn landlock(network: &Network, allowed: &[Allowed<'_>]) -> Result<(), String> {
    let confine = || {
        let files = Ruleset::default().handle_access(AccessFs::from_all(ABI::V6))?;
        let handled = match network {
            Network::Host => files,
            Network::None | Network::Namespace(_) => files.handle_access(AccessNet::from_all(ABI::V6))?,
        };
        // Not Scope::Signal: children were made before, and must be killed.
        let mut rules = handled.scope(Scope::AbstractUnixSocket)?.create()?;
        for (directory, rights) in allowed {
            rules = rules.add_rule(PathBeneath::new(directory, *rights))?;
        }
        rules.restrict_self()
    };
    match confine() {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            Err("the host kernel has no Landlock, or it is off (boot parameter lsm=)".into())
        }
        Ok(_) => Ok(()),
        Err::<_, RulesetError>(e) => Err(format!("cannot set up Landlock: {e}")),
    }
}
