//! What are the frozen features of this image, of this clip?
//!
//! An [`Encoder`] turns pixels into features and never learns from the gallery. `layout` is embedded in the binary and needs no download: it finds the same scene.
//! Learned backbones find the same kind of scene; their weights are pulled on request or given as a file. An index and a checkpoint record the [`About::id`] they
//! were made with and refuse another one.

pub mod hub;
pub mod layout;
mod models;
mod onnx;
pub mod registry;
mod stored;

use std::path::PathBuf;

pub use layout::{Layout, Projection};
pub use registry::{Entry, open, open_as, open_known};

use crate::media::{self, Fit, Picture};
use thiserror::Error;

/// How an encoder wants to see a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Frames a second, on a regular grid from the first frame.
    pub rate_hz: f64,
    /// Frames that make one clip.
    pub frames_per_clip: usize,
    /// Frames from the start of one clip to the start of the next.
    pub stride_frames: usize,
    /// Width of a frame in pixels.
    pub width: u32,
    /// Height of a frame in pixels.
    pub height: u32,
    /// How frames and images come to that size.
    pub fit: Fit,
}

impl Sampling {
    /// How a video is decoded for it.
    pub fn plan(&self, keyframes_only: bool) -> media::DecodePlan {
        media::DecodePlan { rate_hz: self.rate_hz, width: self.width, height: self.height, fit: self.fit, keyframes_only }
    }
}

/// What an encoder says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// As `--encoder` takes it.
    pub name: String,
    /// Name and version, and for weights from a file eight digits of their BLAKE3: what indexes and checkpoints record.
    pub id: String,
    /// Length of the features of an image.
    pub image_len: usize,
    /// Length of the features of a clip.
    pub clip_len: usize,
    /// Length of [`Descriptor::values`].
    pub descriptor_len: usize,
    /// How it sees a video.
    pub sampling: Sampling,
    /// Whether it is asked for the very scene, and not the kind of it: then candidates are laid over sketches of their frames.
    pub same_scene: bool,
    /// Where in a clip's features descriptors stand whose mean is that of the clip's frames: their first places. Image features, of an encoder that sees a clip as a whole.
    pub mean_at: Vec<usize>,
}

/// What one picture looks like to an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    values: Vec<f32>,
    flat: bool,
}

/// Standard deviation of luma under which a picture is flat (a black or white frame): it shows nothing that could be searched for.
const FLAT_DEVIATION: f32 = 2.5;

impl Descriptor {
    /// Of a picture that shows something.
    pub fn new(values: Vec<f32>) -> Descriptor {
        Descriptor { values, flat: false }
    }

    /// Of a picture that shows nothing: all numbers are 0.
    pub fn flat(length: usize) -> Descriptor {
        Descriptor { values: vec![0.0; length], flat: true }
    }

    /// The numbers; all zero if the picture is flat.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Whether the picture shows nothing: all black, all white, one colour.
    pub fn is_flat(&self) -> bool {
        self.flat
    }
}

/// Makes features of images and clips.
pub trait Encoder: Send + Sync + std::fmt::Debug {
    /// What it is and wants.
    fn about(&self) -> &About;

    /// Describes pictures of the size that it takes ([`fit()`] brings them there), many at once.
    ///
    /// # Errors
    /// [`enum@Error`] if the weights do not compute.
    fn describe(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error>;

    /// The descriptor of the same picture seen in a mirror, if it follows from that of the picture. Encoders that hardly tell the two apart have none.
    fn mirrored(&self, _descriptor: &Descriptor) -> Option<Descriptor> {
        None
    }

    /// The features of an image.
    ///
    /// # Errors
    /// As [`Encoder::describe`].
    fn image(&self, descriptor: &Descriptor) -> Result<Vec<f32>, Error> {
        Ok(descriptor.values.clone())
    }

    /// The features of a clip from its frames in order of time. A clip cut short by the end of the video may have fewer than it should. `None` if
    /// all frames are flat (or there is none).
    ///
    /// # Errors
    /// As [`Encoder::describe`].
    fn clip(&self, frames: &[&Descriptor]) -> Result<Option<Vec<f32>>, Error>;
}

/// Brings a picture to the size that an encoder takes.
pub fn fit(picture: &Picture, sampling: &Sampling) -> Picture {
    sampling.fit.apply(picture, sampling.width, sampling.height)
}

/// Describes one picture of any size.
///
/// # Errors
/// As [`Encoder::describe`].
pub fn describe(encoder: &dyn Encoder, picture: &Picture) -> Result<Descriptor, Error> {
    let fitted = fit(picture, &encoder.about().sampling);
    let described = encoder.describe(std::slice::from_ref(&fitted))?;
    described.into_iter().next().ok_or_else(|| Error::Compute("a picture without a descriptor".to_owned()))
}

/// Whether a picture shows nothing.
fn is_flat(picture: &Picture) -> bool {
    let luma = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
    deviation(picture.rgb.chunks_exact(3).map(luma)) < FLAT_DEVIATION
}

fn deviation(values: impl ExactSizeIterator<Item = f32> + Clone) -> f32 {
    let n = values.len() as f32;
    let mean = values.clone().sum::<f32>() / n;
    (values.map(|v| (v - mean) * (v - mean)).sum::<f32>() / n).sqrt()
}

/// Why features could not be made.
#[derive(Debug, Error)]
pub enum Error {
    /// The projection file is not one of ours.
    #[error(
        "{name} does not hold a projection of the encoder `layout`: {found}; make it anew with `reelseek train --refit-encoder`"
    )]
    Projection {
        /// Which file.
        name: String,
        /// What was found in it.
        found: String,
    },
    /// No encoder of this name.
    #[error("no encoder is called `{name}`; this version has: {}, and onnx:FILE for one of your own", known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// All names.
        known: Vec<&'static str>,
    },
    /// The weights are not on this machine.
    #[error(
        "the weights of the encoder {name} are not here ({} does not exist): {}name a file with --weights", looked.display(),
        if *on_hub { format!("fetch them with `reelseek encoders pull {name}`, or ") } else { String::new() }
    )]
    NoWeights {
        /// Which encoder.
        name: &'static str,
        /// Where they would be.
        looked: PathBuf,
        /// Whether they can be fetched.
        on_hub: bool,
    },
    /// A weights file that is not what the encoder needs.
    #[error("{}: {found}; expected the weights of {name}: {expected}", path.display())]
    Weights {
        /// Which encoder.
        name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
        /// Which file would do.
        expected: String,
    },
    /// An ONNX file, or the JSON file beside it, that is no image encoder.
    #[error("{}: {found}", path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        found: String,
    },
    /// Other weights than an index or a checkpoint was made with.
    #[error("{what} needs the encoder {needed}, but {given} is here: {how}, or index again into another folder")]
    Other {
        /// `the index` or `the checkpoint`.
        what: &'static str,
        /// The id recorded.
        needed: String,
        /// The id of what was opened.
        given: String,
        /// How to get the right one.
        how: String,
    },
    /// An encoder that computes nothing sensible.
    #[error("the encoder failed: {0}")]
    Compute(String),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Error {
        Error::Compute(error.to_string())
    }
}
