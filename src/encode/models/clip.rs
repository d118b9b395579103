//! The image tower of CLIP ViT-B/32 (Radford et al., ICML 2021): the class token after the last layer,
//! projected to the 512 numbers that images share with texts.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Module, Tensor};
use candle_nn::{LayerNorm, Linear};

use super::conv::Activation;
use super::pooled::{Backbone, Normalisation, PixelBatch, PooledEncoder};
use super::vit::{CLIP_NAMES, Embeddings, VisionTransformer, VitConfig};
use super::weights::WeightsFile;
use crate::encode::registry::{EncoderEntry, image_sampling};
use crate::encode::{Encoder, Error};
use crate::media::{Filter, Fit};

/// Length of the features.
const LENGTH: usize = 512;

/// `image_mean` and `image_std` of `preprocessor_config.json` in openai/clip-vit-base-patch32.
const NORMALISATION: Normalisation = Normalisation {
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    deviation: [0.268_629_54, 0.261_302_6, 0.275_777_1],
};

const VIT_B_32: VitConfig = VitConfig {
    layers: 12,
    channels: 768,
    wide: 3072,
    heads: 12,
    patch: 32,
    grid: 7,
    epsilon: 1e-5,
    activation: Activation::QuickGelu,
};

/// Pictures per matrix product: with one, the 50 tokens of a picture make small matrices and half the speed.
const AT_ONCE: usize = 8;

struct ClipNetwork {
    vision: VisionTransformer,
    last_norm: LayerNorm,
    projection: Linear,
}

/// Opens the encoder from `model.safetensors` of openai/clip-vit-base-patch32.
pub(in crate::encode) fn build(entry: &EncoderEntry, path: &Path, id: String) -> Result<Arc<dyn Encoder>, String> {
    let network = ClipNetwork::read(path, VIT_B_32, LENGTH)?;
    let sampling = image_sampling(224, Fit::Cover { shorter: 224, filter: Filter::Bicubic });
    Ok(Arc::new(PooledEncoder::new(entry.name, id, LENGTH, sampling, NORMALISATION, Box::new(network))))
}

impl ClipNetwork {
    fn read(path: &Path, config: VitConfig, length: usize) -> Result<ClipNetwork, String> {
        let file = WeightsFile::open(path)?;
        let VitConfig { channels, patch, grid, epsilon, .. } = config;
        let embeddings = Embeddings {
            kernel: file.take("vision_model.embeddings.patch_embedding.weight", &[channels, 3, patch, patch])?,
            bias: vec![0.0; channels],
            class: Some(file.take("vision_model.embeddings.class_embedding", &[channels])?),
            positions: file.take("vision_model.embeddings.position_embedding.weight", &[1 + grid * grid, channels])?,
        };
        let mut vision =
            VisionTransformer::read(&file, config, embeddings, "vision_model.encoder.layers", &CLIP_NAMES)?;
        // The published name has this typing error.
        vision.first_norm = Some(file.layer_norm("vision_model.pre_layrnorm", channels, epsilon)?);
        let last_norm = file.layer_norm("vision_model.post_layernorm", channels, epsilon)?;
        let projection = file.take("visual_projection.weight", &[length, channels])?;
        let projection = Tensor::from_vec(projection, (length, channels), &candle_core::Device::Cpu);
        Ok(ClipNetwork { vision, last_norm, projection: Linear::new(projection.map_err(|e| e.to_string())?, None) })
    }
}

impl Backbone for ClipNetwork {
    fn forward(&self, pictures: &PixelBatch) -> Result<Vec<Vec<f32>>, Error> {
        pictures.map_chunks(AT_ONCE, |pixels, count| {
            let class = self.last_norm.forward(&self.vision.class_tokens(pixels, count)?)?;
            Ok(self.projection.forward(&class)?.to_vec2()?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, Case};
    use super::*;

    const TINY: VitConfig = VitConfig { layers: 2, channels: 32, wide: 64, heads: 4, grid: 3, ..VIT_B_32 };

    #[test]
    fn features_equal_those_of_transformers() {
        let case = Case::of("clip");
        let (_folder, path) = case.file();
        case.check(&ClipNetwork::read(&path, TINY, 24).unwrap().forward(&case.pictures()).unwrap());
    }

    #[test]
    fn reads_the_published_file_and_names_a_missing_tensor() {
        let (_folder, path) = reference::published("clip");
        assert!(ClipNetwork::read(&path, VIT_B_32, LENGTH).is_ok());
        for missing in ["vision_model.embeddings.class_embedding", "vision_model.encoder.layers.1.mlp.fc2.bias"] {
            let (_folder, path) = Case::of("clip").file_without(missing);
            assert_eq!(ClipNetwork::read(&path, TINY, 24).err().unwrap(), format!("no tensor `{missing}`"));
        }
    }
}
