//! The interfaces that the machine has, as sysfs shows them.

use std::fs;
use std::path::{Path, PathBuf};

use agent_api::{Code, Status};

const INTERFACES: &str = "/sys/class/net";

/// The card with a hardware address, written as sysfs does. What somebody in the guest has made upon one (a VLAN, a bridge) has the same address, and no device.
pub fn with_address(address: &str) -> Option<String> {
    let mut entries = fs::read_dir(INTERFACES).ok()?.flatten().filter(|entry| entry.path().join("device").exists());
    let has_it =
        |entry: &fs::DirEntry| fs::read_to_string(entry.path().join("address")).is_ok_and(|text| text.trim() == address);
    entries.find(has_it)?.file_name().into_string().ok()
}

/// Has the kernel forget the card with an address, which the machine cannot unplug. That it is not there is as good.
///
/// # Errors
/// The kernel's; it is no PCI device.
pub fn take_out(address: &str) -> Result<(), Status> {
    let Some(name) = with_address(address) else { return Ok(()) };
    let refused = |why: String| Status::new(Code::Internal, format!("cannot take interface {name} out of the guest: {why}"));
    let remove = card(&Path::new(INTERFACES).join(&name)).ok_or_else(|| refused("it is no card of the machine's".into()))?;
    fs::write(remove, "1").map_err(|error| refused(error.to_string()))
}

/// Has the machine's cards use a pair of queues for each of so many CPUs, as far as they have them. (A driver does so itself for the CPUs that are on
/// line when it finds its card.)
pub fn use_queues(cpus: u32) {
    for entry in fs::read_dir(INTERFACES).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if card(&entry.path()).is_none() {
            continue;
        }
        if let Err(errno) = crate::sys::use_queues(&name, cpus) {
            crate::log::warn(format_args!("interface {name} has fewer queues than CPUs: {errno}"));
        }
    }
}

/// The file that takes out the PCI device which an interface's virtio device is in.
fn card(interface: &Path) -> Option<PathBuf> {
    let device = fs::canonicalize(interface.join("device")).ok()?;
    let is_virtio = device.file_name()?.to_str()?.starts_with("virtio");
    let remove = device.parent()?.join("remove");
    (is_virtio && remove.exists()).then_some(remove)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_a_virtio_card_is_taken_out() {
        let dir = std::env::temp_dir().join(format!("nacre-agent-net-{}", std::process::id()));
        for (interface, device) in [("eth0", "pci0/card/virtio3"), ("veth0", "pci0/card/other0")] {
            fs::create_dir_all(dir.join(device)).expect("a device");
            fs::create_dir_all(dir.join(interface)).expect("an interface");
            symlink(dir.join(device), dir.join(interface).join("device")).expect("a link");
        }
        fs::create_dir_all(dir.join("made")).expect("an interface without a device");
        assert_eq!(card(&dir.join("eth0")), None, "a bus whose devices stay");
        fs::write(dir.join("pci0/card/remove"), "").expect("a file");
        assert!(card(&dir.join("eth0")).is_some_and(|remove| remove.ends_with("pci0/card/remove")));
        assert_eq!((card(&dir.join("veth0")), card(&dir.join("made"))), (None, None));
        fs::remove_dir_all(dir).expect("removed");
    }
}
