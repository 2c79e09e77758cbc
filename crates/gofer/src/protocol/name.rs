//! File names and extended attribute names: the one place where bad ones are refused.

use std::{
    ffi::{CStr, CString},
    fmt,
};

use super::{
    Malformed,
    wire::{Reader, Wire, get_bytes, put_bytes},
};

/// `NAME_MAX` and `XATTR_NAME_MAX`.
const MAX: usize = 255;

/// One component of a path: 1 to 255 bytes, no slash, no NUL, neither `.` nor `..`. So, given to a `*at` call with a directory
/// descriptor, it can name nothing but a direct child of that directory.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(CString);

impl Name {
    /// # Errors
    /// `NameTooLong` above 255 bytes, `BadName` for everything else that is no component.
    pub fn new(bytes: &[u8]) -> Result<Name, Malformed> {
        Name::check(bytes)?;
        Ok(Name(CString::new(bytes).map_err(|_| Malformed::BadName)?))
    }

    /// Whether bytes are a name.
    ///
    /// # Errors
    /// As [`Name::new`].
    pub fn check(bytes: &[u8]) -> Result<(), Malformed> {
        match bytes {
            b"" | b"." | b".." => Err(Malformed::BadName),
            _ if bytes.len() > MAX => Err(Malformed::NameTooLong),
            // One pass without an early end, which the compiler makes wide.
            _ if bytes.iter().fold(false, |bad, &byte| bad | (byte == b'/') | (byte == 0)) => Err(Malformed::BadName),
            _ => Ok(()),
        }
    }

    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Wire for Name {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Name, Malformed> {
        Name::new(get_bytes(from)?)
    }
}

/// An extended attribute's name with its namespace (`user.mime`): 1 to 255 bytes without NUL.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct XattrName(CString);

impl XattrName {
    /// # Errors
    /// `NameTooLong`, or `BadValue` when empty or with NUL.
    pub fn new(bytes: &[u8]) -> Result<XattrName, Malformed> {
        if bytes.len() > MAX {
            return Err(Malformed::NameTooLong);
        }
        match CString::new(bytes) {
            Ok(name) if !bytes.is_empty() => Ok(XattrName(name)),
            _ => Err(Malformed::BadValue("xattr name")),
        }
    }

    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for XattrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Wire for XattrName {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn get(from: &mut Reader<'_>) -> Result<XattrName, Malformed> {
        XattrName::new(get_bytes(from)?)
    }
}
