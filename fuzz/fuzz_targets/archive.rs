//! The archive reader alone: it ends, and within the archive.
#![no_main]

use image::archive::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(bytes);
    let mut members = 0;
    while let Ok(Some(_)) = reader.next_member() {
        members += 1;
        assert!(members <= bytes.len() / 512 + 1);
    }
    assert!(reader.position() <= bytes.len() as u64);
});
