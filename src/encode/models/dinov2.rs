//! DINOv2 small (Oquab et al., TMLR 2024): the class token after the last layer and its normalisation, 384 numbers.
//!
//! candle-transformers has the network with the names of another file, a classifier's head that the published one lacks, the approximation of GELU by tanh, and
//! places interpolated by their nearest neighbour. This is the network of transformers: its names, the error function, and bicubic places.

use std::path::Path;

use candle_core::{Device, Module, Tensor};
use candle_nn::LayerNorm;
use rayon::prelude::*;

use super::attention::attention;
use super::conv::{Activation, Pointwise, add};
use super::pooled::{Backbone, Normalise};
use crate::base::tensors::{self, File};

/// Length of the features.
pub(in crate::encode) const LENGTH: usize = SMALL.length;

/// `image_mean` and `image_std` of `preprocessor_config.json` in facebook/dinov2-small.
pub(in crate::encode) const NORMALISE: Normalise =
    Normalise { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };

/// Pixels along a side of a patch.
const PATCH: usize = 14;
const EPSILON: f64 = 1e-6;

struct Config {
    layers: usize,
    length: usize,
    heads: usize,
    /// Patches along a side of the pictures it was trained with, and of those it is given.
    trained: usize,
    given: usize,
}

const SMALL: Config = Config { layers: 12, length: 384, heads: 6, trained: 37, given: 16 };

/// `x += γ₁ attention(norm(x))`, then `x += γ₂ mlp(norm(x))`; the γ are in the weights of `mixed` and `narrow`.
struct Layer {
    first: LayerNorm,
    qkv: Pointwise,
    mixed: Pointwise,
    second: LayerNorm,
    wide: Pointwise,
    narrow: Pointwise,
}

/// The network.
pub(in crate::encode) struct Dinov2 {
    heads: usize,
    patches: Pointwise,
    class: Tensor,
    /// (1 + patches, length).
    places: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

/// The tensors of a file, by the name of their layer.
struct Reader<'a> {
    file: &'a File<'static>,
    length: usize,
}

impl Reader<'_> {
    fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        self.file.take(name, shape).map_err(|e| e.to_string())
    }

    /// Weight, (outputs, inputs) row after row, and bias.
    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<(Vec<f32>, Vec<f32>), String> {
        Ok((self.take(&format!("{name}.weight"), &[outputs, inputs])?, self.take(&format!("{name}.bias"), &[outputs])?))
    }

    /// A linear layer whose outputs are scaled by the `lambda1` of another.
    fn scaled(&self, name: &str, scale: &str, inputs: usize) -> Result<Pointwise, String> {
        let (mut weight, mut bias) = self.linear(name, self.length, inputs)?;
        for (i, gamma) in self.take(&format!("{scale}.lambda1"), &[self.length])?.into_iter().enumerate() {
            weight[i * inputs..(i + 1) * inputs].iter_mut().for_each(|w| *w *= gamma);
            bias[i] *= gamma;
        }
        pointwise(weight, bias)
    }

    fn norm(&self, name: &str) -> Result<LayerNorm, String> {
        let tensor = |part: &str| {
            let values = self.take(&format!("{name}.{part}"), &[self.length])?;
            Tensor::from_vec(values, self.length, &Device::Cpu).map_err(|e| e.to_string())
        };
        Ok(LayerNorm::new(tensor("weight")?, tensor("bias")?, EPSILON))
    }

    fn layer(&self, i: usize) -> Result<Layer, String> {
        let (length, wide) = (self.length, 4 * self.length);
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in ["query", "key", "value"] {
            let (w, b) = self.linear(&name(&format!("attention.attention.{part}")), length, length)?;
            weight.extend(w);
            bias.extend(b);
        }
        let (up, up_bias) = self.linear(&name("mlp.fc1"), wide, length)?;
        Ok(Layer {
            first: self.norm(&name("norm1"))?,
            qkv: pointwise(weight, bias)?,
            mixed: self.scaled(&name("attention.output.dense"), &name("layer_scale1"), length)?,
            second: self.norm(&name("norm2"))?,
            wide: pointwise(up, up_bias)?,
            narrow: self.scaled(&name("mlp.fc2"), &name("layer_scale2"), wide)?,
        })
    }
}

fn pointwise(weight: Vec<f32>, bias: Vec<f32>) -> Result<Pointwise, String> {
    Pointwise::new(weight, bias).map_err(|e| e.to_string())
}

impl Dinov2 {
    /// Reads `model.safetensors` of facebook/dinov2-small.
    pub(in crate::encode) fn open(path: &Path) -> Result<Dinov2, String> {
        Dinov2::read(path, &SMALL)
    }

    fn read(path: &Path, config: &Config) -> Result<Dinov2, String> {
        let (length, trained) = (config.length, config.trained);
        let reader = Reader { file: &tensors::open(path).map_err(|e| e.to_string())?, length };
        let kernel = reader.take("embeddings.patch_embeddings.projection.weight", &[length, 3, PATCH, PATCH])?;
        let bias = reader.take("embeddings.patch_embeddings.projection.bias", &[length])?;
        let places = reader.take("embeddings.position_embeddings", &[1, 1 + trained * trained, length])?;
        let (class, grid) = places.split_at(length);
        let mut resized = class.to_vec();
        resized.extend(interpolated(grid, length, trained, config.given));
        let rows = |values: Vec<f32>| Tensor::from_vec(values, ((), length), &Device::Cpu).map_err(|e| e.to_string());
        Ok(Dinov2 {
            heads: config.heads,
            patches: pointwise(kernel, bias)?,
            class: rows(reader.take("embeddings.cls_token", &[1, 1, length])?)?,
            places: rows(resized)?,
            layers: (0..config.layers).map(|i| reader.layer(i)).collect::<Result<_, _>>()?,
            norm: reader.norm("layernorm")?,
        })
    }

    /// One picture, (3, side, side), to (length).
    fn one(&self, picture: &Tensor) -> candle_core::Result<Tensor> {
        let along = picture.dim(1)? / PATCH;
        let cut = picture.reshape((3, along, PATCH, along, PATCH))?.permute((1, 3, 0, 2, 4))?;
        let patches = self.patches.apply(&cut.reshape((along * along, 3 * PATCH * PATCH))?, Activation::None)?;
        let x = Tensor::cat(&[&self.class, &patches], 0)?;
        add(&x, &self.places)?;
        for layer in &self.layers {
            let mixed = attention(&layer.qkv.apply(&layer.first.forward(&x)?, Activation::None)?, self.heads)?;
            add(&x, &layer.mixed.apply(&mixed, Activation::None)?)?;
            let wide = layer.wide.apply(&layer.second.forward(&x)?, Activation::Gelu)?;
            add(&x, &layer.narrow.apply(&wide, Activation::None)?)?;
        }
        self.norm.forward(&x.narrow(0, 0, 1)?)?.squeeze(0)
    }
}

impl Backbone for Dinov2 {
    fn forward(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let each = (0..pictures.dim(0)?).into_par_iter().map(|i| self.one(&pictures.get(i)?));
        Tensor::stack(&each.collect::<candle_core::Result<Vec<_>>>()?, 0)
    }
}

/// The places of `from` x `from` patches for `to` x `to`, (patches, length): PyTorch's bicubic `interpolate`, a = -0.75, corners not aligned, edges repeated.
fn interpolated(grid: &[f32], length: usize, from: usize, to: usize) -> Vec<f32> {
    const A: f64 = -0.75;
    let weight = |x: f64| {
        let x = x.abs();
        if x <= 1.0 {
            ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
        } else {
            ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
        }
    };
    if from == to {
        return grid.to_vec();
    }
    // The four neighbours along a side, and their weights.
    let taps = |i: usize| {
        let centre = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        [-1.0, 0.0, 1.0, 2.0].map(|step| {
            let at = centre.floor() + step;
            (at.clamp(0.0, from as f64 - 1.0) as usize, weight(centre - at))
        })
    };
    let mut out = vec![0f32; to * to * length];
    for (place, out) in out.chunks_exact_mut(length).enumerate() {
        for (y, wy) in taps(place / to) {
            for (x, wx) in taps(place % to) {
                let row = &grid[(y * from + x) * length..][..length];
                out.iter_mut().zip(row).for_each(|(sum, value)| *sum += (wy * wx) as f32 * value);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::models::reference::{self, Case};

    const TINY: Config = Config { layers: 2, length: 32, heads: 4, trained: 5, given: 3 };

    #[test]
    fn features_are_those_of_transformers() {
        let case = Case::of("dinov2");
        let (_folder, path) = case.file();
        case.check(&Dinov2::read(&path, &TINY).unwrap().forward(&case.input()).unwrap());
    }

    #[test]
    fn the_published_file_is_read_and_what_lacks_is_named() {
        let (_folder, path) = reference::published("dinov2");
        assert!(Dinov2::open(&path).is_ok());
        let lacking = "encoder.layer.1.layer_scale2.lambda1";
        let (_folder, path) = Case::of("dinov2").file_without(lacking);
        assert_eq!(Dinov2::read(&path, &TINY).err().unwrap(), format!("it has no tensor `{lacking}`"));
    }
}
