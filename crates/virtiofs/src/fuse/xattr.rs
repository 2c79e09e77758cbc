//! Extended attributes: those that the passthrough core lets be seen.

use gofer::{
    Errno,
    protocol::{XattrMode, XattrName},
};

use super::{Answer, Fs, Outcome, Request, c_string, done, reply};
use crate::abi::{GetxattrIn, GetxattrOut, ROOT_ID, SetxattrIn};

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const MAX: usize = 65536;

/// The value, or its length if the guest has no room yet; `ERANGE` if not enough.
fn sized(value: Vec<u8>, size: u32) -> Outcome {
    match size as usize {
        0 => reply(&GetxattrOut { size: value.len() as u32, padding: 0 }),
        room if value.len() > room => Err(Errno::ERANGE),
        _ => Ok(Answer::Bytes(value)),
    }
}

impl Fs {
    pub(super) fn getxattr(&self, request: &Request<'_>) -> Outcome {
        let (arg, rest): (GetxattrIn, _) = request.arg_and_rest()?;
        let name = XattrName::new(c_string(rest)?.0)?;
        if request.head.nodeid == ROOT_ID {
            return Err(Errno::ENODATA);
        }
        sized(self.node(request.head.nodeid)?.get_xattr(&name, MAX)?, arg.size)
    }

    pub(super) fn setxattr(&self, request: &Request<'_>) -> Outcome {
        if request.head.nodeid == ROOT_ID {
            return self.announced(request);
        }
        let (arg, rest): (SetxattrIn, _) = request.arg_and_rest()?;
        let (name, value) = c_string(rest)?;
        let name = XattrName::new(name)?;
        let value = value.get(..arg.size as usize).ok_or(Errno::EINVAL)?;
        let mode = match arg.flags as i32 {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno::EINVAL),
        };
        self.node(request.head.nodeid)?.set_xattr(&name, value, mode)?;
        done()
    }

    pub(super) fn listxattr(&self, request: &Request<'_>) -> Outcome {
        let arg: GetxattrIn = request.arg()?;
        if request.head.nodeid == ROOT_ID {
            return sized(Vec::new(), arg.size);
        }
        sized(self.node(request.head.nodeid)?.list_xattr()?, arg.size)
    }

    pub(super) fn removexattr(&self, request: &Request<'_>) -> Outcome {
        let name = XattrName::new(c_string(request.body)?.0)?;
        if request.head.nodeid == ROOT_ID {
            return Err(Errno::EROFS);
        }
        self.node(request.head.nodeid)?.remove_xattr(&name)?;
        done()
    }
}
