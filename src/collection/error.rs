use std::path::{Path, PathBuf};

use thiserror::Error as ThisError;

use super::Space;
use crate::base::ErrorPaths;
use crate::{encode, gmf};

/// Why an index folder cannot be used, or a query cannot be answered.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The index cannot be read or written, or the filter or the vector of a query is invalid.
    #[error(transparent)]
    Index(#[from] reelseek_index::Error),
    /// The encoder is unknown, its weights cannot be used, or it failed.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
    /// The checkpoint cannot be read, or was made for another encoder.
    #[error(transparent)]
    Checkpoint(#[from] gmf::Error),
    /// The folder cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The checkpoint file of the index is gone.
    #[error("{} is missing: the index was made with this checkpoint ({fingerprint})", path.display())]
    MissingCheckpoint {
        /// Path of the missing file.
        path: PathBuf,
        /// Fingerprint recorded in the index.
        fingerprint: String,
    },
    /// The index was made with another checkpoint.
    #[error("the index was made with checkpoint {found}, but checkpoint {given} is in use")]
    OtherCheckpoint {
        /// Fingerprint recorded in the index.
        found: String,
        /// Fingerprint of the checkpoint that the caller named, or else of the one in the folder.
        given: String,
    },
    /// The kind space of the index cannot be used.
    #[error("the kind space of the index: {source}")]
    KindSpace {
        /// The cause.
        source: Box<Error>,
    },
    /// The index has one space, and its encoder finds the same kind of scene.
    #[error("the index was made with the encoder {encoder}, which finds the same kind of scene by itself")]
    SingleSpace {
        /// Id of the encoder.
        encoder: String,
    },
    /// The index lacks the space that was asked for.
    #[error("the index has no {} space", space.name())]
    NoSpace {
        /// The space.
        space: Space,
    },
    /// The index stores its vectors in full precision.
    #[error("the index stores vectors with 32 bits a value, not with 16")]
    FullPrecision,
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl ErrorPaths for Error {
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Error::Index(error) => error.paths_mut(),
            Error::Encoder(error) => error.paths_mut(),
            Error::Checkpoint(error) => error.paths_mut(),
            Error::Io { path, .. } | Error::MissingCheckpoint { path, .. } => vec![path],
            Error::KindSpace { source } => source.paths_mut(),
            Error::OtherCheckpoint { .. }
            | Error::SingleSpace { .. }
            | Error::NoSpace { .. }
            | Error::FullPrecision
            | Error::Cancelled => vec![],
        }
    }
}

impl ErrorPaths for reelseek_index::Error {
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        self.path_mut().into_iter().collect()
    }
}

impl Error {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    /// The error of the kind space.
    pub(crate) fn of_kind_space(self) -> Error {
        match self {
            Error::KindSpace { .. } | Error::SingleSpace { .. } | Error::Cancelled => self,
            error => Error::KindSpace { source: Box::new(error) },
        }
    }
}
