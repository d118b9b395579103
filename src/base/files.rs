//! Atomic replacement of files.

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

/// Reads `bytes.len()` bytes at `offset`, without moving a cursor that other threads use.
pub(crate) fn read_exact_at(file: &std::fs::File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], offset + done as u64)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}
