//! containerd's EROFS snapshotter (2.1): layers that are images, which sandboxes map.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Case;
use super::engine::Engine;
use super::image;
use crate::{bundle, sh};

/// Under containerd 2 only.
pub const CASES: &[Case] = &[("erofs-snapshotter", mapped)];

const NAME: &str = "docker.io/library/nacre-layers:latest";

/// What of the layers is seen: `gone` is hidden by a whiteout, `opaque/low` by an opaque directory.
const SCRIPT: &str = "cd /data; echo * opaque/*; cat keep; echo new > keep; cat keep";

fn mapped(engine: &mut Engine) -> Result<()> {
    let archive = archive(&engine.dir)?.display().to_string();
    let find = || sh::output(Command::new("find").arg(engine.dir.join("root")).args(["-name", "layer.erofs"]));
    let before: Vec<String> = find()?.lines().map(String::from).collect();
    // By the client: the service that else does it knows only the snapshotters of its configuration.
    engine.ctr(&["image", "import", "--local", "--snapshotter", "erofs", &archive])?;
    let after = find()?;
    let images: Vec<&str> = after.lines().filter(|image| before.iter().all(|other| other != image)).collect();
    // The lowest may be another image's, too.
    ensure!(matches!(images.len(), 2 | 3), "the snapshotter has made other layers: {images:?}");
    for (kind, runtime) in [("sentry", "io.containerd.nacre.v2"), ("vm", "io.containerd.nacre-vm.v2")] {
        let run = |engine: &Engine, id: &str, options: &[&str], command: &[&str]| {
            let run = ["run", "--runtime", runtime, "--snapshotter", "erofs"];
            engine.try_ctr(&[&run, options, &[NAME, id], command].concat())
        };
        for overlay in ["memory", "dir"] {
            let annotation = format!("dev.nacre.overlay={overlay}");
            let ended =
                run(engine, &format!("{kind}-{overlay}"), &["--rm", "--annotation", &annotation], &["sh", "-c", SCRIPT])?;
            ensure!(
                ended.stdout == "keep opaque opaque/new\nlow\nnew\n",
                "{kind} {overlay}: {:?} {}",
                ended.stdout,
                ended.stderr
            );
        }
        // Written to where it lies: mounted.
        let id = format!("{kind}-mounted");
        let options = ["-d", "--annotation", "dev.nacre.overlay=none"];
        let ended = run(engine, &id, &options, &["sh", "-c", "touch /data/kept; sleep 1000"])?;
        ensure!(ended.success(), "{kind}: {}", ended.stderr);
        ensure!(engine.roots()?.len() == 1, "{kind}: the snapshot is not mounted");
        engine.clear()?;
        let id = format!("{kind}-mapped");
        let ended = run(engine, &id, &["-d"], &["sleep", "1000"])?;
        ensure!(ended.success(), "{kind}: {}", ended.stderr);
        ensure!(engine.roots()?.is_empty(), "{kind}: the root is mounted on the host: {:?}", engine.roots());
        engine.clear()?;
    }
    on_devices(engine, images.into_iter())?;
    // Its snapshots are mounted by containerd until they are removed.
    engine.ctr(&["image", "rm", "--sync", NAME]).map(drop)
}

/// In a VM a layer that is as large as memory devices are is one; the others are disks.
fn on_devices<'a>(engine: &Engine, images: impl Iterator<Item = &'a str>) -> Result<()> {
    const UNIT: u64 = 128 << 20;
    let sizes = images.map(|image| Ok((std::fs::metadata(image)?.len(), image))).collect::<Result<Vec<_>>>()?;
    let (size, largest) = sizes.iter().max().context("no image")?;
    std::fs::OpenOptions::new().write(true).open(largest)?.set_len(size.next_multiple_of(UNIT))?;
    let run = ["run", "--rm", "--runtime", "io.containerd.nacre-vm.v2", "--snapshotter", "erofs", NAME, "devices"];
    let ended = engine.try_ctr(&[run.as_slice(), &["sh", "-c", "cd /sys/block; echo pmem* vd*"]].concat())?;
    ensure!(ended.stdout == "pmem0 vda vdb\n", "{:?} {}", ended.stdout, ended.stderr);
    Ok(())
}

/// Three layers.
fn archive(dir: &Path) -> Result<std::path::PathBuf> {
    let work = dir.join("layers");
    let put = |path: &str, text: &str| -> Result<()> {
        let path = work.join(path);
        std::fs::create_dir_all(path.parent().context("a file in a directory")?)?;
        Ok(std::fs::write(path, text)?)
    };
    for (path, text) in [
        ("1/data/gone", "low\n"),
        ("1/data/keep", "low\n"),
        ("1/data/opaque/low", "low\n"),
        ("2/data/.wh.gone", ""),
        ("2/data/opaque/.wh..wh..opq", ""),
        ("2/data/opaque/new", "new\n"),
    ] {
        put(path, text)?;
    }
    let busybox = bundle::busybox()?.join("rootfs");
    image::of_layers(&work, &[&busybox, &work.join("1"), &work.join("2")], &[(NAME, &["sh"])])
}
