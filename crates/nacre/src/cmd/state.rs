//! `nacre state`.

use clap::Args;
use runtime::state::{Access, Status};

use super::Failure;
use crate::cli::Global;

/// Print the state of a container
#[derive(Debug, Args)]
pub struct State {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
}

impl State {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let entry = global.runtime().store.open(&self.id, Access::Look)?;
        let status = runtime::pod::status(&entry);
        let mut state = entry.saved.oci(status);
        let reason = runtime::container::reason(&entry);
        if let (Some(object), Status::Stopped, false) = (state.as_object_mut(), status, reason.is_empty()) {
            object.insert("reason".into(), reason.trim_matches([' ', '(', ')']).into());
        }
        super::print(&serde_json::to_string_pretty(&state)?)?;
        Ok(0)
    }
}
