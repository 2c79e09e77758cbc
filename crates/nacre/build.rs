//! Links `nacre` with packed relocations (a bit for each pointer instead of 24 bytes): a sandbox executes this program three times, and each reads them
//! all before its first line. Needs glibc 2.36 (Debian 12).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
