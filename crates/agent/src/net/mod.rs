//! The guest's network, as the host describes it: interfaces, addresses, routes and neighbours. It is the pod's, shared by all containers.

pub mod devices;
mod netlink;

use std::fs;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use agent_api::{Code, Interface, Neighbour, Route, SetUpSandboxRequest, Status, UpdateNetworkRequest};
use rustix::io::Errno;

use netlink::{NEW_ADDRESS, NEW_LINK, NEW_NEIGHBOUR, NEW_ROUTE, Netlink, Request};

// linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h.
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// An address is used at once: the host has seen to it that it is the pod's alone.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const IFF_UP: u32 = 1;
const LOOPBACK: &str = "lo";
/// How long an interface that was plugged in may take to show up.
const PATIENCE: Duration = Duration::from_secs(8);
const BETWEEN: Duration = Duration::from_millis(10);

/// Sets everything up, loopback too.
///
/// # Errors
/// Names what cannot be had.
pub fn set_up(request: &SetUpSandboxRequest) -> Result<(), Status> {
    let netlink = open()?;
    if let Some(index) = index_of(LOOPBACK) {
        netlink.ask(&link(index, IFF_UP)).map_err(|errno| cannot("bring loopback up", errno))?;
    }
    apply(&netlink, &request.interfaces, &request.routes, &request.neighbours)
}

/// Takes out what goes, waits for what comes (`load` has their driver loaded), and sets it up. What is there already stays.
///
/// # Errors
/// Names what cannot be had.
pub fn update(request: &UpdateNetworkRequest, mut load: impl FnMut() -> Result<(), Status>) -> Result<(), Status> {
    for address in &request.gone {
        devices::take_out(&hardware_text(address))?;
    }
    let end = Instant::now() + PATIENCE;
    let is_there = |interface: &Interface| devices::with_address(&hardware_text(&interface.hardware_address)).is_some();
    while !request.interfaces.iter().all(is_there) && Instant::now() < end {
        load()?;
        sleep(BETWEEN);
    }
    apply(&open()?, &request.interfaces, &request.routes, &request.neighbours)
}

fn open() -> Result<Netlink, Status> {
    Netlink::open().map_err(|errno| cannot("use the network", errno))
}

fn apply(netlink: &Netlink, interfaces: &[Interface], routes: &[Route], neighbours: &[Neighbour]) -> Result<(), Status> {
    for interface in interfaces {
        let about = |step: &str, errno| cannot(&format!("{step} of interface {}", interface.name), errno);
        let index = find(netlink, interface)?;
        let up = match interface.mtu {
            0 => link(index, IFF_UP),
            mtu => link(index, IFF_UP).with_number(IFLA_MTU, mtu),
        };
        netlink.ask(&up).map_err(|errno| about("set the MTU and state", errno))?;
        for text in &interface.addresses {
            let (address, prefix) = prefix(text)?;
            netlink.ask(&new_address(index, address, prefix)).map_err(|errno| about(&format!("set address {text}"), errno))?;
        }
    }
    for neighbour in neighbours {
        netlink
            .ask(&new_neighbour(neighbour)?)
            .map_err(|errno| cannot(&format!("set neighbour {}", neighbour.address), errno))?;
    }
    // A gateway must be on the way before it can be used.
    let (direct, via): (Vec<&Route>, Vec<&Route>) = routes.iter().partition(|route| route.gateway.is_empty());
    for route in direct.into_iter().chain(via) {
        let name = if route.destination.is_empty() { "default" } else { &route.destination };
        netlink.ask(&new_route(route)?).map_err(|errno| cannot(&format!("set route {name}"), errno))?;
    }
    Ok(())
}

/// The interface with the address, under its name; returns its index.
fn find(netlink: &Netlink, wanted: &Interface) -> Result<u32, Status> {
    if wanted.hardware_address.is_empty() {
        return index_of(LOOPBACK).ok_or_else(|| wrong("the guest has no loopback interface".into()));
    }
    if wanted.name.is_empty() || wanted.name.len() > 15 || wanted.name.contains(['/', '\0', ' ']) {
        return Err(wrong(format!("{:?} is no name of an interface", wanted.name)));
    }
    let address = hardware_text(&wanted.hardware_address);
    let name = devices::with_address(&address)
        .ok_or_else(|| wrong(format!("the guest has no interface with the address {address} (for {})", wanted.name)))?;
    let index = index_of(&name).ok_or_else(|| wrong(format!("interface {name} has gone")))?;
    if name == wanted.name {
        return Ok(index);
    }
    let rename = |index: u32, name: &str| {
        let request = link(index, 0).with(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        netlink.ask(&request).map_err(|errno| cannot(&format!("name interface {name}"), errno))
    };
    if let Some(other) = index_of(&wanted.name) {
        rename(other, &format!("nacre{other}"))?;
    }
    rename(index, &wanted.name)?;
    Ok(index)
}

fn index_of(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

fn need_index(name: &str) -> Result<u32, Status> {
    let is_name = !name.is_empty() && !name.contains('/');
    index_of(name).filter(|_| is_name).ok_or_else(|| wrong(format!("the guest has no interface {name:?}")))
}

/// `struct ifinfomsg`, with `flags` set.
fn link(index: u32, flags: u32) -> Request {
    let fixed = [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat();
    Request::new(NEW_LINK, &fixed)
}

/// `struct ifaddrmsg`.
fn new_address(index: u32, address: IpAddr, prefix: u8) -> Request {
    let fixed = [&[family(&address), prefix, IFA_F_NODAD, 0], index.to_ne_bytes().as_slice()].concat();
    let request = Request::new(NEW_ADDRESS, &fixed).with_ip(IFA_LOCAL, &address).with_ip(IFA_ADDRESS, &address);
    match address {
        IpAddr::V4(v4) if prefix < 31 => {
            let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            request.with(IFA_BROADCAST, &(v4.to_bits() | host).to_be_bytes())
        }
        _ => request,
    }
}

/// `struct rtmsg`.
fn new_route(route: &Route) -> Result<Request, Status> {
    let optional = |text: &str| if text.is_empty() { Ok(None) } else { ip(text).map(Some) };
    let (gateway, source) = (optional(&route.gateway)?, optional(&route.source)?);
    let destination = if route.destination.is_empty() { None } else { Some(prefix(&route.destination)?) };
    let any = destination.map(|(address, _)| address).or(gateway).or(source);
    let family = any.map_or(libc::AF_INET as u8, |address| family(&address));
    let length = destination.map_or(0, |(_, length)| length);
    let scope = u8::try_from(route.scope).map_err(|_| wrong(format!("{} is no scope of a route", route.scope)))?;
    let fixed = [family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0];
    let mut request = Request::new(NEW_ROUTE, &fixed).with_number(RTA_OIF, need_index(&route.interface)?);
    for (kind, address) in [(RTA_DST, destination.map(|(address, _)| address)), (RTA_GATEWAY, gateway), (RTA_PREFSRC, source)] {
        if let Some(address) = address {
            request = request.with_ip(kind, &address);
        }
    }
    Ok(if route.metric == 0 { request } else { request.with_number(RTA_PRIORITY, route.metric) })
}

/// `struct ndmsg`.
fn new_neighbour(neighbour: &Neighbour) -> Result<Request, Status> {
    let address = ip(&neighbour.address)?;
    let index = need_index(&neighbour.interface)?.to_ne_bytes();
    let [low, high] = NUD_PERMANENT.to_ne_bytes();
    let fixed = [&[family(&address), 0, 0, 0], index.as_slice(), &[low, high, 0, 0]].concat();
    Ok(Request::new(NEW_NEIGHBOUR, &fixed).with_ip(NDA_DST, &address).with(NDA_LLADDR, &neighbour.hardware_address))
}

fn family(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn ip(text: &str) -> Result<IpAddr, Status> {
    text.parse().map_err(|_| wrong(format!("{text:?} is no IP address")))
}

/// `ADDRESS/LENGTH`.
fn prefix(text: &str) -> Result<(IpAddr, u8), Status> {
    let bad = || wrong(format!("{text:?} is no address with the length of its prefix"));
    let (address, length) = text.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.parse().ok().filter(|length| *length <= most).ok_or_else(bad)?;
    Ok((address, length))
}

fn hardware_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn wrong(message: String) -> Status {
    Status::new(Code::InvalidArgument, message)
}

fn cannot(step: &str, errno: Errno) -> Status {
    Status::new(Code::Internal, format!("cannot {step} in the guest: {}", hostcall::Errno::from(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_checked() {
        assert_eq!(prefix("10.0.0.2/24").expect("good"), (IpAddr::from([10, 0, 0, 2]), 24));
        assert!(prefix("fd00::2/64").is_ok_and(|(address, length)| address.is_ipv6() && length == 64));
        for bad in ["10.0.0.2", "10.0.0.2/33", "10.0.0/8", "x/8", "fd00::/129", ""] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_route_names_must_be_there() {
        let route = Route { interface: "../lo".into(), ..Route::default() };
        assert!(new_route(&route).is_err());
        let route = Route { interface: "lo".into(), gateway: "nowhere".into(), ..Route::default() };
        assert!(new_route(&route).map(|_| ()).expect_err("bad").message.contains("nowhere"));
        assert!(new_route(&Route { interface: "lo".into(), ..Route::default() }).is_ok());
    }

    #[test]
    fn hardware_addresses_are_written_as_sysfs_has_them() {
        assert_eq!(hardware_text(&[2, 0, 0xab, 0, 0, 0xff]), "02:00:ab:00:00:ff");
    }
}
