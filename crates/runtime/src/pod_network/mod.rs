//! Joining the network namespace that a CNI plugin, or anybody, has made for a pod.
//!
//! [`join`] enters it on a thread of its own, reads what is there ([`netlink`]), and opens a way to each Ethernet interface. For a sentry that is a
//! packet socket; the addresses are taken off then, so that the host's kernel does not answer for it. For a VM it is a tap whose frames the
//! kernel passes on before it looks at them ([`tcfilter`]): the addresses stay. Nothing is put back: the namespace is the pod's, and who made it takes
//! it away. What comes and goes later a VM is told of by [`update`](update::update).

mod guest;
mod loopback;
mod netlink;
pub mod queues;
mod tcfilter;
mod update;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use netstack::config::Description;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub use self::guest::for_guest;
pub use self::loopback::Loopback;
use self::netlink::Netlink;
pub use self::update::update;
use crate::error::{Doing, Error, Result};

/// A pod's network: what it looked like, and ways to each interface in its order.
#[derive(Debug, Default)]
pub struct Joined {
    pub description: Description,
    pub ways: Vec<OwnedFd>,
}

/// How a sandbox gets at an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A packet socket, with virtio-net headers.
    PacketSocket,
    /// A tap with this many queues, with virtio-net headers; all frames go from it to the interface and back.
    Tap(usize),
}

/// Takes the network of the namespace at `path` over.
///
/// # Errors
/// No such namespace, no right to enter it, an interface that is not Ethernet or has no address left; the host's.
pub fn join(path: &Path, way: Way) -> Result<Joined> {
    within(path, move |netlink, name| take_over(netlink, name, way))
}

/// Does something in the network namespace at `path`, with the name that messages have for it.
fn within<T: Send + 'static>(path: &Path, work: impl FnOnce(&mut Netlink, &str) -> Result<T> + Send + 'static) -> Result<T> {
    let namespace = File::open(path).doing(|| format!("cannot open the network namespace {}", path.display()))?;
    let name = path.display().to_string();
    let about = || format!("cannot enter the network namespace {}", path.display());
    inside(namespace, move |_| work(&mut Netlink::new()?, &name)).doing(about)?
}

/// Does something in a network namespace, on a thread of its own: a thread's network namespace is its own, and this one ends with it.
fn inside<T: Send + 'static>(namespace: File, body: impl FnOnce(&File) -> T + Send + 'static) -> io::Result<T> {
    let worker = std::thread::Builder::new().name("network".into()).spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(body(&namespace))
    });
    worker?.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

fn take_over(netlink: &mut Netlink, name: &str, way: Way) -> Result<Joined> {
    let description = netlink.describe(name)?;
    let mut ways = Vec::new();
    for interface in &description.interfaces {
        if interface.addresses.is_empty() {
            return Err(Error::Other(format!(
                "interface {} in network namespace {name} has no address (has another sandbox taken it over?)",
                interface.name
            )));
        }
        tcfilter::check_free(netlink, interface)?;
        match way {
            Way::PacketSocket => {
                let socket =
                    hostcall::packet::open(interface.index).map_err(|errno| std::io::Error::from_raw_os_error(errno.raw()));
                ways.push(socket.doing(|| format!("cannot open a packet socket on {} in {name}", interface.name))?);
            }
            Way::Tap(queues) => ways.extend(tcfilter::tap(netlink, interface, queues)?),
        }
    }
    if way == Way::PacketSocket {
        for interface in &description.interfaces {
            for address in &interface.addresses {
                netlink.take_off(interface.index, address)?;
            }
        }
    }
    Ok(Joined { description, ways })
}
