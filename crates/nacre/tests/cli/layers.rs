//! Roots made of several EROFS images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use serde_json::json;

use crate::support::{Place, in_vm};

/// Three images: busybox, and two over it with a whiteout, an opaque directory, and files of the same names. None where they cannot be made.
fn images(place: &Place) -> Option<Vec<PathBuf>> {
    let tree = |name: &str| place.dir.join(name);
    let base = place.bundle().join("rootfs");
    let put = |root: &Path, path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("a file");
    };
    for (path, text) in [("data/gone", "low"), ("data/both", "low"), ("data/keep", "low"), ("data/opaque/low", "low")] {
        put(&base, path, text);
    }
    fs::create_dir_all(base.join("proc")).expect("made");
    let (middle, top) = (tree("middle"), tree("top"));
    put(&middle, "data/both", "middle");
    put(&middle, "data/opaque/new", "middle");
    put(&top, "data/both", "top");
    let device = rustix::fs::makedev(0, 0);
    let whiteout = |path| rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), device);
    let made = whiteout(middle.join("data/gone"))
        // One that hides nothing.
        .and_then(|()| whiteout(base.join("data/nothing")))
        .and_then(|()| rustix::fs::setxattr(middle.join("data/opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()));
    if made.is_err() {
        eprintln!("not tested: whiteouts cannot be made here");
        return None;
    }
    let mut images = Vec::new();
    for from in [base, middle, top] {
        let image = from.with_extension("erofs");
        let made = Command::new("mkfs.erofs").args(["-E", "noinline_data"]).args([&image, &from]).output();
        if !made.is_ok_and(|output| output.status.success()) {
            eprintln!("not tested: no mkfs.erofs on this host (erofs-utils)");
            return None;
        }
        images.push(image);
    }
    Some(images)
}

fn annotation(images: &[PathBuf]) -> String {
    images.iter().map(|image| format!("erofs:{}", image.display())).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_root_of_images() {
    let Some(place) = Place::new("layers").busybox() else { return };
    let Some(images) = images(&place) else { return };
    let script = "cd /data && echo * opaque/* && cat both keep && busybox stat -c %i both keep opaque/new | busybox sort -u | busybox wc -l";
    let script = format!("{script}; echo new > both && busybox rm keep && cat both && ls /data");
    let seen = "both keep opaque opaque/new\ntoplow3\n";
    for overlay in ["memory", "dir"] {
        let mut config = Place::config(&["sh", "-c", &script]);
        config["annotations"] = json!({"dev.nacre.rootfs": annotation(&images), "dev.nacre.overlay": overlay});
        place.write(&config);
        let run = place.nacre(&["run", &place.id()]).ok();
        assert_eq!(run.stdout, format!("{seen}new\nboth\nopaque\n"), "{overlay}");
    }
    // Without an overlay of its own, and by the flag that the shim has.
    let mut config = Place::config(&["sh", "-c", "cd /data && echo * opaque/* && cat both keep; echo; touch /x"]);
    config["annotations"] = json!({"dev.nacre.overlay": "none"});
    config["root"]["readonly"] = true.into();
    place.write(&config);
    let id = place.id();
    let mut create = vec!["create".to_string()];
    for image in &images {
        create.extend(["--root-image".to_string(), image.display().to_string()]);
    }
    create.push(id.clone());
    let log = place.dir.join("out");
    let out = fs::File::create(&log).expect("a file");
    let mut command = place.command(&create.iter().map(String::as_str).collect::<Vec<_>>());
    let status = command.stdin(std::process::Stdio::null()).stdout(out.try_clone().expect("a file")).stderr(out).status();
    assert!(status.expect("run").success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    place.nacre(&["start", &id]).ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !place.nacre(&["state", &id]).ok().stdout.contains("\"stopped\"") {
        assert!(std::time::Instant::now() < deadline, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let said = fs::read_to_string(&log).expect("its output");
    assert!(said.starts_with("both keep opaque opaque/new\ntoplow\n") && said.contains("Read-only file system"), "{said}");
    place.nacre(&["delete", &id]).ok();
}

#[test]
fn one_image_is_a_layer_too() {
    let Some(place) = Place::new("layers-one").busybox() else { return };
    let Some(images) = images(&place) else { return };
    for overlay in ["memory", "dir"] {
        // Linux lists the marks of a directory that is in one layer only, but nobody gets at them.
        let script = "cd /data && for name in *; do [ -e $name ] && echo $name; done; echo new > nothing && cat nothing";
        let mut config = Place::config(&["sh", "-c", script]);
        config["annotations"] = json!({"dev.nacre.rootfs": annotation(&images[..1]), "dev.nacre.overlay": overlay});
        place.write(&config);
        let run = place.nacre(&["run", &place.id()]).ok();
        assert_eq!(run.stdout, "both\ngone\nkeep\nopaque\nnew\n", "{overlay}");
    }
}

/// Its gofer has no files to open, and is needed all the same.
#[test]
fn a_container_on_images_is_one_as_any_other() {
    let Some(place) = Place::new("layers-update").busybox() else { return };
    let Some(images) = images(&place) else { return };
    let mut config = Place::config(&["sleep", "1000"]);
    config["mounts"] = json!([]);
    config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
    config["annotations"] = json!({"dev.nacre.rootfs": annotation(&images)});
    place.write(&config);
    let id = place.id();
    place.detached(&["run", "-d", &id]).ok();
    if !in_vm() {
        let children = fs::read_dir("/proc").expect("/proc").flatten().filter(|process| {
            let read = |file: &str| fs::read_to_string(process.path().join(file)).unwrap_or_default();
            read("comm").trim() == "nacre-gofer" && read("cgroup").contains(&id)
        });
        let privileged = rustix::process::geteuid().is_root();
        assert!(!privileged || children.count() == 1, "the gofer is there");
    }
    place.nacre(&["update", "--memory", "134217728", &id]).ok();
    place.nacre(&["delete", "--force", &id]).ok();
}

#[test]
fn what_is_no_root_of_images() {
    let Some(place) = Place::new("layers-bad").busybox() else { return };
    let Some(images) = images(&place) else { return };
    let text = place.dir.join("text.erofs");
    fs::write(&text, vec![b'x'; 8192]).expect("a file");
    let run = |root: String| {
        let mut config = Place::config(&["true"]);
        config["annotations"] = json!({"dev.nacre.rootfs": root});
        place.write(&config);
        place.nacre(&["run", &place.id()])
    };
    run(annotation(&vec![images[0].clone(); 129])).fails(1, "one of 129 images");
    run(annotation(&[images[0].clone(), text])).fails(1, "layer 1 of the root: image: it is no EROFS image");
    run(annotation(&[images[0].clone(), images[1].clone(), images[0].clone()])).fails(1, "twice");
    run(format!("{}\nlower", annotation(&images[..1]))).fails(1, "is not erofs:PATH");
}
