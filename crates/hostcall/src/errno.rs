//! Linux's error numbers, as a guest may see them.

use std::fmt;

/// A Linux error number (`errno`), x86-64 values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident $value:literal $text:literal,)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno($value);)*

            /// The constant's name (`"ENOENT"`), where the number has one.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $($value => Some(stringify!($name)),)* _ => None }
            }

            /// What the number means, in words.
            pub fn text(self) -> &'static str {
                match self.0 { $($value => $text,)* _ => "unknown error" }
            }
        }
    };
}

errnos! {
    EPERM 1 "operation not permitted",
    ENOENT 2 "no such file or directory",
    ESRCH 3 "no such process",
    EINTR 4 "interrupted system call",
    EIO 5 "input/output error",
    ENXIO 6 "no such device or address",
    E2BIG 7 "argument list too long",
    ENOEXEC 8 "exec format error",
    EBADF 9 "bad file descriptor",
    ECHILD 10 "no child processes",
    EAGAIN 11 "resource temporarily unavailable",
    ENOMEM 12 "cannot allocate memory",
    EACCES 13 "permission denied",
    EFAULT 14 "bad address",
    ENOTBLK 15 "block device required",
    EBUSY 16 "device or resource busy",
    EEXIST 17 "file exists",
    EXDEV 18 "invalid cross-device link",
    ENODEV 19 "no such device",
    ENOTDIR 20 "not a directory",
    EISDIR 21 "is a directory",
    EINVAL 22 "invalid argument",
    ENFILE 23 "too many open files in system",
    EMFILE 24 "too many open files",
    ENOTTY 25 "inappropriate ioctl for device",
    ETXTBSY 26 "text file busy",
    EFBIG 27 "file too large",
    ENOSPC 28 "no space left on device",
    ESPIPE 29 "illegal seek",
    EROFS 30 "read-only file system",
    EMLINK 31 "too many links",
    EPIPE 32 "broken pipe",
    EDOM 33 "numerical argument out of domain",
    ERANGE 34 "numerical result out of range",
    EDEADLK 35 "resource deadlock avoided",
    ENAMETOOLONG 36 "file name too long",
    ENOLCK 37 "no locks available",
    ENOSYS 38 "function not implemented",
    ENOTEMPTY 39 "directory not empty",
    ELOOP 40 "too many levels of symbolic links",
    ENOMSG 42 "no message of desired type",
    EIDRM 43 "identifier removed",
    ENODATA 61 "no data available",
    ETIME 62 "timer expired",
    EREMOTE 66 "object is remote",
    EPROTO 71 "protocol error",
    EBADMSG 74 "bad message",
    EOVERFLOW 75 "value too large for defined data type",
    ELIBBAD 80 "accessing a corrupted shared library",
    EILSEQ 84 "invalid or incomplete multibyte character",
    EUSERS 87 "too many users",
    ENOTSOCK 88 "socket operation on non-socket",
    EDESTADDRREQ 89 "destination address required",
    EMSGSIZE 90 "message too long",
    EPROTOTYPE 91 "protocol wrong type for socket",
    ENOPROTOOPT 92 "protocol not available",
    EPROTONOSUPPORT 93 "protocol not supported",
    ESOCKTNOSUPPORT 94 "socket type not supported",
    EOPNOTSUPP 95 "operation not supported",
    EPFNOSUPPORT 96 "protocol family not supported",
    EAFNOSUPPORT 97 "address family not supported by protocol",
    EADDRINUSE 98 "address already in use",
    EADDRNOTAVAIL 99 "cannot assign requested address",
    ENETDOWN 100 "network is down",
    ENETUNREACH 101 "network is unreachable",
    ECONNABORTED 103 "software caused connection abort",
    ECONNRESET 104 "connection reset by peer",
    ENOBUFS 105 "no buffer space available",
    EISCONN 106 "transport endpoint is already connected",
    ENOTCONN 107 "transport endpoint is not connected",
    ETIMEDOUT 110 "connection timed out",
    ECONNREFUSED 111 "connection refused",
    EHOSTUNREACH 113 "no route to host",
    EALREADY 114 "operation already in progress",
    EINPROGRESS 115 "operation now in progress",
    ESTALE 116 "stale file handle",
    EUCLEAN 117 "structure needs cleaning",
    EDQUOT 122 "disk quota exceeded",
    ECANCELED 125 "operation canceled",
    EOWNERDEAD 130 "owner died",
    ENOTRECOVERABLE 131 "state not recoverable",
}

impl Errno {
    /// The error of a raw number; anything outside Linux's range 1..=4095 becomes `EIO`.
    pub fn from_raw(raw: i32) -> Errno {
        match u16::try_from(raw) {
            Ok(n @ 1..=4095) => Errno(n),
            _ => Errno::EIO,
        }
    }

    /// The positive number.
    pub fn raw(self) -> i32 {
        i32::from(self.0)
    }

    /// `-errno`, as a system call returns it.
    pub fn as_return(self) -> i64 {
        -i64::from(self.0)
    }

    /// The calling thread's host `errno`.
    pub fn last_host() -> Errno {
        Errno::from(std::io::Error::last_os_error())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self:?})", self.text())
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(e: rustix::io::Errno) -> Errno {
        Errno::from_raw(e.raw_os_error())
    }
}

impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Errno {
        Errno::from_raw(e.raw_os_error().unwrap_or(5))
    }
}
