//! What is checked in the machine, in order: the first sets it up.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use agent_api::*;

use crate::machine::{HARDWARE_ADDRESS, Machine, process, read};

pub const ALL: &[(&str, fn(&Machine))] = &[
    ("the sandbox is set up once", set_up),
    ("all CPUs are there, and the network's card uses them", network),
    ("a container runs and says how it ended", runs),
    ("what cannot be made is said at the creation", refusals),
    ("a process has the identity that was asked for", identity),
    ("limits that nobody set are not those of a small machine", bounds),
    ("a seccomp profile holds", seccomp),
    ("mounts are what was asked for", mounts),
    ("more processes run in a container", execs),
    ("streams break as pipes do", streams),
    ("limits hold and are told of", limits),
    ("a container is paused and killed", paused),
    ("containers share name spaces", shared),
    ("a terminal works", terminal),
];

fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (Code, String) {
    match answer {
        Err(ClientError::Status(status)) => (status.code, status.message),
        other => panic!("not refused: {other:?}"),
    }
}

fn set_up(machine: &Machine) {
    // Long ago, so that it is seen.
    let clock_ns = 1_000_000_000_000_000_000;
    let request = SetUpSandboxRequest {
        clock_ns,
        entropy: vec![7; 32],
        resolv_conf: b"nameserver 192.0.2.1\n".to_vec(),
        interfaces: vec![interface()],
        ..Default::default()
    };
    let kernel = machine.call(&request).kernel;
    assert!(kernel.starts_with(|c: char| c.is_ascii_digit()), "{kernel}");
    assert_eq!(refused(machine.client.call(&request)).0, Code::FailedPrecondition);
    let done = machine.run("first", "date +%Y; hostname; cat /etc/resolv.conf; ip -o link; uname -r", |_| {}).unwrap();
    assert_eq!(done.stdout.lines().take(3).collect::<Vec<_>>(), ["2001", "box", "nameserver 192.0.2.1"]);
    assert!(done.stdout.contains("lo: <LOOPBACK,UP") && done.stdout.ends_with(&format!("{kernel}\n")), "{}", done.stdout);
}

/// What a container sees of the network, and of the CPUs.
fn look(machine: &Machine) -> String {
    let script = "nproc; cd /sys/class/net; for i in *; do echo $i $(cat $i/mtu) $(ls $i/queues | grep -c rx); done; \
                  ip -o -4 addr show eth0 | grep -o 'inet [^ ]*'; ip route";
    let done = machine.run("look", script, |request| {
        let kind = Some(mount::Kind::Sysfs(Empty {}));
        request.mounts.push(Mount { destination: b"/sys".to_vec(), kind, ..Mount::default() });
    });
    done.unwrap().stdout
}

fn network(machine: &Machine) {
    assert_eq!(look(machine), "2\neth0 1400 2\nlo 65536 1\ninet 10.1.0.2/24\n10.1.0.0/24 dev eth0 scope link  src 10.1.0.2 \n");
    let interfaces = vec![Interface { addresses: vec!["10.1.0.2/24".into(), "10.2.0.2/24".into()], ..interface() }];
    let (destination, gateway) = ("10.9.0.0/16".into(), "10.2.0.1".into());
    let route = Route { destination, gateway, interface: "eth0".into(), metric: 70, ..Route::default() };
    machine.call(&UpdateNetworkRequest { interfaces, routes: vec![route], ..UpdateNetworkRequest::default() });
    let now = look(machine);
    assert!(
        now.contains("inet 10.1.0.2/24\ninet 10.2.0.2/24\n") && now.contains("10.9.0.0/16 via 10.2.0.1 dev eth0  metric 70"),
        "{now}"
    );
    let gone = vec![HARDWARE_ADDRESS.to_vec()];
    machine.call(&UpdateNetworkRequest { gone, ..UpdateNetworkRequest::default() });
    assert_eq!(look(machine), "2\nlo 65536 1\n");
    let interfaces = vec![interface()];
    let (code, why) = refused(machine.client.call(&UpdateNetworkRequest { interfaces, ..UpdateNetworkRequest::default() }));
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(why, "the guest has no interface with the address 02:00:00:00:6e:01 (for eth0)");
}

fn interface() -> Interface {
    let hardware_address = HARDWARE_ADDRESS.to_vec();
    Interface { name: "eth0".into(), hardware_address, mtu: 1400, addresses: vec!["10.1.0.2/24".into()] }
}

fn runs(machine: &Machine) {
    let done = machine.run("c", "echo $$; cat; echo oops >&2; exit 3", |_| {}).unwrap();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("1\n", "oops\n"));
    assert_eq!((done.exit.exit_code, done.exit.signal), (3, 0));
    let done = machine.run("c", "echo x > /new && cat /new; kill -KILL $$; sleep 9 & exec sh -c 'exit 4'", |_| {}).unwrap();
    // The first process of a name space does not die of its own signal.
    assert_eq!((done.stdout.as_str(), done.exit.exit_code), ("x\n", 4));
    assert_eq!(machine.call(&ListContainersRequest {}).containers, []);
    // A signal that the first process leaves to the kernel ends it, and whoever waited already is told of that signal.
    let keep = machine.stay("c", "exec sleep 1000", |_| {});
    thread::scope(|scope| {
        let waiter = scope.spawn(|| machine.wait("c", "").signal);
        thread::sleep(Duration::from_millis(300));
        machine.signal("c", "", 15, SignalTarget::Process).unwrap();
        assert_eq!(waiter.join().unwrap(), 15);
    });
    drop(keep);
    machine.delete("c", false);
    // Never started, it dies of what would end it.
    let stdio = machine.stdio();
    machine.call(&crate::machine::container("c", process(&["true"], stdio)));
    machine.signal("c", "", 15, SignalTarget::Process).unwrap();
    assert_eq!(machine.wait("c", "").signal, 15);
    let again = machine.client.call(&StartContainerRequest { container_id: "c".into() });
    assert_eq!(refused(again).1, "container c is not in state created");
    machine.delete("c", false);
}

fn refusals(machine: &Machine) {
    let program = |name: &'static str| {
        refused(machine.run("c", "", |request| request.process.as_mut().unwrap().args = vec![name.into()]))
    };
    assert_eq!(program("nope"), (Code::NotFound, "exec: \"nope\": executable file not found in $PATH".into()));
    assert_eq!(program("/etc"), (Code::PermissionDenied, "exec: \"/etc\": permission denied".into()));
    assert_eq!(program("/bin/nope"), (Code::NotFound, "exec: \"/bin/nope\": no such file or directory".into()));
    let cases: [(&str, fn(&mut CreateContainerRequest)); 6] = [
        ("cwd /etc/passwd", |request| request.process.as_mut().unwrap().cwd = b"/etc/passwd".to_vec()),
        ("sysctl kernel.nope", |request| request.sysctls = vec![Sysctl { key: "kernel.nope".into(), value: "1".into() }]),
        ("tree 9", |request| request.root.as_mut().unwrap().attach = 9),
        ("mount /etc/passwd/x", |request| {
            let kind = Some(mount::Kind::Proc(Empty {}));
            request.mounts.push(Mount { destination: b"/etc/passwd/x".to_vec(), kind, ..Mount::default() });
        }),
        ("directory of the host", |request| request.root.as_mut().unwrap().overlay = Some(root::Overlay::Dir(1))),
        ("beside stdio", |request| request.process.as_mut().unwrap().extra_fds = vec![9]),
    ];
    for (named, change) in cases {
        let (_, message) = refused(machine.run("c", "true", change));
        assert!(message.contains(named), "{message}");
    }
    assert_eq!(machine.call(&ListContainersRequest {}).containers, []);
}

fn identity(machine: &Machine) {
    let script = "id -u; id -g; id -G; umask; pwd; ulimit -n; cat /proc/self/oom_score_adj; grep -E 'Cap(Eff|Bnd|Amb)|NoNewPrivs|SigIgn' /proc/self/status; :";
    let done = machine.run("c", script, |request| {
        let process = request.process.as_mut().unwrap();
        (process.uid, process.gid, process.additional_gids) = (1000, 1001, vec![5]);
        (process.umask, process.cwd, process.oom_score_adj) = (Some(0o077), b"/made/for/it".to_vec(), Some(-500));
        process.rlimits = vec![Rlimit { resource: 7, soft: 100, hard: 200 }];
        let one = 0x400;
        process.capabilities =
            Some(CapabilitySets { effective: one, permitted: one, inheritable: one, bounding: one, ambient: one });
        process.no_new_privs = true;
    });
    let words: Vec<String> = done.unwrap().stdout.split_ascii_whitespace().map(str::to_string).collect();
    let expected = "1000 1001 1001 5 0077 /made/for/it 100 -500 SigIgn: 0000000000000000 CapEff: 0000000000000400 \
                    CapBnd: 0000000000000400 CapAmb: 0000000000000400 NoNewPrivs: 1";
    assert_eq!(words.join(" "), expected);
}

fn bounds(machine: &Machine) {
    let script = "cat /proc/sys/kernel/threads-max; grep -E '(processes|open files|signals) ' /proc/self/limits";
    let words: Vec<String> =
        machine.run("c", script, |_| {}).unwrap().stdout.split_ascii_whitespace().map(str::to_string).collect();
    let expected = "65536 Max processes unlimited unlimited processes Max open files 1024 1048576 files \
                    Max pending signals 32768 32768 signals";
    assert_eq!(words.join(" "), expected);
}

fn seccomp(machine: &Machine) {
    for no_new_privs in [false, true] {
        let done = machine.run("c", "mkdir /a; grep -E 'Seccomp:|CapEff' /proc/self/status", |request| {
            let names = vec!["mkdir".into(), "mkdirat".into()];
            let rules = vec![SeccompRule { names, action: 0x0005_0001, args: Vec::new() }];
            request.seccomp = Some(SeccompProfile { default_action: 0x7fff_0000, rules, log: false });
            request.process.as_mut().unwrap().no_new_privs = no_new_privs;
        });
        let done = done.unwrap();
        assert!(done.stderr.contains("Operation not permitted"), "{done:?}");
        assert_eq!(done.stdout, "CapEff:\t00000000a80425fb\nSeccomp:\t2\n");
    }
}

fn mounts(machine: &Machine) {
    fs::write(machine.volume().join("from"), "the host\n").unwrap();
    let script = "cat /v/from; echo back > /v/to; touch /x || touch /t/y; cat /proc/keys; echo 1 > /proc/sys/kernel/pid_max; \
                  grep ' /t ' /proc/mounts; ls /dev/null /dev/fd";
    let done = machine.run("c", script, |request| {
        request.root.as_mut().unwrap().read_only = true;
        let volume = mount::Kind::Gofer(GoferMount { attach: 1, cache: 0 });
        request.mounts.push(Mount { destination: b"/v".to_vec(), kind: Some(volume), ..Mount::default() });
        let flags = Some(MountFlags { nosuid: true, noexec: true, ..MountFlags::default() });
        let kind = Some(mount::Kind::Tmpfs(TmpfsMount { size: Some(65536), ..TmpfsMount::default() }));
        request.mounts.push(Mount { destination: b"/t".to_vec(), kind, flags, source: b"mine".to_vec() });
    });
    let done = done.unwrap();
    assert_eq!(done.stdout.lines().next(), Some("the host"));
    assert!(done.stdout.contains("mine /t tmpfs rw,nosuid,noexec,relatime,size=64k"), "{done:?}");
    assert_eq!(done.stderr.matches("Read-only file system").count() + done.stderr.matches("read-only").count(), 2, "{done:?}");
    assert_eq!(fs::read_to_string(machine.volume().join("to")).unwrap(), "back\n");
}

fn execs(machine: &Machine) {
    let ends = machine.stay("c", "trap 'echo term; exit 7' TERM; echo up; while :; do sleep 0.1; done", |_| {});
    let done = machine.exec("c", &["sh", "-c", "cat /proc/1/comm; hostname; exit 42"]).unwrap();
    assert_eq!((done.stdout.as_str(), done.exit.exit_code), ("sh\nbox\n", 42));
    assert_eq!(machine.exec("c", &["sh", "-c", "kill -9 $$"]).unwrap().exit.signal, 9);
    assert_eq!(refused(machine.exec("c", &["nope"])).0, Code::NotFound);
    assert_eq!(refused(machine.exec("other", &["true"])).0, Code::NotFound);
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                let done = machine.exec("c", &["sh", "-c", &format!("echo {number}; exit {number}")]).unwrap();
                assert_eq!((done.stdout, done.exit.exit_code), (format!("{number}\n"), number));
            });
        }
    });
    // What is kept of ended processes takes no descriptors, of which the agent has 1024.
    for _ in 0..3 {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| machine.exec("c", &["true"]).unwrap());
            }
        });
    }
    let processes = machine.call(&ListProcessesRequest { container_id: "c".into() }).processes;
    assert!(processes.iter().any(|process| process.pid == 1 && process.args.first() == Some(&b"sh".to_vec())), "{processes:?}");
    let stacks = machine.call(&StacksRequest { container_id: "c".into() }).text;
    assert!(stacks.starts_with("container c\n  1/1 sh: "), "{stacks}");
    machine.signal("c", "", 15, SignalTarget::Process).unwrap();
    let done = machine.finish("c", "", ends);
    assert_eq!((done.stdout.as_str(), done.exit.exit_code), ("up\nterm\n", 7));
    let events = machine.call(&NextEventsRequest { after: 0 }).events;
    assert!(events.iter().any(|event| event.container_id == "c" && event.exit == Some(done.exit)), "{events:?}");
    machine.delete("c", false);
}

fn streams(machine: &Machine) {
    let keep = machine.stay("c", "sleep 1000", |_| {});
    let (id, mut ends) = machine.begin("c", &["yes"]).unwrap();
    ends.stdout.read_exact(&mut [0; 100]).unwrap();
    drop(ends);
    assert_eq!(machine.wait("c", &id).signal, 13);
    // Much, both ways at once, and the end of input.
    let (id, mut ends) = machine.begin("c", &["cat"]).unwrap();
    let data: String = (0..300_000).map(|number| char::from(b'a' + (number % 23) as u8)).collect();
    let back = read(ends.stdout.try_clone().unwrap());
    ends.stdin.write_all(data.as_bytes()).unwrap();
    ends.stdin.shutdown(Shutdown::Write).unwrap();
    assert!(back.join().unwrap() == data);
    assert_eq!(machine.wait("c", &id).exit_code, 0);
    // A child in the background keeps the pipe open; the exit is told all the same, with all that was written before.
    let (id, ends) = machine.begin("c", &["sh", "-c", "sleep 1000 & echo done"]).unwrap();
    assert_eq!(machine.wait("c", &id).exit_code, 0);
    let mut out = [0; 16];
    ends.stdout.set_nonblocking(true).unwrap();
    // The bytes were sent before the answer; the host's own thread may still carry them.
    let got = (0..200).find_map(|_| {
        thread::sleep(Duration::from_millis(5));
        (&ends.stdout).read(&mut out).ok()
    });
    assert_eq!(got, Some(5));
    machine.delete("c", true);
    drop(keep);
}

fn limits(machine: &Machine) {
    let keep = machine.stay("c", "sleep 1000", |request| {
        request.limits = Some(Limits { memory: Some(32 << 20), pids: Some(10), ..Limits::default() });
    });
    let done = machine.exec("c", &["dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]).unwrap();
    assert!(done.exit.oom_killed && done.exit.signal == 9, "{done:?}");
    let done = machine.exec("c", &["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done"]).unwrap();
    assert!(done.stderr.contains("can't fork"), "{done:?}");
    let stats = machine.call(&StatsRequest { container_id: "c".into() });
    assert_eq!((stats.memory_limit, stats.pids_limit, stats.oom_kills), (Some(32 << 20), Some(10), 1));
    assert!(stats.memory_peak >= 30 << 20 && stats.cpu_system_ns > 0 && stats.pids >= 1, "{stats:?}");
    let events = machine.call(&NextEventsRequest { after: 0 }).events;
    assert_eq!(events.iter().filter(|event| event.kind() == EventKind::OutOfMemory).count(), 1);
    let limits = Some(Limits { pids: Some(20), ..Limits::default() });
    machine.call(&UpdateContainerRequest { container_id: "c".into(), limits });
    let stats = machine.call(&StatsRequest { container_id: "c".into() });
    assert_eq!((stats.memory_limit, stats.pids_limit), (Some(32 << 20), Some(20)));
    machine.delete("c", true);
    drop(keep);
}

fn paused(machine: &Machine) {
    let keep = machine.stay("c", "while :; do :; done", |_| {});
    let status = || machine.call(&ListContainersRequest {}).containers.first().map(ContainerState::status);
    let used = || machine.call(&StatsRequest { container_id: "c".into() }).cpu_user_ns;
    machine.call(&PauseContainerRequest { container_id: "c".into() });
    assert_eq!(status(), Some(ContainerStatus::Paused));
    let before = used();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(used(), before);
    // What is executed meanwhile is ready, and begins when the rest goes on.
    let (exec_id, mut ends) = machine.begin("c", &["echo", "begun"]).unwrap();
    ends.stdout.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(ends.stdout.read(&mut [0; 16]).is_err(), "it is paused too");
    ends.stdout.set_read_timeout(None).unwrap();
    machine.call(&ResumeContainerRequest { container_id: "c".into() });
    assert_eq!(status(), Some(ContainerStatus::Running));
    let done = machine.finish("c", &exec_id, ends);
    assert_eq!((done.stdout.as_str(), done.exit.exit_code), ("begun\n", 0));
    machine.call(&PauseContainerRequest { container_id: "c".into() });
    machine.signal("c", "", 9, SignalTarget::Container).unwrap();
    assert_eq!(machine.wait("c", "").signal, 9);
    machine.delete("c", false);
    drop(keep);
}

fn shared(machine: &Machine) {
    let keep = machine.stay("one", "sleep 1000", |_| {});
    let done = machine.run("two", "hostname; cat /proc/1/cmdline | tr '\\0' ' '; [ $$ != 1 ] && exit 5", |request| {
        let kinds = [NamespaceKind::Pid, NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Network];
        let share = |kind: NamespaceKind| SharedNamespace { kind: kind.into(), container_id: "one".into() };
        request.shared_namespaces = kinds.map(share).to_vec();
        request.hostname = Some(b"not used".to_vec());
    });
    let done = done.unwrap();
    assert_eq!((done.stdout.as_str(), done.exit.exit_code), ("box\nsleep 1000 ", 5), "{done:?}");
    // One that cannot be joined any more is no reason for the next of the same name to fail.
    machine.signal("one", "", 9, SignalTarget::Process).unwrap();
    assert_eq!(machine.wait("one", "").signal, 9);
    let late = machine.run("two", "true", |request| {
        let kind = NamespaceKind::Pid.into();
        request.shared_namespaces = vec![SharedNamespace { kind, container_id: "one".into() }];
    });
    assert_eq!(refused(late), (Code::NotFound, "the process has exited".into()));
    assert_eq!(machine.run("two", "exit 6", |_| {}).unwrap().exit.exit_code, 6);
    machine.delete("one", false);
    drop(keep);
}

fn terminal(machine: &Machine) {
    let keep = machine.stay("c", "sleep 1000", |_| {});
    let stdio = agent_api::Stdio { stderr: None, ..machine.stdio() };
    let script = "tty; read a; echo got $a; stty size; trap 'echo int; exit 6' INT; sleep 100 & wait";
    let mut process = process(&["sh", "-c", script], stdio);
    process.terminal = Some(WindowSize { rows: 30, columns: 100, ..WindowSize::default() });
    let request = ExecProcessRequest { container_id: "c".into(), exec_id: "t".into(), process: Some(process) };
    machine.call(&request);
    let (mut stdin, mut stdout) = machine.terminal_ends(&stdio);
    let size = Some(WindowSize { rows: 11, columns: 22, ..WindowSize::default() });
    machine.call(&ResizeTtyRequest { container_id: "c".into(), exec_id: "t".into(), size });
    stdin.write_all(b"hello\n").unwrap();
    let mut text = String::new();
    while !text.contains("11 22") {
        let mut bytes = [0; 64];
        let got = stdout.read(&mut bytes).unwrap();
        assert!(got > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..got]));
    }
    // The trap is set a moment after.
    thread::sleep(Duration::from_millis(300));
    machine.signal("c", "t", 2, SignalTarget::Foreground).unwrap();
    assert_eq!(machine.wait("c", "t").exit_code, 6);
    stdout.read_to_string(&mut text).unwrap();
    assert!(text.contains("/dev/pts/0") && text.contains("got hello") && text.trim_end().ends_with("int"), "{text:?}");
    machine.delete("c", true);
    drop(keep);
}
