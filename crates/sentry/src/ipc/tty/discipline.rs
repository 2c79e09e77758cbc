//! [`Discipline`]: what a terminal does with the bytes that pass (n_tty.c): line editing, echo, signals, flow control, output
//! processing. No locks, no I/O.

use std::collections::VecDeque;

use super::termios::{Cc, Termios};
use crate::Errno;
use crate::abi::uapi;
use crate::mm::Sink;
use crate::signal::Signal;

/// Most bytes of input that wait (`N_TTY_BUF_SIZE`, less one for the newline).
const INPUT_MAX: usize = 4095;

/// What input asks of the terminal around the discipline.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Processed bytes for the other side.
    pub echo: Vec<u8>,
    /// For the foreground process group.
    pub signals: Vec<Signal>,
    /// Output that has not been read is dropped, before the echo.
    pub flush_output: bool,
    pub flushed_input: bool,
    /// Output was stopped (true) or started by a character.
    pub stopped: Option<bool>,
}

/// Input that a read can take: a line (with its end, if that is a character), or raw bytes.
type Chunk = VecDeque<u8>;

/// A line discipline.
#[derive(Default)]
pub struct Discipline {
    termios: Termios,
    ready: VecDeque<Chunk>,
    /// The line being edited.
    line: Vec<u8>,
    /// The next byte is taken as it is.
    literal: bool,
    /// The cursor's column, as far as output tells.
    column: usize,
    /// The column where the edited line began.
    line_column: usize,
    stopped: bool,
}

impl Discipline {
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Changes the settings. Input that waits is kept: lines and what there is of the next become raw bytes (an end of file among them is
    /// gone; Linux makes a NUL of it), raw bytes become a line.
    pub fn set_termios(&mut self, termios: Termios) {
        let was_canonical = self.canonical();
        self.termios = termios;
        if was_canonical && !self.canonical() {
            let line = std::mem::take(&mut self.line);
            let raw: Chunk = self.ready.drain(..).flatten().chain(line).collect();
            if !raw.is_empty() {
                self.ready.push_back(raw);
            }
            self.literal = false;
        }
        if !termios.input(uapi::IXON) {
            self.stopped = false;
        }
    }

    fn canonical(&self) -> bool {
        self.termios.local(uapi::ICANON)
    }

    /// Whether output waits for a start character.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// Bytes that a read could take in the end.
    pub fn available(&self) -> usize {
        self.ready.iter().map(VecDeque::len).sum()
    }

    /// What waits to be read, as it counts against [`INPUT_MAX`]: an end of file takes a byte, as in Linux's buffer.
    pub fn held(&self) -> usize {
        self.ready.iter().map(|chunk| chunk.len().max(1)).sum()
    }

    /// Whether a read would give something now.
    pub fn readable(&self) -> bool {
        if self.canonical() {
            return !self.ready.is_empty();
        }
        let least = match (self.termios.cc(Cc::Time), self.termios.cc(Cc::Min)) {
            (0, min @ 1..) => usize::from(min),
            _ => 1,
        };
        self.available() >= least
    }

    /// Whether input is taken. In canonical mode it always is while no line is ready: what does not fit is dropped.
    pub fn has_room(&self) -> bool {
        self.held() + self.line.len() < INPUT_MAX || (self.canonical() && self.ready.is_empty())
    }

    /// Drops all input.
    pub fn flush_input(&mut self) {
        self.ready.clear();
        self.line.clear();
        self.literal = false;
    }

    /// Takes a byte from the terminal's user.
    pub fn receive(&mut self, byte: u8, fx: &mut Effects) {
        let t = self.termios;
        let mut byte = if t.input(uapi::ISTRIP) { byte & 0x7f } else { byte };
        if t.input(uapi::IUCLC) && t.local(uapi::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if std::mem::take(&mut self.literal) {
            self.ordinary(byte, fx);
            return;
        }
        if self.flow_control(byte, fx) || self.signal(byte, fx) {
            return;
        }
        let byte = match byte {
            b'\r' if t.input(uapi::IGNCR) => return,
            b'\r' if t.input(uapi::ICRNL) => b'\n',
            b'\n' if t.input(uapi::INLCR) => b'\r',
            byte => byte,
        };
        if self.canonical() {
            self.edit(byte, fx);
        } else {
            self.ordinary(byte, fx);
        }
    }

    fn flow_control(&mut self, byte: u8, fx: &mut Effects) -> bool {
        let t = &self.termios;
        if !t.input(uapi::IXON) {
            return false;
        }
        let (start, stop) = (t.is(Cc::Start, byte), t.is(Cc::Stop, byte));
        if start || (self.stopped && t.input(uapi::IXANY) && !stop) {
            self.stopped = false;
            fx.stopped = Some(false);
            return start;
        }
        if stop {
            self.stopped = true;
            fx.stopped = Some(true);
        }
        stop
    }

    fn signal(&mut self, byte: u8, fx: &mut Effects) -> bool {
        let t = &self.termios;
        if !t.local(uapi::ISIG) {
            return false;
        }
        let signal = match byte {
            byte if t.is(Cc::Intr, byte) => Signal::INT,
            byte if t.is(Cc::Quit, byte) => Signal::QUIT,
            byte if t.is(Cc::Susp, byte) => Signal::TSTP,
            _ => return false,
        };
        if !t.local(uapi::NOFLSH) {
            self.flush_input();
            fx.flush_output = true;
            fx.flushed_input = true;
            fx.echo.clear();
        }
        if self.termios.input(uapi::IXON) && std::mem::take(&mut self.stopped) {
            fx.stopped = Some(false);
        }
        if self.termios.local(uapi::ECHO) {
            self.echo(byte, fx);
        }
        fx.signals.push(signal);
        true
    }

    /// A byte in canonical mode.
    fn edit(&mut self, byte: u8, fx: &mut Effects) {
        let t = self.termios;
        let extended = t.local(uapi::IEXTEN);
        if t.is(Cc::Erase, byte) {
            self.erase(byte, fx);
        } else if t.is(Cc::Kill, byte) {
            self.kill(byte, fx);
        } else if extended && t.is(Cc::Werase, byte) {
            self.erase_word(byte, fx);
        } else if extended && t.is(Cc::Lnext, byte) {
            self.literal = true;
            if t.local(uapi::ECHO) && t.local(uapi::ECHOCTL) {
                self.emit(b'^', fx);
                self.emit(0x08, fx);
            }
        } else if extended && t.local(uapi::ECHO) && t.is(Cc::Reprint, byte) {
            self.reprint(byte, fx);
        } else if byte == b'\n' {
            if t.local(uapi::ECHO) || t.local(uapi::ECHONL) {
                self.emit(b'\n', fx);
            }
            self.finish(Some(byte));
        } else if t.is(Cc::Eof, byte) {
            self.finish(None);
        } else if t.is(Cc::Eol, byte) || (extended && t.is(Cc::Eol2, byte)) {
            if t.local(uapi::ECHO) {
                self.echo(byte, fx);
            }
            self.finish(Some(byte));
        } else {
            self.ordinary(byte, fx);
        }
    }

    fn ordinary(&mut self, byte: u8, fx: &mut Effects) {
        if self.canonical() && self.line.is_empty() {
            self.line_column = self.column;
        }
        let full = self.held() + self.line.len() >= INPUT_MAX;
        if self.termios.local(uapi::ECHO) && !(full && self.canonical()) {
            match byte {
                b'\n' => self.emit(byte, fx),
                _ => self.echo(byte, fx),
            }
        }
        if full {
            return;
        }
        if self.canonical() {
            self.line.push(byte);
            return;
        }
        match self.ready.back_mut() {
            Some(chunk) => chunk.push_back(byte),
            None => self.ready.push_back(VecDeque::from([byte])),
        }
    }

    /// Ends the line; it can be read now. Without an end character an empty line is an end of file.
    fn finish(&mut self, end: Option<u8>) {
        let mut line = std::mem::take(&mut self.line);
        line.extend(end);
        self.ready.push_back(line.into());
    }

    /// Takes the last character off the line.
    fn pop_char(&mut self) -> Option<Vec<u8>> {
        let utf8 = self.termios.input(uapi::IUTF8);
        let mut at = self.line.len().checked_sub(1)?;
        while utf8 && at > 0 && self.line.get(at).is_some_and(|byte| byte & 0xc0 == 0x80) {
            at -= 1;
        }
        Some(self.line.split_off(at))
    }

    fn erase(&mut self, byte: u8, fx: &mut Effects) {
        let Some(gone) = self.pop_char() else { return };
        if !self.termios.local(uapi::ECHO) {
            return;
        }
        if self.termios.local(uapi::ECHOE) {
            self.rub_out(&gone, fx);
        } else {
            self.echo(byte, fx);
        }
    }

    fn erase_word(&mut self, byte: u8, fx: &mut Effects) {
        let mut seen_word = false;
        while let Some(&last) = self.line.last() {
            let in_word = last.is_ascii_alphanumeric() || last == b'_' || last >= 0x80;
            if seen_word && !in_word {
                break;
            }
            seen_word |= in_word;
            self.erase(byte, fx);
        }
    }

    fn kill(&mut self, byte: u8, fx: &mut Effects) {
        let t = self.termios;
        if t.local(uapi::ECHO) && t.local(uapi::ECHOK) && t.local(uapi::ECHOKE) && t.local(uapi::ECHOE) {
            while let Some(gone) = self.pop_char() {
                self.rub_out(&gone, fx);
            }
            return;
        }
        self.line.clear();
        if t.local(uapi::ECHO) {
            self.echo(byte, fx);
            if t.local(uapi::ECHOK) {
                self.emit(b'\n', fx);
            }
        }
    }

    fn reprint(&mut self, byte: u8, fx: &mut Effects) {
        self.echo(byte, fx);
        self.emit(b'\n', fx);
        self.line_column = self.column;
        for byte in self.line.clone() {
            self.echo(byte, fx);
        }
    }

    /// Clears a character, which was the line's last, from the screen.
    fn rub_out(&mut self, gone: &[u8], fx: &mut Effects) {
        let (mut before, mut after) = (self.line_column, 0);
        for &byte in &self.line {
            before = self.width_after(before, byte);
        }
        for &byte in gone {
            after = self.width_after(after.max(before), byte);
        }
        let width = after.saturating_sub(before);
        let tab = gone == b"\t";
        for _ in 0..width {
            self.emit(0x08, fx);
            if !tab {
                self.emit(b' ', fx);
                self.emit(0x08, fx);
            }
        }
    }

    /// The column after an echoed byte.
    fn width_after(&self, column: usize, byte: u8) -> usize {
        match byte {
            b'\t' => (column / 8 + 1) * 8,
            byte if byte.is_ascii_control() => column + if self.termios.local(uapi::ECHOCTL) { 2 } else { 0 },
            byte if self.termios.input(uapi::IUTF8) && byte & 0xc0 == 0x80 => column,
            _ => column + 1,
        }
    }

    /// Echoes a byte, control characters as `^X`.
    fn echo(&mut self, byte: u8, fx: &mut Effects) {
        if self.termios.local(uapi::ECHOCTL) && byte.is_ascii_control() && byte != b'\t' {
            self.emit(b'^', fx);
            self.emit(byte ^ 0x40, fx);
        } else {
            self.emit(byte, fx);
        }
    }

    fn emit(&mut self, byte: u8, fx: &mut Effects) {
        self.output(byte, &mut fx.echo);
    }

    /// Processes a byte of output.
    pub fn output(&mut self, byte: u8, out: &mut Vec<u8>) {
        let t = self.termios;
        if !t.output(uapi::OPOST) {
            out.push(byte);
            return;
        }
        match byte {
            b'\n' if t.output(uapi::ONLCR) => {
                self.column = 0;
                out.extend_from_slice(b"\r\n");
            }
            b'\n' => {
                if t.output(uapi::ONLRET) {
                    self.column = 0;
                }
                out.push(b'\n');
            }
            b'\r' if t.output(uapi::ONOCR) && self.column == 0 => {}
            b'\r' if t.output(uapi::OCRNL) => {
                if t.output(uapi::ONLRET) {
                    self.column = 0;
                }
                out.push(b'\n');
            }
            b'\r' => {
                self.column = 0;
                out.push(b'\r');
            }
            b'\t' => {
                let to = (self.column / 8 + 1) * 8;
                if t.oflag & uapi::TABDLY == uapi::XTABS {
                    out.extend(std::iter::repeat_n(b' ', to - self.column));
                } else {
                    out.push(b'\t');
                }
                self.column = to;
            }
            0x08 => {
                self.column = self.column.saturating_sub(1);
                out.push(byte);
            }
            byte => {
                let byte = if t.output(uapi::OLCUC) { byte.to_ascii_uppercase() } else { byte };
                let continues = t.input(uapi::IUTF8) && byte & 0xc0 == 0x80;
                if !(byte.is_ascii_control() || continues) {
                    self.column += 1;
                }
                out.push(byte);
            }
        }
    }

    /// Reads: in canonical mode at most one line, else by `VMIN` and `VTIME`.
    ///
    /// With both set, Linux waits for a pause of `VTIME` or `VMIN` bytes; here a read gives what has come.
    ///
    /// # Errors
    /// `EAGAIN`, `EFAULT`.
    pub fn read(&mut self, into: &mut dyn Sink) -> Result<usize, Errno> {
        if self.canonical() {
            let chunk = self.ready.front_mut().ok_or(Errno::EAGAIN)?;
            let n = take(chunk, into)?;
            if chunk.is_empty() {
                self.ready.pop_front();
            }
            return Ok(n);
        }
        let (min, time) = (usize::from(self.termios.cc(Cc::Min)), self.termios.cc(Cc::Time));
        let available = self.available();
        let least = if time > 0 { 1 } else { min.min(into.remaining()) };
        if available < least {
            return Err(Errno::EAGAIN);
        }
        let mut done = 0;
        while let Some(chunk) = self.ready.front_mut() {
            match take(chunk, into) {
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
            if !chunk.is_empty() {
                break;
            }
            self.ready.pop_front();
        }
        Ok(done)
    }

    /// How long a read waits: `VTIME`, where it counts from the start of the read; None is for ever.
    pub fn read_timeout_ns(&self) -> Option<u64> {
        let (min, time) = (self.termios.cc(Cc::Min), self.termios.cc(Cc::Time));
        (!self.canonical() && min == 0 && time > 0).then_some(u64::from(time) * 100_000_000)
    }
}

fn take(chunk: &mut Chunk, into: &mut dyn Sink) -> Result<usize, Errno> {
    let n = chunk.len().min(into.remaining());
    if n == 0 {
        return Ok(0);
    }
    let bytes = chunk.make_contiguous();
    let n = into.put(bytes.get(..n).unwrap_or_default())?;
    chunk.drain(..n);
    Ok(n)
}
