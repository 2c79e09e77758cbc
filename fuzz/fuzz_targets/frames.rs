//! Bytes of a client to an agent, and of an agent to a client: both ends come to the end of them.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use agent_api::metrics;
use agent_api::{Client, Connection, CreateContainerRequest, GetMetricsRequest, ListProcessesRequest, StatsRequest};
use libfuzzer_sys::fuzz_target;

/// The other end of a connection on which these bytes come, and nothing after them.
fn with(bytes: &[u8]) -> (UnixStream, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("non-blocking");
    let _ = ours.write(bytes);
    ours.shutdown(Shutdown::Write).expect("shutdown");
    (ours, theirs)
}

fuzz_target!(|bytes: &[u8]| {
    let (_ours, theirs) = with(bytes);
    let mut connection = Connection::new(theirs.into());
    let mut requests = 0;
    while let Ok(Some(mut incoming)) = connection.recv() {
        requests += 1;
        assert!(incoming.take_fd(0, "a descriptor that was not sent").is_err());
    }
    assert!(requests <= bytes.len() / 10);
    let (_ours, theirs) = with(bytes);
    let client = Client::new(theirs.into());
    let _ = client.call(&CreateContainerRequest::default());
    let _ = client.call(&ListProcessesRequest::default());
    let _ = client.call(&StatsRequest::default());
    if let Ok(reply) = client.call(&GetMetricsRequest::default()) {
        let _ = metrics::render([(&[][..], &reply.metrics[..])]);
    }
});
