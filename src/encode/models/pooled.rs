//! Encoders around an image network: the features of a clip are made of the features of its frames.

use rayon::prelude::*;

use crate::encode::{Descriptor, Encoder, EncoderInfo, Error, Sampling, check_size, is_flat};
use crate::media::Picture;

/// A network from pictures to features.
pub(in crate::encode) trait Backbone: Send + Sync {
    /// The features of each picture.
    fn forward(&self, pictures: &PixelBatch) -> Result<Vec<Vec<f32>>, Error>;

    /// Whether features are means of activations that are never negative. Then their square roots are
    /// compared, because a few strong activations would otherwise dominate (Hellinger kernel; Arandjelović
    /// and Zisserman, CVPR 2012).
    fn has_counts(&self) -> bool {
        false
    }
}

/// How pixels of 0 to 255 become network inputs: `(pixel / 255 - mean) / deviation`, for red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::encode) struct Normalisation {
    pub(in crate::encode) mean: [f32; 3],
    pub(in crate::encode) deviation: [f32; 3],
}

/// Normalised pictures of one size.
pub(in crate::encode) struct PixelBatch {
    /// (pictures, 3, height, width), row after row.
    pub(in crate::encode) values: Vec<f32>,
    pub(in crate::encode) height: usize,
    pub(in crate::encode) width: usize,
}

impl PixelBatch {
    /// Normalises pictures that all have the size of the first.
    pub(in crate::encode) fn new(pictures: &[&Picture], normalisation: &Normalisation) -> PixelBatch {
        let (width, height) = pictures.first().map_or((0, 0), |p| (p.width as usize, p.height as usize));
        let plane = width * height;
        let mut values = vec![0f32; pictures.len() * 3 * plane];
        for (picture, out) in pictures.iter().zip(values.chunks_exact_mut((3 * plane).max(1))) {
            for (channel, out) in out.chunks_exact_mut(plane).enumerate() {
                let scale = 1.0 / (255.0 * normalisation.deviation[channel]);
                let shift = -normalisation.mean[channel] / normalisation.deviation[channel];
                let pixels = picture.rgb.iter().skip(channel).step_by(3);
                out.iter_mut().zip(pixels).for_each(|(x, pixel)| *x = f32::from(*pixel) * scale + shift);
            }
        }
        PixelBatch { values, height, width }
    }

    /// Calls `forward` with the values and the number of at most `at_once` pictures, on all threads, and
    /// joins its rows.
    pub(in crate::encode) fn map_chunks(
        &self,
        at_once: usize,
        forward: impl Fn(&[f32], usize) -> Result<Vec<Vec<f32>>, Error> + Sync,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let picture = (3 * self.height * self.width).max(1);
        let share = (self.values.len() / picture).div_ceil(rayon::current_num_threads()).clamp(1, at_once);
        let chunks = self.values.par_chunks(share * picture);
        let rows = chunks.map(|values| forward(values, values.len() / picture)).collect::<Result<Vec<_>, Error>>()?;
        Ok(rows.concat())
    }
}

/// An encoder around a backbone.
///
/// * descriptor and image features: the backbone's features (see [`Backbone::has_counts`]) scaled to length
///   1; with several views, their mean, scaled to length 1;
/// * clip features, three blocks of as many numbers: the mean of the frames that are not flat, their standard
///   deviation, and the mean of the later half of the frames minus the mean of the earlier half.
pub(in crate::encode) struct PooledEncoder {
    info: EncoderInfo,
    normalisation: Normalisation,
    backbone: Box<dyn Backbone>,
    /// Side in pixels of the backbone's input, where pictures are larger and seen in two views.
    view_side: Option<u32>,
}

impl std::fmt::Debug for PooledEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PooledEncoder({})", self.info.id)
    }
}

/// Pictures that go through a backbone together.
const BATCH: usize = 16;

impl PooledEncoder {
    pub(in crate::encode) fn new(
        name: &str,
        id: String,
        length: usize,
        sampling: Sampling,
        normalisation: Normalisation,
        backbone: Box<dyn Backbone>,
    ) -> PooledEncoder {
        let info = EncoderInfo {
            name: name.to_owned(),
            id,
            image_len: length,
            clip_len: 3 * length,
            descriptor_len: length,
            sampling,
            same_scene: false,
            ordered: false,
            mean_offsets: vec![0],
        };
        PooledEncoder { info, normalisation, backbone, view_side: None }
    }

    /// The same encoder with two views of each picture: the whole, shrunk to `side` x `side`, and the middle
    /// of that size.
    #[cfg(feature = "encoders")]
    pub(in crate::encode) fn with_close_view(self, side: u32) -> PooledEncoder {
        PooledEncoder { view_side: Some(side), ..self }
    }

    fn views(&self, picture: &Picture) -> Vec<Picture> {
        let Some(side) = self.view_side else { return vec![picture.clone()] };
        let corner = |length: u32| length.saturating_sub(side) / 2;
        vec![picture.resize(side, side), picture.cropped(corner(picture.width), corner(picture.height), side, side)]
    }

    /// The descriptor of a picture from the backbone's features of its views.
    fn combine_views(&self, views: &mut [Vec<f32>]) -> Result<Descriptor, Error> {
        let length = self.info.descriptor_len;
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
        Ok(Descriptor::new(sum.into_iter().map(|x| x / norm).collect()))
    }
}

impl Encoder for PooledEncoder {
    fn info(&self) -> &EncoderInfo {
        &self.info
    }

    fn describe(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error> {
        let (width, height) = (self.info.sampling.width, self.info.sampling.height);
        check_size(pictures, width, height)?;
        let mut described = vec![Descriptor::flat(self.info.descriptor_len); pictures.len()];
        let textured: Vec<usize> = (0..pictures.len()).filter(|i| !is_flat(&pictures[*i])).collect();
        let views: Vec<Picture> = textured.iter().flat_map(|i| self.views(&pictures[*i])).collect();
        let per_picture = (views.len() / textured.len().max(1)).max(1);
        let mut features = Vec::with_capacity(views.len());
        for batch in views.chunks(BATCH) {
            let batch: Vec<&Picture> = batch.iter().collect();
            features.extend(self.backbone.forward(&PixelBatch::new(&batch, &self.normalisation))?);
        }
        for (i, views) in textured.iter().zip(features.chunks_mut(per_picture)) {
            described[*i] = self.combine_views(views)?;
        }
        Ok(described)
    }

    fn clip(&self, frames: &[&Descriptor]) -> Result<Option<Vec<f32>>, Error> {
        let frames: Vec<&[f32]> = frames.iter().filter(|f| !f.is_flat()).map(|f| f.values()).collect();
        if frames.is_empty() {
            return Ok(None);
        }
        let length = self.info.descriptor_len;
        let mean = mean(&frames, length);
        let mut features = mean.clone();
        features.extend((0..length).map(|i| {
            let squares = frames.iter().map(|f| (f[i] - mean[i]) * (f[i] - mean[i])).sum::<f32>();
            (squares / frames.len() as f32).sqrt()
        }));
        let (earlier, later) = frames.split_at(frames.len() / 2);
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
