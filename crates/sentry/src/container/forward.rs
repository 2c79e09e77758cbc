//! Connections from outside to what listens in the sandbox.
//!
//! Two futures move the bytes of each, one each way, until both ends have ended.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_api::{Code, ConnectRequest, Empty, Status, take_fd};

use super::{Agent, Nobody};
use crate::Errno;
use crate::executor::{HostWatch, read_now, write_now, yield_now};
use crate::mm::Buffer;
use crate::net::Inward;
use crate::net::address::Family;
use crate::wait::{Deadline, PollEvents, Share, Sleep, Wait, WaitError, wait_for};

/// Bytes moved at a time.
const PIECE: usize = 16 << 10;
/// Nanoseconds that a listener whose queue is full may take.
const PATIENCE_NS: u64 = 5_000_000_000;

impl Agent {
    /// Joins a port of the sandbox's loopback interface to two descriptors of the host.
    pub async fn connect(&self, request: &ConnectRequest, fds: &mut [Option<OwnedFd>]) -> Result<Empty, Status> {
        let port = u16::try_from(request.port).ok().filter(|port| *port != 0);
        let port =
            port.ok_or_else(|| Status::new(Code::InvalidArgument, format!("{} is no port: 1 to 65535 are", request.port)))?;
        let input = self.watch(take_fd(fds, request.input, "input")?, "input")?;
        let output = self.watch(take_fd(fds, request.output, "output")?, "output")?;
        let inside = match self.connected(Family::Inet, port).await {
            Err(Errno::ECONNREFUSED) => self.connected(Family::Inet6, port).await,
            first => first,
        };
        let inside = Arc::new(inside.map_err(|errno| {
            let why = match errno {
                Errno::EOPNOTSUPP => "the sandbox's sockets are the host's".into(),
                errno => errno.to_string(),
            };
            Status::new(Code::FailedPrecondition, format!("cannot connect to port {port}: {why}"))
        })?);
        let other = inside.clone();
        self.kernel.scheduler.spawn(|_| async move { inwards(&input, &inside).await });
        self.kernel.scheduler.spawn(|_| async move { outwards(&other, &output).await });
        Ok(Empty {})
    }

    fn watch(&self, file: OwnedFd, what: &str) -> Result<HostWatch, Status> {
        let watched = self.reactor.watch(Arc::new(file));
        watched.map_err(|errno| Status::new(Code::InvalidArgument, format!("cannot use {what}: {errno}")))
    }

    async fn connected(&self, family: Family, port: u16) -> Result<Inward, Errno> {
        let inside = Inward::begin(&self.kernel.net, family, port)?;
        let (clock, timers) = (&self.kernel.clock, self.kernel.scheduler.timers());
        let deadline = Deadline { at: clock.monotonic().after(PATIENCE_NS), clock, timers };
        let how = Wait { who: &Nobody, sleep: Sleep::Killable, share: Share::All, deadline: Some(deadline) };
        match wait_for(how, &[(inside.queue(), PollEvents::OUT)], || inside.finished()).await {
            Ok(result) => result.map(|()| inside),
            Err(WaitError::TimedOut | WaitError::Interrupted) => Err(Errno::ETIMEDOUT),
        }
    }
}

async fn inwards(host: &HostWatch, inside: &Inward) {
    let mut bytes = vec![0; PIECE];
    while let Ok(n @ 1..) = host.retry(|file| read_now(file, &mut bytes)).await {
        yield_now().await;
        let mut rest = bytes.get(..n).unwrap_or_default();
        while !rest.is_empty() {
            match inside.send(&mut rest) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => {
                    inside
                        .queue()
                        .until(PollEvents::OUT, || inside.poll().intersects(PollEvents::OUT | PollEvents::ALWAYS))
                        .await;
                }
                // Nobody takes it: the writer's pipe breaks.
                Err(_) => return,
            }
        }
    }
    inside.end_input();
}

async fn outwards(inside: &Inward, host: &HostWatch) {
    let mut piece = Buffer { bytes: Vec::with_capacity(PIECE), room: PIECE };
    loop {
        yield_now().await;
        piece.bytes.clear();
        match inside.receive(&mut piece) {
            Ok(0) => return,
            Ok(_) => {}
            Err(Errno::EAGAIN) => {
                inside.queue().until(PollEvents::IN, || inside.poll().intersects(PollEvents::IN | PollEvents::ALWAYS)).await;
                continue;
            }
            Err(_) => return,
        }
        let mut rest = piece.bytes.as_slice();
        while !rest.is_empty() {
            match host.retry(|file| write_now(file, rest)).await {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(_) => return,
            }
        }
    }
}
