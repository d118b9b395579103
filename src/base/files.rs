//! File operations: atomic replacement, positioned reads and times.

use std::fs::File;
#[cfg(feature = "research")]
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A path with `suffix` added to its file name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Lets `write` create a temporary file beside `path`, then renames it to `path`. Readers see the whole old
/// file or the whole new one.
///
/// # Errors
/// Any error of `write`, of the sync or of the rename. The temporary file is then removed.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    let temporary = with_suffix(path, ".part");
    let outcome = write(&temporary).and_then(|()| {
        // Windows syncs only files that are open for writing.
        File::options().write(true).open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, path)
    });
    if outcome.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

/// A time as nanoseconds since 1970; 0 for an earlier time.
pub(crate) fn since_1970_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).ok();
    since.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// [`replace`] with a buffered writer.
///
/// # Errors
/// As [`replace`].
#[cfg(feature = "research")]
pub(crate) fn replace_buffered(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    replace(path, |part| {
        let mut file = BufWriter::new(File::create(part)?);
        fill(&mut file)?;
        file.flush()
    })
}

/// Fills `buffer` with the bytes of a file from `offset` on.
///
/// # Errors
/// Any error of the system, and `UnexpectedEof` if the file ends before the buffer is full.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// See the Unix version. Windows has no call that fills the whole buffer.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
