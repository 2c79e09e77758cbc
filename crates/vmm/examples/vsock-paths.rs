//! A vhost-user vsock device for any VMM: `vsock-paths SOCKET CID PREFIX` listens on SOCKET for the VMM, and gives the guest's connections to host
//! port P to whoever listens on `PREFIX_P`. Good for trying and measuring; the runtime hands over connected sockets instead.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [socket, cid, prefix] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "vsock-paths SOCKET CID PREFIX")?;
    let (vmm, _) = UnixListener::bind(socket)?.accept()?;
    let host = move |ports: vmm::vsock::Ports| UnixStream::connect(format!("{prefix}_{}", ports.host)).ok().map(OwnedFd::from);
    let (device, vsock) = vmm::vsock::Device::new(vmm, cid.parse()?, host)?;
    std::thread::spawn(move || {
        while let Ok((connections, counts)) = vsock.counts() {
            eprintln!("{connections} connections, {counts:?}");
            std::thread::sleep(std::time::Duration::from_secs(5));
        }
    });
    Ok(device.run()?)
}
