//! The log on standard error: one line for each request, and the server's events.

use std::io::IsTerminal;

use tokio::task::JoinHandle;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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

/// Installs the process-wide logger and a panic hook that logs. [`run`](crate::serve::run) does not call it;
/// a program does. A second call changes nothing.
pub fn start_logging(format: LogFormat) {
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("reelseek", Level::INFO);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let started = match format {
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init(),
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
