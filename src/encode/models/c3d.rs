//! C3D fc6 (Tran et al., ICCV 2015): what 16 frames of 112 x 112 show and how it moves, 4096 numbers.
//!
//! Frames are resized to 171 x 128 and their middle is cut out, as in the paper (4.1). Pixels of 0 to 255, blue before green before red, lose the mean of Sports-1M,
//! 90, 98 and 102: the network was trained by Caffe, which reads so, and these are the means of its mean cube, which ports to PyTorch subtract
//! (jfzhang95/pytorch-video-recognition, `dataloaders/dataset.py`). Features are the activations after the ReLU of fc6, scaled to length 1 (paper, 3.3).
//!
//! An image is taken for a clip that stands still.

use std::path::Path;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::c3d_weights;
use super::conv::{Activation, Pointwise};
use crate::encode::{About, Descriptor, Encoder, Error, Sampling, is_flat};
use crate::media::{Filter, Fit, Picture};

/// Length of the features.
const LENGTH: usize = 4096;
const FRAMES: usize = 16;
const SIDE: usize = 112;
const MEAN: [f32; 3] = [90.0, 98.0, 102.0];
/// Multiply-adds of a clip, times two.
pub(in crate::encode) const FLOPS: f64 = 77.1e9;

/// One clip a second, as frames at 16 Hz: the paper takes neighbouring frames at 25 to 30 Hz, which would be twice the work.
const SAMPLING: Sampling = Sampling {
    rate_hz: 16.0,
    frames_per_clip: FRAMES,
    stride_frames: FRAMES,
    width: SIDE as u32,
    height: SIDE as u32,
    fit: Fit::Squeeze { width: 171, height: 128, filter: Filter::Bilinear },
};

/// Name in the weights, output channels, and the pool behind it: frames and pixels that become one, and zeros before the first pixel.
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

/// The greatest of `frames` x 2 x 2 values.
#[derive(Clone, Copy)]
struct Pool {
    frames: usize,
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
struct Network {
    /// Of each layer, (27 taps · inputs, outputs).
    convs: Vec<Pointwise>,
    fc6: Pointwise,
}

impl Network {
    /// Reads the weights of a network whose widths are divided by `share`.
    fn read(path: &Path, share: usize) -> std::result::Result<Network, String> {
        let weights = c3d_weights::open(path)?;
        let (mut convs, mut inputs) = (Vec::new(), 3);
        for (name, outputs, _) in LAYERS {
            let outputs = outputs / share;
            let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs, 3, 3, 3])?;
            let bias = weights.take(&format!("{name}.bias"), &[outputs])?;
            convs.push(Pointwise::new(channels_last(&weight, inputs, 27), bias).map_err(|e| e.to_string())?);
            inputs = outputs;
        }
        // What pool5 leaves: 4 x 4 positions.
        let positions = 16;
        let weight = weights.take("fc6.weight", &[LENGTH / share, inputs * positions])?;
        let bias = weights.take("fc6.bias", &[LENGTH / share])?;
        let fc6 = Pointwise::new(channels_last(&weight, inputs, positions), bias).map_err(|e| e.to_string())?;
        Ok(Network { convs, fc6 })
    }

    /// A clip, to fc6 after its ReLU.
    fn forward(&self, mut clip: Volume) -> Result<Vec<f32>> {
        for (conv, (_, _, pool)) in self.convs.iter().zip(LAYERS) {
            clip = convolved(&clip, conv)?;
            if let Some(pool) = pool {
                clip = pool.apply(&clip);
            }
        }
        let flat = Tensor::from_vec(clip.values, (1, ()), &Device::Cpu)?;
        self.fc6.apply(&flat, Activation::Relu)?.flatten_all()?.to_vec1()
    }
}

/// Rows of (channels, positions), as rows of (positions, channels).
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

/// Numbers of patches that one matrix product is made of: some megabytes.
const PATCHES: usize = 2 << 20;
/// Positions from which it is worth to split them between threads; of fewer, the matrix product splits the channels.
const FEW: usize = 256;

/// The 3x3x3 convolution with ReLU, zeros around the clip in all three directions: patches (positions, 27 · inputs) times the weights.
fn convolved(x: &Volume, conv: &Pointwise) -> Result<Volume> {
    let (positions, wide, outputs) = (x.frames * x.side * x.side, 27 * x.channels, conv.outputs());
    let share = positions.div_ceil(rayon::current_num_threads());
    let rows = if positions <= FEW { positions } else { (PATCHES / wide).clamp(FEW, share.max(FEW)) };
    let mut values = vec![0f32; positions * outputs];
    values.par_chunks_mut(rows * outputs).enumerate().try_for_each(|(i, out)| {
        let mut patches = vec![0f32; out.len() / outputs * wide];
        for (row, patch) in patches.chunks_exact_mut(wide).enumerate() {
            fill(x, i * rows + row, patch);
        }
        let patches = Tensor::from_vec(patches, ((), wide), &Device::Cpu)?;
        out.copy_from_slice(&conv.apply(&patches, Activation::Relu)?.flatten_all()?.to_vec1::<f32>()?);
        Ok::<(), candle_core::Error>(())
    })?;
    Ok(Volume { channels: outputs, values, ..*x })
}

/// The 27 neighbours of a position, (frame, row, column, channel), into zeros.
fn fill(x: &Volume, position: usize, patch: &mut [f32]) {
    let (column, row, frame) = (position % x.side, position / x.side % x.side, position / x.side / x.side);
    // Neighbours in a row lie one after the other.
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
    /// Values are not negative: zeros around them change no maximum.
    fn apply(self, x: &Volume) -> Volume {
        let (frames, side) = (x.frames / self.frames, (x.side + 2 * self.before) / 2);
        let mut values = vec![0f32; frames * side * side * x.channels];
        for (position, pixel) in x.values.chunks_exact(x.channels).enumerate() {
            let (column, row, frame) = (position % x.side, position / x.side % x.side, position / x.side / x.side);
            let [f, r, c] = [frame / self.frames, (row + self.before) / 2, (column + self.before) / 2];
            if f < frames && r < side && c < side {
                let out = &mut values[((f * side + r) * side + c) * x.channels..][..x.channels];
                for (most, value) in out.iter_mut().zip(pixel) {
                    // What is no number stays that.
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
pub(in crate::encode) struct C3d {
    about: About,
    network: Network,
}

impl std::fmt::Debug for C3d {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "C3d({})", self.about.id)
    }
}

impl C3d {
    /// Reads weights by the names of the usual `c3d.pickle`.
    pub(in crate::encode) fn open(path: &Path, name: &str, id: String) -> std::result::Result<C3d, String> {
        let about = About {
            name: name.to_owned(),
            id,
            image_len: LENGTH,
            clip_len: LENGTH,
            descriptor_len: 3 * SIDE * SIDE,
            sampling: SAMPLING,
            same_scene: false,
            mean_at: vec![0],
        };
        Ok(C3d { about, network: Network::read(path, 1)? })
    }

    /// The features of 16 frames, the last one repeated if there are fewer.
    fn features(&self, frames: &[&Descriptor]) -> std::result::Result<Vec<f32>, Error> {
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

impl Encoder for C3d {
    fn about(&self) -> &About {
        &self.about
    }

    /// The pixels of a frame, blue before green before red; black if it is flat.
    fn describe(&self, pictures: &[Picture]) -> std::result::Result<Vec<Descriptor>, Error> {
        let side = SIDE as u32;
        if let Some(other) = pictures.iter().find(|p| (p.width, p.height) != (side, side)) {
            return Err(Error::Compute(format!("a picture of {} x {}", other.width, other.height)));
        }
        let pixels = |picture: &Picture| {
            let pixel = |p: &[u8]| [p[2], p[1], p[0]].map(f32::from);
            match is_flat(picture) {
                true => Descriptor::flat(self.about.descriptor_len),
                false => Descriptor::new(picture.rgb.chunks_exact(3).flat_map(pixel).collect()),
            }
        };
        Ok(pictures.iter().map(pixels).collect())
    }

    fn image(&self, descriptor: &Descriptor) -> std::result::Result<Vec<f32>, Error> {
        self.features(&[descriptor])
    }

    fn clip(&self, frames: &[&Descriptor]) -> std::result::Result<Option<Vec<f32>>, Error> {
        if frames.iter().all(|frame| frame.is_flat()) {
            return Ok(None);
        }
        Ok(Some(self.features(frames)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::models::reference::{self, Case};

    /// (3, frames, side, side) to (frames, side, side, 3).
    fn clip(input: &Tensor) -> Volume {
        let values = input.get(0).unwrap().permute((1, 2, 3, 0)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        Volume { frames: FRAMES, side: SIDE, channels: 3, values }
    }

    fn check(case: &Case, path: &Path) {
        let features = Network::read(path, 16).unwrap().forward(clip(&case.input())).unwrap();
        case.check(&Tensor::from_vec(features, (1, LENGTH / 16), &Device::Cpu).unwrap());
    }

    #[test]
    fn features_are_those_of_pytorch() {
        let case = Case::of("c3d");
        let (folder, path) = case.file();
        check(&case, &path);
        let made = case.tensors();
        let tensors: Vec<(&str, Tensor)> = made
            .iter()
            .map(|(name, shape, values)| {
                (name.as_str(), Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap())
            })
            .collect();
        let npz = folder.path().join("c3d.npz");
        Tensor::write_npz(&tensors, &npz).unwrap();
        check(&case, &npz);
    }

    #[test]
    fn the_published_shapes_are_read_and_what_lacks_is_named() {
        let (_folder, path) = reference::published("c3d");
        let encoder = C3d::open(&path, "c3d", "c3d/1+0".to_owned()).unwrap();
        let flat = Descriptor::flat(encoder.about.descriptor_len);
        assert!(encoder.clip(&[&flat, &flat]).unwrap().is_none());
        let (_folder, path) = Case::of("c3d").file_without("conv4b.bias");
        assert_eq!(Network::read(&path, 16).err().unwrap(), "it has no tensor `conv4b.bias`");
    }

    #[test]
    fn numbers_beyond_what_f32_holds_are_an_error() {
        let (folder, _) = Case::of("c3d").file();
        let path = folder.path().join("large.safetensors");
        // Every layer multiplies by far more than it should.
        let made: Vec<_> = Case::of("c3d").tensors();
        let large: Vec<Vec<f32>> = made.iter().map(|(.., values)| values.iter().map(|x| x * 1e6).collect()).collect();
        let tensors: Vec<_> =
            made.iter().zip(&large).map(|((name, shape, _), x)| (name.clone(), shape.clone(), x.as_slice())).collect();
        crate::base::tensors::save(&path, &tensors, std::collections::HashMap::new()).unwrap();
        let (_folder, zeros) = reference::published("c3d");
        let about = C3d::open(&zeros, "c3d", "c3d/1+0".to_owned()).unwrap().about;
        let encoder = C3d { about, network: Network::read(&path, 16).unwrap() };
        let frame = Descriptor::new((0..encoder.about.descriptor_len).map(|i| (i * 7 % 256) as f32).collect());
        let told = "the encoder failed: 256 numbers of norm";
        assert!(encoder.clip(&[&frame]).unwrap_err().to_string().starts_with(told));
        assert!(encoder.image(&frame).unwrap_err().to_string().starts_with(told));
    }
}
