//! uname, host and domain name.

use std::sync::atomic::Ordering;

use super::prctl::persona;
use super::{Args, Flow};
use crate::Errno;
use crate::ns::Uts;
use crate::task::{Capability, Cx};

/// `uname -r`: the kernel whose behaviour is followed.
pub const RELEASE: &str = "6.12.0-nacre";
/// The same for programs that know no higher numbers (`UNAME26`).
const RELEASE_26: &str = "2.6.72-nacre";
/// `uname -v`.
pub const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Nacre";
/// A field of `struct new_utsname`, in bytes.
const FIELD: usize = 65;
/// Longest host or domain name.
const NAME_MAX: usize = 64;

pub fn sys_uname(cx: &mut Cx, args: Args) -> Flow<'_> {
    let uts = cx.task.namespaces().uts.get();
    let mut name = [0; FIELD * 6];
    let personality = cx.task.group.personality.load(Ordering::Relaxed);
    let machine = if personality & 0xff == persona::LINUX32 { "i686" } else { "x86_64" };
    let release = if personality & persona::UNAME26 != 0 { RELEASE_26 } else { RELEASE };
    let fields = ["Linux", &uts.hostname, release, VERSION, machine, &uts.domainname];
    for (place, text) in name.chunks_exact_mut(FIELD).zip(fields) {
        for (to, from) in place.iter_mut().zip(text.bytes().take(FIELD - 1)) {
            *to = from;
        }
    }
    Flow::done(cx.mm.write(args.u64(0), &name).map(|()| 0))
}

pub fn sys_sethostname(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(set_name(cx, args, |uts, name| uts.hostname = name))
}

pub fn sys_setdomainname(cx: &mut Cx, args: Args) -> Flow<'_> {
    Flow::done(set_name(cx, args, |uts, name| uts.domainname = name))
}

fn set_name(cx: &Cx, args: Args, set: fn(&mut Uts, String)) -> Result<u64, Errno> {
    let ns = cx.task.namespaces().uts.clone();
    if !cx.creds().has_in(&ns.owner, Capability::SysAdmin) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(args.i32(1)).ok().filter(|&len| len <= NAME_MAX).ok_or(Errno::EINVAL)?;
    let mut bytes = vec![0; len];
    cx.mm.read(args.u64(0), &mut bytes)?;
    let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    ns.change(|uts| set(uts, name));
    Ok(0)
}
