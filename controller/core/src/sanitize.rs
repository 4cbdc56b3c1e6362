//! Words that come from elsewhere, made fit for a status, an event or a log line.

use netloss_contract::{sanitize, truncate};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Longest text from elsewhere that is written on, in bytes. A hundred pods' worth of it stays well within an object's size.
const LONGEST: usize = 400;

/// What may be shown is decided in one place, for the agent too.
pub use netloss_contract::is_unprintable as acts;

/// `text` on one line.
#[must_use]
pub fn line(text: &str) -> String {
    sanitize(text).trim().to_owned()
}

/// `text` on one line and of bounded length.
#[must_use]
pub fn brief(text: &str) -> String {
    shortened(line(text), LONGEST)
}

/// At most so many bytes, and a sign that there was more.
#[must_use]
pub fn shortened(mut text: String, longest: usize) -> String {
    truncate(&mut text, longest);
    text
}

/// The object with each of its texts on one line: what comes from a cluster may have been written by anybody, and goes to a terminal.
#[must_use]
pub fn plain<T: Serialize + DeserializeOwned>(object: T) -> T {
    fn each(value: &mut Value) {
        match value {
            Value::String(text) if text.contains(acts) => *text = line(text),
            Value::Array(values) => values.iter_mut().for_each(each),
            Value::Object(fields) => fields.values_mut().for_each(each),
            _ => {}
        }
    }
    let Ok(mut value) = serde_json::to_value(&object) else { return object };
    each(&mut value);
    serde_json::from_value(value).unwrap_or(object)
}

/// The first few of many, and how many more there are.
#[must_use]
pub fn some_of(entries: impl IntoIterator<Item = String>) -> String {
    const FEW: usize = 3;
    let mut entries = entries.into_iter();
    let mut parts: Vec<String> = entries.by_ref().take(FEW).collect();
    let more = entries.count();
    parts.extend((more > 0).then(|| format!("and {more} more")));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_is_one_bounded_line() {
        assert_eq!(brief(" a\nb\u{1b}c "), "a b c");
        assert_eq!(brief("a\u{2028}b\u{9b}31mc\u{202e}d\u{85}e\rf"), "a b 31mc d e f");
        let long = brief(&"ü".repeat(1000));
        assert!(long.len() <= LONGEST + '…'.len_utf8() && long.ends_with('…'), "{long}");
    }

    #[test]
    fn an_objects_texts_are_on_one_line_wherever_they_stand() {
        let object = serde_json::json!({ "a": "b\nc", "d": [{ "e": "\u{1b}[2J" }, 1, null], "f": "g h" });
        assert_eq!(plain(object), serde_json::json!({ "a": "b c", "d": [{ "e": "[2J" }, 1, null], "f": "g h" }));
    }

    #[test]
    fn of_many_the_first_few_are_named() {
        assert_eq!(some_of(["a", "b"].map(str::to_owned)), "a; b");
        assert_eq!(some_of(["a", "b", "c", "d", "e"].map(str::to_owned)), "a; b; c; and 2 more");
    }
}
