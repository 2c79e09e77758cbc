use std::sync::Arc;

use super::super::tests::{file, read, write};
use super::discipline::{Discipline, Effects};
use super::pty::Master;
use super::termios::Termios;
use super::{Pty, Terminals};
use crate::Errno;
use crate::abi::uapi;
use crate::fs::{File, OpenFlags};
use crate::signal::Signal;
use crate::wait::PollEvents;

/// Types `input` at a terminal with these settings: what a read gives, line by line, and the echo.
fn typed(termios: Termios, input: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>, Vec<Signal>) {
    let mut discipline = Discipline::default();
    discipline.set_termios(termios);
    let mut effects = Effects::default();
    for &byte in input {
        discipline.receive(byte, &mut effects);
    }
    let mut lines = Vec::new();
    while discipline.readable() {
        let mut line = Vec::new();
        discipline.read(&mut line).expect("readable");
        lines.push(line);
    }
    (lines, effects.echo, effects.signals)
}

#[test]
fn canonical_input_as_linux_edits_and_echoes_it() {
    // What is typed; what reads give; what is echoed (from a pty of Linux 6.18).
    let cases: &[(&[u8], &[&[u8]], &[u8])] = &[
        (b"abc\n", &[b"abc\n"], b"abc\r\n"),
        (b"abc\r", &[b"abc\n"], b"abc\r\n"),
        (b"one\ntwo\n", &[b"one\n", b"two\n"], b"one\r\ntwo\r\n"),
        (b"ab\x7fc\n", &[b"ac\n"], b"ab\x08 \x08c\r\n"),
        (b"\x7f\x7fa\n", &[b"a\n"], b"a\r\n"),
        (b"abc\x15x\n", &[b"x\n"], b"abc\x08 \x08\x08 \x08\x08 \x08x\r\n"),
        (b"one two\x17x\n", &[b"one x\n"], b"one two\x08 \x08\x08 \x08\x08 \x08x\r\n"),
        (b"one, \x17x\n", &[b"x\n"], b"one, \x08 \x08\x08 \x08\x08 \x08\x08 \x08\x08 \x08x\r\n"),
        (b"a\x01\x7fb\n", &[b"ab\n"], b"a^A\x08 \x08\x08 \x08b\r\n"),
        (b"a\t\x7fb\n", &[b"ab\n"], b"a\t\x08\x08\x08\x08\x08\x08\x08b\r\n"),
        (b"\x16\x03\n", &[b"\x03\n"], b"^\x08^C\r\n"),
        (b"ab\x12c\n", &[b"abc\n"], b"ab^R\r\nabc\r\n"),
        (b"abc\x04", &[b"abc"], b"abc"),
        (b"\x04", &[b""], b""),
        (b"x\x1b[A\n", &[b"x\x1b[A\n"], b"x^[[A\r\n"),
    ];
    for (input, lines, echo) in cases {
        let (got, echoed, signals) = typed(Termios::default(), input);
        assert_eq!(
            (got.as_slice(), echoed.as_slice()),
            (&lines.iter().map(|l| l.to_vec()).collect::<Vec<_>>()[..], *echo),
            "{input:?}"
        );
        assert_eq!(signals, []);
    }
}

#[test]
fn utf8_characters_are_erased_whole() {
    let mut termios = Termios::default();
    termios.iflag |= uapi::IUTF8;
    let (lines, echo, _) = typed(termios, "aä\x7fb\n".as_bytes());
    assert_eq!((lines, echo), (vec![b"ab\n".to_vec()], b"a\xc3\xa4\x08 \x08b\r\n".to_vec()));
}

#[test]
fn signals_flush_and_are_echoed() {
    let (lines, echo, signals) = typed(Termios::default(), b"half\x03");
    assert_eq!((lines, echo, signals), (vec![], b"^C".to_vec(), vec![Signal::INT]));
    let mut termios = Termios::default();
    termios.lflag |= uapi::NOFLSH;
    let (lines, echo, signals) = typed(termios, b"half\x1a\n\x1c");
    assert_eq!(lines, vec![b"half\n".to_vec()]);
    assert_eq!((echo, signals), (b"half^Z\r\n^\\".to_vec(), vec![Signal::TSTP, Signal::QUIT]));
}

#[test]
fn raw_input_passes_as_it_is() {
    let (lines, echo, signals) = typed(Termios::raw(), b"a\r\x03\x7f\x04");
    assert_eq!((lines, echo, signals), (vec![b"a\r\x03\x7f\x04".to_vec()], vec![], vec![]));
}

#[test]
fn raw_reads_wait_for_vmin_bytes() {
    let mut discipline = Discipline::default();
    let mut termios = Termios::raw();
    termios.cc[6] = 3;
    discipline.set_termios(termios);
    let mut effects = Effects::default();
    discipline.receive(b'1', &mut effects);
    assert_eq!(discipline.read(&mut Vec::new()), Err(Errno::EAGAIN));
    discipline.receive(b'2', &mut effects);
    assert!(!discipline.readable());
    discipline.receive(b'3', &mut effects);
    let mut bytes = Vec::new();
    assert_eq!(discipline.read(&mut bytes), Ok(3));
    assert_eq!(bytes, b"123");
    termios.cc[6] = 0;
    discipline.set_termios(termios);
    assert_eq!(discipline.read(&mut Vec::new()), Ok(0));
    termios.cc[5] = 2;
    discipline.set_termios(termios);
    assert_eq!((discipline.read(&mut Vec::new()), discipline.read_timeout_ns()), (Err(Errno::EAGAIN), Some(200_000_000)));
}

#[test]
fn an_overlong_line_is_cut_and_still_ends() {
    let mut input = vec![b'x'; 5000];
    input.push(b'\n');
    let (lines, ..) = typed(Termios::default(), &input);
    assert_eq!((lines.len(), lines[0].len(), lines[0].last()), (1, 4096, Some(&b'\n')));
}

fn open_pair() -> (Arc<Terminals>, Arc<Pty>, Arc<File>, Arc<File>) {
    let terminals = Terminals::new();
    let pty = terminals.allocate((0, 0)).expect("pty");
    assert_eq!(pty.open_slave().err(), Some(Errno::EIO), "locked");
    pty.unlock();
    let master = file(Arc::new(Master { pty: pty.clone() }), OpenFlags::RDWR);
    let slave = file(pty.open_slave().expect("slave"), OpenFlags::RDWR);
    (terminals, pty, master, slave)
}

#[test]
fn bytes_pass_between_master_and_slave() {
    let (_terminals, _pty, master, slave) = open_pair();
    assert_eq!(write(&slave, b"hi\n"), Ok(3));
    assert_eq!(read(&master, 100), Ok(b"hi\r\n".to_vec()));
    assert_eq!(write(&master, b"ls\r"), Ok(3));
    assert!(slave.ops.poll(&slave).contains(PollEvents::IN));
    assert_eq!(read(&slave, 100), Ok(b"ls\n".to_vec()));
    assert_eq!(read(&master, 100), Ok(b"ls\r\n".to_vec()), "the echo");
    assert_eq!(read(&slave, 100), Err(Errno::EAGAIN));
}

#[test]
fn output_stops_and_starts() {
    let (_terminals, _pty, master, slave) = open_pair();
    assert_eq!(write(&master, b"\x13"), Ok(1));
    assert_eq!(write(&slave, b"x"), Err(Errno::EAGAIN));
    assert!(!slave.ops.poll(&slave).contains(PollEvents::OUT));
    assert_eq!(write(&master, b"\x11"), Ok(1));
    assert_eq!(write(&slave, b"x"), Ok(1));
    let mut written = 0;
    while let Ok(n) = write(&slave, &[b'y'; 1000]) {
        written += n;
    }
    assert!(written > 8000 && !slave.ops.poll(&slave).contains(PollEvents::OUT));
}

#[test]
fn each_side_sees_the_other_go() {
    let (terminals, pty, master, slave) = open_pair();
    assert_eq!(read(&master, 9), Err(Errno::EAGAIN));
    assert_eq!(write(&slave, b"bye"), Ok(3));
    drop(slave);
    assert_eq!(read(&master, 9), Ok(b"bye".to_vec()));
    assert_eq!(read(&master, 9), Err(Errno::EIO));
    assert!(master.ops.poll(&master).contains(PollEvents::HUP));
    let slave = file(pty.open_slave().expect("again"), OpenFlags::RDWR);
    assert_eq!(read(&master, 9), Err(Errno::EAGAIN));
    drop(master);
    assert_eq!(read(&slave, 9), Ok(vec![]));
    assert_eq!(write(&slave, b"x"), Err(Errno::EIO));
    assert!(slave.ops.poll(&slave).contains(PollEvents::HUP));
    assert_eq!(terminals.list(), []);
}

#[test]
fn no_empty_line_comes_of_a_change_to_raw_and_back() {
    let mut discipline = Discipline::default();
    let mut effects = Effects::default();
    discipline.set_termios(Termios::raw());
    discipline.set_termios(Termios::default());
    assert!(!discipline.readable());
    for &byte in b"a\nb\nc" {
        discipline.receive(byte, &mut effects);
    }
    discipline.set_termios(Termios::raw());
    discipline.set_termios(Termios::default());
    let mut bytes = Vec::new();
    assert_eq!(discipline.read(&mut bytes), Ok(5));
    assert_eq!(bytes, b"a\nb\nc");
}

#[test]
fn ends_of_file_that_nobody_reads_are_not_taken_for_ever() {
    let (_terminals, pty, master, slave) = open_pair();
    let mut typed = 0;
    while let Ok(n) = write(&master, &[4; 1000]) {
        typed += n;
        assert!(typed < 10_000, "taken for ever");
    }
    assert!(!pty.master_poll().contains(PollEvents::OUT));
    assert_eq!(read(&slave, 10), Ok(vec![]));
    assert!(pty.master_poll().contains(PollEvents::OUT));
}
