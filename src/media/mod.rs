//! Turns files into pixels: finds videos ([`walk`]), decodes their frames with exact times ([`frames`],
//! [`frame_at`]), makes stills and preview clips ([`VideoSource`]), and reads pictures ([`open`]).
//!
//! The `ffmpeg` program decodes videos in a child process. A crash, a leak or an endless loop in a decoder
//! costs one file, and the child can be ended at any time. Times are in milliseconds and count from the first
//! frame of the video, whatever timestamps the file uses. Pictures are packed 8-bit RGB with the rotation
//! applied.
//!
//! Nothing here panics on a file, and [`Limits`] bound what a file can cost.

mod clip;
mod crop;
#[cfg(any(test, feature = "research"))]
pub mod distort;
#[cfg(any(test, feature = "research"))]
mod draw;
mod error;
mod ffmpeg;
mod fit;
pub mod image;
#[cfg(any(test, feature = "research"))]
pub mod looks;
pub mod picture;
mod resample;
mod sniff;
mod trim;
pub mod walk;

pub use clip::{QueryFrames, open_frames, read_frames};
pub use crop::{CropBox, CropError};
pub use error::Error;
pub use ffmpeg::{
    Codec, DecodePlan, DecodeSummary, Frame, Frames, Gaps, Limits, PictureSize, PreviewSpec, Tools, VideoSource,
    VideoStart, frame_at, frames, frames_without_gaps, read_through, readable,
};
pub use fit::Fit;
pub use image::{OpenedPicture, PictureLimit, PictureLimits, open, read};
pub use picture::{Picture, PictureView};
pub use resample::Filter;
pub use trim::trim_borders;
