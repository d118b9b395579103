//! Atomic replacement of files, and reads at a position.

use std::fs::File;
use std::path::Path;

/// Lets `write` create a sibling file, then renames it over `path`. Readers see the old file or the whole new one.
///
/// # Errors
/// Any error of `write`, of the sync or of the rename. The sibling file is removed.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let outcome = write(part).and_then(|()| {
        std::fs::File::open(part)?.sync_all()?;
        std::fs::rename(part, path)
    });
    if outcome.is_err() {
        // The partial file is ours alone. The first error is the one to report.
        let _ = std::fs::remove_file(part);
    }
    outcome
}

/// Fills `bytes` with what `file` holds from byte `at` on. On Unix the file's own position stays as it is.
///
/// # Errors
/// Any error of the system, and `UnexpectedEof` where the file ends earlier.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, at);
    #[cfg(windows)]
    {
        let (mut bytes, mut at) = (bytes, at);
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, bytes, at) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => (bytes, at) = (&mut bytes[count..], at + count as u64),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
