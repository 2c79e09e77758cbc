//! podman as an ordinary user runs it: its own user namespace, no cgroups of its own where those are v1.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::engine::Engine;
use super::{Case, image, podman};
use crate::{sh, user};

pub const CASES: &[Case] = &[("podman-rootless", life), ("podman-rootless-streams", streams)];

/// The user's place.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn new(engine: &Engine) -> Result<Place> {
        user::ensure()?;
        let folder = engine.dir.join("rootless");
        std::fs::create_dir_all(folder.join("run"))?;
        std::fs::copy(sh::nacre(), folder.join("nacre"))?;
        std::fs::copy(engine.dir.join("image.tar"), folder.join("image.tar"))?;
        user::own(&folder)?;
        let place = Place { folder };
        let loaded = place.podman("load -i image.tar")?;
        ensure!(loaded.success(), "podman does not take the image: {}", loaded.stderr);
        Ok(place)
    }

    /// A shell with `$PODMAN`, `$OPTIONS` and `$IMAGE`.
    fn shell(&self, script: &str) -> Result<sh::Ended> {
        let folder = self.folder.display();
        let line = format!(
            "podman --storage-driver vfs --cgroup-manager cgroupfs --events-backend file --root {folder}/root --runroot {folder}/run/podman \
             --runtime {folder}/nacre"
        );
        let options = podman::OPTIONS.join(" ");
        let script = format!("PODMAN='{line}'; IMAGE={}; OPTIONS='{options}'; {script}", image::NAME);
        sh::timed(&mut user::shell(&self.folder, &script), podman::LIMIT)
    }

    fn podman(&self, args: &str) -> Result<sh::Ended> {
        self.shell(&format!("$PODMAN {args}"))
    }

    /// A command that has to end with this status and output.
    fn says(&self, args: &str, code: i32, output: &str) -> Result<()> {
        let said = self.podman(args)?;
        ensure!(
            said.code() == Some(code) && said.stdout == output,
            "podman {args}: {} {:?} {}",
            said.how(),
            said.stdout,
            said.stderr
        );
        Ok(())
    }
}

impl Drop for Place {
    /// A user's podman leaves a process that holds its name space.
    fn drop(&mut self) {
        if let Err(error) = self.podman("system migrate") {
            eprintln!("podman's process is left: {error:#}");
        }
    }
}

/// Its files are of many owners, as an image's are.
fn life(engine: &mut Engine) -> Result<()> {
    let place = Place::new(engine)?;
    let script = "id -u; touch /made; chown 33:44 /made; stat -c %u:%g /made; exit 3";
    let ended = place.shell(&format!("$PODMAN run --rm $OPTIONS $IMAGE sh -c '{script}'"))?;
    ensure!(
        ended.code() == Some(3) && ended.stdout == "0\n33:44\n",
        "run: {} {:?} {}",
        ended.how(),
        ended.stdout,
        ended.stderr
    );
    let started = place.shell("$PODMAN run -d --name one $OPTIONS $IMAGE sh -c 'echo logged; exec sleep 1000'")?;
    ensure!(started.success(), "run -d: {}", started.stderr);
    place.says("exec one sh -c 'echo in; exit 4'", 4, "in\n")?;
    place.says("exec --user 1000 one id -u", 0, "1000\n")?;
    place.says("logs one", 0, "logged\n")?;
    // The user sees what the engine has made.
    let listed = sh::timed(&mut user::shell(&place.folder, "nacre list -q | wc -l"), podman::LIMIT)?;
    ensure!(listed.stdout.trim() == "1", "nacre list: {:?} {}", listed.stdout, listed.stderr);
    ensure!(place.podman("kill one")?.success(), "kill");
    place.says("wait one", 0, "137\n")?;
    ensure!(place.podman("rm -f one")?.success(), "rm");
    let left = sh::timed(&mut user::shell(&place.folder, "nacre list -q | wc -l"), podman::LIMIT)?;
    ensure!(left.stdout.trim() == "0", "left: {:?} {}", left.stdout, left.stderr);
    Ok(())
}

/// Input, a terminal, attaching, figures.
fn streams(engine: &mut Engine) -> Result<()> {
    let place = Place::new(engine)?;
    let started = place.shell("$PODMAN run -d -i --name two $OPTIONS $IMAGE cat")?;
    ensure!(started.success(), "run: {}", started.stderr);
    let terminal = "{ sleep 1; printf 'tty; exit 4\\n'; sleep 1; } | script -qec \"$PODMAN exec -it two sh\" /dev/null";
    let terminal = place.shell(terminal)?;
    let attached = place.shell("(echo attached; sleep 2) | timeout 10 $PODMAN attach two")?;
    let removed = place.podman("rm -f -t 0 two")?;
    ensure!(
        terminal.code() == Some(4) && terminal.stdout.contains("/dev/pts/"),
        "exec -t: {} {:?} {}",
        terminal.how(),
        terminal.stdout,
        terminal.stderr
    );
    ensure!(attached.stdout.trim() == "attached", "attach: {:?} {}", attached.stdout, attached.stderr);
    ensure!(removed.success(), "rm: {}", removed.stderr);
    Ok(())
}
