//! Which modules go into the initial root, in load order, and when the agent loads them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::compression::Compression;
use super::{GuestError, Kernel, cpio, io_error};

/// When a group is loaded (see the agent's `modules`; names the kernel asks for by itself have dashes and numbers, as `net-pf-16-proto-4-type-1`), whether a VM cannot do without it, and its modules. The rare ones wait until their device is
/// there: each costs about 10 ms of an emulated machine's boot.
const GROUPS: &[(&str, Need, &[&str])] = &[
    ("always", Need::Must, &["virtio_pci"]),
    ("always", Need::May, &["virtio_mmio"]),
    ("virtio-19", Need::Must, &["vmw_vsock_virtio_transport"]),
    ("virtio-26", Need::Must, &["virtiofs"]),
    ("virtio-1", Need::Must, &["virtio_net"]),
    ("virtio-2", Need::May, &["virtio_blk"]),
    ("virtio-3", Need::May, &["virtio_console"]),
    ("virtio-4", Need::May, &["virtio-rng"]),
    ("virtio-5", Need::May, &["virtio_balloon"]),
    ("virtio-24", Need::May, &["virtio_mem"]),
    ("virtio-27", Need::May, &["nfit", "virtio_pmem", "nd_pmem"]),
    ("overlay", Need::Must, &["overlay"]),
    ("erofs", Need::May, &["erofs"]),
    ("loop", Need::May, &["loop"]),
    // sock_diag, for `ss`: unix, IPv4 and IPv6 with TCP, UDP and raw, netlink, packet.
    ("net-pf-16-proto-4-type-1", Need::May, &["unix_diag"]),
    ("net-pf-16-proto-4-type-2", Need::May, &["inet_diag"]),
    ("net-pf-16-proto-4-type-10", Need::May, &["inet_diag"]),
    ("net-pf-16-proto-4-type-2-6", Need::May, &["tcp_diag"]),
    ("net-pf-16-proto-4-type-2-17", Need::May, &["udp_diag"]),
    ("net-pf-16-proto-4-type-2-255", Need::May, &["raw_diag"]),
    ("net-pf-16-proto-4-type-16", Need::May, &["netlink_diag"]),
    ("net-pf-16-proto-4-type-17", Need::May, &["af_packet_diag"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    May,
}

/// The chosen modules of a kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Set {
    /// When, and the names in load order.
    groups: Vec<(&'static str, Vec<String>)>,
    files: BTreeMap<String, PathBuf>,
}

impl Set {
    /// Chooses from a kernel's modules. What is built in needs no module.
    ///
    /// # Errors
    /// Names the module that is missing.
    pub fn choose(kernel: &Kernel) -> Result<Set, GuestError> {
        let dependencies = Dependencies::read(&kernel.modules)?;
        let mut set = Set { groups: Vec::new(), files: BTreeMap::new() };
        for (when, need, names) in GROUPS {
            let mut group = Vec::new();
            for name in *names {
                match dependencies.closure(name) {
                    Some(paths) => {
                        for path in paths {
                            let file = set.take(&kernel.modules.join(&path))?;
                            if !group.contains(&file) {
                                group.push(file);
                            }
                        }
                    }
                    None if *need == Need::May => {}
                    None => {
                        let module = name.to_string();
                        return Err(GuestError::MissingModule { release: kernel.release.clone(), module });
                    }
                }
            }
            set.groups.push((when, group));
        }
        Ok(set)
    }

    fn take(&mut self, path: &Path) -> Result<String, GuestError> {
        let name = plain_name(path).ok_or_else(|| GuestError::Unpack {
            path: path.into(),
            why: "it is no module, or compressed in a way that is not known".into(),
        })?;
        self.files.insert(name.clone(), path.into());
        Ok(name)
    }

    /// The list that the agent reads.
    pub fn list(&self) -> String {
        let mut text = String::new();
        for (when, files) in self.groups.iter().filter(|(_, files)| !files.is_empty()) {
            let _ = writeln!(text, "{when} {}", files.join(" "));
        }
        text
    }

    /// The files by name (without an ending for compression).
    pub fn files(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.files.iter().map(|(name, path)| (name.as_str(), path.as_path()))
    }
}

/// Puts modules and all that they need into an initial root as `modules/NAME`, and their names in load order into `modules/order`. For machines that
/// are not a VM's guest: those of tests.
///
/// # Errors
/// Names the module that the kernel does not have, or the file that cannot be read.
pub fn put(archive: &mut cpio::Writer, kernel: &Kernel, names: &[&str]) -> Result<(), GuestError> {
    archive.directory("modules");
    let mut order = String::new();
    for path in load_order(kernel, names)? {
        let name = plain_name(&path).unwrap_or_default();
        archive.file(&format!("modules/{name}"), 0o644, &read(&path)?);
        order += &format!("{name}\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(())
}

/// The files of modules and of all that they need, in load order, each once.
fn load_order(kernel: &Kernel, names: &[&str]) -> Result<Vec<PathBuf>, GuestError> {
    let dependencies = Dependencies::read(&kernel.modules)?;
    let mut files = Vec::new();
    for name in names {
        let missing = || GuestError::MissingModule { release: kernel.release.clone(), module: name.to_string() };
        for path in dependencies.closure(name).ok_or_else(missing)? {
            let file = kernel.modules.join(path);
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// The modules that a VM may need, without what they need themselves.
pub fn wanted() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|(_, _, names)| *names).copied()
}

/// A module's file name without what is added to it for compression; None for what is no module.
pub fn plain_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let plain = [".xz", ".zst", ".gz"].into_iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    plain.ends_with(".ko").then(|| plain.into())
}

/// A module as the kernel takes it from us: not compressed.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn read(path: &Path) -> Result<Vec<u8>, GuestError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    match Compression::of(&bytes) {
        None => Ok(bytes),
        Some(compression) => {
            compression.unpack(&bytes).map_err(|e| GuestError::Unpack { path: path.into(), why: e.to_string() })
        }
    }
}

/// A module without the signature at its end. Checking one costs an emulated machine 10 to 30 ms, the first some 200, and shows nothing here: who could
/// change the module could leave the signature out as well.
pub fn unsigned(module: &[u8]) -> &[u8] {
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    /// `struct module_signature` (linux/module_signature.h); its last 4 bytes are the signature's length, big-endian.
    const INFO: usize = 12;
    let parts = || {
        let rest = module.strip_suffix(MAGIC)?;
        let (rest, info) = rest.split_at_checked(rest.len().checked_sub(INFO)?)?;
        let len = u32::from_be_bytes(info.get(INFO - 4..)?.try_into().ok()?) as usize;
        rest.get(..rest.len().checked_sub(len)?)
    };
    parts().unwrap_or(module)
}

/// `modules.dep` and `modules.builtin`, by module name.
struct Dependencies {
    /// The file, and what it needs.
    modules: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Dependencies {
    fn read(dir: &Path) -> Result<Dependencies, GuestError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(io_error("read", &path))
        };
        Ok(Dependencies::parse(&read("modules.dep")?, &read("modules.builtin")?))
    }

    fn parse(dep: &str, builtin: &str) -> Dependencies {
        let line = |line: &str| {
            let (path, needs) = line.split_once(':')?;
            Some((name_of(path), (path.to_string(), needs.split_ascii_whitespace().map(str::to_string).collect())))
        };
        Dependencies { modules: dep.lines().filter_map(line).collect(), builtin: builtin.lines().map(name_of).collect() }
    }

    /// A module's file after all that it needs, none if it is built in; `None` if the kernel does not have it.
    fn closure(&self, name: &str) -> Option<Vec<String>> {
        let name = name_of(name);
        if self.builtin.contains(&name) {
            return Some(Vec::new());
        }
        let (path, needs) = self.modules.get(&name)?;
        // The list is of all that it needs, each before what that itself needs (modules.dep(5)).
        Some(needs.iter().rev().chain([path]).cloned().collect())
    }
}

/// A module's name: `-` and `_` are one, the ending is none of it.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first() {
        let dep = "k/a-b.ko: k/c.ko k/d.ko\nk/c.ko: k/d.ko\nk/d.ko:\n";
        let all = Dependencies::parse(dep, "k/fuse.ko\n");
        assert_eq!(all.closure("a_b"), Some(vec!["k/d.ko".into(), "k/c.ko".into(), "k/a-b.ko".into()]));
        assert_eq!((all.closure("fuse"), all.closure("nothing")), (Some(vec![]), None));
    }

    #[test]
    fn compressed_modules_have_their_plain_names() {
        let plain = |name: &str| plain_name(Path::new(name));
        assert_eq!(plain("/k/a.ko"), Some("a.ko".into()));
        assert_eq!(plain("/k/a.ko.xz"), Some("a.ko".into()));
        assert_eq!(plain("/k/a.ko.zst"), Some("a.ko".into()));
        assert_eq!((plain("/k/a.xz"), plain("/k/a.ko.bz2")), (None, None));
    }

    #[test]
    fn signatures_are_cut_off_and_nothing_else() {
        let signed = [b"code".as_slice(), b"sig", &[0; 8], &3_u32.to_be_bytes(), b"~Module signature appended~\n"].concat();
        assert_eq!(unsigned(&signed), b"code");
        assert_eq!(unsigned(b"code"), b"code");
        let lies = [b"code".as_slice(), &[0; 8], &300_u32.to_be_bytes(), b"~Module signature appended~\n"].concat();
        assert_eq!(unsigned(&lies), lies);
    }

    #[test]
    fn a_kernel_that_lacks_a_module_is_refused_by_its_name() {
        let dir = std::env::temp_dir().join(format!("nacre-guest-modules-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("made");
        fs::write(dir.join("modules.dep"), "k/virtio_pci.ko.lzo:\n").expect("written");
        fs::write(dir.join("modules.builtin"), "").expect("written");
        let kernel = Kernel {
            path: "/k".into(),
            form: crate::kernel::Form::BzImage,
            release: "6.1-x".into(),
            version: String::new(),
            modules: dir.clone(),
        };
        let error = Set::choose(&kernel).expect_err("not known").to_string();
        assert!(error.contains("virtio_pci.ko.lzo"), "{error}");
        fs::write(dir.join("modules.dep"), "k/virtio_pci.ko:\n").expect("written");
        let error = Set::choose(&kernel).expect_err("lacks vsock").to_string();
        assert!(error.contains("vmw_vsock_virtio_transport"), "{error}");
        let _ = fs::remove_dir_all(&dir);
    }
}
