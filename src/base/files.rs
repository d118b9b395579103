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
