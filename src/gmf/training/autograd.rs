//! The training step through candle's autograd.

use std::borrow::Cow;

use candle_core::{Device, Tensor};

use super::loss::{Losses, Objective};
use super::model::{GmfModel, dissociation_loss, task_loss};
use super::step::{SgdOptions, StepError, Stepper, TrainingBatch};
use super::weights::GmfWeights;

/// Trains through candle's autograd, on any device that candle supports.
#[derive(Debug)]
pub struct AutogradStepper {
    model: GmfModel,
    velocity: Vec<Tensor>,
    device: Device,
}

impl AutogradStepper {
    /// Starts from these weights and momentum buffers; without buffers, the momentum starts at zero.
    ///
    /// # Errors
    /// If the device cannot allocate them.
    pub fn new(
        weights: &GmfWeights,
        velocity: Option<&GmfWeights>,
        device: &Device,
    ) -> candle_core::Result<AutogradStepper> {
        let model = GmfModel::new(weights, device)?;
        let zeros = GmfWeights::zeros(weights.config());
        let velocity = velocity.unwrap_or(&zeros).tensors().into_iter();
        let velocity = velocity.map(|tensor| Tensor::from_slice(tensor.values, tensor.shape, device));
        Ok(AutogradStepper { velocity: velocity.collect::<candle_core::Result<_>>()?, model, device: device.clone() })
    }

    fn to_weights<'a>(&self, tensors: impl Iterator<Item = &'a Tensor>) -> candle_core::Result<GmfWeights> {
        let mut weights = GmfWeights::zeros(self.model.config());
        for (values, tensor) in weights.values_mut().zip(tensors) {
            *values = tensor.flatten_all()?.to_vec1()?;
        }
        Ok(weights)
    }

    /// The total loss with its graph, and the values of all losses.
    fn pass(&self, batch: &TrainingBatch, objective: &Objective) -> candle_core::Result<(Tensor, Losses)> {
        let n = batch.relations.size();
        let features = batch
            .features
            .iter()
            .map(|f| Tensor::from_slice(f, (n, f.len() / n), &self.device))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let fused = self.model.forward(&features)?;
        let dissociation = dissociation_loss(&features, &fused)?;
        let task = task_loss(&fused.parts, &batch.relations, objective.task)?;
        let scalar = |t: &Tensor| t.to_scalar::<f32>().map(f64::from);
        let losses = Losses::new(scalar(&dissociation)?, scalar(&task)?, objective);
        let total = ((dissociation * objective.lambda_dissociation)? + (task * objective.lambda_task)?)?;
        Ok((total, losses))
    }
}

impl Stepper for AutogradStepper {
    fn step(&mut self, batch: &TrainingBatch, objective: &Objective, sgd: &SgdOptions) -> Result<Losses, StepError> {
        let (total, losses) = self.pass(batch, objective)?;
        sgd.check(&losses)?;
        let gradients = total.backward()?;
        for (var, velocity) in self.model.vars().iter().zip(&mut self.velocity) {
            let Some(gradient) = gradients.get(var) else { continue };
            let gradient = (gradient + (var.as_tensor() * f64::from(sgd.decay))?)?;
            // Detached, so that the next step does not keep this step's graph.
            *velocity = ((&*velocity * f64::from(sgd.momentum))? + gradient)?.detach();
            var.set(&(var.as_tensor() - (&*velocity * f64::from(sgd.rate))?)?)?;
        }
        Ok(losses)
    }

    fn losses(&mut self, batch: &TrainingBatch, objective: &Objective) -> Result<Losses, StepError> {
        Ok(self.pass(batch, objective)?.1)
    }

    fn state(&self) -> Result<(Cow<'_, GmfWeights>, Cow<'_, GmfWeights>), StepError> {
        let weights = self.to_weights(self.model.vars().iter().map(|var| var.as_tensor()))?;
        Ok((Cow::Owned(weights), Cow::Owned(self.to_weights(self.velocity.iter())?)))
    }
}
