//! A place to work in, and the binary under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Whether the sandboxes are virtual machines.
pub fn in_vm() -> bool {
    std::env::var_os("NACRE_SANDBOX").is_some_and(|kind| kind == "vm")
}

/// A directory with a state root and a bundle. At the end its containers are taken away, what is mounted in it, and then it, however the test ends.
pub struct Place {
    pub dir: PathBuf,
}

impl Place {
    pub fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("nacre-cli-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("bundle/rootfs")).expect("bundle");
        Place { dir }
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// A container id (so a cgroup's name too) that no other test has.
    pub fn id(&self) -> String {
        self.dir.file_name().expect("a name").to_string_lossy().into_owned()
    }

    /// A small valid configuration that runs `args`.
    pub fn config(args: &[&str]) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "network"}]},
        })
    }

    pub fn write(&self, config: &Value) {
        fs::write(self.bundle().join("config.json"), config.to_string()).expect("config.json");
    }

    /// Fills the root with busybox. None (with a word why) where there is none.
    pub fn busybox(self) -> Option<Place> {
        let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()) else {
            eprintln!("not tested: no busybox on this host");
            return None;
        };
        let bin = self.bundle().join("rootfs/bin");
        fs::create_dir_all(&bin).expect("bin");
        fs::copy(busybox, bin.join("busybox")).expect("busybox");
        for name in [
            "sh", "true", "false", "echo", "cat", "sleep", "ls", "kill", "touch", "id", "pwd", "env", "hostname", "grep", "cut",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(name)).expect("link");
        }
        Some(self)
    }

    /// `nacre --root … ARGS`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nacre"));
        command.arg("--root").arg(self.dir.join("state")).args(args).current_dir(self.bundle());
        command
    }

    /// As [`command`](Place::command), in a mount name space that nobody else sees, after this `mount`.
    pub fn command_beside(&self, mount: &str, args: &[&str]) -> Command {
        let nacre = self.command(args);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("mount {mount} && exec \"$@\""), "sh"]).arg(nacre.get_program());
        command.args(nacre.get_args()).current_dir(self.bundle());
        command
    }

    pub fn nacre(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).output().expect("nacre runs"))
    }

    /// For what leaves a container behind: it keeps its standard streams, so they are no pipes of ours.
    pub fn detached(&self, args: &[&str]) -> Run {
        let errors = self.dir.join("stderr");
        let file = fs::File::create(&errors).expect("file");
        let null = std::process::Stdio::null;
        let status = self.command(args).stdin(null()).stdout(null()).stderr(file).status().expect("nacre runs");
        let stderr = fs::read_to_string(&errors).expect("stderr");
        Run { code: status.code(), stdout: String::new(), stderr }
    }

    /// What is left of containers, by their ids.
    fn left(&self) -> Vec<String> {
        let left = fs::read_dir(self.dir.join("state")).into_iter().flatten().flatten();
        left.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Nothing of any container is left: no state, no cgroup, no mount.
    pub fn assert_clean(&self) {
        let left = self.left();
        assert!(left.is_empty(), "left behind: {left:?}");
        let mut cgroups = Vec::new();
        named(Path::new("/sys/fs/cgroup"), &self.id(), 0, &mut cgroups);
        assert!(cgroups.is_empty(), "left behind: {cgroups:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let of_state = self.dir.join("state").to_string_lossy().into_owned();
        let mounts: Vec<&str> = mounts.lines().filter(|line| line.contains(&of_state)).collect();
        assert!(mounts.is_empty(), "left behind: {mounts:?}");
    }
}

/// The directories below one, some levels deep, whose names have this part.
fn named(dir: &Path, part: &str, depth: usize, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)) {
            found.push(path);
        } else if depth < 6 {
            named(&path, part, depth + 1, found);
        }
    }
}

/// What is mounted below a directory, in the order of mounting.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

impl Drop for Place {
    fn drop(&mut self) {
        // A pod's first container last: the ids of those that join it begin with its own.
        let mut left = self.left();
        left.sort();
        for id in left.iter().rev() {
            let _ = self.command(&["delete", "--force", id]).output();
        }
        for mounted in mounts_below(&self.dir).iter().rev() {
            let _ = rustix::mount::unmount(mounted, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What came of a command.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: Output) -> Run {
        Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    #[track_caller]
    pub fn fails(self, code: i32, text: &str) -> Run {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(text), "{text:?} is not in {}", self.stderr);
        self
    }
}
