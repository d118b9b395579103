//! C3D fc6 (Tran et al., ICCV 2015): 4096 numbers for the content and motion of 16 frames of 112 x 112.
//!
//! Frames are resized to 171 x 128 and their middle is cut out, as in the paper (4.1). Pixels of 0 to 255,
//! blue before green before red, lose the means of Sports-1M, 90, 98 and 102: Caffe trained the network on
//! pixels in this order, and these are the means of its mean cube, which ports to PyTorch subtract
//! (jfzhang95/pytorch-video-recognition, `dataloaders/dataset.py`). Features are the activations after the
//! ReLU of fc6, scaled to length 1 (paper, 3.3).
//!
//! The features of an image are the features of a clip that repeats it.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::conv::{Activation, Pointwise};
use super::weights::{WeightsFile, pointwise};
use crate::encode::registry::EncoderEntry;
use crate::encode::{Descriptor, Encoder, EncoderInfo, Error, Sampling, check_size, is_flat};
use crate::media::{Filter, Fit, Picture};

/// Length of the features.
const LENGTH: usize = 4096;
const FRAMES: usize = 16;
const SIDE: usize = 112;
const MEAN: [f32; 3] = [90.0, 98.0, 102.0];

/// One clip a second from frames at 16 Hz. The paper takes neighbouring frames at 25 to 30 Hz, which is twice
/// the work.
const SAMPLING: Sampling = Sampling {
    rate_hz: 16.0,
    frames_per_clip: FRAMES,
    stride_frames: FRAMES,
    width: SIDE as u32,
    height: SIDE as u32,
    fit: Fit::Squeeze { width: 171, height: 128, filter: Filter::Bilinear },
};

/// The name of each convolution in the weights, its output channels, and the pool after it.
const LAYERS: [(&str, usize, Option<Pool>); 8] = [
    ("conv1", 64, Some(Pool { frames: 1, before: 0 })),
    ("conv2", 128, Some(Pool { frames: 2, before: 0 })),
    ("conv3a", 256, None),
    ("conv3b", 256, Some(Pool { frames: 2, before: 0 })),
    ("conv4a", 512, None),
    ("conv4b", 512, Some(Pool { frames: 2, before: 0 })),
    ("conv5a", 512, None),
    ("conv5b", 512, Some(Pool { frames: 2, before: 1 })),
];

/// The maximum of `frames` x 2 x 2 values.
#[derive(Clone, Copy)]
struct Pool {
    frames: usize,
    /// Rows and columns of zeros before the first.
    before: usize,
}

/// (frames, side, side, channels), row after row.
struct Volume {
    frames: usize,
    side: usize,
    channels: usize,
    values: Vec<f32>,
}

/// The network up to fc6.
struct C3dNetwork {
    /// One for each of [`LAYERS`], over patches (27 taps · inputs).
    convs: Vec<Pointwise>,
    fc6: Pointwise,
}

impl C3dNetwork {
    /// Reads the weights of a network whose widths are divided by `share`.
    fn read(path: &Path, share: usize) -> Result<C3dNetwork, String> {
        let weights = WeightsFile::open(path)?;
        let (mut convs, mut inputs) = (Vec::new(), 3);
        for (name, outputs, _) in LAYERS {
            let outputs = outputs / share;
            let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs, 3, 3, 3])?;
            let bias = weights.take(&format!("{name}.bias"), &[outputs])?;
            convs.push(pointwise(channels_last(&weight, inputs, 27), bias)?);
            inputs = outputs;
        }
        // Positions after the last pool: 4 x 4.
        let positions = 16;
        let weight = weights.take("fc6.weight", &[LENGTH / share, inputs * positions])?;
        let bias = weights.take("fc6.bias", &[LENGTH / share])?;
        Ok(C3dNetwork { convs, fc6: pointwise(channels_last(&weight, inputs, positions), bias)? })
    }

    /// The activations of fc6 after its ReLU.
    fn forward(&self, mut clip: Volume) -> candle_core::Result<Vec<f32>> {
        for (conv, (_, _, pool)) in self.convs.iter().zip(LAYERS) {
            clip = convolve(&clip, conv)?;
            if let Some(pool) = pool {
                clip = pool.apply(&clip);
            }
        }
        let flat = Tensor::from_vec(clip.values, (1, ()), &Device::Cpu)?;
        self.fc6.apply(&flat, Activation::Relu)?.flatten_all()?.to_vec1()
    }
}

/// Transposes rows of (channels, positions) to rows of (positions, channels).
fn channels_last(rows: &[f32], channels: usize, positions: usize) -> Vec<f32> {
    let mut out = vec![0f32; rows.len()];
    let each = channels * positions;
    for (row, out) in rows.chunks_exact(each).zip(out.chunks_exact_mut(each)) {
        for (i, value) in out.iter_mut().enumerate() {
            *value = row[i % channels * positions + i / channels];
        }
    }
    out
}

/// Numbers in the patches of one matrix product: some megabytes.
const PATCH_NUMBERS: usize = 2 << 20;
/// Fewest positions that are split between threads; with fewer, the matrix product splits the channels.
const MIN_POSITIONS: usize = 256;

/// The 3x3x3 convolution with ReLU, with zeros around the clip in all three directions: patches (positions,
/// 27 · inputs) times the weights.
fn convolve(x: &Volume, conv: &Pointwise) -> candle_core::Result<Volume> {
    let (positions, wide, outputs) = (x.frames * x.side * x.side, 27 * x.channels, conv.outputs());
    let share = positions.div_ceil(rayon::current_num_threads());
    let rows = if positions <= MIN_POSITIONS {
        positions
    } else {
        (PATCH_NUMBERS / wide).clamp(MIN_POSITIONS, share.max(MIN_POSITIONS))
    };
    let mut values = vec![0f32; positions * outputs];
    values.par_chunks_mut(rows * outputs).enumerate().try_for_each(|(i, out)| {
        let mut patches = vec![0f32; out.len() / outputs * wide];
        for (row, patch) in patches.chunks_exact_mut(wide).enumerate() {
            fill_patch(x, i * rows + row, patch);
        }
        let patches = Tensor::from_vec(patches, ((), wide), &Device::Cpu)?;
        out.copy_from_slice(&conv.apply(&patches, Activation::Relu)?.flatten_all()?.to_vec1::<f32>()?);
        Ok::<(), candle_core::Error>(())
    })?;
    Ok(Volume { channels: outputs, values, ..*x })
}

/// Copies the 27 neighbours of a position, (frame, row, column, channel), into zeros.
fn fill_patch(x: &Volume, position: usize, patch: &mut [f32]) {
    let (column, row, frame) = (position % x.side, position / x.side % x.side, position / x.side / x.side);
    // Neighbours in a row are adjacent in memory.
    let (first, end) = (column.saturating_sub(1), (column + 2).min(x.side));
    let skipped = (first + 1 - column) * x.channels;
    for (line, out) in patch.chunks_exact_mut(3 * x.channels).enumerate() {
        let (f, r) = (frame + line / 3, row + line % 3);
        if (1..=x.frames).contains(&f) && (1..=x.side).contains(&r) {
            let at = ((f - 1) * x.side + r - 1) * x.side;
            let from = &x.values[(at + first) * x.channels..(at + end) * x.channels];
            out[skipped..skipped + from.len()].copy_from_slice(from);
        }
    }
}

impl Pool {
    /// Values are not negative, so zeros around them change no maximum.
    fn apply(self, x: &Volume) -> Volume {
        let (frames, side) = (x.frames / self.frames, (x.side + 2 * self.before) / 2);
        let mut values = vec![0f32; frames * side * side * x.channels];
        for (position, pixel) in x.values.chunks_exact(x.channels).enumerate() {
            let (column, row, frame) = (position % x.side, position / x.side % x.side, position / x.side / x.side);
            let [f, r, c] = [frame / self.frames, (row + self.before) / 2, (column + self.before) / 2];
            if f < frames && r < side && c < side {
                let out = &mut values[((f * side + r) * side + c) * x.channels..][..x.channels];
                for (most, value) in out.iter_mut().zip(pixel) {
                    // NaN stays NaN.
                    if value > most || value.is_nan() {
                        *most = *value;
                    }
                }
            }
        }
        Volume { frames, side, values, ..*x }
    }
}

/// The encoder.
struct C3dEncoder {
    info: EncoderInfo,
    network: C3dNetwork,
}

impl std::fmt::Debug for C3dEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "C3dEncoder({})", self.info.id)
    }
}

/// Opens the encoder from weights with the names of the usual `c3d.pickle`.
pub(in crate::encode) fn build(entry: &EncoderEntry, path: &Path, id: String) -> Result<Arc<dyn Encoder>, String> {
    Ok(Arc::new(C3dEncoder { info: info(entry.name, id), network: C3dNetwork::read(path, 1)? }))
}

fn info(name: &str, id: String) -> EncoderInfo {
    EncoderInfo {
        name: name.to_owned(),
        id,
        image_len: LENGTH,
        clip_len: LENGTH,
        descriptor_len: 3 * SIDE * SIDE,
        sampling: SAMPLING,
        same_scene: false,
        ordered: false,
        mean_offsets: vec![0],
    }
}

impl C3dEncoder {
    /// The features of 16 frames; fewer are extended by repeating the last.
    fn features(&self, frames: &[&Descriptor]) -> Result<Vec<f32>, Error> {
        let mut values = Vec::with_capacity(FRAMES * 3 * SIDE * SIDE);
        for i in 0..FRAMES {
            if let Some(frame) = frames.get(i).or(frames.last()) {
                values.extend(frame.values().iter().zip(MEAN.iter().cycle()).map(|(pixel, mean)| pixel - mean));
            }
        }
        let mut features = self.network.forward(Volume { frames: FRAMES, side: SIDE, channels: 3, values })?;
        let norm = features.iter().map(|x| x * x).sum::<f32>().sqrt();
        if !norm.is_finite() {
            return Err(Error::Compute(format!("{} numbers of norm {norm}", features.len())));
        }
        features.iter_mut().for_each(|x| *x /= norm.max(f32::MIN_POSITIVE));
        Ok(features)
    }
}

impl Encoder for C3dEncoder {
    fn info(&self) -> &EncoderInfo {
        &self.info
    }

    /// The pixels of a frame, blue before green before red; black if it is flat.
    fn describe(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error> {
        check_size(pictures, SIDE as u32, SIDE as u32)?;
        let pixels = |picture: &Picture| {
            let pixel = |p: &[u8]| [p[2], p[1], p[0]].map(f32::from);
            match is_flat(picture) {
                true => Descriptor::flat(self.info.descriptor_len),
                false => Descriptor::new(picture.rgb.chunks_exact(3).flat_map(pixel).collect()),
            }
        };
        Ok(pictures.iter().map(pixels).collect())
    }

    fn image(&self, descriptor: &Descriptor) -> Result<Vec<f32>, Error> {
        self.features(&[descriptor])
    }

    fn clip(&self, frames: &[&Descriptor]) -> Result<Option<Vec<f32>>, Error> {
        if frames.iter().all(|frame| frame.is_flat()) {
            return Ok(None);
        }
        Ok(Some(self.features(frames)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, Case, npy, npz};
    use super::*;

    /// (1, 3, frames, side, side) to (frames, side, side, 3).
    fn clip(input: &[f32]) -> Volume {
        Volume { frames: FRAMES, side: SIDE, channels: 3, values: channels_last(input, 3, FRAMES * SIDE * SIDE) }
    }

    fn check(case: &Case, path: &Path) {
        case.check(&[C3dNetwork::read(path, 16).unwrap().forward(clip(&case.input())).unwrap()]);
    }

    #[test]
    fn features_equal_those_of_pytorch() {
        let case = Case::of("c3d");
        let (folder, path) = case.file();
        check(&case, &path);
        let arrays = case.tensors().into_iter().map(|(name, shape, values)| {
            let shape: String = shape.iter().map(|side| format!("{side},")).collect();
            (name, npy("<f4", &format!("({shape})"), &values))
        });
        let path = folder.path().join("c3d.npz");
        std::fs::write(&path, npz(&arrays.collect::<Vec<_>>())).unwrap();
        check(&case, &path);
    }

    #[test]
    fn reads_the_published_shapes_and_names_a_missing_tensor() {
        let (_folder, path) = reference::published("c3d");
        let encoder =
            C3dEncoder { info: info("c3d", "c3d/1+0".to_owned()), network: C3dNetwork::read(&path, 1).unwrap() };
        let flat = Descriptor::flat(encoder.info.descriptor_len);
        assert!(encoder.clip(&[&flat, &flat]).unwrap().is_none());
        let (_folder, path) = Case::of("c3d").file_without("conv4b.bias");
        assert_eq!(C3dNetwork::read(&path, 16).err().unwrap(), "no tensor `conv4b.bias`");
    }

    #[test]
    fn an_overflow_of_f32_is_an_error() {
        let (folder, _) = Case::of("c3d").file();
        let path = folder.path().join("large.safetensors");
        let tensors = Case::of("c3d").tensors();
        let large: Vec<Vec<f32>> =
            tensors.iter().map(|(.., values)| values.iter().map(|x| x * 1e6).collect()).collect();
        let tensors: Vec<_> = tensors
            .iter()
            .zip(&large)
            .map(|((name, shape, _), x)| crate::base::tensors::NamedTensor::new(name, shape, x))
            .collect();
        crate::base::tensors::save(&path, &tensors, std::collections::HashMap::new()).unwrap();
        let network = C3dNetwork::read(&path, 16).unwrap();
        let encoder = C3dEncoder { info: info("c3d", "c3d/1+0".to_owned()), network };
        let frame = Descriptor::new((0..encoder.info.descriptor_len).map(|i| (i * 7 % 256) as f32).collect());
        let expected = "the encoder failed: 256 numbers of norm";
        assert!(encoder.clip(&[&frame]).unwrap_err().to_string().starts_with(expected));
        assert!(encoder.image(&frame).unwrap_err().to_string().starts_with(expected));
    }
}
