//! Layouts and archives with one image, several, or none for this machine.

use std::fs;
use std::path::Path;

use image::digest::Digest;
use image::source::Source;
use serde_json::json;

use crate::build::{Built, Dir, Tar, gzip, hello, image, image_for, layout, write_archive, write_files};

fn open(path: &Path, wanted: Option<&str>) -> Result<image::image::Image, String> {
    Source::open(path).and_then(|source| source.image(wanted)).map_err(|e| e.to_string())
}

#[test]
fn the_only_image_needs_no_name() {
    let dir = Dir::new("one");
    let built = hello("one");
    let files = layout(&[&built], vec![built.entry(None, None)]);
    write_files(&dir.join("layout"), &files);
    write_archive(&dir.join("archive.tar"), &files);
    fs::write(dir.join("archive.tar.gz"), gzip(&fs::read(dir.join("archive.tar")).expect("archive"))).expect("archive");
    for path in ["layout", "archive.tar", "archive.tar.gz"] {
        let image = open(&dir.join(path), None).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(image.manifest, Some(built.manifest), "{path}");
        let source = Source::open(&dir.join(path)).expect("source");
        let blob = source.layer(&image.layers[0]).expect("layer");
        assert_eq!(blob.read("layer", 1 << 20).expect("bytes"), built.blobs[0], "{path}");
    }
}

#[test]
fn several_images_are_listed_and_chosen() {
    let dir = Dir::new("several");
    let (one, two) = (hello("one"), hello("two"));
    let files =
        layout(&[&one, &two], vec![one.entry(Some("example/hello:one"), None), two.entry(Some("example/hello:two"), None)]);
    write_archive(&dir.join("a.tar"), &files);
    let path = dir.join("a.tar");
    let error = open(&path, None).expect_err("ambiguous");
    assert!(
        error.contains("several images") && error.contains("hello:one") && error.contains(&two.manifest.short()),
        "{error}"
    );
    let error = open(&path, Some("three")).expect_err("none");
    assert!(error.contains("no image \"three\"") && error.contains("hello:two"), "{error}");
    for (wanted, built) in
        [("example/hello:two", &two), ("one", &one), (&*two.manifest.to_string(), &two), (&one.manifest.hex()[..8], &one)]
    {
        assert_eq!(open(&path, Some(wanted)).expect(wanted).manifest, Some(built.manifest), "{wanted}");
    }
}

#[test]
fn platforms_are_chosen() {
    let dir = Dir::new("platforms");
    let (here, there) = (hello("here"), image_for("arm64", &[Tar::new().end()], json!({})));
    let index = json!({"schemaVersion": 2, "manifests": [there.entry(None, Some("arm64")), here.entry(None, Some("amd64")),
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": there.manifest.to_string(), "size": 1,
         "platform": {"os": "unknown", "architecture": "unknown"}, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}]});
    let index = index.to_string().into_bytes();
    let nested = Built { blobs: vec![index.clone()], manifest: Digest::of(&index), manifest_size: index.len(), layers: vec![] };
    let mut entry = nested.entry(Some("x"), None);
    entry["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    write_files(&dir.join("nested"), &layout(&[&here, &there, &nested], vec![entry]));
    assert_eq!(open(&dir.join("nested"), None).expect("image").manifest, Some(here.manifest));
    write_files(
        &dir.join("flat"),
        &layout(&[&here, &there], vec![there.entry(None, Some("arm64")), here.entry(None, Some("amd64"))]),
    );
    assert_eq!(open(&dir.join("flat"), None).expect("image").manifest, Some(here.manifest));
    write_files(
        &dir.join("other"),
        &layout(&[&there], vec![there.entry(None, Some("arm64")), there.entry(None, Some("riscv64"))]),
    );
    let error = open(&dir.join("other"), None).expect_err("none for us");
    assert!(error.contains("not for linux/amd64") && error.contains("linux/arm64, linux/riscv64"), "{error}");
    write_files(&dir.join("unsaid"), &layout(&[&there], vec![there.entry(None, None)]));
    let error = open(&dir.join("unsaid"), None).expect_err("the configuration tells");
    assert!(error.contains("it is for linux/arm64"), "{error}");
}

#[test]
fn what_docker_save_writes() {
    let dir = Dir::new("docker");
    let layer = Tar::new().file("hello", b"docker").end();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["x"], "Env": null},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string(), Digest::of(&layer).to_string()]}});
    let config = config.to_string();
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["hello:latest"], "Layers": ["one/layer.tar", "two/layer.tar"]}]).to_string();
    let tar = Tar::new()
        .file("c.json", config.as_bytes())
        .dir("one/")
        .file("one/layer.tar", &layer)
        .symlink("two/layer.tar", "../one/layer.tar");
    fs::write(dir.join("d.tar"), tar.file("manifest.json", manifest.as_bytes()).end()).expect("archive");
    let image = open(&dir.join("d.tar"), Some("hello:latest")).expect("image");
    assert_eq!((image.manifest, image.config_digest, image.layers.len()), (None, Digest::of(config.as_bytes()), 2));
    let source = Source::open(&dir.join("d.tar")).expect("source");
    assert_eq!(source.layer(&image.layers[1]).expect("layer").read("layer", 1 << 20).expect("bytes"), layer);
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    let dir = Dir::new("none");
    fs::write(dir.join("text"), "just text, and enough of it to fill a block ".repeat(100)).expect("file");
    fs::create_dir(dir.join("empty")).expect("directory");
    fs::write(dir.join("other.tar"), Tar::new().file("x", b"x").end()).expect("archive");
    for path in ["text", "empty", "other.tar"] {
        let error = open(&dir.join(path), None).expect_err(path);
        assert!(error.contains("neither an OCI layout"), "{path}: {error}");
    }
    assert!(open(&dir.join("nothing"), None).expect_err("nothing").contains("No such file"));
    assert!(open(Path::new("/dev/null"), None).expect_err("a device").contains("neither an OCI layout"));
}

#[test]
fn documents_are_checked() {
    let dir = Dir::new("documents");
    let built = hello("x");
    let spoil = |name: &str, change: &dyn Fn(&mut Vec<(String, Vec<u8>)>)| {
        let mut files = layout(&[&built], vec![built.entry(None, None)]);
        change(&mut files);
        write_files(&dir.join(name), &files);
        open(&dir.join(name), None).expect_err(name)
    };
    let manifest = format!("blobs/sha256/{}", built.manifest.hex());
    let error = spoil("corrupt", &|files| {
        files.iter_mut().filter(|(name, _)| *name == manifest).for_each(|(_, bytes)| bytes.push(b' '))
    });
    assert!(error.contains("is corrupt"), "{error}");
    let error = spoil("missing", &|files| files.retain(|(name, _)| *name != manifest));
    assert!(error.contains("is missing"), "{error}");
    let error = spoil("index", &|files| files[1].1 = b"{\"schemaVersion\":2}".to_vec());
    assert!(error.contains("index.json"), "{error}");
    let error =
        spoil("digest", &|files| files[1].1 = String::from_utf8_lossy(&files[1].1).replace("sha256:", "sha512:").into_bytes());
    assert!(error.contains("digest") || error.contains("sha512"), "{error}");
    let big = vec![b' '; 5 << 20];
    let error = spoil("large", &|files| files[1].1.clone_from(&big));
    assert!(error.contains("are refused"), "{error}");
    // One layer, but two digests of unpacked layers.
    let odd = image(&[Tar::new().end()], json!({}));
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": vec![Digest::of(b"").to_string(); 2]}}).to_string();
    let text = String::from_utf8_lossy(&odd.blobs[2])
        .replace(&Digest::of(&odd.blobs[1]).to_string(), &Digest::of(config.as_bytes()).to_string());
    let blobs = vec![odd.blobs[0].clone(), config.into_bytes(), text.clone().into_bytes()];
    let odd = Built { manifest: Digest::of(text.as_bytes()), manifest_size: text.len(), layers: vec![], blobs };
    write_files(&dir.join("odd"), &layout(&[&odd], vec![odd.entry(None, None)]));
    let error = open(&dir.join("odd"), None).expect_err("odd");
    assert!(error.contains("1 layers, and 2 digests"), "{error}");
}
