//! DINOv2 small (Oquab et al., TMLR 2024): the class token after the last layer and its normalisation, 384
//! numbers.
//!
//! As in transformers, MLPs use GELU with the error function, and learned positions are interpolated
//! bicubically to the size of the pictures.

use std::path::Path;
use std::sync::Arc;

use candle_core::Module;
use candle_nn::LayerNorm;

use super::conv::Activation;
use super::pooled::{Backbone, Normalisation, PixelBatch, PooledEncoder};
use super::vit::{Embeddings, LayerNames, VisionTransformer, VitConfig};
use super::weights::WeightsFile;
use crate::encode::registry::{EncoderEntry, image_sampling};
use crate::encode::{Encoder, Error};
use crate::media::{Filter, Fit};

/// `image_mean` and `image_std` of `preprocessor_config.json` in facebook/dinov2-small.
const NORMALISATION: Normalisation = Normalisation { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };

const SMALL: VitConfig = VitConfig {
    layers: 12,
    channels: 384,
    wide: 1536,
    heads: 6,
    patch: 14,
    grid: 16,
    epsilon: 1e-6,
    activation: Activation::Gelu,
};
/// Patches along a side of the pictures that the published network was trained with.
const TRAINED_GRID: usize = 37;

const NAMES: LayerNames = LayerNames {
    norms: ["norm1", "norm2"],
    qkv: ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    projection: "attention.output.dense",
    scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
};

struct Dinov2Network {
    vision: VisionTransformer,
    last_norm: LayerNorm,
}

/// Opens the encoder from `model.safetensors` of facebook/dinov2-small.
pub(in crate::encode) fn build(entry: &EncoderEntry, path: &Path, id: String) -> Result<Arc<dyn Encoder>, String> {
    let network = Dinov2Network::read(path, SMALL, TRAINED_GRID)?;
    let sampling = image_sampling(224, Fit::Cover { shorter: 256, filter: Filter::Bicubic });
    Ok(Arc::new(PooledEncoder::new(entry.name, id, SMALL.channels, sampling, NORMALISATION, Box::new(network))))
}

impl Dinov2Network {
    fn read(path: &Path, config: VitConfig, trained: usize) -> Result<Dinov2Network, String> {
        let file = WeightsFile::open(path)?;
        let VitConfig { channels, patch, grid, epsilon, .. } = config;
        let embedding = "embeddings.patch_embeddings.projection";
        let mut positions = file.take("embeddings.position_embeddings", &[1, 1 + trained * trained, channels])?;
        let trained_positions = positions.split_off(channels);
        positions.extend(interpolate_positions(&trained_positions, channels, trained, grid));
        let embeddings = Embeddings {
            kernel: file.take(&format!("{embedding}.weight"), &[channels, 3, patch, patch])?,
            bias: file.take(&format!("{embedding}.bias"), &[channels])?,
            class: Some(file.take("embeddings.cls_token", &[1, 1, channels])?),
            positions,
        };
        Ok(Dinov2Network {
            vision: VisionTransformer::read(&file, config, embeddings, "encoder.layer", &NAMES)?,
            last_norm: file.layer_norm("layernorm", channels, epsilon)?,
        })
    }
}

impl Backbone for Dinov2Network {
    fn forward(&self, pictures: &PixelBatch) -> Result<Vec<Vec<f32>>, Error> {
        // The 257 tokens of one picture make matrices that are large enough.
        pictures.map_chunks(1, |pixels, count| {
            Ok(self.last_norm.forward(&self.vision.class_tokens(pixels, count)?)?.to_vec2()?)
        })
    }
}

/// Positions of `from` x `from` patches resized to `to` x `to`, (patches, channels), as PyTorch's bicubic
/// `interpolate` does: a = -0.75, corners not aligned, edges repeated.
fn interpolate_positions(positions: &[f32], channels: usize, from: usize, to: usize) -> Vec<f32> {
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
        return positions.to_vec();
    }
    // The four neighbours along a side, and their weights.
    let taps = |i: usize| {
        let centre = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        [-1.0, 0.0, 1.0, 2.0].map(|step| {
            let at = centre.floor() + step;
            (at.clamp(0.0, from as f64 - 1.0) as usize, weight(centre - at))
        })
    };
    let mut resized = vec![0f32; to * to * channels];
    for (i, out) in resized.chunks_exact_mut(channels).enumerate() {
        for (y, wy) in taps(i / to) {
            for (x, wx) in taps(i % to) {
                let row = &positions[(y * from + x) * channels..][..channels];
                out.iter_mut().zip(row).for_each(|(sum, value)| *sum += (wy * wx) as f32 * value);
            }
        }
    }
    resized
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, Case};
    use super::*;

    const TINY: VitConfig = VitConfig { layers: 2, channels: 32, wide: 128, heads: 4, grid: 3, ..SMALL };

    #[test]
    fn features_equal_those_of_transformers() {
        let case = Case::of("dinov2");
        let (_folder, path) = case.file();
        case.check(&Dinov2Network::read(&path, TINY, 5).unwrap().forward(&case.pictures()).unwrap());
    }

    #[test]
    fn reads_the_published_file_and_names_a_missing_tensor() {
        let (_folder, path) = reference::published("dinov2");
        assert!(Dinov2Network::read(&path, SMALL, TRAINED_GRID).is_ok());
        let missing = "encoder.layer.1.layer_scale2.lambda1";
        let (_folder, path) = Case::of("dinov2").file_without(missing);
        assert_eq!(Dinov2Network::read(&path, TINY, 5).err().unwrap(), format!("no tensor `{missing}`"));
    }
}
