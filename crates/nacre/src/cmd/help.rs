//! `nacre help`: the verbs, one verb, or the table of system calls.

use clap::{Args, CommandFactory};
use sentry::syscalls::table::{self, Support};

use super::Failure;
use crate::cli::Cli;

/// Help for a verb, or `help syscalls`: which system calls the sentry has
#[derive(Debug, Args)]
pub struct Help {
    #[arg(value_name = "VERB|syscalls")]
    topic: Option<String>,
    /// The table of system calls as the page docs/syscalls.md
    #[arg(long)]
    markdown: bool,
}

impl Help {
    pub fn run(&self) -> Result<u8, Failure> {
        let mut command = Cli::command();
        match self.topic.as_deref() {
            Some("syscalls") if self.markdown => super::print(table::markdown().trim_end())?,
            _ if self.markdown => return Err(anyhow::anyhow!("--markdown is for help syscalls").into()),
            None => command.print_help()?,
            Some("syscalls") => syscalls()?,
            Some(verb) => match command.find_subcommand_mut(verb) {
                Some(found) => found.print_help()?,
                None => return Err(anyhow::anyhow!("no help on {verb:?}").into()),
            },
        }
        Ok(0)
    }
}

fn syscalls() -> anyhow::Result<()> {
    let mut text = String::new();
    for line in table::lines() {
        let (level, note) = match line.support {
            Support::Full(_) => ("full", String::new()),
            Support::Partial(_, note) => ("partial", note.to_string()),
            Support::None(errno, "") => ("none", errno.to_string()),
            Support::None(errno, note) => ("none", format!("{errno}; {note}")),
        };
        text.push_str(format!("{:>4} {:<28} {level:<8} {note}", line.number, line.name).trim_end());
        text.push('\n');
    }
    let [full, partial, none] = table::totals();
    text.push_str(&format!("{} system calls: {full} full, {partial} partial, {none} not supported", full + partial + none));
    super::print(&text)
}
