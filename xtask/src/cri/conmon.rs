//! conmon alone, which CRI-O and podman run OCI runtimes by: the command line that both rely on, where CRI-O itself is not to be had.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::engine::Engine;
use super::{Case, podman::LIMIT};
use crate::{bundle, sh};

pub const CASES: &[Case] = &[("conmon", life)];

const ID: &str = "conmon-test";
/// Speaks to a container's streams as an engine does: sends a line, prints what comes (the number of the stream is before it).
const ATTACH: &str = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.send(b"word\n")
while m := s.recv(8192):
    print(m[0], m[1:].decode(), end="")
"#;

struct Place {
    dir: PathBuf,
}

impl Place {
    fn nacre(&self, args: &[&str]) -> Result<sh::Ended> {
        sh::timed(Command::new(sh::nacre()).arg("--root").arg(self.dir.join("state")).args(args), LIMIT)
    }

    /// conmon, with what is the same for a container and for a process in it; what it is told is in `status`.
    fn conmon(&self, name: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "_OCI_SYNCPIPE=3 exec conmon \"$@\" 3>\"$0\" </dev/null"])
            .arg(self.dir.join(format!("{name}.said")));
        command.args(["--cid", ID, "--cuuid", name, "--full-attach", "--runtime"]).arg(sh::nacre());
        command.arg("--runtime-arg").arg(format!("--root={}", self.dir.join("state").display()));
        command.arg("--bundle").arg(self.dir.join(name));
        command.arg("--container-pidfile").arg(self.dir.join(format!("{name}.pid")));
        command.arg("--log-path").arg(format!("k8s-file:{}", self.log(name).display())).stdin(Stdio::null());
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{name}.said"))).unwrap_or_default()
    }
}

fn life(engine: &mut Engine) -> Result<()> {
    let place = Place { dir: engine.dir.join("conmon") };
    let done = live(engine, &place);
    let removed = place.nacre(&["delete", "--force", ID])?;
    done?;
    ensure!(removed.success(), "delete: {}", removed.stderr);
    Ok(())
}

fn live(engine: &Engine, place: &Place) -> Result<()> {
    let root = bundle::busybox()?.join("rootfs");
    let script = "echo out; echo err >&2; read x; echo got $x; exit 5";
    bundle::Config::new(&root, &["sh", "-c", script]).write(&place.dir.join("main"))?;
    let exits = place.dir.join("exits");
    std::fs::create_dir_all(&exits)?;
    let mut create = place.conmon("main");
    create.arg("--exit-dir").arg(&exits).arg("--stdin");
    sh::run(&mut create)?;
    engine.soon("conmon has made the container", |_| Ok(place.said("main").contains("\"pid\":")))?;
    let started = place.nacre(&["start", ID])?;
    ensure!(started.success(), "start: {}", started.stderr);
    engine.soon("both lines are in the log", |_| {
        let text = std::fs::read_to_string(place.log("main")).unwrap_or_default();
        Ok(text.contains(" stdout F out\n") && text.contains(" stderr F err\n"))
    })?;
    std::fs::create_dir_all(place.dir.join("exec"))?;
    let process = r#"{"args":["sh","-c","echo in; exit 3"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0}}"#;
    std::fs::write(place.dir.join("process.json"), process)?;
    let mut exec = place.conmon("exec");
    exec.args(["--exec", "--sync", "--exec-process-spec"]).arg(place.dir.join("process.json"));
    let ended = sh::timed(&mut exec, LIMIT)?;
    ensure!(ended.code() == Some(3), "exec: {}: {}", ended.how(), ended.stderr);
    ensure!(place.said("exec").contains("\"exit_code\": 3"), "exec: {}", place.said("exec"));
    let logged = std::fs::read_to_string(place.log("exec"))?;
    ensure!(logged.ends_with(" stdout F in\n"), "exec's log: {logged:?}");
    // Its end is the container's.
    let mut attach = Command::new("python3");
    let attached = sh::timed(attach.args(["-c", ATTACH]).arg(place.dir.join("main/attach")), LIMIT)?;
    ensure!(attached.stdout == "2 got word\n", "attach: {:?} {}", attached.stdout, attached.stderr);
    engine.soon("conmon tells of the end", |_| Ok(std::fs::read_to_string(exits.join(ID)).is_ok_and(|code| code == "5")))
}
