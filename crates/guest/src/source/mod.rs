//! A kernel of our own, from Linux's source as the distribution packages it: with [`CONFIG`] and nothing else, no modules.
//!
//! It is built by make, in a directory of the cache that goes when it is done; only `boot/vmlinux-RELEASE`, the lists of modules (all built in) and the whole
//! configuration are kept, under a digest of source, configuration, compiler and linker. Nothing else is meant to go into it.

mod config;
mod tools;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::kernel::has_pvh;
use super::{GuestError, Kernel, cache, io_error};

/// What is asked for beyond `allnoconfig`.
pub const CONFIG: &str = include_str!("kernel.config");
/// What changes when this module makes another kernel of the same inputs.
const FORMAT: &[u8] = b"nacre kernel 1";
/// Where Debian puts its source packages.
const SOURCES: &str = "/usr/src";
/// Lines of make's output in a message.
const TAIL: usize = 12;

/// The kernel, built unless it is in the cache. `source` is a tree or an archive of one; Debian's newest if absent. Tells how far it is.
///
/// # Errors
/// No source, tools that are missing, options that do not come true, make's.
pub fn kernel(source: Option<&Path>, cache: &Path, tell: &mut dyn FnMut(&str)) -> Result<Kernel, GuestError> {
    let source = match source {
        Some(path) => path.to_path_buf(),
        None => newest(Path::new(SOURCES)).ok_or(GuestError::NoSource)?,
    };
    tools::check()?;
    let digest = cache::digest(&[FORMAT, identity(&source)?.as_bytes(), CONFIG.as_bytes(), tools::versions()?.as_bytes()]);
    let dir = cache.join(format!("kernel-{digest}"));
    if let Some(image) = cache::kernel_in(&dir) {
        return Kernel::open(&image);
    }
    let work = cache.join(format!("build-{digest}"));
    fs::create_dir_all(&work).map_err(io_error("make", &work))?;
    // Two at a time would be in each other's way.
    let lock = File::create(work.join("lock")).map_err(io_error("make", &work))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| GuestError::Io {
        action: "lock",
        path: work.clone(),
        cause: errno.into(),
    })?;
    if cache::kernel_in(&dir).is_none() {
        let build = Build { source: tree(&source, &work, tell)?, out: work.join("out"), log: work.join("log") };
        build.make(&work.join("kernel"), tell)?;
        cache::place(&work.join("kernel"), &dir)?;
    }
    let _ = fs::remove_dir_all(&work);
    let image = cache::kernel_in(&dir).ok_or(GuestError::NoKernel)?;
    Kernel::open(&image)
}

/// The kernel that was built last.
pub fn newest_built(cache: &Path) -> Option<PathBuf> {
    let dirs = fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path()).filter(|dir| dir.join("config").exists());
    dirs.filter_map(|dir| cache::kernel_in(&dir)).max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok())
}

/// The newest `linux-source-VERSION.tar.xz`.
fn newest(dir: &Path) -> Option<PathBuf> {
    let version = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("linux-source-")?.strip_suffix(".tar.xz")?;
        name.split('.').map(|part| part.parse::<u32>().ok()).collect::<Option<Vec<_>>>()
    };
    let paths = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    paths.filter(|path| version(path).is_some()).max_by_key(version)
}

/// What tells one source from another: an archive's content, a tree's place and version.
fn identity(source: &Path) -> Result<String, GuestError> {
    if !source.is_dir() {
        let mut file = File::open(source).map_err(io_error("read", source))?;
        return cache::digest_of(&mut file).map_err(io_error("read", source));
    }
    let mut files = Vec::new();
    list(source, &mut files).map_err(io_error("read", source))?;
    files.sort();
    let parts: Vec<&[u8]> = files.iter().map(String::as_bytes).collect();
    Ok(cache::digest(&parts))
}

/// Each file below a directory with its size and time, so that an edited tree is another.
fn list(dir: &Path, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let data = entry.metadata()?;
        if !data.is_dir() {
            files.push(format!("{} {} {}.{}", entry.path().display(), data.len(), data.mtime(), data.mtime_nsec()));
        } else if entry.file_name() != ".git" {
            list(&entry.path(), files)?;
        }
    }
    Ok(())
}

/// The source's tree: that itself, or unpacked.
fn tree(source: &Path, work: &Path, tell: &mut dyn FnMut(&str)) -> Result<PathBuf, GuestError> {
    if source.is_dir() {
        return fs::canonicalize(source).map_err(io_error("find", source));
    }
    let (tree, new) = (work.join("source"), work.join("unpacking"));
    if tree.exists() {
        return Ok(tree);
    }
    tell(&format!("unpacking {}", source.display()));
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).map_err(io_error("make", &new))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(source).arg("-C").arg(&new).arg("--strip-components=1");
    run(tar, &work.join("log"), "unpacking the source")?;
    fs::rename(&new, &tree).map_err(io_error("place", &tree))?;
    Ok(tree)
}

/// One build.
struct Build {
    source: PathBuf,
    out: PathBuf,
    log: PathBuf,
}

impl Build {
    fn make(&self, to: &Path, tell: &mut dyn FnMut(&str)) -> Result<(), GuestError> {
        fs::create_dir_all(&self.out).map_err(io_error("make", &self.out))?;
        let wanted = self.out.join("wanted.config");
        fs::write(&wanted, CONFIG).map_err(io_error("write", &wanted))?;
        let mut configure = self.command();
        configure.arg(format!("KCONFIG_ALLCONFIG={}", wanted.display())).arg("allnoconfig");
        run(configure, &self.log, "configuring the kernel")?;
        let path = self.out.join(".config");
        let got = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        let lost = config::lost(CONFIG, &got);
        if !lost.is_empty() {
            return Err(GuestError::LostOptions(lost.join(", ")));
        }
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        tell(&format!("building the kernel ({jobs} at a time; its output is in {})", self.log.display()));
        let mut make = self.command();
        make.arg(format!("-j{jobs}")).arg("vmlinux");
        run(make, &self.log, "building the kernel")?;
        self.keep(to)
    }

    /// Make, with nothing of ours in its environment and nothing of this machine in its result.
    fn command(&self) -> Command {
        let mut make = Command::new("make");
        make.arg("-C").arg(&self.source).arg(format!("O={}", self.out.display()));
        make.args(["ARCH=x86_64", "LOCALVERSION=-nacre"]).env_clear();
        make.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())).env("LC_ALL", "C");
        make.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC").env("KBUILD_BUILD_VERSION", "1");
        make.env("KBUILD_BUILD_USER", "nacre").env("KBUILD_BUILD_HOST", "nacre");
        make
    }

    /// Puts what is kept together.
    fn keep(&self, to: &Path) -> Result<(), GuestError> {
        let read = |name: &str| {
            let path = self.out.join(name);
            fs::read(&path).map_err(io_error("read", &path))
        };
        let release = String::from_utf8_lossy(&read("include/config/kernel.release")?).trim().to_string();
        let (boot, modules) = (to.join("boot"), to.join("lib/modules").join(&release));
        let _ = fs::remove_dir_all(to);
        for dir in [&boot, &modules] {
            fs::create_dir_all(dir).map_err(io_error("make", dir))?;
        }
        // Without symbols: 4 MB instead of 20 that a VMM would read and that no guest needs.
        let mut strip = Command::new("strip");
        strip.arg("--strip-all").arg("-o").arg(boot.join(format!("vmlinux-{release}"))).arg(self.out.join("vmlinux"));
        run(strip, &self.log, "stripping the kernel")?;
        let image = boot.join(format!("vmlinux-{release}"));
        if !has_pvh(&fs::read(&image).map_err(io_error("read", &image))?) {
            return Err(GuestError::NotAKernel { path: image, why: "it has no note that says where it starts (PVH)" });
        }
        let write = |path: PathBuf, content: &[u8]| fs::write(&path, content).map_err(io_error("write", &path));
        write(modules.join("modules.builtin"), &read("modules.builtin")?)?;
        write(modules.join("modules.dep"), b"")?;
        write(to.join("config"), &read(".config")?)
    }
}

/// Runs a step, its output in the log; the end of that is in the error.
fn run(mut command: Command, log: &Path, step: &'static str) -> Result<(), GuestError> {
    let output = File::create(log).map_err(io_error("write", log))?;
    let errors = output.try_clone().map_err(io_error("write", log))?;
    let status = command.stdin(Stdio::null()).stdout(output).stderr(errors).status();
    let how = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n");
    Err(GuestError::Build { step, how, log: log.into(), tail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_source_is_taken_by_its_version() {
        let dir = cache::beside(&std::env::temp_dir().join("nacre-guest-source"), "test");
        fs::create_dir_all(&dir).expect("made");
        let none = newest(&dir);
        for name in
            ["linux-source-6.1.tar.xz", "linux-source-6.12.tar.xz", "linux-source-6.9.tar.xz", "linux-source-x.tar.xz", "other"]
        {
            fs::write(dir.join(name), "").expect("written");
        }
        let newest = newest(&dir);
        let _ = fs::remove_dir_all(&dir);
        assert_eq!((none, newest), (None, Some(dir.join("linux-source-6.12.tar.xz"))));
    }

    #[test]
    fn a_failed_step_tells_the_end_of_its_output() {
        let log = cache::beside(&std::env::temp_dir().join("nacre-guest-log"), "test");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo oh no >&2; exit 3"]);
        let error = run(command, &log, "trying").expect_err("fails").to_string();
        let _ = fs::remove_file(&log);
        assert!(error.contains("trying") && error.ends_with("99\n100\noh no") && !error.contains("\n80\n"), "{error}");
    }
}
