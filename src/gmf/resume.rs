//! What a run needs to go on: beside the checkpoint, in `CKPT.resume`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::Error;
use super::config::{Config, Modality};
use super::curve::Curve;
use super::loss::Losses;
use super::options::{Options, Plateau};
use super::weights::Weights;
use crate::base::tensors;

const KEY: &str = "reelseek-resume";
/// Version of the file's layout.
const FORMAT: u64 = 1;

/// Where a run stands. With the weights and the momentum buffers it is all that the rest of the run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    format: u64,
    pub(super) options: Options,
    /// Of the features, for the record.
    encoder: String,
    modalities: Vec<Modality>,
    multiple: u32,
    boundary: f64,
    /// Which rows are learned from and validated with.
    rows: String,
    /// Of the features.
    pub(super) data: String,
    /// Epochs done.
    pub(super) epoch: usize,
    /// Steps done of the next one.
    pub(super) step: usize,
    pub(super) plateau: Plateau,
    /// Of the first batch: what divergence is measured against.
    pub(super) first_loss: Option<f64>,
    /// Sums since the last point of the curve, and how many steps they hold.
    pub(super) sums: (Losses, usize),
    /// Epoch and validation mAP@10 of the checkpoint kept.
    pub(super) best: Option<(usize, Option<f64>)>,
    pub(super) curve: Curve,
}

impl State {
    pub(super) fn start(options: &Options, config: &Config, encoder: &str, rows: String, data: String) -> State {
        State {
            format: FORMAT,
            options: options.clone(),
            encoder: encoder.to_owned(),
            modalities: config.modalities().to_vec(),
            multiple: config.multiple(),
            boundary: config.boundary(),
            rows,
            data,
            epoch: 0,
            step: 0,
            plateau: Plateau::new(options.rate),
            first_loss: None,
            sums: (Losses::default(), 0),
            best: None,
            curve: Curve::default(),
        }
    }

    /// The file beside a checkpoint.
    pub(super) fn path(checkpoint: &Path) -> PathBuf {
        let mut path = checkpoint.as_os_str().to_owned();
        path.push(".resume");
        path.into()
    }

    pub(super) fn save(&self, path: &Path, weights: &Weights, velocity: &Weights) -> Result<(), Error> {
        let mut all = Vec::new();
        for (prefix, of) in [("weights", weights), ("velocity", velocity)] {
            all.extend(of.tensors().into_iter().map(|(name, shape, v)| (format!("{prefix}.{name}"), shape, v)));
        }
        let state = serde_json::to_string(self).expect("a state is plain data");
        tensors::save(path, &all, HashMap::from([(KEY.to_owned(), state)])).map_err(Error::of(path))
    }

    pub(super) fn open(path: &Path) -> Result<(State, Weights, Weights), Error> {
        let wrong = |found: String| Error::Format { name: path.display().to_string(), found };
        let file = tensors::open(path).map_err(Error::of(path))?;
        let text = file.metadata.get(KEY).ok_or_else(|| wrong(format!("its metadata has no `{KEY}`")))?;
        let unread = |e: serde_json::Error| wrong(format!("its state cannot be read ({e})"));
        let value: serde_json::Value = serde_json::from_str(text).map_err(unread)?;
        if value["format"] != FORMAT {
            return Err(wrong(format!("format version {} (this program reads {FORMAT})", value["format"])));
        }
        let state: State = serde_json::from_value(value).map_err(unread)?;
        let config = Config::new(state.modalities.clone(), state.multiple, state.boundary)
            .map_err(|e| wrong(format!("its state is impossible ({e})")))?;
        let expected = 2 * Weights::count(&config);
        if file.names().len() != expected {
            return Err(wrong(format!("{} tensors instead of {expected}", file.names().len())));
        }
        // Both are compared before room is made for what the state promises.
        for prefix in ["weights.", "velocity."] {
            Weights::check(&config, &file, prefix).map_err(Error::of(path))?;
        }
        let mut weights = Weights::zeros(&config);
        weights.fill_from(&file, "weights.").map_err(Error::of(path))?;
        let mut velocity = Weights::zeros(&config);
        velocity.fill_from(&file, "velocity.").map_err(Error::of(path))?;
        Ok((state, weights, velocity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_state_of_this_model_is_refused_before_memory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.resume");
        let config = Config::image_video(3, 5).unwrap();
        let weights = Weights::random(&config, 1);
        let state = State::start(&Options::default(), &config, "test/1", String::new(), String::new());
        state.save(&path, &weights, &weights).unwrap();
        assert_eq!(State::open(&path).unwrap(), (state.clone(), weights.clone(), weights.clone()));
        let error = || State::open(&path).unwrap_err().to_string();
        State { format: 7, ..state.clone() }.save(&path, &weights, &weights).unwrap();
        assert!(error().contains("format version 7"), "{}", error());
        // 8 · 10⁹ parameters: 64 GB with momentum, if they were made room for.
        let huge = Config::image_video(20_000, 20_000).unwrap();
        let mut other = State::start(&Options::default(), &huge, "test/1", String::new(), String::new());
        other.save(&path, &weights, &weights).unwrap();
        assert!(error().contains("image.dis.weight"), "{}", error());
        other.multiple = 1;
        other.save(&path, &weights, &weights).unwrap();
        assert!(error().contains("multiple is 1"), "{}", error());
        weights.save(&path, &Weights::record(&config, "test/1", serde_json::Value::Null)).unwrap();
        assert!(error().contains("reelseek-resume"), "{}", error());
    }
}
