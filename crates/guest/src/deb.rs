//! A kernel out of its Debian package (deb(5)), which need not be installed.
//!
//! What a VM needs of it goes into a directory of the cache, laid out as in a system: `boot/vmlinuz-RELEASE` with its
//! configuration beside it, and modules in `lib/modules/RELEASE` with the `modules.dep` that depmod would make of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::compression::reader;
use super::elf::Elf;
use super::{GuestError, Kernel, cache, io_error, modules};

/// What a package begins with: it is an `ar` archive.
pub const MAGIC: &[u8] = b"!<arch>\n";

/// What changes when more or something else of a package is taken: what an earlier version has unpacked is not what this one would.
const FORMAT: &[u8] = b"nacre package 2";

/// The kernel of a package, unpacked into the cache unless it is there already.
///
/// # Errors
/// It is no package of a kernel; it lacks a module that a VM needs.
pub fn kernel(deb: &Path, cache: &Path) -> Result<Kernel, GuestError> {
    let mut file = File::open(deb).map_err(io_error("read", deb))?;
    let content = cache::digest_of(&mut file).map_err(io_error("read", deb))?;
    let dir = cache.join(format!("kernel-{}", cache::digest(&[FORMAT, content.as_bytes()])));
    if let Some(image) = cache::kernel_in(&dir) {
        return Kernel::open(&image);
    }
    // Unpacked here, and what is wanted of it put together there.
    let (all, new) = (cache::beside(&dir, "unpacked"), cache::beside(&dir, "new"));
    let made = unpack(&mut file, &all).map_err(|why| GuestError::BadPackage { path: deb.into(), why }).and_then(|()| {
        let image = cache::kernel_in(&all)
            .ok_or_else(|| GuestError::BadPackage { path: deb.into(), why: "there is no kernel in it".into() })?;
        choose(&image, &all, &new)?;
        cache::place(&new, &dir)
    });
    let _ = fs::remove_dir_all(&all);
    let _ = fs::remove_dir_all(&new);
    made?;
    let image = cache::kernel_in(&dir)
        .ok_or_else(|| GuestError::BadPackage { path: deb.into(), why: "it has left no kernel".into() })?;
    Kernel::open(&image)
}

/// Unpacks the kernel and its modules.
fn unpack(file: &mut File, to: &Path) -> Result<(), String> {
    let data = data(file).map_err(|e| e.to_string())?.ok_or("it is no Debian package")?;
    let content = reader(BufReader::with_capacity(256 << 10, data)).map_err(|e| e.to_string())?;
    let mut archive = tar::Archive::new(content);
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let mut entry = entry.map_err(|e| e.to_string())?;
        let path = entry.path().map_err(|e| e.to_string())?;
        let Some(place) = wanted(&path) else { continue };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let place = to.join(place);
        let write = |entry: &mut dyn Read| {
            fs::create_dir_all(place.parent().unwrap_or(to))?;
            io::copy(entry, &mut File::create(&place)?)
        };
        write(&mut entry).map_err(|e| format!("cannot write {}: {e}", place.display()))?;
    }
    Ok(())
}

/// The member `data.tar`, in whatever compression.
fn data(file: &mut File) -> io::Result<Option<io::Take<&mut File>>> {
    let mut magic = [0; 8];
    file.rewind()?;
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Ok(None);
    }
    loop {
        // Name, time, owner, group, mode; the size at 48, decimal; two bytes.
        let mut header = [0; 60];
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let (name, size) = (&header[..16], &header[48..58]);
        let size = std::str::from_utf8(size).ok().and_then(|text| text.trim_end().parse::<u64>().ok());
        let size = size.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a member of it has no size"))?;
        if name.starts_with(b"data.tar") {
            return Ok(Some(file.take(size)));
        }
        // Members start at even places.
        let skip = i64::try_from(size.next_multiple_of(2)).map_err(io::Error::other)?;
        file.seek(SeekFrom::Current(skip))?;
    }
}

/// Where a file of the package goes, if it is wanted.
fn wanted(path: &Path) -> Option<PathBuf> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part),
            _ => return None,
        }
    }
    let starts =
        |part: Option<&&OsStr>, with: &str| part.is_some_and(|part| part.as_encoded_bytes().starts_with(with.as_bytes()));
    // All is below /usr in newer ones.
    let parts = parts.strip_prefix(&[OsStr::new("usr")]).unwrap_or(&parts);
    let is_wanted = match parts {
        [boot, name] if *boot == "boot" => starts(Some(name), "vmlinuz-") || starts(Some(name), "config-"),
        [lib, modules, _, .., name] if *lib == "lib" && *modules == "modules" => {
            *name == "modules.builtin" || is_module(Path::new(name))
        }
        _ => false,
    };
    is_wanted.then(|| parts.iter().collect())
}

fn is_module(path: &Path) -> bool {
    modules::plain_name(path).is_some()
}

/// Puts what a VM needs of `all` into `new`.
fn choose(image: &Path, all: &Path, new: &Path) -> Result<(), GuestError> {
    let head = Kernel::read_head(image)?;
    let modules = all.join("lib/modules").join(&head.release);
    let copy = |from: &Path| {
        let to = new.join(from.strip_prefix(all).unwrap_or(from));
        fs::create_dir_all(to.parent().unwrap_or(new)).and_then(|()| fs::rename(from, &to)).map_err(io_error("place", &to))
    };
    let files = files(&modules);
    let mut dep = String::new();
    let mut taken = BTreeSet::new();
    for name in modules::wanted() {
        let mut order = Vec::new();
        // A module that is not there is built in, or missing; who chooses from the result says so.
        require(&files, &modules::name_of(name), &mut BTreeSet::new(), &mut order)?;
        for (index, path) in order.iter().enumerate() {
            if taken.insert((*path).clone()) {
                // All that it needs, each before what that itself needs. (What the list has beside is loaded early, and does no harm.)
                let line = |path: &Path| path.strip_prefix(&modules).unwrap_or(path).display().to_string();
                let needs: Vec<String> = order.iter().take(index).rev().map(|path| line(path)).collect();
                dep += &format!("{}: {}\n", line(path), needs.join(" "));
            }
        }
    }
    for path in &taken {
        copy(path)?;
    }
    copy(&modules.join("modules.builtin"))?;
    copy(image)?;
    let config = image.with_file_name(format!("config-{}", head.release));
    if config.exists() {
        copy(&config)?;
    }
    let path = new.join("lib/modules").join(&head.release).join("modules.dep");
    fs::write(&path, dep).map_err(io_error("write", &path))
}

/// All modules below a directory by name.
fn files(dir: &Path) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if is_module(&path) {
                files.insert(modules::name_of(&path.to_string_lossy()), path);
            }
        }
    }
    files
}

/// Adds a module after all that it needs: what its own list (`depends=` in `.modinfo`, from modpost) says.
fn require<'a>(
    files: &'a BTreeMap<String, PathBuf>,
    name: &str,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<&'a PathBuf>,
) -> Result<(), GuestError> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if seen.insert(name.into()) {
        for needed in depends(&modules::read(path)?) {
            require(files, &needed, seen, order)?;
        }
        order.push(path);
    }
    Ok(())
}

fn depends(module: &[u8]) -> Vec<String> {
    let info = Elf::new(module).and_then(|elf| elf.section(b".modinfo")).unwrap_or_default();
    let list = info.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(list.unwrap_or_default()).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(modules::name_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_vm_needs_is_unpacked_and_nothing_outside() {
        let place = |path: &str| wanted(Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(place("./boot/vmlinuz-6.1").as_deref(), Some("boot/vmlinuz-6.1"));
        assert_eq!(place("./usr/lib/modules/6.1/kernel/a.ko.xz").as_deref(), Some("lib/modules/6.1/kernel/a.ko.xz"));
        assert_eq!(place("lib/modules/6.1/modules.builtin").as_deref(), Some("lib/modules/6.1/modules.builtin"));
        for path in
            ["boot/System.map-6.1", "../boot/vmlinuz-6.1", "/boot/vmlinuz-1", "lib/modules/6.1/../../x.ko", "usr/share/doc/x"]
        {
            assert_eq!(place(path), None, "{path}");
        }
    }

    #[test]
    fn modules_come_after_what_they_need_though_they_may_need_one_another() {
        let dir = cache::beside(&std::env::temp_dir().join("nacre-guest-deb"), "test");
        fs::create_dir_all(&dir).expect("made");
        for (name, needs) in [("a-b", "c,d"), ("c", "d"), ("d", "a_b")] {
            fs::write(dir.join(format!("{name}.ko")), module(&format!("depends={needs}"))).expect("written");
        }
        let files = files(&dir);
        let mut order = Vec::new();
        let required = require(&files, "a_b", &mut BTreeSet::new(), &mut order);
        let names: Vec<_> = order.iter().map(|path| path.file_name().expect("a file").to_string_lossy().into_owned()).collect();
        let _ = fs::remove_dir_all(&dir);
        required.expect("read");
        assert_eq!(names, ["d.ko", "c.ko", "a-b.ko"]);
    }

    #[test]
    fn a_package_becomes_a_kernel_with_what_a_vm_needs() {
        let dir = cache::beside(&std::env::temp_dir().join("nacre-guest-package"), "test");
        fs::create_dir_all(&dir).expect("made");
        let mut files = vec![
            ("./boot/vmlinuz-6.1-x".to_string(), bz_image("6.1-x (me) #1")),
            ("./boot/config-6.1-x".into(), b"CONFIG_HZ=250\n".to_vec()),
            ("./lib/modules/6.1-x/modules.builtin".into(), b"kernel/fs/ext4.ko\n".to_vec()),
            ("./lib/modules/6.1-x/kernel/sound.ko".into(), module("depends=")),
            ("./lib/modules/6.1-x/kernel/virtio_ring.ko".into(), module("depends=")),
        ];
        for name in modules::wanted() {
            files.push((format!("./lib/modules/6.1-x/kernel/{name}.ko"), module("depends=virtio_ring")));
        }
        let deb = dir.join("linux-image.deb");
        fs::write(&deb, package(&files)).expect("written");
        // The first version named it so, and took no configuration.
        let content = cache::digest_of(&mut File::open(&deb).expect("opened")).expect("read");
        let boot = dir.join("cache").join(format!("kernel-{content}/boot"));
        fs::create_dir_all(&boot).expect("made");
        fs::write(boot.join("vmlinuz-6.1-x"), bz_image("6.1-x (me) #1")).expect("written");
        let made = kernel(&deb, &dir.join("cache"));
        let again = kernel(&deb, &dir.join("cache"));
        let of = |kernel: &Kernel| (kernel.release.clone(), modules::Set::choose(kernel).map(|set| set.list()));
        let (made, again) = (made.expect("a kernel"), again.expect("the same"));
        let (release, list) = of(&made);
        let ticks = made.ticks();
        let sound = made.modules.join("kernel/sound.ko").exists();
        fs::write(&deb, MAGIC).expect("written");
        let empty = kernel(&deb, &dir.join("cache")).expect_err("empty").to_string();
        let left = fs::read_dir(dir.join("cache")).expect("listed").count();
        let _ = fs::remove_dir_all(&dir);
        assert_eq!((release.as_str(), ticks, sound, made == again, left), ("6.1-x", Some(250), false, true, 2));
        let list = list.expect("all there");
        assert!(list.starts_with("always virtio_ring.ko virtio_pci.ko\n"), "{list}");
        assert!(empty.contains("linux-image.deb"), "{empty}");
    }

    fn bz_image(version: &str) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
        image
    }

    fn package(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(gzip);
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, content.as_slice()).expect("added");
        }
        let data = archive.into_inner().expect("whole").finish().expect("packed");
        let mut deb = MAGIC.to_vec();
        for (name, content) in [("debian-binary", b"2.0".as_slice()), ("data.tar.gz", &data)] {
            deb.extend_from_slice(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes(),
            );
            deb.extend_from_slice(content);
            deb.resize(deb.len().next_multiple_of(2), b'\n');
        }
        deb
    }

    /// An ELF file with a section `.modinfo`.
    fn module(info: &str) -> Vec<u8> {
        let mut file = [super::super::elf::MAGIC, &[0; 58]].concat();
        let names = b"\0.modinfo\0";
        let content = format!("license=GPL\0{info}\0");
        let sections = [(0, 0, 0), (1, 64 + names.len(), content.len()), (0, 64, names.len())];
        file.extend_from_slice(names);
        file.extend_from_slice(content.as_bytes());
        let table = file.len() as u64;
        for (name, offset, len) in sections {
            let mut section = [0; 64];
            section[..4].copy_from_slice(&(name as u32).to_le_bytes());
            section[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            section[32..40].copy_from_slice(&(len as u64).to_le_bytes());
            file.extend_from_slice(&section);
        }
        file[40..48].copy_from_slice(&table.to_le_bytes());
        for (at, number) in [(58, 64_u16), (60, 3), (62, 2)] {
            file[at..at + 2].copy_from_slice(&number.to_le_bytes());
        }
        file
    }
}
