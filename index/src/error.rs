//! The crate's error type. Each variant has the facts as fields: path, expected, found.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// All failures of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reported an error.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The failed operation, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The text index reported an error.
    #[error("text index in {}: {source}", path.display())]
    Text {
        /// Folder of the text index.
        path: PathBuf,
        /// tantivy's error.
        source: Box<tantivy::TantivyError>,
    },
    /// The folder holds no index.
    #[error("{} holds no index", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// The path of an index is not a folder, or a part of it is not.
    #[error("{}: not a folder for an index, but {found}", path.display())]
    NotAFolder {
        /// The path, or the part of it.
        path: PathBuf,
        /// What is at the path: "a file".
        found: &'static str,
    },
    /// The folder already holds an index.
    #[error("{} already holds an index", path.display())]
    AlreadyExists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder for a new index contains other files.
    #[error("{}: expected a new or empty folder, found '{found}' in it", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// Name of the first other file.
        found: String,
    },
    /// Another writer holds the lock of the index.
    #[error("{} is being written by another process or writer", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Every attempt to open a snapshot was overtaken by another commit.
    #[error("{} received a new commit during each of {attempts} attempts to open it", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
        /// Number of attempts.
        attempts: u32,
    },
    /// A file differs from what its format or the manifest says.
    #[error("{} is damaged: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: String,
        /// The actual content.
        found: String,
    },
    /// A file has another format version.
    #[error("{} has format version {found}, this program reads version {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that this crate reads.
        expected: u32,
        /// The version of the file.
        found: u32,
    },
    /// A slice has the wrong length.
    #[error("{what}: expected {expected} values, found {found}")]
    Length {
        /// The argument.
        what: &'static str,
        /// The expected number of values (bytes for sketches).
        expected: usize,
        /// The actual number.
        found: usize,
    },
    /// A value is NaN or infinite.
    #[error("{what}: expected finite values, found {found} at position {position}")]
    NotFinite {
        /// The argument.
        what: &'static str,
        /// Position of the value.
        position: usize,
        /// The value.
        found: f32,
    },
    /// An argument is outside its range.
    #[error("{what}: expected {expected}, found {found}")]
    Argument {
        /// The argument.
        what: &'static str,
        /// The allowed range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// A filter does not parse, or exceeds a limit.
    #[error("cannot understand the filter '{query}': {reason}.\n{}", crate::filter::FILTER_SYNTAX)]
    Filter {
        /// The filter, cut to 200 characters.
        query: String,
        /// The parser's message.
        reason: String,
    },
    /// No live video has this number.
    #[error("no video has number {number} in this snapshot")]
    UnknownVideo {
        /// The number.
        number: u64,
    },
    /// An earlier commit of this writer failed. The index on disk is the last complete commit.
    #[error("an earlier commit of this writer failed in {}", path.display())]
    WriterFailed {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// The file or folder that the message names, so that a server can shorten it before it prints the
    /// message.
    pub fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Error::Io { path, .. }
            | Error::Text { path, .. }
            | Error::Missing { path }
            | Error::NotAFolder { path, .. }
            | Error::AlreadyExists { path }
            | Error::NotEmpty { path, .. }
            | Error::Locked { path }
            | Error::Busy { path, .. }
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
