//! From an image to a bundle that the runtime runs.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use agent_api::Limits;
use anyhow::{Context, anyhow, bail};
use clap::Args;
use image::image::Image;
use image::progress::Progress;
use image::settings::{Settings, Wishes};
use image::source::registry::{self, Transport};
use image::source::{Source, Wanted};
use image::store::{Container, Record, Root, Store, Use};
use image::unpack::beneath;
use image::unpack::helper::Unpacker;
use oci_client::Reference;
use runtime::config::annotations;
use runtime::state::{self, Access};
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::{Map, Value, json};

use crate::cli::Global;
use crate::cmd::spec;
use crate::flags::Flags;
use crate::session::Wire;
use crate::user::User;

/// Flags about fetching.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Speak HTTP to the registry (to this machine's own it is spoken anyway)
    #[arg(long)]
    plain_http: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

impl Fetch {
    pub fn progress(&self) -> Box<dyn Progress> {
        crate::progress::new(self.quiet)
    }

    pub fn pull(&self, store: &Store, reference: &Reference, progress: &dyn Progress) -> anyhow::Result<Image> {
        let transport = if self.plain_http { Transport::Plain } else { Transport::Secure };
        Ok(registry::pull(reference, transport, store, progress)?)
    }

    pub fn given(&self) -> Option<&'static str> {
        [("--plain-http", self.plain_http), ("--quiet", self.quiet)].into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

/// What to run, and how.
#[derive(Debug)]
pub struct Wish<'a> {
    pub image: &'a OsStr,
    pub fetch: &'a Fetch,
    pub flags: &'a Flags,
    pub entrypoint: Option<&'a str>,
    pub command: &'a [OsString],
    pub id: &'a str,
    pub wire: Wire,
    /// `--overlay`.
    pub overlay: Option<&'a str>,
}

/// A bundle made from an image.
#[derive(Debug)]
pub struct Imaged {
    pub container: Container,
    /// Until the runtime knows the container, which keeps its root from then on.
    pub using: Use,
}

/// Fetches and unpacks the image as far as needed, and makes the bundle.
pub fn prepare(wish: &Wish<'_>, global: &Global) -> anyhow::Result<Imaged> {
    let limits = wish.flags.limits()?;
    let store = global.images()?;
    let using = store.hold()?;
    let (source, image, root) = unpacked(wish, &store)?;
    drop(source);
    let dir = store.bundle_path(wish.id);
    let mut config = config(wish, &image, &root, &limits)?;
    if let Some(mapped) = mapped(wish, &store, &root) {
        object(&mut config, "annotations").insert(annotations::ROOTFS.into(), format!("erofs:{}", mapped.display()).into());
    }
    let mut files = Vec::new();
    if let Some(hosts) = hosts(&root, wish.id) {
        files.push(("hosts", hosts.into_bytes()));
        let mount = json!({"destination": "/etc/hosts", "type": "bind", "source": dir.join("hosts"), "options": ["bind", "ro", "nosuid", "nodev"]});
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.push(mount);
        }
    }
    files.push(("config.json", config.to_string().into_bytes()));
    let shown = wish.image.to_string_lossy();
    let record = Record::new(wish.id, &std::path::absolute(global.root())?, &shown, &root, image.config_digest);
    let container = store.add_container(dir, &record, &files)?;
    Ok(Imaged { container, using })
}

fn unpacked(wish: &Wish<'_>, store: &Store) -> anyhow::Result<(Source, Image, Root)> {
    let progress = wish.fetch.progress();
    let (source, image) = match Wanted::parse(wish.image) {
        Ok(Wanted::Path { path, select }) => {
            let source = Source::open(&path)?;
            let image = source.image(select.as_deref())?;
            (source, image)
        }
        // The store's own names may be no references (a path an image was imported from).
        parsed => match (store.find(&wish.image.to_string_lossy())?, parsed) {
            (Some((_, image)), _) => (store.source()?, image),
            (None, Ok(Wanted::Reference(reference))) => {
                let image = match store.find(&reference.to_string())? {
                    Some((_, image)) => image,
                    None => wish.fetch.pull(store, &reference, &*progress)?,
                };
                (store.source()?, image)
            }
            (None, parsed) => bail!(parsed.err().map_or_else(|| "no such image".to_string(), |error| error.to_string())),
        },
    };
    let root = store.root(&source, &image, &unpacker(), &*progress)?;
    Ok((source, image, root))
}

/// The root as an image to map. None: it cannot be had, or shall be written to.
fn mapped(wish: &Wish<'_>, store: &Store, root: &Root) -> Option<PathBuf> {
    if wish.overlay == Some("none") {
        return None;
    }
    let mapped = store.mapped(root);
    mapped.unwrap_or_else(|error| {
        tracing::warn!("the image is used as a directory: {error}");
        None
    })
}

/// Layers are unpacked by this program again, confined.
pub fn unpacker() -> Unpacker {
    Unpacker::Confined { program: PathBuf::from("/proc/self/exe") }
}

/// A name as the store has it: references are kept whole.
pub fn full_name(store: &Store, wanted: &str) -> anyhow::Result<String> {
    if store.find(wanted)?.is_some() {
        return Ok(wanted.into());
    }
    match Wanted::parse(OsStr::new(wanted)) {
        Ok(Wanted::Reference(reference)) => Ok(reference.to_string()),
        _ => Ok(wanted.into()),
    }
}

/// Whether a bundle's container still exists.
pub fn is_there(bundle: &Path, record: &Record) -> bool {
    let entry = state::Store::new(record.state_root.clone()).open(&record.id, Access::Look);
    entry.is_ok_and(|entry| entry.saved.bundle == std::fs::canonicalize(bundle).unwrap_or_default())
}

/// Removes the bundle of a container that was deleted, if it was made here.
pub fn forget(bundle: &Path, id: &str) {
    let in_store = bundle.parent().is_some_and(|dir| dir.ends_with("containers") && dir.with_file_name("oci-layout").is_file());
    if in_store && Store::record(bundle).is_some_and(|record| record.id == id) {
        Container { dir: bundle.into() }.remove();
    }
}

/// config.json of the bundle.
fn config(wish: &Wish<'_>, image: &Image, root: &Root, limits: &Limits) -> anyhow::Result<Value> {
    let settings = Settings::of(&image.config);
    let text = |text: &OsStr| text.to_str().map(String::from).ok_or_else(|| anyhow!("{}: not UTF-8", text.display()));
    let command = wish.command.iter().map(|arg| text(arg)).collect::<anyhow::Result<_>>()?;
    let wishes = Wishes { command, entrypoint: wish.entrypoint.map(String::from) };
    let args = settings.arguments(&wishes).context("the image says no command, and none was given")?;
    let user = match wish.flags.user.as_deref().unwrap_or(&settings.user) {
        "" => User::parse("0", &root.path)?,
        user => User::parse(user, &root.path)?,
    };
    let cwd = match &wish.flags.cwd {
        Some(cwd) if !cwd.is_absolute() => bail!("--cwd {}: not an absolute path", cwd.display()),
        Some(cwd) => text(cwd.as_os_str())?,
        None => settings.cwd.clone(),
    };
    let rootless = !image::store::may_give_files_away();
    let mut config = spec::example(rootless);
    let process = object(&mut config, "process");
    process.insert("args".into(), json!(args));
    process.insert("cwd".into(), json!(cwd));
    process.insert("env".into(), json!(environment(wish, &settings, &user)?));
    process.insert("user".into(), json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.groups}));
    process.insert("terminal".into(), json!(wish.wire == Wire::Terminal));
    process.insert("capabilities".into(), capability_sets(user.uid));
    process.insert("noNewPrivileges".into(), json!(false));
    process.remove("rlimits");
    config["root"] = json!({"path": root.path, "readonly": false});
    config["hostname"] = json!(wish.id.chars().take(63).collect::<String>());
    config["annotations"] = json!(annotations(wish, image, settings));
    for volume in wish.flags.volumes()? {
        let options = ["rbind", if volume.read_only { "ro" } else { "rw" }, "nosuid", "nodev"];
        let mount = json!({"destination": text(volume.destination.as_os_str())?, "type": "bind", "source": text(volume.source.as_os_str())?, "options": options});
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.push(mount);
        }
    }
    if limits.memory.is_some() || limits.pids.is_some() {
        let mut resources = Map::new();
        if let Some(limit) = limits.memory {
            resources.insert("memory".into(), json!({"limit": limit}));
        }
        if let Some(limit) = limits.pids {
            resources.insert("pids".into(), json!({"limit": limit}));
        }
        object(&mut config, "linux").insert("resources".into(), resources.into());
    }
    Ok(config)
}

fn object<'a>(config: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !config[key].is_object() {
        config[key] = json!({});
    }
    match &mut config[key] {
        Value::Object(map) => map,
        _ => unreachable!("an object was put there"),
    }
}

/// An /etc/hosts for images that leave it to the engine, as most do: without one, libraries do not know localhost.
fn hosts(root: &Root, id: &str) -> Option<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&root.path, flags, Mode::empty()).ok()?;
    let etc = beneath::directory(root.as_fd(), b"etc").ok()?;
    match beneath::kind(etc.as_fd(), b"hosts").ok()? {
        None => {}
        Some(FileType::RegularFile)
            if beneath::read_small(root.as_fd(), b"etc/hosts", 1 << 20)
                .is_some_and(|text| text.iter().all(u8::is_ascii_whitespace)) => {}
        // The image's own.
        Some(_) => return None,
    }
    Some(format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t{id}\n"))
}

/// The image's, with what every program expects, changed by flags.
fn environment(wish: &Wish<'_>, settings: &Settings, user: &User) -> anyhow::Result<Vec<String>> {
    let split = |entry: &String| entry.split_once('=').map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let mut vars: Vec<(OsString, OsString)> = settings.env.iter().filter_map(split).collect();
    let mut add = |name: &str, value: &str| {
        if !vars.iter().any(|(known, _)| known == name) {
            vars.push((name.into(), value.into()));
        }
    };
    add("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    add("HOSTNAME", wish.id);
    add("HOME", user.home.as_deref().unwrap_or("/"));
    if wish.wire == Wire::Terminal {
        add("TERM", &std::env::var("TERM").unwrap_or_else(|_| "xterm".into()));
    }
    let joined = |(name, value): (OsString, OsString)| {
        let entry = [name, value].join(OsStr::new("="));
        entry.into_string().map_err(|entry| anyhow!("--env {}: not UTF-8", entry.display()))
    };
    wish.flags.environment(vars).into_iter().map(joined).collect()
}

/// The capabilities that engines give containers; another user than root has none until it execs a setuid program.
fn capability_sets(uid: u32) -> Value {
    let all = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    let own: &[&str] = if uid == 0 { &all } else { &[] };
    json!({"bounding": all, "effective": own, "permitted": own, "inheritable": [], "ambient": []})
}

/// As image-spec's conversion.md says. An image must not say what only the person may: labels of ours are left out.
fn annotations(wish: &Wish<'_>, image: &Image, settings: Settings) -> Map<String, Value> {
    let mut all = Map::new();
    for (key, value) in settings.labels {
        if !key.starts_with(annotations::OURS) {
            all.insert(key, value.into());
        }
    }
    let mut add = |key: &str, value: String| {
        all.insert(format!("org.opencontainers.image.{key}"), value.into());
    };
    add("os", image.config.os().to_string());
    add("architecture", image.config.architecture().to_string());
    if let Some(signal) = settings.stop_signal {
        add("stopSignal", signal);
    }
    if let Some(created) = image.config.created() {
        add("created", created.clone());
    }
    all.insert(annotations::IMAGE.into(), wish.image.to_string_lossy().into());
    all
}

/// An id that no other container has.
pub fn random_id() -> anyhow::Result<String> {
    let mut random = [0; 6];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
