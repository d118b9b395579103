//! MobileNetV2 1.0 224 (Sandler et al., CVPR 2018) up to its 1280-value descriptor: the mean of the last activations over the 7x7 positions.
//!
//! Two layouts of weights are read: batch normalisation folded into weights and biases (`stem`, `block0` to `block16`, `head`), as converted from
//! google-coral's `mobilenet_v2_1.0_224_quant.tflite`, and that of Hugging Face's `google/mobilenet_v2_1.0_224`, which is folded on reading:
//! `w' = w γ / √(σ² + 0.001)`, `b' = β - μ γ / √(σ² + 0.001)`. Padding is TensorFlow's SAME: a 3x3 of stride 2 on an even side pads nothing before and one behind.
//!
//! Activations lie as (positions, channels): then a 1x1 convolution is one matrix product, and a depthwise 3x3 runs over neighbouring channels.
//! candle's own grouped convolution makes one convolution of each channel, which is hundreds of times slower.

use std::path::Path;

use candle_core::{CpuStorage, CustomOp3, DType, Device, InplaceOp2, Layout, Shape, Tensor};
use rayon::prelude::*;
use safetensors::SafeTensors;

use super::pooled::{Backbone, Normalise};

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
pub(super) const LENGTH: usize = 1280;
/// Multiply-adds of one picture, times two.
pub(super) const FLOPS: f64 = 0.602e9;

/// A 1x1 convolution: `x W + b`.
struct Pointwise {
    /// (inputs, outputs).
    weight: Tensor,
    bias: Tensor,
}

/// A depthwise 3x3 convolution with ReLU6.
struct Depthwise {
    /// (9, channels).
    weight: Tensor,
    bias: Tensor,
}

struct Block {
    expand: Option<Pointwise>,
    depthwise: Depthwise,
    project: Pointwise,
    stride: usize,
}

/// The network.
pub(super) struct MobileNetV2 {
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
    pub(super) fn open(path: &Path) -> Result<(MobileNetV2, Normalise), String> {
        let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| format!("no safetensors file ({e})"))?;
        let hub = file.names().iter().any(|name| name.contains("conv_stem"));
        let network =
            MobileNetV2::read(|name, shape| if hub { of_hub(&file, name, shape) } else { folded(&file, name, shape) })?;
        // (p - 128) / 128 of the one, p / 127.5 - 1 of the other.
        let middle = if hub { 0.5 } else { 128.0 / 255.0 };
        Ok((network, Normalise { mean: [middle; 3], deviation: [middle; 3] }))
    }

    fn read(conv: impl Fn(&str, [usize; 4]) -> Result<Conv, String>) -> Result<MobileNetV2, String> {
        let pointwise = |name: &str, [outputs, inputs]: [usize; 2], side: usize| -> Result<Pointwise, String> {
            let Conv { weight, bias } = conv(name, [outputs, inputs, side, side])?;
            let to = |weight: Vec<f32>| -> candle_core::Result<Pointwise> {
                let weight = Tensor::from_vec(weight, (outputs, inputs * side * side), &Device::Cpu)?;
                Ok(Pointwise {
                    weight: weight.t()?.contiguous()?,
                    bias: Tensor::from_vec(bias, outputs, &Device::Cpu)?,
                })
            };
            to(weight).map_err(|e| e.to_string())
        };
        let depthwise = |name: &str, channels: usize| -> Result<Depthwise, String> {
            let Conv { weight, bias } = conv(name, [channels, 1, 3, 3])?;
            let to = |weight: Vec<f32>| -> candle_core::Result<Depthwise> {
                let weight = Tensor::from_vec(weight, (channels, 9), &Device::Cpu)?;
                Ok(Depthwise {
                    weight: weight.t()?.contiguous()?,
                    bias: Tensor::from_vec(bias, channels, &Device::Cpu)?,
                })
            };
            to(weight).map_err(|e| e.to_string())
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
        let patches = Tensor::from_vec(patches(picture, side), (size * size, 27), &Device::Cpu)?;
        let mut x = self.stem.apply(&patches, true)?;
        for block in &self.blocks {
            let wide = block.expand.as_ref().map(|expand| expand.apply(&x, true)).transpose()?;
            let op = Taps { side: size, stride: block.stride };
            let deep =
                wide.as_ref().unwrap_or(&x).apply_op3_no_bwd(&block.depthwise.weight, &block.depthwise.bias, &op)?;
            size = size.div_ceil(block.stride);
            let out = block.project.apply(&deep, false)?;
            if block.stride == 1 && out.dims() == x.dims() {
                out.inplace_op2(&x, &Add)?;
            }
            x = out;
        }
        self.head.apply(&x, true)?.mean(0)?.to_vec1()
    }
}

impl Backbone for MobileNetV2 {
    fn forward(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let (n, _, side, _) = pictures.dims4()?;
        let values = pictures.flatten_all()?.to_vec1::<f32>()?;
        // One picture a thread: its activations stay in that core's cache.
        let rows: candle_core::Result<Vec<Vec<f32>>> =
            values.par_chunks(3 * side * side).map(|picture| self.one(picture, side)).collect();
        Tensor::from_vec(rows?.concat(), (n, LENGTH), pictures.device())
    }
}

impl Pointwise {
    fn apply(&self, x: &Tensor, relu6: bool) -> candle_core::Result<Tensor> {
        let y = x.matmul(&self.weight)?;
        y.inplace_op2(&self.bias, &Bias { relu6 })?;
        Ok(y)
    }
}

/// The 3x3 patches of stride 2 of a picture, SAME: (positions, channel · 9 + tap).
fn patches(picture: &[f32], side: usize) -> Vec<f32> {
    let (size, before) = (side.div_ceil(2), before(side, 2));
    let mut out = vec![0f32; size * size * 27];
    for (position, patch) in out.chunks_exact_mut(27).enumerate() {
        let (row, column) = (position / size * 2, position % size * 2);
        for (i, value) in patch.iter_mut().enumerate() {
            let (channel, y, x) = (i / 9, row + i % 9 / 3, column + i % 3);
            if (before..side + before).contains(&y) && (before..side + before).contains(&x) {
                *value = picture[(channel * side + y - before) * side + x - before];
            }
        }
    }
    out
}

/// Rows of zeros before the first: half of what SAME pads, rounded down.
fn before(side: usize, stride: usize) -> usize {
    (((side.div_ceil(stride) - 1) * stride + 3).saturating_sub(side)) / 2
}

/// The depthwise 3x3 convolution of (positions, channels) with (9, channels), plus (channels), then ReLU6.
struct Taps {
    side: usize,
    stride: usize,
}

/// Channels that are summed in registers at once.
const LANES: usize = 32;

impl CustomOp3 for Taps {
    fn name(&self) -> &'static str {
        "depthwise 3x3"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        _: &Layout,
        bias: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let channels = x_layout.shape().dims2()?.1;
        let (x, weight, bias) = (x.as_slice::<f32>()?, weight.as_slice::<f32>()?, bias.as_slice::<f32>()?);
        let size = self.side.div_ceil(self.stride);
        let mut out = vec![0f32; size * size * channels];
        pulp::Arch::new().dispatch(|| self.run(x, weight, bias, &mut out, channels));
        Ok((CpuStorage::F32(out), (size * size, channels).into()))
    }
}

impl Taps {
    #[inline(always)]
    fn run(&self, x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32], channels: usize) {
        let (size, before) = (self.side.div_ceil(self.stride), before(self.side, self.stride));
        for (position, out) in out.chunks_exact_mut(channels).enumerate() {
            let (row, column) = (position / size * self.stride, position % size * self.stride);
            let inside = |at: usize| (before..self.side + before).contains(&at);
            // Where the window's taps lie: (tap, first number of the position).
            let mut taps = [(0, 0); 9];
            let mut count = 0;
            for tap in 0..9 {
                let (y, x) = (row + tap / 3, column + tap % 3);
                if inside(y) && inside(x) {
                    taps[count] = (tap, ((y - before) * self.side + x - before) * channels);
                    count += 1;
                }
            }
            for (block, out) in out.chunks_mut(LANES).enumerate() {
                let from = block * LANES;
                if let Ok(out) = <&mut [f32; LANES]>::try_from(&mut *out) {
                    let mut sums = lanes(bias, from);
                    for (tap, at) in &taps[..count] {
                        let (x, w) = (lanes(x, at + from), lanes(weight, tap * channels + from));
                        (0..LANES).for_each(|i| sums[i] += x[i] * w[i]);
                    }
                    *out = sums.map(|sum| sum.clamp(0.0, 6.0));
                } else {
                    for (i, out) in out.iter_mut().enumerate() {
                        let product = |(tap, at): &(usize, usize)| x[at + from + i] * weight[tap * channels + from + i];
                        *out = (bias[from + i] + taps[..count].iter().map(product).sum::<f32>()).clamp(0.0, 6.0);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn lanes(values: &[f32], from: usize) -> [f32; LANES] {
    let mut out = [0f32; LANES];
    out.copy_from_slice(&values[from..from + LANES]);
    out
}

/// Adds a bias to each position, and cuts to 0..6.
struct Bias {
    relu6: bool,
}

impl InplaceOp2 for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, _: &Layout, bias: &CpuStorage, _: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(x), CpuStorage::F32(bias)) = (x, bias) else { return Err(not_f32()) };
        let (low, high) = if self.relu6 { (0.0, 6.0) } else { (f32::MIN, f32::MAX) };
        pulp::Arch::new().dispatch(|| {
            for row in x.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias.iter()).for_each(|(x, b)| *x = (*x + b).max(low).min(high));
            }
        });
        Ok(())
    }
}

/// Adds the block's input.
struct Add;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, _: &Layout, y: &CpuStorage, _: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(x), CpuStorage::F32(y)) = (x, y) else { return Err(not_f32()) };
        pulp::Arch::new().dispatch(|| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
        Ok(())
    }
}

fn not_f32() -> candle_core::Error {
    candle_core::Error::Msg(format!("expected {:?}", DType::F32))
}

/// A tensor of exactly this shape, as f32.
fn tensor(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let view = file.tensor(name).map_err(|_| format!("no tensor {name}"))?;
    if view.shape() != shape {
        return Err(format!("{name} has the shape {:?}, not {shape:?}", view.shape()));
    }
    if view.dtype() != safetensors::Dtype::F32 {
        return Err(format!("{name} holds {}, not F32", view.dtype()));
    }
    let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match values.iter().all(|x| x.is_finite()) {
        true => Ok(values),
        false => Err(format!("{name} holds a value that is not finite")),
    }
}

fn folded(file: &SafeTensors<'_>, name: &str, shape: [usize; 4]) -> Result<Conv, String> {
    Ok(Conv {
        weight: tensor(file, &format!("{name}.weight"), &shape)?,
        bias: tensor(file, &format!("{name}.bias"), &shape[..1])?,
    })
}

/// A convolution by its name there, with its batch normalisation folded in.
fn of_hub(file: &SafeTensors<'_>, name: &str, shape: [usize; 4]) -> Result<Conv, String> {
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
    let mut weight = tensor(file, &format!("{prefix}{theirs}.convolution.weight"), &shape)?;
    let norm = |part: &str| tensor(file, &format!("{prefix}{theirs}.normalization.{part}"), &shape[..1]);
    let (gain, shift, mean, variance) = (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
    let scale: Vec<f32> = gain.iter().zip(&variance).map(|(g, v)| g / (v + EPSILON).sqrt()).collect();
    let each = weight.len() / shape[0];
    for (kernel, scale) in weight.chunks_exact_mut(each).zip(&scale) {
        kernel.iter_mut().for_each(|w| *w *= scale);
    }
    let bias = shift.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    Ok(Conv { weight, bias })
}
