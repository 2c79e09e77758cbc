//! What a kernel is built with.

use std::path::Path;
use std::process::Command;

use super::super::GuestError;

/// Programs, and the Debian packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("make", "build-essential"),
    ("gcc", "build-essential"),
    ("ld", "build-essential"),
    ("strip", "build-essential"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
];
/// A header, and its package: the kernel's objtool reads what was compiled.
const HEADERS: &[(&str, &str)] = &[("/usr/include/libelf.h", "libelf-dev")];

/// # Errors
/// Names all that is missing, with its packages.
pub fn check() -> Result<(), GuestError> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let found = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let programs = PROGRAMS.iter().filter(|(name, _)| !found(name));
    let missing: Vec<_> = programs.chain(HEADERS.iter().filter(|(header, _)| !Path::new(header).exists())).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    Err(GuestError::NoTools { names: names.join(", "), packages: packages.join(" ") })
}

/// The version lines of compiler and linker: others make another kernel, and it names both.
///
/// # Errors
/// One does not run.
pub fn versions() -> Result<String, GuestError> {
    let line = |name: &'static str| {
        let output = Command::new(name).arg("--version").output();
        let output = output.map_err(|cause| GuestError::Io { action: "run", path: name.into(), cause })?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_string())
    };
    Ok(format!("{}, {}", line("gcc")?, line("ld")?))
}
