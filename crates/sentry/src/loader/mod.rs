//! The program loader: from an executable file to a new address space and the first registers.
//!
//! [`load`] reads the file (and the interpreter of a script, and the dynamic linker), maps its segments into a new [`Mm`], lays out the
//! initial stack as Linux does, and says where to begin. The caller (`execve`) swaps the address space in.

use std::sync::Arc;

use platform::Registers;

use crate::Errno;
use crate::fs::File;
use crate::mm::Mm;
use crate::step::BoxFuture;
use crate::task::{Creds, Cx};

/// Opens a file for execution by its path (permission to execute is checked there).
pub type OpenExec<'a> = dyn Fn(Vec<u8>) -> BoxFuture<'a, Result<Arc<File>, Errno>> + Send + Sync + 'a;

/// What `execve` asks for.
pub struct Request<'a> {
    /// The executable, opened.
    pub file: Arc<File>,
    /// Its path as given by the caller (`AT_EXECFN`; the script's name for an interpreter). `/dev/fd/N` for `execveat` with an
    /// empty path.
    pub path: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
    /// To open interpreters.
    pub open: &'a OpenExec<'a>,
    /// `RLIMIT_STACK`, in bytes.
    pub stack_limit: u64,
    /// The new credentials, from the file that is run in the end (setuid bits; scripts' are ignored), and whether `AT_SECURE` is set.
    pub credentials: &'a (dyn Fn(&File) -> (Arc<Creds>, bool) + Send + Sync),
}

/// A program ready to run.
pub struct NewImage {
    pub mm: Arc<Mm>,
    pub registers: Registers,
    /// The task's new name: the last component of the path, at most 15 bytes.
    pub name: Vec<u8>,
    /// The file that is run (`/proc/PID/exe`).
    pub file: Arc<File>,
    pub creds: Arc<Creds>,
}

/// Makes a new image.
///
/// # Errors
/// `ENOEXEC`, `E2BIG`, `ELOOP`, `ENOMEM`, `EACCES`, `ELIBBAD`, and those of opening and reading.
pub async fn load(_cx: &Cx, _request: Request<'_>) -> Result<NewImage, Errno> {
    Err(Errno::ENOEXEC)
}
