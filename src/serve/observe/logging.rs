//! The log on standard error: one line for each request, and the server's events.

use std::borrow::Cow;
use std::io::Write;

use tokio::task::JoinHandle;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::base::visible;

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes events to an output. Names of files and messages of ffmpeg in an event cannot steer a terminal or
/// begin a line of their own.
struct VisibleEvents<W> {
    out: W,
    escape: fn(&str) -> Cow<'_, str>,
}

impl<W: Write> Write for VisibleEvents<W> {
    /// Writes one event. The formatter passes each event whole, with a line end.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = (self.escape)(text.strip_suffix('\n').unwrap_or(&text)).into_owned() + "\n";
        self.out.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Installs the process-wide logger and a panic hook that logs. [`run`](crate::serve::run) does not call it;
/// a program does. A second call changes nothing.
pub fn start_logging(format: LogFormat) {
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("reelseek", Level::INFO);
    let registry = tracing_subscriber::registry().with(filter);
    let escape: fn(&str) -> Cow<'_, str> = match format {
        LogFormat::Text => visible::line,
        LogFormat::Json => visible::json,
    };
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || VisibleEvents { out: std::io::stderr(), escape })
        .with_target(false)
        .with_ansi(false);
    let started = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_span_list(false)).try_init(),
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(|panic| tracing::error!("panic (a bug): {panic}")));
    }
}

/// [`tokio::task::spawn_blocking`] within the current span, so that log lines and panics of the work name the
/// request.
pub(crate) fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::visible::tests::{hostile_text, is_harmless};

    proptest::proptest! {
        #[test]
        fn no_text_steers_the_terminal_or_forges_a_line(text in hostile_text()) {
            let json = serde_json::json!({ "message": text }).to_string();
            for (event, escape) in [(text, visible::line as fn(&str) -> Cow<'_, str>), (json, visible::json)] {
                let mut events = VisibleEvents { out: Vec::new(), escape };
                events.write_all(format!("{event}\n").as_bytes()).unwrap();
                let line = String::from_utf8(events.out).unwrap();
                let body = line.strip_suffix('\n').unwrap();
                proptest::prop_assert!(is_harmless(body), "{:?}", body);
            }
        }
    }
}
