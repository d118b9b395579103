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
use crate::tensors;

const KEY: &str = "reelseek-resume";

/// Where a run stands. With the weights and the momentum buffers it is all that the rest of the run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) options: Options,
    modalities: Vec<Modality>,
    multiple: u32,
    boundary: f64,
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
    pub(super) fn start(options: &Options, config: &Config, data: String) -> State {
        State {
            options: options.clone(),
            modalities: config.modalities().to_vec(),
            multiple: config.multiple(),
            boundary: config.boundary(),
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
        let state: State = serde_json::from_str(text).map_err(|e| wrong(format!("its state cannot be read ({e})")))?;
        let config = Config::new(state.modalities.clone(), state.multiple, state.boundary)
            .map_err(|e| wrong(format!("its state is impossible ({e})")))?;
        let mut weights = Weights::zeros(&config);
        weights.fill_from(&file, "weights.").map_err(Error::of(path))?;
        let mut velocity = Weights::zeros(&config);
        velocity.fill_from(&file, "velocity.").map_err(Error::of(path))?;
        Ok((state, weights, velocity))
    }
}
