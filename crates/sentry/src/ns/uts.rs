//! [`UtsNamespace`]: host and domain name.

use std::sync::Arc;

use parking_lot::Mutex;

use super::UserNs;

/// The names that `uname` reports.
#[derive(Debug, Clone)]
pub struct Uts {
    pub hostname: String,
    pub domainname: String,
}

/// Who shares a host name.
pub struct UtsNamespace {
    pub id: u64,
    pub owner: UserNs,
    names: Mutex<Uts>,
}

impl UtsNamespace {
    pub fn new(id: u64, owner: UserNs, names: Uts) -> Arc<UtsNamespace> {
        Arc::new(UtsNamespace { id, owner, names: Mutex::new(names) })
    }

    /// The names now.
    pub fn get(&self) -> Uts {
        self.names.lock().clone()
    }

    /// Changes one.
    pub fn change(&self, change: impl FnOnce(&mut Uts)) {
        change(&mut self.names.lock());
    }
}
