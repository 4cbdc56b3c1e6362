//! Text that somebody else may have written, made fit for a terminal, a log line, a status or a report: the one place that decides what may be
//! shown.

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};
use std::io::{self, Write};

/// Whether a character acts on whoever shows it, instead of being shown: control characters (C0, DEL, C1) end lines and drive terminals, and
/// directional formatting characters make text read as something else (UAX #9). Line and paragraph separators end lines.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `text` on one line, with a blank for each unprintable character.
#[must_use]
pub fn sanitize(text: &str) -> String {
    text.replace(is_unprintable, " ")
}

/// At most `bytes` of UTF-8, and a `…` where something was cut off.
pub fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
    }
}

/// `value` as one line of JSON, each of its strings as [`sanitize`] makes it, whatever fields it has.
///
/// # Errors
/// Where the value has no JSON form.
pub(crate) fn to_json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(512);
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Printable(CompactFormatter)))?;
    // It only writes what it was given as text.
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

/// serde_json's compact form, with a blank for each unprintable character: JSON itself escapes those below U+0020 only, and whoever reads it
/// gets them back.
struct Printable(CompactFormatter);

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.contains(is_unprintable) {
            return self.0.write_string_fragment(writer, &sanitize(fragment));
        }
        self.0.write_string_fragment(writer, fragment)
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::Quote | CharEscape::ReverseSolidus | CharEscape::Solidus => self.0.write_char_escape(writer, escape),
            _ => writer.write_all(b" "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn replaces_what_drives_a_terminal() {
        assert_eq!(sanitize("a\u{1b}[2Jb\u{9b}31mc\u{7f}d\r\n\te"), "a [2Jb 31mc d   e");
        assert_eq!(sanitize("root\u{202e}\u{2066}toor\u{2028}ü …"), "root  toor ü …");
    }

    #[test]
    fn truncates_between_characters() {
        let mut text = "üü".to_owned();
        truncate(&mut text, 4);
        assert_eq!(text, "üü");
        truncate(&mut text, 3);
        assert_eq!(text, "ü…");
    }

    proptest! {
        #[test]
        fn json_reads_back_as_the_sanitized_text(text in any::<String>()) {
            let json = to_json(&text).unwrap();
            prop_assert!(!json.contains(is_unprintable), "{json:?}");
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), sanitize(&text));
        }
    }
}
