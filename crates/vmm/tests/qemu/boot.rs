use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use vmm::qemu::PMEM_ALIGN;
use vmm::vsock::{Device as VsockDevice, Ports, Vsock};
use vmm::{Accelerator, Access, Cpus, Device, Error, Event, Features, Machine, Memory, Status, Vmm};

use crate::guest::Guest;
use crate::run::{Running, start};

const MIB: u64 = 1 << 20;
/// Longer than anything takes on a busy machine with a machine in it.
const SOON: Duration = Duration::from_secs(60);

/// A booted machine whose init waits for our lines.
struct Booted {
    running: Running,
    vsock: Vsock,
    control: BufReader<UnixStream>,
    connections: Receiver<(u32, UnixStream)>,
    began: Instant,
}

impl Booted {
    fn new(guest: &Guest) -> Booted {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (sender, connections) = channel();
        let host = move |Ports { host: port, .. }| {
            let (guests, hosts) = UnixStream::pair().ok()?;
            (port >= 1024).then(|| sender.send((port, hosts)).ok()).flatten()?;
            Some(OwnedFd::from(guests))
        };
        let (device, vsock) = VsockDevice::new(ours, 3, host).expect("a vsock device");
        std::thread::spawn(move || device.run().expect("QEMU speaks vhost-user"));
        let machine = Machine {
            name: "test, one".into(),
            accelerator: Accelerator::choose(),
            kernel: File::open(&guest.kernel).expect("the kernel").into(),
            initrd: Some(File::open(&guest.initrd).expect("the initramfs").into()),
            cmdline: String::new(),
            cpus: Cpus { boot: 1, max: 3 },
            memory: Memory { boot: 256 * MIB, max: 768 * MIB },
            console: None,
            devices: vec![
                ("vsock".into(), Device::Vsock { socket: theirs.into() }),
                ("rng".into(), Device::Rng),
                ("balloon".into(), Device::Balloon),
            ],
            slots: 2,
        };
        let began = Instant::now();
        let running = start(&machine);
        drop(machine);
        running.qemu.boot(SOON).expect("it runs");
        let (port, stream) = connections.recv_timeout(SOON).expect("the guest calls");
        assert_eq!(port, 1024);
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut booted = Booted { running, vsock, control: BufReader::new(stream), connections, began };
        assert_eq!(booted.line(), "ready");
        booted
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.control.read_line(&mut line).expect("the guest answers");
        line.trim().to_string()
    }

    fn ask(&mut self, what: &str) -> String {
        self.control.get_mut().write_all(format!("{what}\n").as_bytes()).unwrap();
        self.line()
    }

    /// Asks until the answer is right: what is plugged in is found a little later.
    fn ask_until(&mut self, what: &str, right: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = self.ask(what);
            if right(&answer) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: still {answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One boot for all, as it takes seconds.
#[test]
fn a_guest_is_talked_to_and_grown_and_shrunk() {
    let Some(guest) = Guest::build() else { return };
    let mut booted = Booted::new(&guest);
    println!("boot to a connection: {:?}", booted.began.elapsed());
    host_to_guest(&mut booted);
    guest_to_host(&mut booted);
    pauses(&mut booted);
    grows(&mut booted);
    changes_disks(&mut booted);
    changes_nics(&mut booted);
    changes_vhost_user(&mut booted);
    fills_slots(&mut booted);
    ends(booted);
}

fn host_to_guest(booted: &mut Booted) {
    assert_eq!(booted.ask("echo 7000"), "listening");
    let mut stream = booted.vsock.connect(7000, SOON).expect("a connection");
    let mut writer = stream.try_clone().unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| ((n * 31) >> 3) as u8).collect();
    let expected = sent.clone();
    // More than all buffers on the way hold, so that both directions meet their credit's end.
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.read_to_end(&mut got).expect("an echo and its end");
    writing.join().unwrap();
    assert!(got == expected, "{} of {} bytes came back, or others", got.len(), expected.len());
    let refused = booted.vsock.connect(7001, SOON).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

fn guest_to_host(booted: &mut Booted) {
    assert_eq!(booted.ask("dial 5"), "refused");
    assert_eq!(booted.ask("dial 2000"), "connected");
    let (port, mut stream) = booted.connections.recv_timeout(SOON).unwrap();
    assert_eq!((port, stream.read(&mut [0]).unwrap()), (2000, 0));
    assert_eq!(booted.ask("send 2001 16"), "sending");
    let (_, mut stream) = booted.connections.recv_timeout(SOON).unwrap();
    let began = Instant::now();
    let (mut total, mut sum) = (0, 0u64);
    let mut buffer = vec![0; 1 << 18];
    while let Ok(got @ 1..) = stream.read(&mut buffer) {
        sum += buffer[..got].iter().map(|byte| u64::from(*byte)).sum::<u64>();
        total += got;
    }
    println!("guest to host: {:.0} MB/s", total as f64 / 1e6 / began.elapsed().as_secs_f64());
    let pattern: u64 = (0..1u64 << 20).map(|i| (i * 7 + (i >> 8)) & 0xff).sum();
    assert_eq!((total, sum), (16 << 20, 16 * pattern));
}

/// Connections outlive a pause: the rings are stopped and started at the VMM's side.
fn pauses(booted: &mut Booted) {
    booted.running.qemu.pause().unwrap();
    assert_eq!(booted.running.qemu.status().unwrap(), Status::Paused);
    booted.control.get_mut().write_all(b"cpus\n").unwrap();
    booted.running.qemu.resume().unwrap();
    assert_eq!(booted.running.qemu.status().unwrap(), Status::Running);
    assert_eq!(booted.line(), "1");
}

fn grows(booted: &mut Booted) {
    assert_eq!(booted.running.qemu.resize_cpus(3, SOON).unwrap(), 3);
    booted.ask_until("cpus", |cpus| cpus == "3");
    let before: u64 = booted.ask("memory").parse().unwrap();
    assert_eq!(booted.running.qemu.resize_memory(512 * MIB, SOON).unwrap(), 512 * MIB);
    let after: u64 = booted.ask("memory").parse().unwrap();
    assert_eq!((after - before) * 1024, 256 * MIB);
    assert_eq!(booted.running.qemu.resize_memory(256 * MIB, SOON).unwrap(), 256 * MIB);
    assert_eq!(booted.ask("memory").parse::<u64>().unwrap(), before);
    let fewer = booted.running.qemu.resize_cpus(2, SOON);
    if booted.running.qemu.features().contains(Features::CPU_UNPLUG) {
        assert_eq!((fewer.unwrap(), booted.ask("cpus").as_str()), (2, "2"));
    } else {
        assert_eq!(fewer.unwrap_err().to_string(), "the qemu driver cannot do cpu-unplug");
    }
}

fn changes_disks(booted: &mut Booted) {
    for word in ["first", "second"] {
        let device = Device::Block { image: image(word), access: Access::Read };
        booted.running.qemu.add_device("disk", device).unwrap();
        booted.ask_until("disk vda", |read| read == word);
        booted.running.qemu.remove_device("disk", SOON).unwrap();
        assert_eq!(booted.ask("disk vda"), "none");
        assert_eq!(booted.running.qemu.next_event(SOON), Some(Event::DeviceRemoved("disk".into())));
    }
    // The guest lets it go when nobody waits any more: what is behind it goes at the next try, and the name is free.
    let add =
        |booted: &Booted| booted.running.qemu.add_device("disk", Device::Block { image: image("third"), access: Access::Read });
    add(booted).unwrap();
    let late = booted.running.qemu.remove_device("disk", Duration::ZERO).unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }), "{late}");
    assert_eq!(booted.running.qemu.next_event(SOON), Some(Event::DeviceRemoved("disk".into())));
    booted.running.qemu.remove_device("disk", SOON).unwrap();
    let twice = booted.running.qemu.remove_device("disk", SOON).unwrap_err();
    assert!(twice.to_string().contains("there is no device disk"), "{twice}");
    add(booted).unwrap();
    booted.ask_until("disk vda", |read| read == "third");
    booted.running.qemu.remove_device("disk", SOON).unwrap();
    assert_eq!(booted.running.qemu.next_event(SOON), Some(Event::DeviceRemoved("disk".into())));
}

fn changes_nics(booted: &mut Booted) {
    // The guest has two CPUs by now, for each of which it uses a queue.
    for queues in [1, 2] {
        let Some(taps) = tap(queues) else {
            eprintln!("SKIPPED: no taps here (/dev/net/tun)");
            return;
        };
        booted.running.qemu.add_device("nic", Device::Net { taps, vhost: Vec::new(), mac: [2, 0, 0, 0, 0, 1] }).unwrap();
        booted.ask_until("nic eth0", |there| there == format!("{queues} queues"));
        booted.running.qemu.remove_device("nic", SOON).unwrap();
        assert_eq!(booted.ask("nic eth0"), "0 queues");
    }
}

/// What stands for all vhost-user devices: the guest has no use for a second one of these, but its slot does.
fn changes_vhost_user(booted: &mut Booted) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (device, _) = VsockDevice::new(ours, 4, |_: Ports| None).unwrap();
    let served = std::thread::spawn(move || device.run());
    booted.running.qemu.add_device("second", Device::Vsock { socket: theirs.into() }).unwrap();
    booted.running.qemu.remove_device("second", SOON).unwrap();
    served.join().unwrap().expect("QEMU closes the socket and breaks nothing");
}

fn fills_slots(booted: &mut Booted) {
    let image = image("mapped");
    rustix::fs::ftruncate(File::options().write(true).open(path("mapped")).unwrap(), PMEM_ALIGN).unwrap();
    let device = Device::Pmem { image, size: PMEM_ALIGN, access: Access::Read };
    booted.running.qemu.add_device("image", device).unwrap();
    booted.ask_until("disk pmem0", |read| read == "mapped");
    // Not in QEMU 7.2; whoever can do it may.
    if let Err(e) = booted.running.qemu.remove_device("image", SOON) {
        assert!(matches!(e, Error::Refused { .. }), "{e}");
        let add = |id: &str| booted.running.qemu.add_device(id, Device::Rng);
        add("one").unwrap();
        assert_eq!(add("two").unwrap_err().to_string(), "no free slot for device two: the machine was started with 2");
    }
}

fn ends(mut booted: Booted) {
    let events = |booted: &Booted| booted.running.qemu.next_event(SOON);
    booted.control.get_mut().write_all(b"off\n").unwrap();
    let mut last = events(&booted);
    while let Some(Event::DeviceRemoved(_)) = last {
        last = events(&booted);
    }
    assert_eq!(last, Some(Event::Shutdown));
    assert_eq!(events(&booted), Some(Event::Ended));
    let (status, said) = booted.running.wait();
    // More vCPUs than the host has CPUs are worth a warning to it.
    assert!(status.success() && said.lines().all(|line| line.contains(": warning: ")), "{status}: {said}");
    // What was connected is closed.
    assert_eq!(booted.control.read(&mut [0]).unwrap(), 0);
    booted.running.qemu.stop().expect("it has ended already");
}

/// A disk of a sector that begins with `word`, open for reading only.
fn image(word: &str) -> OwnedFd {
    std::fs::write(path(word), format!("{word:<512}")).unwrap();
    File::open(path(word)).unwrap().into()
}

fn path(word: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("disk-{word}"))
}

/// A tap of its own, with virtio's headers; None where there are none or we may not.
fn tap(queues: usize) -> Option<Vec<OwnedFd>> {
    // SAFETY: all of it is integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several) as i16;
    // The first makes it, and writes its name; the others are more queues of it.
    let mut open = || {
        let file = File::options().read(true).write(true).open("/dev/net/tun").ok()?;
        // SAFETY: the request is an ifreq, as this ioctl wants it (netdevice(7)), and outlives the call.
        let status = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::TUNSETIFF, &mut request) };
        (status == 0).then(|| file.into())
    };
    (0..queues).map(|_| open()).collect()
}
