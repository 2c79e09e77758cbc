//! /proc/sysvipc: the System V objects of the container.

use std::fmt::Write;
use std::sync::Arc;

use super::Shared;
use crate::fs::Inode;
use crate::fs::pseudo::Tree;

/// The directory /proc/sysvipc.
pub(super) fn directory(shared: &Arc<Shared>) -> Arc<dyn Inode> {
    let mut tree = Tree::new(shared.dev);
    let files: [(&str, fn(&Shared) -> String); 3] = [("msg", msg), ("sem", sem), ("shm", shm)];
    for (path, make) in files {
        let shared = shared.clone();
        tree.add(path, move || make(&shared));
    }
    tree.into_root()
}

fn msg(shared: &Shared) -> String {
    let mut text = String::from(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime",
    );
    for queue in shared.container.namespaces.ipc.objects.msg.list() {
        let s = queue.state.lock();
        let p = s.perm;
        let _ = write!(
            text,
            "\n{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
            p.key,
            queue.id,
            p.mode,
            s.bytes,
            s.messages.len(),
            s.lspid,
            s.lrpid,
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.stime,
            s.rtime,
            s.ctime
        );
    }
    text
}

fn sem(shared: &Shared) -> String {
    let mut text = String::from("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime");
    for set in shared.container.namespaces.ipc.objects.sem.list() {
        let s = set.state.lock();
        let p = s.perm;
        let _ = write!(
            text,
            "\n{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}",
            p.key, set.id, p.mode, set.count, p.uid, p.gid, p.cuid, p.cgid, s.otime, s.ctime
        );
    }
    text
}

fn shm(shared: &Shared) -> String {
    let mut text = String::from(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap",
    );
    for segment in shared.container.namespaces.ipc.objects.shm.list() {
        let s = *segment.state.lock();
        let p = s.perm;
        let _ = write!(
            text,
            "\n{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}",
            p.key,
            segment.id,
            p.mode,
            segment.size,
            segment.cpid,
            s.lpid,
            segment.attachments(&shared.container.memory),
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.atime,
            s.dtime,
            s.ctime,
            segment.size.next_multiple_of(4096),
            0
        );
    }
    text
}
