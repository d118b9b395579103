//! Lines of output, notes, errors, progress and Ctrl-C. Every command prints through this module, so that no
//! text that it prints can steer the terminal or forge a line.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reelseek_index::FILTER_SYNTAX;

use super::advice;
use crate::base::{Cancel, visible};

/// Writes a line to an output, with the arguments of `format!`.
macro_rules! print_line {
    ($out:expr, $($text:tt)+) => {
        $out.write_all($crate::cli::terminal::line(format_args!($($text)+)).as_bytes())
    };
}
pub(super) use print_line;

/// Writes a line to standard error, with the arguments of `format!`.
macro_rules! note {
    ($($text:tt)+) => { $crate::cli::terminal::print_note(format_args!($($text)+)) };
}
pub(super) use note;

/// A line with its end. Characters that steer a terminal, and line ends in the text, are escaped.
pub(super) fn line(text: fmt::Arguments<'_>) -> String {
    visible::line(&text.to_string()).into_owned() + "\n"
}

/// See [`note!`]. One write for each line, so that lines of several threads do not mix.
pub(super) fn print_note(text: fmt::Arguments<'_>) {
    // If standard error is closed, nobody reads the note.
    let _ = std::io::stderr().write_all(line(text).as_bytes());
}

/// The text of an error: each cause once, then what to do about it.
pub(super) fn error_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // A transparent error repeats the text of its cause.
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    match error.chain().find_map(advice::of) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

pub(super) fn print_error(error: &anyhow::Error) {
    let text = error_text(error);
    // The syntax of filters is the only text of several lines in a message.
    match text.strip_suffix(FILTER_SYNTAX).and_then(|text| text.strip_suffix('\n')) {
        Some(message) => {
            note!("reelseek: {message}");
            FILTER_SYNTAX.lines().for_each(|line| note!("{line}"));
        }
        None => note!("reelseek: {text}"),
    }
}

/// Prints panics, which are bugs, as one line each. A message may contain the names of files.
pub(super) fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        note!("reelseek: a bug: {panic}");
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            trace.to_string().lines().for_each(|frame| note!("{frame}"));
        }
    }));
}

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |e: &(dyn std::error::Error + 'static)| e.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    error.chain().filter_map(kind).any(|k| k == std::io::ErrorKind::BrokenPipe)
}

/// Prints a line of JSON to standard output.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(json_line(value)?.as_bytes())?;
    Ok(out.flush()?)
}

/// A value as a line of JSON, in which characters that steer a terminal are escaped.
pub(super) fn json_line(value: &impl serde::Serialize) -> serde_json::Result<String> {
    Ok(visible::json(&serde_json::to_string(value)?).into_owned() + "\n")
}

/// Largest number of failures that are printed.
const MAX_LISTED: usize = 50;

/// Prints why files failed.
pub(super) fn print_failures(reasons: &[String]) {
    for reason in reasons.iter().take(MAX_LISTED) {
        note!("failed: {reason}");
    }
    if reasons.len() > MAX_LISTED {
        note!("failed: {} more (`index --json` lists all)", reasons.len() - MAX_LISTED);
    }
}

/// A duration or a time in a video: `1:05` or `2:03:04`.
pub(super) fn clock(ms: u64) -> String {
    let seconds = (ms + 500) / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A count with its noun: `1 video`, `2 videos`, `2 queries`.
pub(super) fn count(n: usize, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if n == 1 => format!("1 {noun}"),
        Some(stem) => format!("{n} {stem}ies"),
        None => format!("{n} {noun}s"),
    }
}

/// A [`Cancel`] that Ctrl-C, SIGTERM or SIGHUP sets. A second signal ends the process at once. A signal that
/// is ignored at the start stays ignored.
///
/// # Errors
/// If the system refuses the handler.
pub(super) fn cancel_on_interrupt() -> anyhow::Result<Cancel> {
    cancel_with_note("stopping; finished work is kept (press Ctrl-C again to stop at once)")
}

/// [`cancel_on_interrupt`], with another note.
///
/// # Errors
/// If the system refuses the handler.
pub(super) fn cancel_with_note(note: &'static str) -> anyhow::Result<Cancel> {
    let cancel = Cancel::default();
    let handler = cancel.clone();
    on_interrupt(move || {
        if handler.is_set() {
            std::process::exit(i32::from(super::INTERRUPTED));
        }
        handler.set();
        note!("{note}");
    })?;
    Ok(cancel)
}

#[cfg(unix)]
fn on_interrupt(mut act: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new(crate::base::signals::stop_signals())?;
    std::thread::Builder::new().name("signals".into()).spawn(move || signals.forever().for_each(|_| act()))?;
    Ok(())
}

#[cfg(not(unix))]
fn on_interrupt(act: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    Ok(ctrlc::set_handler(act)?)
}

/// A progress bar that counts bytes, because sizes of files differ a thousandfold and a count of files would
/// predict no time. It is drawn on a terminal only, and only after the total is known.
pub(super) struct ByteBar(ProgressBar);

impl ByteBar {
    pub(super) fn new() -> ByteBar {
        let bar = ProgressBar::hidden();
        let style = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {elapsed} elapsed, {eta} left");
        bar.set_style(style.expect("the template is a constant"));
        ByteBar(bar)
    }

    pub(super) fn update(&self, done_bytes: u64, total_bytes: u64) {
        if total_bytes > 0 && self.0.length().unwrap_or(0) == 0 && std::io::stderr().is_terminal() {
            self.0.reset();
            self.0.set_draw_target(ProgressDrawTarget::stderr());
            self.0.enable_steady_tick(Duration::from_millis(500));
        }
        self.0.set_length(total_bytes);
        self.0.set_position(done_bytes);
    }

    /// Runs `print` while the bar is hidden.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::visible::tests::{hostile_text, is_harmless};

    #[test]
    fn clock_rounds_and_carries() {
        assert_eq!(
            [0, 59_499, 59_500, 3_599_999, 7_384_000].map(clock),
            ["0:00", "0:59", "1:00", "1:00:00", "2:03:04"]
        );
    }

    proptest::proptest! {
        #[test]
        fn a_clock_has_the_seconds_of_its_duration(ms in 0..1_000_000_000u64) {
            let seconds = clock(ms).split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap());
            proptest::prop_assert_eq!(seconds, (ms + 500) / 1000);
        }
    }

    #[test]
    fn counts_have_singular_and_plural() {
        assert_eq!([0, 1, 2].map(|n| count(n, "video")), ["0 videos", "1 video", "2 videos"]);
        assert_eq!([1, 2].map(|n| count(n, "query")), ["1 query", "2 queries"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_steers_the_terminal_or_forges_a_line(text in hostile_text()) {
            let mut out = Vec::new();
            print_line!(out, "{text}: {}", text).unwrap();
            for line in [String::from_utf8(out).unwrap(), json_line(&[&text]).unwrap()] {
                let body = line.strip_suffix('\n').unwrap();
                proptest::prop_assert!(is_harmless(body), "{:?}", body);
            }
        }
    }

    #[test]
    fn an_error_names_each_cause_once_and_ends_with_advice() {
        let missing = reelseek_index::Error::Missing { path: "x".into() };
        let error = anyhow::Error::new(crate::collection::Error::from(missing)).context("searching");
        let text = error_text(&error);
        assert!(text.starts_with("searching: x holds no index"), "{text}");
        assert_eq!(text.matches("holds no index").count(), 1, "{text}");
        assert!(text.ends_with("make one with `reelseek index FOLDER`, or name another with --index"), "{text}");
    }
}
