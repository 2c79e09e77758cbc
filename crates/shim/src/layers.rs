//! Roots that need not be mounted: those of containerd's EROFS snapshotter, whose layers are images, which a sandbox maps.
//!
//! What a snapshotter describes is an overlay of directories, on each of which containerd has mounted an image (containerd 2.1: `layer.erofs`, beside the
//! directory `fs` of the snapshot), or an image by itself, of a view of one layer. From containerd 2.2 on the directories are its mount manager's, and only the
//! list of mounts says what is on them. Whatever is otherwise, or not known here, is mounted as any other root.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agent_api::MOST_ROOT_IMAGES;
use agent_api::erofs::{self, SUPER_AT, SUPER_LEN};
use rustix::fs::{OFlags, major, minor};

use crate::proto::Mount;
use crate::rootfs::split_layers;

/// The image of a layer, beside [`LAYER`].
const IMAGE: &str = "layer.erofs";
/// Where a snapshot's files are.
const LAYER: &str = "fs";

/// Of an overlay: what changes nothing in a new container's root, or only how changes are kept, which are not kept there.
const HARMLESS: [&str; 10] = [
    "rw",
    "ro",
    "index=off",
    "metacopy=off",
    "redirect_dir=off",
    "nfs_export=off",
    "xino=on",
    "xino=off",
    "xino=auto",
    "volatile",
];

/// Of a mount of EROFS: what changes nothing of the files that it shows.
const PLAIN: [&str; 9] = ["ro", "relatime", "noatime", "nodev", "nosuid", "user_xattr", "nouser_xattr", "acl", "noacl"];
/// The same, of options with a value.
const PLAIN_WITH: [&str; 2] = ["cache_strategy=", "dax="];

/// What a root is made of.
#[derive(Debug, PartialEq, Eq)]
enum Root {
    /// Directories, from the top down, and the one for changes.
    Overlay {
        lowers: Vec<String>,
        upper: Option<String>,
    },
    Image(String),
}

/// The images that a root is made of, the lowest first. None: it has to be mounted.
pub fn images(mounts: &[Mount]) -> Option<Vec<PathBuf>> {
    let images = match described(mounts)? {
        Root::Image(path) => vec![path.into()],
        Root::Overlay { lowers, upper } => {
            // What somebody has put there already is part of the root.
            if let Some(upper) = upper
                && fs::read_dir(upper).ok()?.next().is_some()
            {
                return None;
            }
            let mut mounted = None;
            lowers.iter().rev().map(|lower| image_at(Path::new(lower), &mut mounted)).collect::<Option<Vec<_>>>()?
        }
    };
    let mut seen = HashSet::new();
    let differ = |image: &PathBuf| mappable(image).is_some_and(|file| seen.insert(file));
    ((1..=MOST_ROOT_IMAGES).contains(&images.len()) && images.iter().all(differ)).then_some(images)
}

fn described(mounts: &[Mount]) -> Option<Root> {
    let [mount] = mounts else { return None };
    if !mount.target.trim_matches('/').is_empty() {
        return None;
    }
    match mount.kind.as_str() {
        "erofs" => {
            let plain = mount.options.iter().all(|option| matches!(option.as_str(), "ro" | "loop"));
            (plain && mount.source.starts_with('/')).then(|| Root::Image(mount.source.clone()))
        }
        "overlay" => {
            let (mut lowers, mut upper) = (Vec::new(), None);
            for option in &mount.options {
                match option.split_once('=') {
                    Some(("lowerdir", list)) => lowers = split_layers(list),
                    Some(("upperdir", dir)) => upper = Some(dir.to_string()),
                    Some(("workdir", _)) => {}
                    _ if HARMLESS.contains(&option.as_str()) => {}
                    _ => return None,
                }
            }
            (!lowers.is_empty()).then_some(Root::Overlay { lowers, upper })
        }
        _ => None,
    }
}

/// The image whose files a directory shows. `mounted`: the list of mounts, once it is known.
fn image_at(dir: &Path, mounted: &mut Option<String>) -> Option<PathBuf> {
    if dir.file_name().is_some_and(|name| name == LAYER) {
        let beside = dir.with_file_name(IMAGE);
        if beside.is_file() {
            return Some(beside);
        }
    }
    if mounted.is_none() {
        *mounted = fs::read_to_string("/proc/self/mountinfo").ok();
    }
    let (source, device) = mounted_at(mounted.as_deref()?, dir)?;
    // The last line of a place is not always what stands there.
    let there = fs::symlink_metadata(dir).ok()?.dev();
    if device != format!("{}:{}", major(there), minor(there)) {
        return None;
    }
    match source.strip_prefix("/dev/loop") {
        Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            behind(&Path::new("/sys/block").join(format!("loop{number}")).join("loop"))
        }
        _ => Some(source.into()),
    }
}

/// The file that a loop device shows, all of it, by the device's directory in sysfs.
fn behind(device: &Path) -> Option<PathBuf> {
    let read = |name: &str| fs::read_to_string(device.join(name)).ok().map(|text| text.trim_end_matches('\n').to_string());
    let all = ["offset", "sizelimit"].iter().all(|name| read(name).as_deref() == Some("0"));
    all.then(|| read("backing_file")).flatten().filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// The source of the EROFS that was mounted last at a place, all of it and as it is, by proc_pid_mountinfo(5), and its device number (`MAJOR:MINOR`).
fn mounted_at(mountinfo: &str, place: &Path) -> Option<(String, String)> {
    let line = mountinfo.lines().rev().find(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(&plain(at)) == place))?;
    let (before, behind) = line.split_once(" - ")?;
    let [kind, source, options] = behind.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let [device, root, _, of_mount] = before.split(' ').skip(2).take(4).collect::<Vec<_>>().try_into().ok()?;
    // With further devices one image is not all; with an offset it is another.
    let harmless = |option: &str| PLAIN.contains(&option) || PLAIN_WITH.iter().any(|name| option.starts_with(name));
    let as_it_is = root == "/" && options.split(',').chain(of_mount.split(',')).all(harmless);
    let source = plain(source);
    (kind == "erofs" && as_it_is && source.starts_with('/')).then(|| (source, device.to_string()))
}

/// A name without its escapes (`\040`).
fn plain(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        let code = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = more.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Device and inode of a file that all sandboxes take as an image, all of it.
fn mappable(path: &Path) -> Option<(u64, u64)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut superblock = [0; SUPER_LEN];
    file.read_exact_at(&mut superblock, SUPER_AT).ok()?;
    erofs::is_plain(&superblock).then(|| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| option.to_string()).collect();
        Mount { kind: kind.into(), source: source.into(), target: String::new(), options }
    }

    #[test]
    fn what_a_snapshotter_describes() {
        let overlay =
            mount("overlay", "overlay", &["workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs", "index=off"]);
        let expected = Root::Overlay { lowers: vec!["/s/2/fs".into(), "/s/1/fs".into()], upper: Some("/s/3/fs".into()) };
        assert_eq!(described(std::slice::from_ref(&overlay)), Some(expected));
        let view = mount("erofs", "/s/1/layer.erofs", &["ro", "loop"]);
        assert_eq!(described(std::slice::from_ref(&view)), Some(Root::Image("/s/1/layer.erofs".into())));
        let inside = Mount { target: "/inside".into(), ..view.clone() };
        let others = [
            vec![],
            vec![view.clone(), overlay],
            vec![inside],
            vec![mount("bind", "/s/1/fs", &["rbind", "rw"])],
            vec![mount("erofs", "s/1/layer.erofs", &["ro"])],
            vec![mount("erofs", "/s/1/fsmeta.erofs", &["ro", "loop", "device=/s/1/layer.erofs"])],
            vec![mount("overlay", "overlay", &["lowerdir=/s/2/fs:/s/1/fs", "uidmap=0:1000:1"])],
            vec![mount("overlay", "overlay", &["upperdir=/s/2/fs"])],
        ];
        for mounts in others {
            assert_eq!(described(&mounts), None, "{mounts:?}");
        }
    }

    #[test]
    fn the_list_of_mounts_says_what_is_on_a_directory() {
        let list = "\
30 20 0:40 / /m/1 ro,relatime shared:9 - erofs /s/a\\040b/layer.erofs ro,user_xattr,acl
31 20 7:0 / /m/2 ro - erofs /dev/loop0 ro,user_xattr
32 20 0:41 / /m/3 ro - erofs /s/fsmeta.erofs ro,device=/s/layer.erofs
33 20 0:42 /sub /m/4 ro - erofs /s/4.erofs ro
34 20 0:43 / /m/5 rw - tmpfs tmpfs rw
35 20 0:44 / /m/1\\0402 ro - erofs /s/old.erofs ro
36 20 0:45 / /m/1\\0402 ro - erofs /s/new.erofs ro
37 20 0:46 / /m/6 ro - erofs s/layer.erofs ro
38 20 0:47 / /m/7 ro - erofs /s/layer.erofs ro,fsoffset=4096
39 20 0:48 / /m/8 ro,noexec - erofs /s/layer.erofs ro
40 20 0:49 / /m/9 ro,nodev,nosuid,noatime - erofs /s/layer.erofs ro,noacl,nouser_xattr,cache_strategy=readaround,dax=never
41 odd";
        let found = |place: &str| mounted_at(list, Path::new(place));
        let some = |source: &str, device: &str| Some((source.to_string(), device.to_string()));
        assert_eq!(found("/m/1"), some("/s/a b/layer.erofs", "0:40"));
        assert_eq!(found("/m/2"), some("/dev/loop0", "7:0"));
        assert_eq!(found("/m/1 2"), some("/s/new.erofs", "0:45"));
        assert_eq!(found("/m/9"), some("/s/layer.erofs", "0:49"));
        for place in ["/m/3", "/m/4", "/m/5", "/m/6", "/m/7", "/m/8", "/m/10", "/"] {
            assert_eq!(found(place), None, "{place}");
        }
    }

    #[test]
    fn a_loop_device_shows_all_of_a_file() {
        let dir = std::env::temp_dir().join(format!("nacre-shim-loop-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let found = |offset: &str, limit: &str, file: &str| {
            for (name, text) in [("offset", offset), ("sizelimit", limit), ("backing_file", file)] {
                fs::write(dir.join(name), format!("{text}\n")).expect("a file");
            }
            behind(&dir)
        };
        let all = [found("0", "0", "/s/1 2"), found("4096", "0", "/s"), found("0", "4096", "/s"), found("0", "0", "s")];
        fs::remove_dir_all(&dir).expect("clean up");
        assert_eq!(all, [Some("/s/1 2".into()), None, None, None]);
        assert_eq!(behind(&dir), None);
    }

    #[test]
    fn the_mount_is_the_one_that_stands_there() {
        let list = |device: &str| Some(format!("30 20 {device} / / ro - erofs /s/layer.erofs ro\n"));
        let there = fs::metadata("/").expect("the root").dev();
        let found = |device: &str| image_at(Path::new("/"), &mut list(device));
        assert_eq!(found(&format!("{}:{}", major(there), minor(there))), Some("/s/layer.erofs".into()));
        assert_eq!(found("4095:1"), None);
    }

    /// Snapshots as containerd 2.1 has them.
    #[test]
    fn layers_beside_directories() {
        let dir = std::env::temp_dir().join(format!("nacre-shim-layers-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let mut image = vec![0_u8; 4096];
        image[1024..1028].copy_from_slice(&erofs::MAGIC.to_le_bytes());
        image[1024 + 12] = 12;
        for n in 1..=130 {
            fs::create_dir_all(dir.join(format!("{n}/fs"))).expect("a directory");
        }
        let layer = |n: u32| dir.join(format!("{n}/layer.erofs"));
        for n in (1..=2).chain(4..=130) {
            fs::write(layer(n), &image).expect("an image");
        }
        let root = |lowers: &[u32]| {
            let lowers = lowers.iter().map(|n| dir.join(format!("{n}/fs")).display().to_string()).collect::<Vec<_>>().join(":");
            let (lowers, upper) = (format!("lowerdir={lowers}"), format!("upperdir={}", dir.join("3/fs").display()));
            vec![mount("overlay", "overlay", &["workdir=/w", &upper, &lowers])]
        };
        assert_eq!(images(&root(&[2, 1])), Some(vec![layer(1), layer(2)]));
        let many: Vec<u32> = (1..=2).chain(4..=129).collect();
        assert_eq!(images(&root(&many)).map(|images| images.len()), Some(128));
        assert_eq!(images(&root(&[many.as_slice(), &[130]].concat())), None, "too many");
        assert_eq!(images(&root(&[2, 1, 2])), None, "one twice");
        assert_eq!(images(&root(&[2, 3])), None, "a layer that is a directory");
        let view = mount("erofs", &layer(2).display().to_string(), &["ro", "loop"]);
        assert_eq!(images(&[view]), Some(vec![layer(2)]));
        // Compressed, or by what mkfs.erofs would have taken away; long prefixes.
        for (at, value) in [(80, 0x2), (80, 0x1), (84, 0xff), (80, 0x40)] {
            let mut other = image.clone();
            other[1024 + at] = value;
            fs::write(layer(1), &other).expect("an image");
            assert_eq!(images(&root(&[2, 1])), None, "{at} {value}");
        }
        assert_eq!(images(&root(&[2])), Some(vec![layer(2)]));
        fs::write(dir.join("3/fs/changed"), "").expect("a file");
        assert_eq!(images(&root(&[2])), None, "changes that are there already");
        fs::remove_dir_all(dir).expect("clean up");
    }
}
