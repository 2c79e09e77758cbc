//! A registry on loopback, made here: what is pulled, and what is refused. (`nacre`'s own tests pull from a real one.)

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use image::Error;
use image::digest::Digest;
use image::progress::Quiet;
use image::source::registry::{Transport, pull};
use image::store::Store;
use oci_client::Reference;
use serde_json::json;

use crate::build::{Built, Dir, Tar, hello, image, image_for};

/// What it serves, by path, and how it behaves.
#[derive(Default)]
struct Content {
    documents: HashMap<String, (String, Vec<u8>)>,
    blobs: HashMap<String, Vec<u8>>,
    /// The first answer with this blob is cut off after half of it.
    cut: Mutex<Option<String>>,
    /// `Authorization` that is wanted.
    password: Option<String>,
    requests: AtomicUsize,
    ranges: AtomicUsize,
}

struct Registry {
    address: String,
    content: Arc<Content>,
}

impl Registry {
    fn start(content: Content) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address").to_string();
        let content = Arc::new(content);
        let served = content.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = served.clone();
                std::thread::spawn(move || serve(&stream, &content));
            }
        });
        Registry { address, content }
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().expect("reference")
    }
}

fn serve(stream: &TcpStream, content: &Content) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_string()),
            }
        }
        if !answer(stream, content, &lines) {
            return;
        }
    }
}

fn answer(mut stream: &TcpStream, content: &Content, lines: &[String]) -> bool {
    content.requests.fetch_add(1, Ordering::Relaxed);
    let header = |name: &str| {
        let found = lines.iter().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        found.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_string())
    };
    let path = lines[0].split(' ').nth(1).unwrap_or_default().to_string();
    let mut send = |status: &str, extra: &str, body: &[u8], sent: usize| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}\r\n", body.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent])).is_ok() && sent == body.len()
    };
    if content.password.is_some() && header("authorization") != content.password {
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#;
        return send("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n", body, body.len());
    }
    if path.trim_end_matches('/') == "/v2" {
        return send("200 OK", "", b"{}", 2);
    }
    if let Some((kind, body)) = content.documents.get(&path) {
        let extra = format!("Content-Type: {kind}\r\nDocker-Content-Digest: {}\r\n", Digest::of(body));
        return send("200 OK", &extra, body, body.len());
    }
    if let Some(blob) = content.blobs.get(&path) {
        let range = header("range").and_then(|range| range.strip_prefix("bytes=")?.trim_end_matches('-').parse::<usize>().ok());
        if let Some(from) = range.filter(|from| *from < blob.len()) {
            content.ranges.fetch_add(1, Ordering::Relaxed);
            let extra = format!("Content-Range: bytes {from}-{}/{}\r\n", blob.len() - 1, blob.len());
            return send("206 Partial Content", &extra, &blob[from..], blob.len() - from);
        }
        let cut = content.cut.lock().expect("cut").take_if(|cut| path.ends_with(&**cut)).is_some();
        return send("200 OK", "", blob, if cut { blob.len() / 2 } else { blob.len() });
    }
    let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#;
    send("404 Not Found", "Content-Type: application/json\r\n", body, body.len())
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Content {
    fn add(mut self, name: &str, tag: &str, built: &Built) -> Content {
        let manifest = built.blobs.last().expect("manifest").clone();
        for at in [tag.to_string(), built.manifest.to_string()] {
            self.documents.insert(format!("/v2/{name}/manifests/{at}"), (MANIFEST.into(), manifest.clone()));
        }
        for blob in &built.blobs {
            self.blobs.insert(format!("/v2/{name}/blobs/{}", Digest::of(blob)), blob.clone());
        }
        self
    }
}

fn store(dir: &Dir) -> Store {
    Store::open(&dir.join("store")).expect("store")
}

#[test]
fn an_image_is_pulled_once() {
    let dir = Dir::new("pull");
    let built = hello("pulled");
    let registry = Registry::start(Content::default().add("a/b", "1", &built));
    let store = store(&dir);
    let reference = registry.reference("a/b:1");
    let pulled = pull(&reference, Transport::Secure, &store, &Quiet).expect("pulled");
    assert_eq!(pulled.manifest, Some(built.manifest));
    assert_eq!(store.find(&reference.to_string()).expect("find").expect("there").1.manifest, Some(built.manifest));
    let before = registry.content.requests.load(Ordering::Relaxed);
    pull(&reference, Transport::Secure, &store, &Quiet).expect("again");
    assert!(registry.content.requests.load(Ordering::Relaxed) - before <= 3, "only the manifest is asked for again");
    let error = pull(&registry.reference("a/b:2"), Transport::Secure, &store, &Quiet).expect_err("none");
    assert!(error.to_string().contains("there is no such image"), "{error}");
}

#[test]
fn the_platform_is_chosen_from_an_index() {
    let dir = Dir::new("index");
    let (here, there) = (hello("here"), image_for("arm64", &[Tar::new().end()], json!({})));
    let index = json!({"schemaVersion": 2, "manifests": [there.entry(None, Some("arm64")), here.entry(None, Some("amd64"))]})
        .to_string();
    let others = json!({"schemaVersion": 2, "manifests": [there.entry(None, Some("arm64"))]}).to_string();
    let mut content = Content::default().add("x", "amd64", &here).add("x", "arm64", &there);
    let kind = "application/vnd.oci.image.index.v1+json";
    content.documents.insert("/v2/x/manifests/all".into(), (kind.into(), index.into_bytes()));
    content.documents.insert("/v2/x/manifests/others".into(), (kind.into(), others.into_bytes()));
    let registry = Registry::start(content);
    let store = store(&dir);
    assert_eq!(
        pull(&registry.reference("x:all"), Transport::Secure, &store, &Quiet).expect("pulled").manifest,
        Some(here.manifest)
    );
    let error = pull(&registry.reference("x:others"), Transport::Secure, &store, &Quiet).expect_err("none for us");
    assert!(error.to_string().contains("it is for linux/arm64"), "{error}");
}

#[test]
fn a_layer_that_was_cut_off_goes_on_where_it_was() {
    let dir = Dir::new("cut");
    let noise: Vec<u8> = (0..400_000_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
    let built = image(&[Tar::new().file("noise", &noise).end()], json!({}));
    let content = Content { cut: Mutex::new(Some(built.layers[0].to_string())), ..Content::default() }.add("x", "1", &built);
    let registry = Registry::start(content);
    let store = store(&dir);
    pull(&registry.reference("x:1"), Transport::Secure, &store, &Quiet).expect("pulled");
    assert!(registry.content.ranges.load(Ordering::Relaxed) > 0, "the second half only");
    assert_eq!(fs::read(dir.join("store/blobs/sha256").join(built.layers[0].hex())).expect("blob"), built.blobs[0]);
}

#[test]
fn corrupt_blobs_and_manifests_are_refused() {
    let dir = Dir::new("lies");
    let built = hello("x");
    let layer = format!("/v2/x/blobs/{}", built.layers[0]);
    let mut content = Content::default().add("x", "1", &built);
    let bytes = content.blobs.get_mut(&layer).expect("layer");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    content.documents.insert(format!("/v2/x/manifests/{}", Digest::of(b"other")), (MANIFEST.into(), built.blobs[2].clone()));
    let registry = Registry::start(content);
    let store = store(&dir);
    let error = pull(&registry.reference("x:1"), Transport::Secure, &store, &Quiet).expect_err("a lie");
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    assert!(!store.has_blob(built.layers[0]));
    assert_eq!(store.list().expect("list").len(), 0);
    let wrong = registry.reference(&format!("x@{}", Digest::of(b"other")));
    assert!(pull(&wrong, Transport::Secure, &store, &Quiet).is_err(), "another manifest than was asked for");
}

#[test]
fn a_blob_larger_than_its_descriptor_says_is_refused() {
    let dir = Dir::new("larger");
    let built = hello("x");
    let mut content = Content::default().add("x", "1", &built);
    content.blobs.get_mut(&format!("/v2/x/blobs/{}", built.layers[0])).expect("layer").resize(1 << 20, 0);
    let registry = Registry::start(content);
    let error = pull(&registry.reference("x:1"), Transport::Secure, &store(&dir), &Quiet).expect_err("too much");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[test]
fn many_pull_at_once() {
    let dir = Dir::new("pulls");
    let layers: Vec<Vec<u8>> = (0..6).map(|n| Tar::new().file(&format!("f{n}"), &vec![n as u8; 100_000]).end()).collect();
    let built = image(&layers, json!({}));
    let registry = Registry::start(Content::default().add("x", "1", &built));
    let store = store(&dir);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pull(&registry.reference("x:1"), Transport::Secure, &store, &Quiet).expect("pulled"));
        }
    });
    assert_eq!(store.list().expect("list").len(), 1);
    assert_eq!(fs::read_dir(dir.join("store/tmp")).expect("tmp").count(), 0, "nothing half done is left");
}

#[test]
fn credentials_come_from_dockers_file() {
    let dir = Dir::new("credentials");
    let built = hello("x");
    let content = Content { password: Some("Basic dXNlcjpwYXNz".into()), ..Content::default() }.add("x", "1", &built);
    let registry = Registry::start(content);
    let error = pull(&registry.reference("x:1"), Transport::Secure, &store(&dir), &Quiet).expect_err("no credentials");
    assert!(error.to_string().contains("cannot pull"), "{error}");
    // What `main` of a test sees of the environment is one for all tests: a child has its own.
    if std::env::var_os("NACRE_TEST_REGISTRY").is_none() {
        fs::write(dir.join("config.json"), json!({"auths": {registry.address.clone(): {"auth": "dXNlcjpwYXNz"}}}).to_string())
            .expect("file");
        let child = std::process::Command::new(std::env::current_exe().expect("test"))
            .args(["--exact", "registry::with_credentials", "--ignored"])
            .env("DOCKER_CONFIG", &dir.0)
            .env("NACRE_TEST_REGISTRY", &registry.address)
            .output()
            .expect("child");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    }
}

#[test]
#[ignore = "run by credentials_come_from_dockers_file"]
fn with_credentials() {
    let Ok(address) = std::env::var("NACRE_TEST_REGISTRY") else { return };
    let dir = Dir::new("with-credentials");
    let reference = format!("{address}/x:1").parse().expect("reference");
    pull(&reference, Transport::Secure, &store(&dir), &Quiet).expect("pulled");
}
