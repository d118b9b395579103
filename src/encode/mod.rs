//! What are the frozen features of this image, of this clip?
//!
//! An encoder turns pixels into features and never learns from the gallery. `layout` is embedded in the binary
//! and needs no download; learned backbones will stand beside it. An index and a checkpoint record
//! the [`layout::ID`] they were made with and refuse another one.

pub mod layout;

pub use layout::{Descriptor, Layout, Projection};

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
    /// Width of a frame in pixels; the picture is stretched to it.
    pub width: u32,
    /// Height of a frame in pixels; the picture is stretched to it.
    pub height: u32,
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
    #[error("no encoder is called `{name}`; this version has: layout")]
    Unknown {
        /// The name asked for.
        name: String,
    },
}
