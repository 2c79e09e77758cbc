//! The same for an ordinary user: one mapped id, then the ranges of /etc/subuid by newuidmap.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Ground, LIMIT, expect};
use crate::{sh, user};

/// A user with a folder that holds the program and a bundle.
struct Rootless {
    folder: PathBuf,
    uid: u32,
    /// The first of its subordinate ids.
    range: u32,
}

impl Rootless {
    fn new(ground: &Ground) -> Result<Rootless> {
        user::ensure()?;
        let uid = sh::output(Command::new("id").args(["-u", user::NAME]))?.trim().parse()?;
        let subuid = std::fs::read_to_string("/etc/subuid")?;
        let range = subuid.lines().find_map(|line| line.strip_prefix(user::NAME)?.strip_prefix(':')?.split(':').next());
        let range = range.context("useradd gave the test user no ids in /etc/subuid")?.parse()?;
        let folder = ground.state.join("rootless");
        let bin = folder.join("rootfs/bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::create_dir(folder.join("run"))?;
        std::fs::copy(sh::nacre(), folder.join("nacre"))?;
        std::fs::copy(ground.root.join("bin/busybox"), bin.join("busybox"))?;
        for name in ["sh", "id", "touch", "chown", "ls", "sleep", "cat", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(name))?;
        }
        for path in [folder.join("nacre"), bin.join("busybox"), ground.state.clone()] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        user::own(&folder)?;
        Ok(Rootless { folder, uid, range })
    }

    /// A command line for `sh`, as the user, in the folder; `nacre` is the program under test.
    fn shell(&self, script: &str) -> Result<sh::Ended> {
        sh::timed(&mut user::shell(&self.folder, script), LIMIT)
    }

    fn says(&self, script: &str, code: i32, text: &str) -> Result<()> {
        let ended = self.shell(script)?;
        if !ended.stdout.contains(text) {
            bail!("{script}: no '{text}' in '{}' ({}): {}", ended.stdout.trim(), ended.how(), sh::tail(&ended.stderr, 4));
        }
        expect(ended, code).with_context(|| script.to_string())
    }

    fn write(&self, args: &str, maps: &str) -> Result<()> {
        let config = format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},"annotations":{{"dev.nacre.overlay":"none"}},
"process":{{"args":["sh","-c",{args:?}],"cwd":"/","env":["PATH=/bin"],"user":{{"uid":0,"gid":0}},
"capabilities":{{"bounding":["CAP_CHOWN"],"effective":["CAP_CHOWN"],"permitted":["CAP_CHOWN"]}}}},
"mounts":[{{"destination":"/proc","type":"proc","source":"proc"}}],
"linux":{{"uidMappings":[{maps}],"gidMappings":[{maps}],"namespaces":[{{"type":"user"}},{{"type":"pid"}},{{"type":"mount"}},{{"type":"network"}}]}}}}"#
        );
        let path = self.folder.join("config.json");
        std::fs::write(&path, config)?;
        user::own(&path)
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// `do` over the host's root, as the user that one is.
pub fn do_over_the_root(ground: &Ground) -> Result<()> {
    let it = Rootless::new(ground)?;
    it.says("nacre do -- sh -c 'id -u; exit 3'", 3, &it.uid.to_string())?;
    it.says("nacre do -- sh -c 'echo x > /tmp/nacre-inside && cat /tmp/nacre-inside'", 0, "x")?;
    if Path::new("/tmp/nacre-inside").exists() {
        bail!("what it wrote is on the host");
    }
    let shadow = it.shell("nacre do -- cat /etc/shadow")?;
    if shadow.success() || !shadow.stdout.is_empty() {
        bail!("it reads what its user may not");
    }
    Ok(())
}

/// The verbs, with one id: root inside is the user outside.
pub fn container_with_one_id(ground: &Ground) -> Result<()> {
    let it = Rootless::new(ground)?;
    let map = format!(r#"{{"containerID":0,"hostID":{},"size":1}}"#, it.uid);
    it.write("id -u; touch /made; sleep 100", &map)?;
    life(&it)?;
    if std::fs::metadata(it.folder.join("rootfs/made"))?.uid() != it.uid {
        bail!("a file is not its user's");
    }
    Ok(())
}

/// The same with all its ids, and a file given to another.
pub fn container_with_ranges(ground: &Ground) -> Result<()> {
    let it = Rootless::new(ground)?;
    let maps =
        format!(r#"{{"containerID":0,"hostID":{},"size":1}},{{"containerID":1,"hostID":{},"size":65536}}"#, it.uid, it.range);
    it.write("touch /made; chown 5:6 /made; sleep 100", &maps)?;
    life(&it)?;
    let made = std::fs::metadata(it.folder.join("rootfs/made"))?;
    if made.uid() != it.range + 4 {
        bail!("a file given to user 5 is the host's user {}'s", made.uid());
    }
    Ok(())
}

fn life(it: &Rootless) -> Result<()> {
    expect(it.shell("nacre run --detach r1 >/dev/null")?, 0)?;
    it.says("nacre list", 0, "running")?;
    for attempt in 0.. {
        if it.shell("nacre ps r1")?.stdout.contains("sleep 100") {
            break;
        }
        if attempt > 50 {
            bail!("its program does not get there");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    it.says("nacre exec r1 id -u", 0, "0")?;
    expect(it.shell("nacre pause r1 && nacre resume r1 && nacre kill r1 KILL")?, 0)?;
    expect(it.shell("for i in $(seq 50); do nacre delete r1 2>/dev/null && exit 0; sleep 0.1; done; nacre delete r1")?, 0)?;
    it.says("nacre list -q | wc -l", 0, "0")
}
