//! What our CNI plugin leaves behind, by which a runtime finds a pod's tap: [`StandIn`] in the pod's network namespace, [`Mark`] on the tap.
//!
//! The stand-in is an interface with the pod's name, MAC, addresses and routes that has no carrier; its alias (`ip link` shows it) names the tap and
//! the namespace that this is in. Who owns the pod's namespace may write there what he likes. So the tap's alias has to name that
//! namespace in turn, and that only the host's root can write.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::netlink::{Netlink, alias};
use super::{Way, inside, own_inode};
use crate::error::{Doing, Error, Result};
use crate::sys::{self, TapQueue};

pub const TUN: &str = "/dev/net/tun";
/// What the host's kernel may leave to the packet stack: checksums, and cutting to size of TCP (`TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6`).
const OFFLOADS: u32 = 1 | 2 | 4;
const STAND_IN: &str = "nacre-cni: of use to nacre alone, which takes the tap ";
const MARK: &str = "nacre-cni of";

/// The alias in the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    /// The tap's name,
    pub tap: String,
    /// in the network namespace of this inode.
    pub home: u64,
}

/// The alias of the tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// What CNI calls it by: network, container, interface.
    pub network: String,
    pub container: String,
    pub interface: String,
    /// Inode of the pod's network namespace.
    pub pod: u64,
}

impl fmt::Display for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STAND_IN}{} in net:[{}]", self.tap, self.home)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK} {} {} {} net:[{}]", self.network, self.container, self.interface, self.pod)
    }
}

/// The number in `net:[NUMBER]`.
fn inode(text: &str) -> Option<u64> {
    text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

impl Mark {
    pub fn parse(alias: &str) -> Option<Mark> {
        let mut words = alias.strip_prefix(MARK)?.strip_prefix(' ')?.split(' ');
        let mut word = || words.next().map(String::from);
        let (network, container, interface, pod) = (word()?, word()?, word()?, word()?);
        word().is_none().then_some(())?;
        Some(Mark { network, container, interface, pod: inode(&pod)? })
    }
}

impl StandIn {
    pub fn parse(alias: &str) -> Option<StandIn> {
        let (tap, home) = alias.strip_prefix(STAND_IN)?.split_once(" in ")?;
        Some(StandIn { tap: tap.into(), home: inode(home)? })
    }

    /// Opens the tap that `interface` in the pod's namespace, in which the caller is, stands for.
    ///
    /// # Errors
    /// It is not there, is another's, or a sandbox has it already.
    pub fn open(&self, interface: &str, way: Way) -> Result<OwnedFd> {
        let name = &self.tap;
        let about = || format!("cannot open the tap {name} that interface {interface} stands for");
        let pod = own_inode()?;
        let home = find(self.home).ok_or_else(|| {
            let what = "is in a network namespace that is neither nacre's nor in /run/netns";
            Error::Other(format!("{}: it {what} (net:[{}])", about(), self.home))
        })?;
        let opened = inside(&home, || {
            let link = Netlink::new()?.link(name).map_err(|error| Error::Other(format!("{}: {error}", about())))?;
            let mark = alias(&link).and_then(Mark::parse);
            if !mark.is_some_and(|mark| mark.pod == pod && mark.interface == interface) {
                return Err(Error::Other(format!("{}: it is not this pod's", about())));
            }
            match open(name, TapQueue::Existing) {
                Ok(tap) => {
                    let offloads = if way == Way::PacketSocket { OFFLOADS } else { 0 };
                    sys::set_tap_offloads(tap.as_fd(), offloads).doing(about)?;
                    Ok(tap)
                }
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    Err(Error::Other(format!("{}: another sandbox has it", about())))
                }
                Err(error) => Err(error).doing(about),
            }
        });
        opened.doing(about)?
    }
}

/// A queue of the tap of this name in the caller's network namespace.
pub fn open(name: &str, queue: TapQueue) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open(TUN)?;
    sys::make_tap(tun.as_fd(), name, queue)?;
    Ok(tun.into())
}

/// The network namespace of this inode: this process's (its first thread's), or one with a name.
fn find(inode: u64) -> Option<File> {
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = std::iter::once("/proc/self/ns/net".into()).chain(named).filter_map(|path| File::open(path).ok());
    all.find(|file| file.metadata().is_ok_and(|metadata| metadata.ino() == inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_read_as_they_were_written() {
        let stand_in = StandIn { tap: "veth1234".into(), home: 4_026_531_840 };
        assert_eq!(StandIn::parse(&stand_in.to_string()), Some(stand_in));
        let mark = Mark { network: "pods".into(), container: "c0ffee".into(), interface: "eth0".into(), pod: 7 };
        assert_eq!(Mark::parse(&mark.to_string()), Some(mark.clone()));
        let text = mark.to_string();
        for bad in
            ["", "eth0", "nacre-cni of", "nacre-cni of a b c 7", &format!("{text} x"), &text.replace("net:[7]", "net:[x]")]
        {
            assert_eq!((StandIn::parse(bad), Mark::parse(bad)), (None, None), "{bad}");
        }
    }

    #[test]
    fn namespaces_are_found_by_their_inode() {
        let own = fs::metadata("/proc/self/ns/net").expect("a namespace").ino();
        assert!(find(own).is_some() && find(1).is_none());
    }
}
