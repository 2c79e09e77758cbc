//! Extended attributes kept in memory.

use std::collections::BTreeMap;

use crate::Errno;
use crate::fs::{XattrCall, XattrReply};

/// `XATTR_CREATE` and `XATTR_REPLACE`.
const CREATE: u32 = 1;
const REPLACE: u32 = 2;

/// Most bytes of names and values of one inode: Linux limits the list of names to this.
const TOTAL_MAX: usize = 64 << 10;

/// An inode's attributes by name. Who may use which names is the VFS's affair.
// Few inodes have any: a pointer for those that have none.
#[allow(clippy::box_collection)]
#[derive(Default)]
pub(in crate::fs) struct Xattrs(Option<Box<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl Xattrs {
    pub fn call(&mut self, call: XattrCall<'_>) -> Result<XattrReply, Errno> {
        match call {
            XattrCall::Get(name) => self.get(name).cloned().ok_or(Errno::ENODATA),
            XattrCall::List => Ok(self.0.iter().flat_map(|map| map.keys()).fold(Vec::new(), |mut list, name| {
                list.extend_from_slice(name);
                list.push(0);
                list
            })),
            XattrCall::Set(name, value, flags) => self.set(name, value, flags),
            XattrCall::Remove(name) => {
                let removed = self.0.as_mut().and_then(|map| map.remove(name));
                removed.map(|_| Vec::new()).ok_or(Errno::ENODATA)
            }
        }
    }

    fn get(&self, name: &[u8]) -> Option<&Vec<u8>> {
        self.0.as_ref()?.get(name)
    }

    fn set(&mut self, name: &[u8], value: &[u8], flags: u32) -> Result<XattrReply, Errno> {
        match (self.get(name).is_some(), flags) {
            (true, CREATE) => return Err(Errno::EEXIST),
            (false, REPLACE) => return Err(Errno::ENODATA),
            _ => {}
        }
        let map = self.0.get_or_insert_default();
        let others = map.iter().filter(|(other, _)| *other != name);
        let total: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        if total + name.len() + value.len() > TOTAL_MAX + 255 {
            return Err(Errno::ENOSPC);
        }
        map.insert(name.to_vec(), value.to_vec());
        Ok(Vec::new())
    }
}
