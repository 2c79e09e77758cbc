//! `apps`: real programs, natively, in `nacre do` over the host's root, and in a bundle of a debootstrapped Debian.
//!
//! The fast tier is the small scripts that `cargo xtask test` runs; `--full` adds servers, run-times and CPython's and Go's own tests, whose packages it
//! installs. `tests/apps/known-failures` names what may fail (`PLACE NAME reason`); one of them that passes is a failure too. With `NACRE_SANDBOX=vm`
//! sandboxes are virtual machines: the place is called `vm` then, and all have more time, as the machine is an emulated one here. `--within` bounds all
//! programs together, in seconds.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::{bundle, packages, sh};

/// When a program is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    Fast,
    Full,
}

/// Where a program can run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Places {
    All,
    /// What it needs is not in the small Debian of the bundle.
    NotBundle,
    /// It would change the machine.
    OnlyDo,
}

/// A program: what it is called, its interpreter and script in tests/apps, and the script's arguments.
struct App {
    name: &'static str,
    interpreter: &'static str,
    script: &'static str,
    args: &'static [&'static str],
    tier: Tier,
    places: Places,
    limit: Duration,
}

const fn app(name: &'static str, interpreter: &'static str, script: &'static str, tier: Tier, places: Places) -> App {
    App { name, interpreter, script, args: &[], tier, places, limit: Duration::from_secs(300) }
}

impl App {
    fn limit(&self, place: &str, end: Option<Instant>) -> Duration {
        let own = if place != "native" && sh::in_vm() { self.limit * EMULATED } else { self.limit };
        end.map_or(own, |end| own.min(end.saturating_duration_since(Instant::now())))
    }
}

/// For suites of many tests.
const LONG: Duration = Duration::from_secs(900);

/// For one that is built first, and whose tests wait much.
const VERY_LONG: Duration = Duration::from_secs(1800);

/// How many times longer a program may take in an emulated machine.
const EMULATED: u32 = 4;

/// Programs whose scripts build or use a Debian source.
const SOURCES: [(&str, &str); 4] =
    [("busybox", "busybox"), ("coreutils", "coreutils"), ("gzip", "gzip"), ("test_sqlite3", "python3.11")];

const SCRIPTS: [App; 27] = [
    app("everyday", "bash", "everyday.sh", Tier::Fast, Places::All),
    app("python", "python3", "python.py", Tier::Fast, Places::All),
    app("git", "bash", "git.sh", Tier::Fast, Places::All),
    app("gcc", "bash", "gcc.sh", Tier::Fast, Places::All),
    app("perl", "perl", "perl.pl", Tier::Fast, Places::All),
    app("sqlite", "bash", "sqlite.sh", Tier::Fast, Places::All),
    app("git-large", "bash", "git-large.sh", Tier::Fast, Places::NotBundle),
    app("tmux", "bash", "tmux.sh", Tier::Fast, Places::NotBundle),
    app("redis", "bash", "redis.sh", Tier::Fast, Places::NotBundle),
    app("node", "node", "node.js", Tier::Full, Places::NotBundle),
    app("java", "bash", "java.sh", Tier::Full, Places::NotBundle),
    app("go", "bash", "go.sh", Tier::Full, Places::NotBundle),
    app("postgres", "bash", "postgres.sh", Tier::Full, Places::NotBundle),
    app("nginx", "bash", "nginx.sh", Tier::Full, Places::NotBundle),
    app("ssh", "bash", "ssh.sh", Tier::Full, Places::NotBundle),
    app("build", "bash", "build.sh", Tier::Full, Places::NotBundle),
    App { limit: LONG, ..app("gzip", "bash", "gzip.sh", Tier::Full, Places::NotBundle) },
    App { limit: LONG, ..app("busybox", "bash", "busybox.sh", Tier::Full, Places::NotBundle) },
    App { limit: VERY_LONG, ..app("coreutils", "bash", "coreutils.sh", Tier::Full, Places::NotBundle) },
    App { limit: LONG, ..app("stress-ng", "bash", "stress-ng.sh", Tier::Full, Places::NotBundle) },
    app("chromium", "bash", "chromium.sh", Tier::Full, Places::NotBundle),
    app("mariadb", "bash", "mariadb.sh", Tier::Full, Places::NotBundle),
    app("apt", "bash", "apt.sh", Tier::Full, Places::OnlyDo),
    app("strace", "bash", "strace.sh", Tier::Fast, Places::NotBundle),
    app("gdb", "bash", "gdb.sh", Tier::Fast, Places::NotBundle),
    app("ps", "bash", "ps.sh", Tier::Fast, Places::NotBundle),
    app("bwrap", "bash", "bwrap.sh", Tier::Fast, Places::NotBundle),
];

/// CPython's tests that the fast tier runs too: a second each.
const CPYTHON_FAST: [&str; 4] = ["test_httplib", "test_urllib2_localnet", "test_socketserver", "test_poll"];

/// CPython's tests that the full tier runs.
const CPYTHON: [&str; 37] = [
    "test_os",
    "test_posix",
    "test_subprocess",
    "test_threading",
    "test_signal",
    "test_mmap",
    "test_select",
    "test_epoll",
    "test_poll",
    "test_fcntl",
    "test_pty",
    "test_tempfile",
    "test_shutil",
    "test_pathlib",
    "test_io",
    "test_socket",
    "test_asyncio",
    "test_multiprocessing_fork",
    "test_concurrent_futures",
    "test_selectors",
    "test_ssl",
    "test_ftplib",
    "test_httplib",
    "test_http_cookies",
    "test_http_cookiejar",
    "test_httpservers",
    "test_urllib",
    "test_urllib2",
    "test_urllib2_localnet",
    "test_urllib_response",
    "test_urlparse",
    "test_socketserver",
    "test_poplib",
    "test_smtplib",
    "test_imaplib",
    "test_telnetlib",
    "test_sqlite3",
];

/// Go's packages that the full tier tests.
const GO: [&str; 8] = ["os", "os/exec", "os/signal", "sync", "time", "syscall", "net", "net/http"];

fn apps() -> Vec<App> {
    let mut all: Vec<App> = SCRIPTS.into();
    for test in &CPYTHON {
        let args = std::slice::from_ref(test);
        let tier = if CPYTHON_FAST.contains(test) { Tier::Fast } else { Tier::Full };
        all.push(App { name: test, args, limit: LONG, ..app("", "bash", "cpython.sh", tier, Places::NotBundle) });
    }
    for package in &GO {
        let args = std::slice::from_ref(package);
        all.push(App { name: package, args, limit: LONG, ..app("", "bash", "go.sh", Tier::Full, Places::NotBundle) });
    }
    all
}

pub fn run(args: &[String]) -> Result<Tally> {
    let mut places = vec!["native", "do", "bundle"];
    let mut wanted = Vec::new();
    let (mut tier, mut within) = (Tier::Fast, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--within" => within = Some(args.next().context("apps: --within SECONDS")?.parse().context("apps: --within")?),
            "--native" => places = vec!["native"],
            "--do" => places = vec!["do"],
            "--bundle" => places = vec!["bundle"],
            "--full" => tier = Tier::Full,
            flag if flag.starts_with('-') => bail!("apps: unknown flag {flag}"),
            name => wanted.push(name.to_string()),
        }
    }
    packages::ensure(packages::TEST)?;
    let chosen: Vec<App> = apps()
        .into_iter()
        .filter(|app| {
            if wanted.is_empty() { tier == Tier::Full || app.tier == Tier::Fast } else { wanted.iter().any(|w| w == app.name) }
        })
        .collect();
    if let Some(name) = wanted.iter().find(|name| !chosen.iter().any(|app| app.name == **name)) {
        bail!("apps: there is no program {name}");
    }
    if chosen.iter().any(|app| app.tier == Tier::Full) {
        packages::ensure(packages::APPS)?;
    }
    for (_, source) in SOURCES.iter().filter(|(name, _)| chosen.iter().any(|app| app.name == *name)) {
        packages::source(source)?;
    }
    if places != ["native"] {
        sh::build_nacre()?;
    }
    let known = known_failures()?;
    let mut tally = Tally::default();
    let end = within.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    for place in places {
        for app in &chosen {
            let fits = match app.places {
                Places::All => true,
                Places::NotBundle => place != "bundle",
                Places::OnlyDo => place == "do",
            };
            if fits {
                judge(&mut tally, place, app, end, &known);
            }
        }
    }
    Ok(tally)
}

/// Runs one; a known failure must fail.
fn judge(tally: &mut Tally, place: &str, app: &App, end: Option<Instant>, known: &[(String, String)]) {
    let called = called(place);
    let label = format!("{called} {}", app.name);
    let over = || end.is_some_and(|end| Instant::now() >= end);
    // Whether it is known to fail or not: nothing was learnt of it.
    if over() {
        return tally.step(&label, Err::<(), _>(anyhow::anyhow!("not started: the time for all programs is over")));
    }
    if !known.iter().any(|(p, name)| p == called && name == app.name) {
        let first = one(place, app, end);
        return match over() {
            // There is none for a second try.
            true => tally.step(&label, first),
            false => tally.attempt(&label, first, || one(place, app, end)),
        };
    }
    let result = match one(place, app, end) {
        Ok(()) => Err(anyhow::anyhow!("passes, but known-failures lists it")),
        Err(_) => Ok(()),
    };
    tally.step(&format!("{label} (known failure)"), result);
}

/// A place's name in lists.
fn called(place: &str) -> &str {
    if place == "do" && sh::in_vm() { "vm" } else { place }
}

/// Place and name of each listed failure.
fn known_failures() -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(sh::top().join("tests/apps/known-failures"))?;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_string(), words.next()?.to_string()))
    };
    Ok(text.lines().filter(|l| !l.starts_with('#')).filter_map(line).collect())
}

fn one(place: &str, app: &App, end: Option<Instant>) -> Result<()> {
    let limit = app.limit(place, end);
    let path = sh::top().join("tests/apps").join(app.script);
    let mut command = match place {
        "native" => Command::new(app.interpreter),
        "do" => {
            let mut command = Command::new(sh::nacre());
            command.args(["do", "--", app.interpreter]);
            command
        }
        _ => return in_bundle(app, &path, limit),
    };
    command
        .arg(&path)
        .args(app.args)
        .env("APPS_PLACE", called(place))
        .env("APPS_SOURCES", packages::sources())
        .current_dir("/");
    verdict(sh::timed(&mut command, limit)?)
}

fn in_bundle(app: &App, path: &Path, limit: Duration) -> Result<()> {
    let made = bundle::debian()?;
    let root = made.join("rootfs");
    std::fs::create_dir_all(root.join("apps"))?;
    std::fs::copy(path, root.join("apps").join(app.script))?;
    let id = format!("app-{}-{}", app.name, std::process::id());
    let dir = sh::target().join("bundles").join(&id);
    bundle::Config::new(&root, &[app.interpreter, &format!("/apps/{}", app.script)]).write(&dir)?;
    let state = sh::scratch()?;
    let mut command = Command::new(sh::nacre());
    command.arg("--root").arg(&state).arg("run").arg("--bundle").arg(&dir).arg(&id);
    let result = verdict(sh::timed(&mut command, limit)?);
    let mut delete = Command::new(sh::nacre());
    let _ = sh::timed(delete.arg("--root").arg(&state).args(["delete", "--force", &id]), Duration::from_secs(20));
    let _ = std::fs::remove_dir_all(state);
    let _ = std::fs::remove_dir_all(dir);
    result
}

fn verdict(ended: sh::Ended) -> Result<()> {
    if ended.success() {
        return Ok(());
    }
    bail!("{}\n{}\n{}", ended.how(), sh::tail(&ended.stdout, 12), sh::tail(&ended.stderr, 12));
}
