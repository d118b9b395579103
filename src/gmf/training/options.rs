//! Training options and the schedule of the learning rate.

use serde::{Deserialize, Serialize};

use super::loss::{Objective, TaskLoss};
use super::run::TrainError;

/// Device that computes a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum TrainDevice {
    /// CPU, by the hand-written step.
    Cpu,
    /// NVIDIA GPU, through candle (Cargo feature `cuda`).
    Cuda,
    /// Apple GPU, through candle (Cargo feature `metal`).
    Metal,
}

impl std::fmt::Display for TrainDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TrainDevice::Cpu => "cpu",
            TrainDevice::Cuda => "cuda",
            TrainDevice::Metal => "metal",
        })
    }
}

/// Training options. The defaults are the paper's Table 5; the task loss is our choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Passes over the training images.
    pub epochs: usize,
    /// Pairs per batch.
    pub batch: usize,
    /// Initial learning rate.
    pub rate: f64,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay.
    pub decay: f64,
    /// Factor that lowers the learning rate when the loss stops falling.
    pub plateau_factor: f64,
    /// Steps without a lower loss before the learning rate is lowered.
    pub plateau_patience: usize,
    /// Seed of initial weights, order and pairs.
    pub seed: u64,
    /// Losses and their weights.
    pub objective: Objective,
    /// Device of the computation.
    pub device: TrainDevice,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        TrainOptions {
            epochs: 20,
            batch: 64,
            rate: 0.01,
            momentum: 0.9,
            decay: 1e-4,
            plateau_factor: 0.1,
            plateau_patience: 1000,
            seed: 1,
            objective: Objective::default(),
            device: TrainDevice::Cpu,
        }
    }
}

impl TrainOptions {
    /// Validates the options.
    ///
    /// # Errors
    /// [`TrainError::Option`] for a value out of range, [`TrainError::DeviceNotBuilt`] for a device without
    /// support in this build.
    pub fn check(&self) -> Result<(), TrainError> {
        let built = match self.device {
            TrainDevice::Cpu => true,
            TrainDevice::Cuda => cfg!(feature = "cuda"),
            TrainDevice::Metal => cfg!(feature = "metal"),
        };
        if !built {
            return Err(TrainError::DeviceNotBuilt { device: self.device });
        }
        let positive = "it must be a finite number above 0";
        let (parameter, value) = match self.objective.task {
            TaskLoss::Contrastive { temperature } => ("temperature", temperature),
            TaskLoss::Triplet { margin } => ("margin", margin),
        };
        let checks: [(&'static str, f64, bool, &'static str); 7] = [
            ("learning rate", self.rate, self.rate > 0.0, positive),
            (parameter, value, value > 0.0, positive),
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
        for (name, found, valid, expected) in checks {
            if !valid || !found.is_finite() {
                return Err(TrainError::Option { name, found: found.to_string(), expected });
            }
        }
        if self.batch < 2 {
            let expected = "it must be at least 2, because a contrast needs two pairs";
            return Err(TrainError::Option { name: "batch", found: self.batch.to_string(), expected });
        }
        Ok(())
    }
}

/// Lowers the learning rate when the loss stops falling, as torch's `ReduceLROnPlateau` does (mode min,
/// relative threshold 1e-4).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlateauSchedule {
    /// Current learning rate.
    pub rate: f64,
    /// Lowest loss so far; absent before the first step.
    best: Option<f64>,
    /// Steps since the lowest loss.
    bad: usize,
}

impl PlateauSchedule {
    /// A schedule that starts at this learning rate.
    pub fn new(rate: f64) -> PlateauSchedule {
        PlateauSchedule { rate, best: None, bad: 0 }
    }

    /// Updates the schedule with the loss of a step.
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
