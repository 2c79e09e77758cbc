//! Text that comes from inside a sandbox and goes to people: in logs, and on terminals, which obey control characters.

/// What is put in the place of what is left out.
const MORE: &str = " [...]";

/// As one line of at most about `most` bytes: control characters are spaces, and so are those that change the direction of writing or break lines.
pub fn line(text: &str, most: usize) -> String {
    let (text, more) = match text.len() > most {
        true => (text.get(..text.floor_char_boundary(most)).unwrap_or_default(), MORE),
        false => (text, ""),
    };
    let plain = text.chars().map(|c| if steers(c) { ' ' } else { c });
    plain.chain(more.chars()).collect()
}

/// Whether a terminal, or a reader, would be led astray by it.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::StatusBody;
    use crate::{Code, Status};

    #[test]
    fn an_agents_words_cannot_steer_a_terminal() {
        let message = "no\u{1b}]0;title\u{7}\u{9b}2J such\r\nfile \u{202e}txt\u{61c}.exe: /h\u{e9}".into();
        let status = Status::from(StatusBody { code: 5, message });
        assert_eq!(status, Status::new(Code::NotFound, "no ]0;title  2J such  file  txt .exe: /h\u{e9}"));
        let status = Status::from(StatusBody { code: 13, message: "\u{e9}".repeat(2 << 20) });
        assert!(status.message.len() < 10_000 && status.message.ends_with("\u{e9} [...]"));
    }

    #[test]
    fn what_is_plain_stays() {
        assert_eq!(line("cwd /a b: not a directory", 100), "cwd /a b: not a directory");
        assert_eq!(line("12345", 5), "12345");
        assert_eq!(line("123456", 5), "12345 [...]");
    }
}
