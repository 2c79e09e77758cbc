//! [`Overlay`]: where writes to a container's root go.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::sandbox::Kind;

/// Where writes to a container's root go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Overlay {
    /// Into the container's memory; they are gone with it.
    #[default]
    Memory,
    /// Into this directory, where a later container can find them.
    Dir(PathBuf),
    /// Into the root itself.
    None,
}

/// In an overlay's directory: what is there is by guests' kernels. They do not know the whiteouts that a sentry makes, which knows theirs.
const BY_LINUX: &str = "by-linux";

/// The name of the directory beside a bundle's root.
const BESIDE: &str = "nacre-overlay";

impl Overlay {
    /// `memory`, `none`, `dir:PATH`, or `dir` for a directory in the bundle.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, bundle: Option<&Path>) -> Result<Overlay, String> {
        match (text, text.strip_prefix("dir:")) {
            ("memory", _) => Ok(Overlay::Memory),
            ("none", _) => Ok(Overlay::None),
            ("dir", _) => match bundle {
                Some(bundle) => Ok(Overlay::Dir(bundle.join(BESIDE))),
                None => Err("\"dir\" needs a directory here: dir:PATH".into()),
            },
            (_, Some(path)) if Path::new(path).is_absolute() => Ok(Overlay::Dir(path.into())),
            (_, Some(path)) => Err(format!("{path:?} is not an absolute path")),
            _ => Err(format!("{text:?} is neither \"memory\", \"dir\", \"dir:PATH\" nor \"none\"")),
        }
    }
}

/// Makes what a sandbox expects in an overlay's directory: `upper`, with the attributes of `root`, and `work`.
///
/// # Errors
/// The host's; a VM cannot use what a sentry has made.
pub fn prepare(dir: &Path, root: &Path, kind: Kind) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let like = fs::metadata(root)?;
    let (upper, by_linux) = (dir.join("upper"), dir.join(BY_LINUX));
    match kind {
        Kind::Vm if upper.exists() && !by_linux.exists() => {
            let why = "it is a sentry's, and a VM's kernel would show files that were removed there";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Kind::Vm => fs::write(&by_linux, "")?,
        Kind::Sentry => match fs::remove_file(&by_linux) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        },
    }
    match fs::create_dir(&upper) {
        Ok(()) => {
            fs::set_permissions(&upper, like.permissions())?;
            // Without privilege it stays ours, as the whole root is then.
            let _ = chown(&upper, Some(like.uid()), Some(like.gid()));
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(&upper)?.is_dir() => {}
        Err(error) => return Err(error),
    }
    match fs::DirBuilder::new().mode(0o700).create(dir.join("work")) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ways() {
        let bundle = Path::new("/b");
        assert_eq!(Overlay::parse("memory", None), Ok(Overlay::Memory));
        assert_eq!(Overlay::parse("none", None), Ok(Overlay::None));
        assert_eq!(Overlay::parse("dir", Some(bundle)), Ok(Overlay::Dir("/b/nacre-overlay".into())));
        assert_eq!(Overlay::parse("dir:/x", Some(bundle)), Ok(Overlay::Dir("/x".into())));
        for bad in ["", "disk", "dir:x", "dir:"] {
            assert!(Overlay::parse(bad, Some(bundle)).is_err(), "{bad}");
        }
        assert!(Overlay::parse("dir", None).is_err());
    }

    #[test]
    fn prepared_twice() {
        let dir = std::env::temp_dir().join(format!("nacre-overlay-test-{}", std::process::id()));
        let again = |kind| prepare(&dir, Path::new("/"), kind);
        // A sentry knows what a VM leaves, and not the other way round.
        let made = [Kind::Vm, Kind::Vm, Kind::Sentry, Kind::Sentry, Kind::Vm].map(again);
        let there = dir.join("upper").is_dir() && dir.join("work").is_dir();
        let _ = fs::remove_dir_all(&dir);
        assert!(made.iter().take(4).all(Result::is_ok) && there, "{made:?}");
        assert!(made.last().is_some_and(|last| last.as_ref().is_err_and(|why| why.to_string().contains("a sentry's"))));
    }
}
