//! A VM follows its pod's network: interfaces that have come since it joined, and those that have gone.
//!
//! Who knows what the VM has is its keeper, and who may make taps is the runtime: so the keeper is told what there is, answers what it lacks, and
//! gets the ways to that.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use agent_api::{InterfaceWay, UpdateNetworkRequest, UpdateNetworkResponse};
use netstack::config::Description;

use super::stand_in::StandIn;
use super::{Way, for_guest, queues, tcfilter, within};
use crate::error::{Error, Result};

/// Tells a VM, by `call`, of the network of the namespace at `path`. An interface without an address has not come yet.
///
/// # Errors
/// No such namespace; an interface that cannot be joined; those of `call`.
pub fn update(
    path: &Path,
    call: impl Fn(&UpdateNetworkRequest, &[BorrowedFd<'_>]) -> Result<UpdateNetworkResponse>,
) -> Result<()> {
    let (mut network, aliases) = within(path, |netlink, name| netlink.describe(name))?;
    let named = network.interfaces.iter().map(|interface| interface.index).zip(aliases);
    let stand_ins: HashMap<i32, StandIn> = named.filter_map(|(index, alias)| Some((index, StandIn::parse(&alias)?))).collect();
    network.interfaces.retain(|interface| !interface.addresses.is_empty());
    let mut request = request(&network);
    let lacks = call(&request, &[])?;
    if lacks.missing.is_empty() {
        return Ok(());
    }
    let count = queues::bounded(lacks.queues as usize);
    network.interfaces.retain(|interface| lacks.missing.iter().any(|address| *address == interface.mac));
    // One at a time: a call takes so many descriptors and no more.
    for interface in network.interfaces {
        let mut fds = within(path, |netlink, _| match stand_ins.get(&interface.index) {
            None => tcfilter::tap(netlink, &interface, count),
            Some(stand_in) if count == 1 => Ok(vec![stand_in.open(&interface.name, Way::Tap(count))?]),
            Some(_) => {
                let what = "is a tap of nacre-cni's, with one queue, and the VM's interfaces have more";
                Err(Error::Other(format!("interface {} {what}", interface.name)))
            }
        })?;
        let taps = fds.len() as u32;
        fds.extend(if lacks.vhost { queues::open(count)? } else { Vec::new() });
        let (taps, vhost) = ((0..taps).collect(), (taps..fds.len() as u32).collect());
        request.ways = vec![InterfaceWay { hardware_address: interface.mac.to_vec(), taps, vhost }];
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        call(&request, &fds)?;
    }
    Ok(())
}

fn request(network: &Description) -> UpdateNetworkRequest {
    let told = for_guest(network);
    UpdateNetworkRequest {
        interfaces: told.interfaces,
        routes: told.routes,
        neighbours: told.neighbours,
        ..UpdateNetworkRequest::default()
    }
}
