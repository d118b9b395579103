//! Errors of the evaluation.

use std::path::PathBuf;

use crate::features::{self, FeatureRow, Split};
use crate::{collection, gmf, media};

/// Why the evaluation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The features cannot be read.
    #[error(transparent)]
    Features(#[from] features::Error),
    /// Features and checkpoint do not match.
    #[error(transparent)]
    Checkpoint(Box<gmf::Error>),
    /// No model is possible with the lengths of the features.
    #[error(transparent)]
    Config(#[from] gmf::ConfigError),
    /// A model cannot be trained.
    #[error(transparent)]
    Train(Box<gmf::TrainError>),
    /// A picture or a video cannot be read, or ffmpeg is missing.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// A query failed.
    #[error(transparent)]
    Collection(#[from] collection::Error),
    /// The index cannot be written or searched.
    #[error(transparent)]
    Index(#[from] reelseek_index::Error),
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Cancelled.
    #[error("stopped")]
    Interrupted,
    /// A list of files is invalid.
    #[error("{}: {reason}; expected {expected}", path.display())]
    List {
        /// Path of the list.
        path: PathBuf,
        /// The fault.
        reason: String,
        /// Form of the list.
        expected: &'static str,
    },
    /// No photograph has a matching video.
    #[error("no photograph has the class or group of a video in the index")]
    NoMatchingVideo,
    /// All videos were left out.
    #[error("no query: every video of the index was used in training")]
    AllTrainedOn,
    /// No frame is usable.
    #[error("no query: every frame is flat or cannot be decoded")]
    NoUsableFrame,
    /// A split has no images or no videos.
    #[error("the split {split} needs both images and videos (images: {images}; videos: {videos})")]
    EmptySplit {
        /// The split.
        split: Split,
        /// Images by split.
        images: SplitCounts,
        /// Videos by split.
        videos: SplitCounts,
    },
    /// No query has a relevant video.
    #[error("none of the {queries} queries has a relevant video among {videos}; {comparison}")]
    NoRelevantVideo {
        /// Number of queries.
        queries: usize,
        /// Number of videos.
        videos: usize,
        /// What was compared, with an example of each side.
        comparison: String,
    },
    /// Images and videos are mapped to vectors of different lengths.
    #[error("images are mapped to {image} numbers and videos to {video}, so they cannot be compared")]
    DifferentSpaces {
        /// Length of a mapped image.
        image: usize,
        /// Length of a mapped video.
        video: usize,
    },
    /// There is no method of this name.
    #[error("there is no method {name}; the methods are {known}")]
    UnknownMethod {
        /// The name.
        name: String,
        /// Names of all methods.
        known: String,
    },
    /// Images are longer than videos, so videos have too few principal directions.
    #[error("images have {image} numbers and videos {video}: {image} principal directions of videos do not exist")]
    ImagesLonger {
        /// Length of the image features.
        image: usize,
        /// Length of the video features.
        video: usize,
    },
    /// Squares of features exceed single precision.
    #[error("the {modality} features of the training rows are too large: their squares exceed single precision")]
    FeaturesTooLarge {
        /// `image` or `video`.
        modality: &'static str,
    },
    /// Squares of features vanish in single precision.
    #[error(
        "the {modality} features of the training rows are all alike, or too small: their squares vanish in single precision"
    )]
    FeaturesTooSmall {
        /// `image` or `video`.
        modality: &'static str,
    },
    /// The covariance of features is not positive definite.
    #[error("the {modality} features of the training rows are nearly dependent: their covariance cannot be factored")]
    Singular {
        /// `image` or `video`.
        modality: &'static str,
    },
    /// A table was planned without methods or seeds.
    #[error("the table has no {missing}")]
    EmptyTable {
        /// `methods` or `seeds`.
        missing: &'static str,
    },
}

impl From<gmf::Error> for Error {
    fn from(error: gmf::Error) -> Error {
        Error::Checkpoint(Box::new(error))
    }
}

impl From<gmf::TrainError> for Error {
    fn from(error: gmf::TrainError) -> Error {
        Error::Train(Box::new(error))
    }
}

/// Number of rows of each split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitCounts {
    /// Rows of the split train.
    pub train: usize,
    /// Rows of the split val.
    pub val: usize,
    /// Rows of the split test.
    pub test: usize,
}

impl SplitCounts {
    pub(super) fn of_rows(rows: &[FeatureRow]) -> SplitCounts {
        let count = |split| rows.iter().filter(|row| row.split == split).count();
        SplitCounts { train: count(Split::Train), val: count(Split::Val), test: count(Split::Test) }
    }
}

impl std::fmt::Display for SplitCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "train {}, val {}, test {}", self.train, self.val, self.test)
    }
}
