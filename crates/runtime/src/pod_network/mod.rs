//! Joining the network namespace that a CNI plugin, or anybody, has made for a pod.
//!
//! [`join`] enters it on a thread of its own, reads what is there ([`netlink`]), and opens a way to each Ethernet interface. For a sentry that is a
//! packet socket, and the host's kernel is silenced there ([`silence`]). For a VM it is a tap whose frames the kernel passes on before it looks
//! at them ([`tcfilter`]). Addresses, routes and neighbours stay, for whoever made them. What a sandbox leaves behind is filters, which [`leave`] takes
//! away, or the next one that joins. What comes and goes later a VM is told of by [`update`](update::update).
//!
//! Where our CNI plugin has been ([`crate::nacre_cni`]), the pod's interface is a tap on the host's side already, and what is in the namespace stands
//! for it ([`stand_in`]): both kinds of sandbox get the tap itself.

mod guest;
mod hold;
mod loopback;
pub(crate) mod netlink;
pub mod queues;
mod silence;
pub(crate) mod stand_in;
mod tc;
mod tcfilter;
mod update;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use netstack::config::{Description, Interface};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

pub use self::guest::for_guest;
pub use self::loopback::Loopback;
use self::netlink::Netlink;
use self::stand_in::StandIn;
pub use self::update::update;
use crate::error::{Doing, Error, Result};

/// A pod's network: what it looked like, and ways to each interface in its order.
#[derive(Debug, Default)]
pub struct Joined {
    pub description: Description,
    /// Ways to each interface.
    pub queues: usize,
    pub ways: Vec<(Way, OwnedFd)>,
    /// As long as it is open, nobody else can join. A VM needs none: its taps have names.
    pub hold: Option<OwnedFd>,
}

/// How a sandbox gets at an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// A packet socket, with virtio-net headers.
    PacketSocket,
    /// A tap with this many queues, with virtio-net headers; all frames go from it to the interface and back, or it is the interface.
    Tap(usize),
}

/// Takes the network of the namespace at `path` over. `way` is for interfaces that are no taps of [`crate::nacre_cni`]'s already.
///
/// # Errors
/// No such namespace, no right to enter it, another sandbox has it, an interface that is not Ethernet or has no address; the host's.
pub fn join(path: &Path, way: Way) -> Result<Joined> {
    within(path, move |netlink, name| take_over(netlink, name, way))
}

/// Lets the interfaces of the namespace at `path` be as they were before a sandbox joined it, which has ended. Logs what fails: the next one that
/// joins does it as well. An address that was taken off ([`silence`]) stays away.
pub fn leave(path: &Path) {
    let left = within(path, |netlink, name| {
        let _hold = hold::take(name)?;
        tc::clear_all(netlink)
    });
    if let Err(error) = left {
        tracing::debug!("the network namespace {} is left as it is: {error}", path.display());
    }
}

/// Numbers and names of the interfaces in the caller's network namespace.
///
/// # Errors
/// The host's.
pub fn names() -> Result<Vec<(i32, String)>> {
    Netlink::new()?.names()
}

/// Whether the namespace at `path` has an interface of this name.
///
/// # Errors
/// No such namespace, no right to enter it; the host's.
pub fn has_interface(path: &Path, interface: &str) -> Result<bool> {
    within(path, |netlink, _| Ok(netlink.names()?.iter().any(|(_, name)| name == interface)))
}

/// Does something in the network namespace at `path`, with the name that messages have for it.
fn within<T: Send>(path: &Path, work: impl FnOnce(&mut Netlink, &str) -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(path).doing(|| format!("cannot open the network namespace {}", path.display()))?;
    let name = path.display().to_string();
    let about = || format!("cannot enter the network namespace {}", path.display());
    inside(&namespace, || work(&mut Netlink::new()?, &name)).doing(about)?
}

/// Does something in a network namespace, on a thread of its own: a thread's network namespace is its own, and this one ends with it.
pub(crate) fn inside<T: Send>(namespace: &File, body: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("network".into()).spawn_scoped(scope, || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(body())
        });
        worker?.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// The inode of the calling thread's network namespace.
pub(crate) fn own_inode() -> Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net").doing(|| "cannot look at the network namespace")?.ino())
}

fn take_over(netlink: &mut Netlink, name: &str, way: Way) -> Result<Joined> {
    let hold = hold::take(name)?;
    let joined = take_ways(netlink, name, way);
    if joined.is_err() {
        // The error that is told is the first.
        let _ = tc::clear_all(netlink);
    }
    Ok(Joined { hold: (way == Way::PacketSocket).then_some(hold), ..joined? })
}

fn take_ways(netlink: &mut Netlink, name: &str, way: Way) -> Result<Joined> {
    let (description, aliases) = netlink.describe(name)?;
    let stand_ins: Vec<Option<StandIn>> = aliases.iter().map(|alias| StandIn::parse(alias)).collect();
    // Those taps have one, and all interfaces of a VM as many.
    let queues = match way {
        Way::Tap(queues) if !stand_ins.iter().any(Option::is_some) => queues,
        _ => 1,
    };
    let mut ways = Vec::new();
    for (interface, stand_in) in description.interfaces.iter().zip(stand_ins) {
        if interface.addresses.is_empty() {
            return Err(Error::Other(format!("interface {} in network namespace {name} has no address", interface.name)));
        }
        if let Some(stand_in) = stand_in {
            ways.push((Way::Tap(1), stand_in.open(&interface.name, way)?));
            continue;
        }
        tcfilter::check_free(netlink, interface)?;
        match way {
            Way::PacketSocket => ways.push((way, packet_socket(netlink, interface, name)?)),
            Way::Tap(_) => ways.extend(tcfilter::tap(netlink, interface, queues)?.into_iter().map(|tap| (way, tap))),
        }
    }
    Ok(Joined { description, queues, ways, hold: None })
}

/// A packet socket on an interface on which the host's kernel does nothing any more: it is silenced, or, where it cannot be, has no address left.
fn packet_socket(netlink: &mut Netlink, interface: &Interface, name: &str) -> Result<OwnedFd> {
    let socket =
        hostcall::packet::open(interface.index, silence::MARK).map_err(|errno| io::Error::from_raw_os_error(errno.raw()));
    let socket = socket.doing(|| format!("cannot open a packet socket on {} in {name}", interface.name))?;
    if let Err(why) = silence::silence(netlink, interface) {
        tracing::warn!("interface {} in {name} loses its addresses: {why}", interface.name);
        for address in &interface.addresses {
            netlink.take_off(interface.index, address)?;
        }
    }
    Ok(socket)
}
