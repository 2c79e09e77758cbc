//! The guest image: a kernel, and an initial root of our agent and the modules it needs.
//!
//! [`build`] finds or makes it: the kernel and its modules ([`kernel`]; out of a package: [`deb`]; of our own: [`source`]), the modules' order
//! ([`modules`]), the archive ([`cpio`]), and a cache, so that only the first VM after a new kernel or a new agent waits for it. The same inputs give
//! the same bytes.

#![forbid(unsafe_code)]

mod cache;
mod choice;
mod compression;
pub mod cpio;
mod deb;
mod elf;
mod kernel;
pub mod modules;
mod source;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use elf::Elf;
pub use kernel::{Form, Kernel};

/// What to build from.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub kernel: Origin,
    /// The agent; `nacre-agent` beside the running program if absent.
    pub agent: Option<PathBuf>,
    /// Where the image is put; the cache of the user if absent, and VMs of this user start with this kernel from then on.
    pub output: Option<PathBuf>,
}

/// Where a kernel is from.
#[derive(Debug, Clone, Default)]
pub enum Origin {
    /// The one that was built last with its kernel named; else as [`Origin::Newest`].
    #[default]
    Chosen,
    /// The newest of /boot that has what a VM needs.
    Newest,
    /// A kernel (`vmlinuz`, or an ELF file `vmlinux-RELEASE`) whose modules are in `lib/modules` beside its `boot`; or a Debian package of one.
    File(PathBuf),
    /// Linux's source, a tree or an archive of one; Debian's newest below /usr/src if absent.
    Source(Option<PathBuf>),
}

/// What a VM is booted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// How often a second the kernel's timer ticks, if that is known ([`Kernel::ticks`]).
    pub ticks: Option<u32>,
}

/// Why there is no guest image.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error(
        "no guest kernel: /boot has none that has the modules a VM needs; install the package linux-image-cloud-amd64, or have one made by `nacre guest build`"
    )]
    NoKernel,
    #[error("the kernel that `nacre guest build` has chosen, {}, is gone: run that again", .0.display())]
    ChosenGone(PathBuf),
    #[error("{}: not a kernel: {why}", .path.display())]
    NotAKernel { path: PathBuf, why: &'static str },
    #[error("{}: not a package of a kernel: {why}", .path.display())]
    BadPackage { path: PathBuf, why: String },
    #[error("the modules of kernel {release} are not in {}: install its package (linux-image-{release}), or name that", .dir.display())]
    NoModules { release: String, dir: PathBuf },
    #[error("kernel {release} has no module {module}, which a VM needs; linux-image-cloud-amd64 has it")]
    MissingModule { release: String, module: String },
    #[error("cannot unpack {}: {why}", .path.display())]
    Unpack { path: PathBuf, why: String },
    #[error(
        "no kernel source: /usr/src has no linux-source-VERSION.tar.xz; install the package linux-source-6.1, or name a source"
    )]
    NoSource,
    #[error("a kernel cannot be built without {names}; install the packages {packages}")]
    NoTools { names: String, packages: String },
    #[error("this source does not give the kernel what it is asked for: {0}")]
    LostOptions(String),
    #[error("{step} has failed ({how}); the end of {}:\n{tail}", .log.display())]
    Build { step: &'static str, how: String, log: PathBuf, tail: String },
    #[error("no agent at {}: build it with `cargo xtask agent`, or name one", .0.display())]
    NoAgent(PathBuf),
    #[error("{}: not a static program for this machine: {why}", .path.display())]
    NotStatic { path: PathBuf, why: &'static str },
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
}

/// For `map_err`: the file that could not be used, and how.
fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GuestError {
    let path = path.to_path_buf();
    move |cause| GuestError::Io { action, path, cause }
}

/// The newest kernel of our own ([`Origin::Source`]) in the user's cache.
pub fn own_kernel() -> Option<PathBuf> {
    source::newest_built(&cache::dir())
}

/// Finds the image in the cache, or makes it. What takes long is told.
///
/// # Errors
/// [`GuestError`], for people.
pub fn build(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<Image, GuestError> {
    let cache = cache::dir();
    let agent = agent(options.agent.as_deref())?;
    let kernel = find(&options.kernel, &cache, tell)?;
    let (release, ticks) = (kernel.release.clone(), kernel.ticks());
    let Some(dir) = &options.output else {
        let initrd = cache::initrd(&cache, &kernel, &agent)?;
        match &options.kernel {
            Origin::Chosen => {}
            Origin::Newest => choice::forget(&cache)?,
            Origin::File(_) | Origin::Source(_) => choice::choose(&cache, &kernel.path)?,
        }
        return Ok(Image { kernel: cache::image(&cache, &kernel)?, initrd, release, ticks });
    };
    fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    let (vmlinuz, initrd) = (dir.join("vmlinuz"), dir.join("initrd.cpio"));
    cache::write(&initrd, &archive(&kernel, &agent)?)?;
    cache::write(&vmlinuz, &fs::read(&kernel.path).map_err(io_error("read", &kernel.path))?)?;
    Ok(Image { kernel: vmlinuz, initrd, release, ticks })
}

fn find(from: &Origin, cache: &Path, tell: &mut dyn FnMut(&str)) -> Result<Kernel, GuestError> {
    let chosen = match from {
        Origin::Chosen => choice::chosen(cache)?,
        Origin::Newest => None,
        Origin::File(path) if is_package(path)? => return deb::kernel(path, cache),
        Origin::File(path) => Some(path.clone()),
        Origin::Source(path) => return source::kernel(path.as_deref(), cache, tell),
    };
    match chosen {
        Some(path) => Kernel::open(&path),
        None => Kernel::newest(Path::new("/boot")),
    }
}

fn is_package(path: &Path) -> Result<bool, GuestError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(deb::MAGIC.len() as u64).read_to_end(&mut start));
    read.map_err(io_error("read", path))?;
    Ok(start == deb::MAGIC)
}

/// The agent's bytes.
fn agent(named: Option<&Path>) -> Result<Vec<u8>, GuestError> {
    let path = match named {
        Some(path) => path.to_path_buf(),
        None => {
            let own = std::env::current_exe().map_err(io_error("find", Path::new("/proc/self/exe")))?;
            own.with_file_name("nacre-agent")
        }
    };
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(GuestError::NoAgent(path)),
        other => other.map_err(io_error("read", &path))?,
    };
    match static_program(&bytes) {
        Ok(()) => Ok(bytes),
        Err(why) => Err(GuestError::NotStatic { path, why }),
    }
}

/// A program that needs an interpreter would be a guest that ends with a panic of its kernel.
fn static_program(bytes: &[u8]) -> Result<(), &'static str> {
    match Elf::new(bytes).ok_or("no 64-bit ELF file")?.is_dynamic()? {
        true => Err("it needs a dynamic loader"),
        false => Ok(()),
    }
}

/// The initial root.
fn archive(kernel: &Kernel, agent: &[u8]) -> Result<Vec<u8>, GuestError> {
    let mut archive = cpio::Writer::default();
    for dir in ["dev", "lib", "lib/modules", "root"] {
        archive.directory(dir);
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.character_device("dev/console", 5, 1);
    archive.file("init", 0o755, agent);
    let set = modules::Set::choose(kernel)?;
    archive.file("lib/modules/list", 0o644, set.list().as_bytes());
    for (name, path) in set.files() {
        archive.file(&format!("lib/modules/{name}"), 0o644, modules::unsigned(&modules::read(path)?));
    }
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_no_agent() {
        let own = fs::read("/proc/self/exe").expect("read");
        assert_eq!(static_program(&own), Err("it needs a dynamic loader"));
        assert!(static_program(b"#!/bin/sh\n").is_err());
        assert_eq!(static_program(own.get(..60).expect("long enough")), Err("it is cut off"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let options = Options { agent: Some("/nonexistent/agent".into()), ..Options::default() };
        let error = agent(options.agent.as_deref()).expect_err("no agent").to_string();
        assert!(error.contains("/nonexistent/agent") && error.contains("cargo xtask agent"), "{error}");
        let find =
            |path: &str| find(&Origin::File(path.into()), Path::new("/nonexistent"), &mut |_| ()).expect_err("no kernel");
        let error = find("/proc/self/exe").to_string();
        assert!(error.contains("not a kernel") && error.contains("vmlinux-RELEASE"), "{error}");
        let error = find("/proc/self/cmdline").to_string();
        assert!(error.contains("not a kernel"), "{error}");
    }
}
