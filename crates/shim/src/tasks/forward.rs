//! Port-forward: containerd connects to localhost in the pod's network namespace, and the sandbox is to answer.

use std::path::Path;
use std::sync::Arc;

use runtime::forward::{self, Loopback};
use runtime::state::Entry;

use super::Tasks;

impl Tasks {
    /// Passes on what connects to localhost in the network namespace of the pod's first container, if it has one. On a thread of its own.
    pub(super) fn forward_ports(self: &Arc<Tasks>, entry: &Entry) {
        if entry.saved.is_member() {
            return;
        }
        let (tasks, bundle) = (self.clone(), entry.saved.bundle.clone());
        let thread = std::thread::Builder::new().name("ports".into()).stack_size(forward::STACK);
        if let Err(error) = thread.spawn(move || tasks.serve_ports(&bundle)) {
            tracing::warn!("no ports are forwarded: {error}");
        }
    }

    fn serve_ports(self: &Arc<Tasks>, bundle: &Path) {
        let loopback = match runtime::config::load(bundle).map(|spec| runtime::config::network_namespace(&spec)) {
            Ok(Some(namespace)) => Loopback::listen(&namespace).map_err(|error| error.to_string()),
            Ok(None) => return,
            Err(error) => Err(error.to_string()),
        };
        let loopback = match loopback {
            Ok(loopback) => Arc::new(loopback),
            Err(error) => return tracing::warn!("no ports are forwarded: {error}"),
        };
        {
            let mut state = self.lock();
            // It has ended meanwhile.
            if state.agent.is_none() {
                return;
            }
            state.loopback = Some(loopback.clone());
        }
        let tasks = self.clone();
        forward::serve(
            || loopback.accept(),
            move |connection, port| match tasks.agent() {
                Ok(agent) => {
                    if let Err(error) = forward::join(&agent, connection, port) {
                        tracing::debug!("port {port}: {error}");
                    }
                }
                Err(status) => tracing::debug!("port {port}: {}", status.message),
            },
        );
    }

    /// The network namespace is let go, so that it can end.
    pub(super) fn end_forwarding(&self) {
        if let Some(loopback) = self.lock().loopback.take() {
            loopback.end();
        }
    }
}
