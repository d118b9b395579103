//! The part of CLIP ViT-B/32 (Radford et al., ICML 2021) that sees pictures: the class token after the last layer, projected to the 512 numbers shared with texts.

use std::path::Path;

use candle_core::{Module, Tensor};
use candle_nn::Linear;
use candle_transformers::models::clip::vision_model::{ClipVisionConfig, ClipVisionTransformer};

use super::pooled::{Backbone, Normalise, each};
use super::weights;

/// Length of the features.
pub(in crate::encode) const LENGTH: usize = 512;

/// `image_mean` and `image_std` of `preprocessor_config.json` in openai/clip-vit-base-patch32.
pub(in crate::encode) const NORMALISE: Normalise =
    Normalise { mean: [0.481_454_66, 0.457_827_5, 0.408_210_73], deviation: [0.268_629_54, 0.261_302_6, 0.275_777_1] };

/// The network.
pub(in crate::encode) struct Clip {
    vision: ClipVisionTransformer,
    projection: Linear,
}

impl Clip {
    /// Reads `model.safetensors` of openai/clip-vit-base-patch32.
    pub(in crate::encode) fn open(path: &Path) -> Result<Clip, String> {
        Clip::read(path, &ClipVisionConfig::vit_base_patch32())
    }

    fn read(path: &Path, config: &ClipVisionConfig) -> Result<Clip, String> {
        let weights = weights::open(path)?;
        let made = || -> candle_core::Result<Clip> {
            // candle takes a random one if this is missing.
            weights.get(config.embed_dim, "vision_model.embeddings.class_embedding")?;
            let (inputs, outputs) = (config.embed_dim, config.projection_dim);
            Ok(Clip {
                vision: ClipVisionTransformer::new(weights.pp("vision_model"), config)?,
                projection: candle_nn::linear_no_bias(inputs, outputs, weights.pp("visual_projection"))?,
            })
        };
        made().map_err(|e| e.to_string())
    }
}

impl Backbone for Clip {
    fn forward(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        each(pictures, |picture| self.projection.forward(&self.vision.forward(picture)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::models::reference::{self, Case};

    fn small() -> ClipVisionConfig {
        ClipVisionConfig {
            embed_dim: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            projection_dim: 24,
            image_size: 96,
            ..ClipVisionConfig::vit_base_patch32()
        }
    }

    #[test]
    fn features_are_those_of_transformers() {
        let case = Case::of("clip");
        let (_folder, path) = case.file();
        case.check(&Clip::read(&path, &small()).unwrap().forward(&case.input()).unwrap());
    }

    #[test]
    fn the_published_file_is_read_and_what_lacks_is_named() {
        let (_folder, path) = reference::published("clip");
        assert!(Clip::open(&path).is_ok());
        for lacking in ["vision_model.embeddings.class_embedding", "vision_model.encoder.layers.1.mlp.fc2.bias"] {
            let (_folder, path) = Case::of("clip").file_without(lacking);
            let error = Clip::read(&path, &small()).err().unwrap();
            assert!(error.starts_with(&format!("it has no tensor `{lacking}`")), "{error}");
        }
    }
}
