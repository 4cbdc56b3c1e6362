//! Words that come from elsewhere, made fit for a status, an event or a log line.

/// Longest text from elsewhere that is written on, in bytes. A hundred pods' worth of it stays well within an object's size.
const LONGEST: usize = 400;

/// `text` on one line and of bounded length.
#[must_use]
pub(crate) fn brief(text: &str) -> String {
    let mut line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > LONGEST {
        line.truncate(line.floor_char_boundary(LONGEST));
        line.push('…');
    }
    line
}

/// The first few of many, and how many more there are.
#[must_use]
pub(crate) fn some_of(entries: impl IntoIterator<Item = String>) -> String {
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
        let long = brief(&"ü".repeat(1000));
        assert!(long.len() <= LONGEST + '…'.len_utf8() && long.ends_with('…'), "{long}");
    }

    #[test]
    fn of_many_the_first_few_are_named() {
        assert_eq!(some_of(["a", "b"].map(str::to_owned)), "a; b");
        assert_eq!(some_of(["a", "b", "c", "d", "e"].map(str::to_owned)), "a; b; c; and 2 more");
    }
}
