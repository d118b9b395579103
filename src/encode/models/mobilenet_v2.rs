//! MobileNetV2 1.0 224 (Sandler et al., CVPR 2018) up to its 1280-value descriptor: the mean of the last
//! activations over the 7x7 positions.
//!
//! Two layouts of weights are read. One has batch normalisation folded into weights and biases (`stem`,
//! `block0` to `block16`, `head`), as converted from google-coral's `mobilenet_v2_1.0_224_quant.tflite`. The
//! other is Hugging Face's `google/mobilenet_v2_1.0_224`, which is folded on reading: `w' = w γ / √(σ² +
//! 0.001)`, `b' = β - μ γ / √(σ² + 0.001)`. Padding is TensorFlow's SAME: a 3x3 kernel of stride 2 on an even
//! side pads nothing before and one row after.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use super::conv::{Activation, Depthwise, Pointwise, add, patches};
use super::pooled::{Backbone, Normalisation, PixelBatch, PooledEncoder};
use super::weights::{WeightsFile, pointwise, scale_outputs};
use crate::encode::registry::{EncoderEntry, image_sampling};
use crate::encode::{Encoder, Error};
use crate::media::{Filter, Fit};

/// Output channels and stride of each block.
const BLOCKS: [(usize, usize); 17] = [
    (16, 1),
    (24, 2),
    (24, 1),
    (32, 2),
    (32, 1),
    (32, 1),
    (64, 2),
    (64, 1),
    (64, 1),
    (64, 1),
    (96, 1),
    (96, 1),
    (96, 1),
    (160, 2),
    (160, 1),
    (160, 1),
    (320, 1),
];
const STEM: usize = 32;
const EXPANSION: usize = 6;
/// Length of the descriptor.
const LENGTH: usize = 1280;
/// Sides in pixels of the picture and of the network's input.
const PICTURE_SIDE: u32 = 320;
const INPUT_SIDE: u32 = 224;

struct InvertedResidual {
    expand: Option<Pointwise>,
    depthwise: Depthwise,
    project: Pointwise,
    stride: usize,
}

struct MobileNetV2 {
    stem: Pointwise,
    blocks: Vec<InvertedResidual>,
    head: Pointwise,
}

/// A convolution's weight, (outputs, inputs, height, width) row after row, and its bias.
struct ConvWeights {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Opens the encoder from either layout of weights.
///
/// The reference keeps the shape of a picture and cuts the middle out, which loses half of a wide picture.
/// Squeezing the whole picture and adding a close view of its middle retrieves kinds of scenes better
/// (measured on the kinds benchmark).
pub(in crate::encode) fn build(entry: &EncoderEntry, path: &Path, id: String) -> Result<Arc<dyn Encoder>, String> {
    let (network, normalisation) = MobileNetV2::open(path)?;
    let fit = Fit::Squeeze { width: PICTURE_SIDE, height: PICTURE_SIDE, filter: Filter::Bilinear };
    let sampling = image_sampling(PICTURE_SIDE, fit);
    let pooled = PooledEncoder::new(entry.name, id, LENGTH, sampling, normalisation, Box::new(network));
    Ok(Arc::new(pooled.with_close_view(INPUT_SIDE)))
}

impl MobileNetV2 {
    /// Reads either layout, and returns the normalisation of pixels that belongs to it.
    fn open(path: &Path) -> Result<(MobileNetV2, Normalisation), String> {
        let file = WeightsFile::open(path)?;
        let is_hub = file.has(|name| name.contains("conv_stem"));
        let network = MobileNetV2::read(|name, shape| match is_hub {
            true => read_hub(&file, name, shape),
            false => read_folded(&file, name, shape),
        })?;
        // (p - 128) / 128 for the folded layout, p / 127.5 - 1 for the hub's.
        let middle = if is_hub { 0.5 } else { 128.0 / 255.0 };
        Ok((network, Normalisation { mean: [middle; 3], deviation: [middle; 3] }))
    }

    fn read(conv: impl Fn(&str, [usize; 4]) -> Result<ConvWeights, String>) -> Result<MobileNetV2, String> {
        let pointwise = |name: &str, [outputs, inputs]: [usize; 2], side: usize| {
            let ConvWeights { weight, bias } = conv(name, [outputs, inputs, side, side])?;
            pointwise(weight, bias)
        };
        let depthwise = |name: &str, channels: usize| {
            let ConvWeights { weight, bias } = conv(name, [channels, 1, 3, 3])?;
            Depthwise::new(weight, bias).map_err(|e| e.to_string())
        };
        let stem = pointwise("stem", [STEM, 3], 3)?;
        let (mut blocks, mut inputs) = (Vec::new(), STEM);
        for (i, (outputs, stride)) in BLOCKS.into_iter().enumerate() {
            let wide = if i == 0 { inputs } else { EXPANSION * inputs };
            blocks.push(InvertedResidual {
                expand: (i > 0).then(|| pointwise(&format!("block{i}.expand"), [wide, inputs], 1)).transpose()?,
                depthwise: depthwise(&format!("block{i}.depthwise"), wide)?,
                project: pointwise(&format!("block{i}.project"), [outputs, wide], 1)?,
                stride,
            });
            inputs = outputs;
        }
        Ok(MobileNetV2 { stem, blocks, head: pointwise("head", [LENGTH, inputs], 1)? })
    }

    /// One picture, (3, side, side) row after row, to its descriptor.
    fn one(&self, picture: &[f32], side: usize) -> candle_core::Result<Vec<f32>> {
        let mut size = side.div_ceil(2);
        let mut x: Tensor = self.stem.apply(&patches(picture, side, padding_before(side, 2))?, Activation::Relu6)?;
        for block in &self.blocks {
            let wide = block.expand.as_ref().map(|expand| expand.apply(&x, Activation::Relu6)).transpose()?;
            let (wide, stride) = (wide.as_ref().unwrap_or(&x), block.stride);
            let deep = block.depthwise.apply(wide, size, stride, padding_before(size, stride), Activation::Relu6)?;
            size = size.div_ceil(stride);
            let out = block.project.apply(&deep, Activation::None)?;
            if stride == 1 && out.dims() == x.dims() {
                add(&out, &x)?;
            }
            x = out;
        }
        self.head.apply(&x, Activation::Relu6)?.mean(0)?.to_vec1()
    }
}

impl Backbone for MobileNetV2 {
    fn has_counts(&self) -> bool {
        true
    }

    fn forward(&self, pictures: &PixelBatch) -> Result<Vec<Vec<f32>>, Error> {
        // One picture at a time keeps its activations in the core's cache.
        pictures.map_chunks(1, |picture, _| Ok(vec![self.one(picture, pictures.width)?]))
    }
}

/// Rows of zeros before the first row: half of what SAME pads, rounded down.
fn padding_before(side: usize, stride: usize) -> usize {
    (((side.div_ceil(stride) - 1) * stride + 3).saturating_sub(side)) / 2
}

fn read_folded(file: &WeightsFile, name: &str, shape: [usize; 4]) -> Result<ConvWeights, String> {
    Ok(ConvWeights {
        weight: file.take(&format!("{name}.weight"), &shape)?,
        bias: file.take(&format!("{name}.bias"), &shape[..1])?,
    })
}

/// Reads a convolution of the hub's layout by its name in the folded layout, and folds its batch
/// normalisation in.
fn read_hub(file: &WeightsFile, name: &str, shape: [usize; 4]) -> Result<ConvWeights, String> {
    const EPSILON: f32 = 0.001;
    let hub_name = match name.split_once('.') {
        None if name == "stem" => "conv_stem.first_conv".to_owned(),
        None => "conv_1x1".to_owned(),
        Some(("block0", "depthwise")) => "conv_stem.conv_3x3".to_owned(),
        Some(("block0", _)) => "conv_stem.reduce_1x1".to_owned(),
        Some((block, part)) => {
            let number: usize = block.trim_start_matches("block").parse().map_err(|_| format!("no block {block}"))?;
            let part = match part {
                "expand" => "expand_1x1",
                "depthwise" => "conv_3x3",
                _ => "reduce_1x1",
            };
            format!("layer.{}.{part}", number - 1)
        }
    };
    // The file of the whole classifier adds a prefix; the file of the bare model does not.
    let prefix = if file.has(|name| name.starts_with("mobilenet_v2.")) { "mobilenet_v2." } else { "" };
    let mut weight = file.take(&format!("{prefix}{hub_name}.convolution.weight"), &shape)?;
    let norm = file.batch_norm(&format!("{prefix}{hub_name}.normalization"), shape[0], EPSILON)?;
    scale_outputs(&mut weight, &norm.scale);
    Ok(ConvWeights { weight, bias: norm.shift })
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, Case};
    use super::*;
    use crate::media;

    /// A photograph, and its most probable classes with their probabilities, within 0.01. A numpy evaluation
    /// of the weights made these numbers.
    const CHECKS: [(&str, &[(usize, f32)]); 3] = [
        ("edgetpu_parrot.jpg", &[(89, 1.0)]),
        ("edgetpu_hot_dog.jpg", &[(935, 0.98), (966, 0.01)]),
        ("edgetpu_grace_hopper.bmp", &[(668, 0.35), (653, 0.28), (401, 0.2), (918, 0.04), (835, 0.03)]),
    ];

    #[test]
    fn real_weights_classify_photographs() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
        let path = shared.join("weights/mobilenet_v2_1.0_224.safetensors");
        if !path.exists() {
            return crate::base::skip::skip(format_args!("{} is missing", path.display()));
        }
        let (network, normalisation) = MobileNetV2::open(&path).unwrap();
        let classifier = WeightsFile::open(&path).unwrap().linear("classifier", 1001, LENGTH).unwrap();
        for (name, best) in CHECKS {
            let picture = media::open(&shared.join("images").join(name)).unwrap().picture;
            let fitted = Fit::Cover { shorter: 256, filter: Filter::Bilinear }.apply(&picture, 224, 224);
            let features = network.forward(&PixelBatch::new(&[&fitted], &normalisation)).unwrap().concat();
            let features = Tensor::from_vec(features, (1, LENGTH), &candle_core::Device::Cpu).unwrap();
            let scores = classifier.apply(&features, Activation::None).unwrap();
            let scores = candle_nn::ops::softmax(&scores, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            for (place, (class, probability)) in best.iter().enumerate() {
                let found = order[place];
                assert_eq!(found, *class, "{name}: {:?}", &order[..5]);
                assert!((scores[found] - probability).abs() < 0.01, "{name}: class {found}: {}", scores[found]);
            }
        }
    }

    #[test]
    fn features_equal_those_of_transformers() {
        let case = Case::of("mobilenet-v2");
        let (_folder, path) = case.file();
        let (network, normalisation) = MobileNetV2::open(&path).unwrap();
        assert_eq!(normalisation, Normalisation { mean: [0.5; 3], deviation: [0.5; 3] });
        case.check(&network.forward(&case.pictures()).unwrap());
    }

    #[test]
    fn reads_the_published_file_and_names_a_missing_tensor() {
        let (_folder, path) = reference::published("mobilenet-v2");
        assert!(MobileNetV2::open(&path).is_ok());
        let missing = "mobilenet_v2.layer.3.conv_3x3.normalization.running_var";
        let (_folder, path) = Case::of("mobilenet-v2").file_without(missing);
        let error = MobileNetV2::open(&path).err().unwrap();
        assert_eq!(error, format!("no tensor `{missing}`"));
    }
}
