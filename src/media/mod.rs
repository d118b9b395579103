//! From files to pixels: which files are videos ([`walk`]), their frames with true times ([`frames`], [`frame_at`]), pictures and
//! clips to show of them ([`Source`]), and pictures to search with ([`open`]).
//!
//! Videos are decoded by the `ffmpeg` program in a child process: a crash, a leak or an endless loop in a decoder costs
//! one file, and the child can be ended at any time. Every time is in milliseconds and counts from the first frame of the
//! video, whatever the timestamps in the file start at. Every picture is packed 8-bit RGB, rotation applied.
//!
//! Nothing here panics on a file, and what a file can cost is bounded by [`Limits`].

pub mod distort;
mod error;
mod ffmpeg;
mod fit;
/// Pictures to search with, from files or bytes.
pub mod image;
pub mod picture;
mod resample;
mod trim;
pub mod walk;

pub use error::Error;
pub use ffmpeg::{
    Codec, Cut, Frame, Frames, Limits, Opening, Plan, Source, Summary, Tools, frame_at, frames, read_through, readable,
};
pub use fit::Fit;
pub use image::{open, read};
pub use picture::Picture;
pub use resample::Filter;
pub use trim::trim_borders;
