//! Runs static programs in a kernel without sandbox, gofer or runtime: `bare FILE… -- PROGRAM ARGS…`. The files are copied into an
//! in-memory root under their own names. For debugging and profiling the kernel and the platform.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use platform::ExecutorId;
use platform::systrap::{Config, Spin, Systrap};
use sentry::executor::Reactor;
use sentry::fs::proc::ProcFs;
use sentry::fs::tmpfs::{Options, TmpFs};
use sentry::fs::walk::AT_FDCWD;
use sentry::fs::{
    FdEntry, FdTable, FileKind, FsContext, Mount, MountFlags, NewInode, OpenFlags, ResolveFlags, dev, namei, next_device,
};
use sentry::ipc::host_file::HostFile;
use sentry::kernel::{Container, Kernel, Limits, Machine, SharedNamespaces};
use sentry::mm::{MemoryFile, Mm};
use sentry::ns::Uts;
use sentry::task::{Creds, NewProcess, Rlimits, Shared, new_process};
use sentry::time::Clock;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let at = args.iter().position(|arg| arg == "--").expect("usage: bare FILE... -- PROGRAM ARGS...");
    let (files, command) = (args[..at].to_vec(), args[at + 1..].to_vec());
    hostcall::copy::install();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let spin = if cpus > 1 { Spin::Adaptive } else { Spin::Never };
    let platform = Systrap::start(Config { executors: 1, max_address_spaces: 1000, cpus, spin }).expect("platform");
    let machine = Machine { cpus, memory_bytes: 1 << 30, host_memory_bytes: 1 << 30, cpu_model: String::new() };
    let kernel = Kernel::new(platform, Clock::Host, 1, machine);
    let reactor = Reactor::new().expect("reactor");
    let _ = kernel.reactor.set(reactor.clone());
    let running = reactor.clone();
    std::thread::spawn(move || running.run());
    let memory = MemoryFile::new(memory_file()).expect("memory file");
    let uts = Uts { hostname: "bare".into(), domainname: "(none)".into() };
    let container =
        Container::new("bare".into(), memory, uts, kernel.net.clone(), Limits::new(None, None), SharedNamespaces::default());
    container.life.strace.store(std::env::var_os("STRACE").is_some(), Ordering::Relaxed);
    if std::env::var_os("STRACE").is_some() {
        container.life.set_strace_output(Some(std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned().unwrap()));
    }
    container.life.on_exit(Box::new(|status| std::process::exit(status.code())));
    let (kernel2, container2) = (kernel.clone(), container.clone());
    kernel.scheduler.spawn(move |executor| async move {
        let (kernel, container) = (kernel2, container2);
        let tmpfs = TmpFs::new(container.memory.clone(), Clock::Host, next_device(), Options::default());
        let root = Mount::new(tmpfs, "root", MountFlags::empty(), &Clock::Host).root_path();
        let fs = FsContext::new(root.clone(), root.clone(), 0o022);
        let proc = ProcFs::new(kernel.clone(), container.clone(), next_device());
        let place = namei::ensure_dir(&root, b"/proc").await.expect("/proc");
        Mount::new(proc, "proc", MountFlags::empty(), &Clock::Host).attach(&place).expect("mount");
        namei::ensure_dir(&root, b"/tmp").await.expect("/tmp");
        namei::ensure_dir(&root, b"/dev").await.expect("/dev");
        let place = namei::ensure_dir(&root, b"/dev/pts").await.expect("/dev/pts");
        let devpts = sentry::fs::devpts::Devpts::new(&container.terminals);
        Mount::new(devpts, "devpts", MountFlags::empty(), &Clock::Host).attach(&place).expect("mount");
        let table = FdTable::new();
        for (n, flags) in [(0, OpenFlags::empty()), (1, OpenFlags::WRONLY), (2, OpenFlags::WRONLY)] {
            let fd: OwnedFd = match n {
                0 => std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned(),
                1 => std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned(),
                _ => std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned(),
            }
            .expect("dup");
            let file = HostFile::open(&reactor, fd, flags).expect("stdio");
            table.replace(n, FdEntry { file, close_on_exec: false }, 1024).expect("fd");
        }
        let mm = Mm::new(kernel.platform.clone(), container.memory.clone()).expect("mm");
        let context = mm.space().new_context().expect("context");
        let shared = Shared { mm, files: table, fs };
        let new = NewProcess { creds: Creds::root(), rlimits: Rlimits::default(), shared };
        let mut cx = new_process(&kernel, &container, new, context).expect("process");
        let view = sentry::fs::View::of(&cx);
        for (name, major, minor) in agent_api::dev::NODES.into_iter().chain([("ptmx", 5, 2)]) {
            let new = NewInode {
                kind: FileKind::CharDevice,
                permissions: 0o666,
                uid: 0,
                gid: 0,
                rdev: dev::device_number(major, minor),
                target: Vec::new(),
            };
            let (dir, last) =
                sentry::fs::resolve_parent(&cx, AT_FDCWD, format!("/dev/{name}").as_bytes()).await.expect("parent");
            namei::create(&view, &dir, &last, new).await.expect("node");
        }
        for file in files {
            let bytes = std::fs::read(&file).expect("file");
            let name = format!("/{}", file.rsplit('/').next().unwrap_or_default());
            let flags = OpenFlags::WRONLY | OpenFlags::CREAT;
            let to = sentry::fs::open::open(&cx, AT_FDCWD, name.as_bytes(), flags, 0o755).await.expect("create");
            let mut source: &[u8] = &bytes;
            let mut at = 0;
            while !source.is_empty() {
                let written = to.ops.write(&to, sentry::fs::WriteAt::Offset(at), &mut source).await.expect("write");
                at = written.end;
            }
        }
        let argv: Vec<Vec<u8>> = command.iter().map(|arg| arg.clone().into_bytes()).collect();
        let env = vec![b"PATH=/".to_vec(), b"HOME=/".to_vec()];
        cx.exec(AT_FDCWD, argv[0].clone(), ResolveFlags::empty(), argv, env).await.expect("exec");
        sentry::task::run(cx, executor).await;
    });
    kernel.scheduler.run(ExecutorId(0));
}

fn memory_file() -> OwnedFd {
    let directory = std::fs::File::open("/dev/shm").expect("/dev/shm");
    hostcall::io::unnamed_file(std::os::fd::AsFd::as_fd(&directory)).expect("memory file")
}
