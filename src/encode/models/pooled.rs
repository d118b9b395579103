//! Encoders that look at single pictures: the features of a clip are made of those of its frames.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::encode::{About, Descriptor, Encoder, Error, Sampling, is_flat};
use crate::media::Picture;

/// A network from pictures to features.
pub(in crate::encode) trait Backbone: Send + Sync {
    /// (n, 3, height, width), normalised, to (n, length).
    fn forward(&self, pictures: &Tensor) -> candle_core::Result<Tensor>;

    /// Whether features are means of activations that are never negative: then their square roots are compared, since a few strong ones would drown
    /// the others (Hellinger's kernel; Arandjelović and Zisserman, CVPR 2012).
    fn has_counts(&self) -> bool {
        false
    }
}

/// Most pictures that go through candle's layers at once. One by one CLIP does half as many a second: its 50 tokens make small matrices.
const AT_ONCE: usize = 8;

/// Runs a network on (n, 3, height, width), some pictures a thread.
pub(in crate::encode) fn each(
    pictures: &Tensor,
    forward: impl Fn(&Tensor) -> candle_core::Result<Tensor> + Sync,
) -> candle_core::Result<Tensor> {
    let n = pictures.dim(0)?;
    let share = n.div_ceil(rayon::current_num_threads()).clamp(1, AT_ONCE);
    let parts = (0..n).into_par_iter().step_by(share);
    let rows = parts.map(|from| forward(&pictures.narrow(0, from, share.min(n - from))?));
    Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

/// How pixels of 0 to 255 become numbers: `(pixel / 255 - mean) / deviation`, for red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::encode) struct Normalise {
    pub(in crate::encode) mean: [f32; 3],
    pub(in crate::encode) deviation: [f32; 3],
}

/// An encoder around a backbone.
///
/// * descriptor and image features: what the backbone gives (see [`Backbone::has_counts`]), scaled to length 1, of several views their mean, likewise;
/// * clip features, three blocks of as many numbers: the mean of the frames that are not flat, their standard deviation, and the mean of the later half of the
///   frames minus that of the earlier.
pub(in crate::encode) struct Pooled {
    about: About,
    normalise: Normalise,
    backbone: Box<dyn Backbone>,
    /// Side of what the backbone takes, where pictures are larger.
    close: Option<u32>,
}

impl std::fmt::Debug for Pooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pooled({})", self.about.id)
    }
}

/// Pictures that go through a backbone together.
const BATCH: usize = 16;

impl Pooled {
    pub(in crate::encode) fn new(
        name: &str,
        id: String,
        length: usize,
        sampling: Sampling,
        normalise: Normalise,
        backbone: Box<dyn Backbone>,
    ) -> Pooled {
        let about = About {
            name: name.to_owned(),
            id,
            image_len: length,
            clip_len: 3 * length,
            descriptor_len: length,
            sampling,
            same_scene: false,
            mean_at: vec![0],
        };
        Pooled { about, normalise, backbone, close: None }
    }

    /// The same, on pictures larger than the backbone takes: it sees each whole, shrunk to `side` x `side`, and the middle of that size.
    pub(in crate::encode) fn seeing_close_too(self, side: u32) -> Pooled {
        Pooled { close: Some(side), ..self }
    }

    fn views(&self, picture: &Picture) -> Vec<Picture> {
        let Some(side) = self.close else { return vec![picture.clone()] };
        let corner = |of: u32| of.saturating_sub(side) / 2;
        vec![picture.resize(side, side), picture.cropped(corner(picture.width), corner(picture.height), side, side)]
    }
}

/// Pictures of one size as (n, 3, height, width).
pub(in crate::encode) fn tensor(pictures: &[&Picture], normalise: &Normalise) -> candle_core::Result<Tensor> {
    let (width, height) = pictures.first().map_or((0, 0), |p| (p.width as usize, p.height as usize));
    let plane = width * height;
    let mut values = vec![0f32; pictures.len() * 3 * plane];
    for (picture, out) in pictures.iter().zip(values.chunks_exact_mut((3 * plane).max(1))) {
        for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
            let scale = 1.0 / (255.0 * normalise.deviation[channel]);
            let shift = -normalise.mean[channel] / normalise.deviation[channel];
            let pixels = picture.rgb.iter().skip(channel).step_by(3);
            out.iter_mut().zip(pixels).for_each(|(x, pixel)| *x = f32::from(*pixel) * scale + shift);
        }
    }
    Tensor::from_vec(values, (pictures.len(), 3, height, width), &Device::Cpu)
}

impl Encoder for Pooled {
    fn about(&self) -> &About {
        &self.about
    }

    fn describe(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error> {
        let length = self.about.descriptor_len;
        let (width, height) = (self.about.sampling.width, self.about.sampling.height);
        if let Some(other) = pictures.iter().find(|p| (p.width, p.height) != (width, height)) {
            return Err(Error::Compute(format!("a picture of {} x {}", other.width, other.height)));
        }
        let mut described = vec![Descriptor::flat(length); pictures.len()];
        let shown: Vec<usize> = (0..pictures.len()).filter(|i| !is_flat(&pictures[*i])).collect();
        let views: Vec<Picture> = shown.iter().flat_map(|i| self.views(&pictures[*i])).collect();
        let each = views.len() / shown.len().max(1);
        let mut features = Vec::with_capacity(views.len());
        for batch in views.chunks(BATCH) {
            let input: Vec<&Picture> = batch.iter().collect();
            features.extend(self.backbone.forward(&tensor(&input, &self.normalise)?)?.to_vec2::<f32>()?);
        }
        for (i, views) in shown.iter().zip(features.chunks_mut(each.max(1))) {
            let mut sum = vec![0f32; length];
            for values in views {
                if self.backbone.has_counts() {
                    values.iter_mut().for_each(|x| *x = x.max(0.0).sqrt());
                }
                let norm = norm(values);
                if values.len() != length || !norm.is_finite() {
                    return Err(Error::Compute(format!("{} numbers of norm {norm}", values.len())));
                }
                sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += *x / norm.max(f32::MIN_POSITIVE));
            }
            let norm = norm(&sum).max(f32::MIN_POSITIVE);
            described[*i] = Descriptor::new(sum.into_iter().map(|x| x / norm).collect());
        }
        Ok(described)
    }

    fn clip(&self, frames: &[&Descriptor]) -> Result<Option<Vec<f32>>, Error> {
        let shown: Vec<&[f32]> = frames.iter().filter(|f| !f.is_flat()).map(|f| f.values()).collect();
        if shown.is_empty() {
            return Ok(None);
        }
        let length = self.about.descriptor_len;
        let mean = mean(&shown, length);
        let mut features = mean.clone();
        features.extend((0..length).map(|i| {
            let squares = shown.iter().map(|f| (f[i] - mean[i]) * (f[i] - mean[i])).sum::<f32>();
            (squares / shown.len() as f32).sqrt()
        }));
        let (earlier, later) = shown.split_at(shown.len() / 2);
        if earlier.is_empty() {
            features.resize(3 * length, 0.0);
        } else {
            let (a, b) = (self::mean(earlier, length), self::mean(later, length));
            features.extend(a.iter().zip(b).map(|(a, b)| b - a));
        }
        Ok(Some(features))
    }
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|x| x * x).sum::<f32>().sqrt()
}

fn mean(rows: &[&[f32]], length: usize) -> Vec<f32> {
    let mut mean = vec![0f32; length];
    for row in rows {
        mean.iter_mut().zip(*row).for_each(|(sum, x)| *sum += x);
    }
    mean.iter_mut().for_each(|x| *x /= rows.len() as f32);
    mean
}
