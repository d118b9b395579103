//! MobileNetV2 1.0 224 (Sandler et al., CVPR 2018) up to its 1280-value descriptor: the mean of the last activations over the 7x7 positions.
//!
//! Two layouts of weights are read: batch normalisation folded into weights and biases (`stem`, `block0` to `block16`, `head`), as converted from
//! google-coral's `mobilenet_v2_1.0_224_quant.tflite`, and that of Hugging Face's `google/mobilenet_v2_1.0_224`, which is folded on reading:
//! `w' = w γ / √(σ² + 0.001)`, `b' = β - μ γ / √(σ² + 0.001)`. Padding is TensorFlow's SAME: a 3x3 of stride 2 on an even side pads nothing before and one behind.

use std::path::Path;

use candle_core::Tensor;
use rayon::prelude::*;

use super::conv::{Activation, Depthwise, Pointwise, add, patches};
use super::pooled::{Backbone, Normalise};
use crate::base::tensors::{self, File};

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
pub(in crate::encode) const LENGTH: usize = 1280;
/// Multiply-adds of one picture, times two.
pub(in crate::encode) const FLOPS: f64 = 0.602e9;

struct Block {
    expand: Option<Pointwise>,
    depthwise: Depthwise,
    project: Pointwise,
    stride: usize,
}

/// The network.
pub(in crate::encode) struct MobileNetV2 {
    stem: Pointwise,
    blocks: Vec<Block>,
    head: Pointwise,
}

/// A convolution's weight, (outputs, inputs, height, width) row after row, and its bias.
struct Conv {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl MobileNetV2 {
    /// Reads either layout. Gives how pixels are normalised for it, too. What is wrong with the file is told in words.
    pub(in crate::encode) fn open(path: &Path) -> Result<(MobileNetV2, Normalise), String> {
        let file = tensors::open(path).map_err(|e| e.to_string())?;
        let hub = file.names().iter().any(|name| name.contains("conv_stem"));
        let network =
            MobileNetV2::read(|name, shape| if hub { of_hub(&file, name, shape) } else { folded(&file, name, shape) })?;
        // (p - 128) / 128 of the one, p / 127.5 - 1 of the other.
        let middle = if hub { 0.5 } else { 128.0 / 255.0 };
        Ok((network, Normalise { mean: [middle; 3], deviation: [middle; 3] }))
    }

    fn read(conv: impl Fn(&str, [usize; 4]) -> Result<Conv, String>) -> Result<MobileNetV2, String> {
        let pointwise = |name: &str, [outputs, inputs]: [usize; 2], side: usize| {
            let Conv { weight, bias } = conv(name, [outputs, inputs, side, side])?;
            Pointwise::new(weight, bias).map_err(|e| e.to_string())
        };
        let depthwise = |name: &str, channels: usize| {
            let Conv { weight, bias } = conv(name, [channels, 1, 3, 3])?;
            Depthwise::new(weight, bias).map_err(|e| e.to_string())
        };
        let stem = pointwise("stem", [STEM, 3], 3)?;
        let (mut blocks, mut inputs) = (Vec::new(), STEM);
        for (i, (outputs, stride)) in BLOCKS.into_iter().enumerate() {
            let wide = if i == 0 { inputs } else { EXPANSION * inputs };
            blocks.push(Block {
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
        let mut x = self.stem.apply(&patches(picture, side, before(side, 2))?, Activation::Relu6)?;
        for block in &self.blocks {
            let wide = block.expand.as_ref().map(|expand| expand.apply(&x, Activation::Relu6)).transpose()?;
            let (wide, stride) = (wide.as_ref().unwrap_or(&x), block.stride);
            let deep = block.depthwise.apply(wide, size, stride, before(size, stride), Activation::Relu6)?;
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

    fn forward(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let (n, _, side, _) = pictures.dims4()?;
        let values = pictures.flatten_all()?.to_vec1::<f32>()?;
        // One picture a thread: its activations stay in that core's cache.
        let rows: candle_core::Result<Vec<Vec<f32>>> =
            values.par_chunks(3 * side * side).map(|picture| self.one(picture, side)).collect();
        Tensor::from_vec(rows?.concat(), (n, LENGTH), pictures.device())
    }
}

/// Rows of zeros before the first: half of what SAME pads, rounded down.
fn before(side: usize, stride: usize) -> usize {
    (((side.div_ceil(stride) - 1) * stride + 3).saturating_sub(side)) / 2
}

fn take(file: &File<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    file.take(name, shape).map_err(|e| e.to_string())
}

fn folded(file: &File<'_>, name: &str, shape: [usize; 4]) -> Result<Conv, String> {
    Ok(Conv {
        weight: take(file, &format!("{name}.weight"), &shape)?,
        bias: take(file, &format!("{name}.bias"), &shape[..1])?,
    })
}

/// A convolution by its name there, with its batch normalisation folded in.
fn of_hub(file: &File<'_>, name: &str, shape: [usize; 4]) -> Result<Conv, String> {
    const EPSILON: f32 = 0.001;
    let theirs = match name.split_once('.') {
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
    // The classifier has the model under a name of its own; the bare model has not.
    let prefix = if file.names().iter().any(|n| n.starts_with("mobilenet_v2.")) { "mobilenet_v2." } else { "" };
    let mut weight = take(file, &format!("{prefix}{theirs}.convolution.weight"), &shape)?;
    let norm = |part: &str| take(file, &format!("{prefix}{theirs}.normalization.{part}"), &shape[..1]);
    let (gain, shift, mean, variance) = (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
    let scale: Vec<f32> = gain.iter().zip(&variance).map(|(g, v)| g / (v + EPSILON).sqrt()).collect();
    let each = weight.len() / shape[0];
    for (kernel, scale) in weight.chunks_exact_mut(each).zip(&scale) {
        kernel.iter_mut().for_each(|w| *w *= scale);
    }
    let bias = shift.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    Ok(Conv { weight, bias })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::models::pooled;
    use crate::encode::models::reference::{self, Case};
    use crate::media::{self, Filter, Fit};

    /// Of the README beside the weights, which a numpy evaluation of them made: photograph, then class and probability, to 0.01.
    const CHECKS: [(&str, &[(usize, f32)]); 3] = [
        ("edgetpu_parrot.jpg", &[(89, 1.0)]),
        ("edgetpu_hot_dog.jpg", &[(935, 0.98), (966, 0.01)]),
        ("edgetpu_grace_hopper.bmp", &[(668, 0.35), (653, 0.28), (401, 0.2), (918, 0.04), (835, 0.03)]),
    ];

    #[test]
    fn real_weights_name_what_the_photographs_show() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
        let path = shared.join("weights/mobilenet_v2_1.0_224.safetensors");
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            return;
        }
        let (network, normalise) = MobileNetV2::open(&path).unwrap();
        let file = tensors::open(&path).unwrap();
        let weight = file.take("classifier.weight", &[1001, LENGTH]).unwrap();
        let bias = file.take("classifier.bias", &[1001]).unwrap();
        let classifier = Pointwise::new(weight, bias).unwrap();
        for (name, best) in CHECKS {
            let picture = media::open(&shared.join("images").join(name)).unwrap();
            let fitted = Fit::Cover { shorter: 256, filter: Filter::Bilinear }.apply(&picture, 224, 224);
            let features = network.forward(&pooled::tensor(&[&fitted], &normalise).unwrap()).unwrap();
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
    fn weights_of_the_hub_give_what_transformers_computes() {
        let case = Case::of("mobilenet-v2");
        let (_folder, path) = case.file();
        let (network, normalise) = MobileNetV2::open(&path).unwrap();
        assert_eq!(normalise, Normalise { mean: [0.5; 3], deviation: [0.5; 3] });
        case.check(&network.forward(&case.input()).unwrap());
    }

    #[test]
    fn the_published_file_is_read_and_what_lacks_is_named() {
        let (_folder, path) = reference::published("mobilenet-v2");
        assert!(MobileNetV2::open(&path).is_ok());
        let lacking = "mobilenet_v2.layer.3.conv_3x3.normalization.running_var";
        let (_folder, path) = Case::of("mobilenet-v2").file_without(lacking);
        let error = MobileNetV2::open(&path).err().unwrap();
        assert_eq!(error, format!("it has no tensor `{lacking}`"));
    }
}
