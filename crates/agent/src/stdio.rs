//! A process's stdio: streams of the host on one side, pipes or a terminal on the other.

use std::os::fd::OwnedFd;

use agent_api::{Code, Process, Status};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::host::connect_stream;
use crate::pump::{Output, start_input};

/// Connected streams of a process that does not run yet, and the ends that it gets.
pub struct Streams {
    stdin: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
    /// Our ends of the pipes; none with a terminal.
    pipes: [Option<OwnedFd>; 3],
    /// The process's ends, 0 to 2.
    pub theirs: Vec<Option<OwnedFd>>,
}

impl Streams {
    /// Connects the streams that a request names.
    ///
    /// # Errors
    /// When the host does not take them, or the request wants what cannot be had.
    pub fn connect(process: &Process) -> Result<Streams, Status> {
        if !process.extra_fds.is_empty() {
            return Err(Status::new(Code::Unimplemented, "descriptors beside stdio cannot be given to a process in a VM"));
        }
        let stdio = process.stdio.unwrap_or_default();
        let connect = |number: Option<u32>| number.map(connect_stream).transpose();
        let mut streams = Streams {
            stdin: connect(stdio.stdin)?,
            outputs: [connect(stdio.stdout)?, connect(stdio.stderr)?],
            pipes: [None, None, None],
            theirs: Vec::new(),
        };
        if process.terminal.is_none() {
            streams.make_pipes()?;
        }
        Ok(streams)
    }

    fn make_pipes(&mut self) -> Result<(), Status> {
        let pipe = || {
            pipe_with(PipeFlags::CLOEXEC)
                .map_err(|errno| Status::new(Code::ResourceExhausted, format!("cannot make a pipe: {errno}")))
        };
        let there = [self.stdin.is_some(), self.outputs[0].is_some(), self.outputs[1].is_some()];
        for (number, (there, ours)) in there.into_iter().zip(&mut self.pipes).enumerate() {
            if !there {
                self.theirs.push(None);
                continue;
            }
            let (reader, writer) = pipe()?;
            let (mine, its) = if number == 0 { (writer, reader) } else { (reader, writer) };
            *ours = Some(mine);
            self.theirs.push(Some(its));
        }
        Ok(())
    }

    /// Starts to pump: to the pipes, or to `terminal`. Call it when the process has its own ends.
    ///
    /// # Errors
    /// Without threads.
    pub fn start(self, terminal: Option<&OwnedFd>) -> Result<Vec<Output>, Status> {
        drop(self.theirs);
        let [stdin, stdout, stderr] = match terminal {
            Some(terminal) => {
                let end = || {
                    rustix::io::fcntl_dupfd_cloexec(terminal, 3)
                        .map(Some)
                        .map_err(|errno| Status::new(Code::ResourceExhausted, format!("cannot use the terminal: {errno}")))
                };
                [end()?, end()?, None]
            }
            None => self.pipes,
        };
        if let (Some(stream), Some(sink)) = (self.stdin, stdin) {
            start_input(stream, sink)?;
        }
        let mut outputs = Vec::new();
        for (source, stream) in [stdout, stderr].into_iter().zip(self.outputs) {
            if let (Some(source), Some(stream)) = (source, stream) {
                outputs.push(Output::start(source, stream)?);
            }
        }
        Ok(outputs)
    }
}
