//! Port-forward: containerd connects to localhost in the pod's network namespace, and the sandbox is to answer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime::forward::{Loopback, join};
use runtime::state::Entry;

use super::Tasks;

/// Connections at a time: each has two threads.
const MOST: usize = 128;
/// Of the threads.
const STACK: usize = 128 << 10;

impl Tasks {
    /// Passes on what connects to localhost in the network namespace of the pod's first container, if it has one. On a thread of its own.
    pub(super) fn forward_ports(self: &Arc<Tasks>, entry: &Entry) {
        if entry.saved.is_member() {
            return;
        }
        let (tasks, bundle) = (self.clone(), entry.saved.bundle.clone());
        let thread = std::thread::Builder::new().name("ports".into()).stack_size(STACK);
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
        self.accept_ports(&loopback);
    }

    /// The network namespace is let go, so that it can end.
    pub(super) fn end_forwarding(&self) {
        if let Some(loopback) = self.lock().loopback.take() {
            loopback.end();
        }
    }

    fn accept_ports(self: &Arc<Tasks>, loopback: &Loopback) {
        let connections = Arc::new(AtomicUsize::new(0));
        loop {
            let (connection, port) = match loopback.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("cannot take a connection: {error}");
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    continue;
                }
            };
            if connections.fetch_add(1, Ordering::Relaxed) >= MOST {
                connections.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!("port {port}: {MOST} connections are being forwarded already");
                continue;
            }
            let (tasks, open) = (self.clone(), connections.clone());
            let forwarded = std::thread::Builder::new().name("port".into()).stack_size(STACK).spawn(move || {
                match tasks.agent() {
                    Ok(agent) => {
                        if let Err(error) = join(&agent, &connection, port) {
                            tracing::debug!("port {port}: {error}");
                        }
                    }
                    Err(status) => tracing::debug!("port {port}: {}", status.message),
                }
                open.fetch_sub(1, Ordering::Relaxed);
            });
            if let Err(error) = forwarded {
                connections.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!("port {port}: {error}");
            }
        }
    }
}
