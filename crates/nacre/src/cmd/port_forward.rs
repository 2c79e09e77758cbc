//! `nacre port-forward`: ports of this host that lead into a sandbox, whatever its network.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;

use agent_api::Client;
use anyhow::Context;
use clap::Args;
use runtime::forward;
use runtime::state::Access;

use super::Failure;
use crate::cli::Global;

/// Pass connections to ports of this host on to ports of a sandbox, until interrupted
#[derive(Debug, Args)]
pub struct PortForward {
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// A port of both, or LOCAL:INSIDE, or ADDRESS:LOCAL:INSIDE (default address 127.0.0.1; local port 0 is any)
    #[arg(value_name = "PORTS", required = true)]
    ports: Vec<Ports>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    local: SocketAddr,
    inside: u16,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port: 0 to 65535 are"));
        let (before, inside) = match text.rsplit_once(':') {
            Some((before, inside)) => (Some(before), port(inside)?),
            None => (None, port(text)?),
        };
        if inside == 0 {
            return Err("port 0 of a sandbox is no port".into());
        }
        let local = match before {
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, inside)),
            Some(before) if before.contains(':') => before.parse().map_err(|_| format!("{before:?} is not ADDRESS:PORT"))?,
            Some(local) => SocketAddr::from((Ipv4Addr::LOCALHOST, port(local)?)),
        };
        Ok(Ports { local, inside })
    }
}

impl PortForward {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let entry = global.runtime().store.open(&self.id, Access::Look)?;
        let agent = Arc::new(runtime::container::connect(&entry)?);
        let mut listeners = Vec::new();
        for ports in &self.ports {
            let listener = TcpListener::bind(ports.local).with_context(|| format!("cannot listen on {}", ports.local))?;
            super::print(&format!("{} leads to port {} of {}", listener.local_addr()?, ports.inside, self.id))?;
            listeners.push((listener, ports.inside));
        }
        for (listener, port) in listeners {
            let agent = agent.clone();
            let thread = std::thread::Builder::new().name("ports".into()).stack_size(forward::STACK);
            thread.spawn(move || serve(&listener, port, agent)).context("cannot start a thread")?;
        }
        // Until the sandbox ends; a signal ends this sooner.
        agent.follow(drop);
        Ok(0)
    }
}

fn serve(listener: &TcpListener, port: u16, agent: Arc<Client>) {
    forward::serve(
        || listener.accept().map(|(connection, _)| Some((connection, port))),
        move |connection, port| {
            if let Err(error) = forward::join(&agent, connection, port) {
                tracing::warn!("port {port}: {error}");
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let local = |text: &str| text.parse::<Ports>().map(|ports| (ports.local.to_string(), ports.inside));
        assert_eq!(local("80"), Ok(("127.0.0.1:80".into(), 80)));
        assert_eq!(local("8080:80"), Ok(("127.0.0.1:8080".into(), 80)));
        assert_eq!(local("0.0.0.0:8080:80"), Ok(("0.0.0.0:8080".into(), 80)));
        assert_eq!(local("[::1]:8080:80"), Ok(("[::1]:8080".into(), 80)));
        for bad in ["", "0", "80:0", "x", "65536", "80:", "a:80:80", ":80:80"] {
            assert!(local(bad).is_err(), "{bad:?}");
        }
    }
}
