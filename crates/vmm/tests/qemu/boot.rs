use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vmm::{Accelerator, Access, Console, Cpus, Device, Event, Machine, Memory, Status, Vmm};

use crate::guest::Guest;
use crate::run::start;

const MIB: u64 = 1 << 20;

fn machine(guest: &Guest) -> Machine {
    Machine {
        name: "test, one".into(),
        accelerator: Accelerator::choose(),
        kernel: File::open(&guest.kernel).expect("the kernel").into(),
        initrd: Some(File::open(&guest.initrd).expect("the initramfs").into()),
        cmdline: String::new(),
        cpus: Cpus { boot: 1, max: 3 },
        memory: Memory { boot: 256 * MIB, max: 768 * MIB },
        console: None,
        devices: Vec::new(),
        slots: 3,
    }
}

#[test]
fn a_machine_boots_and_changes_and_ends() {
    let Some(guest) = Guest::build() else { return };
    let mut machine = machine(&guest);
    let (mut console, theirs) = UnixStream::pair().expect("a pair");
    machine.console = Some(Console::Socket(theirs.into()));
    machine.devices.push(("rng".into(), Device::Rng));
    machine.devices.push(("balloon".into(), Device::Balloon));
    let mut running = start(&machine);
    drop(machine); // with QEMU's end of the console
    running.qemu.boot(Duration::from_secs(5)).expect("it runs");
    running.qemu.pause().unwrap();
    assert_eq!(running.qemu.status().unwrap(), Status::Paused);
    running.qemu.resume().unwrap();
    assert_eq!(running.qemu.status().unwrap(), Status::Running);
    let mut image = tempfile();
    image.write_all(&[b'x'; 4096]).unwrap();
    running.qemu.add_device("disk", Device::Block { image: image.into(), access: Access::Write }).unwrap();
    assert_eq!(running.qemu.resize_cpus(2, Duration::from_secs(1)).unwrap(), 2);
    // It has nobody to talk to, says so and powers off.
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = console.read(&mut buffer) {
        text += &String::from_utf8_lossy(&buffer[..n]);
    }
    assert!(text.contains("init: the host"), "{text}");
    assert_eq!(running.qemu.next_event(Duration::from_secs(1)), Some(Event::Shutdown));
    assert_eq!(running.qemu.next_event(Duration::from_secs(5)), Some(Event::Ended));
    assert_eq!(running.wait(), "");
}

fn tempfile() -> File {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("disk");
    File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}
