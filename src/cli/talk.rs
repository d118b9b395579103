//! Speaking to people: errors, clocks, Ctrl-C.

use std::io::Write;

use crate::base::Cancel;

/// Prints an error with its chain, each cause once.
pub(super) fn error(error: &anyhow::Error) {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Transparent errors repeat their cause's words.
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    let _ = writeln!(std::io::stderr(), "reelseek: {text}");
}

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |e: &(dyn std::error::Error + 'static)| e.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    error.chain().filter_map(kind).any(|k| k == std::io::ErrorKind::BrokenPipe)
}

/// Failures that are listed in full.
const MAX_LISTED: usize = 50;

/// Tells which files failed, and why.
pub(super) fn failures(reasons: &[String]) {
    for reason in reasons.iter().take(MAX_LISTED) {
        eprintln!("failed: {}", printable(reason));
    }
    if reasons.len() > MAX_LISTED {
        eprintln!("failed: and {} more (`index --json` lists all)", reasons.len() - MAX_LISTED);
    }
}

/// A clock time: `1:05` or `2:03:04`.
pub(super) fn clock(ms: u64) -> String {
    let seconds = (ms + 500) / 1000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A wish to stop that Ctrl-C (or SIGTERM) sets; the second one ends the process at once.
///
/// # Errors
/// If the system refuses the handler.
pub(super) fn cancel_on_interrupt() -> anyhow::Result<Cancel> {
    cancel_saying("stopping: what is finished is kept (again to stop at once)")
}

/// [`cancel_on_interrupt`], with these words.
///
/// # Errors
/// As there.
pub(super) fn cancel_saying(words: &'static str) -> anyhow::Result<Cancel> {
    let cancel = Cancel::default();
    let wish = cancel.clone();
    ctrlc::set_handler(move || {
        if wish.is_set() {
            std::process::exit(i32::from(super::INTERRUPTED));
        }
        wish.set();
        let _ = writeln!(std::io::stderr(), "{words}");
    })?;
    Ok(cancel)
}

/// Text of a name with control characters made visible, so that it cannot steer the terminal.
pub(super) fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_round_and_carry() {
        assert_eq!(
            [0, 59_499, 59_500, 3_599_999, 7_384_000].map(clock),
            ["0:00", "0:59", "1:00", "1:00:00", "2:03:04"]
        );
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
