//! Interfaces of the pod's network, as network cards of the VM, which come and go with them.
//!
//! Who makes a way to an interface (a tap) is the runtime, which has the rights. It says what there is; what the VM lacks is in the answer, and
//! comes with a second request. An interface is known by its hardware address.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_api::{Code, InterfaceWay, Status, UpdateNetworkRequest, UpdateNetworkResponse, take_fd};
use vmm::{Device, Vmm};

use crate::guest::Guest;

/// How long the guest may take to let a card go.
const UNPLUG: Duration = Duration::from_secs(8);

/// What the VM starts with, and how later ones are to be made.
#[derive(Debug)]
pub struct NicsAtStart {
    pub hardware_addresses: Vec<[u8; 6]>,
    /// Pairs of queues of each.
    pub queues: u32,
    /// Whether the host's kernel moves their frames.
    pub vhost: bool,
}

impl NicsAtStart {
    /// What the card of the interface with this number is called.
    pub fn id(number: usize) -> String {
        format!("nic{number}")
    }
}

pub struct Nics {
    vmm: Arc<dyn Vmm>,
    queues: u32,
    vhost: bool,
    list: Mutex<List>,
}

struct List {
    /// The number of the next one: none is used again.
    next: usize,
    nics: Vec<Nic>,
}

struct Nic {
    id: String,
    hardware_address: Vec<u8>,
    origin: Origin,
}

/// Since when it is there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It cannot be unplugged.
    Start,
    Later,
}

impl Nics {
    pub fn new(vmm: Arc<dyn Vmm>, start: NicsAtStart) -> Nics {
        let nic = |(number, address): (usize, &[u8; 6])| Nic {
            id: NicsAtStart::id(number),
            hardware_address: address.to_vec(),
            origin: Origin::Start,
        };
        let nics: Vec<Nic> = start.hardware_addresses.iter().enumerate().map(nic).collect();
        let list = Mutex::new(List { next: nics.len(), nics });
        Nics { vmm, queues: start.queues, vhost: start.vhost, list }
    }

    /// Has the VM follow the pod's network, as far as there are ways.
    ///
    /// # Errors
    /// A card cannot be plugged in, or the guest does not let it go; the agent's.
    pub fn update(
        &self,
        guest: &Guest,
        mut request: UpdateNetworkRequest,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<UpdateNetworkResponse, Status> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let named: Vec<Vec<u8>> = request.interfaces.iter().map(|interface| interface.hardware_address.clone()).collect();
        let goes = |nic: &Nic, origin| nic.origin == origin && !named.contains(&nic.hardware_address);
        while let Some(at) = list.nics.iter().position(|nic| goes(nic, Origin::Later)) {
            let id = list.nics.get(at).map(|nic| nic.id.clone()).unwrap_or_default();
            self.vmm.remove_device(&id, UNPLUG).map_err(|error| {
                Status::new(Code::Internal, format!("an interface that has gone cannot be taken out of the VM: {error}"))
            })?;
            list.nics.remove(at);
        }
        let gone = list.nics.iter().filter(|nic| goes(nic, Origin::Start)).map(|nic| nic.hardware_address.clone()).collect();
        for way in std::mem::take(&mut request.ways) {
            self.plug(&mut list, &request, &way, fds)?;
        }
        let has = |address: &Vec<u8>| list.nics.iter().any(|nic| nic.hardware_address == *address);
        let (there, lacking): (Vec<_>, Vec<_>) =
            std::mem::take(&mut request.interfaces).into_iter().partition(|interface| has(&interface.hardware_address));
        let is_there = |name: &String| there.iter().any(|interface| interface.name == *name);
        request.routes.retain(|route| is_there(&route.interface));
        request.neighbours.retain(|neighbour| is_there(&neighbour.interface));
        let told = UpdateNetworkRequest { interfaces: there, gone, ..request };
        guest.call(&told)?;
        list.nics.retain(|nic| !goes(nic, Origin::Start));
        let missing = lacking.into_iter().map(|interface| interface.hardware_address).collect();
        Ok(UpdateNetworkResponse { missing, queues: self.queues, vhost: self.vhost })
    }

    fn plug(
        &self,
        list: &mut List,
        request: &UpdateNetworkRequest,
        way: &InterfaceWay,
        fds: &mut [Option<OwnedFd>],
    ) -> Result<(), Status> {
        let address = &way.hardware_address;
        let wanted = request.interfaces.iter().find(|interface| interface.hardware_address == *address);
        let is_there = list.nics.iter().any(|nic| nic.hardware_address == *address);
        let (Some(interface), Ok(mac), false) = (wanted, <[u8; 6]>::try_from(address.as_slice()), is_there) else {
            return Err(Status::new(Code::InvalidArgument, "a way to an interface that is not named, or that the VM has"));
        };
        let mut take = |list: &[u32]| list.iter().map(|index| take_fd(fds, *index, "tap")).collect::<Result<Vec<_>, _>>();
        let device = Device::Net { taps: take(&way.taps)?, vhost: take(&way.vhost)?, mac };
        let id = NicsAtStart::id(list.next);
        list.next += 1;
        self.vmm.add_device(&id, device).map_err(|error| {
            let what = format!("the VM cannot be given interface {}: {error}", interface.name);
            Status::new(Code::ResourceExhausted, what)
        })?;
        list.nics.push(Nic { id, hardware_address: address.clone(), origin: Origin::Later });
        Ok(())
    }
}
