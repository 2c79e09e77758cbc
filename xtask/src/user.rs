//! The ordinary user that tests run things as.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{packages, sh};

pub const NAME: &str = "nacre-test";

/// Sees to it that there is one, with subordinate ids.
pub fn ensure() -> Result<()> {
    packages::ensure(&["uidmap", "passwd"])?;
    if !Command::new("id").arg(NAME).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        sh::run(Command::new("useradd").arg("--create-home").arg(NAME))?;
    }
    Ok(())
}

/// Makes a file, or a folder with all in it, the user's.
pub fn own(path: &Path) -> Result<()> {
    sh::run(Command::new("chown").arg("-hR").arg(format!("{NAME}:")).arg(path))
}

/// A script for `sh`, as the user, in a folder of its own where programs are looked for first; its `run` is the runtime directory.
pub fn shell(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NAME, "--regid", NAME, "--init-groups", "env", "-i", "PATH=.:/usr/bin:/bin:/usr/sbin:/sbin"]);
    command.arg(format!("XDG_RUNTIME_DIR={}", folder.join("run").display())).arg(format!("HOME={}", folder.display()));
    command.args(["sh", "-c", script]).current_dir(folder).stdin(Stdio::null());
    command
}
