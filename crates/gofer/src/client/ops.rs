//! The operations by name, with the answer each one has.

use std::{ffi::CString, os::fd::OwnedFd, sync::Arc};

use super::Client;
use crate::{
    Errno,
    protocol::{
        Attached, Attr, Durability, Entries, Entry, EntryKind, FsStat, Handle, MakeNode, Name, OpenHow, Owner, ReadDirDetail,
        RenameKind, Request, Response, Scanned, SetAttr, Truncate, Walked, XattrMode, XattrName,
    },
};

/// `name(args) -> Answer: Request { … } => Response pattern => value`. Each fails with the operation's error (see [`Request`]),
/// or `EIO` if the gofer is gone.
macro_rules! operations {
    ($($(#[$meta:meta])* $name:ident($($arg:ident: $type:ty),* $(,)?) -> $answer:ty : $variant:ident, $($pattern:pat => $value:expr),+;)*) => {
        impl Client {
            $(
                $(#[$meta])*
                ///
                /// # Errors
                /// The operation's; `EIO` if the gofer is gone or breaks the protocol.
                #[allow(clippy::too_many_arguments)]
                pub async fn $name(self: &Arc<Client>, $($arg: $type),*) -> Result<$answer, Errno> {
                    match self.call(&Request::$variant { $($arg),* }).await? {
                        $($pattern => $value,)+
                        other => Err(self.senseless(&other)),
                    }
                }
            )*
        }
    };
}

impl Client {
    /// See [`Request::Walk`]. There are as many steps as names if the walk is complete, and fewer if not.
    ///
    /// # Errors
    /// The operation's; `EIO` if the gofer is gone or breaks the protocol.
    pub async fn walk(self: &Arc<Client>, start: Handle, names: Vec<Name>, open: Option<OpenHow>) -> Result<Walked, Errno> {
        let asked = names.len();
        match self.call(&Request::Walk { start, names, open }).await? {
            Response::Walked(walked) if walked.answers(asked) => Ok(walked),
            other => Err(self.senseless(&other)),
        }
    }

    /// See [`Request::LookUp`]. At least one outcome, and no more than names.
    ///
    /// # Errors
    /// The operation's; `EIO` if the gofer is gone or breaks the protocol.
    pub async fn look_up(self: &Arc<Client>, dir: Handle, names: Vec<Name>) -> Result<Vec<Result<Entry, Errno>>, Errno> {
        let asked = names.len();
        match self.call(&Request::LookUp { dir, names }).await? {
            Response::Found(found) if (1..=asked).contains(&found.len()) => Ok(found),
            other => Err(self.senseless(&other)),
        }
    }

    /// See [`Request::Stat`]. As many outcomes as names.
    ///
    /// # Errors
    /// The operation's; `EIO` if the gofer is gone or breaks the protocol.
    pub async fn stat(
        self: &Arc<Client>,
        dir: Handle,
        path: Vec<Name>,
        names: Vec<Name>,
    ) -> Result<Vec<Result<Attr, Errno>>, Errno> {
        let asked = names.len();
        match self.call(&Request::Stat { dir, path, names }).await? {
            Response::Attrs(attrs) if attrs.len() == asked => Ok(attrs),
            other => Err(self.senseless(&other)),
        }
    }

    /// See [`Request::OpenAll`]. As many outcomes as names.
    ///
    /// # Errors
    /// The operation's; `EIO` if the gofer is gone or breaks the protocol.
    pub async fn open_all(
        self: &Arc<Client>,
        dir: Handle,
        path: Vec<Name>,
        names: Vec<Name>,
        how: OpenHow,
    ) -> Result<Vec<Result<(Attr, OwnedFd), Errno>>, Errno> {
        let asked = names.len();
        match self.call(&Request::OpenAll { dir, path, names, how }).await? {
            Response::OpenedAll(opened) if opened.len() == asked => Ok(opened),
            other => Err(self.senseless(&other)),
        }
    }

    /// See [`Request::Unwatch`]. The answer is not waited for.
    pub fn unwatch(self: &Arc<Client>, watch: u32) {
        drop(self.submit(&Request::Unwatch { watch }));
    }

    /// The handles of an answer that is none to the question: not to be trusted, not to be leaked.
    fn senseless(&self, answer: &Response) -> Errno {
        answer.handles().into_iter().for_each(|handle| self.forget(handle));
        Errno::EIO
    }
}

operations! {
    /// See [`Request::Notifier`].
    notifier() -> Arc<OwnedFd>: Notifier, Response::Notifier(fd) => Ok(fd);
    /// See [`Request::Watch`].
    watch(node: Handle, events: u32) -> u32: Watch, Response::Watched(watch) => Ok(watch);
    /// See [`Request::Attach`].
    attach(index: u32) -> Attached: Attach, Response::Attached(attached) => Ok(attached);
    /// See [`Request::GetAttr`].
    get_attr(node: Handle) -> Attr: GetAttr, Response::Attr(attr) => Ok(attr);
    /// See [`Request::ReadLink`].
    read_link(node: Handle) -> Vec<u8>: ReadLink, Response::Bytes(target) => Ok(target);
    /// See [`Request::Open`].
    open(node: Handle, how: OpenHow, truncate: Truncate) -> OwnedFd: Open, Response::Opened(fd) => Ok(fd);
    /// See [`Request::ReadDir`].
    read_dir(node: Handle, from: u64, max_bytes: u32, detail: ReadDirDetail) -> Entries: ReadDir,
        Response::Entries(entries) => Ok(entries);
    /// See [`Request::Create`].
    create(dir: Handle, name: Name, mode: u32, owner: Owner, how: OpenHow) -> (Entry, OwnedFd): Create,
        Response::Created(entry, fd) => Ok((entry, fd));
    /// See [`Request::MkDir`].
    mkdir(dir: Handle, name: Name, mode: u32, owner: Owner) -> Entry: MkDir, Response::Entry(entry) => Ok(entry);
    /// See [`Request::MkNod`].
    mknod(dir: Handle, name: Name, kind: MakeNode, mode: u32, owner: Owner) -> Entry: MkNod, Response::Entry(entry) => Ok(entry);
    /// See [`Request::Symlink`].
    symlink(dir: Handle, name: Name, target: CString, owner: Owner) -> Entry: Symlink, Response::Entry(entry) => Ok(entry);
    /// See [`Request::Link`].
    link(node: Handle, dir: Handle, name: Name) -> Entry: Link, Response::Entry(entry) => Ok(entry);
    /// See [`Request::Unlink`].
    unlink(dir: Handle, name: Name, kind: EntryKind) -> (): Unlink, Response::Done => Ok(());
    /// See [`Request::Rename`].
    rename(
        dir: Handle, name: Name, new_dir: Handle, new_name: Name, kind: RenameKind,
        moved: Option<Handle>, displaced: Option<Handle>,
    ) -> (): Rename, Response::Done => Ok(());
    /// See [`Request::SetAttr`].
    set_attr(node: Handle, set: SetAttr) -> Attr: SetAttr, Response::Attr(attr) => Ok(attr);
    /// See [`Request::GetXattr`].
    get_xattr(node: Handle, name: XattrName, size: u32) -> Vec<u8>: GetXattr, Response::Bytes(value) => Ok(value);
    /// See [`Request::SetXattr`].
    set_xattr(node: Handle, name: XattrName, value: Vec<u8>, mode: XattrMode) -> (): SetXattr, Response::Done => Ok(());
    /// See [`Request::ListXattr`].
    list_xattr(node: Handle) -> Vec<u8>: ListXattr, Response::Bytes(names) => Ok(names);
    /// See [`Request::RemoveXattr`].
    remove_xattr(node: Handle, name: XattrName) -> (): RemoveXattr, Response::Done => Ok(());
    /// See [`Request::Scan`].
    scan(dir: Handle, path: Vec<Name>, roots: Vec<Vec<Name>>, directories: u16, detail: ReadDirDetail) -> Vec<Scanned>: Scan,
        Response::Scanned(scanned) => Ok(scanned);
    /// See [`Request::StatFs`].
    stat_fs(node: Handle) -> FsStat: StatFs, Response::FsStat(stat) => Ok(stat);
    /// See [`Request::Fsync`].
    fsync(node: Handle, durability: Durability) -> (): Fsync, Response::Done => Ok(());
}
