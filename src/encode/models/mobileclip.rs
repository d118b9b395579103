//! The image tower of MobileCLIP-S1 (Vasu et al., CVPR 2024): FastViT MCi1 (Vasu et al., ICCV 2023), which
//! gives the 512 numbers that images share with texts.
//!
//! The published file holds the branches used in training; reading folds them. With batch normalisation `y =
//! s x + t` folded into the convolution before it, a block is one kernel: `K x K + (1x1, padded) + (identity,
//! s at the middle)`. A mixer `x + γ (mixer(x) - norm(x))` is one kernel too. The γ of an MLP is folded into
//! its second matrix, and the γ of attention into its projection. Depthwise convolutions are ours, because
//! candle computes them channel by channel: 1.6 s instead of 0.05 s a picture on two cores.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use super::attention::self_attention;
use super::conv::{Activation, Depthwise, Pointwise, add, doubled, patches, scale};
use super::pooled::{Backbone, Normalisation, PixelBatch, PooledEncoder};
use super::weights::{ChannelMap, WeightsFile, pointwise, scale_outputs};
use crate::encode::registry::{EncoderEntry, image_sampling};
use crate::encode::{Encoder, Error};
use crate::media::{Filter, Fit};

/// Length of the features.
const LENGTH: usize = 512;

/// `mean` and `std` of `open_clip_config.json` in apple/MobileCLIP-S1-OpenCLIP: pixels of 0 to 1, unchanged.
const NORMALISATION: Normalisation = Normalisation { mean: [0.0; 3], deviation: [1.0; 3] };

/// Channels between the two linear layers of an MLP, for each of its inputs.
const EXPANSION: usize = 3;
/// Channels of an attention head.
const HEAD_CHANNELS: usize = 32;
const EPSILON: f32 = 1e-5;

struct FastVitConfig {
    /// Channels of the four stages, and blocks in each; the last stage mixes by attention.
    channels: [usize; 4],
    blocks: [usize; 4],
    length: usize,
}

const S1: FastVitConfig = FastVitConfig { channels: [64, 128, 256, 512], blocks: [4, 12, 20, 4], length: LENGTH };

/// `W₂ gelu(W₁ depthwise(x))`.
struct Mlp {
    depthwise: Depthwise,
    wide: Pointwise,
    narrow: Pointwise,
}

enum Mixer {
    Kernel(Depthwise),
    Attention { qkv: Pointwise, projection: Pointwise },
}

/// Squeeze and excitation, `x σ(W₂ relu(W₁ mean(x)))`: a factor for each channel (Hu et al., CVPR 2018).
struct Squeeze {
    narrow: Pointwise,
    wide: Pointwise,
}

/// Halves the side and doubles the channels.
struct Downsample {
    depthwise: Depthwise,
    squeeze: Option<Squeeze>,
    pointwise: Pointwise,
}

/// Mixes positions, then channels.
struct MixerBlock {
    mixer: Mixer,
    mlp: Mlp,
}

struct FastVitStage {
    down: Option<Downsample>,
    /// The position encoding `x + depthwise(x)`.
    positions: Option<Depthwise>,
    blocks: Vec<MixerBlock>,
    channels: usize,
}

struct MobileClipNetwork {
    stem_patches: Pointwise,
    stem_depthwise: Depthwise,
    stem_pointwise: Pointwise,
    stages: Vec<FastVitStage>,
    last_depthwise: Depthwise,
    last_squeeze: Squeeze,
    head: Pointwise,
}

/// Opens the encoder from `open_clip_model.safetensors` of apple/MobileCLIP-S1-OpenCLIP.
pub(in crate::encode) fn build(entry: &EncoderEntry, path: &Path, id: String) -> Result<Arc<dyn Encoder>, String> {
    let network = MobileClipNetwork::read(path, &S1)?;
    let sampling = image_sampling(256, Fit::Cover { shorter: 256, filter: Filter::Bilinear });
    Ok(Arc::new(PooledEncoder::new(entry.name, id, LENGTH, sampling, NORMALISATION, Box::new(network))))
}

/// A kernel (outputs, inputs, side, side), row after row, and its bias.
struct Kernel {
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
    side: usize,
}

impl Kernel {
    /// Adds another kernel, of a side that is not larger, around the middle.
    fn plus(mut self, other: &Kernel) -> Kernel {
        let margin = (self.side - other.side) / 2;
        let taps = other.side * other.side;
        for (i, w) in other.weight.iter().enumerate() {
            let (plane, y, x) = (i / taps, i % taps / other.side, i % other.side);
            self.weight[(plane * self.side + y + margin) * self.side + x + margin] += w;
        }
        self.bias.iter_mut().zip(&other.bias).for_each(|(a, b)| *a += b);
        self
    }

    /// Adds a map of each channel.
    fn plus_map(self, map: &ChannelMap) -> Kernel {
        let mut sum = self.plus_identity(&map.scale);
        sum.bias.iter_mut().zip(&map.shift).for_each(|(a, b)| *a += b);
        sum
    }

    /// Adds each input times its factor to the output of the same channel.
    fn plus_identity(mut self, factors: &[f32]) -> Kernel {
        let taps = self.side * self.side;
        for (output, factor) in factors.iter().enumerate() {
            self.weight[(output * self.inputs + output % self.inputs) * taps + taps / 2] += factor;
        }
        self
    }

    /// Scales each output.
    fn times(mut self, factors: &[f32]) -> Kernel {
        scale_outputs(&mut self.weight, factors);
        self.bias.iter_mut().zip(factors).for_each(|(b, factor)| *b *= factor);
        self
    }

    fn depthwise(self) -> Result<Depthwise, String> {
        Depthwise::new(self.weight, self.bias).map_err(|e| e.to_string())
    }

    fn pointwise(self) -> Result<Pointwise, String> {
        pointwise(self.weight, self.bias)
    }
}

/// Reads and folds the tensors of a published file.
struct FoldingReader(WeightsFile);

impl FoldingReader {
    fn take(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        self.0.take(&format!("visual.trunk.{name}"), shape)
    }

    fn norm(&self, name: &str, channels: usize) -> Result<ChannelMap, String> {
        self.0.batch_norm(&format!("visual.trunk.{name}"), channels, EPSILON)
    }

    /// A convolution and the batch normalisation after it.
    fn conv(&self, name: &str, outputs: usize, inputs: usize, side: usize) -> Result<Kernel, String> {
        let weight = self.take(&format!("{name}.conv.weight"), &[outputs, inputs, side, side])?;
        let ChannelMap { scale, shift } = self.norm(&format!("{name}.bn"), outputs)?;
        let kernel = Kernel { weight, bias: vec![0.0; outputs], inputs, side }.times(&scale);
        Ok(Kernel { bias: shift, ..kernel })
    }

    /// A convolution with a bias.
    fn plain(&self, name: &str, outputs: usize, inputs: usize, side: usize) -> Result<Kernel, String> {
        let weight = self.take(&format!("{name}.weight"), &[outputs, inputs, side, side])?;
        Ok(Kernel { weight, bias: self.take(&format!("{name}.bias"), &[outputs])?, inputs, side })
    }

    /// The branches of a block: K x K, 1x1 if K is more, and the identity if the block keeps size and
    /// channels.
    fn block(&self, name: &str, outputs: usize, inputs: usize, side: usize, identity: bool) -> Result<Kernel, String> {
        let mut kernel = self.conv(&format!("{name}.conv_kxk.0"), outputs, inputs, side)?;
        if side > 1 {
            kernel = kernel.plus(&self.conv(&format!("{name}.conv_scale"), outputs, inputs, 1)?);
        }
        if identity {
            kernel = kernel.plus_map(&self.norm(&format!("{name}.identity"), outputs)?);
        }
        Ok(kernel)
    }

    fn squeeze(&self, name: &str, channels: usize, narrow: usize) -> Result<Squeeze, String> {
        Ok(Squeeze {
            narrow: self.plain(&format!("{name}.fc1"), narrow, channels, 1)?.pointwise()?,
            wide: self.plain(&format!("{name}.fc2"), channels, narrow, 1)?.pointwise()?,
        })
    }

    fn mlp(&self, name: &str, scale: &str, channels: usize) -> Result<Mlp, String> {
        let wide = EXPANSION * channels;
        let gamma = self.take(&format!("{scale}.gamma"), &[channels, 1, 1])?;
        Ok(Mlp {
            depthwise: self.conv(&format!("{name}.conv"), channels, 1, 7)?.depthwise()?,
            wide: self.plain(&format!("{name}.fc1"), wide, channels, 1)?.pointwise()?,
            narrow: self.plain(&format!("{name}.fc2"), channels, wide, 1)?.times(&gamma).pointwise()?,
        })
    }

    fn kernel_block(&self, name: &str, channels: usize) -> Result<MixerBlock, String> {
        let mixer = format!("{name}.token_mixer");
        let gamma = self.take(&format!("{mixer}.layer_scale.gamma"), &[channels, 1, 1])?;
        let mut norm = self.norm(&format!("{mixer}.norm.identity"), channels)?;
        norm.scale.iter_mut().chain(&mut norm.shift).for_each(|x| *x = -*x);
        let kernel = self
            .block(&format!("{mixer}.mixer"), channels, 1, 3, true)?
            .plus_map(&norm)
            .times(&gamma)
            .plus_identity(&vec![1.0; channels]);
        let mlp = self.mlp(&format!("{name}.mlp"), &format!("{name}.layer_scale"), channels)?;
        Ok(MixerBlock { mixer: Mixer::Kernel(kernel.depthwise()?), mlp })
    }

    fn attention_block(&self, name: &str, channels: usize) -> Result<MixerBlock, String> {
        let norm = self.norm(&format!("{name}.norm"), channels)?;
        let mut weight = self.take(&format!("{name}.token_mixer.qkv.weight"), &[3 * channels, channels])?;
        let mut bias = Vec::with_capacity(3 * channels);
        for row in weight.chunks_exact_mut(channels) {
            bias.push(row.iter().zip(&norm.shift).map(|(w, t)| w * t).sum());
            row.iter_mut().zip(&norm.scale).for_each(|(w, s)| *w *= s);
        }
        let projection = format!("{name}.token_mixer.proj");
        let gamma = self.take(&format!("{name}.layer_scale_1.gamma"), &[channels, 1, 1])?;
        let projection = Kernel {
            weight: self.take(&format!("{projection}.weight"), &[channels, channels])?,
            bias: self.take(&format!("{projection}.bias"), &[channels])?,
            inputs: channels,
            side: 1,
        };
        let qkv = Kernel { weight, bias, inputs: channels, side: 1 }.pointwise()?;
        let mlp = self.mlp(&format!("{name}.mlp"), &format!("{name}.layer_scale_2"), channels)?;
        let mixer = Mixer::Attention { qkv, projection: projection.times(&gamma).pointwise()? };
        Ok(MixerBlock { mixer, mlp })
    }

    fn stage(&self, config: &FastVitConfig, i: usize) -> Result<FastVitStage, String> {
        let (name, channels) = (format!("stages.{i}"), config.channels[i]);
        let down = || -> Result<Downsample, String> {
            let first = format!("{name}.downsample.proj.0");
            let kernel = self.conv(&format!("{first}.large_conv"), channels, 1, 7)?;
            let kernel = kernel.plus(&self.conv(&format!("{first}.small_conv"), channels, 1, 3)?);
            let squeeze = (i >= 2).then(|| self.squeeze(&format!("{first}.se"), channels, channels / 4));
            let second = self.block(&format!("{name}.downsample.proj.1"), channels, channels, 1, true)?;
            Ok(Downsample {
                depthwise: kernel.depthwise()?,
                squeeze: squeeze.transpose()?,
                pointwise: second.pointwise()?,
            })
        };
        let positions = || {
            let kernel = self.plain(&format!("{name}.pos_emb.pos_enc"), channels, 1, 7)?;
            kernel.plus_identity(&vec![1.0; channels]).depthwise()
        };
        let block = |k: usize| {
            let name = format!("{name}.blocks.{k}");
            if i == 3 { self.attention_block(&name, channels) } else { self.kernel_block(&name, channels) }
        };
        Ok(FastVitStage {
            down: (i > 0).then(down).transpose()?,
            positions: (i == 3).then(positions).transpose()?,
            blocks: (0..config.blocks[i]).map(block).collect::<Result<_, _>>()?,
            channels,
        })
    }
}

impl Squeeze {
    fn apply(&self, x: &Tensor, activation: Activation) -> candle_core::Result<()> {
        let narrow = self.narrow.apply(&x.mean_keepdim(0)?, Activation::Relu)?;
        let factors = candle_nn::ops::sigmoid(&self.wide.apply(&narrow, Activation::None)?)?;
        scale(x, &factors.flatten_all()?, activation)
    }
}

impl FastVitStage {
    fn apply(&self, mut x: Tensor, side: &mut usize) -> candle_core::Result<Tensor> {
        if let Some(Downsample { depthwise, squeeze, pointwise }) = &self.down {
            let after = if squeeze.is_some() { Activation::None } else { Activation::Gelu };
            x = depthwise.apply(&doubled(&x)?, *side, 2, 3, after)?;
            *side = side.div_ceil(2);
            squeeze.as_ref().map_or(Ok(()), |squeeze| squeeze.apply(&x, Activation::Gelu))?;
            x = pointwise.apply(&x, Activation::Gelu)?;
        }
        if let Some(positions) = &self.positions {
            x = positions.apply(&x, *side, 1, 3, Activation::None)?;
        }
        for MixerBlock { mixer, mlp } in &self.blocks {
            match mixer {
                Mixer::Kernel(kernel) => x = kernel.apply(&x, *side, 1, 1, Activation::None)?,
                Mixer::Attention { qkv, projection } => {
                    let mixed = self_attention(&qkv.apply(&x, Activation::None)?, 1, self.channels / HEAD_CHANNELS)?;
                    add(&x, &projection.apply(&mixed, Activation::None)?)?;
                }
            }
            let wide = mlp.wide.apply(&mlp.depthwise.apply(&x, *side, 1, 3, Activation::None)?, Activation::Gelu)?;
            add(&x, &mlp.narrow.apply(&wide, Activation::None)?)?;
        }
        Ok(x)
    }
}

impl MobileClipNetwork {
    fn read(path: &Path, config: &FastVitConfig) -> Result<MobileClipNetwork, String> {
        let reader = FoldingReader(WeightsFile::open(path)?);
        let (first, last) = (config.channels[0], 2 * config.channels[3]);
        let head = Kernel {
            weight: reader.take("head.fc.weight", &[config.length, last])?,
            bias: reader.take("head.fc.bias", &[config.length])?,
            inputs: last,
            side: 1,
        };
        Ok(MobileClipNetwork {
            stem_patches: reader.block("stem.0", first, 3, 3, false)?.pointwise()?,
            stem_depthwise: reader.block("stem.1", first, 1, 3, false)?.depthwise()?,
            stem_pointwise: reader.block("stem.2", first, first, 1, true)?.pointwise()?,
            stages: (0..4).map(|i| reader.stage(config, i)).collect::<Result<_, _>>()?,
            last_depthwise: reader.block("final_conv", last, 1, 3, false)?.depthwise()?,
            last_squeeze: reader.squeeze("final_conv.se", last, last / 16)?,
            head: head.pointwise()?,
        })
    }

    /// One picture, (3, side, side) row after row.
    fn one(&self, picture: &[f32], side: usize) -> candle_core::Result<Tensor> {
        let mut x = self.stem_patches.apply(&patches(picture, side, 1)?, Activation::Gelu)?;
        let mut side = side.div_ceil(2);
        x = self.stem_depthwise.apply(&x, side, 2, 1, Activation::Gelu)?;
        side = side.div_ceil(2);
        x = self.stem_pointwise.apply(&x, Activation::Gelu)?;
        for stage in &self.stages {
            x = stage.apply(x, &mut side)?;
        }
        x = self.last_depthwise.apply(&doubled(&x)?, side, 1, 1, Activation::None)?;
        self.last_squeeze.apply(&x, Activation::Gelu)?;
        self.head.apply(&x.mean_keepdim(0)?, Activation::None)
    }
}

impl Backbone for MobileClipNetwork {
    fn forward(&self, pictures: &PixelBatch) -> Result<Vec<Vec<f32>>, Error> {
        pictures.map_chunks(1, |picture, _| Ok(self.one(picture, pictures.width)?.to_vec2()?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, Case};
    use super::*;

    const TINY: FastVitConfig = FastVitConfig { channels: [32, 64, 128, 256], blocks: [1, 2, 1, 1], length: 24 };

    #[test]
    fn features_equal_those_of_timm() {
        let case = Case::of("mobileclip");
        let (_folder, path) = case.file();
        case.check(&MobileClipNetwork::read(&path, &TINY).unwrap().forward(&case.pictures()).unwrap());
    }

    #[test]
    fn reads_the_published_file_and_names_a_missing_tensor() {
        let (_folder, path) = reference::published("mobileclip");
        assert!(MobileClipNetwork::read(&path, &S1).is_ok());
        let missing = "visual.trunk.stages.1.blocks.1.token_mixer.mixer.conv_scale.bn.bias";
        let (_folder, path) = Case::of("mobileclip").file_without(missing);
        assert_eq!(MobileClipNetwork::read(&path, &TINY).err().unwrap(), format!("no tensor `{missing}`"));
    }
}
