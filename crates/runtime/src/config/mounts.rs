//! `mounts` of config.json: kinds, flags and options.

use std::fs;
use std::path::{Path, PathBuf};

use agent_api::{DevptsMount, DiskMount, Empty, Mount, MountFlags, TmpfsMount, mount::Kind};
use oci_spec::runtime::Mount as OciMount;

use super::{ConfigError, missing, unsupported, wrong};
use crate::process::gofer::Attach;
use crate::sandbox::{Disk, DiskSource, Hold};

/// What of the host a container's mounts need, as [`ContainerPlan`](crate::sandbox::ContainerPlan) has it.
#[derive(Debug, Default)]
pub(crate) struct OfHost {
    pub attaches: Vec<Attach>,
    pub images: Vec<PathBuf>,
    pub disks: Vec<Disk>,
}

/// File systems on disks that a VM's kernel may have.
const DISK_FILE_SYSTEMS: [&str; 6] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "vfat"];

/// Translates all mounts in order, and collects what they need.
pub(crate) fn mounts(list: &[OciMount], bundle: &Path, of_host: &mut OfHost) -> Result<Vec<Mount>, ConfigError> {
    list.iter().enumerate().map(|(index, mount)| one(mount, &format!("mounts[{index}]"), bundle, of_host)).collect()
}

fn one(mount: &OciMount, key: &str, bundle: &Path, of_host: &mut OfHost) -> Result<Mount, ConfigError> {
    if mount.destination().as_os_str().is_empty() {
        return Err(missing(&format!("{key}.destination")));
    }
    let options = Options::parse(mount.options().as_deref().unwrap_or_default(), key)?;
    let source = mount.source().as_deref();
    let kind = match (mount.typ().as_deref().unwrap_or_default(), options.bind) {
        (_, recursive @ Some(_)) | ("bind", recursive) => {
            let recursive = recursive.unwrap_or(Recursive::No);
            bind(source, recursive, options.flags.read_only, key, bundle, &mut of_host.attaches)?
        }
        ("tmpfs", None) if mount.destination() == Path::new("/dev") => Kind::Dev(options.tmpfs(key)?),
        ("tmpfs", None) => Kind::Tmpfs(options.tmpfs(key)?),
        ("proc", None) => Kind::Proc(Empty {}),
        ("sysfs", None) => Kind::Sysfs(Empty {}),
        ("devpts", None) => Kind::Devpts(options.devpts(key)?),
        ("mqueue", None) => Kind::Mqueue(Empty {}),
        ("cgroup" | "cgroup2", None) => Kind::Cgroup(Empty {}),
        ("erofs", None) => {
            let source = source.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| missing(&format!("{key}.source")))?;
            of_host.images.push(bundle.join(source));
            Kind::Erofs(of_host.images.len() as u32 - 1)
        }
        (kind, None) if DISK_FILE_SYSTEMS.contains(&kind) => {
            let source = source.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| missing(&format!("{key}.source")))?;
            let wanted = if options.flags.read_only { Hold::Read } else { Hold::Write };
            of_host.disks.push(Disk { key: key.into(), source: DiskSource::Path(bundle.join(source)), wanted });
            let option =
                |(name, value): &(String, String)| if value.is_empty() { name.clone() } else { format!("{name}={value}") };
            Kind::Disk(DiskMount {
                disk: of_host.disks.len() as u32 - 1,
                file_system: kind.into(),
                options: options.data.iter().map(option).collect(),
            })
        }
        ("", None) => return Err(missing(&format!("{key}.type"))),
        (other, None) => return Err(unsupported(format!("{key}.type"), format!("the file system {other:?}"))),
    };
    Ok(Mount {
        destination: Path::new("/").join(mount.destination()).into_os_string().into_encoded_bytes(),
        kind: Some(kind),
        flags: Some(options.flags),
        source: source.map_or_else(Vec::new, |path| path.as_os_str().as_encoded_bytes().to_vec()),
    })
}

fn bind(
    source: Option<&Path>,
    recursive: Recursive,
    read_only: bool,
    key: &str,
    bundle: &Path,
    attaches: &mut Vec<Attach>,
) -> Result<Kind, ConfigError> {
    let source = source.filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| missing(&format!("{key}.source")))?;
    let source = fs::canonicalize(bundle.join(source))
        .map_err(|e| wrong(format!("{key}.source"), format!("{}: {e}", source.display())))?;
    let attach =
        Attach { source, recursive: recursive == Recursive::Yes, read_only, exclusive: false, hidden: Vec::new(), told: true };
    Ok(attach.mounted(attaches))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recursive {
    Yes,
    No,
}

/// Mount options, sorted into flags and data.
#[derive(Debug, Default)]
struct Options {
    flags: MountFlags,
    bind: Option<Recursive>,
    /// `name` or `name=value`.
    data: Vec<(String, String)>,
}

impl Options {
    fn parse(list: &[String], key: &str) -> Result<Options, ConfigError> {
        let mut options = Options::default();
        let flags = &mut options.flags;
        for option in list {
            match option.as_str() {
                "bind" => options.bind = Some(Recursive::No),
                "rbind" => options.bind = Some(Recursive::Yes),
                "ro" | "rro" => flags.read_only = true,
                "rw" | "rrw" => flags.read_only = false,
                "nosuid" | "rnosuid" => flags.nosuid = true,
                "suid" => flags.nosuid = false,
                "nodev" | "rnodev" => flags.nodev = true,
                "dev" => flags.nodev = false,
                "noexec" | "rnoexec" => flags.noexec = true,
                "exec" => flags.noexec = false,
                "noatime" => flags.noatime = true,
                "atime" => flags.noatime = false,
                "nodiratime" => flags.nodiratime = true,
                "diratime" => flags.nodiratime = false,
                "relatime" => flags.relatime = true,
                "norelatime" => flags.relatime = false,
                "strictatime" => flags.strictatime = true,
                "nostrictatime" => flags.strictatime = false,
                "sync" => flags.sync = true,
                "async" | "defaults" => {}
                // The host's mounts never reach a sandbox and the sandbox's never the host: private, whatever is said below.
                "private" | "rprivate" | "slave" | "rslave" | "unbindable" | "runbindable" => {}
                "shared" | "rshared" => return Err(unsupported(format!("{key}.options"), "shared mount propagation")),
                "remount" => return Err(unsupported(format!("{key}.options"), "remount")),
                "idmap" | "ridmap" => return Err(unsupported(format!("{key}.options"), "an id-mapped mount")),
                other => {
                    let (name, value) = other.split_once('=').unwrap_or((other, ""));
                    options.data.push((name.into(), value.into()));
                }
            }
        }
        Ok(options)
    }

    fn tmpfs(&self, key: &str) -> Result<TmpfsMount, ConfigError> {
        let mut mount = TmpfsMount::default();
        for (name, value) in &self.data {
            let bad = || wrong(format!("{key}.options"), format!("\"{name}={value}\" is no value of a tmpfs option"));
            match name.as_str() {
                "size" => mount.size = size(value).ok_or_else(bad)?,
                "nr_blocks" => mount.size = Some(number(value).ok_or_else(bad)?.saturating_mul(4096)),
                "nr_inodes" => mount.inodes = Some(number(value).ok_or_else(bad)?),
                "mode" => mount.mode = Some(u32::from_str_radix(value, 8).ok().filter(|m| *m <= 0o7777).ok_or_else(bad)?),
                "uid" => mount.uid = Some(value.parse().map_err(|_| bad())?),
                "gid" => mount.gid = Some(value.parse().map_err(|_| bad())?),
                // These have no meaning for a tmpfs of the sentry, and no effect that could be missed.
                "huge" | "mpol" | "inode32" | "inode64" | "noswap" | "tmpcopyup" => {}
                _ => return Err(wrong(format!("{key}.options"), format!("unknown tmpfs option {name:?}"))),
            }
        }
        Ok(mount)
    }

    fn devpts(&self, key: &str) -> Result<DevptsMount, ConfigError> {
        let mut mount = DevptsMount::default();
        for (name, value) in &self.data {
            let bad = || wrong(format!("{key}.options"), format!("\"{name}={value}\" is no value of a devpts option"));
            match name.as_str() {
                "newinstance" => {}
                "ptmxmode" => mount.ptmx_mode = Some(u32::from_str_radix(value, 8).map_err(|_| bad())?),
                "mode" => mount.mode = Some(u32::from_str_radix(value, 8).map_err(|_| bad())?),
                "gid" => mount.gid = Some(value.parse().map_err(|_| bad())?),
                "uid" | "max" => {}
                _ => return Err(wrong(format!("{key}.options"), format!("unknown devpts option {name:?}"))),
            }
        }
        Ok(mount)
    }
}

/// Bytes with `k`, `m` or `g`, as `parse_size` of Linux's tmpfs; a percentage is left to the agent's default.
#[expect(clippy::option_option, reason = "outer: malformed; inner: as the default")]
fn size(value: &str) -> Option<Option<u64>> {
    match value.strip_suffix('%') {
        Some(percent) => percent.parse::<u64>().ok().map(|_| None),
        None => number(value).map(Some),
    }
}

fn number(value: &str) -> Option<u64> {
    let (digits, shift) = match value.as_bytes().last()? {
        b'k' | b'K' => (value.get(..value.len() - 1)?, 10),
        b'm' | b'M' => (value.get(..value.len() - 1)?, 20),
        b'g' | b'G' => (value.get(..value.len() - 1)?, 30),
        _ => (value, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A size as people write it (`64m`, `1g`, `4096`).
pub fn parse_bytes(text: &str) -> Option<u64> {
    number(text.strip_suffix(['b', 'B']).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Result<Options, ConfigError> {
        Options::parse(&list.iter().map(|s| s.to_string()).collect::<Vec<_>>(), "mounts[0]")
    }

    #[test]
    fn the_last_flag_counts() {
        let parsed = options(&["ro", "nosuid", "rw", "rbind"]).expect("options");
        assert!(!parsed.flags.read_only && parsed.flags.nosuid);
        assert_eq!(parsed.bind, Some(Recursive::Yes));
    }

    #[test]
    fn tmpfs_options() {
        let tmpfs = options(&["size=64k", "mode=1777", "uid=5"]).expect("options").tmpfs("m").expect("tmpfs");
        assert_eq!((tmpfs.size, tmpfs.mode, tmpfs.uid), (Some(65536), Some(0o1777), Some(5)));
        assert_eq!(options(&["size=50%"]).expect("options").tmpfs("m").expect("tmpfs").size, None);
        let error = options(&["size=lots"]).expect("options").tmpfs("mounts[0]").expect_err("bad");
        assert!(error.to_string().contains("mounts[0].options: \"size=lots\""), "{error}");
        assert!(options(&["colour=red"]).expect("options").tmpfs("m").is_err());
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        assert!(options(&["rshared"]).is_err());
        assert!(options(&["idmap"]).is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(
            (parse_bytes("64m"), parse_bytes("1gb"), parse_bytes("7"), parse_bytes("x")),
            (Some(64 << 20), Some(1 << 30), Some(7), None)
        );
    }
}
