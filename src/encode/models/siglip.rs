//! The image tower of SigLIP base (Zhai et al., ICCV 2023): the tokens of the last layer, pooled by the
//! attention of a learned probe, 768 numbers.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Module, Tensor};
use candle_nn::LayerNorm;

use super::attention::{attention, split_heads};
use super::conv::{Activation, Pointwise, add};
use super::pooled::{Backbone, Normalisation, PixelBatch, PooledEncoder};
use super::vit::{CLIP_NAMES, Embeddings, VisionTransformer, VitConfig};
use super::weights::{WeightsFile, pointwise};
use crate::encode::registry::{EncoderEntry, image_sampling};
use crate::encode::{Encoder, Error};
use crate::media::{Filter, Fit};

/// `image_mean` and `image_std` of `preprocessor_config.json` in google/siglip-base-patch16-224.
const NORMALISATION: Normalisation = Normalisation { mean: [0.5; 3], deviation: [0.5; 3] };

const BASE: VitConfig = VitConfig {
    layers: 12,
    channels: 768,
    wide: 3072,
    heads: 12,
    patch: 16,
    grid: 14,
    epsilon: 1e-6,
    activation: Activation::GeluTanh,
};

/// Pictures per matrix product.
const AT_ONCE: usize = 8;

struct SiglipNetwork {
    vision: VisionTransformer,
    last_norm: LayerNorm,
    pool: AttentionPool,
}

/// `y = attention(probe, tokens)`, then `y + mlp(norm(y))`.
struct AttentionPool {
    heads: usize,
    /// The probe as a query, (1, heads, 1, channels / heads).
    query: Tensor,
    /// Keys and values of the tokens.
    kv: Pointwise,
    projection: Pointwise,
    norm: LayerNorm,
    wide: Pointwise,
    narrow: Pointwise,
}

/// Opens the encoder from `model.safetensors` of google/siglip-base-patch16-224.
pub(in crate::encode) fn build(entry: &EncoderEntry, path: &Path, id: String) -> Result<Arc<dyn Encoder>, String> {
    let network = SiglipNetwork::read(path, BASE)?;
    let sampling = image_sampling(224, Fit::Squeeze { width: 224, height: 224, filter: Filter::Bicubic });
    Ok(Arc::new(PooledEncoder::new(entry.name, id, BASE.channels, sampling, NORMALISATION, Box::new(network))))
}

impl SiglipNetwork {
    fn read(path: &Path, config: VitConfig) -> Result<SiglipNetwork, String> {
        let file = WeightsFile::open(path)?;
        let VitConfig { channels, patch, grid, epsilon, .. } = config;
        let embedding = "vision_model.embeddings.patch_embedding";
        let embeddings = Embeddings {
            kernel: file.take(&format!("{embedding}.weight"), &[channels, 3, patch, patch])?,
            bias: file.take(&format!("{embedding}.bias"), &[channels])?,
            class: None,
            positions: file.take("vision_model.embeddings.position_embedding.weight", &[grid * grid, channels])?,
        };
        Ok(SiglipNetwork {
            vision: VisionTransformer::read(&file, config, embeddings, "vision_model.encoder.layers", &CLIP_NAMES)?,
            last_norm: file.layer_norm("vision_model.post_layernorm", channels, epsilon)?,
            pool: AttentionPool::read(&file, &config)?,
        })
    }
}

impl AttentionPool {
    fn read(file: &WeightsFile, config: &VitConfig) -> Result<AttentionPool, String> {
        let VitConfig { channels, wide, heads, epsilon, .. } = *config;
        let name = |part: &str| format!("vision_model.head.{part}");
        let probe = file.take(&name("probe"), &[1, 1, channels])?;
        let mut weight = file.take(&name("attention.in_proj_weight"), &[3 * channels, channels])?;
        let mut bias = file.take(&name("attention.in_proj_bias"), &[3 * channels])?;
        let kv = pointwise(weight.split_off(channels * channels), bias.split_off(channels))?;
        let probe = Tensor::from_vec(probe, (1, channels), &Device::Cpu);
        let query = probe.and_then(|probe| Pointwise::new(weight, bias)?.apply(&probe, Activation::None));
        let query = query.and_then(|query| query.reshape((1, heads, 1, channels / heads)));
        Ok(AttentionPool {
            heads,
            query: query.map_err(|e| e.to_string())?,
            kv,
            projection: file.linear(&name("attention.out_proj"), channels, channels)?,
            norm: file.layer_norm(&name("layernorm"), channels, epsilon)?,
            wide: file.linear(&name("mlp.fc1"), wide, channels)?,
            narrow: file.linear(&name("mlp.fc2"), channels, wide)?,
        })
    }

    /// (pictures · tokens, channels) to (pictures, channels).
    fn apply(&self, tokens: &Tensor, pictures: usize) -> candle_core::Result<Tensor> {
        let [k, v] = split_heads(&self.kv.apply(tokens, Activation::None)?, pictures, self.heads)?;
        let (_, heads, one, length) = self.query.dims4()?;
        let query = self.query.expand((pictures, heads, one, length))?.contiguous()?;
        let y = self.projection.apply(&attention(&query, &k, &v)?, Activation::None)?;
        let wide = self.wide.apply(&self.norm.forward(&y)?, Activation::GeluTanh)?;
        add(&y, &self.narrow.apply(&wide, Activation::None)?)?;
        Ok(y)
    }
}

impl Backbone for SiglipNetwork {
    fn forward(&self, pictures: &PixelBatch) -> Result<Vec<Vec<f32>>, Error> {
        pictures.map_chunks(AT_ONCE, |pixels, count| {
            let tokens = self.last_norm.forward(&self.vision.tokens(pixels, count)?)?;
            Ok(self.pool.apply(&tokens, count)?.to_vec2()?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, Case};
    use super::*;

    const TINY: VitConfig = VitConfig { layers: 2, channels: 32, wide: 64, heads: 4, grid: 3, ..BASE };

    #[test]
    fn features_equal_those_of_transformers() {
        let case = Case::of("siglip");
        let (_folder, path) = case.file();
        case.check(&SiglipNetwork::read(&path, TINY).unwrap().forward(&case.pictures()).unwrap());
    }

    #[test]
    fn reads_the_published_file_and_names_a_missing_tensor() {
        let (_folder, path) = reference::published("siglip");
        assert!(SiglipNetwork::read(&path, BASE).is_ok());
        let missing = "vision_model.head.attention.in_proj_bias";
        let (_folder, path) = Case::of("siglip").file_without(missing);
        assert_eq!(SiglipNetwork::read(&path, TINY).err().unwrap(), format!("no tensor `{missing}`"));
    }
}
