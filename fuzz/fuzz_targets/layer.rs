//! A layer, compressed or not, unpacked into a directory: nothing appears beside it.
#![no_main]

use std::os::fd::AsFd;

use image::unpack::layer::apply;
use image::unpack::{Limits, Owners, beneath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let home = std::env::temp_dir().join(format!("nacre-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(home.join("root")).expect("directory");
    let root = std::fs::File::open(home.join("root")).expect("root");
    let limits = Limits { bytes: 16 << 20, file: 1 << 20, ..Limits::default() };
    let _ = apply(root.as_fd(), std::io::Cursor::new(bytes.to_vec()), limits, Owners::Own, &mut |_| {});
    let parent = std::fs::File::open(&home).expect("directory");
    beneath::remove(parent.as_fd(), b"root").expect("removed");
    assert_eq!(std::fs::read_dir(&home).expect("directory").count(), 0);
});
