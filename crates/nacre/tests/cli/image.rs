//! `run --image` and `image …`, with the real helper process and, where it is installed, a real registry.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image::digest::Digest;
use serde_json::{Value, json};

use crate::support::{Place, Run};

/// A layout with a busybox image, made by Debian's own tar.
struct Built {
    files: PathBuf,
    layer: Digest,
}

fn busybox() -> Option<PathBuf> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(PathBuf::from).find(|path| path.exists());
    if found.is_none() {
        eprintln!("not tested: no busybox on this host");
    }
    found
}

/// Writes `PLACE/NAME`: an image of busybox and what `config` says.
fn build(place: &Place, name: &str, config: Value) -> Option<Built> {
    let busybox = busybox()?;
    let root = place.dir.join(format!("{name}-root"));
    for dir in ["bin", "etc", "root", "home/me", "tmp"] {
        fs::create_dir_all(root.join(dir)).expect("directory");
    }
    fs::copy(busybox, root.join("bin/busybox")).expect("busybox");
    for applet in ["sh", "cat", "echo", "id", "env", "pwd", "ls", "sleep", "touch", "true", "hostname", "rm"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("mode");
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nme:x:1234:1234::/home/me:/bin/sh\n").expect("passwd");
    fs::write(root.join("etc/group"), "root:x:0:\nme:x:1234:\nmore:x:77:me\n").expect("group");
    fs::write(root.join("hello"), "hello from a layer\n").expect("file");
    let tar = place.dir.join(format!("{name}.layer"));
    let status = Command::new("tar")
        .args(["--numeric-owner", "--owner=0", "--group=0", "-C"])
        .arg(&root)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(status.expect("tar").success());
    let plain = fs::read(&tar).expect("layer");
    assert!(Command::new("gzip").arg("-n").arg(&tar).status().expect("gzip").success());
    let layer = fs::read(tar.with_extension("layer.gz")).expect("layer");
    let config = json!({"os": "linux", "architecture": "amd64", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&plain).to_string()]}});
    let files = place.dir.join(name);
    fs::create_dir_all(files.join("blobs/sha256")).expect("directory");
    let blob = |kind: &str, bytes: &[u8]| {
        fs::write(files.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes).expect("blob");
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes()),
        "layers": [blob("layer.v1.tar+gzip", &layer)],
    });
    let mut entry = blob("manifest.v1+json", manifest.to_string().as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    fs::write(files.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).expect("file");
    fs::write(files.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string()).expect("file");
    Some(Built { files, layer: Digest::of(&layer) })
}

fn command(place: &Place, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nacre"));
    command.arg("--root").arg(place.dir.join("state")).arg("--store").arg(place.dir.join("store"));
    command.args(args).current_dir(&place.dir).stdin(Stdio::null()).env_remove("DOCKER_CONFIG");
    command
}

fn nacre(place: &Place, args: &[&str]) -> Run {
    Run::of(command(place, args).output().expect("nacre runs"))
}

#[test]
fn images_run_from_layouts_and_archives() {
    let place = Place::new("image-run");
    let Some(built) = build(&place, "layout", json!({"Cmd": ["cat", "/hello"], "Env": ["PATH=/bin", "A=b"]})) else { return };
    let path = built.files.to_str().expect("path");
    let run = nacre(&place, &["run", "--image", path]).ok();
    assert_eq!(run.stdout, "hello from a layer\n");
    assert!(run.stderr.contains(": unpacked ("), "{run:?}");
    // Unpacked once; writes are the container's own.
    let run = nacre(&place, &["run", "-q", "--image", path, "sh", "-c", "echo $A; echo x > /hello; rm /bin/cat; exit 7"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(7), "b\n", ""), "{run:?}");
    assert_eq!(nacre(&place, &["run", "--image", path]).ok().stdout, "hello from a layer\n");
    // The same image as an archive, with a name: the root is there already.
    let archive = place.dir.join("a.tar");
    assert!(
        Command::new("tar")
            .arg("-C")
            .arg(&built.files)
            .arg("-cf")
            .arg(&archive)
            .args(["oci-layout", "index.json", "blobs"])
            .status()
            .expect("tar")
            .success()
    );
    let run = nacre(&place, &["run", "--image", "a.tar:latest"]).ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("hello from a layer\n", ""));
    nacre(&place, &["run", "--image", "a.tar:other"]).fails(1, "it has latest");
    nacre(&place, &["run", "--image", path, "no-such-program"]).fails(127, "no-such-program");
    nacre(&place, &["run", "--image", path, "/etc/passwd"]).fails(126, "ermission denied");
    nacre(&place, &["run", "--image", "/nowhere"]).fails(1, "No such file");
    nacre(&place, &["run", "--user", "x", "id"]).fails(1, "--user needs --image");
    assert_eq!(fs::read_dir(place.dir.join("store/containers")).expect("containers").count(), 0);
    place.assert_clean();
}

/// What is run is the image made of the root, where the host can make one, unless the root itself shall take the writes.
#[test]
fn roots_are_mapped_images() {
    let place = Place::new("image-mapped");
    let Some(built) = build(&place, "layout", json!({"Cmd": ["cat", "/hello"], "User": "me"})) else { return };
    let path = built.files.to_str().expect("path");
    assert_eq!(nacre(&place, &["run", "-q", "--image", path]).ok().stdout, "hello from a layer\n");
    let root = fs::read_dir(place.dir.join("store/roots")).expect("roots").flatten().next().expect("a root").path();
    if Command::new("mkfs.erofs").arg("-V").output().is_err() {
        eprintln!("not tested: no mkfs.erofs on this host (erofs-utils)");
        return;
    }
    assert_eq!(fs::metadata(root.join("rootfs.erofs")).expect("an image").len() % (128 << 20), 0);
    fs::write(root.join("rootfs/hello"), "from the directory\n").expect("file");
    assert_eq!(nacre(&place, &["run", "-q", "--image", path]).ok().stdout, "hello from a layer\n");
    let all = ["run", "-q", "--image", path, "sh", "-c", "id -u; ls -ld /bin/busybox; echo x > /tmp/x; cat /tmp/x"];
    let text = nacre(&place, &all).ok().stdout;
    assert!(text.starts_with("1234\n-rwxr-xr-x    1 root     root") && text.ends_with("\nx\n"), "{text}");
    let written = ["run", "-q", "--overlay", "none", "--user", "0", "--image", path, "cat", "/hello"];
    assert_eq!(nacre(&place, &written).ok().stdout, "from the directory\n");
    place.assert_clean();
}

#[test]
fn an_images_settings_are_followed() {
    let place = Place::new("image-settings");
    let config = json!({"Entrypoint": ["sh", "-c"], "Cmd": ["id; pwd; echo $HOME"], "User": "me", "WorkingDir": "/made/here",
        "Env": ["PATH=/bin"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT", "Labels": {"a": "b", "dev.nacre.overlay": "none"}});
    let Some(built) = build(&place, "layout", config) else { return };
    let path = built.files.to_str().expect("path");
    let run = nacre(&place, &["run", "-q", "--image", path]).ok();
    assert_eq!(run.stdout, "uid=1234(me) gid=1234(me) groups=77(more)\n/made/here\n/home/me\n", "{run:?}");
    let run = nacre(
        &place,
        &[
            "run",
            "-q",
            "--image",
            path,
            "--user",
            "0:77",
            "--cwd",
            "/tmp",
            "--env",
            "X=y",
            "--entrypoint",
            "sh",
            "--",
            "-c",
            "id -u; id -g; pwd; echo $X",
        ],
    );
    assert_eq!(run.ok().stdout, "0\n77\n/tmp\ny\n");
    let run = nacre(&place, &["run", "-q", "--image", path, "cat /etc/hosts"]).ok();
    assert!(run.stdout.contains("127.0.0.1\tlocalhost\n"), "{run:?}");
    let volume = place.dir.join("volume");
    fs::create_dir(&volume).expect("volume");
    fs::write(volume.join("in"), "from the host\n").expect("file");
    let volume = format!("{}:/v", volume.display());
    let run = nacre(
        &place,
        &[
            "run",
            "-q",
            "--image",
            path,
            "--user",
            "0",
            "--volume",
            &volume,
            "--memory",
            "200m",
            "--pids",
            "20",
            "cat /v/in; echo out > /v/out",
        ],
    );
    assert_eq!(run.ok().stdout, "from the host\n");
    assert_eq!(fs::read_to_string(place.dir.join("volume/out")).expect("out"), "out\n");
    // A label must not make the shared root writable.
    nacre(&place, &["run", "-q", "--image", path, "--user", "0", "touch /mark"]).ok();
    let run = nacre(&place, &["run", "-q", "--image", path, "--user", "0", "ls /mark"]);
    assert_ne!(run.code, Some(0), "{run:?}");
}

#[test]
fn detached_containers_keep_their_image() {
    let place = Place::new("image-detached");
    let Some(built) = build(&place, "layout", json!({"Cmd": ["sleep", "1000"]})) else { return };
    let path = built.files.to_str().expect("path");
    nacre(&place, &["image", "pull", "-q", path, "--name", "sleeper"]).ok();
    assert!(nacre(&place, &["image", "list"]).ok().stdout.contains("sleeper"));
    let id = &*place.id();
    let null = Stdio::null;
    let status = command(&place, &["run", "-d", "--name", id, "--image", "sleeper"]).stdout(null()).stderr(null()).status();
    assert!(status.expect("nacre").success());
    assert_eq!(nacre(&place, &["exec", id, "cat", "/hello"]).ok().stdout, "hello from a layer\n");
    nacre(&place, &["image", "rm", "sleeper"]).fails(1, &format!("in use by {id}"));
    nacre(&place, &["image", "prune", "--all"]).ok();
    assert_eq!(nacre(&place, &["exec", id, "cat", "/hello"]).ok().stdout, "hello from a layer\n");
    nacre(&place, &["delete", "--force", id]).ok();
    assert_eq!(fs::read_dir(place.dir.join("store/containers")).expect("containers").count(), 0);
    nacre(&place, &["image", "rm", "sleeper"]).ok();
    assert_eq!(fs::read_dir(place.dir.join("store/roots")).expect("roots").count(), 0);
    assert_eq!(fs::read_dir(place.dir.join("store/blobs/sha256")).expect("blobs").count(), 0);
}

#[test]
fn corrupt_and_hostile_images_are_refused() {
    let place = Place::new("image-corrupt");
    let Some(built) = build(&place, "layout", json!({"Cmd": ["true"]})) else { return };
    let path = built.files.to_str().expect("path");
    let blob = built.files.join("blobs/sha256").join(built.layer.hex());
    let mut bytes = fs::read(&blob).expect("blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&blob, bytes).expect("blob");
    let run = nacre(&place, &["run", "-q", "--image", path]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("corrupt") || run.stderr.contains("cannot be unpacked"), "{run:?}");
    assert_eq!(fs::read_dir(place.dir.join("store/roots")).expect("roots").count(), 0);
    // A layer that climbs out, by Debian's tar: refused by the confined helper, with its words.
    let evil = place.dir.join("evil.tar");
    fs::write(place.dir.join("evil"), "evil").expect("file");
    assert!(
        Command::new("tar")
            .args(["-P", "-C"])
            .arg(&place.dir)
            .args(["--transform=s,^,../../,", "-cf"])
            .arg(&evil)
            .arg("evil")
            .status()
            .expect("tar")
            .success()
    );
    let layer = fs::read(&evil).expect("layer");
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]}});
    fs::write(place.dir.join("c.json"), config.to_string()).expect("file");
    fs::write(
        place.dir.join("manifest.json"),
        json!([{"Config": "c.json", "RepoTags": ["evil:1"], "Layers": ["evil.tar"]}]).to_string(),
    )
    .expect("file");
    assert!(
        Command::new("tar")
            .arg("-C")
            .arg(&place.dir)
            .args(["-cf", "saved.tar", "c.json", "manifest.json", "evil.tar"])
            .current_dir(&place.dir)
            .status()
            .expect("tar")
            .success()
    );
    nacre(&place, &["run", "-q", "--image", "saved.tar", "true"]).fails(1, "in a path");
}

/// Debian's registry, on a port of its own; ended by its pid.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(place: &Place) -> Option<Registry> {
        let program = "/usr/bin/docker-registry";
        if !Path::new(program).exists() {
            eprintln!("not tested: no docker-registry on this host");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n  headers:\n    X-Content-Type-Options: [nosniff]\n",
            place.dir.join("registry").display()
        );
        let path = place.dir.join("registry.yml");
        fs::write(&path, config).expect("file");
        let null = Stdio::null;
        let child = Command::new(program)
            .arg("serve")
            .arg(&path)
            .stdin(null())
            .stdout(null())
            .stderr(null())
            .spawn()
            .expect("registry");
        let registry = Registry { child, address };
        let deadline = Instant::now() + Duration::from_secs(20);
        while registry.request("GET", "/v2/", "", &[]).is_none_or(|(status, _)| status != 200) {
            assert!(Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(registry)
    }

    /// Status and Location.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut stream = std::net::TcpStream::connect(&self.address).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok()?;
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next()?.ok()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
        let location = headers.into_iter().find_map(|line| line.strip_prefix("Location: ").map(String::from));
        Some((status, location.unwrap_or_default()))
    }

    /// Puts a layout's blobs there, and its manifest under `name:tag`.
    fn push(&self, files: &Path, name: &str, tag: &str) {
        for entry in fs::read_dir(files.join("blobs/sha256")).expect("blobs").flatten() {
            let bytes = fs::read(entry.path()).expect("blob");
            let (status, location) = self.request("POST", &format!("/v2/{name}/blobs/uploads/"), "", &[]).expect("answer");
            assert_eq!(status, 202);
            let path = location.split_once(&self.address).map_or(location.as_str(), |(_, path)| path).to_string();
            let sign = if path.contains('?') { '&' } else { '?' };
            let (status, _) = self
                .request("PUT", &format!("{path}{sign}digest={}", Digest::of(&bytes)), "application/octet-stream", &bytes)
                .expect("answer");
            assert_eq!(status, 201);
        }
        let index: Value = serde_json::from_slice(&fs::read(files.join("index.json")).expect("index")).expect("JSON");
        let digest = index["manifests"][0]["digest"].as_str().expect("digest").trim_start_matches("sha256:").to_string();
        let manifest = fs::read(files.join("blobs/sha256").join(digest)).expect("manifest");
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let (status, _) = self.request("PUT", &format!("/v2/{name}/manifests/{tag}"), kind, &manifest).expect("answer");
        assert_eq!(status, 201);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn images_run_from_a_registry() {
    let place = Place::new("image-registry");
    let Some(built) = build(&place, "layout", json!({"Cmd": ["cat", "/hello"]})) else { return };
    let Some(registry) = Registry::start(&place) else { return };
    registry.push(&built.files, "test/hello", "1");
    let reference = format!("{}/test/hello:1", registry.address);
    let run = nacre(&place, &["run", "--image", &reference]).ok();
    assert_eq!(run.stdout, "hello from a layer\n");
    assert!(run.stderr.contains(": pulled (") && run.stderr.contains(": unpacked ("), "{run:?}");
    nacre(&place, &["run", "-q", "--image", &format!("{}/test/hello:2", registry.address)]).fails(1, "there is no such image");
    // The store has it: the registry is not asked any more.
    drop(registry);
    assert_eq!(nacre(&place, &["run", "--image", &reference]).ok().stdout, "hello from a layer\n");
    nacre(&place, &["image", "pull", "-q", &reference]).fails(1, "cannot pull");
    nacre(&place, &["image", "rm", &reference]).ok();
    assert_eq!(nacre(&place, &["image", "list", "-q"]).ok().stdout.trim(), "");
}

#[test]
fn pulls_at_once_and_a_killed_one() {
    let place = Place::new("image-killed");
    let Some(built) = build(&place, "layout", json!({"Cmd": ["cat", "/hello"]})) else { return };
    let Some(registry) = Registry::start(&place) else { return };
    registry.push(&built.files, "test/hello", "1");
    let reference = format!("{}/test/hello:1", registry.address);
    // Killed at moments from the first to beyond the last: whatever is left, the next one works.
    for wait_ms in [5, 15, 30, 60, 120, 240] {
        let mut child = command(&place, &["image", "pull", "-q", &reference]).stdout(Stdio::null()).spawn().expect("nacre");
        std::thread::sleep(Duration::from_millis(wait_ms));
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
    let pulls: Vec<Child> = (0..3)
        .map(|_| command(&place, &["image", "pull", "-q", &reference]).stdout(Stdio::null()).spawn().expect("nacre"))
        .collect();
    for mut pull in pulls {
        assert!(pull.wait().expect("ended").success());
    }
    assert_eq!(nacre(&place, &["run", "-q", "--image", &reference]).ok().stdout, "hello from a layer\n");
    nacre(&place, &["image", "prune"]).ok();
    assert_eq!(fs::read_dir(place.dir.join("store/tmp")).expect("tmp").count(), 0);
    assert_eq!(nacre(&place, &["run", "-q", "--image", &reference]).ok().stdout, "hello from a layer\n");
}
