//! [`Member`]: a socket's membership in a group, of which the routers of a link know.

use core::net::IpAddr;
use std::sync::{Arc, Weak};

use crate::net::NetNamespace;
use crate::time::MonoTime;

/// As long as it lives somebody is in the group.
pub struct Member {
    net: Weak<NetNamespace>,
    /// Position of the interface.
    interface: usize,
    group: IpAddr,
}

impl Member {
    /// Joins a group on the link of an interface with this index. None: routers are not told, as that is the loopback interface, a group that stays on
    /// its link, or one too many.
    pub fn new(net: &Arc<NetNamespace>, device: i32, group: IpAddr) -> Option<Member> {
        let network = &net.stack()?.network;
        let interface = network.interfaces().iter().position(|interface| interface.index == device)?;
        network.join(net.clock.monotonic().0, interface, group).then_some(())?;
        let member = Member { net: Arc::downgrade(net), interface, group };
        member.watch(net);
        Some(member)
    }

    /// The report goes from the timer: nothing is sent under a socket's lock.
    fn watch(&self, net: &Arc<NetNamespace>) {
        if let Some(stack) = net.stack() {
            stack.arm_at(net, net.clock.monotonic());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(net) = self.net.upgrade() else { return };
        let Some(stack) = net.stack() else { return };
        stack.network.leave(net.clock.monotonic().0, self.interface, self.group);
        self.watch(&net);
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.group, self.interface)
    }
}

impl super::Stack {
    /// Makes sure that [`super::Stack::due`] is called by then.
    pub(super) fn arm_at(self: &Arc<Self>, net: &Arc<NetNamespace>, at: MonoTime) {
        self.timer.arm(&net.timers, at, || {
            let (stack, net) = (Arc::downgrade(self), Arc::downgrade(net));
            Arc::new(move || {
                if let (Some(stack), Some(net)) = (stack.upgrade(), net.upgrade()) {
                    stack.timer.fired();
                    stack.due(&net);
                    stack.arm(&net);
                }
            })
        });
    }
}
