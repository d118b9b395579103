//! Reports tests that cannot run here, so that they do not pass silently.

use std::fmt::Display;
use std::io::Write;

/// Reports that the calling test is skipped, and why. `scripts/test` names a file in `REELSEEK_SKIPS`, prints
/// its lines at the end, and in CI fails if there are any.
///
/// # Panics
///
/// Panics if the file that `REELSEEK_SKIPS` names cannot be written.
pub(crate) fn skip(reason: impl Display) {
    let thread = std::thread::current();
    let nextest = std::env::var("NEXTEST_TEST_NAME").ok();
    let test = nextest.as_deref().or(thread.name()).unwrap_or("a test");
    eprintln!("skipped: {reason}");
    if let Some(path) = std::env::var_os("REELSEEK_SKIPS") {
        // One write, because tests run at the same time.
        let line = format!("{test}: {reason}\n");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("REELSEEK_SKIPS names a file to append to");
    }
}
