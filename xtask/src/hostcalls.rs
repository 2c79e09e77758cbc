//! `hostcalls`: what each confined process may ask of the host kernel, printed, and everything else tried (crates/nacre/tests/hostcalls).

use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;

pub fn run(args: &[String]) -> Result<()> {
    let update = match args {
        [] => false,
        [flag] if flag == "--update" => true,
        _ => bail!("hostcalls: unknown arguments {args:?}"),
    };
    let mut command = Command::new("cargo");
    command.args(["test", "-q", "-p", "nacre", "--test", "hostcalls"]).current_dir(sh::top());
    if update {
        command.env("NACRE_UPDATE", "1");
    }
    sh::run(&mut command)
}
