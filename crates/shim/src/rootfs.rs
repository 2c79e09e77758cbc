//! The root that containerd's snapshotter describes: mounted at the bundle's `rootfs`, as runc's shim does.

use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::proto::Mount;

/// Mounts in order. What was mounted before one fails is taken away again.
///
/// # Errors
/// Names the mount.
pub fn mount(mounts: &[Mount], target: &Path) -> Result<(), String> {
    if mounts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(target).map_err(|e| format!("cannot make {}: {e}", target.display()))?;
    for mount in mounts {
        if let Err(error) = one(mount, target) {
            unmount(target);
            return Err(format!("cannot mount {} ({}) at {}: {error}", mount.source, mount.kind, target.display()));
        }
    }
    Ok(())
}

fn one(mount: &Mount, target: &Path) -> rustix::io::Result<()> {
    let Options { flags, propagation, data } = Options::parse(&mount.options);
    let data = std::ffi::CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    if flags.contains(MountFlags::BIND) {
        let recursive = flags & (MountFlags::BIND | MountFlags::REC);
        match recursive.contains(MountFlags::REC) {
            true => rustix::mount::mount_bind_recursive(&mount.source, target)?,
            false => rustix::mount::mount_bind(&mount.source, target)?,
        }
        let rest = flags - MountFlags::REC;
        if rest != MountFlags::BIND {
            rustix::mount::mount_remount(target, rest, c"")?;
        }
    } else {
        rustix::mount::mount(&mount.source, target, &mount.kind, flags, Some(data.as_c_str()))?;
    }
    match propagation {
        Some(propagation) => rustix::mount::mount_change(target, propagation),
        None => Ok(()),
    }
}

/// Takes away all that is mounted there; nothing is no error.
pub fn unmount(target: &Path) {
    while rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
}

struct Options {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    /// For the file system itself.
    data: String,
}

impl Options {
    fn parse(options: &[String]) -> Options {
        let mut parsed = Options { flags: MountFlags::empty(), propagation: None, data: String::new() };
        for option in options {
            match option.as_str() {
                "ro" => parsed.flags |= MountFlags::RDONLY,
                "rw" => parsed.flags -= MountFlags::RDONLY,
                "bind" => parsed.flags |= MountFlags::BIND,
                "rbind" => parsed.flags |= MountFlags::BIND | MountFlags::REC,
                "nosuid" => parsed.flags |= MountFlags::NOSUID,
                "nodev" => parsed.flags |= MountFlags::NODEV,
                "noexec" => parsed.flags |= MountFlags::NOEXEC,
                "noatime" => parsed.flags |= MountFlags::NOATIME,
                "nodiratime" => parsed.flags |= MountFlags::NODIRATIME,
                "relatime" => parsed.flags |= MountFlags::RELATIME,
                "sync" => parsed.flags |= MountFlags::SYNCHRONOUS,
                "private" => parsed.propagation = Some(MountPropagationFlags::PRIVATE),
                "rprivate" => parsed.propagation = Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
                "slave" => parsed.propagation = Some(MountPropagationFlags::DOWNSTREAM),
                "rslave" => parsed.propagation = Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC),
                "defaults" | "suid" | "dev" | "exec" | "async" => {}
                data => {
                    if !parsed.data.is_empty() {
                        parsed.data.push(',');
                    }
                    parsed.data.push_str(data);
                }
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = ["ro", "lowerdir=/a:/b", "rbind", "index=off", "rprivate"].map(String::from);
        let parsed = Options::parse(&options);
        assert_eq!(parsed.flags, MountFlags::RDONLY | MountFlags::BIND | MountFlags::REC);
        assert_eq!(parsed.data, "lowerdir=/a:/b,index=off");
        assert!(parsed.propagation.is_some());
    }
}
