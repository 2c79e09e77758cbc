//! `nacre install` on the configurations that packages bring, as their engines read them; and the documents of deploy/.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Case;
use super::engine::Engine;
use crate::{packages, sh};

/// Of this containerd.
pub const CASES: &[Case] = &[("install-containerd", containerd)];
/// Of others.
pub const OTHERS: &[Case] = &[("install-podman", podman), ("deploy", deploy)];

const LIMIT: Duration = Duration::from_secs(60);

/// A root for configuration files, and a folder for links.
struct Root {
    dir: PathBuf,
    bin: PathBuf,
}

impl Root {
    fn new(engine: &Engine) -> Result<Root> {
        let dir = engine.dir.join("install");
        let _ = std::fs::remove_dir_all(&dir);
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin)?;
        Ok(Root { dir, bin })
    }

    /// What the command says.
    fn nacre(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(sh::nacre());
        command.arg("install").args(args).arg("--prefix").arg(&self.dir).arg("--bindir").arg(&self.bin);
        let ended = sh::timed(&mut command, LIMIT)?;
        ensure!(ended.success(), "nacre install {}: {}: {}", args.join(" "), ended.how(), ended.stderr);
        Ok(ended.stdout)
    }

    /// Installs, which is done once, and shown before.
    fn install(&self, engine: &str) -> Result<()> {
        let shown = self.nacre(&[engine, "--dry-run"])?;
        let said = self.nacre(&[engine])?;
        ensure!(said.starts_with(shown.trim_end()), "{shown:?} is announced, and done is {said:?}");
        let again = self.nacre(&[engine])?;
        ensure!(again == "nothing to change\n", "again: {again}");
        Ok(())
    }

    fn uninstall(&self, engine: &str) -> Result<()> {
        self.nacre(&[engine, "--uninstall"])?;
        let left = std::fs::read_dir(&self.bin)?.count();
        ensure!(left == 0, "{left} links are left");
        Ok(())
    }
}

/// The file of the package, and the one that containerd itself prints.
fn containerd(engine: &mut Engine) -> Result<()> {
    let root = Root::new(engine)?;
    let path = root.dir.join("etc/containerd/config.toml");
    std::fs::create_dir_all(path.parent().context("a file without a folder")?)?;
    let packaged = std::fs::read_to_string("/etc/containerd/config.toml")?;
    let printed = sh::output(Command::new(engine.program("containerd")).args(["config", "default"]))?;
    for before in [packaged, printed] {
        std::fs::write(&path, &before)?;
        root.install("--containerd")?;
        let mut dump = Command::new(engine.program("containerd"));
        let seen = sh::output(dump.arg("-c").arg(&path).args(["config", "dump"]))?;
        for wanted in [".runtimes.nacre]", ".runtimes.nacre-vm]", "io.containerd.nacre-vm.v2", ".runtimes.runc]"] {
            ensure!(seen.contains(wanted), "containerd does not see {wanted} in\n{}", std::fs::read_to_string(&path)?);
        }
        root.uninstall("--containerd")?;
        ensure!(std::fs::read_to_string(&path)? == before, "the file is not as before");
    }
    Ok(())
}

/// podman reads drop-ins in one place only, so it gets a name space where that is ours.
fn podman(engine: &mut Engine) -> Result<()> {
    let root = Root::new(engine)?;
    let etc = root.dir.join("etc/containers");
    std::fs::create_dir_all(root.dir.join("etc"))?;
    sh::run(Command::new("cp").args(["-a", "/etc/containers"]).arg(&etc))?;
    root.install("--podman")?;
    let script = r#"mount --bind "$0" /etc/containers && podman --runtime nacre --root "$1/root" --runroot "$1/run" --storage-driver vfs \
info --format '{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}}'"#;
    let mut ask = Command::new("unshare");
    ask.args(["-m", "sh", "-c", script]).arg(&etc).arg(&root.dir);
    let said = sh::timed(&mut ask, LIMIT)?;
    let wanted = format!("nacre {}\n", root.bin.join("nacre").display());
    ensure!(said.stdout == wanted, "podman says {:?}, not {wanted:?}: {}", said.stdout, said.stderr);
    root.uninstall("--podman")?;
    let drop_ins = etc.join("containers.conf.d");
    if !Path::new("/etc/containers/containers.conf.d").exists() {
        std::fs::remove_dir(&drop_ins).context("a drop-in is left")?;
    }
    let same = sh::timed(Command::new("diff").args(["-r", "/etc/containers"]).arg(&etc), LIMIT)?;
    ensure!(same.success(), "not as before:\n{}", same.stdout);
    Ok(())
}

/// All are documents that Kubernetes could take: of a kind, with a name, and classes name the handlers that `nacre install` writes.
fn deploy(_: &mut Engine) -> Result<()> {
    packages::ensure(&["python3-yaml"])?;
    let mut parse = Command::new("/usr/bin/python3");
    parse.args(["-c", PARSE]).arg(sh::top().join("deploy"));
    let ended = sh::timed(&mut parse, LIMIT)?;
    ensure!(ended.success(), "{}{}", ended.stdout, ended.stderr);
    Ok(())
}

const PARSE: &str = r#"
import pathlib, sys, yaml
documents = [d for p in sorted(pathlib.Path(sys.argv[1]).glob("*.yaml")) for d in yaml.safe_load_all(p.read_text())]
names = {d["kind"] + " " + d["metadata"]["name"] for d in documents if d["apiVersion"]}
assert {"RuntimeClass nacre", "RuntimeClass nacre-vm"} <= names, names
for d in documents:
    if d["kind"] == "RuntimeClass":
        assert d["handler"] == d["metadata"]["name"] and d["overhead"]["podFixed"], d
    template = d["spec"].get("template", {}).get("spec", {}) if d["kind"] == "DaemonSet" else d.get("spec", {})
    classed = template.get("runtimeClassName")
    assert classed is None or "RuntimeClass " + classed in names, d
    if d["kind"] in ("Pod", "DaemonSet"):
        assert all(c["name"] and c["image"] for c in template["containers"]), d
    if d["kind"] == "DaemonSet":
        labels = d["spec"]["template"]["metadata"]["labels"]
        assert d["spec"]["selector"]["matchLabels"].items() <= labels.items(), d
        volumes = {v["name"] for v in template["volumes"]}
        mounts = {m["name"] for c in template["containers"] + template.get("initContainers", []) for m in c.get("volumeMounts", [])}
        assert mounts <= volumes, (mounts, volumes)
"#;
