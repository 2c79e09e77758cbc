//! Overlays that are mounted from inside: `mount -t overlay -o lowerdir=…,upperdir=…,workdir=…`.

use std::sync::Arc;

use super::{Format, Layer, LayerFs, Upper};
use crate::Errno;
use crate::fs::types::Value;
use crate::fs::walk::{self, AT_FDCWD, ResolveFlags};
use crate::fs::{FileKind, FileSystem, Inode, NewInode, Path, next_device};
use crate::task::Cx;

/// Most lower directories (`OVL_MAX_STACK`).
const LOWERS_MAX: usize = 500;

/// What the mount options say.
#[derive(Clone, Default)]
pub struct Options {
    lowers: Vec<Place>,
    upper: Option<Place>,
    work: Option<Place>,
    user_xattr: bool,
}

/// A directory by name, or (`fsconfig`) itself.
#[derive(Clone)]
enum Place {
    Name(Vec<u8>),
    Path(Path),
}

impl Options {
    /// # Errors
    /// `EINVAL`.
    pub fn set(&mut self, key: &str, value: &Value) -> Result<(), Errno> {
        let place = || match value {
            Value::Text(text) if !text.is_empty() => Ok(Place::Name(unescaped(text))),
            Value::Place(path) => Ok(Place::Path(path.clone())),
            Value::File(file) => match &file.origin {
                crate::fs::Origin::Path(path) => Ok(Place::Path(path.clone())),
                crate::fs::Origin::Anonymous { .. } => Err(Errno::EINVAL),
            },
            _ => Err(Errno::EINVAL),
        };
        match (key, value) {
            ("lowerdir", Value::Text(text)) => self.lowers = split(text)?.into_iter().map(Place::Name).collect(),
            ("lowerdir+", _) => self.lowers.push(place()?),
            ("upperdir", _) => self.upper = Some(place()?),
            ("workdir", _) => self.work = Some(place()?),
            ("userxattr", Value::Flag) => self.user_xattr = true,
            // The rest of what can be asked for is how it is here, or changes nothing that can be seen.
            ("volatile", Value::Flag) | ("default_permissions", Value::Flag) => {}
            ("index" | "nfs_export" | "metacopy", Value::Text(text)) if text == b"off" => {}
            ("redirect_dir", Value::Text(text)) if matches!(text.as_slice(), b"off" | b"nofollow" | b"follow") => {}
            ("xino", Value::Text(text)) if matches!(text.as_slice(), b"off" | b"auto" | b"on") => {}
            ("uuid", Value::Text(text)) if matches!(text.as_slice(), b"off" | b"null" | b"auto") => {}
            ("verity", Value::Text(text)) if text == b"off" => {}
            _ => return Err(Errno::EINVAL),
        }
        if self.lowers.len() > LOWERS_MAX { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

/// Names between colons, top first; a backslash takes the next byte as it is.
fn split(text: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = vec![Vec::new()];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        let Some(last) = names.last_mut() else { break };
        match byte {
            b':' => names.push(Vec::new()),
            b'\\' => last.extend(bytes.next()),
            _ => last.push(byte),
        }
    }
    if names.iter().any(Vec::is_empty) { Err(Errno::EINVAL) } else { Ok(names) }
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.iter().copied();
    let mut name = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'\\' { name.extend(bytes.next()) } else { name.push(byte) }
    }
    name
}

async fn resolve(cx: &Cx, place: &Place) -> Result<Path, Errno> {
    match place {
        Place::Name(name) => walk::resolve(cx, AT_FDCWD, name, ResolveFlags::empty()).await,
        Place::Path(path) => Ok(path.clone()),
    }
    .and_then(|path| if path.dentry.is_dir() { Ok(path) } else { Err(Errno::EINVAL) })
}

/// Makes the overlay that the options ask for.
///
/// # Errors
/// `EINVAL` for directories that do not go together; what resolving them gives.
pub async fn make(cx: &Cx, options: &Options) -> Result<Arc<dyn FileSystem>, Errno> {
    let mut shown = Vec::new();
    let mut lowers = Vec::new();
    for place in &options.lowers {
        let path = resolve(cx, place).await?;
        shown.push(path.name_from(&cx.fs.root()));
        lowers.push(Layer::at(&path));
    }
    let mut text = format!("lowerdir={}", String::from_utf8_lossy(&shown.join(&b':')));
    let upper = match (&options.upper, &options.work) {
        (Some(upper), Some(work)) => {
            let (upper, work) = (resolve(cx, upper).await?, resolve(cx, work).await?);
            let nested = upper.dentry.is_ancestor_of(&work.dentry) || work.dentry.is_ancestor_of(&upper.dentry);
            if !Arc::ptr_eq(&upper.mount, &work.mount) || nested {
                return Err(Errno::EINVAL);
            }
            upper.mount.writable()?;
            let root = cx.fs.root();
            let name = |path: &Path| String::from_utf8_lossy(&path.name_from(&root)).into_owned();
            text.push_str(&format!(",upperdir={},workdir={}", name(&upper), name(&work)));
            let inner = work_dir(&work).await?;
            Some(Upper { layer: Layer::at(&upper), work: inner })
        }
        (None, _) if lowers.len() < 2 => return Err(Errno::EINVAL),
        (None, _) => None,
        (Some(_), None) => return Err(Errno::EINVAL),
    };
    if lowers.is_empty() {
        return Err(Errno::EINVAL);
    }
    let format = if options.user_xattr { Format::User } else { Format::Trusted };
    if options.user_xattr {
        text.push_str(",userxattr");
    }
    Ok(LayerFs::new(upper, lowers, format, next_device(), text).await?)
}

/// The directory `work` in the work directory, made if it is not there.
async fn work_dir(at: &Path) -> Result<Arc<dyn Inode>, Errno> {
    match at.inode().lookup(b"work").await {
        Ok(found) if found.kind() == FileKind::Directory => Ok(found),
        Ok(_) => Err(Errno::EINVAL),
        Err(Errno::ENOENT) => {
            let new = NewInode { kind: FileKind::Directory, permissions: 0, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
            let made = at.inode().create(b"work", &new).await?;
            at.dentry.forget(b"work");
            Ok(made)
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_directories_stand_between_colons() {
        assert_eq!(split(b"/a:/b"), Ok(vec![b"/a".to_vec(), b"/b".to_vec()]));
        assert_eq!(split(b"/a\\:b"), Ok(vec![b"/a:b".to_vec()]));
        assert_eq!(split(b"/a::/b"), Err(Errno::EINVAL));
        assert_eq!(split(b""), Err(Errno::EINVAL));
    }
}
