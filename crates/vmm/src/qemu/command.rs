//! The command line of a machine. Each argument's reason stands in `docs/vmm.md`.

use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use serde_json::{Map, Value, json};

use super::devices::{self, Back};
use super::{MEMORY_STEP, MOST_CPUS, MOST_DRIVES, MOST_MEMORY, RESIZABLE, refused};
use crate::{Accelerator, CommandLine, Console, Device, Error, Inherited, Machine, Result};

/// QEMU's program for our guests.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// The first of the numbers that descriptors get.
const FIRST_FD: RawFd = 10;
/// More would not fit beside other devices on q35's root bus.
const MAX_SLOTS: u8 = 16;
/// The first of the slots that images and disks have.
const FIRST_DRIVE_SLOT: u32 = 0x1b;
/// Devices in a slot.
const FUNCTIONS: u32 = 8;
/// What every guest's kernel is told: no waiting and probing for what the machine does not have, none of some ticks for what few CPUs can be asked at
/// once, and no rewriting of its code to that of a machine with one CPU and back.
const KERNEL: &str = "panic=-1 quiet no_timer_check tsc=reliable random.trust_cpu=on noreplace-smp i8042.noaux i8042.nopnp i8042.dumbkbd \
                      cryptomgr.notests rcupdate.rcu_expedited=1";

/// The program that runs `machine`, to be spoken to over the other end of `qmp` (a connected unix stream socket).
///
/// It needs beside its descriptors: its firmware files (under /usr/share), /proc of its own pid namespace, and /dev/kvm for [`Accelerator::Kvm`].
///
/// # Errors
/// A machine that QEMU cannot build: sizes, numbers or names out of range.
pub fn command_line<'a>(machine: &'a Machine, qmp: BorrowedFd<'a>) -> Result<CommandLine<'a>> {
    check(machine)?;
    let mut line = Line { args: Vec::new(), inherited: Vec::new() };
    line.machine(machine);
    line.kernel(machine);
    line.memory(machine);
    let number = line.inherit(qmp);
    line.args(["-chardev", &format!("socket,id=qmp,fd={number},server=off"), "-mon", "chardev=qmp,mode=control"]);
    line.console(machine.console.as_ref());
    let mut drives = Drives { next: 0, all: drives(machine) };
    for (id, device) in &machine.devices {
        let parts = devices::parts(id, device)?;
        if let Some(back) = parts.back {
            line.back(back);
        }
        let mut front = parts.front;
        front.insert("bus".into(), json!("pcie.0"));
        if is_drive(device) {
            drives.place(&mut front);
        }
        line.json("-device", Value::Object(front));
    }
    for n in 0..machine.slots {
        // Chassis 0 is the root bus's.
        line.json(
            "-device",
            json!({"driver": "pcie-root-port", "id": format!("port{n}"), "bus": "pcie.0", "chassis": n + 1, "slot": n}),
        );
    }
    Ok(CommandLine { program: PROGRAM.into(), args: line.args, inherited: line.inherited })
}

fn check(machine: &Machine) -> Result<()> {
    let limit = |what, asked: u64, low: u64, high: u64| {
        if (low..=high).contains(&asked) { Ok(()) } else { Err(Error::Limit { what, asked, low, high }) }
    };
    limit("number of CPUs at the start", machine.cpus.boot.into(), 1, machine.cpus.max.into())?;
    limit("number of CPUs", machine.cpus.max.into(), 1, MOST_CPUS.into())?;
    limit("memory at the start", machine.memory.boot, 64 << 20, MOST_MEMORY)?;
    limit("memory", machine.memory.max, machine.memory.boot, MOST_MEMORY)?;
    limit("number of slots", machine.slots.into(), 0, MAX_SLOTS.into())?;
    limit("number of images and disks", drives(machine).into(), 0, MOST_DRIVES.into())?;
    limit("length of a kernel command line", machine.cmdline.len() as u64, 0, 1536)?;
    if !machine.memory.boot.is_multiple_of(2 << 20) || !(machine.memory.max - machine.memory.boot).is_multiple_of(MEMORY_STEP) {
        let message = format!("{} + n * {MEMORY_STEP} is not {}", machine.memory.boot, machine.memory.max);
        return Err(refused("memory", message));
    }
    let plain = |text: &str| !text.contains(['\0', '\n']);
    if !plain(&machine.cmdline) || !plain(&machine.name) {
        return Err(refused("-append", "a line feed or NUL in the machine's name or kernel command line".into()));
    }
    for (n, (id, _)) in machine.devices.iter().enumerate() {
        if machine.devices.iter().take(n).any(|(other, _)| other == id) {
            return Err(Error::BadName(id.clone()));
        }
    }
    Ok(())
}

fn is_drive(device: &Device) -> bool {
    matches!(device, Device::Pmem { .. } | Device::Block { .. })
}

fn drives(machine: &Machine) -> u32 {
    machine.devices.iter().filter(|(_, device)| is_drive(device)).count() as u32
}

/// Where images and disks are on the root bus: in the last slots before the chipset's, eight in each, in their order, which is the one they are found in.
struct Drives {
    next: u32,
    all: u32,
}

impl Drives {
    fn place(&mut self, front: &mut Map<String, Value>) {
        let (slot, function) = (FIRST_DRIVE_SLOT + self.next / FUNCTIONS, self.next % FUNCTIONS);
        front.insert("addr".into(), json!(format!("{slot:x}.{function}")));
        if self.all > self.next + 1 && function == 0 {
            front.insert("multifunction".into(), json!(true));
        }
        self.next += 1;
    }
}

struct Line<'a> {
    args: Vec<String>,
    inherited: Vec<Inherited<'a>>,
}

impl<'a> Line<'a> {
    fn args<const N: usize>(&mut self, args: [&str; N]) {
        self.args.extend(args.map(String::from));
    }

    fn json(&mut self, option: &str, value: Value) {
        self.args.extend([option.to_string(), value.to_string()]);
    }

    fn inherit(&mut self, fd: BorrowedFd<'a>) -> RawFd {
        let number = FIRST_FD + self.inherited.len() as RawFd;
        self.inherited.push(Inherited { number, fd });
        number
    }

    /// A descriptor as an fd set of its own number, for what QEMU opens by path.
    fn fd_set(&mut self, fd: BorrowedFd<'a>, owner: &str) -> RawFd {
        let number = self.inherit(fd);
        self.args(["-add-fd", &format!("fd={number},set={number},opaque={owner}")]);
        number
    }

    fn machine(&mut self, machine: &Machine) {
        // A comma ends a value; two of them are one.
        self.args(["-name", &format!("guest={}", machine.name.replace(',', ",,"))]);
        self.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", "qboot.rom"]);
        self.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
        self.args(["-machine", "q35,memory-backend=ram,usb=off,vmport=off,sata=off,smbus=off,hpet=off"]);
        match machine.accelerator {
            Accelerator::Kvm => self.args(["-accel", "kvm", "-cpu", "host"]),
            Accelerator::Emulation { .. } => self.args(["-accel", "tcg,thread=multi", "-cpu", "max,erms=off,fsrm=off"]),
        }
        self.args(["-smp", &format!("{},maxcpus={}", machine.cpus.boot, machine.cpus.max)]);
    }

    fn kernel(&mut self, machine: &'a Machine) {
        let mut cmdline = String::from(if machine.console.is_some() { "console=ttyS0 " } else { "" });
        let _ = write!(cmdline, "{KERNEL} {}", machine.cmdline);
        let kernel = self.inherit(machine.kernel.as_fd());
        self.args(["-kernel", &format!("/proc/self/fd/{kernel}"), "-append", cmdline.trim_end()]);
        if let Some(initrd) = &machine.initrd {
            let initrd = self.inherit(initrd.as_fd());
            self.args(["-initrd", &format!("/proc/self/fd/{initrd}")]);
        }
    }

    fn memory(&mut self, machine: &Machine) {
        let pmem = machine.devices.iter().map(|(_, device)| match device {
            crate::Device::Pmem { size, .. } => *size,
            _ => 0,
        });
        let resizable = machine.memory.max - machine.memory.boot;
        // Room for what is plugged into the memory area: pmem, cold and (a guess) hot, and virtio-mem, each aligned.
        let room = pmem.fold(resizable, u64::saturating_add).saturating_add(u64::from(machine.slots) << 30);
        let size = machine.memory.boot;
        self.args(["-m", &format!("size={size}b,maxmem={}b", size.saturating_add(room))]);
        self.json("-object", devices::memory_own("ram", size));
        if resizable > 0 {
            self.json("-object", devices::memory_own("resizable-ram", resizable));
            let front = json!({"driver": "virtio-mem-pci", "id": RESIZABLE, "memdev": "resizable-ram", "bus": "pcie.0"});
            self.json("-device", front);
        }
    }

    fn console(&mut self, console: Option<&'a Console>) {
        match console {
            None => return,
            Some(Console::Socket(fd)) => {
                let number = self.inherit(fd.as_fd());
                self.args(["-chardev", &format!("socket,id=console,fd={number},server=off")]);
            }
            Some(Console::File(fd)) => {
                let set = self.fd_set(fd.as_fd(), "console");
                self.args(["-chardev", &format!("file,id=console,path=/dev/fdset/{set},append=on")]);
            }
        }
        self.args(["-serial", "chardev:console"]);
    }

    fn back(&mut self, back: Back<'a>) {
        match back {
            Back::Chardev { id, fd } => {
                let number = self.inherit(fd);
                self.args(["-chardev", &format!("socket,id={id},fd={number},server=off")]);
            }
            Back::Block { id, fd, access, driver } => {
                let set = self.fd_set(fd, id.strip_prefix("b-").unwrap_or(&id));
                self.json("-blockdev", devices::block_node(&id, driver, access, set.into()));
            }
            Back::Memory { id, fd, size, access } => {
                let number = self.inherit(fd);
                self.json("-object", devices::memory_file(&id, number.into(), size, access));
            }
            Back::Net { id, taps, vhost } => {
                let mut numbers = |fds: Vec<BorrowedFd<'a>>| -> Vec<String> {
                    fds.into_iter().map(|fd| self.inherit(fd).to_string()).collect()
                };
                let netdev = devices::netdev(&id, &numbers(taps), &numbers(vhost));
                self.json("-netdev", netdev);
            }
        }
    }
}
