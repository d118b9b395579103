//! Reports of a run: an outcome for every file, progress, and totals.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error as ThisError;

use crate::base::ErrorPaths;
use crate::{encode, gmf, media};

/// The outcome of one file.
#[derive(Debug)]
pub enum FileOutcome {
    /// The file is searchable after the next commit.
    Indexed {
        /// Rows of the video.
        rows: u32,
        /// Rows of the video in the kind space, if that has the video.
        kind_rows: Option<u32>,
        /// Errors that ffmpeg reported for a file that could be read in part, and the fault of a sidecar that
        /// was ignored in whole or in part.
        warning: Option<String>,
    },
    /// The file is in the index and has not changed.
    Unchanged {
        /// Rows of the video.
        rows: u32,
        /// Rows of the video in the kind space, if that has the video.
        kind_rows: Option<u32>,
    },
    /// The file could not be indexed.
    Failed {
        /// The cause.
        error: FileError,
        /// Whether the index still holds an earlier version of the file.
        kept: bool,
    },
    /// The file is gone. Its rows are still in the index.
    Missing,
    /// The file is gone. Its rows were removed from the index.
    Removed,
}

/// Why one file could not be indexed.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be read or decoded.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// The encoder's features do not fit the checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] gmf::Error),
    /// The encoder failed.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
    /// The index refuses the video.
    #[error(transparent)]
    Refused(#[from] reelseek_index::Error),
    /// An earlier run could not decode the file, and it has not changed since.
    #[error("{}: {reason} (not decoded again, because the file has not changed)", path.display())]
    FailedBefore {
        /// The file.
        path: PathBuf,
        /// The error of the earlier run, without the path.
        reason: String,
    },
}

impl ErrorPaths for FileError {
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            FileError::Media(error) => error.paths_mut(),
            FileError::Checkpoint(error) => error.paths_mut(),
            FileError::Encoder(error) => error.paths_mut(),
            FileError::Refused(error) => error.paths_mut(),
            FileError::FailedBefore { path, .. } => vec![path],
        }
    }
}

impl FileError {
    /// Whether the same file would fail again in the same way.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(self, FileError::Media(error) if error.is_lasting())
    }

    /// Whether there is no file or folder at the path, or none that can be read.
    pub(super) fn is_wrong_path(&self) -> bool {
        matches!(self, FileError::Media(media::Error::Io { .. } | media::Error::NotAFile { .. }))
    }
}

/// Something that happens in a run.
#[derive(Debug)]
pub enum IndexEvent {
    /// A file is done.
    File {
        /// The file.
        path: PathBuf,
        /// Its outcome.
        outcome: FileOutcome,
    },
    /// Progress in bytes. Reported when the total is known, after each file, and within long files.
    Progress {
        /// Bytes read so far. For a file that is being decoded, its size times the decoded share of its
        /// length.
        done_bytes: u64,
        /// Bytes of all files to read.
        total_bytes: u64,
    },
}

/// Totals of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct IndexSummary {
    /// Files indexed for the first time, or again.
    pub indexed: usize,
    /// Files that have not changed.
    pub unchanged: usize,
    /// Files that could not be indexed.
    pub failed: usize,
    /// Paths of `failed` that the caller named, and where nothing exists or can be read.
    pub not_found: usize,
    /// Files that are gone but still in the index.
    pub skipped: usize,
    /// Files that are gone and were removed from the index.
    pub removed: usize,
    /// Videos that the index keeps, because they are under a path of the run that does not exist. A drive may
    /// be missing.
    pub unreachable: usize,
    /// Videos that the index keeps, although their files are now excluded.
    pub excluded: usize,
    /// Rows in the index at the end.
    pub rows: usize,
    /// Rows in the kind space at the end, if there is one.
    pub kind_rows: Option<usize>,
    /// Videos in the index at the end.
    pub videos: usize,
    /// Whether the run was cancelled.
    pub cancelled: bool,
    /// Duration of the run.
    pub took: Duration,
}

impl IndexSummary {
    /// Video files found under the paths.
    pub fn found(&self) -> usize {
        self.indexed + self.unchanged + self.failed - self.not_found
    }
}
