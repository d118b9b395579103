//! How to train: the paper's defaults, and the schedule of the learning rate.

use serde::{Deserialize, Serialize};

use super::loss::{Objective, Task};
use super::train::TrainError;

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
    /// Whether training with these can begin.
    ///
    /// # Errors
    /// [`TrainError::Option`] for what is out of range, [`TrainError::Device`] for a device that this build does not know.
    pub fn check(&self) -> Result<(), TrainError> {
        let known = match self.device {
            Device::Cpu => true,
            Device::Cuda => cfg!(feature = "cuda"),
            Device::Metal => cfg!(feature = "metal"),
        };
        if !known {
            let name = format!("{:?}", self.device).to_lowercase();
            return Err(TrainError::Device(format!(
                "this program was built without {name}: build it with `cargo build --release --features {name}`, or use --device cpu"
            )));
        }
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
