//! Frozen features of images and clips.
//!
//! An [`Encoder`] turns pixels into features and never learns from the gallery. [`layout`] is embedded in the
//! library and needs no download: it finds the same scene. Learned encoders find the same kind of scene;
//! their weights are downloaded by [`hub`] or given as a file. An index and a checkpoint record the
//! [`EncoderInfo::id`] of their encoder and refuse another.
//!
//! With the feature `kinds` off, [`efficientnet`] is missing. With the feature `encoders` off, the networks
//! and `hub` are missing; with `onnx` off, ONNX files cannot be opened. [`Error::NotBuilt`] reports a request
//! for either.

#[cfg(feature = "kinds")]
pub mod efficientnet;
#[cfg(feature = "encoders")]
pub mod hub;
pub mod layout;
#[cfg(any(feature = "encoders", feature = "onnx"))]
mod models;
#[cfg(feature = "onnx")]
mod onnx;
#[cfg(feature = "onnx")]
mod protobuf;
pub mod registry;

use std::path::PathBuf;

pub use layout::{LayoutEncoder, Projection};
pub use registry::{EncoderEntry, WeightsOrigin, open, open_as, open_known};

use crate::base::ErrorPaths;
use crate::media::{self, Fit, Picture, PictureView};
use thiserror::Error;

/// The frames that an encoder takes of a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Frames a second, on a regular grid from the first frame.
    pub rate_hz: f64,
    /// Frames in one clip.
    pub frames_per_clip: usize,
    /// Frames from the start of one clip to the start of the next.
    pub stride_frames: usize,
    /// Width of a frame in pixels.
    pub width: u32,
    /// Height of a frame in pixels.
    pub height: u32,
    /// How frames and images are brought to that size.
    pub fit: Fit,
}

impl Sampling {
    /// The decoding plan for these frames.
    pub fn plan(&self, keyframes_only: bool) -> media::DecodePlan {
        media::DecodePlan {
            rate_hz: self.rate_hz,
            width: self.width,
            height: self.height,
            fit: self.fit,
            keyframes_only,
            second: None,
        }
    }

    /// Size of a picture.
    pub fn size(&self) -> media::PictureSize {
        media::PictureSize { width: self.width, height: self.height, fit: self.fit }
    }
}

/// Name, sizes and sampling of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderInfo {
    /// The name that [`open`] takes.
    pub name: String,
    /// Name and version, and for weights from a file eight digits of their BLAKE3. Indexes and checkpoints
    /// record it.
    pub id: String,
    /// Length of the features of an image.
    pub image_len: usize,
    /// Length of the features of a clip.
    pub clip_len: usize,
    /// Length of [`Descriptor::values`].
    pub descriptor_len: usize,
    /// The frames that it takes of a video.
    pub sampling: Sampling,
    /// Whether the encoder finds the same scene, not the same kind of scene. Then search aligns candidates
    /// with sketches of their frames.
    pub same_scene: bool,
    /// Whether image features are centred on those of unrelated pictures, and the first of them tell most
    /// about the kind of scene. A map can then be fitted to few videos.
    pub ordered: bool,
    /// Offsets of blocks in a clip's features whose mean is comparable with one frame: the mean of its
    /// frames' descriptors, or image features if the encoder computes clips as a whole.
    pub mean_offsets: Vec<usize>,
}

impl EncoderInfo {
    /// Whether single frames have features that tell the kind of a scene. `layout` tells the scene itself,
    /// and C3D needs the frames of a whole clip.
    pub fn finds_kinds(&self) -> bool {
        !self.same_scene && self.descriptor_len == self.image_len
    }
}

/// The encoder's description of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    values: Vec<f32>,
    flat: bool,
}

/// Standard deviation of luma below which a picture is flat (such as a black frame) and has nothing to search
/// for.
const FLAT_DEVIATION: f32 = 2.5;

impl Descriptor {
    /// The descriptor of a picture that is not flat.
    pub fn new(values: Vec<f32>) -> Descriptor {
        Descriptor { values, flat: false }
    }

    /// The descriptor of a flat picture: `length` zeros.
    pub fn flat(length: usize) -> Descriptor {
        Descriptor { values: vec![0.0; length], flat: true }
    }

    /// The numbers; all zero if the picture is flat.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Whether the picture is of one colour, such as all black or all white.
    pub fn is_flat(&self) -> bool {
        self.flat
    }
}

/// Computes features of images and clips.
pub trait Encoder: Send + Sync + std::fmt::Debug {
    /// Name, sizes and sampling.
    fn info(&self) -> &EncoderInfo;

    /// Describes pictures that have the size of the sampling, which [`fit()`] gives them.
    ///
    /// # Errors
    /// [`Error::Compute`] if a picture has another size, or if the network's output is not finite.
    fn describe(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error>;

    /// Describes query pictures. An encoder may spend more on them than on the frames of videos.
    ///
    /// # Errors
    /// As [`Encoder::describe`].
    fn describe_query(&self, pictures: &[Picture]) -> Result<Vec<Descriptor>, Error> {
        self.describe(pictures)
    }

    /// The descriptor of the mirrored picture, if it follows from the descriptor of the picture. Encoders
    /// that hardly distinguish the two return `None`.
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

    /// The features of a clip from its frames in order of time. The last clip of a video may have fewer
    /// frames than the sampling requests. `None` if all frames are flat, or if there are none.
    ///
    /// # Errors
    /// As [`Encoder::describe`].
    fn clip(&self, frames: &[&Descriptor]) -> Result<Option<Vec<f32>>, Error>;
}

/// Brings a picture to the size that an encoder takes.
pub fn fit<'a>(picture: impl Into<PictureView<'a>>, sampling: &Sampling) -> Picture {
    sampling.fit.apply(picture, sampling.width, sampling.height)
}

/// Describes one picture of any size.
///
/// # Errors
/// As [`Encoder::describe`].
pub fn describe(encoder: &dyn Encoder, picture: &Picture) -> Result<Descriptor, Error> {
    let fitted = fit(picture, &encoder.info().sampling);
    let described = encoder.describe(std::slice::from_ref(&fitted))?;
    described.into_iter().next().ok_or_else(|| Error::Compute("no descriptor for a picture".to_owned()))
}

#[cfg(any(feature = "encoders", feature = "kinds", feature = "onnx"))]
fn is_flat(picture: &Picture) -> bool {
    let luma = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
    deviation(picture.rgb.chunks_exact(3).map(luma)) < FLAT_DEVIATION
}

#[cfg(any(feature = "encoders", feature = "kinds", feature = "onnx"))]
fn check_size(pictures: &[Picture], width: u32, height: u32) -> Result<(), Error> {
    match pictures.iter().find(|p| (p.width, p.height) != (width, height)) {
        None => Ok(()),
        Some(p) => Err(Error::Compute(format!("a picture of {} x {}, expected {width} x {height}", p.width, p.height))),
    }
}

fn deviation(values: impl ExactSizeIterator<Item = f32> + Clone) -> f32 {
    let n = values.len() as f32;
    let mean = values.clone().sum::<f32>() / n;
    (values.map(|v| (v - mean) * (v - mean)).sum::<f32>() / n).sqrt()
}

/// Why an encoder could not be opened, or could not compute features.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that is not a projection of `layout`.
    #[error("{}: {found}; expected a projection of the encoder `layout`", path.display())]
    Projection {
        /// The file, or a name for the bytes.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// No encoder has this name.
    #[error("unknown encoder `{name}`; known are {} and onnx:FILE", known.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
        /// All names.
        known: Vec<&'static str>,
    },
    /// The library was built without a Cargo feature that the encoder needs.
    #[error("the encoder {name} is not part of this build, which lacks the feature `{feature}`")]
    NotBuilt {
        /// The requested name.
        name: String,
        /// The Cargo feature.
        feature: &'static str,
    },
    /// The weights are not on this machine.
    #[error("the weights of the encoder {name} are missing: {} does not exist", path.display())]
    NoWeights {
        /// The encoder.
        name: &'static str,
        /// The path that was tried.
        path: PathBuf,
        /// Where the weights can be had.
        origin: WeightsOrigin,
    },
    /// A weights file is named for an encoder that has none.
    #[error("the encoder {name} has no weights file, found {}", path.display())]
    TakesNoWeights {
        /// The encoder.
        name: &'static str,
        /// The named file.
        path: PathBuf,
    },
    /// A weights file that the encoder cannot read. Pickles are not read because unpickling can run code.
    #[error("{}: {found}; expected the weights of {name}: {expected}", path.display())]
    Weights {
        /// The encoder.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// Whether the file is in Python's pickle format.
        is_pickle: bool,
        /// The files that the encoder reads.
        expected: &'static str,
    },
    /// An ONNX file that cannot be read from disk.
    #[error("{}: {source}", path.display())]
    OnnxFile {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The JSON file beside an ONNX file cannot be read from disk.
    #[error(
        "{}: {source}; an ONNX encoder needs this file, which describes the input of the network (`{{}}`: the declared \
         size, pixels as numbers of 0 to 1)",
        path.display()
    )]
    OnnxDescriptionFile {
        /// The JSON file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// An ONNX file, or the JSON file beside it, that does not describe an image encoder.
    #[error("{}: {found}", path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What was found, and what was expected.
        found: String,
    },
    /// Another encoder than an index or a checkpoint was made with.
    #[error("{owner} needs the encoder {needed}, found {given}")]
    WrongEncoder {
        /// `the index` or `the checkpoint`.
        owner: &'static str,
        /// The recorded id.
        needed: String,
        /// The id of the opened encoder.
        given: String,
        /// Where the weights of the needed encoder can be had.
        origin: WeightsOrigin,
    },
    /// An encoder that does not tell the kind of a scene from single frames.
    #[error("the encoder {name} does not tell what kind of scene a frame shows")]
    NotOfKinds {
        /// The encoder.
        name: String,
    },
    /// A picture of the wrong size, or features that are not finite.
    #[error("the encoder failed: {0}")]
    Compute(String),
}

impl ErrorPaths for Error {
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Error::NoWeights { path, .. }
            | Error::TakesNoWeights { path, .. }
            | Error::Weights { path, .. }
            | Error::OnnxFile { path, .. }
            | Error::OnnxDescriptionFile { path, .. }
            | Error::Onnx { path, .. }
            | Error::Projection { path, .. } => vec![path],
            Error::Unknown { .. }
            | Error::NotBuilt { .. }
            | Error::WrongEncoder { .. }
            | Error::NotOfKinds { .. }
            | Error::Compute(_) => vec![],
        }
    }
}

#[cfg(feature = "encoders")]
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Error {
        Error::Compute(error.to_string())
    }
}
