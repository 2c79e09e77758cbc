//! pax records: `LENGTH KEY=VALUE\n`, where a value may hold any byte.

use super::{ArchiveError, Time};

/// What the records of one member say.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub target: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Option<PaxSparse>,
}

/// GNU tar's three ways to say where the holes are.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    /// 1 for format 1.0, whose map is in the data.
    pub major: u64,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Formats 0.0 and 0.1: offsets and lengths.
    pub numbers: Vec<u64>,
}

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, ArchiveError> {
        let mut records = Records::default();
        while !bytes.is_empty() {
            let space = bytes.iter().take(12).position(|byte| *byte == b' ').ok_or(ArchiveError::Pax)?;
            let length = number(bytes.get(..space).unwrap_or_default())? as usize;
            let record = bytes.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or(ArchiveError::Pax)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(ArchiveError::Pax)?;
            let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
            records.take(key, value)?;
            bytes = bytes.get(length..).unwrap_or_default();
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.retain(|(known, _)| known != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if let Some(rest) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.get_or_insert_default().take(rest, value);
        }
        match key {
            // An empty value takes a record of a global header back.
            _ if value.is_empty() => {}
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.target = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {}
        }
        Ok(())
    }
}

impl PaxSparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        match key {
            b"major" => self.major = number(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(number(value)?),
            b"offset" | b"numbytes" => self.numbers.push(number(value)?),
            b"map" => self.numbers = value.split(|byte| *byte == b',').map(number).collect::<Result<_, _>>()?,
            _ => {}
        }
        Ok(())
    }
}

/// Decimal digits and nothing else.
pub(super) fn number(text: &[u8]) -> Result<u64, ArchiveError> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits).ok_or(ArchiveError::Pax)?;
    text.parse().map_err(|_| ArchiveError::Pax)
}

/// Seconds with a fraction; digits beyond nanoseconds are dropped. `-1.25` is 1.25 seconds before 1970.
fn time(text: &[u8]) -> Result<Time, ArchiveError> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next().unwrap_or_default())?).map_err(|_| ArchiveError::Pax)?;
    let fraction = parts.next().unwrap_or(b"0");
    let mut nanoseconds = 0;
    for index in 0..9 {
        let digit = match fraction.get(index) {
            None => 0,
            Some(byte) if byte.is_ascii_digit() => u32::from(byte - b'0'),
            Some(_) => return Err(ArchiveError::Pax),
        };
        nanoseconds = nanoseconds * 10 + digit;
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let length =
            (1..).find(|digits| (rest + digits).to_string().len() == *digits).map(|digits| rest + digits).expect("a length");
        [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
    }

    #[test]
    fn values_may_hold_any_byte() {
        let value = [1, 0, b'\n', b'=', 0xff];
        let bytes = [record("SCHILY.xattr.security.capability", &value), record("path", b"a\nb"), record("uid", b"4000000000")]
            .concat();
        let records = Records::parse(&bytes).expect("records");
        assert_eq!(records.xattrs, [(b"security.capability".to_vec(), value.to_vec())]);
        assert_eq!(records.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(records.uid, Some(4_000_000_000));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b\n",
            b"7 a=b\n",
            b"6 ab\n",
            b"999999999999999999999 a=b\n",
            b"0 a=b\n",
            b"-1 a=b\n",
            b"10 uid=1x\n",
            b" a=b\n",
        ] {
            assert!(Records::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times() {
        let parsed = |text: &str| time(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds)).ok();
        assert_eq!(parsed("12"), Some((12, 0)));
        assert_eq!(parsed("12.5"), Some((12, 500_000_000)));
        assert_eq!(parsed("12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(parsed("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parsed("1.x"), None);
        assert_eq!(parsed("99999999999999999999"), None);
    }
}
