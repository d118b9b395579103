//! The part of SigLIP base (Zhai et al., ICCV 2023) that sees pictures: the last layer's tokens, pooled by attention of a learned probe, 768 numbers.

use std::path::Path;

use candle_core::{Module, Tensor};
use candle_transformers::models::siglip::{Config, VisionConfig, VisionModel};

use super::pooled::{Backbone, Normalise, each};
use super::weights;

/// Length of the features.
pub(in crate::encode) const LENGTH: usize = 768;

/// `image_mean` and `image_std` of `preprocessor_config.json` in google/siglip-base-patch16-224.
pub(in crate::encode) const NORMALISE: Normalise = Normalise { mean: [0.5; 3], deviation: [0.5; 3] };

/// The network.
pub(in crate::encode) struct Siglip(VisionModel);

impl Siglip {
    /// Reads `model.safetensors` of google/siglip-base-patch16-224.
    pub(in crate::encode) fn open(path: &Path) -> Result<Siglip, String> {
        Siglip::read(path, &Config::base_patch16_224().vision_config)
    }

    fn read(path: &Path, config: &VisionConfig) -> Result<Siglip, String> {
        let weights = weights::open(path)?;
        VisionModel::new(config, true, weights.pp("vision_model")).map(Siglip).map_err(|e| e.to_string())
    }
}

impl Backbone for Siglip {
    fn forward(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        each(pictures, |picture| self.0.forward(picture))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::models::reference::{self, Case};

    fn small() -> VisionConfig {
        VisionConfig {
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            image_size: 48,
            ..Config::base_patch16_224().vision_config
        }
    }

    #[test]
    fn features_are_those_of_transformers() {
        let case = Case::of("siglip");
        let (_folder, path) = case.file();
        case.check(&Siglip::read(&path, &small()).unwrap().forward(&case.input()).unwrap());
    }

    #[test]
    fn the_published_file_is_read_and_what_lacks_is_named() {
        let (_folder, path) = reference::published("siglip");
        assert!(Siglip::open(&path).is_ok());
        let lacking = "vision_model.head.attention.in_proj_bias";
        let (_folder, path) = Case::of("siglip").file_without(lacking);
        let error = Siglip::read(&path, &small()).err().unwrap();
        assert!(error.starts_with(&format!("it has no tensor `{lacking}`")), "{error}");
    }
}
