//! The crate's one error type: each variant carries what was expected, what was found, and what to do.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The text index refused.
    #[error("text index in {}: {source}", path.display())]
    Text {
        /// The index folder.
        path: PathBuf,
        /// tantivy's answer.
        source: Box<tantivy::TantivyError>,
    },
    /// The folder holds no index.
    #[error("{} holds no index: create one first", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds an index already.
    #[error("{} holds an index already: open it, or choose another folder", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something that is not ours.
    #[error("{} is not empty (found '{found}'): an index wants a new or empty folder", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The first foreign entry.
        found: String,
    },
    /// Another writer holds the index.
    #[error("{} is being written by another process or writer: wait for it to finish", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Commits followed one another so fast that no snapshot could be opened between two.
    #[error("{} is being written so fast that it cannot be opened: try again", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file is not what the format or the manifest says.
    #[error(
        "{} is damaged: expected {expected}, found {found}; restore the index from a copy or build it again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file was written by a newer (or unknown) format version.
    #[error(
        "{} has format version {found}, this program reads version {expected}: use the program that wrote it, or build the index again",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version read by this program.
        expected: u32,
        /// The version found.
        found: u32,
    },
    /// A vector, or a group of vectors, has the wrong number of values, or sketches have the wrong number of bytes.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// The number of values wanted.
        expected: usize,
        /// The number of values given.
        found: usize,
    },
    /// A value is NaN or infinite.
    #[error("{what}: expected finite values, found {found} at position {position}")]
    NotFinite {
        /// Which argument.
        what: &'static str,
        /// Where.
        position: usize,
        /// The value.
        found: f32,
    },
    /// An argument is outside its range.
    #[error("{what}: expected {expected}, found {found}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// A filter could not be understood.
    #[error("cannot understand the filter '{query}': {reason}.\n{}", crate::text::FILTER_HELP)]
    Filter {
        /// The filter as given.
        query: String,
        /// The parser's complaint.
        reason: String,
    },
    /// No live video has this number.
    #[error("no video has number {number} in this snapshot")]
    UnknownVideo {
        /// The number.
        number: u64,
    },
    /// A commit failed half way; what is on disk is the last whole commit.
    #[error("an earlier commit of this writer failed in {}: open a new writer", path.display())]
    WriterFailed {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// The file or folder that the message names, so that a server can shorten it before it prints the message.
    pub fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Error::Io { path, .. }
            | Error::Text { path, .. }
            | Error::Missing { path }
            | Error::Exists { path }
            | Error::Foreign { path, .. }
            | Error::Locked { path }
            | Error::Busy { path }
            | Error::Damaged { path, .. }
            | Error::Version { path, .. }
            | Error::WriterFailed { path } => Some(path),
            Error::Length { .. }
            | Error::NotFinite { .. }
            | Error::Argument { .. }
            | Error::Filter { .. }
            | Error::UnknownVideo { .. } => None,
        }
    }

    /// The file that is damaged or of another version.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Error::Damaged { path, .. } | Error::Version { path, .. } | Error::Io { path, .. } => Some(path),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn text<E: Into<tantivy::TantivyError>>(path: &Path) -> impl FnOnce(E) -> Error {
        move |source| Error::Text { path: path.to_owned(), source: Box::new(source.into()) }
    }

    pub(crate) fn damaged(path: &Path, expected: impl ToString, found: impl ToString) -> Error {
        Error::Damaged { path: path.to_owned(), expected: expected.to_string(), found: found.to_string() }
    }
}
