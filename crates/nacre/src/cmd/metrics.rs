//! `nacre metrics`: what all sandboxes count, for Prometheus.

use anyhow::Context;
use clap::Args;

use super::Failure;
use crate::cli::Global;
use crate::gather::{Which, text};
use crate::http::{Address, Listener};

/// Serve the metrics of all sandboxes, those of containerd's shims too, as Prometheus reads them
#[derive(Debug, Args)]
pub struct Metrics {
    /// Where to serve, under /metrics: ADDRESS:PORT, or unix:PATH. Whoever can connect can read
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    address: Address,
    /// Print them once and exit
    #[arg(long, conflicts_with = "address")]
    once: bool,
    #[command(flatten)]
    which: Which,
}

impl Metrics {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let gatherer = self.which.gatherer(global);
        if self.once {
            super::print(text(&gatherer.gather()?).trim_end())?;
            return Ok(0);
        }
        let listener = Listener::bind(&self.address).with_context(|| format!("cannot listen on {}", self.address))?;
        super::print(&format!("metrics are served on {}", listener.address()?))?;
        listener.serve(move || gatherer.gather().map(|all| text(&all)).map_err(|error| format!("{error:#}")))
    }
}
