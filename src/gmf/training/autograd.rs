//! The training step through candle's autograd.

use std::borrow::Cow;

use candle_core::{Device, Result, Tensor};

use super::loss::{Losses, Objective, Relations};
use super::model::{GmfModel, dissociation_loss, task_loss};
use super::step::{FeatureBatch, SgdOptions, StepError, Stepper};
use super::weights::GmfWeights;
use crate::gmf::checkpoint::Affine;
use crate::gmf::config::GmfLayer;

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
    pub fn new(weights: &GmfWeights, velocity: Option<&GmfWeights>, device: &Device) -> Result<AutogradStepper> {
        let model = GmfModel::new(weights, device)?;
        let velocity = match velocity {
            Some(velocity) => velocity
                .tensors()
                .into_iter()
                .map(|(_, s, v)| Tensor::from_slice(v, s, device))
                .collect::<Result<_>>()?,
            None => model.vars().iter().map(|v| v.as_tensor().zeros_like()).collect::<Result<_>>()?,
        };
        Ok(AutogradStepper { model, velocity, device: device.clone() })
    }

    fn to_weights(&self, tensors: impl Iterator<Item = Tensor>) -> Result<GmfWeights> {
        let mut weights = GmfWeights::zeros(self.model.config());
        let mut tensors = tensors;
        for j in 0..self.model.config().modalities().len() {
            for layer in GmfLayer::ALL {
                let mut take = || -> Result<Vec<f32>> {
                    tensors.next().expect("a tensor for each parameter").flatten_all()?.to_vec1()
                };
                let (weight, bias) = (take()?, take()?);
                *weights.layer_mut(j, layer) = Affine { weight, bias };
            }
        }
        Ok(weights)
    }

    /// The total loss with its graph, and the values of all losses.
    fn pass(
        &self,
        batch: &FeatureBatch,
        relations: &Relations,
        objective: &Objective,
    ) -> std::result::Result<(Tensor, Losses), StepError> {
        let features = batch
            .features
            .iter()
            .map(|f| Tensor::from_slice(f, (relations.size(), f.len() / relations.size()), &self.device))
            .collect::<Result<Vec<_>>>()?;
        let fused = self.model.forward(&features)?;
        let dissociation = dissociation_loss(&features, &fused)?;
        let task = task_loss(&fused.parts, relations, objective.task)?;
        let scalar = |t: &Tensor| t.to_scalar::<f32>().map(f64::from);
        let losses = Losses::new(scalar(&dissociation)?, scalar(&task)?, objective);
        let total = ((dissociation * objective.lambda_dissociation)? + (task * objective.lambda_task)?)?;
        Ok((total, losses))
    }
}

impl Stepper for AutogradStepper {
    fn step(
        &mut self,
        batch: &FeatureBatch,
        relations: &Relations,
        objective: &Objective,
        sgd: &SgdOptions,
    ) -> std::result::Result<Losses, StepError> {
        let (total, losses) = self.pass(batch, relations, objective)?;
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

    fn losses(
        &mut self,
        batch: &FeatureBatch,
        relations: &Relations,
        objective: &Objective,
    ) -> std::result::Result<Losses, StepError> {
        Ok(self.pass(batch, relations, objective)?.1)
    }

    fn state(&self) -> std::result::Result<(Cow<'_, GmfWeights>, Cow<'_, GmfWeights>), StepError> {
        let weights = self.to_weights(self.model.vars().iter().map(|v| v.as_tensor().clone()))?;
        let velocity = self.to_weights(self.velocity.iter().cloned())?;
        Ok((Cow::Owned(weights), Cow::Owned(velocity)))
    }
}
