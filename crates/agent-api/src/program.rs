//! Finding a container's program: the same places and the same words in every agent.

use hostcall::Errno;

use crate::status::{Code, Status};

/// Where a program is looked for without a `PATH`.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a program may be: itself if it has a slash, else in the directories of `PATH`.
pub fn candidates(program: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix(b"PATH=".as_slice())).unwrap_or(PATH);
    let join = |directory: &[u8]| if directory.is_empty() { b"./".to_vec() } else { [directory, b"/"].concat() };
    path.split(|&byte| byte == b':').map(|directory| [join(directory), program.to_vec()].concat()).collect()
}

/// A search through [`candidates`], as a shell does it.
#[derive(Debug)]
pub struct Search<'a> {
    program: &'a [u8],
    last: Errno,
}

impl Search<'_> {
    pub fn new(program: &[u8]) -> Search<'_> {
        Search { program, last: Errno::ENOENT }
    }

    /// A candidate cannot be run, for this reason: goes on, but remembers a file that was found and could not be run.
    ///
    /// # Errors
    /// The search is over.
    pub fn failed(&mut self, errno: Errno) -> Result<(), Status> {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => Ok(()),
            Errno::EACCES => {
                self.last = errno;
                Ok(())
            }
            errno => Err(cannot_run(self.program, errno)),
        }
    }

    /// What is said when there is no further candidate.
    pub fn end(self) -> Status {
        match self.last {
            Errno::ENOENT if !self.program.contains(&b'/') => Status::new(
                Code::NotFound,
                format!("exec: \"{}\": executable file not found in $PATH", String::from_utf8_lossy(self.program)),
            ),
            errno => cannot_run(self.program, errno),
        }
    }
}

/// What is said of a program that cannot be run.
pub fn cannot_run(program: &[u8], errno: Errno) -> Status {
    let code = match errno {
        Errno::ENOENT => Code::NotFound,
        Errno::EACCES => Code::PermissionDenied,
        _ => Code::InvalidArgument,
    };
    Status::new(code, format!("exec: \"{}\": {}", String::from_utf8_lossy(program), errno.text()))
}
