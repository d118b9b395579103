//! Epochs over a feature set: pairs, validation, schedule, best checkpoint, resuming.
//!
//! Everything random comes from the seed and the number of the epoch, and every product is computed in the same order whatever
//! the number of threads: the same seed and data give the same bytes, and a resumed run ends like one that was never stopped.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::checkpoint::{Affine, Error as CheckpointError, Folded, Record};
use super::config::Config;
use super::curve::Point;
use super::data::Data;
use super::loss::Losses;
use super::model::Autograd;
use super::options::{Device, Options};
use super::resume::State;
use super::step::{Batch, Cpu, Descent, StepError, Stepper};
use super::weights::Weights;
use crate::features;

/// Points of the curve in one epoch.
const POINTS: usize = 20;
/// A loss this many times that of the first batch is divergence.
const EXPLODED: f64 = 100.0;

/// Why a model could not be trained.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The features cannot be read.
    #[error(transparent)]
    Features(#[from] features::Error),
    /// A checkpoint or state cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The curve cannot be written.
    #[error("the learning curve beside {}: {source}", checkpoint.display())]
    Curve {
        /// The checkpoint it belongs to.
        checkpoint: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing to learn from.
    #[error("{0}")]
    Data(String),
    /// An option out of range.
    #[error("{name} is {found}; {expected}")]
    Option {
        /// Which.
        name: &'static str,
        /// What was given.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// The run to be resumed is another one.
    #[error("{}: the run was started with {what} {found}, now it is {given}; give what it was started with, or start anew", path.display())]
    Resume {
        /// The state file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// Recorded.
        found: String,
        /// Given now.
        given: String,
    },
    /// The loss left all bounds.
    #[error("epoch {epoch}, step {step}: {source}; {kept}")]
    Diverged {
        /// From 1.
        epoch: usize,
        /// From 1.
        step: usize,
        /// The loss.
        source: StepError,
        /// Which checkpoint is kept.
        kept: String,
    },
    /// The device cannot be used.
    #[error("{0}")]
    Device(String),
    /// The validation failed.
    #[error("validation: {0}")]
    Validation(String),
}

/// What a run tells as it goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// A step was made.
    Step {
        /// Steps done in all.
        done: usize,
        /// Steps of the whole run.
        of: usize,
        /// Pairs in its batch.
        pairs: usize,
        /// Its losses.
        losses: Losses,
    },
    /// An epoch is over (0: the start, before any step).
    Epoch {
        /// From 1.
        epoch: usize,
        /// mAP@10 on the validation split, if there is one.
        map10: Option<f64>,
        /// Whether it is the best so far, and so the checkpoint.
        best: bool,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// All epochs are done; the checkpoint is that of this epoch.
    Finished {
        /// The best epoch.
        epoch: usize,
        /// Its mAP@10.
        map10: Option<f64>,
    },
    /// Stopped by wish; the state is saved.
    Interrupted,
}

/// What a run is made of.
pub struct Run<'a> {
    /// The features.
    pub data: &'a Data<'a>,
    /// The form of the model: modalities `image` and `video`.
    pub config: &'a Config,
    /// Where to start, if not at random weights; kept as the checkpoint if no epoch is better.
    pub start: Option<Weights>,
    /// How.
    pub options: &'a Options,
    /// Go on from the state beside the checkpoint.
    pub resume: bool,
    /// Encoder of the features, for the record.
    pub encoder: &'a str,
    /// What image features went through before, see [`super::Record::projection`].
    pub projection: Option<Affine>,
    /// Names to record beside the options.
    pub about: serde_json::Value,
    /// The checkpoint to write.
    pub out: &'a Path,
}

/// Trains, and writes the checkpoint of the best epoch to `out`, its learning curve beside it as `.csv` and `.svg`, and while it is not
/// finished the state to resume from as `.resume`. `validate` gives mAP@10 of folded maps; `stop` is asked before each step.
///
/// # Errors
/// A [`TrainError`]. What was saved before stays.
pub fn train(
    run: Run<'_>,
    validate: &mut dyn FnMut(&Folded) -> Result<f64, String>,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(Progress),
) -> Result<Outcome, TrainError> {
    let Run { data, config, options, out, .. } = run;
    options.check()?;
    let fingerprint = data.set.fingerprint()?;
    let path = State::path(out);
    let mut state = State::start(options, config, run.encoder, data.fingerprint(), fingerprint);
    let mut stepper = if run.resume {
        let (saved, weights, velocity) = State::open(&path)?;
        state.agrees_with(&saved, &path)?;
        saved.is_of(out)?;
        state = saved;
        stepper(options.device, weights, Some(velocity))?
    } else {
        let warm = run.start.is_some();
        let stepper =
            stepper(options.device, run.start.unwrap_or_else(|| Weights::random(config, options.seed)), None)?;
        // A state of another run must not be taken for this one's.
        forget(&path)?;
        if warm {
            let map10 = score(&*stepper, data, validate)?;
            state.best = Some((0, map10));
            state.curve.points.push(Point { step: 0, epoch: 0, rate: options.rate, losses: None, map10 });
            keep(&*stepper, &state, (run.encoder, &run.projection, &run.about), data, out)?;
            tell(Progress::Epoch { epoch: 0, map10, best: true });
        }
        stepper
    };
    let steps = data.pairs().div_ceil(options.batch);
    let mut batch = Batch::default();
    while state.epoch < options.epochs {
        let order = data.epoch(options.seed, state.epoch);
        for (i, pairs) in order.chunks(options.batch).enumerate().skip(state.step) {
            if stop() {
                let (weights, velocity) = stepper.state().map_err(|e| TrainError::Device(e.to_string()))?;
                state.save(&path, &weights, &velocity)?;
                save_curve(&state, out)?;
                return Ok(Outcome::Interrupted);
            }
            let relations = data.batch(config, pairs, &mut batch)?;
            let descent = Descent {
                rate: state.plateau.rate as f32,
                momentum: options.momentum as f32,
                decay: options.decay as f32,
                loss_limit: state.limit(),
            };
            let losses = stepper
                .step(&batch, &relations, &options.objective, &descent)
                .map_err(|source| state.diverged(i + 1, source, out))?;
            state.first_loss.get_or_insert(losses.total);
            // The loss of a short last batch is lower for its size alone.
            if pairs.len() == options.batch.min(data.pairs()) {
                state.plateau.step(losses.total, options.plateau_factor, options.plateau_patience);
            }
            state.step = i + 1;
            state.note(losses, steps);
            if state.step == steps {
                // What the last update made must hold before it takes the place of what was kept.
                stepper
                    .losses(&batch, &relations, &options.objective)
                    .and_then(|losses| Descent { loss_limit: state.limit(), ..descent }.check(&losses))
                    .map_err(|source| state.diverged(steps, source, out))?;
            }
            tell(Progress::Step {
                done: state.epoch * steps + i + 1,
                of: options.epochs * steps,
                pairs: pairs.len(),
                losses,
            });
        }
        state.epoch += 1;
        state.step = 0;
        let map10 = score(&*stepper, data, validate)?;
        if let Some(point) = state.curve.points.last_mut() {
            point.map10 = map10;
        }
        // Without a validation split the last epoch is the best.
        let best = state.best.is_none_or(|(_, best)| map10.is_none() || map10 > best);
        if best {
            state.best = Some((state.epoch, map10));
            keep(&*stepper, &state, (run.encoder, &run.projection, &run.about), data, out)?;
        }
        tell(Progress::Epoch { epoch: state.epoch, map10, best });
        save_curve(&state, out)?;
        if state.epoch < options.epochs {
            let (weights, velocity) = stepper.state().map_err(|e| TrainError::Device(e.to_string()))?;
            state.save(&path, &weights, &velocity)?;
        }
    }
    save_curve(&state, out)?;
    // The run is over: its state is of no more use, and large.
    forget(&path)?;
    let (epoch, map10) = state.best.unwrap_or((0, None));
    Ok(Outcome::Finished { epoch, map10 })
}

/// Removes a state file, if there is one.
fn forget(path: &Path) -> Result<(), TrainError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CheckpointError::Io { name: path.display().to_string(), source }.into())
        }
        _ => Ok(()),
    }
}

fn stepper(device: Device, weights: Weights, velocity: Option<Weights>) -> Result<Box<dyn Stepper>, TrainError> {
    let wrong = |e: candle_core::Error| TrainError::Device(e.to_string());
    let device = match device {
        Device::Cpu => return Ok(Box::new(Cpu::new(weights, velocity))),
        Device::Cuda => candle_core::Device::new_cuda(0).map_err(wrong)?,
        Device::Metal => candle_core::Device::new_metal(0).map_err(wrong)?,
    };
    Ok(Box::new(Autograd::new(&weights, velocity.as_ref(), &device).map_err(wrong)?))
}

fn score(
    stepper: &dyn Stepper,
    data: &Data<'_>,
    validate: &mut dyn FnMut(&Folded) -> Result<f64, String>,
) -> Result<Option<f64>, TrainError> {
    if data.queries.is_empty() {
        return Ok(None);
    }
    let (weights, _) = stepper.state().map_err(|e| TrainError::Device(e.to_string()))?;
    let folded = weights.fold(&Weights::record(weights.config(), "", serde_json::Value::Null))?;
    validate(&folded).map(Some).map_err(TrainError::Validation)
}

/// Writes the checkpoint of the best epoch so far.
fn keep(
    stepper: &dyn Stepper,
    state: &State,
    (encoder, projection, about): (&str, &Option<Affine>, &serde_json::Value),
    data: &Data<'_>,
    out: &Path,
) -> Result<(), TrainError> {
    let (epoch, map10) = state.best.unwrap_or((0, None));
    let mut training = serde_json::json!({
        "method": "gmf", "options": state.options, "pairs": data.pairs(), "positives": if data.labelled { "labels" } else { "instances" },
        "data": state.data, "epoch": epoch, "validation_map10": map10,
    });
    if let (Some(training), Some(about)) = (training.as_object_mut(), about.as_object()) {
        training.extend(about.clone());
    }
    let (weights, _) = stepper.state().map_err(|e| TrainError::Device(e.to_string()))?;
    weights.save(out, &Weights::record(weights.config(), encoder, training).projected(projection.clone()))?;
    Ok(())
}

fn save_curve(state: &State, out: &Path) -> Result<(), TrainError> {
    state.curve.save(out).map_err(|source| TrainError::Curve { checkpoint: out.to_owned(), source })
}

impl State {
    /// Takes up the losses of a step; every few steps and at the end of an epoch they become a point of the curve.
    fn note(&mut self, losses: Losses, steps: usize) {
        let (sum, count) = &mut self.sums;
        sum.total += losses.total;
        sum.dissociation += losses.dissociation;
        sum.task += losses.task;
        *count += 1;
        if self.step == steps || self.step.is_multiple_of(steps.div_ceil(POINTS)) {
            let n = *count as f64;
            let mean = Losses { total: sum.total / n, dissociation: sum.dissociation / n, task: sum.task / n };
            self.curve.points.push(Point {
                step: self.epoch * steps + self.step,
                epoch: self.epoch + 1,
                rate: self.plateau.rate,
                losses: Some(mean),
                map10: None,
            });
            self.sums = (Losses::default(), 0);
        }
    }

    /// The loss from which on training has diverged.
    fn limit(&self) -> f64 {
        self.first_loss.map_or(f64::MAX, |first| EXPLODED * first.max(1.0))
    }

    fn diverged(&self, step: usize, source: StepError, out: &Path) -> TrainError {
        let kept = match self.best {
            Some((epoch, _)) => format!("the checkpoint of epoch {epoch} is kept in {}", out.display()),
            None => "no epoch was finished, so no checkpoint is written".to_owned(),
        };
        TrainError::Diverged { epoch: self.epoch + 1, step, source, kept }
    }

    /// Refuses a checkpoint that is not the one that this run kept.
    fn is_of(&self, out: &Path) -> Result<(), TrainError> {
        let Some((epoch, _)) = self.best else { return Ok(()) };
        let gone = |what: &str| {
            TrainError::Data(format!(
                "{} {what}, where this run kept its best epoch, {epoch}; put it back, or start anew",
                out.display()
            ))
        };
        if !out.exists() {
            return Err(gone("is gone"));
        }
        let training = Record::open(out)?.training;
        let options = serde_json::to_value(&self.options).expect("options are plain data");
        // A run that was killed after it kept the next epoch, and before it said so, makes that one again.
        let epochs = [epoch, self.epoch + 1].map(serde_json::Value::from);
        if !epochs.contains(&training["epoch"])
            || training["data"] != self.data.as_str()
            || training["options"] != options
        {
            return Err(gone("holds another checkpoint"));
        }
        Ok(())
    }

    /// Refuses to go on with other data or options; `self` is how a run would start now.
    fn agrees_with(&self, saved: &State, path: &Path) -> Result<(), TrainError> {
        let flat = |state: &State| match serde_json::to_value(state) {
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
        let (now, then) = (flat(self), flat(saved));
        for (what, given) in &now {
            let found = then.get(what).unwrap_or(&serde_json::Value::Null);
            if found != given {
                return Err(TrainError::Resume {
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
