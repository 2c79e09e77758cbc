//! `nacre-cni`: a CNI plugin that comes after `bridge` or `ptp` in a list and gives the sandbox a tap, with no veth pair in between.
//!
//! ADD takes the pair away that the plugin before has made. Where its host's end was, on the bridge or routed, is then a tap of the same name, MAC,
//! MTU, addresses and routes; where the pod's end was is a stand-in with what that had, by which a runtime finds the tap
//! ([`crate::pod_network::stand_in`]). No address is chosen here, and the answer is the one of the plugin before, word for word: names and
//! MACs still hold. The stand-in has no carrier and its routes are not used, so what runs there without Nacre is told at once that the network is
//! unreachable.
//!
//! DEL takes the tap away, which it finds by its alias: nothing is kept in files. The stand-in is left to the DEL of the plugin that made the veth, which
//! comes next, deletes the interface by its name and gives back what its addresses had (masquerading), or goes with the namespace.

mod belongings;
mod input;
mod port;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use serde_json::{Value, json};

use self::belongings::Belongings;
use self::input::{Before, Config, Fault, Target, VERSIONS};
use self::port::{Link, Port};
use crate::error::{self, Doing};
use crate::pod_network::netlink::Netlink;
use crate::pod_network::stand_in::{self, Mark, StandIn};
use crate::pod_network::{inside, own_inode};
use crate::sys::{self, TapQueue};

/// The name by which CNI runs it.
pub const NAME: &str = "nacre-cni";
/// Bytes of an alias at most.
const ALIAS: usize = 255;

/// A plugin's life: variables and standard input to standard output. Its exit status.
pub fn main() -> u8 {
    let mut text = Vec::new();
    // What cannot be read cannot be parsed.
    let _ = std::io::stdin().take(input::LONGEST).read_to_end(&mut text);
    let config = Config::parse(&text);
    let version = match &config {
        Ok(config) if VERSIONS.contains(&config.version.as_str()) => config.version.clone(),
        _ => "1.0.0".into(),
    };
    match config.and_then(|config| run(&config)) {
        Ok(None) => 0,
        Ok(Some(answer)) => {
            println!("{answer}");
            0
        }
        Err(fault) => {
            println!("{}", fault.to_json(&version));
            1
        }
    }
}

fn run(config: &Config) -> Result<Option<Value>, Fault> {
    let variable = |name: &str| std::env::var(name).ok();
    let command = variable("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(Some(json!({ "cniVersion": config.version, "supportedVersions": VERSIONS })));
    }
    config.check_version()?;
    let target = || Target::read(variable);
    match command.as_str() {
        "ADD" => add(config, &target()?).map(Some),
        "DEL" => {
            let target = target()?;
            delete_taps(|mark| is_for(mark, config, &target)).map(|()| None)
        }
        "CHECK" => check(config, &target()?).map(|()| None),
        "STATUS" => status().map(|()| None),
        "GC" => collect(config).map(|()| None),
        _ => Err(Fault::new(Fault::ENVIRONMENT, format!("CNI_COMMAND is {command:?}"))),
    }
}

fn is_for(mark: &Mark, config: &Config, target: &Target) -> bool {
    (&mark.network, &mark.container, &mark.interface) == (&config.name, &target.container, &target.interface)
}

/// The pod's namespace, opened.
fn namespace(target: &Target) -> Result<(File, String), Fault> {
    let path = target.namespace.as_ref().ok_or_else(|| Fault::new(Fault::ENVIRONMENT, "CNI_NETNS is not set"))?;
    let file = File::open(path).doing(|| format!("cannot open the network namespace {}", path.display()))?;
    Ok((file, path.display().to_string()))
}

/// Does something in the pod's namespace.
fn in_pod<T: Send>(pod: &File, path: &str, body: impl FnOnce() -> error::Result<T> + Send) -> error::Result<T> {
    inside(pod, body).doing(|| format!("cannot enter the network namespace {path}"))?
}

/// The pod's interface of this name, and what it has.
fn look(pod: &File, path: &str, interface: &str) -> error::Result<(Link, Belongings)> {
    in_pod(pod, path, || {
        let mut netlink = Netlink::new()?;
        let link = Link::of(&netlink.link(interface)?);
        let belongings = Belongings::of(&mut netlink, link.index)?;
        Ok((link, belongings))
    })
}

fn add(config: &Config, target: &Target) -> Result<Value, Fault> {
    let (answer, before) = config.before()?;
    input::check("the network's name", &config.name, 64)?;
    let (pod, path) = namespace(target)?;
    let mark = Mark {
        network: config.name.clone(),
        container: target.container.clone(),
        interface: target.interface.clone(),
        pod: pod.metadata().doing(|| "cannot look at the network namespace")?.ino(),
    };
    if mark.to_string().len() > ALIAS {
        let text = format!("the names of network and container have more than {ALIAS} bytes together");
        return Err(Fault::new(Fault::CONFIGURATION, text));
    }
    if own_inode()? == mark.pod {
        return Err(Fault::new(Fault::ENVIRONMENT, "CNI_NETNS is the host's own network namespace"));
    }
    let done = replace(&before, &mark, &pod, &path);
    if done.is_err() {
        // What went wrong is told; what is left of it, the caller's DEL tries again.
        let _ = delete_taps(|found| *found == mark);
    }
    done.map(|()| answer.clone())
}

/// Puts a tap and its stand-in where the two ends of the veth pair are.
fn replace(before: &Before, mark: &Mark, pod: &File, path: &str) -> Result<(), Fault> {
    let interface = &mark.interface;
    let (inner, belongings) = look(pod, path, interface)?;
    if !inner.is_veth {
        let text = format!("interface {interface} is not an end of a veth pair: this plugin comes after bridge or ptp");
        return Err(Fault::new(Fault::CONFIGURATION, text));
    }
    let mut netlink = Netlink::new()?;
    let port = Port::of(&mut netlink, &inner)?;
    if !before.interfaces.iter().any(|one| one.name == port.name && one.sandbox.is_empty()) {
        let text = format!("the plugin before does not say that {} is the other end of {interface}", port.name);
        return Err(Fault::new(Fault::CONFIGURATION, text));
    }
    let stand_in = StandIn { tap: port.name.clone(), home: own_inode()? };
    let outside = make(&mut netlink, &mark.to_string())?;
    // Until the pair is gone nothing has happened.
    let made = in_pod(pod, path, || make(&mut Netlink::new()?, &stand_in.to_string()))?;
    port::delete(&mut netlink, port.index).doing(|| "cannot take the veth pair away")?;
    port.take_place(&mut netlink, outside)?;
    in_pod(pod, path, || furnish(made, &inner, belongings))?;
    Ok(())
}

/// A tap in the caller's network namespace that stays, with an alias. It has a name of no meaning yet.
fn make(netlink: &mut Netlink, alias: &str) -> error::Result<u32> {
    let name = format!("nacrecni{}", std::process::id());
    let about = || format!("cannot make the tap {name} ({}: the kernel's module tun)", stand_in::TUN);
    let tap = stand_in::open(&name, TapQueue::Only).doing(about)?;
    let index = netlink.index_of(&name)? as u32;
    port::set(netlink, index, vec![LinkAttribute::IfAlias(alias.into())], LinkFlags::empty()).doing(about)?;
    sys::keep_tap(tap.as_fd()).doing(about)?;
    Ok(index)
}

/// Makes the stand-in what the pod's end of the pair was, in the pod's namespace.
fn furnish(index: u32, veth: &Link, belongings: Belongings) -> error::Result<()> {
    let mut netlink = Netlink::new()?;
    let attributes =
        vec![LinkAttribute::IfName(veth.name.clone()), LinkAttribute::Address(veth.mac.clone()), LinkAttribute::Mtu(veth.mtu)];
    let about = || format!("cannot put something in the place of {}", veth.name);
    port::set(&mut netlink, index, attributes, LinkFlags::empty()).doing(about)?;
    port::set(&mut netlink, index, Vec::new(), LinkFlags::Up).doing(about)?;
    belongings.give(&mut netlink, index)?;
    // For those who are not Nacre: unreachable at once, and not after a time-out. Its routes could not be made afterwards.
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf/{}/ignore_routes_with_linkdown", veth.name);
        match fs::write(&path, "1") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("cannot write {path}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes our taps away that `which` names.
fn delete_taps(which: impl Fn(&Mark) -> bool) -> Result<(), Fault> {
    let mut netlink = Netlink::new()?;
    for link in port::links(&mut netlink)? {
        if Mark::parse(&link.alias).is_some_and(|mark| which(&mark)) {
            match port::delete(&mut netlink, link.index) {
                // Somebody else was quicker.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                done => done.doing(|| format!("cannot take the tap {} away", link.name))?,
            }
        }
    }
    Ok(())
}

fn check(config: &Config, target: &Target) -> Result<(), Fault> {
    let (_, before) = config.before()?;
    let (pod, path) = namespace(target)?;
    let wrong = |text: String| Fault::new(Fault::CHECK, text);
    let taps = port::links(&mut Netlink::new()?)?;
    let tap = taps.iter().find(|link| Mark::parse(&link.alias).is_some_and(|mark| is_for(&mark, config, target)));
    let tap = tap.ok_or_else(|| wrong("the tap is not there".into()))?;
    let (link, belongings) = look(&pod, &path, &target.interface)?;
    if StandIn::parse(&link.alias).is_none_or(|stand_in| stand_in.tap != tap.name) {
        return Err(wrong(format!("interface {} does not stand for the tap {}", target.interface, tap.name)));
    }
    match before.ips.iter().find(|ip| !belongings.has(&ip.address)) {
        Some(ip) => Err(wrong(format!("interface {} has no address {}", target.interface, ip.address))),
        None => Ok(()),
    }
}

fn status() -> Result<(), Fault> {
    match OpenOptions::new().read(true).write(true).open(stand_in::TUN) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::new(Fault::NOT_AVAILABLE, format!("{}: {error}", stand_in::TUN))),
    }
}

fn collect(config: &Config) -> Result<(), Fault> {
    let text = "there is no cni.dev/valid-attachments";
    let valid = config.valid.as_ref().ok_or_else(|| Fault::new(Fault::CONFIGURATION, text))?;
    delete_taps(|mark| {
        let is_valid = valid.iter().any(|one| (&one.container, &one.interface) == (&mark.container, &mark.interface));
        mark.network == config.name && !is_valid
    })
}
