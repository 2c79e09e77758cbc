//! Whole command lines, as they are meant to be.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{PMEM_ALIGN, command_line};
use crate::{Accelerator, Access, Console, Cpus, Device, Error, Machine, Memory};

const MIB: u64 = 1 << 20;

fn file() -> OwnedFd {
    rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

fn machine() -> Machine {
    Machine {
        name: "pod".into(),
        accelerator: Accelerator::Emulation { because: "a test".into() },
        kernel: file(),
        initrd: None,
        cmdline: "nacre.x=1".into(),
        cpus: Cpus { boot: 1, max: 1 },
        memory: Memory { boot: 256 * MIB, max: 256 * MIB },
        console: None,
        devices: Vec::new(),
        slots: 0,
    }
}

fn check(machine: &Machine, expected: &str) {
    let qmp = file();
    let line = command_line(machine, qmp.as_fd()).unwrap();
    let got = line.args.join("\n").replace("\n-", "\n\n-");
    let got: Vec<String> = got.split("\n\n").map(|option| option.replace('\n', " ")).collect();
    let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
    assert_eq!(got, expected, "\n{}", got.join("\n"));
    let numbers: Vec<i32> = line.inherited.iter().map(|inherited| inherited.number).collect();
    let from_ten: Vec<i32> = (10..).take(numbers.len()).collect();
    assert_eq!(numbers, from_ten);
}

#[test]
fn the_least_machine() {
    check(
        &machine(),
        r#"
        -name guest=pod
        -nodefaults
        -no-user-config
        -display none
        -no-reboot
        -bios qboot.rom
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        -machine q35,memory-backend=ram,usb=off,vmport=off,sata=off,smbus=off,hpet=off
        -accel tcg,thread=multi
        -cpu max,erms=off,fsrm=off
        -smp 1,maxcpus=1
        -kernel /proc/self/fd/10
        -append panic=-1 quiet no_timer_check tsc=reliable random.trust_cpu=on noreplace-smp i8042.noaux i8042.nopnp i8042.dumbkbd cryptomgr.notests rcupdate.rcu_expedited=1 nacre.x=1
        -m size=268435456b,maxmem=268435456b
        -object {"id":"ram","qom-type":"memory-backend-memfd","share":true,"size":268435456}
        -chardev socket,id=qmp,fd=11,server=off
        -mon chardev=qmp,mode=control
        "#,
    );
}

#[test]
fn every_device() {
    let mut machine = machine();
    machine.name = "a,b".into();
    machine.accelerator = Accelerator::Kvm;
    machine.initrd = Some(file());
    machine.console = Some(Console::Socket(file()));
    machine.cpus = Cpus { boot: 2, max: 8 };
    machine.memory.max = 1024 * MIB;
    machine.slots = 2;
    let devices = [
        ("fs", Device::VirtioFs { tag: "nacre".into(), socket: file() }),
        ("vsock", Device::Vsock { socket: file() }),
        ("image", Device::Pmem { image: file(), size: PMEM_ALIGN, access: Access::Read }),
        ("disk", Device::Block { image: file(), access: Access::Write }),
        ("nic", Device::Net { taps: vec![file()], vhost: Vec::new(), mac: [2, 0, 0, 0, 0xab, 1] }),
        ("wide", Device::Net { taps: vec![file(), file()], vhost: vec![file(), file()], mac: [2, 0, 0, 0, 0xab, 2] }),
        ("balloon", Device::Balloon),
        ("rng", Device::Rng),
    ];
    machine.devices = devices.into_iter().map(|(id, device)| (id.to_string(), device)).collect();
    check(
        &machine,
        r#"
        -name guest=a,,b
        -nodefaults
        -no-user-config
        -display none
        -no-reboot
        -bios qboot.rom
        -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        -machine q35,memory-backend=ram,usb=off,vmport=off,sata=off,smbus=off,hpet=off
        -accel kvm
        -cpu host
        -smp 2,maxcpus=8
        -kernel /proc/self/fd/10
        -append console=ttyS0 panic=-1 quiet no_timer_check tsc=reliable random.trust_cpu=on noreplace-smp i8042.noaux i8042.nopnp i8042.dumbkbd cryptomgr.notests rcupdate.rcu_expedited=1 nacre.x=1
        -initrd /proc/self/fd/11
        -m size=268435456b,maxmem=3355443200b
        -object {"id":"ram","qom-type":"memory-backend-memfd","share":true,"size":268435456}
        -object {"id":"resizable-ram","qom-type":"memory-backend-memfd","share":true,"size":805306368}
        -device {"bus":"pcie.0","driver":"virtio-mem-pci","id":"resizable","memdev":"resizable-ram"}
        -chardev socket,id=qmp,fd=12,server=off
        -mon chardev=qmp,mode=control
        -chardev socket,id=console,fd=13,server=off
        -serial chardev:console
        -chardev socket,id=c-fs,fd=14,server=off
        -device {"bus":"pcie.0","chardev":"c-fs","driver":"vhost-user-fs-pci","id":"fs","queue-size":1024,"tag":"nacre"}
        -chardev socket,id=c-vsock,fd=15,server=off
        -device {"bus":"pcie.0","chardev":"c-vsock","driver":"vhost-user-vsock-pci","id":"vsock"}
        -object {"id":"m-image","mem-path":"/proc/self/fd/16","qom-type":"memory-backend-file","readonly":true,"share":true,"size":134217728}
        -device {"addr":"1b.0","bus":"pcie.0","driver":"virtio-pmem-pci","id":"image","memdev":"m-image","multifunction":true}
        -add-fd fd=17,set=17,opaque=disk
        -blockdev {"discard":"unmap","driver":"raw","file":{"discard":"unmap","driver":"file","filename":"/dev/fdset/17","read-only":false},"node-name":"b-disk","read-only":false}
        -device {"addr":"1b.1","bus":"pcie.0","drive":"b-disk","driver":"virtio-blk-pci","id":"disk","rerror":"report","serial":"disk","werror":"report"}
        -netdev {"fd":"18","id":"n-nic","type":"tap","vhost":false}
        -device {"bus":"pcie.0","driver":"virtio-net-pci","id":"nic","mac":"02:00:00:00:ab:01","netdev":"n-nic","romfile":""}
        -netdev {"fds":"19:20","id":"n-wide","type":"tap","vhost":true,"vhostfds":"21:22"}
        -device {"bus":"pcie.0","driver":"virtio-net-pci","id":"wide","mac":"02:00:00:00:ab:02","mq":true,"netdev":"n-wide","romfile":"","vectors":6}
        -device {"bus":"pcie.0","driver":"virtio-balloon-pci","free-page-reporting":true,"id":"balloon"}
        -device {"bus":"pcie.0","driver":"virtio-rng-pci","id":"rng"}
        -device {"bus":"pcie.0","chassis":1,"driver":"pcie-root-port","id":"port0","slot":0}
        -device {"bus":"pcie.0","chassis":2,"driver":"pcie-root-port","id":"port1","slot":1}
        "#,
    );
}

#[test]
fn a_console_in_a_file() {
    let mut machine = machine();
    let file = file();
    let raw = file.as_raw_fd();
    machine.console = Some(Console::File(file));
    let qmp = self::file();
    let line = command_line(&machine, qmp.as_fd()).unwrap();
    let args = line.args.join(" ");
    assert!(args.ends_with(
        "-add-fd fd=12,set=12,opaque=console -chardev file,id=console,path=/dev/fdset/12,append=on -serial chardev:console"
    ));
    assert_eq!(line.inherited[2].fd.as_raw_fd(), raw);
}

/// Drivers find them in the order of their addresses, and the agent counts by it.
#[test]
fn drives_keep_their_order() {
    let mut machine = machine();
    let disk = |n| (format!("d{n}"), Device::Block { image: file(), access: Access::Read });
    machine.devices = (0..10).map(disk).collect();
    let qmp = file();
    let line = command_line(&machine, qmp.as_fd()).unwrap();
    let devices = line.args.iter().filter_map(|arg| serde_json::from_str::<serde_json::Value>(arg).ok());
    let devices: Vec<_> = devices.filter(|device| device["driver"] == "virtio-blk-pci").collect();
    let addresses: Vec<_> = devices.iter().filter_map(|device| device["addr"].as_str()).collect();
    assert_eq!(addresses[..2], ["1b.0", "1b.1"]);
    assert_eq!(addresses[7..], ["1b.7", "1c.0", "1c.1"]);
    let first: Vec<_> = devices.iter().filter(|device| device["multifunction"] == true).map(|device| &device["id"]).collect();
    assert_eq!(first, ["d0", "d8"]);
}

/// What is wrong with a machine, and how it is made so.
type Fault = (&'static str, fn(&mut Machine));

#[test]
fn what_cannot_be_is_said() {
    let faults: [Fault; 11] = [
        ("number of CPUs at the start 3 is not between 1 and 1", |m| m.cpus.boot = 3),
        ("number of CPUs 256 is not between 1 and 255", |m| m.cpus.max = 256),
        ("memory 1 is not between 268435456 and 1099511627776", |m| m.memory.max = 1),
        ("qemu refused memory: 268435456 + n * 134217728 is not 268435457", |m| m.memory.max += 1),
        ("number of slots 17 is not between 0 and 16", |m| m.slots = 17),
        ("qemu refused -append: a line feed or NUL in the machine's name or kernel command line", |m| {
            m.cmdline = "a\nb".into()
        }),
        ("device name \"A\": 1 to 32 of a-z, 0-9 and -, beginning with a letter, and no other's", |m| {
            m.devices.push(("A".into(), Device::Rng))
        }),
        ("device name \"a\": 1 to 32 of a-z, 0-9 and -, beginning with a letter, and no other's", |m| {
            m.devices.extend([("a".to_string(), Device::Rng), ("a".to_string(), Device::Balloon)]);
        }),
        ("qemu refused virtio-pmem-pci: p: a pmem image of 4096 bytes is not a multiple of 134217728", |m| {
            m.devices.push(("p".into(), Device::Pmem { image: file(), size: 4096, access: Access::Read }));
        }),
        ("number of images and disks 33 is not between 0 and 32", |m| {
            let disk = |n| (format!("d{n}"), Device::Block { image: file(), access: Access::Read });
            m.devices.extend((0..33).map(disk));
        }),
        ("qemu refused netdev_add: n: 1 queues of a tap, and 2 of vhost-net", |m| {
            let (taps, vhost) = (vec![file()], vec![file(), file()]);
            m.devices.push(("n".into(), Device::Net { taps, vhost, mac: [2; 6] }));
        }),
    ];
    let qmp = file();
    for (message, spoil) in faults {
        let mut machine = machine();
        spoil(&mut machine);
        let error: Error = command_line(&machine, qmp.as_fd()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let mut machine = machine();
    machine.devices.push(("b".into(), Device::Block { image: rustix::pipe::pipe().unwrap().0, access: Access::Read }));
    assert_eq!(
        command_line(&machine, qmp.as_fd()).unwrap_err().to_string(),
        "qemu refused blockdev-add: b is neither a file nor a block device: Fifo"
    );
}
