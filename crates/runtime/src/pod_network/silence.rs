//! The host's kernel neither hears nor speaks on an interface that a sentry has by a packet socket, and keeps its addresses, routes and neighbours.
//!
//! Else both would answer: pings, ARP, connections to a port on which nobody listens there. A `clsact` discipline does it, with two filters of classic BPF
//! (tc(8): bpf, direct-action). What arrives is dropped after packet sockets have had it; what leaves is dropped unless it is the packet socket's, which
//! carries a mark ([`MARK`]; veth pairs take it off on the way). So the kernel's own questions (duplicate addresses, neighbours), reports of groups,
//! resets and errors stay in. Who looks at the interface, as CNI's CHECK and DEL do, finds it as the plugin left it.

use libc::sock_filter;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::tc::{TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcOption};
use netstack::config::Interface;

use super::netlink::Netlink;
use super::tc;

/// `SO_MARK` of packet sockets. Without the lower bits, by which others on the host tell frames apart: an interface that is no veth's lets the mark out.
pub const MARK: u32 = 0x6e61_0000;

/// `TCA_BPF_OPS_LEN`, `TCA_BPF_OPS`.
const OPS_LEN: u16 = 4;
const OPS: u16 = 5;

const fn instruction(code: u32, [jt, jf]: [u8; 2], k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
/// `SKF_AD_OFF + SKF_AD_MARK`: a frame's mark.
const FRAMES_MARK: u32 = (libc::SKF_AD_OFF + 20) as u32;
/// `TC_ACT_SHOT`: it is dropped.
const DROP: u32 = 2;
/// `TC_ACT_UNSPEC`: other filters may look at it.
const PASS: u32 = u32::MAX;

const ALL: [sock_filter; 1] = [instruction(RETURN, [0, 0], DROP)];
const ALL_BUT_MARKED: [sock_filter; 4] = [
    instruction(LOAD, [0, 0], FRAMES_MARK),
    instruction(EQUAL, [0, 1], MARK),
    instruction(RETURN, [0, 0], PASS),
    instruction(RETURN, [0, 0], DROP),
];

/// Silences the host's kernel on an interface; what a former sandbox has left there is replaced. On failure nothing is left.
///
/// # Errors
/// The kernel lacks a piece, or somebody else has a discipline there: in words, for the log.
pub fn silence(netlink: &mut Netlink, interface: &Interface) -> Result<(), String> {
    tc::clear(netlink, interface.index).map_err(|error| error.to_string())?;
    tc::add_discipline(netlink, interface.index, "clsact").map_err(|error| match error.raw_os_error() {
        Some(libc::EEXIST) => "it has an ingress or clsact discipline of somebody else's".into(),
        _ => format!("no clsact discipline (the kernel's module sch_ingress): {error}"),
    })?;
    let mut filter = |parent: TcHandle, program: &[sock_filter]| {
        tc::add_filter(netlink, interface.index, parent, TcFilterBpf::KIND, options(program))
    };
    filter(tc::ARRIVING, &ALL).and_then(|()| filter(tc::LEAVING, &ALL_BUT_MARKED)).map_err(|error| {
        let _ = tc::remove_discipline(netlink, interface.index);
        format!("no filter (the kernel's module cls_bpf): {error}")
    })
}

fn options(program: &[sock_filter]) -> Vec<TcOption> {
    let bytes = program.iter().flat_map(|at| {
        let [code, k] = [&at.code.to_ne_bytes()[..], &at.k.to_ne_bytes()[..]];
        [code, &[at.jt, at.jf], k].concat()
    });
    let other = |kind, bytes| TcOption::Bpf(TcFilterBpfOption::Other(DefaultNla::new(kind, bytes)));
    vec![
        other(OPS_LEN, (program.len() as u16).to_ne_bytes().to_vec()),
        other(OPS, bytes.collect()),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]
}
