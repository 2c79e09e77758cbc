//! [`Overlay`]: where writes to a container's root go.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

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

/// Makes what the sentry expects in an overlay's directory: `upper`, with the attributes of `root`, and `work`.
///
/// # Errors
/// The host's.
pub fn prepare(dir: &Path, root: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let like = fs::metadata(root)?;
    let upper = dir.join("upper");
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
        let made = prepare(&dir, Path::new("/")).and_then(|()| prepare(&dir, Path::new("/")));
        let there = dir.join("upper").is_dir() && dir.join("work").is_dir();
        let _ = fs::remove_dir_all(&dir);
        assert!(made.is_ok() && there, "{made:?}");
    }
}
