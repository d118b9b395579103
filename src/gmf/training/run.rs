//! A training run: epochs over a feature set, validation, learning rate schedule, best checkpoint, resuming.
//!
//! All random numbers depend on the seed and the epoch only, and every product is computed in the same order
//! for any number of threads. The same seed and data give the same bytes, and a resumed run gives the bytes
//! of an uninterrupted one.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::autograd::AutogradStepper;
use super::cpu::CpuStepper;
use super::curve::CurvePoint;
use super::data::TrainingData;
use super::loss::Losses;
use super::options::{TrainDevice, TrainOptions};
use super::resume::{ResumeState, resume_path};
use super::step::{SgdOptions, StepError, Stepper, TrainingBatch};
use super::weights::GmfWeights;
use crate::features;
use crate::gmf::checkpoint::{Affine, CheckpointRecord, Error as CheckpointError, Folded};
use crate::gmf::config::GmfConfig;

/// Points of the learning curve per epoch.
const CURVE_POINTS: usize = 20;
/// A loss above this multiple of the first batch's loss counts as divergence.
const DIVERGENCE_FACTOR: f64 = 100.0;

/// Why a model cannot be trained.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The features cannot be read.
    #[error(transparent)]
    Features(#[from] features::Error),
    /// A checkpoint or a state file cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The learning curve cannot be written.
    #[error("the learning curve next to {}: {source}", checkpoint.display())]
    Curve {
        /// The checkpoint of the curve.
        checkpoint: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Fewer than two training images have a matching training video.
    #[error("{matched} of {images} training images match one of {videos} training videos; expected at least 2")]
    TooFewPairs {
        /// Training images with a matching video.
        matched: usize,
        /// Training images.
        images: usize,
        /// Training videos.
        videos: usize,
    },
    /// No image of the split `val` matches one of its videos, so the epochs cannot be compared.
    #[error("none of {images} images of the split `val` matches one of its {videos} videos")]
    NoValidationPairs {
        /// Images of the split.
        images: usize,
        /// Videos of the split.
        videos: usize,
    },
    /// An option is out of range.
    #[error("{name} is {found}; {expected}")]
    Option {
        /// Name of the option.
        name: &'static str,
        /// Value of the option.
        found: String,
        /// Accepted values.
        expected: &'static str,
    },
    /// The state file belongs to a run with other options or data.
    #[error("{}: the run was started with {what} {found}, now it is {given}", path.display())]
    OtherRun {
        /// The state file.
        path: PathBuf,
        /// Name of the difference.
        what: String,
        /// Recorded value.
        found: String,
        /// Current value.
        given: String,
    },
    /// The checkpoint of the run to resume does not exist.
    #[error("{} is gone; it was the checkpoint of epoch {epoch}, the best epoch of the run", path.display())]
    CheckpointGone {
        /// The checkpoint.
        path: PathBuf,
        /// Best epoch of the run.
        epoch: usize,
    },
    /// The checkpoint of the run to resume was replaced.
    #[error("{} holds another checkpoint than that of epoch {epoch}, the best epoch of the run", path.display())]
    CheckpointReplaced {
        /// The checkpoint.
        path: PathBuf,
        /// Best epoch of the run.
        epoch: usize,
    },
    /// The loss exceeded its limit.
    #[error("epoch {epoch}, step {step}: {source}; {}", describe_kept(*kept, checkpoint))]
    Diverged {
        /// Epoch, from 1.
        epoch: usize,
        /// Step in the epoch, from 1.
        step: usize,
        /// The divergence.
        source: StepError,
        /// Epoch of the kept checkpoint; absent if no checkpoint was written.
        kept: Option<usize>,
        /// Path of the checkpoint.
        checkpoint: PathBuf,
    },
    /// This build does not support the device.
    #[error("this program was built without support for the device {device}")]
    DeviceNotBuilt {
        /// The device.
        device: TrainDevice,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] StepError),
    /// The validation failed.
    #[error("validation: {0}")]
    Validation(Box<dyn std::error::Error + Send + Sync>),
}

fn describe_kept(kept: Option<usize>, checkpoint: &Path) -> String {
    match kept {
        Some(epoch) => format!("the checkpoint of epoch {epoch} is kept in {}", checkpoint.display()),
        None => "no epoch was finished, so no checkpoint is written".to_owned(),
    }
}

/// Progress of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainProgress {
    /// A step is finished.
    Step {
        /// Number of finished steps of the run.
        done: usize,
        /// Number of all steps of the run.
        of: usize,
        /// Pairs in the step's batch.
        pairs: usize,
        /// Losses of the step.
        losses: Losses,
    },
    /// An epoch is finished.
    Epoch {
        /// Epoch, from 1; 0 is the start of a run from given weights.
        epoch: usize,
        /// mAP@10 on the validation rows; absent without validation rows.
        map10: Option<f64>,
        /// Whether the epoch is the best so far and its checkpoint is kept.
        best: bool,
    },
}

/// Result of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainOutcome {
    /// All epochs are finished.
    Finished {
        /// Epoch of the checkpoint.
        epoch: usize,
        /// mAP@10 of that epoch.
        map10: Option<f64>,
    },
    /// The run was stopped, and its state is saved.
    Interrupted,
}

/// Input of a run.
#[derive(Debug)]
pub struct TrainingRun<'a> {
    /// Rows to train on.
    pub data: &'a TrainingData<'a>,
    /// Form of the model, with the modalities `image` and `video`.
    pub config: &'a GmfConfig,
    /// Initial weights; random weights if absent. Their checkpoint is kept if no epoch is better.
    pub start: Option<GmfWeights>,
    /// Options.
    pub options: &'a TrainOptions,
    /// Whether to resume from the state file next to the checkpoint.
    pub resume: bool,
    /// Encoder of the features, for the record.
    pub encoder: &'a str,
    /// Projection that the image features passed through, see [`CheckpointRecord::projection`].
    pub projection: Option<Affine>,
    /// Entries to add to [`CheckpointRecord::training`].
    pub record: serde_json::Value,
    /// Path of the checkpoint.
    pub out: &'a Path,
}

/// Computes mAP@10 of folded maps on the validation rows.
type Validate<'v> = dyn FnMut(&Folded) -> Result<f64, Box<dyn std::error::Error + Send + Sync>> + 'v;

/// Trains a model. Writes the checkpoint of the best epoch to `out`, the learning curve next to it as `.csv`
/// and `.svg`, and until the run is finished its state as `.resume`. `validate` returns mAP@10 of folded
/// maps. `stop` is called before each step; the run stops if it returns true.
///
/// # Errors
/// A [`TrainError`]. Files that were already written are kept.
pub fn train(
    mut run: TrainingRun<'_>,
    validate: &mut Validate<'_>,
    stop: &dyn Fn() -> bool,
    on_event: &mut dyn FnMut(TrainProgress),
) -> Result<TrainOutcome, TrainError> {
    run.options.check()?;
    let start = run.start.take();
    let keep_start = start.is_some() && !run.resume;
    let (state, state_path, stepper) = open(&run, start)?;
    let mut session = Session { run: &run, validate, stop, on_event, state, state_path, stepper };
    if keep_start {
        session.keep_start()?;
    }
    while session.state.epoch < run.options.epochs {
        if !session.run_epoch()? {
            return Ok(TrainOutcome::Interrupted);
        }
        session.finish_epoch()?;
    }
    session.save_curve()?;
    // The state is large, and a finished run does not need it.
    remove_if_present(&session.state_path)?;
    let (epoch, map10) = session.state.best.unwrap_or((0, None));
    Ok(TrainOutcome::Finished { epoch, map10 })
}

/// Starts a run, or loads the state of a stopped one. Returns the state, the path of its file, and the
/// stepper.
fn open(
    run: &TrainingRun<'_>,
    start: Option<GmfWeights>,
) -> Result<(ResumeState, PathBuf, Box<dyn Stepper>), TrainError> {
    let TrainingRun { data, config, options, out, .. } = *run;
    let features = data.set.fingerprint()?;
    let state_path = resume_path(out);
    let state = ResumeState::start(options, config, run.encoder, data.fingerprint(), features);
    if run.resume {
        let (saved, weights, velocity) = ResumeState::open(&state_path)?;
        state.check_resumes(&saved, &state_path)?;
        saved.check_checkpoint(out)?;
        return Ok((saved, state_path, stepper(options.device, weights, Some(velocity))?));
    }
    let weights = start.unwrap_or_else(|| GmfWeights::random(config, options.seed));
    let stepper = stepper(options.device, weights, None)?;
    // The state of an earlier run must not be mistaken for the state of this run.
    remove_if_present(&state_path)?;
    Ok((state, state_path, stepper))
}

/// A run in progress.
struct Session<'r> {
    run: &'r TrainingRun<'r>,
    validate: &'r mut Validate<'r>,
    stop: &'r dyn Fn() -> bool,
    on_event: &'r mut dyn FnMut(TrainProgress),
    state: ResumeState,
    state_path: PathBuf,
    stepper: Box<dyn Stepper>,
}

impl Session<'_> {
    /// Validates the given initial weights and keeps them as the checkpoint of epoch 0.
    fn keep_start(&mut self) -> Result<(), TrainError> {
        let map10 = self.validation_map10()?;
        self.state.best = Some((0, map10));
        let rate = self.run.options.rate;
        self.state.curve.points.push(CurvePoint { step: 0, epoch: 0, rate, losses: None, map10 });
        self.write_checkpoint()?;
        (self.on_event)(TrainProgress::Epoch { epoch: 0, map10, best: true });
        Ok(())
    }

    /// Runs the rest of the current epoch. Returns false if the run was stopped.
    fn run_epoch(&mut self) -> Result<bool, TrainError> {
        let TrainingRun { data, config, options, out, .. } = *self.run;
        let steps = data.pairs().div_ceil(options.batch);
        let mut batch = TrainingBatch::default();
        let order = data.epoch(options.seed, self.state.epoch);
        for (i, pairs) in order.chunks(options.batch).enumerate().skip(self.state.step) {
            if (self.stop)() {
                self.save_state()?;
                self.save_curve()?;
                return Ok(false);
            }
            data.read_batch(config, pairs, &mut batch)?;
            let sgd = SgdOptions {
                rate: self.state.plateau.rate as f32,
                momentum: options.momentum as f32,
                decay: options.decay as f32,
                loss_limit: self.state.loss_limit(),
            };
            let losses = self
                .stepper
                .step(&batch, &options.objective, &sgd)
                .map_err(|source| self.state.diverged(i + 1, source, out))?;
            self.state.first_loss.get_or_insert(losses.total);
            // A short last batch is left out: its loss is lower because of its size.
            if pairs.len() == options.batch.min(data.pairs()) {
                self.state.plateau.step(losses.total, options.plateau_factor, options.plateau_patience);
            }
            self.state.step = i + 1;
            self.state.add_losses(losses, steps);
            if self.state.step == steps {
                // The result of the last update is checked before it replaces the kept checkpoint.
                self.stepper
                    .losses(&batch, &options.objective)
                    .and_then(|losses| SgdOptions { loss_limit: self.state.loss_limit(), ..sgd }.check(&losses))
                    .map_err(|source| self.state.diverged(steps, source, out))?;
            }
            (self.on_event)(TrainProgress::Step {
                done: self.state.epoch * steps + i + 1,
                of: options.epochs * steps,
                pairs: pairs.len(),
                losses,
            });
        }
        Ok(true)
    }

    /// Validates a finished epoch, keeps its checkpoint if it is the best, and saves curve and state.
    fn finish_epoch(&mut self) -> Result<(), TrainError> {
        self.state.epoch += 1;
        self.state.step = 0;
        let map10 = self.validation_map10()?;
        if let Some(point) = self.state.curve.points.last_mut() {
            point.map10 = map10;
        }
        // Without validation rows the last epoch is the best.
        let best = self.state.best.is_none_or(|(_, best)| map10.is_none() || map10 > best);
        if best {
            self.state.best = Some((self.state.epoch, map10));
            self.write_checkpoint()?;
        }
        (self.on_event)(TrainProgress::Epoch { epoch: self.state.epoch, map10, best });
        self.save_curve()?;
        if self.state.epoch < self.run.options.epochs {
            self.save_state()?;
        }
        Ok(())
    }

    /// mAP@10 of the current weights; absent without validation rows.
    fn validation_map10(&mut self) -> Result<Option<f64>, TrainError> {
        if self.run.data.queries.is_empty() {
            return Ok(None);
        }
        let (weights, _) = self.stepper.state()?;
        let folded = weights.fold(&CheckpointRecord::new(weights.config(), "", serde_json::Value::Null))?;
        (self.validate)(&folded).map(Some).map_err(TrainError::Validation)
    }

    /// Writes the current weights as the checkpoint of the best epoch.
    fn write_checkpoint(&self) -> Result<(), TrainError> {
        let TrainingRun { data, encoder, projection, record, out, .. } = self.run;
        let (epoch, map10) = self.state.best.unwrap_or((0, None));
        let mut training = serde_json::json!({
            "method": "gmf",
            "options": self.state.options,
            "pairs": data.pairs(),
            "positives": if data.labelled { "labels" } else { "instances" },
            "data": self.state.data,
            "epoch": epoch,
            "validation_map10": map10,
        });
        if let (Some(training), Some(entries)) = (training.as_object_mut(), record.as_object()) {
            training.extend(entries.clone());
        }
        let (weights, _) = self.stepper.state()?;
        let record = CheckpointRecord::new(weights.config(), encoder, training).projected(projection.clone());
        Ok(weights.save(out, &record)?)
    }

    fn save_state(&self) -> Result<(), TrainError> {
        let (weights, velocity) = self.stepper.state()?;
        Ok(self.state.save(&self.state_path, &weights, &velocity)?)
    }

    fn save_curve(&self) -> Result<(), TrainError> {
        let out = self.run.out;
        self.state.curve.save(out).map_err(|source| TrainError::Curve { checkpoint: out.to_owned(), source })
    }
}

fn remove_if_present(path: &Path) -> Result<(), TrainError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CheckpointError::Io { name: path.to_owned(), source }.into())
        }
        _ => Ok(()),
    }
}

fn stepper(
    device: TrainDevice,
    weights: GmfWeights,
    velocity: Option<GmfWeights>,
) -> Result<Box<dyn Stepper>, TrainError> {
    let device = match device {
        TrainDevice::Cpu => return Ok(Box::new(CpuStepper::new(weights, velocity))),
        TrainDevice::Cuda => candle_core::Device::new_cuda(0).map_err(StepError::from)?,
        TrainDevice::Metal => candle_core::Device::new_metal(0).map_err(StepError::from)?,
    };
    Ok(Box::new(AutogradStepper::new(&weights, velocity.as_ref(), &device).map_err(StepError::from)?))
}

impl ResumeState {
    /// Adds the losses of a step. Every few steps and at the end of an epoch, their mean becomes a point of
    /// the curve.
    fn add_losses(&mut self, losses: Losses, steps: usize) {
        let (sum, count) = &mut self.sums;
        sum.total += losses.total;
        sum.dissociation += losses.dissociation;
        sum.task += losses.task;
        *count += 1;
        if self.step == steps || self.step.is_multiple_of(steps.div_ceil(CURVE_POINTS)) {
            let n = *count as f64;
            let mean = Losses { total: sum.total / n, dissociation: sum.dissociation / n, task: sum.task / n };
            self.curve.points.push(CurvePoint {
                step: self.epoch * steps + self.step,
                epoch: self.epoch + 1,
                rate: self.plateau.rate,
                losses: Some(mean),
                map10: None,
            });
            self.sums = (Losses::default(), 0);
        }
    }

    /// The loss above which training has diverged.
    fn loss_limit(&self) -> f64 {
        self.first_loss.map_or(f64::MAX, |first| DIVERGENCE_FACTOR * first.max(1.0))
    }

    fn diverged(&self, step: usize, source: StepError, out: &Path) -> TrainError {
        let kept = self.best.map(|(epoch, _)| epoch);
        TrainError::Diverged { epoch: self.epoch + 1, step, source, kept, checkpoint: out.to_owned() }
    }

    /// Checks that `out` is the checkpoint that this run kept.
    fn check_checkpoint(&self, out: &Path) -> Result<(), TrainError> {
        let Some((epoch, _)) = self.best else { return Ok(()) };
        let path = out.to_owned();
        if !out.exists() {
            return Err(TrainError::CheckpointGone { path, epoch });
        }
        let training = CheckpointRecord::open(out)?.training;
        let options = serde_json::to_value(&self.options).expect("options are plain data");
        // If a run was killed after it wrote the checkpoint of the next epoch and before it saved its state,
        // the resumed run repeats that epoch.
        let epochs = [epoch, self.epoch + 1].map(serde_json::Value::from);
        if !epochs.contains(&training["epoch"])
            || training["data"] != self.data.as_str()
            || training["options"] != options
        {
            return Err(TrainError::CheckpointReplaced { path, epoch });
        }
        Ok(())
    }

    /// Checks that `saved` is the state of a run with the options and data of `self`, the state of a new run.
    fn check_resumes(&self, saved: &ResumeState, path: &Path) -> Result<(), TrainError> {
        let flatten = |state: &ResumeState| match serde_json::to_value(state) {
            Ok(serde_json::Value::Object(mut all)) => {
                ["format", "epoch", "step", "plateau", "first_loss", "sums", "best", "curve"].iter().for_each(|k| {
                    all.remove(*k);
                });
                if let Some(serde_json::Value::Object(options)) = all.remove("options") {
                    all.extend(options);
                }
                all
            }
            _ => serde_json::Map::new(),
        };
        let (now, then) = (flatten(self), flatten(saved));
        for (what, given) in &now {
            let found = then.get(what).unwrap_or(&serde_json::Value::Null);
            if found != given {
                return Err(TrainError::OtherRun {
                    path: path.to_owned(),
                    what: what.clone(),
                    found: found.to_string(),
                    given: given.to_string(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
