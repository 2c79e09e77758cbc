//! [`IpcLimits`]: the limits of an IPC namespace (`kernel.shm*`, `msg*`, `sem`, `fs.mqueue.*`), which a pod's sysctls may change.

use super::mqueue::{DEFAULT, HARD, QUEUES_MAX};
use super::sysv::{IPCMNI, msg, sem, shm};
use super::tunables::Tunable;

/// See the module. Upper bounds of what can be set keep what a guest can make the sentry hold finite; budgets of bytes apply beside.
pub struct IpcLimits {
    /// `kernel.shmmax` (bytes), `shmall` (pages), `shmmni`.
    pub shmmax: Tunable,
    pub shmall: Tunable,
    pub shmmni: Tunable,
    /// `kernel.msgmax` (bytes), `msgmnb` (bytes), `msgmni`.
    pub msgmax: Tunable,
    pub msgmnb: Tunable,
    pub msgmni: Tunable,
    /// `kernel.sem`, in its order.
    pub semmsl: Tunable,
    pub semmns: Tunable,
    pub semopm: Tunable,
    pub semmni: Tunable,
    /// `fs.mqueue.*`.
    pub mq_queues: Tunable,
    pub mq_msg_max: Tunable,
    pub mq_msgsize_max: Tunable,
    pub mq_msg_default: Tunable,
    pub mq_msgsize_default: Tunable,
}

impl Default for IpcLimits {
    fn default() -> IpcLimits {
        let positive = i32::MAX as u64;
        IpcLimits {
            shmmax: Tunable::new(shm::SHMMAX, 0..=u64::MAX),
            shmall: Tunable::new(shm::SHMALL, 0..=u64::MAX),
            shmmni: Tunable::new(shm::SHMMNI as u64, 0..=IPCMNI as u64),
            msgmax: Tunable::new(msg::MSGMAX, 0..=msg::BUDGET),
            msgmnb: Tunable::new(msg::MSGMNB, 0..=positive),
            msgmni: Tunable::new(msg::MSGMNI as u64, 0..=IPCMNI as u64),
            semmsl: Tunable::new(sem::SEMMSL as u64, 0..=sem::SEMMSL as u64),
            semmns: Tunable::new(sem::SEMMNS, 0..=positive),
            semopm: Tunable::new(sem::SEMOPM, 0..=sem::SEMOPM),
            semmni: Tunable::new(sem::SEMMNI as u64, 0..=IPCMNI as u64),
            mq_queues: Tunable::new(QUEUES_MAX, 0..=1 << 16),
            mq_msg_max: Tunable::new(DEFAULT.max_messages, 1..=HARD.max_messages),
            mq_msgsize_max: Tunable::new(DEFAULT.message_size, 128..=HARD.message_size),
            mq_msg_default: Tunable::new(DEFAULT.max_messages, 1..=HARD.max_messages),
            mq_msgsize_default: Tunable::new(DEFAULT.message_size, 128..=HARD.message_size),
        }
    }
}

/// Each sysctl's path below /proc/sys and its numbers.
type Fields = &'static [fn(&IpcLimits) -> &Tunable];

pub const SYSCTLS: &[(&str, Fields)] = &[
    ("fs/mqueue/msg_default", &[|l| &l.mq_msg_default]),
    ("fs/mqueue/msg_max", &[|l| &l.mq_msg_max]),
    ("fs/mqueue/msgsize_default", &[|l| &l.mq_msgsize_default]),
    ("fs/mqueue/msgsize_max", &[|l| &l.mq_msgsize_max]),
    ("fs/mqueue/queues_max", &[|l| &l.mq_queues]),
    ("kernel/msgmax", &[|l| &l.msgmax]),
    ("kernel/msgmnb", &[|l| &l.msgmnb]),
    ("kernel/msgmni", &[|l| &l.msgmni]),
    ("kernel/sem", &[|l| &l.semmsl, |l| &l.semmns, |l| &l.semopm, |l| &l.semmni]),
    ("kernel/shmall", &[|l| &l.shmall]),
    ("kernel/shmmax", &[|l| &l.shmmax]),
    ("kernel/shmmni", &[|l| &l.shmmni]),
];

impl IpcLimits {
    /// As its file in /proc/sys shows it.
    pub fn show(&self, fields: Fields) -> String {
        fields.iter().map(|field| field(self).get().to_string()).collect::<Vec<_>>().join("\t")
    }

    /// Sets all numbers of a sysctl; false, and nothing is changed, if they are not as many, or one is out of its range.
    pub fn set(&self, fields: Fields, text: &str) -> bool {
        let Some(values) = text.split_ascii_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>() else {
            return false;
        };
        let fits = |(field, value): (&fn(&IpcLimits) -> &Tunable, &u64)| field(self).range.contains(value);
        if values.len() != fields.len() || !fields.iter().zip(&values).all(fits) {
            return false;
        }
        fields.iter().zip(values).all(|(field, value)| field(self).set(value))
    }
}
