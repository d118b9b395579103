//! The model as candle modules: the reference for gradients, the front end for other methods, and the way to a GPU.

use std::borrow::Cow;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{Linear, Module};

use super::config::{Config, Map};
use super::loss::{Losses, NORM_FLOOR, Objective, Relation, Relations, Task};
use super::step::{Batch, Descent, StepError, Stepper};
use super::weights::Weights;

/// What dissociation and concentration make of one modality. Each depends on that modality's feature alone, so a missing modality
/// costs nothing.
#[derive(Debug, Clone)]
pub struct Parts {
    /// inv(j), (batch, l*): comparable between modalities.
    pub inv: Tensor,
    /// spec(j), (batch, l_j): what only this modality holds.
    pub spec: Tensor,
}

/// What the whole network makes of one sample of every modality.
#[derive(Debug, Clone)]
pub struct Fused {
    /// inv and spec of each modality.
    pub parts: Vec<Parts>,
    /// `Z_j = [inv(j+1 mod d); spec(j)]`, (batch, l* + l_j): Eq. 17.
    pub exchanged: Vec<Tensor>,
    /// `P_recon(j) Z_j`, (batch, l_j).
    pub rebuilt: Vec<Tensor>,
}

/// Generalized Multimodal Fusion (Xiong et al., Algorithms 1 and 2) for `d ≥ 2` modalities of any lengths.
///
/// | stage | map | shape |
/// |---|---|---|
/// | dissociate | `h = P_dis f` | (batch, l) → (batch, n·l) |
/// | split and concentrate | `inv = P_cinv h[..b]`, `spec = P_cspec h[b..]` | → (batch, l*), (batch, l) |
/// | exchange | `Z_j = [inv(j+1); spec(j)]` | → (batch, l* + l) |
/// | reconstruct | `P_recon Z` | → (batch, l) |
///
/// As a front end of another fusion method, hand `inv` to the task head and `spec` to the other method (Appendix G.3):
///
/// ```
/// use candle_core::{Device, Tensor};
/// use reelseek::gmf::{Config, Gmf, Weights};
///
/// let config = Config::image_video(4, 6)?;
/// let model = Gmf::new(&Weights::random(&config, 1), &Device::Cpu)?;
/// let (image, video) = (Tensor::ones((2, 4), candle_core::DType::F32, &Device::Cpu)?, Tensor::ones((2, 6), candle_core::DType::F32, &Device::Cpu)?);
/// let fused = model.forward(&[image.clone(), video])?;
/// assert_eq!(fused.parts[1].inv.dims(), [2, 4]);
/// assert_eq!(fused.parts[1].spec.dims(), [2, 6]);
/// assert_eq!(fused.exchanged[0].dims(), [2, 4 + 4]);
/// // A picture alone has an invariant part too.
/// assert_eq!(model.parts(0, &image)?.inv.to_vec2::<f32>()?, fused.parts[0].inv.to_vec2::<f32>()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gmf {
    config: Config,
    maps: Vec<Vec<Linear>>,
    vars: Vec<Var>,
}

impl Gmf {
    /// The model with these weights, on a device.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn new(weights: &Weights, device: &Device) -> Result<Gmf> {
        let config = weights.config().clone();
        let mut vars = Vec::new();
        for (_, shape, values) in weights.tensors() {
            vars.push(Var::from_tensor(&Tensor::from_slice(values, shape, device)?)?);
        }
        let maps = vars
            .chunks_exact(8)
            .map(|of_modality| {
                let linear = |pair: &[Var]| Linear::new(pair[0].as_tensor().clone(), Some(pair[1].as_tensor().clone()));
                of_modality.chunks_exact(2).map(linear).collect()
            })
            .collect();
        Ok(Gmf { config, maps, vars })
    }

    /// The form of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The parameters, in the order of [`Weights::tensors`].
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// inv and spec of modality `j`, from features (batch, l_j).
    ///
    /// # Errors
    /// If the features have another length.
    pub fn parts(&self, j: usize, features: &Tensor) -> Result<Parts> {
        let map = |map: Map| &self.maps[j][map as usize];
        let h = map(Map::Dissociate).forward(features)?;
        let (b, all) = (self.config.boundary_row(j), self.config.dissociated(j));
        Ok(Parts {
            inv: map(Map::ConcentrateInvariant).forward(&h.narrow(D::Minus1, 0, b)?.contiguous()?)?,
            spec: map(Map::ConcentrateSpecific).forward(&h.narrow(D::Minus1, b, all - b)?.contiguous()?)?,
        })
    }

    /// The whole network, from features (batch, l_j) of every modality.
    ///
    /// # Errors
    /// If a modality is missing or has another length.
    pub fn forward(&self, features: &[Tensor]) -> Result<Fused> {
        if features.len() != self.maps.len() {
            candle_core::bail!("features of {} modalities, the model has {}", features.len(), self.maps.len());
        }
        let parts: Vec<Parts> = features.iter().enumerate().map(|(j, f)| self.parts(j, f)).collect::<Result<_>>()?;
        let exchanged: Vec<Tensor> = (0..parts.len())
            .map(|j| Tensor::cat(&[&parts[self.config.next(j)].inv, &parts[j].spec], D::Minus1))
            .collect::<Result<_>>()?;
        let rebuilt = exchanged
            .iter()
            .zip(&self.maps)
            .map(|(z, maps)| maps[Map::Reconstruct as usize].forward(z))
            .collect::<Result<_>>()?;
        Ok(Fused { parts, exchanged, rebuilt })
    }
}

/// `Σ_j MSE(rebuilt_j, f_j)` (Eq. 18, Algorithm 3).
///
/// # Errors
/// If shapes differ.
pub fn dissociation_loss(features: &[Tensor], fused: &Fused) -> Result<Tensor> {
    let mut sum = candle_nn::loss::mse(&fused.rebuilt[0], &features[0])?;
    for (rebuilt, feature) in fused.rebuilt.iter().zip(features).skip(1) {
        sum = (sum + candle_nn::loss::mse(rebuilt, feature)?)?;
    }
    Ok(sum)
}

/// Taken from a cosine, it makes a candidate count for nothing.
const FAR: f64 = 1e6;

/// The task loss over all pairs of modalities, both directions; see [`Task`].
///
/// # Errors
/// If shapes differ.
pub fn task_loss(parts: &[Parts], relations: &Relations, task: Task) -> Result<Tensor> {
    let n = relations.size();
    let device = parts[0].inv.device();
    let mask = |relation: Relation| {
        let of = |at: usize| f32::from(u8::from(relations.of(at / n, at % n) == relation));
        Tensor::from_vec((0..n * n).map(of).collect::<Vec<f32>>(), (n, n), device)
    };
    let (positive, open) = (mask(Relation::Positive)?, mask(Relation::Open)?);
    let units = parts
        .iter()
        .map(|p| p.inv.broadcast_div(&p.inv.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(f64::from(NORM_FLOOR))?))
        .collect::<Result<Vec<_>>>()?;
    let mut sum = Tensor::zeros((), DType::F32, device)?;
    let mut pairs = 0.0;
    for (p, u) in units.iter().enumerate() {
        for w in &units[p + 1..] {
            let s = u.matmul(&w.t()?)?;
            let turned = |t: &Tensor| t.t()?.contiguous();
            let transposed = (turned(&s)?, turned(&positive)?, turned(&open)?);
            for (s, positive, open) in [(s, positive.clone(), open.clone()), transposed] {
                let targets = positive.broadcast_div(&positive.sum_keepdim(1)?)?;
                let each = match task {
                    Task::Contrastive { temperature } => {
                        let log = candle_nn::ops::log_softmax(&((s / temperature)? - (open * FAR)?)?, 1)?;
                        (log * targets)?.neg()?
                    }
                    Task::Triplet { margin } => {
                        let negatives = (&s - ((&positive + &open)? * FAR)?)?;
                        let hardest = negatives.max_keepdim(1)?;
                        (s.neg()?.broadcast_add(&hardest)? + margin)?.relu()?.mul(&targets)?
                    }
                };
                sum = (sum + (each.sum_all()? / (2 * n) as f64)?)?;
            }
            pairs += 1.0;
        }
    }
    sum / pairs
}

/// Training through candle's autograd, on any device that candle knows.
#[derive(Debug)]
pub struct Autograd {
    model: Gmf,
    velocity: Vec<Tensor>,
    device: Device,
}

impl Autograd {
    /// Goes on from these weights and momentum buffers.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn new(weights: &Weights, velocity: Option<&Weights>, device: &Device) -> Result<Autograd> {
        let model = Gmf::new(weights, device)?;
        let velocity = match velocity {
            Some(velocity) => velocity
                .tensors()
                .into_iter()
                .map(|(_, s, v)| Tensor::from_slice(v, s, device))
                .collect::<Result<_>>()?,
            None => model.vars.iter().map(|v| v.as_tensor().zeros_like()).collect::<Result<_>>()?,
        };
        Ok(Autograd { model, velocity, device: device.clone() })
    }

    fn to_weights(&self, tensors: impl Iterator<Item = Tensor>) -> Result<Weights> {
        let mut weights = Weights::zeros(&self.model.config);
        let mut tensors = tensors;
        for j in 0..self.model.maps.len() {
            for map in Map::ALL {
                let mut take = || -> Result<Vec<f32>> {
                    tensors.next().expect("a tensor for each parameter").flatten_all()?.to_vec1()
                };
                let (weight, bias) = (take()?, take()?);
                *weights.map_mut(j, map) = super::weights::Linear { weight, bias };
            }
        }
        Ok(weights)
    }
}

impl Autograd {
    /// The losses with the graph behind them: the total, and the numbers.
    fn pass(
        &self,
        batch: &Batch,
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
        let losses = Losses::of(scalar(&dissociation)?, scalar(&task)?, objective);
        let total = ((dissociation * objective.lambda_dissociation)? + (task * objective.lambda_task)?)?;
        Ok((total, losses))
    }
}

impl Stepper for Autograd {
    fn step(
        &mut self,
        batch: &Batch,
        relations: &Relations,
        objective: &Objective,
        descent: &Descent,
    ) -> std::result::Result<Losses, StepError> {
        let (total, losses) = self.pass(batch, relations, objective)?;
        descent.check(&losses)?;
        let gradients = total.backward()?;
        for (var, velocity) in self.model.vars.iter().zip(&mut self.velocity) {
            let Some(gradient) = gradients.get(var) else { continue };
            let gradient = (gradient + (var.as_tensor() * f64::from(descent.decay))?)?;
            // Detached: the graph of this step must not live on in the next.
            *velocity = ((&*velocity * f64::from(descent.momentum))? + gradient)?.detach();
            var.set(&(var.as_tensor() - (&*velocity * f64::from(descent.rate))?)?)?;
        }
        Ok(losses)
    }

    fn losses(
        &mut self,
        batch: &Batch,
        relations: &Relations,
        objective: &Objective,
    ) -> std::result::Result<Losses, StepError> {
        Ok(self.pass(batch, relations, objective)?.1)
    }

    fn state(&self) -> std::result::Result<(Cow<'_, Weights>, Cow<'_, Weights>), StepError> {
        let weights = self.to_weights(self.model.vars.iter().map(|v| v.as_tensor().clone()))?;
        let velocity = self.to_weights(self.velocity.iter().cloned())?;
        Ok((Cow::Owned(weights), Cow::Owned(velocity)))
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;

    use super::super::config::Modality;
    use super::*;
    use crate::base::seeded::Random;

    fn tensor(rows: usize, columns: usize, text: &str) -> Tensor {
        let mut random = Random::new(1, text);
        let values: Vec<f32> = (0..rows * columns).map(|_| random.between(-1.0, 1.0)).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn three() -> Gmf {
        let modality = |name: &str, length| Modality { name: name.to_owned(), length };
        let modalities = vec![modality("a", 4), modality("b", 7), modality("c", 5)];
        let config = Config::new(modalities, 3, 0.4).unwrap();
        Gmf::new(&Weights::random(&config, 9), &Device::Cpu).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn parts_of_one_modality_do_not_depend_on_the_others() {
        let model = three();
        let features = [tensor(2, 4, "a"), tensor(2, 7, "b"), tensor(2, 5, "c")];
        let mut changed = features.clone();
        changed[1] = tensor(2, 7, "something else");
        changed[2] = Tensor::zeros((2, 5), DType::F32, &Device::Cpu).unwrap();
        let (before, after) = (model.forward(&features).unwrap(), model.forward(&changed).unwrap());
        let alone = model.parts(0, &features[0]).unwrap();
        for other in [&after.parts[0], &alone] {
            assert_eq!(values(&before.parts[0].inv), values(&other.inv));
            assert_eq!(values(&before.parts[0].spec), values(&other.spec));
        }
        assert_ne!(values(&before.parts[1].inv), values(&after.parts[1].inv));
        // Eq. 17: a is rebuilt from b's invariant part, so that does change.
        assert_ne!(values(&before.rebuilt[0]), values(&after.rebuilt[0]));
    }

    #[test]
    fn modalities_are_exchanged_with_the_next_one() {
        let fused = three().forward(&[tensor(2, 4, "a"), tensor(2, 7, "b"), tensor(2, 5, "c")]).unwrap();
        for (j, next) in [(0, 1), (1, 2), (2, 0)] {
            let z = fused.exchanged[j].to_vec2::<f32>().unwrap();
            let inv = fused.parts[next].inv.to_vec2::<f32>().unwrap();
            let spec = fused.parts[j].spec.to_vec2::<f32>().unwrap();
            assert_eq!(z[1], [inv[1].as_slice(), spec[1].as_slice()].concat());
        }
    }

    #[test]
    fn a_missing_modality_is_an_error_for_the_whole_network() {
        let error = three().forward(&[tensor(1, 4, "a")]).unwrap_err().to_string();
        assert!(error.contains("1 modalities, the model has 3"), "{error}");
    }

    /// Least error of rebuilding random data through a generic map to `wide` numbers and the best map back.
    fn bare_map_error(l: usize, wide: usize) -> f64 {
        let mut random = Random::new(2, "bare map");
        let mut draw = |rows, columns| DMatrix::from_fn(rows, columns, |_, _| f64::from(random.between(-1.0, 1.0)));
        let (data, dissociate) = (draw(l, 50), draw(wide, l));
        let seen = &dissociate * &data;
        let back = &data * seen.clone().pseudo_inverse(1e-9).unwrap();
        (back * seen - &data).norm() / data.norm()
    }

    #[test]
    fn a_map_that_widens_keeps_everything_and_one_that_narrows_cannot() {
        // Theorem 3.3 on the bare map l → n·l → l, l = 12.
        for wide in [12, 13, 24, 48] {
            assert!(bare_map_error(12, wide) < 1e-9, "n·l = {wide}: {}", bare_map_error(12, wide));
        }
        for wide in [11, 9, 6, 3] {
            assert!(bare_map_error(12, wide) > 0.1, "n·l = {wide}: {}", bare_map_error(12, wide));
        }
        assert!(bare_map_error(12, 3) > bare_map_error(12, 9));
    }
}
