//! Files, as the loader reads their headers: no panic, whatever they are.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = sentry::loader::is_program(bytes);
});
