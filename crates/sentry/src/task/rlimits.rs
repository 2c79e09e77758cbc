//! Resource limits of a process (getrlimit(2)).

/// A resource, by Linux's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Resource {
    /// CPU time in seconds.
    Cpu = 0,
    Fsize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    Rss = 5,
    Nproc = 6,
    Nofile = 7,
    Memlock = 8,
    As = 9,
    Locks = 10,
    Sigpending = 11,
    Msgqueue = 12,
    Nice = 13,
    Rtprio = 14,
    Rttime = 15,
}

impl Resource {
    /// All, by number.
    pub const ALL: [Resource; 16] = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];

    /// A number from outside.
    pub fn new(number: u32) -> Option<Resource> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// A limit: what holds now, and how far it may be raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

impl Limit {
    pub const INFINITY: u64 = u64::MAX;
    pub const UNLIMITED: Limit = Limit { soft: u64::MAX, hard: u64::MAX };
}

/// The limits of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimits([Limit; 16]);

impl Rlimits {
    pub fn get(&self, resource: Resource) -> Limit {
        self.0.get(resource as usize).copied().unwrap_or(Limit::UNLIMITED)
    }

    pub fn set(&mut self, resource: Resource, limit: Limit) {
        if let Some(slot) = self.0.get_mut(resource as usize) {
            *slot = limit;
        }
    }
}

impl Default for Rlimits {
    /// What Linux gives its first process, with container engines' usual number of files.
    fn default() -> Rlimits {
        let mut limits = Rlimits([Limit::UNLIMITED; 16]);
        limits.set(Resource::Stack, Limit { soft: 8 << 20, hard: Limit::INFINITY });
        limits.set(Resource::Core, Limit { soft: 0, hard: Limit::INFINITY });
        limits.set(Resource::Nofile, Limit { soft: 1024, hard: 1 << 20 });
        limits.set(Resource::Memlock, Limit { soft: 8 << 20, hard: 8 << 20 });
        limits.set(Resource::Sigpending, Limit { soft: 32_768, hard: 32_768 });
        limits.set(Resource::Msgqueue, Limit { soft: 819_200, hard: 819_200 });
        limits.set(Resource::Nice, Limit { soft: 0, hard: 0 });
        limits.set(Resource::Rtprio, Limit { soft: 0, hard: 0 });
        limits
    }
}
