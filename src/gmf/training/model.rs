//! The model as candle modules. It is the reference for gradients, a front end for other fusion methods, and
//! the implementation for GPUs.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{Linear, Module};

use super::loss::{NORM_FLOOR, Relation, Relations, TaskLoss};
use super::weights::GmfWeights;
use crate::gmf::config::{GmfConfig, GmfLayer};

/// The invariant and specific part of one modality. They depend on that modality's feature alone, so they can
/// be computed while other modalities are missing.
#[derive(Debug, Clone)]
pub struct ModalityParts {
    /// inv(j), of shape (batch, l*): comparable between modalities.
    pub inv: Tensor,
    /// spec(j), of shape (batch, l_j): information of this modality only.
    pub spec: Tensor,
}

/// Output of the whole network for samples of every modality.
#[derive(Debug, Clone)]
pub struct Fused {
    /// Parts of each modality.
    pub parts: Vec<ModalityParts>,
    /// Exchanged parts (Eq. 17): `Z_j = [inv(j+1 mod d); spec(j)]`, of shape (batch, l* + l_j).
    pub exchanged: Vec<Tensor>,
    /// Rebuilt features: `P_recon(j) Z_j`, of shape (batch, l_j).
    pub rebuilt: Vec<Tensor>,
}

/// Generalized Multimodal Fusion (Xiong et al., Algorithms 1 and 2) for `d ≥ 2` modalities of any lengths.
///
/// | stage | layer | shape |
/// |---|---|---|
/// | dissociate | `h = P_dis f` | (batch, l) → (batch, n·l) |
/// | split and concentrate | `inv = P_cinv h[..b]`, `spec = P_cspec h[b..]` | → (batch, l*), (batch, l) |
/// | exchange | `Z_j = [inv(j+1); spec(j)]` | → (batch, l* + l) |
/// | reconstruct | `P_recon Z` | → (batch, l) |
///
/// As a front end of another fusion method, pass `inv` to the task head and `spec` to the other method
/// (Appendix G.3):
///
/// ```
/// use candle_core::{Device, Tensor};
/// use reelseek::gmf::{GmfConfig, GmfModel, GmfWeights};
///
/// let config = GmfConfig::image_video(4, 6)?;
/// let model = GmfModel::new(&GmfWeights::random(&config, 1), &Device::Cpu)?;
/// let image = Tensor::ones((2, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let video = Tensor::ones((2, 6), candle_core::DType::F32, &Device::Cpu)?;
/// let fused = model.forward(&[image.clone(), video])?;
/// assert_eq!(fused.parts[1].inv.dims(), [2, 4]);
/// assert_eq!(fused.parts[1].spec.dims(), [2, 6]);
/// assert_eq!(fused.exchanged[0].dims(), [2, 4 + 4]);
/// // An image alone has an invariant part too.
/// assert_eq!(model.parts(0, &image)?.inv.to_vec2::<f32>()?, fused.parts[0].inv.to_vec2::<f32>()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct GmfModel {
    config: GmfConfig,
    layers: Vec<Vec<Linear>>,
    vars: Vec<Var>,
}

impl GmfModel {
    /// A model with these weights, on a device.
    ///
    /// # Errors
    /// If the device cannot allocate them.
    pub fn new(weights: &GmfWeights, device: &Device) -> Result<GmfModel> {
        let config = weights.config().clone();
        let tensors = weights.tensors().into_iter();
        let vars: Vec<Var> = tensors
            .map(|tensor| Var::from_tensor(&Tensor::from_slice(tensor.values, tensor.shape, device)?))
            .collect::<Result<_>>()?;
        let layers = vars
            .chunks_exact(8)
            .map(|modality| {
                let linear = |pair: &[Var]| Linear::new(pair[0].as_tensor().clone(), Some(pair[1].as_tensor().clone()));
                modality.chunks_exact(2).map(linear).collect()
            })
            .collect();
        Ok(GmfModel { config, layers, vars })
    }

    /// Form of the model.
    pub fn config(&self) -> &GmfConfig {
        &self.config
    }

    /// Parameters: for each layer of each modality the weight, then the bias.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Parts of modality `j` of features of shape (batch, l_j).
    ///
    /// # Errors
    /// If the features have another length.
    pub fn parts(&self, j: usize, features: &Tensor) -> Result<ModalityParts> {
        let layer = |layer: GmfLayer| &self.layers[j][layer as usize];
        let h = layer(GmfLayer::Dissociate).forward(features)?;
        let (b, all) = (self.config.boundary_row(j), self.config.dissociated(j));
        Ok(ModalityParts {
            inv: layer(GmfLayer::ConcentrateInvariant).forward(&h.narrow(D::Minus1, 0, b)?.contiguous()?)?,
            spec: layer(GmfLayer::ConcentrateSpecific).forward(&h.narrow(D::Minus1, b, all - b)?.contiguous()?)?,
        })
    }

    /// Runs the whole network on features of shape (batch, l_j) of every modality.
    ///
    /// # Errors
    /// If a modality is missing or has another length.
    pub fn forward(&self, features: &[Tensor]) -> Result<Fused> {
        if features.len() != self.layers.len() {
            candle_core::bail!("features of {} modalities, the model has {}", features.len(), self.layers.len());
        }
        let parts: Vec<ModalityParts> =
            features.iter().enumerate().map(|(j, f)| self.parts(j, f)).collect::<Result<_>>()?;
        let exchanged: Vec<Tensor> = (0..parts.len())
            .map(|j| Tensor::cat(&[&parts[self.config.next(j)].inv, &parts[j].spec], D::Minus1))
            .collect::<Result<_>>()?;
        let rebuilt = exchanged
            .iter()
            .zip(&self.layers)
            .map(|(z, layers)| layers[GmfLayer::Reconstruct as usize].forward(z))
            .collect::<Result<_>>()?;
        Ok(Fused { parts, exchanged, rebuilt })
    }
}

/// Dissociation loss `Σ_j MSE(rebuilt_j, f_j)` (Eq. 18, Algorithm 3).
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

/// Subtracted from the cosine of a candidate that must not count.
const FAR: f64 = 1e6;

/// Task loss over all pairs of modalities, in both directions; see [`TaskLoss`].
///
/// # Errors
/// If shapes differ.
pub fn task_loss(parts: &[ModalityParts], relations: &Relations, task: TaskLoss) -> Result<Tensor> {
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
            let transpose = |t: &Tensor| t.t()?.contiguous();
            let transposed = (transpose(&s)?, transpose(&positive)?, transpose(&open)?);
            for (s, positive, open) in [(s, positive.clone(), open.clone()), transposed] {
                let targets = positive.broadcast_div(&positive.sum_keepdim(1)?)?;
                let each = match task {
                    TaskLoss::Contrastive { temperature } => {
                        let log = candle_nn::ops::log_softmax(&((s / temperature)? - (open * FAR)?)?, 1)?;
                        (log * targets)?.neg()?
                    }
                    TaskLoss::Triplet { margin } => {
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

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;

    use super::*;
    use crate::base::seeded::Random;
    use crate::gmf::config::Modality;

    fn tensor(rows: usize, columns: usize, text: &str) -> Tensor {
        let mut random = Random::new(1, text);
        let values: Vec<f32> = (0..rows * columns).map(|_| random.between(-1.0, 1.0)).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn three() -> GmfModel {
        let modality = |name: &str, length| Modality { name: name.to_owned(), length };
        let modalities = vec![modality("a", 4), modality("b", 7), modality("c", 5)];
        let config = GmfConfig::new(modalities, 3, 0.4).unwrap();
        GmfModel::new(&GmfWeights::random(&config, 9), &Device::Cpu).unwrap()
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
    fn each_modality_receives_the_invariant_part_of_the_next() {
        let fused = three().forward(&[tensor(2, 4, "a"), tensor(2, 7, "b"), tensor(2, 5, "c")]).unwrap();
        for (j, next) in [(0, 1), (1, 2), (2, 0)] {
            let z = fused.exchanged[j].to_vec2::<f32>().unwrap();
            let inv = fused.parts[next].inv.to_vec2::<f32>().unwrap();
            let spec = fused.parts[j].spec.to_vec2::<f32>().unwrap();
            assert_eq!(z[1], [inv[1].as_slice(), spec[1].as_slice()].concat());
        }
    }

    #[test]
    fn forward_rejects_a_missing_modality() {
        let error = three().forward(&[tensor(1, 4, "a")]).unwrap_err().to_string();
        assert!(error.contains("1 modalities, the model has 3"), "{error}");
    }

    /// Least relative error of rebuilding random data after a generic map to `wide` numbers and the best map
    /// back.
    fn bare_map_error(l: usize, wide: usize) -> f64 {
        let mut random = Random::new(2, "bare map");
        let mut draw = |rows, columns| DMatrix::from_fn(rows, columns, |_, _| f64::from(random.between(-1.0, 1.0)));
        let (data, dissociate) = (draw(l, 50), draw(wide, l));
        let mapped = &dissociate * &data;
        let back = &data * mapped.clone().pseudo_inverse(1e-9).unwrap();
        (back * mapped - &data).norm() / data.norm()
    }

    #[test]
    fn widening_maps_are_invertible_and_narrowing_maps_are_not() {
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
