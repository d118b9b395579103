//! One training step: its input, its options and its errors.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::loss::{Losses, Objective, Relations};
use super::weights::GmfWeights;

/// Why a step failed; the weights have not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StepError {
    /// The loss is NaN, infinite, or far above the loss of the first batch.
    #[error("the loss is {found} (limit {limit:.1}): training has diverged")]
    Diverged {
        /// The loss.
        found: f64,
        /// Largest accepted loss.
        limit: f64,
    },
    /// candle failed.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

/// Stochastic gradient descent with torch's update: `g += decay·w; v = momentum·v + g; w −= rate·v`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SgdOptions {
    /// Learning rate.
    pub rate: f32,
    /// Momentum μ.
    pub momentum: f32,
    /// Decay of weights and biases.
    pub decay: f32,
    /// Largest accepted loss. A larger loss is an error, before any weight changes.
    pub loss_limit: f64,
}

impl SgdOptions {
    /// Rejects a loss above the limit.
    pub(super) fn check(&self, losses: &Losses) -> Result<(), StepError> {
        // NaN is not below the limit either.
        if losses.total <= self.loss_limit {
            return Ok(());
        }
        Err(StepError::Diverged { found: losses.total, limit: self.loss_limit })
    }
}

/// The samples of one step.
#[derive(Debug, Clone, Default)]
pub struct TrainingBatch {
    /// For each modality the features of shape (batch, l_j), row-major.
    pub features: Vec<Vec<f32>>,
    /// Relations between the samples.
    pub relations: Relations,
}

/// Trains a model step by step.
pub trait Stepper {
    /// Computes the losses of a batch and their gradients, and updates the weights.
    ///
    /// # Errors
    /// A [`StepError`]; the weights have not changed.
    fn step(&mut self, batch: &TrainingBatch, objective: &Objective, sgd: &SgdOptions) -> Result<Losses, StepError>;

    /// Computes the losses of a batch without changing the weights.
    ///
    /// # Errors
    /// If the device fails.
    fn losses(&mut self, batch: &TrainingBatch, objective: &Objective) -> Result<Losses, StepError>;

    /// The weights, and the momentum buffers in the same form.
    ///
    /// # Errors
    /// If they cannot be copied from the device.
    fn state(&self) -> Result<(Cow<'_, GmfWeights>, Cow<'_, GmfWeights>), StepError>;
}
