//! `SetUpSandbox` and `Online`: the guest as a whole.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use agent_api::{
    Code, Empty, OnlineRequest, SetUpSandboxRequest, SetUpSandboxResponse, Status, UpdateNetworkRequest, UpdateNetworkResponse,
};
use rustix::fs::Timespec;
use rustix::mount::{MountFlags, mount};
use rustix::time::{ClockId, clock_settime};

use crate::agent::Agent;
use crate::boot::{RESOLV_CONF, SHM, TREES};
use crate::log;
use crate::net;
use crate::sys;

/// How long plugged CPUs may take to show up.
const PATIENCE: Duration = Duration::from_secs(8);
const BETWEEN: Duration = Duration::from_millis(10);
const STACK: usize = 64 << 10;

impl Agent {
    /// Sets the guest up and makes the first container.
    pub fn set_up(self: &Arc<Agent>, mut request: SetUpSandboxRequest) -> Result<SetUpSandboxResponse, Status> {
        let mut done = self.set_up.lock();
        if *done {
            return Err(Status::new(Code::FailedPrecondition, "the sandbox has been set up already"));
        }
        // The kernel has booted with one, which an emulated machine does sooner. They come while the first container is made.
        let cpus = std::thread::Builder::new().name("cpus".into()).stack_size(STACK).spawn(cpus);
        let cpus = cpus.map_err(|error| internal("bring the CPUs in", error))?;
        log::set_level(request.log_level);
        clock(request.clock_ns)?;
        sys::add_entropy(&request.entropy).map_err(|errno| internal("add entropy", errno))?;
        if let Some(name) = &request.hostname {
            rustix::system::sethostname(name).map_err(|errno| internal("set the host name", errno))?;
        }
        self.modules.lock().load_for_devices().map_err(|why| Status::new(Code::Internal, why))?;
        net::set_up(&request)?;
        if !request.resolv_conf.is_empty() {
            fs::write(RESOLV_CONF, &request.resolv_conf).map_err(|error| internal("write resolv.conf", error))?;
        }
        if let Some(bytes) = request.shm_size {
            shm(bytes)?;
        }
        trees()?;
        *done = true;
        drop(done);
        if let Some(container) = request.container.take() {
            self.create(container)?;
        }
        let cpus = cpus.join().map_err(|_| internal("bring the CPUs in", "a panic"))?;
        net::devices::use_queues(cpus);
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(SetUpSandboxResponse { kernel })
    }

    /// Interfaces come and go.
    pub fn update_network(&self, request: &UpdateNetworkRequest) -> Result<UpdateNetworkResponse, Status> {
        let load = || self.modules.lock().load_for_devices().map_err(|why| Status::new(Code::Internal, why));
        net::update(request, load)?;
        net::devices::use_queues(cpus());
        Ok(UpdateNetworkResponse::default())
    }

    /// Brings plugged CPUs and memory into use.
    pub fn online(&self, request: OnlineRequest) -> Result<Empty, Status> {
        self.modules.lock().load_for_devices().map_err(|why| Status::new(Code::Internal, why))?;
        // For memory that is plugged from now on; what is there already is brought in below.
        bring_in(Path::new("/sys/devices/system/memory/auto_online_blocks"), "online_movable");
        memory();
        let end = Instant::now() + PATIENCE;
        loop {
            let there = cpus();
            if request.cpus == 0 || there >= request.cpus {
                net::devices::use_queues(there);
                return Ok(Empty {});
            }
            if Instant::now() > end {
                let why = format!("only {there} of {} CPUs are on line", request.cpus);
                return Err(Status::new(Code::Internal, why));
            }
            sleep(BETWEEN);
        }
    }
}

fn clock(now_ns: u64) -> Result<(), Status> {
    if now_ns == 0 {
        return Ok(());
    }
    let now = Timespec { tv_sec: (now_ns / 1_000_000_000) as i64, tv_nsec: (now_ns % 1_000_000_000) as i64 };
    clock_settime(ClockId::Realtime, now).map_err(|errno| internal("set the clock", errno))
}

/// The pod's /dev/shm.
fn shm(bytes: u64) -> Result<(), Status> {
    let options = CString::new(format!("mode=1777,size={bytes}")).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    fs::create_dir(SHM).map_err(|error| internal("make the shared /dev/shm", error))?;
    mount("shm", SHM, "tmpfs", flags, Some(options.as_c_str())).map_err(|errno| internal("mount the shared /dev/shm", errno))
}

/// Mounts the host's trees, if the VM has them. The numbers of device nodes in them mean something on the host only.
fn trees() -> Result<(), Status> {
    let tag = agent_api::vm::FS_TAG;
    match mount(tag, TREES, "virtiofs", MountFlags::NODEV, None) {
        Ok(()) => Ok(()),
        // No such device: a VM whose containers are all on images.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NODEV) => Ok(()),
        Err(errno) => Err(internal("mount the host's trees", errno)),
    }
}

/// Brings all CPUs in that are plugged; returns how many are on line.
fn cpus() -> u32 {
    let mut count = 0;
    for entry in fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu")?.parse::<u32>().ok());
        if number.is_none() {
            continue;
        }
        // CPU 0 has no such file: it is always on line.
        let file = entry.path().join("online");
        let state = fs::read_to_string(&file);
        if matches!(&state, Ok(text) if text.trim() == "0") {
            bring_in(&file, "1");
        }
        if !matches!(fs::read_to_string(&file), Ok(text) if text.trim() == "0") {
            count += 1;
        }
    }
    count
}

fn memory() {
    for entry in fs::read_dir("/sys/devices/system/memory").into_iter().flatten().flatten() {
        let file = entry.path().join("state");
        if matches!(fs::read_to_string(&file), Ok(text) if text.trim() == "offline") {
            bring_in(&file, "online_movable");
        }
    }
}

/// Has the kernel use a CPU or some memory.
fn bring_in(file: &Path, how: &str) {
    if let Err(error) = fs::write(file, how) {
        log::warn(format_args!("cannot write {how} to {}: {error}", file.display()));
    }
}

fn internal(step: &str, error: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, format!("cannot {step} in the guest: {error}"))
}
