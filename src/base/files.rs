//! File operations: atomic replacement, positioned reads, times, and reads of whole files with a limit.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read};
#[cfg(feature = "research")]
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

/// Why a file was not read.
#[derive(Debug, Error)]
pub(crate) enum FileReadError {
    /// The system's error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path is not a regular file. A read of a pipe or a device may never end.
    #[error("expected a file, found {found}")]
    NotAFile {
        /// What is at the path.
        found: &'static str,
    },
    /// The file is too large to be read.
    #[error("found {found} bytes, expected at most {max}")]
    TooLarge {
        /// Size of the file, or the number of bytes read before the limit.
        found: u64,
        /// Largest number of bytes.
        max: u64,
    },
}

impl From<FileReadError> for io::Error {
    fn from(error: FileReadError) -> io::Error {
        match error {
            FileReadError::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidInput, other.to_string()),
        }
    }
}

/// What a path that is not a regular file is.
fn kind(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a folder" } else { "a special file" }
}

fn check_regular(meta: &Metadata) -> Result<(), FileReadError> {
    if meta.is_file() { Ok(()) } else { Err(FileReadError::NotAFile { found: kind(meta.file_type()) }) }
}

/// Opens a regular file for reading. It never waits; to open a pipe could wait for ever.
///
/// # Errors
/// [`FileReadError::Io`] and [`FileReadError::NotAFile`].
pub(crate) fn open_regular(path: &Path) -> Result<(File, Metadata), FileReadError> {
    // To open a device can have an effect, so the type is checked before, and again in case the path has
    // changed since.
    check_regular(&std::fs::metadata(path)?)?;
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path)?;
    let meta = file.metadata()?;
    check_regular(&meta)?;
    Ok((file, meta))
}

/// As [`open_regular`], but every error is an [`io::Error`].
///
/// # Errors
/// [`io::Error`].
pub(crate) fn open(path: &Path) -> io::Result<File> {
    Ok(open_regular(path)?.0)
}

/// As [`read_regular`], but every error is an [`io::Error`].
///
/// # Errors
/// [`io::Error`].
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    Ok(read_regular(path, max)?)
}

/// Reads a whole regular file of at most `max` bytes.
///
/// # Errors
/// [`FileReadError`].
pub(crate) fn read_regular(path: &Path, max: u64) -> Result<Vec<u8>, FileReadError> {
    let (file, meta) = open_regular(path)?;
    if meta.len() > max {
        return Err(FileReadError::TooLarge { found: meta.len(), max });
    }
    read_at_most(file, max)
}

/// Reads everything up to the end, which must come within `max` bytes.
///
/// # Errors
/// [`FileReadError::Io`] and [`FileReadError::TooLarge`].
pub(crate) fn read_at_most(source: impl Read, max: u64) -> Result<Vec<u8>, FileReadError> {
    let mut bytes = Vec::new();
    source.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    let found = bytes.len() as u64;
    if found > max { Err(FileReadError::TooLarge { found, max }) } else { Ok(bytes) }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_file_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_regular(&path, 10).unwrap(), [7; 10]);
        assert!(matches!(read_regular(&path, 9), Err(FileReadError::TooLarge { found: 10, max: 9 })));
        assert!(matches!(read_at_most(io::repeat(1), 5), Err(FileReadError::TooLarge { .. })));
    }

    #[test]
    fn refuses_what_is_not_a_regular_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let found = |path: &Path| match read_regular(path, 10) {
            Err(FileReadError::NotAFile { found }) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(found(dir.path()), "a folder");
        let missing = read_regular(&dir.path().join("missing"), 10).unwrap_err();
        assert!(matches!(missing, FileReadError::Io(error) if error.kind() == io::ErrorKind::NotFound));
        #[cfg(unix)]
        {
            let pipe = dir.path().join("pipe");
            assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            let socket = dir.path().join("socket");
            let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            let link = dir.path().join("link");
            std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
            let kinds = [&*pipe, &*socket, &*link, Path::new("/dev/null")].map(found);
            assert_eq!(kinds, ["a named pipe", "a socket", "a device", "a device"]);
        }
    }
}
