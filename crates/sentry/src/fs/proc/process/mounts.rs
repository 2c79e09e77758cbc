//! mounts, mountinfo and mountstats: a process's mount table, as it was when the file was opened by whoever reads it; polling tells of changes.

use std::any::Any;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Subject;
use crate::Errno;
use crate::fs::pseudo::Identity;
use crate::fs::{File, FileKind, FileOps, Inode, Metadata, MountInfo, MountNamespace, OpenFlags, Path, Timestamp};
use crate::mm::Sink;
use crate::step::Step;
use crate::task::Cx;
use crate::wait::{PollEvents, WaitQueue};

/// How a mount's line looks.
type Line = fn(&MountInfo) -> String;

/// The mount tables of a process.
pub(super) const TABLES: [(&str, u32, Line); 3] =
    [("mounts", 0o444, mounts), ("mountinfo", 0o444, mountinfo), ("mountstats", 0o400, mountstats)];

/// The file of a table.
pub(super) fn table(subject: &Subject, name: &[u8]) -> Option<Arc<dyn Inode>> {
    let (name, permissions, line) = TABLES.iter().find(|(table, ..)| table.as_bytes() == name)?;
    Some(Arc::new(Table { identity: subject.identity(*permissions, *name), subject: subject.clone(), line: *line }))
}

/// Text in a mount table: blanks and backslashes as octal escapes.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                let _ = write!(text, "\\{byte:03o}");
            }
            _ => text.push(byte as char),
        }
    }
    text
}

/// `proc_pid_mounts(5)`.
fn mounts(mount: &MountInfo) -> String {
    let access = if mount.read_only { "ro" } else { "rw" };
    let own = mount.mount_options.get(2..).unwrap_or_default();
    let whole = mount.fs_options.get(2..).unwrap_or_default();
    format!("{} {} {} {access}{own}{whole} 0 0\n", escape(&mount.source), escape(&mount.target), mount.fs_name)
}

/// `proc_pid_mountinfo(5)`.
fn mountinfo(mount: &MountInfo) -> String {
    let (major, minor) = crate::fs::dev::device_parts(mount.dev);
    format!(
        "{} {} {major}:{minor} {} {} {} {}- {} {} {}\n",
        mount.id,
        mount.parent,
        escape(&mount.root),
        escape(&mount.target),
        mount.mount_options,
        mount.propagation,
        mount.fs_name,
        escape(&mount.source),
        mount.fs_options,
    )
}

/// `proc_pid_mountstats(5)`.
fn mountstats(mount: &MountInfo) -> String {
    format!("device {} mounted on {} with fstype {} \n", escape(&mount.source), escape(&mount.target), mount.fs_name)
}

struct Table {
    identity: Identity,
    subject: Subject,
    line: Line,
}

impl Inode for Table {
    fn metadata(&self) -> Step<'_, Result<Metadata, Errno>> {
        Step::ok(self.identity.metadata(FileKind::Regular, Timestamp::default()))
    }

    fn open<'a>(self: Arc<Self>, _cx: &'a Cx, flags: OpenFlags) -> Step<'a, Result<Arc<dyn FileOps>, Errno>> {
        if flags.writable() {
            return Step::err(Errno::EACCES);
        }
        let open = || {
            let shared = self.subject.task()?.shared.read().clone().ok_or(Errno::EINVAL)?;
            let (namespace, root) = (shared.fs.namespace(), shared.fs.root());
            let seen = AtomicU64::new(namespace.event());
            Ok(Arc::new(Open { namespace, root, seen, line: self.line, text: Mutex::default() }) as Arc<dyn FileOps>)
        };
        Step::Ready(open())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Open {
    namespace: Arc<MountNamespace>,
    root: Path,
    line: Line,
    /// The change that poll has told of.
    seen: AtomicU64,
    /// Made at the start, so that a reader sees one state.
    text: Mutex<Option<Vec<u8>>>,
}

impl FileOps for Open {
    fn read<'a>(&'a self, _file: &'a File, offset: u64, into: &'a mut dyn Sink) -> Step<'a, Result<usize, Errno>> {
        let mut text = self.text.lock();
        if offset == 0 || text.is_none() {
            *text = Some(self.namespace.table(&self.root).iter().map(self.line).collect::<String>().into_bytes());
        }
        let all = text.as_deref().unwrap_or_default();
        let rest = usize::try_from(offset).ok().and_then(|from| all.get(from..)).unwrap_or_default();
        let n = rest.len().min(into.remaining());
        Step::Ready(into.put(rest.get(..n).unwrap_or_default()))
    }

    /// Tells of each change once, as Linux does.
    fn poll(&self, _file: &File) -> PollEvents {
        let event = self.namespace.event();
        let changed = self.seen.swap(event, Ordering::AcqRel) != event;
        let always = PollEvents::IN | PollEvents::RDNORM;
        if changed { always | PollEvents::ERR | PollEvents::PRI } else { always }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.namespace.queue())
    }

    fn seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
