//! The door: create or open an index folder, then write or search.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::searcher::Searcher;
use crate::segment::sync_dir;
use crate::text::{TEXT, Text};
use crate::types::Settings;
use crate::verify::{self, Report};
use crate::writer::{self, Writer};

/// Folder of the segment files.
pub(crate) const SEGMENTS: &str = "segments";
/// Prefix of a text index that is not yet whole.
pub(crate) const TEXT_NEW: &str = "text.new.";

/// An index folder.
#[derive(Clone)]
pub struct Index {
    dir: PathBuf,
    text: Text,
    settings: Settings,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("dir", &self.dir).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Index {
    /// Whether the folder holds an index, whole or damaged.
    pub fn exists(dir: impl AsRef<Path>) -> bool {
        Index::root(dir).is_file()
    }

    /// The file that each commit replaces by another one: whoever looks at its identity and time of change knows whether there was a commit.
    pub fn root(dir: impl AsRef<Path>) -> PathBuf {
        dir.as_ref().join(TEXT).join("meta.json")
    }

    /// Creates an empty index in a new or empty folder.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if there is an index, [`Error::Foreign`] if there is anything else.
    pub fn create(dir: impl AsRef<Path>, settings: &Settings) -> Result<Index> {
        let dir = dir.as_ref();
        manifest::check(settings)?;
        manifest::check_builder(settings)?;
        if Index::exists(dir) {
            return Err(Error::Exists { path: dir.to_owned() });
        }
        let segments = dir.join(SEGMENTS);
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let name = entry.map_err(Error::io("list", dir))?.file_name().to_string_lossy().into_owned();
            // Another creation that was cut short leaves these two.
            let empty = || fs::read_dir(dir.join(&name)).is_ok_and(|mut entries| entries.next().is_none());
            if !(name.starts_with(TEXT_NEW) || name == SEGMENTS && empty()) {
                return Err(Error::Foreign { path: dir.to_owned(), found: name });
            }
        }
        fs::create_dir_all(&segments).map_err(Error::io("create", &segments))?;
        // The text index appears under its name only when it carries a manifest.
        let fresh = dir.join(format!("{TEXT_NEW}{}", std::process::id()));
        match fs::remove_dir_all(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &fresh)(error));
            }
            _ => fs::create_dir(&fresh).map_err(Error::io("create", &fresh))?,
        }
        let text = Text::create(&fresh)?;
        let mut first = writer::text_writer(&text, dir)?;
        writer::publish(&mut first, &Manifest::new(settings.clone()), &text)?;
        first.wait_merging_threads().map_err(Error::text(&fresh))?;
        drop(text);
        let place = dir.join(TEXT);
        fs::rename(&fresh, &place).map_err(Error::io("rename to", &place))?;
        sync_dir(dir)?;
        Index::open(dir)
    }

    /// Opens an index. This reads the manifest only; segment files are opened by [`Index::searcher`].
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], or what is wrong with the manifest.
    pub fn open(dir: impl AsRef<Path>) -> Result<Index> {
        let dir = dir.as_ref();
        if !Index::exists(dir) {
            return Err(Error::Missing { path: dir.to_owned() });
        }
        let text = Text::open(&dir.join(TEXT))?;
        let settings = text.manifest()?.settings;
        Ok(Index { dir: dir.to_owned(), text, settings })
    }

    /// The settings recorded at creation.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes the writer's lock, which ends with the writer or its process.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another writer has it.
    pub fn writer(&self) -> Result<Writer> {
        // tantivy reads the list of its files when it opens: another process may have written since this index was opened.
        Writer::open(&self.dir, &Text::open(&self.dir.join(TEXT))?)
    }

    /// A snapshot of the last commit.
    pub fn searcher(&self) -> Result<Searcher> {
        Searcher::open(&self.dir, &self.text)
    }

    /// Reads every file and compares checksums, then compares text with segments.
    ///
    /// Damage is reported, not returned as an error; run it while nobody writes.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if there is no index.
    pub fn verify(dir: impl AsRef<Path>) -> Result<Report> {
        let dir = dir.as_ref();
        if !Index::exists(dir) {
            return Err(Error::Missing { path: dir.to_owned() });
        }
        Ok(verify::verify(dir))
    }
}
