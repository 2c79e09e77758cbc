//! From a request to its answer: finds the container and calls its room.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_api::{Call, Code, Empty, GetMetricsResponse, ListContainersResponse, StacksResponse, Status};
use prost::Message;

use crate::container::Agent;

/// Serves one request. Runs on an executor.
pub(super) async fn serve(agent: &Arc<Agent>, call: Call, mut fds: Vec<Option<OwnedFd>>) -> Result<Vec<u8>, Status> {
    let fds = fds.as_mut_slice();
    match call {
        Call::CreateContainer(request) => encode(agent.create(request, fds).await),
        Call::StartContainer(request) => encode(agent.start(&request.container_id)),
        Call::ExecProcess(request) => encode(agent.exec(request, fds).await),
        Call::SignalProcess(request) => encode(agent.signal(&request)),
        Call::WaitProcess(request) => encode(agent.wait(&request.container_id, &request.exec_id).await),
        Call::ResizeTty(request) => encode(agent.resize(&request)),
        Call::PauseContainer(request) => encode(agent.pause(&request.container_id)),
        Call::ResumeContainer(request) => encode(agent.resume(&request.container_id)),
        Call::DeleteContainer(request) => encode(agent.delete(&request).await),
        Call::ListContainers(_) => encode(Ok(ListContainersResponse { containers: agent.list() })),
        Call::ListProcesses(request) => encode(agent.processes(&request.container_id)),
        Call::Stats(request) => encode(agent.stats(&request.container_id)),
        Call::GetMetrics(_) => encode(Ok(GetMetricsResponse { metrics: agent.metrics() })),
        Call::NextEvents(request) => encode(Ok(agent.events.after(request.after).await)),
        Call::UpdateContainer(request) => encode(agent.update(&request)),
        Call::Stacks(request) => encode(agent.stacks(&request.container_id).map(|text| StacksResponse { text })),
        Call::SetStrace(request) => encode(agent.set_strace(&request, fds)),
        Call::Connect(request) => encode(agent.connect(&request, fds).await),
        Call::Shutdown(_) => encode(Ok(Empty {})),
        Call::SetUpSandbox(_) | Call::Online(_) | Call::FilesChanged(_) => {
            Err(Status::new(Code::Unimplemented, "a sentry is no VM"))
        }
        Call::UpdateNetwork(_) => {
            Err(Status::new(Code::Unimplemented, "the interfaces of a sentry are those of its start: none comes or goes later"))
        }
    }
}

fn encode<M: Message>(answer: Result<M, Status>) -> Result<Vec<u8>, Status> {
    answer.map(|message| message.encode_to_vec())
}
