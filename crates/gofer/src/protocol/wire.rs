//! Bytes to checked values and back: a bounded reader, a writer, and macros that derive both for structs and enums.

use std::ffi::CString;

use hostcall::Errno;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("message ends too early")]
    Short,
    #[error("message has bytes left over")]
    Trailing,
    #[error("operation {0} is unknown")]
    UnknownOp(u16),
    #[error("{0} has a value outside its range")]
    BadValue(&'static str),
    #[error("file name is longer than 255 bytes")]
    NameTooLong,
    #[error("file name is empty, `.`, `..`, or has a slash or NUL in it")]
    BadName,
    #[error("a descriptor is missing, or came with a message that has none")]
    Descriptor,
}

impl From<Malformed> for Errno {
    fn from(e: Malformed) -> Errno {
        match e {
            Malformed::UnknownOp(_) => Errno::ENOSYS,
            Malformed::NameTooLong => Errno::ENAMETOOLONG,
            Malformed::BadName => Errno::EINVAL,
            _ => Errno::EBADMSG,
        }
    }
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest }
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The message must be used up.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

/// A value with a form on the wire.
pub(super) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

macro_rules! wire_int {
    ($($int:ty),*) => {$(
        impl Wire for $int {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(from: &mut Reader<'_>) -> Result<$int, Malformed> {
                Ok(<$int>::from_le_bytes(from.array()?))
            }
        }
    )*};
}
wire_int!(u8, u16, u32, u64, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(*self).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<bool, Malformed> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::BadValue("truth value")),
        }
    }
}

impl Wire for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self, out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Vec<u8>, Malformed> {
        Ok(get_bytes(from)?.to_vec())
    }
}

/// A symbolic link's target: 1 to 4095 bytes without NUL (`PATH_MAX`).
impl Wire for CString {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn get(from: &mut Reader<'_>) -> Result<CString, Malformed> {
        let bytes = get_bytes(from)?;
        if bytes.is_empty() || bytes.len() > 4095 {
            return Err(Malformed::BadValue("link target"));
        }
        CString::new(bytes).map_err(|_| Malformed::BadValue("link target"))
    }
}

/// Length-prefixed bytes.
pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as u32).put(out);
    out.extend_from_slice(bytes);
}

pub(super) fn get_bytes<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let len = u32::get(from)?;
    from.take(len as usize)
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => 0u8.put(out),
            Some(value) => {
                1u8.put(out);
                value.put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Option<T>, Malformed> {
        match u8::get(from)? {
            0 => Ok(None),
            1 => Ok(Some(T::get(from)?)),
            _ => Err(Malformed::BadValue("option")),
        }
    }
}

impl Wire for Errno {
    fn put(&self, out: &mut Vec<u8>) {
        (self.raw() as u16).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<Errno, Malformed> {
        match u16::get(from)? {
            n @ 1..=4095 => Ok(Errno::from_raw(i32::from(n))),
            _ => Err(Malformed::BadValue("errno")),
        }
    }
}

impl<T: Wire> Wire for Result<T, Errno> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Ok(value) => {
                0u8.put(out);
                value.put(out);
            }
            Err(errno) => {
                1u8.put(out);
                errno.put(out);
            }
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Result<T, Errno>, Malformed> {
        match u8::get(from)? {
            0 => Ok(Ok(T::get(from)?)),
            1 => Ok(Err(Errno::get(from)?)),
            _ => Err(Malformed::BadValue("outcome")),
        }
    }
}

/// Lists of anything but bytes: a 16-bit count, then the elements (each at least one byte, so a message bounds the count).
pub(super) fn put_list<T: Wire>(list: &[T], out: &mut Vec<u8>) {
    (list.len() as u16).put(out);
    list.iter().for_each(|item| item.put(out));
}

pub(super) fn get_list<T: Wire>(from: &mut Reader<'_>, max: usize) -> Result<Vec<T>, Malformed> {
    let count = usize::from(u16::get(from)?);
    if count > max {
        return Err(Malformed::BadValue("list length"));
    }
    // Grown as elements are really there, so that a lying count allocates nothing.
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(T::get(from)?);
    }
    Ok(list)
}

/// A struct sent field by field.
macro_rules! wire_struct {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$fmeta])* pub $field: $type,)* }
        impl $crate::protocol::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) { $(self.$field.put(out);)* }
            fn get(from: &mut $crate::protocol::wire::Reader<'_>) -> Result<Self, $crate::protocol::Malformed> {
                Ok($name { $($field: $crate::protocol::wire::Wire::get(from)?,)* })
            }
        }
    };
}

/// An enum without fields, sent as one byte.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)* }
        impl $name {
            pub(super) fn from_raw(raw: u8) -> Result<$name, $crate::protocol::Malformed> {
                match raw {
                    $($value => Ok($name::$variant),)*
                    _ => Err($crate::protocol::Malformed::BadValue(stringify!($name))),
                }
            }
        }
        impl $crate::protocol::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) { (*self as u8).put(out); }
            fn get(from: &mut $crate::protocol::wire::Reader<'_>) -> Result<Self, $crate::protocol::Malformed> {
                $name::from_raw(u8::get(from)?)
            }
        }
    };
}

pub(super) use {wire_enum, wire_struct};
