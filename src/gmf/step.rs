//! One step of training: losses, gradients, update; and the hand-written one for the CPU.
//!
//! The network is affine, so its backward pass is a handful of matrix products. They run over buffers that are kept between steps,
//! and each map's gradient is never stored: a panel of rows is multiplied straight into the momentum buffer
//! (`v = μ·v + dY·Xᵀ`) and the weights are updated while that panel is still in the cache.

use std::borrow::Cow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::config::{Config, Map};
use super::loss::{self, Losses, Objective, Relations, Scratch};
use super::weights::{Linear, Weights};
use crate::base::linalg::{self, View};

/// Why a step could not be made; the weights are as before.
#[derive(Debug, Error)]
pub enum StepError {
    /// The loss is NaN, infinite, or far above where training began.
    #[error(
        "the loss is {found} (limit {limit:.1}): training has diverged; try a lower learning rate or a higher temperature"
    )]
    Diverged {
        /// The loss found.
        found: f64,
        /// The limit passed.
        limit: f64,
    },
    /// candle could not compute it.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

/// Stochastic gradient descent as torch has it: `g += decay·w; v = momentum·v + g; w −= rate·v`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Descent {
    /// Learning rate.
    pub rate: f32,
    /// μ.
    pub momentum: f32,
    /// Weight decay, of weights and biases.
    pub decay: f32,
    /// A loss above this stops training before anything is changed.
    pub loss_limit: f64,
}

/// Features of one batch: for each modality, one row a sample.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// (batch, l_j) for each modality, row after row.
    pub features: Vec<Vec<f32>>,
}

/// Something that trains a model step by step.
pub trait Stepper {
    /// Computes the losses of a batch, their gradients, and updates the weights.
    ///
    /// # Errors
    /// A [`StepError`]; the weights have not changed then.
    fn step(
        &mut self,
        batch: &Batch,
        relations: &Relations,
        objective: &Objective,
        descent: &Descent,
    ) -> Result<Losses, StepError>;

    /// The losses of a batch, with nothing changed.
    ///
    /// # Errors
    /// If a device cannot compute them.
    fn losses(&mut self, batch: &Batch, relations: &Relations, objective: &Objective) -> Result<Losses, StepError>;

    /// The weights, and the momentum buffers in the same form.
    ///
    /// # Errors
    /// If they cannot be brought here from a device.
    fn state(&self) -> Result<(Cow<'_, Weights>, Cow<'_, Weights>), StepError>;
}

/// Buffers of one modality; each is (features, batch), the batch innermost.
#[derive(Debug, Default)]
struct Buffers {
    x: Vec<f32>,
    h: Vec<f32>,
    /// `[inv of the next modality; spec]`.
    z: Vec<f32>,
    /// The rebuilt feature, then the gradient with respect to it.
    r: Vec<f32>,
    dz: Vec<f32>,
    dh: Vec<f32>,
}

/// Training on the CPU, with a hand-written backward pass.
#[derive(Debug)]
pub struct Cpu {
    weights: Weights,
    velocity: Weights,
    buffers: Vec<Buffers>,
    dinv: Vec<Vec<f32>>,
    scratch: Scratch,
}

impl Cpu {
    /// Goes on from these weights and momentum buffers.
    pub fn new(weights: Weights, velocity: Option<Weights>) -> Cpu {
        let d = weights.config().modalities().len();
        let velocity = velocity.unwrap_or_else(|| Weights::zeros(weights.config()));
        Cpu {
            weights,
            velocity,
            buffers: (0..d).map(|_| Buffers::default()).collect(),
            dinv: vec![Vec::new(); d],
            scratch: Scratch::default(),
        }
    }

    fn forward(&mut self, batch: &Batch, n: usize) -> f64 {
        let config = self.weights.config().clone();
        let (d, shared) = (config.modalities().len(), config.invariant());
        for (j, features) in batch.features.iter().enumerate() {
            let l = config.modalities()[j].length;
            assert_eq!(features.len(), n * l, "a batch has a whole row for each sample of each modality");
            let buffers = &mut self.buffers[j];
            fit(&mut buffers.x, n * l);
            transpose(features, l, &mut buffers.x);
            fit(&mut buffers.h, n * config.dissociated(j));
            affine(self.weights.map(j, Map::Dissociate), &buffers.x, n, &mut buffers.h);
            fit(&mut buffers.z, n * (shared + l));
        }
        for j in 0..d {
            let boundary = n * config.boundary_row(j);
            let h = std::mem::take(&mut self.buffers[j].h);
            // inv(j) goes where it is needed: into Z of the modality before (cyclically), whose next one is j.
            let before = (j + d - 1) % d;
            let inv = &mut self.buffers[before].z[..n * shared];
            affine(self.weights.map(j, Map::ConcentrateInvariant), &h[..boundary], n, inv);
            let spec = &mut self.buffers[j].z[n * shared..];
            affine(self.weights.map(j, Map::ConcentrateSpecific), &h[boundary..], n, spec);
            self.buffers[j].h = h;
        }
        let mut dissociation = 0.0;
        for j in 0..d {
            let buffers = &mut self.buffers[j];
            fit(&mut buffers.r, buffers.x.len());
            affine(self.weights.map(j, Map::Reconstruct), &buffers.z, n, &mut buffers.r);
            let mut sum = 0f64;
            for (r, x) in buffers.r.iter_mut().zip(&buffers.x) {
                *r -= x;
                sum += f64::from(*r * *r);
            }
            dissociation += sum / buffers.x.len() as f64;
        }
        dissociation
    }

    fn task(&mut self, relations: &Relations, objective: &Objective) -> f64 {
        let (n, d) = (relations.size(), self.buffers.len());
        let shared = n * self.weights.config().invariant();
        let parts: Vec<&[f32]> = (0..d).map(|j| &self.buffers[(j + d - 1) % d].z[..shared]).collect();
        loss::on_embeddings(
            objective.task,
            &parts,
            relations,
            objective.lambda_task as f32,
            &mut self.dinv,
            &mut self.scratch,
        )
    }

    fn backward(&mut self, n: usize, objective: &Objective, descent: &Descent) {
        let config = self.weights.config().clone();
        let (d, shared) = (config.modalities().len(), config.invariant());
        for j in 0..d {
            let buffers = &mut self.buffers[j];
            let scale = (2.0 * objective.lambda_dissociation / buffers.r.len() as f64) as f32;
            buffers.r.iter_mut().for_each(|r| *r *= scale);
            fit(&mut buffers.dz, buffers.z.len());
            back(self.weights.map(j, Map::Reconstruct), &buffers.r, n, &mut buffers.dz);
            let dinv = &mut self.dinv[config.next(j)];
            for (sum, dz) in dinv.iter_mut().zip(&buffers.dz[..n * shared]) {
                *sum += dz;
            }
            self.update(j, Map::Reconstruct, n, descent);
        }
        for j in 0..d {
            let boundary = n * config.boundary_row(j);
            let buffers = &mut self.buffers[j];
            fit(&mut buffers.dh, buffers.h.len());
            let (inv, spec) = buffers.dh.split_at_mut(boundary);
            back(self.weights.map(j, Map::ConcentrateInvariant), &self.dinv[j], n, inv);
            back(self.weights.map(j, Map::ConcentrateSpecific), &buffers.dz[n * shared..], n, spec);
            for map in [Map::ConcentrateInvariant, Map::ConcentrateSpecific, Map::Dissociate] {
                self.update(j, map, n, descent);
            }
        }
    }

    /// The update of one map, from the gradient of its outputs and its inputs.
    fn update(&mut self, j: usize, map: Map, n: usize, descent: &Descent) {
        let config = self.weights.config();
        let (boundary, shared) = (n * config.boundary_row(j), n * config.invariant());
        let buffers = &self.buffers[j];
        let (dy, x) = match map {
            Map::Dissociate => (&buffers.dh[..], &buffers.x[..]),
            Map::ConcentrateInvariant => (&self.dinv[j][..], &buffers.h[..boundary]),
            Map::ConcentrateSpecific => (&buffers.dz[shared..], &buffers.h[boundary..]),
            Map::Reconstruct => (&buffers.r[..], &buffers.z[..]),
        };
        descend(self.weights.map_mut(j, map), self.velocity.map_mut(j, map), dy, x, n, descent);
    }
}

impl Stepper for Cpu {
    fn step(
        &mut self,
        batch: &Batch,
        relations: &Relations,
        objective: &Objective,
        descent: &Descent,
    ) -> Result<Losses, StepError> {
        let losses = self.losses(batch, relations, objective)?;
        descent.check(&losses)?;
        self.backward(relations.size(), objective, descent);
        Ok(losses)
    }

    fn losses(&mut self, batch: &Batch, relations: &Relations, objective: &Objective) -> Result<Losses, StepError> {
        assert_eq!(batch.features.len(), self.buffers.len(), "features of every modality");
        let dissociation = self.forward(batch, relations.size());
        let task = self.task(relations, objective);
        Ok(Losses::of(dissociation, task, objective))
    }

    fn state(&self) -> Result<(Cow<'_, Weights>, Cow<'_, Weights>), StepError> {
        Ok((Cow::Borrowed(&self.weights), Cow::Borrowed(&self.velocity)))
    }
}

impl Descent {
    /// Refuses a loss that tells of divergence.
    pub(super) fn check(&self, losses: &Losses) -> Result<(), StepError> {
        // NaN is not below the limit either.
        if losses.total <= self.loss_limit {
            return Ok(());
        }
        Err(StepError::Diverged { found: losses.total, limit: self.loss_limit })
    }
}

impl Losses {
    /// Eq. 45.
    pub(super) fn of(dissociation: f64, task: f64, objective: &Objective) -> Losses {
        let total = objective.lambda_dissociation * dissociation + objective.lambda_task * task;
        Losses { total, dissociation, task }
    }
}

/// `y = W x + c` for every column of x.
fn affine(linear: &Linear, x: &[f32], n: usize, y: &mut [f32]) {
    for (row, bias) in y.chunks_exact_mut(n).zip(&linear.bias) {
        row.fill(*bias);
    }
    linalg::multiply(y, 1.0, View::rows(&linear.weight, linear.inputs()), View::rows(x, n));
}

/// `dx = Wᵀ dy` for every column.
fn back(linear: &Linear, dy: &[f32], n: usize, dx: &mut [f32]) {
    linalg::multiply(dx, 0.0, View::rows(&linear.weight, linear.inputs()).transposed(), View::rows(dy, n));
}

fn descend(linear: &mut Linear, velocity: &mut Linear, dy: &[f32], x: &[f32], n: usize, descent: &Descent) {
    let inputs = linear.inputs();
    let panel = linalg::panel_rows(linear.bias.len(), inputs * n);
    let Descent { rate, momentum, decay, .. } = *descent;
    let (dy, x) = (View::rows(dy, n), View::rows(x, n).transposed());
    let weights = linear.weight.par_chunks_mut(panel * inputs);
    velocity.weight.par_chunks_mut(panel * inputs).zip(weights).enumerate().for_each(|(i, (v, w))| {
        linalg::multiply_here(v, momentum, dy.part(i * panel, v.len() / inputs), x);
        for (v, w) in v.iter_mut().zip(w) {
            *v += decay * *w;
            *w -= rate * *v;
        }
    });
    for (i, (v, c)) in velocity.bias.iter_mut().zip(&mut linear.bias).enumerate() {
        let gradient: f32 = dy.row(i).iter().sum();
        *v = momentum * *v + gradient + decay * *c;
        *c -= rate * *v;
    }
}

/// Makes a buffer of this length; what it held does not matter.
fn fit(buffer: &mut Vec<f32>, length: usize) {
    buffer.resize(length, 0.0);
}

/// (samples, l) → (l, samples).
fn transpose(rows: &[f32], l: usize, out: &mut [f32]) {
    let n = rows.len() / l;
    // Blocks of both fit the cache.
    for from in (0..l).step_by(16) {
        for (s, row) in rows.chunks_exact(l).enumerate() {
            for (i, value) in row[from..(from + 16).min(l)].iter().enumerate() {
                out[(from + i) * n + s] = *value;
            }
        }
    }
}

/// The gradient of every parameter for a batch, in the model's form; the weights stay.
///
/// # Errors
/// [`StepError::Diverged`] if the loss is not finite.
pub fn gradients(
    weights: &Weights,
    batch: &Batch,
    relations: &Relations,
    objective: &Objective,
) -> Result<Weights, StepError> {
    let mut cpu = Cpu::new(weights.clone(), None);
    // With no momentum and no decay, the momentum buffer is the gradient.
    let still = Descent { rate: 0.0, momentum: 0.0, decay: 0.0, loss_limit: f64::MAX };
    cpu.step(batch, relations, objective, &still)?;
    Ok(cpu.velocity)
}

/// Multiply-adds of one step, as operations: forward, gradients of weights, gradients of inputs of all maps but the first.
pub fn step_flops(config: &Config, batch: usize) -> usize {
    let first: usize = (0..config.modalities().len())
        .map(|j| {
            let (outputs, inputs) = config.shape(j, Map::Dissociate);
            2 * outputs * inputs
        })
        .sum();
    batch * (3 * config.flops() - first)
}

#[cfg(test)]
mod tests {
    use super::super::config::Modality;
    use super::super::loss::{Relation, Task};
    use super::super::model::Autograd;
    use super::*;
    use crate::base::seeded::Random;

    fn model(lengths: &[usize], multiple: u32, boundary: f64) -> Weights {
        let modality = |(i, l): (usize, &usize)| Modality { name: format!("m{i}"), length: *l };
        let modalities = lengths.iter().enumerate().map(modality).collect();
        Weights::random(&Config::new(modalities, multiple, boundary).unwrap(), 3)
    }

    fn batch(config: &Config, n: usize) -> Batch {
        let mut random = Random::new(5, "features");
        let mut features = |l: usize| (0..n * l).map(|_| random.between(-1.0, 1.0)).collect();
        Batch { features: config.modalities().iter().map(|m| features(m.length)).collect() }
    }

    /// Pairs that share a label, and some whose relation is open.
    fn related(n: usize) -> Relations {
        Relations::new(n, |a, c| match (a / 2 == c / 2, (a + c) % 4) {
            (true, _) => Relation::Positive,
            (false, 0) => Relation::Open,
            (false, _) => Relation::Negative,
        })
    }

    fn agree(a: &Weights, b: &Weights, tolerance: f32, what: &str) {
        for ((name, _, a), (_, _, b)) in a.tensors().into_iter().zip(b.tensors()) {
            let size = (b.iter().map(|v| v * v).sum::<f32>() / b.len() as f32).sqrt();
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                assert!((a - b).abs() <= tolerance * b.abs().max(size), "{what}, {name}[{i}]: {a} against {b}");
            }
        }
    }

    /// A small model, an odd-shaped one with three modalities, and one large enough for several panels and threads.
    fn forms() -> [(Weights, usize); 3] {
        [(model(&[4, 6], 4, 0.5), 5), (model(&[7, 13, 3], 3, 0.37), 9), (model(&[40, 150], 4, 0.5), 33)]
    }

    #[test]
    fn every_gradient_agrees_with_autograd() {
        for (weights, n) in forms() {
            let batch = batch(weights.config(), n);
            let relations = related(n);
            for task in [Task::Contrastive { temperature: 0.2 }, Task::Triplet { margin: 0.3 }] {
                let objective = Objective { lambda_dissociation: 0.7, lambda_task: 1.3, task };
                let by_hand = gradients(&weights, &batch, &relations, &objective).unwrap();
                let mut autograd = Autograd::new(&weights, None, &candle_core::Device::Cpu).unwrap();
                let still = Descent { rate: 0.0, momentum: 0.0, decay: 0.0, loss_limit: f64::MAX };
                let reference = autograd.step(&batch, &relations, &objective, &still).unwrap();
                let mut cpu = Cpu::new(weights.clone(), None);
                let found = cpu.losses(&batch, &relations, &objective).unwrap();
                assert!((found.total - reference.total).abs() < 1e-5 * reference.total, "{found:?} {reference:?}");
                agree(&by_hand, &autograd.state().unwrap().1, 1e-4, &format!("{task:?}"));
            }
        }
    }

    #[test]
    fn steps_with_momentum_and_decay_agree_with_autograd() {
        let objective = Objective::default();
        let descent = Descent { rate: 0.05, momentum: 0.9, decay: 0.01, loss_limit: f64::MAX };
        for (weights, n) in forms() {
            let batch = batch(weights.config(), n);
            let relations = Relations::new(n, |_, _| Relation::Negative);
            let mut cpu = Cpu::new(weights.clone(), None);
            let mut autograd = Autograd::new(&weights, None, &candle_core::Device::Cpu).unwrap();
            for _ in 0..4 {
                cpu.step(&batch, &relations, &objective, &descent).unwrap();
                autograd.step(&batch, &relations, &objective, &descent).unwrap();
            }
            agree(&cpu.state().unwrap().0, &autograd.state().unwrap().0, 1e-3, "weights after four steps");
        }
    }

    #[test]
    fn a_loss_above_the_limit_changes_nothing() {
        let (weights, n) = (model(&[4, 6], 4, 0.5), 5);
        let mut batch = batch(weights.config(), n);
        batch.features[1][3] = f32::NAN;
        let relations = Relations::new(n, |_, _| Relation::Negative);
        let descent = Descent { rate: 0.1, momentum: 0.9, decay: 0.0, loss_limit: f64::MAX };
        let mut cpu = Cpu::new(weights.clone(), None);
        let error = cpu.step(&batch, &relations, &Objective::default(), &descent).unwrap_err().to_string();
        assert!(error.contains("NaN") && error.contains("diverged"), "{error}");
        assert_eq!(*cpu.state().unwrap().0, weights);
    }

    #[test]
    fn at_zero_dissociation_loss_every_modality_is_recovered() {
        // Theorem 3.4: descend on Eq. 18 alone until it vanishes, then compare.
        let weights = model(&[4, 6, 5], 4, 0.5);
        let n = 16;
        let batch = batch(weights.config(), n);
        let relations = Relations::new(n, |_, _| Relation::Negative);
        let objective = Objective { lambda_dissociation: 1.0, lambda_task: 0.0, task: Task::Triplet { margin: 0.1 } };
        let descent = Descent { rate: 0.1, momentum: 0.9, decay: 0.0, loss_limit: f64::MAX };
        let mut cpu = Cpu::new(weights, None);
        let mut last = f64::MAX;
        for _ in 0..6000 {
            last = cpu.step(&batch, &relations, &objective, &descent).unwrap().dissociation;
        }
        assert!(last < 1e-6, "{last}");
        let trained = cpu.state().unwrap().0.into_owned();
        let gmf = super::super::model::Gmf::new(&trained, &candle_core::Device::Cpu).unwrap();
        let features: Vec<candle_core::Tensor> = batch
            .features
            .iter()
            .map(|f| candle_core::Tensor::from_slice(f, (n, f.len() / n), &candle_core::Device::Cpu).unwrap())
            .collect();
        for (rebuilt, feature) in gmf.forward(&features).unwrap().rebuilt.iter().zip(&batch.features) {
            let rebuilt: Vec<f32> = rebuilt.flatten_all().unwrap().to_vec1().unwrap();
            assert!(rebuilt.iter().zip(feature).all(|(a, b)| (a - b).abs() < 1e-2));
        }
    }
}
