//! `nacre list`.

use clap::{Args, ValueEnum};

use super::Failure;
use crate::cli::Global;

/// List containers
#[derive(Debug, Args)]
pub struct List {
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Only ids
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

impl List {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let entries = global.runtime().store.list()?;
        if self.quiet {
            for entry in &entries {
                super::print(&entry.saved.id)?;
            }
            return Ok(0);
        }
        let states: Vec<_> = entries.iter().map(|entry| entry.saved.oci(runtime::pod::status(entry))).collect();
        if self.format == Format::Json {
            super::print(&serde_json::to_string(&states)?)?;
            return Ok(0);
        }
        let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED"].map(String::from);
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), String::from);
        let row = |state: &serde_json::Value| {
            ["id", "pid", "status", "bundle", "created"].map(|key| state.get(key).map_or_else(String::new, text))
        };
        super::table(&[vec![heading], states.iter().map(row).collect()].concat())?;
        Ok(0)
    }
}
