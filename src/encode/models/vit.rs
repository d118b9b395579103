//! The vision transformer (Dosovitskiy et al., ICLR 2021) that CLIP, SigLIP and DINOv2 share:
//!
//! * tokens: a linear map of each patch, after a class token where the network has one, plus a learned
//!   position each;
//! * layers: `x += γ₁ attention(norm(x))`, then `x += γ₂ mlp(norm(x))`, where the γ are folded into the
//!   linear layers.
//!
//! Activations are (pictures · tokens, channels), so that each linear layer is one matrix product for all
//! pictures.

use candle_core::{Device, Module, Tensor};
use candle_nn::LayerNorm;

use super::attention::self_attention;
use super::conv::{Activation, Pointwise, add};
use super::weights::{WeightsFile, pointwise, scale_outputs};

/// Sizes of a network.
#[derive(Debug, Clone, Copy)]
pub(super) struct VitConfig {
    pub(super) layers: usize,
    pub(super) channels: usize,
    /// Channels between the two linear layers of an MLP.
    pub(super) wide: usize,
    pub(super) heads: usize,
    /// Pixels along a side of a patch.
    pub(super) patch: usize,
    /// Patches along a side of a picture.
    pub(super) grid: usize,
    /// The ε of all layer normalisations.
    pub(super) epsilon: f64,
    /// Activation between the two linear layers of an MLP.
    pub(super) activation: Activation,
}

/// Names of a layer's tensors, after its prefix.
pub(super) struct LayerNames {
    pub(super) norms: [&'static str; 2],
    /// Query, key and value.
    pub(super) qkv: [&'static str; 3],
    pub(super) projection: &'static str,
    /// γ₁ and γ₂, where the network has them.
    pub(super) scales: Option<[&'static str; 2]>,
}

/// The names that transformers gives the layers of CLIP and SigLIP.
pub(super) const CLIP_NAMES: LayerNames = LayerNames {
    norms: ["layer_norm1", "layer_norm2"],
    qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    projection: "self_attn.out_proj",
    scales: None,
};

struct VitLayer {
    norms: [LayerNorm; 2],
    qkv: Pointwise,
    projection: Pointwise,
    wide: Pointwise,
    narrow: Pointwise,
}

/// The values of the parameters before the first layer.
pub(super) struct Embeddings {
    /// (channels, 3, patch, patch).
    pub(super) kernel: Vec<f32>,
    /// (channels).
    pub(super) bias: Vec<f32>,
    /// The class token (channels), if the network has one.
    pub(super) class: Option<Vec<f32>>,
    /// (tokens, channels), the class token's first.
    pub(super) positions: Vec<f32>,
}

/// The network up to its last layer.
pub(super) struct VisionTransformer {
    config: VitConfig,
    patches: Pointwise,
    class: Option<Tensor>,
    positions: Tensor,
    /// Normalisation before the first layer: CLIP has one.
    pub(super) first_norm: Option<LayerNorm>,
    layers: Vec<VitLayer>,
}

impl VisionTransformer {
    /// Reads the layers `PREFIX.0`, `PREFIX.1` and so on.
    pub(super) fn read(
        file: &WeightsFile,
        config: VitConfig,
        embeddings: Embeddings,
        prefix: &str,
        names: &LayerNames,
    ) -> Result<VisionTransformer, String> {
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, ((), config.channels), &Device::Cpu);
        let layer = |i: usize| VitLayer::read(file, &config, &format!("{prefix}.{i}"), names);
        Ok(VisionTransformer {
            config,
            patches: pointwise(embeddings.kernel, embeddings.bias)?,
            class: embeddings.class.map(tensor).transpose().map_err(|e| e.to_string())?,
            positions: tensor(embeddings.positions).map_err(|e| e.to_string())?,
            first_norm: None,
            layers: (0..config.layers).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// Pictures (pictures, 3, side, side) to tokens after the last layer, (pictures · tokens, channels).
    pub(super) fn tokens(&self, pixels: &[f32], pictures: usize) -> candle_core::Result<Tensor> {
        let VitConfig { channels, patch, grid, heads, activation, .. } = self.config;
        let pixels = Tensor::from_slice(pixels, (pictures, 3, grid, patch, grid, patch), &Device::Cpu)?;
        let patches = pixels.permute((0, 2, 4, 1, 3, 5))?.reshape((pictures * grid * grid, 3 * patch * patch))?;
        let mut x = self.patches.apply(&patches, Activation::None)?;
        if let Some(class) = &self.class {
            let class = class.unsqueeze(0)?.expand((pictures, 1, channels))?;
            x = Tensor::cat(&[&class, &x.reshape((pictures, grid * grid, channels))?], 1)?;
        }
        add(&x, &self.positions)?;
        x = x.reshape(((), channels))?;
        if let Some(norm) = &self.first_norm {
            x = norm.forward(&x)?;
        }
        for layer in &self.layers {
            let qkv = layer.qkv.apply(&layer.norms[0].forward(&x)?, Activation::None)?;
            add(&x, &layer.projection.apply(&self_attention(&qkv, pictures, heads)?, Activation::None)?)?;
            let wide = layer.wide.apply(&layer.norms[1].forward(&x)?, activation)?;
            add(&x, &layer.narrow.apply(&wide, Activation::None)?)?;
        }
        Ok(x)
    }

    /// The first token of each picture, which is the class token: (pictures, channels).
    pub(super) fn class_tokens(&self, pixels: &[f32], pictures: usize) -> candle_core::Result<Tensor> {
        let tokens = self.tokens(pixels, pictures)?.reshape((pictures, (), self.config.channels))?;
        tokens.narrow(1, 0, 1)?.squeeze(1)?.contiguous()
    }
}

impl VitLayer {
    fn read(file: &WeightsFile, config: &VitConfig, prefix: &str, names: &LayerNames) -> Result<VitLayer, String> {
        let VitConfig { channels, wide, epsilon, .. } = *config;
        let norm = |name: &str| file.layer_norm(&format!("{prefix}.{name}"), channels, epsilon);
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names.qkv {
            weight.extend(file.take(&format!("{prefix}.{name}.weight"), &[channels, channels])?);
            bias.extend(file.take(&format!("{prefix}.{name}.bias"), &[channels])?);
        }
        // A linear layer with its outputs scaled by γ.
        let scaled = |name: &str, inputs: usize, scale: Option<&str>| {
            let mut weight = file.take(&format!("{prefix}.{name}.weight"), &[channels, inputs])?;
            let mut bias = file.take(&format!("{prefix}.{name}.bias"), &[channels])?;
            if let Some(scale) = scale {
                let factors = file.take(&format!("{prefix}.{scale}"), &[channels])?;
                scale_outputs(&mut weight, &factors);
                scale_outputs(&mut bias, &factors);
            }
            pointwise(weight, bias)
        };
        Ok(VitLayer {
            norms: [norm(names.norms[0])?, norm(names.norms[1])?],
            qkv: pointwise(weight, bias)?,
            projection: scaled(names.projection, channels, names.scales.map(|scales| scales[0]))?,
            wide: file.linear(&format!("{prefix}.mlp.fc1"), wide, channels)?,
            narrow: scaled("mlp.fc2", wide, names.scales.map(|scales| scales[1]))?,
        })
    }
}
