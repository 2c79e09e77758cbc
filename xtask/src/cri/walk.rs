//! The fault walk: a pod's life, step by step, and at each step a process of its own is killed, or containerd.
//!
//! Whatever is killed when: every call comes back in time and with a status of its own, what ends a life succeeds (at the latest when it is tried again,
//! as a kubelet does), and nothing is left. A moment at which there was nobody to kill fails, unless it is one of [`Life::may_miss`].

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use super::engine::{self, Engine};
use super::image;
use crate::sh::{self, Ended};

/// Takes minutes.
pub const FULL: &[Case] = &[
    ("walk-shim", |engine| walk(engine, Sandbox::Sentry, Victim::Shim, Moments::Some)),
    ("walk-sentry", |engine| walk(engine, Sandbox::Sentry, Victim::Process("nacre-sentry"), Moments::Some)),
    ("walk-gofer", |engine| walk(engine, Sandbox::Sentry, Victim::Process("nacre-gofer"), Moments::Some)),
    ("walk-containerd", |engine| walk(engine, Sandbox::Sentry, Victim::Containerd, Moments::Some)),
    ("walk-create", |engine| walk(engine, Sandbox::Sentry, Victim::Create, Moments::Some)),
    ("walk-all-shim", |engine| walk(engine, Sandbox::Sentry, Victim::Shim, Moments::All)),
    ("walk-all-sentry", |engine| walk(engine, Sandbox::Sentry, Victim::Process("nacre-sentry"), Moments::All)),
    ("walk-all-gofer", |engine| walk(engine, Sandbox::Sentry, Victim::Process("nacre-gofer"), Moments::All)),
    ("walk-all-containerd", |engine| walk(engine, Sandbox::Sentry, Victim::Containerd, Moments::All)),
    ("walk-all-create", |engine| walk(engine, Sandbox::Sentry, Victim::Create, Moments::All)),
    ("walk-vm-shim", |engine| walk(engine, Sandbox::Vm, Victim::Shim, Moments::Some)),
    ("walk-vm-keeper", |engine| walk(engine, Sandbox::Vm, Victim::Process("nacre-keeper"), Moments::Some)),
    ("walk-vm-files", |engine| walk(engine, Sandbox::Vm, Victim::Process("nacre-fs"), Moments::Some)),
    ("walk-vm-machine", |engine| walk(engine, Sandbox::Vm, Victim::Process("qemu-system-x86"), Moments::Some)),
    ("walk-vm-create", |engine| walk(engine, Sandbox::Vm, Victim::Create, Moments::Some)),
];

/// How long any call may take.
const LIMIT: Duration = Duration::from_secs(40);
/// How long what ends a life is tried again, and how often.
const AGAIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(300);
/// How soon a victim that is not there is looked for again.
const AGAIN_SOON: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sandbox {
    Sentry,
    Vm,
}

impl Sandbox {
    /// How long after a call its victims are killed.
    fn moments(self) -> [Duration; 2] {
        match self {
            Sandbox::Sentry => [10, 60].map(Duration::from_millis),
            Sandbox::Vm => [100, 2000].map(Duration::from_millis),
        }
    }
}

/// At which moments of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moments {
    /// One of each, in turn.
    Some,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Shim,
    /// Those of this name that descend from a shim: also of a sandbox that is just being made.
    Process(&'static str),
    /// `nacre create`, which lives for a moment only.
    Create,
    Containerd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    RunPod,
    Create,
    Start,
    Exec,
    Stop,
    Remove,
    StopPod,
    RemovePod,
}

const STEPS: [Step; 8] =
    [Step::RunPod, Step::Create, Step::Start, Step::Exec, Step::Stop, Step::Remove, Step::StopPod, Step::RemovePod];

/// When it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before(Step),
    /// So long after the call was made.
    During(Step, Duration),
}

fn walk(engine: &mut Engine, sandbox: Sandbox, victim: Victim, which: Moments) -> Result<()> {
    let during = sandbox.moments();
    for (turn, step) in STEPS.into_iter().enumerate() {
        let all = [Moment::During(step, during[0]), Moment::Before(step), Moment::During(step, during[1])];
        let possible: Vec<Moment> = all.into_iter().filter(|moment| victim.lives(*moment)).collect();
        let moments = match which {
            Moments::Some if !possible.is_empty() => vec![possible[turn % possible.len()]],
            Moments::Some | Moments::All => possible,
        };
        for moment in moments {
            let about = || format!("{victim:?} killed {moment:?}");
            Life::new(engine, sandbox, victim, moment).live().with_context(about)?;
            let mut clean = engine.clear();
            if clean.is_err() && victim == Victim::Containerd && matches!(moment, Moment::During(Step::RunPod, _)) {
                // It had not written down yet that it has made one.
                engine.remove_namespaces()?;
                clean = engine.clear();
            }
            clean.with_context(about)?;
        }
    }
    Ok(())
}

impl Victim {
    /// Whether there can be one at that moment. Before the first step there is nobody.
    fn lives(self, moment: Moment) -> bool {
        match (self, moment) {
            // A container's task is made when CRI starts it.
            (Victim::Create, moment) => matches!(moment, Moment::During(Step::RunPod | Step::Start, _)),
            (_, moment) => moment != Moment::Before(Step::RunPod),
        }
    }
}

/// One life.
struct Life<'a> {
    engine: &'a mut Engine,
    sandbox: Sandbox,
    victim: Victim,
    moment: Moment,
    pod: String,
    container: String,
    /// It has come to the moment; the victim has been killed, if it was there.
    struck: bool,
    /// How many were.
    killed: usize,
}

impl Life<'_> {
    fn new(engine: &mut Engine, sandbox: Sandbox, victim: Victim, moment: Moment) -> Life<'_> {
        Life { engine, sandbox, victim, moment, pod: String::new(), container: String::new(), struck: false, killed: 0 }
    }

    fn live(&mut self) -> Result<()> {
        for step in STEPS {
            if self.moment == Moment::Before(step) {
                let killed = strike(self.engine, self.victim);
                self.struck(killed)?;
            }
            if !self.reached(step) {
                continue;
            }
            let mut ended = match self.moment {
                Moment::During(at, after) if at == step => self.struck_call(step, after)?,
                _ => self.call(step)?,
            };
            let ends = matches!(step, Step::Stop | Step::Remove | Step::StopPod | Step::RemovePod);
            // containerd may have to see first what was killed, and looks again after a second where a shim died while it asked it (2.1: "ttrpc: closed").
            let end = Instant::now() + AGAIN;
            while !ended.success() && ends && self.struck && Instant::now() < end {
                std::thread::sleep(PAUSE);
                ended = self.call(step)?;
            }
            self.check(step, &ended, ends)?;
            match step {
                Step::RunPod => self.pod = ended.stdout.trim().into(),
                Step::Create => self.container = ended.stdout.trim().into(),
                _ => {}
            }
        }
        ensure!(self.struck && (self.killed > 0 || self.may_miss()), "nobody was killed");
        Ok(())
    }

    /// Once a pod has stopped nobody is left but containerd, and a stop takes but a moment. So does a sentry's `nacre create`, which is met at the first moment.
    fn may_miss(&self) -> bool {
        let ending =
            matches!(self.moment, Moment::During(Step::StopPod | Step::RemovePod, _) | Moment::Before(Step::RemovePod));
        let late = matches!(self.moment, Moment::During(_, after) if after > self.sandbox.moments()[0]);
        match self.victim {
            Victim::Containerd => false,
            Victim::Create => late && self.sandbox == Sandbox::Sentry,
            Victim::Shim | Victim::Process(_) => ending,
        }
    }

    /// Whether there is what the step is done to.
    fn reached(&self, step: Step) -> bool {
        match step {
            Step::RunPod => true,
            Step::Create | Step::StopPod | Step::RemovePod => !self.pod.is_empty(),
            Step::Start | Step::Exec | Step::Stop | Step::Remove => !self.container.is_empty(),
        }
    }

    fn check(&self, step: Step, ended: &Ended, must: bool) -> Result<()> {
        let said = ended.stderr.trim();
        ensure!(ended.status.is_some(), "{step:?} hangs");
        if ended.success() {
            return Ok(());
        }
        ensure!(self.struck, "{step:?} fails, and nobody was killed: {said}");
        // Deadline exceeded; unavailable is only what containerd itself may be.
        ensure!(!said.contains("code 4"), "{step:?} takes too long: {said}");
        let named = said.contains("code ") || (step == Step::Exec && !said.contains("no answer"));
        if must || !(named || self.victim == Victim::Containerd) {
            bail!("{step:?}: {}: {said}", ended.how());
        }
        Ok(())
    }

    fn args(&self, step: Step) -> Vec<String> {
        let handler = match self.sandbox {
            Sandbox::Sentry => "nacre",
            Sandbox::Vm => "nacre-vm",
        };
        let (pod, container) = (self.pod.as_str(), self.container.as_str());
        let args: &[&str] = match step {
            Step::RunPod => &["run-pod", "walk", "--cni", "--handler", handler],
            Step::Create => &["create", pod, "main", image::NAME, "--cni", "--", "sleep", "1000"],
            Step::Start => &["start", container],
            Step::Exec => &["exec", container, "--", "true"],
            Step::Stop => &["stop", container],
            Step::Remove => &["remove", container],
            Step::StopPod => &["stop-pod", pod],
            Step::RemovePod => &["remove-pod", pod],
        };
        args.iter().map(|arg| arg.to_string()).collect()
    }

    fn call(&self, step: Step) -> Result<Ended> {
        run(self.engine, &self.args(step))
    }

    fn struck_call(&mut self, step: Step, after: Duration) -> Result<Ended> {
        let args = self.args(step);
        let (ended, killed) = std::thread::scope(|scope| {
            let engine = &*self.engine;
            let call = scope.spawn(|| run(engine, &args));
            std::thread::sleep(after);
            // Who is just being made may not be there yet.
            let mut killed = strike(engine, self.victim);
            while killed == 0 && !call.is_finished() {
                std::thread::sleep(AGAIN_SOON);
                killed = strike(engine, self.victim);
            }
            let ended = call.join().map_err(|_| anyhow::anyhow!("the thread of the call panicked"))?;
            ended.map(|ended| (ended, killed))
        })?;
        self.struck(killed)?;
        Ok(ended)
    }

    /// After the victim was killed: containerd is started again, nobody else.
    fn struck(&mut self, killed: usize) -> Result<()> {
        self.struck = true;
        self.killed += killed;
        match self.victim {
            Victim::Containerd => self.engine.restart(),
            _ => Ok(()),
        }
    }
}

fn run(engine: &Engine, args: &[String]) -> Result<Ended> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    engine.cri_within(&args, LIMIT)
}

/// Kills those that are there. How many were.
fn strike(engine: &Engine, victim: Victim) -> usize {
    // It lives for milliseconds: nothing before.
    if victim != Victim::Create {
        engine.note_family();
    }
    let victims = match victim {
        Victim::Shim => engine.shims(),
        Victim::Process(name) => engine.family().into_iter().filter(|pid| engine::is_called(*pid, name)).collect(),
        Victim::Create => sh::pids().into_iter().filter(|pid| is_create(*pid, &engine.dir)).collect(),
        Victim::Containerd => return usize::from(engine.signal_containerd()),
    };
    victims.into_iter().filter(|pid| sh::signal(*pid, "KILL")).count()
}

/// Whether it is a `nacre create` with a bundle in this directory.
fn is_create(pid: u32, dir: &Path) -> bool {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let dir = dir.as_os_str().as_encoded_bytes();
    let mut args = text.split(|byte| *byte == 0);
    args.next() == Some(b"nacre") && args.clone().any(|arg| arg == b"create") && args.any(|arg| arg.starts_with(dir))
}
