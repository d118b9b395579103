//! Epochs over a feature set: pairs, validation, schedule, best checkpoint, resuming.
//!
//! Everything random comes from the seed and the number of the epoch, and every product is computed in the same order whatever
//! the number of threads: the same seed and data give the same bytes, and a resumed run ends like one that was never stopped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::checkpoint::{Error as CheckpointError, Folded};
use super::config::Config;
use super::curve::Point;
use super::loss::{Losses, Objective, Relation, Relations};
use super::model::Autograd;
use super::resume::State;
use super::step::{Batch, Cpu, Descent, StepError, Stepper};
use super::weights::Weights;
use crate::features::{self, Row, Set, Split};
use crate::seeded::Random;

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

/// Where the products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The hand-written step.
    Cpu,
    /// candle on an NVIDIA GPU (Cargo feature `cuda`).
    Cuda,
    /// candle on an Apple GPU (Cargo feature `metal`).
    Metal,
}

/// How to train. The defaults are the paper's Table 5; the task loss is ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Passes over the training images.
    pub epochs: usize,
    /// Pairs in a batch.
    pub batch: usize,
    /// Learning rate at the start.
    pub rate: f64,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay.
    pub decay: f64,
    /// Factor of the learning rate when the loss stands still.
    pub plateau_factor: f64,
    /// Steps without a better loss until then.
    pub plateau_patience: usize,
    /// Decides initial weights, order and pairs.
    pub seed: u64,
    /// Losses and their weights.
    pub objective: Objective,
    /// Where.
    pub device: Device,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            epochs: 20,
            batch: 64,
            rate: 0.01,
            momentum: 0.9,
            decay: 1e-4,
            plateau_factor: 0.1,
            plateau_patience: 1000,
            seed: 1,
            objective: Objective::default(),
            device: Device::Cpu,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), TrainError> {
        use super::loss::Task;
        let positive = "it must be a finite number above 0";
        let (knob, value) = match self.objective.task {
            Task::Contrastive { temperature } => ("temperature", temperature),
            Task::Triplet { margin } => ("margin", margin),
        };
        let checks: [(&'static str, f64, bool, &'static str); 7] = [
            ("learning rate", self.rate, self.rate > 0.0, positive),
            (knob, value, value > 0.0, positive),
            ("momentum", self.momentum, (0.0..1.0).contains(&self.momentum), "it must be at least 0 and below 1"),
            ("weight decay", self.decay, self.decay >= 0.0, "it must be at least 0"),
            (
                "plateau factor",
                self.plateau_factor,
                self.plateau_factor > 0.0 && self.plateau_factor <= 1.0,
                "it must be above 0 and at most 1",
            ),
            (
                "lambda of the dissociation",
                self.objective.lambda_dissociation,
                self.objective.lambda_dissociation >= 0.0,
                "it must be at least 0",
            ),
            (
                "lambda of the task",
                self.objective.lambda_task,
                self.objective.lambda_task >= 0.0,
                "it must be at least 0",
            ),
        ];
        for (name, found, fine, expected) in checks {
            if !fine || !found.is_finite() {
                return Err(TrainError::Option { name, found: found.to_string(), expected });
            }
        }
        if self.batch < 2 {
            let expected = "contrast needs at least 2 pairs in a batch";
            return Err(TrainError::Option { name: "batch", found: self.batch.to_string(), expected });
        }
        Ok(())
    }
}

/// Lowers the learning rate when the loss stands still, as torch's `ReduceLROnPlateau` does (mode min, relative threshold 1e-4).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    /// The learning rate now.
    pub rate: f64,
    /// The lowest loss so far; none before the first.
    best: Option<f64>,
    bad: usize,
}

impl Plateau {
    /// Starts at this learning rate.
    pub fn new(rate: f64) -> Plateau {
        Plateau { rate, best: None, bad: 0 }
    }

    /// Takes the loss of a step.
    pub fn step(&mut self, loss: f64, factor: f64, patience: usize) {
        if self.best.is_none_or(|best| loss < best * (1.0 - 1e-4)) {
            self.best = Some(loss);
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.bad > patience {
            self.rate *= factor;
            self.bad = 0;
        }
    }
}

/// Which images and videos to learn from, and which belong together.
#[derive(Debug)]
pub struct Data<'a> {
    set: &'a Set,
    labelled: bool,
    images: Vec<u32>,
    partners: HashMap<String, Vec<u32>>,
    /// Images to validate with.
    pub queries: Vec<u32>,
    /// Videos to find them among.
    pub gallery: Vec<u32>,
    /// Training images that no training video belongs to: left out.
    pub alone: usize,
}

impl<'a> Data<'a> {
    /// Rows of the split `train` to learn from, of `val` to choose the best epoch by. Without any of `val`, a seeded share of the
    /// training rows is held out, all rows of one source video together. Images and videos belong together if they
    /// share a label; without labels, if they come from the same video (`video`, or else `id`).
    ///
    /// # Errors
    /// [`TrainError::Data`] if there is nothing to learn from.
    pub fn new(set: &'a Set, held_out: f32, seed: u64) -> Result<Data<'a>, TrainError> {
        let of = |rows: &[Row], split: Split| -> Vec<u32> {
            (0u32..).zip(rows).filter(|(_, r)| r.split == split).map(|(i, _)| i).collect()
        };
        let (mut images, mut videos) = (of(&set.images.rows, Split::Train), of(&set.videos.rows, Split::Train));
        let (mut queries, mut gallery) = (of(&set.images.rows, Split::Val), of(&set.videos.rows, Split::Val));
        if queries.is_empty() || gallery.is_empty() {
            let held = |row: &Row| Random::new(seed, row.source()).between(0.0, 1.0) < held_out;
            (queries, images) = images.into_iter().partition(|i| held(&set.images.rows[*i as usize]));
            (gallery, videos) = videos.into_iter().partition(|i| held(&set.videos.rows[*i as usize]));
        }
        let labelled = [(&images, &set.images), (&videos, &set.videos)]
            .iter()
            .all(|(rows, table)| rows.iter().any(|i| !table.rows[*i as usize].labels.is_empty()));
        let mut partners: HashMap<String, Vec<u32>> = HashMap::new();
        for i in &videos {
            for key in keys(&set.videos.rows[*i as usize], labelled) {
                partners.entry(key).or_default().push(*i);
            }
        }
        let all = images.len();
        images.retain(|i| keys(&set.images.rows[*i as usize], labelled).iter().any(|k| partners.contains_key(k)));
        if images.len() < 2 {
            return Err(TrainError::Data(format!(
                "{} of {all} training images belong to one of {} training videos; at least 2 are needed: give rows of the split `train` \
                 that share labels, or whose `video` (or `id`) is the same",
                images.len(),
                videos.len()
            )));
        }
        Ok(Data { set, labelled, alone: all - images.len(), images, partners, queries, gallery })
    }

    /// Pairs in an epoch.
    pub fn pairs(&self) -> usize {
        self.images.len()
    }

    /// Whether an image and a video belong together.
    pub fn together(&self, image: u32, video: u32) -> bool {
        self.relation(image, video) == Relation::Positive
    }

    /// What a video is to an image. Two moments of one video may look alike or not: that is left open.
    fn relation(&self, image: u32, video: u32) -> Relation {
        let (image, video) = (&self.set.images.rows[image as usize], &self.set.videos.rows[video as usize]);
        match self.labelled {
            true if image.shares_label(video) => Relation::Positive,
            false if image.instance() == video.instance() => Relation::Positive,
            false if image.source() == video.source() => Relation::Open,
            _ => Relation::Negative,
        }
    }

    /// Every training image once, in seeded order, each with one of its videos.
    fn epoch(&self, seed: u64, epoch: usize) -> Vec<(u32, u32)> {
        let mut random = Random::new(seed, &format!("epoch {epoch}"));
        let mut order = self.images.clone();
        for i in (1..order.len()).rev() {
            order.swap(i, random.up_to(i as u32) as usize);
        }
        let pick = |image: u32| {
            let keys = keys(&self.set.images.rows[image as usize], self.labelled);
            let lists: Vec<&Vec<u32>> = keys.iter().filter_map(|k| self.partners.get(k)).collect();
            let list = lists[random.up_to(lists.len() as u32 - 1) as usize];
            (image, list[random.up_to(list.len() as u32 - 1) as usize])
        };
        order.into_iter().map(pick).collect()
    }

    fn batch(&self, config: &Config, pairs: &[(u32, u32)], batch: &mut Batch) -> Result<Relations, features::Error> {
        batch.features.resize_with(config.modalities().len(), Vec::new);
        for (modality, features) in config.modalities().iter().zip(&mut batch.features) {
            features.resize(pairs.len() * modality.length, 0.0);
            for (pair, row) in pairs.iter().zip(features.chunks_exact_mut(modality.length)) {
                match modality.name.as_str() {
                    "image" => self.set.images.matrix.read(pair.0 as usize, row)?,
                    _ => self.set.videos.matrix.read(pair.1 as usize, row)?,
                }
            }
        }
        Ok(Relations::new(pairs.len(), |anchor, candidate| self.relation(pairs[anchor].0, pairs[candidate].1)))
    }
}

fn keys(row: &Row, labelled: bool) -> Vec<String> {
    if labelled { row.labels.iter().map(u32::to_string).collect() } else { vec![row.instance().to_owned()] }
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
    let mut state = State::start(options, config, fingerprint);
    let mut stepper = if run.resume {
        let (saved, weights, velocity) = State::open(&path)?;
        state.agrees_with(&saved, &path)?;
        state = saved;
        stepper(options.device, weights, Some(velocity))?
    } else {
        let warm = run.start.is_some();
        let stepper =
            stepper(options.device, run.start.unwrap_or_else(|| Weights::random(config, options.seed)), None)?;
        if warm {
            let map10 = score(&*stepper, data, validate)?;
            state.best = Some((0, map10));
            state.curve.points.push(Point { step: 0, epoch: 0, rate: options.rate, losses: None, map10 });
            keep(&*stepper, &state, run.encoder, &run.about, data, out)?;
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
            let limit = state.first_loss.map_or(f64::MAX, |first| EXPLODED * first.max(1.0));
            let descent = Descent {
                rate: state.plateau.rate as f32,
                momentum: options.momentum as f32,
                decay: options.decay as f32,
                loss_limit: limit,
            };
            let losses = stepper.step(&batch, &relations, &options.objective, &descent).map_err(|source| {
                let kept = match state.best {
                    Some((epoch, _)) => format!("the checkpoint of epoch {epoch} is kept in {}", out.display()),
                    None => "no epoch was finished, so no checkpoint is written".to_owned(),
                };
                TrainError::Diverged { epoch: state.epoch + 1, step: i + 1, source, kept }
            })?;
            state.first_loss.get_or_insert(losses.total);
            state.plateau.step(losses.total, options.plateau_factor, options.plateau_patience);
            state.step = i + 1;
            state.note(losses, steps);
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
            keep(&*stepper, &state, run.encoder, &run.about, data, out)?;
        }
        tell(Progress::Epoch { epoch: state.epoch, map10, best });
        save_curve(&state, out)?;
        if state.epoch < options.epochs {
            let (weights, velocity) = stepper.state().map_err(|e| TrainError::Device(e.to_string()))?;
            state.save(&path, &weights, &velocity)?;
        }
    }
    save_curve(&state, out)?;
    if path.exists() {
        // The run is over: its state is of no more use, and large.
        std::fs::remove_file(&path)
            .map_err(|source| CheckpointError::Io { name: path.display().to_string(), source })?;
    }
    let (epoch, map10) = state.best.unwrap_or((0, None));
    Ok(Outcome::Finished { epoch, map10 })
}

fn stepper(device: Device, weights: Weights, velocity: Option<Weights>) -> Result<Box<dyn Stepper>, TrainError> {
    let wrong = |e: candle_core::Error| TrainError::Device(e.to_string());
    let device = match device {
        Device::Cpu => return Ok(Box::new(Cpu::new(weights, velocity))),
        Device::Cuda if cfg!(feature = "cuda") => candle_core::Device::new_cuda(0).map_err(wrong)?,
        Device::Metal if cfg!(feature = "metal") => candle_core::Device::new_metal(0).map_err(wrong)?,
        other => {
            let name = format!("{other:?}").to_lowercase();
            return Err(TrainError::Device(format!(
                "this program was built without {name}: build it with `cargo build --release --features {name}`, or use --device cpu"
            )));
        }
    };
    Ok(Box::new(Autograd::new(&weights, velocity.as_ref(), &device).map_err(wrong)?))
}

fn score(
    stepper: &dyn Stepper,
    data: &Data<'_>,
    validate: &mut dyn FnMut(&Folded) -> Result<f64, String>,
) -> Result<Option<f64>, TrainError> {
    if data.queries.is_empty() || data.gallery.is_empty() {
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
    encoder: &str,
    about: &serde_json::Value,
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
    weights.save(out, &Weights::record(weights.config(), encoder, training))?;
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

    /// Refuses to go on with other data or options; `self` is how a run would start now.
    fn agrees_with(&self, saved: &State, path: &Path) -> Result<(), TrainError> {
        let flat = |state: &State| match serde_json::to_value(state) {
            Ok(serde_json::Value::Object(mut all)) => {
                ["epoch", "step", "plateau", "first_loss", "sums", "best", "curve"].iter().for_each(|k| {
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
mod tests {
    use super::*;

    use std::cell::Cell;

    use super::super::config::Modality;
    use crate::features::{Matrix, Table};

    /// 6 classes of images (5 numbers) and videos (9 numbers) around class means, with splits.
    fn set() -> Set {
        let mut random = Random::new(4, "set");
        let mut table = |length: usize, name: &str| {
            let means: Vec<Vec<f32>> =
                (0..6).map(|_| (0..length).map(|_| random.between(-1.0, 1.0)).collect()).collect();
            let (mut values, mut rows) = (Vec::new(), Vec::new());
            for i in 0..90usize {
                let class = i % 6;
                values.extend(means[class].iter().map(|m| m + random.between(-0.2, 0.2)));
                let split = if i < 66 { Split::Train } else { Split::Val };
                rows.push(Row {
                    id: format!("{name}{i}"),
                    labels: vec![class as u32],
                    split,
                    video: None,
                    moment: None,
                });
            }
            Table { matrix: Matrix::new(values, length), rows }
        };
        Set { images: table(5, "i"), videos: table(9, "v"), labels: (0..6).map(|i| format!("class {i}")).collect() }
    }

    struct Place {
        dir: tempfile::TempDir,
        set: Set,
        options: Options,
    }

    impl Place {
        fn new() -> Place {
            let options = Options { epochs: 4, batch: 16, rate: 0.01, ..Options::default() };
            Place { dir: tempfile::tempdir().unwrap(), set: set(), options }
        }

        fn out(&self, name: &str) -> PathBuf {
            self.dir.path().join(format!("{name}.safetensors"))
        }

        /// Trains; `stop_after` steps a wish to stop is there.
        fn run(&self, name: &str, resume: bool, stop_after: usize) -> Result<Outcome, TrainError> {
            self.run_from(name, resume, stop_after, None)
        }

        fn run_from(
            &self,
            name: &str,
            resume: bool,
            stop_after: usize,
            start: Option<Weights>,
        ) -> Result<Outcome, TrainError> {
            let data = Data::new(&self.set, 0.1, 1).unwrap();
            let modality = |name: &str, length| Modality { name: name.to_owned(), length };
            let config = Config::new(vec![modality("image", 5), modality("video", 9)], 4, 0.5).unwrap();
            let steps = Cell::new(0);
            let run = Run {
                data: &data,
                config: &config,
                start,
                options: &self.options,
                resume,
                encoder: "test/1",
                about: serde_json::json!({}),
                out: &self.out(name),
            };
            // The share of validation images whose best video is of their class.
            let mut validate = |maps: &Folded| {
                let read = |table: &Table, i: u32| {
                    let mut row = vec![0f32; table.matrix.columns()];
                    table.matrix.read(i as usize, &mut row).map(|()| row)
                };
                let mut right = 0;
                for q in &data.queries {
                    let query = maps.embed_image(&read(&self.set.images, *q).unwrap()).unwrap();
                    let score = |v: &u32| {
                        let row = maps.embed_video(&read(&self.set.videos, *v).unwrap()).unwrap();
                        row.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>()
                    };
                    let best = data.gallery.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
                    right += usize::from(data.together(*q, *best));
                }
                Ok(right as f64 / data.queries.len() as f64)
            };
            train(run, &mut validate, &|| steps.get() >= stop_after, &mut |p| {
                if matches!(p, Progress::Step { .. }) {
                    steps.set(steps.get() + 1);
                }
            })
        }

        fn bytes(&self, name: &str) -> [Vec<u8>; 3] {
            let out = self.out(name);
            [out.clone(), out.with_extension("csv"), out.with_extension("svg")].map(|p| std::fs::read(p).unwrap())
        }
    }

    #[test]
    fn it_learns_and_keeps_the_best_epoch() {
        let mut place = Place::new();
        place.options.epochs = 12;
        let Outcome::Finished { epoch, map10 } = place.run("a", false, usize::MAX).unwrap() else { panic!("stopped") };
        assert!(map10.unwrap() > 0.9, "{map10:?}");
        let (weights, record) = Weights::open(&place.out("a")).unwrap();
        assert_eq!(record.training["epoch"], epoch);
        assert_eq!(record.training["options"]["objective"]["task"]["contrastive"]["temperature"], 0.07);
        assert_eq!(weights.config().parameters(), record_parameters(&record));
        assert!(!place.dir.path().join("a.safetensors.resume").exists());
        let csv = String::from_utf8(place.bytes("a")[1].clone()).unwrap();
        assert_eq!(csv.lines().filter(|l| !l.ends_with(',')).count(), 1 + 12, "{csv}");
    }

    fn record_parameters(record: &super::super::Record) -> usize {
        Config::new(record.modalities.clone(), record.multiple, record.boundary).unwrap().parameters()
    }

    #[test]
    fn a_resumed_run_ends_bit_equal_wherever_it_was_stopped() {
        let place = Place::new();
        place.run("whole", false, usize::MAX).unwrap();
        // 5 steps an epoch: before the first step, within an epoch, at its end, in the last one; and twice.
        for stops in [vec![0], vec![3], vec![5], vec![17], vec![2, 9]] {
            let name = format!("{stops:?}");
            for (i, stop) in stops.iter().enumerate() {
                assert_eq!(place.run(&name, i > 0, *stop).unwrap(), Outcome::Interrupted, "{name}");
            }
            place.run(&name, true, usize::MAX).unwrap();
            assert_eq!(place.bytes(&name), place.bytes("whole"), "{name}");
        }
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_threads() {
        let place = Place::new();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| place.run(&threads.to_string(), false, usize::MAX)).unwrap();
            assert_eq!(place.bytes(&threads.to_string()), place.bytes("1"));
        }
    }

    #[test]
    fn another_seed_is_another_model() {
        let mut place = Place::new();
        place.run("1", false, usize::MAX).unwrap();
        place.options.seed = 2;
        place.run("2", false, usize::MAX).unwrap();
        assert_ne!(place.bytes("1")[0], place.bytes("2")[0]);
    }

    #[test]
    fn other_options_or_data_are_not_resumed() {
        let mut place = Place::new();
        place.run("a", false, 3).unwrap();
        place.options.rate = 0.5;
        let error = place.run("a", true, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("rate") && error.contains("0.01") && error.contains("0.5"), "{error}");
        place.options.rate = 0.01;
        place.set.images.rows[0].labels = vec![5];
        let error = place.run("a", true, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("data"), "{error}");
    }

    #[test]
    fn divergence_keeps_the_last_good_checkpoint() {
        let mut place = Place::new();
        place.options.rate = 1e4;
        let config = Config::image_video(5, 9).unwrap();
        let start = Weights::random(&config, 7);
        let error = place.run_from("a", false, usize::MAX, Some(start.clone())).unwrap_err().to_string();
        assert!(error.contains("diverged") && error.contains("checkpoint of epoch 0 is kept"), "{error}");
        assert_eq!(Weights::open(&place.out("a")).unwrap().0, start);
        let error = place.run("b", false, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("no checkpoint is written"), "{error}");
        assert!(!place.out("b").exists());
    }

    #[test]
    fn options_out_of_range_are_named() {
        let mut place = Place::new();
        place.options.momentum = 1.0;
        let error = place.run("a", false, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("momentum is 1"), "{error}");
        place.options = Options { batch: 1, ..Options::default() };
        assert!(place.run("a", false, usize::MAX).unwrap_err().to_string().contains("batch is 1"));
    }

    #[test]
    fn without_a_validation_split_whole_videos_are_held_out() {
        let mut set = set();
        for table in [&mut set.images, &mut set.videos] {
            for (i, row) in table.rows.iter_mut().enumerate() {
                row.split = Split::Train;
                row.labels.clear();
                row.video = Some(format!("video {}", i / 3));
            }
        }
        let data = Data::new(&set, 0.3, 1).unwrap();
        assert!(!data.queries.is_empty() && data.alone == 0);
        let sources = |rows: &[Row], of: &[u32]| -> Vec<String> {
            of.iter().map(|i| rows[*i as usize].video.clone().unwrap()).collect()
        };
        let held = sources(&set.images.rows, &data.queries);
        assert_eq!(held, sources(&set.videos.rows, &data.gallery));
        assert!(sources(&set.images.rows, &data.images).iter().all(|v| !held.contains(v)));
        for (image, video) in data.epoch(1, 0) {
            assert!(data.together(image, video));
        }
        assert_ne!(data.epoch(1, 0), data.epoch(1, 1));
    }

    #[test]
    fn nothing_to_learn_from_is_an_error() {
        let mut set = set();
        set.videos.rows.iter_mut().for_each(|r| r.labels = vec![99]);
        let error = Data::new(&set, 0.1, 1).unwrap_err().to_string();
        assert!(error.contains("0 of 66 training images"), "{error}");
    }

    #[test]
    fn the_rate_falls_after_patience_and_not_before() {
        let mut plateau = Plateau::new(1.0);
        plateau.step(1.0, 0.1, 2);
        for _ in 0..2 {
            plateau.step(0.99999, 0.1, 2);
            assert_eq!(plateau.rate, 1.0);
        }
        plateau.step(1.0, 0.1, 2);
        assert!((plateau.rate - 0.1).abs() < 1e-9);
        plateau.step(0.5, 0.1, 2);
        plateau.step(0.4, 0.1, 2);
        plateau.step(0.45, 0.1, 2);
        assert!((plateau.rate - 0.1).abs() < 1e-9);
    }
}
