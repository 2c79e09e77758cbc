//! Real programs of this machine on the real platform, from a tmpfs.

use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use platform::systrap::{Config, Spin, Systrap};
use platform::{ExecutorId, Platform};

use super::*;
use crate::fs::tmpfs::{Options, TmpFs};
use crate::fs::walk::AT_FDCWD;
use crate::fs::{
    FdEntry, FdTable, FileKind, FileSystem, FsContext, Inode, Mount, MountFlags, NewInode, OpenFlags, ResolveFlags, WriteAt,
};
use crate::kernel::{self, Container, Kernel, Limits, SharedNamespaces};
use crate::mm::MemoryFile;
use crate::ns::Uts;
use crate::task::{ExitStatus, NewProcess, Rlimits, Shared, new_process, run};
use crate::time::Clock;

/// The zygote's parent must be a thread that never ends.
fn platform() -> Arc<Systrap> {
    static PLATFORM: OnceLock<Arc<Systrap>> = OnceLock::new();
    let start = || {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            hostcall::copy::install();
            let config = Config { executors: 1, max_address_spaces: 64, cpus: 2, spin: Spin::Adaptive };
            send.send(Systrap::start(config)).expect("a receiver");
            loop {
                std::thread::park();
            }
        });
        receive.recv().expect("an answer").expect("the platform")
    };
    PLATFORM.get_or_init(start).clone()
}

fn now<T>(future: impl IntoFuture<Output = T>) -> T {
    let mut future = Box::pin(future.into_future());
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a tmpfs does not wait"),
    }
}

/// Puts a file of the host's into the tmpfs, with the directories above it.
fn put(cx: &Cx, root: &Arc<dyn Inode>, path: &str, contents: &[u8]) {
    let mut dir = root.clone();
    let mut names: Vec<&[u8]> = path.trim_start_matches('/').as_bytes().split(|&byte| byte == b'/').collect();
    let last = names.pop().expect("a name");
    let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
    for name in names {
        dir = match now(dir.lookup(name)) {
            Ok(found) => found,
            Err(_) => now(dir.create(name, &new(FileKind::Directory))).expect("mkdir"),
        };
    }
    let inode = now(dir.create(last, &new(FileKind::Regular))).expect("create");
    let ops = now(inode.clone().open(cx, OpenFlags::WRONLY)).expect("open");
    let file = File::new(ops.clone(), crate::fs::Origin::Anonymous { inode, name: String::new() }, OpenFlags::WRONLY);
    let mut from = contents;
    let mut at = 0;
    while !from.is_empty() {
        at += now(ops.write(&file, WriteAt::Offset(at), &mut from)).expect("write").bytes as u64;
    }
}

/// Runs `argv` with the files in its world. Returns its exit status and output.
fn run_program(files: &[(&str, Vec<u8>)], argv: &[&str]) -> Result<(ExitStatus, String), Errno> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let platform = platform();
    let machine = kernel::Machine { cpus: 2, memory_bytes: 1 << 30, host_memory_bytes: 1 << 30, cpu_model: String::new() };
    let kernel = Kernel::new(platform.clone(), Clock::Host, 1, machine);
    let reactor = crate::executor::Reactor::new().expect("reactor");
    let _ = kernel.reactor.set(reactor.clone());
    let memory = MemoryFile::new(hostcall::memory::anonymous_file("test").expect("memfd")).expect("memory file");
    let uts = Uts { hostname: "test".into(), domainname: "(none)".into() };
    let container = Container::new(
        "test".into(),
        memory.clone(),
        uts,
        kernel.net.clone(),
        Limits::new(None, None),
        SharedNamespaces::default(),
    );
    let fs = TmpFs::new(memory.clone(), Clock::Host, 1, Options::default());
    let root_inode = fs.root();
    let root = Mount::new(fs, "tmpfs", MountFlags::empty(), &Clock::Host).root_path();
    let mm = Mm::new(platform.clone() as Arc<dyn Platform>, memory.clone()).expect("mm");
    let context = mm.space().new_context().expect("context");
    let (mut output, stdout) = std::io::pipe().expect("pipe");
    let table = FdTable::new();
    let out = crate::ipc::host_file::HostFile::open(&reactor, stdout.into(), OpenFlags::WRONLY).expect("host file");
    for _ in 0..3 {
        table.insert(FdEntry { file: out.clone(), close_on_exec: false }, 0, 100).expect("fd");
    }
    drop(out);
    let shared = Shared { mm, files: table, fs: FsContext::new(root.clone(), root, 0o022) };
    let new = NewProcess { creds: Creds::root(), rlimits: Rlimits::default(), shared };
    let mut cx = new_process(&kernel, &container, new, context).expect("process");
    for (path, contents) in files {
        put(&cx, &root_inode, path, contents);
    }
    let group = cx.task.group.clone();
    let argv: Vec<Vec<u8>> = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    let failed = Arc::new(Mutex::new(None));
    let (stop, fail) = (kernel.clone(), failed.clone());
    container.life.on_exit(Box::new(move |_| stop.scheduler.stop()));
    let stop = kernel.clone();
    kernel.scheduler.spawn(move |executor| async move {
        let image = {
            let cx = &cx;
            let open = async |path: Vec<u8>| crate::fs::open_exec(cx, AT_FDCWD, &path, ResolveFlags::empty()).await;
            let path = argv[0].clone();
            match open(path.clone()).await {
                Ok(file) => {
                    let request = Request {
                        file,
                        path,
                        argv,
                        envp: vec![b"A=1".to_vec()],
                        open: &|path| {
                            Box::pin(async move { crate::fs::open_exec(cx, AT_FDCWD, &path, ResolveFlags::empty()).await })
                        },
                        stack_limit: 8 << 20,
                        credentials: &|_| (Arc::new(Creds::root()), false),
                    };
                    load(cx, request).await
                }
                Err(errno) => Err(errno),
            }
        };
        match image {
            Ok(image) => {
                cx.replace_image(image).await.expect("exec");
                run(cx, executor).await;
            }
            Err(errno) => {
                *fail.lock().expect("lock") = Some(errno);
                stop.scheduler.stop();
            }
        }
    });
    let scheduler = kernel.scheduler.clone();
    let runner = std::thread::spawn(move || scheduler.run(ExecutorId(0)));
    runner.join().expect("executor");
    if let Some(errno) = *failed.lock().expect("lock") {
        return Err(errno);
    }
    drop((container, kernel, root_inode));
    let status = group.ended().expect("ended");
    let mut text = vec![0; 65536];
    let n = output.read(&mut text).unwrap_or(0);
    Ok((status, String::from_utf8_lossy(&text[..n]).into_owned()))
}

fn host(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn a_static_program() {
    let files = [("/bin/busybox", host("/bin/busybox"))];
    let result = run_program(&files, &["/bin/busybox", "echo", "hello", "world"]);
    assert_eq!(result, Ok((ExitStatus::Exited(0), "hello world\n".into())));
}

#[test]
fn a_shell_that_forks() {
    let files = [("/bin/busybox", host("/bin/busybox"))];
    let script = "x=$(/bin/busybox echo a | /bin/busybox tr a b); (exit 3); echo $x $?";
    let result = run_program(&files, &["/bin/busybox", "sh", "-c", script]);
    assert_eq!(result, Ok((ExitStatus::Exited(0), "b 3\n".into())));
}

#[test]
fn a_dynamic_program() {
    let names = ["/usr/bin/env", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"];
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|&name| (name, host(name))).collect();
    assert_eq!(run_program(&files, &["/usr/bin/env"]), Ok((ExitStatus::Exited(0), "A=1\n".into())));
}

#[test]
fn scripts_and_what_cannot_be_run() {
    let files = [
        ("/bin/busybox", host("/bin/busybox")),
        ("/s", b"#!/bin/busybox echo\n".to_vec()),
        ("/s2", b"#!/s x\n".to_vec()),
        ("/loop", b"#!/loop\n".to_vec()),
        ("/text", b"echo\n".to_vec()),
        ("/empty", Vec::new()),
        ("/cut", host("/bin/busybox")[..2000].to_vec()),
        ("/i386", {
            let mut elf = host("/bin/busybox");
            elf[18] = 3;
            elf
        }),
        ("/missing", b"#!/nothing\n".to_vec()),
    ];
    assert_eq!(run_program(&files, &["/s", "a"]), Ok((ExitStatus::Exited(0), "/s a\n".into())));
    assert_eq!(run_program(&files, &["/s2", "a"]), Ok((ExitStatus::Exited(0), "/s x /s2 a\n".into())));
    for (path, errno) in [
        ("/loop", Errno::ELOOP),
        ("/text", Errno::ENOEXEC),
        ("/empty", Errno::ENOEXEC),
        ("/i386", Errno::ENOEXEC),
        ("/missing", Errno::ENOENT),
    ] {
        assert_eq!(run_program(&files, &[path]), Err(errno), "{path}");
    }
}

/// Prints what a program prints: `BENCH='path to a static program and its arguments' cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "measures; it takes a program from the environment"]
fn bench() {
    let line = std::env::var("BENCH").expect("BENCH");
    let words: Vec<&str> = line.split(' ').collect();
    let files = [(words[0], host(words[0])), ("/bench-data", vec![1; 1 << 20]), ("/scratch/x", Vec::new())];
    let (status, text) = run_program(&files, &words).expect("a program");
    println!("{text}{status:?}");
}
