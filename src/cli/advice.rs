//! What to do about an error, in the terms of the command line. Errors of the library carry facts only.

use std::error::Error;

use crate::gmf;
use crate::ingest::closed_form::FitError;
use crate::ingest::{self, FileError};
use crate::media;
use crate::{collection, search};

/// Reason for a video of the index whose file is gone.
pub(super) const MISSING_FILE: &str = "the file is gone but still in the index; --prune removes it";

/// What to do about an error; `None` if its message says all.
pub(super) fn of(error: &(dyn Error + 'static)) -> Option<String> {
    None.or_else(|| error.downcast_ref().and_then(index))
        .or_else(|| error.downcast_ref().and_then(media))
        .or_else(|| error.downcast_ref().and_then(collection))
        .or_else(|| error.downcast_ref().and_then(search))
        .or_else(|| error.downcast_ref().and_then(ingest))
        .or_else(|| error.downcast_ref().and_then(file))
        .or_else(|| error.downcast_ref().and_then(checkpoint))
        .or_else(|| error.downcast_ref().and_then(config))
        .or_else(|| error.downcast_ref().and_then(fit))
        .map(str::to_owned)
        .or_else(|| research::of(error))
}

/// Why a file was not indexed, and what to do about it.
pub(super) fn failed_file(error: &FileError, kept: bool) -> String {
    let advice = file(error).map(|advice| format!("; {advice}")).unwrap_or_default();
    let kept = if kept { "; the index keeps the earlier version of the file" } else { "" };
    format!("{error}{advice}{kept}")
}

fn index(error: &reelseek_index::Error) -> Option<&'static str> {
    use reelseek_index::Error;
    Some(match error {
        Error::Missing { .. } => "make one with `reelseek index FOLDER`, or name another with --index",
        Error::Foreign { .. } => "name a new or empty folder with --index",
        _ => return None,
    })
}

fn media(error: &media::Error) -> Option<&'static str> {
    Some(match error {
        media::Error::Killed { .. } => "run the command again, with fewer --jobs",
        media::Error::Changed { .. } => "run the command again",
        _ => return None,
    })
}

fn collection(error: &collection::Error) -> Option<&'static str> {
    use collection::Error;
    match error {
        Error::Index(error) => index(error),
        Error::MissingCheckpoint { .. } => {
            Some("put it back, name a copy with --checkpoint, or index again into another folder")
        }
        Error::OtherCheckpoint { .. } => {
            Some("name the checkpoint that the index was made with, or index again into another folder")
        }
        Error::FullPrecision => Some("leave --half out, or name another folder with --index"),
        _ => None,
    }
}

fn search(error: &search::Error) -> Option<&'static str> {
    match error {
        search::Error::Media(error) => media(error),
        search::Error::Index(error) => index(error),
        search::Error::Collection(error) => collection(error),
        _ => None,
    }
}

fn ingest(error: &ingest::Error) -> Option<&'static str> {
    match error {
        ingest::Error::Media(error) => media(error),
        ingest::Error::Index(error) => index(error),
        ingest::Error::Collection(error) => collection(error),
        ingest::Error::Fit(error) => fit(error),
    }
}

fn file(error: &FileError) -> Option<&'static str> {
    match error {
        FileError::Media(error) => media(error),
        FileError::FailedBefore { .. } => Some("--retry decodes it again"),
        _ => None,
    }
}

fn checkpoint(error: &gmf::Error) -> Option<&'static str> {
    use gmf::Error;
    Some(match error {
        Error::Format { .. } => "`reelseek train` and `reelseek fold` write GMF checkpoints",
        Error::NotFolded { .. } => "`reelseek fold` makes the folded checkpoint of it",
        Error::Encoder { .. } => "name a checkpoint of that encoder with --checkpoint",
        Error::BeyondHalf { .. } => "leave --half out to store weights as f32",
        Error::NoRoom { .. } => "move --boundary towards 0.5",
        _ => return None,
    })
}

fn config(error: &gmf::ConfigError) -> Option<&'static str> {
    use gmf::ConfigError;
    Some(match error {
        ConfigError::EmptySide { .. } => "move --boundary towards 0.5",
        ConfigError::TooLarge => "use shorter features or a smaller --multiple",
        _ => return None,
    })
}

fn fit(error: &FitError) -> Option<&'static str> {
    match error {
        FitError::NoFrames { .. } => Some("name other videos, or a --checkpoint"),
        _ => None,
    }
}

#[cfg(not(feature = "research"))]
mod research {
    pub(super) fn of(_: &(dyn std::error::Error + 'static)) -> Option<String> {
        None
    }
}

/// Advice for the commands that train and measure.
#[cfg(feature = "research")]
mod research {
    use std::error::Error;

    use crate::features;
    use crate::gmf::TrainError;
    use crate::research::eval::{self, quality};
    use crate::research::{extract, fit};

    pub(super) fn of(error: &(dyn Error + 'static)) -> Option<String> {
        if let Some(TrainError::DeviceNotBuilt { device }) = error.downcast_ref() {
            return Some(format!("build it with `cargo build --release --features {device}`, or use --device cpu"));
        }
        None.or_else(|| error.downcast_ref().and_then(train))
            .or_else(|| error.downcast_ref().and_then(features))
            .or_else(|| error.downcast_ref().and_then(eval))
            .or_else(|| error.downcast_ref().and_then(quality))
            .or_else(|| error.downcast_ref().and_then(extract))
            .or_else(|| error.downcast_ref().and_then(fit))
            .map(str::to_owned)
    }

    fn train(error: &TrainError) -> Option<&'static str> {
        Some(match error {
            TrainError::Features(error) => return features(error),
            TrainError::Checkpoint(error) => return super::checkpoint(error),
            TrainError::TooFewPairs { .. } => "give rows of the split train a common label, or the same `video` (or `id`)",
            TrainError::NoValidationPairs { .. } => {
                "give images and videos of the split val a common label (or `video`), or leave the split out"
            }
            TrainError::OtherRun { .. } => "resume with the options of that run, or start from the beginning with --force",
            TrainError::CheckpointGone { .. } | TrainError::CheckpointReplaced { .. } => {
                "put the checkpoint back, or start from the beginning with --force"
            }
            TrainError::Diverged { .. } => "try a lower --learning-rate or a higher --temperature",
            _ => return None,
        })
    }

    fn features(error: &features::Error) -> Option<&'static str> {
        use features::Error;
        Some(match error {
            Error::Benchmark { .. } => "`reelseek dataset` writes benchmark lists",
            Error::NotFinite { .. } => "extract the row again, or remove it",
            Error::NoHdf5 { .. } => {
                "build with `cargo build --release --features hdf5` (needs libhdf5), or convert the file to .npz"
            }
            _ => return None,
        })
    }

    fn eval(error: &eval::Error) -> Option<&'static str> {
        use eval::Error;
        Some(match error {
            Error::Features(error) => return features(error),
            Error::Checkpoint(error) => return super::checkpoint(error),
            Error::Config(error) => return super::config(error),
            Error::Train(error) => return train(error),
            Error::EmptySplit { .. } => "name another --split",
            Error::ImagesLonger { .. } => "use the method without -image",
            Error::FeaturesTooLarge { .. } => "scale the features down",
            Error::FeaturesTooSmall { .. } => "scale the features up",
            _ => return None,
        })
    }

    fn quality(error: &quality::Error) -> Option<&'static str> {
        match error {
            quality::Error::AllTrainedOn => Some("index other videos, or leave --held-out out"),
            _ => None,
        }
    }

    fn extract(error: &extract::Error) -> Option<&'static str> {
        match error {
            extract::Error::Features(error) => features(error),
            extract::Error::SameVideo { .. } => Some("keep one of the two files"),
            _ => None,
        }
    }

    fn fit(error: &fit::Error) -> Option<&'static str> {
        match error {
            fit::Error::TooFew { .. } => Some("name more videos"),
            fit::Error::Degenerate => Some("name other videos"),
        }
    }
}
