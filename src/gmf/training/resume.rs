//! The state from which a stopped run resumes, stored next to the checkpoint in `CKPT.resume`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::curve::LearningCurve;
use super::loss::Losses;
use super::options::{PlateauSchedule, TrainOptions};
use super::weights::GmfWeights;
use crate::base::files;
use crate::base::tensors::{self, NamedTensor};
use crate::gmf::checkpoint::Error;
use crate::gmf::config::{GmfConfig, Modality};

const KEY: &str = "reelseek-resume";
/// Version of the file layout.
const FORMAT: u64 = 1;

/// Path of the file that holds the state of a stopped run, next to its checkpoint.
pub fn resume_path(checkpoint: &Path) -> PathBuf {
    files::with_suffix(checkpoint, ".resume")
}

/// The position of a run. The rest of the run depends on this state, the weights and the momentum buffers
/// only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ResumeState {
    format: u64,
    pub(super) options: TrainOptions,
    /// Encoder of the features, for the checkpoint's record.
    encoder: String,
    modalities: Vec<Modality>,
    multiple: u32,
    boundary: f64,
    /// Fingerprint of the choice of rows.
    rows: String,
    /// Fingerprint of the features.
    pub(super) data: String,
    /// Number of finished epochs.
    pub(super) epoch: usize,
    /// Number of finished steps in the current epoch.
    pub(super) step: usize,
    pub(super) plateau: PlateauSchedule,
    /// Loss of the first batch, the reference for divergence.
    pub(super) first_loss: Option<f64>,
    /// Sums of losses since the last point of the curve, and the number of steps in them.
    pub(super) sums: (Losses, usize),
    /// Epoch and validation mAP@10 of the kept checkpoint.
    pub(super) best: Option<(usize, Option<f64>)>,
    pub(super) curve: LearningCurve,
}

impl ResumeState {
    /// The state before the first step.
    pub(super) fn start(
        options: &TrainOptions,
        config: &GmfConfig,
        encoder: &str,
        rows: String,
        data: String,
    ) -> ResumeState {
        ResumeState {
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
            plateau: PlateauSchedule::new(options.rate),
            first_loss: None,
            sums: (Losses::default(), 0),
            best: None,
            curve: LearningCurve::default(),
        }
    }

    /// Writes the state file and replaces it atomically.
    pub(super) fn save(&self, path: &Path, weights: &GmfWeights, velocity: &GmfWeights) -> Result<(), Error> {
        let mut all = Vec::new();
        for (prefix, of) in [("weights.", weights), ("velocity.", velocity)] {
            all.extend(of.tensors().into_iter().map(|tensor| {
                let name = format!("{prefix}{}", tensor.name);
                NamedTensor { name, ..tensor }
            }));
        }
        let state = serde_json::to_string(self).expect("a state is plain data");
        tensors::save(path, &all, HashMap::from([(KEY.to_owned(), state)])).map_err(Error::in_file(path))
    }

    /// Reads a state file: the state, the weights and the momentum buffers.
    pub(super) fn open(path: &Path) -> Result<(ResumeState, GmfWeights, GmfWeights), Error> {
        let wrong = |found: String| Error::Format { name: path.to_owned(), found };
        let file = tensors::open(path).map_err(Error::in_file(path))?;
        let text = file.metadata.get(KEY).ok_or_else(|| wrong(format!("its metadata has no `{KEY}`")))?;
        let unreadable = |e: serde_json::Error| wrong(format!("its state cannot be read ({e})"));
        let value: serde_json::Value = serde_json::from_str(text).map_err(unreadable)?;
        if value["format"] != FORMAT {
            return Err(wrong(format!("format version {} (this program reads {FORMAT})", value["format"])));
        }
        let state: ResumeState = serde_json::from_value(value).map_err(unreadable)?;
        let config = GmfConfig::new(state.modalities.clone(), state.multiple, state.boundary)
            .map_err(|e| wrong(format!("its state is impossible ({e})")))?;
        let expected = 2 * GmfWeights::shapes(&config).len();
        if file.names().len() != expected {
            return Err(wrong(format!("{} tensors instead of {expected}", file.names().len())));
        }
        let read = |prefix| GmfWeights::read(&config, &file, prefix).map_err(Error::in_file(path));
        Ok((state, read("weights.")?, read("velocity.")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gmf::checkpoint::CheckpointRecord;

    #[test]
    fn rejects_an_invalid_state_before_allocating() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.resume");
        let config = GmfConfig::image_video(3, 5).unwrap();
        let weights = GmfWeights::random(&config, 1);
        let state = ResumeState::start(&TrainOptions::default(), &config, "test/1", String::new(), String::new());
        state.save(&path, &weights, &weights).unwrap();
        assert_eq!(ResumeState::open(&path).unwrap(), (state.clone(), weights.clone(), weights.clone()));
        let error = || ResumeState::open(&path).unwrap_err().to_string();
        ResumeState { format: 7, ..state.clone() }.save(&path, &weights, &weights).unwrap();
        assert!(error().contains("format version 7"), "{}", error());
        // 8 · 10⁹ parameters: allocating them would take 64 GB with momentum.
        let huge = GmfConfig::image_video(20_000, 20_000).unwrap();
        let mut other = ResumeState::start(&TrainOptions::default(), &huge, "test/1", String::new(), String::new());
        other.save(&path, &weights, &weights).unwrap();
        assert!(error().contains("image.dis.weight"), "{}", error());
        other.multiple = 1;
        other.save(&path, &weights, &weights).unwrap();
        assert!(error().contains("multiple is 1"), "{}", error());
        weights.save(&path, &CheckpointRecord::new(&config, "test/1", serde_json::Value::Null)).unwrap();
        assert!(error().contains("reelseek-resume"), "{}", error());
    }
}
