//! What a person means by PATH or REF.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_client::Reference;

use crate::error::{Error, Result};

/// An image that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A directory or an archive, and which image of it.
    Path { path: PathBuf, select: Option<String> },
    /// The store's, or a registry's.
    Reference(Reference),
}

impl Wanted {
    /// `PATH`, `PATH:NAME`, `PATH@DIGEST`, or a reference. What begins with `/` or `.` (or skopeo's `oci:`, `oci-archive:`, `docker-archive:`) is a path; what
    /// else is one must exist, and be a file or a layout.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &OsStr) -> Result<Wanted> {
        let bytes = text.as_bytes();
        let prefixes: [&[u8]; 3] = [b"oci:", b"oci-archive:", b"docker-archive:"];
        if let Some(rest) = prefixes.iter().find_map(|prefix| bytes.strip_prefix(*prefix)) {
            return Ok(path(rest, |path| path.exists()).unwrap_or_else(|| whole(rest)));
        }
        if bytes.starts_with(b"/") || bytes.starts_with(b".") {
            return Ok(path(bytes, |path| path.exists()).unwrap_or_else(|| whole(bytes)));
        }
        if let Some(path) = path(bytes, |path| path.is_file() || path.join("oci-layout").is_file()) {
            return Ok(path);
        }
        let shown = || text.display().to_string();
        let reference = text.to_str().ok_or_else(|| Error::Reference { text: shown(), problem: "not UTF-8".into() })?;
        let parsed = reference
            .parse()
            .map_err(|e: oci_client::ParseError| Error::Reference { text: shown(), problem: e.to_string() })?;
        Ok(Wanted::Reference(parsed))
    }
}

fn whole(bytes: &[u8]) -> Wanted {
    Wanted::Path { path: OsStr::from_bytes(bytes).into(), select: None }
}

/// The longest beginning that is a path, and the image of it that the rest selects.
fn path(bytes: &[u8], is_one: impl Fn(&Path) -> bool) -> Option<Wanted> {
    let ends = (0..=bytes.len()).rev().filter(|end| bytes.get(*end).is_none_or(|byte| matches!(byte, b':' | b'@')));
    for end in ends {
        let path = Path::new(OsStr::from_bytes(bytes.get(..end).unwrap_or_default()));
        if path.as_os_str().is_empty() || !is_one(path) {
            continue;
        }
        let select = bytes.get(end + 1..).filter(|rest| !rest.is_empty());
        let select = select.map(|rest| String::from_utf8_lossy(rest).into_owned());
        return Some(Wanted::Path { path: path.into(), select });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_references() {
        let dir = std::env::temp_dir().join(format!("nacre-image-reference-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("directory");
        let file = dir.join("a:b.tar");
        std::fs::write(&file, "").expect("file");
        let parse = |text: &str| Wanted::parse(OsStr::new(text)).expect("wanted");
        let of = |select: Option<&str>| Wanted::Path { path: file.clone(), select: select.map(String::from) };
        let shown = file.display();
        assert_eq!(parse(&shown.to_string()), of(None));
        assert_eq!(parse(&format!("{shown}:debian:12")), of(Some("debian:12")));
        assert_eq!(parse(&format!("{shown}@sha256:ab")), of(Some("sha256:ab")));
        assert_eq!(parse(&format!("docker-archive:{shown}:x")), of(Some("x")));
        assert_eq!(parse("/nowhere/at:all"), Wanted::Path { path: "/nowhere/at:all".into(), select: None });
        let Wanted::Reference(reference) = parse("127.0.0.1:5000/a/b:c") else { panic!("a path") };
        assert_eq!((reference.registry(), reference.repository(), reference.tag()), ("127.0.0.1:5000", "a/b", Some("c")));
        assert!(Wanted::parse(OsStr::new("UPPER CASE")).is_err());
        std::fs::remove_dir_all(dir).expect("clean up");
    }
}
