//! Several containers in one sandbox, as a pod has them: none sees another's processes, files, names or memory.
//!
//! No test harness: this program is executed again as the sandbox's processes.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use agent_api::{
    CacheMode, ContainerStatus, CreateContainerRequest, Empty, ListContainersRequest, Mount, MountFlags, Process, Root,
    StartContainerRequest, TmpfsMount, WaitProcessRequest, mount::Kind, root,
};
use runtime::cgroup::Cgroup;
use runtime::config::capabilities;
use runtime::logging;
use runtime::process::gofer::Attach;
use runtime::process::{Network, Privilege, Role};
use runtime::sandbox::{self, ContainerPlan, FileIds, HostStdio, Launch, Sandbox};

fn main() {
    if let Some(role) = std::env::args_os().next().and_then(|name| Role::of(&name)) {
        role.live();
    }
    if std::env::args().any(|arg| arg == "--list") {
        println!("pod: test");
        return;
    }
    containers_see_nothing_of_each_other();
    println!("test containers_see_nothing_of_each_other ... ok");
}

/// Leaves marks everywhere, and then in all the memory it can get.
const NEIGHBOUR: &str =
    "echo NEIGHBOUR | tee /tmp/mark /dev/shm/mark > /var/mark; hostname neighbour; echo ready; exec sleep 1000";
const HOARDER: &str = "for i in 1 2 3 4; do tr '\\0' M < /dev/zero | head -c 16M > /dev/shm/$i; done; \
    x=$(head -c 8M /dev/zero | tr '\\0' M); echo ${#x}; ls /proc | grep -c '^[0-9]'";
/// Looks for them.
const SEEKER: &str = "for f in /tmp/mark /dev/shm/mark /var/mark; do [ -e $f ] && echo sees $f; done; \
    [ \"$(hostname)\" = neighbour ] && echo sees the hostname; \
    [ \"$(ls /proc | grep -c '^[0-9]')\" -lt 8 ] || echo sees processes; \
    cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep 'sleep 100[0]' && echo sees a command line; \
    cat /proc/[0-9]*/root/tmp/mark 2>/dev/null && echo sees through a root; \
    truncate -s 96M /dev/shm/new; n=$(tr -d '\\0' < /dev/shm/new | wc -c); [ $n = 0 ] || echo finds $n bytes in new memory; \
    head -c 64M /dev/shm/new | tr -d '\\0' | wc -c; (sh -c 'kill -9 -1' 2>/dev/null); true";

fn containers_see_nothing_of_each_other() {
    let mut pod = Pod::launch();
    let mut neighbour = pod.add("first", NEIGHBOUR);
    pod.start("first");
    let mut ready = [0; 6];
    neighbour.read_exact(&mut ready).expect("the first container runs");
    let mut hoarder = pod.add("hoarder", HOARDER);
    pod.start("hoarder");
    assert_eq!(pod.wait("hoarder"), 0, "{}", text(&mut hoarder));
    let mut seeker = pod.add("seeker", SEEKER);
    pod.start("seeker");
    let code = pod.wait("seeker");
    let said = text(&mut seeker);
    assert_eq!((code, said.trim()), (0, "0"), "what the seeker found");
    // Its `kill -1` has reached nobody else.
    let list = pod.sandbox.agent().call(&ListContainersRequest {}).expect("a list");
    let first = list.containers.iter().find(|container| container.id == "first").expect("the first container");
    assert_eq!(first.status, ContainerStatus::Running as i32);
}

fn text(from: &mut impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).expect("output");
    text
}

struct Pod {
    sandbox: Box<dyn Sandbox>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.sandbox.stop();
    }
}

impl Pod {
    fn launch() -> Pod {
        let privilege = Privilege::current();
        let report = rustix::fs::memfd_create("report", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        let stderr = std::io::stderr();
        let launch = Launch {
            first_container: "first".into(),
            pod: None,
            images: &[],
            disks: &[],
            cpus: 2,
            memory_limit: Some(512 << 20),
            memory_bytes: 512 << 20,
            max_processes: 256,
            network: Network::None,
            listener: None,
            report: File::from(report),
            cgroup: &Cgroup::default(),
            privilege,
            file_ids: FileIds::own(privilege),
            log: logging::Config { format: logging::Format::Text, debug: false, sandbox: None },
            log_file: Some(stderr.as_fd()),
            die_with_parent: true,
        };
        let launched = sandbox::launch(sandbox::Kind::Sentry, launch);
        Pod { sandbox: launched.expect("a sandbox") }
    }

    /// Makes a container over the host's root; what it prints comes out of the pipe.
    fn add(&mut self, id: &str, script: &str) -> std::io::PipeReader {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let hidden = ["/proc", "/sys", "/dev"].map(PathBuf::from).to_vec();
        let attach = Attach { source: "/".into(), recursive: true, read_only: true, exclusive: false, hidden, told: false };
        let mount = |destination: &str, kind| Mount {
            destination: destination.into(),
            kind: Some(kind),
            flags: Some(MountFlags::default()),
            source: Vec::new(),
        };
        let tmpfs = || TmpfsMount { mode: Some(0o1777), ..Default::default() };
        let process = Process {
            args: ["/bin/sh", "-c", script].iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env: vec![b"PATH=/usr/bin:/bin".to_vec()],
            cwd: b"/".to_vec(),
            capabilities: Some(capabilities::all_sets(capabilities::ALL)),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            id: id.into(),
            process: Some(process),
            hostname: Some(b"own".to_vec()),
            root: Some(Root {
                attach: 0,
                read_only: false,
                overlay: Some(root::Overlay::Memory(Empty {})),
                cache: CacheMode::Shared.into(),
                images: Vec::new(),
            }),
            mounts: vec![
                mount("/proc", Kind::Proc(Empty {})),
                mount("/dev", Kind::Dev(tmpfs())),
                mount("/dev/shm", Kind::Tmpfs(tmpfs())),
                mount("/tmp", Kind::Tmpfs(tmpfs())),
            ],
            ..Default::default()
        };
        let writer = OwnedFd::from(writer);
        let stdio = HostStdio { stdin: None, stdout: Some(writer.as_fd()), stderr: Some(writer.as_fd()) };
        self.sandbox
            .add_container(ContainerPlan { request, attaches: vec![attach], images: vec![], disks: vec![] }, stdio)
            .expect("a container");
        reader
    }

    fn start(&self, id: &str) {
        self.sandbox.agent().call(&StartContainerRequest { container_id: id.into() }).expect("started");
    }

    fn wait(&self, id: &str) -> u32 {
        let request = WaitProcessRequest { container_id: id.into(), exec_id: String::new() };
        let exit = self.sandbox.agent().call(&request).expect("waited");
        exit.exit_code + exit.signal * 1000
    }
}
