//! Which devices a container's processes may make, read and write: a program of its cgroup that the kernel asks (`BPF_PROG_TYPE_CGROUP_DEVICE`), as runc's.
//!
//! Of block devices only loop devices and the container's own disks can be read or written, whatever the configuration says: the others are the
//! machine's and its neighbours', under numbers that a configuration made for the host cannot mean.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use agent_api::dev::{self, access};
use agent_api::{CreateContainerRequest, DeviceKind, DeviceRule, Status};
use rustix::fs::{major, minor};
use rustix::io::Errno;

use crate::init::devices;
use crate::log;
use crate::sys::{self, Instruction};

const ALL: u32 = access::MKNOD | access::READ | access::WRITE;
/// Numbers of terminals (`/dev/pts/*`), and of what makes them.
const PTS: u32 = 136;
const PTMX: (u32, u32) = (5, 2);
/// Number of loop devices. They are the guest's, under the number that they have everywhere.
const LOOPS: u32 = 7;

/// Whether this kernel has such programs. Without them only file systems that open no devices keep containers from others' disks.
pub fn are_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| match sys::load_device_program(&program(&[])) {
        Ok(_) => true,
        Err(errno) => {
            log::warn(format_args!(
                "this kernel keeps no device rules for containers (CONFIG_CGROUP_BPF, CONFIG_BPF_SYSCALL): {errno}"
            ));
            false
        }
    })
}

/// A container's rules, loaded.
#[derive(Debug)]
pub struct DeviceRules(OwnedFd);

impl DeviceRules {
    /// Those of a container to be made. None where the kernel has no such programs.
    ///
    /// # Errors
    /// A device's disk is not there; the kernel's.
    pub fn of(request: &CreateContainerRequest) -> Result<Option<DeviceRules>, Status> {
        if !are_there() {
            return Ok(None);
        }
        let program = program(&rules(request)?);
        let loaded = sys::load_device_program(&program).map_err(|errno| failed("load", errno))?;
        Ok(Some(DeviceRules(loaded)))
    }

    /// Has them hold for a cgroup, by its directory, and all below it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&self, cgroup: impl AsFd) -> Result<(), Status> {
        sys::attach_device_program(cgroup.as_fd(), self.0.as_fd()).map_err(|errno| failed("attach", errno))
    }
}

fn failed(what: &str, errno: Errno) -> Status {
    Status::new(
        agent_api::Code::Internal,
        format!("cannot {what} the container's device rules: {}", hostcall::Errno::from(errno)),
    )
}

/// All that hold, each over those before it.
fn rules(request: &CreateContainerRequest) -> Result<Vec<DeviceRule>, Status> {
    let rule = |kind: DeviceKind, (major, minor): (Option<u32>, Option<u32>), access: u32| DeviceRule {
        allow: true,
        kind: Some(kind.into()),
        major,
        minor,
        access,
    };
    let character = |number, access| rule(DeviceKind::Character, number, access);
    let block = |number, access| rule(DeviceKind::Block, number, access);
    let mut rules = request.device_rules.clone();
    // As runc: nodes may be made, and the usual ones opened.
    rules.push(character((None, None), access::MKNOD));
    rules.extend(dev::NODES.map(|(_, major, minor)| character((Some(major), Some(minor)), ALL)));
    rules.push(character((Some(PTS), None), ALL));
    rules.push(character((Some(PTMX.0), Some(PTMX.1)), ALL));
    rules.push(DeviceRule { allow: false, ..block((None, None), access::READ | access::WRITE) });
    rules.push(block((None, None), access::MKNOD));
    let of_loops = |rule: &&DeviceRule| {
        rule.kind.is_none_or(|kind| kind == DeviceKind::Block as i32) && rule.major.is_none_or(|major| major == LOOPS)
    };
    let narrowed = |rule: &DeviceRule| DeviceRule { allow: rule.allow, ..block((Some(LOOPS), rule.minor), rule.access) };
    rules.extend(request.device_rules.iter().filter(of_loops).map(narrowed));
    for device in &request.devices {
        let Some(disk) = device.disk else { continue };
        let number = devices::number(device, &request.disks)?;
        let write = if disk.read_only { 0 } else { access::WRITE };
        rules.push(block((Some(major(number)), Some(minor(number))), access::READ | write));
    }
    Ok(rules)
}

/// What each register holds.
mod register {
    pub const ANSWER: u8 = 0;
    pub const CONTEXT: u8 = 1;
    pub const KIND: u8 = 2;
    /// What is done and not yet allowed.
    pub const ACCESS: u8 = 3;
    pub const MAJOR: u8 = 4;
    pub const MINOR: u8 = 5;
    pub const SCRATCH: u8 = 6;
}

/// `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR`.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// The program: from the last rule to the first, each decides about what no later one has decided; what none allows is denied.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    use register::{ACCESS, ANSWER, CONTEXT, KIND, MAJOR, MINOR, SCRATCH};
    // struct bpf_cgroup_dev_ctx: access_type (what is done in its upper half, the kind in the lower), major, minor.
    let mut program = vec![
        Instruction::load(KIND, CONTEXT, 0),
        Instruction::copy(ACCESS, KIND),
        Instruction::shift_right(ACCESS, 16),
        Instruction::and(KIND, 0xffff),
        Instruction::load(MAJOR, CONTEXT, 4),
        Instruction::load(MINOR, CONTEXT, 8),
    ];
    for rule in rules.iter().rev() {
        let body = if rule.allow {
            [
                Instruction::and(ACCESS, !rule.access),
                Instruction::unless_zero(ACCESS, 2),
                Instruction::set(ANSWER, 1),
                Instruction::exit(),
            ]
            .to_vec()
        } else {
            [
                Instruction::copy(SCRATCH, ACCESS),
                Instruction::and(SCRATCH, rule.access),
                Instruction::if_zero(SCRATCH, 2),
                Instruction::set(ANSWER, 0),
                Instruction::exit(),
            ]
            .to_vec()
        };
        let kind = rule.kind.map(|kind| if kind == DeviceKind::Block as i32 { BLOCK } else { CHARACTER });
        let conditions: Vec<_> = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)]
            .into_iter()
            .filter_map(|(of, is)| Some((of, is?)))
            .collect();
        for (place, (of, is)) in conditions.iter().enumerate() {
            let rest = conditions.len() - 1 - place + body.len();
            program.push(Instruction::unless_equal(*of, *is, rest as i16));
        }
        program.extend(body);
    }
    program.extend([Instruction::set(ANSWER, 0), Instruction::exit()]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by a machine that knows just its instructions.
    fn run(program: &[Instruction], kind: u32, (major, minor): (u32, u32), access: u32) -> bool {
        let mut registers = [0_u64; 11];
        let context = [access << 16 | kind, major, minor];
        let mut at = 0_usize;
        for _ in 0..10_000 {
            let one = program[at];
            let (to, from, value) = ((one.registers & 15) as usize, (one.registers >> 4) as usize, one.immediate);
            at += 1;
            let jump = match one.code {
                0x61 => {
                    registers[to] = context[one.offset as usize / 4].into();
                    false
                }
                0xbf => {
                    registers[to] = registers[from];
                    false
                }
                0xb7 => {
                    registers[to] = i64::from(value) as u64;
                    false
                }
                0x57 => {
                    registers[to] &= i64::from(value) as u64;
                    false
                }
                0x77 => {
                    registers[to] >>= value;
                    false
                }
                0x56 => registers[to] as u32 != value as u32,
                0x15 => registers[to] == value as u64,
                0x55 => registers[to] != value as u64,
                0x95 => return registers[0] == 1,
                other => panic!("no instruction {other:#x}"),
            };
            if jump {
                at += one.offset as usize;
            }
        }
        panic!("no end")
    }

    fn rule(allow: bool, kind: Option<DeviceKind>, major: Option<u32>, minor: Option<u32>, access: u32) -> DeviceRule {
        DeviceRule { allow, kind: kind.map(Into::into), major, minor, access }
    }

    /// What the rules mean: of each thing that is done the last rule about it decides.
    fn meant(rules: &[DeviceRule], kind: DeviceKind, (major, minor): (u32, u32), access: u32) -> bool {
        let is_of = |rule: &&DeviceRule| {
            rule.kind.is_none_or(|of| of == kind as i32)
                && rule.major.is_none_or(|of| of == major)
                && rule.minor.is_none_or(|of| of == minor)
        };
        let done = [access::MKNOD, access::READ, access::WRITE].into_iter().filter(|one| access & one != 0);
        done.into_iter()
            .all(|one| rules.iter().filter(is_of).rfind(|rule| rule.access & one != 0).is_some_and(|rule| rule.allow))
    }

    #[test]
    fn the_program_does_what_the_rules_mean() {
        let (block, character) = (Some(DeviceKind::Block), Some(DeviceKind::Character));
        let lists = [
            vec![],
            vec![rule(true, None, None, None, ALL)],
            vec![rule(false, None, None, None, ALL), rule(true, character, Some(1), Some(3), ALL)],
            vec![rule(true, character, Some(1), Some(3), access::READ), rule(true, character, Some(1), None, access::WRITE)],
            vec![rule(true, None, None, None, ALL), rule(false, block, None, None, access::READ | access::WRITE)],
            vec![
                rule(true, None, None, None, ALL),
                rule(false, block, None, None, access::WRITE),
                rule(true, block, Some(254), Some(16), access::WRITE),
                rule(false, character, None, Some(3), access::MKNOD),
                rule(true, block, Some(u32::MAX), None, ALL),
            ],
        ];
        for rules in lists {
            let program = program(&rules);
            for (kind, code) in [(DeviceKind::Block, BLOCK), (DeviceKind::Character, CHARACTER)] {
                for number in [(1, 3), (1, 5), (254, 16), (254, 32), (u32::MAX, 3)] {
                    for access in 1..=ALL {
                        let answer = run(&program, code, number, access);
                        assert_eq!(answer, meant(&rules, kind, number, access), "{rules:?} {kind:?} {number:?} {access}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_rule_gives_a_disk_of_others() {
        let everything = rule(true, None, None, None, ALL);
        let request = CreateContainerRequest { device_rules: vec![everything], ..CreateContainerRequest::default() };
        let program = program(&rules(&request).expect("rules"));
        assert!(run(&program, CHARACTER, (10, 229), access::READ | access::WRITE));
        assert!(run(&program, BLOCK, (254, 0), access::MKNOD));
        for access in [access::READ, access::WRITE, access::READ | access::MKNOD] {
            assert!(!run(&program, BLOCK, (254, 0), access));
        }
    }

    #[test]
    fn loops_are_as_the_configuration_says() {
        let (all, write) = (rule(true, None, None, None, ALL), access::WRITE);
        let sealed = rule(false, Some(DeviceKind::Block), Some(LOOPS), Some(3), write);
        let request = CreateContainerRequest { device_rules: vec![all, sealed], ..CreateContainerRequest::default() };
        let program = program(&rules(&request).expect("rules"));
        assert!(run(&program, BLOCK, (LOOPS, 2), access::READ | write));
        assert!(run(&program, BLOCK, (LOOPS, 3), access::READ));
        assert!(!run(&program, BLOCK, (LOOPS, 3), write));
        assert!(!run(&program, BLOCK, (254, 3), access::READ));
    }

    #[test]
    fn without_rules_there_are_the_usual_devices() {
        let program = program(&rules(&CreateContainerRequest::default()).expect("rules"));
        for number in [(1, 3), (5, 0), (5, 2), (136, 7)] {
            assert!(run(&program, CHARACTER, number, access::READ | access::WRITE), "{number:?}");
        }
        assert!(run(&program, CHARACTER, (10, 229), access::MKNOD));
        for number in [(1, 1), (10, 229), (10, 200)] {
            assert!(!run(&program, CHARACTER, number, access::READ), "{number:?}");
        }
        assert!(!run(&program, BLOCK, (LOOPS, 0), access::READ));
    }
}
