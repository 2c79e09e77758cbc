//! Finding a kernel with its modules.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::compression::Compression;
use super::elf::{self, Elf};
use super::{GuestError, io_error};

/// A kernel image and where its modules are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub path: PathBuf,
    pub form: Form,
    /// As `uname -r` prints it.
    pub release: String,
    /// The whole line, with the build's number and date: it changes with every build of the package.
    pub version: String,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It unpacks itself when it starts.
    BzImage,
    Elf,
}

/// What a kernel says of itself.
#[derive(Debug)]
pub struct Head {
    pub form: Form,
    pub release: String,
    pub version: String,
}

/// As much of a kernel as its headers take.
const HEAD: u64 = 64 << 10;
/// What the name of an ELF file begins with, before the release.
const VMLINUX: &str = "vmlinux-";

impl Kernel {
    /// A kernel by its path. Its modules are in the `lib/modules` beside the directory it is in, or in the system's.
    ///
    /// # Errors
    /// When it is none, or has no modules there.
    pub fn open(path: &Path) -> Result<Kernel, GuestError> {
        let Head { form, release, version } = Kernel::read_head(path)?;
        let beside = path.parent().and_then(Path::parent).unwrap_or(Path::new("/")).join("lib/modules").join(&release);
        let modules = match beside.join("modules.dep").exists() {
            true => beside,
            false => Path::new("/lib/modules").join(&release),
        };
        match modules.join("modules.dep").exists() {
            true => Ok(Kernel { path: path.into(), form, release, version, modules }),
            false => Err(GuestError::NoModules { release, dir: modules }),
        }
    }

    /// Reads a kernel's release and version. One that is an ELF file says them in its name and age: in itself they are anywhere.
    ///
    /// # Errors
    /// It is none.
    pub fn read_head(path: &Path) -> Result<Head, GuestError> {
        let mut head = Vec::new();
        let file = File::open(path).map_err(io_error("read", path))?;
        let data = file.metadata().map_err(io_error("read", path))?;
        file.take(HEAD).read_to_end(&mut head).map_err(io_error("read", path))?;
        let not = |why| GuestError::NotAKernel { path: path.into(), why };
        if head.starts_with(elf::MAGIC) {
            let name = path.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_prefix(VMLINUX));
            let release = name.filter(|release| release.starts_with(|c: char| c.is_ascii_digit()));
            let release = release.ok_or(not("an ELF file is taken for one if its name is vmlinux-RELEASE"))?.to_string();
            let version = format!("{release} {} {}.{}", data.len(), data.mtime(), data.mtime_nsec());
            return Ok(Head { form: Form::Elf, release, version });
        }
        let version = version(&head).map_err(not)?;
        let release = version.split(' ').next().unwrap_or_default().to_string();
        Ok(Head { form: Form::BzImage, release, version })
    }

    /// How often a second its timer ticks, as its configuration says, if that is there: `config-RELEASE` beside it (a distribution's), or `config` in the
    /// directory above (one that was built here).
    pub fn ticks(&self) -> Option<u32> {
        let dir = self.path.parent()?;
        let files = [dir.join(format!("config-{}", self.release)), dir.parent()?.join("config")];
        let config = files.iter().find_map(|file| fs::read_to_string(file).ok())?;
        config.lines().find_map(|line| line.strip_prefix("CONFIG_HZ=")).and_then(|ticks| ticks.parse().ok())
    }

    /// The newest kernel in a directory that has what a VM needs, those made for clouds first: they have the least.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest(boot: &Path) -> Result<Kernel, GuestError> {
        let entries = fs::read_dir(boot).into_iter().flatten().flatten();
        let is_kernel = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-"));
        let mut kernels: Vec<Kernel> =
            entries.map(|entry| entry.path()).filter(is_kernel).filter_map(|path| Kernel::open(&path).ok()).collect();
        let cloud = |kernel: &Kernel| kernel.release.contains("-cloud-");
        kernels.sort_by(|a, b| cloud(a).cmp(&cloud(b)).then_with(|| by_number(&a.release, &b.release)));
        let usable = |kernel: &Kernel| super::modules::Set::choose(kernel).is_ok();
        kernels.into_iter().rev().find(usable).ok_or(GuestError::NoKernel)
    }
}

/// The ELF file in a bzImage, if a VMM can start that (PVH): it spares an emulated machine 0.3 s of unpacking.
///
/// # Errors
/// The file's; what is in it is damaged.
pub fn unpacked(path: &Path) -> Result<Option<Vec<u8>>, GuestError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    let Some((payload, compression)) = payload(&bytes) else { return Ok(None) };
    let elf = compression.unpack(payload).map_err(|e| GuestError::Unpack { path: path.into(), why: e.to_string() })?;
    Ok(has_pvh(&elf).then_some(elf))
}

/// Whether a VMM can start an ELF kernel by its note (XEN_ELFNOTE_PHYS32_ENTRY).
pub fn has_pvh(kernel: &[u8]) -> bool {
    Elf::new(kernel).is_some_and(|elf| elf.has_note(b"Xen", 18))
}

/// What a bzImage unpacks when it starts (boot.rst: `setup_sects`, `payload_offset`, `payload_length`), if the way it is compressed is known.
fn payload(bytes: &[u8]) -> Option<(&[u8], Compression)> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    if bytes.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = match bytes.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    let start = number(0x248)?.checked_add((sectors + 1) * 512)?;
    let payload = bytes.get(start..start.checked_add(number(0x24c)?)?)?;
    Some((payload, Compression::of(payload)?))
}

/// The version line of a bzImage (Documentation/arch/x86/boot.rst, `kernel_version`).
fn version(head: &[u8]) -> Result<String, &'static str> {
    if head.get(0x202..0x206) != Some(b"HdrS") {
        return Err("it has no x86 boot header");
    }
    let at = match head.get(0x20e..0x210) {
        Some(&[low, high]) => usize::from(u16::from_le_bytes([low, high])) + 0x200,
        _ => return Err("it is cut off"),
    };
    let text = head.get(at..).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
    match std::str::from_utf8(text) {
        Ok(text) if text.len() < 512 && text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains('/') => {
            Ok(text.into())
        }
        _ => Err("it does not say its version"),
    }
}

/// Compares versions: runs of digits as numbers, the rest as text.
fn by_number(a: &str, b: &str) -> Ordering {
    parts(a).cmp(&parts(b))
}

fn parts(text: &str) -> Vec<(u64, String)> {
    let mut parts: Vec<(u64, String)> = vec![(0, String::new())];
    let mut in_digits = false;
    for c in text.chars() {
        match c.to_digit(10) {
            Some(digit) => {
                if !in_digits {
                    parts.push((0, String::new()));
                }
                if let Some(last) = parts.last_mut() {
                    last.0 = last.0.saturating_mul(10).saturating_add(digit.into());
                }
                in_digits = true;
            }
            None => {
                if let Some(last) = parts.last_mut() {
                    last.1.push(c);
                }
                in_digits = false;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(by_number("6.1.0-9-cloud-amd64", "6.1.0-57-cloud-amd64"), Ordering::Less);
        assert_eq!(by_number("6.10.0", "6.9.3"), Ordering::Greater);
        assert_eq!(by_number("6.1", "6.1"), Ordering::Equal);
    }

    #[test]
    fn the_ticks_are_the_configurations() {
        let dir = cache::beside(&std::env::temp_dir().join("nacre-guest-ticks"), "test");
        fs::create_dir_all(dir.join("boot")).expect("made");
        let kernel = Kernel {
            path: dir.join("boot/vmlinuz-6.1-x"),
            form: Form::BzImage,
            release: "6.1-x".into(),
            version: "6.1-x #1".into(),
            modules: dir.join("lib/modules/6.1-x"),
        };
        let none = kernel.ticks();
        fs::write(dir.join("config"), "CONFIG_HZ_250=y\nCONFIG_HZ=250\n").expect("written");
        let built_here = kernel.ticks();
        fs::write(dir.join("boot/config-6.1-x"), "# CONFIG_HZ_250 is not set\nCONFIG_HZ=1000\n").expect("written");
        let of_distribution = kernel.ticks();
        fs::remove_dir_all(&dir).expect("removed");
        assert_eq!((none, built_here, of_distribution), (None, Some(250), Some(1000)));
    }

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 0x1000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x1f1] = 3;
        image[0x248..0x24c].copy_from_slice(&0x10_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&0x20_u32.to_le_bytes());
        assert!(payload(&image).is_none());
        image[0x810..0x814].copy_from_slice(&[0x02, 0x21, 0x4c, 0x18]);
        assert_eq!(payload(&image).map(|(bytes, kind)| (bytes.len(), kind)), Some((0x20, Compression::Lz4)));
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(payload(&image).is_none() && payload(b"short").is_none());
    }

    #[test]
    fn a_version_is_read_from_the_header_and_nowhere_else() {
        let mut head = vec![0; 0x400];
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        head[0x300..0x310].copy_from_slice(b"6.1.0-x (me) #1\0");
        assert_eq!(version(&head).as_deref(), Ok("6.1.0-x (me) #1"));
        head[0x20e..0x210].copy_from_slice(&0xffff_u16.to_le_bytes());
        assert!(version(&head).is_err());
        head[0x300..0x306].copy_from_slice(b"../../");
        head[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        assert!(version(&head).is_err());
        assert!(version(b"short").is_err());
    }
}
