//! The root that containerd's snapshotter describes: mounted at the bundle's `rootfs`, as runc's shim does. Some need not be ([`layers`](crate::layers)).

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::proto::Mount;

/// mount(8)'s word for a file instead of a block device. Linux mounts EROFS from a file by itself, since 6.12.
const OF_A_FILE: &str = "loop";

/// Mounts in order. What was mounted before one fails is taken away again.
///
/// # Errors
/// Names the mount.
pub fn mount(mounts: &[Mount], root: &Path) -> Result<(), String> {
    if mounts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(root).map_err(|e| format!("cannot make {}: {e}", root.display()))?;
    for mount in mounts {
        if let Err(error) = one(mount, root) {
            unmount(root);
            let (root, target) = (root.display(), &mount.target);
            let why = match error {
                Errno::NOTBLK if mount.options.iter().any(|option| option == OF_A_FILE) => {
                    "the host's kernel mounts it from a block device only, and no loop device is made here".to_string()
                }
                error => error.to_string(),
            };
            return Err(format!("cannot mount {} ({}) at {root}{target}: {why}", mount.source, mount.kind));
        }
    }
    Ok(())
}

fn one(mount: &Mount, root: &Path) -> rustix::io::Result<()> {
    let Options { flags, propagation, data } = Options::parse(&mount.options);
    let (data, _layers) = within_a_page(&data)?;
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    // Anew each time: what was mounted last is on top.
    let place = || Place::find(root, &mount.target);
    if flags.contains(MountFlags::BIND) {
        let recursive = flags & (MountFlags::BIND | MountFlags::REC);
        match recursive.contains(MountFlags::REC) {
            true => rustix::mount::mount_bind_recursive(&mount.source, place()?.path())?,
            false => rustix::mount::mount_bind(&mount.source, place()?.path())?,
        }
        let rest = flags - MountFlags::REC;
        if rest != MountFlags::BIND {
            rustix::mount::mount_remount(place()?.path(), rest, c"")?;
        }
    } else {
        rustix::mount::mount(&mount.source, place()?.path(), &mount.kind, flags, Some(data.as_c_str()))?;
    }
    match propagation {
        Some(propagation) => rustix::mount::mount_change(place()?.path(), propagation),
        None => Ok(()),
    }
}

/// Where something is mounted.
enum Place<'a> {
    Root(&'a Path),
    /// Inside what is mounted there already, whose links lead nowhere else.
    Inside(OwnedFd),
}

impl Place<'_> {
    fn find<'a>(root: &'a Path, target: &str) -> rustix::io::Result<Place<'a>> {
        let target = target.trim_matches('/');
        if target.is_empty() {
            return Ok(Place::Root(root));
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
        rustix::fs::openat2(root, target, flags, Mode::empty(), ResolveFlags::IN_ROOT).map(Place::Inside)
    }

    fn path(&self) -> PathBuf {
        match self {
            Place::Root(root) => root.to_path_buf(),
            Place::Inside(fd) => by_number(fd).into(),
        }
    }
}

fn by_number(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The options as mount(2) takes them, which reads no more than a page. The layers of an image of many are longer by their names: then they are opened, and have the
/// names of descriptors, which last until this is dropped.
fn within_a_page(data: &[String]) -> rustix::io::Result<(String, Vec<OwnedFd>)> {
    let page = rustix::param::page_size();
    let (whole, mut layers) = (data.join(","), Vec::new());
    if whole.len() < page {
        return Ok((whole, layers));
    }
    let mut short = Vec::new();
    for option in data {
        short.push(match option.strip_prefix("lowerdir=") {
            None => option.clone(),
            Some(lower) => {
                let mut names = Vec::new();
                for layer in split_layers(lower) {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let layer = rustix::fs::open(layer, flags, Mode::empty())?;
                    names.push(by_number(&layer));
                    layers.push(layer);
                }
                format!("lowerdir={}", names.join(":"))
            }
        });
    }
    let short = short.join(",");
    if short.len() < page { Ok((short, layers)) } else { Err(Errno::TOOBIG) }
}

/// overlayfs's list: a backslash takes a colon its meaning.
pub fn split_layers(lower: &str) -> Vec<String> {
    let (mut layers, mut layer) = (Vec::new(), String::new());
    let mut rest = lower.chars();
    while let Some(c) = rest.next() {
        match c {
            ':' => layers.push(std::mem::take(&mut layer)),
            '\\' => layer.extend(rest.next()),
            c => layer.push(c),
        }
    }
    layers.push(layer);
    layers
}

/// Takes away all that is mounted there; nothing is no error.
pub fn unmount(target: &Path) {
    while rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
}

struct Options {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    /// For the file system itself.
    data: Vec<String>,
}

impl Options {
    fn parse(options: &[String]) -> Options {
        let mut parsed = Options { flags: MountFlags::empty(), propagation: None, data: Vec::new() };
        for option in options {
            match option.as_str() {
                "ro" => parsed.flags |= MountFlags::RDONLY,
                "rw" => parsed.flags -= MountFlags::RDONLY,
                "bind" => parsed.flags |= MountFlags::BIND,
                "rbind" => parsed.flags |= MountFlags::BIND | MountFlags::REC,
                "nosuid" => parsed.flags |= MountFlags::NOSUID,
                "nodev" => parsed.flags |= MountFlags::NODEV,
                "noexec" => parsed.flags |= MountFlags::NOEXEC,
                "noatime" => parsed.flags |= MountFlags::NOATIME,
                "nodiratime" => parsed.flags |= MountFlags::NODIRATIME,
                "relatime" => parsed.flags |= MountFlags::RELATIME,
                "sync" => parsed.flags |= MountFlags::SYNCHRONOUS,
                "private" => parsed.propagation = Some(MountPropagationFlags::PRIVATE),
                "rprivate" => parsed.propagation = Some(MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
                "slave" => parsed.propagation = Some(MountPropagationFlags::DOWNSTREAM),
                "rslave" => parsed.propagation = Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC),
                "defaults" | OF_A_FILE | "suid" | "dev" | "exec" | "async" => {}
                data => parsed.data.push(data.into()),
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = ["ro", "loop", "lowerdir=/a:/b", "rbind", "index=off", "rprivate"].map(String::from);
        let parsed = Options::parse(&options);
        assert_eq!(parsed.flags, MountFlags::RDONLY | MountFlags::BIND | MountFlags::REC);
        assert_eq!(parsed.data, ["lowerdir=/a:/b", "index=off"]);
        assert!(parsed.propagation.is_some());
    }

    #[test]
    fn layers_are_told_apart() {
        assert_eq!(split_layers(r"/a:/b\:c:/d\\e"), ["/a", "/b:c", r"/d\e"]);
    }

    /// Where it can be: by root.
    fn scratch(name: &str) -> Option<PathBuf> {
        let dir = std::env::temp_dir().join(format!("nacre-shim-rootfs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("dir");
        let tmpfs = rustix::mount::mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), c"");
        if tmpfs.is_err() {
            eprintln!("not tested: nothing can be mounted here");
            return None;
        }
        Some(dir)
    }

    fn of(kind: &str, source: &str, target: &str, options: &[String]) -> Mount {
        Mount { kind: kind.into(), source: source.into(), target: target.into(), options: options.to_vec() }
    }

    /// A view of one layer, as containerd's EROFS snapshotter describes it.
    #[test]
    fn an_image_by_itself() {
        let dir = std::env::temp_dir().join(format!("nacre-shim-rootfs-image-{}", std::process::id()));
        let (from, image, root) = (dir.join("from"), dir.join("layer.erofs"), dir.join("rootfs"));
        std::fs::create_dir_all(&from).expect("dir");
        std::fs::write(from.join("file"), "of the image").expect("a file");
        let made = std::process::Command::new("mkfs.erofs").args([&image, &from]).output();
        let done = mount(&[of("erofs", &image.display().to_string(), "", &["ro".into(), "loop".into()])], &root);
        let seen = std::fs::read_to_string(root.join("file"));
        unmount(&root);
        std::fs::remove_dir_all(dir).expect("clean up");
        match done {
            _ if !made.is_ok_and(|output| output.status.success()) => eprintln!("not tested: no mkfs.erofs on this host"),
            Err(what) if !rustix::process::geteuid().is_root() || what.contains("no loop device") => {
                eprintln!("not tested: {what}")
            }
            done => assert_eq!(done.and_then(|()| seen.map_err(|e| e.to_string())).as_deref(), Ok("of the image")),
        }
    }

    /// As containerd's snapshotter has them: more than a page of names.
    #[test]
    fn images_of_many_layers() {
        let Some(dir) = scratch("layers") else { return };
        let snapshots = dir.join("var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots");
        let layers: Vec<PathBuf> = (0..70).map(|n| snapshots.join(format!("{n}/fs"))).collect();
        for (n, layer) in layers.iter().enumerate() {
            std::fs::create_dir_all(layer).expect("a layer");
            std::fs::write(layer.join("of-all"), n.to_string()).expect("a file");
            std::fs::write(layer.join(n.to_string()), "").expect("a file");
        }
        let lower = layers.iter().map(|layer| layer.display().to_string()).collect::<Vec<_>>().join(":");
        assert!(lower.len() > rustix::param::page_size());
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        for dir in [&upper, &work] {
            std::fs::create_dir(dir).expect("dir");
        }
        let options =
            [format!("workdir={}", work.display()), format!("upperdir={}", upper.display()), format!("lowerdir={lower}")];
        let root = dir.join("rootfs");
        mount(&[of("overlay", "overlay", "", &options)], &root).expect("mounted");
        assert_eq!(std::fs::read_to_string(root.join("of-all")).expect("a file"), "0");
        assert!(root.join("69").exists());
        std::fs::write(root.join("new"), "").expect("writable");
        assert!(upper.join("new").exists());
        unmount(&root);
        unmount(&dir);
        std::fs::remove_dir_all(dir).expect("clean up");
    }

    #[test]
    fn mounts_inside_the_root_stay_there() {
        let Some(dir) = scratch("target") else { return };
        let (root, outside) = (dir.join("rootfs"), dir.join("outside"));
        for dir in [dir.join("base/inside"), outside.clone()] {
            std::fs::create_dir_all(dir).expect("dir");
        }
        std::os::unix::fs::symlink(&outside, dir.join("base/link")).expect("a link");
        let base = of("bind", &dir.join("base").display().to_string(), "", &["bind".into()]);
        let tmpfs = |target: &str| of("tmpfs", "tmpfs", target, &["ro".into()]);
        mount(&[base.clone(), tmpfs("/inside")], &root).expect("mounted");
        assert!(std::fs::write(root.join("inside/x"), "").is_err(), "read-only");
        assert!(std::fs::write(root.join("x"), "").is_ok());
        unmount(&root);
        assert!(mount(&[base, tmpfs("/link")], &root).is_err(), "there is no such directory in the root");
        assert!(std::fs::write(outside.join("x"), "").is_ok());
        unmount(&dir);
        std::fs::remove_dir_all(dir).expect("clean up");
    }
}
