//! Entry point: creates or opens an index folder, then writes or searches.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::sync_dir;
use crate::manifest::{self, Manifest};
use crate::names::{self, META_FILE, SEGMENTS_DIR, TEXT_DIR};
use crate::searcher::Searcher;
use crate::text::TextIndex;
use crate::types::IndexSettings;
use crate::verify::{self, VerifyReport};
use crate::writer::{self, Writer};

/// An index folder.
#[derive(Clone)]
pub struct Index {
    dir: PathBuf,
    text: TextIndex,
    settings: IndexSettings,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("dir", &self.dir).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Index {
    /// Whether the folder holds an index, intact or damaged.
    pub fn exists(dir: impl AsRef<Path>) -> bool {
        Index::commit_file(dir).is_file()
    }

    /// Path of the file that every commit replaces. Its identity and time of change show whether there was a
    /// commit.
    pub fn commit_file(dir: impl AsRef<Path>) -> PathBuf {
        dir.as_ref().join(TEXT_DIR).join(META_FILE)
    }

    fn check_exists(dir: &Path) -> Result<()> {
        if Index::exists(dir) {
            return Ok(());
        }
        check_no_file(dir)?;
        Err(Error::Missing { path: dir.to_owned() })
    }

    /// Checks whether an index can be created in a folder that holds none. The folder need not exist. Writes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotAFolder`] if a file is at the path, [`Error::NotEmpty`] if the folder holds other files,
    /// [`Error::Io`] if it cannot be listed.
    pub fn check_new(dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        check_no_file(dir)?;
        match fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("list", dir)(error)),
            Ok(entries) => check_empty(dir, entries),
        }
    }

    /// Creates an empty index in a new or empty folder.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`] if the folder holds an index, [`Error::NotEmpty`] if it holds other files,
    /// [`Error::NotAFolder`] if a file is at the path, [`Error::Locked`] if another process is creating an
    /// index in it, [`Error::Argument`] for settings out of range.
    pub fn create(dir: impl AsRef<Path>, settings: &IndexSettings) -> Result<Index> {
        Index::create_after(dir, settings, || Ok(()))
    }

    /// As [`Index::create`], but first calls `prepare`, which may write files of the caller into the folder.
    /// Their names must begin with `text.new.`. No other process creates an index in the folder meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Index::create`], and any error of `prepare`.
    pub fn create_after<E: From<Error>>(
        dir: impl AsRef<Path>,
        settings: &IndexSettings,
        prepare: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<Index, E> {
        let dir = dir.as_ref();
        manifest::check(settings)?;
        manifest::check_builder(settings)?;
        let exists = || Error::AlreadyExists { path: dir.to_owned() };
        if Index::exists(dir) {
            return Err(exists().into());
        }
        check_no_file(dir)?;
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let _lock = CreationLock::take(dir)?;
        // Another process may have completed the index before the lock was taken.
        if Index::exists(dir) {
            return Err(exists().into());
        }
        prepare()?;
        Ok(Index::create_locked(dir, settings)?)
    }

    fn create_locked(dir: &Path, settings: &IndexSettings) -> Result<Index> {
        let segments = dir.join(SEGMENTS_DIR);
        check_empty(dir, fs::read_dir(dir).map_err(Error::io("list", dir))?)?;
        fs::create_dir_all(&segments).map_err(Error::io("create", &segments))?;
        // The text index gets its final name only after it contains a manifest.
        let fresh = dir.join(names::new_text_dir());
        match fs::remove_dir_all(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &fresh)(error));
            }
            _ => fs::create_dir(&fresh).map_err(Error::io("create", &fresh))?,
        }
        let text = TextIndex::create(&fresh)?;
        let mut first = writer::text_writer(&text, dir)?;
        writer::publish(&mut first, &Manifest::new(settings.clone()), &text)?;
        first.wait_merging_threads().map_err(Error::text(&fresh))?;
        drop(text);
        let path = dir.join(TEXT_DIR);
        if let Err(error) = fs::rename(&fresh, &path) {
            return Err(match Index::exists(dir) {
                true => Error::AlreadyExists { path: dir.to_owned() },
                false => Error::io("rename to", &path)(error),
            });
        }
        sync_dir(dir)?;
        Index::open(dir)
    }

    /// Opens an index. This reads the manifest only; [`Index::searcher`] opens the segment files.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if the folder holds no index; [`Error::Damaged`], [`Error::Version`] or
    /// [`Error::Text`] for a manifest that cannot be read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Index> {
        let dir = dir.as_ref();
        Index::check_exists(dir)?;
        let text = TextIndex::open(&dir.join(TEXT_DIR))?;
        let settings = text.manifest()?.settings;
        Ok(Index { dir: dir.to_owned(), text, settings })
    }

    /// The settings from the creation of the index.
    pub fn settings(&self) -> &IndexSettings {
        &self.settings
    }

    /// Opens the index for writing and takes its lock. The lock ends with the writer or its process.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another writer holds the lock.
    pub fn writer(&self) -> Result<Writer> {
        // tantivy reads its list of files when it opens, and another process may have written since then.
        Writer::open(&self.dir, &TextIndex::open(&self.dir.join(TEXT_DIR))?)
    }

    /// Opens a snapshot of the last commit.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] or [`Error::Io`] for a file that is damaged or missing.
    pub fn searcher(&self) -> Result<Searcher> {
        Searcher::open(&self.dir, &self.text)
    }

    /// Reads every file, compares checksums, and compares the text index with the segments.
    ///
    /// The report lists the damage. Call this while no writer is open.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if the folder holds no index.
    pub fn verify(dir: impl AsRef<Path>) -> Result<VerifyReport> {
        let dir = dir.as_ref();
        Index::check_exists(dir)?;
        Ok(verify::verify(dir))
    }
}

/// [`Error::NotAFolder`] if the path, or the part of it that exists, is not a folder.
fn check_no_file(dir: &Path) -> Result<()> {
    let Some(path) = dir.ancestors().find(|path| path.symlink_metadata().is_ok()) else { return Ok(()) };
    let found = match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(found) if found.is_file() => "a file",
        Ok(_) => "a device, pipe or socket",
        Err(_) => "a link to nothing",
    };
    Err(Error::NotAFolder { path: path.to_owned(), found })
}

/// [`Error::NotEmpty`] if there are other files than those that an interrupted creation leaves.
fn check_empty(dir: &Path, entries: fs::ReadDir) -> Result<()> {
    for entry in entries {
        let name = entry.map_err(Error::io("list", dir))?.file_name().to_string_lossy().into_owned();
        let is_empty = || fs::read_dir(dir.join(&name)).is_ok_and(|mut entries| entries.next().is_none());
        if !(names::is_creation_leftover(&name) || name == SEGMENTS_DIR && is_empty()) {
            return Err(Error::NotEmpty { path: dir.to_owned(), found: name });
        }
    }
    Ok(())
}

/// The right to create an index in a folder. It ends with this value, or with the process.
struct CreationLock {
    path: PathBuf,
    file: fs::File,
}

impl CreationLock {
    fn take(dir: &Path) -> Result<CreationLock> {
        let path = dir.join(names::CREATION_LOCK);
        let file = fs::File::create(&path).map_err(Error::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(CreationLock { path, file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { path: dir.to_owned() }),
            Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }
}

impl Drop for CreationLock {
    fn drop(&mut self) {
        // Removed before it is unlocked, so that a failed creation leaves the folder as it was. If the
        // removal fails, the next writer removes the file.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}
