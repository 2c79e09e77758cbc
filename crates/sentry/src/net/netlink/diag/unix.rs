//! Unix sockets (`unix_diag`).

use super::SOCK_DIAG_BY_FAMILY;
use crate::Errno;
use crate::ipc::unix::Shown;
use crate::net::NetNamespace;
use crate::net::address::array;
use crate::net::netlink::NLM_F_DUMP;
use crate::net::netlink::parse::Message;
use crate::net::netlink::write::{Answer, NLM_F_MULTI};

/// Bytes of `struct unix_diag_req`.
const REQUEST: usize = 24;
/// What is asked for (`UDIAG_SHOW_*`).
const SHOW_NAME: u32 = 0x01;
const SHOW_PEER: u32 = 0x04;
const SHOW_ICONS: u32 = 0x08;
const SHOW_RQLEN: u32 = 0x10;
const SHOW_UID: u32 = 0x40;
/// Attributes of an answer (`UNIX_DIAG_*`).
const NAME: u16 = 0;
const PEER: u16 = 2;
const ICONS: u16 = 3;
const RQLEN: u16 = 4;
const SHUTDOWN: u16 = 6;
const UID: u16 = 7;
const LISTEN: u8 = 10;

pub(super) fn request(net: &NetNamespace, message: &Message<'_>, out: &mut Answer<'_>) -> Result<(), Errno> {
    let payload = message.payload.get(..REQUEST).ok_or(Errno::EINVAL)?;
    let word = |at: usize| array(payload, at).map_or(0, u32::from_le_bytes);
    let (states, ino, show) = (word(4), word(8), word(12));
    if message.flags & NLM_F_DUMP == NLM_F_DUMP {
        for shown in net.unix.shown().iter().filter(|shown| states & (1 << shown.state) != 0) {
            put(shown, show, NLM_F_MULTI, out);
        }
        out.done();
        return Ok(());
    }
    if ino == 0 {
        return Err(Errno::EINVAL);
    }
    let all = net.unix.shown();
    let shown = all.iter().find(|shown| shown.ino == u64::from(ino)).ok_or(Errno::ENOENT)?;
    let cookie = array(payload, 16).map_or(u64::MAX, u64::from_le_bytes);
    if cookie != u64::MAX && cookie != shown.id {
        return Err(Errno::ESTALE);
    }
    put(shown, show, 0, out);
    Ok(())
}

fn put(shown: &Shown, show: u32, flags: u16, out: &mut Answer<'_>) {
    let mut header = vec![1, shown.kind as i32 as u8, shown.state, 0];
    header.extend_from_slice(&(shown.ino as u32).to_le_bytes());
    header.extend_from_slice(&shown.id.to_le_bytes());
    out.begin(SOCK_DIAG_BY_FAMILY, flags, &header);
    if let Some(name) = shown.name.as_ref().filter(|_| show & SHOW_NAME != 0) {
        // A path ends with a zero, an abstract name begins with one.
        let end = if name.first() == Some(&0) { &[][..] } else { &[0] };
        out.attribute(NAME, &[name, end].concat());
    }
    if let Some(peer) = shown.peer.filter(|_| show & SHOW_PEER != 0) {
        out.attribute(PEER, &(peer as u32).to_le_bytes());
    }
    if show & SHOW_ICONS != 0 && shown.state == LISTEN {
        let inodes: Vec<u8> = shown.waiting_inodes.iter().flat_map(|ino| (*ino as u32).to_le_bytes()).collect();
        out.attribute(ICONS, &inodes);
    }
    if show & SHOW_RQLEN != 0 {
        let (received, room) = (shown.waiting.0 as u32, shown.waiting.1 as u32);
        out.attribute(RQLEN, &[received.to_le_bytes(), room.to_le_bytes()].concat());
    }
    if show & SHOW_UID != 0 {
        out.attribute(UID, &shown.uid.to_le_bytes());
    }
    out.attribute(SHUTDOWN, &[shown.shut]);
    out.end();
}
