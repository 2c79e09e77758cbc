//! Answers: messages with attributes, padded as they must be.

use super::parse::Message;
use crate::Errno;

pub const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_CAPPED: u16 = 0x100;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A datagram of a dump gets no further message once it is so long, in bytes (`NLMSG_GOODSIZE`).
const LONG: usize = 16_384 - 1024;

/// The messages that answer a request.
pub struct Answer<'a> {
    request: &'a Message<'a>,
    port: u32,
    bytes: Vec<u8>,
    start: usize,
    full: Vec<Vec<u8>>,
    dumped: bool,
}

impl<'a> Answer<'a> {
    pub fn to(request: &'a Message<'a>, port: u32) -> Answer<'a> {
        Answer { request, port, bytes: Vec::new(), start: 0, full: Vec::new(), dumped: false }
    }

    /// The datagrams, for a request that ended so. `capped`: errors are told without the request's payload.
    pub fn finish(mut self, result: Result<(), Errno>, capped: bool) -> Vec<Vec<u8>> {
        match result {
            Ok(()) => {
                self.cut();
                if self.request.flags & NLM_F_ACK != 0 && !self.dumped {
                    self.error(0, true);
                }
            }
            Err(errno) => {
                self.bytes.clear();
                self.full.clear();
                self.error(errno.raw(), capped);
            }
        }
        self.cut();
        self.full
    }

    /// The messages, for those who have not asked.
    pub fn told(mut self) -> Vec<Vec<u8>> {
        self.cut();
        self.full
    }

    /// The next message begins a datagram.
    fn cut(&mut self) {
        if !self.bytes.is_empty() {
            self.full.push(std::mem::take(&mut self.bytes));
        }
    }

    /// Begins a message with its family's header.
    pub fn begin(&mut self, kind: u16, flags: u16, header: &[u8]) {
        if self.bytes.len() > LONG {
            self.cut();
        }
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(&self.request.sequence.to_le_bytes());
        self.bytes.extend_from_slice(&self.port.to_le_bytes());
        self.bytes.extend_from_slice(header);
        self.pad();
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_le_bytes());
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Ends a message: its length is known now.
    pub fn end(&mut self) {
        let len = (self.bytes.len() - self.start) as u32;
        if let Some(place) = self.bytes.get_mut(self.start..self.start + 4) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }

    /// Ends a dump.
    pub fn done(&mut self) {
        self.dumped = true;
        self.begin(NLMSG_DONE, NLM_F_MULTI, &0i32.to_le_bytes());
        self.end();
    }

    /// An acknowledgement, or an error with the request in it. `capped`: without its payload.
    fn error(&mut self, errno: i32, capped: bool) {
        let short = errno == 0 || capped;
        let mut body = (-errno).to_le_bytes().to_vec();
        body.extend_from_slice(if short { self.request.whole.get(..16).unwrap_or_default() } else { self.request.whole });
        self.begin(NLMSG_ERROR, if short { NLM_F_CAPPED } else { 0 }, &body);
        self.end();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
