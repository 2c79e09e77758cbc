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
    let busybox = bundle::busybox()?.join("rootfs");
    of_layers(&dir.join("image"), &[&busybox], &[(NAME, &["sh"]), (PAUSE, &["sleep", "1000000"])])
}

/// An archive of images with these names and commands, all of the same layers: a tree each, the lowest first. It is put together in `work`, and stands beside it.
pub fn of_layers(work: &Path, trees: &[&Path], images: &[(&str, &[&str])]) -> Result<PathBuf> {
    std::fs::create_dir_all(work)?;
    let tar = |from: &Path, to: &Path, what: &[String]| {
        sh::run(Command::new("tar").arg("-C").arg(from).arg("-cf").arg(to).args(["--owner=0", "--group=0"]).args(what))
    };
    let (mut layers, mut digests) = (Vec::new(), Vec::new());
    for (n, tree) in trees.iter().enumerate() {
        let name = format!("layer{n}.tar");
        tar(tree, &work.join(&name), &[".".into()])?;
        let sum = sh::output(Command::new("sha256sum").arg(work.join(&name)))?;
        digests.push(format!("sha256:{}", sum.split_whitespace().next().context("sha256sum says nothing")?));
        layers.push(name);
    }
    let (mut files, mut entries) = (vec!["manifest.json".to_string()], Vec::new());
    for (n, (name, command)) in images.iter().enumerate() {
        let history = vec![r#"{"created_by":"xtask"}"#; trees.len()].join(",");
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z",
"config":{{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":{command:?}}},
"rootfs":{{"type":"layers","diff_ids":{digests:?}}},"history":[{history}]}}"#
        );
        let file = format!("config{n}.json");
        std::fs::write(work.join(&file), config)?;
        entries.push(format!(r#"{{"Config":{file:?},"RepoTags":[{name:?}],"Layers":{layers:?}}}"#));
        files.push(file);
    }
    std::fs::write(work.join("manifest.json"), format!("[{}]", entries.join(",")))?;
    files.extend(layers);
    let archive = work.with_extension("tar");
    tar(work, &archive, &files)?;
    Ok(archive)
}
