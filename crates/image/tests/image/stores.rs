//! What the store keeps, shares and throws away.

use std::fs;

use image::Error;
use image::image::{Image, Place};
use image::progress::Quiet;
use image::source::Source;
use image::store::{All, Record, Store};
use image::unpack::helper::Unpacker;
use serde_json::json;

use crate::build::{Built, Dir, Tar, hello, image, layout, write_files};

fn source(dir: &Dir, name: &str, built: &Built) -> (Source, Image) {
    write_files(&dir.join(name), &layout(&[built], vec![built.entry(None, None)]));
    let source = Source::open(&dir.join(name)).expect("source");
    let image = source.image(None).expect("image");
    (source, image)
}

#[test]
fn a_root_is_unpacked_once() {
    let dir = Dir::new("root");
    let store = Store::open(&dir.join("store")).expect("store");
    let built = image(
        &[Tar::new().file("x", b"1").file("y", b"1").end(), Tar::new().file("x", b"2").file(".wh.y", b"").end()],
        json!({}),
    );
    let (source, image) = source(&dir, "layout", &built);
    let root = store.root(&source, &image, &Unpacker::Here, &Quiet).expect("root");
    assert_eq!(fs::read_to_string(root.path.join("x")).expect("x"), "2");
    assert!(!root.path.join("y").exists());
    // Unpacked again, the mark would be gone.
    fs::write(root.path.join("mark"), "").expect("mark");
    assert!(store.root(&source, &image, &Unpacker::Here, &Quiet).expect("root").path.join("mark").exists());
    assert_eq!(fs::read_dir(dir.join("store/tmp")).expect("tmp").flatten().filter(|e| e.path().is_dir()).count(), 0);
}

#[test]
fn corrupt_layers_are_refused_and_leave_nothing() {
    let dir = Dir::new("corrupt");
    let store = Store::open(&dir.join("store")).expect("store");
    let built = hello("x");
    let (source, image) = source(&dir, "layout", &built);
    let blob = dir.join("layout/blobs/sha256").join(built.layers[0].hex());
    let mut bytes = fs::read(&blob).expect("blob");
    // The time in gzip's header: it unpacks as before, but is another blob.
    bytes[4] ^= 1;
    fs::write(&blob, &bytes).expect("blob");
    let error = store.root(&source, &image, &Unpacker::Here, &Quiet).expect_err("corrupt");
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    bytes.push(0);
    fs::write(&blob, &bytes).expect("blob");
    let error = store.root(&source, &image, &Unpacker::Here, &Quiet).expect_err("another size");
    assert!(matches!(error, Error::Size { .. }), "{error}");
    assert!(store.import(&source, &image, "x", &Quiet).is_err());
    assert_eq!(fs::read_dir(dir.join("store/roots")).expect("roots").count(), 0);
    assert_eq!(fs::read_dir(dir.join("store/blobs/sha256")).expect("blobs").count(), 0);
    assert_eq!(store.list().expect("list").len(), 0);
}

#[test]
fn a_layer_that_is_not_its_diff_id_is_refused() {
    let dir = Dir::new("diff-id");
    let store = Store::open(&dir.join("store")).expect("store");
    let (good, other) = (hello("good"), hello("other"));
    let (source, mut wanted) = source(&dir, "layout", &good);
    wanted.layers[0].diff_id = image::digest::Digest::of(b"something else");
    let error = store.root(&source, &wanted, &Unpacker::Here, &Quiet).expect_err("not its diff id");
    assert!(error.to_string().contains("unpacked layer"), "{error}");
    drop(other);
}

#[test]
fn names_move_and_images_go() {
    let dir = Dir::new("names");
    let store = Store::open(&dir.join("store")).expect("store");
    let (one, two) = (hello("one"), hello("two"));
    let (source_one, image_one) = source(&dir, "one", &one);
    let (source_two, image_two) = source(&dir, "two", &two);
    store.import(&source_one, &image_one, "example/x:1", &Quiet).expect("import");
    store.import(&source_two, &image_two, "example/x:1", &Quiet).expect("import");
    store.import(&source_two, &image_two, "example/x:2", &Quiet).expect("import");
    assert_eq!(store.find("example/x:1").expect("find").expect("there").1.manifest, Some(two.manifest));
    assert_eq!(store.list().expect("list").len(), 2);
    let nobody = |_: &std::path::Path, _: &Record| false;
    let collected = store.prune(All::Unreferenced, &nobody).expect("prune");
    assert_eq!(collected.blobs, 3, "image one has no name any more");
    assert!(matches!(store.remove_image("nothing", &nobody), Err(Error::NotInStore(_))));
    assert_eq!(store.remove_image("example/x:1", &nobody).expect("removed").blobs, 0);
    assert_eq!(store.remove_image(&two.manifest.to_string(), &nobody).expect("removed").blobs, 3);
    assert_eq!(store.list().expect("list").len(), 0);
    assert_eq!(fs::read_dir(dir.join("store/blobs/sha256")).expect("blobs").count(), 0);
}

#[test]
fn what_containers_use_stays() {
    let dir = Dir::new("used");
    let store = Store::open(&dir.join("store")).expect("store");
    let (source, image) = source(&dir, "layout", &hello("x"));
    let image = store.import(&source, &image, "x", &Quiet).expect("import");
    let root = store.root(&source, &image, &Unpacker::Here, &Quiet).expect("root");
    let record = Record::new("c1", &dir.join("state"), "x", &root, image.config_digest);
    let container =
        store.add_container(store.bundle_path("c1"), &record, &[("config.json", b"{}".to_vec())]).expect("container");
    let there = |_: &std::path::Path, record: &Record| record.id == "c1";
    assert!(matches!(store.remove_image("x", &there), Err(Error::InUse { .. })));
    assert_eq!(store.prune(All::UnusedImages, &there).expect("prune").images, 0);
    assert!(root.path.is_dir() && container.dir.is_dir());
    let gone = |_: &std::path::Path, _: &Record| false;
    let collected = store.prune(All::UnusedImages, &gone).expect("prune");
    assert_eq!((collected.images, collected.roots), (1, 1));
    assert!(!root.path.exists() && !container.dir.exists());
}

#[test]
fn many_unpack_the_same_image_at_once() {
    let dir = Dir::new("at-once");
    let store = Store::open(&dir.join("store")).expect("store");
    let layer = (0..200).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), &[b'x'; 3000])).end();
    let built = image(&[layer], json!({}));
    let (_, wanted) = source(&dir, "layout", &built);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (store, dir, wanted) = (&store, &dir, &wanted);
            scope.spawn(move || {
                let source = Source::open(&dir.join("layout")).expect("source");
                let root = store.root(&source, wanted, &Unpacker::Here, &Quiet).expect("root");
                assert_eq!(fs::read_dir(&root.path).expect("root").count(), 200);
                store.import(&source, wanted, &format!("name-{n}"), &Quiet).expect("import");
            });
        }
    });
    assert_eq!(store.list().expect("list").len(), 8, "no name is lost");
}

#[test]
fn what_a_dead_process_left_is_made_anew() {
    let dir = Dir::new("dead");
    let store = Store::open(&dir.join("store")).expect("store");
    let (source, image) = source(&dir, "layout", &hello("x"));
    let left = dir.join("store/tmp").join(format!("root-{}", image.chain_id().hex())).join("rootfs");
    fs::create_dir_all(left.join("half")).expect("left");
    let Place::Blob(layer) = image.layers[0].place else { panic!("a layout") };
    let part = dir.join("store/tmp").join(format!("{}.part", layer.hex()));
    fs::write(&part, "half a blob").expect("part");
    let root = store.root(&source, &image, &Unpacker::Here, &Quiet).expect("root");
    assert!(!root.path.join("half").exists() && root.path.join("hello").exists());
    store.import(&source, &image, "x", &Quiet).expect("import");
    assert!(!part.exists());
}
