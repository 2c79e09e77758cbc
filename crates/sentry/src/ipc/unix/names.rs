//! Addresses, and the abstract names of a network namespace.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Core;
use crate::Errno;

/// Longest path or abstract name (`sun_path`), in bytes.
const NAME_MAX: usize = 108;
/// `AF_UNIX`.
pub const AF_UNIX: u16 = 1;

/// A socket's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// As it was given to bind, without NUL.
    Path(Vec<u8>),
    /// Without the leading NUL.
    Abstract(Vec<u8>),
}

impl Address {
    /// From a `sockaddr_un`. None: only the family was given.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn decode(bytes: &[u8]) -> Result<Option<Address>, Errno> {
        let (family, name) = bytes.split_at_checked(2).ok_or(Errno::EINVAL)?;
        if family != AF_UNIX.to_le_bytes() || name.len() > NAME_MAX {
            return Err(Errno::EINVAL);
        }
        Ok(match name.split_first() {
            None => None,
            Some((0, rest)) => Some(Address::Abstract(rest.to_vec())),
            Some(_) => Some(Address::Path(name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec())),
        })
    }

    /// As a `sockaddr_un`; without a name, the family alone.
    pub fn encode(address: Option<&Address>) -> Vec<u8> {
        let mut bytes = AF_UNIX.to_le_bytes().to_vec();
        match address {
            None => {}
            Some(Address::Path(path)) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            Some(Address::Abstract(name)) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
        }
        bytes
    }
}

/// Abstract names in use in a network namespace.
#[derive(Default)]
pub struct Names {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    sockets: HashMap<Vec<u8>, Weak<Core>>,
    next_auto: u32,
}

impl Names {
    /// Takes a name.
    ///
    /// # Errors
    /// `EADDRINUSE`.
    pub fn bind(&self, name: &[u8], core: &Arc<Core>) -> Result<(), Errno> {
        let mut taken = self.taken.lock();
        if taken.sockets.get(name).is_some_and(|other| other.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        taken.sockets.insert(name.to_vec(), Arc::downgrade(core));
        Ok(())
    }

    /// Takes a free name of five hexadecimal digits (autobind).
    ///
    /// # Errors
    /// `ENOSPC` when all are taken.
    pub fn bind_any(&self, core: &Arc<Core>) -> Result<Vec<u8>, Errno> {
        let mut taken = self.taken.lock();
        for _ in 0..=0xfffff {
            taken.next_auto = (taken.next_auto + 1) & 0xfffff;
            let name = format!("{:05x}", taken.next_auto).into_bytes();
            if taken.sockets.get(&name).is_none_or(|other| other.strong_count() == 0) {
                taken.sockets.insert(name.clone(), Arc::downgrade(core));
                return Ok(name);
            }
        }
        Err(Errno::ENOSPC)
    }

    /// The socket of a name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Core>> {
        self.taken.lock().sockets.get(name)?.upgrade()
    }

    /// Gives a closed socket's name back.
    pub fn release(&self, name: &[u8], core: &Core) {
        let mut taken = self.taken.lock();
        if taken.sockets.get(name).is_some_and(|other| std::ptr::eq(other.as_ptr(), core)) {
            taken.sockets.remove(name);
        }
    }
}
