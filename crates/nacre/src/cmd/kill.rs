//! `nacre kill`.

use agent_api::SignalTarget;
use anyhow::anyhow;
use clap::Args;

use super::Failure;
use crate::cli::Global;

/// Send a signal (SIGTERM if none is given) to a container's process
#[derive(Debug, Args)]
pub struct Kill {
    /// To all its processes
    #[arg(long, short)]
    all: bool,
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
}

impl Kill {
    pub fn run(&self, global: &Global) -> Result<u8, Failure> {
        let signal = parse(&self.signal).ok_or_else(|| anyhow!("unknown signal {:?}", self.signal))?;
        let target = if self.all { SignalTarget::Container } else { SignalTarget::Process };
        global.runtime().kill(&self.id, signal, target)?;
        Ok(0)
    }
}

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR",
    "SYS",
];

/// `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |rest: &str, from: i32, sign: i32| match rest {
        "" => Some(from),
        rest => rest.strip_prefix(['+', '-'])?.parse::<i32>().ok().map(|n| from + sign * n),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return realtime(rest, 34, 1).filter(|n| (34..=64).contains(n));
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return realtime(rest, 64, -1).filter(|n| (34..=64).contains(n));
    }
    NAMES.iter().position(|known| *known == name).map(|at| at as i32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGSYS", 31), ("RTMIN+3", 37), ("SIGRTMAX", 64), ("RTMAX-1", 63)]
        {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in ["0", "65", "SIGFOO", "", "RTMIN+99"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("WINCH"), Some(libc::SIGWINCH));
    }
}
