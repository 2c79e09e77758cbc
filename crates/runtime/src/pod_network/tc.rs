//! Queueing disciplines at an interface's way in (`ingress`, `clsact`), and filters on them: what [`tcfilter`](super::tcfilter) and
//! [`silence`](super::silence) are made of.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption};

use super::netlink::Netlink;
use super::tcfilter;
use crate::error::{Error, Result};

/// Both kinds' handle, which is the parent of an `ingress` discipline's filters.
pub const HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// Parents of filters on a `clsact` discipline. Those of an `ingress` one are found at the first, too.
pub const ARRIVING: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_INGRESS };
pub const LEAVING: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_EGRESS };

/// The preference of our filters. A discipline is ours, and may be replaced, if it has one: `na`.
const PREFERENCE: u16 = 0x6e61;
const ALL_PROTOCOLS: u16 = 0x0003;

/// # Errors
/// There is one; the host's.
pub fn add_discipline(netlink: &mut Netlink, index: i32, kind: &str) -> std::io::Result<()> {
    let mut message = message(index, HANDLE, TcHandle::INGRESS, 0);
    message.attributes = vec![TcAttribute::Kind(kind.into())];
    netlink.change(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes the discipline away, of whichever kind, and with it its filters.
///
/// # Errors
/// The host's.
pub fn remove_discipline(netlink: &mut Netlink, index: i32) -> std::io::Result<()> {
    netlink.change(RouteNetlinkMessage::DelQueueDiscipline(message(index, HANDLE, TcHandle::INGRESS, 0)), 0)
}

/// A filter for frames of all protocols.
///
/// # Errors
/// The host's.
pub fn add_filter(
    netlink: &mut Netlink,
    index: i32,
    parent: TcHandle,
    kind: &str,
    options: Vec<TcOption>,
) -> std::io::Result<()> {
    let info = u32::from(PREFERENCE) << 16 | u32::from(ALL_PROTOCOLS.to_be());
    let mut message = message(index, TcHandle::default(), parent, info);
    message.attributes = vec![TcAttribute::Kind(kind.into()), TcAttribute::Options(options)];
    netlink.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes away what a sandbox that has ended has left at an interface: the discipline that it has made where there was none, and with it what others have
/// added to that meanwhile. One without a filter of ours is somebody else's and stays.
///
/// # Errors
/// The host's.
pub fn clear(netlink: &mut Netlink, index: i32) -> Result<()> {
    if has_ours(index)? {
        let what = || format!("cannot take the filters of a former sandbox off interface {index}");
        remove_discipline(netlink, index).map_err(|cause| Error::Host { what: what(), cause })?;
    }
    Ok(())
}

fn asking_for(index: i32, parent: TcHandle) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetTrafficFilter(message(index, TcHandle::default(), parent, 0))
}

/// Whether a filter of ours is there. Asked on a socket of its own: of an answer with a filter of somebody's that we cannot read, the rest is left.
fn has_ours(index: i32) -> Result<bool> {
    let ours = |answer: &RouteNetlinkMessage| match answer {
        RouteNetlinkMessage::NewTrafficFilter(filter) => filter.header.info >> 16 == u32::from(PREFERENCE),
        _ => false,
    };
    if Netlink::new()?.dump(asking_for(index, ARRIVING))?.iter().any(ours) {
        return Ok(true);
    }
    // Somebody may have flushed those of one side. An interface with an `ingress` discipline has no other side, which the kernel may say by an error.
    Ok(Netlink::new()?.dump(asking_for(index, LEAVING)).is_ok_and(|found| found.iter().any(ours)))
}

/// Lets all interfaces in the caller's network namespace be as they were, but for those that a VM has, and its taps.
///
/// # Errors
/// The host's.
pub fn clear_all(netlink: &mut Netlink) -> Result<()> {
    let names = netlink.names()?;
    let is_taken = |index| names.iter().any(|(_, name)| *name == tcfilter::name(index));
    for (index, name) in &names {
        if !is_taken(*index) && !tcfilter::is_ours(name) {
            clear(netlink, *index)?;
        }
    }
    Ok(())
}

fn message(index: i32, handle: TcHandle, parent: TcHandle, info: u32) -> TcMessage {
    TcMessage::from_parts(TcHeader { index, handle, parent, info, ..TcHeader::default() }, Vec::new())
}
