//! The hand-written training step for the CPU.
//!
//! The network is affine, so the backward pass is a few matrix products over buffers that are reused between
//! steps. The gradient of a layer is never stored: a panel of rows is multiplied straight into the momentum
//! buffer (`v = μ·v + dY·Xᵀ`), and the weights are updated while that panel is in the cache.

use std::borrow::Cow;

use rayon::prelude::*;

use super::loss::{self, LossBuffers, Losses, Objective, Relations};
use super::step::{SgdOptions, StepError, Stepper, TrainingBatch};
use super::weights::GmfWeights;
use crate::base::linalg::{self, MatrixView};
use crate::gmf::checkpoint::Affine;
use crate::gmf::config::{GmfConfig, GmfLayer};

/// Buffers of one modality, each of shape (features, batch).
#[derive(Debug, Default)]
struct StepBuffers {
    /// The feature.
    x: Vec<f32>,
    /// The dissociated feature.
    h: Vec<f32>,
    /// `[inv of the next modality; spec]`.
    z: Vec<f32>,
    /// The rebuilt feature minus the feature, later the gradient with respect to the rebuilt feature.
    r: Vec<f32>,
    /// Gradient with respect to `z`.
    dz: Vec<f32>,
    /// Gradient with respect to `h`.
    dh: Vec<f32>,
}

/// Trains on the CPU with a hand-written backward pass.
#[derive(Debug)]
pub struct CpuStepper {
    weights: GmfWeights,
    velocity: GmfWeights,
    buffers: Vec<StepBuffers>,
    /// For each modality the gradient with respect to inv.
    dinv: Vec<Vec<f32>>,
    loss_buffers: LossBuffers,
}

impl CpuStepper {
    /// Starts from these weights and momentum buffers; without buffers, the momentum starts at zero.
    pub fn new(weights: GmfWeights, velocity: Option<GmfWeights>) -> CpuStepper {
        let d = weights.config().modalities().len();
        let velocity = velocity.unwrap_or_else(|| GmfWeights::zeros(weights.config()));
        CpuStepper {
            weights,
            velocity,
            buffers: (0..d).map(|_| StepBuffers::default()).collect(),
            dinv: vec![Vec::new(); d],
            loss_buffers: LossBuffers::default(),
        }
    }

    /// The forward pass of a batch. Returns the dissociation loss.
    fn forward(&mut self, batch: &TrainingBatch) -> f64 {
        let n = batch.relations.size();
        let config = self.weights.config().clone();
        let (d, shared) = (config.modalities().len(), config.invariant());
        for (j, features) in batch.features.iter().enumerate() {
            let l = config.modalities()[j].length;
            assert_eq!(features.len(), n * l, "a batch has a whole row for each sample of each modality");
            let buffers = &mut self.buffers[j];
            resize(&mut buffers.x, n * l);
            transpose(features, l, &mut buffers.x);
            resize(&mut buffers.h, n * config.dissociated(j));
            affine(self.weights.layer(j, GmfLayer::Dissociate), &buffers.x, n, &mut buffers.h);
            resize(&mut buffers.z, n * (shared + l));
        }
        for j in 0..d {
            let boundary = n * config.boundary_row(j);
            let h = std::mem::take(&mut self.buffers[j].h);
            // The exchange (Eq. 17): inv(j) belongs to Z of the modality before j, cyclically.
            let before = (j + d - 1) % d;
            let inv = &mut self.buffers[before].z[..n * shared];
            affine(self.weights.layer(j, GmfLayer::ConcentrateInvariant), &h[..boundary], n, inv);
            let spec = &mut self.buffers[j].z[n * shared..];
            affine(self.weights.layer(j, GmfLayer::ConcentrateSpecific), &h[boundary..], n, spec);
            self.buffers[j].h = h;
        }
        let mut dissociation = 0.0;
        for j in 0..d {
            let buffers = &mut self.buffers[j];
            resize(&mut buffers.r, buffers.x.len());
            affine(self.weights.layer(j, GmfLayer::Reconstruct), &buffers.z, n, &mut buffers.r);
            let mut sum = 0f64;
            for (r, x) in buffers.r.iter_mut().zip(&buffers.x) {
                *r -= x;
                sum += f64::from(*r * *r);
            }
            dissociation += sum / buffers.x.len() as f64;
        }
        dissociation
    }

    /// The task loss; its gradient is written to `dinv`.
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
            &mut self.loss_buffers,
        )
    }

    /// The backward pass and the update of all weights.
    fn backward(&mut self, n: usize, objective: &Objective, sgd: &SgdOptions) {
        let config = self.weights.config().clone();
        let (d, shared) = (config.modalities().len(), config.invariant());
        for j in 0..d {
            let buffers = &mut self.buffers[j];
            let scale = (2.0 * objective.lambda_dissociation / buffers.r.len() as f64) as f32;
            buffers.r.iter_mut().for_each(|r| *r *= scale);
            resize(&mut buffers.dz, buffers.z.len());
            back(self.weights.layer(j, GmfLayer::Reconstruct), &buffers.r, n, &mut buffers.dz);
            let dinv = &mut self.dinv[config.next(j)];
            for (sum, dz) in dinv.iter_mut().zip(&buffers.dz[..n * shared]) {
                *sum += dz;
            }
            self.update(j, GmfLayer::Reconstruct, n, sgd);
        }
        for j in 0..d {
            let boundary = n * config.boundary_row(j);
            let buffers = &mut self.buffers[j];
            resize(&mut buffers.dh, buffers.h.len());
            let (inv, spec) = buffers.dh.split_at_mut(boundary);
            back(self.weights.layer(j, GmfLayer::ConcentrateInvariant), &self.dinv[j], n, inv);
            back(self.weights.layer(j, GmfLayer::ConcentrateSpecific), &buffers.dz[n * shared..], n, spec);
            for layer in [GmfLayer::ConcentrateInvariant, GmfLayer::ConcentrateSpecific, GmfLayer::Dissociate] {
                self.update(j, layer, n, sgd);
            }
        }
    }

    /// Updates one layer from the gradient with respect to its outputs, and its inputs.
    fn update(&mut self, j: usize, layer: GmfLayer, n: usize, sgd: &SgdOptions) {
        let config = self.weights.config();
        let (boundary, shared) = (n * config.boundary_row(j), n * config.invariant());
        let buffers = &self.buffers[j];
        let (dy, x) = match layer {
            GmfLayer::Dissociate => (&buffers.dh[..], &buffers.x[..]),
            GmfLayer::ConcentrateInvariant => (&self.dinv[j][..], &buffers.h[..boundary]),
            GmfLayer::ConcentrateSpecific => (&buffers.dz[shared..], &buffers.h[boundary..]),
            GmfLayer::Reconstruct => (&buffers.r[..], &buffers.z[..]),
        };
        descend(self.weights.layer_mut(j, layer), self.velocity.layer_mut(j, layer), dy, x, n, sgd);
    }
}

impl Stepper for CpuStepper {
    fn step(&mut self, batch: &TrainingBatch, objective: &Objective, sgd: &SgdOptions) -> Result<Losses, StepError> {
        let losses = self.losses(batch, objective)?;
        sgd.check(&losses)?;
        self.backward(batch.relations.size(), objective, sgd);
        Ok(losses)
    }

    fn losses(&mut self, batch: &TrainingBatch, objective: &Objective) -> Result<Losses, StepError> {
        assert_eq!(batch.features.len(), self.buffers.len(), "features of every modality");
        let dissociation = self.forward(batch);
        let task = self.task(&batch.relations, objective);
        Ok(Losses::new(dissociation, task, objective))
    }

    fn state(&self) -> Result<(Cow<'_, GmfWeights>, Cow<'_, GmfWeights>), StepError> {
        Ok((Cow::Borrowed(&self.weights), Cow::Borrowed(&self.velocity)))
    }
}

/// `y = W x + c` for every column of x.
fn affine(linear: &Affine, x: &[f32], n: usize, y: &mut [f32]) {
    for (row, bias) in y.chunks_exact_mut(n).zip(&linear.bias) {
        row.fill(*bias);
    }
    linalg::multiply(y, 1.0, MatrixView::rows(&linear.weight, linear.inputs()), MatrixView::rows(x, n));
}

/// `dx = Wᵀ dy` for every column.
fn back(linear: &Affine, dy: &[f32], n: usize, dx: &mut [f32]) {
    linalg::multiply(dx, 0.0, MatrixView::rows(&linear.weight, linear.inputs()).transposed(), MatrixView::rows(dy, n));
}

/// `v = momentum·v + dy·xᵀ + decay·w; w −= rate·v`, panel by panel. The gradient is never stored.
fn descend(linear: &mut Affine, velocity: &mut Affine, dy: &[f32], x: &[f32], n: usize, sgd: &SgdOptions) {
    let inputs = linear.inputs();
    let panel = linalg::panel_rows(linear.bias.len(), inputs * n);
    let SgdOptions { rate, momentum, decay, .. } = *sgd;
    let (dy, x) = (MatrixView::rows(dy, n), MatrixView::rows(x, n).transposed());
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

/// Resizes a buffer whose old contents do not matter.
fn resize(buffer: &mut Vec<f32>, length: usize) {
    buffer.resize(length, 0.0);
}

/// (samples, l) → (l, samples).
fn transpose(rows: &[f32], l: usize, out: &mut [f32]) {
    let n = rows.len() / l;
    // In blocks that fit the cache.
    for from in (0..l).step_by(16) {
        for (s, row) in rows.chunks_exact(l).enumerate() {
            for (i, value) in row[from..(from + 16).min(l)].iter().enumerate() {
                out[(from + i) * n + s] = *value;
            }
        }
    }
}

/// Gradients of all parameters for a batch. The weights do not change.
///
/// # Errors
/// [`StepError::Diverged`] if the loss is not finite.
pub fn gradients(weights: &GmfWeights, batch: &TrainingBatch, objective: &Objective) -> Result<GmfWeights, StepError> {
    let mut cpu = CpuStepper::new(weights.clone(), None);
    // With no momentum and no decay, the momentum buffer is the gradient.
    let no_update = SgdOptions { rate: 0.0, momentum: 0.0, decay: 0.0, loss_limit: f64::MAX };
    cpu.step(batch, objective, &no_update)?;
    Ok(cpu.velocity)
}

/// Operations of one step: the forward pass, the gradients of weights, and the gradients of inputs of all
/// layers except the first. A multiply-add counts as two.
pub fn step_flops(config: &GmfConfig, batch: usize) -> usize {
    let first: usize = (0..config.modalities().len())
        .map(|j| {
            let (outputs, inputs) = config.shape(j, GmfLayer::Dissociate);
            2 * outputs * inputs
        })
        .sum();
    batch * (3 * config.flops() - first)
}

#[cfg(test)]
mod tests {
    use super::super::autograd::AutogradStepper;
    use super::super::loss::{Relation, TaskLoss};
    use super::*;
    use crate::base::seeded::Random;
    use crate::base::tensors::NamedTensor;
    use crate::gmf::config::Modality;

    fn model(lengths: &[usize], multiple: u32, boundary: f64) -> GmfWeights {
        let modality = |(i, l): (usize, &usize)| Modality { name: format!("m{i}"), length: *l };
        let modalities = lengths.iter().enumerate().map(modality).collect();
        GmfWeights::random(&GmfConfig::new(modalities, multiple, boundary).unwrap(), 3)
    }

    fn batch(config: &GmfConfig, relations: Relations) -> TrainingBatch {
        let n = relations.size();
        let mut random = Random::new(5, "features");
        let mut features = |l: usize| (0..n * l).map(|_| random.between(-1.0, 1.0)).collect();
        TrainingBatch { features: config.modalities().iter().map(|m| features(m.length)).collect(), relations }
    }

    /// Positive pairs, and some pairs of open relation.
    fn related(n: usize) -> Relations {
        Relations::new(n, |a, c| match (a / 2 == c / 2, (a + c) % 4) {
            (true, _) => Relation::Positive,
            (false, 0) => Relation::Open,
            (false, _) => Relation::Negative,
        })
    }

    fn unrelated(n: usize) -> Relations {
        Relations::new(n, |_, _| Relation::Negative)
    }

    fn agree(a: &GmfWeights, b: &GmfWeights, tolerance: f32, what: &str) {
        for (NamedTensor { name, values: a, .. }, NamedTensor { values: b, .. }) in
            a.tensors().into_iter().zip(b.tensors())
        {
            let size = (b.iter().map(|v| v * v).sum::<f32>() / b.len() as f32).sqrt();
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                assert!((a - b).abs() <= tolerance * b.abs().max(size), "{what}, {name}[{i}]: {a}, expected {b}");
            }
        }
    }

    /// A small model, an odd-shaped model with three modalities, and a model large enough for several panels
    /// and threads.
    fn forms() -> [(GmfWeights, usize); 3] {
        [(model(&[4, 6], 4, 0.5), 5), (model(&[7, 13, 3], 3, 0.37), 9), (model(&[40, 150], 4, 0.5), 33)]
    }

    #[test]
    fn gradients_match_autograd() {
        for (weights, n) in forms() {
            let batch = batch(weights.config(), related(n));
            for task in [TaskLoss::Contrastive { temperature: 0.2 }, TaskLoss::Triplet { margin: 0.3 }] {
                let objective = Objective { lambda_dissociation: 0.7, lambda_task: 1.3, task };
                let by_hand = gradients(&weights, &batch, &objective).unwrap();
                let mut autograd = AutogradStepper::new(&weights, None, &candle_core::Device::Cpu).unwrap();
                let no_update = SgdOptions { rate: 0.0, momentum: 0.0, decay: 0.0, loss_limit: f64::MAX };
                let reference = autograd.step(&batch, &objective, &no_update).unwrap();
                let mut cpu = CpuStepper::new(weights.clone(), None);
                let found = cpu.losses(&batch, &objective).unwrap();
                assert!((found.total - reference.total).abs() < 1e-5 * reference.total, "{found:?} {reference:?}");
                agree(&by_hand, &autograd.state().unwrap().1, 1e-4, &format!("{task:?}"));
            }
        }
    }

    #[test]
    fn steps_with_momentum_and_decay_match_autograd() {
        let objective = Objective::default();
        let sgd = SgdOptions { rate: 0.05, momentum: 0.9, decay: 0.01, loss_limit: f64::MAX };
        for (weights, n) in forms() {
            let batch = batch(weights.config(), unrelated(n));
            let mut cpu = CpuStepper::new(weights.clone(), None);
            let mut autograd = AutogradStepper::new(&weights, None, &candle_core::Device::Cpu).unwrap();
            for _ in 0..4 {
                cpu.step(&batch, &objective, &sgd).unwrap();
                autograd.step(&batch, &objective, &sgd).unwrap();
            }
            agree(&cpu.state().unwrap().0, &autograd.state().unwrap().0, 1e-3, "weights after four steps");
        }
    }

    #[test]
    fn a_loss_above_the_limit_changes_no_weight() {
        let (weights, n) = (model(&[4, 6], 4, 0.5), 5);
        let mut batch = batch(weights.config(), unrelated(n));
        batch.features[1][3] = f32::NAN;
        let sgd = SgdOptions { rate: 0.1, momentum: 0.9, decay: 0.0, loss_limit: f64::MAX };
        let mut cpu = CpuStepper::new(weights.clone(), None);
        let error = cpu.step(&batch, &Objective::default(), &sgd).unwrap_err().to_string();
        assert!(error.contains("NaN") && error.contains("diverged"), "{error}");
        assert_eq!(*cpu.state().unwrap().0, weights);
    }

    #[test]
    fn zero_dissociation_loss_recovers_every_modality() {
        // Theorem 3.4: descend on Eq. 18 alone until it vanishes, then compare.
        let weights = model(&[4, 6, 5], 4, 0.5);
        let n = 16;
        let batch = batch(weights.config(), unrelated(n));
        let objective =
            Objective { lambda_dissociation: 1.0, lambda_task: 0.0, task: TaskLoss::Triplet { margin: 0.1 } };
        let sgd = SgdOptions { rate: 0.1, momentum: 0.9, decay: 0.0, loss_limit: f64::MAX };
        let mut cpu = CpuStepper::new(weights, None);
        let mut last = f64::MAX;
        for _ in 0..6000 {
            last = cpu.step(&batch, &objective, &sgd).unwrap().dissociation;
        }
        assert!(last < 1e-6, "{last}");
        let trained = cpu.state().unwrap().0.into_owned();
        let gmf = super::super::model::GmfModel::new(&trained, &candle_core::Device::Cpu).unwrap();
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
