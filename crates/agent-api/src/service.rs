//! The service's methods: one line each.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::frame::RequestBody;
use crate::messages::*;
use crate::status::{Code, Status};

/// The service's name on the wire.
pub const SERVICE: &str = "nacre.agent.v1.Agent";

/// A method of the service, named by its request.
pub trait Method: prost::Message + Default {
    /// The method's name on the wire.
    const NAME: &'static str;
    /// How long a sandbox that works may take to answer. None: it answers when something has happened.
    const PATIENCE: Option<Duration>;
    type Reply: prost::Message + Default;
}

macro_rules! service {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $reply:ty, $patience:expr;)*) => {
        /// A request, by method.
        #[derive(Debug, Clone, PartialEq)]
        // One at a time, and short-lived.
        #[allow(clippy::large_enum_variant)]
        pub enum Call {
            $($(#[$doc])* $name($request),)*
        }

        $(impl Method for $request {
            const NAME: &'static str = stringify!($name);
            const PATIENCE: Option<Duration> = $patience;
            type Reply = $reply;
        })*

        impl Call {
            /// Finds the method and decodes its request.
            ///
            /// # Errors
            /// [`Code::Unimplemented`] for an unknown method, [`Code::InvalidArgument`] for bytes that are no such request.
            pub fn decode(body: &RequestBody) -> Result<Call, Status> {
                if body.service != SERVICE {
                    return Err(Status::new(Code::Unimplemented, format!("unknown service {}", body.service)));
                }
                match body.method.as_str() {
                    $(stringify!($name) => <$request as prost::Message>::decode(body.payload.as_slice())
                        .map(Call::$name)
                        .map_err(|e| Status::new(Code::InvalidArgument, format!("malformed {}: {e}", stringify!($name)))),)*
                    other => Err(Status::new(Code::Unimplemented, format!("unknown method {other}"))),
                }
            }

            /// The method's name on the wire.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Call::$name(_) => stringify!($name),)*
                }
            }
        }
    };
}

/// For answers that take microseconds inside. The host may be busy.
const SOON: Option<Duration> = Some(Duration::from_secs(10));
/// For those that wait for files of the host.
const LATER: Option<Duration> = Some(Duration::from_secs(60));
/// For a VM's first container, which waits for the VM to boot, and is told by the VM's keeper why it does not ([`crate::Client::call_booting`]).
pub const BOOTED: Duration = Duration::from_secs(180);
const WHEN_IT_HAPPENS: Option<Duration> = None;

service! {
    /// Sets a VM's guest up, and makes its first container: the first call there, and one only.
    SetUpSandbox(SetUpSandboxRequest) -> SetUpSandboxResponse, LATER;
    /// Brings CPUs and memory that were plugged into a VM into use.
    Online(OnlineRequest) -> Empty, SOON;
    /// Tells a VM that its pod's network has changed.
    UpdateNetwork(UpdateNetworkRequest) -> UpdateNetworkResponse, LATER;
    /// Tells a VM what others have changed in the trees that it is shown.
    FilesChanged(FilesChangedRequest) -> Empty, LATER;
    /// Makes a container: its name spaces, mounts and memory. Nothing of it runs yet, but everything that can be checked is (the
    /// program exists and may be executed).
    CreateContainer(CreateContainerRequest) -> CreateContainerResponse, LATER;
    /// Runs the container's own process.
    StartContainer(StartContainerRequest) -> StartContainerResponse, SOON;
    /// Runs one more process in a running container.
    ExecProcess(ExecProcessRequest) -> ExecProcessResponse, LATER;
    /// Sends a signal to one process, or to all of a container.
    SignalProcess(SignalProcessRequest) -> Empty, SOON;
    /// Answers when the process has exited (at once if it has). The answer stays to be had until DeleteContainer.
    WaitProcess(WaitProcessRequest) -> WaitProcessResponse, WHEN_IT_HAPPENS;
    /// Sets a terminal's size (and sends SIGWINCH inside).
    ResizeTty(ResizeTtyRequest) -> Empty, SOON;
    /// Stops all tasks of a container; answers when they have stopped.
    PauseContainer(PauseContainerRequest) -> Empty, SOON;
    ResumeContainer(ResumeContainerRequest) -> Empty, SOON;
    /// Removes a stopped container.
    DeleteContainer(DeleteContainerRequest) -> Empty, LATER;
    ListContainers(ListContainersRequest) -> ListContainersResponse, SOON;
    /// The processes of a container, as `ps` shows them.
    ListProcesses(ListProcessesRequest) -> ListProcessesResponse, SOON;
    Stats(StatsRequest) -> StatsResponse, SOON;
    /// What is measured inside ([`crate::metrics`]).
    GetMetrics(GetMetricsRequest) -> GetMetricsResponse, SOON;
    /// Answers when there are events after the given one (a long poll).
    NextEvents(NextEventsRequest) -> NextEventsResponse, WHEN_IT_HAPPENS;
    /// Changes a container's limits.
    UpdateContainer(UpdateContainerRequest) -> Empty, LATER;
    /// What each task is doing, as text.
    Stacks(StacksRequest) -> StacksResponse, SOON;
    /// Turns tracing of system calls on or off.
    SetStrace(SetStraceRequest) -> Empty, SOON;
    /// Connects descriptors to a port that something in the sandbox listens on; answers when the connection is there.
    Connect(ConnectRequest) -> Empty, SOON;
    /// Ends the sandbox, whatever runs in it. Answered before it is done; then the connection closes.
    Shutdown(ShutdownRequest) -> Empty, SOON;
}

/// Takes the descriptor that a message names by `index` out of those that came with its frame.
///
/// # Errors
/// [`Code::InvalidArgument`] when it did not come, or was taken already.
pub fn take_fd(fds: &mut [Option<OwnedFd>], index: u32, what: &str) -> Result<OwnedFd, Status> {
    fds.get_mut(index as usize)
        .and_then(Option::take)
        .ok_or_else(|| Status::new(Code::InvalidArgument, format!("{what}: no descriptor {index} came with the request")))
}
