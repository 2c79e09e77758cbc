//! `linux.devices`: the nodes that a container has beside the usual ones.

use agent_api::dev::access;
use agent_api::{Device, DeviceDisk, DeviceKind, DeviceRule};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{ConfigError, wrong};
use crate::sandbox::{Disk, DiskSource, Hold};

/// Nodes for the sandbox to make.
///
/// A block device that the container is given by a rule of its own (a raw block volume, `--device`) is a disk of the host's, which joins `disks`. Those that
/// come with all others of the host (a privileged container) are left out: the number of one names nothing in a sentry, and in a VM a disk of the guest's,
/// perhaps another container's.
///
/// One that the host itself may only read (`is_read_only`, by its number) is to be read, whatever the rules allow.
///
/// # Errors
/// Names the device.
pub(super) fn devices(
    linux: &Linux,
    disks: &mut Vec<Disk>,
    is_read_only: impl Fn(u32, u32) -> bool,
) -> Result<Vec<Device>, ConfigError> {
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let mut made = Vec::new();
    for device in linux.devices().iter().flatten() {
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Character,
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::A => return Err(wrong(name(device), "type \"a\" is no device type")),
            LinuxDeviceType::B if is_given(device, rules) => DeviceKind::Block,
            LinuxDeviceType::B => {
                tracing::info!("{}: no sandbox has all of the host's block devices", name(device));
                continue;
            }
        };
        let mut node = node(device, kind)?;
        if kind == DeviceKind::Block {
            let allowed = wanted(device, rules)?;
            let wanted = if is_read_only(node.major, node.minor) { Hold::Read } else { allowed };
            let source = DiskSource::Device { major: node.major, minor: node.minor };
            disks.push(Disk { key: name(device), source, wanted });
            node.disk = Some(DeviceDisk { disk: disks.len() as u32 - 1, read_only: wanted == Hold::Read });
        }
        made.push(node);
    }
    Ok(made)
}

/// What may be done with devices in a VM. Rules for block devices of a number are left out: it is the host's, and the disks that they give are told of by
/// their nodes.
///
/// # Errors
/// Names the rule.
pub(super) fn rules(linux: &Linux) -> Result<Vec<DeviceRule>, ConfigError> {
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let mut made = Vec::new();
    for (place, rule) in rules.iter().enumerate() {
        let key = || format!("linux.resources.devices[{place}]");
        let number = |value: Option<i64>, what: &str| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value).map(Some).map_err(|_| wrong(key(), format!("{what} {value} is out of range"))),
        };
        let (major, minor) = (number(rule.major(), "major")?, number(rule.minor(), "minor")?);
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => None,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(DeviceKind::Character.into()),
            Some(LinuxDeviceType::B) => Some(DeviceKind::Block.into()),
            Some(LinuxDeviceType::P) => return Err(wrong(key(), "type \"p\": FIFOs are no devices")),
        };
        if kind == Some(DeviceKind::Block.into()) && (major.is_some() || minor.is_some()) {
            continue;
        }
        let letter = |(bit, letter): (u32, char)| if access_of(rule).contains(letter) { bit } else { 0 };
        let access = [(access::MKNOD, 'm'), (access::READ, 'r'), (access::WRITE, 'w')].into_iter().map(letter).sum();
        made.push(DeviceRule { allow: rule.allow(), kind, major, minor, access });
    }
    Ok(made)
}

/// What a rule is about. As with runc, one that allows without saying what allows nothing, and one that denies all devices (type `a`, or none) denies all that
/// is done with them.
fn access_of(rule: &LinuxDeviceCgroup) -> &str {
    let is_of_all = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
    let is_of_every = is_of_all && [rule.major(), rule.minor()].iter().all(|number| number.is_none_or(|number| number == -1));
    match rule.access().as_deref().unwrap_or_default() {
        _ if is_of_every && !rule.allow() => "rwm",
        "" if !rule.allow() => "rwm",
        access => access,
    }
}

/// What the rules allow of a disk: in order, each adds to those before or takes from them.
fn wanted(device: &LinuxDevice, rules: &[LinuxDeviceCgroup]) -> Result<Hold, ConfigError> {
    let any_or = |rule: Option<i64>, number: i64| rule.is_none_or(|rule| rule == -1 || rule == number);
    let (mut read, mut write) = (false, false);
    for rule in rules {
        let of_blocks = matches!(rule.typ(), None | Some(LinuxDeviceType::A | LinuxDeviceType::B));
        if !of_blocks || !any_or(rule.major(), device.major()) || !any_or(rule.minor(), device.minor()) {
            continue;
        }
        for (letter, allowed) in [('r', &mut read), ('w', &mut write)] {
            if access_of(rule).contains(letter) {
                *allowed = rule.allow();
            }
        }
    }
    match (read, write) {
        (true, true) => Ok(Hold::WriteTogether),
        (true, false) => Ok(Hold::Read),
        (false, _) => {
            Err(wrong(name(device), "the rules of linux.resources.devices do not let it be read: no disk is given so"))
        }
    }
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
        disk: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nodes' paths and disks, and the disks.
    type Made = (Vec<(Vec<u8>, Option<DeviceDisk>)>, Vec<Disk>);

    fn of(rules: &str) -> Result<Made, String> {
        on_host(rules, false)
    }

    fn on_host(rules: &str, is_read_only: bool) -> Result<Made, String> {
        let text = format!(
            r#"{{"devices":[{{"path":"/dev/fuse","type":"c","major":10,"minor":229}},{{"path":"/dev/disk","type":"b","major":8,"minor":1}}],
            "resources":{{"devices":[{{"allow":false,"access":"rwm"}}{rules}]}}}}"#
        );
        let of_mount = Disk { key: "mounts[0]".into(), source: DiskSource::Path("of/a/mount".into()), wanted: Hold::Write };
        let mut disks = vec![of_mount];
        let made = devices(&serde_json::from_str(&text).expect("linux"), &mut disks, |_, _| is_read_only);
        let made = made.map_err(|error| error.to_string())?;
        Ok((made.into_iter().map(|device| (device.path, device.disk)).collect(), disks.split_off(1)))
    }

    #[test]
    fn rules_are_told_without_numbers_of_the_hosts_disks() {
        let rules_of = |text: &str| {
            let linux = format!(r#"{{"resources":{{"devices":[{text}]}}}}"#);
            rules(&serde_json::from_str(&linux).expect("linux")).map_err(|error| error.to_string())
        };
        let found = rules_of(
            r#"{"allow":false},{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"},{"allow":true,"type":"b","major":8,"access":"rwm"},
            {"allow":true,"type":"b","major":-1,"access":"m"},{"allow":true,"type":"c","major":1}"#,
        );
        let all = access::MKNOD | access::READ | access::WRITE;
        let (character, block) = (Some(DeviceKind::Character.into()), Some(DeviceKind::Block.into()));
        let rule = |allow, kind, (major, minor), access| DeviceRule { allow, kind, major, minor, access };
        let expected = vec![
            rule(false, None, (None, None), all),
            rule(true, character, (Some(10), Some(229)), all),
            rule(true, block, (None, None), access::MKNOD),
            rule(true, character, (Some(1), None), 0),
        ];
        assert_eq!(found, Ok(expected));
        let wrong = rules_of(r#"{"allow":true},{"allow":true,"type":"c","major":5000000000}"#).expect_err("refused");
        assert!(wrong.contains("linux.resources.devices[1]") && wrong.contains("major 5000000000"), "{wrong}");
    }

    #[test]
    fn block_devices_are_given_or_left_out() {
        let fuse = (b"/dev/fuse".to_vec(), None);
        for rules in
            ["", r#",{"allow":true,"access":"rwm"}"#, r#",{"allow":true,"type":"c","major":8,"minor":1,"access":"rw"}"#]
        {
            assert_eq!(of(rules).expect("made"), (vec![fuse.clone()], vec![]), "{rules}");
        }
        let of_it =
            |allow: bool, access: &str| format!(r#",{{"allow":{allow},"type":"b","major":8,"minor":1,"access":"{access}"}}"#);
        for (rules, wanted) in [
            (of_it(true, "rwm"), Hold::WriteTogether),
            (of_it(true, "rw"), Hold::WriteTogether),
            (of_it(true, "r") + &of_it(true, "w"), Hold::WriteTogether),
            (of_it(true, "r"), Hold::Read),
            (of_it(true, "rwm") + &of_it(false, "w"), Hold::Read),
            (of_it(true, "r") + r#",{"allow":true,"type":"b","major":8,"access":"w"}"#, Hold::WriteTogether),
            (of_it(true, "r") + r#",{"allow":true,"type":"b","major":9,"access":"w"}"#, Hold::Read),
        ] {
            for (is_read_only, wanted) in [(false, wanted), (true, Hold::Read)] {
                let key = "linux.devices /dev/disk".into();
                let disk = Disk { key, source: DiskSource::Device { major: 8, minor: 1 }, wanted };
                let node = DeviceDisk { disk: 1, read_only: wanted == Hold::Read };
                let made = (vec![fuse.clone(), (b"/dev/disk".to_vec(), Some(node))], vec![disk]);
                assert_eq!(on_host(&rules, is_read_only).expect("made"), made, "{rules}");
            }
        }
        let bare = r#",{"allow":true,"type":"b","major":8,"minor":1}"#.to_string();
        for rules in [
            of_it(true, "w"),
            of_it(true, ""),
            bare,
            of_it(true, "rwm") + &of_it(false, ""),
            // All that was given before is taken.
            of_it(true, "rwm") + r#",{"allow":false,"type":"a","access":"m"}"#,
            of_it(true, "rwm") + r#",{"allow":false,"major":-1,"minor":-1,"access":"w"}"#,
            of_it(true, "rwm") + r#",{"allow":false}"#,
        ] {
            let unread = of(&rules).expect_err("not to be read");
            assert!(
                unread.contains("linux.devices /dev/disk") && unread.contains("do not let it be read"),
                "{rules}: {unread}"
            );
        }
    }
}
