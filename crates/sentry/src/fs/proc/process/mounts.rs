//! mounts and mountinfo.

use std::fmt::Write;

use super::Subject;
use crate::Errno;
use crate::fs::MountInfo;

/// Text in a mount table: blanks and backslashes as octal escapes.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => {
                let _ = write!(text, "\\{byte:03o}");
            }
            _ => text.push(byte as char),
        }
    }
    text
}

fn table(subject: &Subject, line: fn(&MountInfo) -> String) -> Result<Vec<u8>, Errno> {
    let shared = subject.task()?.shared.read().clone().ok_or(Errno::EINVAL)?;
    let mounts = shared.fs.mounts();
    Ok(mounts.iter().map(line).collect::<String>().into_bytes())
}

/// `proc_pid_mounts(5)`.
pub(super) fn mounts(subject: &Subject) -> Result<Vec<u8>, Errno> {
    table(subject, |mount| {
        let options = join(&mount.mount_options, &mount.fs_options);
        format!("{} {} {} {options} 0 0\n", escape(&mount.source), escape(&mount.target), mount.fs_name)
    })
}

/// `proc_pid_mountinfo(5)`.
pub(super) fn mountinfo(subject: &Subject) -> Result<Vec<u8>, Errno> {
    table(subject, |mount| {
        let (major, minor) = crate::fs::dev::device_parts(mount.dev);
        format!(
            "{} {} {major}:{minor} {} {} {} - {} {} {}\n",
            mount.id,
            mount.parent,
            escape(&mount.root),
            escape(&mount.target),
            mount.mount_options,
            mount.fs_name,
            escape(&mount.source),
            if mount.fs_options.is_empty() { "rw" } else { &mount.fs_options },
        )
    })
}

fn join(first: &str, second: &str) -> String {
    if second.is_empty() { first.to_string() } else { format!("{first},{second}") }
}
