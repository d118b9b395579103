//! The embedded encoder `efficientnet-lite2`: what kind of scene the picture shows.
//!
//! A picture of 260 x 260 pixels (the shorter side resized, the middle cropped) becomes the means `a` of the
//! 1,280 activations of EfficientNet-Lite2's last layer, which was trained on the 1,000 classes of ImageNet
//! (Tan and Le, ICML 2019). The features are
//!
//! `x = D (√a − c)`
//!
//! 1,000 numbers. The rows of `D` are the directions that separate the classes, the strongest first, and `c`
//! is the expected value of `√a`; both follow from the weights of the network alone
//! (`tools/export_efficientnet_lite2.py`). Roots keep a few strong activations from dominating (Hellinger
//! kernel; Arandjelović and Zisserman, CVPR 2012).
//!
//! * image features: `x`; for a query, the mean over the picture and the mirrored picture;
//! * clip features: the mean of `x` over the frames.

mod lanes;
// Registers of a tile are named by their indices.
#[allow(clippy::needless_range_loop)]
mod network;

use std::sync::LazyLock;

use self::network::MbConvNetwork;
use super::{Descriptor, Encoder, EncoderInfo, Error, Sampling, check_size, is_flat, registry};
use crate::base::tensors;
use crate::media::{Filter, Fit, Picture};

/// Name and version that indexes and checkpoints record.
pub const ID: &str = "efficientnet-lite2/1";
/// Number of features.
pub const LENGTH: usize = 1000;
/// Side of a picture in pixels.
const SIDE: u32 = 260;
/// Activations of the last layer.
const ACTIVATIONS: usize = 1280;

static WEIGHTS: &[u8] = include_bytes!("../../../assets/efficientnet-lite2.safetensors");

/// The parts of the encoder that are made from the weights, once in a process.
struct Embedded {
    network: MbConvNetwork,
    centre: Vec<f32>,
    /// `LENGTH` rows of `ACTIVATIONS` numbers.
    directions: Vec<f32>,
}

static EMBEDDED: LazyLock<Embedded> = LazyLock::new(|| {
    let file = tensors::parse(WEIGHTS).expect("the embedded weights are a safetensors file");
    Embedded {
        network: MbConvNetwork::read(&file).expect("the embedded weights are those of the network"),
        centre: file.take("centre", &[ACTIVATIONS]).expect("the embedded weights have a centre"),
        directions: file.take("directions", &[LENGTH, ACTIVATIONS]).expect("the embedded weights have directions"),
    }
});

/// See the module.
#[derive(Debug)]
pub struct EfficientNetEncoder {
    info: EncoderInfo,
}

impl EfficientNetEncoder {
    /// The encoder. Its weights are read at the first picture.
    pub fn embedded() -> EfficientNetEncoder {
        let fit = Fit::Cover { shorter: SIDE, filter: Filter::Bilinear };
        let sampling = Sampling { rate_hz: 1.0, frames_per_clip: 1, stride_frames: 1, width: SIDE, height: SIDE, fit };
        let info = EncoderInfo {
            name: registry::EFFICIENTNET.to_owned(),
            id: ID.to_owned(),
            image_len: LENGTH,
            clip_len: LENGTH,
            descriptor_len: LENGTH,
            sampling,
            same_scene: false,
            ordered: true,
            mean_offsets: vec![0],
        };
        EfficientNetEncoder { info }
    }
}

/// Red, green and blue planes of `(pixel − 127) / 128`.
fn planes(picture: &Picture, mirrored: bool) -> Vec<f32> {
    let side = SIDE as usize;
    let mut planes = vec![0f32; 3 * side * side];
    for (channel, plane) in planes.chunks_exact_mut(side * side).enumerate() {
        for (row, out) in picture.rgb.chunks_exact(3 * side).zip(plane.chunks_exact_mut(side)) {
            let values = row.iter().skip(channel).step_by(3).map(|pixel| (f32::from(*pixel) - 127.0) / 128.0);
            match mirrored {
                true => out.iter_mut().rev().zip(values).for_each(|(out, value)| *out = value),
                false => out.iter_mut().zip(values).for_each(|(out, value)| *out = value),
            }
        }
    }
    planes
}

/// Features of planes.
fn features(pictures: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Error> {
    let embedded = &*EMBEDDED;
    let pictures: Vec<&[f32]> = pictures.iter().map(Vec::as_slice).collect();
    let activations = embedded.network.features(&pictures);
    let project = |activations: Vec<f32>| {
        let roots: Vec<f32> = activations.iter().zip(&embedded.centre).map(|(a, c)| a.max(0.0).sqrt() - c).collect();
        let features: Vec<f32> = embedded.directions.chunks_exact(ACTIVATIONS).map(|row| dot(row, &roots)).collect();
        match features.iter().all(|value| value.is_finite()) {
            true => Ok(features),
            false => Err(Error::Compute("the network's output is not finite".to_owned())),
        }
    };
    activations.into_iter().map(project).collect()
}

/// Sums of every eighth product are independent, so that the compiler uses vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        (0..8).for_each(|i| sums[i] += a[i] * b[i]);
    }
    sums.iter().sum()
}

/// Descriptors of pictures, each the mean of its `views`.
fn describe(pictures: &[Picture], views: &[bool]) -> Result<Vec<Descriptor>, Error> {
    check_size(pictures, SIDE, SIDE)?;
    let flat: Vec<bool> = pictures.iter().map(is_flat).collect();
    let shown = pictures.iter().zip(&flat).filter(|(_, flat)| !**flat).map(|(picture, _)| picture);
    let all: Vec<Vec<f32>> = shown.flat_map(|picture| views.iter().map(|view| planes(picture, *view))).collect();
    let rows = features(&all)?;
    let share = 1.0 / views.len() as f32;
    let mut means = rows
        .chunks_exact(views.len())
        .map(|views| (0..LENGTH).map(|i| views.iter().map(|view| view[i]).sum::<f32>() * share).collect::<Vec<f32>>());
    let descriptor = |flat: bool| match flat {
        true => Descriptor::flat(LENGTH),
        false => Descriptor::new(means.next().expect("one row for each picture that is not flat")),
    };
    Ok(flat.into_iter().map(descriptor).collect())
}

impl Encoder for EfficientNetEncoder {
    fn info(&self) -> &EncoderInfo {
        &self.info
    }

    fn describe(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error> {
        describe(pictures, &[false])
    }

    fn describe_query(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error> {
        describe(pictures, &[false, true])
    }

    fn clip(&self, frames: &[&Descriptor]) -> Result<Option<Vec<f32>>, Error> {
        let shown: Vec<&[f32]> = frames.iter().filter(|frame| !frame.is_flat()).map(|frame| frame.values()).collect();
        let share = 1.0 / shown.len() as f32;
        let mean = (0..LENGTH).map(|i| shown.iter().map(|values| values[i]).sum::<f32>() * share);
        Ok((!shown.is_empty()).then(|| mean.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seeded::Random;

    /// Soft random patches of colour.
    fn picture(seed: u64) -> Picture {
        let mut random = Random::new(seed, "picture");
        let small = Picture { width: 9, height: 9, rgb: (0..9 * 9 * 3).map(|_| random.up_to(255) as u8).collect() };
        small.resize(SIDE, SIDE)
    }

    #[test]
    fn arrays_and_vector_instructions_give_the_same_features() {
        let planes = planes(&picture(1), false);
        let fast = EMBEDDED.network.features(&[&planes]).remove(0);
        let portable = EMBEDDED.network.portable_features(&planes);
        assert_eq!(fast.len(), ACTIVATIONS);
        let off = fast.iter().zip(&portable).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-4 && fast.iter().any(|a| *a > 0.1), "{off}");
    }

    #[test]
    fn a_query_is_the_mean_of_both_mirror_images() {
        let encoder = EfficientNetEncoder::embedded();
        let pictures = [picture(2), picture(2).flipped()];
        let plain = encoder.describe(&pictures).unwrap();
        let query = encoder.describe_query(&pictures).unwrap();
        for i in 0..LENGTH {
            let mean = (plain[0].values()[i] + plain[1].values()[i]) / 2.0;
            assert!((query[0].values()[i] - mean).abs() < 1e-4, "{i}");
            assert!((query[1].values()[i] - mean).abs() < 1e-4, "{i}");
        }
    }

    #[test]
    fn flat_pictures_have_flat_descriptors_among_others() {
        let encoder = EfficientNetEncoder::embedded();
        let flat = Picture { width: SIDE, height: SIDE, rgb: vec![90; 3 * (SIDE * SIDE) as usize] };
        let all = [picture(3), flat, picture(4)];
        let described = encoder.describe(&all).unwrap();
        assert_eq!(described.iter().map(Descriptor::is_flat).collect::<Vec<_>>(), [false, true, false]);
        let alone = encoder.describe(&all[2..]).unwrap();
        assert_eq!(described[2], alone[0]);
        assert!(encoder.clip(&[&described[1]]).unwrap().is_none());
        assert_eq!(encoder.clip(&[&described[1], &described[2]]).unwrap().unwrap(), alone[0].values());
    }

    #[test]
    fn a_picture_of_another_size_is_an_error() {
        let small = Picture { width: 8, height: 8, rgb: vec![1; 192] };
        assert!(matches!(EfficientNetEncoder::embedded().describe(&[small]), Err(Error::Compute(_))));
    }
}
