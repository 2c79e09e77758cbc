//! uid_map, gid_map, setgroups (user_namespaces(7)).

use std::sync::Arc;

use super::Subject;
use crate::fs::Inode;
use crate::fs::pseudo::{Opened, OpenerFile};
use crate::ns::Ids;
use crate::task::TaskFlags;

/// The files here.
pub(super) const NAMES: [&str; 3] = ["gid_map", "setgroups", "uid_map"];

/// One of them.
pub(super) fn file(subject: &Subject, name: &[u8]) -> Option<Arc<dyn Inode>> {
    let which = match name {
        b"uid_map" => Some(Ids::Users),
        b"gid_map" => Some(Ids::Groups),
        b"setgroups" => None,
        _ => return None,
    };
    let subject = subject.clone();
    Some(OpenerFile::make(subject.identity(0o644, name), move |cx| {
        let ns = subject.task()?.creds().user_ns.clone();
        let opener = cx.creds();
        let (reader, written, container) = (ns.clone(), ns, subject.shared.container.clone());
        Ok(match which {
            None => Opened {
                make: Arc::new(move || Ok(reader.setgroups_text().as_bytes().to_vec())),
                write: Some(Arc::new(move |text| written.write_setgroups(text, &opener))),
            },
            Some(which) => {
                let seen_from = opener.user_ns.clone();
                Opened {
                    make: Arc::new(move || Ok(reader.map_text(which, &seen_from).into_bytes())),
                    write: Some(Arc::new(move |text| {
                        written.write_map(which, text, &opener)?;
                        // Stubs answer getuid alone.
                        for task in container.pids.tasks().iter().filter(|task| task.creds().user_ns == written) {
                            task.raise(TaskFlags::IDENTITY);
                        }
                        Ok(())
                    })),
                }
            }
        })
    }))
}
