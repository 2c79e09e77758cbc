//! Connections from outside to what listens in the guest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use agent_api::{Code, ConnectRequest, Empty, Status};

use crate::host::connect_stream;
use crate::pump::{Output, start_input};

/// How long a listener whose queue is full may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Joins a port of the loopback interface to two streams of the host.
///
/// # Errors
/// Nobody listens there; the host does not take the streams.
pub fn connect(request: &ConnectRequest) -> Result<Empty, Status> {
    let port = u16::try_from(request.port).ok().filter(|port| *port != 0);
    let port =
        port.ok_or_else(|| Status::new(Code::InvalidArgument, format!("{} is no port: 1 to 65535 are", request.port)))?;
    let to = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), PATIENCE);
    let connection = to(Ipv4Addr::LOCALHOST.into()).or_else(|refused| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| refused));
    let connection =
        connection.map_err(|error| Status::new(Code::FailedPrecondition, format!("cannot connect to port {port}: {error}")))?;
    let copy = connection.try_clone();
    let copy = copy.map_err(|error| Status::new(Code::ResourceExhausted, format!("cannot copy a connection: {error}")))?;
    let (input, output) = (connect_stream(request.input)?, connect_stream(request.output)?);
    start_input(input, OwnedFd::from(connection))?;
    Output::start(copy.into(), output)?;
    Ok(Empty {})
}
