//! Diagnostics on standard error: one line an event, for a person who asked for them with `--log`.
//!
//! tracing's own subscriber would be a tenth of the binary, and waits where nobody reads standard error. This one drops the line then:
//! nothing may delay the removal of the loss.

use crate::{
    clock,
    reporter::{unblocked, write_now},
    text::printable,
};
use std::{
    fmt::{self, Write},
    io,
    os::fd::{AsFd, OwnedFd},
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

/// Lets events up to `level` through to standard error, for the whole process.
///
/// # Errors
/// Where that is a terminal and cannot be opened again for writing that never waits: there are no diagnostics then.
pub fn install(level: Level) -> io::Result<()> {
    let terminal = unblocked(&io::stderr())?;
    // Fails where there is one already, whose level then holds.
    drop(tracing::subscriber::set_global_default(Diagnostics { level, terminal }));
    Ok(())
}

#[derive(Debug)]
struct Diagnostics {
    level: Level,
    /// Standard error where it is a terminal.
    terminal: Option<OwnedFd>,
}

impl Subscriber for Diagnostics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn event(&self, event: &Event<'_>) {
        let stderr = io::stderr();
        let to = self.terminal.as_ref().map_or_else(|| stderr.as_fd(), AsFd::as_fd);
        // No one is there to be told that it could not be written.
        let _ = write_now(to, line(&clock::now().to_string(), event).as_bytes());
    }

    // Spans are never enabled.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The message, then the other fields as `name=value`.
fn line(time: &str, event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    printable(&format!("{time} {:>5} {}: {}{}", metadata.level(), metadata.target(), fields.message, fields.others)) + "\n"
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ =
            if field.name() == "message" { write!(self.message, "{value:?}") } else { write!(self.others, " {}={value:?}", field.name()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Capture(Arc<Mutex<Vec<String>>>, Diagnostics);

    impl Subscriber for Capture {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            self.1.enabled(metadata)
        }

        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push(line("now", event));
        }

        fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
            self.1.new_span(attributes)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_line_has_the_message_and_the_fields_of_what_is_let_through() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(Capture(Arc::clone(&lines), Diagnostics { level: Level::INFO, terminal: None }), || {
            tracing::debug!("not this");
            tracing::warn!(step = %"add", attempt = 3, "not {}", "removed");
            tracing::warn!(device = %"eth\u{1b}[2J\u{9b}0\n", "gone");
        });
        let target = module_path!();
        assert_eq!(
            *lines.lock().unwrap(),
            [format!("now  WARN {target}: not removed step=add attempt=3\n"), format!("now  WARN {target}: gone device=eth [2J 0 \n"),]
        );
    }
}
