//! Advice for errors of encoders and of downloads of their weights.

use std::error::Error;

use crate::encode::{self, WeightsOrigin};
use crate::ingest::closed_form::FitError;
use crate::ingest::{self, FileError};
use crate::{collection, search};

/// What to do about an error of an encoder, also inside the errors that wrap it.
pub(super) fn of(error: &(dyn Error + 'static)) -> Option<String> {
    #[cfg(feature = "encoders")]
    if let Some(error) = error.downcast_ref() {
        return hub(error);
    }
    encoder(find(error)?)
}

fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a encode::Error> {
    let in_collection = |error: &'a collection::Error| match error {
        collection::Error::Encoder(error) => Some(error),
        _ => None,
    };
    let in_fit = |error: &'a FitError| match error {
        FitError::Encoder(error) => Some(error),
        _ => None,
    };
    let in_search = |error: &'a search::Error| match error {
        search::Error::Encoder(error) => Some(error),
        search::Error::Collection(error) => in_collection(error),
        _ => None,
    };
    let in_ingest = |error: &'a ingest::Error| match error {
        ingest::Error::Collection(error) => in_collection(error),
        ingest::Error::Fit(error) => in_fit(error),
        _ => None,
    };
    let in_file = |error: &'a FileError| match error {
        FileError::Encoder(error) => Some(error),
        _ => None,
    };
    None.or_else(|| error.downcast_ref())
        .or_else(|| error.downcast_ref().and_then(in_collection))
        .or_else(|| error.downcast_ref().and_then(in_fit))
        .or_else(|| error.downcast_ref().and_then(in_search))
        .or_else(|| error.downcast_ref().and_then(in_ingest))
        .or_else(|| error.downcast_ref().and_then(in_file))
}

fn encoder(error: &encode::Error) -> Option<String> {
    use encode::Error;
    Some(match error {
        Error::Projection { .. } => "fit a new one with `reelseek train --refit-encoder`".to_owned(),
        Error::NotBuilt { feature, .. } => format!("build it with `cargo build --release --features {feature}`"),
        Error::NoWeights { name, origin: WeightsOrigin::Hub, .. } => {
            format!("download them with `reelseek encoders pull {name}`, or name a file with --weights")
        }
        Error::NoWeights { .. } => "name a file with --weights".to_owned(),
        Error::PickledWeights { name: "c3d", path, .. } => {
            format!("convert it with `python3 tools/convert_c3d.py {} c3d.npz`", path.display())
        }
        Error::PickledWeights { .. } => "convert it to safetensors".to_owned(),
        Error::OnnxFile { .. } => {
            "name the network's file with --encoder onnx:FILE, or with --weights FILE if it was moved".to_owned()
        }
        Error::WrongEncoder { needed, origin, .. } => {
            let name = needed.split('/').next().unwrap_or_default();
            let encoder = match origin {
                WeightsOrigin::Embedded => "leave --encoder out".to_owned(),
                WeightsOrigin::Hub => format!(
                    "download its weights with `reelseek encoders pull {name}`, or name them with --weights FILE"
                ),
                WeightsOrigin::Onnx => {
                    "name its own file, with the same JSON file beside it, with --weights FILE".to_owned()
                }
                _ => "name its weights with --weights FILE".to_owned(),
            };
            format!("{encoder}, or index again into another folder")
        }
        _ => return None,
    })
}

#[cfg(feature = "encoders")]
fn hub(error: &encode::hub::Error) -> Option<String> {
    use encode::hub::Error;
    let elsewhere = "download the file elsewhere and name it with --weights";
    Some(match error {
        Error::NotOnHub { .. } => "name a file with --weights".to_owned(),
        Error::Offline { .. } => "unset HF_HUB_OFFLINE, put the file there, or name a file with --weights".to_owned(),
        Error::Status { status: 401 | 403, .. } => elsewhere.to_owned(),
        Error::Status { status: 404, .. } | Error::NotAHub { .. } => format!("check HF_ENDPOINT, or {elsewhere}"),
        Error::Status { status: 429, .. } => "wait a while and run the command again".to_owned(),
        Error::Status { .. } => format!("run the command again later, or {elsewhere}"),
        Error::Unreachable { .. } => format!("check the network and HF_ENDPOINT, or {elsewhere}"),
        Error::TransferBroken { .. } => "run the same command again to resume".to_owned(),
        Error::HashMismatch { .. } => format!("run the command again; if that does not help, {elsewhere}"),
        Error::Locked { .. } => "wait for the other process".to_owned(),
        Error::Io { .. } => "REELSEEK_CACHE names another folder for weights".to_owned(),
        _ => return None,
    })
}
