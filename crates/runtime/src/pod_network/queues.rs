//! How many queues a VM's interfaces have, and who moves their frames: the VMM, or the host's kernel (vhost-net).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::error::{Doing, Result};

/// The host kernel's.
const VHOST_NET: &str = "/dev/vhost-net";
/// Pairs of queues of an interface at most: each is memory and three interrupts of the guest's.
const MOST: usize = 8;

/// Who moves the frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mover {
    Kernel,
    /// The VMM, for this reason.
    Vmm(String),
}

/// What the machine has to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerated {
    ByKvm,
    Emulated,
}

/// A pair for each CPU that the machine starts with. The frames of an emulated one are moved by one thread of the VMM's: there more than one pair cost a
/// tenth of the throughput.
pub fn count(cpus: usize, accelerated: Accelerated) -> usize {
    match accelerated {
        Accelerated::ByKvm => bounded(cpus),
        Accelerated::Emulated => 1,
    }
}

/// As many as there may be.
pub fn bounded(count: usize) -> usize {
    count.clamp(1, MOST)
}

/// vhost-net where the host has it, and a guest's notifications reach it without the VMM.
pub fn mover(accelerated: Accelerated) -> Mover {
    choose(accelerated, Path::new(VHOST_NET))
}

fn choose(accelerated: Accelerated, device: &Path) -> Mover {
    if accelerated == Accelerated::Emulated {
        return Mover::Vmm("vhost-net would take the VMM's help for each notification of an emulated machine".into());
    }
    match open_device(device) {
        Ok(_) => Mover::Kernel,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Mover::Vmm(format!("there is no {} (the kernel's module vhost_net)", device.display()))
        }
        Err(error) => Mover::Vmm(format!("cannot open {}: {error}", device.display())),
    }
}

/// A descriptor for each of `count` queues.
///
/// # Errors
/// The host's.
pub fn open(count: usize) -> Result<Vec<OwnedFd>> {
    let one = |_| open_device(Path::new(VHOST_NET)).doing(|| format!("cannot open {VHOST_NET}"));
    (0..count).map(one).collect()
}

fn open_device(device: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(device)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_for_each_cpu_that_is_one() {
        assert_eq!([0, 1, 2, 8, 64].map(|cpus| count(cpus, Accelerated::ByKvm)), [1, 1, 2, 8, 8]);
        assert_eq!(count(8, Accelerated::Emulated), 1);
    }

    #[test]
    fn the_kernel_moves_frames_where_it_can() {
        let why = |mover| match mover {
            Mover::Vmm(why) => why,
            Mover::Kernel => panic!("the kernel"),
        };
        assert_eq!(choose(Accelerated::ByKvm, Path::new("/dev/null")), Mover::Kernel);
        assert!(why(choose(Accelerated::Emulated, Path::new("/dev/null"))).contains("emulated"));
        let none = why(choose(Accelerated::ByKvm, Path::new("/nonexistent/vhost-net")));
        assert_eq!(none, "there is no /nonexistent/vhost-net (the kernel's module vhost_net)");
        assert!(why(choose(Accelerated::ByKvm, Path::new("/"))).contains("cannot open /: Is a directory"));
    }
}
