//! `#!` lines.

/// Bytes of a file's start that are looked at (`BINPRM_BUF_SIZE`).
pub(super) const LOOK: usize = 256;

/// The interpreter and its one optional argument.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    pub interpreter: Vec<u8>,
    pub argument: Option<Vec<u8>>,
}

/// Reads the line as fs/binfmt_script.c does. `start` is the file's first [`LOOK`] bytes, or all of it. None: no (usable) script.
pub(super) fn parse(start: &[u8]) -> Option<Script> {
    let rest = start.get(..LOOK.min(start.len()))?.strip_prefix(b"#!")?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let newline = rest.iter().position(|&byte| byte == b'\n');
    let line = match newline {
        Some(end) => rest.get(..end)?,
        // Cut off: good only if the interpreter's name is all there.
        None => {
            let line = rest.split(|&byte| byte == 0).next()?;
            let name = line.iter().position(|byte| !blank(byte))?;
            let whole = start.len() < LOOK || line.len() < rest.len() || line.get(name..)?.iter().any(blank);
            whole.then_some(line)?
        }
    };
    let line = line.trim_ascii_start_blank();
    let end = line.iter().position(|byte| blank(byte) || *byte == 0).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at_checked(end)?;
    if interpreter.is_empty() {
        return None;
    }
    let argument = argument.split(|&byte| byte == 0).next().unwrap_or_default().trim_blank();
    Some(Script { interpreter: interpreter.to_vec(), argument: (!argument.is_empty()).then(|| argument.to_vec()) })
}

trait Trim {
    fn trim_ascii_start_blank(&self) -> &[u8];
    fn trim_blank(&self) -> &[u8];
}

impl Trim for [u8] {
    fn trim_ascii_start_blank(&self) -> &[u8] {
        let start = self.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(self.len());
        self.get(start..).unwrap_or_default()
    }

    fn trim_blank(&self) -> &[u8] {
        let line = self.trim_ascii_start_blank();
        let end = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
        line.get(..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &[u8]) -> Option<(String, Option<String>)> {
        let text_of = |bytes: Vec<u8>| String::from_utf8(bytes).expect("ascii");
        parse(text).map(|script| (text_of(script.interpreter), script.argument.map(text_of)))
    }

    #[test]
    fn name_and_argument() {
        assert_eq!(script(b"#!/bin/sh\necho"), Some(("/bin/sh".into(), None)));
        assert_eq!(script(b"#! \t/bin/sh \n"), Some(("/bin/sh".into(), None)));
        assert_eq!(script(b"#!/usr/bin/env  python3 -u \t\n"), Some(("/usr/bin/env".into(), Some("python3 -u".into()))));
        assert_eq!(script(b"#!/bin/sh"), Some(("/bin/sh".into(), None)));
    }

    #[test]
    fn what_is_no_script() {
        assert_eq!(script(b"#!\n"), None);
        assert_eq!(script(b"#!   \n/bin/sh"), None);
        assert_eq!(script(b"echo"), None);
        assert_eq!(script(b"#"), None);
        assert_eq!(script(b""), None);
    }

    #[test]
    fn a_line_too_long_is_cut_in_the_argument_only() {
        let long_name = [b"#!/".as_slice(), &[b'a'; 300]].concat();
        assert_eq!(script(&long_name), None);
        let long_argument = [b"#!/bin/sh ".as_slice(), &[b'a'; 300]].concat();
        let (name, argument) = script(&long_argument).expect("script");
        assert_eq!((name.as_str(), argument.map(|text| text.len())), ("/bin/sh", Some(LOOK - 10)));
    }
}
