//! Which groups somebody here is in, and telling the routers: IGMP (RFC 2236, 3376) and MLD (RFC 2710, 3810), the host's side.
//!
//! A group is told twice when the first joins it and when the last leaves, and when a router asks, after a random part of the time that he gives. As
//! long as a router is about that speaks the older version (IGMPv2, MLDv1), so do we, and are silent about a group that another has just
//! told of. Nobody chooses sources here, so every membership is one of all sources.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::frame::{self, Cutting, Header, Offload};
use super::{ICMPV6, Network, Packet, checksum};
use crate::config::is_link_local;
use crate::{Ns, SECOND};

pub const IGMP: u8 = 2;

/// Groups of all interfaces that are told of, at most, those that have just been left counted in; those of own addresses may be more.
const GROUPS: usize = 1024;
/// How often a change is told (the robustness variable), and in which time again.
const TIMES: u8 = 2;
const AGAIN: Ns = SECOND;
/// How long a router of the older version is remembered (RFC 3376, 8.12).
const OLD_ROUTER: Ns = 260 * SECOND;
/// Groups in one report: the records of 60 IPv6 groups fit into the least MTU.
const RECORDS: usize = 60;
/// Time units of a query's answer.
const TENTH: Ns = SECOND / 10;
const MILLISECOND: Ns = SECOND / 1000;

/// Messages of IGMP, and the same of MLD.
const QUERY: [u8; 2] = [0x11, 130];
const OLD_REPORT: [u8; 2] = [0x16, 131];
const OLD_LEAVE: [u8; 2] = [0x17, 132];
const REPORT: [u8; 2] = [0x22, 143];
/// To whom reports and an older leave go.
const ALL_REPORTS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(224, 0, 0, 22)), IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16))];
const ALL_ROUTERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(224, 0, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2))];
/// The option that makes routers look at a packet that is not for them: of IPv4, and the hop-by-hop header of IPv6 with it.
const ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];
const ALERT_V6: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];

/// An interface's position and a group on its link.
type Key = (usize, IpAddr);

/// What a report says of a group: the types of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Record {
    Is = 2,
    Left = 3,
    Joined = 4,
}

#[derive(Debug, Default)]
struct Entry {
    users: u32,
    /// The change that is being told: when next, and how often still.
    change: Option<(Ns, u8)>,
    /// When a query is answered.
    answer: Option<Ns>,
    /// Ours was the last report: a leave is of interest (older version).
    told_last: bool,
}

#[derive(Debug, Default)]
pub struct Groups {
    entries: HashMap<Key, Entry>,
    /// Until when a router of the older version is about, by interface and (IPv6 or not).
    old: HashMap<(usize, bool), Ns>,
    random: u64,
}

/// A report that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    interface: usize,
    v6: bool,
    old: bool,
    record: Record,
    group: IpAddr,
}

impl Groups {
    pub fn new(seed: u64) -> Groups {
        Groups { random: seed | 1, ..Groups::default() }
    }

    /// Some time up to `most`.
    fn wait(&mut self, most: Ns) -> Ns {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % most.max(1)
    }

    fn is_old(&self, now: Ns, key: &Key) -> bool {
        self.old.get(&(key.0, key.1.is_ipv6())).is_some_and(|until| now < *until)
    }

    /// False: there are too many to be told of, and it is not to be left.
    fn join(&mut self, now: Ns, key: Key, most: usize) -> bool {
        if !self.entries.contains_key(&key) && self.entries.len() >= most {
            return false;
        }
        let entry = self.entries.entry(key).or_default();
        entry.users += 1;
        if entry.users == 1 {
            entry.change = Some((now, TIMES));
        }
        true
    }

    fn leave(&mut self, now: Ns, key: Key) {
        let old = self.is_old(now, &key);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.users = entry.users.saturating_sub(1);
        if entry.users == 0 {
            entry.answer = None;
            entry.change = if old { entry.told_last.then_some((now, 1)) } else { Some((now, TIMES)) };
            if entry.change.is_none() {
                self.entries.remove(&key);
            }
        }
    }

    /// A router asks about a group, or all; who is asked answers within `most`.
    fn asked(&mut self, now: Ns, interface: usize, v6: bool, group: Option<IpAddr>, most: Ns) {
        let concerned: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| entry.users > 0 && key.0 == interface && key.1.is_ipv6() == v6)
            .map(|(key, _)| *key)
            .filter(|key| group.is_none_or(|group| group == key.1))
            .collect();
        for key in concerned {
            let at = now + self.wait(most);
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.answer = Some(entry.answer.map_or(at, |before| before.min(at)));
            }
        }
    }

    /// Somebody else has told of a group, in the older version.
    fn heard(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.answer = None;
            entry.told_last = false;
        }
    }

    pub fn deadline(&self) -> Option<Ns> {
        self.entries.values().flat_map(|entry| [entry.change.map(|(at, _)| at), entry.answer]).flatten().min()
    }

    /// What is to be told by now, in the order of its reports.
    fn due(&mut self, now: Ns) -> Vec<Due> {
        let mut due = Vec::new();
        let ready: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| [entry.change.map(|(at, _)| at), entry.answer].iter().flatten().any(|at| *at <= now))
            .map(|(key, _)| *key)
            .collect();
        for key in ready {
            let (old, again) = (self.is_old(now, &key), now + 1 + self.wait(AGAIN));
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let of = |record| Due { interface: key.0, v6: key.1.is_ipv6(), old, record, group: key.1 };
            if entry.answer.is_some_and(|at| at <= now) {
                entry.answer = None;
                entry.told_last = true;
                due.push(of(Record::Is));
            }
            if let Some((_, left)) = entry.change.filter(|(at, _)| *at <= now) {
                entry.change = (left > 1).then_some((again, left - 1));
                entry.told_last = true;
                due.push(of(if entry.users > 0 { Record::Joined } else { Record::Left }));
                if entry.users == 0 && entry.change.is_none() {
                    self.entries.remove(&key);
                }
            }
        }
        due.sort_unstable();
        due
    }
}

/// Whether routers are told of a group: not of all hosts of a link, nor of what stays in the host.
fn is_told(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.is_multicast() && group != Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(group) => {
            let scope = group.octets().get(1).copied().unwrap_or(0) & 0xf;
            group.is_multicast() && scope > 1 && group != Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
        }
    }
}

/// The group of all whose addresses end like this one: neighbours are asked for by it.
pub(super) fn solicited(ip: Ipv6Addr) -> IpAddr {
    let [.., a, b, c] = ip.octets();
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c])))
}

/// A time in a query, whose largest values are a mantissa of so many bits and an exponent.
fn long_time(code: u64, bits: u32) -> u64 {
    if code < 1 << (bits + 3) {
        return code;
    }
    let (mantissa, exponent) = (code & ((1 << bits) - 1), (code >> bits) & 7);
    (mantissa | 1 << bits) << (exponent + 3)
}

/// One group's record in a report of the newer version.
fn record(record: Record, group: IpAddr) -> Vec<u8> {
    let mut bytes = vec![record as u8, 0, 0, 0];
    match group {
        IpAddr::V4(group) => bytes.extend_from_slice(&group.octets()),
        IpAddr::V6(group) => bytes.extend_from_slice(&group.octets()),
    }
    bytes
}

impl Network {
    /// Somebody here joins a group on an interface's link. False: nobody is told, so that it is not to be left.
    pub fn join(&self, now: Ns, interface: usize, group: IpAddr) -> bool {
        self.join_among(now, interface, group, GROUPS)
    }

    fn join_among(&self, now: Ns, interface: usize, group: IpAddr, most: usize) -> bool {
        let joined =
            is_told(group) && interface < self.interfaces.len() && self.groups.lock().join(now, (interface, group), most);
        if joined {
            self.asking.store(true, Ordering::Relaxed);
        }
        joined
    }

    /// What is joined, in order: an interface's position, a group there, and by how many.
    pub fn memberships(&self) -> Vec<(usize, IpAddr, u32)> {
        let groups = self.groups.lock();
        let joined = groups.entries.iter().filter(|(_, entry)| entry.users > 0);
        let mut all: Vec<_> = joined.map(|((interface, group), entry)| (*interface, *group, entry.users)).collect();
        all.sort_unstable();
        all
    }

    /// Somebody who had joined it ([`Network::join`] said so) leaves it.
    pub fn leave(&self, now: Ns, interface: usize, group: IpAddr) {
        let mut groups = self.groups.lock();
        groups.leave(now, (interface, group));
        self.asking.store(true, Ordering::Relaxed);
    }

    /// An own address's group, by which neighbours ask for us; told when [`Network::due`] is called next.
    pub(super) fn join_own(&self, interface: usize, ip: IpAddr) {
        if let IpAddr::V6(ip) = ip {
            self.join_among(0, interface, solicited(ip), usize::MAX);
        }
    }

    pub(super) fn leave_own(&self, now: Ns, interface: usize, ip: IpAddr) {
        if let IpAddr::V6(ip) = ip {
            let key = (interface, solicited(ip));
            let mut groups = self.groups.lock();
            groups.leave(now, key);
            // Own addresses may come and go faster than it is told.
            if groups.entries.len() > GROUPS && groups.entries.get(&key).is_some_and(|entry| entry.users == 0) {
                groups.entries.remove(&key);
            }
            drop(groups);
            self.asking.store(true, Ordering::Relaxed);
        }
    }

    /// A message of IGMP or MLD, if it is one: routers' questions, and others' answers.
    pub(super) fn membership_arrives(&self, now: Ns, packet: &Packet<'_>) -> Option<()> {
        let v6 = packet.from.is_ipv6();
        let body = packet.payload;
        let of = |kinds: [u8; 2]| kinds.get(usize::from(v6)).copied();
        let kind = *body.first()?;
        // The group is behind a header of 4 or 8 bytes.
        let group = if v6 {
            IpAddr::from(<[u8; 16]>::try_from(body.get(8..24)?).ok()?)
        } else {
            IpAddr::from(<[u8; 4]>::try_from(body.get(4..8)?).ok()?)
        };
        // Nobody on another link is believed.
        if v6 && (packet.hops != 1 || !is_link_local(packet.from)) || !v6 && checksum::of(body) != 0 {
            return None;
        }
        if Some(kind) == of(QUERY) {
            let group = (!group.is_unspecified()).then_some(group);
            let newer = body.len() >= if v6 { 28 } else { 12 };
            let most = if v6 {
                let code = u64::from(u16::from_be_bytes(body.get(4..6)?.try_into().ok()?));
                MILLISECOND * if newer { long_time(code, 12) } else { code }
            } else {
                let code = u64::from(*body.get(1)?);
                TENTH
                    * match (newer, code) {
                        (true, code) => long_time(code, 4),
                        // IGMPv1 has no such field.
                        (false, 0) => 100,
                        (false, code) => code,
                    }
            };
            let mut groups = self.groups.lock();
            if !newer {
                groups.old.insert((packet.interface, v6), now + OLD_ROUTER);
            }
            groups.asked(now, packet.interface, v6, group, most);
            self.asking.store(true, Ordering::Relaxed);
        } else if Some(kind) == of(OLD_REPORT) {
            self.groups.lock().heard((packet.interface, group));
        }
        Some(())
    }

    /// Sends the reports that are due.
    pub(super) fn tell_groups(&self, now: Ns) {
        let due = self.groups.lock().due(now);
        let (old, new): (Vec<Due>, Vec<Due>) = due.into_iter().partition(|one| one.old);
        for one in old {
            let (kind, to) = match one.record {
                Record::Left => (OLD_LEAVE, ALL_ROUTERS.get(usize::from(one.v6)).copied()),
                Record::Is | Record::Joined => (OLD_REPORT, Some(one.group)),
            };
            let mut body = vec![kind.get(usize::from(one.v6)).copied().unwrap_or_default(), 0, 0, 0];
            match one.group {
                IpAddr::V4(group) => body.extend_from_slice(&group.octets()),
                IpAddr::V6(group) => {
                    body.extend_from_slice(&[0; 4]);
                    body.extend_from_slice(&group.octets());
                }
            }
            if let Some(to) = to {
                self.send_membership(one.interface, to, body);
            }
        }
        for same in new.chunk_by(|a, b| (a.interface, a.v6) == (b.interface, b.v6)) {
            for part in same.chunks(RECORDS) {
                let Some(Due { interface, v6, .. }) = part.first().copied() else { continue };
                let at = usize::from(v6);
                let (Some(kind), Some(to)) = (REPORT.get(at), ALL_REPORTS.get(at)) else { continue };
                let mut body = vec![*kind, 0, 0, 0, 0, 0, 0, part.len() as u8];
                body.extend(part.iter().flat_map(|one| record(one.record, one.group)));
                self.send_membership(interface, *to, body);
            }
        }
    }

    /// Sends a message, which goes no further than the link.
    fn send_membership(&self, interface: usize, to: IpAddr, mut body: Vec<u8>) {
        let Some(port) = self.interfaces.get(interface) else { return };
        let addresses = port.addresses();
        let same = addresses.iter().map(|address| address.ip).filter(|ip| ip.is_ipv4() == to.is_ipv4());
        let mac = frame::group_mac(to);
        let virtio = frame::virtio(Offload::Nothing, frame::ETHERNET, to.is_ipv4());
        let ethernet = frame::ethernet(mac, port.mac, frame::ethertype(to));
        let header = |from, protocol| Header { from, to, protocol, hops: 1, class: 0, cutting: Cutting::Nowhere };
        if to.is_ipv4() {
            let from = same.into_iter().next().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            checksum::put(&mut body, 2, 0);
            let sum = checksum::of(&body);
            checksum::put(&mut body, 2, sum);
            // "Internetwork control", and a header that is one word longer.
            let mut ip = Header { class: 0xc0, ..header(from, IGMP) }.bytes(ALERT_V4.len() + body.len(), self.next_id(), None);
            if let Some(first) = ip.first_mut() {
                *first = 0x46;
            }
            ip.extend_from_slice(&ALERT_V4);
            checksum::put(&mut ip, 10, 0);
            let sum = checksum::of(&ip);
            checksum::put(&mut ip, 10, sum);
            self.put(interface, &[&virtio, &ethernet, &ip, &body]);
        } else {
            // An address of the link's own, or none (RFC 3590).
            let from = same.into_iter().find(|ip| is_link_local(*ip)).unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            header(from, ICMPV6).sum_icmp(&mut body);
            let ip = header(from, 0).bytes(ALERT_V6.len() + body.len(), 0, None);
            self.put(interface, &[&virtio, &ethernet, &ip, &ALERT_V6, &body]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn a_change_is_told_twice() {
        let mut groups = Groups::new(5);
        let key = (0, ip("239.1.2.3"));
        groups.join(0, key, GROUPS);
        groups.join(0, key, GROUPS);
        assert_eq!(groups.due(0).iter().map(|due| due.record).collect::<Vec<_>>(), [Record::Joined]);
        let next = groups.deadline().expect("again");
        assert!(next <= AGAIN && groups.due(next - 1).is_empty());
        assert_eq!((groups.due(next).len(), groups.deadline()), (1, None));
        groups.leave(next, key);
        assert_eq!(groups.deadline(), None, "another is still in it");
        groups.leave(next, key);
        assert_eq!(groups.due(next)[0].record, Record::Left);
        let last = groups.deadline().expect("again");
        groups.due(last);
        assert!(groups.entries.is_empty());
        groups.leave(last, key);
        assert_eq!(groups.deadline(), None, "nobody was in it");
    }

    #[test]
    fn questions_are_answered_in_time() {
        let mut groups = Groups::new(9);
        let keys = [(0, ip("239.0.0.1")), (0, ip("239.0.0.2")), (0, ip("ff05::1")), (1, ip("239.0.0.1"))];
        for key in keys {
            groups.join(0, key, GROUPS);
        }
        while let Some(at) = groups.deadline() {
            groups.due(at);
        }
        groups.asked(SECOND, 0, false, None, SECOND);
        let mut told = Vec::new();
        while let Some(at) = groups.deadline() {
            assert!((SECOND..2 * SECOND).contains(&at));
            told.extend(groups.due(at).iter().map(|due| (due.interface, due.group)));
        }
        told.sort_unstable();
        assert_eq!(told, keys[..2]);
        groups.asked(SECOND, 0, true, Some(ip("ff05::1")), 0);
        assert_eq!(groups.due(SECOND + 1)[0].record, Record::Is);
        // Who has heard another tell of it is silent, and leaves without a word.
        groups.old.insert((0, false), 9 * SECOND);
        groups.asked(SECOND, 0, false, Some(keys[0].1), SECOND);
        groups.heard(keys[0]);
        assert_eq!(groups.deadline(), None);
        groups.leave(2 * SECOND, keys[0]);
        groups.leave(2 * SECOND, keys[1]);
        let due = groups.due(2 * SECOND);
        assert_eq!(due.iter().map(|due| (due.group, due.old)).collect::<Vec<_>>(), [(keys[1].1, true)]);
    }

    #[test]
    fn there_are_not_too_many() {
        let mut groups = Groups::new(1);
        for n in 0..2 * GROUPS as u32 {
            let joined = groups.join(0, (0, IpAddr::V4(Ipv4Addr::from_bits(0xef00_0000 + n))), GROUPS);
            assert_eq!(joined, n < GROUPS as u32);
        }
        assert_eq!((groups.entries.len(), groups.due(0).len()), (GROUPS, GROUPS));
        assert!(groups.join(0, (0, ip("239.0.0.0")), GROUPS), "one that is told of already");
        assert!(groups.join(0, (0, solicited(Ipv6Addr::LOCALHOST)), usize::MAX), "an own address's");
    }

    #[test]
    fn long_times() {
        assert_eq!([0, 127, 128, 255].map(|code| long_time(code, 4)), [0, 127, 128, 31_744]);
        assert_eq!([1000, 32_767, 32_768].map(|code| long_time(code, 12)), [1000, 32_767, 32_768]);
    }
}
