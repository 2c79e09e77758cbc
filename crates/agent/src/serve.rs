//! Serves the protocol on the connection to the host.
//!
//! One thread reads requests; each is served on a thread of its own, so that a slow file of the host holds nobody else up. Those that wait for
//! something to happen cost no thread: they are noted and answered by whoever makes it happen.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use agent_api::{Call, Code, Connection, Empty, GetMetricsResponse, Incoming, ListContainersResponse, StacksResponse, Status};
use parking_lot::Mutex;
use prost::Message;

use crate::agent::Agent;
use crate::modules::Modules;
use crate::{fail, forward, replay};

const STACK: usize = 256 << 10;

/// The way to the host for answers, from any thread.
pub struct Outbox {
    connection: Mutex<Connection>,
}

impl Outbox {
    /// Answers a request. When the host has gone, the reading side notices.
    pub fn reply<M: Message>(&self, request: u32, answer: Result<M, Status>) {
        let _ = self.connection.lock().reply(request, answer);
    }
}

/// Serves until the connection ends; returns why it did.
pub fn run(socket: OwnedFd, modules: Modules) -> String {
    let writer = match socket.try_clone() {
        Ok(writer) => Connection::new(writer),
        Err(error) => return format!("cannot copy the connection to the host: {error}"),
    };
    let mut reader = Connection::new(socket);
    let agent = Agent::new(Outbox { connection: Mutex::new(writer) }, modules);
    loop {
        match reader.recv() {
            Ok(Some(incoming)) => dispatch(&agent, incoming),
            // The socket is a blocking one.
            Ok(None) => {}
            Err(error) => return format!("the connection to the host has ended: {error}"),
        }
    }
}

fn dispatch(agent: &Arc<Agent>, incoming: Incoming) {
    let request = incoming.stream;
    let call = match incoming.call {
        Ok(call) => call,
        Err(status) => return agent.outbox.reply::<Empty>(request, Err(status)),
    };
    match call {
        Call::WaitProcess(wait) => agent.wait(request, &wait),
        Call::NextEvents(poll) => agent.next_events(request, poll.after),
        call => {
            let own = agent.clone();
            let thread = thread::Builder::new().name(call.name().into()).stack_size(STACK);
            if let Err(error) = thread.spawn(move || serve(&own, request, call)) {
                let status = Status::new(Code::ResourceExhausted, format!("the guest cannot make a thread: {error}"));
                agent.outbox.reply::<Empty>(request, Err(status));
            }
        }
    }
}

fn serve(agent: &Arc<Agent>, request: u32, call: Call) {
    let outbox = &agent.outbox;
    match call {
        Call::SetUpSandbox(call) => outbox.reply(request, agent.set_up(call)),
        Call::Online(call) => outbox.reply(request, agent.online(call)),
        Call::UpdateNetwork(call) => outbox.reply(request, agent.update_network(&call)),
        Call::FilesChanged(call) => outbox.reply(request, replay::all(&call)),
        Call::CreateContainer(call) => outbox.reply(request, agent.create(call)),
        Call::StartContainer(call) => outbox.reply(request, agent.start(&call.container_id)),
        Call::ExecProcess(call) => outbox.reply(request, agent.exec(call)),
        Call::SignalProcess(call) => outbox.reply(request, agent.signal(&call)),
        Call::ResizeTty(call) => outbox.reply(request, agent.resize(&call)),
        Call::PauseContainer(call) => outbox.reply(request, agent.pause(&call.container_id)),
        Call::ResumeContainer(call) => outbox.reply(request, agent.resume(&call.container_id)),
        Call::DeleteContainer(call) => outbox.reply(request, agent.delete(&call)),
        Call::ListContainers(_) => outbox.reply(request, Ok(ListContainersResponse { containers: agent.list() })),
        Call::ListProcesses(call) => outbox.reply(request, agent.processes(&call.container_id)),
        Call::Stats(call) => outbox.reply(request, agent.stats(&call.container_id)),
        Call::GetMetrics(_) => outbox.reply(request, Ok(GetMetricsResponse { metrics: agent.metrics() })),
        Call::UpdateContainer(call) => outbox.reply(request, agent.update(&call)),
        Call::Stacks(call) => {
            outbox.reply(request, agent.stacks(&call.container_id).map(|text| StacksResponse { text }));
        }
        Call::Connect(call) => outbox.reply(request, forward::connect(&call)),
        Call::SetStrace(_) => outbox.reply::<Empty>(
            request,
            Err(Status::new(
                Code::Unimplemented,
                "the system calls of a VM's guest are not seen from outside: no tracing of them",
            )),
        ),
        Call::Shutdown(_) => {
            outbox.reply(request, Ok(Empty {}));
            agent.end_all();
            fail::power_off();
        }
        // Served where they came in.
        Call::WaitProcess(_) | Call::NextEvents(_) => {}
    }
}
