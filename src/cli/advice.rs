//! What to do about an error, in the terms of the command line. Errors of the library carry facts only.

use std::error::Error;

use crate::collection::Space;
use crate::encode::registry::{ENTRIES, WeightsOrigin};
use crate::ingest::closed_form::{FitError, FitEvent};
use crate::ingest::{self, FileError};
use crate::{collection, encode, gmf, media};

/// Reported for a video of the index whose file is gone.
pub(super) const MISSING_FILE: &str = "the file is gone but still in the index; --prune removes it";

const ANOTHER_FOLDER: &str = "or index again into another folder";
const NAME_WEIGHTS: &str = "name a file with --weights";

/// What to do about an error; `None` if there is nothing to add to its message.
pub(super) fn of(error: &(dyn Error + 'static)) -> Option<String> {
    let advice = None
        .or_else(|| error.downcast_ref().and_then(index))
        .or_else(|| error.downcast_ref().and_then(media))
        .or_else(|| error.downcast_ref().and_then(encode))
        .or_else(|| error.downcast_ref().and_then(checkpoint))
        .or_else(|| error.downcast_ref().and_then(collection))
        .or_else(|| error.downcast_ref().and_then(ingest))
        .or_else(|| error.downcast_ref().and_then(file));
    #[cfg(feature = "encoders")]
    let advice = advice.or_else(|| error.downcast_ref().and_then(hub));
    #[cfg(feature = "research")]
    let advice = advice.or_else(|| research::of(error));
    #[cfg(feature = "serve")]
    let advice = advice.or_else(|| match error.downcast_ref() {
        Some(crate::serve::Error::Collection(error)) => collection(error),
        _ => None,
    });
    advice
}

/// Why a file was not indexed, and what to do about it.
pub(super) fn failed_file(error: &FileError, kept: bool) -> String {
    let advice = file(error).map(|advice| format!("; {advice}")).unwrap_or_default();
    let kept = if kept { "; the index keeps the earlier version of the file" } else { "" };
    format!("{error}{advice}{kept}")
}

/// A note about the fit of a checkpoint.
pub(super) fn fit_note(event: &FitEvent) -> String {
    match event {
        FitEvent::TooFewVideos { min_videos, min_frames, .. } => format!(
            "{event}; index at least {min_videos} videos with {min_frames} frames at once, into another folder, or name \
             a --checkpoint"
        ),
        FitEvent::Started { .. } | FitEvent::Described { .. } => event.to_string(),
    }
}

fn text(advice: &str) -> Option<String> {
    Some(advice.to_owned())
}

fn index(error: &reelseek_index::Error) -> Option<String> {
    use reelseek_index::Error;
    match error {
        Error::Missing { .. } => text("make one with `reelseek index FOLDER`, or name another with --index"),
        Error::NotAFolder { .. } => text("name a folder with --index or REELSEEK_INDEX"),
        Error::NotEmpty { .. } => text("name a new or empty folder with --index"),
        Error::Locked { .. } => text("wait for the other program to finish"),
        Error::Busy { .. } => text("try again"),
        Error::Damaged { .. } => text("restore the index from a copy, or index again into another folder"),
        Error::Version { .. } => text("use the version of reelseek that wrote it, or index again into another folder"),
        _ => None,
    }
}

fn media(error: &media::Error) -> Option<String> {
    match error {
        media::Error::Killed { .. } => text("run the command again, with fewer --jobs"),
        media::Error::Changed { .. } => text("run the command again"),
        media::Error::NotAVideo { found, .. } if found.ends_with("picture") => {
            text("`reelseek search` searches with a picture")
        }
        media::Error::NotAFile { found: "a named pipe", .. } => {
            text("to search with a picture from a pipe, name `-`, which reads standard input")
        }
        _ => None,
    }
}

fn encode(error: &encode::Error) -> Option<String> {
    use encode::Error;
    match error {
        Error::Projection { .. } => text("fit a new one with `reelseek train --refit-encoder`"),
        Error::NotBuilt { feature, .. } => Some(format!("build reelseek with `--features {feature}`")),
        Error::NoWeights { name, origin: WeightsOrigin::Hub, .. } => {
            Some(format!("fetch them with `reelseek encoders pull {name}`, or {NAME_WEIGHTS}"))
        }
        Error::NoWeights { .. } => text(NAME_WEIGHTS),
        Error::TakesNoWeights { .. } => {
            let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
            Some(format!("leave --weights out; the encoders {} and onnx:FILE take weights", names.join(", ")))
        }
        Error::Weights { name: "c3d", path, is_pickle: true, .. } => Some(format!(
            "convert it with `python3 tools/convert_c3d.py {} c3d.npz`, and name the result with --weights",
            path.display()
        )),
        Error::Weights { is_pickle: true, .. } => text("convert it to safetensors"),
        Error::OnnxFile { .. } => {
            text("name the network's file with --encoder onnx:FILE or, if it was moved, with --weights FILE")
        }
        Error::OnnxDescriptionFile { .. } => text("create this file; `{}` accepts all defaults"),
        Error::WrongEncoder { needed, origin, .. } => {
            let name = needed.split('/').next().unwrap_or(needed);
            let first = match origin {
                WeightsOrigin::Embedded => "it is part of the program: leave --encoder out".to_owned(),
                WeightsOrigin::Hub => {
                    format!("fetch its weights with `reelseek encoders pull {name}`, or name them with --weights FILE")
                }
                WeightsOrigin::File => "name its weights with --weights FILE".to_owned(),
                WeightsOrigin::Onnx => {
                    "name its own file, with the same JSON file beside it, with --weights FILE".to_owned()
                }
            };
            Some(format!("{first}, {ANOTHER_FOLDER}"))
        }
        Error::NotOfKinds { .. } => text("name another encoder with --encoder"),
        _ => None,
    }
}

#[cfg(feature = "encoders")]
fn hub(error: &encode::hub::Error) -> Option<String> {
    use encode::hub::Error;
    const FETCH_ELSEWHERE: &str = "fetch the file elsewhere and name it with --weights";
    const RESUME: &str = "run the same command again to resume";
    match error {
        Error::NotOnHub { .. } => text(NAME_WEIGHTS),
        Error::Offline { path, .. } => {
            Some(format!("unset HF_HUB_OFFLINE, put the file at {}, or {NAME_WEIGHTS}", path.display()))
        }
        Error::Status { status: 401 | 403, .. } => text(FETCH_ELSEWHERE),
        Error::Status { status: 404, .. } | Error::NotAHub { .. } => {
            Some(format!("check HF_ENDPOINT, or {FETCH_ELSEWHERE}"))
        }
        Error::Status { status: 429, .. } => text("wait a while and run the command again"),
        Error::Status { .. } => Some(format!("run the command again later, or {FETCH_ELSEWHERE}")),
        Error::Unreachable { .. } => Some(format!("check the network and HF_ENDPOINT, or {FETCH_ELSEWHERE}")),
        Error::HashMismatch { .. } => Some(format!("run the command again; if that does not help, {FETCH_ELSEWHERE}")),
        Error::Locked { .. } => text("wait for the other process"),
        Error::Io { .. } => text("REELSEEK_CACHE names another folder for weights"),
        Error::Cancelled { total: None, .. } => text("run the same command again"),
        Error::TransferBroken { .. } | Error::Cancelled { .. } => text(RESUME),
        #[allow(unreachable_patterns, reason = "the enum is non-exhaustive for other crates only")]
        _ => None,
    }
}

fn checkpoint(error: &gmf::Error) -> Option<String> {
    use gmf::Error;
    match error {
        Error::Format { .. } => text("`reelseek train` and `reelseek fold` write GMF checkpoints"),
        Error::NotFolded { .. } => text("`reelseek fold` makes the folded checkpoint of it"),
        Error::Encoder { .. } => text("name a checkpoint that fits with --checkpoint"),
        Error::BeyondHalf { .. } => text("store values as f32, without --half"),
        Error::NoRoom { .. } => text("move --boundary towards 0.5"),
        _ => None,
    }
}

fn collection(error: &collection::Error) -> Option<String> {
    use collection::Error;
    match error {
        Error::Index(error) => index(error),
        Error::Encoder(error) => encode(error),
        Error::Checkpoint(error) => checkpoint(error),
        Error::MissingCheckpoint { .. } => {
            Some(format!("put it back, name a copy with --checkpoint, {ANOTHER_FOLDER}"))
        }
        Error::OtherCheckpoint { .. } => {
            Some(format!("name the checkpoint that the index was made with, {ANOTHER_FOLDER}"))
        }
        // The options of the kind space have the same names with a prefix.
        Error::KindSpace { source } => collection(source).map(|advice| of_kind_space(&advice)),
        Error::SingleSpace { .. } => text("leave --kind-encoder out, or index into another folder without --encoder"),
        Error::NoSpace { space: Space::Kind } => {
            text("`reelseek index FOLDER --kind-encoder NAME` adds one to the index")
        }
        Error::NoSpace { space: Space::Scene } => text("leave --match scene out"),
        Error::FullPrecision => text("leave --half out, or name another folder with --index"),
        Error::Io { .. } | Error::Cancelled => None,
    }
}

fn of_kind_space(advice: &str) -> String {
    ["encoder", "weights", "checkpoint"]
        .iter()
        .fold(advice.to_owned(), |advice, name| advice.replace(&format!("--{name}"), &format!("--kind-{name}")))
}

fn ingest(error: &ingest::Error) -> Option<String> {
    match error {
        ingest::Error::Media(error) => media(error),
        ingest::Error::Collection(error) => collection(error),
        ingest::Error::Fit(FitError::NoFrames { .. }) => text("name other videos, or a --checkpoint"),
        ingest::Error::Fit(FitError::Encoder(error)) => encode(error),
        ingest::Error::Fit(_) => None,
    }
}

fn file(error: &FileError) -> Option<String> {
    match error {
        FileError::Media(error) => media(error),
        FileError::FailedBefore { .. } => text("--retry decodes it again"),
        FileError::Checkpoint(error) => checkpoint(error),
        FileError::Encoder(error) => encode(error),
        FileError::Refused(_) => None,
    }
}

#[cfg(feature = "research")]
mod research {
    use std::error::Error as StdError;

    use super::{checkpoint, collection, encode, index, media, text};
    use crate::research::{eval, extract, fit};
    use crate::{features, gmf};

    pub(super) fn of(error: &(dyn StdError + 'static)) -> Option<String> {
        None.or_else(|| error.downcast_ref().and_then(config))
            .or_else(|| error.downcast_ref().and_then(training))
            .or_else(|| error.downcast_ref().and_then(features))
            .or_else(|| error.downcast_ref().and_then(fit))
            .or_else(|| error.downcast_ref().and_then(evaluation))
            .or_else(|| error.downcast_ref().and_then(extraction))
    }

    fn config(error: &gmf::ConfigError) -> Option<String> {
        match error {
            gmf::ConfigError::TooLarge => text("give smaller lengths or a smaller --multiple"),
            _ => None,
        }
    }

    fn training(error: &gmf::TrainError) -> Option<String> {
        use gmf::TrainError;
        match error {
            TrainError::Features(error) => features(error),
            TrainError::Checkpoint(error) => checkpoint(error),
            TrainError::DeviceNotBuilt { device } => {
                Some(format!("build with `cargo build --release --locked --features {device}`, or use --device cpu"))
            }
            TrainError::OtherRun { .. } => {
                text("give the options that the run was started with, or start from the beginning with --force")
            }
            TrainError::CheckpointGone { .. } | TrainError::CheckpointReplaced { .. } => {
                text("put the file back, or start from the beginning with --force")
            }
            TrainError::TooFewPairs { .. } => {
                text("rows of the split train must share labels, or have the same `video` (or `id`)")
            }
            TrainError::NoValidationPairs { .. } => {
                text("give the split val images and videos that share labels (or `video`), or leave the split out")
            }
            TrainError::Diverged { .. } => text("try a lower --learning-rate or a higher --temperature"),
            _ => None,
        }
    }

    fn features(error: &features::Error) -> Option<String> {
        use features::Error;
        match error {
            Error::Benchmark { .. } => text("`reelseek dataset` writes such a list"),
            Error::NotFinite { .. } => text("extract the row again, or leave it out"),
            Error::NoHdf5 { .. } => text(
                "build with `cargo build --release --locked --features hdf5` (needs libhdf5), or convert it to .npz",
            ),
            _ => None,
        }
    }

    fn fit(error: &fit::Error) -> Option<String> {
        match error {
            fit::Error::TooFew { .. } => text("name more videos"),
            fit::Error::Degenerate => text("name other videos"),
            fit::Error::Encoder(error) => encode(error),
            fit::Error::Config(error) => config(error),
            _ => None,
        }
    }

    fn evaluation(error: &eval::Error) -> Option<String> {
        use eval::Error;
        match error {
            Error::Features(error) => features(error),
            Error::Checkpoint(error) => checkpoint(error),
            Error::Config(error) => config(error),
            Error::Train(error) => training(error),
            Error::Media(error) => media(error),
            Error::Collection(error) => collection(error),
            Error::Index(error) => index(error),
            Error::AllTrainedOn => text("index other videos, or leave --held-out out"),
            Error::EmptySplit { .. } => text("name another --split"),
            Error::ImagesLonger { .. } => text("name the method without -image"),
            _ => None,
        }
    }

    fn extraction(error: &extract::Error) -> Option<String> {
        use extract::Error;
        match error {
            Error::Media(error) => media(error),
            Error::Features(error) => features(error),
            Error::SameVideo { .. } => text("keep one of the two files"),
            _ => None,
        }
    }
}
