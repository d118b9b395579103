//! Errors of the fit.

use std::path::PathBuf;

use thiserror::Error;

use crate::{encode, gmf};

/// Why the fit failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Too few videos or pairs.
    #[error(
        "{videos} videos with {pairs} pairs are too few to fit a map; expected at least 2 videos and {needed} pairs"
    )]
    TooFew {
        /// Videos with frames.
        videos: usize,
        /// Pairs of a distorted frame and its clip.
        pairs: usize,
        /// Least number of pairs.
        needed: usize,
    },
    /// A manifest of licences cannot be read.
    #[error(
        "{}: {reason}; expected one JSON object a line with `path` and `license_of_repo`", path.display()
    )]
    Manifest {
        /// Path of the manifest.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// The encoder failed.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
    /// No model has the encoder's lengths.
    #[error(transparent)]
    Config(#[from] gmf::ConfigError),
    /// The covariance of the noise cannot be inverted.
    #[error("the frames of these videos are all alike, so no direction separates them")]
    Degenerate,
}
