//! What `nacre install` changes in the configuration of engines, as data: files with their content before and after.
//!
//! Where an engine reads drop-ins, nacre has a file of its own there. containerd 1.x replaces a plugin's whole section by an import's, so its runtime handlers
//! stand in its own file, between two marks. Doing it twice changes nothing, and undoing it leaves the file as it was.

mod containerd;
mod engines;
mod links;
mod node;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub use node::{HOME, engines as engines_of_node, owed, programs as programs_of_node};

/// Whose configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Containerd,
    Crio,
    Podman,
    /// Whoever runs CNI plugins.
    Cni,
}

impl Engine {
    /// Its unit of systemd, if it has to be started again to read its configuration.
    pub fn unit(self) -> Option<&'static str> {
        match self {
            Engine::Containerd => Some("containerd"),
            Engine::Crio => Some("crio"),
            Engine::Podman | Engine::Cni => None,
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Install,
    Uninstall,
}

/// Where things are.
#[derive(Debug)]
pub struct Places {
    /// In front of all configuration paths.
    pub root: PathBuf,
    /// In front of the paths of programs, which are as engines see them: `/`, or where a node's root is mounted.
    pub node: PathBuf,
    /// Where containerd and people look for programs.
    pub bin: PathBuf,
    /// Where CNI's plugins are.
    pub plugins: PathBuf,
    /// This program.
    pub nacre: PathBuf,
}

impl Places {
    fn config(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Where a program's path is for this process.
    fn here(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(inside) if self.node != Path::new("/") => self.node.join(inside),
            _ => path.into(),
        }
    }
}

/// What a file is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Absent,
    Text(String),
    Link(PathBuf),
    /// A program, the same as this one.
    Copy(PathBuf),
}

/// One file.
#[derive(Debug)]
pub struct Change {
    pub path: PathBuf,
    pub before: Content,
    pub after: Content,
}

/// What is to be changed; nothing if all is as wished.
///
/// # Errors
/// A file that is in the way, or cannot be read.
pub fn plan(engine: Engine, wish: Wish, places: &Places) -> Result<Vec<Change>> {
    let mut changes = match engine {
        Engine::Containerd => containerd::plan(wish, places)?,
        Engine::Crio => engines::crio(wish, places)?,
        Engine::Podman => engines::podman(wish, places)?,
        // A list of plugins is its owner's: `nacre install --cni` says what to add.
        Engine::Cni => Vec::new(),
    };
    changes.extend(links::plan(engine, wish, places)?);
    changes.retain(|change| change.before != change.after);
    Ok(changes)
}

impl Change {
    fn new(path: PathBuf, after: Content) -> Result<Change> {
        let before = read(&path)?;
        Ok(Change { path, before, after })
    }

    /// The lines that come and go, for people.
    pub fn describe(&self) -> String {
        let path = self.path.display();
        match (&self.before, &self.after) {
            (_, Content::Link(to)) => format!("link {path} -> {}\n", to.display()),
            (_, Content::Copy(from)) => format!("copy {} to {path}\n", from.display()),
            (_, Content::Absent) => format!("remove {path}\n"),
            (before, after) => {
                let lines = |content: &Content| match content {
                    Content::Text(text) => text.lines().map(String::from).collect(),
                    _ => Vec::new(),
                };
                let (old, new): (Vec<String>, Vec<String>) = (lines(before), lines(after));
                let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("-{line}\n"));
                let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+{line}\n"));
                std::iter::once(format!("change {path}\n")).chain(gone).chain(come).collect()
            }
        }
    }

    /// Makes it so: a text is written beside its place and renamed there.
    ///
    /// # Errors
    /// The host's.
    pub fn apply(&self) -> Result<()> {
        let about = || format!("cannot change {}", self.path.display());
        if let (Content::Text(_) | Content::Link(_) | Content::Copy(_), Some(dir)) = (&self.after, self.path.parent()) {
            fs::create_dir_all(dir).with_context(about)?;
        }
        match &self.after {
            Content::Copy(from) => node::copy(from, &self.path).with_context(about),
            Content::Absent => fs::remove_file(&self.path).with_context(about),
            Content::Text(text) => Ok(runtime::state::replace(&self.path, text.as_bytes())?),
            Content::Link(to) => {
                if self.before != Content::Absent {
                    fs::remove_file(&self.path).with_context(about)?;
                }
                std::os::unix::fs::symlink(to, &self.path).with_context(about)
            }
        }
    }
}

fn read(path: &Path) -> Result<Content> {
    if let Ok(to) = fs::read_link(path) {
        return Ok(Content::Link(to));
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Content::Text(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Content::Absent),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(name: &str) -> Places {
        let root = std::env::temp_dir().join(format!("nacre-install-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("etc/containerd")).expect("root");
        Places { bin: root.join("bin"), plugins: root.join("plugins"), nacre: "/opt/nacre".into(), node: "/".into(), root }
    }

    fn apply(engine: Engine, wish: Wish, places: &Places) -> usize {
        let changes = plan(engine, wish, places).expect("planned");
        changes.iter().for_each(|change| change.apply().expect("applied"));
        changes.len()
    }

    #[test]
    fn twice_is_once_and_undone_is_as_before() {
        let places = places("twice");
        let config = places.root.join("etc/containerd/config.toml");
        let before = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  disable_apparmor = true\n";
        fs::write(&config, before).expect("written");
        for engine in [Engine::Containerd, Engine::Crio, Engine::Podman, Engine::Cni] {
            assert!(apply(engine, Wish::Install, &places) > 0);
            assert_eq!(apply(engine, Wish::Install, &places), 0, "{engine:?} again");
        }
        let text = fs::read_to_string(&config).expect("text");
        assert!(text.starts_with(before) && text.contains("runtimes.nacre-vm]"), "{text}");
        for engine in [Engine::Containerd, Engine::Crio, Engine::Podman, Engine::Cni] {
            assert!(apply(engine, Wish::Uninstall, &places) > 0);
            assert_eq!(apply(engine, Wish::Uninstall, &places), 0, "{engine:?} undone again");
        }
        assert_eq!(fs::read_to_string(&config).expect("text"), before);
        for dir in [&places.bin, &places.plugins] {
            assert!(fs::read_dir(dir).is_ok_and(|mut dir| dir.next().is_none()), "links are left in {}", dir.display());
        }
        fs::remove_dir_all(&places.root).expect("clean up");
    }

    #[test]
    fn a_file_with_secrets_stays_closed() {
        use std::os::unix::fs::PermissionsExt;
        let places = places("secrets");
        let config = places.root.join("etc/containerd/config.toml");
        fs::write(&config, "version = 2\n").expect("written");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("closed");
        for wish in [Wish::Install, Wish::Uninstall] {
            apply(Engine::Containerd, wish, &places);
            assert_eq!(fs::metadata(&config).expect("a file").permissions().mode() & 0o777, 0o600, "{wish:?}");
        }
        fs::remove_dir_all(&places.root).expect("clean up");
    }

    #[test]
    fn a_node_gets_programs_and_what_its_engine_reads() {
        let outside = places("node");
        let built = outside.root.join("built");
        fs::create_dir_all(&built).expect("built");
        for name in ["nacre", "nacre-agent"] {
            fs::write(built.join(name), name).expect("a program");
        }
        let node = outside.root.join("node");
        fs::create_dir_all(node.join("usr/bin")).expect("made");
        fs::write(node.join("usr/bin/containerd"), "").expect("an engine");
        let (root, bin, plugins) = (node.clone(), "/usr/local/bin".into(), "/opt/cni/bin".into());
        let places = Places { root, node: node.clone(), bin, plugins, nacre: Path::new(HOME).join("nacre") };
        assert_eq!(engines_of_node(&places).expect("one"), [Engine::Containerd]);
        let apply = |wish| {
            let mut changes = programs_of_node(&built.join("nacre"), wish, &places).expect("programs");
            changes.extend(plan(Engine::Containerd, wish, &places).expect("planned"));
            changes.iter().for_each(|change| change.apply().expect("applied"));
            changes.len()
        };
        assert_eq!(apply(Wish::Install), 5, "two programs, two links, a configuration");
        let link = node.join("usr/local/bin/containerd-shim-nacre-v2");
        assert_eq!(fs::read_link(link).expect("a link"), Path::new("/opt/nacre/bin/nacre"));
        assert_eq!(fs::read_to_string(node.join("opt/nacre/bin/nacre-agent")).expect("a copy"), "nacre-agent");
        assert_eq!(apply(Wish::Install), 0, "again");
        fs::write(built.join("nacre"), "newer").expect("a program");
        assert_eq!(apply(Wish::Install), 1, "a newer program");
        assert_eq!(apply(Wish::Uninstall), 5);
        assert!(!node.join("opt/nacre/bin/nacre").exists() && !node.join("etc/containerd/config.toml").exists());
        let owed = owed("containerd", &places);
        owed.mark().expect("marked");
        assert!(owed.is_marked());
        owed.settle().expect("settled");
        assert!(!owed.is_marked());
        fs::remove_file(node.join("usr/bin/containerd")).expect("gone");
        engines_of_node(&places).expect_err("no engine");
        fs::remove_dir_all(&outside.root).expect("clean up");
    }

    #[test]
    fn what_is_somebody_elses_stays() {
        let places = places("others");
        let config = places.root.join("etc/containerd/config.toml");
        fs::write(&config, "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nacre]\n")
            .expect("written");
        let error = plan(Engine::Containerd, Wish::Install, &places).expect_err("in the way");
        assert!(error.to_string().contains("runtimes.nacre"), "{error}");
        fs::create_dir_all(&places.bin).expect("bin");
        fs::write(places.bin.join("nacre"), "a file").expect("written");
        assert!(plan(Engine::Podman, Wish::Install, &places).is_err(), "a file in place of a link");
        fs::remove_dir_all(&places.root).expect("clean up");
    }
}
