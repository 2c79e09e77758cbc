//! Landlock for processes that open no file at all.

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope};

/// No file may be opened or made any more by this process and its children to come, no TCP port used, no abstract socket outside reached.
///
/// # Errors
/// The host has no Landlock.
pub fn no_files() -> Result<(), String> {
    let confine = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V6))?
            .handle_access(AccessNet::from_all(ABI::V6))?
            .scope(Scope::AbstractUnixSocket)?
            .create()?
            .restrict_self()
    };
    match confine() {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => Err(NO_LANDLOCK.into()),
        Ok(_) => Ok(()),
        Err::<_, RulesetError>(e) => Err(format!("cannot set up Landlock: {e}")),
    }
}

/// What is said where there is none.
pub const NO_LANDLOCK: &str = "the host kernel has no Landlock, or it is off (boot parameter lsm=)";
