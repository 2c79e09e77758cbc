//! OCI bundles under target/bundles: `busybox` (one static program), `debian` (a debootstrapped Debian 12) and `programs` (with more in it).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{packages, sh};

pub fn run(args: &[String]) -> Result<()> {
    let bundle = match args {
        [name] if name == "busybox" => busybox()?,
        [name] if name == "debian" => debian()?,
        [name] if name == "programs" => programs()?,
        _ => bail!("bundle: say busybox, debian or programs"),
    };
    println!("{}", bundle.display());
    Ok(())
}

/// What differs between the config.json files we write.
pub struct Config<'a> {
    pub rootfs: &'a Path,
    pub args: &'a [&'a str],
    pub env: &'a [&'a str],
    pub cgroups_path: Option<&'a str>,
    /// `source:destination` of bind mounts.
    pub binds: &'a [(PathBuf, &'a str)],
    pub pids: Option<u32>,
    pub memory: Option<u64>,
}

impl<'a> Config<'a> {
    pub fn new(rootfs: &'a Path, args: &'a [&'a str]) -> Self {
        Config { rootfs, args, env: &[], cgroups_path: None, binds: &[], pids: None, memory: None }
    }

    /// Writes `bundle/config.json`.
    pub fn write(&self, bundle: &Path) -> Result<()> {
        std::fs::create_dir_all(bundle)?;
        std::fs::write(bundle.join("config.json"), self.json()).context("cannot write config.json")
    }

    fn json(&self) -> String {
        let caps = list(&CAPABILITIES.map(|c| format!("CAP_{c}")));
        let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=xterm"];
        env.extend(self.env);
        let mut mounts = MOUNTS.trim().to_string();
        for (source, destination) in self.binds {
            let source = string(&source.display().to_string());
            mounts += &format!(
                ",\n{{\"destination\":{},\"type\":\"bind\",\"source\":{source},\"options\":[\"rbind\",\"rw\"]}}",
                string(destination)
            );
        }
        let mut resources = Vec::new();
        if let Some(limit) = self.memory {
            resources.push(format!("\"memory\":{{\"limit\":{limit}}}"));
        }
        if let Some(limit) = self.pids {
            resources.push(format!("\"pids\":{{\"limit\":{limit}}}"));
        }
        let cgroups = self.cgroups_path.map(|p| format!("\"cgroupsPath\":{},", string(p))).unwrap_or_default();
        format!(
            r#"{{
"ociVersion":"1.0.2",
"process":{{"terminal":false,"user":{{"uid":0,"gid":0}},"cwd":"/",
"args":{args},"env":{env},
"capabilities":{{"bounding":{caps},"effective":{caps},"permitted":{caps}}},
"rlimits":[{{"type":"RLIMIT_NOFILE","hard":4096,"soft":1024}}]}},
"root":{{"path":{root},"readonly":false}},
"hostname":"nacre-test",
"mounts":[{mounts}],
"linux":{{{cgroups}"resources":{{{resources}}},
"namespaces":[{{"type":"pid"}},{{"type":"ipc"}},{{"type":"uts"}},{{"type":"mount"}},{{"type":"network"}}]}}
}}
"#,
            args = list(self.args),
            env = list(&env),
            root = string(&self.rootfs.display().to_string()),
            resources = resources.join(","),
        )
    }
}

/// Those that engines give by default.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

const MOUNTS: &str = r#"
{"destination":"/proc","type":"proc","source":"proc"},
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"]},
{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","noexec","nodev","mode=1777","size=65536k"]},
{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},
{"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev","mode=1777"]}
"#;

fn string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn list(items: &[impl AsRef<str>]) -> String {
    format!("[{}]", items.iter().map(|i| string(i.as_ref())).collect::<Vec<_>>().join(","))
}

/// A root of busybox alone; the bundle runs /bin/true.
pub fn busybox() -> Result<PathBuf> {
    packages::ensure(&["busybox-static"])?;
    let bundle = sh::target().join("bundles/busybox");
    let root = bundle.join("rootfs");
    if !root.join("bin/true").exists() {
        for dir in ["bin", "dev", "proc", "sys", "tmp", "etc", "root", "scratch", "deep/a/b/c/d/e/f/g"] {
            std::fs::create_dir_all(root.join(dir))?;
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).context("no /bin/busybox")?;
        for applet in sh::output(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|a| *a != "busybox") {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")?;
        std::fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        std::fs::write(root.join("deep/a/b/c/d/e/f/g/file"), "")?;
        std::fs::write(root.join("bench-data"), vec![b'b'; 1 << 20])?;
    }
    Config::new(&root, &["/bin/true"]).write(&bundle)?;
    Ok(bundle)
}

/// A Debian 12 with what tests/apps needs.
pub fn debian() -> Result<PathBuf> {
    debootstrap("debian", "git,gcc,libc6-dev,python3,perl,sqlite3,procps,file,xz-utils,bc")
}

/// A Debian 12 with what the bench of programs needs; its root.
pub fn programs() -> Result<PathBuf> {
    let bundle = debootstrap("programs", "git,gcc,libc6-dev,make,python3,sqlite3,procps,redis-server,redis-tools,postgresql")?;
    Ok(bundle.join("rootfs"))
}

/// For `bench --net`.
pub fn network() -> Result<PathBuf> {
    Ok(debootstrap("network", "redis-server,redis-tools,nginx-light,wrk,postgresql")?.join("rootfs"))
}

fn debootstrap(name: &str, packages: &str) -> Result<PathBuf> {
    packages::ensure(&["debootstrap"])?;
    let bundle = sh::target().join("bundles").join(name);
    let (root, done) = (bundle.join("rootfs"), bundle.join("made"));
    if !done.exists() {
        if root.exists() {
            std::fs::remove_dir_all(&root)?;
        }
        std::fs::create_dir_all(&bundle)?;
        let packages = format!("--include={packages}");
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", &packages, "bookworm"]).arg(&root).arg(packages::mirror()?);
        sh::run(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        std::fs::write(&done, "")?;
    }
    Config::new(&root, &["/bin/bash", "-l"]).write(&bundle)?;
    Ok(bundle)
}
