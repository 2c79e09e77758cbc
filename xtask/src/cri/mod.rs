//! `cri`: sandboxes under a real containerd, which is started by hand with a root, state and socket of its own.
//!
//! `engine` is that containerd and `image` what it runs; the cases are in `tasks` (through `ctr`) and `faults` (what is killed at which step).
//! After each case nothing may be left: no process, no mount, no state.

mod engine;
mod faults;
mod image;
mod tasks;

use anyhow::Result;

use crate::tally::Tally;
use crate::{packages, sh};
use engine::Engine;

/// Debian's.
pub const PACKAGES: &[&str] = &["containerd", "busybox-static"];

/// A case, by name.
type Case = (&'static str, fn(&mut Engine) -> Result<()>);

pub fn run(args: &[String]) -> Result<Tally> {
    packages::ensure(PACKAGES)?;
    sh::build_nacre()?;
    let mut tally = Tally::default();
    let mut engine = Engine::start()?;
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| name.contains(arg.as_str()));
    for (name, case) in tasks::CASES.iter().chain(faults::CASES).filter(|(name, _)| wanted(name)) {
        let mut play = || {
            let done = case(&mut engine);
            // Also after a failure, so that the next case is not its victim.
            let clean = engine.clear();
            done.and(clean)
        };
        tally.attempt(&format!("cri {name}"), play(), play);
    }
    Ok(tally)
}
