//! Kernel modules: the initial root has a few, with a list that says when each is wanted.
//!
//! Each line of the list is `WHEN FILE...`, the files in load order. `WHEN` is `always`, `virtio-ID` (a virtio device of that
//! type, decimal, is there), a name that the agent asks for, as `overlay`, or one that the kernel asks for when a program needs what is not there
//! yet: then it executes this program, as it would modprobe ([`serve_kernel`]).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use rustix::system::finit_module;

/// Where they are in the initial root.
pub const DIRECTORY: &str = "/lib/modules";

/// Has the kernel ask this program for modules, in the root that will be at `root`.
///
/// # Errors
/// In words for the console.
pub fn offer(root: &str) -> Result<(), String> {
    if !fs::exists(DIRECTORY).unwrap_or(false) {
        return Ok(());
    }
    let place = format!("{root}{DIRECTORY}");
    fs::create_dir_all(&place).map_err(|error| format!("cannot make {place}: {error}"))?;
    mount_bind(DIRECTORY, &place).map_err(|errno| format!("cannot show {DIRECTORY} at {place}: {errno}"))?;
    match fs::write(format!("{root}/proc/sys/kernel/modprobe"), "/proc/1/exe") {
        // A kernel without modules, as ours, asks for none.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written.map_err(|error| format!("cannot set kernel.modprobe: {error}")),
    }
}

/// The kernel wants what these arguments name (`-q -- NAME`): loads it and ends. Returns if they are no such question.
pub fn serve_kernel(mut args: impl Iterator<Item = OsString>) {
    if args.next().is_none_or(|flag| flag != "-q") || args.next().is_none_or(|flag| flag != "--") {
        return;
    }
    let name = args.next().unwrap_or_default();
    let done = Modules::open(DIRECTORY).and_then(|mut modules| modules.load(&name.to_string_lossy()));
    std::process::exit(i32::from(done.is_err()));
}

/// The modules that came with the initial root.
pub struct Modules {
    dir: Option<OwnedFd>,
    groups: Vec<(String, Vec<String>)>,
    loaded: BTreeSet<String>,
}

impl Modules {
    /// Reads the list in a directory. No list: a kernel with all it needs built in.
    ///
    /// # Errors
    /// In words for the console.
    pub fn open(path: &str) -> Result<Modules, String> {
        let none = Modules { dir: None, groups: Vec::new(), loaded: BTreeSet::new() };
        let dir = match rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(none),
            Err(errno) => return Err(format!("cannot open {path}: {errno}")),
        };
        let mut text = String::new();
        openat(&dir, "list", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(std::io::Error::from)
            .and_then(|file| fs::File::from(file).read_to_string(&mut text))
            .map_err(|error| format!("cannot read {path}/list: {error}"))?;
        Ok(Modules { dir: Some(dir), groups: parse(&text), ..none })
    }

    /// Loads those that every VM needs.
    ///
    /// # Errors
    /// Names the module.
    pub fn load_always(&mut self) -> Result<(), String> {
        self.load("always")
    }

    /// Loads the drivers of the virtio devices that are there.
    ///
    /// # Errors
    /// Names the module.
    pub fn load_for_devices(&mut self) -> Result<(), String> {
        let Ok(devices) = fs::read_dir("/sys/bus/virtio/devices") else { return Ok(()) };
        let mut types = BTreeSet::new();
        for device in devices.flatten() {
            let text = fs::read_to_string(device.path().join("device")).unwrap_or_default();
            types.extend(u32::from_str_radix(text.trim().trim_start_matches("0x"), 16));
        }
        types.into_iter().try_for_each(|kind| self.load(&format!("virtio-{kind}")))
    }

    /// Loads what is listed for `when`, which may be nothing.
    ///
    /// # Errors
    /// Names the module.
    pub fn load(&mut self, when: &str) -> Result<(), String> {
        let Some(dir) = &self.dir else { return Ok(()) };
        for (_, files) in self.groups.iter().filter(|(name, _)| name == when) {
            for file in files {
                if self.loaded.insert(file.clone()) {
                    insert(dir, file).map_err(|errno| format!("cannot load module {file}: {errno}"))?;
                }
            }
        }
        Ok(())
    }
}

fn insert(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    let file = match openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        // Another process of this program has loaded it.
        Err(Errno::NOENT) => return Ok(()),
        file => file?,
    };
    match finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    // The initial root is memory.
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

fn parse(text: &str) -> Vec<(String, Vec<String>)> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(str::to_string);
        words.next().map(|when| (when, words.collect()))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_order() {
        let groups = parse("always b.ko a.ko\n\nvirtio-26 fuse.ko virtiofs.ko\n");
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0], ("always".into(), vec!["b.ko".into(), "a.ko".into()]));
        assert_eq!(groups[1].0, "virtio-26");
    }

    #[test]
    fn a_kernel_without_modules_needs_none() {
        let mut modules = Modules::open("/nonexistent/modules").expect("no list");
        modules.load("always").expect("nothing to load");
    }
}
