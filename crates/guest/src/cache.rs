//! The cache of initial roots, by a digest of what they are made of.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::kernel::{self, Form};
use super::{GuestError, Kernel, archive, io_error};

/// What changes when this crate makes another archive of the same inputs.
const FORMAT: &[u8] = b"nacre guest 3";
/// Another version's archive may be about to be used by a VM that starts: it is kept for so long after its last use.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// The user's cache directory of guest images.
pub fn dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = match (set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(dir), _) => dir,
        _ if rustix::process::geteuid().is_root() => "/var/cache".into(),
        (None, Some(home)) => home.join(".cache"),
        (None, None) => std::env::temp_dir().join(format!("nacre-cache-{}", rustix::process::geteuid().as_raw())),
    };
    base.join("nacre/guest")
}

/// The archive for a kernel and an agent: the one that is there, or a new one.
///
/// # Errors
/// Those of making it.
pub fn initrd(dir: &Path, kernel: &Kernel, agent: &[u8]) -> Result<PathBuf, GuestError> {
    let parts = [FORMAT, kernel.version.as_bytes(), kernel.modules.as_os_str().as_encoded_bytes(), agent];
    let path = dir.join(format!("initrd-{}.cpio", digest(&parts)));
    if !used(&path) {
        fs::create_dir_all(dir).map_err(io_error("make", dir))?;
        write(&path, &archive(kernel, agent)?)?;
        remove_old(dir, &path);
    }
    Ok(path)
}

/// What a VMM is to start for a kernel: that itself, or what is in it, if that starts quicker.
///
/// # Errors
/// Those of unpacking it.
pub fn image(dir: &Path, kernel: &Kernel) -> Result<PathBuf, GuestError> {
    if kernel.form == Form::Elf {
        return Ok(kernel.path.clone());
    }
    let path = dir.join(format!("vmlinux-{}", digest(&[FORMAT, kernel.version.as_bytes()])));
    if !used(&path) {
        let elf = kernel::unpacked(&kernel.path)?;
        fs::create_dir_all(dir).map_err(io_error("make", dir))?;
        write(&path, elf.as_deref().unwrap_or_default())?;
        remove_old(dir, &path);
    }
    // Empty: nothing in it starts quicker.
    Ok(if fs::metadata(&path).is_ok_and(|data| data.len() > 0) { path } else { kernel.path.clone() })
}

/// The kernel in a directory of the cache, which has one in its `boot`.
pub fn kernel_in(dir: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(dir.join("boot")).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinu")))
}

/// Whether a file is there; this is its last use then.
fn used(path: &Path) -> bool {
    match File::options().append(true).open(path) {
        Ok(file) => drop(file.set_modified(SystemTime::now())),
        // Who may read and not write it leaves the time alone.
        Err(_) => return path.exists(),
    }
    true
}

/// A name for what is made of these.
pub fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    short(hash)
}

/// A name for a file's content.
///
/// # Errors
/// The host's.
pub fn digest_of(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(short(hash)),
            len => hash.update(buffer.get(..len).unwrap_or_default()),
        }
    }
}

fn short(hash: Sha256) -> String {
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A name beside a path for something of this process's that is not finished.
pub fn beside(path: &Path, what: &str) -> PathBuf {
    path.with_extension(format!("{what}-{}", std::process::id()))
}

/// Puts a finished directory in its place. If another process was quicker, its is as good.
///
/// # Errors
/// The host's.
pub fn place(new: &Path, dir: &Path) -> Result<(), GuestError> {
    match fs::rename(new, dir) {
        Err(_) if dir.exists() => Ok(()),
        other => other.map_err(io_error("place", dir)),
    }
}

/// Writes a file so that it is there whole or not at all.
///
/// # Errors
/// The host's.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), GuestError> {
    let new = beside(path, "new");
    let written = File::create(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.map_err(io_error("write", path))
}

/// Removes other archives that have not been used for long, and what writers that died have left.
fn remove_old(dir: &Path, keep: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = [b"initrd-", b"vmlinux"].iter().any(|prefix| name.as_encoded_bytes().starts_with(*prefix));
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        if ours && entry.path() != keep && age.is_some_and(|age| age > KEEP) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_kernel_or_agent_is_another_image() {
        let one = digest(&[b"6 #1", b"agent"]);
        assert_eq!(one, digest(&[b"6 #1", b"agent"]));
        assert_ne!(one, digest(&[b"6 #2", b"agent"]));
        assert_ne!(one, digest(&[b"6 #1", b"agent2"]));
        assert_ne!(digest(&[b"6 #1a", b"gent"]), one);
    }

    #[test]
    fn old_archives_go_and_fresh_ones_stay() {
        let dir = std::env::temp_dir().join(format!("nacre-guest-cache-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("made");
        let place = |name: &str| dir.join(name);
        for name in ["initrd-old.cpio", "initrd-fresh.cpio", "initrd-mine.cpio", "other"] {
            write(&place(name), b"x").expect("written");
        }
        let long_ago = SystemTime::now() - KEEP * 2;
        for name in ["initrd-old.cpio", "initrd-mine.cpio", "other"] {
            let file = File::options().append(true).open(place(name)).expect("opened");
            file.set_modified(long_ago).expect("set");
        }
        remove_old(&dir, &place("initrd-mine.cpio"));
        let left = |name: &str| place(name).exists();
        let there = (left("initrd-old.cpio"), left("initrd-fresh.cpio"), left("initrd-mine.cpio"), left("other"));
        let _ = fs::remove_dir_all(&dir);
        assert_eq!(there, (false, true, true, true));
    }
}
