//! The host's side: a machine, its trees, its streams, and calls in short.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_api::*;
use gofer::passthrough::Source;
use gofer::protocol::{Access, Cache};
use virtiofs::{Config, Server, TreeConfig};
use vmm::vsock::{Device, Ports};

/// Emulation is slow, and other tests may run.
const LIMIT: Duration = Duration::from_secs(60);

/// Its network card's, which has two queues.
pub const HARDWARE_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0x6e, 1];

pub struct Machine {
    pub client: Client,
    streams: Arc<(Mutex<HashMap<u32, UnixStream>>, Condvar)>,
    last: AtomicU32,
    qemu: Qemu,
    folder: PathBuf,
}

/// Ended with the test, however that ends.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The host's ends of a process's stdio.
pub struct Ends {
    pub stdin: UnixStream,
    pub stdout: UnixStream,
    pub stderr: UnixStream,
}

/// What a process has done.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    pub stdout: String,
    pub stderr: String,
    pub exit: WaitProcessResponse,
}

impl Machine {
    pub fn boot(image: &guest::Image) -> Machine {
        let folder = std::env::temp_dir().join(format!("nacre-agent-vm-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        make_root(&folder.join("root"));
        fs::create_dir(folder.join("volume")).unwrap();
        let fs_socket = folder.join("fs");
        serve_files(&folder, &fs_socket);
        let vsock = UnixListener::bind(folder.join("vsock")).unwrap();
        let socket = |name: &str, id: &str| format!("socket,id={id},path={}", folder.join(name).display());
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35", "-m", "384M"])
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "max,erms=off,fsrm=off",
                "-object",
                "memory-backend-memfd,id=mem,size=384M,share=on",
            ])
            .args([
                "-numa",
                "node,memdev=mem",
                "-append",
                "console=ttyS0 panic=-1 quiet maxcpus=1 noreplace-smp",
                "-serial",
                "stdio",
            ])
            .args(["-smp", "2", "-netdev", "tap,id=n,queues=2,script=no,downscript=no", "-device"])
            .arg(format!(
                "virtio-net-pci,netdev=n,mq=on,vectors=6,romfile=,mac={}",
                HARDWARE_ADDRESS.map(|b| format!("{b:02x}")).join(":")
            ))
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            .args(["-chardev", &socket("vsock", "v"), "-device", "vhost-user-vsock-pci,chardev=v"])
            .args(["-chardev", &socket("fs", "f"), "-device", "vhost-user-fs-pci,chardev=f,tag=nacre,queue-size=1024"])
            .stdin(std::process::Stdio::null())
            .spawn();
        let qemu = Qemu(qemu.expect("QEMU starts"));
        let (sender, connections) = mpsc::channel();
        let host = move |ports: Ports| {
            let (ours, theirs) = UnixStream::pair().ok()?;
            sender.send((ports, ours)).ok()?;
            Some(OwnedFd::from(theirs))
        };
        let (device, _) = Device::new(vsock.accept().unwrap().0, 3, host).unwrap();
        thread::spawn(move || device.run());
        let (ports, control) = connections.recv_timeout(LIMIT).expect("the agent connects");
        assert_eq!(ports.host, vm::CONTROL_PORT);
        let streams: Arc<(Mutex<HashMap<u32, UnixStream>>, Condvar)> = Arc::default();
        let own = streams.clone();
        thread::spawn(move || {
            for (ports, stream) in connections {
                assert_eq!(ports.host, vm::STREAM_PORT);
                own.0.lock().unwrap().insert(ports.guest, stream);
                own.1.notify_all();
            }
        });
        Machine { client: Client::new(control.into()), streams, last: AtomicU32::new(vm::FIRST_STREAM), qemu, folder }
    }

    /// A call that succeeds.
    #[track_caller]
    pub fn call<M: Method>(&self, request: &M) -> M::Reply {
        self.client.call(request).unwrap()
    }

    #[track_caller]
    pub fn delete(&self, id: &str, force: bool) {
        self.call(&DeleteContainerRequest { container_id: id.into(), force });
    }

    /// Numbers for three streams.
    pub fn stdio(&self) -> agent_api::Stdio {
        let first = self.last.fetch_add(3, Ordering::Relaxed);
        agent_api::Stdio { stdin: Some(first), stdout: Some(first + 1), stderr: Some(first + 2) }
    }

    fn stream(&self, number: Option<u32>) -> UnixStream {
        let streams = self.streams.0.lock().unwrap();
        let (mut streams, _) =
            self.streams.1.wait_timeout_while(streams, LIMIT, |all| !all.contains_key(&number.unwrap())).unwrap();
        streams.remove(&number.unwrap()).expect("the stream is connected when the call is answered")
    }

    pub fn ends(&self, stdio: &agent_api::Stdio) -> Ends {
        Ends { stdin: self.stream(stdio.stdin), stdout: self.stream(stdio.stdout), stderr: self.stream(stdio.stderr) }
    }

    /// Those of a process with a terminal.
    pub fn terminal_ends(&self, stdio: &agent_api::Stdio) -> (UnixStream, UnixStream) {
        (self.stream(stdio.stdin), self.stream(stdio.stdout))
    }

    /// Makes, starts, waits for and removes a container.
    pub fn run(&self, id: &str, script: &str, change: impl FnOnce(&mut CreateContainerRequest)) -> Result<Done, ClientError> {
        let mut request = container(id, process(&["sh", "-c", script], self.stdio()));
        change(&mut request);
        let stdio = request.process.as_ref().and_then(|process| process.stdio).unwrap();
        self.client.call(&request)?;
        let ends = self.ends(&stdio);
        self.client.call(&StartContainerRequest { container_id: id.into() })?;
        let done = self.finish(id, "", ends);
        self.client.call(&DeleteContainerRequest { container_id: id.into(), force: false })?;
        Ok(done)
    }

    /// Makes and starts a container that stays.
    pub fn stay(&self, id: &str, script: &str, change: impl FnOnce(&mut CreateContainerRequest)) -> Ends {
        let mut request = container(id, process(&["sh", "-c", script], self.stdio()));
        change(&mut request);
        self.call(&request);
        let ends = self.ends(&request.process.unwrap().stdio.unwrap());
        self.call(&StartContainerRequest { container_id: id.into() });
        ends
    }

    pub fn exec(&self, id: &str, args: &[&str]) -> Result<Done, ClientError> {
        let (exec_id, ends) = self.begin(id, args)?;
        Ok(self.finish(id, &exec_id, ends))
    }

    /// As [`exec`](Machine::exec), up to where it runs.
    pub fn begin(&self, id: &str, args: &[&str]) -> Result<(String, Ends), ClientError> {
        let stdio = self.stdio();
        let exec_id = format!("exec{}", stdio.stdin.unwrap());
        let process = Some(process(args, stdio));
        self.client.call(&ExecProcessRequest { container_id: id.into(), exec_id: exec_id.clone(), process })?;
        Ok((exec_id, self.ends(&stdio)))
    }

    pub fn finish(&self, id: &str, exec_id: &str, ends: Ends) -> Done {
        let Ends { stdin, stdout, stderr } = ends;
        drop(stdin);
        let (stdout, stderr) = (read(stdout), read(stderr));
        let exit = self.wait(id, exec_id);
        Done { stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap(), exit }
    }

    pub fn wait(&self, id: &str, exec_id: &str) -> WaitProcessResponse {
        self.call(&WaitProcessRequest { container_id: id.into(), exec_id: exec_id.into() })
    }

    pub fn signal(&self, id: &str, exec_id: &str, signal: i32, target: SignalTarget) -> Result<Empty, ClientError> {
        let (container_id, exec_id) = (id.into(), exec_id.into());
        self.client.call(&SignalProcessRequest { container_id, exec_id, signal, target: target.into() })
    }

    /// Closes the connection; the machine must end.
    pub fn leave(self) {
        let Machine { client, mut qemu, folder, .. } = self;
        drop(client);
        let start = Instant::now();
        while qemu.0.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < LIMIT, "the machine is still there");
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(folder);
    }

    pub fn volume(&self) -> PathBuf {
        self.folder.join("volume")
    }
}

pub fn read(mut from: UnixStream) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    })
}

/// Shows the root as 0 and the volume as 1.
fn serve_files(folder: &Path, socket: &Path) {
    let server = Server::new(Config::for_nofile(1024));
    for (name, access) in [("root", Access::ReadOnly), ("volume", Access::ReadWrite)] {
        let source = Source::at_path(&folder.join(name)).unwrap();
        server.shown().add(TreeConfig { source, access, cache: Cache::Exclusive, told: false }).unwrap();
    }
    let listener = UnixListener::bind(socket).unwrap();
    // It waits for the VMM first.
    thread::spawn(move || server.start(listener.accept().unwrap().0).unwrap().wait());
}

/// A root of busybox.
fn make_root(root: &Path) {
    for dir in ["bin", "etc", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
}

pub fn process(args: &[&str], stdio: agent_api::Stdio) -> Process {
    let all = CapabilitySets { effective: 0xa80425fb, permitted: 0xa80425fb, inheritable: 0, bounding: 0xa80425fb, ambient: 0 };
    Process {
        args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: b"/".to_vec(),
        capabilities: Some(all),
        stdio: Some(stdio),
        ..Process::default()
    }
}

pub fn container(id: &str, process: Process) -> CreateContainerRequest {
    let mount = |destination: &str, kind| Mount { destination: destination.into(), kind: Some(kind), ..Mount::default() };
    let devpts = DevptsMount { ptmx_mode: Some(0o666), ..DevptsMount::default() };
    CreateContainerRequest {
        id: id.into(),
        process: Some(process),
        hostname: Some(b"box".to_vec()),
        root: Some(Root { overlay: Some(root::Overlay::Memory(Empty {})), ..Root::default() }),
        mounts: vec![
            mount("/proc", mount::Kind::Proc(Empty {})),
            mount("/dev", mount::Kind::Dev(TmpfsMount { mode: Some(0o755), ..TmpfsMount::default() })),
            mount("/dev/pts", mount::Kind::Devpts(devpts)),
        ],
        masked_paths: vec![b"/proc/keys".to_vec()],
        read_only_paths: vec![b"/proc/sys".to_vec()],
        ..CreateContainerRequest::default()
    }
}
