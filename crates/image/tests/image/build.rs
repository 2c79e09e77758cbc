//! Makes archives and layouts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use image::digest::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};

/// A directory that goes away.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(name: &str) -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("nacre-image-{name}-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("directory");
        Dir(dir)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A tar archive in the making.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    pub fn header(kind: EntryType, path: &str, link: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len().min(100)].copy_from_slice(&path.as_bytes()[..path.len().min(100)]);
        header.as_old_mut().linkname[..link.len().min(100)].copy_from_slice(&link.as_bytes()[..link.len().min(100)]);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header.set_cksum();
        header
    }

    /// A header as it is, with data.
    pub fn raw(mut self, header: &Header, data: &[u8]) -> Tar {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn entry(self, kind: EntryType, path: &str, link: &str, change: impl FnOnce(&mut Header)) -> Tar {
        let mut header = Tar::header(kind, path, link, 0);
        change(&mut header);
        header.set_cksum();
        self.raw(&header, b"")
    }

    pub fn dir(self, path: &str) -> Tar {
        self.entry(EntryType::Directory, path, "", |_| {})
    }

    pub fn file(self, path: &str, data: &[u8]) -> Tar {
        self.raw(&Tar::header(EntryType::Regular, path, "", data.len() as u64), data)
    }

    pub fn symlink(self, path: &str, target: &str) -> Tar {
        self.entry(EntryType::Symlink, path, target, |_| {})
    }

    pub fn hard_link(self, path: &str, target: &str) -> Tar {
        self.entry(EntryType::Link, path, target, |_| {})
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.raw(&Tar::header(EntryType::XHeader, "pax", "", bytes.len() as u64), &bytes)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).expect("a length");
    [(rest + digits).to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// An image of layers (unpacked archives), as a layout's blobs.
pub struct Built {
    pub blobs: Vec<Vec<u8>>,
    pub manifest: Digest,
    pub manifest_size: usize,
    pub layers: Vec<Digest>,
}

pub fn image(layers: &[Vec<u8>], config: Value) -> Built {
    image_for("amd64", layers, config)
}

pub fn image_for(architecture: &str, layers: &[Vec<u8>], config: Value) -> Built {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({"os": "linux", "architecture": architecture, "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let packed: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": packed.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let layers = packed.iter().map(|layer| Digest::of(layer)).collect();
    let (digest, manifest_size) = (Digest::of(&manifest), manifest.len());
    Built { blobs: [packed, vec![config, manifest]].concat(), manifest: digest, manifest_size, layers }
}

impl Built {
    /// Its entry in an index.
    pub fn entry(&self, name: Option<&str>, platform: Option<&str>) -> Value {
        let mut entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.manifest.to_string(),
            "size": self.manifest_size,
        });
        if let Some(name) = name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        if let Some(platform) = platform {
            entry["platform"] = json!({"os": "linux", "architecture": platform});
        }
        entry
    }
}

/// The files of a layout.
pub fn layout(images: &[&Built], index: Vec<Value>) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("oci-layout".to_string(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_string(), json!({"schemaVersion": 2, "manifests": index}).to_string().into_bytes()),
    ];
    for blob in images.iter().flat_map(|image| &image.blobs) {
        files.push((format!("blobs/sha256/{}", Digest::of(blob).hex()), blob.clone()));
    }
    files
}

pub fn write_files(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(path, bytes).expect("file");
    }
}

pub fn write_archive(path: &Path, files: &[(String, Vec<u8>)]) {
    let tar = files.iter().fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes));
    fs::write(path, tar.end()).expect("archive");
}

/// A small image whose file /hello says `word`.
pub fn hello(word: &str) -> Built {
    let layer = Tar::new().dir("etc").file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n").file("hello", word.as_bytes()).end();
    image(&[layer], json!({"Cmd": ["cat", "/hello"]}))
}
