//! The guest image: a kernel of the distribution's, and an initial root of our agent and the modules it needs.
//!
//! [`build`] finds or makes it: the kernel and its modules ([`kernel`]), the modules' order ([`modules`]), the archive ([`cpio`]), and a cache, so that
//! only the first VM after a new kernel or a new agent waits for it. The same inputs give the same bytes.

#![forbid(unsafe_code)]

mod cache;
pub mod cpio;
mod kernel;
pub mod modules;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use kernel::Kernel;

/// What to build from.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A kernel (`vmlinuz`) whose modules are in `lib/modules` beside its `boot`; the newest of /boot if absent.
    pub kernel: Option<PathBuf>,
    /// The agent; `nacre-agent` beside the running program if absent.
    pub agent: Option<PathBuf>,
    /// Where the image is put; the cache of the user if absent.
    pub output: Option<PathBuf>,
}

/// What a VM is booted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
}

/// Why there is no guest image.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error(
        "no guest kernel: /boot has none that has the modules a VM needs; install the package linux-image-cloud-amd64, or name a kernel"
    )]
    NoKernel,
    #[error("{}: not a kernel: {why}", .path.display())]
    NotAKernel { path: PathBuf, why: &'static str },
    #[error("the modules of kernel {release} are not in {}: install its package (linux-image-{release})", .dir.display())]
    NoModules { release: String, dir: PathBuf },
    #[error("kernel {release} has no module {module}, which a VM needs; linux-image-cloud-amd64 has it")]
    MissingModule { release: String, module: String },
    #[error("{}: compressed modules are not supported", .0.display())]
    Compressed(PathBuf),
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

/// Finds the image in the cache, or makes it.
///
/// # Errors
/// [`GuestError`], for people.
pub fn build(options: &Options) -> Result<Image, GuestError> {
    let kernel = match &options.kernel {
        Some(path) => Kernel::open(path)?,
        None => Kernel::newest(Path::new("/boot"))?,
    };
    let agent = agent(options.agent.as_deref())?;
    let release = kernel.release.clone();
    match &options.output {
        None => {
            let dir = cache::dir();
            let initrd = cache::initrd(&dir, &kernel, &agent)?;
            Ok(Image { kernel: kernel.path, initrd, release })
        }
        Some(dir) => {
            fs::create_dir_all(dir).map_err(io_error("make", dir))?;
            let (vmlinuz, initrd) = (dir.join("vmlinuz"), dir.join("initrd.cpio"));
            cache::write(&initrd, &archive(&kernel, &agent)?)?;
            let bytes = fs::read(&kernel.path).map_err(io_error("read", &kernel.path))?;
            cache::write(&vmlinuz, &bytes)?;
            Ok(Image { kernel: vmlinuz, initrd, release })
        }
    }
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
    const PT_INTERP: u32 = 3;
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err("no 64-bit ELF file");
    }
    let header = (|| Some((number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize)))();
    let (start, size, count) = header.ok_or("it is cut off")?;
    for index in 0..count {
        let at = start.saturating_add(index.saturating_mul(size));
        if number(at, 4).ok_or("it is cut off")? == u64::from(PT_INTERP) {
            return Err("it needs a dynamic loader");
        }
    }
    Ok(())
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
        let bytes = fs::read(path).map_err(io_error("read", path))?;
        archive.file(&format!("lib/modules/{name}"), 0o644, modules::unsigned(&bytes));
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
        let options = Options { kernel: Some("/proc/self/exe".into()), ..Options::default() };
        let error = build(&options).expect_err("no kernel").to_string();
        assert!(error.contains("not a kernel"), "{error}");
    }
}
