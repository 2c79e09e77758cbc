//! `linux.devices`: the nodes that a container has beside the usual ones.

use agent_api::{Device, DeviceKind};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{ConfigError, wrong};

/// Nodes for the sandbox to make.
///
/// A block device's number is the host's, and names nothing in a sentry, and in a VM a disk of the guest's: perhaps another container's. So one that a container is
/// given (a raw block volume, `--device`) is refused, and those that come with all others of the host (a privileged container) are left out.
///
/// # Errors
/// Names the device.
pub(super) fn devices(linux: &Linux) -> Result<Vec<Device>, ConfigError> {
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let mut made = Vec::new();
    for device in linux.devices().iter().flatten() {
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::A => return Err(wrong(name(device), "type \"a\" is no device type")),
            LinuxDeviceType::B if is_given(device, rules) => {
                let problem = "a block device cannot be given to a sandbox yet: use a volume with a file system";
                return Err(wrong(name(device), problem));
            }
            LinuxDeviceType::B => {
                tracing::info!("{}: no sandbox has the host's block devices", name(device));
                continue;
            }
        };
        made.push(node(device, kind)?);
    }
    Ok(made)
}

/// Whether a rule is for this device, rather than for all.
fn is_given(device: &LinuxDevice, rules: &[LinuxDeviceCgroup]) -> bool {
    let is_for = |rule: &LinuxDeviceCgroup| {
        rule.allow()
            && matches!(rule.typ(), None | Some(LinuxDeviceType::A | LinuxDeviceType::B))
            && (rule.major(), rule.minor()) == (Some(device.major()), Some(device.minor()))
    };
    rules.iter().any(is_for)
}

fn name(device: &LinuxDevice) -> String {
    format!("linux.devices {}", device.path().display())
}

fn node(device: &LinuxDevice, kind: DeviceKind) -> Result<Device, ConfigError> {
    let number = |value: i64, what: &str| {
        u32::try_from(value).map_err(|_| wrong(name(device), format!("{what} {value} is out of range")))
    };
    Ok(Device {
        path: device.path().as_os_str().as_encoded_bytes().to_vec(),
        kind: kind.into(),
        major: number(device.major(), "major")?,
        minor: number(device.minor(), "minor")?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &str) -> Result<Vec<Device>, String> {
        let text = format!(
            r#"{{"devices":[{{"path":"/dev/fuse","type":"c","major":10,"minor":229}},{{"path":"/dev/disk","type":"b","major":8,"minor":1}}],
            "resources":{{"devices":[{{"allow":false,"access":"rwm"}}{rules}]}}}}"#
        );
        devices(&serde_json::from_str(&text).expect("linux")).map_err(|error| error.to_string())
    }

    #[test]
    fn block_devices_are_refused_or_left_out() {
        let paths = |devices: Vec<Device>| devices.into_iter().map(|device| device.path).collect::<Vec<_>>();
        assert_eq!(paths(of("").expect("made")), [b"/dev/fuse"]);
        assert_eq!(paths(of(r#",{"allow":true,"access":"rwm"}"#).expect("privileged")), [b"/dev/fuse"]);
        let other = of(r#",{"allow":true,"type":"c","major":8,"minor":1,"access":"rw"}"#);
        assert_eq!(paths(other.expect("a character device's rule")), [b"/dev/fuse"]);
        let given = of(r#",{"allow":true,"type":"b","major":8,"minor":1,"access":"rw"}"#).expect_err("given");
        assert!(given.contains("/dev/disk") && given.contains("block device"), "{given}");
    }
}
