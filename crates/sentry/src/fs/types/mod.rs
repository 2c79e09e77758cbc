//! File-system types that can be mounted from inside, and their options: one path for `mount(2)` and for `fsconfig(2)`.

use std::sync::Arc;

use super::cgroup2::Cgroup2Fs;
use super::devpts::{self, Devpts};
use super::overlay::layers;
use super::proc::{self, ProcFs};
use super::sys::SysFs;
use super::tmpfs::{self, TmpFs};
use super::{File, FileSystem, Path, next_device};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::task::{Capability, Creds, Cx};

/// A type that can be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Tmpfs,
    Ramfs,
    Proc,
    Sysfs,
    Devpts,
    Cgroup2,
    Overlay,
    Mqueue,
}

/// Names, as /proc/filesystems lists them.
pub const TYPES: [(&str, Type); 8] = [
    ("sysfs", Type::Sysfs),
    ("tmpfs", Type::Tmpfs),
    ("proc", Type::Proc),
    ("cgroup2", Type::Cgroup2),
    ("devpts", Type::Devpts),
    ("mqueue", Type::Mqueue),
    ("ramfs", Type::Ramfs),
    ("overlay", Type::Overlay),
];

/// A type's options, as far as they were given.
#[derive(Clone)]
pub enum Config {
    Tmpfs(tmpfs::Options),
    Ramfs(tmpfs::Options),
    Proc(proc::Options),
    Sysfs,
    Devpts(devpts::Options),
    Cgroup2,
    Overlay(layers::Options),
    Mqueue,
}

/// What an option is set to.
#[derive(Clone)]
pub enum Value {
    /// It stands alone.
    Flag,
    Text(Vec<u8>),
    Place(Path),
    File(Arc<File>),
}

/// What all file systems know, and the type's own.
#[derive(Clone)]
pub struct Request {
    pub kind: Type,
    pub config: Config,
    pub read_only: bool,
    pub source: Option<Vec<u8>>,
}

/// Options that are flags of any file system, and what they do.
const COMMON: [(&str, Option<bool>); 11] = [
    ("ro", Some(true)),
    ("rw", Some(false)),
    // Writes to memory are always in order and nowhere else; the rest changes nothing that can be seen.
    ("sync", None),
    ("async", None),
    ("dirsync", None),
    ("mand", None),
    ("nomand", None),
    ("lazytime", None),
    ("nolazytime", None),
    ("silent", None),
    ("posixacl", None),
];

impl Type {
    /// # Errors
    /// `ENODEV`.
    pub fn from_name(name: &[u8]) -> Result<Type, Errno> {
        let found = TYPES.iter().find(|(known, _)| known.as_bytes() == name);
        found.map(|(_, kind)| *kind).ok_or(Errno::ENODEV)
    }

    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(_, kind)| *kind == self).map_or("none", |(name, _)| name)
    }

    /// What belongs to whoever mounts it (tmpfs's and ramfs's root) is that one's.
    fn config(self, mounter: &Creds) -> Config {
        let root = tmpfs::Options { uid: mounter.fsuid, gid: mounter.fsgid, ..tmpfs::Options::default() };
        match self {
            Type::Tmpfs => Config::Tmpfs(root),
            Type::Ramfs => Config::Ramfs(tmpfs::Options { permissions: 0o755, ..root }),
            Type::Proc => Config::Proc(proc::Options::default()),
            Type::Sysfs => Config::Sysfs,
            Type::Devpts => Config::Devpts(devpts::Options::default()),
            Type::Cgroup2 => Config::Cgroup2,
            Type::Overlay => Config::Overlay(layers::Options::default()),
            Type::Mqueue => Config::Mqueue,
        }
    }

    /// Whether a process with power only over its own user namespace may mount it (`FS_USERNS_MOUNT`).
    pub fn for_users(self) -> bool {
        true
    }
}

impl Request {
    pub fn new(cx: &Cx, kind: Type) -> Request {
        Request { kind, config: kind.config(&cx.creds()), read_only: false, source: None }
    }

    /// Takes in an option.
    ///
    /// # Errors
    /// `EINVAL` for one that the type does not have, or a bad value.
    pub fn set(&mut self, cx: &Cx, key: &str, value: &Value) -> Result<(), Errno> {
        // Linux does not look at these parameters' values.
        if let Some((_, read_only)) = COMMON.iter().find(|(name, _)| *name == key) {
            self.read_only = read_only.unwrap_or(self.read_only);
            return Ok(());
        }
        if key == "source" {
            let Value::Text(text) = value else { return Err(Errno::EINVAL) };
            if self.source.is_some() {
                return Err(Errno::EINVAL);
            }
            self.source = Some(text.clone());
            return Ok(());
        }
        if let Config::Overlay(options) = &mut self.config {
            return options.set(key, value);
        }
        let text = match value {
            Value::Flag => None,
            Value::Text(text) => Some(std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?),
            Value::Place(_) | Value::File(_) => return Err(Errno::EINVAL),
        };
        match &mut self.config {
            Config::Tmpfs(options) => options.set(key, text, memory_of(cx), &cx.creds().user_ns),
            // As Linux's: only the mode counts, what it does not know is ignored.
            Config::Ramfs(options) if key == "mode" => options.set(key, text, memory_of(cx), &cx.creds().user_ns),
            Config::Ramfs(_) => Ok(()),
            Config::Proc(options) => options.set(key, text),
            Config::Devpts(options) => options.set(key, text),
            Config::Cgroup2 => match (key, text) {
                (
                    "nsdelegate"
                    | "favordynmods"
                    | "memory_localevents"
                    | "memory_recursiveprot"
                    | "memory_hugetlb_accounting"
                    | "pids_localevents",
                    None,
                ) => Ok(()),
                _ => Err(Errno::EINVAL),
            },
            Config::Sysfs | Config::Mqueue | Config::Overlay(_) => Err(Errno::EINVAL),
        }
    }

    /// Takes in the options of `mount(2)`'s data: `key=value,key,…`.
    ///
    /// # Errors
    /// As [`Request::set`].
    pub fn set_all(&mut self, cx: &Cx, data: &[u8]) -> Result<(), Errno> {
        for option in split_options(data) {
            let (key, value) = match option.iter().position(|&byte| byte == b'=') {
                Some(at) => {
                    let (key, value) = option.split_at(at);
                    (key, Value::Text(value.get(1..).unwrap_or_default().to_vec()))
                }
                None => (option.as_slice(), Value::Flag),
            };
            let key = std::str::from_utf8(key).map_err(|_| Errno::EINVAL)?;
            self.set(cx, key, &value)?;
        }
        Ok(())
    }

    /// Makes the file system.
    ///
    /// # Errors
    /// `EINVAL` for options that do not go together; what resolving paths gives.
    pub async fn make(&self, cx: &Cx) -> Result<Arc<dyn FileSystem>, Errno> {
        let (kernel, container) = (cx.kernel(), &cx.task.container);
        let new_tmpfs = |options: tmpfs::Options| {
            TmpFs::named(self.kind.name(), container.memory.clone(), kernel.clock.clone(), next_device(), options)
        };
        Ok(match &self.config {
            Config::Tmpfs(options) => {
                let mut options = *options;
                // Half of the memory, as on Linux; with `size=0` and `nr_inodes=0` there is no limit.
                options.default_size = (memory_of(cx) / 2) & !(PAGE_SIZE - 1);
                options.default_inodes = memory_of(cx) / 2 / PAGE_SIZE;
                if options.size == 0 && !options.unlimited {
                    options.size = options.default_size;
                }
                if options.inodes == 0 && !options.unlimited_inodes {
                    options.inodes = options.default_inodes;
                }
                new_tmpfs(options)
            }
            Config::Ramfs(options) => new_tmpfs(*options),
            Config::Sysfs => SysFs::new(kernel, next_device()),
            Config::Proc(options) => {
                ProcFs::with(kernel.clone(), container.clone(), cx.task.group.pid_ns.clone(), next_device(), *options)
            }
            Config::Devpts(options) => Devpts::instance(*options),
            Config::Cgroup2 => Cgroup2Fs::new(container.clone(), container.cgroup.clone()),
            Config::Overlay(options) => layers::make(cx, options).await?,
            // One for the namespace, however often it is mounted.
            Config::Mqueue => cx.task.ipc_objects().mqueues(&kernel.clock),
        })
    }
}

/// Whether the caller may mount, in its mount namespace.
///
/// # Errors
/// `EPERM`.
pub fn may_mount(cx: &Cx) -> Result<(), Errno> {
    if cx.creds().has_in(&cx.fs.namespace().owner(), Capability::SysAdmin) { Ok(()) } else { Err(Errno::EPERM) }
}

fn memory_of(cx: &Cx) -> u64 {
    cx.task.container.memory_bytes(&cx.kernel().machine)
}

/// Options between commas; a backslash takes the next byte as it is (overlay's directories).
fn split_options(data: &[u8]) -> Vec<Vec<u8>> {
    let mut options = vec![Vec::new()];
    let mut bytes = data.iter().copied();
    while let Some(byte) = bytes.next() {
        let Some(last) = options.last_mut() else { break };
        match byte {
            b',' => options.push(Vec::new()),
            b'\\' => {
                last.push(byte);
                last.extend(bytes.next());
            }
            _ => last.push(byte),
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_at_commas() {
        let split = |text: &str| {
            split_options(text.as_bytes()).into_iter().map(|o| String::from_utf8(o).expect("text")).collect::<Vec<_>>()
        };
        assert_eq!(split("a,b=c,,d"), ["a", "b=c", "d"]);
        assert_eq!(split("lowerdir=x\\,y,z"), ["lowerdir=x\\,y", "z"]);
        assert!(split("").is_empty());
    }
}
