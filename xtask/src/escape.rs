//! `escape`: the programs of tests/escape attack their sandbox from inside a bundle with a shared volume, while a thread here
//! swaps files of the volume. Afterwards we look whether anything outside was reached.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::{abi, bundle, packages, sh};

const PROGRAMS: [&str; 4] = ["paths", "races", "stub", "depth"];
const LIMIT: Duration = Duration::from_secs(300);
/// What the host must still say afterwards.
const WATCHED: [&str; 5] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/domainname",
];

pub fn run(args: &[String]) -> Result<Tally> {
    if let Some(flag) = args.iter().find(|a| a.starts_with('-')) {
        bail!("escape: unknown flag {flag}");
    }
    packages::ensure(&["busybox-static"])?;
    sh::build_nacre()?;
    let mut tally = Tally::default();
    for program in PROGRAMS {
        if args.is_empty() || args.iter().any(|a| a == program) {
            attack(program, &mut tally)?;
        }
    }
    Ok(tally)
}

fn attack(name: &str, tally: &mut Tally) -> Result<()> {
    let root = bundle::busybox()?.join("rootfs");
    let program = root.join(format!("escape-{name}"));
    sh::compile_c(&sh::top().join(format!("tests/escape/{name}.c")), &program)?;
    let host = Host::prepare(&program)?;
    let before = watched();
    let listing = sh::output(Command::new(&program).arg("--list"))?;
    let cases: Vec<&str> = listing.lines().collect();
    let inside = format!("/escape-{name}");
    let results = abi::run_cases(&cases, &mut |left| {
        let mut args = vec![inside.as_str()];
        args.extend(left);
        run_bundle(&root, &args, &host)
    })?;
    for (case, result) in results {
        match result {
            abi::Outcome::Passed => tally.pass(),
            abi::Outcome::Failed(what) | abi::Outcome::Skipped(what) => tally.fail(format!("escape {name}/{case}: {what}")),
        }
    }
    tally.step(&format!("escape {name}: the host is as before"), host.untouched());
    for (path, (was, is)) in WATCHED.iter().zip(before.into_iter().zip(watched())) {
        if was != is {
            tally.fail(format!("escape {name}: {path} of the host has changed"));
        }
    }
    Ok(())
}

fn run_bundle(root: &Path, args: &[&str], host: &Host) -> Result<sh::Ended> {
    let id = format!("escape-{}", std::process::id());
    let dir = sh::target().join("bundles").join(&id);
    let secret = format!("SECRET={}", host.secret.display());
    bundle::Config { env: &[&secret], binds: &[(host.shared.clone(), "/shared")], ..bundle::Config::new(root, args) }
        .write(&dir)?;
    let state = sh::scratch()?;
    let nacre = || {
        let mut command = Command::new(sh::nacre());
        command.arg("--root").arg(&state);
        command
    };
    let ended = sh::timed(nacre().arg("run").arg("--bundle").arg(&dir).arg(&id), LIMIT)?;
    sh::timed(nacre().args(["delete", "--force", &id]), Duration::from_secs(20))?;
    std::fs::remove_dir_all(state)?;
    std::fs::remove_dir_all(dir)?;
    Ok(ended)
}

fn watched() -> Vec<String> {
    WATCHED.iter().map(|p| std::fs::read_to_string(p).unwrap_or_default()).collect()
}

/// What lies outside: a folder with a secret, and a volume full of traps.
struct Host {
    top: PathBuf,
    secret: PathBuf,
    shared: PathBuf,
    text: String,
    stop: Arc<AtomicBool>,
    _socket: UnixListener,
}

impl Host {
    fn prepare(program: &Path) -> Result<Host> {
        let top = sh::scratch()?;
        let (folder, shared) = (top.join("outside"), top.join("shared"));
        std::fs::create_dir(&folder)?;
        std::fs::create_dir(&shared)?;
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777))?;
        std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o777))?;
        let secret = folder.join("file");
        // In two parts, so that this program's text is no secret.
        let text = format!("{}{}\n", "NACRE-HOST", "-SECRET").repeat(20);
        std::fs::write(&secret, &text)?;
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o666))?;
        let relative = format!("../../../../../../..{}", secret.display());
        symlink(&secret, shared.join("abs"))?;
        symlink(relative, shared.join("rel"))?;
        std::fs::copy(program, shared.join("suid"))?;
        std::fs::set_permissions(shared.join("suid"), PermissionsExt::from_mode(0o4755))?;
        let socket = UnixListener::bind(shared.join("socket"))?;
        node(&shared.join("fifo"), "p", None)?;
        node(&shared.join("disk"), "b", Some(root_disk()))?;
        node(&shared.join("kmsg"), "c", Some((1, 11)))?;
        let stop = Arc::new(AtomicBool::new(false));
        swap_for_ever(&shared, &folder, stop.clone())?;
        feed_fifo(shared.join("fifo"), text.clone(), stop.clone());
        Ok(Host { top, secret, shared, text, stop, _socket: socket })
    }

    /// The secret is as it was and alone; nothing appeared; what was left on the volume is no setuid root file.
    fn untouched(&self) -> Result<()> {
        let now = std::fs::read_to_string(&self.secret).context("the secret is gone")?;
        if now != self.text {
            bail!("the secret was changed");
        }
        let mode = std::fs::metadata(&self.secret)?.permissions().mode() & 0o7777;
        if mode != 0o666 {
            bail!("the secret's mode was changed to {mode:o}");
        }
        let folder = self.secret.parent().context("no folder")?;
        let count = std::fs::read_dir(folder)?.count();
        if count != 1 {
            bail!("{count} entries in the secret's folder");
        }
        for path in ["/tmp/nacre-escaped", "/nacre-escaped", "/tmp/m", "/tmp/jail", "/node"] {
            if Path::new(path).exists() {
                bail!("{path} appeared");
            }
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(50));
        let _ = std::fs::remove_dir_all(&self.top);
    }
}

fn node(path: &Path, kind: &str, numbers: Option<(u64, u64)>) -> Result<()> {
    let mut command = Command::new("mknod");
    command.arg("-m").arg("666").arg(path).arg(kind);
    if let Some((major, minor)) = numbers {
        command.args([major.to_string(), minor.to_string()]);
    }
    sh::run(&mut command)
}

/// The device of the root file system.
fn root_disk() -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let dev = std::fs::metadata("/").map_or(0, |m| m.dev());
    ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00))
}

/// `swap` is a folder, then a link to the secret's folder, then a folder again.
fn swap_for_ever(shared: &Path, outside: &Path, stop: Arc<AtomicBool>) -> Result<()> {
    let (swap, other) = (shared.join("swap"), shared.join(".other"));
    std::fs::create_dir(&swap)?;
    std::fs::set_permissions(&swap, PermissionsExt::from_mode(0o777))?;
    std::fs::write(swap.join("file"), "harmless")?;
    symlink(outside, &other)?;
    let exchange = format!(
        "import ctypes\nc=ctypes.CDLL(None)\na,b={:?}.encode(),{:?}.encode()\n\
         import time,os\np=os.getppid()\nwhile os.getppid()==p: c.renameat2(-100,a,-100,b,2); time.sleep(0.00002)",
        swap.display().to_string(),
        other.display().to_string()
    );
    let mut child = Command::new("python3").arg("-c").arg(exchange).spawn()?;
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    });
    Ok(())
}

/// Offers the secret to whoever opens the FIFO for reading: the host's processes may, a guest may not.
fn feed_fifo(path: PathBuf, text: String, stop: Arc<AtomicBool>) {
    use std::os::unix::fs::OpenOptionsExt;
    const O_NONBLOCK: i32 = 0o4000;
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // Opens only while somebody reads.
            let open = std::fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&path);
            if let Ok(mut fifo) = open {
                let _ = std::io::Write::write_all(&mut fifo, text.as_bytes());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}
