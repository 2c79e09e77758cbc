//! An image for containerd, made here: busybox in the form of `docker save`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{bundle, sh};

/// What it is called.
pub const NAME: &str = "docker.io/library/nacre-test:latest";
/// The same files, with a program that sleeps: for a pod's sandbox.
pub const PAUSE: &str = "docker.io/library/nacre-pause:latest";

/// Writes the archive into `dir`.
pub fn archive(dir: &Path) -> Result<PathBuf> {
    let busybox = bundle::busybox()?;
    let work = dir.join("image");
    std::fs::create_dir_all(&work)?;
    let tar = |from: &Path, to: &Path, what: &[&str]| {
        sh::run(Command::new("tar").arg("-C").arg(from).arg("-cf").arg(to).args(["--owner=0", "--group=0"]).args(what))
    };
    tar(&busybox.join("rootfs"), &work.join("layer.tar"), &["."])?;
    let sum = sh::output(Command::new("sha256sum").arg(work.join("layer.tar")))?;
    let digest = sum.split_whitespace().next().context("sha256sum says nothing")?;
    let config = |command: &str| {
        format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z",
"config":{{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":[{command}]}},
"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}},"history":[{{"created_by":"xtask"}}]}}"#
        )
    };
    std::fs::write(work.join("config.json"), config("\"sh\""))?;
    std::fs::write(work.join("pause.json"), config("\"sleep\",\"1000000\""))?;
    let entry = |config: &str, name: &str| format!(r#"{{"Config":"{config}","RepoTags":["{name}"],"Layers":["layer.tar"]}}"#);
    let manifest = format!("[{},{}]", entry("config.json", NAME), entry("pause.json", PAUSE));
    std::fs::write(work.join("manifest.json"), manifest)?;
    let archive = dir.join("image.tar");
    tar(&work, &archive, &["manifest.json", "config.json", "pause.json", "layer.tar"])?;
    Ok(archive)
}
